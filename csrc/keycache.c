#include "keycache.h"

#include <stdlib.h>

static_assert(IPSF_KEYCACHE_WAYS * sizeof(uint64_t) <= IPSF_CACHE_LINE, "the owners of a set lie in one line");

static size_t round_up(size_t bytes)
{
	return (bytes + IPSF_CACHE_LINE - 1) & ~(size_t)(IPSF_CACHE_LINE - 1);
}

static int cache_new(const struct ipsf_aead_engine *engine, uint32_t sets, uint32_t ways, unsigned max_workers,
		     struct ipsf_keycache **out)
{
	const size_t size = round_up(sizeof(struct ipsf_keycache) + max_workers * sizeof(struct ipsf_keycache_part));
	struct ipsf_keycache *cache = aligned_alloc(IPSF_CACHE_LINE, size);

	if (!cache)
		return IPSF_ENOMEM;
	memset(cache, 0, size);
	cache->engine = engine;
	cache->stride = round_up(engine->key_size);
	cache->sets = sets;
	cache->ways = ways;
	cache->max_workers = max_workers;
	*out = cache;
	return IPSF_OK;
}

int ipsf_keycache_new(const struct ipsf_aead_engine *engine, unsigned max_workers, struct ipsf_keycache **cache)
{
	return cache_new(engine, IPSF_KEYCACHE_SETS, IPSF_KEYCACHE_WAYS, max_workers, cache);
}

/* Zeroed memory that the kernel gives when it is used: calloc() of much of it asks for fresh pages. */
int ipsf_keycache_join(struct ipsf_keycache *cache)
{
	const size_t owners = round_up(cache->sets * IPSF_KEYCACHE_WAYS * sizeof(uint64_t));
	const size_t keys = (size_t)cache->sets * cache->ways * cache->stride;
	struct ipsf_keycache_part *part = &cache->part[cache->n_workers];
	uintptr_t first;

	if (cache->n_workers == cache->max_workers)
		return IPSF_EINVAL;
	part->memory = calloc(1, IPSF_CACHE_LINE + owners + keys);
	if (!part->memory)
		return IPSF_ENOMEM;
	first = round_up((uintptr_t)part->memory);
	part->owner = (_Atomic uint64_t *)first;
	part->keys = (uint8_t *)first + owners;
	cache->n_workers++;
	return IPSF_OK;
}

static void clear(struct ipsf_keycache *cache, unsigned worker, size_t at)
{
	cache->engine->key_clear(ipsf_keycache_entry(cache, worker, at));
	atomic_store_explicit(&cache->part[worker].owner[at], IPSF_KEY_NOBODY, memory_order_release);
}

void ipsf_keycache_free(struct ipsf_keycache *cache)
{
	if (!cache)
		return;
	for (unsigned worker = 0; worker < cache->n_workers; worker++) {
		for (size_t at = 0; at < (size_t)cache->sets * cache->ways; at++)
			if (atomic_load(&cache->part[worker].owner[at]) != IPSF_KEY_NOBODY)
				clear(cache, worker, at);
		free(cache->part[worker].memory);
	}
	free(cache);
}

void ipsf_key_init(struct ipsf_key *key, struct ipsf_keycache *cache, const uint8_t *bytes, size_t length)
{
	static _Atomic uint64_t ids = IPSF_KEY_CHANGING;

	key->cache = cache;
	key->id = atomic_fetch_add_explicit(&ids, 1, memory_order_relaxed) + 1;
	memcpy(key->bytes, bytes, length);
	key->length = (uint8_t)length;
	key->own = false;
}

static int make_own(struct ipsf_keycache *cache, unsigned n_workers)
{
	int error = IPSF_OK;

	while (!error && cache->n_workers < n_workers)
		error = ipsf_keycache_join(cache);
	return error;
}

int ipsf_key_init_own(struct ipsf_key *key, const struct ipsf_aead_engine *engine, unsigned n_workers, const uint8_t *bytes,
		      size_t length)
{
	struct ipsf_keycache *cache;
	int error;

	if (!n_workers || n_workers > IPSF_MAX_WORKERS || length > sizeof key->bytes)
		return IPSF_EINVAL;
	error = cache_new(engine, 1, 1, n_workers, &cache);
	if (error)
		return error;
	error = make_own(cache, n_workers);
	if (error) {
		ipsf_keycache_free(cache);
		return error;
	}
	ipsf_key_init(key, cache, bytes, length);
	key->own = true;
	if (ipsf_key_get(key, 0))
		return IPSF_OK;
	ipsf_key_fini(key);
	return IPSF_ECRYPTO;
}

/* One that its worker is just giving to another key is not the id's any more: that one's expansion overwrites it. */
static void forget(struct ipsf_keycache *cache, unsigned worker, uint64_t id)
{
	const size_t first = ipsf_keycache_set(cache, id);

	for (unsigned way = 0; way < cache->ways; way++) {
		uint64_t owner = id;

		if (atomic_compare_exchange_strong(&cache->part[worker].owner[first + way], &owner, IPSF_KEY_CHANGING))
			clear(cache, worker, first + way);
	}
}

void ipsf_key_fini(struct ipsf_key *key)
{
	if (!key->cache)
		return;
	if (key->own)
		ipsf_keycache_free(key->cache);
	for (unsigned worker = 0; !key->own && worker < key->cache->n_workers; worker++)
		forget(key->cache, worker, key->id);
	ipsf_wipe(key, sizeof *key);
}

/* An entry of the set that nobody else looks at: an empty one, else one that gives way. The control thread wipes one at a time. */
static size_t claim(const struct ipsf_keycache *cache, struct ipsf_keycache_part *part, size_t first, uint64_t id)
{
	for (unsigned turn = 0; turn < cache->ways; turn++) {
		const size_t at = first + ipsf_keycache_way(cache, id, turn);
		uint64_t owner = IPSF_KEY_NOBODY;

		if (atomic_compare_exchange_strong(&part->owner[at], &owner, IPSF_KEY_CHANGING))
			return at;
	}
	for (;;) {
		const size_t at = first + part->hand++ % cache->ways;
		uint64_t owner = atomic_load(&part->owner[at]);

		if (owner != IPSF_KEY_CHANGING && atomic_compare_exchange_strong(&part->owner[at], &owner, IPSF_KEY_CHANGING))
			return at;
	}
}

struct ipsf_aead_key *ipsf_key_expand(const struct ipsf_key *key, unsigned worker, size_t first)
{
	struct ipsf_keycache *cache = key->cache;
	struct ipsf_keycache_part *part = &cache->part[worker];
	const size_t at = claim(cache, part, first, key->id);
	struct ipsf_aead_key *expanded = ipsf_keycache_entry(cache, worker, at);

	if (cache->engine->key_set(expanded, key->bytes, key->length) != IPSF_OK) {
		clear(cache, worker, at);
		return NULL;
	}
	atomic_store_explicit(&part->owner[at], key->id, memory_order_release);
	return expanded;
}
