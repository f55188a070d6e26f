/*
 * The parser of inner packets: each lie a packet can tell, then random bytes in buffers of their exact size, so that ASan sees a
 * read one byte too far. ECN against the table of RFC 6040 as printed; checksums against the sum of 16-bit words.
 */
#include "check.h"
#include "ip.h"

/* A descriptor over bytes in a heap block of just their size. */
static struct ipsf_packet heap_packet(const uint8_t *bytes, uint32_t length)
{
	struct ipsf_packet packet = {.length = length};

	packet.data = malloc(length ? length : 1);
	if (length)
		memcpy(packet.data, bytes, length);
	return packet;
}

static uint32_t make_ipv4(uint8_t *ip, uint8_t protocol, uint32_t payload)
{
	uint32_t total = 20 + payload;

	memset(ip, 0, total);
	ip[0] = 0x45;
	ipsf_write16(ip + 2, (uint16_t)total);
	ip[8] = 64;
	ip[9] = protocol;
	memcpy(ip + 12, "\x0a\x01\x00\x02\x0a\x02\x00\x02", 8);
	if (payload >= 4)
		memcpy(ip + 20, "\x12\x34\x00\x50", 4);
	ipsf_write16(ip + 10, ipsf_checksum_fold(ipsf_checksum_add(ip, 20, 0)));
	return total;
}

static uint32_t make_ipv6(uint8_t *ip, uint8_t next_header, uint32_t payload)
{
	memset(ip, 0, 40 + payload);
	ip[0] = 0x60;
	ipsf_write16(ip + 4, (uint16_t)payload);
	ip[6] = next_header;
	ip[7] = 64;
	ip[8] = 0xfd;
	ip[24] = 0xfd;
	ip[23] = 1;
	ip[39] = 2;
	return 40 + payload;
}

/* What the parser says of length bytes: the drop reason; the descriptor where it is wanted. */
static unsigned verdict(const uint8_t *bytes, uint32_t length, struct ipsf_packet *result)
{
	struct ipsf_packet packet = heap_packet(bytes, length);
	bool parsed = ipsf_ip_parse(&packet);

	CHECK(parsed == (packet.drop == IPSF_DROP_NONE));
	free(packet.data);
	if (result)
		*result = packet;
	return packet.drop;
}

static void ipv4_fields(void)
{
	uint8_t ip[128];
	uint32_t length = make_ipv4(ip, IPSF_PROTO_UDP, 16);
	struct ipsf_packet p;

	ip[6] = 0x40;
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE);
	CHECK(p.version == 4 && p.protocol == 17 && p.transport == 20 && p.source_port == 0x1234 && p.destination_port == 80);
	CHECK(p.flags == IPSF_PACKET_DF && p.length == length);
	CHECK(verdict(ip, length + 30, &p) == IPSF_DROP_NONE && p.length == length && p.tailroom == 30); /* TFC padding */
	for (uint32_t cut = 0; cut < length; cut++)
		CHECK(verdict(ip, cut, NULL) == IPSF_DROP_MALFORMED);
	ip[0] = 0x44; /* a header of 16 bytes */
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	ip[0] = 0x4f; /* of 60 bytes in 36 */
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	ip[0] = 0x55;
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	ip[0] = 0x46; /* 4 bytes of options */
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.transport == 24);
	ip[0] = 0x45;
	ipsf_write16(ip + 2, 19);
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	ipsf_write16(ip + 2, (uint16_t)(length + 1));
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
}

static void ipv4_ports_and_fragments(void)
{
	uint8_t ip[128];
	struct ipsf_packet p;
	uint32_t length = make_ipv4(ip, IPSF_PROTO_ICMP, 8);

	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.source_port == 0x1234 && p.destination_port == 0x1234);
	length = make_ipv4(ip, IPSF_PROTO_ESP, 8);
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.source_port == 0 && p.destination_port == 0);
	length = make_ipv4(ip, IPSF_PROTO_TCP, 3);
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	length = make_ipv4(ip, IPSF_PROTO_ICMP, 1);
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	length = make_ipv4(ip, IPSF_PROTO_UDP, 16);
	ip[6] = 0x20; /* MF */
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.flags == IPSF_PACKET_FIRST_FRAGMENT && p.destination_port == 80);
	ip[7] = 1;
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.flags == IPSF_PACKET_LATER_FRAGMENT && p.destination_port == 0);
}

