#include "sa.h"

#include <stdalign.h>
#include <stdlib.h>

#include "algorithm.h"

static_assert(offsetof(struct ipsf_sa_out, sequence) == 2 * IPSF_CACHE_LINE, "the written line stands apart");
static_assert(offsetof(struct ipsf_sa_in, replay) >= offsetof(struct ipsf_sa_in, path) + IPSF_CACHE_LINE - 1,
	      "wherever an inbound SA begins, what is written stands on other lines than what leads to the next one of its slot");

enum ipsf_carrier ipsf_carrier_of(const struct ipsf_path *path, bool udp_encap)
{
	if (udp_encap)
		return path->remote.version == 6 ? IPSF_CARRIER_UDP6 : IPSF_CARRIER_UDP4;
	return path->remote.version == 6 ? IPSF_CARRIER_RAW6 : IPSF_CARRIER_RAW4;
}

void ipsf_sa_count_drop(_Atomic(struct ipsf_sa_drops *) *place, unsigned reason, uint64_t n)
{
	struct ipsf_sa_drops *drops = atomic_load(place);

	if (!drops) {
		struct ipsf_sa_drops *made = calloc(1, sizeof *made);

		if (!made)
			return;
		if (atomic_compare_exchange_strong(place, &drops, made))
			drops = made;
		else
			free(made); /* another worker was first */
	}
	atomic_fetch_add_explicit(&drops->by[reason], n, memory_order_relaxed);
}

uint64_t ipsf_sa_dropped(const _Atomic(struct ipsf_sa_drops *) *place, unsigned reason)
{
	const struct ipsf_sa_drops *drops = atomic_load(place);

	return drops ? atomic_load_explicit(&drops->by[reason], memory_order_relaxed) : 0;
}

static bool is_version(uint8_t version)
{
	return version == 4 || version == 6;
}

static bool valid_path(const struct ipsf_path *path, bool udp_encap)
{
	return is_version(path->remote.version) && path->local.version == path->remote.version &&
	       (!udp_encap || path->remote_port);
}

/* RFC 7296 s3.13.1: a range from first to last; ports from first to last, or OPAQUE. */
static bool valid_selector(const struct ipsf_selector *s)
{
	bool opaque = s->port_first == UINT16_MAX && s->port_last == 0;

	return is_version(s->first.version) && s->first.version == s->last.version &&
	       memcmp(s->first.bytes, s->last.bytes, s->first.version == 4 ? 4 : 16) <= 0 &&
	       (opaque || s->port_first <= s->port_last);
}

static bool valid_selectors(const struct ipsf_selector *selectors, uint32_t n)
{
	if (!selectors || !n || n > UINT16_MAX)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (!valid_selector(&selectors[i]))
			return false;
	return true;
}

/* RFC 4303 s2.1: SPIs 1 to 255 are reserved, 0 is for local use. */
static bool valid(const struct ipsf_sa_params *params)
{
	return params->spi > 255 && params->mode <= IPSF_MODE_TRANSPORT && params->tfc_padding <= IPSF_TFC_MAX &&
	       (!params->tfc_padding || params->mode == IPSF_MODE_TUNNEL) && params->copy_dscp <= IPSF_COPY_YES &&
	       valid_path(&params->path, params->udp_encap) &&
	       ipsf_algorithm_find(params->encryption, params->key_length) && params->key_length <= IPSF_KEY_MAX &&
	       (params->esn || params->initial_sequence <= UINT32_MAX);
}

static size_t key_bytes(const struct ipsf_sa_params *params)
{
	return ipsf_algorithm_find(params->encryption, params->key_length)->key;
}

/* Where an SA's key is expanded: in the cache, or without one in its own. */
static int take_key(struct ipsf_key *key, const struct ipsf_sa_params *params, struct ipsf_keycache *keys,
		    const struct ipsf_aead_engine *engine, unsigned n_workers)
{
	if (!keys)
		return ipsf_key_init_own(key, engine, n_workers, params->key, key_bytes(params));
	ipsf_key_init(key, keys, params->key, key_bytes(params));
	return IPSF_OK;
}

