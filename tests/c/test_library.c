/* The library over arrays: round trips, bounds, in place, transport mode with its headers, the tables of names. */
#include "esp_pair.h"

#define COUNT 200u

static uint64_t seed = 1;

/* Packets in heap memory of exactly their size, so that ASan sees the first byte too far. */
struct array {
	struct ipsf_packets p;
	uint8_t reasons[COUNT];
};

static void array_init(struct array *a, size_t count, size_t size)
{
	memset(a, 0, sizeof *a);
	a->p.data = calloc(1, size ? size : 1);
	a->p.size = size;
	a->p.count = count;
	a->p.offsets = calloc(count ? count : 1, sizeof *a->p.offsets);
	a->p.lengths = calloc(count ? count : 1, sizeof *a->p.lengths);
	if (!a->p.data || !a->p.offsets || !a->p.lengths)
		exit(1);
}

static void array_fini(struct array *a)
{
	free(a->p.data);
	free(a->p.offsets);
	free(a->p.lengths);
}

static size_t total(const struct array *a)
{
	size_t sum = 0;

	for (size_t i = 0; i < a->p.count; i++)
		sum += a->p.lengths[i];
	return sum;
}

/* Packets of all sorts of lengths, with gaps between them. */
static void fill(struct array *a, size_t count, bool transport, uint8_t version)
{
	size_t at = 0;

	array_init(a, count, count * 400);
	for (size_t i = 0; i < count; i++) {
		uint8_t v = version ? version : i % 2 ? 6 : 4;

		at += test_random(&seed) % 30;
		a->p.offsets[i] = at;
		a->p.lengths[i] = (uint32_t)udp_packet(a->p.data + at, v, transport, 8 + test_random(&seed) % 300, 0x28);
		at += a->p.lengths[i];
	}
}

static const uint8_t *packet_of(const struct array *a, size_t i)
{
	return a->p.data + a->p.offsets[i];
}

static void check_same(const struct array *in, const struct array *out)
{
	for (size_t i = 0; i < in->p.count; i++) {
		CHECK(out->reasons[i] == 0 && out->p.lengths[i] == in->p.lengths[i]);
		CHECK(out->p.offsets[i] + out->p.lengths[i] <= out->p.size);
		CHECK(!memcmp(packet_of(in, i), packet_of(out, i), in->p.lengths[i]));
	}
}

static void there_and_back(uint8_t mode, uint8_t outer, const char *engine, size_t count, bool in_place)
{
	struct ipsf_sa_params params = params_of(mode, outer, 20);
	struct array plain, sealed, opened;
	struct pair pair;

	pair_init(&pair, &params, engine);
	fill(&plain, count, mode == IPSF_MODE_TRANSPORT, mode == IPSF_MODE_TRANSPORT ? outer : 0);
	array_init(&sealed, count, total(&plain) + count * IPSF_ESP_ROOM);
	CHECK(ipsf_seal(pair.out, &plain.p, &sealed.p, sealed.reasons) == IPSF_OK);
	for (size_t i = 0; i < count; i++) {
		size_t skip = mode == IPSF_MODE_TUNNEL ? 0 : outer == 4 ? 20 : 40;
		const uint8_t *esp = packet_of(&sealed, i) + skip;

		CHECK(!sealed.reasons[i] && ipsf_read32(esp) == SPI && ipsf_read32(esp + 4) == i + 1);
		CHECK((sealed.p.lengths[i] - skip) % 4 == 0);
	}
	if (in_place) {
		CHECK(ipsf_open(pair.in, &sealed.p, &sealed.p, sealed.reasons) == IPSF_OK);
		check_same(&plain, &sealed);
	} else {
		array_init(&opened, count, total(&sealed));
		CHECK(ipsf_open(pair.in, &sealed.p, &opened.p, opened.reasons) == IPSF_OK);
		check_same(&plain, &opened);
		array_fini(&opened);
	}
	CHECK(ipsf_sa_out_sequence(pair.out) == count);
	array_fini(&plain);
	array_fini(&sealed);
	pair_fini(&pair);
}

