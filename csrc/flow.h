/*
 * The flow of a packet, and a worker's memory of what the SPD said of it: a cache of exact flows in sets of two lines, the newer
 * one first. A cache belongs to one worker; its lines carry the snapshot's generation, so a new snapshot empties it at once.
 *
 * In line, for every packet passes here: a flow is made in registers and compared there. (Written bytewise and read in words it
 * would wait for the stores each time: more than the rest of the lookup.)
 */
#ifndef IPSF_FLOW_H
#define IPSF_FLOW_H

#include "ip.h"
#include "spd.h"

struct ipsf_flow_line {
	struct ipsf_flow flow;
	uint64_t generation;
	struct ipsf_decision decision;
};
static_assert(sizeof(struct ipsf_flow_line) == IPSF_CACHE_LINE, "a remembered flow is one cache line");

struct ipsf_flow_cache {
	uint64_t secret[3];
	size_t set_mask;
	struct ipsf_flow_line line[] __attribute__((aligned(IPSF_CACHE_LINE)));
};

/* A cache of 2 << size_log2 flows; seed: random, so that nobody outside can choose flows that collide. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_flow_cache_new(unsigned size_log2, uint64_t seed, struct ipsf_flow_cache **cache);
void ipsf_flow_cache_free(struct ipsf_flow_cache *cache);
/* The slow half of a lookup: the set's other line, or the snapshot; the flow stands first in its set then. */
struct ipsf_decision ipsf_flow_cache_miss(struct ipsf_flow_line *set, const struct ipsf_spd *spd, const struct ipsf_flow *flow);

/* A word whose first four bytes in memory are those at p, the others zero; likewise one made of a flow's last fields. */
static inline uint64_t ipsf_flow_half(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof v);
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : (uint64_t)v << 32;
}

static inline uint64_t ipsf_flow_rest(uint16_t source_port, uint16_t destination_port, uint8_t version, uint8_t protocol,
				      enum ipsf_ports ports)
{
	if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
		return source_port | (uint64_t)destination_port << 16 | (uint64_t)version << 32 | (uint64_t)protocol << 40 |
		       (uint64_t)ports << 48;
	return (uint64_t)source_port << 48 | (uint64_t)destination_port << 32 | (uint64_t)version << 24 | (uint64_t)protocol << 16 |
	       (uint64_t)ports << 8;
}

/* The flow of a parsed packet (ip.h). */
static inline void ipsf_flow_of(const struct ipsf_packet *packet, struct ipsf_flow *flow)
{
	const bool hidden = packet->flags & IPSF_PACKET_LATER_FRAGMENT;
	const enum ipsf_ports ports = hidden ? IPSF_PORTS_HIDDEN : ipsf_protocol_has_ports(packet->protocol) ? IPSF_PORTS_KNOWN :
													       IPSF_PORTS_NONE;
	const bool known = ports == IPSF_PORTS_KNOWN;
	if (IPSF_LIKELY(packet->version == 4)) {
		flow->word[0] = ipsf_flow_half(packet->data + 12);
		flow->word[2] = ipsf_flow_half(packet->data + 16);
		flow->word[1] = flow->word[3] = 0;
	} else {
		memcpy(flow->word, packet->data + 8, 4 * sizeof flow->word[0]);
	}
	flow->word[4] = ipsf_flow_rest(known ? packet->source_port : 0, known ? packet->destination_port : 0, packet->version,
				       packet->protocol, ports);
}

static inline uint64_t ipsf_flow_mix(uint64_t a, uint64_t b)
{
	const unsigned __int128 product = (unsigned __int128)a * b;
	return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/* IPv4 has two words less to say, and is most of what passes. */
static inline struct ipsf_flow_line *ipsf_flow_cache_set(struct ipsf_flow_cache *cache, const struct ipsf_flow *flow)
{
	const uint64_t *w = flow->word, *secret = cache->secret;
	uint64_t h;
	if (IPSF_LIKELY(flow->version == 4))
		h = w[0] ^ (w[2] << 32 | w[2] >> 32);
	else
		h = ipsf_flow_mix(w[0] ^ secret[1], w[2] ^ secret[2]) ^ ipsf_flow_mix(w[1] ^ secret[2], w[3] ^ secret[0]);
	return cache->line + 2 * (ipsf_flow_mix(h ^ secret[0], w[4] ^ secret[1]) & cache->set_mask);
}

static inline bool ipsf_flow_line_is(const struct ipsf_flow_line *line, const struct ipsf_flow *flow, uint64_t generation)
{
	const uint64_t *a = line->flow.word, *b = flow->word;
	const uint64_t differ = (a[0] ^ b[0]) | (a[2] ^ b[2]) | (a[4] ^ b[4]) | (line->generation ^ generation);
	return differ == 0 && (flow->version == 4 || ((a[1] ^ b[1]) | (a[3] ^ b[3])) == 0);
}

/* ipsf_spd_lookup(), remembered; generation is spd's. */
static inline struct ipsf_decision ipsf_flow_cache_lookup(struct ipsf_flow_cache *cache, const struct ipsf_spd *spd,
							   uint64_t generation, const struct ipsf_flow *flow)
{
	struct ipsf_flow_line *set = ipsf_flow_cache_set(cache, flow);
	if (IPSF_LIKELY(ipsf_flow_line_is(set, flow, generation)))
		return set->decision;
	return ipsf_flow_cache_miss(set, spd, flow);
}

#endif
