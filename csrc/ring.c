#include "ring.h"

#include <stdatomic.h>
#include <stdlib.h>

/* head and tail count bytes since the beginning; each has one writer. */
struct ipsf_ring {
	size_t capacity;
	_Atomic size_t head __attribute__((aligned(IPSF_CACHE_LINE))); /* the consumer's */
	_Atomic size_t tail __attribute__((aligned(IPSF_CACHE_LINE))); /* the producer's */
	uint8_t bytes[] __attribute__((aligned(IPSF_CACHE_LINE)));
};

int ipsf_ring_new(size_t capacity, struct ipsf_ring **out)
{
	if (capacity < 4096 || (capacity & (capacity - 1)) != 0)
		return IPSF_EINVAL;
	struct ipsf_ring *ring = aligned_alloc(IPSF_CACHE_LINE, sizeof *ring + capacity);
	if (!ring)
		return IPSF_ENOMEM;
	ring->capacity = capacity;
	atomic_init(&ring->head, 0);
	atomic_init(&ring->tail, 0);
	*out = ring;
	return IPSF_OK;
}

void ipsf_ring_free(struct ipsf_ring *ring)
{
	free(ring);
}

size_t ipsf_ring_capacity(const struct ipsf_ring *ring)
{
	return ring->capacity;
}

static void copy_in(struct ipsf_ring *ring, size_t at, const void *from, size_t n)
{
	const size_t offset = at & (ring->capacity - 1);
	const size_t first = n < ring->capacity - offset ? n : ring->capacity - offset;
	if (n == 0)
		return;
	memcpy(ring->bytes + offset, from, first);
	if (n > first)
		memcpy(ring->bytes, (const uint8_t *)from + first, n - first);
}

static void copy_out(const struct ipsf_ring *ring, size_t at, void *to, size_t n)
{
	const size_t offset = at & (ring->capacity - 1);
	const size_t first = n < ring->capacity - offset ? n : ring->capacity - offset;
	if (n == 0)
		return;
	memcpy(to, ring->bytes + offset, first);
	if (n > first)
		memcpy((uint8_t *)to + first, ring->bytes, n - first);
}

bool ipsf_ring_put(struct ipsf_ring *ring, const void *header, size_t header_size, const void *data, size_t length,
		   size_t reserve)
{
	const size_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	const size_t used = tail - atomic_load_explicit(&ring->head, memory_order_acquire);
	if (used + header_size + length + reserve > ring->capacity)
		return false;
	copy_in(ring, tail, header, header_size);
	copy_in(ring, tail + header_size, data, length);
	atomic_store_explicit(&ring->tail, tail + header_size + length, memory_order_release);
	return true;
}

bool ipsf_ring_peek(const struct ipsf_ring *ring, void *header, size_t header_size)
{
	const size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	if (head == atomic_load_explicit(&ring->tail, memory_order_acquire))
		return false;
	copy_out(ring, head, header, header_size);
	return true;
}

void ipsf_ring_take(struct ipsf_ring *ring, size_t header_size, void *data, size_t length)
{
	const size_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	if (data)
		copy_out(ring, head + header_size, data, length);
	atomic_store_explicit(&ring->head, head + header_size + length, memory_order_release);
}
