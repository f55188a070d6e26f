/*
 * The inner IP packet: checked once, its 5-tuple in the descriptor; and the rules for ECN, DSCP and DF between inner
 * and outer header (RFC 4301 s5.1.2, RFC 6040). Pure, any thread.
 */
#ifndef IPSF_IP_H
#define IPSF_IP_H

#include "checksum.h"
#include "packet.h"

#define IPSF_IPV4_HEADER 20
#define IPSF_IPV6_HEADER 40
#define IPSF_IPV4_FRAGMENT 0x3fffu /* more fragments, offset: 0 of what is whole */

static_assert(IPSF_PACKET_DF == 1, "the bit of the header is the flag");

enum ipsf_protocol {
	IPSF_PROTO_HOPOPTS = 0,
	IPSF_PROTO_ICMP = 1,
	IPSF_PROTO_IPV4 = 4,
	IPSF_PROTO_TCP = 6,
	IPSF_PROTO_UDP = 17,
	IPSF_PROTO_DCCP = 33,
	IPSF_PROTO_IPV6 = 41,
	IPSF_PROTO_ROUTING = 43,
	IPSF_PROTO_FRAGMENT = 44,
	IPSF_PROTO_ESP = 50,
	IPSF_PROTO_ICMPV6 = 58,
	IPSF_PROTO_NONE = 59,
	IPSF_PROTO_DSTOPTS = 60,
	IPSF_PROTO_SCTP = 132,
	IPSF_PROTO_MOBILITY = 135,
	IPSF_PROTO_UDPLITE = 136,
};

enum ipsf_ecn { IPSF_NOT_ECT = 0, IPSF_ECT1 = 1, IPSF_ECT0 = 2, IPSF_CE = 3 };

/*
 * Reads the IP packet at packet->data: version, protocol, transport, ports, fragment and DF flags. Bytes behind the IP
 * length (TFC padding, RFC 4303 s2.7) are cut off. False, with packet->drop, where lengths or headers contradict the
 * bytes. What every packet may be; ipsf_ip_parse() is the same, faster for most of them.
 */
IPSF_MUST_CHECK bool ipsf_ip_parse_any(struct ipsf_packet *packet);

/* The first eight bytes of an IPv4 header, as a number: which of them, or which bits, a plain one must have, and what. */
#define IPSF_IPV4_PLAIN_BITS UINT64_C(0xff00ffff00003fff) /* version and header length, total length, fragment */
#define IPSF_IPV4_PLAIN UINT64_C(0x4500000000000000)
#define IPSF_IPV4_LENGTH_SHIFT 32
#define IPSF_IPV4_DF_SHIFT 14
#define IPSF_IPV4_TOS_SHIFT 48

/* IPv4 without options, no fragment, TCP or UDP, so long: by the first eight bytes of its header and its protocol. */
static inline bool ipsf_ip_is_plain(uint64_t first, uint8_t protocol, uint32_t length)
{
	return (first & IPSF_IPV4_PLAIN_BITS) == IPSF_IPV4_PLAIN + ((uint64_t)length << IPSF_IPV4_LENGTH_SHIFT) &&
	       (protocol == IPSF_PROTO_TCP || protocol == IPSF_PROTO_UDP);
}

/*
 * IPv4 without options, no fragment, TCP or UDP, nothing behind it: read straight away, in words. False: it is something else.
 * (A length of more than 16 bits makes a sum that no header has.)
 */
static inline bool ipsf_ip_parse_plain(struct ipsf_packet *packet)
{
	const uint64_t others = ~(IPSF_PACKET_FIELD(version, 0xff) | IPSF_PACKET_FIELD(protocol, 0xff) |
				  IPSF_PACKET_FIELD(flags, IPSF_PACKET_DF | IPSF_PACKET_FIRST_FRAGMENT | IPSF_PACKET_LATER_FRAGMENT));
	const uint8_t *ip = packet->data;
	const uint32_t length = packet->length;

	if (length < IPSF_IPV4_HEADER + 4)
		return false;
	const uint64_t first = ipsf_read64(ip);
	const uint32_t ports = ipsf_read16_pair(ip + IPSF_IPV4_HEADER);
	const uint8_t protocol = ip[9];
	if (!ipsf_ip_is_plain(first, protocol, length))
		return false;
	packet->marks = (packet->marks & others) | IPSF_PACKET_FIELD(version, 4) | IPSF_PACKET_FIELD(protocol, protocol) |
			IPSF_PACKET_FIELD(flags, first >> IPSF_IPV4_DF_SHIFT & IPSF_PACKET_DF);
	packet->layers = (packet->layers & IPSF_PACKET_FIELD(segment_size, UINT16_MAX)) | IPSF_PACKET_FIELD(ports, ports) |
			 IPSF_PACKET_FIELD(transport, IPSF_IPV4_HEADER);
	return true;
}

IPSF_MUST_CHECK static inline bool ipsf_ip_parse(struct ipsf_packet *packet)
{
	return IPSF_LIKELY(ipsf_ip_parse_plain(packet)) || ipsf_ip_parse_any(packet);
}

/* DSCP and ECN of a parsed packet. */
static inline uint8_t ipsf_ip_tos(const struct ipsf_packet *packet)
{
	return packet->version == 4 ? packet->data[1] : (uint8_t)(ipsf_read16(packet->data) >> 4);
}

