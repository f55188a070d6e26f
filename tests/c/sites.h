/*
 * Two gateways of N workers each, every worker with ports of its own; the test plays the hosts of both, and the network between, which
 * brings packets to the right worker, to the wrong one, or to any:
 *
 *     test -> | A: N workers | -> test (the network) -> | B: N workers | -> test
 *
 * Flow f is the packets for 10.2.0.f, SA f protects them (reqid f, or one SA for all). Numbers of a flow grow: order is checked.
 */
#ifndef IPSF_TEST_SITES_H
#define IPSF_TEST_SITES_H

#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "gateways.h"
#include "steer.h"

#define N 3u
#define FLOWS 6u
#define OUTSTANDING 300u

struct site {
	struct gateway g;               /* its data plane; net */
	struct ipsf_worker *worker[N];
	struct ipsf_port *inner[N], *host[N], *outer[N], *wire[N];
	pthread_t thread[N];
};

static inline void site_new(struct site *s, uint8_t net, unsigned flags)
{
	*s = (struct site){.g = {.net = net}};
	CHECK(ipsf_dataplane_new("auto", &s->g.dp) == IPSF_OK);
	for (unsigned i = 0; i < N; i++) {
		char name[16];
		snprintf(name, sizeof name, "w%u", i);
		CHECK(ipsf_port_memory_pair(1024, &s->inner[i], &s->host[i]) == IPSF_OK);
		CHECK(ipsf_port_memory_pair(1024, &s->outer[i], &s->wire[i]) == IPSF_OK);
		CHECK(ipsf_dataplane_add_worker(s->g.dp, name, &s->inner[i], 1, &s->outer[i], 1, 3 | flags, &s->worker[i]) == IPSF_OK);
	}
}

static inline void site_free(struct site *s)
{
	ipsf_dataplane_free(s->g.dp);
	for (unsigned i = 0; i < N; i++) {
		ipsf_port_free(s->inner[i]);
		ipsf_port_free(s->host[i]);
		ipsf_port_free(s->outer[i]);
		ipsf_port_free(s->wire[i]);
	}
}

static inline void *run(void *worker)
{
	CHECK(ipsf_worker_run(worker) == IPSF_OK);
	return NULL;
}

static inline void site_start(struct site *s)
{
	for (unsigned i = 0; i < N; i++)
		CHECK(pthread_create(&s->thread[i], NULL, run, s->worker[i]) == 0);
}

static inline void site_stop(struct site *s)
{
	for (unsigned i = 0; i < N; i++)
		ipsf_worker_stop(s->worker[i]);
	for (unsigned i = 0; i < N; i++)
		CHECK(pthread_join(s->thread[i], NULL) == 0);
}

static inline struct ipsf_counters counters_of(const struct ipsf_worker *worker)
{
	struct ipsf_counters counters;
	ipsf_worker_counters(worker, &counters);
	return counters;
}

/* Each worker's books balance, and over all of them a packet that was handed over counts once. */
static inline void check_books(const struct site *s)
{
	uint64_t in = 0, out = 0, given = 0, taken = 0;
	for (unsigned i = 0; i < N; i++) {
		const struct ipsf_counters c = counters_of(s->worker[i]);
		CHECK(conserved(s->worker[i]));
		in += c.rx_packets[0] + c.rx_packets[1];
		out += c.tx_packets[0] + c.tx_packets[1] + c.consumed + c.held;
		for (unsigned d = 0; d < IPSF_DROP_COUNT; d++)
			out += c.drops[d];
		given += c.handed_over;
		taken += c.taken_over;
	}
	CHECK(in == out && given == taken);
}

static inline struct ipsf_policy flow_policy(uint8_t net, uint8_t flow, uint32_t reqid)
{
	struct ipsf_policy policy = protect_policy(net, reqid, IPSF_POLICY_HOLD);
	policy.destination.first = policy.destination.last = ipv4(10, (uint8_t)(3 - net), 0, flow);
	return policy;
}

static inline int install_of(struct gateway *g, enum ipsf_command_kind kind, uint32_t spi, uint32_t reqid)
{
	const struct ipsf_selector ts[2] = {net_selector(g->net), net_selector((uint8_t)(3 - g->net))};
	struct ipsf_sa_params params = sa_params(g, spi, ts);
	params.reqid = reqid;
	return command(g, (struct ipsf_command){.kind = kind, .sa = &params});
}

static inline int name_of(struct gateway *g, enum ipsf_command_kind kind, uint32_t spi, uint32_t reqid)
{
	return command(g, (struct ipsf_command){.kind = kind, .reqid = reqid, .spi = spi});
}