static void out_fill(struct ipsf_sa_out *sa, const struct ipsf_sa_params *params)
{
	sa->spi = params->spi;
	sa->reqid = params->reqid;
	memcpy(sa->salt, params->key + params->key_length - sizeof sa->salt, sizeof sa->salt);
	sa->mode = params->mode;
	sa->udp_encap = params->udp_encap;
	sa->carrier = (uint8_t)ipsf_carrier_of(&params->path, params->udp_encap);
	sa->esn = params->esn;
	sa->resource = params->resource;
	sa->copy_df = params->copy_df;
	sa->copy_ecn = params->copy_ecn;
	sa->copy_dscp = params->copy_dscp & IPSF_COPY_OUT;
	sa->tfc = params->tfc_padding;
	sa->plain = params->mode == IPSF_MODE_TUNNEL && !params->tfc_padding;
	sa->last_sequence = params->esn ? UINT64_MAX : UINT32_MAX;
	sa->soft_bytes = params->soft_bytes;
	sa->hard_bytes = params->hard_bytes;
	sa->soft_packets = params->soft_packets;
	sa->hard_packets = params->hard_packets;
	atomic_init(&sa->sequence, params->initial_sequence);
}

/*
 * What every worker writes must not share a line with what all read. Not aligned_alloc(): glibc's leaves gaps of 100 bytes between
 * equal SAs, and 48 suffice.
 */
static struct ipsf_sa_out *out_alloc(void)
{
	const size_t size = offsetof(struct ipsf_sa_out, home) + sizeof(struct ipsf_path);
	void *memory = calloc(1, size + IPSF_CACHE_LINE - alignof(max_align_t));
	struct ipsf_sa_out *sa = (void *)(((uintptr_t)memory + IPSF_CACHE_LINE - 1) & ~(uintptr_t)(IPSF_CACHE_LINE - 1));

	if (!memory)
		return NULL;
	sa->memory = memory;
	return sa;
}

static int out_make(const struct ipsf_sa_params *params, struct ipsf_keycache *keys, const struct ipsf_aead_engine *engine,
		    unsigned n_workers, struct ipsf_sa_out **out)
{
	struct ipsf_sa_out *sa;
	int error;

	if (!valid(params))
		return IPSF_EINVAL;
	sa = out_alloc();
	if (!sa)
		return IPSF_ENOMEM;
	out_fill(sa, params);
	sa->home[0] = params->path;
	atomic_init(&sa->path, sa->home);
	error = take_key(&sa->key, params, keys, engine, n_workers);
	if (error)
		ipsf_sa_out_free(sa);
	else
		*out = sa;
	return error;
}

int ipsf_sa_out_share(const struct ipsf_sa_params *params, struct ipsf_keycache *keys, struct ipsf_sa_out **sa)
{
	return out_make(params, keys, NULL, 0, sa);
}

int ipsf_sa_out_create(const struct ipsf_sa_params *params, const struct ipsf_aead_engine *engine, unsigned n_workers,
		       struct ipsf_sa_out **sa)
{
	return out_make(params, NULL, engine, n_workers, sa);
}

/* The path of the beginning is a part of the SA, one that MOVE_PEER gave is not. */
static void free_path(const struct ipsf_path *path, const struct ipsf_path *home)
{
	if (path != home)
		free((void *)(uintptr_t)path);
}

void ipsf_sa_out_free(struct ipsf_sa_out *sa)
{
	void *memory = sa ? sa->memory : NULL;

	if (!sa)
		return;
	ipsf_key_fini(&sa->key);
	free_path(atomic_load(&sa->path), sa->home);
	free(atomic_load(&sa->drops));
	ipsf_wipe(sa, sizeof *sa); /* the salt */
	free(memory);
}

uint64_t ipsf_sa_out_sequence(const struct ipsf_sa_out *sa)
{
	return atomic_load_explicit(&sa->sequence, memory_order_relaxed);
}

static void in_fill(struct ipsf_sa_in *sa, const struct ipsf_sa_params *params)
{
	sa->spi = params->spi;
	sa->reqid = params->reqid;
	memcpy(sa->salt, params->key + params->key_length - sizeof sa->salt, sizeof sa->salt);
	sa->mode = params->mode;
	sa->udp_encap = params->udp_encap;
	sa->esn = params->esn;
	sa->copy_ecn = params->copy_ecn;
	sa->copy_dscp = (params->copy_dscp & IPSF_COPY_IN) != 0;
	sa->soft_bytes = params->soft_bytes;
	sa->hard_bytes = params->hard_bytes;
	sa->soft_packets = params->soft_packets;
	sa->hard_packets = params->hard_packets;
	sa->home[0] = sa->home[1] = params->path;
	atomic_init(&sa->path, sa->home);
}

