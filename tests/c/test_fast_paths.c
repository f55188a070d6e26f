/* What is read straight away for most packets, beside what is asked of every packet: the same answer, for random ones too. */
#include "esp_pair.h"

static uint64_t seed = 791;

static unsigned below(unsigned n)
{
	return (unsigned)(test_random(&seed) % n);
}

/* IPv4 headers that are mostly right, in every way in which one may be wrong or unusual. */
static uint32_t random_ipv4(uint8_t *ip)
{
	static const uint8_t protocols[] = {IPSF_PROTO_TCP, IPSF_PROTO_UDP, IPSF_PROTO_ICMP, IPSF_PROTO_SCTP, 47};
	const uint32_t length = below(64);
	for (unsigned i = 0; i < 64; i++)
		ip[i] = (uint8_t)below(256);
	ip[0] = below(8) ? 0x45 : (uint8_t)below(256);
	ipsf_write16(ip + 2, (uint16_t)(below(4) ? length : below(70)));
	ipsf_write16(ip + 6, (uint16_t)(below(4) ? below(2) * 0x4000 : below(65536)));
	ip[9] = protocols[below(sizeof protocols)];
	return length;
}

static void parsing(void)
{
	unsigned plain = 0;
	for (unsigned i = 0; i < 300000; i++) {
		uint8_t bytes[64];
		const uint32_t length = random_ipv4(bytes);
		uint8_t *exact = memcpy(malloc(length ? length : 1), bytes, length); /* the sanitizer sees a byte too far */
		struct ipsf_packet a = {.data = exact, .length = length, .tailroom = (uint16_t)(64 - length), .tos = 7,
					.flags = (uint8_t)below(256), .source_port = 1};
		struct ipsf_packet b = a, c = a;
		CHECK(ipsf_ip_parse(&a) == ipsf_ip_parse_any(&b));
		CHECK(memcmp(&a, &b, sizeof a) == 0);
		plain += length >= IPSF_IPV4_HEADER && ipsf_ip_parse_plain(&c);
		free(exact);
	}
	CHECK(plain > 30000);
}

/* RFC 4303 s2.4, said slowly. */
static bool right_trailer(const uint8_t *text, size_t length)
{
	const unsigned pad = text[length - 2];
	if (pad + 2u > length)
		return false;
	for (unsigned i = 0; i < pad; i++)
		if (text[length - 2 - pad + i] != i + 1)
			return false;
	return true;
}

static void trailers(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	static struct slot slot;
	uint8_t text[300];
	unsigned right = 0;
	struct pair pair;
	for (unsigned i = 0; i < 100000; i++) {
		const size_t length = 4 + 4 * below(i % 8 ? 6 : 70);
		const unsigned pad = below(i % 8 ? 12 : 256);
		if (i % 64 == 0) {
			if (i)
				pair_fini(&pair);
			pair_init(&pair, &params, "openssl");
		}
		memset(text, 0, sizeof text);
		for (size_t at = 0; at < pad && at + 2 < length; at++)
			text[length - 3 - at] = (uint8_t)(pad - at);
		text[length - 2] = (uint8_t)pad;
		text[length - 1] = IPSF_PROTO_NONE; /* what is inside is nobody's concern here */
		if (!below(3))
			text[below((unsigned)length - 2)] ^= (uint8_t)(1u << below(8));
		slot_forge(&pair, &slot, text, length, 1 + i % 64);
		slots_open(&pair, &slot, 1);
		CHECK(slot.packet.drop == (right_trailer(text, length) ? IPSF_DROP_DUMMY : IPSF_DROP_BAD_TRAILER));
		right += right_trailer(text, length);
	}
	pair_fini(&pair);
	CHECK(right > 20000 && right < 90000);
}

static struct ipsf_selector random_range(void)
{
	const uint32_t a = 0x0a000000 + below(4), b = 0x0a000000 + below(4);
	struct ipsf_selector s = {.first.version = 4, .last.version = 4, .port_last = below(4) ? UINT16_MAX : 6};
	ipsf_write32(s.first.bytes, a < b ? a : b);
	ipsf_write32(s.last.bytes, below(2) ? (a < b ? b : a) : UINT32_MAX);
	s.protocol = below(4) ? 0 : (uint8_t)(below(2) ? 17 : 6);
	return s;
}

static size_t random_inner(uint8_t *text)
{
	struct ipsf_addr source = {.version = 4}, destination = {.version = 4};
	ipsf_write32(source.bytes, 0x09ffffff + below(5));
	ipsf_write32(destination.bytes, 0x09ffffff + below(5));
	size_t length = ip_header(text, source, destination, below(2) ? 17 : 6, 20, (uint8_t)below(256));
	for (size_t i = 20; i < length; i++)
		text[i] = (uint8_t)below(8);
	return trailer(text, length, 2, IPSF_PROTO_IPV4);
}

/* RFC 4301 s5.2 and RFC 6040 s4.2 by the functions that know every case. */
static unsigned slow_verdict(const struct ipsf_sa_params *in, const struct ipsf_sa_in *sa, uint8_t *text, uint8_t tos)
{
	struct ipsf_packet packet = {.data = text, .length = 40};
	CHECK(ipsf_ip_parse_any(&packet));
	if (!ipsf_selector_matches(in->remote_ts, &packet, text + 12, packet.source_port) ||
	    !ipsf_selector_matches(in->local_ts, &packet, text + 16, packet.destination_port))
		return IPSF_DROP_SELECTOR;
	const int expected = ipsf_ecn_decap(text[1], tos, sa->copy_ecn, sa->copy_dscp);
	if (expected < 0)
		return IPSF_DROP_ECN;
	if (expected != text[1])
		ipsf_ip_set_tos(&packet, (uint8_t)expected);
	return IPSF_DROP_NONE;
}

static void selectors_and_tos(void)
{
	static struct slot slot;
	uint8_t text[64];
	unsigned verdicts[IPSF_DROP_COUNT] = {0}, simple = 0;
	for (unsigned i = 0; i < 20000; i++) {
		struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
		const struct ipsf_selector local = random_range(), remote = random_range();
		const uint8_t tos = (uint8_t)below(256);
		struct pair pair;
		params.local_ts = &local, params.remote_ts = &remote;
		params.n_local_ts = params.n_remote_ts = 1;
		params.copy_ecn = (uint8_t)below(2), params.copy_dscp = (uint8_t)below(4);
		pair_init(&pair, &params, "openssl");
		const size_t length = random_inner(text);
		const struct ipsf_sa_params in = inbound(&params);
		slot_forge(&pair, &slot, text, length, 1);
		slot.packet.tos = tos;
		slots_open(&pair, &slot, 1);
		const unsigned expected = slow_verdict(&in, pair.in, text, tos);
		CHECK(slot.packet.drop == expected);
		CHECK(expected || (slot.packet.length == 40 && memcmp(slot.packet.data, text, 40) == 0));
		verdicts[expected]++;
		simple += pair.in->simple;
		pair_fini(&pair);
	}
	CHECK(verdicts[IPSF_DROP_NONE] > 1000 && verdicts[IPSF_DROP_SELECTOR] > 1000 && verdicts[IPSF_DROP_ECN] > 50);
	CHECK(simple > 1000 && simple < 15000);
}

int main(void)
{
	selectors_and_tos();
	parsing();
	trailers();
	return check_summary("test_fast_paths");
}
