#include "events.h"

#include <stdatomic.h>
#include <stdlib.h>

#define SECOND 1000000000u

/* head and tail count bytes since the beginning; each has one writer. */
struct ipsf_event_ring {
	size_t capacity;
	_Atomic size_t head __attribute__((aligned(IPSF_CACHE_LINE))); /* the consumer's */
	_Atomic size_t tail __attribute__((aligned(IPSF_CACHE_LINE))); /* the producer's */
	uint8_t bytes[] __attribute__((aligned(IPSF_CACHE_LINE)));
};

int ipsf_event_ring_new(size_t capacity, struct ipsf_event_ring **out)
{
	if (capacity < 4096 || (capacity & (capacity - 1)) != 0)
		return IPSF_EINVAL;
	struct ipsf_event_ring *ring = aligned_alloc(IPSF_CACHE_LINE, sizeof *ring + capacity);
	if (!ring)
		return IPSF_ENOMEM;
	ring->capacity = capacity;
	atomic_init(&ring->head, 0);
	atomic_init(&ring->tail, 0);
	*out = ring;
	return IPSF_OK;
}

void ipsf_event_ring_free(struct ipsf_event_ring *ring)
{
	free(ring);
}

static size_t record_size(const struct ipsf_event *event)
{
	return sizeof *event + event->length;
}

static void copy_in(struct ipsf_event_ring *ring, size_t at, const void *from, size_t n)
{
	const size_t offset = at & (ring->capacity - 1);
	const size_t first = n < ring->capacity - offset ? n : ring->capacity - offset;
	memcpy(ring->bytes + offset, from, first);
	if (n > first)
		memcpy(ring->bytes, (const uint8_t *)from + first, n - first);
}

static void copy_out(const struct ipsf_event_ring *ring, size_t at, void *to, size_t n)
{
	const size_t offset = at & (ring->capacity - 1);
	const size_t first = n < ring->capacity - offset ? n : ring->capacity - offset;
	memcpy(to, ring->bytes + offset, first);
	if (n > first)
		memcpy((uint8_t *)to + first, ring->bytes, n - first);
}

bool ipsf_event_post(struct ipsf_event_ring *ring, const struct ipsf_event *event, const uint8_t *data)
{
	const size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	const size_t used = tail - atomic_load_explicit(&ring->head, memory_order_acquire);
	const size_t limit = event->kind == IPSF_EVENT_IKE_DATAGRAM ? ring->capacity - ring->capacity / 4 : ring->capacity;
	if (used + record_size(event) > limit)
		return false;
	copy_in(ring, tail, event, sizeof *event);
	if (event->length)
		copy_in(ring, tail + sizeof *event, data, event->length);
	atomic_store_explicit(&ring->tail, tail + record_size(event), memory_order_release);
	return true;
}

int ipsf_event_take(struct ipsf_event_ring *ring, struct ipsf_event *event, uint8_t *data, size_t size)
{
	const size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	if (head == atomic_load_explicit(&ring->tail, memory_order_acquire))
		return 0;
	copy_out(ring, head, event, sizeof *event);
	if (event->length > size)
		return IPSF_ENOSPC;
	if (event->length)
		copy_out(ring, head + sizeof *event, data, event->length);
	atomic_store_explicit(&ring->head, head + record_size(event), memory_order_release);
	return 1;
}

bool ipsf_rate_allow(struct ipsf_rate *rate, uint64_t now, uint32_t per_second)
{
	if (rate->count == 0 || now - rate->since >= SECOND) {
		rate->since = now;
		rate->count = 0;
	}
	if (rate->count >= per_second)
		return false;
	rate->count++;
	return true;
}