/* Replaces DSCP and ECN; the IPv4 checksum follows (RFC 1624). */
void ipsf_ip_set_tos(struct ipsf_packet *packet, uint8_t tos);

/* The addresses of a parsed packet: 4 or 16 bytes. */
static inline const uint8_t *ipsf_ip_source(const struct ipsf_packet *packet)
{
	return packet->data + (packet->version == 4 ? 12 : 8);
}

static inline const uint8_t *ipsf_ip_destination(const struct ipsf_packet *packet)
{
	return packet->data + (packet->version == 4 ? 16 : 24);
}

/* Outer DSCP and ECN from inner ones: RFC 6040 s4.1, normal mode where copy_ecn, else compatibility mode. */
static inline uint8_t ipsf_ecn_encap(uint8_t inner_tos, bool copy_ecn, bool copy_dscp)
{
	return (uint8_t)((copy_dscp ? inner_tos & 0xfcu : 0u) | (copy_ecn ? inner_tos & 3u : 0u));
}

/* Inner DSCP and ECN after decapsulation, RFC 6040 s4.2; -1: the packet must be dropped. */
static inline int ipsf_ecn_decap(uint8_t inner_tos, uint8_t outer_tos, bool copy_ecn, bool copy_dscp)
{
	/* RFC 6040 s4.2, figure 4: [inner][outer], columns Not-ECT, ECT(1), ECT(0), CE in the order of their codes. */
	static const int8_t table[4][4] = {
		[IPSF_NOT_ECT] = { IPSF_NOT_ECT, IPSF_NOT_ECT, IPSF_NOT_ECT, -1 },
		[IPSF_ECT1] = { IPSF_ECT1, IPSF_ECT1, IPSF_ECT1, IPSF_CE },
		[IPSF_ECT0] = { IPSF_ECT0, IPSF_ECT1, IPSF_ECT0, IPSF_CE },
		[IPSF_CE] = { IPSF_CE, IPSF_CE, IPSF_CE, IPSF_CE },
	};
	int ecn = copy_ecn ? table[inner_tos & 3][outer_tos & 3] : inner_tos & 3;

	return ecn < 0 ? -1 : ((copy_dscp ? outer_tos : inner_tos) & 0xfc) | ecn;
}

/* How many bytes of a protocol's header a selector's ports are read from; 0: it has nothing that a selector could name. */
static inline unsigned ipsf_port_bytes(uint8_t protocol)
{
	switch (protocol) {
	case IPSF_PROTO_TCP:
	case IPSF_PROTO_UDP:
	case IPSF_PROTO_DCCP:
	case IPSF_PROTO_SCTP:
	case IPSF_PROTO_UDPLITE:
		return 4; /* two ports */
	case IPSF_PROTO_ICMP:
	case IPSF_PROTO_ICMPV6:
		return 2; /* type and code */
	case IPSF_PROTO_MOBILITY:
		return 3; /* the third is its type */
	default:
		return 0;
	}
}

/* Whether a protocol has ports, or what selectors treat as ports: type and code of ICMP, the type of a mobility header. */
static inline bool ipsf_protocol_has_ports(uint8_t protocol)
{
	return IPSF_LIKELY(protocol == IPSF_PROTO_TCP || protocol == IPSF_PROTO_UDP) || ipsf_port_bytes(protocol) != 0;
}

static inline bool ipsf_selector_has_address(const struct ipsf_selector *selector, uint8_t version, const uint8_t *address)
{
	if (selector->first.version != version)
		return false;
	if (version == 4) {
		uint32_t a = ipsf_read32(address);

		return a >= ipsf_read32(selector->first.bytes) && a <= ipsf_read32(selector->last.bytes);
	}
	return memcmp(address, selector->first.bytes, 16) >= 0 && memcmp(address, selector->last.bytes, 16) <= 0;
}

static inline bool ipsf_selector_has_port(const struct ipsf_selector *selector, const struct ipsf_packet *packet, uint16_t port)
{
	bool any = selector->port_first == 0 && selector->port_last == UINT16_MAX;
	bool opaque = selector->port_first == UINT16_MAX && selector->port_last == 0;

	if (any)
		return true;
	if ((packet->flags & IPSF_PACKET_LATER_FRAGMENT) || !ipsf_protocol_has_ports(packet->protocol))
		return opaque;
	return port >= selector->port_first && port <= selector->port_last;
}

/* Whether a packet's address, protocol and port are inside. Ports that it doesn't show match only any port and OPAQUE. */
static inline bool ipsf_selector_matches(const struct ipsf_selector *selector, const struct ipsf_packet *packet,
					 const uint8_t *address, uint16_t port)
{
	return (!selector->protocol || selector->protocol == packet->protocol) &&
	       ipsf_selector_has_address(selector, packet->version, address) && ipsf_selector_has_port(selector, packet, port);
}

/*
 * Writes an IP header without options before packet->data for a payload of protocol: transport mode, inbound. False: no
 * room.
 */
IPSF_MUST_CHECK bool ipsf_ip_build(struct ipsf_packet *packet, const struct ipsf_path *path, uint8_t protocol);
/* Recomputes a TCP or UDP checksum that a NAT has made wrong (RFC 3948 s3.1.2); others are left alone. */
void ipsf_ip_mend_checksum(struct ipsf_packet *packet);

#endif
