/*
 * The compiled SPD's snapshots. What rules there are, and the hash tables that find them, stand in the store that all
 * snapshots of one SPD share (spd_store.h); a snapshot is the order of the rules, and the tables in the order in which they
 * are to be asked. So a change costs what it changes, and copying the ranks: four bytes a rule.
 *
 * A lookup probes the tables in the order of their lowest rule and stops when no later one can win. For a later fragment
 * those come first that hash no ports, then the tables of the rules that stand for all which differ in ports only.
 */
#include "spd.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "ip.h"
#include "spd_store.h"

/* A table as searches need it. */
struct search {
	struct ipsf_rule_key mask;
	const struct ipsf_rule_slots *slots;
	uint32_t slot_mask, lowest;
} __attribute__((aligned(IPSF_CACHE_LINE)));

struct searches {
	struct search *search;
	uint32_t n;
};

struct ipsf_spd {
	uint64_t generation;
	size_t n;
	struct searches view[2][2];        /* [IPv6][hidden]; the arrays stand behind this */
	const struct ipsf_rule_chunk **chunks;
	uint32_t *rank;                    /* of each rule by its number; IPSF_NO_RULE: not shown */
	uint32_t n_rules;
	/* control thread only */
	struct ipsf_spd_store *store;
	uint32_t buried;                   /* rules that no newer snapshot shows, by note.next */
	struct ipsf_rule_slots *retired;   /* that no newer snapshot uses */
	size_t size;
};

/* ---- making a snapshot ---- */

static size_t live_tables(const struct ipsf_rule_view *view)
{
	size_t n = 0;
	for (uint32_t i = 0; i < view->n; i++)
		n += view->tables[i].live != 0;
	return n;
}

/* Room for all of a snapshot of what the store holds, in one piece; nothing in it yet. */
static struct ipsf_spd *spd_new(struct ipsf_spd_store *store)
{
	const size_t head = (sizeof(struct ipsf_spd) + IPSF_CACHE_LINE - 1) & ~(size_t)(IPSF_CACHE_LINE - 1);
	size_t tables = 0;
	for (unsigned i = 0; i < 4; i++)
		tables += live_tables(&store->view[i / 2][i % 2]);
	size_t size = head + tables * sizeof(struct search) + store->n_chunks * sizeof(struct ipsf_rule_chunk *) +
		      store->n_rules * sizeof(uint32_t);
	size = (size + IPSF_CACHE_LINE - 1) & ~(size_t)(IPSF_CACHE_LINE - 1);
	struct ipsf_spd *spd = aligned_alloc(IPSF_CACHE_LINE, size);
	if (!spd)
		return NULL;
	struct search *search = (struct search *)(void *)((char *)spd + head);
	*spd = (struct ipsf_spd){.store = store, .n_rules = store->n_rules, .buried = IPSF_NO_RULE, .size = size};
	spd->view[0][0].search = search; /* the other three follow where it ends */
	spd->chunks = (const struct ipsf_rule_chunk **)(void *)(search + tables);
	spd->rank = (uint32_t *)(void *)(spd->chunks + store->n_chunks);
	store->bytes += size;
	store->snapshots++;
	return spd;
}

static int by_lowest(const void *a, const void *b)
{
	const uint32_t x = ((const struct search *)a)->lowest, y = ((const struct search *)b)->lowest;
	return (x > y) - (x < y);
}

static struct search *show_view(struct ipsf_rule_view *view, struct search *search, struct searches *searches)
{
	*searches = (struct searches){.search = search};
	for (uint32_t i = 0; i < view->n; i++) {
		struct ipsf_rule_table *table = &view->tables[i];
		if (table->live == 0)
			continue;
		table->slots->shown = true;
		search[searches->n++] = (struct search){.mask = table->mask, .slots = table->slots, .slot_mask = table->slots->mask,
							.lowest = table->lowest};
	}
	if (searches->n)
		qsort(search, searches->n, sizeof *search, by_lowest);
	return search + searches->n;
}

static void show(struct ipsf_spd *spd)
{
	static _Atomic uint64_t generations;
	struct ipsf_spd_store *store = spd->store;
	struct search *search = spd->view[0][0].search;
	for (unsigned i = 0; i < 4; i++)
		search = show_view(&store->view[i / 2][i % 2], search, &spd->view[i / 2][i % 2]);
	for (uint32_t i = 0; i < store->n_chunks; i++)
		spd->chunks[i] = store->chunks[i];
	spd->n = store->n;
	spd->generation = atomic_fetch_add(&generations, 1) + 1;
}

