/* Every reason for which encap, decap and the library drop a packet, each with a packet that has nothing else wrong. */
#include "esp_pair.h"

static struct slot slots[IPSF_BATCH_MAX];
static uint8_t text[BUFFER_SIZE];
static bool covered[IPSF_DROP_COUNT];

static void expect(const struct pair *pair, unsigned reason, bool inbound)
{
	CHECK(slots[0].packet.drop == reason);
	CHECK(ipsf_sa_dropped(inbound ? &pair->in->drops : &pair->out->drops, reason) == 1); /* counted for the SA, once */
	covered[reason] = true;
}

/* ---- outbound ---- */

enum change { NO_HEADROOM, NO_TAILROOM, NEARLY_ROOM, FIRST_FRAGMENT, LATER_FRAGMENT, OTHER_SOURCE, OTHER_DESTINATION,
	      OTHER_VERSION, IP_OPTIONS, EXTENSION };

static void put_changed(enum change change)
{
	uint8_t version = change == OTHER_VERSION || change == EXTENSION ? 6 : 4;
	size_t length = udp_packet(text, version, change > NEARLY_ROOM, 10, 0);

	if (change == FIRST_FRAGMENT)
		text[6] = 0x20;
	if (change == LATER_FRAGMENT)
		text[7] = 1;
	if (change == OTHER_SOURCE || change == OTHER_DESTINATION)
		text[change == OTHER_SOURCE ? 15 : 19] ^= 4;
	if (change == IP_OPTIONS) {
		memmove(text + 24, text + 20, length - 20);
		memset(text + 20, 1, 4);
		text[0] = 0x46;
		ipsf_write16(text + 2, (uint16_t)(length += 4));
	}
	if (change == EXTENSION) {
		memmove(text + 48, text + 40, length - 40);
		memcpy(text + 40, "\x11\x00\x01\x04\x00\x00\x00\x00", 8);
		text[6] = IPSF_PROTO_DSTOPTS;
		ipsf_write16(text + 4, (uint16_t)(length + 8 - 40));
		length += 8;
	}
	slot_put(&slots[0], text, length);
	if (change == NO_HEADROOM)
		slots[0].packet.headroom = IPSF_ESP_TEXT - 1;
	if (change == NO_TAILROOM) /* 30 bytes: no padding */
		slots[0].packet.tailroom = IPSF_ESP_TRAILER + IPSF_ICV_SIZE - 1;
	if (change == NEARLY_ROOM)
		slots[0].packet.headroom = IPSF_ESP_TEXT, slots[0].packet.tailroom = IPSF_ESP_TRAILER + IPSF_ICV_SIZE;
}

static void test_sealing(uint8_t mode, uint8_t outer, enum change change, unsigned reason)
{
	struct ipsf_sa_params params = params_of(mode, outer, 20);
	struct pair pair;

	pair_init(&pair, &params, "auto");
	put_changed(change);
	slots_seal(&pair, slots, 1);
	if (reason)
		expect(&pair, reason, false);
	CHECK(slots[0].packet.drop == reason && ipsf_sa_out_sequence(pair.out) == !reason); /* takes no number */
	pair_fini(&pair);
}

/* The largest packet that is sealed, and one byte more. */
static void test_longest(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	size_t largest = 65507 - IPSF_ESP_ROOM;
	struct ipsf_packet packet, *packets[] = { &packet };
	uint8_t *bytes = calloc(1, 66000);
	struct pair pair;

	pair_init(&pair, &params, "auto");
	for (size_t length = largest - 4; length <= largest + 1; length++) {
		packet = (struct ipsf_packet){ .data = bytes + 128, .headroom = 128, .tailroom = 128, .length = (uint32_t)length };
		ip_header(packet.data, host(4, 1), host(4, 2), 99, length - 20, 0);
		CHECK(ipsf_ip_parse(&packet));
		ipsf_esp_encap(pair.out, 0, packets, 1);
		CHECK(packet.drop == (length > largest ? IPSF_DROP_TOO_LONG : IPSF_DROP_NONE) && packet.length <= 65507);
	}
	pair_fini(&pair);
	free(bytes);
}

/* ---- inbound: text that the right key sealed ---- */

