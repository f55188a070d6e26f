/*
 * What is chosen and sealed as one run, beside the same packets one by one: two gateways with the same SAs, of which one gets batches,
 * send the same datagrams in the same order, and drop the same.
 */
#include "gateways.h"

#define NET 1
#define SIZE_MAX_TEST 1500

struct site {
	struct gateway g;
	struct ipsf_port *far; /* the other end of outer */
};

static uint64_t seed = 4303;

static unsigned below(unsigned n)
{
	return (unsigned)(test_random(&seed) % n);
}

static void add_sa(struct site *s, uint32_t reqid, uint8_t variant)
{
	const struct ipsf_selector ts[2] = {net_selector(NET), net_selector(3 - NET)};
	struct ipsf_sa_params params = sa_params(&s->g, 0x1000 + reqid, ts);
	params.reqid = reqid;
	params.esn = variant & 1;
	params.copy_df = variant >> 1 & 1;
	params.copy_ecn = variant >> 2 & 1;
	params.copy_dscp = variant & 8 ? IPSF_COPY_OUT : 0;
	params.initial_sequence = params.esn ? UINT32_MAX - 200 : 0; /* past 32 bits on the way */
	CHECK(command(&s->g, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &params}) == IPSF_OK);
	CHECK(command(&s->g, (struct ipsf_command){.kind = IPSF_CMD_ACTIVATE_OUTBOUND, .reqid = reqid, .spi = params.spi}) == IPSF_OK);
}

/* 10.2.0.1 and .2 by an SA each, .3 in the clear, .4 not at all, .5 has a child without an SA; of others there is no policy. */
static void site_new(struct site *s, uint8_t variant)
{
	struct ipsf_policy policies[5];
	struct ipsf_port *outer;
	CHECK(ipsf_port_memory_pair(256, &outer, &s->far) == IPSF_OK);
	gateway_new(&s->g, NET, outer, 256, false);
	for (uint8_t i = 0; i < 5; i++) {
		policies[i] = protect_policy(NET, i + 1u, 0);
		policies[i].destination.first = policies[i].destination.last = ipv4(10, 3 - NET, 0, (uint8_t)(i + 1));
	}
	policies[2].action = IPSF_BYPASS;
	policies[3].action = IPSF_DISCARD;
	policies[4].reqid = 3;
	CHECK(publish(&s->g, policies, 5) == IPSF_OK);
	add_sa(s, 1, variant);
	add_sa(s, 2, (uint8_t)~variant);
}

static void site_free(struct site *s)
{
	CHECK(conserved(s->g.out));
	gateway_free(&s->g);
	ipsf_port_free(s->far);
}

/* Mostly plain ones for the first SA; every one in unusual packets of them is something else, or for somebody else. */
static uint32_t random_packet(uint8_t *bytes, unsigned unusual)
{
	static const uint8_t protocols[] = {6, 17, 1, 47};
	const bool odd = below(unusual) == 0;
	const uint32_t length = PACKET_MIN + below(below(4) ? 100 : SIZE_MAX_TEST - PACKET_MIN);
	make_packet(bytes, length, NET, odd ? (uint8_t)(1 + below(6)) : 1, below(1u << 30));
	bytes[1] = (uint8_t)below(256);
	bytes[9] = protocols[odd ? below(4) : below(2)];
	ipsf_write16(bytes + 6, (uint16_t)(odd && below(3) == 0 ? below(65536) : below(2) * 0x4000));
	ipsf_write16(bytes + 20, (uint16_t)below(odd ? 65536 : 50));
	if (odd && below(4) == 0)
		bytes[0] = below(2) ? 0x46 : (uint8_t)below(256);
	return length;
}

/* How many datagrams came, the same out of both. */
static unsigned same_datagrams(struct site *batch, struct site *single)
{
	uint8_t a[2000], b[2000], a_tos, b_tos;
	struct ipsf_path a_path, b_path;
	unsigned n = 0;
	for (int length; (length = ipsf_port_memory_get(batch->g.outer, a, sizeof a, &a_path, &a_tos)) > 0; n++) {
		CHECK(ipsf_port_memory_get(single->g.outer, b, sizeof b, &b_path, &b_tos) == length);
		CHECK(memcmp(a, b, (size_t)length) == 0 && a_tos == b_tos);
	}
	CHECK(ipsf_port_memory_get(single->g.outer, b, sizeof b, &b_path, &b_tos) == 0);
	return n;
}

static void same_counters(const struct site *batch, const struct site *single)
{
	struct ipsf_counters a, b;
	ipsf_worker_counters(batch->g.out, &a);
	ipsf_worker_counters(single->g.out, &b);
	CHECK(a.rx_packets[0] == b.rx_packets[0] && a.rx_bytes[0] == b.rx_bytes[0]);
	CHECK(a.tx_packets[0] == b.tx_packets[0] && a.tx_bytes[0] == b.tx_bytes[0]);
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++)
		CHECK(a.drops[i] == b.drops[i]);
}

static void run(uint8_t variant, unsigned unusual)
{
	static uint8_t bytes[SIZE_MAX_TEST];
	struct site batch, single;
	unsigned sent = 0;
	site_new(&batch, variant);
	site_new(&single, variant);
	for (unsigned round = 0; round < 60; round++) {
		const unsigned n = 1 + below(IPSF_BATCH_MAX);
		for (unsigned i = 0; i < n; i++) {
			const uint32_t length = random_packet(bytes, unusual);
			CHECK(ipsf_port_memory_put(batch.g.inner, bytes, length, NULL, 0) == IPSF_OK);
			CHECK(ipsf_port_memory_put(single.g.inner, bytes, length, NULL, 0) == IPSF_OK);
			CHECK(ipsf_worker_step(single.g.out) == 1);
		}
		CHECK(ipsf_worker_step(batch.g.out) == (int)n);
		sent += same_datagrams(&batch, &single);
	}
	CHECK(sent > 500);
	same_counters(&batch, &single);
	site_free(&batch);
	site_free(&single);
}

int main(void)
{
	for (uint8_t variant = 0; variant < 16; variant++) {
		run(variant, 2);
		run(variant, 20);
		run(variant, 200);
	}
	return check_summary("test_batches");
}
