/*
 * Per-resource Child SAs (RFC 9611): a tunnel with an SA for all workers and one for each of them. Worker i of A seals by its own, which
 * worker i of B opens. And the same for classes of packets by DSCP. The topology: sites.h.
 */
#define _GNU_SOURCE
#include "sites.h"

#define ALL 0u /* the resource of the SA that all workers may use */

/* Of generation `base`: the SA of a resource has the worker of B as its owner that has the same number. */
static uint32_t own_spi(uint32_t base, unsigned resource)
{
	return (resource ? resource - 1u : 0u) << IPSF_OWNER_SHIFT | (base + resource);
}

static void install_own(struct site *a, struct site *b, uint32_t base, unsigned resource)
{
	const struct ipsf_selector ts[2] = {net_selector(a->g.net), net_selector(b->g.net)};
	struct ipsf_sa_params params = sa_params(&a->g, own_spi(base, resource), ts);
	params.resource = (uint8_t)resource;
	params.resources = resource ? 0 : N;
	CHECK(install_of(&b->g, IPSF_CMD_INSTALL_INBOUND, params.spi, 1) == IPSF_OK);
	CHECK(command(&a->g, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &params}) == IPSF_OK);
}

static void switch_to(struct site *a, uint32_t base, unsigned resource)
{
	CHECK(name_of(&a->g, IPSF_CMD_ACTIVATE_OUTBOUND, own_spi(base, resource), 1) == IPSF_OK);
}

static void both_new(struct site *a, struct site *b, uint32_t base)
{
	site_new(a, 1, 0);
	site_new(b, 2, 0);
	policies(a, true);
	install_own(a, b, base, ALL);
	switch_to(a, base, ALL);
}

static struct ipsf_sa_count count_of(const struct site *s, uint32_t spi)
{
	struct ipsf_sa_count counts[64];
	const size_t n = ipsf_dataplane_sa_counts(s->g.dp, counts, 64);
	CHECK(n <= 64);
	for (size_t i = 0; i < n; i++) {
		if (counts[i].spi == spi)
			return counts[i];
	}
	return (struct ipsf_sa_count){0};
}

/* The next ACQUIRE: its resource; -1: there is none. */
static int asked(struct site *s)
{
	static uint8_t data[IPSF_IKE_MAX];
	struct ipsf_event event;
	while (ipsf_dataplane_next_event(s->g.dp, &event, data, sizeof data) == 1) {
		if (event.kind == IPSF_EVENT_ACQUIRE) {
			CHECK(event.reqid == 1 && event.source.first.bytes[1] == 1 && event.destination.first.bytes[1] == 2);
			return event.resource;
		}
	}
	return -1;
}

static void step(struct traffic *t, unsigned worker)
{
	CHECK(send_numbered(t, (uint8_t)worker));
	CHECK(ipsf_worker_step(t->a->worker[worker]) > 0);
	carry(t);
	for (unsigned i = 0; i < N; i++)
		CHECK(ipsf_worker_step(t->b->worker[i]) >= 0);
	collect(t);
	CHECK(t->total_got == t->total_sent);
}

/* By steps: who asks, when, and which SA carries whose packets. */
static void each_worker_asks_once(void)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = RIGHT};
	both_new(&a, &b, 0x1000);
	for (unsigned turn = 0; turn < 2; turn++) {
		for (unsigned i = 0; i < N; i++) {
			step(&t, i);
			CHECK(asked(&a) == (turn ? -1 : (int)i + 1));
		}
	}
	CHECK(count_of(&a, own_spi(0x1000, ALL)).packets == 2 * N); /* it carries them meanwhile */
	install_own(&a, &b, 0x1000, 2);
	step(&t, 1);
	CHECK(count_of(&a, own_spi(0x1000, 2)).packets == 0 && !count_of(&a, own_spi(0x1000, 2)).active); /* registered only */
	switch_to(&a, 0x1000, 2);
	for (unsigned i = 0; i < N; i++)
		step(&t, i);
	CHECK(count_of(&a, own_spi(0x1000, 2)).packets == 1 && count_of(&a, own_spi(0x1000, 2)).active);
	CHECK(count_of(&a, own_spi(0x1000, ALL)).packets == 2 * N + 1 + N - 1);
	CHECK(name_of(&a.g, IPSF_CMD_REMOVE_OUTBOUND, own_spi(0x1000, 2), 1) == IPSF_OK);
	step(&t, 1); /* back to the one for all, without asking again at once */
	CHECK(asked(&a) == -1 && count_of(&a, own_spi(0x1000, ALL)).packets == 3 * N + 1);
	check_books(&a);
	check_books(&b);
	site_free(&a);
	site_free(&b);
}

