#define _GNU_SOURCE
#include "worker.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BATCHES_A_TURN 8        /* of one port before the others have their turn */
#define EVENT_RING (1u << 20)   /* bytes */
#define FLOW_SETS_LOG2 11       /* 4096 flows, 256 KiB */
#define GATHER_NS 50000         /* that packets may gather at a port before the next look at it, while they come quickly */
#define GATHER_SLACK_NS 1000    /* how exactly */
#define TURN_NS 100000          /* of a CPU that others want too: the shortest that Linux gives */
#define SPARE_BUFFERS (3 * IPSF_BATCH_MAX) /* in the batch, beside it, moved for headroom */

/* ---- making and freeing ---- */

static bool listens(const struct ipsf_worker *worker, unsigned direction)
{
	return worker->directions & direction;
}

static bool is_inner(const struct ipsf_worker *worker, unsigned source)
{
	return source < worker->n_inner;
}

/* Ports first_source..last_source - 1 are those we receive from. */
static unsigned first_source(const struct ipsf_worker *worker)
{
	return listens(worker, IPSF_WORKER_OUTBOUND) ? 0 : worker->n_inner;
}

static unsigned last_source(const struct ipsf_worker *worker)
{
	return listens(worker, IPSF_WORKER_INBOUND) ? worker->n_ports : worker->n_inner;
}

/* The largest buffer and the number of buffers that the ports we receive from may need. */
static int make_pool(struct ipsf_worker *worker)
{
	uint32_t size = 0, count = SPARE_BUFFERS;
	for (unsigned i = first_source(worker); i < last_source(worker); i++) {
		size = worker->port[i]->receive_size > size ? worker->port[i]->receive_size : size;
		count += IPSF_BATCH_MAX;
	}
	return ipsf_pool_new(count, size + IPSF_HEADROOM + IPSF_TAILROOM, &worker->pool);
}

static void add_way(struct ipsf_ways *ways, struct ipsf_port *port)
{
	ways->port[ways->n++] = port;
}

static void choose_ways(struct ipsf_worker *worker)
{
	for (unsigned i = worker->n_inner; i-- > 0;)
		add_way(&worker->inner, worker->port[i]);
	for (unsigned i = worker->n_inner; i < worker->n_ports; i++) {
		struct ipsf_port *port = worker->port[i];
		for (unsigned carrier = 0; carrier < IPSF_CARRIER_COUNT; carrier++) {
			if (port->carriers & 1u << carrier)
				add_way(&worker->carrier[carrier], port);
		}
		if (port->sends_clear && (port->carriers & 1u << IPSF_CARRIER_RAW4))
			add_way(&worker->clear[0], port);
		if (port->sends_clear && (port->carriers & 1u << IPSF_CARRIER_RAW6))
			add_way(&worker->clear[1], port);
	}
}

static int make_parts(struct ipsf_worker *worker)
{
	uint64_t seed;
	if (getrandom(&seed, sizeof seed, 0) != sizeof seed || ipsf_doorbell_init(&worker->bell) != IPSF_OK)
		return IPSF_ESYS;
	if (listens(worker, IPSF_WORKER_INBOUND) && ipsf_desk_new(worker->pipeline.worker, &worker->desk) != IPSF_OK)
		return IPSF_ENOMEM;
	if (make_pool(worker) != IPSF_OK || ipsf_ring_new(EVENT_RING, &worker->pipeline.events) != IPSF_OK ||
	    ipsf_flow_cache_new(FLOW_SETS_LOG2, seed, &worker->pipeline.flows) != IPSF_OK)
		return IPSF_ENOMEM;
	worker->pipeline.desk = worker->desk;
	worker->batch = aligned_alloc(IPSF_CACHE_LINE, sizeof *worker->batch);
	if (!worker->batch)
		return IPSF_ENOMEM;
	ipsf_batch_init(worker->batch, worker->pool);
	return IPSF_OK;
}

static void take_ports(struct ipsf_worker *worker, struct ipsf_port *const *ports, size_t n)
{
	for (size_t i = 0; i < n; i++)
		worker->port[worker->n_ports++] = ports[i];
}

