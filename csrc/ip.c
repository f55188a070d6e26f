#include "ip.h"

#define MAX_EXTENSION_HEADERS 8 /* more is nobody's honest packet */

#define DF_BIT 0x4000u
#define MF_BIT 0x2000u
#define OFFSET_BITS 0x1fffu

static bool refuse(struct ipsf_packet *packet, enum ipsf_drop reason)
{
	packet->drop = (uint8_t)reason;
	return false;
}

/* RFC 4301 s4.4.1.1: ports, or type and code, or the type of a mobility header, as one number. */
static bool read_ports(struct ipsf_packet *packet)
{
	const uint8_t *next = packet->data + packet->transport;
	unsigned bytes = packet->flags & IPSF_PACKET_LATER_FRAGMENT ? 0 : ipsf_port_bytes(packet->protocol);

	packet->source_port = packet->destination_port = 0;
	if (packet->length - packet->transport < bytes)
		return refuse(packet, IPSF_DROP_MALFORMED);
	if (bytes == 4) {
		packet->source_port = ipsf_read16(next);
		packet->destination_port = ipsf_read16(next + 2);
	} else if (bytes == 2) {
		packet->source_port = packet->destination_port = ipsf_read16(next);
	} else if (bytes == 3) {
		packet->source_port = packet->destination_port = (uint16_t)(next[2] << 8);
	}
	return true;
}

static void note_fragment(struct ipsf_packet *packet, uint16_t offset, bool more)
{
	if (offset)
		packet->flags |= IPSF_PACKET_LATER_FRAGMENT;
	else if (more)
		packet->flags |= IPSF_PACKET_FIRST_FRAGMENT;
}

static bool parse_ipv4(struct ipsf_packet *packet)
{
	const uint8_t *ip = packet->data;
	uint32_t header = (ip[0] & 15u) * 4u, total = ipsf_read16(ip + 2);
	uint16_t fragment = ipsf_read16(ip + 6);

	if (header < IPSF_IPV4_HEADER || total < header || total > packet->length)
		return refuse(packet, IPSF_DROP_MALFORMED);
	ipsf_packet_cut_back(packet, packet->length - total);
	packet->transport = (uint16_t)header;
	packet->protocol = ip[9];
	if (fragment & DF_BIT)
		packet->flags |= IPSF_PACKET_DF;
	note_fragment(packet, fragment & OFFSET_BITS, fragment & MF_BIT);
	return read_ports(packet);
}

static bool is_extension(uint8_t next_header)
{
	return next_header == IPSF_PROTO_HOPOPTS || next_header == IPSF_PROTO_ROUTING ||
	       next_header == IPSF_PROTO_FRAGMENT || next_header == IPSF_PROTO_DSTOPTS;
}

/* Walks to the first header that is no extension (RFC 8200 s4). A later fragment ends the walk: payload follows. */
static bool skip_extensions(struct ipsf_packet *packet, uint8_t next_header)
{
	uint32_t at = IPSF_IPV6_HEADER;

	for (unsigned i = 0; is_extension(next_header); i++) {
		const uint8_t *header = packet->data + at;
		uint8_t kind = next_header;
		uint32_t size;

		if (i == MAX_EXTENSION_HEADERS || packet->length - at < 8)
			return refuse(packet, IPSF_DROP_MALFORMED);
		size = kind == IPSF_PROTO_FRAGMENT ? 8 : (header[1] + 1u) * 8u;
		if (packet->length - at < size)
			return refuse(packet, IPSF_DROP_MALFORMED);
		next_header = header[0];
		at += size;
		if (kind != IPSF_PROTO_FRAGMENT)
			continue;
		note_fragment(packet, ipsf_read16(header + 2) >> 3, header[3] & 1);
		if (packet->flags & IPSF_PACKET_LATER_FRAGMENT)
			break;
	}
	packet->transport = (uint16_t)at;
	packet->protocol = next_header;
	return true;
}

static bool parse_ipv6(struct ipsf_packet *packet)
{
	uint32_t total;

	if (packet->length < IPSF_IPV6_HEADER)
		return refuse(packet, IPSF_DROP_MALFORMED);
	total = IPSF_IPV6_HEADER + (uint32_t)ipsf_read16(packet->data + 4);
	if (total > packet->length)
		return refuse(packet, IPSF_DROP_MALFORMED);
	ipsf_packet_cut_back(packet, packet->length - total);
	packet->flags |= IPSF_PACKET_DF; /* no router may fragment IPv6 */
	return skip_extensions(packet, packet->data[6]) && read_ports(packet);
}

