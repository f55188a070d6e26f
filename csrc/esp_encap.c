/* RFC 4303 s3.3, outbound packet processing, in its order. */
#include "sealing.h"

/* A number from here on, without ESN, asks for a rekey: three quarters of the sequence numbers are used. */
#define SEQUENCE_SOFT UINT64_C(0xc0000000)

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

/* What can be sealed has room for ESP, and in transport mode an IP header that the outer one can replace. */
static inline bool admit(const struct ipsf_outer *outer, bool tunnel, bool ipv4, struct ipsf_packet *packet)
{
	ipsf_outer_decide(outer, IPSF_LIKELY(ipv4) ? packet->data[1] : ipsf_ip_tos(packet), packet);
	if (!tunnel && !cut_ip_header(outer->path, packet))
		return false;
	if (IPSF_LIKELY(ipsf_sealing_has_room(packet)))
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

static inline uint8_t next_header(bool tunnel, bool ipv4, const struct ipsf_packet *packet)
{
	if (!tunnel)
		return packet->protocol;
	return IPSF_LIKELY(ipv4) ? IPSF_PROTO_IPV4 : IPSF_PROTO_IPV6;
}

/* Why there was no number any more: next would have been the one. */
static enum ipsf_drop beyond(const struct ipsf_sa_out *sa, uint64_t next)
{
	return sa->hard_packets && next > sa->hard_packets ? IPSF_DROP_SA_EXPIRED : IPSF_DROP_SEQUENCE_EXHAUSTED;
}

/* What came of the packets of a run. */
struct numbered {
	unsigned used;  /* numbers, and ops */
	bool refused;   /* there was a packet without a number */
	uint64_t bytes; /* that ESP protects, its padding apart */
};

/* s3.3.2, s3.3.3: each packet that can be sealed gets the next number. Made once for each mode. */
static inline __attribute__((always_inline)) struct numbered number(struct ipsf_sealing *s, const bool tunnel,
								     struct ipsf_packet *const *packets, unsigned n)
{
	const struct ipsf_outer outer = s->outer;
	const uint64_t end = s->first + s->reserved;
	uint64_t sequence = s->first, bytes = 0;
	struct ipsf_aead_op *op = s->ops;
	bool refused = false;

	for (unsigned i = 0; i < n; i++) {
		struct ipsf_packet *packet = packets[i];
		const bool ipv4 = packet->version == 4;

		if (IPSF_UNLIKELY(!admit(&outer, tunnel, ipv4, packet)))
			continue;
		if (IPSF_UNLIKELY(sequence == end)) {
			drop(packet, beyond(s->sa, end));
			refused = true;
			continue;
		}
		bytes += packet->length;
		ipsf_sealing_prepare(s->sa, packet, sequence++, next_header(tunnel, ipv4, packet), op++);
	}
	return (struct numbered){(unsigned)(sequence - s->first), refused, bytes};
}

/* The engine failed on some: the ops are of those packets, in their order, that were not dropped before. */
static void drop_failed(struct ipsf_packet *const *packets, unsigned n, const struct ipsf_sealing *s)
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

unsigned ipsf_sealing_begin(struct ipsf_sealing *s, struct ipsf_sa_out *sa, unsigned n)
{
	s->sa = sa;
	s->bytes = 0;
	s->outer = ipsf_outer_of(sa, sa->mode == IPSF_MODE_TUNNEL);
	s->reserved = reserve(sa, n, &s->first);
	s->spi = (uint64_t)sa->spi << 32;
	memcpy(s->salt, sa->salt, sizeof s->salt);
	s->plain = s->outer.carrier | IPSF_PACKET_FIELD(version, 4);
	s->plain_tos = IPSF_PACKET_FIELD(tos, s->outer.tos);
	s->plain_df = s->outer.stays & IPSF_PACKET_FIELD(flags, IPSF_PACKET_DF);
	return s->reserved;
}

unsigned ipsf_sealing_end(struct ipsf_sealing *s, unsigned worker, struct ipsf_packet *const *packets, unsigned n, unsigned used,
			  uint64_t bytes, bool refused)
{
	struct ipsf_sa_out *sa = s->sa;
	unsigned notices;
	bool sealed;

	if (IPSF_UNLIKELY(used < s->reserved))
		give_back(sa, s->first, s->reserved, used);
	sealed = ipsf_key_seal(&sa->key, worker, s->ops, used);
	bytes += atomic_fetch_add_explicit(&sa->bytes, bytes, memory_order_relaxed);
	notices = lifetime(sa, s->first + used - 1, bytes, refused);
	if (IPSF_LIKELY(sealed && used == n))
		return notices;
	if (!sealed)
		drop_failed(packets, n, s);
	ipsf_sa_count_drops(&sa->drops, packets, n);
	return notices | IPSF_NOTICE_DROPPED;
}

unsigned ipsf_esp_encap(struct ipsf_sa_out *sa, unsigned worker, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_sealing s;
	struct numbered done;

	if (ipsf_sa_out_expired(sa)) /* to a run: what passes the limit is at most one batch a worker */
		return refuse_all(sa, packets, n);
	ipsf_sealing_begin(&s, sa, n);
	if (IPSF_LIKELY(sa->plain)) {
		done = number(&s, true, packets, n);
	} else if (sa->mode == IPSF_MODE_TUNNEL) {
		pad_for_tfc(sa, packets, n);
		done = number(&s, true, packets, n);
	} else {
		done = number(&s, false, packets, n);
	}
	return ipsf_sealing_end(&s, worker, packets, n, done.used, done.bytes, done.refused);
}

/* ---- for esp_segment.c, which seals what a super-packet is cut into by the same rules ---- */

bool ipsf_esp_outer(const struct ipsf_sa_out *sa, struct ipsf_packet *packet)
{
	const bool tunnel = sa->mode == IPSF_MODE_TUNNEL;
	const struct ipsf_outer outer = ipsf_outer_of(sa, tunnel);

	ipsf_outer_decide(&outer, ipsf_ip_tos(packet), packet);
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
