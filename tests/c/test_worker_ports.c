/*
 * Which port a packet leaves by, that a worker receives from all of its ports, and when. The ports beside memory are ones that
 * reach only some destinations, as ring ports do, and note what they were given:
 *
 *     some (10.1.0.2) \                                / some (192.0.2.2)
 *     memory           > inner | worker | outer < memory
 */
#define _GNU_SOURCE
#include "gateways.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOM 256

/* Takes packets whose destination's last byte is `only`, and keeps their numbers in the order of sending. */
struct port_some {
	struct ipsf_port port;
	uint8_t only;
	unsigned n;
	uint32_t number[ROOM];
};

static int some_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	(void)port;
	(void)batch;
	(void)drops;
	return 0;
}

static void inner_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	struct port_some *some = (struct port_some *)port;
	for (unsigned i = 0; i < n; i++)
		some->number[some->n++ % ROOM] = ipsf_read32(packets[i]->data + 28);
}

/* A sealed packet's number is its sequence number less one. */
static void outer_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	struct port_some *some = (struct port_some *)port;
	for (unsigned i = 0; i < n; i++)
		some->number[some->n++ % ROOM] = ipsf_read32(packets[i]->data + 4) - 1;
}

static bool inner_reaches(const struct ipsf_port *port, const struct ipsf_packet *packet)
{
	return packet->data[19] == ((const struct port_some *)port)->only;
}

static bool outer_reaches(const struct ipsf_port *port, const struct ipsf_packet *packet)
{
	return packet->path->remote.bytes[3] == ((const struct port_some *)port)->only;
}

static const struct ipsf_port_ops inner_ops = {.recv = some_recv, .send = inner_send, .reaches = inner_reaches};
static const struct ipsf_port_ops outer_ops = {.recv = some_recv, .send = outer_send, .reaches = outer_reaches};

static struct port_some some(const struct ipsf_port_ops *ops, uint8_t only)
{
	return (struct port_some){.port = {.ops = ops, .fd = -1, .carriers = ops == &outer_ops ? 1u << IPSF_CARRIER_UDP4 : 0},
				  .only = only};
}

/* A gateway's worker with more ports than gateway_new() gives it; b sends through its own to it. */
static void setup(struct gateway *a, struct gateway *b, struct ipsf_port **inner, size_t n_inner, struct ipsf_port **outer,
		  size_t n_outer)
{
	struct ipsf_port *left, *right;
	CHECK(ipsf_port_memory_pair(256, &left, &right) == IPSF_OK);
	gateway_new(b, 2, right, 256, false);
	*a = (struct gateway){.net = 1, .outer = left};
	CHECK(ipsf_dataplane_new("auto", &a->dp) == IPSF_OK && ipsf_port_memory_pair(256, &a->inner, &a->host) == IPSF_OK);
	for (size_t i = 0; i < n_inner; i++)
		inner[i] = inner[i] ? inner[i] : a->inner;
	for (size_t i = 0; i < n_outer; i++)
		outer[i] = outer[i] ? outer[i] : a->outer;
	CHECK(ipsf_dataplane_add_worker(a->dp, "a", inner, n_inner, outer, n_outer, 3, &a->out) == IPSF_OK);
	a->in = a->out;
}

static void step(struct gateway *g)
{
	CHECK(ipsf_worker_step(g->out) >= 0);
}

static uint8_t reach_all(uint32_t i)
{
	return i % 3 ? 2 : 3;
}

/* Inner ports are asked from the last to the first, the default; each keeps the order of what it gets. */
static void inbound_choice(void)
{
	struct gateway a, b;
	struct port_some early = some(&inner_ops, 2), late = some(&inner_ops, 2), other = some(&inner_ops, 9);
	struct ipsf_port *inner[4] = {NULL, &early.port, &late.port, &other.port}, *outer[1] = {NULL};
	uint32_t number = 0, rest = 0;
	setup(&a, &b, inner, 4, outer, 1);
	one_way(&b, &a, 0x1000);
	for (uint32_t i = 0; i < 60; i++)
		CHECK(send_packet(&b, 100, reach_all(i), i) == IPSF_OK);
	step(&b);
	step(&a);
	CHECK(late.n == 40 && early.n == 0 && other.n == 0);
	for (uint32_t i = 0, at = 0; i < 60; i++) {
		if (reach_all(i) == 2)
			CHECK(late.number[at++] == i);
		else
			CHECK(next_packet(&a, &number) > 0 && number == i && ++rest);
	}
	CHECK(rest == 20 && conserved(a.out));
	gateway_free(&a);
	gateway_free(&b);
}