int ipsf_worker_new(const char *name, unsigned index, struct ipsf_port *const *inner, size_t n_inner,
		    struct ipsf_port *const *outer, size_t n_outer, unsigned directions, struct ipsf_worker **out)
{
	const unsigned both = IPSF_WORKER_OUTBOUND | IPSF_WORKER_INBOUND;
	if (n_inner == 0 || n_inner > IPSF_INNER_MAX || n_outer > IPSF_OUTER_MAX || (directions & both) == 0 ||
	    (directions & ~(both | IPSF_WORKER_BUSY)))
		return IPSF_EINVAL;
	struct ipsf_worker *worker = aligned_alloc(IPSF_CACHE_LINE, sizeof *worker);
	if (!worker)
		return IPSF_ENOMEM;
	memset(worker, 0, sizeof *worker);
	snprintf(worker->name, sizeof worker->name, "%s", name);
	worker->directions = directions;
	take_ports(worker, inner, n_inner);
	worker->n_inner = worker->n_ports;
	take_ports(worker, outer, n_outer);
	worker->bell.fd = -1;
	atomic_init(&worker->cpu_clock, IPSF_NO_CLOCK);
	worker->pipeline.worker = index;
	ipsf_hold_init(&worker->pipeline.hold);
	choose_ways(worker);
	const int status = make_parts(worker);
	if (status != IPSF_OK) {
		ipsf_worker_free(worker);
		return status;
	}
	*out = worker;
	return IPSF_OK;
}

static void drain(struct ipsf_port *port)
{
	if (port->ops->drain)
		port->ops->drain(port);
}

void ipsf_worker_free(struct ipsf_worker *worker)
{
	for (unsigned i = first_source(worker); i < last_source(worker); i++)
		drain(worker->port[i]);
	ipsf_hold_fini(&worker->pipeline.hold);
	ipsf_flow_cache_free(worker->pipeline.flows);
	ipsf_ring_free(worker->pipeline.events);
	ipsf_desk_free(worker->desk);
	free(worker->batch);
	ipsf_pool_free(worker->pool);
	ipsf_doorbell_fini(&worker->bell);
	free(worker);
}

/* ---- receiving and sending, and what is counted there ---- */

/* What the port lost before it could be read counts as received and dropped. The number in the batch, or IPSF_ESYS. */
static int receive(struct ipsf_worker *worker, struct ipsf_port *port, enum ipsf_direction direction)
{
	struct ipsf_stats *stats = &worker->stats;
	const int n = port->ops->recv(port, worker->batch, worker->pipeline.drops);
	const uint64_t lost = ipsf_stats_take_drops(stats, worker->pipeline.drops);
	if (IPSF_UNLIKELY(lost))
		ipsf_stats_add(&stats->rx_packets[direction], lost);
	return n;
}

/* What came in the batch that the pipeline has just seen, before any of it is sent. */
static void count_received(struct ipsf_worker *worker, enum ipsf_direction direction)
{
	ipsf_stats_add(&worker->stats.rx_packets[direction], worker->pipeline.received.packets);
	ipsf_stats_add(&worker->stats.rx_bytes[direction], worker->pipeline.received.bytes);
}

static const struct ipsf_ways *ways_of(const struct ipsf_worker *worker, const struct ipsf_packet *packet,
				       enum ipsf_direction direction)
{
	if (direction == IPSF_IN)
		return &worker->inner;
	return packet->flags & IPSF_PACKET_CLEAR ? &worker->clear[packet->version == 6] : &worker->carrier[packet->carrier];
}

static struct ipsf_port *way_out(const struct ipsf_worker *worker, const struct ipsf_packet *packet,
				 enum ipsf_direction direction)
{
	const struct ipsf_ways *ways = ways_of(worker, packet, direction);
	for (unsigned i = 0; i < ways->n; i++) {
		struct ipsf_port *port = ways->port[i];
		if (!port->ops->reaches || port->ops->reaches(port, packet))
			return port;
	}
	return NULL;
}

static void refuse(const struct ipsf_worker *worker, struct ipsf_packet *packet, enum ipsf_direction direction)
{
	if (ways_of(worker, packet, direction)->n)
		packet->drop = IPSF_DROP_NO_NEXT_HOP;
	else
		packet->drop = packet->flags & IPSF_PACKET_CLEAR ? IPSF_DROP_NO_BYPASS_PORT : IPSF_DROP_NO_CARRIER;
}

