#include "vnet.h"

#include "gso.h"
#include "ip.h"

/*
 * Sums up from start to the end of the packet, the pseudo header's sum in the field included: as the kernel would, so for any
 * protocol, also inside of a tunnel of its own.
 */
static bool complete_checksum(struct ipsf_packet *packet, uint32_t start, uint32_t offset)
{
	uint8_t *field = packet->data + start + offset;
	uint16_t sum;

	if (start + offset + 2 > packet->length)
		return false;
	sum = ipsf_checksum_fold(ipsf_checksum_add(packet->data + start, packet->length - start, 0));
	ipsf_write16(field, sum ? sum : UINT16_MAX); /* for UDP zero would mean "none"; for the others it is the same sum */
	return true;
}

/* What the header must say of a TCP or UDP packet that is to be cut. hdr_len is a hint: its linear part in the kernel. */
static bool types_agree(const struct virtio_net_hdr *header, const struct ipsf_packet *packet)
{
	const unsigned type = header->gso_type & (unsigned)~VIRTIO_NET_HDR_GSO_ECN;
	const bool tcp = packet->protocol == IPSF_PROTO_TCP;

	if (type == VIRTIO_NET_HDR_GSO_UDP_L4)
		return packet->protocol == IPSF_PROTO_UDP && header->csum_offset == 6 &&
		       ipsf_read16(packet->data + packet->transport + 4) == packet->length - packet->transport;
	return tcp && header->csum_offset == 16 &&
	       type == (packet->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6);
}

static bool accept_super(const struct virtio_net_hdr *header, struct ipsf_packet *packet)
{
	const uint32_t whole = packet->length;
	uint32_t headers, payload, segments;

	if (!ipsf_ip_parse(packet) || packet->length != whole || !(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) ||
	    (packet->flags & (IPSF_PACKET_FIRST_FRAGMENT | IPSF_PACKET_LATER_FRAGMENT)))
		return false;
	headers = ipsf_gso_header(packet);
	if (!headers || headers > IPSF_GSO_HEADERS || headers >= whole || header->gso_size == 0 ||
	    header->csum_start != packet->transport || header->hdr_len > whole || !types_agree(header, packet))
		return false;
	payload = whole - headers;
	segments = (payload + header->gso_size - 1) / header->gso_size;
	if (segments > IPSF_GSO_SEGMENTS)
		return false;
	if (segments == 1)
		return complete_checksum(packet, header->csum_start, header->csum_offset);
	packet->segments = (uint8_t)segments;
	packet->segment_size = header->gso_size;
	return true;
}

bool ipsf_vnet_accept(const struct virtio_net_hdr *header, struct ipsf_packet *packet)
{
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		return accept_super(header, packet);
	if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)
		return complete_checksum(packet, header->csum_start, header->csum_offset);
	return true;
}

/* RFC 3168: the kernel wants to know of CWR, which only the first segment keeps. */
static uint8_t type_of(const struct ipsf_packet *packet)
{
	const unsigned ecn = packet->data[packet->transport + 13] & 0x80 ? VIRTIO_NET_HDR_GSO_ECN : 0;

	if (packet->protocol == IPSF_PROTO_UDP)
		return VIRTIO_NET_HDR_GSO_UDP_L4;
	return (uint8_t)((packet->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6) | ecn);
}

void ipsf_vnet_describe(const struct ipsf_packet *packet, uint16_t bytes, struct virtio_net_hdr *header)
{
	*header = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .gso_type = type_of(packet), .hdr_len = bytes,
					  .gso_size = packet->segment_size, .csum_start = packet->transport};
	header->csum_offset = packet->protocol == IPSF_PROTO_UDP ? 6 : 16;
}
