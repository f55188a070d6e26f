/* RFC 4303 s3.3, outbound packet processing, in its order. */
#include "esp.h"
#include "ip.h"

/* A number from here on, without ESN, asks for a rekey: three quarters of the sequence numbers are used. */
#define SEQUENCE_SOFT UINT64_C(0xc0000000)
#define ESP_MAX 65507 /* bytes of the largest UDP payload over IPv4: what every carrier can take */

static void drop(struct ipsf_packet *packet, enum ipsf_drop reason)
{
	packet->drop = (uint8_t)reason;
}

/*
 * RFC 4303 s3.1.1: transport mode protects what follows the IP header, and the outer header takes that header's place.
 * Our sockets build it from the SA's path, so a packet must have the path's addresses, and nothing but a plain header
 * (else it would arrive as another packet than was sent). Fragments are refused (s3.3.4).
 */
static bool cut_ip_header(const struct ipsf_path *path, struct ipsf_packet *packet)
{
	unsigned address = packet->version == 4 ? 4 : 16;
	unsigned plain = packet->version == 4 ? IPSF_IPV4_HEADER : IPSF_IPV6_HEADER;

	if (packet->flags & (IPSF_PACKET_FIRST_FRAGMENT | IPSF_PACKET_LATER_FRAGMENT)) {
		drop(packet, IPSF_DROP_FRAGMENT);
	} else if (packet->version != path->remote.version || memcmp(ipsf_ip_source(packet), path->local.bytes, address) ||
		   memcmp(ipsf_ip_destination(packet), path->remote.bytes, address)) {
		drop(packet, IPSF_DROP_SELECTOR);
	} else if (packet->transport != plain) {
		drop(packet, IPSF_DROP_OPTIONS);
	} else {
		ipsf_packet_cut_front(packet, plain);
		return true;
	}
	return false;
}

/* What the outer headers of a run say (RFC 4301 s5.1.2). */
struct outer {
	const struct ipsf_path *path;
	uint8_t carrier;
	uint8_t tos;   /* the bits of the inner DSCP and ECN that are copied (RFC 6040 s4.1) */
	uint8_t flags; /* of the packet, that stay: the inner DF or not */
};

static inline struct outer outer_of(const struct ipsf_sa_out *sa, bool tunnel)
{
	return (struct outer){
		.path = atomic_load_explicit(&sa->path, memory_order_acquire),
		.carrier = sa->carrier,
		.tos = ipsf_ecn_encap(UINT8_MAX, !tunnel || sa->copy_ecn, !tunnel || sa->copy_dscp),
		.flags = !tunnel || sa->copy_df ? UINT8_MAX : (uint8_t)~IPSF_PACKET_DF,
	};
}

/*
 * Decided while the inner header is still there. The inner TTL stays: who forwards decrements it, and the kernel forwarded the
 * packet before it came through the TUN device, as it will forward what decap yields; a second decrement would count this gateway
 * twice.
 */
static inline void decide_outer(const struct outer *outer, bool ipv4, struct ipsf_packet *packet)
{
	packet->tos = (IPSF_LIKELY(ipv4) ? packet->data[1] : ipsf_ip_tos(packet)) & outer->tos;
	packet->flags &= outer->flags;
	packet->path = outer->path;
	packet->carrier = outer->carrier;
}

/*
 * s2.7: zeros behind each inner packet, which ends where its own header says; before its trailer, which is written behind them. What
 * has no room for all of them gets as many as there is room for.
 */
static void pad_for_tfc(const struct ipsf_sa_out *sa, struct ipsf_packet *const *packets, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct ipsf_packet *packet = packets[i];
		const uint32_t behind = IPSF_ESP_ALIGN + IPSF_ESP_TRAILER + IPSF_ICV_SIZE;
		const uint32_t room = packet->tailroom > behind ? packet->tailroom - behind : 0;
		const uint32_t missing = sa->tfc > packet->length ? sa->tfc - packet->length : 0;
		const uint32_t padding = missing < room ? missing : room;

		memset(packet->data + packet->length, 0, padding);
		packet->length += padding;
		packet->tailroom = (uint16_t)(packet->tailroom - padding);
	}
}

/* s2.4: bytes of padding behind length bytes, so that what is sealed is a multiple of 4. */
static inline unsigned padding_of(uint32_t length)
{
	return (unsigned)-(length + IPSF_ESP_TRAILER) & (IPSF_ESP_ALIGN - 1);
}

static inline bool has_room(const struct ipsf_packet *packet)
{
	return packet->headroom >= IPSF_ESP_TEXT &&
	       packet->tailroom >= padding_of(packet->length) + IPSF_ESP_TRAILER + IPSF_ICV_SIZE &&
	       packet->length <= ESP_MAX - IPSF_ESP_ROOM;
}