static void test_forged(uint8_t mode, size_t length, unsigned reason)
{
	for (size_t i = 0; i < ipsf_engine_count(); i++) {
		struct ipsf_sa_params params = params_of(mode, 4, 28);
		struct pair pair;

		pair_init(&pair, &params, ipsf_engine_name(i));
		slot_forge(&pair, &slots[0], text, length, 1);
		CHECK(slots_open(&pair, slots, 1) == IPSF_NOTICE_FIRST_INBOUND); /* authentic it is */
		if (reason)
			expect(&pair, reason, true);
		CHECK(slots[0].packet.drop == reason && pair.in->packets == 1 && pair.in->replay->top == 1);
		pair_fini(&pair);
	}
}

static size_t inner(size_t payload)
{
	return udp_packet(text, 4, false, payload, 0);
}

static void test_trailers(void)
{
	size_t n = inner(10); /* 30 bytes: no padding needed */

	test_forged(IPSF_MODE_TUNNEL, trailer(text, n, 0, 4), IPSF_DROP_NONE);
	test_forged(IPSF_MODE_TUNNEL, trailer(text, n, 0, 59), IPSF_DROP_DUMMY);
	test_forged(IPSF_MODE_TRANSPORT, trailer(text, n, 0, 59), IPSF_DROP_DUMMY);
	test_forged(IPSF_MODE_TUNNEL, trailer(text, 2, 0, 59), IPSF_DROP_DUMMY);
	inner(10);
	test_forged(IPSF_MODE_TUNNEL, trailer(text, n, 0, 17), IPSF_DROP_BAD_TRAILER); /* no IP packet */
	test_forged(IPSF_MODE_TUNNEL, trailer(text, n, 0, 41), IPSF_DROP_MALFORMED);   /* says IPv6, is IPv4 */
	for (unsigned at = 0; at < 8; at++) { /* each byte of the padding counts */
		size_t all = trailer(text, inner(10), 8, 4);

		text[n + at] ^= (uint8_t)(1u << at);
		test_forged(IPSF_MODE_TUNNEL, all, IPSF_DROP_BAD_TRAILER);
	}
	for (unsigned pad = 3; pad < 256; pad += 4) { /* more padding than text */
		text[0] = 1, text[1] = 2, text[2] = (uint8_t)pad, text[3] = 4;
		test_forged(IPSF_MODE_TUNNEL, 4, IPSF_DROP_BAD_TRAILER);
	}
	test_forged(IPSF_MODE_TUNNEL, trailer(text, 0, 2, 4), IPSF_DROP_MALFORMED);    /* padding and nothing else */
}

static void test_inner(void)
{
	size_t n = trailer(text, inner(10), 0, 4);

	ipsf_write16(text + 2, 31); /* longer than the text */
	test_forged(IPSF_MODE_TUNNEL, n, IPSF_DROP_MALFORMED);
	ipsf_write16(text + 2, 19);
	test_forged(IPSF_MODE_TUNNEL, n, IPSF_DROP_MALFORMED);
	ipsf_write16(text + 2, 22); /* no room for ports */
	test_forged(IPSF_MODE_TUNNEL, n, IPSF_DROP_MALFORMED);
	inner(10);
	text[0] = 0x4f; /* options beyond the end */
	test_forged(IPSF_MODE_TUNNEL, n, IPSF_DROP_MALFORMED);
	for (unsigned at = 13; at <= 17; at += 4) { /* RFC 4301 s5.2: from another site, to another site */
		inner(10);
		text[at] ^= 8;
		test_forged(IPSF_MODE_TUNNEL, n, IPSF_DROP_SELECTOR);
	}
	n = trailer(text, 16, 2, 17); /* transport mode: authentic, but not between these ends' selectors: see below */
	test_forged(IPSF_MODE_TRANSPORT, n, IPSF_DROP_NONE);
	n = trailer(text, 2, 0, 17); /* UDP of two bytes */
	test_forged(IPSF_MODE_TRANSPORT, n, IPSF_DROP_MALFORMED);
}

/* Transport mode: the path is the packet's source and destination; no room for their header; another path. */
static void test_transport(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TRANSPORT, 6, 20);
	struct pair pair;
	size_t n;

	pair_init(&pair, &params, "auto");
	n = trailer(memset(text, 1, 64), 16, 2, 17);
	slot_forge(&pair, &slots[0], text, n, 1);
	slots[0].packet.headroom = 40 - IPSF_ESP_TEXT - 1;
	slots_open(&pair, slots, 1);
	expect(&pair, IPSF_DROP_TOO_LONG, true);
	slot_forge(&pair, &slots[0], text, n, 2);
	slots[0].packet.headroom = 40 - IPSF_ESP_TEXT;
	slots_open(&pair, slots, 1);
	CHECK(!slots[0].packet.drop && slots[0].packet.headroom == 0);
	pair.path.remote = host(6, 9);
	slot_forge(&pair, &slots[0], text, n, 3);
	slots_open(&pair, slots, 1);
	expect(&pair, IPSF_DROP_SELECTOR, true);
	pair_fini(&pair);
}

