/*
 * The cache of expanded keys: what it gives seals as a key of its own does, however many SAs share it; nothing of a key is left in
 * memory when its SA is gone; workers that use SAs which come and go never meet another's key.
 *
 * An engine of the test's own shows what is in an entry. OpenSSL's contexts lie in its heap: there the test is the allocator, which
 * keeps everything, so that what was freed can be looked at.
 */
#define _GNU_SOURCE
#include <openssl/crypto.h>
#include <pthread.h>
#include <sched.h>

#include "esp_pair.h"

static bool contains(const void *memory, size_t size, const uint8_t *bytes, size_t n)
{
	return memmem(memory, size, bytes, n) != NULL;
}

/* ---- OpenSSL's memory: nothing is given back before the end ---- */

struct block {
	struct block *next;
	size_t size;
	_Alignas(16) uint8_t bytes[];
};

static struct block *blocks;
static pthread_mutex_t blocks_lock = PTHREAD_MUTEX_INITIALIZER;

static void *keep_malloc(size_t size, const char *file, int line)
{
	struct block *block = calloc(1, sizeof *block + size);

	(void)file, (void)line;
	if (!block)
		return NULL;
	block->size = size;
	pthread_mutex_lock(&blocks_lock);
	block->next = blocks;
	blocks = block;
	pthread_mutex_unlock(&blocks_lock);
	return block->bytes;
}

static void *keep_realloc(void *old, size_t size, const char *file, int line)
{
	uint8_t *fresh = keep_malloc(size, file, line);

	if (old && fresh) {
		const struct block *block = (const struct block *)(void *)((uint8_t *)old - offsetof(struct block, bytes));

		memcpy(fresh, old, block->size < size ? block->size : size);
	}
	return fresh;
}

static void keep_free(void *what, const char *file, int line)
{
	(void)what, (void)file, (void)line;
}

static bool in_openssl(const uint8_t *bytes, size_t n)
{
	bool found = false;

	pthread_mutex_lock(&blocks_lock);
	for (const struct block *block = blocks; block && !found; block = block->next)
		found = contains(block->bytes, block->size, bytes, n);
	pthread_mutex_unlock(&blocks_lock);
	return found;
}

/* ---- an engine whose expanded key is the key, four times; it seals by writing down whose key it was given ---- */

struct ipsf_aead_key {
	uint8_t bytes[32];
	size_t length;
	uint8_t copies[96];
};

static bool refuse_next;

static int plain_set(struct ipsf_aead_key *key, const uint8_t *bytes, size_t length)
{
	if (refuse_next)
		return IPSF_ECRYPTO;
	memset(key, 0, sizeof *key);
	memcpy(key->bytes, bytes, length);
	for (unsigned i = 0; i < 3; i++)
		memcpy(key->copies + 32 * i, bytes, length);
	key->length = length;
	return IPSF_OK;
}

static void plain_clear(struct ipsf_aead_key *key)
{
	ipsf_wipe(key, sizeof *key);
}

static bool plain_seal(struct ipsf_aead_key *key, struct ipsf_aead_op *ops, unsigned n)
{
	bool all = true;

	for (unsigned i = 0; i < n; i++) {
		memcpy(ops[i].icv, key->bytes, IPSF_ICV_SIZE);
		ops[i].ok = memcmp(key->bytes, key->copies, sizeof key->bytes) == 0;
		all &= ops[i].ok;
	}
	return all;
}

static const struct ipsf_aead_engine plain = {.name = "plain", .key_size = sizeof(struct ipsf_aead_key), .key_set = plain_set,
					      .key_clear = plain_clear, .seal = plain_seal, .open = plain_seal};

/* ---- */

static struct ipsf_keycache *cache_of(const struct ipsf_aead_engine *engine, unsigned n_workers)
{
	struct ipsf_keycache *cache = NULL;

	CHECK(ipsf_keycache_new(engine, n_workers, &cache) == IPSF_OK);
	for (unsigned i = 0; i < n_workers; i++)
		CHECK(ipsf_keycache_join(cache) == IPSF_OK);
	CHECK(ipsf_keycache_join(cache) == IPSF_EINVAL);
	return cache;
}

static bool in_cache(const struct ipsf_keycache *cache, const uint8_t *bytes, size_t n)
{
	const size_t entries = (size_t)cache->sets * cache->ways;

	for (unsigned worker = 0; worker < cache->n_workers; worker++)
		if (contains(cache->part[worker].keys, entries * cache->stride, bytes, n))
			return true;
	return false;
}

static size_t used(const struct ipsf_keycache *cache)
{
	size_t n = 0;

	for (unsigned worker = 0; worker < cache->n_workers; worker++)
		for (size_t at = 0; at < (size_t)cache->sets * cache->ways; at++)
			n += cache->part[worker].owner[at] != IPSF_KEY_NOBODY;
	return n;
}

