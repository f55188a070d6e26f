/*
 * Super-packets of all shapes, and what they mean: each segment built by itself, with checksums over every byte, 16 bits at a time.
 * Nothing here is shared with the code under test.
 */
#ifndef IPSF_TEST_SUPER_PACKETS_H
#define IPSF_TEST_SUPER_PACKETS_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <string.h>

#include "check.h"

#define SUPER_MAX 65535u
#define ROOM 256u /* before and behind */

struct super {
	uint8_t bytes[ROOM + SUPER_MAX + ROOM];
	uint32_t length, transport, header, payload, size;
	uint8_t version, protocol;
	uint8_t final[16]; /* IPv6: the destination that the pseudo header names */
	struct virtio_net_hdr vnet;
};

static inline uint8_t *super_data(struct super *s)
{
	return s->bytes + ROOM;
}

static inline uint32_t get16(const uint8_t *p)
{
	return (uint32_t)p[0] << 8 | p[1];
}

static inline void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline uint32_t get32(const uint8_t *p)
{
	return get16(p) << 16 | get16(p + 2);
}

static inline void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

/* RFC 1071 as it is written. */
static inline uint32_t naive_sum(const uint8_t *data, uint32_t length, uint32_t sum)
{
	for (uint32_t i = 0; i < length; i++)
		sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Of a TCP or UDP packet whose part from transport on is so long. */
static inline uint32_t naive_pseudo(const struct super *s, const uint8_t *packet, uint32_t length)
{
	uint32_t sum = s->version == 4 ? naive_sum(packet + 12, 8, 0) : naive_sum(s->final, 16, naive_sum(packet + 8, 16, 0));
	uint8_t rest[4] = {0, s->protocol, (uint8_t)(length >> 8), (uint8_t)length};

	return naive_sum(rest, 4, sum);
}

static inline uint32_t below(uint64_t *seed, uint32_t n)
{
	return (uint32_t)(test_random(seed) % n);
}

static inline void random_bytes(uint64_t *seed, uint8_t *to, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		to[i] = (uint8_t)test_random(seed);
}

static inline void write_lengths(const struct super *s, uint8_t *packet, uint32_t length)
{
	if (s->version == 6) {
		put16(packet + 4, length - 40);
		return;
	}
	put16(packet + 2, length);
	put16(packet + 10, 0);
	put16(packet + 10, 0xffffu - naive_sum(packet, s->transport, 0));
}

/* IPv4 with up to 40 bytes of options. */
static inline void random_ipv4(uint64_t *seed, struct super *s)
{
	uint8_t *ip = super_data(s);

	s->transport = 20 + (below(seed, 2) ? 4 * below(seed, 11) : 0);
	random_bytes(seed, ip, s->transport);
	ip[0] = (uint8_t)(0x40 | s->transport / 4);
	put16(ip + 6, below(seed, 2) ? 0x4000 : 0);
	ip[9] = s->protocol;
}

/* IPv6 with up to three extension headers, routing headers whose last hop is not the destination among them. */
static inline void random_ipv6(uint64_t *seed, struct super *s)
{
	static const uint8_t kinds[] = {0, 43, 60};
	uint8_t *ip = super_data(s), *next = ip + 6;

	random_bytes(seed, ip, 40);
	ip[0] = (uint8_t)(0x60 | (ip[0] & 15));
	memcpy(s->final, ip + 24, 16);
	s->transport = 40;
	for (uint32_t n = below(seed, 2) ? below(seed, 4) : 0; n; n--) {
		uint8_t *header = ip + s->transport, kind = kinds[below(seed, 3)];
		const uint32_t size = 8 + 8 * below(seed, 4);

		random_bytes(seed, header, size);
		header[1] = (uint8_t)(size / 8 - 1);
		if (kind == 43)
			random_bytes(seed, s->final, 16);
		*next = kind;
		next = header;
		s->transport += size;
	}
	*next = s->protocol;
}

static inline void random_transport(uint64_t *seed, struct super *s)
{
	uint8_t *next = super_data(s) + s->transport;
	const uint32_t size = s->protocol == 17 ? 8 : 20 + (below(seed, 2) ? 4 * below(seed, 11) : 0);

	random_bytes(seed, next, size);
	if (s->protocol == 6)
		next[12] = (uint8_t)(size / 4 << 4 | (next[12] & 15));
	s->header = s->transport + size;
}

/* Of a version and protocol, payload bytes in all, size a segment; the checksum is left to whom it may concern. */
static inline void super_make(uint64_t *seed, struct super *s, uint8_t version, uint8_t protocol, uint32_t payload, uint32_t size)
{
	uint8_t *ip = super_data(s);
	const bool tcp = protocol == 6;

	s->version = version;
	s->protocol = protocol;
	if (version == 4)
		random_ipv4(seed, s);
	else
		random_ipv6(seed, s);
	random_transport(seed, s);
	s->payload = payload > SUPER_MAX - s->header ? SUPER_MAX - s->header : payload;
	s->size = size;
	s->length = s->header + s->payload;
	random_bytes(seed, ip + s->header, s->payload);
	write_lengths(s, ip, s->length);
	if (!tcp)
		put16(ip + s->transport + 4, s->length - s->transport);
	put16(ip + s->transport + (tcp ? 16 : 6), naive_pseudo(s, ip, s->length - s->transport));
	s->vnet = (struct virtio_net_hdr){.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .hdr_len = (uint16_t)s->header,
					  .gso_size = (uint16_t)size, .csum_start = (uint16_t)s->transport,
					  .csum_offset = tcp ? 16 : 6};
	s->vnet.gso_type = (uint8_t)(!tcp ? 5 : version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6);
}

/* Any: 1 to 64 segments. */
static inline void super_random(uint64_t *seed, struct super *s)
{
	const uint32_t n = 1 + below(seed, 64), most = SUPER_MAX / n, size = 1 + below(seed, most < 9000 ? most : 9000);
	const uint32_t payload = (n - 1) * size + 1 + below(seed, size);

	super_make(seed, s, below(seed, 2) ? 4 : 6, below(seed, 2) ? 6 : 17, payload, size);
}

static inline uint32_t super_count(const struct super *s)
{
	return s->payload ? (s->payload + s->size - 1) / s->size : 1;
}

/* Segment i of the untouched super-packet, built by itself; its length. */
static inline uint32_t naive_segment(const struct super *s, uint32_t i, uint8_t *to)
{
	const uint8_t *whole = s->bytes + ROOM;
	const uint32_t offset = i * s->size, payload = s->payload - offset < s->size ? s->payload - offset : s->size;
	const uint32_t length = s->header + payload, field = s->transport + (s->protocol == 6 ? 16 : 6);
	uint8_t *next = to + s->transport;

	memcpy(to, whole, s->header);
	memcpy(to + s->header, whole + s->header + offset, payload);
	if (s->version == 4)
		put16(to + 4, get16(to + 4) + i);
	write_lengths(s, to, length);
	if (s->protocol == 6) {
		put32(next + 4, get32(next + 4) + offset);
		next[13] &= (uint8_t)(i + 1 < super_count(s) ? ~0x09 : ~0);
		next[13] &= (uint8_t)(i ? ~0x80 : ~0);
	} else {
		put16(next + 4, length - s->transport);
	}
	put16(to + field, 0);
	uint32_t sum = 0xffffu - naive_sum(next, length - s->transport, naive_pseudo(s, to, length - s->transport));
	put16(to + field, s->protocol == 17 && sum == 0 ? 0xffff : sum);
	return length;
}

/* Gives it addresses (4 or 16 bytes each); checksum and pseudo header follow. */
static inline void super_between(struct super *s, const uint8_t *source, const uint8_t *destination)
{
	const uint32_t n = s->version == 4 ? 4 : 16, at = s->version == 4 ? 12 : 8;
	uint8_t *ip = super_data(s);

	if (s->version == 6 && memcmp(s->final, ip + 24, 16) == 0)
		memcpy(s->final, destination, 16);
	memcpy(ip + at, source, n);
	memcpy(ip + at + n, destination, n);
	write_lengths(s, ip, s->length);
	put16(ip + s->transport + s->vnet.csum_offset, naive_pseudo(s, ip, s->length - s->transport));
}

#endif