/* Outer ports are asked in their order; the socket comes behind. */
static void outbound_choice(bool reached)
{
	struct gateway a, b;
	struct port_some ring = some(&outer_ops, reached ? 2 : 9);
	struct ipsf_port *inner[1] = {NULL}, *outer[2] = {&ring.port, NULL};
	uint32_t number = 0;
	setup(&a, &b, inner, 1, outer, 2);
	one_way(&a, &b, 0x1000);
	for (uint32_t i = 0; i < 50; i++)
		CHECK(send_packet(&a, 100, 1, i) == IPSF_OK);
	step(&a);
	step(&b);
	CHECK(ring.n == (reached ? 50 : 0));
	for (uint32_t i = 0; reached && i < 50; i++)
		CHECK(ring.number[i] == i);
	for (uint32_t i = 0; !reached && i < 50; i++)
		CHECK(next_packet(&b, &number) > 0 && number == i);
	CHECK(next_packet(&b, &number) == 0 && conserved(a.out));
	gateway_free(&a);
	gateway_free(&b);
}

/* Where a port for the carrier exists but none reaches the packet, that is the reason; the others of the batch leave. */
static void nowhere(void)
{
	struct gateway a, b;
	struct port_some lan = some(&inner_ops, 2), ring = some(&outer_ops, 9);
	struct ipsf_port *inner[1] = {&lan.port}, *outer[2] = {&ring.port, NULL};
	setup(&a, &b, inner, 1, outer, 2);
	one_way(&b, &a, 0x1000);
	for (uint32_t i = 0; i < 10; i++)
		CHECK(send_packet(&b, 100, (uint8_t)(2 + i % 2), i) == IPSF_OK);
	step(&b);
	step(&a);
	CHECK(lan.n == 5 && drops_of(a.out, IPSF_DROP_NO_NEXT_HOP) == 5 && conserved(a.out));
	gateway_free(&a);
	gateway_free(&b);
}

/* A second host behind the same gateway, on an inner port of its own. */
static void receives_from_all(void)
{
	struct gateway a, b;
	struct ipsf_port *near, *far, *inner[2] = {NULL, NULL}, *outer[1] = {NULL};
	uint8_t bytes[100];
	uint32_t number = 0, seen[2] = {0};
	CHECK(ipsf_port_memory_pair(64, &near, &far) == IPSF_OK);
	inner[1] = near;
	setup(&a, &b, inner, 2, outer, 1);
	one_way(&a, &b, 0x1000);
	for (uint32_t i = 0; i < 20; i++) {
		make_packet(bytes, sizeof bytes, 1, 1, 1000 + i);
		CHECK(send_packet(&a, 100, 1, i) == IPSF_OK && ipsf_port_memory_put(near, bytes, sizeof bytes, NULL, 0) == IPSF_OK);
	}
	step(&a);
	step(&b);
	while (next_packet(&b, &number) > 0) {
		CHECK(number % 1000 == seen[number / 1000]);
		seen[number / 1000]++;
	}
	CHECK(seen[0] == 20 && seen[1] == 20 && conserved(a.out));
	gateway_free(&a);
	gateway_free(&b);
	ipsf_port_free(near);
	ipsf_port_free(far);
}

/* Has nothing, and lets packets gather at the next `left` looks; its fd is readable when it was rung. */
struct port_gathering {
	struct ipsf_port port;
	_Atomic unsigned looks;
	unsigned left;
};

