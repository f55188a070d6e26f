/*
 * Several workers of one gateway. B has N of them, each with its own outer and inner port; the test plays the hosts of both, and the
 * network between, which brings packets to the right worker, to the wrong one, or to any:
 *
 *     test -> | A: N workers | -> test (the network) -> | B: N workers | -> test
 *
 * Flow f is the packets for 10.2.0.f, SA f protects them (reqid f, or one SA for all). Numbers of a flow grow: order is checked.
 */
#define _GNU_SOURCE
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

static void site_new(struct site *s, uint8_t net, unsigned flags)
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

static void site_free(struct site *s)
{
	ipsf_dataplane_free(s->g.dp);
	for (unsigned i = 0; i < N; i++) {
		ipsf_port_free(s->inner[i]);
		ipsf_port_free(s->host[i]);
		ipsf_port_free(s->outer[i]);
		ipsf_port_free(s->wire[i]);
	}
}

static void *run(void *worker)
{
	CHECK(ipsf_worker_run(worker) == IPSF_OK);
	return NULL;
}

static void site_start(struct site *s)
{
	for (unsigned i = 0; i < N; i++)
		CHECK(pthread_create(&s->thread[i], NULL, run, s->worker[i]) == 0);
}

static void site_stop(struct site *s)
{
	for (unsigned i = 0; i < N; i++)
		ipsf_worker_stop(s->worker[i]);
	for (unsigned i = 0; i < N; i++)
		CHECK(pthread_join(s->thread[i], NULL) == 0);
}

static struct ipsf_counters counters_of(const struct ipsf_worker *worker)
{
	struct ipsf_counters counters;
	ipsf_worker_counters(worker, &counters);
	return counters;
}

/* Each worker's books balance, and over all of them a packet that was handed over counts once. */
static void check_books(const struct site *s)
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

static struct ipsf_policy flow_policy(uint8_t net, uint8_t flow, uint32_t reqid)
{
	struct ipsf_policy policy = protect_policy(net, reqid, IPSF_POLICY_HOLD);
	policy.destination.first = policy.destination.last = ipv4(10, (uint8_t)(3 - net), 0, flow);
	return policy;
}

static int install_of(struct gateway *g, enum ipsf_command_kind kind, uint32_t spi, uint32_t reqid)
{
	const struct ipsf_selector ts[2] = {net_selector(g->net), net_selector((uint8_t)(3 - g->net))};
	struct ipsf_sa_params params = sa_params(g, spi, ts);
	params.reqid = reqid;
	return command(g, (struct ipsf_command){.kind = kind, .sa = &params});
}

static int name_of(struct gateway *g, enum ipsf_command_kind kind, uint32_t spi, uint32_t reqid)
{
	return command(g, (struct ipsf_command){.kind = kind, .reqid = reqid, .spi = spi});
}

/* Policies of all flows: an SA each (reqid = flow + 1), or reqid 1 for all. */
static void policies(struct site *a, bool shared)
{
	struct ipsf_policy policy[FLOWS];
	for (uint8_t f = 0; f < FLOWS; f++)
		policy[f] = flow_policy(a->g.net, f, shared ? 1 : f + 1u);
	CHECK(publish(&a->g, policy, FLOWS) == IPSF_OK);
}

/* The SPI of generation `base` for a child: its owner is the same in every generation. */
static uint32_t spi_of(uint32_t base, uint32_t reqid)
{
	return reqid << IPSF_OWNER_SHIFT | (base + reqid);
}

static void sas(struct site *a, struct site *b, uint32_t spi, uint32_t n)
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

static unsigned worker_for(struct traffic *t, uint32_t spi)
{
	const unsigned owner = ipsf_owner(spi, N);
	return t->network == RIGHT ? owner : t->network == WRONG ? (owner + 1) % N : (unsigned)(test_random(&t->random) % N);
}

/* A flow stays on one worker of A, as multi-queue TUN has it. */
static bool send_numbered(struct traffic *t, uint8_t flow)
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
static void carry(struct traffic *t)
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

static bool collect(struct traffic *t)
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

static void pump(struct traffic *t)
{
	for (uint8_t f = 0; f < FLOWS; f++) {
		while (t->total_sent - t->total_got < OUTSTANDING && send_numbered(t, f) && t->sent[f] % 16)
			continue;
	}
	carry(t);
	collect(t);
}

static void settle(struct traffic *t)
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

static void ignore_events(struct site *s)
{
	static uint8_t data[IPSF_IKE_MAX];
	struct ipsf_event event;
	while (ipsf_dataplane_next_event(s->g.dp, &event, data, sizeof data) == 1)
		continue;
}

