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

struct ipsf_decision ipsf_flow_cache_miss(struct ipsf_flow_line *set, const struct ipsf_spd *spd, const struct ipsf_flow *flow)
{
	const uint64_t generation = ipsf_spd_generation(spd);
	if (ipsf_flow_line_is(&set[1], flow, generation))
		return set[1].decision;
	set[1] = set[0];
	set[0].flow = *flow;
	set[0].generation = generation;
	set[0].decision = ipsf_spd_lookup(spd, flow);
	return set[0].decision;
}
