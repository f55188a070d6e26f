/*
 * Where all snapshots of one SPD keep their rules: written by the control thread, read by workers at the same time.
 *
 * A rule has a number for as long as any snapshot may show it; a snapshot's rank says which numbers it shows, and in which
 * order. So a slot or a rule that a snapshot doesn't show may come and go under a worker that reads that snapshot: it sees
 * the number and passes on. Hash tables are written in place, a slot by one store; one that must grow is replaced, and
 * freed with the snapshots that use it.
 */
#ifndef IPSF_SPD_STORE_H
#define IPSF_SPD_STORE_H

#include <stdatomic.h>

#include "spd_rule.h"

#define IPSF_NO_RULE UINT32_MAX
#define IPSF_GONE_RULE (UINT32_MAX - 1) /* was a rule: a search goes on behind it */
#define IPSF_RULE_CHUNK_BITS 9
#define IPSF_RULE_CHUNK (1u << IPSF_RULE_CHUNK_BITS)

/* The control thread's notes about a rule. */
struct ipsf_rule_note {
	uint32_t table : 31, dead : 1; /* its number in the view; dead: no snapshot from the newest on shows it */
	uint32_t group;                /* a specific rule: its hidden rule; a hidden one: the first of its members; or none */
	uint32_t next, previous;       /* among the members of a group; next also where numbers stand in a list */
};

struct ipsf_rule_chunk {
	struct ipsf_rule rule[IPSF_RULE_CHUNK];
	struct ipsf_rule_note note[IPSF_RULE_CHUNK];
};

struct ipsf_rule_slots {
	struct ipsf_rule_slots *next; /* of those that wait to be freed */
	uint32_t mask;
	bool shown;                   /* to workers */
	_Atomic uint64_t slot[];      /* tag << 32 | number of the rule */
};

struct ipsf_rule_table {
	struct ipsf_rule_key mask;
	struct ipsf_rule_slots *slots;
	uint32_t used;   /* slots that are not empty */
	uint32_t live;   /* rules that the newest snapshot shows */
	uint32_t lowest; /* no such rule has a lower rank */
	struct ipsf_tuple tuple;
};

/* All tables of one address family: of the rules as they are, or of those that stand for rules with their ports hidden. */
struct ipsf_rule_view {
	struct ipsf_rule_table *tables;
	uint32_t n;
};

struct ipsf_spd_store {
	struct ipsf_rule_view view[2][2]; /* [IPv6][hidden] */
	struct ipsf_rule_chunk **chunks;
	uint32_t *order;                  /* of the newest snapshot: rank -> rule */
	size_t n, order_size;
	uint32_t n_chunks, n_rules;       /* numbers given out so far */
	uint32_t free;                    /* numbers to be given out again, by note.next */
	uint32_t snapshots;
	size_t bytes;                     /* that all of it occupies */
};

static inline struct ipsf_rule *ipsf_rule_of(const struct ipsf_spd_store *store, uint32_t id)
{
	return &store->chunks[id >> IPSF_RULE_CHUNK_BITS]->rule[id % IPSF_RULE_CHUNK];
}

static inline struct ipsf_rule_note *ipsf_note_of(const struct ipsf_spd_store *store, uint32_t id)
{
	return &store->chunks[id >> IPSF_RULE_CHUNK_BITS]->note[id % IPSF_RULE_CHUNK];
}

static inline struct ipsf_rule_view *ipsf_view_of(struct ipsf_spd_store *store, const struct ipsf_rule *rule)
{
	return &store->view[rule->ipv6][rule->hidden];
}

static inline uint32_t ipsf_rule_tag(const struct ipsf_rule_key *mask, const struct ipsf_rule_key *key)
{
	return (uint32_t)ipsf_hash_words(key->word, mask->word, 0);
}

void ipsf_store_init(struct ipsf_spd_store *store);
void ipsf_store_fini(struct ipsf_spd_store *store);

/* Puts a rule where searches find it once a snapshot shows it. Slots that were replaced are added to *retired. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_store_add(struct ipsf_spd_store *store, const struct ipsf_rule *rule, struct ipsf_rule_slots **retired,
				   uint32_t *id);
/* A policy's rule, and where it is specific its place in the group of those that differ in ports only. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_store_add_policy(struct ipsf_spd_store *store, const struct ipsf_policy *policy,
					  struct ipsf_rule_slots **retired, uint32_t *id);
/* The rule is not shown from now on; true: nor is its group's, which had no other. Their numbers and slots stay. */
bool ipsf_store_bury(struct ipsf_spd_store *store, uint32_t id, uint32_t *group);
/* No snapshot shows the rule any more: its slot and number are free again. */
void ipsf_store_forget(struct ipsf_spd_store *store, uint32_t id);
void ipsf_store_free_slots(struct ipsf_spd_store *store, struct ipsf_rule_slots *slots);

#endif
