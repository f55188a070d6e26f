/*
 * The link layer of the ring ports: headers against a naive builder and against the parser, each lie a frame can tell, random
 * frames in heap blocks of just their size; next hops against a list that is searched from its front.
 */
#include "check.h"
#include "link.h"

#define LOCAL_PORT 4500

static uint64_t seed = 20260101;

static uint32_t below(uint32_t n)
{
	return (uint32_t)(test_random(&seed) % n);
}

static void random_bytes(uint8_t *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = (uint8_t)test_random(&seed);
}

/* ---- next hops ---- */

static struct ipsf_hop random_hop(void)
{
	struct ipsf_hop hop = {.mtu = below(4) ? 1500 : 0};
	hop.network.version = below(2) ? 4 : 6;
	/* few bits differ, so that networks lie in each other and occur twice */
	for (unsigned i = 0; i < (hop.network.version == 4 ? 4u : 16u); i++)
		hop.network.bytes[i] = (uint8_t)(below(2) ? 0 : 0x80u >> below(3));
	hop.prefix_length = (uint8_t)below(hop.network.version == 4 ? 33 : 129);
	random_bytes(hop.destination, 12);
	return hop;
}

static bool inside(const struct ipsf_hop *hop, uint8_t version, const uint8_t *address)
{
	for (unsigned bit = 0; bit < hop->prefix_length && hop->network.version == version; bit++) {
		if ((hop->network.bytes[bit / 8] ^ address[bit / 8]) & 0x80u >> bit % 8)
			return false;
	}
	return hop->network.version == version;
}

/* The longest, and of equal ones the last. */
static const struct ipsf_hop *naive_find(const struct ipsf_hop *hops, size_t n, uint8_t version, const uint8_t *address)
{
	const struct ipsf_hop *best = NULL;
	for (size_t i = 0; i < n; i++) {
		if (inside(&hops[i], version, address) && (!best || hops[i].prefix_length >= best->prefix_length))
			best = &hops[i];
	}
	return best && best->mtu ? best : NULL;
}

static void test_hops(void)
{
	for (unsigned round = 0; round < 200; round++) {
		struct ipsf_hop hops[64];
		const size_t n = below(64);
		struct ipsf_hops *table;
		for (size_t i = 0; i < n; i++)
			hops[i] = random_hop();
		CHECK(ipsf_hops_new(hops, n, &table) == IPSF_OK);
		for (unsigned i = 0; i < 200; i++) {
			const struct ipsf_hop asked = n && below(2) ? hops[below((uint32_t)n)] : random_hop();
			const uint8_t version = asked.network.version;
			const struct ipsf_hop *found = ipsf_hops_find(table, version, asked.network.bytes);
			const struct ipsf_hop *expected = naive_find(hops, n, version, asked.network.bytes);
			CHECK(!found == !expected);
			CHECK(!found || !expected || memcmp(found->destination, expected->destination, 12) == 0);
		}
		ipsf_hops_free(table);
	}
}

static void test_hop_arguments(void)
{
	struct ipsf_hop hop = {.network.version = 4, .prefix_length = 33, .mtu = 1500};
	struct ipsf_hops *table;
	CHECK(ipsf_hops_new(&hop, 1, &table) == IPSF_EINVAL);
	hop.network.version = 5;
	hop.prefix_length = 1;
	CHECK(ipsf_hops_new(&hop, 1, &table) == IPSF_EINVAL);
	CHECK(ipsf_hops_find(NULL, 4, hop.network.bytes) == NULL);
	CHECK(ipsf_hops_new(NULL, 0, &table) == IPSF_OK);
	CHECK(ipsf_hops_find(table, 6, hop.network.bytes) == NULL);
	ipsf_hops_free(table);
}

/* ---- headers ---- */

/* RFC 1071 as it is told: 16-bit words, one after the other. */
static uint16_t naive_sum(const uint8_t *data, size_t length, uint32_t sum)
{
	for (size_t i = 0; i < length; i++) {
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
		sum = (sum & 0xffff) + (sum >> 16);
	}
	return (uint16_t)sum;
}

static void put16(uint8_t **at, unsigned value)
{
	*(*at)++ = (uint8_t)(value >> 8);
	*(*at)++ = (uint8_t)value;
}

static void put(uint8_t **at, const uint8_t *bytes, size_t n)
{
	memcpy(*at, bytes, n);
	*at += n;
}

