/*
 * Super-packets through an SA: what comes out of the other end must be what the naive cut yields; numbers, limits, room and drops
 * must be those of as many single packets.
 */
#include "esp_pair.h"
#include "gso.h"
#include "super_packets.h"
#include "vnet.h"

#define BIG (96u << 10)
#define BUFFERS 4

static struct super super;
static struct slot slots[IPSF_BATCH_MAX];
static struct ipsf_batch batch;
static struct ipsf_pool *pool;
static uint64_t drops[IPSF_DROP_COUNT];
static uint8_t expected[SUPER_MAX];

static void between(struct super *s, bool gateways)
{
	const struct ipsf_addr a = gateways ? gateway(s->version, 1) : host(s->version, 1);
	const struct ipsf_addr b = gateways ? gateway(s->version, 2) : host(s->version, 2);

	super_between(s, a.bytes, b.bytes);
}

static void make(uint64_t *seed, uint8_t version, uint8_t protocol, unsigned n, uint32_t size, bool gateways)
{
	do
		super_make(seed, &super, version, protocol, (n - 1) * size + 1 + below(seed, size), size);
	while (super_count(&super) != n || (gateways && super.transport != (version == 4 ? 20u : 40u)));
	between(&super, gateways);
}

/* As a port would receive it: in a buffer of the pool, accepted and parsed. */
static struct ipsf_packet *received(void)
{
	struct ipsf_buffer *buffer = ipsf_pool_take(pool);
	uint8_t *data = buffer->bytes + IPSF_HEADROOM;
	struct ipsf_packet *packet = ipsf_batch_add(&batch, buffer, data, super.length);

	memcpy(data, super_data(&super), super.length);
	CHECK(ipsf_vnet_accept(&super.vnet, packet) && packet->segments == super_count(&super) && ipsf_ip_parse(packet));
	return packet;
}

/* What B makes of datagram i: the naive segment, from `from` bytes on (transport mode builds an IP header of its own). */
static void check_opened(const struct ipsf_packet *packet, uint32_t i, uint32_t from)
{
	const uint32_t length = naive_segment(&super, i, expected);

	CHECK(packet->drop == IPSF_DROP_NONE && packet->length == length);
	CHECK(memcmp(packet->data + from, expected + from, length - from) == 0);
}

static void open_all(struct pair *pair, const struct ipsf_packet *packet, uint32_t from)
{
	const unsigned n = ipsf_packet_count(packet);
	uint32_t end = 0;

	for (unsigned i = 0; i < n; i++) {
		uint32_t length;
		const uint8_t *data = ipsf_packet_datagram(packet, i, &length);

		slot_put(&slots[i], data, length);
		end = (uint32_t)(data - packet->data) + length;
	}
	CHECK(end == packet->length);
	slots_open(pair, slots, n);
	for (unsigned i = 0; i < n; i++)
		check_opened(&slots[i].packet, i, from);
}

static void seal_and_open(uint64_t *seed, struct pair *pair, bool transport)
{
	const unsigned n = 2 + below(seed, 63);
	const uint32_t most = 60000 / n < 1500 ? 60000 / n : 1500;

	make(seed, below(seed, 2) && !transport ? 6 : 4, below(seed, 2) ? 6 : 17, n, 1 + below(seed, most), transport);
	struct ipsf_packet *packet = received();
	const uint64_t before = ipsf_sa_out_sequence(pair->out);
	const uint8_t tos = ipsf_ip_tos(packet);

	CHECK(ipsf_esp_segment(pair->out, 0, packet, pool, drops) == 0 && packet->drop == IPSF_DROP_NONE);
	CHECK(ipsf_sa_out_sequence(pair->out) == before + n && packet->sequence == before + n && packet->segments == n);
	CHECK(packet->tos == (transport ? tos : tos & 3) && packet->carrier == IPSF_CARRIER_UDP4 && packet->path);
	CHECK(ipsf_pool_available(pool) == BUFFERS - 1);
	open_all(pair, packet, transport ? super.transport : 0);
	ipsf_batch_clear(&batch);
}

