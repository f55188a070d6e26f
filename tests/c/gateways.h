/*
 * Two data planes back to back over memory, driven by steps or by threads:
 *
 *     test -- a.inside | A | a.outside -- b.outside | B | b.inside -- test        10.1.0.0/16  192.0.2.1 -- 192.0.2.2
 *  10.2.0.0/16
 */
#ifndef IPSF_TEST_GATEWAYS_H
#define IPSF_TEST_GATEWAYS_H

#include "check.h"
#include "ip.h"
#include "worker.h"

struct gateway {
	struct ipsf_dataplane *dp;
	struct ipsf_port *inner, *outer;
	struct ipsf_port *host;  /* the other end of inner: put() here what the gateway sends, get() what it forwards */
	struct ipsf_worker *out, *in; /* may be the same */
	uint8_t net;             /* 10.net.0.0/16, 192.0.2.net */
};

static inline struct ipsf_addr ipv4(uint8_t a, uint8_t b, uint8_t c, uint8_t d)
{
	return (struct ipsf_addr){.bytes = {a, b, c, d}, .version = 4};
}

static inline struct ipsf_selector net_selector(uint8_t net)
{
	return (struct ipsf_selector){.first = ipv4(10, net, 0, 0), .last = ipv4(10, net, 255, 255), .port_last = UINT16_MAX};
}

static inline struct ipsf_path path_from(uint8_t net)
{
	return (struct ipsf_path){.local = ipv4(192, 0, 2, net), .remote = ipv4(192, 0, 2, (uint8_t)(3 - net)), .local_port = 4500,
				  .remote_port = 4500};
}

static inline struct ipsf_policy protect_policy(uint8_t net, uint32_t reqid, uint8_t flags)
{
	return (struct ipsf_policy){.source = net_selector(net), .destination = net_selector((uint8_t)(3 - net)), .reqid = reqid,
				    .action = IPSF_PROTECT, .flags = flags};
}

static inline int command(struct gateway *g, struct ipsf_command c)
{
	return ipsf_dataplane_apply(g->dp, &c);
}

static inline int publish(struct gateway *g, const struct ipsf_policy *policies, size_t n)
{
	return command(g, (struct ipsf_command){.kind = IPSF_CMD_PUBLISH_SPD, .policies = policies, .n_policies = n});
}

/* The SA's key follows from its SPI: what A installs outbound and B inbound agree. */
static inline struct ipsf_sa_params sa_params(const struct gateway *g, uint32_t spi, const struct ipsf_selector ts[2])
{
	struct ipsf_sa_params params = {.spi = spi, .reqid = 1, .encryption = 20, .key_length = 20, .udp_encap = 1, .copy_df = 1,
					.copy_ecn = 1, .copy_dscp = IPSF_COPY_OUT, .replay_window = 2048,
					.path = path_from(g->net), .local_ts = &ts[0], .remote_ts = &ts[1], .n_local_ts = 1,
					.n_remote_ts = 1};
	for (unsigned i = 0; i < 20; i++)
		params.key[i] = (uint8_t)(spi + i);
	return params;
}

static inline int install(struct gateway *g, enum ipsf_command_kind kind, uint32_t spi)
{
	const struct ipsf_selector ts[2] = {net_selector(g->net), net_selector((uint8_t)(3 - g->net))};
	const struct ipsf_sa_params params = sa_params(g, spi, ts);
	return command(g, (struct ipsf_command){.kind = kind, .sa = &params});
}

static inline int activate(struct gateway *g, uint32_t spi)
{
	return command(g, (struct ipsf_command){.kind = IPSF_CMD_ACTIVATE_OUTBOUND, .reqid = 1, .spi = spi});
}

static inline int remove_sa(struct gateway *g, enum ipsf_command_kind kind, uint32_t spi)
{
	return command(g, (struct ipsf_command){.kind = kind, .reqid = 1, .spi = spi});
}