/* The frame field by field, in the order of the wire. */
static size_t naive_frame(uint8_t *frame, const struct ipsf_hop *hop, const struct ipsf_packet *packet, uint16_t id)
{
	const bool v6 = packet->path->remote.version == 6, udp = ipsf_carrier_is_udp(packet->carrier);
	const unsigned payload = packet->length + (udp ? 8 : 0), protocol = udp ? 17 : 50;
	uint8_t *at = frame, *ip = frame + 14;
	put(&at, hop->destination, 6);
	put(&at, hop->source, 6);
	put16(&at, v6 ? 0x86dd : 0x0800);
	put16(&at, v6 ? 0x6000u + packet->tos * 16u : 0x4500u + packet->tos);
	put16(&at, v6 ? 0 : 20 + payload);
	put16(&at, v6 ? payload : id);
	if (!v6)
		put16(&at, packet->flags & IPSF_PACKET_DF ? 0x4000 : 0);
	put16(&at, v6 ? protocol << 8 | 64 : 64u << 8 | protocol);
	if (!v6)
		put16(&at, 0);
	put(&at, packet->path->local.bytes, v6 ? 16 : 4);
	put(&at, packet->path->remote.bytes, v6 ? 16 : 4);
	if (!v6)
		ipsf_write16(ip + 10, (uint16_t)~naive_sum(ip, 20, 0));
	uint8_t *transport = at;
	if (udp) {
		put16(&at, LOCAL_PORT);
		put16(&at, packet->path->remote_port);
		put16(&at, payload);
		put16(&at, 0);
	}
	put(&at, packet->data, packet->length);
	if (udp && v6) {
		const uint16_t sum = (uint16_t)~naive_sum(transport, payload, naive_sum(ip + 8, 32, payload + 17));
		ipsf_write16(transport + 6, sum ? sum : 0xffff);
	}
	return (size_t)(at - frame);
}

static struct ipsf_packet random_sealed(struct ipsf_path *path, uint8_t *data, uint32_t length)
{
	struct ipsf_packet packet = {.data = data, .length = length, .path = path, .tos = (uint8_t)below(256),
				     .carrier = (uint8_t)below(IPSF_CARRIER_COUNT), .flags = below(2) ? IPSF_PACKET_DF : 0};
	const bool v6 = packet.carrier == IPSF_CARRIER_UDP6 || packet.carrier == IPSF_CARRIER_RAW6;
	memset(path, 0, sizeof *path);
	path->local.version = path->remote.version = v6 ? 6 : 4;
	random_bytes(path->local.bytes, v6 ? 16 : 4);
	random_bytes(path->remote.bytes, v6 ? 16 : 4);
	if (ipsf_carrier_is_udp(packet.carrier)) {
		path->local_port = LOCAL_PORT;
		path->remote_port = (uint16_t)below(65536);
	}
	random_bytes(data, length);
	return packet;
}

/* A frame on the heap in just its size, and a descriptor over it. */
static struct ipsf_packet heap_frame(const uint8_t *frame, size_t length)
{
	struct ipsf_packet packet = {.length = (uint32_t)length};
	packet.data = malloc(length ? length : 1);
	memcpy(packet.data, frame, length);
	return packet;
}

/* The sender's path as the receiver sees it. */
static bool mirrored(const struct ipsf_path *a, const struct ipsf_path *b)
{
	return memcmp(a->local.bytes, b->remote.bytes, 16) == 0 && memcmp(a->remote.bytes, b->local.bytes, 16) == 0 &&
	       a->local.version == b->remote.version && a->remote.version == b->local.version &&
	       a->local_port == b->remote_port && a->remote_port == b->local_port;
}

/* What is written is the naive frame, and what is parsed of it (with a short frame's padding) is what was sent. */
static void test_outer_round(void)
{
	static uint8_t data[9000], written[9100], expected[9100];
	struct ipsf_path path, parsed_path;
	const uint32_t length = below(8) ? 8 + below(200) : below((uint32_t)sizeof data);
	const struct ipsf_packet packet = random_sealed(&path, data, length);
	const struct ipsf_hop hop = random_hop();
	const uint16_t id = (uint16_t)below(65536);
	const unsigned header = ipsf_link_header_size(packet.carrier);
	size_t total = naive_frame(expected, &hop, &packet, id);
	memcpy(written + header, data, length);
	ipsf_link_write_outer(written, &hop, &packet, LOCAL_PORT, id, written + header, length);
	CHECK(total == header + length && memcmp(written, expected, total) == 0);
	for (; total < 60; total++)
		written[total] = 0xee;
	struct ipsf_packet parsed = heap_frame(written, total);
	uint8_t *block = parsed.data;
	CHECK(ipsf_link_parse_outer(&parsed, path.remote_port, &parsed_path) && !parsed.drop);
	CHECK(parsed.length == length && memcmp(parsed.data, data, length) == 0);
	CHECK(parsed.tos == packet.tos && parsed.carrier == packet.carrier && parsed.path == &parsed_path);
	CHECK(mirrored(&parsed_path, &path) && parsed.headroom == header);
	free(block);
}

