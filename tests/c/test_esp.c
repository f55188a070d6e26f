/*
 * ESP there and back again (RFC 4303 s3.3, s3.4): every mode, version, engine and length; known answers; header fields.
 */
#include "esp_pair.h"

static struct slot slots[IPSF_BATCH_MAX];

static bool same(const struct ipsf_packet *packet, const uint8_t *expected, size_t length)
{
	return !packet->drop && packet->length == length && !memcmp(packet->data, expected, length);
}

static void check_sealed(const struct ipsf_sa_params *params, const struct ipsf_packet *p, unsigned i, size_t inner)
{
	uint64_t sequence = params->initial_sequence + i + 1;

	CHECK(!p->drop && ipsf_read32(p->data) == SPI && ipsf_read32(p->data + 4) == (uint32_t)sequence);
	CHECK(ipsf_read64(p->data + 8) == sequence && p->sequence == sequence && p->length % 4 == 0);
	CHECK((int)p->length <= (int)inner + ipsf_esp_overhead(20, IPSF_MODE_TRANSPORT, 0, 4));
	CHECK(p->carrier == (params->udp_encap ? 0 : 2) + (params->path.remote.version == 6));
	CHECK(p->path->remote_port == 4500 && !memcmp(&p->path->remote, &params->path.remote, sizeof p->path->remote));
	CHECK(p->data - slots[i].bytes == p->headroom);
	CHECK(p->headroom + p->length + p->tailroom == sizeof slots[i].bytes);
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
		check_sealed(params, &slots[i].packet, i, length[i]);
		CHECK(memcmp(slots[i].packet.data + IPSF_ESP_TEXT, plain[i], 20) != 0);
	}
	CHECK(slots_open(&pair, slots, IPSF_BATCH_MAX) == IPSF_NOTICE_FIRST_INBOUND);
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) {
		const struct ipsf_packet *p = &slots[i].packet;

		CHECK(same(p, plain[i], length[i]) && p->version == inner && p->source_port == 1024 && p->destination_port == 53);
		CHECK(p->data - slots[i].bytes == p->headroom && p->headroom + p->length + p->tailroom == sizeof slots[i].bytes);
	}
	CHECK(ipsf_sa_out_sequence(pair.out) == params->initial_sequence + IPSF_BATCH_MAX);
	CHECK(pair.in->replay->top == params->initial_sequence + IPSF_BATCH_MAX && pair.in->packets == IPSF_BATCH_MAX);
	CHECK(pair.in->bytes == pair.out->bytes && pair.in->bytes > 0);
	pair_fini(&pair);
}