/* Key bytes that nothing else in memory has. */
static size_t random_key(uint8_t bytes[32], uint64_t *seed)
{
	for (unsigned i = 0; i < 32; i++)
		bytes[i] = (uint8_t)test_random(seed);
	return 16 + test_random(seed) % 3 * 8;
}

/* What an op becomes: text and ICV. */
static void seal_with(const struct ipsf_key *key, unsigned worker, uint8_t text[64])
{
	struct ipsf_aead_op op = {.source = text, .destination = text, .icv = text + 48, .length = 48, .aad_length = 8,
				  .nonce = {1, 2, 3}};

	for (unsigned i = 0; i < 48; i++)
		text[i] = (uint8_t)i;
	ipsf_key_seal(key, worker, &op, 1);
	CHECK(op.ok == 1);
}

/* More keys than there are entries, of all lengths, in any order: as a key of its own seals. */
static void seals_as_alone(const struct ipsf_aead_engine *engine)
{
	enum { KEYS = 6000 };
	static struct ipsf_key key[KEYS];
	static uint8_t expected[KEYS][64];
	struct ipsf_keycache *cache = cache_of(engine, 2);
	uint64_t seed = 3;
	uint8_t bytes[32], text[64];

	for (unsigned i = 0; i < KEYS; i++) {
		const size_t length = random_key(bytes, &seed);
		struct ipsf_key own;

		CHECK(ipsf_key_init_own(&own, engine, 1, bytes, length) == IPSF_OK);
		seal_with(&own, 0, expected[i]);
		ipsf_key_fini(&own);
		ipsf_key_init(&key[i], cache, bytes, length);
		CHECK(i == 0 || key[i].id > key[i - 1].id);
	}
	for (unsigned i = 0; i < 40000; i++) {
		const unsigned k = (unsigned)(test_random(&seed) % (i % 3 ? KEYS : 100));

		seal_with(&key[k], i & 1, text);
		CHECK(memcmp(text, expected[k], sizeof text) == 0);
	}
	CHECK(used(cache) > IPSF_KEYCACHE_SETS * IPSF_KEYCACHE_WAYS && used(cache) <= 2 * IPSF_KEYCACHE_SETS * IPSF_KEYCACHE_WAYS);
	for (unsigned i = 0; i < KEYS; i++)
		ipsf_key_fini(&key[i]);
	CHECK(used(cache) == 0);
	ipsf_keycache_free(cache);
}

static unsigned held(const struct ipsf_keycache *cache, const struct ipsf_key *key, unsigned n, unsigned *missing)
{
	unsigned some = 0;

	for (unsigned i = 0; i < n; i++) {
		const bool here = in_cache(cache, key[i].bytes, 16);

		*missing = here ? *missing : i;
		some += here;
	}
	return some;
}

/* An SA that is used again and again is expanded once; another of a full set gives way. */
static void keeps_what_fits(void)
{
	struct ipsf_keycache *cache = cache_of(&plain, 1);
	struct ipsf_key key[1 + IPSF_KEYCACHE_WAYS];
	uint64_t seed = 8;
	uint8_t bytes[32];
	unsigned n = 0, missing = 0;

	while (n < 1 + IPSF_KEYCACHE_WAYS) { /* all of one set */
		ipsf_key_init(&key[n], cache, bytes, random_key(bytes, &seed));
		n += ipsf_keycache_set(cache, key[n].id) == ipsf_keycache_set(cache, key[0].id);
	}
	for (unsigned i = 0; i < IPSF_KEYCACHE_WAYS; i++)
		CHECK(ipsf_key_get(&key[i], 0) && used(cache) == i + 1);
	for (unsigned i = 0; i < IPSF_KEYCACHE_WAYS; i++)
		CHECK(ipsf_key_get(&key[i], 0) == ipsf_key_get(&key[i], 0) && used(cache) == IPSF_KEYCACHE_WAYS);
	CHECK(ipsf_key_get(&key[n - 1], 0) && used(cache) == IPSF_KEYCACHE_WAYS);
	CHECK(held(cache, key, n, &missing) == IPSF_KEYCACHE_WAYS && missing < n - 1);
	refuse_next = true;
	CHECK(!ipsf_key_get(&key[missing], 0) && used(cache) == IPSF_KEYCACHE_WAYS - 1);
	refuse_next = false;
	CHECK(ipsf_key_get(&key[missing], 0) && used(cache) == IPSF_KEYCACHE_WAYS);
	for (unsigned i = 0; i < n; i++)
		ipsf_key_fini(&key[i]);
	CHECK(used(cache) == 0);
	ipsf_keycache_free(cache);
}