/* A frame that a lie was put into: whether the parser still takes it. */
static bool taken(const uint8_t *frame, size_t length)
{
	struct ipsf_path path;
	struct ipsf_packet packet = heap_frame(frame, length);
	uint8_t *block = packet.data;
	const bool ours = ipsf_link_parse_outer(&packet, LOCAL_PORT, &path);
	CHECK(ours == (packet.drop == IPSF_DROP_NONE));
	CHECK(!ours || (packet.data >= block && packet.data + packet.length <= block + length));
	free(block);
	return ours;
}

static void mend_ipv4(uint8_t *frame)
{
	ipsf_write16(frame + 24, 0);
	ipsf_write16(frame + 24, (uint16_t)~naive_sum(frame + 14, 20, 0));
}

static bool taken_with(const uint8_t *frame, size_t length, unsigned at, uint8_t value, bool mend)
{
	uint8_t lie[200];
	memcpy(lie, frame, length);
	lie[at] = value;
	if (mend)
		mend_ipv4(lie);
	return taken(lie, length);
}

static void test_outer_lies(void)
{
	uint8_t data[40], frame[200];
	struct ipsf_path path;
	struct ipsf_packet packet;
	const struct ipsf_hop hop = random_hop();
	do
		packet = random_sealed(&path, data, sizeof data);
	while (packet.carrier != IPSF_CARRIER_UDP4);
	path.remote_port = LOCAL_PORT;
	const size_t n = naive_frame(frame, &hop, &packet, 7);
	CHECK(taken_with(frame, n, 0, 0, false));
	CHECK(!taken_with(frame, n, 12, 0x81, false));           /* a VLAN tag */
	CHECK(!taken_with(frame, n, 14, 0x46, true));            /* options */
	CHECK(!taken_with(frame, n, 14, 0x44, true));            /* a header too short */
	CHECK(!taken_with(frame, n, 14, 0x65, true));            /* IPv6 in an IPv4 frame */
	CHECK(!taken_with(frame, n, 17, (uint8_t)(n - 13), true)); /* longer than the frame */
	CHECK(!taken_with(frame, n, 17, 19, true));              /* shorter than its header */
	CHECK(!taken_with(frame, n, 17, 27, true));              /* shorter than the UDP header */
	CHECK(!taken_with(frame, n, 20, 0x20, true));            /* MF */
	CHECK(!taken_with(frame, n, 21, 1, true));               /* a later fragment */
	CHECK(!taken_with(frame, n, 22, (uint8_t)(frame[22] + 1), false)); /* the checksum */
	CHECK(!taken_with(frame, n, 23, 6, true));               /* TCP */
	CHECK(!taken_with(frame, n, 37, 0x95, false));           /* another port */
	CHECK(!taken_with(frame, n, 38, 1, false));              /* UDP length too long */
	CHECK(!taken_with(frame, n, 39, 7, false));              /* and too short */
	for (size_t cut = 0; cut < n; cut++)
		CHECK(!taken(frame, cut));
	do
		packet = random_sealed(&path, data, sizeof data);
	while (packet.carrier != IPSF_CARRIER_UDP6);
	path.remote_port = LOCAL_PORT;
	const size_t n6 = naive_frame(frame, &hop, &packet, 0);
	CHECK(taken(frame, n6));
	CHECK(!taken_with(frame, n6, 20, 44, false));            /* a fragment header */
	CHECK(!taken_with(frame, n6, 19, 200, false));           /* longer than the frame */
	memset(frame + 14 + 40 + 6, 0, 2);
	CHECK(!taken(frame, n6));                                /* no UDP checksum */
}

/* Any bytes at all, and valid frames with some bytes changed: nothing outside of the frame is read or written. */
static void test_random_frames(void)
{
	uint8_t data[64], frame[256];
	struct ipsf_path path;
	for (unsigned i = 0; i < 200000; i++) {
		size_t n = below(120);
		random_bytes(frame, n);
		if (i % 4) {
			const struct ipsf_packet packet = random_sealed(&path, data, below(sizeof data));
			path.remote_port = LOCAL_PORT;
			const struct ipsf_hop hop = random_hop();
			n = naive_frame(frame, &hop, &packet, 0);
			for (unsigned k = below(4); k-- > 0;)
				frame[12 + below((uint32_t)n - 12)] = (uint8_t)test_random(&seed);
			if (path.local.version == 4 && below(2))
				mend_ipv4(frame);
			n = below(4) ? n : below((uint32_t)n);
		}
		taken(frame, n);
		struct ipsf_packet inner = heap_frame(frame, n);
		uint8_t *block = inner.data;
		CHECK(ipsf_link_parse_inner(&inner) == (inner.drop == IPSF_DROP_NONE));
		free(block);
	}
}

