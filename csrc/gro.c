#include "gro.h"

#include "gso.h"
#include "ip.h"

#define OPEN_RUNS 8 /* flows at once that may still grow */
#define WHOLE_MAX 65535u

#define TCP_FIN_PSH 0x0009u
#define TCP_RST_SYN_URG 0x0026u
#define TCP_ACK 0x0010u
#define TCP_CWR 0x0080u

/* The runs that may still grow, the oldest first in line to be given up. */
struct open_runs {
	struct ipsf_gro_run *run[OPEN_RUNS];
	unsigned latest, oldest;
};

static uint16_t tcp_flags(const struct ipsf_packet *packet)
{
	return ipsf_read16(packet->data + packet->transport + 12);
}

static bool is_fragment(const struct ipsf_packet *packet)
{
	return packet->flags & (IPSF_PACKET_FIRST_FRAGMENT | IPSF_PACKET_LATER_FRAGMENT);
}

/* Neither IPv4 options nor IPv6 extension headers: the kernel's GRO leaves such packets alone, and they are rare. */
static bool is_plain(const struct ipsf_packet *packet)
{
	return packet->transport == (packet->version == 4 ? IPSF_IPV4_HEADER : IPSF_IPV6_HEADER);
}

/* Bytes of headers of a packet that may be part of a super-packet; 0: it goes alone. */
static uint32_t joinable(const struct ipsf_packet *packet, bool udp)
{
	const uint32_t header = is_plain(packet) ? ipsf_gso_header(packet) : 0;
	const uint8_t *next = packet->data + packet->transport;

	if (header == 0 || header >= packet->length)
		return 0;
	if (packet->protocol == IPSF_PROTO_TCP)
		return (tcp_flags(packet) & (TCP_RST_SYN_URG | TCP_ACK)) == TCP_ACK ? header : 0;
	return udp && ipsf_read16(next + 4) == packet->length - packet->transport && ipsf_read16(next + 6) ? header : 0;
}

static bool same_flow(const struct ipsf_packet *a, const struct ipsf_packet *b)
{
	return a->source_port == b->source_port && a->destination_port == b->destination_port && a->protocol == b->protocol &&
	       a->version == b->version && memcmp(ipsf_ip_source(a), ipsf_ip_source(b), a->version == 4 ? 8 : 32) == 0;
}

/* The checksums of IP header and payload. What is not right is nobody's to make right: it goes on as it is. */
static bool verify(const struct ipsf_packet *packet)
{
	const uint32_t length = packet->length - packet->transport;
	uint32_t sum = packet->protocol + length;

	if (packet->version == 4 && ipsf_checksum_fold(ipsf_checksum_add(packet->data, packet->transport, 0)) != 0)
		return false;
	sum = ipsf_checksum_add(ipsf_ip_source(packet), packet->version == 4 ? 8 : 32, sum);
	return ipsf_checksum_fold(ipsf_checksum_add(packet->data + packet->transport, length, sum)) == 0;
}

/*
 * Identifications count up; where DF makes them meaningless (RFC 6864 s4.1) they may all be the same, as some systems send them.
 * *constant: which it is, as the second packet of a run shows.
 */
static bool id_follows(const struct ipsf_gro_run *run, const uint8_t *first, const uint8_t *ip, bool *constant)
{
	const uint16_t step = (uint16_t)(ipsf_read16(ip + 4) - ipsf_read16(first + 4));

	if (run->n == 1)
		*constant = step == 0 && (first[6] & 0x40);
	return step == (*constant ? 0 : run->n);
}

/* TOS, TTL and DF, or traffic class, flow label and hop limit. */
static bool same_ip_header(const struct ipsf_gro_run *run, const struct ipsf_packet *first, const struct ipsf_packet *packet,
			   bool *constant)
{
	const uint8_t *a = first->data, *b = packet->data;

	if (first->version == 6)
		return memcmp(a, b, 4) == 0 && a[7] == b[7];
	return a[1] == b[1] && memcmp(a + 6, b + 6, 3) == 0 && id_follows(run, a, b, constant);
}

/* The next bytes of the same stream: same acknowledgement, window and options; CWR begins a run, PSH and FIN end it. */
static bool tcp_follows(const struct ipsf_gro_run *run, const struct ipsf_packet *first, const struct ipsf_packet *packet)
{
	const uint8_t *a = first->data + first->transport, *b = packet->data + packet->transport;
	const uint32_t done = run->length - run->header;
	const unsigned flags = tcp_flags(packet);

	return ipsf_read32(b + 4) == ipsf_read32(a + 4) + done && memcmp(a + 8, b + 8, 4) == 0 && !(flags & TCP_CWR) &&
	       ((tcp_flags(first) ^ flags) & ~(TCP_CWR | TCP_FIN_PSH)) == 0 && memcmp(a + 14, b + 14, 2) == 0 &&
	       memcmp(a + 18, b + 18, run->header - first->transport - 18u) == 0;
}