/* What doesn't pass has length 0 and a reason; the others are untouched by it. */
static void test_reasons(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct array plain, sealed;
	struct pair pair;

	pair_init(&pair, &params, "auto");
	fill(&plain, 6, false, 4);
	plain.p.data[plain.p.offsets[1]] = 0x25;
	plain.p.lengths[3] = 0;
	array_init(&sealed, 6, total(&plain) + 6 * IPSF_ESP_ROOM);
	CHECK(ipsf_seal(pair.out, &plain.p, &sealed.p, sealed.reasons) == IPSF_OK);
	for (size_t i = 0; i < 6; i++)
		CHECK(sealed.reasons[i] == (i == 1 || i == 3 ? IPSF_DROP_MALFORMED : 0) && !sealed.p.lengths[i] == (i == 1 || i == 3));
	CHECK(ipsf_sa_out_sequence(pair.out) == 4);
	sealed.p.data[sealed.p.offsets[2]] ^= 1;
	sealed.p.data[sealed.p.offsets[4] + 30] ^= 1;
	sealed.p.lengths[5] = 3;
	CHECK(ipsf_open(pair.in, &sealed.p, &sealed.p, sealed.reasons) == IPSF_OK);
	CHECK(sealed.reasons[0] == 0 && sealed.reasons[1] == IPSF_DROP_TOO_SHORT && sealed.reasons[2] == IPSF_DROP_UNKNOWN_SPI);
	CHECK(sealed.reasons[4] == IPSF_DROP_INTEGRITY && sealed.reasons[5] == IPSF_DROP_TOO_SHORT);
	CHECK(sealed.p.lengths[0] == plain.p.lengths[0] && !sealed.p.lengths[2] && !sealed.p.lengths[4]);
	array_fini(&plain);
	array_fini(&sealed);
	pair_fini(&pair);
}

/* ---- in place ---- */

#define BEFORE IPSF_ESP_HEADROOM
#define BEHIND (IPSF_ESP_ROOM - IPSF_ESP_HEADROOM)

/* Packets exactly as far from each other as ESP needs. */
static void fill_tightly(struct array *a, size_t count, bool transport, uint8_t version)
{
	size_t at = 0;

	array_init(a, count, count * 400);
	for (size_t i = 0; i < count; i++) {
		a->p.offsets[i] = at += BEFORE;
		a->p.lengths[i] = (uint32_t)udp_packet(a->p.data + at, version, transport, 8 + i % 300, 0x28);
		at += a->p.lengths[i] + BEHIND;
	}
	a->p.size = at;
	a->p.data = realloc(a->p.data, at);
}

static void test_in_place(uint8_t mode, uint8_t version)
{
	struct ipsf_sa_params params = params_of(mode, version, 20);
	struct array plain, work;
	struct pair pair;

	pair_init(&pair, &params, "auto");
	fill_tightly(&plain, COUNT, mode == IPSF_MODE_TRANSPORT, version);
	fill_tightly(&work, COUNT, mode == IPSF_MODE_TRANSPORT, version);
	CHECK(ipsf_seal(pair.out, &work.p, &work.p, work.reasons) == IPSF_OK);
	for (size_t i = 0; i < COUNT; i++)
		CHECK(!work.reasons[i] && work.p.offsets[i] == plain.p.offsets[i] - BEFORE);
	CHECK(ipsf_open(pair.in, &work.p, &work.p, work.reasons) == IPSF_OK);
	check_same(&plain, &work);
	for (size_t i = 0; i < COUNT; i++)
		CHECK(work.p.offsets[i] == plain.p.offsets[i]);
	array_fini(&plain);
	array_fini(&work);
	pair_fini(&pair);
}

/*
 * A byte less before, between or behind packets, packets out of order, results for too few: refused, nothing is
 * written.
 */
static void test_in_place_bounds(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct array work, copy;
	struct pair pair;

	pair_init(&pair, &params, "auto");
	for (unsigned i = 0; i < 5; i++) {
		struct ipsf_packets out;

		fill_tightly(&work, 70, false, 4);
		fill_tightly(&copy, 70, false, 4);
		work.p.offsets[0] -= i == 0;
		work.p.offsets[40] -= i == 1;
		work.p.size -= i == 2;
		if (i == 3)
			work.p.offsets[0] = copy.p.offsets[1], work.p.offsets[1] = copy.p.offsets[0];
		out = work.p;
		out.count -= i == 4;
		CHECK(ipsf_seal(pair.out, &work.p, &out, work.reasons) == IPSF_ENOSPC);
		CHECK(!memcmp(work.p.data, copy.p.data, work.p.size) && ipsf_sa_out_sequence(pair.out) == 0);
		array_fini(&work);
		array_fini(&copy);
	}
	pair_fini(&pair);
}

