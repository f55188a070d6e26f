#include "link.h"

#include <stdlib.h>

#define ETHERTYPE_IPV4 0x0800u
#define ETHERTYPE_IPV6 0x86ddu
#define OUTER_TTL 64
#define DF_BIT 0x4000u
#define FRAGMENT_BITS 0x3fffu /* MF and the offset */

/* ---- next hops: one open hash table, probed once for each prefix length that occurs, the longest first ---- */

struct slot {
	struct ipsf_hop hop;
	bool used;
};

struct ipsf_hops {
	uint32_t mask;                 /* slots - 1, a power of two */
	uint8_t lengths[2][129];       /* [version == 6]: the prefix lengths that occur, longest first */
	uint8_t n_lengths[2];
	struct slot slot[];
};

static void mask_address(uint8_t out[16], const uint8_t *address, unsigned bytes, unsigned length)
{
	const unsigned whole = length / 8;
	memset(out, 0, 16);
	memcpy(out, address, whole);
	if (whole < bytes && length % 8)
		out[whole] = (uint8_t)(address[whole] & (0xff00u >> length % 8));
}

static uint32_t hash(const uint8_t address[16], uint8_t version, unsigned length)
{
	uint64_t a, b;
	memcpy(&a, address, 8);
	memcpy(&b, address + 8, 8);
	a = (a ^ ((uint64_t)version << 8 | length)) * 0x9e3779b97f4a7c15u;
	b = (b ^ a >> 29) * 0xbf58476d1ce4e5b9u;
	return (uint32_t)((a ^ b) >> 32);
}

/* The slot of this network, or the free one where it would stand. */
static struct slot *probe(const struct ipsf_hops *table, const uint8_t address[16], uint8_t version, unsigned length)
{
	for (uint32_t i = hash(address, version, length);; i++) {
		const struct slot *slot = &table->slot[i & table->mask];
		if (!slot->used || (slot->hop.prefix_length == length && slot->hop.network.version == version &&
				    memcmp(slot->hop.network.bytes, address, 16) == 0))
			return (struct slot *)(uintptr_t)slot;
	}
}

static void add(struct ipsf_hops *table, const struct ipsf_hop *hop, bool present[2][129])
{
	const uint8_t version = hop->network.version;
	struct ipsf_hop masked = *hop;
	mask_address(masked.network.bytes, hop->network.bytes, version == 4 ? 4 : 16, hop->prefix_length);
	*probe(table, masked.network.bytes, version, hop->prefix_length) = (struct slot){.hop = masked, .used = true};
	present[version == 6][hop->prefix_length] = true;
}

static bool valid(const struct ipsf_hop *hop)
{
	const uint8_t version = hop->network.version;
	return (version == 4 && hop->prefix_length <= 32) || (version == 6 && hop->prefix_length <= 128);
}

int ipsf_hops_new(const struct ipsf_hop *hops, size_t n, struct ipsf_hops **out)
{
	bool present[2][129] = {0};
	size_t slots = 4;
	for (size_t i = 0; i < n; i++) {
		if (!valid(&hops[i]))
			return IPSF_EINVAL;
	}
	while (slots < 2 * n)
		slots *= 2;
	struct ipsf_hops *table = slots <= UINT32_MAX ? calloc(1, sizeof *table + slots * sizeof table->slot[0]) : NULL;
	if (!table)
		return IPSF_ENOMEM;
	table->mask = (uint32_t)slots - 1;
	for (size_t i = 0; i < n; i++)
		add(table, &hops[i], present);
	for (unsigned family = 0; family < 2; family++) {
		for (unsigned length = 129; length-- > 0;) {
			if (present[family][length])
				table->lengths[family][table->n_lengths[family]++] = (uint8_t)length;
		}
	}
	*out = table;
	return IPSF_OK;
}

void ipsf_hops_free(struct ipsf_hops *table)
{
	free(table);
}

const struct ipsf_hop *ipsf_hops_find(const struct ipsf_hops *table, uint8_t version, const uint8_t *address)
{
	const unsigned family = version == 6, bytes = version == 6 ? 16 : 4;
	uint8_t masked[16];
	for (unsigned i = 0; table && i < table->n_lengths[family]; i++) {
		const unsigned length = table->lengths[family][i];
		mask_address(masked, address, bytes, length);
		const struct slot *slot = probe(table, masked, version, length);
		if (slot->used)
			return slot->hop.mtu ? &slot->hop : NULL;
	}
	return NULL;
}