/* What can be sealed has room for ESP, and in transport mode an IP header that the outer one can replace. */
static inline bool admit(const struct outer *outer, bool tunnel, bool ipv4, struct ipsf_packet *packet)
{
	decide_outer(outer, ipv4, packet);
	if (!tunnel && !cut_ip_header(outer->path, packet))
		return false;
	if (IPSF_LIKELY(has_room(packet)))
		return true;
	drop(packet, IPSF_DROP_TOO_LONG);
	return false;
}

/*
 * s3.3.3: reserves up to n numbers at once; returns how many, the first is *first. A number beyond the last is never
 * given, however many workers ask: the counter itself stops there.
 */
static unsigned reserve(struct ipsf_sa_out *sa, unsigned n, uint64_t *first)
{
	uint64_t limit = sa->last_sequence, top = atomic_load_explicit(&sa->sequence, memory_order_relaxed);
	unsigned taken;

	if (sa->hard_packets && sa->hard_packets < limit)
		limit = sa->hard_packets;
	do {
		taken = top >= limit ? 0 : limit - top < n ? (unsigned)(limit - top) : n;
	} while (!atomic_compare_exchange_weak_explicit(&sa->sequence, &top, top + taken, memory_order_relaxed,
							memory_order_relaxed));
	*first = top + 1;
	return taken;
}

/* Numbers that no packet got, given back if nobody reserved others meanwhile; else there is a gap, which no receiver minds. */
static void give_back(struct ipsf_sa_out *sa, uint64_t first, unsigned reserved, unsigned used)
{
	uint64_t top = first + reserved - 1;

	atomic_compare_exchange_strong_explicit(&sa->sequence, &top, first + used - 1, memory_order_relaxed, memory_order_relaxed);
}

/*
 * s2.4 to s2.6: padding 1, 2, 3 ..., its length, the next header; the bytes of all that. One store of 8 bytes: there is room for the
 * ICV behind.
 */
static inline uint32_t write_trailer(uint8_t *end, uint32_t length, uint8_t next_header)
{
	static const uint8_t trailer[IPSF_ESP_ALIGN][8] = {{0}, {1, 1}, {1, 2, 2}, {1, 2, 3, 3}};
	const unsigned pad = padding_of(length);

	memcpy(end, trailer[pad], sizeof trailer[pad]);
	end[pad + 1] = next_header;
	return pad + IPSF_ESP_TRAILER;
}

static inline uint8_t next_header(bool tunnel, bool ipv4, const struct ipsf_packet *packet)
{
	if (!tunnel)
		return packet->protocol;
	return IPSF_LIKELY(ipv4) ? IPSF_PROTO_IPV4 : IPSF_PROTO_IPV6;
}

/*
 * s3.3.2.2: trailer, header, IV, AAD and nonce of one packet; how many bytes it had. The IV is the sequence number: unique as long as
 * the number is (RFC 4106 s3.1).
 */
static inline uint32_t prepare(const struct ipsf_sa_out *sa, struct ipsf_packet *packet, uint64_t sequence, uint8_t next,
			       struct ipsf_aead_op *op)
{
	uint8_t *const text = packet->data, *const esp = text - IPSF_ESP_TEXT;
	const uint32_t length = packet->length, trailer = write_trailer(text + length, length, next), sealed = length + trailer;

	ipsf_write64(esp, (uint64_t)sa->spi << 32 | (uint32_t)sequence);
	ipsf_write64(esp + IPSF_ESP_HEADER, sequence);
	ipsf_esp_op(op, esp, sequence, sa->esn, sa->salt);
	op->source = op->destination = text;
	op->length = sealed;
	op->icv = text + sealed;
	packet->sequence = sequence;
	packet->data = esp;
	packet->length = IPSF_ESP_TEXT + sealed + IPSF_ICV_SIZE;
	packet->headroom = (uint16_t)(packet->headroom - IPSF_ESP_TEXT);
	packet->tailroom = (uint16_t)(packet->tailroom - trailer - IPSF_ICV_SIZE);
	return length;
}

/* A run on its way. */
struct sealing {
	struct ipsf_aead_op ops[IPSF_BATCH_MAX];
	uint64_t first;     /* the first of the reserved numbers */
	unsigned reserved;
	unsigned used;      /* of those; so many ops */
	unsigned refused;   /* packets for which there was no number */
	uint64_t bytes;     /* that ESP protects, its padding apart */
};

/* Why there was no number any more: next would have been the one. */
static enum ipsf_drop beyond(const struct ipsf_sa_out *sa, uint64_t next)
{
	return sa->hard_packets && next > sa->hard_packets ? IPSF_DROP_SA_EXPIRED : IPSF_DROP_SEQUENCE_EXHAUSTED;
}

/* s3.3.2, s3.3.3: each packet that can be sealed gets the next number. Made once for each mode. */
static inline __attribute__((always_inline)) void number(const struct ipsf_sa_out *sa, const bool tunnel,
							  struct ipsf_packet *const *packets, unsigned n, struct sealing *s)
{
	const struct outer outer = outer_of(sa, tunnel);
	const uint64_t end = s->first + s->reserved;
	uint64_t sequence = s->first, bytes = 0;
	struct ipsf_aead_op *op = s->ops;