/* One byte too few is refused before anything is written; a packet outside its array is an error of the caller. */
static void test_bounds(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct array plain, sealed, opened;
	struct pair pair;

	pair_init(&pair, &params, "auto");
	fill(&plain, 70, false, 0);
	array_init(&sealed, 70, total(&plain) + 70 * IPSF_ESP_ROOM);
	sealed.p.size--;
	CHECK(ipsf_seal(pair.out, &plain.p, &sealed.p, sealed.reasons) == IPSF_ENOSPC);
	sealed.p.size++;
	sealed.p.count--;
	CHECK(ipsf_seal(pair.out, &plain.p, &sealed.p, sealed.reasons) == IPSF_ENOSPC);
	sealed.p.count++;
	CHECK(ipsf_sa_out_sequence(pair.out) == 0 && ipsf_seal(pair.out, &plain.p, &sealed.p, sealed.reasons) == IPSF_OK);
	array_init(&opened, 70, total(&sealed));
	opened.p.size--;
	CHECK(ipsf_open(pair.in, &sealed.p, &opened.p, opened.reasons) == IPSF_ENOSPC);
	opened.p.size++;
	CHECK(ipsf_open(pair.in, &sealed.p, &opened.p, opened.reasons) == IPSF_OK && !opened.reasons[69]);
	plain.p.lengths[69] = (uint32_t)(plain.p.size - plain.p.offsets[69] + 1);
	CHECK(ipsf_seal(pair.out, &plain.p, &sealed.p, sealed.reasons) == IPSF_EINVAL);
	plain.p.lengths[69] = UINT32_MAX;
	CHECK(ipsf_open(pair.in, &plain.p, &opened.p, opened.reasons) == IPSF_EINVAL);
	plain.p.lengths[69] = 4;
	plain.p.offsets[69] = UINT64_MAX - 1;
	CHECK(ipsf_seal(pair.out, &plain.p, &sealed.p, sealed.reasons) == IPSF_EINVAL);
	array_fini(&plain);
	array_fini(&sealed);
	array_fini(&opened);
	pair_fini(&pair);
}

/* Puts an IP header of its own (TTL 7, a flow label or DSCP) before ESP around text, in array a at 0. */
static void put_transport(struct array *a, const struct pair *pair, uint8_t version, const uint8_t *text, size_t length)
{
	static struct slot slot;
	size_t all;

	slot_forge(pair, &slot, text, length, ipsf_sa_out_sequence(pair->out) + 1);
	atomic_fetch_add(&pair->out->sequence, 1);
	all = ip_header(a->p.data, gateway(version, 1), gateway(version, 2), IPSF_PROTO_ESP, slot.packet.length, 0x48);
	a->p.data[version == 4 ? 8 : 7] = 7;
	if (version == 4) {
		ipsf_write16(a->p.data + 10, 0);
		ipsf_write16(a->p.data + 10, ipsf_checksum_fold(ipsf_checksum_add(a->p.data, 20, 0)));
	} else {
		a->p.data[3] = 9;
	}
	memcpy(a->p.data + (version == 4 ? 20 : 40), slot.packet.data, slot.packet.length);
	a->p.offsets[0] = 0;
	a->p.lengths[0] = (uint32_t)all;
}

static unsigned open_one(struct pair *pair, struct array *a)
{
	CHECK(ipsf_open(pair->in, &a->p, &a->p, a->reasons) == IPSF_OK);
	return a->reasons[0];
}