static void ipv6_extensions(void)
{
	uint8_t ip[512];
	struct ipsf_packet p;
	uint32_t length = make_ipv6(ip, IPSF_PROTO_HOPOPTS, 8 + 16 + 8);

	ip[40] = IPSF_PROTO_DSTOPTS;
	ip[48] = IPSF_PROTO_TCP;
	ip[49] = 1; /* 16 bytes */
	memcpy(ip + 64, "\x01\xbb\x00\x35", 4);
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE);
	CHECK(p.version == 6 && p.protocol == 6 && p.transport == 64 && p.source_port == 443 && p.destination_port == 53);
	CHECK(p.flags == IPSF_PACKET_DF);
	for (uint32_t cut = 0; cut < length; cut++)
		CHECK(verdict(ip, cut, NULL) == IPSF_DROP_MALFORMED);
	CHECK(verdict(ip, length + 9, &p) == IPSF_DROP_NONE && p.length == length && p.tailroom == 9);
	ip[49] = 200; /* runs over the end */
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	length = make_ipv6(ip, IPSF_PROTO_DSTOPTS, 400); /* all zero: headers of 8 bytes that name hop-by-hop options, for ever */
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	ip[40 + 7 * 8] = IPSF_PROTO_UDP; /* the eighth names UDP: as many as we walk */
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.protocol == IPSF_PROTO_UDP && p.transport == 40 + 8 * 8);
	ip[40 + 7 * 8] = IPSF_PROTO_DSTOPTS;
	ip[40 + 8 * 8] = IPSF_PROTO_UDP;
	CHECK(verdict(ip, length, NULL) == IPSF_DROP_MALFORMED);
	length = make_ipv6(ip, IPSF_PROTO_NONE, 0);
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.protocol == IPSF_PROTO_NONE);
	length = make_ipv6(ip, IPSF_PROTO_MOBILITY, 8);
	ip[42] = 5;
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.source_port == 5 << 8 && p.destination_port == 5 << 8);
	length = make_ipv6(ip, IPSF_PROTO_ICMPV6, 8);
	ip[40] = 128;
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.source_port == 128 << 8);
}

static void ipv6_fragments(void)
{
	uint8_t ip[128];
	struct ipsf_packet p;
	uint32_t length = make_ipv6(ip, IPSF_PROTO_FRAGMENT, 8 + 8);

	ip[40] = IPSF_PROTO_UDP;
	memcpy(ip + 48, "\x00\x07\x00\x09", 4);
	ip[43] = 1; /* more, offset 0 */
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.flags == (IPSF_PACKET_DF | IPSF_PACKET_FIRST_FRAGMENT));
	CHECK(p.transport == 48 && p.source_port == 7 && p.destination_port == 9);
	ip[43] = 8;
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.flags == (IPSF_PACKET_DF | IPSF_PACKET_LATER_FRAGMENT));
	CHECK(p.protocol == IPSF_PROTO_UDP && p.source_port == 0);
	ip[43] = 0; /* an "atomic" fragment is whole */
	CHECK(verdict(ip, length, &p) == IPSF_DROP_NONE && p.flags == IPSF_PACKET_DF && p.destination_port == 9);
}

