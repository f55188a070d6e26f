/*
 * The compiled SPD: tuple space search (Srinivasan et al. 1999) with tuples merged as long as few rules collide
 * (TupleMerge, Daly et al. 2019).
 *
 * A tuple says how many leading bits of each field a hash table looks at. Each rule stands once, in one table whose
 * tuple is
 * not longer than the rule's own (the common prefix of its range), and is compared in full when its slot is hit; so
 * ranges
 * cost no more memory than prefixes. A lookup probes the tables in the order of their lowest rule and stops when no
 * later one can win. Memory: some 100 bytes a rule.
 */
#include "spd.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "ip.h"

#define EMPTY UINT32_MAX
#define CROWD_MAX 4  /* rules with equal hashed bits in one table, before a longer tuple is taken */
#define WORDS 5      /* of a key: source (2), destination (2), protocol and ports */

struct key {
	uint64_t word[WORDS];
};

struct rule {
	struct key first, last; /* ranges; word 4 of both: protocol and ports, see rest_word() */
	uint32_t reqid;
	uint8_t action, flags;
	uint8_t protocol;
	uint8_t specific; /* asks for ports */
	uint8_t known[2]; /* 1: source, destination ports are a range that known ports can be in (not OPAQUE) */
};

/* Leading bits that count: source, destination, protocol, source port, destination port. */
struct tuple {
	uint8_t bits[WORDS];
};

struct slot {
	uint32_t tag, rule;
};

struct table {
	struct key mask;
	struct slot *slots;
	uint32_t slot_mask, used, lowest;
	struct tuple tuple;
};

/* All tables of one address family, for packets that show their ports or for later fragments. */
struct view {
	struct table *tables;
	uint32_t n;
};

struct ipsf_spd {
	uint64_t generation;
	size_t n;
	struct view view[2][2]; /* [IPv6][later fragments] */
	uint8_t specific[2];    /* some policy of the family asks for ports: later fragments have a view of their own */
	struct rule *rules;
};