/* The header that came is the header that is given back: only length, protocol and checksum are other ones. */
static void test_transport_header(uint8_t version)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TRANSPORT, version, 20);
	uint8_t text[64] = { IPSF_PROTO_UDP, 0, 1, 4 }, *ip;
	size_t header = version == 4 ? 20 : 40, options = version == 4 ? 0 : 8;
	struct array a;
	struct pair pair;

	pair_init(&pair, &params, "auto");
	array_init(&a, 1, 256);
	udp_packet(text + options, 4, true, 16, 0);
	memmove(text + options, text + options + 20, 16); /* IPv6: destination options, inside ESP, before UDP */
	put_transport(&a, &pair, version, text, trailer(text, options + 16, 2, options ? IPSF_PROTO_DSTOPTS : IPSF_PROTO_UDP));
	CHECK(open_one(&pair, &a) == 0 && a.p.lengths[0] == header + options + 16);
	ip = a.p.data + a.p.offsets[0];
	CHECK(ip[version == 4 ? 8 : 7] == 7 && !memcmp(ip + header, text, options + 16));
	CHECK(version == 4 ? ip[1] == 0x48 && ipsf_read16(ip + 2) == 36 && ip[9] == IPSF_PROTO_UDP &&
			     ipsf_checksum_fold(ipsf_checksum_add(ip, 20, 0)) == 0 :
			     ip[3] == 9 && ipsf_read16(ip + 4) == 24 && ip[6] == IPSF_PROTO_DSTOPTS);
	array_fini(&a);
	pair_fini(&pair);
}

static void test_transport_refusals(void)
{
	static const struct { unsigned at; uint8_t value; unsigned reason; } cases[] = {
		{ 6, 0x20, IPSF_DROP_FRAGMENT }, { 7, 1, IPSF_DROP_FRAGMENT }, { 9, IPSF_PROTO_UDP, IPSF_DROP_MALFORMED },
		{ 0, 0x46, IPSF_DROP_OPTIONS }, { 0, 0x44, IPSF_DROP_MALFORMED }, { 2, 0xff, IPSF_DROP_MALFORMED },
		{ 12, 10, IPSF_DROP_SELECTOR }, { 20, 1, IPSF_DROP_UNKNOWN_SPI }, { 3, 22, IPSF_DROP_TOO_SHORT },
		{ 50, 0xff, IPSF_DROP_INTEGRITY },
	};
	struct ipsf_sa_params params = params_of(IPSF_MODE_TRANSPORT, 4, 20);
	struct pair pair;

	pair_init(&pair, &params, "auto");
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		uint8_t text[64] = { 0 };
		struct array a;

		array_init(&a, 1, 256);
		put_transport(&a, &pair, 4, text, trailer(text, 16, 2, 99));
		a.p.data[cases[i].at] = cases[i].value;
		CHECK(open_one(&pair, &a) == cases[i].reason && a.p.lengths[0] == 0);
		array_fini(&a);
	}
	pair_fini(&pair);
}

static void test_names(void)
{
	CHECK(ipsf_engine_count() >= 1 && ipsf_engine_name(ipsf_engine_count()) == NULL);
	CHECK(ipsf_engine_choose("auto") == ipsf_engine_choose(NULL) && ipsf_engine_choose(NULL) == ipsf_engine_name(0));
	CHECK(ipsf_engine_choose("openssl") && !ipsf_engine_choose("rot13") && !ipsf_engine_choose(""));
	for (size_t i = 0; i < ipsf_engine_count(); i++)
		CHECK(ipsf_engine_choose(ipsf_engine_name(i)) == ipsf_engine_name(i));
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++) {
		CHECK(strlen(ipsf_drop_text(i)) > 1 && strlen(ipsf_drop_help(i)) > 10);
		for (unsigned j = 0; j < i; j++)
			CHECK(strcmp(ipsf_drop_text(i), ipsf_drop_text(j)));
	}
	CHECK(!strcmp(ipsf_drop_text(0), "none") && !strcmp(ipsf_drop_text(IPSF_DROP_COUNT), "unknown"));
	CHECK(strlen(ipsf_drop_help(IPSF_DROP_COUNT)) > 10);
	for (unsigned i = 0; i <= IPSF_EVENT_COUNT; i++)
		CHECK(!strcmp(ipsf_event_text(i), "unknown") == (i == IPSF_EVENT_COUNT));
	for (int error = 0; error >= -9; error--)
		CHECK(!strcmp(ipsf_error_text(error), "unknown error") == (error == -9));
}

