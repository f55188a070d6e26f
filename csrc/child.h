/*
 * Child SAs as the data plane knows them: a reqid, its outbound SAs, which of them is active.
 *
 * The control thread makes, fills and retires; workers read. Children come and go in the table in use, each by one store;
 * one that leaves is freed after an epoch. The table is replaced when it gets too small.
 */
#ifndef IPSF_CHILD_H
#define IPSF_CHILD_H

#include "sa.h"

/* What one resource has of a child with per-resource SAs (RFC 9611): a worker, or a class of packets by their DSCP. */
struct ipsf_lane {
	_Atomic(struct ipsf_sa_out *) active; /* its own; NULL: it uses the one for all */
	_Atomic uint64_t asked;               /* when ACQUIRE was last raised for one, 0: never */
};

#define IPSF_NO_LANE UINT8_MAX

struct ipsf_lanes {
	uint32_t n;
	_Atomic uint32_t asking; /* how many of them want an SA of their own */
	bool by_dscp;
	uint8_t of_dscp[64];     /* IPSF_NO_LANE: none */
	struct ipsf_lane lane[];
};

struct ipsf_child {
	uint32_t reqid;
	_Atomic uint32_t releases;            /* RELEASE_HELD so far: what was held before it must go */
	_Atomic(struct ipsf_sa_out *) active; /* RFC 7296 s2.8, for all workers; NULL: no SA carries anything */
	_Atomic(struct ipsf_lanes *) lanes;   /* NULL: no per-resource SAs; once there they stay as long as the child */
	_Atomic uint64_t asked;               /* when a worker last raised ACQUIRE, 0: not since the last answer */
	/* control thread only */
	size_t policies;                      /* that name the reqid */
	struct ipsf_sa_out *sas;              /* all outbound SAs, registered and active, by next */
};

struct ipsf_children {
	uint32_t mask;
	uint32_t count; /* children */
	uint32_t used;  /* slots that are not empty: a child that left leaves a mark, so that searches go on behind it */
	_Atomic(struct ipsf_child *) slot[];
};

/* A table with room for count children: at most half of it is used. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_children_new(size_t count, struct ipsf_children **children);
bool ipsf_children_have_room(const struct ipsf_children *children);
/* Only where there is room. */
void ipsf_children_insert(struct ipsf_children *children, struct ipsf_child *child);
/* A child that is in it; workers may use it until an epoch has passed. */
void ipsf_children_remove(struct ipsf_children *children, const struct ipsf_child *child);
/* The first child whose slot is at or behind *cursor, which moves on; NULL at the end. Control thread. */
struct ipsf_child *ipsf_children_next(const struct ipsf_children *children, uint32_t *cursor);
IPSF_MUST_CHECK int ipsf_child_new(uint32_t reqid, struct ipsf_child **child);
void ipsf_child_free(struct ipsf_child *child); /* its SAs are the caller's */
/* Prepares for an SA with these params (resource, resources) on n workers. Control thread. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_child_prepare(struct ipsf_child *child, const struct ipsf_sa_params *params, unsigned n_workers);
/* Where an SA of that resource stands while it is active; NULL: there is no such worker, it carries nothing. Control thread. */
_Atomic(struct ipsf_sa_out *) *ipsf_child_place(struct ipsf_child *child, unsigned resource);

static inline uint32_t ipsf_child_slot(uint32_t reqid)
{
	return (uint32_t)((reqid * 0x9e3779b97f4a7c15u) >> 32);
}

static inline struct ipsf_child *ipsf_child_find(const struct ipsf_children *children, uint32_t reqid)
{
	for (uint32_t at = ipsf_child_slot(reqid) & children->mask;; at = (at + 1) & children->mask) {
		struct ipsf_child *child = atomic_load(&children->slot[at]);
		if (!child || child->reqid == reqid)
			return child;
	}
}

/* Which lane the packets of a worker with that TOS take; it need not be there. */
static inline unsigned ipsf_lane_of(const struct ipsf_lanes *lanes, unsigned worker, uint8_t tos)
{
	return lanes->by_dscp ? lanes->of_dscp[tos >> 2] : worker;
}

/* The SA by which such packets leave: their own, or the one for all. NULL: there is none. */
static inline struct ipsf_sa_out *ipsf_child_sa(const struct ipsf_child *child, unsigned worker, uint8_t tos)
{
	const struct ipsf_lanes *lanes = atomic_load_explicit(&child->lanes, memory_order_acquire);
	const unsigned lane = lanes ? ipsf_lane_of(lanes, worker, tos) : IPSF_NO_LANE;
	struct ipsf_sa_out *own = NULL;
	if (lanes && lane < lanes->n)
		own = atomic_load_explicit(&lanes->lane[lane].active, memory_order_acquire);
	return own ? own : atomic_load_explicit(&child->active, memory_order_acquire);
}

/* What leaves by sa should have an SA of its own (RFC 9611 s3). */
static inline bool ipsf_child_wants_own(const struct ipsf_child *child, const struct ipsf_sa_out *sa, unsigned worker, uint8_t tos)
{
	const struct ipsf_lanes *lanes = atomic_load_explicit(&child->lanes, memory_order_acquire);
	return lanes && sa->resource == 0 &&
	       ipsf_lane_of(lanes, worker, tos) < atomic_load_explicit(&lanes->asking, memory_order_relaxed);
}

/* Neighbours in a batch need not take the same SA. */
static inline bool ipsf_child_divides(const struct ipsf_child *child)
{
	const struct ipsf_lanes *lanes = atomic_load_explicit(&child->lanes, memory_order_acquire);
	return lanes && lanes->by_dscp;
}

#endif
