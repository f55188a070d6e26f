#include "child.h"

#include <stdlib.h>

int ipsf_children_new(size_t count, struct ipsf_children **out)
{
	size_t slots = 16;
	while (slots < 2 * count)
		slots *= 2;
	if (slots > UINT32_MAX)
		return IPSF_ENOMEM;
	struct ipsf_children *children = calloc(1, sizeof *children + slots * sizeof children->slot[0]);
	if (!children)
		return IPSF_ENOMEM;
	children->mask = (uint32_t)slots - 1;
	*out = children;
	return IPSF_OK;
}

bool ipsf_children_have_room(const struct ipsf_children *children)
{
	return 2 * (children->used + 1) <= children->mask + 1;
}

/* The mark of children that left: no policy names reqid 0, so nobody finds it. */
static struct ipsf_child left;

void ipsf_children_insert(struct ipsf_children *children, struct ipsf_child *child)
{
	uint32_t at = ipsf_child_slot(child->reqid) & children->mask;
	struct ipsf_child *was;
	while ((was = atomic_load(&children->slot[at])) != NULL && was != &left)
		at = (at + 1) & children->mask;
	atomic_store(&children->slot[at], child);
	children->used += was == NULL;
	children->count++;
}

void ipsf_children_remove(struct ipsf_children *children, const struct ipsf_child *child)
{
	uint32_t at = ipsf_child_slot(child->reqid) & children->mask;
	while (atomic_load(&children->slot[at]) != child)
		at = (at + 1) & children->mask;
	atomic_store(&children->slot[at], &left);
	children->count--;
	if (atomic_load(&children->slot[(at + 1) & children->mask]))
		return;
	for (; atomic_load(&children->slot[at]) == &left; at = (at - 1) & children->mask, children->used--)
		atomic_store(&children->slot[at], NULL); /* nothing stands behind them */
}

struct ipsf_child *ipsf_children_next(const struct ipsf_children *children, uint32_t *cursor)
{
	while (*cursor <= children->mask) {
		struct ipsf_child *child = atomic_load(&children->slot[(*cursor)++]);
		if (child && child != &left)
			return child;
	}
	return NULL;
}

int ipsf_child_new(uint32_t reqid, struct ipsf_child **out)
{
	struct ipsf_child *child = calloc(1, sizeof *child);
	if (!child)
		return IPSF_ENOMEM;
	child->reqid = reqid;
	*out = child;
	return IPSF_OK;
}

void ipsf_child_free(struct ipsf_child *child)
{
	free(atomic_load(&child->lanes));
	free(child);
}

static struct ipsf_lanes *lanes_new(const struct ipsf_sa_params *params, unsigned n)
{
	struct ipsf_lanes *lanes = calloc(1, sizeof *lanes + n * sizeof lanes->lane[0]);
	if (!lanes)
		return NULL;
	lanes->n = n;
	lanes->by_dscp = params->by_dscp;
	for (unsigned i = 0; i < sizeof lanes->of_dscp; i++)
		lanes->of_dscp[i] = params->dscp[i] ? (uint8_t)(params->dscp[i] - 1) : IPSF_NO_LANE;
	return lanes;
}

int ipsf_child_prepare(struct ipsf_child *child, const struct ipsf_sa_params *params, unsigned n_workers)
{
	struct ipsf_lanes *lanes = atomic_load(&child->lanes);
	if (!lanes && !params->resource && !params->resources)
		return IPSF_OK;
	if (!lanes) {
		lanes = lanes_new(params, params->by_dscp ? params->resources : n_workers);
		if (!lanes)
			return IPSF_ENOMEM;
		atomic_store(&child->lanes, lanes);
	}
	if (!params->resource)
		atomic_store(&lanes->asking, params->resources < lanes->n ? params->resources : lanes->n);
	return IPSF_OK;
}

_Atomic(struct ipsf_sa_out *) *ipsf_child_place(struct ipsf_child *child, unsigned resource)
{
	struct ipsf_lanes *lanes = atomic_load(&child->lanes);
	if (!resource)
		return &child->active;
	return lanes && resource <= lanes->n ? &lanes->lane[resource - 1].active : NULL;
}
