/*
 * The inbound half of the SAD (RFC 4301 s4.4.2): SPI -> SA.
 *
 * We choose our inbound SPIs, so the low 20 bits of an SPI are the slot: index and compare. SPIs that somebody else
 * chose may share a slot; they stand in its chain. The control thread writes; workers read without a lock and never see
 * half an entry. A removed SA must not be freed before all workers have passed an epoch.
 */
#ifndef IPSF_SAD_H
#define IPSF_SAD_H

#include "sa.h"

#define IPSF_SAD_PAGE_BITS 10
#define IPSF_SAD_SLOT_BITS 20
#define IPSF_SAD_PAGES (1u << (IPSF_SAD_SLOT_BITS - IPSF_SAD_PAGE_BITS))

struct ipsf_sad_page {
	_Atomic(struct ipsf_sa_in *) slot[1u << IPSF_SAD_PAGE_BITS];
};

struct ipsf_sad {
	_Atomic(struct ipsf_sad_page *) page[IPSF_SAD_PAGES]; /* made when first needed, never taken away */
	size_t count;
};

void ipsf_sad_init(struct ipsf_sad *sad);
void ipsf_sad_fini(struct ipsf_sad *sad); /* frees the SAs that are left; no worker may read any more */
/* IPSF_EEXIST, IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_sad_insert(struct ipsf_sad *sad, struct ipsf_sa_in *sa);
/* The SA, still readable by workers until an epoch has passed; NULL when there is none. */
struct ipsf_sa_in *ipsf_sad_remove(struct ipsf_sad *sad, uint32_t spi);
/* The first SA whose place is at or behind *cursor, which moves on; NULL at the end. Control thread. */
struct ipsf_sa_in *ipsf_sad_next(const struct ipsf_sad *sad, uint32_t *cursor, const struct ipsf_sa_in *last);

static inline struct ipsf_sa_in *ipsf_sad_find(struct ipsf_sad *sad, uint32_t spi)
{
	uint32_t slot = spi & ((1u << IPSF_SAD_SLOT_BITS) - 1);
	struct ipsf_sad_page *page = atomic_load_explicit(&sad->page[slot >> IPSF_SAD_PAGE_BITS], memory_order_acquire);
	struct ipsf_sa_in *sa;

	if (IPSF_UNLIKELY(!page))
		return NULL;
	sa = atomic_load_explicit(&page->slot[slot & ((1u << IPSF_SAD_PAGE_BITS) - 1)], memory_order_acquire);
	while (sa && IPSF_UNLIKELY(sa->spi != spi))
		sa = atomic_load_explicit(&sa->next, memory_order_acquire);
	return sa;
}

#endif