/* Runs of equal port, in their order. */
static void send_batch(struct ipsf_worker *worker, enum ipsf_direction direction)
{
	const struct ipsf_batch *batch = worker->batch;
	struct ipsf_port *next = batch->n ? way_out(worker, batch->packet[0], direction) : NULL;
	for (unsigned i = 0, end = 0; i < batch->n; i = end) {
		struct ipsf_port *port = next;
		for (end = i + 1; end < batch->n && (next = way_out(worker, batch->packet[end], direction)) == port;)
			end++;
		if (port)
			port->ops->send(port, batch->packet + i, end - i);
		for (unsigned j = i; !port && j < end; j++)
			refuse(worker, batch->packet[j], direction);
	}
}

/* The batch was sent: counts what became of it, and empties it. */
static void finish(struct ipsf_worker *worker, enum ipsf_direction direction)
{
	struct ipsf_pipeline *p = &worker->pipeline;
	struct ipsf_stats *stats = &worker->stats;
	const struct ipsf_volume sent = ipsf_batch_settle(worker->batch, p->drops);
	ipsf_stats_add(&stats->tx_packets[direction], sent.packets);
	ipsf_stats_add(&stats->tx_bytes[direction], sent.bytes);
	ipsf_batch_clear(worker->batch);
	ipsf_stats_take_drops(stats, p->drops);
	ipsf_stats_add(&stats->consumed, p->consumed);
	ipsf_stats_add(&stats->handed_over, p->handed_over);
	atomic_store_explicit(&stats->held, p->hold.packets, memory_order_relaxed);
	p->consumed = p->handed_over = 0;
}

static void outbound_batch(struct ipsf_worker *worker, bool received)
{
	ipsf_outbound(&worker->pipeline, worker->batch);
	if (received)
		count_received(worker, IPSF_OUT);
	send_batch(worker, IPSF_OUT);
	finish(worker, IPSF_OUT);
}

/* Counted first, so that a packet which the owner has counted was handed over. */
static void wake_owners(struct ipsf_worker *worker)
{
	for (uint64_t asleep = ipsf_desk_flush(worker->desk); asleep; asleep &= asleep - 1)
		ipsf_doorbell_ring(&worker->workers[__builtin_ctzll(asleep)]->bell);
}

static void inbound_batch(struct ipsf_worker *worker, bool received)
{
	ipsf_inbound(&worker->pipeline, worker->batch);
	if (received)
		count_received(worker, IPSF_IN);
	send_batch(worker, IPSF_IN);
	finish(worker, IPSF_IN);
	if (IPSF_UNLIKELY(worker->desk->given))
		wake_owners(worker);
}

/* One batch of what other workers handed over: packets. */
static int handed_batch(struct ipsf_worker *worker)
{
	uint64_t lost;
	const unsigned n = ipsf_desk_take(worker->desk, worker->batch, worker->pipeline.drops, &lost);
	if (n == 0 && lost == 0)
		return 0;
	ipsf_stats_add(&worker->stats.taken_over, n + lost);
	inbound_batch(worker, false);
	return (int)n;
}

/* ---- a pass ---- */

/* Packets whose SA has come go out first, in their order; those whose SA won't come are dropped. */
static void settle_held(struct ipsf_worker *worker)
{
	struct ipsf_pipeline *p = &worker->pipeline;
	if (IPSF_LIKELY(!atomic_load(&worker->attention)) || !atomic_exchange(&worker->attention, false))
		return;
	ipsf_hold_review(&p->hold, atomic_load(&p->published->children), p->worker, p->drops);
	while (ipsf_hold_take(&p->hold, worker->batch))
		outbound_batch(worker, false);
	finish(worker, IPSF_OUT);
}

static bool left_behind(const struct ipsf_port *port)
{
	return port->ops->pending && port->ops->pending(port);
}

/* One batch of a port: packets received, or IPSF_ESYS. */
static int one_batch(struct ipsf_worker *worker, unsigned source)
{
	const enum ipsf_direction direction = is_inner(worker, source) ? IPSF_OUT : IPSF_IN;
	if (direction == IPSF_OUT)
		settle_held(worker);
	const int n = receive(worker, worker->port[source], direction);
	worker->more[source] = n == IPSF_BATCH_MAX || left_behind(worker->port[source]);
	if (n <= 0)
		return n;
	if (direction == IPSF_OUT)
		outbound_batch(worker, true);
	else
		inbound_batch(worker, true);
	return n;
}

