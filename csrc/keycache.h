/*
 * Expanded keys. An SA keeps its AES key, 16 to 32 bytes; what the engine makes of it (ipsec-mb 1 KiB, OpenSSL a context of about as
 * much) stands in a cache of each worker, so that 100,000 SAs need no 100,000 of them.
 *
 * A worker's part has IPSF_KEYCACHE_SETS sets of IPSF_KEYCACHE_WAYS entries: 4,096 keys, with either engine some 4 MB at most, of which
 * the kernel gives what is used. An entry's owner word says whose key it is. The worker fills: CAS to CHANGING, expand, store the id.
 * The control thread, freeing an SA when no worker uses it any more (epoch.h), wipes: CAS from its id to CHANGING, clear, store NOBODY.
 * So no expanded key outlives its SA, and no worker waits: who meets CHANGING takes another entry of the set.
 */
#ifndef IPSF_KEYCACHE_H
#define IPSF_KEYCACHE_H

#include <stdatomic.h>

#include "aead.h"

#define IPSF_KEYCACHE_SETS 1024u /* a power of two */
#define IPSF_KEYCACHE_WAYS 4u
#define IPSF_KEY_NOBODY 0u
#define IPSF_KEY_CHANGING 1u    /* ids begin behind it */

/* One worker's; the array of a set's owners lies in one cache line. */
struct ipsf_keycache_part {
	_Atomic uint64_t *owner __attribute__((aligned(IPSF_CACHE_LINE))); /* of each entry: an id, or one of the two above */
	uint8_t *keys;   /* stride bytes an entry */
	void *memory;    /* in which both stand */
	unsigned hand;   /* which entry of a full set gives way next */
};

struct ipsf_keycache {
	const struct ipsf_aead_engine *engine;
	size_t stride;
	uint32_t sets, ways; /* powers of two */
	unsigned n_workers, max_workers;
	struct ipsf_keycache_part part[];
};

/* An SA's key. */
struct ipsf_key {
	struct ipsf_keycache *cache;
	uint64_t id;      /* unique in the process */
	uint8_t bytes[32];
	uint8_t length;
	bool own;         /* the cache is this key's alone */
};

/* A cache for up to max_workers; none yet. IPSF_ENOMEM. It must outlive the keys that use it. */
IPSF_MUST_CHECK int ipsf_keycache_new(const struct ipsf_aead_engine *engine, unsigned max_workers, struct ipsf_keycache **cache);
/* A part for the next worker, before any key uses the cache. IPSF_EINVAL: there are max_workers. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_keycache_join(struct ipsf_keycache *cache);
/* Wipes what is left. No worker runs any more. */
void ipsf_keycache_free(struct ipsf_keycache *cache);

/* Copies the bytes (length <= 32). Nothing is expanded before it is used. */
void ipsf_key_init(struct ipsf_key *key, struct ipsf_keycache *cache, const uint8_t *bytes, size_t length);
/*
 * A key that brings a cache of its own, with one entry for each of n_workers; it is expanded for the first, so that what the engine
 * refuses is refused here. IPSF_EINVAL, IPSF_ENOMEM, IPSF_ECRYPTO; then there is nothing to free.
 */
IPSF_MUST_CHECK int ipsf_key_init_own(struct ipsf_key *key, const struct ipsf_aead_engine *engine, unsigned n_workers,
				      const uint8_t *bytes, size_t length);
/* Control thread, when no worker uses the key any more: wipes it wherever it is. A zeroed key is none. */
void ipsf_key_fini(struct ipsf_key *key);

/* The way of a miss. */
struct ipsf_aead_key *ipsf_key_expand(const struct ipsf_key *key, unsigned worker, size_t first);

static inline struct ipsf_aead_key *ipsf_keycache_entry(const struct ipsf_keycache *cache, unsigned worker, size_t at)
{
	return (struct ipsf_aead_key *)(void *)(cache->part[worker].keys + at * cache->stride);
}

/* The first entry of the set where a key's expansion may stand; ids follow each other, but of two keys often one alone is used here. */
static inline size_t ipsf_keycache_set(const struct ipsf_keycache *cache, uint64_t id)
{
	return (size_t)((uint32_t)(id * 0x9e3779b97f4a7c15u >> 32) & (cache->sets - 1)) * IPSF_KEYCACHE_WAYS;
}

/*
 * The ways of a set are tried from another one for each id: the first guess is mostly right, and a set is 4 KiB: keys that all stood at
 * its start would contend for the same lines of the L1 cache.
 */
static inline unsigned ipsf_keycache_way(const struct ipsf_keycache *cache, uint64_t id, unsigned turn)
{
	return (unsigned)(id + turn) & (cache->ways - 1);
}

/* The expanded key, the worker's until it asks for the next; once for a run of packets. NULL: the engine refused, or no memory. */
static inline struct ipsf_aead_key *ipsf_key_get(const struct ipsf_key *key, unsigned worker)
{
	const struct ipsf_keycache *cache = key->cache;
	const size_t first = ipsf_keycache_set(cache, key->id);

	for (unsigned turn = 0; turn < cache->ways; turn++) {
		const size_t at = first + ipsf_keycache_way(cache, key->id, turn);

		if (IPSF_LIKELY(atomic_load_explicit(&cache->part[worker].owner[at], memory_order_relaxed) == key->id))
			return ipsf_keycache_entry(cache, worker, at); /* this worker stored the id */
	}
	return ipsf_key_expand(key, worker, first);
}

static inline bool ipsf_key_refuse(struct ipsf_aead_op *ops, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		ops[i].ok = 0;
	return false;
}

/* Seal and open a run (aead.h); without a key nothing is ok. */
static inline bool ipsf_key_seal(const struct ipsf_key *key, unsigned worker, struct ipsf_aead_op *ops, unsigned n)
{
	struct ipsf_aead_key *expanded = ipsf_key_get(key, worker);

	return IPSF_LIKELY(expanded) ? key->cache->engine->seal(expanded, ops, n) : ipsf_key_refuse(ops, n);
}

static inline bool ipsf_key_open(const struct ipsf_key *key, unsigned worker, struct ipsf_aead_op *ops, unsigned n)
{
	struct ipsf_aead_key *expanded = ipsf_key_get(key, worker);

	return IPSF_LIKELY(expanded) ? key->cache->engine->open(expanded, ops, n) : ipsf_key_refuse(ops, n);
}

#endif
