#include "flow.h"

#include <stdlib.h>

int ipsf_flow_cache_new(unsigned size_log2, uint64_t seed, struct ipsf_flow_cache **out)
{
	const size_t sets = (size_t)1 << size_log2;
	const size_t size = sizeof(struct ipsf_flow_cache) + 2 * sets * sizeof(struct ipsf_flow_line);
	struct ipsf_flow_cache *cache = aligned_alloc(IPSF_CACHE_LINE, size);
	if (!cache)
		return IPSF_ENOMEM;
	memset(cache, 0, size);
	for (unsigned i = 0; i < 3; i++) {
		seed = ipsf_flow_mix(seed ^ 0x9e3779b97f4a7c15u, 0xd6e8feb86659fd93u + i);
		cache->secret[i] = seed;
	}
	cache->set_mask = sets - 1;
	*out = cache;
	return IPSF_OK;
}

void ipsf_flow_cache_free(struct ipsf_flow_cache *cache)
{
	free(cache);
}

/* IPv4 has few words to say: its addresses become one. The version in the rest tells which form it is. */
static void make_key(const struct ipsf_flow *flow, uint64_t key[5])
{
	memset(key, 0, 5 * sizeof *key);
	key[1] = flow->word[4];
	if (flow->version == 4) {
		memcpy(key, flow->source, 4);
		memcpy((uint8_t *)key + 4, flow->destination, 4);
	} else {
		key[0] = flow->word[0];
		memcpy(key + 2, flow->word + 1, 3 * sizeof *key);
	}
}

static struct ipsf_flow_line *set_of(struct ipsf_flow_cache *cache, const struct ipsf_flow *flow, const uint64_t key[5])
{
	const uint64_t *secret = cache->secret;
	uint64_t addresses = key[0];
	if (flow->version != 4)
		addresses = ipsf_flow_mix(key[0] ^ secret[1], key[3] ^ secret[2]) ^ ipsf_flow_mix(key[2] ^ secret[2], key[4] ^ secret[0]);
	return ipsf_flow_cache_set(cache, addresses, key[1]);
}

static bool is(const struct ipsf_flow_line *line, const uint64_t key[5], uint64_t generation)
{
	uint64_t differ = line->generation ^ generation;
	for (unsigned i = 0; i < 5; i++)
		differ |= line->key[i] ^ key[i];
	return differ == 0;
}

/* The newer line of a set stands first. */
const struct ipsf_decision *ipsf_flow_cache_lookup(struct ipsf_flow_cache *cache, const struct ipsf_spd *spd, uint64_t generation,
						   const struct ipsf_flow *flow)
{
	uint64_t key[5];
	make_key(flow, key);
	struct ipsf_flow_line *set = set_of(cache, flow, key);
	for (unsigned i = 0; i < 2; i++)
		if (is(&set[i], key, generation))
			return &set[i].decision;
	set[1] = set[0];
	memcpy(set[0].key, key, sizeof key);
	set[0].generation = generation;
	set[0].decision = ipsf_spd_lookup(spd, flow);
	return &set[0].decision;
}
