/*
 * A policy as the compiled SPD has it, and the tuple that says how many leading bits of each field a table may hash.
 * Pure, immutable once a snapshot shows it.
 */
#ifndef IPSF_SPD_RULE_H
#define IPSF_SPD_RULE_H

#include "spd.h"

#define IPSF_RULE_WORDS 5 /* of a key: source (2), destination (2), protocol and ports */

struct ipsf_rule_key {
	uint64_t word[IPSF_RULE_WORDS];
};

struct ipsf_rule {
	struct ipsf_rule_key first, last; /* ranges; word 4 of both: protocol and ports, see ipsf_rest_word() */
	uint32_t reqid;
	uint8_t action, flags;
	uint8_t protocol;
	uint8_t specific;                 /* asks for ports */
	uint8_t known[2];                 /* 1: source, destination ports are a range that known ports can be in (not OPAQUE) */
	uint8_t ipv6;
	uint8_t hidden;                   /* stands for all specific rules of its addresses and protocol: what a later fragment meets */
};
static_assert(sizeof(struct ipsf_rule) == 96, "a rule is a line and a half");

/* Leading bits that count: source, destination, protocol, source port, destination port. */
struct ipsf_tuple {
	uint8_t bits[IPSF_RULE_WORDS];
};

void ipsf_rule_from(const struct ipsf_policy *policy, struct ipsf_rule *rule);
/* The rule of all specific rules that have rule's addresses and protocol. */
void ipsf_rule_hide_ports(const struct ipsf_rule *rule, struct ipsf_rule *hidden);
bool ipsf_rule_same_but_ports(const struct ipsf_rule *a, const struct ipsf_rule *b);
/* The longest tuple that the rule may stand under: the common prefix of each of its ranges. */
struct ipsf_tuple ipsf_tuple_of(const struct ipsf_rule *rule);
/* Rounded down, so that rules of nearly equal shape share a table. */
struct ipsf_tuple ipsf_tuple_relaxed(struct ipsf_tuple tuple, bool ipv6);
bool ipsf_tuple_covers(const struct ipsf_tuple *table, const struct ipsf_tuple *rule);
struct ipsf_rule_key ipsf_tuple_mask(const struct ipsf_tuple *tuple);

static inline uint64_t ipsf_rest_word(uint8_t protocol, uint16_t source_port, uint16_t destination_port)
{
	return (uint64_t)protocol << 32 | (uint64_t)source_port << 16 | destination_port;
}

static inline uint64_t ipsf_mix(uint64_t a, uint64_t b)
{
	const unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static inline uint64_t ipsf_hash_words(const uint64_t word[IPSF_RULE_WORDS], const uint64_t mask[IPSF_RULE_WORDS], uint64_t seed)
{
	uint64_t h = ipsf_mix((word[0] & mask[0]) ^ 0x9e3779b97f4a7c15u ^ seed, (word[1] & mask[1]) ^ 0xc2b2ae3d27d4eb4fu);
	h = ipsf_mix((word[2] & mask[2]) ^ h, (word[3] & mask[3]) ^ 0xd6e8feb86659fd93u);
	return ipsf_mix(h ^ 0xa0761d6478bd642fu, (word[4] & mask[4]) ^ 0xe7037ed1a0b428dbu ^ seed);
}

/* ---- does a rule match ---- */

static inline bool ipsf_rule_in_range(const uint64_t first[2], const uint64_t last[2], const uint64_t word[2])
{
	const bool below = word[0] < first[0] || (word[0] == first[0] && word[1] < first[1]);
	const bool above = word[0] > last[0] || (word[0] == last[0] && word[1] > last[1]);
	return !below && !above;
}

static inline bool ipsf_rule_has_port(const struct ipsf_rule *rule, const struct ipsf_rule_key *key, unsigned shift)
{
	const uint16_t port = (uint16_t)(key->word[4] >> shift);
	return port >= (uint16_t)(rule->first.word[4] >> shift) && port <= (uint16_t)(rule->last.word[4] >> shift);
}

static inline bool ipsf_rule_ports_match(const struct ipsf_rule *rule, const struct ipsf_rule_key *key, enum ipsf_ports ports)
{
	if (ports == IPSF_PORTS_HIDDEN)
		return true; /* ipsf_spd_lookup() looks at what won */
	if (ports == IPSF_PORTS_NONE)
		return !rule->specific;
	return rule->known[0] && rule->known[1] && ipsf_rule_has_port(rule, key, 16) && ipsf_rule_has_port(rule, key, 0);
}

static inline bool ipsf_rule_matches(const struct ipsf_rule *rule, const struct ipsf_rule_key *key, enum ipsf_ports ports)
{
	return ipsf_rule_in_range(rule->first.word, rule->last.word, key->word) &&
	       ipsf_rule_in_range(rule->first.word + 2, rule->last.word + 2, key->word + 2) &&
	       (rule->protocol == 0 || rule->protocol == (uint8_t)(key->word[4] >> 32)) &&
	       ipsf_rule_ports_match(rule, key, ports);
}

#endif
