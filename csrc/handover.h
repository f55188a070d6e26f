/*
 * Packets that came to a worker that does not own their SA: copied into a ring to the owner, which opens them. Pure.
 *
 * Each pair of inbound workers has a ring of bytes each way: one producer, one consumer, no lock. A worker's desk is what the others
 * give it, and its own view of the other desks. Order is kept between two workers, and so inside an SA that always comes to one.
 * Who gives rings the owner's doorbell only if it sleeps: sleeping() is set before the owner looks a last time, waiting after the ring
 * is filled, both sequentially consistent, so that one of the two sees the other.
 */
#ifndef IPSF_HANDOVER_H
#define IPSF_HANDOVER_H

#include <stdatomic.h>

#include "aead.h"
#include "packet.h"
#include "ring.h"

struct ipsf_desk {
	/* written by the others */
	_Atomic uint64_t waiting __attribute__((aligned(IPSF_CACHE_LINE))); /* a bit for each worker that has given something */
	_Atomic bool sleeping;                                              /* the owner's word: it must be woken */
	/* the owner's */
	unsigned index __attribute__((aligned(IPSF_CACHE_LINE)));
	unsigned turn;                                   /* whose ring is looked at first */
	uint64_t left;                                   /* rings that were not emptied */
	uint64_t given;                                  /* desks that got something since the last flush */
	struct ipsf_ring *from[IPSF_MAX_WORKERS];
	struct ipsf_desk *other[IPSF_MAX_WORKERS];       /* NULL: itself, or no inbound worker */
	struct ipsf_path path[IPSF_BATCH_MAX];           /* of the packets that take() gave last */
};

/* The desk of worker index, alone. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_desk_new(unsigned index, struct ipsf_desk **desk);
void ipsf_desk_free(struct ipsf_desk *desk); /* and takes leave of the others; no worker runs any more */
/* A ring each way of capacity bytes. Neither worker runs yet. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_desk_join(struct ipsf_desk *a, struct ipsf_desk *b, size_t capacity);

/* Copies a received packet into the ring to worker `to`; false: it is full. */
IPSF_MUST_CHECK bool ipsf_desk_give(struct ipsf_desk *desk, unsigned to, const struct ipsf_packet *packet);
/* Lets the others know what was given to them; a bit for each that sleeps and must be woken. */
IPSF_MUST_CHECK uint64_t ipsf_desk_flush(struct ipsf_desk *desk);
/* Fills an empty batch with what was given; how many. What fits no buffer is counted in drops[], and in *lost. */
unsigned ipsf_desk_take(struct ipsf_desk *desk, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT], uint64_t *lost);

static inline bool ipsf_desk_waits(const struct ipsf_desk *desk)
{
	return desk->left || atomic_load(&desk->waiting);
}

#endif