/* Random bytes that begin like IP: whatever the verdict, a parsed packet's offsets lie inside it. */
static void random_bytes(void)
{
	uint64_t seed = 42;
	unsigned parsed = 0;

	for (unsigned i = 0; i < 200000; i++) {
		uint8_t bytes[160];
		uint32_t length = (uint32_t)(test_random(&seed) % sizeof bytes);
		struct ipsf_packet p;

		for (unsigned j = 0; j < sizeof bytes; j += 8) {
			uint64_t r = test_random(&seed) & test_random(&seed);
			memcpy(bytes + j, &r, 8);
		}
		bytes[0] = i & 1 ? 0x60 : 0x45;
		if (i % 5)
			ipsf_write16(bytes + (i & 1 ? 4 : 2), (uint16_t)(i & 1 ? length - 40 : length));
		if (i % 3)
			bytes[6] = (const uint8_t[]){0, 43, 44, 60, 6, 17}[i % 6];
		if (verdict(bytes, length, &p) != IPSF_DROP_NONE)
			continue;
		parsed++;
		CHECK(p.length <= length && p.transport <= p.length && p.transport >= (p.version == 4 ? 20 : 40));
		CHECK(p.length + p.tailroom == length);
	}
	CHECK(parsed > 10000);
}

/* RFC 6040 s4.1 and figure 4 of s4.2, row by row as printed; -1 is "drop". */
static void ecn_tables(void)
{
	static const int printed[4][4] = { /* columns: Not-ECT, ECT(0), ECT(1), CE */
		{0, 0, 0, -1}, {2, 2, 1, 3}, {1, 1, 1, 3}, {3, 3, 3, 3}}; /* rows: Not-ECT, ECT(0), ECT(1), CE */
	static const uint8_t code[4] = {0, 2, 1, 3};

	for (unsigned r = 0; r < 4; r++)
		for (unsigned c = 0; c < 4; c++) {
			uint8_t inner = (uint8_t)(0xb8 | code[r]), outer = (uint8_t)(0x28 | code[c]);
			int ecn = printed[r][c];

			CHECK(ipsf_ecn_decap(inner, outer, true, false) == (ecn < 0 ? -1 : (0xb8 | ecn)));
			CHECK(ipsf_ecn_decap(inner, outer, true, true) == (ecn < 0 ? -1 : (0x28 | ecn)));
			CHECK(ipsf_ecn_decap(inner, outer, false, false) == inner);
			CHECK(ipsf_ecn_decap(inner, outer, false, true) == (0x28 | code[r]));
		}
	for (unsigned tos = 0; tos < 256; tos++) {
		CHECK(ipsf_ecn_encap((uint8_t)tos, true, true) == tos);
		CHECK(ipsf_ecn_encap((uint8_t)tos, true, false) == (tos & 3));
		CHECK(ipsf_ecn_encap((uint8_t)tos, false, true) == (tos & 0xfc));
		CHECK(ipsf_ecn_encap((uint8_t)tos, false, false) == 0);
	}
}

