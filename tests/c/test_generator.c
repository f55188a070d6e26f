/* The source and sink of benchmarks: what is granted comes out, in turn, whole; a sleeping worker wakes; all is counted. */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include "gateways.h"

#define N 5u
#define LENGTH 100u

static uint8_t data[N * LENGTH];
static uint64_t offsets[N];
static uint32_t lengths[N];
static struct ipsf_packets packets = {.data = data, .size = sizeof data, .offsets = offsets, .lengths = lengths, .count = N};

static void make_packets(uint8_t net)
{
	for (uint32_t i = 0; i < N; i++) {
		offsets[i] = i * LENGTH;
		lengths[i] = LENGTH - 4 * i;
		make_packet(data + offsets[i], lengths[i], net, 1, i);
	}
}

static bool readable(const struct ipsf_port *port)
{
	return poll(&(struct pollfd){.fd = port->fd, .events = POLLIN}, 1, 0) == 1;
}

static struct ipsf_generator_counts counts_of(const struct ipsf_port *port)
{
	struct ipsf_generator_counts counts;
	ipsf_port_generator_counts(port, &counts);
	return counts;
}

static void arguments(void)
{
	struct ipsf_port *port;
	lengths[2] = 65536;
	CHECK(ipsf_port_generator_new(&packets, NULL, &port) == IPSF_EINVAL);
	make_packets(1);
	offsets[N - 1] = sizeof data - lengths[N - 1] + 1;
	CHECK(ipsf_port_generator_new(&packets, NULL, &port) == IPSF_EINVAL);
	make_packets(1);
	CHECK(ipsf_port_generator_new(NULL, NULL, &port) == IPSF_OK);
	CHECK(ipsf_port_generator_grant(port, 1) == IPSF_EINVAL && ipsf_port_generator_grant(port, 0) == IPSF_OK);
	CHECK(ipsf_port_generator_drive(port) == IPSF_OK && counts_of(port).delivered == 0);
	ipsf_port_free(port);
}

/* As the ops of port.h say, batch by batch. */
static void delivers(void)
{
	struct ipsf_port *port;
	struct ipsf_pool *pool;
	static struct ipsf_batch batch;
	uint64_t drops[IPSF_DROP_COUNT] = {0};
	const struct ipsf_path path = path_from(1);
	CHECK(ipsf_port_generator_new(&packets, &path, &port) == IPSF_OK && port->receive_size == LENGTH);
	CHECK(ipsf_pool_new(IPSF_BATCH_MAX, LENGTH + IPSF_HEADROOM + IPSF_TAILROOM, &pool) == IPSF_OK);
	ipsf_batch_init(&batch, pool);
	CHECK(port->ops->recv(port, &batch, drops) == 0 && !readable(port));
	CHECK(ipsf_port_generator_grant(port, 100) == IPSF_OK && readable(port));
	for (uint32_t got = 0; got < 100; got += batch.n, ipsf_batch_clear(&batch)) {
		CHECK(port->ops->recv(port, &batch, drops) == (got ? 36 : 64));
		for (uint32_t i = 0; i < batch.n; i++) {
			const uint32_t number = (got + i) % N;
			CHECK(batch.packet[i]->length == lengths[number] &&
			      memcmp(batch.packet[i]->data, data + offsets[number], lengths[number]) == 0);
			CHECK(memcmp(batch.packet[i]->path, &path, sizeof path) == 0 && batch.packet[i]->carrier == IPSF_CARRIER_UDP4);
		}
	}
	CHECK(port->ops->recv(port, &batch, drops) == 0 && !readable(port));
	CHECK(ipsf_port_generator_grant(port, 1000) == IPSF_OK && ipsf_port_generator_drive(port) == IPSF_OK);
	const struct ipsf_generator_counts counts = counts_of(port);
	CHECK(counts.granted == 1100 && counts.delivered == 1100 && counts.sent == 1000 && counts.sent_bytes == 200 * (5 * LENGTH - 40));
	ipsf_pool_free(pool);
	ipsf_port_free(port);
}

static void *run(void *worker)
{
	CHECK(ipsf_worker_run(worker) == IPSF_OK);
	return NULL;
}

/* Through a worker in a thread, which sleeps between two grants. */
static void drives_a_worker(void)
{
	struct gateway g = {.net = 1};
	struct ipsf_counters counters;
	pthread_t thread;
	CHECK(ipsf_dataplane_new("auto", &g.dp) == IPSF_OK);
	CHECK(ipsf_port_generator_new(&packets, NULL, &g.inner) == IPSF_OK && ipsf_port_generator_new(NULL, NULL, &g.outer) == IPSF_OK);
	CHECK(ipsf_dataplane_add_worker(g.dp, "w", &g.inner, 1, &g.outer, 1, 3, &g.out) == IPSF_OK);
	const struct ipsf_policy policy = protect_policy(1, 1, 0);
	CHECK(install(&g, IPSF_CMD_INSTALL_OUTBOUND, 0x1000) == IPSF_OK && publish(&g, &policy, 1) == IPSF_OK && activate(&g, 0x1000) == IPSF_OK);
	CHECK(pthread_create(&thread, NULL, run, g.out) == 0);
	for (uint64_t turn = 1; turn <= 3; turn++) {
		CHECK(ipsf_port_generator_grant(g.inner, 10000) == IPSF_OK);
		while (counts_of(g.outer).sent < turn * 10000)
			sched_yield();
	}
	ipsf_worker_stop(g.out);
	CHECK(pthread_join(thread, NULL) == 0);
	ipsf_worker_counters(g.out, &counters);
	CHECK(counters.rx_packets[0] == 30000 && counters.tx_packets[0] == 30000 && counters.tx_bytes[0] == counts_of(g.outer).sent_bytes);
	CHECK(counters.cpu_ns > 0 && counters.cpu_ns < 10000000000u && conserved(g.out));
	ipsf_dataplane_free(g.dp);
	ipsf_port_free(g.inner);
	ipsf_port_free(g.outer);
}

int main(void)
{
	make_packets(1);
	arguments();
	delivers();
	drives_a_worker();
	return check_summary("test_generator");
}