/* ---- frames that leave ---- */

const struct ipsf_hop *ipsf_link_outer_hop(const struct ipsf_hops *table, const struct ipsf_packet *packet)
{
	const struct ipsf_addr *to = &packet->path->remote;
	const struct ipsf_hop *hop = ipsf_hops_find(table, to->version, to->bytes);
	const uint32_t datagram = packet->segment_size && packet->segment_size < packet->length ? packet->segment_size : packet->length;
	const uint32_t headers = ipsf_link_header_size(packet->carrier) - IPSF_ETHERNET_HEADER;
	return hop && headers + datagram <= hop->mtu ? hop : NULL;
}

/* Bytes of the longest IP packet in a plain packet; a super-packet's segments all have its headers. */
static uint32_t segment_length(const struct ipsf_packet *packet)
{
	if (packet->segment_size == 0)
		return packet->length;
	const uint32_t header = packet->protocol == IPSF_PROTO_TCP ? (packet->data[packet->transport + 12] >> 4) * 4u : IPSF_UDP_HEADER;
	const uint32_t segment = packet->transport + header + packet->segment_size;
	return segment < packet->length ? segment : packet->length;
}

/* TTL or hop limit */
static uint8_t *ttl_of(uint8_t *ip)
{
	return ip + (ip[0] >> 4 == 4 ? 8 : 7);
}

const struct ipsf_hop *ipsf_link_inner_hop(const struct ipsf_hops *table, const struct ipsf_packet *packet)
{
	const uint8_t version = packet->data[0] >> 4;
	const struct ipsf_hop *hop = ipsf_hops_find(table, version, packet->data + (version == 4 ? 16 : 24));
	return hop && *ttl_of(packet->data) > 1 && segment_length(packet) <= hop->mtu ? hop : NULL;
}

/* RFC 1624 for a TTL that becomes one less: the word at offset 8 falls by 0x0100, so the checksum rises by as much. */
static void decrement_ttl(uint8_t *ip)
{
	*ttl_of(ip) = (uint8_t)(*ttl_of(ip) - 1);
	if (ip[0] >> 4 != 4)
		return;
	const uint32_t sum = ipsf_read16(ip + 10) + 0x0100u;
	ipsf_write16(ip + 10, (uint16_t)(sum + (sum >= 0xffff)));
}

static void write_ethernet(uint8_t *header, const struct ipsf_hop *hop, uint16_t ethertype)
{
	memcpy(header, hop->destination, 6);
	memcpy(header + 6, hop->source, 6);
	ipsf_write16(header + 12, ethertype);
}

static void write_ipv4(uint8_t *ip, const struct ipsf_packet *packet, uint8_t protocol, uint16_t id, uint32_t payload)
{
	ip[0] = 0x45;
	ip[1] = packet->tos;
	ipsf_write16(ip + 2, (uint16_t)(IPSF_IPV4_HEADER + payload));
	ipsf_write16(ip + 4, id);
	ipsf_write16(ip + 6, packet->flags & IPSF_PACKET_DF ? DF_BIT : 0);
	ip[8] = OUTER_TTL;
	ip[9] = protocol;
	ipsf_write16(ip + 10, 0);
	memcpy(ip + 12, packet->path->local.bytes, 4);
	memcpy(ip + 16, packet->path->remote.bytes, 4);
	ipsf_write16(ip + 10, ipsf_checksum_fold(ipsf_checksum_add(ip, IPSF_IPV4_HEADER, 0)));
}

static void write_ipv6(uint8_t *ip, const struct ipsf_packet *packet, uint8_t protocol, uint32_t payload)
{
	ipsf_write32(ip, 0x60000000u | (uint32_t)packet->tos << 20);
	ipsf_write16(ip + 4, (uint16_t)payload);
	ip[6] = protocol;
	ip[7] = OUTER_TTL;
	memcpy(ip + 8, packet->path->local.bytes, 16);
	memcpy(ip + 24, packet->path->remote.bytes, 16);
}

static void write_udp(uint8_t *udp, uint16_t from, uint16_t to, uint32_t payload)
{
	ipsf_write16(udp, from);
	ipsf_write16(udp + 2, to);
	ipsf_write16(udp + 4, (uint16_t)(IPSF_UDP_HEADER + payload));
	ipsf_write16(udp + 6, 0);
}

