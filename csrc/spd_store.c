/*
 * Tuple space search (Srinivasan et al. 1999) with tuples merged as long as few rules collide (TupleMerge, Daly et al.
 * 2019): each rule stands once, in one table whose tuple is not longer than the rule's own, and is compared in full when
 * its slot is hit; so ranges cost no more memory than prefixes.
 */
#include "spd_store.h"

#include <stdlib.h>

#define CROWD_MAX 4     /* rules with equal hashed bits in one table, before a longer tuple is taken */
#define LEAST_SLOTS 8u

void ipsf_store_init(struct ipsf_spd_store *store)
{
	memset(store, 0, sizeof *store);
	store->free = IPSF_NO_RULE;
	store->bytes = sizeof *store;
}

void ipsf_store_fini(struct ipsf_spd_store *store)
{
	for (unsigned i = 0; i < 4; i++) {
		struct ipsf_rule_view *view = &store->view[i / 2][i % 2];
		for (uint32_t t = 0; t < view->n; t++)
			free(view->tables[t].slots);
		free(view->tables);
	}
	for (uint32_t i = 0; i < store->n_chunks; i++)
		free(store->chunks[i]);
	free(store->chunks);
	free(store->order);
}

/* ---- numbers ---- */

static int add_chunk(struct ipsf_spd_store *store)
{
	struct ipsf_rule_chunk **chunks = realloc(store->chunks, (store->n_chunks + 1) * sizeof(struct ipsf_rule_chunk *));
	if (!chunks)
		return IPSF_ENOMEM;
	store->chunks = chunks;
	chunks[store->n_chunks] = malloc(sizeof **chunks);
	if (!chunks[store->n_chunks])
		return IPSF_ENOMEM;
	store->n_chunks++;
	store->bytes += sizeof **chunks + sizeof(struct ipsf_rule_chunk *);
	return IPSF_OK;
}

static int take_number(struct ipsf_spd_store *store, uint32_t *id)
{
	*id = store->free;
	if (*id != IPSF_NO_RULE) {
		store->free = ipsf_note_of(store, *id)->next;
		return IPSF_OK;
	}
	if (store->n_rules == store->n_chunks << IPSF_RULE_CHUNK_BITS && add_chunk(store) != IPSF_OK)
		return IPSF_ENOMEM;
	*id = store->n_rules++;
	return IPSF_OK;
}

static void give_number(struct ipsf_spd_store *store, uint32_t id)
{
	ipsf_note_of(store, id)->next = store->free;
	store->free = id;
}

/* ---- slots ---- */

static size_t slots_size(uint32_t count)
{
	return sizeof(struct ipsf_rule_slots) + count * sizeof(uint64_t);
}

static struct ipsf_rule_slots *slots_new(struct ipsf_spd_store *store, uint32_t count)
{
	struct ipsf_rule_slots *slots = malloc(slots_size(count));
	if (!slots)
		return NULL;
	memset(slots, 0xff, slots_size(count)); /* all of them IPSF_NO_RULE */
	slots->next = NULL;
	slots->mask = count - 1;
	slots->shown = false;
	store->bytes += slots_size(count);
	return slots;
}

void ipsf_store_free_slots(struct ipsf_spd_store *store, struct ipsf_rule_slots *slots)
{
	while (slots) {
		struct ipsf_rule_slots *next = slots->next;
		store->bytes -= slots_size(slots->mask + 1);
		free(slots);
		slots = next;
	}
}

static uint32_t slot_rule(const struct ipsf_rule_slots *slots, uint32_t at)
{
	return (uint32_t)atomic_load_explicit(&slots->slot[at], memory_order_relaxed);
}

/* True: where nothing had been before. Relaxed: nobody looks for the rule before a snapshot that shows it is published. */
static bool put(struct ipsf_rule_slots *slots, uint32_t tag, uint32_t id)
{
	uint32_t at = tag & slots->mask, was;
	while ((was = slot_rule(slots, at)) < IPSF_GONE_RULE)
		at = (at + 1) & slots->mask;
	atomic_store_explicit(&slots->slot[at], (uint64_t)tag << 32 | id, memory_order_relaxed);
	return was == IPSF_NO_RULE;
}

/* How many slots became empty: those at the end of a run of used ones needn't lead a search on. */
static uint32_t clear(struct ipsf_rule_slots *slots, uint32_t at)
{
	uint32_t cleared = 0;
	atomic_store_explicit(&slots->slot[at], IPSF_GONE_RULE, memory_order_relaxed);
	if (slot_rule(slots, (at + 1) & slots->mask) != IPSF_NO_RULE)
		return 0;
	for (; slot_rule(slots, at) == IPSF_GONE_RULE; at = (at - 1) & slots->mask, cleared++)
		atomic_store_explicit(&slots->slot[at], UINT64_MAX, memory_order_relaxed);
	return cleared;
}

