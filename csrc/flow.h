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
	uint64_t key[5]; /* the flow's words in another order: (both addresses, rest), or (source, rest, source, destination, destination) */
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

/* A word whose first four bytes in memory are those at p, the others zero; likewise one made of a flow's last fields. */
static inline uint64_t ipsf_flow_half(const uint8_t *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof v);
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v : (uint64_t)v << 32;
}

static inline uint64_t ipsf_flow_rest(uint32_t ports, uint8_t version, uint8_t protocol, enum ipsf_ports kind)
{
	if (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__)
		return ports | (uint64_t)version << 32 | (uint64_t)protocol << 40 | (uint64_t)kind << 48;
	return (uint64_t)ports << 32 | (uint64_t)version << 24 | (uint64_t)protocol << 16 | (uint64_t)kind << 8;
}

/* The flow of a parsed packet (ip.h). */
static inline void ipsf_flow_of(const struct ipsf_packet *packet, struct ipsf_flow *flow)
{
	const bool hidden = packet->flags & IPSF_PACKET_LATER_FRAGMENT;
	const enum ipsf_ports kind = hidden ? IPSF_PORTS_HIDDEN : ipsf_protocol_has_ports(packet->protocol) ? IPSF_PORTS_KNOWN :
													      IPSF_PORTS_NONE;
	if (IPSF_LIKELY(packet->version == 4)) {
		flow->word[0] = ipsf_flow_half(packet->data + 12);
		flow->word[2] = ipsf_flow_half(packet->data + 16);
		flow->word[1] = flow->word[3] = 0;
	} else {
		memcpy(flow->word, packet->data + 8, 4 * sizeof flow->word[0]);
	}
	flow->word[4] = ipsf_flow_rest(kind == IPSF_PORTS_KNOWN ? packet->ports : 0, packet->version, packet->protocol, kind);
}

/* The low bits of the upper half depend on every bit of both. */
static inline uint64_t ipsf_flow_mix(uint64_t a, uint64_t b)
{
	return (uint64_t)(((unsigned __int128)a * b) >> 64);
}

static inline struct ipsf_flow_line *ipsf_flow_cache_set(struct ipsf_flow_cache *cache, uint64_t addresses, uint64_t rest)
{
	return cache->line + 2 * (ipsf_flow_mix(addresses ^ cache->secret[0], rest ^ cache->secret[1]) & cache->set_mask);
}

/* What stands first in its set, where mostly an IPv4 flow with known ports is; NULL: it is another, or of another snapshot. */
static inline const struct ipsf_decision *ipsf_flow_cache_peek(struct ipsf_flow_cache *cache, uint64_t generation, uint64_t addresses,
								uint64_t rest)
{
	const struct ipsf_flow_line *line = ipsf_flow_cache_set(cache, addresses, rest);
	if (IPSF_LIKELY(line->key[0] == addresses && line->key[1] == rest && line->generation == generation))
		return &line->decision;
	return NULL;
}

/* ipsf_spd_lookup(), remembered; generation is spd's. Valid until the next lookup. */
const struct ipsf_decision *ipsf_flow_cache_lookup(struct ipsf_flow_cache *cache, const struct ipsf_spd *spd, uint64_t generation,
						   const struct ipsf_flow *flow);

/* The same of a packet that ipsf_ip_parse_plain() has read: IPv4, with ports. Mostly its flow stands first in its set. */
static inline const struct ipsf_decision *ipsf_flow_cache_lookup_plain(struct ipsf_flow_cache *cache, const struct ipsf_spd *spd,
									uint64_t generation, const struct ipsf_packet *packet)
{
	uint64_t addresses;
	memcpy(&addresses, packet->data + 12, sizeof addresses);
	const uint64_t rest = ipsf_flow_rest(packet->ports, 4, packet->protocol, IPSF_PORTS_KNOWN);
	const struct ipsf_decision *decision = ipsf_flow_cache_peek(cache, generation, addresses, rest);
	if (IPSF_LIKELY(decision))
		return decision;
	struct ipsf_flow flow;
	ipsf_flow_of(packet, &flow);
	return ipsf_flow_cache_lookup(cache, spd, generation, &flow);
}

#endif