/* Policies of all flows: an SA each (reqid = flow + 1), or reqid 1 for all. */
static inline void policies(struct site *a, bool shared)
{
	struct ipsf_policy policy[FLOWS];
	for (uint8_t f = 0; f < FLOWS; f++)
		policy[f] = flow_policy(a->g.net, f, shared ? 1 : f + 1u);
	CHECK(publish(&a->g, policy, FLOWS) == IPSF_OK);
}

/* The SPI of generation `base` for a child: its owner is the same in every generation. */
static inline uint32_t spi_of(uint32_t base, uint32_t reqid)
{
	return reqid << IPSF_OWNER_SHIFT | (base + reqid);
}

static inline void sas(struct site *a, struct site *b, uint32_t spi, uint32_t n)
{
	for (uint32_t reqid = 1; reqid <= n; reqid++) {
		CHECK(install_of(&b->g, IPSF_CMD_INSTALL_INBOUND, spi_of(spi, reqid), reqid) == IPSF_OK);
		CHECK(install_of(&a->g, IPSF_CMD_INSTALL_OUTBOUND, spi_of(spi, reqid), reqid) == IPSF_OK);
		CHECK(name_of(&a->g, IPSF_CMD_ACTIVATE_OUTBOUND, spi_of(spi, reqid), reqid) == IPSF_OK);
	}
}

/* ---- traffic ---- */

/* Where the network brings a packet. */
enum network { RIGHT, WRONG, ANY };

struct traffic {
	struct site *a, *b;
	enum network network;
	uint64_t random;
	uint32_t sent[FLOWS], got[FLOWS], total_sent, total_got, reordered, sealed_lost;
};

static inline unsigned worker_for(struct traffic *t, uint32_t spi)
{
	const unsigned owner = ipsf_owner(spi, N);
	return t->network == RIGHT ? owner : t->network == WRONG ? (owner + 1) % N : (unsigned)(test_random(&t->random) % N);
}

/* A flow stays on one worker of A, as multi-queue TUN has it. */
static inline bool send_numbered(struct traffic *t, uint8_t flow)
{
	uint8_t bytes[1400];
	const uint32_t length = PACKET_MIN + t->sent[flow] % 1300;
	make_packet(bytes, length, t->a->g.net, flow, t->sent[flow]);
	if (ipsf_port_memory_put(t->a->inner[flow % N], bytes, length, NULL, 0) != IPSF_OK)
		return false;
	t->sent[flow]++;
	t->total_sent++;
	return true;
}

/* Sealed packets from A's wires to B's workers. */
static inline void carry(struct traffic *t)
{
	uint8_t bytes[2000], tos;
	struct ipsf_path path;
	int n;
	for (unsigned i = 0; i < N; i++) {
		while ((n = ipsf_port_memory_get(t->a->outer[i], bytes, sizeof bytes, &path, &tos)) > 0) {
			const struct ipsf_path back = {path.remote, path.local, path.remote_port, path.local_port};
			struct ipsf_port *to = t->b->outer[worker_for(t, ipsf_read32(bytes))];
			t->sealed_lost += ipsf_port_memory_put(to, bytes, (size_t)n, &back, tos) != IPSF_OK;
		}
	}
}

static inline bool collect(struct traffic *t)
{
	uint8_t bytes[2000], tos;
	struct ipsf_path path;
	bool any = false;
	for (unsigned i = 0; i < N; i++) {
		while (ipsf_port_memory_get(t->b->inner[i], bytes, sizeof bytes, &path, &tos) > 0) {
			const uint8_t flow = bytes[19];
			const uint32_t number = ipsf_read32(bytes + 28);
			t->reordered += number != t->got[flow];
			t->got[flow] = number + 1;
			t->total_got++;
			any = true;
		}
	}
	return any;
}

static inline void pump(struct traffic *t)
{
	for (uint8_t f = 0; f < FLOWS; f++) {
		while (t->total_sent - t->total_got < OUTSTANDING && send_numbered(t, f) && t->sent[f] % 16)
			continue;
	}
	carry(t);
	collect(t);
}

static inline void settle(struct traffic *t)
{
	for (unsigned idle = 0; t->total_got < t->total_sent && idle < 2000000; idle++) {
		carry(t);
		if (collect(t))
			idle = 0;
		else
			sched_yield();
	}
	CHECK(t->total_got == t->total_sent);
}

static inline void ignore_events(struct site *s)
{
	static uint8_t data[IPSF_IKE_MAX];
	struct ipsf_event event;
	while (ipsf_dataplane_next_event(s->g.dp, &event, data, sizeof data) == 1)
		continue;
}

static inline void finish(struct traffic *t)
{
	settle(t);
	site_stop(t->a);
	site_stop(t->b);
	CHECK(t->sealed_lost == 0 && t->total_sent > 100);
	check_books(t->a);
	check_books(t->b);
	site_free(t->a);
	site_free(t->b);
}

#endif
