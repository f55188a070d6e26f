/* ESP there and back again (RFC 4303 s3.3, s3.4): every mode, version, engine and length; every reason to drop. */
#include "esp_pair.h"

static struct slot slots[IPSF_BATCH_MAX];

static bool same(const struct ipsf_packet *packet, const uint8_t *expected, size_t length)
{
	return !packet->drop && packet->length == length && !memcmp(packet->data, expected, length);
}

static void there_and_back(const struct ipsf_sa_params *params, const char *engine, uint8_t inner)
{
	bool transport = params->mode == IPSF_MODE_TRANSPORT;
	uint8_t plain[IPSF_BATCH_MAX][256];
	size_t length[IPSF_BATCH_MAX];
	struct pair pair;

	pair_init(&pair, params, engine);
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) { /* every length modulo 4, from the smallest on */
		length[i] = udp_packet(plain[i], inner, transport, 8 + i, 0);
		slot_put(&slots[i], plain[i], length[i]);
	}
	CHECK(slots_seal(&pair, slots, IPSF_BATCH_MAX) == 0);
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) {
		const struct ipsf_packet *p = &slots[i].packet;

		CHECK(!p->drop && ipsf_read32(p->data) == SPI && ipsf_read32(p->data + 4) == (uint32_t)(params->initial_sequence + i + 1));
		CHECK(ipsf_read64(p->data + 8) == params->initial_sequence + i + 1 && p->length % 4 == 0);
		CHECK((int)p->length <= (int)length[i] + ipsf_esp_overhead(20, IPSF_MODE_TRANSPORT, 0, 4));
		CHECK(memcmp(p->data + IPSF_ESP_TEXT, plain[i], 20) != 0);
	}
	CHECK(slots_open(&pair, slots, IPSF_BATCH_MAX) == IPSF_NOTICE_FIRST_INBOUND);
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++)
		CHECK(same(&slots[i].packet, plain[i], length[i]));
	CHECK(ipsf_sa_out_sequence(pair.out) == params->initial_sequence + IPSF_BATCH_MAX);
	pair_fini(&pair);
}

static void test_every_combination(const char *engine)
{
	static const uint8_t keys[] = { 20, 28, 36 };

	for (unsigned i = 0; i < 3 * 2 * 2 * 2 * 2 * 2 * 2; i++) {
		uint8_t inner = i & 1 ? 6 : 4, outer = i & 2 ? 6 : 4, mode = i >> 2 & 1;
		struct ipsf_sa_params params = params_of(mode, outer, keys[i >> 6]);

		params.udp_encap = i >> 3 & 1;
		params.esn = i >> 4 & 1;
		if (i >> 5 & 1) /* a few numbers before the 2^32 wrap, or where nothing happens */
			params.initial_sequence = params.esn ? UINT64_C(0x1ffffffe0) : 0x12345678;
		if (mode == IPSF_MODE_TUNNEL || inner == outer)
			there_and_back(&params, engine, inner);
	}
}

int main(void)
{
	for (size_t i = 0; i < ipsf_engine_count(); i++) {
		const char *engine = ipsf_engine_name(i);

		test_every_combination(engine);
	}
	return check_summary("test_esp");
}
