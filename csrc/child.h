/*
 * Child SAs as the data plane knows them: a reqid, its outbound SAs, which of them is active.
 *
 * The control thread makes, fills and retires; workers read. Children come and go in the table in use, each by one store;
 * one that leaves is freed after an epoch. The table is replaced when it gets too small.
 */
#ifndef IPSF_CHILD_H
#define IPSF_CHILD_H

#include "sa.h"

struct ipsf_child {
	uint32_t reqid;
	_Atomic(struct ipsf_sa_out *) active; /* RFC 7296 s2.8; NULL: no SA carries anything */
	_Atomic uint64_t asked;               /* when a worker last raised ACQUIRE, 0: not since the last answer */
	_Atomic uint32_t releases;            /* RELEASE_HELD so far: what was held before it must go */
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

#endif
