/* Several workers of one gateway: order, rekeys, what waits, what is handed over, what idleness costs. The topology: sites.h. */
#define _GNU_SOURCE
#include "sites.h"

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