static uint64_t nanoseconds_of(clockid_t clock)
{
	struct timespec t = {0};
	return clock_gettime(clock, &t) == 0 ? (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec : 0;
}

static void begin_pass(struct ipsf_worker *worker)
{
	worker->pipeline.now = nanoseconds_of(CLOCK_MONOTONIC);
	ipsf_epoch_online(worker->epoch, worker->pipeline.worker);
}

static void end_pass(struct ipsf_worker *worker)
{
	ipsf_epoch_offline(worker->epoch, worker->pipeline.worker);
	if (worker->pipeline.told)
		ipsf_doorbell_ring(worker->event_bell);
	worker->pipeline.told = false;
}

/* Up to so many batches of what other workers handed over; packets. */
static int drain_desk(struct ipsf_worker *worker, unsigned batches)
{
	int handled = 0;
	while (worker->desk && batches-- && ipsf_desk_waits(worker->desk)) {
		handled += handed_batch(worker);
		ipsf_epoch_tick(worker->epoch, worker->pipeline.worker);
	}
	return handled;
}

int ipsf_worker_step(struct ipsf_worker *worker)
{
	int n = 0;
	begin_pass(worker);
	if (listens(worker, IPSF_WORKER_OUTBOUND))
		settle_held(worker);
	int handled = drain_desk(worker, 1);
	for (unsigned source = first_source(worker); source < last_source(worker) && n >= 0; source++) {
		n = one_batch(worker, source);
		handled += n > 0 ? n : 0;
	}
	end_pass(worker);
	return n < 0 ? n : handled;
}

/* ---- the loop ---- */

static int drain_source(struct ipsf_worker *worker, unsigned source)
{
	for (unsigned i = 0; i < BATCHES_A_TURN; i++) {
		const int n = one_batch(worker, source);
		if (n <= 0 || !worker->more[source])
			return n < 0 ? n : IPSF_OK;
		ipsf_epoch_tick(worker->epoch, worker->pipeline.worker);
	}
	return IPSF_OK;
}

/*
 * What poll() said is in wait[source], the doorbell behind the last; a port where packets gather was not asked (its fd is negative)
 * and is looked at. A busy worker has asked none and looks at all.
 */
static int pass(struct ipsf_worker *worker, const struct pollfd *wait)
{
	const bool busy = worker->directions & IPSF_WORKER_BUSY;
	int status = IPSF_OK;
	begin_pass(worker);
	if (listens(worker, IPSF_WORKER_OUTBOUND))
		settle_held(worker);
	drain_desk(worker, BATCHES_A_TURN);
	for (unsigned source = first_source(worker); source < last_source(worker) && status == IPSF_OK; source++) {
		if (busy || wait[source].fd < 0 || wait[source].revents || worker->more[source])
			status = drain_source(worker, source);
	}
	end_pass(worker);
	return status;
}

static int prepare_wait(const struct ipsf_worker *worker, struct pollfd *wait)
{
	const unsigned last = last_source(worker);
	for (unsigned source = 0; source < last; source++)
		wait[source] = (struct pollfd){.fd = source < first_source(worker) ? -1 : worker->port[source]->fd, .events = POLLIN};
	wait[last] = (struct pollfd){.fd = worker->bell.fd, .events = POLLIN};
	return (int)last + 1;
}

static bool any_more(const struct ipsf_worker *worker)
{
	bool any = false;
	for (unsigned source = first_source(worker); source < last_source(worker); source++)
		any |= worker->more[source];
	return any;
}

/* Who hands over learns that we sleep before we look a last time at what was handed over. */
static bool may_sleep(struct ipsf_worker *worker)
{
	if (any_more(worker))
		return false;
	if (worker->desk)
		atomic_store(&worker->desk->sleeping, true);
	return !worker->desk || !ipsf_desk_waits(worker->desk);
}

/* Ports where packets gather are not waited for. Whether there are any. */
static bool let_gather(const struct ipsf_worker *worker, struct pollfd *wait)
{
	bool any = false;
	for (unsigned source = first_source(worker); source < last_source(worker); source++) {
		const struct ipsf_port *port = worker->port[source];
		const bool gathers = port->ops->gathers && port->ops->gathers(port);
		wait[source].fd = gathers ? -1 : port->fd;
		any |= gathers;
	}
	return any;
}

/* NULL: for ever. */
static const struct timespec *how_long(struct ipsf_worker *worker, struct pollfd *wait)
{
	static const struct timespec not_at_all = {0, 0}, a_moment = {0, GATHER_NS};
	const bool gathers = let_gather(worker, wait);
	if (!may_sleep(worker))
		return &not_at_all;
	return gathers ? &a_moment : NULL;
}

static int wait_for_work(struct ipsf_worker *worker, struct pollfd *wait, int n)
{
	const int ready = ppoll(wait, (nfds_t)n, how_long(worker, wait), NULL);
	if (worker->desk)
		atomic_store_explicit(&worker->desk->sleeping, false, memory_order_relaxed);
	if (ready < 0)
		return errno == EINTR ? IPSF_OK : IPSF_ESYS;
	if (wait[n - 1].revents)
		ipsf_doorbell_silence(&worker->bell);
	return IPSF_OK;
}

static int loop(struct ipsf_worker *worker)
{
	struct pollfd wait[IPSF_SOURCES_MAX + 1];
	const int n = prepare_wait(worker, wait);
	int status = IPSF_OK;
	while (status == IPSF_OK && !atomic_load(&worker->stop)) {
		if (!(worker->directions & IPSF_WORKER_BUSY))
			status = wait_for_work(worker, wait, n);
		if (status == IPSF_OK)
			status = pass(worker, wait);
	}
	return status;
}

/*
 * Where others want the CPU too, a thread of short turns gets it sooner and gives it back sooner; its share is the same. A request
 * (Linux 6.12 and later, threads of the ordinary policy), whose refusal costs only that: nobody is told.
 */
static void take_short_turns(void)
{
	struct { /* struct sched_attr of the kernel; its header is at odds with older C libraries' */
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {.size = sizeof attr};
	if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) < 0 || attr.policy != SCHED_OTHER)
		return;
	attr.runtime = TURN_NS;
	syscall(SYS_sched_setattr, 0, &attr, 0);
}