static bool follows(const struct ipsf_gro_run *run, const struct ipsf_packet *first, const struct ipsf_packet *packet,
		    uint32_t header, bool *constant)
{
	const uint32_t payload = packet->length - header;

	return header == run->header && payload <= run->size && run->length + payload <= WHOLE_MAX &&
	       same_ip_header(run, first, packet, constant) &&
	       (packet->protocol == IPSF_PROTO_UDP || tcp_follows(run, first, packet));
}

static bool ends_run(const struct ipsf_packet *packet, uint32_t payload, uint32_t size)
{
	return payload < size || (packet->protocol == IPSF_PROTO_TCP && (tcp_flags(packet) & TCP_FIN_PSH));
}

/* The place of the flow's open run; NULL: it has none. */
static struct ipsf_gro_run **find(struct open_runs *open, struct ipsf_packet *const *packets, const struct ipsf_packet *packet)
{
	for (unsigned i = 0; i < OPEN_RUNS; i++) {
		const unsigned at = (open->latest + i) % OPEN_RUNS;
		const struct ipsf_gro_run *run = open->run[at];

		if (run && same_flow(packets[run->first], packet)) {
			open->latest = at;
			return &open->run[at];
		}
	}
	return NULL;
}

/* Packet number i joins the run at *place, or it does not, and the run has ended. */
static bool join(struct ipsf_gro *gro, struct ipsf_gro_run **place, struct ipsf_packet *const *packets, unsigned i, uint32_t header)
{
	struct ipsf_gro_run *run = *place;
	const struct ipsf_packet *first = packets[run->first], *packet = packets[i];
	bool constant = run->constant_id;

	*place = NULL;
	if (header == 0 || !follows(run, first, packet, header, &constant))
		return false;
	if (!run->verified && !(run->verified = verify(first)))
		return false;
	if (!verify(packet))
		return false;
	gro->next[run->last] = (uint8_t)i;
	run->last = (uint8_t)i;
	run->n++;
	run->constant_id = constant;
	run->length += packet->length - header;
	if (!ends_run(packet, packet->length - header, run->size))
		*place = run;
	return true;
}

/* A run of its own for packet number i, which others may join if it can be part of a super-packet. */
static void begin_run(struct ipsf_gro *gro, struct open_runs *open, const struct ipsf_packet *packet, unsigned i, uint32_t header)
{
	struct ipsf_gro_run *run = &gro->run[gro->runs++];
	const uint32_t payload = packet->length - header;

	*run = (struct ipsf_gro_run){.first = (uint8_t)i, .last = (uint8_t)i, .n = 1, .header = (uint16_t)header,
				     .size = (uint16_t)payload, .length = packet->length};
	if (header == 0 || ends_run(packet, payload, payload))
		return;
	open->latest = open->oldest;
	open->run[open->oldest] = run;
	open->oldest = (open->oldest + 1) % OPEN_RUNS;
}

void ipsf_gro_sort(struct ipsf_gro *gro, struct ipsf_packet *const *packets, unsigned n, bool udp)
{
	struct open_runs open = {0};

	gro->runs = 0;
	for (unsigned i = 0; i < n; i++) {
		const struct ipsf_packet *packet = packets[i];
		const bool has_flow = packet->protocol == IPSF_PROTO_TCP || packet->protocol == IPSF_PROTO_UDP;

		if (is_fragment(packet)) { /* of whatever flow: all that came before stays before it */
			memset(&open, 0, sizeof open);
			begin_run(gro, &open, packet, i, 0);
			continue;
		}
		const uint32_t header = has_flow ? joinable(packet, udp) : 0;
		struct ipsf_gro_run **place = has_flow ? find(&open, packets, packet) : NULL;

		if (!place || !join(gro, place, packets, i, header))
			begin_run(gro, &open, packet, i, header);
	}
}

static void write_ip(struct ipsf_packet *packet, uint32_t length)
{
	uint8_t *ip = packet->data;

	if (packet->version == 6) {
		ipsf_write16(ip + 4, (uint16_t)(length - IPSF_IPV6_HEADER));
		return;
	}
	ipsf_write16(ip + 2, (uint16_t)length);
	ipsf_write16(ip + 10, 0);
	ipsf_write16(ip + 10, ipsf_checksum_fold(ipsf_checksum_add(ip, IPSF_IPV4_HEADER, 0)));
}

void ipsf_gro_write_headers(const struct ipsf_gro_run *run, struct ipsf_packet *const *packets)
{
	struct ipsf_packet *first = packets[run->first];
	const struct ipsf_packet *last = packets[run->last];
	const uint32_t length = run->length - first->transport;
	uint8_t *next = first->data + first->transport;
	uint32_t pseudo = ipsf_checksum_add(ipsf_ip_source(first), first->version == 4 ? 8 : 32, first->protocol + length);
	const unsigned field = first->protocol == IPSF_PROTO_TCP ? 16 : 6;

	write_ip(first, run->length);
	if (first->protocol == IPSF_PROTO_TCP)
		ipsf_write16(next + 12, (uint16_t)(tcp_flags(first) | (tcp_flags(last) & TCP_FIN_PSH)));
	else
		ipsf_write16(next + 4, (uint16_t)length);
	ipsf_write16(next + field, (uint16_t)~ipsf_checksum_fold(pseudo));
	first->segment_size = run->size;
}