/* The peer has more resources than we have workers; and its SA for all is gone while one of a worker stays. */
static void the_odd_ones(void)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = RIGHT};
	both_new(&a, &b, 0x1000);
	install_own(&a, &b, 0x1000, N + 1);
	switch_to(&a, 0x1000, N + 1);
	install_own(&a, &b, 0x1000, 1);
	switch_to(&a, 0x1000, 1);
	for (unsigned i = 0; i < N; i++)
		step(&t, i);
	CHECK(count_of(&a, own_spi(0x1000, N + 1)).packets == 0 && !count_of(&a, own_spi(0x1000, N + 1)).active);
	while (asked(&a) >= 0)
		continue;
	CHECK(name_of(&a.g, IPSF_CMD_REMOVE_OUTBOUND, own_spi(0x1000, ALL), 1) == IPSF_OK);
	step(&t, 0);
	CHECK(asked(&a) == -1);
	CHECK(send_numbered(&t, 1) && ipsf_worker_step(a.worker[1]) > 0);
	CHECK(counters_of(a.worker[1]).held == 1 && asked(&a) == 0); /* it needs one for all again */
	install_own(&a, &b, 0x2000, 2);
	switch_to(&a, 0x2000, 2); /* or its own */
	CHECK(ipsf_worker_step(a.worker[1]) >= 0 && counters_of(a.worker[1]).held == 0);
	check_books(&a);
	site_free(&a);
	site_free(&b);
}

/* The new one of a worker, the switch, the old one away (RFC 7296 s2.8): each by itself. */
static void rekey_own(struct traffic *t, uint32_t old, uint32_t new)
{
	for (unsigned resource = ALL; resource <= N; resource++) {
		install_own(t->a, t->b, new, resource);
		pump(t);
		switch_to(t->a, new, resource);
		CHECK(name_of(&t->a->g, IPSF_CMD_REMOVE_OUTBOUND, own_spi(old, resource), 1) == IPSF_OK);
		pump(t);
	}
	settle(t);
	for (unsigned resource = ALL; resource <= N; resource++)
		CHECK(name_of(&t->b->g, IPSF_CMD_REMOVE_INBOUND, own_spi(old, resource), 1) == IPSF_OK);
}

/* Under load and rekeys: nothing is lost, flows stay in order, every packet is opened where it came, the SA for all carries none. */
static void under_rekeys(void)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = RIGHT};
	both_new(&a, &b, 0x1000);
	for (unsigned resource = 1; resource <= N; resource++) {
		install_own(&a, &b, 0x1000, resource);
		switch_to(&a, 0x1000, resource);
	}
	site_start(&a);
	site_start(&b);
	for (uint32_t turn = 0; turn < 12; turn++) {
		const uint32_t base = 0x1000 + 16 * turn;
		for (unsigned i = 0; i < 10; i++)
			pump(&t);
		policies(&a, true);
		CHECK(count_of(&a, own_spi(base, ALL)).packets == 0);
		rekey_own(&t, base, base + 16);
		CHECK(t.reordered == 0);
		CHECK(asked(&a) == -1);
		ignore_events(&b);
	}
	for (unsigned i = 0; i < N; i++)
		CHECK(counters_of(b.worker[i]).handed_over == 0 && counters_of(b.worker[i]).tx_packets[1] > 0);
	finish(&t);
}

/* SAs of workers come and go under load; what has none takes the one for all, and nothing is lost. */
static void come_and_go(void)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = RIGHT};
	both_new(&a, &b, 0x1000);
	site_start(&a);
	site_start(&b);
	for (uint32_t turn = 1; turn < 60; turn++) {
		const uint32_t base = 0x1000 + 16 * turn;
		const unsigned resource = 1 + turn % N;
		install_own(&a, &b, base, resource);
		pump(&t);
		switch_to(&a, base, resource);
		pump(&t);
		CHECK(name_of(&a.g, IPSF_CMD_REMOVE_OUTBOUND, own_spi(base, resource), 1) == IPSF_OK);
		pump(&t);
		settle(&t);
		CHECK(name_of(&b.g, IPSF_CMD_REMOVE_INBOUND, own_spi(base, resource), 1) == IPSF_OK);
		ignore_events(&a);
		ignore_events(&b);
	}
	finish(&t);
}

/* ---- classes of packets (RFC 4301 s4.1) ---- */

#define EF (46u << 2)
#define BATCHED 40u

