#include "handover.h"

#include <stdlib.h>

struct record {
	struct ipsf_path path;
	uint32_t length;
	uint8_t tos, carrier;
};

int ipsf_desk_new(unsigned index, struct ipsf_desk **out)
{
	struct ipsf_desk *desk = aligned_alloc(IPSF_CACHE_LINE, sizeof *desk);
	if (!desk)
		return IPSF_ENOMEM;
	memset(desk, 0, sizeof *desk);
	desk->index = index;
	*out = desk;
	return IPSF_OK;
}

void ipsf_desk_free(struct ipsf_desk *desk)
{
	for (unsigned i = 0; desk && i < IPSF_MAX_WORKERS; i++) {
		ipsf_ring_free(desk->from[i]);
		if (!desk->other[i])
			continue;
		ipsf_ring_free(desk->other[i]->from[desk->index]);
		desk->other[i]->from[desk->index] = NULL;
		desk->other[i]->other[desk->index] = NULL;
	}
	free(desk);
}

int ipsf_desk_join(struct ipsf_desk *a, struct ipsf_desk *b, size_t capacity)
{
	struct ipsf_ring *there, *back;
	if (ipsf_ring_new(capacity, &there) != IPSF_OK)
		return IPSF_ENOMEM;
	if (ipsf_ring_new(capacity, &back) != IPSF_OK) {
		ipsf_ring_free(there);
		return IPSF_ENOMEM;
	}
	b->from[a->index] = there;
	a->from[b->index] = back;
	a->other[b->index] = b;
	b->other[a->index] = a;
	return IPSF_OK;
}

bool ipsf_desk_give(struct ipsf_desk *desk, unsigned to, const struct ipsf_packet *packet)
{
	const struct record record = {.path = *packet->path, .length = packet->length, .tos = packet->tos, .carrier = packet->carrier};
	if (!ipsf_ring_put(desk->other[to]->from[desk->index], &record, sizeof record, packet->data, packet->length, 0))
		return false;
	desk->given |= UINT64_C(1) << to;
	return true;
}

uint64_t ipsf_desk_flush(struct ipsf_desk *desk)
{
	uint64_t asleep = 0;
	for (uint64_t given = desk->given; given; given &= given - 1) {
		const unsigned to = (unsigned)__builtin_ctzll(given);
		atomic_fetch_or(&desk->other[to]->waiting, UINT64_C(1) << desk->index);
		if (atomic_load(&desk->other[to]->sleeping))
			asleep |= UINT64_C(1) << to;
	}
	desk->given = 0;
	return asleep;
}

static void add(struct ipsf_desk *desk, struct ipsf_batch *batch, struct ipsf_buffer *buffer, const struct record *record)
{
	desk->path[batch->n] = record->path;
	const struct ipsf_path *path = &desk->path[batch->n];
	struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, buffer->bytes + IPSF_HEADROOM, record->length);
	packet->path = path;
	packet->tos = record->tos;
	packet->carrier = record->carrier;
}

/* False: the batch is full, or there is no buffer; the ring may hold more. */
static bool empty_ring(struct ipsf_desk *desk, struct ipsf_ring *ring, struct ipsf_batch *batch, uint64_t *too_long)
{
	struct record record;
	while (ipsf_ring_peek(ring, &record, sizeof record)) {
		struct ipsf_buffer *buffer = batch->n < IPSF_BATCH_MAX ? ipsf_pool_take(batch->pool) : NULL;
		if (!buffer)
			return false;
		if (record.length > buffer->size - IPSF_HEADROOM - IPSF_TAILROOM) {
			ipsf_buffer_release(buffer);
			ipsf_ring_take(ring, sizeof record, NULL, record.length);
			++*too_long;
			continue;
		}
		ipsf_ring_take(ring, sizeof record, buffer->bytes + IPSF_HEADROOM, record.length);
		add(desk, batch, buffer, &record);
	}
	return true;
}

unsigned ipsf_desk_take(struct ipsf_desk *desk, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT], uint64_t *lost)
{
	if (atomic_load_explicit(&desk->waiting, memory_order_relaxed))
		desk->left |= atomic_exchange(&desk->waiting, 0);
	*lost = 0;
	while (desk->left) {
		const uint64_t later = desk->left & ~((UINT64_C(1) << desk->turn) - 1); /* first those whose turn has not been */
		const unsigned from = (unsigned)__builtin_ctzll(later ? later : desk->left);
		const bool emptied = empty_ring(desk, desk->from[from], batch, lost);
		desk->turn = (from + 1) % IPSF_MAX_WORKERS;
		if (!emptied)
			break;
		desk->left &= ~(UINT64_C(1) << from);
	}
	drops[IPSF_DROP_TOO_LONG] += *lost;
	return batch->n;
}