int ipsf_worker_run(struct ipsf_worker *worker)
{
	clockid_t clock;
	prctl(PR_SET_NAME, worker->name);
	prctl(PR_SET_TIMERSLACK, GATHER_SLACK_NS);
	take_short_turns();
	if (pthread_getcpuclockid(pthread_self(), &clock) != 0)
		return IPSF_ESYS;
	const uint64_t base = atomic_load(&worker->cpu_past) - nanoseconds_of(clock); /* what the thread did before is not ours */
	atomic_store(&worker->cpu_base, base);
	atomic_store(&worker->cpu_clock, clock);
	const int status = loop(worker);
	const int error = errno;
	atomic_store(&worker->cpu_past, base + nanoseconds_of(clock));
	atomic_store(&worker->cpu_clock, IPSF_NO_CLOCK);
	errno = error;
	return status;
}

/* ---- from other threads ---- */

void ipsf_worker_stop(struct ipsf_worker *worker)
{
	atomic_store(&worker->stop, true);
	ipsf_doorbell_ring(&worker->bell);
}

void ipsf_worker_wake(struct ipsf_worker *worker)
{
	atomic_store(&worker->attention, true);
	ipsf_doorbell_ring(&worker->bell);
}

const char *ipsf_worker_name(const struct ipsf_worker *worker)
{
	return worker->name;
}

/* A thread that is gone has no clock any more. */
static uint64_t cpu_time(const struct ipsf_worker *worker)
{
	const int64_t clock = atomic_load(&worker->cpu_clock);
	const uint64_t now = clock == IPSF_NO_CLOCK ? 0 : nanoseconds_of((clockid_t)clock);
	return now ? now + atomic_load(&worker->cpu_base) : atomic_load(&worker->cpu_past);
}

void ipsf_worker_counters(const struct ipsf_worker *worker, struct ipsf_counters *counters)
{
	ipsf_stats_read(&worker->stats, counters);
	counters->cpu_ns = cpu_time(worker);
}