/* RFC 1071 as it reads. */
static uint16_t naive_checksum(const uint8_t *p, size_t n)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < n; i++)
		sum += i % 2 ? p[i] : (uint64_t)p[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static void checksums(void)
{
	uint8_t bytes[1500];
	uint64_t seed = 3;

	memset(bytes, 0xff, sizeof bytes);
	for (size_t n = 0; n <= sizeof bytes; n += n < 70 ? 1 : 77) {
		uint8_t *exact = malloc(n ? n : 1);

		if (n)
			memcpy(exact, bytes, n);
		CHECK(ipsf_checksum_fold(ipsf_checksum_add(exact, n, 0)) == naive_checksum(exact, n));
		for (size_t i = 0; i < n; i++)
			exact[i] = (uint8_t)test_random(&seed);
		CHECK(ipsf_checksum_fold(ipsf_checksum_add(exact, n, 0)) == naive_checksum(exact, n));
		free(exact);
	}
}

/* RFC 1624: after every change of TOS the header sums up; zero and all-ones checksums included. */
static void set_tos_keeps_checksum(void)
{
	uint8_t ip[64];
	struct ipsf_packet p = {.data = ip};

	for (unsigned id = 0; id < 65536; id += 5) {
		p.length = make_ipv4(ip, IPSF_PROTO_UDP, 16);
		ipsf_write16(ip + 4, (uint16_t)id);
		ipsf_write16(ip + 10, 0);
		ipsf_write16(ip + 10, naive_checksum(ip, 20));
		CHECK(ipsf_ip_parse(&p));
		ipsf_ip_set_tos(&p, (uint8_t)(id * 7));
		CHECK(ipsf_ip_tos(&p) == (uint8_t)(id * 7) && naive_checksum(ip, 20) == 0);
	}
	p.length = make_ipv6(ip, IPSF_PROTO_NONE, 0);
	ip[1] = 0x0b;
	ip[2] = 0xcd;
	ip[3] = 0xef;
	CHECK(ipsf_ip_parse(&p));
	ipsf_ip_set_tos(&p, 0xa5);
	CHECK(ipsf_ip_tos(&p) == 0xa5 && ip[0] == 0x6a && ip[1] == 0x5b && ip[2] == 0xcd && ip[3] == 0xef);
}

static void selectors(void)
{
	struct ipsf_selector s = {.port_first = 80, .port_last = 90, .protocol = 6};
	struct ipsf_packet p = {.version = 4, .protocol = 6};
	const uint8_t inside[4] = {10, 1, 0, 255}, outside[4] = {10, 1, 1, 0};

	s.first.version = s.last.version = 4;
	memcpy(s.first.bytes, "\x0a\x01\x00\x00", 4);
	memcpy(s.last.bytes, inside, 4);
	CHECK(ipsf_selector_matches(&s, &p, inside, 80) && ipsf_selector_matches(&s, &p, inside, 90));
	CHECK(!ipsf_selector_matches(&s, &p, inside, 79) && !ipsf_selector_matches(&s, &p, inside, 91));
	CHECK(!ipsf_selector_matches(&s, &p, outside, 80));
	p.protocol = 17;
	CHECK(!ipsf_selector_matches(&s, &p, inside, 80));
	s.protocol = 0;
	CHECK(ipsf_selector_matches(&s, &p, inside, 80));
	p.flags = IPSF_PACKET_LATER_FRAGMENT; /* its port is unknown, 0 is no port */
	CHECK(!ipsf_selector_matches(&s, &p, inside, 80));
	s.port_first = 0;
	CHECK(!ipsf_selector_matches(&s, &p, inside, 0));
	s.port_last = UINT16_MAX;
	CHECK(ipsf_selector_matches(&s, &p, inside, 0));
	s.port_first = UINT16_MAX;
	s.port_last = 0; /* OPAQUE */
	CHECK(ipsf_selector_matches(&s, &p, inside, 0));
	p.flags = 0;
	CHECK(!ipsf_selector_matches(&s, &p, inside, 80));
	p.version = 6;
	CHECK(!ipsf_selector_matches(&s, &p, (const uint8_t[16]){10, 1}, 80));
}

static void selectors_ipv6(void)
{
	struct ipsf_selector s = {.port_last = UINT16_MAX};
	struct ipsf_packet p = {.version = 6, .protocol = 58};
	uint8_t address[16] = {0xfd, [14] = 1};

	s.first.version = s.last.version = 6;
	memcpy(s.first.bytes, address, 16);
	memcpy(s.last.bytes, address, 16);
	s.last.bytes[15] = 0xff;
	for (unsigned last = 0; last < 256; last++) {
		address[15] = (uint8_t)last;
		CHECK(ipsf_selector_matches(&s, &p, address, 0));
	}
	address[14] = 2;
	CHECK(!ipsf_selector_matches(&s, &p, address, 0));
	address[14] = 0;
	CHECK(!ipsf_selector_matches(&s, &p, address, 0));
}

/* RFC 768 and 8200 s8.1: with the pseudo-header a right checksum sums to zero. */
static uint16_t transport_sum(const struct ipsf_packet *p)
{
	uint8_t pseudo[40 + 1500] = {0};
	uint32_t address = p->version == 4 ? 8 : 32, length = p->length - p->transport;

	memcpy(pseudo, ipsf_ip_source(p), address);
	ipsf_write16(pseudo + address, (uint16_t)length);
	pseudo[address + 3] = p->protocol;
	memcpy(pseudo + address + 4, p->data + p->transport, length);
	return naive_checksum(pseudo, address + 4 + length);
}

static void build_and_mend(void)
{
	uint8_t room[1600] = {0};
	uint64_t seed = 9;

	for (unsigned i = 0; i < 4000; i++) {
		bool six = i & 1, udp = i & 2;
		struct ipsf_path path = {.local = {.bytes = {1, 2, 3, 4, 5}, .version = six ? 6 : 4},
					 .remote = {.bytes = {9, 8, 7, 6, 5}, .version = six ? 6 : 4}};
		struct ipsf_packet p = {.data = room + 64, .headroom = 64, .length = 20 + (uint32_t)(test_random(&seed) % 1400), .tos = 0x2a};

		for (unsigned j = 0; j < p.length; j++)
			p.data[j] = (uint8_t)test_random(&seed);
		CHECK(ipsf_ip_build(&p, &path, udp ? IPSF_PROTO_UDP : IPSF_PROTO_TCP));
		CHECK(ipsf_ip_parse(&p) && ipsf_ip_tos(&p) == 0x2a && p.transport == (six ? 40 : 20));
		CHECK(six || naive_checksum(p.data, 20) == 0);
		CHECK(!memcmp(ipsf_ip_source(&p), path.remote.bytes, 4) && !memcmp(ipsf_ip_destination(&p), path.local.bytes, 4));
		if (udp && i % 16 == 2) {
			ipsf_write16(p.data + p.transport + 6, 0); /* no checksum, and it stays so */
			ipsf_ip_mend_checksum(&p);
			CHECK(ipsf_read16(p.data + p.transport + 6) == 0);
			continue;
		}
		p.data[p.transport + 6] |= 1;
		ipsf_ip_mend_checksum(&p);
		CHECK(transport_sum(&p) == 0);
	}
}

/* RFC 768: a sum of zero is sent as all ones, for zero says that there is none. */
static void udp_zero(void)
{
	uint8_t ip[64];
	struct ipsf_packet p = {.data = ip, .length = make_ipv4(ip, IPSF_PROTO_UDP, 16)};
	uint32_t sum;

	CHECK(ipsf_ip_parse(&p));
	ipsf_write16(ip + 26, 1);
	ipsf_ip_mend_checksum(&p);
	sum = (uint32_t)ipsf_read16(ip + 26) + ipsf_read16(ip + 34);
	ipsf_write16(ip + 34, (uint16_t)(sum + (sum >> 16))); /* the last word takes what the checksum had to make up for */
	ipsf_ip_mend_checksum(&p);
	CHECK(ipsf_read16(ip + 26) == 0xffff && transport_sum(&p) == 0);
}

static void build_needs_room(void)
{
	static uint8_t bytes[70000];
	struct ipsf_path path = {.local.version = 4, .remote.version = 4};
	struct ipsf_packet p = {.data = bytes + 100, .headroom = 19, .length = 100};

	CHECK(!ipsf_ip_build(&p, &path, 6));
	p.headroom = 100;
	p.length = 65516;
	CHECK(!ipsf_ip_build(&p, &path, 6));
	p.length = 65515;
	CHECK(ipsf_ip_build(&p, &path, 6) && p.length == 65535);
	path.local.version = path.remote.version = 6;
	p.headroom = 39;
	CHECK(!ipsf_ip_build(&p, &path, 6));
}

int main(void)
{
	ipv4_fields();
	ipv4_ports_and_fragments();
	ipv6_extensions();
	ipv6_fragments();
	random_bytes();
	ecn_tables();
	checksums();
	set_tos_keeps_checksum();
	selectors();
	selectors_ipv6();
	build_and_mend();
	udp_zero();
	build_needs_room();
	return check_summary("test_ip");
}