/* ---- inner packets ---- */

/* From the wire to the wire: the TTL falls by one each way, checksum and all else stay right. */
static void test_inner(uint8_t ttl, uint8_t fill)
{
	uint8_t frame[14 + 40] = {[12] = 0x08, [14] = 0x45, [17] = 40, [22] = ttl, [23] = 17, [26] = 10, [29] = fill, [30] = 10, [33] = 9};
	const struct ipsf_hop hop = {.network = {.version = 4, .bytes = {10}}, .prefix_length = 8, .mtu = 40, .destination = "dddddd"};
	struct ipsf_hops *table;
	mend_ipv4(frame);
	struct ipsf_packet packet = heap_frame(frame, sizeof frame);
	uint8_t *block = packet.data;
	CHECK(ipsf_hops_new(&hop, 1, &table) == IPSF_OK);
	const bool ours = ipsf_link_parse_inner(&packet);
	CHECK(ours == (ttl > 1));
	CHECK(!ours || (packet.length == 40 && packet.data[8] == ttl - 1 && naive_sum(packet.data, 20, 0) == 0xffff));
	if (ours) {
		const struct ipsf_hop *found = ipsf_link_inner_hop(table, &packet);
		CHECK(!found == (ttl == 2));
		if (found) {
			ipsf_link_write_inner(block, found, &packet);
			CHECK(packet.data[8] == ttl - 2 && naive_sum(packet.data, 20, 0) == 0xffff);
			CHECK(memcmp(block, "dddddd", 6) == 0 && ipsf_read16(block + 12) == 0x0800);
		}
		packet.length++;
		CHECK(!ipsf_link_inner_hop(table, &packet)); /* beyond the MTU */
	}
	ipsf_hops_free(table);
	free(block);
}

static void test_inner_ipv6(void)
{
	uint8_t frame[14 + 48] = {[12] = 0x86, [13] = 0xdd, [14] = 0x60, [19] = 8, [20] = 17, [21] = 64, [22] = 0xfd, [38] = 0xfd};
	struct ipsf_packet packet = heap_frame(frame, sizeof frame);
	uint8_t *block = packet.data;
	CHECK(ipsf_link_parse_inner(&packet) && packet.data[7] == 63 && packet.length == 48);
	free(block);
	packet = heap_frame(frame, 14 + 39);
	block = packet.data;
	CHECK(!ipsf_link_parse_inner(&packet));
	free(block);
}

/* A way is known only for what fits its MTU; of a super-packet each datagram counts. */
static void test_outer_mtu(void)
{
	struct ipsf_path path;
	uint8_t data[3000];
	struct ipsf_packet packet;
	do
		packet = random_sealed(&path, data, 1472);
	while (packet.carrier != IPSF_CARRIER_UDP4);
	struct ipsf_hop hop = {.network = path.remote, .prefix_length = 32, .mtu = 1500};
	struct ipsf_hops *table;
	CHECK(ipsf_hops_new(&hop, 1, &table) == IPSF_OK);
	CHECK(ipsf_link_outer_hop(table, &packet) != NULL);
	packet.length = 1473;
	CHECK(ipsf_link_outer_hop(table, &packet) == NULL);
	packet.length = 3000;
	packet.segment_size = 1472;
	CHECK(ipsf_link_outer_hop(table, &packet) != NULL);
	packet.segment_size = 1473;
	CHECK(ipsf_link_outer_hop(table, &packet) == NULL);
	path.remote.bytes[0] ^= 1;
	packet.segment_size = 0;
	packet.length = 100;
	CHECK(ipsf_link_outer_hop(table, &packet) == NULL);
	ipsf_hops_free(table);
}

int main(void)
{
	printf("seed %llu\n", (unsigned long long)seed);
	test_hops();
	test_hop_arguments();
	for (unsigned i = 0; i < 20000; i++)
		test_outer_round();
	test_outer_lies();
	test_random_frames();
	for (unsigned ttl = 0; ttl < 256; ttl++)
		for (unsigned fill = 0; fill < 256; fill++)
			test_inner((uint8_t)ttl, (uint8_t)fill);
	test_inner_ipv6();
	test_outer_mtu();
	return check_summary("link");
}