/* RFC 8200 s8.1: the pseudo header's addresses, length and protocol, then header and datagram. */
static void checksum_udp6(uint8_t *ip, const uint8_t *esp, uint32_t length)
{
	uint8_t *udp = ip + IPSF_IPV6_HEADER;
	uint32_t sum = ipsf_checksum_add(ip + 8, 32, IPSF_PROTO_UDP + IPSF_UDP_HEADER + length);
	sum = ipsf_checksum_add(udp, IPSF_UDP_HEADER, sum);
	const uint16_t checksum = ipsf_checksum_fold(ipsf_checksum_add(esp, length, sum));
	ipsf_write16(udp + 6, checksum ? checksum : UINT16_MAX);
}

void ipsf_link_write_outer(uint8_t *header, const struct ipsf_hop *hop, const struct ipsf_packet *packet, uint16_t local_port,
			   uint16_t id, const uint8_t *esp, uint32_t length)
{
	const bool udp = ipsf_carrier_is_udp(packet->carrier), v6 = packet->path->remote.version == 6;
	const uint8_t protocol = udp ? IPSF_PROTO_UDP : IPSF_PROTO_ESP;
	const uint32_t payload = length + (udp ? IPSF_UDP_HEADER : 0);
	uint8_t *ip = header + IPSF_ETHERNET_HEADER;
	write_ethernet(header, hop, v6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4);
	if (v6)
		write_ipv6(ip, packet, protocol, payload);
	else
		write_ipv4(ip, packet, protocol, id, payload);
	if (!udp)
		return;
	write_udp(ip + (v6 ? IPSF_IPV6_HEADER : IPSF_IPV4_HEADER), local_port, packet->path->remote_port, length);
	if (v6 && esp)
		checksum_udp6(ip, esp, length);
}

void ipsf_link_write_inner(uint8_t *header, const struct ipsf_hop *hop, struct ipsf_packet *packet)
{
	write_ethernet(header, hop, packet->data[0] >> 4 == 6 ? ETHERTYPE_IPV6 : ETHERTYPE_IPV4);
	decrement_ttl(packet->data);
}

/* ---- frames that came ---- */

static bool refuse(struct ipsf_packet *packet)
{
	packet->drop = IPSF_DROP_MALFORMED;
	return false;
}

/* Takes the Ethernet header off; the IP version (4 or 6, a whole header is there), or 0. */
static uint8_t take_ethernet(struct ipsf_packet *packet)
{
	if (packet->length < IPSF_ETHERNET_HEADER + IPSF_IPV4_HEADER)
		return 0;
	const uint16_t ethertype = ipsf_read16(packet->data + 12);
	ipsf_packet_cut_front(packet, IPSF_ETHERNET_HEADER);
	if (ethertype == ETHERTYPE_IPV4 && packet->data[0] >> 4 == 4)
		return 4;
	return ethertype == ETHERTYPE_IPV6 && packet->data[0] >> 4 == 6 && packet->length >= IPSF_IPV6_HEADER ? 6 : 0;
}

/* RFC 1122 s3.2.1.2. The header is whole. */
static bool checksum_holds(const uint8_t *ip, uint32_t header)
{
	return ipsf_checksum_fold(ipsf_checksum_add(ip, header, 0)) == 0;
}

/* The IP header off the front, what is no payload off the back; the next protocol, or -1. */
static int take_ipv4(struct ipsf_packet *packet, struct ipsf_path *path)
{
	const uint8_t *ip = packet->data;
	const uint32_t total = ipsf_read16(ip + 2);
	if (ip[0] != 0x45 || total < IPSF_IPV4_HEADER || total > packet->length || (ipsf_read16(ip + 6) & FRAGMENT_BITS) ||
	    !checksum_holds(ip, IPSF_IPV4_HEADER))
		return -1;
	path->remote.version = path->local.version = 4;
	memcpy(path->remote.bytes, ip + 12, 4);
	memcpy(path->local.bytes, ip + 16, 4);
	packet->tos = ip[1];
	ipsf_packet_cut_back(packet, packet->length - total);
	ipsf_packet_cut_front(packet, IPSF_IPV4_HEADER);
	return ip[9];
}