/* After the SA is freed its key is nowhere, in no worker's part and not in the SA's memory; others' keys stay. */
static void nothing_is_left(const struct ipsf_aead_engine *engine, bool visible)
{
	struct ipsf_keycache *cache = cache_of(engine, 3);
	uint64_t seed = 77;
	uint8_t bytes[32], other_bytes[32], text[64];

	for (unsigned round = 0; round < 16; round++) {
		struct ipsf_key key, other;
		const size_t length = random_key(bytes, &seed);

		ipsf_key_init(&key, cache, bytes, length);
		ipsf_key_init(&other, cache, other_bytes, random_key(other_bytes, &seed));
		for (unsigned worker = 0; worker < 3; worker++) {
			if (round & 1u << worker)
				continue;
			seal_with(&key, worker, text);
			seal_with(&other, worker, text);
		}
		CHECK(!visible || round % 8 == 7 || in_cache(cache, bytes, 16));
		ipsf_key_fini(&key);
		CHECK(!in_cache(cache, bytes, 8) && !in_cache(cache, bytes + 8, 8) && !in_openssl(bytes, 8));
		CHECK(!contains(&key, sizeof key, bytes, 8));
		CHECK(!visible || round % 8 == 7 || in_cache(cache, other_bytes, 16));
		ipsf_key_fini(&other);
	}
	CHECK(used(cache) == 0);
	ipsf_keycache_free(cache);
}

/* An entry that goes from one key to the next has nothing of the first, be it longer. */
static void next_key_overwrites(const struct ipsf_aead_engine *engine)
{
	_Alignas(IPSF_CACHE_LINE) static uint8_t memory[4096], fresh[4096];
	struct ipsf_aead_key *key = (struct ipsf_aead_key *)(void *)memory, *alone = (struct ipsf_aead_key *)(void *)fresh;
	uint64_t seed = 5;
	uint8_t bytes[32], last[32];
	size_t length = random_key(last, &seed);

	CHECK(engine->key_size <= sizeof memory && engine->key_set(key, last, length) == IPSF_OK);
	for (unsigned round = 0; round < 50; round++) {
		length = random_key(bytes, &seed);
		CHECK(engine->key_set(key, bytes, length) == IPSF_OK);
		CHECK(!contains(memory, sizeof memory, last, 8) && !in_openssl(last, 8));
		CHECK(engine->key_set(alone, bytes, length) == IPSF_OK);
		CHECK(strcmp(engine->name, "openssl") == 0 || memcmp(memory, fresh, sizeof memory) == 0);
		engine->key_clear(alone);
		memcpy(last, bytes, sizeof last);
	}
	engine->key_clear(key);
	CHECK(!in_openssl(last, 8));
	for (size_t i = 0; i < sizeof memory; i++)
		CHECK(memory[i] == 0 && fresh[i] == 0);
}

/* ---- workers that use SAs while the control thread replaces them: an epoch is a lap of all of them ---- */

enum { WORKERS = 3, LIVE = 40, LAPS = 150 };

struct site {
	struct ipsf_keycache *cache;
	_Atomic(struct ipsf_key *) live[LIVE];
	_Atomic uint64_t lap[WORKERS];
	_Atomic bool stop;
};

struct one {
	struct site *site;
	unsigned number;
	pthread_t thread;
};

/* The plain engine's ICV is the key: another's would be seen. */
static void *use_all(void *argument)
{
	const struct one *one = argument;
	struct site *site = one->site;

	while (!atomic_load(&site->stop)) {
		for (unsigned i = 0; i < LIVE; i++) {
			const struct ipsf_key *key = atomic_load(&site->live[i]);
			uint8_t icv[IPSF_ICV_SIZE];
			struct ipsf_aead_op op = {.icv = icv};

			ipsf_key_seal(key, one->number, &op, 1);
			CHECK(op.ok && memcmp(icv, key->bytes, sizeof icv) == 0);
		}
		atomic_fetch_add(&site->lap[one->number], 1);
		sched_yield();
	}
	return NULL;
}

static void wait_a_lap(struct site *site)
{
	for (unsigned i = 0; i < WORKERS; i++)
		for (const uint64_t lap = atomic_load(&site->lap[i]); atomic_load(&site->lap[i]) < lap + 2;)
			sched_yield();
}

static struct ipsf_key *new_key(struct site *site, uint64_t *seed)
{
	struct ipsf_key *key = calloc(1, sizeof *key);
	uint8_t bytes[32];
	const size_t length = random_key(bytes, seed);

	ipsf_key_init(key, site->cache, bytes, length);
	return key;
}

