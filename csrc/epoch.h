/*
 * When an old SA, SPD snapshot or path may be freed: quiescent state based reclamation.
 *
 * A worker uses what it loaded from a published pointer only until its next tick; one that sleeps is offline and uses
 * nothing.
 * The control thread takes a thing out of every published pointer, retires it, and frees it when each worker has
 * passed.
 * Published pointers are stored and loaded sequentially consistent (the default of C11): online() relies on it.
 */
#ifndef IPSF_EPOCH_H
#define IPSF_EPOCH_H

#include <stdatomic.h>

#include "aead.h"

struct ipsf_retired {
	uint64_t since;
	void (*free)(void *what);
	void *what;
};

struct ipsf_epoch {
	_Atomic uint64_t now;
	struct ipsf_retired *retired; /* control thread only, as the two numbers */
	size_t n_retired, capacity;
	struct {
		_Atomic uint64_t seen __attribute__((aligned(IPSF_CACHE_LINE))); /* 0: offline */
	} worker[IPSF_MAX_WORKERS];
};

void ipsf_epoch_init(struct ipsf_epoch *epoch);
/* Frees all that was retired: no worker runs any more. */
void ipsf_epoch_fini(struct ipsf_epoch *epoch);

/* ---- worker ---- */

static inline void ipsf_epoch_online(struct ipsf_epoch *epoch, unsigned worker)
{
	atomic_exchange(&epoch->worker[worker].seen, atomic_load(&epoch->now));
}

static inline void ipsf_epoch_tick(struct ipsf_epoch *epoch, unsigned worker)
{
	ipsf_epoch_online(epoch, worker);
}

static inline void ipsf_epoch_offline(struct ipsf_epoch *epoch, unsigned worker)
{
	atomic_store_explicit(&epoch->worker[worker].seen, 0, memory_order_release);
}

/* ---- control thread ---- */

/* Makes sure that the next n calls of retire() find room: what can fail fails before anything is unpublished.
 * IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_epoch_reserve(struct ipsf_epoch *epoch, size_t n);
void ipsf_epoch_retire(struct ipsf_epoch *epoch, void (*free)(void *what), void *what);
/* Frees what all workers have passed, what was retired first first; how many things still wait. */
size_t ipsf_epoch_collect(struct ipsf_epoch *epoch);

#endif