static void finish(struct traffic *t)
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

/* ---- the tests ---- */

/* The new pair, the switch, and the old one away when it is empty (RFC 7296 s2.8), for every reqid. */
static void rekey(struct traffic *t, uint32_t old, uint32_t new, uint32_t n)
{
	for (uint32_t reqid = 1; reqid <= n; reqid++) {
		CHECK(install_of(&t->b->g, IPSF_CMD_INSTALL_INBOUND, spi_of(new, reqid), reqid) == IPSF_OK);
		CHECK(install_of(&t->a->g, IPSF_CMD_INSTALL_OUTBOUND, spi_of(new, reqid), reqid) == IPSF_OK);
		pump(t);
		CHECK(name_of(&t->a->g, IPSF_CMD_ACTIVATE_OUTBOUND, spi_of(new, reqid), reqid) == IPSF_OK);
		CHECK(name_of(&t->a->g, IPSF_CMD_REMOVE_OUTBOUND, spi_of(old, reqid), reqid) == IPSF_OK);
		pump(t);
	}
	settle(t);
	for (uint32_t reqid = 1; reqid <= n; reqid++)
		CHECK(name_of(&t->b->g, IPSF_CMD_REMOVE_INBOUND, spi_of(old, reqid), reqid) == IPSF_OK);
}

/*
 * Traffic on all workers while SAs are rekeyed and policies published: nothing is lost, whatever the network does; a flow whose
 * packets all come to one worker, the owner or not, arrives in order.
 */
static void under_rekeys(enum network network, bool shared, unsigned flags)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = network, .random = 7};
	const uint32_t n = shared ? 1 : FLOWS;
	uint64_t handed = 0;
	site_new(&a, 1, flags);
	site_new(&b, 2, flags);
	policies(&a, shared);
	sas(&a, &b, 0x1000, n);
	site_start(&a);
	site_start(&b);
	for (uint32_t turn = 0; turn < 12; turn++) {
		for (unsigned i = 0; i < 10; i++)
			pump(&t);
		policies(&a, shared);
		rekey(&t, 0x1000 + 16 * turn, 0x1000 + 16 * (turn + 1), n);
		if (network != ANY && !shared)
			CHECK(t.reordered == 0);
		ignore_events(&a);
		ignore_events(&b);
	}
	for (unsigned i = 0; i < N; i++)
		handed += counters_of(b.worker[i]).handed_over;
	CHECK(network == RIGHT ? handed == 0 : network == WRONG ? handed == t.total_sent : handed > 0);
	finish(&t);
}

/* One flow of one SA while other workers seal with the same SA: its numbers arrive in order, reorder depth 0. */
static void order_of_a_shared_sa(void)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = RIGHT};
	site_new(&a, 1, 0);
	site_new(&b, 2, 0);
	policies(&a, true);
	sas(&a, &b, 0x1000, 1);
	site_start(&a);
	site_start(&b);
	for (unsigned i = 0; i < 300; i++)
		pump(&t);
	settle(&t);
	CHECK(t.reordered == 0);
	finish(&t);
}

/* Packets that wait at several workers for their SA leave in the order of their flows when it comes; none is lost. */
static void held_at_all_workers(bool released)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = RIGHT};
	uint64_t held = 0;
	site_new(&a, 1, 0);
	site_new(&b, 2, 0);
	policies(&a, true);
	site_start(&a);
	site_start(&b);
	for (unsigned i = 0; i < 20; i++) {
		for (uint8_t f = 0; f < FLOWS; f++)
			CHECK(send_numbered(&t, f));
	}
	while (held < t.total_sent) {
		held = 0;
		for (unsigned i = 0; i < N; i++)
			held += counters_of(a.worker[i]).held;
		sched_yield();
	}
	if (released) {
		CHECK(command(&a.g, (struct ipsf_command){.kind = IPSF_CMD_RELEASE_HELD, .reqid = 1}) == IPSF_OK);
		for (uint64_t dropped = 0; dropped < t.total_sent; sched_yield()) {
			dropped = 0;
			for (unsigned i = 0; i < N; i++)
				dropped += drops_of(a.worker[i], IPSF_DROP_HOLD_RELEASED);
		}
		t.total_got = t.total_sent;
		memcpy(t.got, t.sent, sizeof t.got);
	}
	sas(&a, &b, 0x1000, 1);
	for (unsigned i = 0; i < 30; i++)
		pump(&t);
	settle(&t);
	CHECK(t.reordered == 0);
	finish(&t);
}

