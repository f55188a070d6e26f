/*
 * A run of packets of one outbound SA: each is prepared as it comes (RFC 4303 s3.3.2, s3.3.3), one call seals all of them.
 *
 * In line, for every packet passes here: esp_encap.c prepares what is chosen already, pipeline.c what it has just read. A run belongs to
 * one worker, and lives no longer than its batch.
 */
#ifndef IPSF_SEALING_H
#define IPSF_SEALING_H

#include "esp.h"
#include "ip.h"

#define IPSF_ESP_MAX 65507 /* bytes of the largest UDP payload over IPv4: what every carrier can take */

/* What the outer headers of a run say (RFC 4301 s5.1.2). */
struct ipsf_outer {
	const struct ipsf_path *path;
	uint64_t stays;   /* of the packet's marks: the inner DF or not */
	uint64_t carrier; /* as a mark */
	uint8_t tos;      /* the bits of the inner DSCP and ECN that are copied (RFC 6040 s4.1) */
};

struct ipsf_sealing {
	struct ipsf_aead_op ops[IPSF_BATCH_MAX];
	struct ipsf_sa_out *sa;
	struct ipsf_outer outer;
	uint64_t first;     /* the first of the reserved numbers */
	unsigned reserved;
	uint64_t bytes;     /* that ESP protects, padding apart: the caller counts */
	/* for plain packets: */
	uint64_t spi;       /* where it stands in the ESP header */
	uint8_t salt[4];
	uint64_t plain, plain_tos, plain_df; /* marks that all have; where those of the inner header go */
};

/* By what ESP makes a packet's extent longer. */
#define IPSF_SEALING_GROWTH(pad)                                                                                           \
	(IPSF_PACKET_FIELD(length, IPSF_ESP_TEXT + (pad) + IPSF_ESP_TRAILER + IPSF_ICV_SIZE) -                              \
	 IPSF_PACKET_FIELD(headroom, IPSF_ESP_TEXT) - IPSF_PACKET_FIELD(tailroom, (pad) + IPSF_ESP_TRAILER + IPSF_ICV_SIZE))

static inline struct ipsf_outer ipsf_outer_of(const struct ipsf_sa_out *sa, bool tunnel)
{
	return (struct ipsf_outer){
		.path = atomic_load_explicit(&sa->path, memory_order_acquire),
		.stays = ~(IPSF_PACKET_FIELD(tos, 0xff) | IPSF_PACKET_FIELD(carrier, 0xff) |
			   IPSF_PACKET_FIELD(flags, !tunnel || sa->copy_df ? 0 : IPSF_PACKET_DF)),
		.carrier = IPSF_PACKET_FIELD(carrier, sa->carrier),
		.tos = ipsf_ecn_encap(UINT8_MAX, !tunnel || sa->copy_ecn, !tunnel || sa->copy_dscp),
	};
}

/*
 * Decided while the inner header is still there. The inner TTL stays: who forwards decrements it, and the kernel forwarded the
 * packet before it came through the TUN device, as it will forward what decap yields; a second decrement would count this gateway
 * twice.
 */
static inline void ipsf_outer_decide(const struct ipsf_outer *outer, uint8_t inner_tos, struct ipsf_packet *packet)
{
	packet->marks = (packet->marks & outer->stays) | outer->carrier | IPSF_PACKET_FIELD(tos, inner_tos & outer->tos);
	packet->path = outer->path;
}

/* s2.4: bytes of padding behind length bytes, so that what is sealed is a multiple of 4. */
static inline unsigned ipsf_esp_padding(uint32_t length)
{
	return (unsigned)-(length + IPSF_ESP_TRAILER) & (IPSF_ESP_ALIGN - 1);
}

static inline bool ipsf_sealing_has_room(const struct ipsf_packet *packet)
{
	return packet->headroom >= IPSF_ESP_TEXT &&
	       packet->tailroom >= ipsf_esp_padding(packet->length) + IPSF_ESP_TRAILER + IPSF_ICV_SIZE &&
	       packet->length <= IPSF_ESP_MAX - IPSF_ESP_ROOM;
}

/* The same at a glance, of most packets: whatever padding they need. */
static inline bool ipsf_sealing_has_space(const struct ipsf_packet *packet)
{
	return packet->headroom >= IPSF_ESP_TEXT && packet->tailroom >= IPSF_ESP_ALIGN - 1 + IPSF_ESP_TRAILER + IPSF_ICV_SIZE &&
	       packet->length <= IPSF_ESP_MAX - IPSF_ESP_ROOM;
}

/* By bytes of padding: the padding, its length, IPv4 as the next header. */
#define IPSF_ESP_TRAILERS {{0, 4}, {1, 1, 4}, {1, 2, 2, 4}, {1, 2, 3, 3, 4}}

/*
 * s2.4 to s2.6: padding 1, 2, 3 ..., its length, the next header; the bytes of all that. One store of 8 bytes: there is room for the
 * ICV behind. Mostly the next header is IPv4.
 */
static inline uint32_t ipsf_esp_trailer(uint8_t *end, uint32_t length, uint8_t next_header)
{
	static const uint8_t trailer[IPSF_ESP_ALIGN][8] = IPSF_ESP_TRAILERS;
	const unsigned pad = ipsf_esp_padding(length);

	memcpy(end, trailer[pad], sizeof trailer[pad]);
	if (IPSF_UNLIKELY(next_header != IPSF_PROTO_IPV4))
		end[pad + 1] = next_header;
	return pad + IPSF_ESP_TRAILER;
}

