/*
 * A worker: one thread's loop between an inner port and outer ports, in one direction or both. The only place that
 * waits,
 * and that reads the clock.
 */
#ifndef IPSF_WORKER_H
#define IPSF_WORKER_H

#include "doorbell.h"
#include "epoch.h"
#include "pipeline.h"
#include "port.h"
#include "stats.h"

#define IPSF_OUTER_MAX 8

struct ipsf_worker {
	char name[32];
	unsigned directions;                             /* IPSF_WORKER_OUTBOUND, IPSF_WORKER_INBOUND */
	struct ipsf_port *inner;
	struct ipsf_port *outer[IPSF_OUTER_MAX];
	unsigned n_outer;
	struct ipsf_port *carrier[IPSF_CARRIER_COUNT];   /* who sends what: the first outer port that can, or NULL */
	struct ipsf_port *clear[2];                      /* BYPASS, IPv4 and IPv6 */
	bool more[1 + IPSF_OUTER_MAX];                   /* the last recv() filled its batch; [0]: inner port */
	struct ipsf_epoch *epoch;
	struct ipsf_doorbell *event_bell;                /* of the control thread */
	struct ipsf_pool *pool;
	struct ipsf_batch *batch;
	struct ipsf_pipeline pipeline;
	struct ipsf_stats stats;
	struct ipsf_doorbell bell;                       /* of this worker */
	_Atomic bool stop;
	_Atomic bool attention;                          /* held packets may have got their answer */
};

/*
 * index: its number in epochs and keys. published, epoch and event_bell are the data plane's, the ports the caller's.
 * IPSF_EINVAL, IPSF_ENOMEM, IPSF_ESYS.
 */
IPSF_MUST_CHECK int ipsf_worker_new(const char *name, unsigned index, struct ipsf_port *inner,
				    struct ipsf_port *const *outer, size_t n_outer, unsigned directions,
				    struct ipsf_worker **worker);
/* Its thread has ended. Ports give back the buffers they keep. */
void ipsf_worker_free(struct ipsf_worker *worker);
/* Any thread: looks again at what it holds. */
void ipsf_worker_wake(struct ipsf_worker *worker);

#endif