/* SAs, policies and held packets come and go as fast as they can under load: most is dropped for a reason, none vanishes. */
static void commands_against_packets(void)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = ANY, .random = 11};
	site_new(&a, 1, 0);
	site_new(&b, 2, 0);
	site_start(&a);
	site_start(&b);
	for (uint32_t turn = 0; turn < 200; turn++) {
		const uint32_t spi = 0x1000 + 8 * turn;
		policies(&a, turn % 3 == 0);
		sas(&a, &b, spi, turn % 3 == 0 ? 1 : FLOWS);
		for (uint8_t i = 0; i < 60; i++)
			(void)send_numbered(&t, i % FLOWS);
		carry(&t);
		collect(&t);
		CHECK(command(&a.g, (struct ipsf_command){.kind = IPSF_CMD_RELEASE_HELD, .reqid = 1}) == IPSF_OK);
		for (uint32_t reqid = 1; reqid <= (turn % 3 == 0 ? 1 : FLOWS); reqid++) {
			CHECK(name_of(&a.g, IPSF_CMD_REMOVE_OUTBOUND, spi_of(spi, reqid), reqid) == IPSF_OK);
			CHECK(name_of(&b.g, IPSF_CMD_REMOVE_INBOUND, spi_of(spi, reqid), reqid) == IPSF_OK);
		}
		ignore_events(&a);
		ignore_events(&b);
	}
	site_stop(&a);
	carry(&t);
	site_stop(&b);
	for (unsigned i = 0; i < 2 * N; i++) /* what was handed over to one that had stopped */
		CHECK(ipsf_worker_step(b.worker[i % N]) >= 0);
	check_books(&a);
	check_books(&b);
	site_free(&a);
	site_free(&b);
}

/* By steps: the events are the owner's, a full ring drops and counts, what is left is taken later. */
static void full_ring(void)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = WRONG};
	struct ipsf_event event;
	uint8_t data[64];
	site_new(&a, 1, 0);
	site_new(&b, 2, 0);
	policies(&a, true);
	sas(&a, &b, 0x1000, 1);
	const unsigned owner = ipsf_owner(spi_of(0x1000, 1), N), wrong = (owner + 1) % N;
	for (unsigned round = 0; round < 60; round++) {
		for (unsigned i = 0; i < 40; i++)
			CHECK(send_numbered(&t, 0));
		CHECK(ipsf_worker_step(a.worker[0]) > 0);
		carry(&t);
		CHECK(ipsf_worker_step(b.worker[wrong]) == 40);
	}
	const struct ipsf_counters gave = counters_of(b.worker[wrong]);
	CHECK(gave.drops[IPSF_DROP_HANDOVER_FULL] > 0 && gave.handed_over + gave.drops[IPSF_DROP_HANDOVER_FULL] == 2400);
	CHECK(ipsf_dataplane_next_event(b.g.dp, &event, data, sizeof data) == 0);
	while (ipsf_worker_step(b.worker[owner]) > 0)
		collect(&t);
	CHECK(t.total_got == gave.handed_over && counters_of(b.worker[owner]).taken_over == t.total_got);
	CHECK(ipsf_dataplane_next_event(b.g.dp, &event, data, sizeof data) == 1 && event.kind == IPSF_EVENT_FIRST_INBOUND);
	check_books(&b);
	site_free(&a);
	site_free(&b);
}

/* An idle worker sleeps; a busy one does not, unless it was asked to. */
static void cost_of_idleness(void)
{
	struct site s;
	for (unsigned flags = 0; flags <= IPSF_WORKER_BUSY; flags += IPSF_WORKER_BUSY) {
		uint64_t used = 0;
		site_new(&s, 1, flags);
		site_start(&s);
		usleep(50000);
		for (unsigned i = 0; i < N; i++)
			used -= counters_of(s.worker[i]).cpu_ns;
		usleep(300000);
		for (unsigned i = 0; i < N; i++)
			used += counters_of(s.worker[i]).cpu_ns;
		CHECK(flags ? used > 30000000 : used < 3000000); /* of 300 ms */
		site_stop(&s);
		for (unsigned i = 0; i < N && !flags; i++)
			CHECK(counters_of(s.worker[i]).cpu_ns > 0); /* the thread is gone, its time is not */
		site_free(&s);
	}
}

int main(void)
{
	under_rekeys(RIGHT, false, 0);
	under_rekeys(WRONG, false, 0);
	under_rekeys(ANY, false, 0);
	under_rekeys(WRONG, true, 0);
	under_rekeys(WRONG, false, IPSF_WORKER_BUSY);
	order_of_a_shared_sa();
	held_at_all_workers(false);
	held_at_all_workers(true);
	commands_against_packets();
	full_ring();
	cost_of_idleness();
	return check_summary("test_workers");
}