/* ---- changing one into the next ---- */

/* gone policies at index give way to n others. */
struct change {
	struct ipsf_spd *from, *to;
	struct ipsf_spd_store *store;
	size_t index, gone, n;
	uint32_t *added; /* the numbers of the n */
};

static int make_room(struct ipsf_spd_store *store, size_t n)
{
	if (store->n + n < store->order_size)
		return IPSF_OK;
	const size_t size = store->n + n + store->n / 4 + 1;
	uint32_t *order = realloc(store->order, size * sizeof *order);
	if (!order)
		return IPSF_ENOMEM;
	store->bytes += (size - store->order_size) * sizeof *order;
	store->order = order;
	store->order_size = size;
	return IPSF_OK;
}

/* Nothing has shown these rules yet. */
static void take_back(struct change *c, size_t n)
{
	uint32_t group;
	while (n-- > 0) {
		if (ipsf_store_bury(c->store, c->added[n], &group))
			ipsf_store_forget(c->store, group);
		ipsf_store_forget(c->store, c->added[n]);
	}
}

/* All that can fail. */
static int prepare(struct change *c, const struct ipsf_policy *policies)
{
	if (make_room(c->store, c->n) != IPSF_OK)
		return IPSF_ENOMEM;
	for (size_t i = 0; i < c->n; i++) {
		if (ipsf_store_add_policy(c->store, &policies[i], &c->from->retired, &c->added[i]) != IPSF_OK) {
			take_back(c, i);
			return IPSF_ENOMEM;
		}
	}
	c->to = spd_new(c->store);
	if (!c->to) {
		take_back(c, c->n);
		return IPSF_ENOMEM;
	}
	return IPSF_OK;
}

static uint32_t moved(const struct change *c, uint32_t rank)
{
	const uint32_t index = (uint32_t)c->index, behind = (uint32_t)(c->index + c->gone);
	if (rank < index || rank == IPSF_NO_RULE)
		return rank;
	return rank < behind ? IPSF_NO_RULE : rank - (uint32_t)c->gone + (uint32_t)c->n;
}

static void set_ranks(const struct change *c)
{
	const uint32_t old = c->from->n_rules;
	for (uint32_t id = 0; id < old; id++)
		c->to->rank[id] = moved(c, c->from->rank[id]);
	for (uint32_t id = old; id < c->to->n_rules; id++)
		c->to->rank[id] = IPSF_NO_RULE;
	for (size_t i = 0; i < c->n; i++)
		c->to->rank[c->added[i]] = (uint32_t)(c->index + i);
}

static void bury_all(const struct change *c)
{
	uint32_t group;
	for (size_t i = c->index; i < c->index + c->gone; i++) {
		const uint32_t id = c->store->order[i];
		const bool last = ipsf_store_bury(c->store, id, &group);
		ipsf_note_of(c->store, id)->next = last ? group : c->from->buried;
		if (last)
			ipsf_note_of(c->store, group)->next = c->from->buried;
		c->from->buried = id;
	}
}

/* A group's rank is that of its first member: asked anew where that one went, lowered where an earlier one came. */
static void set_group_ranks(const struct change *c)
{
	uint32_t *const rank = c->to->rank;
	for (size_t i = c->index; i < c->index + c->gone; i++) {
		const uint32_t group = ipsf_note_of(c->store, c->store->order[i])->group;
		if (group == IPSF_NO_RULE || rank[group] != IPSF_NO_RULE)
			continue;
		for (uint32_t id = ipsf_note_of(c->store, group)->group; id != IPSF_NO_RULE; id = ipsf_note_of(c->store, id)->next)
			rank[group] = rank[id] < rank[group] ? rank[id] : rank[group];
	}
	for (size_t i = 0; i < c->n; i++) {
		const uint32_t id = c->added[i], group = ipsf_note_of(c->store, id)->group;
		if (group != IPSF_NO_RULE && rank[id] < rank[group])
			rank[group] = rank[id];
	}
}

static void lower(struct ipsf_spd_store *store, uint32_t id, uint32_t rank)
{
	struct ipsf_rule_table *table = &ipsf_view_of(store, ipsf_rule_of(store, id))->tables[ipsf_note_of(store, id)->table];
	if (rank < table->lowest)
		table->lowest = rank;
}

