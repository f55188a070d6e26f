/*
 * RFC 4303 s3.3 for super-packets: cut and sealed in one go, so that every byte is read once and written once.
 *
 *     read:    | headers | payload 0 | payload 1 | payload 2 |          the kernel's super-packet
 *                        sealed 0 ->
 *                        | headers 1 | payload 1 | trailer |            written over what is sealed, and for a moment over what follows
 *     written: | ESP 0 | ESP 1 | ESP 2 |                                at a stride: what UDP_SEGMENT takes
 */
#include "esp.h"
#include "gso.h"
#include "ip.h"

#define DATAGRAM_MAX 65507u /* bytes of the largest UDP payload over IPv4 */
#define SAVED 8u            /* bytes behind a segment that its trailer takes: at most 3 of padding, and 2 */

static_assert(IPSF_ESP_ALIGN - 1 + IPSF_ESP_TRAILER <= SAVED, "what the trailer overwrites is saved");

/* One super-packet on its way through one SA. */
struct cut {
	const struct ipsf_sa_out *sa;
	struct ipsf_aead_key *key; /* NULL: the engine refused it */
	uint32_t skip;       /* bytes of IP header that transport mode does not carry */
	uint32_t stride;     /* bytes from one datagram to the next */
	uint32_t tfc;        /* bytes that a segment has at least; 0: as it is */
	uint8_t next_header;
	uint8_t *to;
	uint64_t first;      /* sequence number */
	struct ipsf_gso gso;
};

/* Bytes of the ESP datagram around so many bytes of text. */
static uint32_t datagram_size(uint32_t text)
{
	const uint32_t aligned = (text + IPSF_ESP_TRAILER + IPSF_ESP_ALIGN - 1) & ~(IPSF_ESP_ALIGN - 1);

	return IPSF_ESP_TEXT + aligned + IPSF_ICV_SIZE;
}

/* Bytes that a segment is padded to (s2.7): of many short ones fewer, so that all of them have room in one buffer. */
static uint32_t tfc_of(const struct ipsf_sa_out *sa, const struct ipsf_pool *pool, unsigned segments, uint32_t text)
{
	const uint32_t each = (ipsf_pool_buffer_size(pool) - IPSF_HEADROOM) / segments;
	const uint32_t around = IPSF_ESP_TEXT + IPSF_ESP_TRAILER + IPSF_ESP_ALIGN + IPSF_ICV_SIZE;
	const uint32_t room = each > around ? each - around : 0, padded = sa->tfc < room ? sa->tfc : room;

	return padded > text ? padded : 0;
}

/* s2.4 to s2.6; the length with it. */
static uint32_t write_trailer(uint8_t *text, uint32_t length, uint8_t next_header)
{
	static const uint8_t padding[IPSF_ESP_ALIGN - 1] = {1, 2, 3};
	const unsigned pad = (unsigned)-(length + IPSF_ESP_TRAILER) & (IPSF_ESP_ALIGN - 1);
	uint8_t *end = text + length;

	memcpy(end, padding, sizeof padding);
	end[pad] = (uint8_t)pad;
	end[pad + 1] = next_header;
	return length + pad + IPSF_ESP_TRAILER;
}

/* s2.6, s3.3.2.2: header and IV of segment i, then the engine. False: it refused. */
static bool seal_text(const struct cut *cut, unsigned i, struct ipsf_aead_op *op, uint32_t *datagram)
{
	const uint64_t sequence = cut->first + i;
	uint8_t *esp = op->destination - IPSF_ESP_TEXT;

	op->icv = op->destination + op->length;
	ipsf_write32(esp, cut->sa->spi);
	ipsf_write32(esp + 4, (uint32_t)sequence);
	ipsf_write64(esp + 8, sequence);
	ipsf_esp_op(op, esp, sequence, cut->sa->esn, cut->sa->salt);
	if (IPSF_LIKELY(cut->key))
		cut->sa->key.cache->engine->seal(cut->key, op, 1);
	*datagram = IPSF_ESP_TEXT + op->length + IPSF_ICV_SIZE;
	return op->ok;
}

/* Segment i into its place; the bytes that ESP protects, 0: the engine refused. */
static uint32_t seal_segment(const struct cut *cut, unsigned i, uint32_t *datagram)
{
	uint32_t length;
	uint8_t *text = ipsf_gso_segment(&cut->gso, i, &length) + cut->skip;
	struct ipsf_aead_op op = {.source = text, .destination = cut->to + i * cut->stride + IPSF_ESP_TEXT};
	uint8_t saved[SAVED];
	bool sealed;

	length -= cut->skip;
	memcpy(saved, text + length, SAVED);
	op.length = write_trailer(text, length, cut->next_header);
	sealed = seal_text(cut, i, &op, datagram);
	memcpy(text + length, saved, SAVED);
	return sealed ? length : 0;
}

/* The same with TFC padding (s2.7), for which there is room only where the datagram goes: it is sealed there. */
static uint32_t seal_padded(const struct cut *cut, unsigned i, uint32_t *datagram)
{
	uint32_t length, padded;
	const uint8_t *text = ipsf_gso_segment(&cut->gso, i, &length);
	uint8_t *to = cut->to + i * cut->stride + IPSF_ESP_TEXT;
	struct ipsf_aead_op op = {.source = to, .destination = to};

	padded = length < cut->tfc ? cut->tfc : length;
	memcpy(to, text, length);
	memset(to + length, 0, padded - length);
	op.length = write_trailer(to, padded, cut->next_header);
	return seal_text(cut, i, &op, datagram) ? padded : 0;
}