bool ipsf_ip_parse_any(struct ipsf_packet *packet)
{
	packet->flags &= (uint8_t)~(IPSF_PACKET_DF | IPSF_PACKET_FIRST_FRAGMENT | IPSF_PACKET_LATER_FRAGMENT);
	if (packet->length < IPSF_IPV4_HEADER || packet->length > UINT16_MAX)
		return refuse(packet, IPSF_DROP_MALFORMED);
	packet->version = packet->data[0] >> 4;
	if (packet->version == 4)
		return parse_ipv4(packet);
	if (packet->version == 6)
		return parse_ipv6(packet);
	return refuse(packet, IPSF_DROP_MALFORMED);
}

void ipsf_ip_set_tos(struct ipsf_packet *packet, uint8_t tos)
{
	uint8_t *ip = packet->data;

	if (packet->version == 4) {
		/* RFC 1624 eqn. 3: HC' = ~(~HC + ~m + m') */
		uint32_t sum = (uint16_t)~ipsf_read16(ip + 10) + (uint32_t)(uint16_t)~ipsf_read16(ip);

		ip[1] = tos;
		ipsf_write16(ip + 10, ipsf_checksum_fold(sum + ipsf_read16(ip)));
	} else {
		ipsf_write16(ip, (uint16_t)((ipsf_read16(ip) & 0xf00fu) | (unsigned)tos << 4));
	}
}

static bool build_ipv4(struct ipsf_packet *packet, const struct ipsf_path *path, uint8_t protocol)
{
	uint8_t *ip = packet->data - IPSF_IPV4_HEADER;
	uint32_t total = packet->length + IPSF_IPV4_HEADER;

	if (packet->headroom < IPSF_IPV4_HEADER || total > UINT16_MAX)
		return false;
	memset(ip, 0, IPSF_IPV4_HEADER);
	ip[0] = 0x45;
	ip[1] = packet->tos;
	ipsf_write16(ip + 2, (uint16_t)total);
	ipsf_write16(ip + 6, DF_BIT);
	ip[8] = 64;
	ip[9] = protocol;
	memcpy(ip + 12, path->remote.bytes, 4);
	memcpy(ip + 16, path->local.bytes, 4);
	ipsf_write16(ip + 10, ipsf_checksum_fold(ipsf_checksum_add(ip, IPSF_IPV4_HEADER, 0)));
	packet->data = ip;
	packet->length = total;
	packet->headroom = (uint16_t)(packet->headroom - IPSF_IPV4_HEADER);
	return true;
}

static bool build_ipv6(struct ipsf_packet *packet, const struct ipsf_path *path, uint8_t protocol)
{
	uint8_t *ip = packet->data - IPSF_IPV6_HEADER;

	if (packet->headroom < IPSF_IPV6_HEADER || packet->length > UINT16_MAX)
		return false;
	memset(ip, 0, 8);
	ipsf_write16(ip, (uint16_t)(0x6000u | (unsigned)packet->tos << 4));
	ipsf_write16(ip + 4, (uint16_t)packet->length);
	ip[6] = protocol;
	ip[7] = 64;
	memcpy(ip + 8, path->remote.bytes, 16);
	memcpy(ip + 24, path->local.bytes, 16);
	packet->data = ip;
	packet->length += IPSF_IPV6_HEADER;
	packet->headroom = (uint16_t)(packet->headroom - IPSF_IPV6_HEADER);
	return true;
}

bool ipsf_ip_build(struct ipsf_packet *packet, const struct ipsf_path *path, uint8_t protocol)
{
	return path->remote.version == 4 ? build_ipv4(packet, path, protocol) : build_ipv6(packet, path, protocol);
}

void ipsf_ip_mend_checksum(struct ipsf_packet *packet)
{
	uint8_t *next = packet->data + packet->transport;
	uint32_t length = packet->length - packet->transport, sum;
	unsigned address_bytes = packet->version == 4 ? 8 : 32, field;

	if (packet->protocol == IPSF_PROTO_TCP && length >= 20)
		field = 16;
	else if (packet->protocol == IPSF_PROTO_UDP && length >= 8 && ipsf_read16(next + 6))
		field = 6;
	else
		return;
	ipsf_write16(next + field, 0);
	sum = ipsf_checksum_add(ipsf_ip_source(packet), address_bytes, packet->protocol + length);
	sum = ipsf_checksum_add(next, length, sum);
	ipsf_write16(next + field, ipsf_checksum_fold(sum));
	if (field == 6 && !ipsf_read16(next + 6))
		ipsf_write16(next + 6, UINT16_MAX); /* RFC 768: zero would mean "none" */
}
