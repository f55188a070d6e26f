/*
 * The link layer of the ring ports (AF_PACKET, AF_XDP): what the kernel does for sockets and TUN, for whole Ethernet frames.
 * Headers before an ESP datagram that leaves, headers of a frame that came, and who is the next hop. Pure.
 *
 * Which frames are ours is decided before they come here, by the program in the kernel that steers them (and drops them for the
 * kernel's own stack): host unicast, no VLAN tag, one of our addresses or a protected destination. The checks here are those that
 * the program can't make, or that must hold before a byte is used: what fails them has been taken already, and is a drop.
 *
 * Threads: a table of next hops is immutable. The control thread publishes it in ipsf_port.hops; workers load that pointer once a
 * call and use it until their next epoch tick.
 */
#ifndef IPSF_LINK_H
#define IPSF_LINK_H

#include "ip.h"
#include "port.h"

#define IPSF_ETHERNET_HEADER 14
#define IPSF_UDP_HEADER 8
#define IPSF_LINK_HEADER_MAX (IPSF_ETHERNET_HEADER + IPSF_IPV6_HEADER + IPSF_UDP_HEADER)

/* ---- next hops ---- */

/*
 * Exact addresses and prefixes, the longest wins; NULL n = 0 makes an empty table. Host bits of a network are ignored. Of two
 * entries for one network the later counts. An entry whose mtu is 0 keeps its addresses with the kernel although a shorter prefix
 * has a next hop (a neighbour not resolved yet, an address of our own, a route over another interface).
 * IPSF_EINVAL: version or prefix length. IPSF_ENOMEM.
 */
struct ipsf_hops;
IPSF_MUST_CHECK int ipsf_hops_new(const struct ipsf_hop *hops, size_t n, struct ipsf_hops **table);
void ipsf_hops_free(struct ipsf_hops *table);
/* The next hop to the address (4 or 16 bytes), or NULL: the kernel's business. table may be NULL. */
const struct ipsf_hop *ipsf_hops_find(const struct ipsf_hops *table, uint8_t version, const uint8_t *address);

/* ---- frames that leave ---- */

static inline bool ipsf_carrier_is_udp(uint8_t carrier)
{
	return carrier == IPSF_CARRIER_UDP4 || carrier == IPSF_CARRIER_UDP6;
}

/* Bytes of Ethernet, IP and UDP header around an ESP datagram of this carrier. */
static inline unsigned ipsf_link_header_size(uint8_t carrier)
{
	static const uint8_t size[IPSF_CARRIER_COUNT] = {
		[IPSF_CARRIER_UDP4] = IPSF_ETHERNET_HEADER + IPSF_IPV4_HEADER + IPSF_UDP_HEADER,
		[IPSF_CARRIER_UDP6] = IPSF_ETHERNET_HEADER + IPSF_IPV6_HEADER + IPSF_UDP_HEADER,
		[IPSF_CARRIER_RAW4] = IPSF_ETHERNET_HEADER + IPSF_IPV4_HEADER,
		[IPSF_CARRIER_RAW6] = IPSF_ETHERNET_HEADER + IPSF_IPV6_HEADER,
	};
	return size[carrier];
}

/* `reaches` of an outer ring port: the next hop of a sealed packet where one is known and every datagram in it fits the hop's
 * MTU; else NULL, and the socket port sends it: the kernel fragments where DF is not set, refuses (drop MTU) where it is. */
const struct ipsf_hop *ipsf_link_outer_hop(const struct ipsf_hops *table, const struct ipsf_packet *packet);

/* `reaches` of an inner ring port: the next hop of a plain packet (not yet parsed for an Ethernet frame); NULL also where its TTL
 * ends here or it is longer than the hop's MTU, so that the kernel answers it with ICMP. */
const struct ipsf_hop *ipsf_link_inner_hop(const struct ipsf_hops *table, const struct ipsf_packet *packet);

/* `reaches` of a ring port (an inner one has no carriers). */
static inline bool ipsf_link_reaches(const struct ipsf_port *port, const struct ipsf_packet *packet)
{
	const struct ipsf_hops *table = atomic_load_explicit(&port->hops, memory_order_acquire);
	return (port->carriers ? ipsf_link_outer_hop(table, packet) : ipsf_link_inner_hop(table, packet)) != NULL;
}

/*
 * Writes the ipsf_link_header_size(packet->carrier) bytes of headers for the ESP datagram of length bytes at esp, from the sealed
 * packet's path, tos, DF and carrier (a packet may hold several datagrams, which differ in length and id only). local_port: of
 * our UDP encapsulation socket, host order. id: IPv4's, any 16 bits; it should count on with each datagram (RFC 6864).
 * UDP checksum: 0 for IPv4 (RFC 3948 s2.1); for IPv6, where zero needs the receiver's consent (RFC 6935 s5, RFC 6936), which
 * RFC 3948 doesn't give, it is computed over the datagram at esp, or left to the caller where esp is NULL. The header must not
 * overlap the datagram.
 */
void ipsf_link_write_outer(uint8_t *header, const struct ipsf_hop *hop, const struct ipsf_packet *packet, uint16_t local_port,
			   uint16_t id, const uint8_t *esp, uint32_t length);

/* The Ethernet header (14 bytes) for the plain packet at packet->data, and the forwarder's decrement of its TTL or hop limit. */
void ipsf_link_write_inner(uint8_t *header, const struct ipsf_hop *hop, struct ipsf_packet *packet);

/* ---- frames that came ---- */

/*
 * A frame with ESP in it, bare or in UDP to local_port. True: packet is cut to the ESP datagram (padding of short frames is cut
 * off the back), tos and carrier are set, *path says whence (ports 0 for bare ESP) and packet->path points to it.
 * False, with packet->drop: lengths or the IPv4 header checksum contradict the frame, a fragment, IP options or extension
 * headers, another protocol or port, IPv6 without a UDP checksum. A UDP checksum is not verified: the ICV says more.
 */
IPSF_MUST_CHECK bool ipsf_link_parse_outer(struct ipsf_packet *packet, uint16_t local_port, struct ipsf_path *path);

/* A frame with an IP packet to protect. True: packet is cut to the IP packet, its TTL decremented as the forwarder's (RFC 4301
 * s5.1.2.1). False, with packet->drop: no IP, a wrong IPv4 header checksum, a TTL that ends here. */
IPSF_MUST_CHECK bool ipsf_link_parse_inner(struct ipsf_packet *packet);

/*
 * A sender on a virtual link leaves the TCP or UDP checksum to hardware that isn't there: the field holds the pseudo header's sum
 * alone. Where it does, and is not right by accident, it is completed; an IP packet without options and extension headers, as
 * ipsf_link_parse_inner() gives it. For ports whose frames come without a word about that.
 */
void ipsf_link_complete_checksum(struct ipsf_packet *packet);

#endif