/* threads: a worker for each direction, else one for both. */
static inline void gateway_new(struct gateway *g, uint8_t net, struct ipsf_port *outer, size_t capacity, bool threads)
{
	const unsigned out = IPSF_WORKER_OUTBOUND, in = IPSF_WORKER_INBOUND;
	memset(g, 0, sizeof *g);
	g->net = net;
	g->outer = outer;
	CHECK(ipsf_dataplane_new("auto", &g->dp) == IPSF_OK);
	CHECK(ipsf_port_memory_pair(capacity, &g->inner, &g->host) == IPSF_OK);
	CHECK(ipsf_dataplane_add_worker(g->dp, "out", &g->inner, 1, &g->outer, 1, threads ? out : out | in, &g->out) == IPSF_OK);
	g->in = g->out;
	if (threads)
		CHECK(ipsf_dataplane_add_worker(g->dp, "in", &g->inner, 1, &g->outer, 1, in, &g->in) == IPSF_OK);
}

static inline void gateway_free(struct gateway *g)
{
	ipsf_dataplane_free(g->dp);
	ipsf_port_free(g->inner);
	ipsf_port_free(g->host);
	ipsf_port_free(g->outer);
}

static inline void gateways_new(struct gateway *a, struct gateway *b, size_t capacity, bool threads)
{
	struct ipsf_port *left, *right;
	CHECK(ipsf_port_memory_pair(capacity, &left, &right) == IPSF_OK);
	gateway_new(a, 1, left, capacity, threads);
	gateway_new(b, 2, right, capacity, threads);
}

/* From here on a's packets for b are protected by spi. */
static inline void one_way(struct gateway *a, struct gateway *b, uint32_t spi)
{
	const struct ipsf_policy policy = protect_policy(a->net, 1, 0);
	CHECK(install(b, IPSF_CMD_INSTALL_INBOUND, spi) == IPSF_OK);
	CHECK(install(a, IPSF_CMD_INSTALL_OUTBOUND, spi) == IPSF_OK);
	CHECK(publish(a, &policy, 1) == IPSF_OK);
	CHECK(activate(a, spi) == IPSF_OK);
}

/* A UDP packet of length bytes that carries number; from 10.net.0.1 to 10.(3 - net).0.to. */
static inline void make_packet(uint8_t *bytes, uint32_t length, uint8_t net, uint8_t to, uint32_t number)
{
	memset(bytes, 0, length);
	bytes[0] = 0x45;
	ipsf_write16(bytes + 2, (uint16_t)length);
	bytes[8] = 64;
	bytes[9] = 17;
	memcpy(bytes + 12, (const uint8_t[]){10, net, 0, 1}, 4);
	memcpy(bytes + 16, (const uint8_t[]){10, (uint8_t)(3 - net), 0, to}, 4);
	ipsf_write16(bytes + 10, ipsf_checksum_fold(ipsf_checksum_add(bytes, 20, 0)));
	ipsf_write16(bytes + 20, 1000);
	ipsf_write16(bytes + 22, 2000);
	ipsf_write16(bytes + 24, (uint16_t)(length - 20));
	ipsf_write32(bytes + 28, number);
}

#define PACKET_MIN 32u

static inline int send_packet(struct gateway *g, uint32_t length, uint8_t to, uint32_t number)
{
	uint8_t bytes[2000];
	make_packet(bytes, length, g->net, to, number);
	return ipsf_port_memory_put(g->inner, bytes, length, NULL, 0);
}

/* The next packet that g forwarded to its host: its length, and its number. 0: none. */
static inline int next_packet(struct gateway *g, uint32_t *number)
{
	uint8_t bytes[2000], tos;
	struct ipsf_path path;
	const int n = ipsf_port_memory_get(g->inner, bytes, sizeof bytes, &path, &tos);
	if (n >= (int)PACKET_MIN)
		*number = ipsf_read32(bytes + 28);
	return n;
}

static inline uint64_t drops_of(const struct ipsf_worker *worker, enum ipsf_drop reason)
{
	struct ipsf_counters counters;
	ipsf_worker_counters(worker, &counters);
	return counters.drops[reason];
}

/* packets in = packets out + drops by reason + consumed + held */
static inline bool conserved(const struct ipsf_worker *worker)
{
	struct ipsf_counters c;
	ipsf_worker_counters(worker, &c);
	uint64_t out = c.tx_packets[0] + c.tx_packets[1] + c.consumed + c.held + c.handed_over;
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++)
		out += c.drops[i];
	return c.rx_packets[0] + c.rx_packets[1] + c.taken_over == out && c.drops[IPSF_DROP_NONE] == 0;
}

#endif
