/*
 * The rings that an AF_XDP socket shares with the kernel: one producer, one consumer, indices that count on and wrap at 32 bits. Each
 * side keeps its own index and looks at the other's only when what it knew is used up. Pure; one thread a ring.
 */
#ifndef IPSF_XDP_RING_H
#define IPSF_XDP_RING_H

#include <linux/if_xdp.h>
#include <stdatomic.h>

#include "base.h"

struct ipsf_xdp_ring {
	_Atomic uint32_t *producer, *consumer, *flags;
	union {
		uint64_t *address;     /* fill, completion */
		struct xdp_desc *desc; /* receive, transmit */
	} entry;
	uint32_t size;   /* entries, a power of two */
	uint32_t mine;   /* our index, ahead of what the kernel was told */
	uint32_t theirs; /* the kernel's, as last seen */
	void *map;
	size_t map_size;
};

/* Of a ring that we fill: entries that are free; it looks again when fewer than wanted are known to be. */
static inline uint32_t ipsf_xdp_room(struct ipsf_xdp_ring *ring, uint32_t wanted)
{
	if (ring->size - (ring->mine - ring->theirs) < wanted)
		ring->theirs = atomic_load_explicit(ring->consumer, memory_order_acquire);
	return ring->size - (ring->mine - ring->theirs);
}

/* Of a ring that the kernel fills: entries that are ready; it looks again when fewer than wanted are known to be. */
static inline uint32_t ipsf_xdp_ready(struct ipsf_xdp_ring *ring, uint32_t wanted)
{
	if (ring->theirs - ring->mine < wanted)
		ring->theirs = atomic_load_explicit(ring->producer, memory_order_acquire);
	return ring->theirs - ring->mine;
}

/* The next entry's place; our index counts on. */
static inline uint32_t ipsf_xdp_next(struct ipsf_xdp_ring *ring)
{
	return ring->mine++ & (ring->size - 1);
}

/* What was filled in is the kernel's now. */
static inline void ipsf_xdp_publish(struct ipsf_xdp_ring *ring)
{
	atomic_store_explicit(ring->producer, ring->mine, memory_order_release);
}

/* What was taken may be written over. */
static inline void ipsf_xdp_consumed(struct ipsf_xdp_ring *ring)
{
	atomic_store_explicit(ring->consumer, ring->mine, memory_order_release);
}

/* Of a ring that we fill: whether the kernel has taken all that was published. */
static inline bool ipsf_xdp_all_taken(struct ipsf_xdp_ring *ring)
{
	ring->theirs = atomic_load_explicit(ring->consumer, memory_order_acquire);
	return ring->theirs == ring->mine;
}

static inline bool ipsf_xdp_needs_wakeup(const struct ipsf_xdp_ring *ring)
{
	return atomic_load_explicit(ring->flags, memory_order_relaxed) & XDP_RING_NEED_WAKEUP;
}

#endif