static void test_every_combination(const char *engine)
{
	static const uint8_t keys[] = { 20, 28, 36 };

	for (unsigned i = 0; i < 3 << 6; i++) {
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

/*
 * Packets of udp_packet() sealed with Python's `cryptography` (AESGCM) by RFC 4303 and 4106: SPI, number, IV = 64-bit
 * number, ciphertext of packet + padding + trailer, ICV; the key and salt of params_of().
 */
static const struct known_answer {
	uint8_t mode, inner, outer, key_length, esn;
	uint64_t before; /* the last number used */
	size_t payload;
	const char *esp;
} known_answers[] = {
	{ IPSF_MODE_TUNNEL, 4, 4, 20, 0, UINT64_C(0x0), 21,
	  "100000010000000100000000000000019615052b3391f80b5c6abefd222e92904dbb376dedcede85fe624d7ee2a2d4404d3c"
	  "a4f1bd1a163db8efd1494f776623cf1592f1a5169585ce0c8356" },
	{ IPSF_MODE_TUNNEL, 6, 4, 36, 1, UINT64_C(0x1ffffffff), 24,
	  "100000010000000000000002000000009a0c1634e33a5e2cb9e9c07c3c60ac0682c53d101c5a62fa4d56b27fbf03c18efed4"
	  "d6d8020f4c47c69b0e0474224e3b8a742a21e42d14d0f535dab6058c872f8bbcea42dc79d46f31041a3290b68d20cfe94292" },
	{ IPSF_MODE_TRANSPORT, 4, 4, 28, 0, UINT64_C(0x7), 11,
	  "100000010000000800000000000000087bc4ef7be1247b40dd8147a26db6cd7fbb8b55ceb0c41377d6d43353e87ba6c8" },
	{ IPSF_MODE_TRANSPORT, 6, 6, 20, 1, UINT64_C(0xfffffffe), 8,
	  "10000001ffffffff00000000ffffffff5447191b579cba2506940b71dc4e81606f513bb9cd70c9c1ba242d56" },
};

static void test_known_answer(const struct known_answer *k, const char *engine)
{
	struct ipsf_sa_params params = params_of(k->mode, k->outer, k->key_length);
	uint8_t plain[256], esp[256];
	size_t length = udp_packet(plain, k->inner, k->mode == IPSF_MODE_TRANSPORT, k->payload, 0);
	size_t esp_length = from_hex(k->esp, esp);
	struct pair pair;

	params.esn = k->esn;
	params.initial_sequence = k->before;
	pair_init(&pair, &params, engine);
	slot_put(&slots[0], plain, length);
	CHECK(slots_seal(&pair, slots, 1) == 0 && same(&slots[0].packet, esp, esp_length));
	slot_put(&slots[0], esp, esp_length);
	CHECK(slots_open(&pair, slots, 1) == IPSF_NOTICE_FIRST_INBOUND && same(&slots[0].packet, plain, length));
	pair_fini(&pair);
}

/*
 * s2.4: the text that was sealed ends with 1, 2, 3 ..., their number and the next header; nothing more than alignment.
 */
static void test_trailer(const char *engine)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	uint8_t plain[256], expected[256];
	struct pair pair;

	pair_init(&pair, &params, engine);
	for (unsigned i = 0; i < 8; i++) {
		uint8_t inner = i & 1 ? 6 : 4;
		size_t length = udp_packet(plain, inner, false, 8 + i / 2, 0), all;
		uint64_t sequence = i + 1;

		memcpy(expected, plain, length);
		all = trailer(expected, length, (unsigned)(6 - length % 4) % 4, inner == 4 ? 4 : 41);
		slot_put(&slots[0], plain, length);
		slot_forge(&pair, &slots[1], expected, all, sequence);
		CHECK(slots_seal(&pair, slots, 1) == 0 && all % 4 == 0);
		CHECK(same(&slots[0].packet, slots[1].packet.data, slots[1].packet.length));
	}
	pair_fini(&pair);
}

/* s2.4: up to 255 bytes of padding; s2.7: TFC padding behind the inner packet, which its own length cuts off. */
static void test_what_a_peer_may_pad(const char *engine, uint8_t inner)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 6, 36);
	uint8_t plain[64], text[64 + 1000 + 257];
	uint64_t sequence = 0;
	struct pair pair;

	pair_init(&pair, &params, engine);
	for (unsigned tfc = 0; tfc < 1000; tfc = tfc * 3 + 1) {
		for (unsigned pad = 0; pad < 256; pad++) {
			size_t length = udp_packet(plain, inner, false, 11, 0), all;

			memset(text, 0, sizeof text);
			memcpy(text, plain, length);
			all = trailer(text, length + tfc, pad, inner == 4 ? 4 : 41);
			if (all % 4)
				continue;
			slot_forge(&pair, &slots[0], text, all, ++sequence);
			slots_open(&pair, slots, 1);
			CHECK(same(&slots[0].packet, plain, length));
		}
	}
	CHECK(sequence == 7 * 64);
	pair_fini(&pair);
}

/* s2.7: what is shorter than the TFC length becomes as long as it, as far as there is room; the peer gets what was given. */
static void test_tfc_padding(const char *engine, uint8_t inner)
{
	const uint32_t sealed = IPSF_ESP_TEXT + 600 + 2 + IPSF_ESP_TRAILER + IPSF_ICV_SIZE;
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	uint8_t plain[1024];
	struct pair pair;

	params.tfc_padding = 600;
	pair_init(&pair, &params, engine);
	for (size_t payload = 8; payload < 900; payload += 13) {
		const size_t length = udp_packet(plain, inner, false, payload, 0);

		slot_put(&slots[0], plain, length);
		slot_put(&slots[1], plain, length);
		slots[1].packet.tailroom = IPSF_ESP_ALIGN + IPSF_ESP_TRAILER + IPSF_ICV_SIZE + 10;
		CHECK(slots_seal(&pair, slots, 2) == 0);
		CHECK(length > 600 ? slots[0].packet.length >= sealed : slots[0].packet.length == sealed);
		CHECK(slots[1].packet.length <= IPSF_ESP_TEXT + length + 10 + 3 + IPSF_ESP_TRAILER + IPSF_ICV_SIZE);
		slots_open(&pair, slots, 2);
		CHECK(same(&slots[0].packet, plain, length) && same(&slots[1].packet, plain, length));
	}
	pair_fini(&pair);
}