/* The overhead that is promised is the largest there is, and some length reaches it. */
static void test_overhead(uint8_t mode, uint8_t outer)
{
	struct ipsf_sa_params params = params_of(mode, outer, 36);
	unsigned largest = 0, around = mode == IPSF_MODE_TUNNEL ? outer == 4 ? 20 : 40 : 0;
	struct array plain, sealed;
	struct pair pair;

	pair_init(&pair, &params, "auto");
	fill(&plain, COUNT, mode == IPSF_MODE_TRANSPORT, outer);
	array_init(&sealed, COUNT, total(&plain) + COUNT * IPSF_ESP_ROOM);
	CHECK(ipsf_seal(pair.out, &plain.p, &sealed.p, sealed.reasons) == IPSF_OK);
	for (size_t i = 0; i < COUNT; i++)
		if (sealed.p.lengths[i] - plain.p.lengths[i] > largest)
			largest = sealed.p.lengths[i] - plain.p.lengths[i];
	CHECK(ipsf_esp_overhead(20, mode, 0, outer) == (int)(largest + around));
	CHECK(ipsf_esp_overhead(20, mode, 1, outer) == (int)(largest + around + 8));
	CHECK(ipsf_esp_overhead(12, mode, 0, outer) == IPSF_EINVAL);
	array_fini(&plain);
	array_fini(&sealed);
	pair_fini(&pair);
}

/* The benchmark's raw engine does real work: all engines give the same bytes, and opening gives back the text. */
static void test_raw(void)
{
	static uint8_t first[3 * 128], again[3 * 128];
	uint8_t key[16] = { 1 };

	for (size_t i = 0; i < ipsf_engine_count(); i++) {
		memset(again, 5, sizeof again);
		CHECK(ipsf_raw_seal(ipsf_engine_name(i), key, 16, again, 100, 128, 3, 1) == IPSF_OK);
		if (i == 0)
			memcpy(first, again, sizeof first);
		CHECK(!memcmp(first, again, sizeof first) && again[0] != 5 && again[100] != 5 && again[116] == 5);
		CHECK(memcmp(again, again + 128, 100));
		CHECK(ipsf_raw_open(ipsf_engine_name(i), key, 16, again, 100, 128, 3, 1) == IPSF_OK);
		CHECK(again[0] == 5 && again[99] == 5 && again[128] == 5 && again[256 + 99] == 5);
		CHECK(ipsf_raw_seal(ipsf_engine_name(i), key, 15, again, 100, 128, 3, 1) == IPSF_EINVAL);
		CHECK(ipsf_raw_seal(ipsf_engine_name(i), key, 16, again, 100, 115, 3, 1) == IPSF_EINVAL);
		CHECK(ipsf_raw_seal(ipsf_engine_name(i), key, 16, again, (size_t)INT32_MAX + 1, SIZE_MAX / 2, 1, 1) == IPSF_EINVAL);
		CHECK(ipsf_raw_open(ipsf_engine_name(i), key, 16, again, 100, 128, 0, 1) == IPSF_EINVAL);
	}
	CHECK(ipsf_raw_seal("rot13", key, 16, again, 100, 128, 3, 1) == IPSF_ENOENT);
}

int main(void)
{
	static const size_t counts[] = { 0, 1, 63, 64, 65, 128, COUNT };

	for (size_t i = 0; i < ipsf_engine_count() * 8; i++) {
		uint8_t mode = i >> 1 & 1, outer = i & 4 ? 6 : 4;

		for (size_t k = 0; k < sizeof counts / sizeof counts[0]; k++)
			there_and_back(mode, outer, ipsf_engine_name(i >> 3), counts[k], i & 1);
	}
	test_reasons();
	test_bounds();
	test_in_place_bounds();
	for (uint8_t version = 4; version <= 6; version += 2) {
		test_in_place(IPSF_MODE_TUNNEL, version);
		test_in_place(IPSF_MODE_TRANSPORT, version);
		test_transport_header(version);
		test_overhead(IPSF_MODE_TUNNEL, version);
		test_overhead(IPSF_MODE_TRANSPORT, version);
	}
	test_transport_refusals();
	test_names();
	test_raw();
	return check_summary("test_library");
}