static void count(struct ipsf_sa_out *sa, uint64_t drops[IPSF_DROP_COUNT], enum ipsf_drop reason, unsigned n)
{
	drops[reason] += n;
	ipsf_sa_count_drop(&sa->drops, reason, n);
}

/* The packet is now the n datagrams in buffer, length bytes. */
static void become(struct ipsf_packet *packet, struct ipsf_buffer *buffer, const struct cut *cut, unsigned n, uint32_t length)
{
	ipsf_buffer_release(packet->buffer);
	packet->buffer = buffer;
	packet->data = cut->to;
	packet->length = length;
	packet->headroom = IPSF_HEADROOM;
	packet->tailroom = ipsf_room(buffer->size - IPSF_HEADROOM - length);
	packet->sequence = cut->first + n - 1;
	packet->segments = (uint8_t)(n > 1 ? n : 0);
	packet->segment_size = (uint16_t)(n > 1 ? cut->stride : 0);
}

/* Seals n segments; how many it could, *bytes that ESP protects, *length of the datagrams. */
static unsigned seal(const struct cut *cut, unsigned n, uint64_t *bytes, uint32_t *length)
{
	uint32_t datagram = 0;
	unsigned i = 0;

	for (*bytes = 0; i < n; i++) {
		const uint32_t protected = cut->tfc ? seal_padded(cut, i, &datagram) : seal_segment(cut, i, &datagram);

		if (protected == 0)
			break;
		*bytes += protected;
		*length = i * cut->stride + datagram;
	}
	return i;
}

/* Why there were no more sequence numbers. */
static enum ipsf_drop beyond(const struct ipsf_sa_out *sa, uint64_t next)
{
	return sa->hard_packets && next > sa->hard_packets ? IPSF_DROP_SA_EXPIRED : IPSF_DROP_SEQUENCE_EXHAUSTED;
}

static unsigned refuse(struct ipsf_sa_out *sa, struct ipsf_packet *packet, enum ipsf_drop reason)
{
	packet->drop = (uint8_t)reason;
	ipsf_sa_count_drops(&sa->drops, &packet, 1);
	return IPSF_NOTICE_DROPPED;
}

static unsigned refuse_expired(struct ipsf_sa_out *sa, struct ipsf_packet *packet)
{
	return refuse(sa, packet, IPSF_DROP_SA_EXPIRED) | ipsf_notice_once(&sa->told, IPSF_NOTICE_HARD_LIFETIME);
}

/* A buffer that holds all the datagrams; NULL: they are too long. */
static struct ipsf_buffer *take_buffer(struct ipsf_pool *pool, const struct ipsf_packet *packet, uint32_t stride)
{
	const bool fits = stride <= DATAGRAM_MAX && packet->segments * stride <= ipsf_pool_buffer_size(pool) - IPSF_HEADROOM;

	return fits && packet->tailroom >= SAVED ? ipsf_pool_take(pool) : NULL;
}

/* s3.3.3 and s3.3.2: numbers for all segments at once, then one after the other. */
static unsigned seal_into(struct ipsf_sa_out *sa, struct cut *cut, struct ipsf_packet *packet, struct ipsf_buffer *buffer,
			  uint64_t drops[IPSF_DROP_COUNT])
{
	const unsigned wanted = packet->segments, reserved = ipsf_esp_reserve(sa, wanted, &cut->first);
	uint32_t length = 0;
	unsigned notices = 0;
	uint64_t bytes;
	const unsigned sealed = seal(cut, reserved, &bytes, &length);
	const enum ipsf_drop reason = sealed < reserved ? IPSF_DROP_CRYPTO : beyond(sa, cut->first + reserved);

	if (sealed == 0) {
		ipsf_buffer_release(buffer);
		notices = refuse(sa, packet, reason);
	} else {
		become(packet, buffer, cut, sealed, length);
		count(sa, drops, reason, wanted - sealed);
	}
	return notices | ipsf_esp_lifetime(sa, cut->first + reserved - 1, bytes, reserved < wanted);
}

unsigned ipsf_esp_segment(struct ipsf_sa_out *sa, unsigned worker, struct ipsf_packet *packet, struct ipsf_pool *pool,
			  uint64_t drops[IPSF_DROP_COUNT])
{
	const bool tunnel = sa->mode == IPSF_MODE_TUNNEL;
	struct ipsf_buffer *buffer;
	struct cut cut;
	uint32_t text;

	if (ipsf_sa_out_expired(sa))
		return refuse_expired(sa, packet);
	ipsf_gso_begin(&cut.gso, packet); /* before transport mode cuts the IP header off */
	if (!ipsf_esp_outer(sa, packet))
		return refuse(sa, packet, packet->drop);
	cut.sa = sa;
	cut.key = ipsf_key_get(&sa->key, worker);
	cut.skip = tunnel ? 0 : packet->transport;
	text = cut.gso.header - cut.skip + cut.gso.size;
	cut.tfc = sa->plain ? 0 : tfc_of(sa, pool, packet->segments, text);
	cut.stride = datagram_size(cut.tfc ? cut.tfc : text);
	cut.next_header = tunnel ? packet->version == 4 ? IPSF_PROTO_IPV4 : IPSF_PROTO_IPV6 : packet->protocol;
	buffer = take_buffer(pool, packet, cut.stride);
	if (!buffer)
		return refuse(sa, packet, IPSF_DROP_TOO_LONG);
	cut.to = buffer->bytes + IPSF_HEADROOM;
	return seal_into(sa, &cut, packet, buffer, drops);
}