/* In transport mode nothing would tell the padding from what is padded. */
static void test_tfc_padding_is_for_tunnels(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TRANSPORT, 4, 20);
	struct ipsf_sa_out *sa;

	params.tfc_padding = 600;
	CHECK(ipsf_sa_out_new(&params, "auto", &sa) == IPSF_EINVAL);
	params.mode = IPSF_MODE_TUNNEL;
	params.tfc_padding = IPSF_TFC_MAX + 1;
	CHECK(ipsf_sa_out_new(&params, "auto", &sa) == IPSF_EINVAL);
}

/* RFC 4301 s5.1.2, RFC 6040 s4.1: which fields the outer header takes from the inner one. */
static void test_outer_fields(uint8_t inner)
{
	for (unsigned i = 0; i < 1u << 6; i++) {
		bool transport = i & 1, ecn = i & 2, df = i & 4, inner_df = i & 8;
		uint8_t dscp = (uint8_t)(i >> 4), tos = 0xb9, plain[256];
		struct ipsf_sa_params params = params_of(transport, inner, 20);
		size_t length = udp_packet(plain, inner, transport, 16, tos);
		bool keeps_df = transport || df;
		struct pair pair;

		params.copy_ecn = ecn;
		params.copy_df = df;
		params.copy_dscp = dscp;
		pair_init(&pair, &params, "auto");
		if (inner == 4)
			plain[6] = inner_df ? 0x40 : 0;
		slot_put(&slots[0], plain, length);
		CHECK(slots_seal(&pair, slots, 1) == 0);
		CHECK(slots[0].packet.tos == ((transport || (dscp & IPSF_COPY_OUT) ? 0xb8 : 0) | (transport || ecn ? 1 : 0)));
		CHECK(!(slots[0].packet.flags & IPSF_PACKET_DF) == !(keeps_df && (inner == 6 || inner_df)));
		pair_fini(&pair);
	}
}

/* RFC 6040 s4.2 on arrival: the mark moves inside and the IPv4 checksum follows; DSCP only where the SA says. */
static void test_inner_fields(uint8_t inner, bool copy_ecn, uint8_t copy_dscp)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	uint8_t plain[256];
	struct pair pair;

	params.copy_ecn = copy_ecn;
	params.copy_dscp = copy_dscp;
	pair_init(&pair, &params, "auto");
	for (unsigned i = 0; i < 16; i++) {
		uint8_t tos = (uint8_t)(0x28 | (i & 3)), outer = (uint8_t)(0xb8 | i >> 2);
		int expected = ipsf_ecn_decap(tos, outer, copy_ecn, copy_dscp & IPSF_COPY_IN);
		size_t length = udp_packet(plain, inner, false, 16, tos);

		slot_put(&slots[0], plain, length);
		slots_seal(&pair, slots, 1);
		slots[0].packet.tos = outer;
		slots_open(&pair, slots, 1);
		if (expected < 0) {
			CHECK(slots[0].packet.drop == IPSF_DROP_ECN && copy_ecn);
			continue;
		}
		udp_packet(plain, inner, false, 16, (uint8_t)expected); /* its checksum recomputed */
		CHECK(same(&slots[0].packet, plain, length));
	}
	pair_fini(&pair);
}

static uint16_t udp_checksum(const uint8_t *ip, uint8_t version, size_t length)
{
	size_t header = version == 4 ? 20 : 40, addresses = version == 4 ? 12 : 8;
	uint32_t sum = ipsf_checksum_add(ip + addresses, header - addresses, (uint32_t)(IPSF_PROTO_UDP + length - header));

	return ipsf_checksum_fold(ipsf_checksum_add(ip + header, length - header, sum)); /* 0: it is right */
}

/*
 * RFC 3948 s3.1.2: through a NAT transport mode's packet has other addresses, and its checksum follows; without UDP it
 * is left alone.
 */
