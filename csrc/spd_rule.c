#include "spd_rule.h"

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

size_t ipsf_policies_valid(const struct ipsf_policy *policies, size_t n)
{
	size_t i = 0;
	while (i < n && policy_valid(&policies[i]))
		i++;
	return i;
}

void ipsf_rule_from(const struct ipsf_policy *policy, struct ipsf_rule *rule)
{
	const struct ipsf_selector *s = &policy->source, *d = &policy->destination;
	const uint8_t protocol = s->protocol ? s->protocol : d->protocol;
	memset(rule, 0, sizeof *rule);
	address_words(&s->first, rule->first.word);
	address_words(&s->last, rule->last.word);
	address_words(&d->first, rule->first.word + 2);
	address_words(&d->last, rule->last.word + 2);
	rule->first.word[4] = ipsf_rest_word(protocol, s->port_first, d->port_first);
	rule->last.word[4] = ipsf_rest_word(protocol, s->port_last, d->port_last);
	rule->protocol = protocol;
	rule->specific = !(ports_any(s) || ports_opaque(s)) || !(ports_any(d) || ports_opaque(d));
	rule->known[0] = !ports_opaque(s);
	rule->known[1] = !ports_opaque(d);
	rule->ipv6 = s->first.version == 6;
	rule->reqid = policy->reqid;
	rule->action = policy->action;
	rule->flags = policy->flags;
}

void ipsf_rule_hide_ports(const struct ipsf_rule *rule, struct ipsf_rule *hidden)
{
	*hidden = (struct ipsf_rule){.first = rule->first, .last = rule->last, .protocol = rule->protocol, .specific = 1,
				     .ipv6 = rule->ipv6, .hidden = 1, .action = IPSF_DISCARD};
	hidden->first.word[4] = ipsf_rest_word(rule->protocol, 0, 0);
	hidden->last.word[4] = ipsf_rest_word(rule->protocol, UINT16_MAX, UINT16_MAX);
}

bool ipsf_rule_same_but_ports(const struct ipsf_rule *a, const struct ipsf_rule *b)
{
	const size_t addresses = 4 * sizeof(uint64_t);
	return a->protocol == b->protocol && memcmp(&a->first, &b->first, addresses) == 0 &&
	       memcmp(&a->last, &b->last, addresses) == 0;
}

/* ---- tuples ---- */

static uint8_t common_bits(const uint64_t a[2], const uint64_t b[2])
{
	if (a[0] != b[0])
		return (uint8_t)__builtin_clzll(a[0] ^ b[0]);
	return a[1] != b[1] ? (uint8_t)(64 + __builtin_clzll(a[1] ^ b[1])) : 128;
}

static uint8_t common_port_bits(const struct ipsf_rule *rule, unsigned which)
{
	const unsigned shift = which == 0 ? 16 : 0;
	const uint16_t differ = (uint16_t)((rule->first.word[4] ^ rule->last.word[4]) >> shift);
	if (!rule->known[which])
		return 0;
	return differ ? (uint8_t)(__builtin_clz(differ) - 16) : 16;
}

/* An IPv4 address has 32 bits, whatever stands behind them. */
struct ipsf_tuple ipsf_tuple_of(const struct ipsf_rule *rule)
{
	const uint8_t longest = rule->ipv6 ? 128 : 32;
	const uint8_t source = common_bits(rule->first.word, rule->last.word);
	const uint8_t destination = common_bits(rule->first.word + 2, rule->last.word + 2);
	return (struct ipsf_tuple){{source < longest ? source : longest, destination < longest ? destination : longest,
				    rule->protocol ? 8 : 0, common_port_bits(rule, 0), common_port_bits(rule, 1)}};
}

struct ipsf_tuple ipsf_tuple_relaxed(struct ipsf_tuple tuple, bool ipv6)
{
	const uint8_t step = ipv6 ? 16 : 8;
	tuple.bits[0] = (uint8_t)(tuple.bits[0] - tuple.bits[0] % step);
	tuple.bits[1] = (uint8_t)(tuple.bits[1] - tuple.bits[1] % step);
	tuple.bits[3] = tuple.bits[3] == 16 ? 16 : 0;
	tuple.bits[4] = tuple.bits[4] == 16 ? 16 : 0;
	return tuple;
}

bool ipsf_tuple_covers(const struct ipsf_tuple *table, const struct ipsf_tuple *rule)
{
	for (unsigned i = 0; i < IPSF_RULE_WORDS; i++) {
		if (table->bits[i] > rule->bits[i])
			return false;
	}
	return true;
}

static uint64_t top_bits(unsigned bits)
{
	return bits == 0 ? 0 : bits >= 64 ? UINT64_MAX : ~(UINT64_MAX >> bits);
}

struct ipsf_rule_key ipsf_tuple_mask(const struct ipsf_tuple *tuple)
{
	const unsigned s = tuple->bits[0], d = tuple->bits[1];
	const uint64_t source_port = 0xffffu & ~(0xffffu >> tuple->bits[3]);
	const uint64_t destination_port = 0xffffu & ~(0xffffu >> tuple->bits[4]);
	const uint64_t protocol = tuple->bits[2] ? 0xffu : 0;
	return (struct ipsf_rule_key){{top_bits(s), s > 64 ? top_bits(s - 64) : 0, top_bits(d), d > 64 ? top_bits(d - 64) : 0,
				       protocol << 32 | source_port << 16 | destination_port}};
}
