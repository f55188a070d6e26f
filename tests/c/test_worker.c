/* Workers in threads of their own: traffic both ways under rekeys without a loss, waking, stopping, ports that die. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "gateways.h"

#define OUTSTANDING 400u /* packets on their way at a time: fewer than any ring holds */

static void *run(void *worker)
{
	CHECK(ipsf_worker_run(worker) == IPSF_OK);
	return NULL;
}

struct threads {
	struct ipsf_worker *worker[4];
	pthread_t thread[4];
};

static void start(struct threads *t, struct gateway *a, struct gateway *b)
{
	*t = (struct threads){.worker = {a->out, a->in, b->out, b->in}};
	for (unsigned i = 0; i < 4; i++)
		CHECK(pthread_create(&t->thread[i], NULL, run, t->worker[i]) == 0);
}

static void stop(struct threads *t)
{
	for (unsigned i = 0; i < 4; i++)
		ipsf_worker_stop(t->worker[i]);
	for (unsigned i = 0; i < 4; i++)
		CHECK(pthread_join(t->thread[i], NULL) == 0);
}

/* Numbered packets from one gateway's host to the other's. */
struct stream {
	struct gateway *from, *to;
	uint32_t sent, got, wrong;
};

static void pump(struct stream *s)
{
	uint32_t number = 0;
	while (s->sent - s->got < OUTSTANDING && send_packet(s->from, PACKET_MIN + s->sent % 1300, 1, s->sent) == IPSF_OK)
		s->sent++;
	for (; next_packet(s->to, &number) > 0; s->got++)
		s->wrong += number != s->got;
}

static void settle(struct stream *s)
{
	uint32_t number = 0;
	while (s->got < s->sent) {
		if (next_packet(s->to, &number) > 0)
			s->wrong += number != s->got++;
		else
			sched_yield();
	}
}

static void ignore_events(struct gateway *g)
{
	static uint8_t data[IPSF_IKE_MAX];
	struct ipsf_event event;
	while (ipsf_dataplane_next_event(g->dp, &event, data, sizeof data) == 1)
		;
}

/* RFC 7296 s2.8 in the order of a rekey: the new pair, the new policies, the switch, and the old pair away when it is
 * empty. */
static void rekey(struct stream *s, uint32_t old)
{
	const struct ipsf_policy policy = protect_policy(s->from->net, 1, 0);
	CHECK(install(s->to, IPSF_CMD_INSTALL_INBOUND, old + 1) == IPSF_OK);
	CHECK(install(s->from, IPSF_CMD_INSTALL_OUTBOUND, old + 1) == IPSF_OK);
	CHECK(publish(s->from, &policy, 1) == IPSF_OK);
	pump(s);
	CHECK(activate(s->from, old + 1) == IPSF_OK);
	CHECK(remove_sa(s->from, IPSF_CMD_REMOVE_OUTBOUND, old) == IPSF_OK);
	pump(s);
	settle(s);
	CHECK(remove_sa(s->to, IPSF_CMD_REMOVE_INBOUND, old) == IPSF_OK);
}

static void check_stream(const struct stream *s)
{
	CHECK(s->got == s->sent && s->wrong == 0 && s->sent > 0);
}

static void under_traffic(void)
{
	struct gateway a, b;
	struct threads threads;
	gateways_new(&a, &b, 1024, true);
	one_way(&a, &b, 0x1000);
	one_way(&b, &a, 0x2000);
	start(&threads, &a, &b);
	struct stream there = {.from = &a, .to = &b}, back = {.from = &b, .to = &a};
	for (uint32_t turn = 0; turn < 40; turn++) {
		struct ipsf_sa_status status[8];
		for (unsigned i = 0; i < 20; i++) {
			pump(&there);
			pump(&back);
		}
		rekey(&there, 0x1000 + turn);
		rekey(&back, 0x2000 + turn);
		CHECK(ipsf_dataplane_sa_status(a.dp, status, 8) == 2 && ipsf_dataplane_sa_status(b.dp, status, 8) == 2);
		ignore_events(&a);
		ignore_events(&b);
	}
	settle(&there);
	settle(&back);
	stop(&threads);
	check_stream(&there);
	check_stream(&back);
	for (unsigned i = 0; i < 4; i++)
		CHECK(conserved(threads.worker[i]));
	gateway_free(&a);
	gateway_free(&b);
}

