#include "gso.h"

#include "ip.h"

#define TCP_HEADER 20u
#define UDP_HEADER 8u
#define TCP_FIN_PSH 0x09u
#define TCP_CWR 0x80u

uint32_t ipsf_gso_header(const struct ipsf_packet *packet)
{
	const uint8_t *next = packet->data + packet->transport;
	const uint32_t left = packet->length - packet->transport;
	uint32_t header = UDP_HEADER;

	if (left < UDP_HEADER)
		return 0;
	if (packet->protocol == IPSF_PROTO_TCP) {
		if (left < TCP_HEADER)
			return 0;
		header = (uint32_t)(next[12] >> 4) * 4;
		if (header < TCP_HEADER)
			return 0;
	} else if (packet->protocol != IPSF_PROTO_UDP) {
		return 0;
	}
	return header <= left ? packet->transport + header : 0;
}

/*
 * What all segments share is summed once. The kernel left the pseudo header's sum, with the length of the whole, in the checksum
 * field (CHECKSUM_PARTIAL); so routing headers, whose last hop the pseudo header names (RFC 8200 s8.1), need no care here.
 */
static void prepare_tcp(struct ipsf_gso *gso)
{
	uint8_t *tcp = gso->headers + gso->transport;
	const uint32_t pseudo = ipsf_read16(tcp + 16) + (uint16_t)~(gso->header - gso->transport + gso->length);

	gso->sequence = ipsf_read32(tcp + 4);
	gso->flags = ipsf_read16(tcp + 12);
	memset(tcp + 4, 0, 4);
	memset(tcp + 12, 0, 2);
	memset(tcp + 16, 0, 2);
	gso->sum = ipsf_checksum_add(tcp, gso->header - gso->transport, pseudo);
}

static void prepare_udp(struct ipsf_gso *gso)
{
	uint8_t *udp = gso->headers + gso->transport;
	const uint32_t pseudo = ipsf_read16(udp + 6) + (uint16_t)~(UDP_HEADER + gso->length);

	memset(udp + 4, 0, 4);
	gso->sum = ipsf_checksum_add(udp, UDP_HEADER, pseudo);
}

void ipsf_gso_begin(struct ipsf_gso *gso, const struct ipsf_packet *packet)
{
	const uint32_t header = ipsf_gso_header(packet);

	gso->payload = packet->data + header;
	gso->length = packet->length - header;
	gso->header = (uint16_t)header;
	gso->transport = packet->transport;
	gso->size = packet->segment_size;
	gso->version = packet->version;
	gso->protocol = packet->protocol;
	gso->segments = packet->segments;
	memcpy(gso->headers, packet->data, header);
	if (packet->protocol == IPSF_PROTO_TCP)
		prepare_tcp(gso);
	else
		prepare_udp(gso);
	if (packet->version != 4)
		return;
	gso->id = ipsf_read16(gso->headers + 4);
	memset(gso->headers + 2, 0, 4);
	memset(gso->headers + 10, 0, 2);
	gso->ip_sum = ipsf_checksum_add(gso->headers, packet->transport, 0);
}

/* Identifications count up (as RFC 791 wants them distinct, and as the kernel does it also where DF is set). */
static void write_ip(const struct ipsf_gso *gso, unsigned i, uint32_t length, uint8_t *ip)
{
	const uint16_t id = (uint16_t)(gso->id + i);

	if (gso->version == 6) {
		ipsf_write16(ip + 4, (uint16_t)(length - IPSF_IPV6_HEADER));
		return;
	}
	ipsf_write16(ip + 2, (uint16_t)length);
	ipsf_write16(ip + 4, id);
	ipsf_write16(ip + 10, ipsf_checksum_fold(gso->ip_sum + length + id));
}

/* FIN and PSH belong to the last byte, CWR to the first segment after the window was cut (RFC 3168 s6.1.2). */
static void write_tcp(const struct ipsf_gso *gso, unsigned i, uint32_t payload, uint8_t *tcp)
{
	const uint32_t header = (uint32_t)gso->header - gso->transport, sequence = gso->sequence + i * gso->size;
	uint32_t sum = gso->sum + header + payload + (sequence >> 16) + (sequence & 0xffff);
	uint16_t flags = gso->flags;

	if (i + 1u < gso->segments)
		flags &= (uint16_t)~TCP_FIN_PSH;
	if (i > 0)
		flags &= (uint16_t)~TCP_CWR;
	ipsf_write32(tcp + 4, sequence);
	ipsf_write16(tcp + 12, flags);
	sum = ipsf_checksum_add(tcp + header, payload, sum + flags);
	ipsf_write16(tcp + 16, ipsf_checksum_fold(sum));
}

static void write_udp(const struct ipsf_gso *gso, uint32_t payload, uint8_t *udp)
{
	const uint32_t length = UDP_HEADER + payload;
	const uint16_t sum = ipsf_checksum_fold(ipsf_checksum_add(udp + UDP_HEADER, payload, gso->sum + 2 * length));

	ipsf_write16(udp + 4, (uint16_t)length);
	ipsf_write16(udp + 6, sum ? sum : UINT16_MAX); /* RFC 768: zero would mean "none" */
}

uint8_t *ipsf_gso_segment(const struct ipsf_gso *gso, unsigned i, uint32_t *length)
{
	const uint32_t offset = i * (uint32_t)gso->size, left = gso->length - offset;
	const uint32_t payload = left < gso->size ? left : gso->size;
	uint8_t *ip = gso->payload + offset - gso->header;

	memcpy(ip, gso->headers, gso->header);
	*length = gso->header + payload;
	write_ip(gso, i, *length, ip);
	if (gso->protocol == IPSF_PROTO_TCP)
		write_tcp(gso, i, payload, ip + gso->transport);
	else
		write_udp(gso, payload, ip + gso->transport);
	return ip;
}