	for (unsigned i = 0; i < n; i++) {
		struct ipsf_packet *packet = packets[i];
		const bool ipv4 = packet->version == 4;

		if (IPSF_UNLIKELY(!admit(&outer, tunnel, ipv4, packet)))
			continue;
		if (IPSF_UNLIKELY(sequence == end)) {
			drop(packet, beyond(sa, end));
			s->refused++;
			continue;
		}
		bytes += prepare(sa, packet, sequence++, next_header(tunnel, ipv4, packet), op++);
	}
	s->bytes = bytes;
	s->used = (unsigned)(sequence - s->first);
}

/* The engine failed on some: the ops are of those packets, in their order, that were not dropped before. */
static void drop_failed(struct ipsf_packet *const *packets, unsigned n, const struct sealing *s)
{
	const struct ipsf_aead_op *op = s->ops;

	for (unsigned i = 0; i < n; i++)
		if (!packets[i]->drop && !op++->ok)
			drop(packets[i], IPSF_DROP_CRYPTO);
}

/* The limits that this run has passed. */
static unsigned lifetime(struct ipsf_sa_out *sa, uint64_t sequence, uint64_t bytes, bool refused)
{
	unsigned notices = 0;

	if ((sa->soft_packets && sequence >= sa->soft_packets) || (sa->soft_bytes && bytes >= sa->soft_bytes) ||
	    (!sa->esn && sequence >= SEQUENCE_SOFT))
		notices |= IPSF_NOTICE_SOFT_LIFETIME;
	if (refused || (sa->hard_bytes && bytes >= sa->hard_bytes))
		notices |= IPSF_NOTICE_HARD_LIFETIME;
	return notices ? ipsf_notice_once(&sa->told, notices) : 0;
}

static unsigned refuse_all(struct ipsf_sa_out *sa, struct ipsf_packet *const *packets, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		drop(packets[i], IPSF_DROP_SA_EXPIRED);
	ipsf_sa_count_drops(&sa->drops, packets, n);
	return IPSF_NOTICE_DROPPED | ipsf_notice_once(&sa->told, IPSF_NOTICE_HARD_LIFETIME);
}

unsigned ipsf_esp_encap(struct ipsf_sa_out *sa, unsigned worker, struct ipsf_packet *const *packets, unsigned n)
{
	const uint64_t before = atomic_load_explicit(&sa->bytes, memory_order_relaxed);
	struct sealing s;
	uint64_t bytes;
	unsigned notices;
	bool sealed;

	if (sa->hard_bytes && before >= sa->hard_bytes) /* to a run: what passes the limit is at most one batch a worker */
		return refuse_all(sa, packets, n);
	s.refused = 0;
	s.reserved = reserve(sa, n, &s.first);
	if (IPSF_LIKELY(sa->plain)) {
		number(sa, true, packets, n, &s);
	} else if (sa->mode == IPSF_MODE_TUNNEL) {
		pad_for_tfc(sa, packets, n);
		number(sa, true, packets, n, &s);
	} else {
		number(sa, false, packets, n, &s);
	}
	if (IPSF_UNLIKELY(s.used < s.reserved))
		give_back(sa, s.first, s.reserved, s.used);
	sealed = ipsf_key_seal(&sa->key, worker, s.ops, s.used);
	bytes = s.bytes + atomic_fetch_add_explicit(&sa->bytes, s.bytes, memory_order_relaxed);
	notices = lifetime(sa, s.first + s.used - 1, bytes, s.refused);
	if (IPSF_LIKELY(sealed && s.used == n))
		return notices;
	if (!sealed)
		drop_failed(packets, n, &s);
	ipsf_sa_count_drops(&sa->drops, packets, n);
	return notices | IPSF_NOTICE_DROPPED;
}

/* ---- for esp_segment.c, which seals what a super-packet is cut into by the same rules ---- */

bool ipsf_esp_outer(const struct ipsf_sa_out *sa, struct ipsf_packet *packet)
{
	const bool tunnel = sa->mode == IPSF_MODE_TUNNEL;
	const struct outer outer = outer_of(sa, tunnel);

	decide_outer(&outer, packet->version == 4, packet);
	return tunnel || cut_ip_header(outer.path, packet);
}

unsigned ipsf_esp_reserve(struct ipsf_sa_out *sa, unsigned n, uint64_t *first)
{
	return reserve(sa, n, first);
}

unsigned ipsf_esp_lifetime(struct ipsf_sa_out *sa, uint64_t sequence, uint64_t bytes, bool refused)
{
	bytes += atomic_fetch_add_explicit(&sa->bytes, bytes, memory_order_relaxed);
	return lifetime(sa, sequence, bytes, refused);
}
