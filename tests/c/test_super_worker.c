/*
 * Super-packets through a worker: sealed, held and in the clear, by full rings and small ones. Each counts as the packets that it
 * stands for, everywhere, and what leaves is what the naive cut yields.
 *
 *     source (10.1.0.1) -- inner | A | a.outer -- b.outer | B | b.inner -- test (10.2.0.2)
 */
#include "gateways.h"
#include "super_packets.h"
#include "vnet.h"

#define WAITING 8

/* An inner port that hands over the super-packets that stand in wait[]. */
struct port_source {
	struct ipsf_port port;
	struct super wait[WAITING];
	unsigned n, taken;
};

static struct port_source source;
static struct gateway a, b;
static uint8_t expected[SUPER_MAX], got[SUPER_MAX];

static int source_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct port_source *s = (struct port_source *)port;
	for (; s->taken < s->n; s->taken++) {
		struct super *super = &s->wait[s->taken];
		struct ipsf_buffer *buffer = ipsf_pool_take(batch->pool);
		uint8_t *data = buffer->bytes + IPSF_HEADROOM;
		memcpy(data, super_data(super), super->length);
		if (!ipsf_vnet_accept(&super->vnet, ipsf_batch_add(batch, buffer, data, super->length)))
			drops[IPSF_DROP_SUPER_PACKET]++;
	}
	return (int)batch->n;
}

static void source_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	(void)port, (void)packets, (void)n;
}

static const struct ipsf_port_ops source_ops = {.recv = source_recv, .send = source_send};

static void setup(size_t capacity)
{
	struct ipsf_port *left, *right, *inner = &source.port;
	source = (struct port_source){.port = {.ops = &source_ops, .fd = -1, .receive_size = 96u << 10}};
	CHECK(ipsf_port_memory_pair(capacity, &left, &right) == IPSF_OK);
	gateway_new(&b, 2, right, 1024, false);
	a = (struct gateway){.net = 1, .outer = left};
	CHECK(ipsf_dataplane_new("auto", &a.dp) == IPSF_OK);
	CHECK(ipsf_dataplane_add_worker(a.dp, "a", &inner, 1, &a.outer, 1, 3, &a.out) == IPSF_OK);
	a.in = a.out;
}

static void teardown(void)
{
	CHECK(conserved(a.out) && conserved(b.out));
	ipsf_dataplane_free(a.dp);
	ipsf_port_free(a.outer);
	gateway_free(&b);
}

/* Another super-packet of n segments waits at A. */
static void add(uint64_t *seed, unsigned n, uint32_t size)
{
	struct super *s = &source.wait[source.n++];
	do
		super_make(seed, s, 4, below(seed, 2) ? 6 : 17, (n - 1) * size + 1 + below(seed, size), size);
	while (super_count(s) != n);
	const struct ipsf_addr from = ipv4(10, 1, 0, 1), to = ipv4(10, 2, 0, 2);
	super_between(s, from.bytes, to.bytes);
}

static void step(struct gateway *g)
{
	CHECK(ipsf_worker_step(g->out) >= 0);
}

/* What port sent is segments first..last - 1 of super-packet s. */
static void expect(struct ipsf_port *port, const struct super *s, uint32_t first, uint32_t last)
{
	struct ipsf_path path;
	uint8_t tos;
	for (uint32_t i = first; i < last; i++) {
		const int length = ipsf_port_memory_get(port, got, sizeof got, &path, &tos);
		CHECK(length == (int)naive_segment(s, i, expected) && memcmp(got, expected, (size_t)length) == 0);
	}
}

static struct ipsf_counters counters(const struct gateway *g)
{
	struct ipsf_counters c;
	ipsf_worker_counters(g->out, &c);
	return c;
}