static void round_trips(uint64_t *seed, uint8_t mode, const char *engine)
{
	struct ipsf_sa_params params = params_of(mode, 4, 20);
	struct pair pair;

	params.esn = mode == IPSF_MODE_TUNNEL;
	params.replay_window = 256;
	pair_init(&pair, &params, engine);
	for (unsigned round = 0; round < 500; round++)
		seal_and_open(seed, &pair, mode == IPSF_MODE_TRANSPORT);
	pair_fini(&pair);
}

/* s3.3.3: the numbers that are left go to the first segments; the others are counted, at the SA too. */
static void limits(uint64_t *seed, bool exhausted)
{
	const enum ipsf_drop reason = exhausted ? IPSF_DROP_SEQUENCE_EXHAUSTED : IPSF_DROP_SA_EXPIRED;

	for (unsigned left = 0; left < 50; left += 7) {
		struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
		struct pair pair;
		unsigned told = 0, sealed = 0;

		params.replay_window = 256;
		params.hard_packets = exhausted ? 0 : left;
		params.initial_sequence = exhausted ? UINT32_MAX - left : 0;
		if (!exhausted && left == 0)
			continue;
		pair_init(&pair, &params, "auto");
		memset(drops, 0, sizeof drops);
		for (unsigned round = 0; round < 3; round++) {
			make(seed, 4, 6, 20, 100, false);
			struct ipsf_packet *packet = received();
			told += ipsf_esp_segment(pair.out, 0, packet, pool, drops) & IPSF_NOTICE_HARD_LIFETIME ? 1 : 0;
			if (packet->drop == IPSF_DROP_NONE) {
				sealed += ipsf_packet_count(packet);
				open_all(&pair, packet, 0);
			} else {
				CHECK(packet->drop == reason && packet->segments == 20);
			}
			ipsf_batch_sweep(&batch, drops);
			ipsf_batch_clear(&batch);
		}
		CHECK(told == 1 && sealed == left && drops[reason] == 60 - left && ipsf_sa_dropped(&pair.out->drops, reason) == 60 - left);
		CHECK(ipsf_pool_available(pool) == BUFFERS && pair.in->packets == left);
		pair_fini(&pair);
	}
}

/* A notice for the limit that a super-packet passes, once; beyond hard_bytes nothing. */
static void bytes(uint64_t *seed)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct pair pair;
	unsigned soft = 0, hard = 0;

	params.soft_bytes = 30000;
	params.hard_bytes = 60000;
	pair_init(&pair, &params, "auto");
	memset(drops, 0, sizeof drops);
	for (unsigned round = 0; round < 10; round++) {
		make(seed, 4, 17, 10, 1000, false);
		struct ipsf_packet *packet = received();
		const uint64_t before = pair.out->bytes;
		const unsigned notices = ipsf_esp_segment(pair.out, 0, packet, pool, drops);

		CHECK((packet->drop == IPSF_DROP_SA_EXPIRED) == (before >= 60000));
		CHECK(pair.out->bytes - before == (packet->drop ? 0 : super.length + 9 * super.header));
		soft += notices & IPSF_NOTICE_SOFT_LIFETIME ? 1 : 0;
		hard += notices & IPSF_NOTICE_HARD_LIFETIME ? 1 : 0;
		ipsf_batch_sweep(&batch, drops);
		ipsf_batch_clear(&batch);
	}
	CHECK(soft == 1 && hard == 1 && drops[IPSF_DROP_SA_EXPIRED] == ipsf_sa_dropped(&pair.out->drops, IPSF_DROP_SA_EXPIRED));
	CHECK(drops[IPSF_DROP_SA_EXPIRED] >= 30);
	pair_fini(&pair);
}