static void replace(struct site *site, unsigned n, uint64_t *seed)
{
	struct ipsf_key *old[LIVE];
	uint8_t bytes[32];

	for (unsigned i = 0; i < n; i++)
		old[i] = atomic_exchange(&site->live[test_random(seed) % LIVE], new_key(site, seed));
	wait_a_lap(site);
	for (unsigned i = 0; i < n; i++) {
		const uint64_t id = old[i]->id;
		bool found = false;

		memcpy(bytes, old[i]->bytes, sizeof bytes);
		ipsf_key_fini(old[i]);
		free(old[i]);
		for (unsigned worker = 0; worker < WORKERS; worker++)
			for (size_t at = 0; at < (size_t)site->cache->sets * site->cache->ways; at++)
				found |= atomic_load(&site->cache->part[worker].owner[at]) == id;
		CHECK(!found);
	}
}

/* One set, so that workers and the control thread meet in it all the time. */
static void together(uint32_t sets)
{
	static struct site site;
	struct one one[WORKERS];
	uint64_t seed = sets;

	memset(&site, 0, sizeof site);
	CHECK(ipsf_keycache_new(&plain, WORKERS, &site.cache) == IPSF_OK);
	site.cache->sets = sets;
	for (unsigned i = 0; i < WORKERS; i++)
		CHECK(ipsf_keycache_join(site.cache) == IPSF_OK);
	for (unsigned i = 0; i < LIVE; i++)
		atomic_store(&site.live[i], new_key(&site, &seed));
	for (unsigned i = 0; i < WORKERS; i++) {
		one[i] = (struct one){.site = &site, .number = i};
		CHECK(pthread_create(&one[i].thread, NULL, use_all, &one[i]) == 0);
	}
	for (unsigned lap = 0; lap < LAPS; lap++)
		replace(&site, 1 + lap % 10, &seed);
	atomic_store(&site.stop, true);
	for (unsigned i = 0; i < WORKERS; i++)
		CHECK(pthread_join(one[i].thread, NULL) == 0);
	for (unsigned i = 0; i < LIVE; i++) {
		ipsf_key_fini(site.live[i]);
		free(site.live[i]);
	}
	CHECK(used(site.cache) == 0);
	ipsf_keycache_free(site.cache);
}

/* ---- SAs ---- */

/* SAs of a cache in both directions, more than it has entries: packets pass, and with the SAs their keys are gone. */
static void sas_share(const char *name)
{
	enum { PAIRS = 2500 };
	static struct pair pair[PAIRS];
	static struct slot slot;
	struct ipsf_keycache *cache = cache_of(ipsf_aead_find(name), 1);
	uint8_t plain_text[64];
	const size_t length = udp_packet(plain_text, 4, false, 12, 0);

	for (unsigned i = 0; i < PAIRS; i++) {
		struct ipsf_sa_params out = params_of(IPSF_MODE_TUNNEL, 4, i % 3 == 0 ? 20 : i % 3 == 1 ? 28 : 36), in = inbound(&out);

		ipsf_write32(out.key, i);
		ipsf_write32(in.key, i);
		CHECK(ipsf_sa_out_share(&out, cache, &pair[i].out) == IPSF_OK && ipsf_sa_in_share(&in, cache, &pair[i].in) == IPSF_OK);
	}
	for (unsigned i = 0; i < 3 * PAIRS; i++) {
		slot_put(&slot, plain_text, length);
		slots_seal(&pair[i % PAIRS], &slot, 1);
		CHECK(!slot.packet.drop);
		slots_open(&pair[i % PAIRS], &slot, 1);
		CHECK(!slot.packet.drop && slot.packet.length == length && memcmp(slot.packet.data, plain_text, length) == 0);
	}
	for (unsigned i = 0; i < PAIRS; i++) {
		ipsf_sa_out_free(pair[i].out);
		ipsf_sa_in_free(pair[i].in);
	}
	CHECK(used(cache) == 0);
	ipsf_keycache_free(cache);
}

int main(void)
{
	CHECK(CRYPTO_set_mem_functions(keep_malloc, keep_realloc, keep_free) == 1);
	keeps_what_fits();
	seals_as_alone(&plain);
	nothing_is_left(&plain, true);
	next_key_overwrites(&plain);
	for (size_t i = 0; i < ipsf_engine_count(); i++) {
		const struct ipsf_aead_engine *engine = ipsf_aead_find(ipsf_engine_name(i));

		nothing_is_left(engine, strcmp(engine->name, "ipsec-mb") == 0); /* AES-NI's first round key is the key */
		next_key_overwrites(engine);
		seals_as_alone(engine);
		sas_share(engine->name);
	}
	together(1);
	together(IPSF_KEYCACHE_SETS);
	return check_summary("test_keycache");
}
