#include "sa.h"

#include <stdlib.h>

#include "algorithm.h"

static_assert(offsetof(struct ipsf_sa_out, sequence) % IPSF_CACHE_LINE == 0, "the written line stands apart");
static_assert(offsetof(struct ipsf_sa_out, next) % IPSF_CACHE_LINE == 0, "the cold part stands apart");
static_assert(offsetof(struct ipsf_sa_in, replay) % IPSF_CACHE_LINE == 0, "the written line stands apart");
static_assert(offsetof(struct ipsf_sa_in, next) % IPSF_CACHE_LINE == 0, "the cold part stands apart");

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
	return params->spi > 255 && params->mode <= IPSF_MODE_TRANSPORT && params->copy_dscp <= IPSF_COPY_YES &&
	       valid_path(&params->path, params->udp_encap) &&
	       ipsf_algorithm_find(params->encryption, params->key_length) && params->key_length <= IPSF_KEY_MAX &&
	       (params->esn || params->initial_sequence <= UINT32_MAX);
}

static struct ipsf_path *path_copy(const struct ipsf_path *path)
{
	struct ipsf_path *copy = malloc(sizeof *copy);

	if (copy)
		*copy = *path;
	return copy;
}

static void *line_alloc(size_t size)
{
	size_t rounded = (size + IPSF_CACHE_LINE - 1) & ~(size_t)(IPSF_CACHE_LINE - 1);
	void *p = aligned_alloc(IPSF_CACHE_LINE, rounded);

	return p ? memset(p, 0, rounded) : NULL;
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
	sa->copy_df = params->copy_df;
	sa->copy_ecn = params->copy_ecn;
	sa->copy_dscp = params->copy_dscp & IPSF_COPY_OUT;
	sa->last_sequence = params->esn ? UINT64_MAX : UINT32_MAX;
	sa->soft_bytes = params->soft_bytes;
	sa->hard_bytes = params->hard_bytes;
	sa->soft_packets = params->soft_packets;
	sa->hard_packets = params->hard_packets;
	atomic_init(&sa->sequence, params->initial_sequence);
}

static int make_key(const struct ipsf_sa_params *params, const struct ipsf_aead_engine *engine, unsigned n_workers,
		    struct ipsf_aead_key **key)
{
	const struct ipsf_algorithm *algorithm = ipsf_algorithm_find(params->encryption, params->key_length);

	return engine->key_new(params->key, algorithm->key, n_workers, key);
}

int ipsf_sa_out_create(const struct ipsf_sa_params *params, const struct ipsf_aead_engine *engine, unsigned n_workers,
		       struct ipsf_sa_out **out)
{
	struct ipsf_sa_out *sa;
	int error;

	if (!valid(params))
		return IPSF_EINVAL;
	sa = line_alloc(sizeof *sa);
	if (!sa)
		return IPSF_ENOMEM;
	sa->engine = engine;
	out_fill(sa, params);
	error = make_key(params, engine, n_workers, &sa->key);
	if (!error) {
		atomic_init(&sa->path, path_copy(&params->path));
		error = atomic_load(&sa->path) ? IPSF_OK : IPSF_ENOMEM;
	}
	if (error) {
		ipsf_sa_out_free(sa);
		return error;
	}
	*out = sa;
	return IPSF_OK;
}

void ipsf_sa_out_free(struct ipsf_sa_out *sa)
{
	if (!sa)
		return;
	if (sa->key)
		sa->engine->key_free(sa->key);
	free((void *)(uintptr_t)atomic_load(&sa->path));
	free(atomic_load(&sa->drops));
	ipsf_wipe(sa, sizeof *sa);
	free(sa);
}

uint64_t ipsf_sa_out_sequence(const struct ipsf_sa_out *sa)
{
	return atomic_load_explicit(&sa->sequence, memory_order_relaxed);
}

static struct ipsf_selector *selectors_copy(const struct ipsf_selector *selectors, uint32_t n)
{
	struct ipsf_selector *copy = malloc(n * sizeof *copy);

	return copy ? memcpy(copy, selectors, n * sizeof *copy) : NULL;
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
	sa->n_local = (uint16_t)params->n_local_ts;
	sa->n_remote = (uint16_t)params->n_remote_ts;
	sa->reported = params->path;
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
static void in_simplify(struct ipsf_sa_in *sa)
{
	sa->simple = simple_selector(sa->local_ts, sa->n_local) && simple_selector(sa->remote_ts, sa->n_remote);
	if (!sa->simple)
		return;
	sa->local4 = range4(sa->local_ts);
	sa->remote4 = range4(sa->remote_ts);
}

static int in_parts(struct ipsf_sa_in *sa, const struct ipsf_sa_params *params, unsigned n_workers)
{
	int error = ipsf_replay_create(params->replay_window, params->esn, params->initial_sequence, &sa->replay);

	if (error)
		return error;
	atomic_init(&sa->path, path_copy(&params->path));
	sa->local_ts = selectors_copy(params->local_ts, params->n_local_ts);
	sa->remote_ts = selectors_copy(params->remote_ts, params->n_remote_ts);
	if (!atomic_load(&sa->path) || !sa->local_ts || !sa->remote_ts)
		return IPSF_ENOMEM;
	in_simplify(sa);
	return make_key(params, sa->engine, n_workers, &sa->key);
}

int ipsf_sa_in_create(const struct ipsf_sa_params *params, const struct ipsf_aead_engine *engine, unsigned n_workers,
		      struct ipsf_sa_in **out)
{
	struct ipsf_sa_in *sa;
	int error;

	if (!valid(params) || !valid_selectors(params->local_ts, params->n_local_ts) ||
	    !valid_selectors(params->remote_ts, params->n_remote_ts))
		return IPSF_EINVAL;
	sa = line_alloc(sizeof *sa);
	if (!sa)
		return IPSF_ENOMEM;
	sa->engine = engine;
	in_fill(sa, params);
	error = in_parts(sa, params, n_workers);
	if (error) {
		ipsf_sa_in_free(sa);
		return error;
	}
	*out = sa;
	return IPSF_OK;
}

void ipsf_sa_in_free(struct ipsf_sa_in *sa)
{
	if (!sa)
		return;
	if (sa->key)
		sa->engine->key_free(sa->key);
	ipsf_replay_free(sa->replay);
	free((void *)(uintptr_t)atomic_load(&sa->path));
	free(atomic_load(&sa->drops));
	free((void *)(uintptr_t)sa->local_ts);
	free((void *)(uintptr_t)sa->remote_ts);
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