/* ---- inbound: what is wrong before anything is opened, and what no key sealed ---- */

static void test_lengths(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	size_t n = trailer(text, inner(10), 0, 4) + IPSF_ESP_TEXT + IPSF_ICV_SIZE;
	struct pair pair;

	for (uint32_t length = 0; length <= n; length++) { /* every truncation */
		unsigned reason = length == n ? IPSF_DROP_NONE : length < 34 ? IPSF_DROP_TOO_SHORT :
				  length % 4 ? IPSF_DROP_MALFORMED : IPSF_DROP_INTEGRITY;

		pair_init(&pair, &params, "auto");
		slot_forge(&pair, &slots[0], text, n - IPSF_ESP_TEXT - IPSF_ICV_SIZE, 1);
		slots[0].packet.length = length;
		slots_open(&pair, slots, 1);
		if (reason)
			expect(&pair, reason, true);
		CHECK(slots[0].packet.drop == reason && pair.in->replay->top == !reason && pair.in->packets == !reason);
		pair_fini(&pair);
	}
	pair_init(&pair, &params, "auto");
	slot_forge(&pair, &slots[0], text, n - IPSF_ESP_TEXT - IPSF_ICV_SIZE, 1);
	slots[0].packet.length = 65536; /* refused unseen */
	slots_open(&pair, slots, 1);
	expect(&pair, IPSF_DROP_TOO_LONG, true);
	pair_fini(&pair);
}

/* Each bit of an ESP packet counts; the SPI's too, for it is authenticated, though the SAD has found the SA already. */
static void test_every_bit(const char *engine, bool esn)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	size_t n = trailer(text, inner(10), 0, 4);
	struct pair pair;

	params.esn = esn;
	params.replay_window = 2048;
	pair_init(&pair, &params, engine);
	for (unsigned bit = 0; bit < 8 * (n + 32); bit++) {
		slot_forge(&pair, &slots[0], text, n, 1000);
		slots[0].packet.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
		if (bit < 32)
			continue; /* the SPI is not read here: ipsf_open and the SAD compare it */
		slots_open(&pair, slots, 1);
		CHECK(slots[0].packet.drop == IPSF_DROP_INTEGRITY || slots[0].packet.drop == IPSF_DROP_REPLAY);
		CHECK(pair.in->replay->top == 0 && pair.in->packets == 0);
	}
	slot_forge(&pair, &slots[0], text, n, 1000);
	slots_open(&pair, slots, 1);
	CHECK(!slots[0].packet.drop && ipsf_sa_dropped(&pair.in->drops, IPSF_DROP_INTEGRITY) >= 8 * (n + 24));
	covered[IPSF_DROP_INTEGRITY] = true;
	pair_fini(&pair);
}

static void test_replays(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	size_t n = trailer(text, inner(10), 0, 4);
	static const struct { uint64_t sequence; bool passes; } order[] = {
		{ 0, false }, { 1, true }, { 1, false }, { 100, true }, { 36, false }, { 37, true }, { 37, false },
		{ 100, false }, { 99, true }, { 1, false }, { 164, true }, { 100, false }, { 101, true },
	};
	struct pair pair;

	pair_init(&pair, &params, "auto");
	for (size_t i = 0; i < sizeof order / sizeof order[0]; i++) {
		slot_forge(&pair, &slots[0], text, n, order[i].sequence);
		slots_open(&pair, slots, 1);
		CHECK(slots[0].packet.drop == (order[i].passes ? IPSF_DROP_NONE : IPSF_DROP_REPLAY));
	}
	slot_forge(&pair, &slots[0], text, n, 101);
	slots[0].packet.data[slots[0].packet.length - 1] ^= 1; /* s3.4.3: refused before anything is spent on its ICV */
	slots[1] = slots[0];
	slots_open(&pair, slots, 1);
	CHECK(slots[0].packet.drop == IPSF_DROP_REPLAY && !memcmp(slots[0].bytes, slots[1].bytes, sizeof slots[0].bytes));
	covered[IPSF_DROP_REPLAY] = ipsf_sa_dropped(&pair.in->drops, IPSF_DROP_REPLAY) == 8;
	pair_fini(&pair);
}

