#include "sad.h"

#include <stdlib.h>

#define SLOT_MASK ((1u << IPSF_SAD_SLOT_BITS) - 1)
#define PAGE_MASK ((1u << IPSF_SAD_PAGE_BITS) - 1)

void ipsf_sad_init(struct ipsf_sad *sad)
{
	for (unsigned i = 0; i < IPSF_SAD_PAGES; i++)
		atomic_init(&sad->page[i], NULL);
	sad->count = 0;
}

void ipsf_sad_fini(struct ipsf_sad *sad)
{
	for (unsigned i = 0; i < IPSF_SAD_PAGES; i++) {
		struct ipsf_sad_page *page = atomic_load(&sad->page[i]);

		for (unsigned j = 0; page && j <= PAGE_MASK; j++) {
			struct ipsf_sa_in *sa = atomic_load(&page->slot[j]);

			while (sa) {
				struct ipsf_sa_in *next = atomic_load(&sa->next);

				ipsf_sa_in_free(sa);
				sa = next;
			}
		}
		free(page);
		atomic_store(&sad->page[i], NULL);
	}
	sad->count = 0;
}

static struct ipsf_sad_page *page_for(struct ipsf_sad *sad, uint32_t slot)
{
	_Atomic(struct ipsf_sad_page *) *place = &sad->page[slot >> IPSF_SAD_PAGE_BITS];
	struct ipsf_sad_page *page = atomic_load(place);

	if (!page) {
		page = calloc(1, sizeof *page);
		if (page)
			atomic_store_explicit(place, page, memory_order_release);
	}
	return page;
}

int ipsf_sad_insert(struct ipsf_sad *sad, struct ipsf_sa_in *sa)
{
	uint32_t slot = sa->spi & SLOT_MASK;
	struct ipsf_sad_page *page;
	_Atomic(struct ipsf_sa_in *) *head;

	if (ipsf_sad_find(sad, sa->spi))
		return IPSF_EEXIST;
	page = page_for(sad, slot);
	if (!page)
		return IPSF_ENOMEM;
	head = &page->slot[slot & PAGE_MASK];
	atomic_store_explicit(&sa->next, atomic_load(head), memory_order_relaxed);
	atomic_store_explicit(head, sa, memory_order_release);
	sad->count++;
	return IPSF_OK;
}

struct ipsf_sa_in *ipsf_sad_remove(struct ipsf_sad *sad, uint32_t spi)
{
	uint32_t slot = spi & SLOT_MASK;
	struct ipsf_sad_page *page = atomic_load(&sad->page[slot >> IPSF_SAD_PAGE_BITS]);
	_Atomic(struct ipsf_sa_in *) *link = page ? &page->slot[slot & PAGE_MASK] : NULL;

	for (struct ipsf_sa_in *sa = link ? atomic_load(link) : NULL; sa; link = &sa->next, sa = atomic_load(link)) {
		if (sa->spi != spi)
			continue;
		atomic_store_explicit(link, atomic_load(&sa->next), memory_order_release);
		sad->count--;
		return sa;
	}
	return NULL;
}

struct ipsf_sa_in *ipsf_sad_next(const struct ipsf_sad *sad, uint32_t *cursor, const struct ipsf_sa_in *last)
{
	struct ipsf_sa_in *sa = last ? atomic_load(&last->next) : NULL;

	while (!sa && *cursor <= SLOT_MASK) {
		struct ipsf_sad_page *page = atomic_load(&sad->page[*cursor >> IPSF_SAD_PAGE_BITS]);

		if (page)
			sa = atomic_load(&page->slot[*cursor & PAGE_MASK]);
		*cursor += page ? 1 : PAGE_MASK + 1;
	}
	return sa;
}
