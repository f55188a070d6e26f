/*
 * Packets that wait for their Child SA: a bounded queue a child, owned by one outbound worker.
 *
 * Held packets are copies outside the pool: a child that never comes up must not starve the others of buffers.
 * Allocates; it
 * is not part of the hot path.
 */
#ifndef IPSF_HOLD_H
#define IPSF_HOLD_H

#include "child.h"

#define IPSF_HOLD_PACKETS 64           /* a child */
#define IPSF_HOLD_BYTES (16u << 20)    /* a worker */
#define IPSF_HOLD_BUCKETS 256u

struct ipsf_held {
	struct ipsf_held *next;
	uint32_t length;
	uint16_t segment_size;
	uint8_t segments; /* as in the descriptor */
	uint8_t bytes[];
};

struct ipsf_hold_queue {
	struct ipsf_hold_queue *next;
	struct ipsf_held *first, **last;
	uint32_t reqid, n; /* packets, each segment of a super-packet one */
	uint32_t releases; /* child->releases when the first packet came */
};

struct ipsf_hold {
	struct ipsf_hold_queue *bucket[IPSF_HOLD_BUCKETS];
	struct ipsf_hold_queue *ready, **ready_last; /* their SA is there: to be sent before anything else */
	uint64_t packets, bytes;
	size_t queues; /* in the buckets */
};

void ipsf_hold_init(struct ipsf_hold *hold);
void ipsf_hold_fini(struct ipsf_hold *hold);
/* Does something wait for this child: then what follows must wait behind it. */
bool ipsf_hold_has(const struct ipsf_hold *hold, uint32_t reqid);
/* Copies the packet in; false: too many wait already. */
IPSF_MUST_CHECK bool ipsf_hold_add(struct ipsf_hold *hold, const struct ipsf_child *child,
				   const struct ipsf_packet *packet);
/* Looks at every queue again: those with an SA for the worker get ready, those that were released or lost their child are
 * dropped,
 * counted in drops[]. */
void ipsf_hold_review(struct ipsf_hold *hold, const struct ipsf_children *children, unsigned worker,
		      uint64_t drops[IPSF_DROP_COUNT]);
/* Fills an empty batch with the oldest ready packets, each child's in their order; how many. */
unsigned ipsf_hold_take(struct ipsf_hold *hold, struct ipsf_batch *batch);

#endif