/* A bound from below is enough: where a table's first rule went, the next may be later. */
static void set_lowest(const struct change *c)
{
	const uint32_t index = (uint32_t)c->index;
	for (unsigned i = 0; i < 4; i++) {
		struct ipsf_rule_view *view = &c->store->view[i / 2][i % 2];
		for (uint32_t t = 0; t < view->n; t++) {
			struct ipsf_rule_table *table = &view->tables[t];
			const uint32_t now = moved(c, table->lowest);
			table->lowest = table->live == 0 ? IPSF_NO_RULE : now == IPSF_NO_RULE && table->lowest != now ? index : now;
		}
	}
	for (size_t i = 0; i < c->n; i++) {
		const uint32_t id = c->added[i], group = ipsf_note_of(c->store, id)->group;
		lower(c->store, id, c->to->rank[id]);
		if (group != IPSF_NO_RULE)
			lower(c->store, group, c->to->rank[group]);
	}
}

static void set_order(const struct change *c)
{
	uint32_t *at = c->store->order + c->index;
	memmove(at + c->n, at + c->gone, (c->store->n - c->index - c->gone) * sizeof *at);
	memcpy(at, c->added, c->n * sizeof *at);
	c->store->n = c->store->n - c->gone + c->n;
}

static int splice(struct ipsf_spd *spd, size_t index, size_t gone, const struct ipsf_policy *policies, size_t n,
		  struct ipsf_spd **next)
{
	struct change c = {.from = spd, .store = spd->store, .index = index, .gone = gone, .n = n};
	c.added = malloc((n ? n : 1) * sizeof *c.added);
	if (!c.added || prepare(&c, policies) != IPSF_OK) {
		free(c.added);
		return IPSF_ENOMEM;
	}
	set_ranks(&c);
	bury_all(&c);
	set_group_ranks(&c);
	set_lowest(&c);
	set_order(&c);
	show(c.to);
	free(c.added);
	*next = c.to;
	return IPSF_OK;
}

int ipsf_spd_splice(struct ipsf_spd *spd, size_t index, size_t gone, const struct ipsf_policy *policies, size_t n,
		    struct ipsf_spd **next)
{
	if (index > spd->n || gone > spd->n - index || n >= INT32_MAX - (spd->n - gone) || (n && !policies) ||
	    ipsf_policies_valid(policies, n) != n)
		return IPSF_EINVAL;
	return splice(spd, index, gone, policies, n, next);
}

int ipsf_spd_compile(const struct ipsf_policy *policies, size_t n, struct ipsf_spd **out)
{
	struct ipsf_spd_store *store = malloc(sizeof *store);
	if (!store)
		return IPSF_ENOMEM;
	ipsf_store_init(store);
	struct ipsf_spd *nothing = spd_new(store);
	if (!nothing) {
		free(store);
		return IPSF_ENOMEM;
	}
	show(nothing);
	const int status = ipsf_spd_splice(nothing, 0, 0, policies, n, out);
	ipsf_spd_free(nothing);
	return status;
}

void ipsf_spd_free(struct ipsf_spd *spd)
{
	if (!spd)
		return;
	struct ipsf_spd_store *store = spd->store;
	for (uint32_t id = spd->buried, next; id != IPSF_NO_RULE; id = next) {
		next = ipsf_note_of(store, id)->next;
		ipsf_store_forget(store, id);
	}
	ipsf_store_free_slots(store, spd->retired);
	store->bytes -= spd->size;
	free(spd);
	if (--store->snapshots == 0) {
		ipsf_store_fini(store);
		free(store);
	}
}

size_t ipsf_spd_count(const struct ipsf_spd *spd)
{
	return spd->n;
}

size_t ipsf_spd_memory(const struct ipsf_spd *spd)
{
	return spd->store->bytes;
}

uint64_t ipsf_spd_generation(const struct ipsf_spd *spd)
{
	return spd->generation;
}

uint32_t ipsf_spd_reqid(const struct ipsf_spd *spd, size_t index)
{
	const struct ipsf_rule *rule = ipsf_rule_of(spd->store, spd->store->order[index]);
	return rule->action == IPSF_PROTECT ? rule->reqid : 0;
}

/* ---- lookup ---- */

#define HASHED_PORTS 0xffffffffu /* of word 4 */
#define AT_ONCE 8u

struct match {
	uint32_t rank;
	const struct ipsf_rule *rule;
};

