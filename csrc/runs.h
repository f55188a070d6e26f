/*
 * A batch in runs of equal SA, which are sealed and opened by one call each. One thread.
 *
 * A run gathers the packets of its SA from the whole batch, so that interleaved SAs cost little more than one. Order is kept
 * inside a run, runs come in the order of their first packets, and the batch stays as it is.
 */
#ifndef IPSF_RUNS_H
#define IPSF_RUNS_H

#include "packet.h"

#define IPSF_RUNS_SLOTS (2 * IPSF_BATCH_MAX)

struct ipsf_runs {
	struct ipsf_packet *const *packet; /* the run: n packets */
	unsigned n;
	/* the rest is for runs.c */
	struct ipsf_packet *const *all;
	unsigned n_all;
	unsigned run, runs;
	bool mixed;
	uint8_t first[IPSF_BATCH_MAX], last[IPSF_BATCH_MAX]; /* of each run, as numbers of packets */
	uint8_t next[IPSF_BATCH_MAX];                        /* packet of the same run */
	uint8_t slot[IPSF_RUNS_SLOTS];                       /* by SA: its run */
	struct ipsf_packet *gathered[IPSF_BATCH_MAX];
};

/* Of n packets, at most a batch, which stay where they are. */
void ipsf_runs_begin(struct ipsf_runs *runs, struct ipsf_packet *const *packets, unsigned n);
/* False: there is no further one. */
IPSF_MUST_CHECK bool ipsf_runs_next(struct ipsf_runs *runs);

#endif