static void test_transport_through_nat(uint8_t version, bool udp_encap)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TRANSPORT, version, 20), in;
	struct ipsf_selector anyone = single(gateway(version, 0));
	size_t header = version == 4 ? 20 : 40, length;
	struct pair pair = { 0 };
	uint8_t plain[256];

	params.udp_encap = udp_encap;
	in = inbound(&params);
	memset(anyone.last.bytes, 0xff, sizeof anyone.last.bytes);
	in.remote_ts = &anyone;
	in.n_remote_ts = 1;
	CHECK(!ipsf_sa_out_new(&params, "auto", &pair.out) && !ipsf_sa_in_new(&in, "auto", &pair.in));
	length = udp_packet(plain, version, true, 21, 0);
	ipsf_write16(plain + header + 6, udp_checksum(plain, version, length));
	CHECK(udp_checksum(plain, version, length) == 0);
	slot_put(&slots[0], plain, length);
	CHECK(slots_seal(&pair, slots, 1) == 0);
	pair.path = in.path;
	pair.path.remote = gateway(version, 77); /* the NAT's */
	slots_open(&pair, slots, 1);
	CHECK(!slots[0].packet.drop && slots[0].packet.length == length && ipsf_ip_source(&slots[0].packet)[version == 4 ? 3 : 15] == 77);
	CHECK((udp_checksum(slots[0].packet.data, version, length) == 0) == udp_encap);
	CHECK(!memcmp(slots[0].packet.data + header + 8, plain + header + 8, length - header - 8));
	pair_fini(&pair);
}

/* Out of order over the 2^32 wrap: every number is told to the right side of it. */
static void test_disorder_over_the_wrap(const char *engine)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct ipsf_packet *packets[IPSF_BATCH_MAX];
	uint8_t plain[256];
	size_t length = udp_packet(plain, 4, false, 40, 0);
	uint64_t seed = 32;
	struct pair pair;

	params.esn = 1;
	params.initial_sequence = UINT64_C(0x2ffffffff) - 32;
	for (unsigned round = 0; round < 20; round++) {
		pair_init(&pair, &params, engine);
		for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) {
			slot_put(&slots[i], plain, length);
			slots[i].packet.path = &pair.path;
			packets[i] = &slots[i].packet;
		}
		slots_seal(&pair, slots, IPSF_BATCH_MAX);
		for (unsigned i = IPSF_BATCH_MAX; i-- > 1;) {
			unsigned j = (unsigned)(test_random(&seed) % (i + 1));
			struct ipsf_packet *other = packets[i];

			packets[i] = packets[j];
			packets[j] = other;
		}
		for (unsigned i = 0, n; i < IPSF_BATCH_MAX; i += n) { /* in runs of 1 to 5 */
			n = 1 + (unsigned)(test_random(&seed) % 5);
			n = n < IPSF_BATCH_MAX - i ? n : IPSF_BATCH_MAX - i;
			for (unsigned j = 0; j < n; j++)
				packets[i + j]->path = &pair.path;
			ipsf_esp_decap(pair.in, 0, packets + i, n, &pair.moved);
		}
		for (unsigned i = 0; i < IPSF_BATCH_MAX; i++)
			CHECK(same(packets[i], plain, length));
		pair_fini(&pair);
	}
}

int main(void)
{
	for (size_t i = 0; i < ipsf_engine_count(); i++) {
		const char *engine = ipsf_engine_name(i);

		test_every_combination(engine);
		for (size_t k = 0; k < sizeof known_answers / sizeof known_answers[0]; k++)
			test_known_answer(&known_answers[k], engine);
		test_trailer(engine);
		test_what_a_peer_may_pad(engine, 4);
		test_what_a_peer_may_pad(engine, 6);
		test_tfc_padding(engine, 4);
		test_tfc_padding(engine, 6);
		test_disorder_over_the_wrap(engine);
	}
	test_tfc_padding_is_for_tunnels();
	for (uint8_t version = 4; version <= 6; version += 2) {
		test_outer_fields(version);
		test_transport_through_nat(version, true);
		test_transport_through_nat(version, false);
		for (unsigned i = 0; i < 8; i++)
			test_inner_fields(version, i & 1, (uint8_t)(i >> 1));
	}
	return check_summary("test_esp");
}
