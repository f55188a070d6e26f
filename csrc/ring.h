/*
 * A ring of bytes between two threads: records of a header and its data, one producer, one consumer, no locks.
 */
#ifndef IPSF_RING_H
#define IPSF_RING_H

#include "base.h"
#include "include/ipsecfast.h"

struct ipsf_ring;

/* capacity: bytes, a power of two, at least 4096. IPSF_EINVAL, IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_ring_new(size_t capacity, struct ipsf_ring **ring);
void ipsf_ring_free(struct ipsf_ring *ring);
size_t ipsf_ring_capacity(const struct ipsf_ring *ring);
/* Producer: copies a record in, unless fewer than reserve bytes would be left. */
IPSF_MUST_CHECK bool ipsf_ring_put(struct ipsf_ring *ring, const void *header, size_t header_size, const void *data,
				   size_t length, size_t reserve);
/* Consumer: copies the oldest record's header out and leaves it there; false: the ring is empty. */
IPSF_MUST_CHECK bool ipsf_ring_peek(const struct ipsf_ring *ring, void *header, size_t header_size);
/* Consumer: copies the oldest record's data out (NULL: doesn't) and removes it. */
void ipsf_ring_take(struct ipsf_ring *ring, size_t header_size, void *data, size_t length);

#endif