static int gathering_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct port_gathering *g = (struct port_gathering *)port;
	eventfd_t value;
	(void)batch;
	(void)drops;
	(void)eventfd_read(port->fd, &value);
	g->left -= g->left > 0;
	atomic_fetch_add(&g->looks, 1);
	return 0;
}

static bool gathering_gathers(const struct ipsf_port *port)
{
	return ((const struct port_gathering *)port)->left > 0;
}

static const struct ipsf_port_ops gathering_ops = {.recv = gathering_recv, .gathers = gathering_gathers};

static void await_looks(struct port_gathering *g, unsigned n)
{
	for (unsigned i = 0; i < 10000 && atomic_load(&g->looks) < n; i++)
		usleep(1000);
	CHECK(atomic_load(&g->looks) == n);
}

static _Atomic int runner;

static void *run(void *worker)
{
	atomic_store(&runner, (int)syscall(SYS_gettid));
	CHECK(ipsf_worker_run(worker) == IPSF_OK);
	return NULL;
}

/* A turn of a thread, nanoseconds; 0: the kernel has no such thing. */
static uint64_t turn_of(int thread)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} attr = {0};
	CHECK(syscall(SYS_sched_getattr, thread, &attr, sizeof attr, 0) == 0);
	return attr.runtime;
}

/* Where packets gather the worker looks again, woken by nobody, until none do; then it sleeps until it is woken. */
static void gathering(void)
{
	struct gateway a, b;
	struct port_gathering g = {.port = {.ops = &gathering_ops, .fd = eventfd(0, EFD_NONBLOCK)}, .left = 6};
	struct ipsf_port *inner[2] = {NULL, &g.port}, *outer[1] = {NULL};
	pthread_t thread;
	setup(&a, &b, inner, 2, outer, 1);
	CHECK(pthread_create(&thread, NULL, run, a.out) == 0);
	await_looks(&g, 6);
	usleep(5000);
	await_looks(&g, 6);
	CHECK(eventfd_write(g.port.fd, 1) == 0);
	await_looks(&g, 7);
	if (turn_of(0) && sched_getscheduler(0) == SCHED_OTHER)
		CHECK(turn_of(atomic_load(&runner)) == 100000);
	else if (turn_of(0))
		CHECK(turn_of(atomic_load(&runner)) == turn_of(0)); /* another policy is the operator's choice */
	else
		printf("test_worker_ports: this kernel gives no turns of a chosen length (Linux 6.12 does)\n");
	ipsf_worker_stop(a.out);
	CHECK(pthread_join(thread, NULL) == 0);
	gateway_free(&a);
	gateway_free(&b);
	close(g.port.fd);
}

static void refused(void)
{
	struct gateway a, b;
	struct ipsf_port *inner[IPSF_INNER_MAX + 1] = {NULL}, *outer[1] = {NULL}, *near, *far;
	struct ipsf_worker *worker;
	setup(&a, &b, inner, 1, outer, 1);
	CHECK(ipsf_port_memory_pair(64, &near, &far) == IPSF_OK);
	inner[0] = near;
	CHECK(ipsf_dataplane_add_worker(a.dp, "none", inner, 0, outer, 1, 3, &worker) == IPSF_EINVAL);
	CHECK(ipsf_dataplane_add_worker(a.dp, "many", inner, IPSF_INNER_MAX + 1, &far, 1, 3, &worker) == IPSF_EINVAL);
	CHECK(ipsf_dataplane_add_worker(a.dp, "crossed", &a.outer, 1, &far, 1, 3, &worker) == IPSF_EINVAL);
	CHECK(ipsf_dataplane_add_worker(a.dp, "good", &near, 1, &far, 1, 3, &worker) == IPSF_OK);
	gateway_free(&a);
	gateway_free(&b);
	ipsf_port_free(near);
	ipsf_port_free(far);
}

int main(void)
{
	inbound_choice();
	outbound_choice(true);
	outbound_choice(false);
	nowhere();
	receives_from_all();
	gathering();
	refused();
	return check_summary("test_worker_ports");
}