/* An ECN mark that the inner packet can't carry (RFC 6040 s4.2). */
static void test_mark(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct pair pair;

	pair_init(&pair, &params, "auto");
	slot_forge(&pair, &slots[0], text, trailer(text, inner(10), 0, 4), 1);
	slots[0].packet.tos = IPSF_CE;
	slots_open(&pair, slots, 1);
	expect(&pair, IPSF_DROP_ECN, true);
	pair_fini(&pair);
}

/* ---- an engine that refuses ---- */

static int refusing_key_set(struct ipsf_aead_key *key, const uint8_t *bytes, size_t length)
{
	(void)key, (void)bytes, (void)length;
	return IPSF_OK;
}

static void refusing_key_clear(struct ipsf_aead_key *key)
{
	(void)key;
}

static bool refusing_seal(struct ipsf_aead_key *key, struct ipsf_aead_op *ops, unsigned n)
{
	(void)key;
	for (unsigned i = 0; i < n; i++)
		ops[i].ok = i % 2;
	return false;
}

static void test_crypto(void)
{
	static const struct ipsf_aead_engine refusing = { .key_size = 1, .key_set = refusing_key_set, .key_clear = refusing_key_clear,
							  .seal = refusing_seal, .open = refusing_seal };
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct pair pair;
	size_t n = inner(10);

	CHECK(ipsf_sa_out_create(&params, &refusing, 1, &pair.out) == IPSF_OK);
	slot_put(&slots[0], text, n);
	slot_put(&slots[1], text, n);
	slots_seal(&pair, slots, 2);
	expect(&pair, IPSF_DROP_CRYPTO, false);
	CHECK(!slots[1].packet.drop);
	ipsf_sa_out_free(pair.out);
}

int main(void)
{
	static const enum ipsf_drop core[] = { IPSF_DROP_MALFORMED, IPSF_DROP_TOO_SHORT, IPSF_DROP_TOO_LONG, IPSF_DROP_FRAGMENT,
		IPSF_DROP_OPTIONS, IPSF_DROP_REPLAY, IPSF_DROP_INTEGRITY, IPSF_DROP_BAD_TRAILER, IPSF_DROP_DUMMY,
		IPSF_DROP_SELECTOR, IPSF_DROP_ECN, IPSF_DROP_CRYPTO }; /* the rest: test_esp_limits.c, test_library.c */

	test_sealing(IPSF_MODE_TUNNEL, 4, NO_HEADROOM, IPSF_DROP_TOO_LONG);
	test_sealing(IPSF_MODE_TUNNEL, 4, NO_TAILROOM, IPSF_DROP_TOO_LONG);
	test_sealing(IPSF_MODE_TUNNEL, 4, NEARLY_ROOM, IPSF_DROP_NONE);
	test_sealing(IPSF_MODE_TRANSPORT, 4, FIRST_FRAGMENT, IPSF_DROP_FRAGMENT);
	test_sealing(IPSF_MODE_TRANSPORT, 4, LATER_FRAGMENT, IPSF_DROP_FRAGMENT);
	test_sealing(IPSF_MODE_TRANSPORT, 4, OTHER_SOURCE, IPSF_DROP_SELECTOR);
	test_sealing(IPSF_MODE_TRANSPORT, 4, OTHER_DESTINATION, IPSF_DROP_SELECTOR);
	test_sealing(IPSF_MODE_TRANSPORT, 4, OTHER_VERSION, IPSF_DROP_SELECTOR);
	test_sealing(IPSF_MODE_TRANSPORT, 4, IP_OPTIONS, IPSF_DROP_OPTIONS);
	test_sealing(IPSF_MODE_TRANSPORT, 6, EXTENSION, IPSF_DROP_OPTIONS);
	test_sealing(IPSF_MODE_TUNNEL, 6, EXTENSION, IPSF_DROP_NONE);
	test_longest();
	test_trailers();
	test_inner();
	test_transport();
	test_lengths();
	for (size_t i = 0; i < ipsf_engine_count(); i++) {
		test_every_bit(ipsf_engine_name(i), false);
		test_every_bit(ipsf_engine_name(i), true);
	}
	test_replays();
	test_mark();
	test_crypto();
	for (size_t i = 0; i < sizeof core / sizeof core[0]; i++)
		CHECK(covered[core[i]]);
	return check_summary("test_esp_drops");
}