static uint64_t rest_word(uint8_t protocol, uint16_t source_port, uint16_t destination_port)
{
	return (uint64_t)protocol << 32 | (uint64_t)source_port << 16 | destination_port;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	const unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t hash_words(const uint64_t word[WORDS], const uint64_t mask[WORDS], uint64_t seed)
{
	uint64_t h = mix((word[0] & mask[0]) ^ 0x9e3779b97f4a7c15u ^ seed, (word[1] & mask[1]) ^ 0xc2b2ae3d27d4eb4fu);
	h = mix((word[2] & mask[2]) ^ h, (word[3] & mask[3]) ^ 0xd6e8feb86659fd93u);
	return mix(h ^ 0xa0761d6478bd642fu, (word[4] & mask[4]) ^ 0xe7037ed1a0b428dbu ^ seed);
}

static uint32_t tag_of(const struct table *table, const struct key *key)
{
	return (uint32_t)hash_words(key->word, table->mask.word, 0);
}

/* ---- from policy to rule ---- */

static bool family_of(const struct ipsf_addr *address, unsigned *family)
{
	*family = address->version == 6;
	return address->version == 4 || address->version == 6;
}

static void address_words(const struct ipsf_addr *address, uint64_t word[2])
{
	word[0] = address->version == 4 ? (uint64_t)ipsf_read32(address->bytes) << 32 : ipsf_read64(address->bytes);
	word[1] = address->version == 4 ? 0 : ipsf_read64(address->bytes + 8);
}

static bool ports_opaque(const struct ipsf_selector *s)
{
	return s->port_first == UINT16_MAX && s->port_last == 0;
}

static bool ports_any(const struct ipsf_selector *s)
{
	return s->port_first == 0 && s->port_last == UINT16_MAX;
}

static bool selector_valid(const struct ipsf_selector *s)
{
	uint64_t first[2], last[2];
	unsigned family;
	if (!family_of(&s->first, &family) || s->last.version != s->first.version)
		return false;
	address_words(&s->first, first);
	address_words(&s->last, last);
	if (first[0] > last[0] || (first[0] == last[0] && first[1] > last[1]))
		return false;
	return s->port_first <= s->port_last || ports_opaque(s);
}

static bool policy_valid(const struct ipsf_policy *policy)
{
	const struct ipsf_selector *s = &policy->source, *d = &policy->destination;
	if (!selector_valid(s) || !selector_valid(d) || s->first.version != d->first.version)
		return false;
	if (s->protocol && d->protocol && s->protocol != d->protocol)
		return false;
	return policy->action <= IPSF_PROTECT && (policy->action != IPSF_PROTECT || policy->reqid != 0);
}

static void rule_from(const struct ipsf_policy *policy, struct rule *rule)
{
	const struct ipsf_selector *s = &policy->source, *d = &policy->destination;
	const uint8_t protocol = s->protocol ? s->protocol : d->protocol;
	address_words(&s->first, rule->first.word);
	address_words(&s->last, rule->last.word);
	address_words(&d->first, rule->first.word + 2);
	address_words(&d->last, rule->last.word + 2);
	rule->first.word[4] = rest_word(protocol, s->port_first, d->port_first);
	rule->last.word[4] = rest_word(protocol, s->port_last, d->port_last);
	rule->protocol = protocol;
	rule->specific = !(ports_any(s) || ports_opaque(s)) || !(ports_any(d) || ports_opaque(d));
	rule->known[0] = !ports_opaque(s);
	rule->known[1] = !ports_opaque(d);
	rule->reqid = policy->reqid;
	rule->action = policy->action;
	rule->flags = policy->flags;
}

/* ---- does a rule match ---- */

static bool in_range(const uint64_t first[2], const uint64_t last[2], const uint64_t word[2])
{
	const bool below = word[0] < first[0] || (word[0] == first[0] && word[1] < first[1]);
	const bool above = word[0] > last[0] || (word[0] == last[0] && word[1] > last[1]);
	return !below && !above;
}

static bool port_in_range(const struct rule *rule, const struct key *key, unsigned shift)
{
	const uint16_t port = (uint16_t)(key->word[4] >> shift);
	return port >= (uint16_t)(rule->first.word[4] >> shift) && port <= (uint16_t)(rule->last.word[4] >> shift);
}

static bool ports_match(const struct rule *rule, const struct key *key, enum ipsf_ports ports)
{
	if (ports == IPSF_PORTS_HIDDEN)
		return true; /* ipsf_spd_lookup() looks at what won */
	if (ports == IPSF_PORTS_NONE)
		return !rule->specific;
	return rule->known[0] && rule->known[1] && port_in_range(rule, key, 16) && port_in_range(rule, key, 0);
}

static bool rule_matches(const struct rule *rule, const struct key *key, enum ipsf_ports ports)
{
	return in_range(rule->first.word, rule->last.word, key->word) &&
	       in_range(rule->first.word + 2, rule->last.word + 2, key->word + 2) &&
	       (rule->protocol == 0 || rule->protocol == (uint8_t)(key->word[4] >> 32)) && ports_match(rule, key, ports);
}

/* ---- tuples ---- */

static uint8_t common_bits(const uint64_t a[2], const uint64_t b[2])
{
	if (a[0] != b[0])
		return (uint8_t)__builtin_clzll(a[0] ^ b[0]);
	return a[1] != b[1] ? (uint8_t)(64 + __builtin_clzll(a[1] ^ b[1])) : 128;
}

static uint8_t common_port_bits(const struct rule *rule, unsigned which)
{
	const unsigned shift = which == 0 ? 16 : 0;
	const uint16_t differ = (uint16_t)((rule->first.word[4] ^ rule->last.word[4]) >> shift);
	if (!rule->known[which])
		return 0;
	return differ ? (uint8_t)(__builtin_clz(differ) - 16) : 16;
}

/* The longest tuple that the rule may stand under. An IPv4 address has 32 bits, whatever stands behind them. */
static struct tuple natural_tuple(const struct rule *rule, bool ipv6, bool fragments)
{
	const uint8_t longest = ipv6 ? 128 : 32;
	const uint8_t source = common_bits(rule->first.word, rule->last.word);
	const uint8_t destination = common_bits(rule->first.word + 2, rule->last.word + 2);
	struct tuple tuple = {{source < longest ? source : longest, destination < longest ? destination : longest,
			       rule->protocol ? 8 : 0, 0, 0}};
	if (!fragments) {
		tuple.bits[3] = common_port_bits(rule, 0);
		tuple.bits[4] = common_port_bits(rule, 1);
	}
	return tuple;
}

/* Rounded down, so that rules of nearly equal shape share a table. */
static struct tuple relaxed_tuple(struct tuple tuple, bool ipv6)
{
	const uint8_t step = ipv6 ? 16 : 8;
	tuple.bits[0] = (uint8_t)(tuple.bits[0] - tuple.bits[0] % step);
	tuple.bits[1] = (uint8_t)(tuple.bits[1] - tuple.bits[1] % step);
	tuple.bits[3] = tuple.bits[3] == 16 ? 16 : 0;
	tuple.bits[4] = tuple.bits[4] == 16 ? 16 : 0;
	return tuple;
}

static bool tuple_covers(const struct tuple *table, const struct tuple *rule)
{
	for (unsigned i = 0; i < WORDS; i++) {
		if (table->bits[i] > rule->bits[i])
			return false;
	}
	return true;
}

static uint64_t top_bits(unsigned bits)
{
	return bits == 0 ? 0 : bits >= 64 ? UINT64_MAX : ~(UINT64_MAX >> bits);
}

static struct key tuple_mask(const struct tuple *tuple)
{
	const unsigned s = tuple->bits[0], d = tuple->bits[1];
	const uint64_t source_port = 0xffffu & ~(0xffffu >> tuple->bits[3]);
	const uint64_t destination_port = 0xffffu & ~(0xffffu >> tuple->bits[4]);
	const uint64_t protocol = tuple->bits[2] ? 0xffu : 0;
	return (struct key){{top_bits(s), s > 64 ? top_bits(s - 64) : 0, top_bits(d), d > 64 ? top_bits(d - 64) : 0,
			     protocol << 32 | source_port << 16 | destination_port}};
}

/* ---- tables ---- */

static struct slot *empty_slots(uint32_t count)
{
	struct slot *slots = malloc(count * sizeof *slots);
	if (slots)
		memset(slots, 0xff, count * sizeof *slots);
	return slots;
}

static void put(struct slot *slots, uint32_t slot_mask, struct slot what)
{
	uint32_t at = what.tag & slot_mask;
	while (slots[at].rule != EMPTY)
		at = (at + 1) & slot_mask;
	slots[at] = what;
}

static int table_grow(struct table *table)
{
	const uint32_t mask = table->slot_mask * 2 + 1;
	struct slot *slots = empty_slots(mask + 1);
	if (!slots)
		return IPSF_ENOMEM;
	for (uint32_t i = 0; i <= table->slot_mask; i++) {
		if (table->slots[i].rule != EMPTY)
			put(slots, mask, table->slots[i]);
	}
	free(table->slots);
	table->slots = slots;
	table->slot_mask = mask;
	return IPSF_OK;
}

static int table_add(struct table *table, const struct rule *rules, uint32_t index)
{
	if (2 * (table->used + 1) > table->slot_mask && table_grow(table) != IPSF_OK)
		return IPSF_ENOMEM;
	put(table->slots, table->slot_mask, (struct slot){tag_of(table, &rules[index].first), index});
	table->used++;
	return IPSF_OK;
}

static int view_new_table(struct view *view, const struct tuple *tuple, uint32_t lowest, struct table **out)
{
	struct table *tables = realloc(view->tables, (view->n + 1) * sizeof *tables);
	if (!tables)
		return IPSF_ENOMEM;
	view->tables = tables;
	struct table *table = &tables[view->n];
	*table = (struct table){.mask = tuple_mask(tuple), .slot_mask = 7, .lowest = lowest, .tuple = *tuple};
	table->slots = empty_slots(8);
	if (!table->slots)
		return IPSF_ENOMEM;
	view->n++;
	*out = table;
	return IPSF_OK;
}

static bool same_addresses_and_protocol(const struct rule *a, const struct rule *b)
{
	const size_t addresses = 4 * sizeof(uint64_t);
	return a->protocol == b->protocol && memcmp(&a->first, &b->first, addresses) == 0 &&
	       memcmp(&a->last, &b->last, addresses) == 0;
}

/* How many rules share the hashed bits of rule index in this table; *twin: one of them has the same addresses and
 * protocol. */
static unsigned crowd(const struct table *table, const struct rule *rules, uint32_t index, bool *twin)
{
	const uint32_t tag = tag_of(table, &rules[index].first);
	unsigned n = 0;
	for (uint32_t at = tag & table->slot_mask; table->slots[at].rule != EMPTY; at = (at + 1) & table->slot_mask) {
		if (table->slots[at].tag != tag)
			continue;
		n++;
		*twin = *twin || same_addresses_and_protocol(&rules[table->slots[at].rule], &rules[index]);
	}
	return n;
}

static struct table *table_of_tuple(const struct view *view, const struct tuple *tuple)
{
	for (uint32_t i = 0; i < view->n; i++) {
		if (memcmp(&view->tables[i].tuple, tuple, sizeof *tuple) == 0)
			return &view->tables[i];
	}
	return NULL;
}

/* The least crowded table that may take the rule, if it isn't crowded; else one of a longer tuple, made if need be. */
static int choose_table(struct view *view, const struct rule *rules, uint32_t index, const struct tuple *natural,
			bool ipv6, struct table **out, bool *twin)
{
	unsigned least = CROWD_MAX;
	*out = NULL;
	for (uint32_t i = 0; i < view->n; i++) {
		struct table *table = &view->tables[i];
		const unsigned n = tuple_covers(&table->tuple, natural) ? crowd(table, rules, index, twin) : CROWD_MAX;
		if (n < least) {
			least = n;
			*out = table;
		}
	}
	if (*out)
		return IPSF_OK;
	const struct tuple relaxed = relaxed_tuple(*natural, ipv6);
	if (!table_of_tuple(view, &relaxed))
		return view_new_table(view, &relaxed, index, out);
	*out = table_of_tuple(view, natural);
	return *out ? IPSF_OK : view_new_table(view, natural, index, out);
}

/* Rules come in ascending order. A later fragment never reaches a rule that has an earlier twin, so that one is left
 * out. */
static int view_add(struct view *view, const struct rule *rules, uint32_t index, bool ipv6, bool fragments)
{
	const struct tuple natural = natural_tuple(&rules[index], ipv6, fragments);
	struct table *table;
	bool twin = false;
	const int status = choose_table(view, rules, index, &natural, ipv6, &table, &twin);
	if (status != IPSF_OK || (fragments && twin))
		return status;
	return table_add(table, rules, index);
}

/* ---- the snapshot ---- */

static int by_lowest(const void *a, const void *b)
{
	const uint32_t x = ((const struct table *)a)->lowest, y = ((const struct table *)b)->lowest;
	return (x > y) - (x < y);
}

static int build_view(struct ipsf_spd *spd, const struct ipsf_policy *policies, bool ipv6, bool fragments)
{
	struct view *view = &spd->view[ipv6][fragments];
	for (size_t i = 0; i < spd->n; i++) {
		if ((policies[i].source.first.version == 6) != ipv6)
			continue;
		if (view_add(view, spd->rules, (uint32_t)i, ipv6, fragments) != IPSF_OK)
			return IPSF_ENOMEM;
	}
	if (view->n)
		qsort(view->tables, view->n, sizeof *view->tables, by_lowest);
	return IPSF_OK;
}

static int build_views(struct ipsf_spd *spd, const struct ipsf_policy *policies)
{
	for (unsigned ipv6 = 0; ipv6 < 2; ipv6++) {
		for (unsigned fragments = 0; fragments <= spd->specific[ipv6]; fragments++) {
			if (build_view(spd, policies, ipv6, fragments) != IPSF_OK)
				return IPSF_ENOMEM;
		}
	}
	return IPSF_OK;
}

int ipsf_spd_compile(const struct ipsf_policy *policies, size_t n, struct ipsf_spd **out)
{
	static _Atomic uint64_t generations;
	if (n >= INT32_MAX)
		return IPSF_EINVAL;
	for (size_t i = 0; i < n; i++) {
		if (!policy_valid(&policies[i]))
			return IPSF_EINVAL;
	}
	struct ipsf_spd *spd = calloc(1, sizeof *spd);
	if (!spd || !(spd->rules = calloc(n ? n : 1, sizeof *spd->rules)))
		goto no_memory;
	spd->n = n;
	spd->generation = atomic_fetch_add(&generations, 1) + 1;
	for (size_t i = 0; i < n; i++) {
		rule_from(&policies[i], &spd->rules[i]);
		spd->specific[policies[i].source.first.version == 6] |= spd->rules[i].specific;
	}
	if (build_views(spd, policies) != IPSF_OK)
		goto no_memory;
	*out = spd;
	return IPSF_OK;
no_memory:
	ipsf_spd_free(spd);
	return IPSF_ENOMEM;
}

void ipsf_spd_free(struct ipsf_spd *spd)
{
	if (!spd)
		return;
	for (unsigned i = 0; i < 4; i++) {
		struct view *view = &spd->view[i / 2][i % 2];
		for (uint32_t t = 0; t < view->n; t++)
			free(view->tables[t].slots);
		free(view->tables);
	}
	free(spd->rules);
	free(spd);
}

size_t ipsf_spd_count(const struct ipsf_spd *spd)
{
	return spd->n;
}

uint64_t ipsf_spd_generation(const struct ipsf_spd *spd)
{
	return spd->generation;
}

/* ---- lookup ---- */

static uint32_t first_match(const struct rule *rules, const struct view *view, const struct key *key,
			    enum ipsf_ports ports)
{
	uint32_t best = EMPTY;
	for (uint32_t i = 0; i < view->n && view->tables[i].lowest < best; i++) {
		const struct table *table = &view->tables[i];
		const uint32_t tag = tag_of(table, key);
		for (uint32_t at = tag & table->slot_mask; table->slots[at].rule != EMPTY; at = (at + 1) & table->slot_mask) {
			const struct slot slot = table->slots[at];
			if (slot.tag == tag && slot.rule < best && rule_matches(&rules[slot.rule], key, ports))
				best = slot.rule;
		}
	}
	return best;
}

static uint8_t drop_of(const struct rule *rule, enum ipsf_ports ports)
{
	if (ports == IPSF_PORTS_HIDDEN && rule->specific)
		return IPSF_DROP_FRAGMENT;
	return rule->action == IPSF_DISCARD ? IPSF_DROP_POLICY_DISCARD : IPSF_DROP_NONE;
}

struct ipsf_decision ipsf_spd_lookup(const struct ipsf_spd *spd, const struct ipsf_flow *flow)
{
	const unsigned ipv6 = flow->version == 6;
	const enum ipsf_ports ports = flow->ports;
	const struct view *view = &spd->view[ipv6][ports == IPSF_PORTS_HIDDEN && spd->specific[ipv6]];
	const struct key key = {{ipsf_read64(flow->source), ipsf_read64(flow->source + 8), ipsf_read64(flow->destination),
				 ipsf_read64(flow->destination + 8),
				 rest_word(flow->protocol, flow->source_port, flow->destination_port)}};
	const uint32_t found = first_match(spd->rules, view, &key, ports);
	if (found == EMPTY)
		return (struct ipsf_decision){.index = -1, .action = IPSF_DISCARD, .drop = IPSF_DROP_NO_POLICY};
	const struct rule *rule = &spd->rules[found];
	return (struct ipsf_decision){.index = (int32_t)found, .reqid = rule->reqid, .action = rule->action,
				      .flags = rule->flags, .drop = drop_of(rule, ports)};
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
