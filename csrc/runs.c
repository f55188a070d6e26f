#include "runs.h"

#define NONE 0xff
static_assert(IPSF_BATCH_MAX < NONE, "numbers of packets and runs fit into a byte");

static unsigned slot_of(const void *sa)
{
	return (unsigned)(((uintptr_t)sa * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (IPSF_RUNS_SLOTS - 1);
}

/* The run of this SA, a new one if there is none yet: runs stand in twice as many slots as there can be. */
static unsigned run_of(struct ipsf_runs *runs, const void *sa, unsigned packet)
{
	unsigned at = slot_of(sa);

	while (runs->slot[at] != NONE && runs->all[runs->first[runs->slot[at]]]->sa.any != sa)
		at = (at + 1) & (IPSF_RUNS_SLOTS - 1);
	if (runs->slot[at] == NONE) {
		runs->slot[at] = (uint8_t)runs->runs;
		runs->first[runs->runs] = runs->last[runs->runs] = (uint8_t)packet;
		runs->runs++;
	}
	return runs->slot[at];
}

static void sort(struct ipsf_runs *runs)
{
	memset(runs->slot, NONE, sizeof runs->slot);
	for (unsigned i = 0; i < runs->n_all; i++) {
		const unsigned run = run_of(runs, runs->all[i]->sa.any, i);

		runs->next[runs->last[run]] = (uint8_t)i;
		runs->last[run] = (uint8_t)i;
	}
}

void ipsf_runs_begin(struct ipsf_runs *runs, struct ipsf_packet *const *packets, unsigned n)
{
	unsigned i = 1;

	runs->all = packets;
	runs->n_all = n;
	runs->run = runs->runs = 0;
	while (i < n && packets[i]->sa.any == packets[0]->sa.any)
		i++;
	runs->mixed = i < n;
	if (runs->mixed)
		sort(runs);
	else
		runs->runs = n ? 1 : 0;
}

bool ipsf_runs_next(struct ipsf_runs *runs)
{
	if (runs->run == runs->runs)
		return false;
	if (!runs->mixed) {
		runs->packet = runs->all;
		runs->n = runs->n_all;
	} else {
		unsigned at = runs->first[runs->run], last = runs->last[runs->run];

		runs->packet = runs->gathered;
		for (runs->n = 0; at != last; at = runs->next[at])
			runs->gathered[runs->n++] = runs->all[at];
		runs->gathered[runs->n++] = runs->all[last];
	}
	runs->run++;
	return true;
}