static void search_table(const struct ipsf_spd *spd, const struct search *search, uint32_t tag, const struct ipsf_rule_key *key,
			 enum ipsf_ports ports, struct match *best)
{
	for (uint32_t at = tag & search->slot_mask;; at = (at + 1) & search->slot_mask) {
		const uint64_t slot = atomic_load_explicit(&search->slots->slot[at], memory_order_relaxed);
		const uint32_t id = (uint32_t)slot;
		if (id == IPSF_NO_RULE)
			return;
		if (slot >> 32 != tag || id >= spd->n_rules || spd->rank[id] >= best->rank)
			continue; /* of another key, newer than the snapshot or gone, later than what was found */
		const struct ipsf_rule *rule = &spd->chunks[id >> IPSF_RULE_CHUNK_BITS]->rule[id % IPSF_RULE_CHUNK];
		if (ipsf_rule_matches(rule, key, ports))
			*best = (struct match){spd->rank[id], rule};
	}
}

/* Some tables at a time: their slots are on their way from memory together. */
static void search_view(const struct ipsf_spd *spd, const struct searches *view, const struct ipsf_rule_key *key,
			enum ipsf_ports ports, uint64_t without, struct match *best)
{
	uint32_t tag[AT_ONCE];
	for (uint32_t first = 0; first < view->n && view->search[first].lowest < best->rank; first += AT_ONCE) {
		const struct search *search = view->search + first;
		const uint32_t n = view->n - first < AT_ONCE ? view->n - first : AT_ONCE;
		for (uint32_t i = 0; i < n; i++) {
			tag[i] = ipsf_rule_tag(&search[i].mask, key);
			__builtin_prefetch(&search[i].slots->slot[tag[i] & search[i].slot_mask]);
		}
		for (uint32_t i = 0; i < n && search[i].lowest < best->rank; i++) {
			if ((search[i].mask.word[4] & without) == 0)
				search_table(spd, &search[i], tag[i], key, ports, best);
		}
	}
}

static struct ipsf_decision decide(const struct match *best, enum ipsf_ports ports)
{
	struct ipsf_decision decision = {.index = -1, .action = IPSF_DISCARD, .drop = IPSF_DROP_NO_POLICY};
	if (best->rank == IPSF_NO_RULE)
		return decision;
	decision.index = (int32_t)best->rank;
	decision.drop = IPSF_DROP_FRAGMENT;
	if (ports == IPSF_PORTS_HIDDEN && best->rule->specific)
		return decision;
	decision.reqid = best->rule->action == IPSF_PROTECT ? best->rule->reqid : 0;
	decision.action = best->rule->action;
	decision.flags = best->rule->flags;
	decision.drop = best->rule->action == IPSF_DISCARD ? IPSF_DROP_POLICY_DISCARD : IPSF_DROP_NONE;
	return decision;
}

struct ipsf_decision ipsf_spd_lookup(const struct ipsf_spd *spd, const struct ipsf_flow *flow)
{
	const struct searches *view = spd->view[flow->version == 6];
	const enum ipsf_ports ports = flow->ports;
	const struct ipsf_rule_key key = {{ipsf_read64(flow->source), ipsf_read64(flow->source + 8), ipsf_read64(flow->destination),
					   ipsf_read64(flow->destination + 8),
					   ipsf_rest_word(flow->protocol, flow->source_port, flow->destination_port)}};
	struct match best = {.rank = IPSF_NO_RULE};
	search_view(spd, &view[0], &key, ports, ports == IPSF_PORTS_HIDDEN ? HASHED_PORTS : 0, &best);
	if (IPSF_UNLIKELY(ports == IPSF_PORTS_HIDDEN))
		search_view(spd, &view[1], &key, ports, 0, &best);
	return decide(&best, ports);
}

void ipsf_spd_lookup_array(const struct ipsf_spd *spd, uint8_t version, const uint8_t *sources, const uint8_t *destinations,
			   const uint8_t *protocols, const uint16_t *source_ports, const uint16_t *destination_ports,
			   size_t n, int32_t *out)
{
	const size_t size = version == 6 ? 16 : 4;
	for (size_t i = 0; i < n; i++) {
		struct ipsf_flow flow = {.version = version, .protocol = protocols[i]};
		memcpy(flow.source, sources + 16 * i, size);
		memcpy(flow.destination, destinations + 16 * i, size);
		flow.ports = ipsf_protocol_has_ports(protocols[i]) ? IPSF_PORTS_KNOWN : IPSF_PORTS_NONE;
		if (flow.ports == IPSF_PORTS_KNOWN) {
			flow.source_port = source_ports[i];
			flow.destination_port = destination_ports[i];
		}
		out[i] = ipsf_spd_lookup(spd, &flow).index;
	}
}