/* What does not fit is refused whole, and counted as the packets it stands for. */
static void too_long(uint64_t *seed)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct pair pair;
	struct ipsf_pool *large = pool;

	pair_init(&pair, &params, "auto");
	memset(drops, 0, sizeof drops);
	make(seed, 6, 6, 64, 900, false);
	CHECK(ipsf_pool_new(1, 64 * 900, &pool) == IPSF_OK);
	struct ipsf_pool *small = pool;
	pool = large;
	struct ipsf_packet *packet = received();
	CHECK(ipsf_esp_segment(pair.out, 0, packet, small, drops) == IPSF_NOTICE_DROPPED && packet->drop == IPSF_DROP_TOO_LONG);
	ipsf_batch_sweep(&batch, drops);
	CHECK(drops[IPSF_DROP_TOO_LONG] == 64 && ipsf_sa_out_sequence(pair.out) == 0 && ipsf_pool_available(small) == 1);
	ipsf_pool_free(small);
	pair_fini(&pair);
}

/* Transport mode refuses by the rules of single packets. */
static void transport_refuses(uint64_t *seed)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TRANSPORT, 4, 20);
	struct pair pair;

	pair_init(&pair, &params, "auto");
	do
		super_make(seed, &super, 4, 6, 5000, 1000);
	while (super.transport == 20);
	between(&super, true);
	CHECK(ipsf_esp_segment(pair.out, 0, received(), pool, drops) == IPSF_NOTICE_DROPPED && batch.packet[0]->drop == IPSF_DROP_OPTIONS);
	make(seed, 4, 6, 5, 1000, false);
	CHECK(ipsf_esp_segment(pair.out, 0, received(), pool, drops) == IPSF_NOTICE_DROPPED && batch.packet[1]->drop == IPSF_DROP_SELECTOR);
	CHECK(ipsf_sa_dropped(&pair.out->drops, IPSF_DROP_SELECTOR) == 5);
	ipsf_batch_sweep(&batch, drops);
	pair_fini(&pair);
}

/* The trailer stands for a moment where the next segment begins: nothing of it may stay, whatever is sealed next. */
static void smallest(uint64_t *seed)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct pair pair;

	params.replay_window = 256;
	pair_init(&pair, &params, "auto");
	for (uint32_t size = 1; size < 100; size++) {
		make(seed, size % 2 ? 4 : 6, 17, 64, size, false);
		struct ipsf_packet *packet = received();
		CHECK(ipsf_esp_segment(pair.out, 0, packet, pool, drops) == 0);
		open_all(&pair, packet, 0);
		ipsf_batch_clear(&batch);
	}
	pair_fini(&pair);
}

/* s2.7: all segments become as long as the TFC length says, or as long as there is room for in one buffer. */
static void padded(uint64_t *seed, unsigned n, uint16_t tfc)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct pair pair;

	params.replay_window = 256;
	params.tfc_padding = tfc;
	pair_init(&pair, &params, "auto");
	for (uint32_t size = 1; size < 900; size += 37) {
		make(seed, size % 2 ? 4 : 6, size % 3 ? 17 : 6, n, size, false);
		struct ipsf_packet *packet = received();
		CHECK(ipsf_esp_segment(pair.out, 0, packet, pool, drops) == 0 && packet->segments == n);
		if (size + 200 <= tfc && n * (tfc + 60u) < BIG - IPSF_HEADROOM)
			CHECK(packet->length == n * packet->segment_size && packet->segment_size >= IPSF_ESP_TEXT + tfc);
		open_all(&pair, packet, 0);
		ipsf_batch_clear(&batch);
	}
	pair_fini(&pair);
}

int main(void)
{
	uint64_t seed = 4303;

	CHECK(ipsf_pool_new(BUFFERS, BIG, &pool) == IPSF_OK);
	ipsf_batch_init(&batch, pool);
	for (size_t i = 0; i < ipsf_engine_count(); i++) {
		round_trips(&seed, IPSF_MODE_TUNNEL, ipsf_engine_name(i));
		round_trips(&seed, IPSF_MODE_TRANSPORT, ipsf_engine_name(i));
	}
	smallest(&seed);
	padded(&seed, 20, 1000);
	padded(&seed, 64, 1400);
	padded(&seed, 2, 50);
	limits(&seed, false);
	limits(&seed, true);
	bytes(&seed);
	too_long(&seed);
	transport_refuses(&seed);
	CHECK(ipsf_pool_available(pool) == BUFFERS);
	ipsf_pool_free(pool);
	return check_summary("test_segment");
}