static int take_ipv6(struct ipsf_packet *packet, struct ipsf_path *path)
{
	const uint8_t *ip = packet->data;
	const uint32_t total = IPSF_IPV6_HEADER + (uint32_t)ipsf_read16(ip + 4);
	if (total > packet->length)
		return -1;
	path->remote.version = path->local.version = 6;
	memcpy(path->remote.bytes, ip + 8, 16);
	memcpy(path->local.bytes, ip + 24, 16);
	packet->tos = (uint8_t)(ipsf_read16(ip) >> 4);
	ipsf_packet_cut_back(packet, packet->length - total);
	ipsf_packet_cut_front(packet, IPSF_IPV6_HEADER);
	return ip[6];
}

static bool take_udp(struct ipsf_packet *packet, uint16_t local_port, struct ipsf_path *path)
{
	const uint8_t *udp = packet->data;
	if (packet->length < IPSF_UDP_HEADER)
		return false;
	const uint32_t length = ipsf_read16(udp + 4);
	if (length < IPSF_UDP_HEADER || length > packet->length || ipsf_read16(udp + 2) != local_port ||
	    (path->remote.version == 6 && ipsf_read16(udp + 6) == 0))
		return false;
	path->remote_port = ipsf_read16(udp);
	path->local_port = local_port;
	ipsf_packet_cut_back(packet, packet->length - length);
	ipsf_packet_cut_front(packet, IPSF_UDP_HEADER);
	return true;
}

bool ipsf_link_parse_outer(struct ipsf_packet *packet, uint16_t local_port, struct ipsf_path *path)
{
	const uint8_t version = take_ethernet(packet);
	memset(path, 0, sizeof *path);
	if (version == 0)
		return refuse(packet);
	const int protocol = version == 4 ? take_ipv4(packet, path) : take_ipv6(packet, path);
	if (protocol != IPSF_PROTO_ESP && (protocol != IPSF_PROTO_UDP || !take_udp(packet, local_port, path)))
		return refuse(packet);
	const unsigned family = protocol == IPSF_PROTO_UDP ? IPSF_CARRIER_UDP4 : IPSF_CARRIER_RAW4;
	packet->carrier = (uint8_t)(family + (version == 6));
	packet->path = path;
	return true;
}

bool ipsf_link_parse_inner(struct ipsf_packet *packet)
{
	const uint8_t version = take_ethernet(packet);
	uint8_t *ip = packet->data;
	if (version == 0 || *ttl_of(ip) <= 1)
		return refuse(packet);
	const uint32_t header = (ip[0] & 15u) * 4;
	if (version == 4 && (header < IPSF_IPV4_HEADER || header > packet->length || !checksum_holds(ip, header)))
		return refuse(packet);
	decrement_ttl(ip);
	return true;
}

void ipsf_link_complete_checksum(struct ipsf_packet *packet)
{
	uint8_t *ip = packet->data;
	const bool v4 = ip[0] >> 4 == 4;
	const uint32_t header = v4 ? IPSF_IPV4_HEADER : IPSF_IPV6_HEADER, addresses = v4 ? 12 : 8;
	const uint32_t total = v4 ? ipsf_read16(ip + 2) : IPSF_IPV6_HEADER + (uint32_t)ipsf_read16(ip + 4);
	const uint8_t protocol = v4 ? ip[9] : ip[6];
	const uint32_t field = protocol == IPSF_PROTO_TCP ? 16 : 6, length = total - header;
	if ((protocol != IPSF_PROTO_TCP && protocol != IPSF_PROTO_UDP) || total > packet->length || total < header + field + 2)
		return;
	const uint16_t not_pseudo = ipsf_checksum_fold(ipsf_checksum_add(ip + addresses, header - addresses, protocol + length));
	const uint16_t pseudo = (uint16_t)~not_pseudo;
	if (IPSF_LIKELY(ipsf_read16(ip + header + field) != pseudo))
		return;
	const uint32_t sum = ipsf_checksum_add(ip + header, length, 0);
	if (ipsf_checksum_fold(sum + pseudo) == 0)
		return; /* complete, and equal by accident */
	const uint16_t checksum = ipsf_checksum_fold(sum);
	ipsf_write16(ip + header + field, checksum || protocol == IPSF_PROTO_TCP ? checksum : UINT16_MAX); /* RFC 768 */
}