/* Slots for one rule more, without those that nothing shows any more. */
static int rehash(struct ipsf_spd_store *store, struct ipsf_rule_table *table, struct ipsf_rule_slots **retired)
{
	struct ipsf_rule_slots *old = table->slots;
	uint32_t count = LEAST_SLOTS;
	while (count <= 2 * (table->live + 1) + table->live / 2)
		count *= 2;
	struct ipsf_rule_slots *slots = slots_new(store, count);
	if (!slots)
		return IPSF_ENOMEM;
	table->used = 0;
	for (uint32_t at = 0; old && at <= old->mask; at++) {
		const uint64_t slot = atomic_load_explicit(&old->slot[at], memory_order_relaxed);
		const uint32_t id = (uint32_t)slot;
		if (id < IPSF_GONE_RULE && !ipsf_note_of(store, id)->dead)
			table->used += put(slots, (uint32_t)(slot >> 32), id);
	}
	table->slots = slots;
	if (old && old->shown) {
		old->next = *retired;
		*retired = old;
	} else {
		ipsf_store_free_slots(store, old);
	}
	return IPSF_OK;
}

/* ---- tables ---- */

static int new_table(struct ipsf_spd_store *store, struct ipsf_rule_view *view, const struct ipsf_tuple *tuple, uint32_t *number)
{
	struct ipsf_rule_table *tables = realloc(view->tables, (view->n + 1) * sizeof *tables);
	if (!tables)
		return IPSF_ENOMEM;
	view->tables = tables;
	*number = view->n;
	tables[view->n] = (struct ipsf_rule_table){.mask = ipsf_tuple_mask(tuple), .tuple = *tuple, .lowest = IPSF_NO_RULE};
	if (rehash(store, &tables[view->n], NULL) != IPSF_OK)
		return IPSF_ENOMEM;
	view->n++;
	store->bytes += sizeof *tables;
	return IPSF_OK;
}

/* How many live rules share the hashed bits of rule in this table. */
static unsigned crowd(const struct ipsf_spd_store *store, const struct ipsf_rule_table *table, const struct ipsf_rule *rule)
{
	const uint32_t tag = ipsf_rule_tag(&table->mask, &rule->first), mask = table->slots->mask;
	unsigned n = 0;
	for (uint32_t at = tag & mask;; at = (at + 1) & mask) {
		const uint64_t slot = atomic_load_explicit(&table->slots->slot[at], memory_order_relaxed);
		const uint32_t id = (uint32_t)slot;
		if (id == IPSF_NO_RULE || n == CROWD_MAX)
			return n;
		n += slot >> 32 == tag && id != IPSF_GONE_RULE && !ipsf_note_of(store, id)->dead;
	}
}

static bool table_of_tuple(const struct ipsf_rule_view *view, const struct ipsf_tuple *tuple, uint32_t *number)
{
	for (*number = 0; *number < view->n; ++*number) {
		if (memcmp(&view->tables[*number].tuple, tuple, sizeof *tuple) == 0)
			return true;
	}
	return false;
}

/* The least crowded table that may take the rule, if it isn't crowded; else one of a longer tuple, made if need be. */
static int choose_table(struct ipsf_spd_store *store, struct ipsf_rule_view *view, const struct ipsf_rule *rule, uint32_t *number)
{
	const struct ipsf_tuple natural = ipsf_tuple_of(rule), relaxed = ipsf_tuple_relaxed(natural, rule->ipv6);
	unsigned least = CROWD_MAX;
	for (uint32_t i = 0; i < view->n && least; i++) {
		const struct ipsf_rule_table *table = &view->tables[i];
		const unsigned n = ipsf_tuple_covers(&table->tuple, &natural) ? crowd(store, table, rule) : CROWD_MAX;
		if (n < least) {
			least = n;
			*number = i;
		}
	}
	if (least < CROWD_MAX)
		return IPSF_OK;
	if (!table_of_tuple(view, &relaxed, number))
		return new_table(store, view, &relaxed, number);
	return table_of_tuple(view, &natural, number) ? IPSF_OK : new_table(store, view, &natural, number);
}

/* ---- rules ---- */

int ipsf_store_add(struct ipsf_spd_store *store, const struct ipsf_rule *rule, struct ipsf_rule_slots **retired, uint32_t *out)
{
	struct ipsf_rule_view *view = ipsf_view_of(store, rule);
	uint32_t id, number;
	if (choose_table(store, view, rule, &number) != IPSF_OK)
		return IPSF_ENOMEM;
	struct ipsf_rule_table *table = &view->tables[number];
	if (2 * (table->used + 1) > table->slots->mask && rehash(store, table, retired) != IPSF_OK)
		return IPSF_ENOMEM;
	if (take_number(store, &id) != IPSF_OK)
		return IPSF_ENOMEM;
	*ipsf_rule_of(store, id) = *rule;
	*ipsf_note_of(store, id) = (struct ipsf_rule_note){.table = number & INT32_MAX, .group = IPSF_NO_RULE, .next = IPSF_NO_RULE,
							   .previous = IPSF_NO_RULE};
	table->used += put(table->slots, ipsf_rule_tag(&table->mask, &rule->first), id);
	table->live++;
	*out = id;
	return IPSF_OK;
}

