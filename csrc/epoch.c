#include "epoch.h"

#include <stdlib.h>

void ipsf_epoch_init(struct ipsf_epoch *epoch)
{
	memset(epoch, 0, sizeof *epoch);
	atomic_store(&epoch->now, 1);
}

void ipsf_epoch_fini(struct ipsf_epoch *epoch)
{
	for (size_t i = 0; i < epoch->n_retired; i++)
		epoch->retired[i].free(epoch->retired[i].what);
	free(epoch->retired);
	epoch->retired = NULL;
	epoch->n_retired = epoch->capacity = 0;
}

int ipsf_epoch_reserve(struct ipsf_epoch *epoch, size_t n)
{
	if (epoch->n_retired + n <= epoch->capacity)
		return IPSF_OK;
	const size_t capacity = 2 * (epoch->n_retired + n);
	struct ipsf_retired *retired = realloc(epoch->retired, capacity * sizeof *retired);
	if (!retired)
		return IPSF_ENOMEM;
	epoch->retired = retired;
	epoch->capacity = capacity;
	return IPSF_OK;
}

void ipsf_epoch_retire(struct ipsf_epoch *epoch, void (*free_what)(void *what), void *what)
{
	assert(epoch->n_retired < epoch->capacity);
	const uint64_t since = atomic_fetch_add(&epoch->now, 1) + 1;
	epoch->retired[epoch->n_retired++] = (struct ipsf_retired){since, free_what, what};
}

/* A worker that has seen epoch e loaded it after everything retired up to e was unpublished. */
static uint64_t oldest_seen(const struct ipsf_epoch *epoch)
{
	uint64_t oldest = UINT64_MAX;
	for (unsigned i = 0; i < IPSF_MAX_WORKERS; i++) {
		const uint64_t seen = atomic_load(&epoch->worker[i].seen);
		if (seen != 0 && seen < oldest)
			oldest = seen;
	}
	return oldest;
}

size_t ipsf_epoch_collect(struct ipsf_epoch *epoch)
{
	if (epoch->n_retired == 0)
		return 0;
	const uint64_t passed = oldest_seen(epoch);
	size_t n = 0; /* they stand in the order in which they were retired */
	while (n < epoch->n_retired && epoch->retired[n].since <= passed)
		n++;
	for (size_t i = 0; i < n; i++)
		epoch->retired[i].free(epoch->retired[i].what);
	epoch->n_retired -= n;
	if (n)
		memmove(epoch->retired, epoch->retired + n, epoch->n_retired * sizeof epoch->retired[0]);
	return epoch->n_retired;
}