/* What is held goes out when the SA comes although nothing else wakes the worker, and before what came later. */
static void woken_by_activation(void)
{
	struct gateway a, b;
	struct threads threads;
	const struct ipsf_policy policy = protect_policy(1, 1, IPSF_POLICY_HOLD);
	uint32_t number = 0;
	gateways_new(&a, &b, 1024, true);
	CHECK(publish(&a, &policy, 1) == IPSF_OK);
	start(&threads, &a, &b);
	for (uint32_t i = 0; i < 20; i++)
		CHECK(send_packet(&a, 100, 1, i) == IPSF_OK);
	struct ipsf_counters counters = {0};
	while (counters.held < 20) {
		sched_yield();
		ipsf_worker_counters(a.out, &counters);
	}
	CHECK(install(&b, IPSF_CMD_INSTALL_INBOUND, 0x1000) == IPSF_OK && install(&a, IPSF_CMD_INSTALL_OUTBOUND, 0x1000) == IPSF_OK);
	CHECK(activate(&a, 0x1000) == IPSF_OK);
	for (uint32_t i = 20; i < 40; i++)
		CHECK(send_packet(&a, 100, 1, i) == IPSF_OK);
	for (uint32_t got = 0; got < 40;) {
		if (next_packet(&b, &number) > 0)
			CHECK(number == got++);
		else
			sched_yield();
	}
	stop(&threads);
	CHECK(conserved(a.out));
	gateway_free(&a);
	gateway_free(&b);
}

/* SAs, policies and paths come and go as fast as they can while packets look them up; most are dropped, none
 * vanishes. */
static void commands_against_packets(void)
{
	struct gateway a, b;
	struct threads threads;
	struct stream s = {.from = &a, .to = &b};
	uint32_t number;
	gateways_new(&a, &b, 1024, true);
	start(&threads, &a, &b);
	for (uint32_t turn = 0; turn < 300; turn++) {
		const uint32_t spi = 0x1000 + turn;
		const struct ipsf_policy policy = protect_policy(1, 1, turn % 3 ? IPSF_POLICY_HOLD : 0);
		struct ipsf_path path = path_from(1);
		path.remote_port = (uint16_t)(1024 + turn);
		for (unsigned i = 0; i < 50; i++)
			s.sent += send_packet(&a, 100, 1, i) == IPSF_OK;
		CHECK(publish(&a, &policy, turn % 5 != 0) == IPSF_OK);
		CHECK(install(&b, IPSF_CMD_INSTALL_INBOUND, spi) == IPSF_OK && install(&a, IPSF_CMD_INSTALL_OUTBOUND, spi) == IPSF_OK);
		CHECK(activate(&a, spi) == IPSF_OK);
		CHECK(install(&a, IPSF_CMD_INSTALL_INBOUND, spi) == IPSF_OK);
		CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_MOVE_PEER, .reqid = 1, .spi = spi, .inbound_spi = spi,
							.path = &path}) == IPSF_OK);
		while (next_packet(&b, &number) > 0)
			s.got++;
		CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_RELEASE_HELD, .reqid = 1}) == IPSF_OK);
		CHECK(remove_sa(&a, IPSF_CMD_REMOVE_OUTBOUND, spi) == IPSF_OK && remove_sa(&a, IPSF_CMD_REMOVE_INBOUND, spi) == IPSF_OK);
		CHECK(remove_sa(&b, IPSF_CMD_REMOVE_INBOUND, spi) == IPSF_OK);
		ignore_events(&a);
		ignore_events(&b);
	}
	stop(&threads);
	CHECK(s.sent > 1000);
	for (unsigned i = 0; i < 4; i++)
		CHECK(conserved(threads.worker[i]));
	gateway_free(&a);
	gateway_free(&b);
}

/* A port whose descriptor is gone ends the worker with an error instead of a busy loop. */
static int broken_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	(void)port;
	(void)batch;
	(void)drops;
	return IPSF_ESYS;
}

static void broken_port(void)
{
	static const struct ipsf_port_ops ops = {.recv = broken_recv};
	struct ipsf_port broken = {.ops = &ops, .fd = -1}, *inner, *host;
	struct ipsf_dataplane *dp;
	struct ipsf_worker *worker;
	struct ipsf_port *outer[1] = {&broken};
	int ends[2];
	CHECK(pipe(ends) == 0 && write(ends[1], "x", 1) == 1);
	broken.fd = ends[0];
	CHECK(ipsf_port_memory_pair(16, &inner, &host) == IPSF_OK && ipsf_dataplane_new("auto", &dp) == IPSF_OK);
	CHECK(ipsf_dataplane_add_worker(dp, "w", &inner, 1, outer, 1, 3, &worker) == IPSF_OK);
	CHECK(ipsf_worker_run(worker) == IPSF_ESYS && ipsf_worker_step(worker) == IPSF_ESYS);
	ipsf_worker_stop(worker);
	CHECK(ipsf_worker_run(worker) == IPSF_OK); /* stopped before it began */
	ipsf_dataplane_free(dp);
	ipsf_port_free(inner);
	ipsf_port_free(host);
	close(ends[0]);
	close(ends[1]);
}

int main(void)
{
	under_traffic();
	woken_by_activation();
	commands_against_packets();
	broken_port();
	return check_summary("test_worker");
}