/* The live rule of the same addresses and protocol in this table, or none. */
static uint32_t find_same(const struct ipsf_spd_store *store, const struct ipsf_rule_table *table, const struct ipsf_rule *rule)
{
	const uint32_t tag = ipsf_rule_tag(&table->mask, &rule->first), mask = table->slots->mask;
	for (uint32_t at = tag & mask;; at = (at + 1) & mask) {
		const uint64_t slot = atomic_load_explicit(&table->slots->slot[at], memory_order_relaxed);
		const uint32_t id = (uint32_t)slot;
		if (id == IPSF_NO_RULE)
			return IPSF_NO_RULE;
		if (slot >> 32 == tag && id != IPSF_GONE_RULE && !ipsf_note_of(store, id)->dead &&
		    ipsf_rule_same_but_ports(ipsf_rule_of(store, id), rule))
			return id;
	}
}

static int need_group(struct ipsf_spd_store *store, const struct ipsf_rule *rule, struct ipsf_rule_slots **retired, uint32_t *group)
{
	struct ipsf_rule hidden;
	ipsf_rule_hide_ports(rule, &hidden);
	const struct ipsf_rule_view *view = ipsf_view_of(store, &hidden);
	const struct ipsf_tuple natural = ipsf_tuple_of(&hidden);
	for (uint32_t i = 0; i < view->n; i++) {
		*group = ipsf_tuple_covers(&view->tables[i].tuple, &natural) ? find_same(store, &view->tables[i], &hidden) : IPSF_NO_RULE;
		if (*group != IPSF_NO_RULE)
			return IPSF_OK;
	}
	return ipsf_store_add(store, &hidden, retired, group);
}

static void join(struct ipsf_spd_store *store, uint32_t id, uint32_t group)
{
	struct ipsf_rule_note *note = ipsf_note_of(store, id), *head = ipsf_note_of(store, group);
	note->group = group;
	note->next = head->group;
	if (note->next != IPSF_NO_RULE)
		ipsf_note_of(store, note->next)->previous = id;
	head->group = id;
}

/* True: it was the last of its group. */
static bool leave(struct ipsf_spd_store *store, uint32_t id)
{
	const struct ipsf_rule_note *note = ipsf_note_of(store, id);
	struct ipsf_rule_note *head = ipsf_note_of(store, note->group);
	if (note->next != IPSF_NO_RULE)
		ipsf_note_of(store, note->next)->previous = note->previous;
	if (note->previous != IPSF_NO_RULE)
		ipsf_note_of(store, note->previous)->next = note->next;
	else
		head->group = note->next;
	return head->group == IPSF_NO_RULE;
}

int ipsf_store_add_policy(struct ipsf_spd_store *store, const struct ipsf_policy *policy, struct ipsf_rule_slots **retired,
			  uint32_t *id)
{
	struct ipsf_rule rule;
	uint32_t group = IPSF_NO_RULE;
	ipsf_rule_from(policy, &rule);
	int status = ipsf_store_add(store, &rule, retired, id);
	if (status != IPSF_OK || !rule.specific)
		return status;
	status = need_group(store, &rule, retired, &group);
	if (status == IPSF_OK) {
		join(store, *id, group);
		return IPSF_OK;
	}
	bool last = ipsf_store_bury(store, *id, &group);
	assert(!last);
	(void)last;
	ipsf_store_forget(store, *id);
	return status;
}

static void bury(struct ipsf_spd_store *store, uint32_t id)
{
	struct ipsf_rule_note *note = ipsf_note_of(store, id);
	note->dead = 1;
	ipsf_view_of(store, ipsf_rule_of(store, id))->tables[note->table].live--;
}

bool ipsf_store_bury(struct ipsf_spd_store *store, uint32_t id, uint32_t *group)
{
	*group = ipsf_note_of(store, id)->group;
	bury(store, id);
	if (*group == IPSF_NO_RULE || !leave(store, id))
		return false;
	bury(store, *group);
	return true;
}

void ipsf_store_forget(struct ipsf_spd_store *store, uint32_t id)
{
	const struct ipsf_rule *rule = ipsf_rule_of(store, id);
	struct ipsf_rule_table *table = &ipsf_view_of(store, rule)->tables[ipsf_note_of(store, id)->table];
	const uint32_t mask = table->slots->mask;
	uint32_t at = ipsf_rule_tag(&table->mask, &rule->first) & mask, found;
	while ((found = slot_rule(table->slots, at)) != IPSF_NO_RULE && found != id) /* slots that were replaced left it out */
		at = (at + 1) & mask;
	if (found == id)
		table->used -= clear(table->slots, at);
	give_number(store, id);
}