/*
 * s3.3.2.2: trailer, header, IV, AAD and nonce of a packet that has room for them; op is the next of the run's. The IV is the sequence
 * number: unique as long as the number is (RFC 4106 s3.1).
 */
static inline void ipsf_sealing_prepare(const struct ipsf_sa_out *sa, struct ipsf_packet *packet, uint64_t sequence,
					uint8_t next_header, struct ipsf_aead_op *op)
{
	uint8_t *const text = packet->data, *const esp = text - IPSF_ESP_TEXT;
	const uint32_t length = packet->length, trailer = ipsf_esp_trailer(text + length, length, next_header);

	ipsf_write64(esp, (uint64_t)sa->spi << 32 | (uint32_t)sequence);
	ipsf_write64(esp + IPSF_ESP_HEADER, sequence);
	ipsf_esp_op(op, esp, sequence, sa->esn, sa->salt);
	op->source = op->destination = text;
	op->length = length + trailer;
	op->icv = text + op->length;
	packet->sequence = sequence;
	packet->data = esp;
	packet->length += IPSF_ESP_TEXT + trailer + IPSF_ICV_SIZE;
	packet->headroom = (uint16_t)(packet->headroom - IPSF_ESP_TEXT);
	packet->tailroom = (uint16_t)(packet->tailroom - trailer - IPSF_ICV_SIZE);
}

/*
 * The same, with the outer header and without a question, of a packet in tunnel mode that is as most are: ipsf_ip_is_plain() IPv4 as it
 * came from the port, with room for ESP. Every field is written once, from registers: what packets cost around the AEAD is
 * instructions.
 */
static inline void ipsf_sealing_prepare_plain(const struct ipsf_sealing *s, const bool esn, struct ipsf_packet *packet, uint64_t first,
					      uint64_t ports, uint64_t protocol, uint64_t sequence, struct ipsf_aead_op *op)
{
	static const struct {
		uint8_t trailer[IPSF_ESP_ALIGN][8];
		uint64_t extent[IPSF_ESP_ALIGN]; /* what the packet's grows by */
	} padded = {IPSF_ESP_TRAILERS,
		    {IPSF_SEALING_GROWTH(0), IPSF_SEALING_GROWTH(1), IPSF_SEALING_GROWTH(2), IPSF_SEALING_GROWTH(3)}};
	const uint64_t before = packet->extent;
	const uint32_t length = IPSF_PACKET_PART(before, length);
	const unsigned pad = ipsf_esp_padding(length);
	const uint64_t extent = before + padded.extent[pad];
	const uint32_t datagram = IPSF_PACKET_PART(extent, length);
	const uint64_t header = ipsf_swap64(s->spi | (uint32_t)sequence), iv = ipsf_swap64(sequence);
	uint8_t *const text = packet->data, *const esp = text - IPSF_ESP_TEXT;

	memcpy(text + length, padded.trailer[pad], sizeof padded.trailer[pad]);
	memcpy(esp, &header, sizeof header);
	memcpy(esp + IPSF_ESP_HEADER, &iv, sizeof iv);
	packet->data = esp;
	packet->sa.out = s->sa;
	packet->sequence = sequence;
	packet->path = s->outer.path;
	packet->extent = extent;
	packet->layers = IPSF_PACKET_FIELD(ports, ports) | IPSF_PACKET_FIELD(transport, IPSF_IPV4_HEADER);
	packet->marks = s->plain | IPSF_PACKET_FIELD(protocol, protocol) |
			(first >> (IPSF_IPV4_TOS_SHIFT - IPSF_PACKET_SHIFT(tos)) & s->plain_tos) |
			(first << (IPSF_PACKET_SHIFT(flags) - IPSF_IPV4_DF_SHIFT) & s->plain_df);
	op->source = text;
	op->destination = text;
	op->icv = esp + datagram - IPSF_ICV_SIZE;
	op->sizes = IPSF_AEAD_SIZES(datagram - IPSF_ESP_TEXT - IPSF_ICV_SIZE, esn ? 12 : IPSF_ESP_HEADER);
	if (esn) {
		ipsf_write64(op->aad, s->spi | sequence >> 32);
		ipsf_write32(op->aad + 8, (uint32_t)sequence);
	} else {
		memcpy(op->aad, &header, sizeof header);
	}
	memcpy(op->nonce, s->salt, sizeof s->salt);
	memcpy(op->nonce + sizeof s->salt, &iv, sizeof iv);
}

/* A run of up to n packets by sa: reserves their numbers (s3.3.3); how many it got. */
unsigned ipsf_sealing_begin(struct ipsf_sealing *s, struct ipsf_sa_out *sa, unsigned n);

/*
 * Seals the run: used of its ops are prepared, those of the packets that are not marked, in their order; they protect so many bytes,
 * padding apart. refused: there was a packet without a number. Marks what the engine can't seal. Returns the enum ipsf_notice.
 */
unsigned ipsf_sealing_end(struct ipsf_sealing *s, unsigned worker, struct ipsf_packet *const *packets, unsigned n, unsigned used,
			  uint64_t bytes, bool refused);

#endif
