/*
 * A worker: one thread's loop between inner and outer ports, in one direction or both. The only place that waits, and
 * that reads the clock.
 *
 * Which port a packet leaves by: the first of its kind that reaches it (port.h). Outer ports are asked in their order; inner
 * ones from the last to the first, which is the default: a TUN device with ring ports behind it.
 */
#ifndef IPSF_WORKER_H
#define IPSF_WORKER_H

#include "doorbell.h"
#include "epoch.h"
#include "pipeline.h"
#include "port.h"
#include "stats.h"

#define IPSF_INNER_MAX 8
#define IPSF_OUTER_MAX 16
#define IPSF_NO_CLOCK INT64_MIN
#define IPSF_SOURCES_MAX (IPSF_INNER_MAX + IPSF_OUTER_MAX)

/* Ways out of one kind, in the order in which they are asked. */
struct ipsf_ways {
	unsigned n;
	struct ipsf_port *port[IPSF_SOURCES_MAX];
};

struct ipsf_worker {
	char name[32];
	unsigned directions;                             /* IPSF_WORKER_OUTBOUND, IPSF_WORKER_INBOUND, IPSF_WORKER_BUSY */
	struct ipsf_port *port[IPSF_SOURCES_MAX];        /* the inner ones, then the outer ones */
	unsigned n_inner, n_ports;
	struct ipsf_ways inner, carrier[IPSF_CARRIER_COUNT];
	struct ipsf_ways clear[2];                       /* BYPASS, IPv4 and IPv6 */
	bool more[IPSF_SOURCES_MAX];                     /* the port's last recv() filled its batch */
	struct ipsf_epoch *epoch;
	struct ipsf_doorbell *event_bell;                /* of the control thread */
	struct ipsf_pool *pool;
	struct ipsf_batch *batch;
	struct ipsf_pipeline pipeline;
	struct ipsf_desk *desk;                          /* inbound: what other workers hand over */
	struct ipsf_worker *const *workers;              /* the data plane's, by index: whom to wake */
	struct ipsf_stats stats;
	struct ipsf_doorbell bell;                       /* of this worker */
	_Atomic int64_t cpu_clock;                       /* clockid_t of the thread that runs, IPSF_NO_CLOCK: none does */
	_Atomic uint64_t cpu_base, cpu_past;             /* nanoseconds: added to that clock; of those that ran before */
	_Atomic bool stop;
	_Atomic bool attention;                          /* held packets may have got their answer */
};

/*
 * index: its number in epochs and keys. published, epoch and event_bell are the data plane's, the ports the caller's.
 * IPSF_EINVAL, IPSF_ENOMEM, IPSF_ESYS.
 */
IPSF_MUST_CHECK int ipsf_worker_new(const char *name, unsigned index, struct ipsf_port *const *inner, size_t n_inner,
				    struct ipsf_port *const *outer, size_t n_outer, unsigned directions,
				    struct ipsf_worker **worker);
/* Its thread has ended. Ports give back the buffers they keep. */
void ipsf_worker_free(struct ipsf_worker *worker);
/* Any thread: looks again at what it holds. */
void ipsf_worker_wake(struct ipsf_worker *worker);

#endif