static bool simple_selector(const struct ipsf_selector *s, uint32_t n)
{
	return n == 1 && s->first.version == 4 && !s->protocol && !s->port_first && s->port_last == UINT16_MAX;
}

static struct ipsf_range4 range4(const struct ipsf_selector *s)
{
	const uint32_t first = ipsf_read32(s->first.bytes);

	return (struct ipsf_range4){first, ipsf_read32(s->last.bytes) - first};
}

/* Most SAs protect what one pair of networks says to each other: that is asked without a walk through the selectors. */
static bool is_simple(const struct ipsf_sa_params *params)
{
	return simple_selector(params->local_ts, params->n_local_ts) && simple_selector(params->remote_ts, params->n_remote_ts);
}

static size_t in_size(const struct ipsf_sa_params *params)
{
	const size_t selectors = is_simple(params) ? 0 : (size_t)params->n_local_ts + params->n_remote_ts;

	return sizeof(struct ipsf_sa_in) + ipsf_replay_bytes(params->replay_window) + 2 * sizeof(struct ipsf_path) +
	       selectors * sizeof(struct ipsf_selector);
}

static void in_selectors(struct ipsf_sa_in *sa, const struct ipsf_sa_params *params)
{
	struct ipsf_selector *to = (void *)(sa->home + 2);

	sa->simple = is_simple(params);
	if (sa->simple) {
		sa->local4 = range4(params->local_ts);
		sa->remote4 = range4(params->remote_ts);
		return;
	}
	sa->n_local = (uint16_t)params->n_local_ts;
	sa->n_remote = (uint16_t)params->n_remote_ts;
	sa->local_ts = memcpy(to, params->local_ts, sa->n_local * sizeof *to);
	sa->remote_ts = memcpy(to + sa->n_local, params->remote_ts, sa->n_remote * sizeof *to);
}

static int in_make(const struct ipsf_sa_params *params, struct ipsf_keycache *keys, const struct ipsf_aead_engine *engine,
		   unsigned n_workers, struct ipsf_sa_in **out)
{
	struct ipsf_sa_in *sa;
	int error;

	if (!valid(params) || params->replay_window > IPSF_REPLAY_MAX || !valid_selectors(params->local_ts, params->n_local_ts) ||
	    !valid_selectors(params->remote_ts, params->n_remote_ts))
		return IPSF_EINVAL;
	sa = calloc(1, in_size(params));
	if (!sa)
		return IPSF_ENOMEM;
	sa->replay = (void *)sa->tail;
	sa->home = (void *)((uint8_t *)sa->tail + ipsf_replay_bytes(params->replay_window));
	in_fill(sa, params);
	in_selectors(sa, params);
	error = ipsf_replay_init(sa->replay, params->replay_window, params->esn, params->initial_sequence);
	if (!error)
		error = take_key(&sa->key, params, keys, engine, n_workers);
	if (error)
		ipsf_sa_in_free(sa);
	else
		*out = sa;
	return error;
}

int ipsf_sa_in_share(const struct ipsf_sa_params *params, struct ipsf_keycache *keys, struct ipsf_sa_in **sa)
{
	return in_make(params, keys, NULL, 0, sa);
}

int ipsf_sa_in_create(const struct ipsf_sa_params *params, const struct ipsf_aead_engine *engine, unsigned n_workers,
		      struct ipsf_sa_in **sa)
{
	return in_make(params, NULL, engine, n_workers, sa);
}

void ipsf_sa_in_free(struct ipsf_sa_in *sa)
{
	if (!sa)
		return;
	ipsf_key_fini(&sa->key);
	free_path(atomic_load(&sa->path), sa->home);
	free(atomic_load(&sa->drops));
	ipsf_wipe(sa, sizeof *sa);
	free(sa);
}

/* The library's own: one worker, the engine by name. */

int ipsf_sa_out_new(const struct ipsf_sa_params *params, const char *engine, struct ipsf_sa_out **sa)
{
	const struct ipsf_aead_engine *found = ipsf_aead_find(engine);

	return found ? ipsf_sa_out_create(params, found, 1, sa) : IPSF_ENOENT;
}

int ipsf_sa_in_new(const struct ipsf_sa_params *params, const char *engine, struct ipsf_sa_in **sa)
{
	const struct ipsf_aead_engine *found = ipsf_aead_find(engine);

	return found ? ipsf_sa_in_create(params, found, 1, sa) : IPSF_ENOENT;
}