static void sealed(uint64_t *seed)
{
	uint64_t packets = 0;
	setup(1024);
	one_way(&a, &b, 4242);
	for (unsigned round = 0; round < 100; round++) {
		source.n = source.taken = 0;
		for (unsigned i = 1 + below(seed, WAITING); i; i--) {
			const unsigned n = 1 + below(seed, 64);
			add(seed, n, 1 + below(seed, 60000 / n < 1400 ? 60000 / n : 1400));
			packets += n;
		}
		step(&a);
		for (unsigned i = 0; i < 10; i++) /* batches */
			step(&b);
		for (unsigned i = 0; i < source.n; i++)
			expect(b.inner, &source.wait[i], 0, super_count(&source.wait[i]));
	}
	CHECK(counters(&a).rx_packets[0] == packets && counters(&a).tx_packets[0] == packets);
	CHECK(counters(&b).rx_packets[1] == packets && counters(&b).tx_packets[1] == packets);
	teardown();
}

/* The ring takes the first ten: the others are lost, the counters say so, and the next super-packet is lost whole. */
static void full_ring(uint64_t *seed)
{
	setup(10);
	one_way(&a, &b, 4242);
	add(seed, 25, 500);
	add(seed, 30, 100);
	step(&a);
	CHECK(counters(&a).tx_packets[0] == 10 && counters(&a).drops[IPSF_DROP_PORT_FULL] == 45 && conserved(a.out));
	step(&b);
	expect(b.inner, &source.wait[0], 0, 10);
	teardown();
}

static void held(uint64_t *seed)
{
	const struct ipsf_policy policy = protect_policy(1, 1, IPSF_POLICY_HOLD);
	setup(1024);
	CHECK(publish(&a, &policy, 1) == IPSF_OK);
	add(seed, 30, 1000);
	add(seed, 34, 200);
	add(seed, 2, 200); /* would be the 65th and 66th */
	step(&a);
	CHECK(counters(&a).held == 64 && counters(&a).drops[IPSF_DROP_HOLD_FULL] == 2 && conserved(a.out));
	CHECK(install(&b, IPSF_CMD_INSTALL_INBOUND, 4242) == IPSF_OK && install(&a, IPSF_CMD_INSTALL_OUTBOUND, 4242) == IPSF_OK);
	CHECK(activate(&a, 4242) == IPSF_OK);
	step(&a);
	CHECK(counters(&a).held == 0 && counters(&a).tx_packets[0] == 64);
	step(&b);
	expect(b.inner, &source.wait[0], 0, 30);
	expect(b.inner, &source.wait[1], 0, 34);
	teardown();
}

/* Held ones whose SA does not come are counted one by one. */
static void released(uint64_t *seed)
{
	const struct ipsf_policy policy = protect_policy(1, 1, IPSF_POLICY_HOLD);
	setup(1024);
	CHECK(publish(&a, &policy, 1) == IPSF_OK);
	add(seed, 40, 1000);
	step(&a);
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_RELEASE_HELD, .reqid = 1}) == IPSF_OK);
	step(&a);
	CHECK(counters(&a).held == 0 && counters(&a).drops[IPSF_DROP_HOLD_RELEASED] == 40);
	teardown();
}

static void clear(uint64_t *seed)
{
	struct ipsf_policy policy = protect_policy(1, 0, 0);
	policy.action = IPSF_BYPASS;
	setup(1024);
	CHECK(publish(&a, &policy, 1) == IPSF_OK);
	add(seed, 40, 1000);
	add(seed, 64, 3);
	step(&a);
	expect(a.outer, &source.wait[0], 0, 40);
	expect(a.outer, &source.wait[1], 0, 64);
	CHECK(counters(&a).tx_packets[0] == 104);
	teardown();
}

static void refused(uint64_t *seed)
{
	setup(1024);
	add(seed, 40, 1000); /* no policy */
	step(&a);
	const struct ipsf_policy policy = protect_policy(1, 1, 0);
	CHECK(publish(&a, &policy, 1) == IPSF_OK);
	source.n = source.taken = 0;
	add(seed, 30, 1000); /* no SA */
	step(&a);
	CHECK(counters(&a).drops[IPSF_DROP_NO_POLICY] == 40 && counters(&a).drops[IPSF_DROP_NO_SA] == 30);
	CHECK(counters(&a).rx_packets[0] == 70);
	teardown();
}

int main(void)
{
	uint64_t seed = 6864;
	sealed(&seed);
	full_ring(&seed);
	held(&seed);
	released(&seed);
	clear(&seed);
	refused(&seed);
	return check_summary("test_super_worker");
}