static void send_classed(struct traffic *t, uint8_t tos, uint32_t number)
{
	uint8_t bytes[100];
	make_packet(bytes, sizeof bytes, t->a->g.net, 0, number);
	bytes[1] = tos;
	ipsf_write16(bytes + 10, 0);
	ipsf_write16(bytes + 10, ipsf_checksum_fold(ipsf_checksum_add(bytes, 20, 0)));
	CHECK(ipsf_port_memory_put(t->a->inner[0], bytes, sizeof bytes, NULL, 0) == IPSF_OK);
}

/* A network that lets expedited packets overtake all others: who arrives at B, out of `rounds` batches of both kinds, window 64. */
static uint64_t overtaken(struct traffic *t, unsigned rounds)
{
	static uint8_t late[64 * BATCHED][200];
	struct ipsf_path path, back = {0};
	int length[64 * BATCHED], n;
	unsigned waiting = 0;
	uint8_t tos;
	for (uint32_t round = 0; round < rounds; round++) {
		for (uint32_t i = 0; i < BATCHED; i++)
			send_classed(t, i % 2 ? EF : 0, round * BATCHED + i);
		CHECK(ipsf_worker_step(t->a->worker[0]) > 0);
		while ((n = ipsf_port_memory_get(t->a->outer[0], late[waiting], sizeof late[0], &path, &tos)) > 0) {
			const uint32_t spi = ipsf_read32(late[waiting]);
			back = (struct ipsf_path){path.remote, path.local, path.remote_port, path.local_port};
			if (tos == EF)
				CHECK(ipsf_port_memory_put(t->b->outer[ipsf_owner(spi, N)], late[waiting], (size_t)n, &back, tos) == IPSF_OK);
			else
				length[waiting++] = n;
		}
		for (unsigned i = 0; i < N; i++)
			CHECK(ipsf_worker_step(t->b->worker[i]) >= 0);
	}
	for (unsigned i = 0; i < waiting; i++) {
		struct ipsf_port *to = t->b->outer[ipsf_owner(ipsf_read32(late[i]), N)];
		CHECK(ipsf_port_memory_put(to, late[i], (size_t)length[i], &back, 0) == IPSF_OK);
		for (unsigned w = 0; w < N; w++)
			CHECK(ipsf_worker_step(t->b->worker[w]) >= 0);
	}
	uint64_t arrived = 0;
	for (unsigned i = 0; i < N; i++)
		arrived += counters_of(t->b->worker[i]).tx_packets[1];
	return arrived;
}

static void install_class(struct site *a, struct site *b, uint32_t spi, unsigned resource)
{
	const struct ipsf_selector from_a[2] = {net_selector(a->g.net), net_selector(b->g.net)};
	const struct ipsf_selector from_b[2] = {net_selector(b->g.net), net_selector(a->g.net)};
	struct ipsf_sa_params out = sa_params(&a->g, spi, from_a), in = sa_params(&b->g, spi, from_b);
	in.replay_window = 64;
	out.resource = (uint8_t)resource;
	out.resources = resource ? 0 : 1;
	out.by_dscp = 1;
	out.dscp[EF >> 2] = 1;
	CHECK(command(&b->g, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_INBOUND, .sa = &in}) == IPSF_OK);
	CHECK(command(&a->g, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &out}) == IPSF_OK);
	CHECK(name_of(&a->g, IPSF_CMD_ACTIVATE_OUTBOUND, spi, 1) == IPSF_OK);
}

/* With one SA the window is far ahead when the others come; with one for each class both windows go at their own pace. */
static void classes_against_the_window(bool classes)
{
	struct site a, b;
	struct traffic t = {.a = &a, .b = &b, .network = RIGHT};
	const unsigned rounds = 20;
	site_new(&a, 1, 0);
	site_new(&b, 2, 0);
	policies(&a, true);
	install_class(&a, &b, 0x1000, ALL);
	if (classes)
		install_class(&a, &b, 0x1001, 1);
	const uint64_t arrived = overtaken(&t, rounds);
	CHECK(classes ? arrived == rounds * BATCHED : arrived < rounds * BATCHED * 3 / 4);
	CHECK(classes ? asked(&a) == -1 : asked(&a) == 1);
	CHECK(asked(&a) == -1);
	if (classes)
		CHECK(count_of(&a, 0x1001).packets == rounds * BATCHED / 2 && count_of(&a, 0x1000).packets == rounds * BATCHED / 2);
	check_books(&a);
	check_books(&b);
	site_free(&a);
	site_free(&b);
}

int main(void)
{
	each_worker_asks_once();
	the_odd_ones();
	under_rekeys();
	come_and_go();
	classes_against_the_window(false);
	classes_against_the_window(true);
	return check_summary("test_resources");
}
