/*
 * Super-packets: one IP packet of up to 64 KB that stands for many of one TCP or UDP flow. Here it is cut as the kernel's own
 * GSO would cut it; gro.h joins.
 *
 * Cutting copies no payload: each segment's headers are written over the bytes before its payload, which are the end of the
 * segment before. So segments come in their order, and one is used up before the next is asked for. Pure, any thread.
 */
#ifndef IPSF_GSO_H
#define IPSF_GSO_H

#include "packet.h"

#define IPSF_GSO_SEGMENTS 64 /* what UDP_SEGMENT takes at once, and a batch; TUN devices are told (gso_max_segs) */
#define IPSF_GSO_HEADERS 512 /* bytes of IP and TCP or UDP headers: more is nobody's honest super-packet */

struct ipsf_gso {
	uint8_t *payload;         /* of the first segment */
	uint32_t length;          /* of the payload of all */
	uint32_t ip_sum, sum;     /* of the IPv4 header, of pseudo and transport header, without what differs between segments */
	uint32_t sequence;        /* TCP: of the first segment */
	uint16_t id;              /* IPv4: of the first segment */
	uint16_t header, transport, size; /* bytes: all headers, those before TCP or UDP, payload of a segment but the last */
	uint16_t flags;           /* TCP: data offset and flags */
	uint8_t version, protocol, segments;
	uint8_t headers[IPSF_GSO_HEADERS];
};

/* Payload begins so many bytes into a parsed TCP or UDP packet; 0: lengths contradict it. */
uint32_t ipsf_gso_header(const struct ipsf_packet *packet);
/* Prepares to cut a parsed super-packet that a port has checked (vnet.h): its checksum field has the pseudo header's sum. */
void ipsf_gso_begin(struct ipsf_gso *gso, const struct ipsf_packet *packet);
/* Segment i: its IP packet, complete with checksums, and its length. The segments before it are gone. */
uint8_t *ipsf_gso_segment(const struct ipsf_gso *gso, unsigned i, uint32_t *length);

/* What a packet sends, one IP packet or datagram after the other, whatever it is: sealed or clear, super-packet or plain. */
struct ipsf_pieces {
	const struct ipsf_packet *packet;
	bool cut; /* a super-packet in the clear */
	struct ipsf_gso gso;
};

static inline unsigned ipsf_pieces_begin(struct ipsf_pieces *pieces, const struct ipsf_packet *packet)
{
	pieces->packet = packet;
	pieces->cut = packet->segments && (packet->flags & IPSF_PACKET_CLEAR);
	if (pieces->cut)
		ipsf_gso_begin(&pieces->gso, packet);
	return ipsf_packet_count(packet);
}

/* Piece i; the pieces before it may be gone, so they must have left. */
static inline uint8_t *ipsf_piece(const struct ipsf_pieces *pieces, unsigned i, uint32_t *length)
{
	return pieces->cut ? ipsf_gso_segment(&pieces->gso, i, length) : ipsf_packet_datagram(pieces->packet, i, length);
}

#endif
