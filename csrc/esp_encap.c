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

/*
 * What the outer header will say, decided while the inner one is still there (RFC 4301 s5.1.2, RFC 6040 s4.1). The
 * inner TTL stays: who forwards decrements it, and the kernel forwarded the packet before it came through the TUN
 * device, as it will forward what decap yields; a second decrement would count this gateway twice.
 */
static void decide_outer(const struct ipsf_sa_out *sa, const struct ipsf_path *path, struct ipsf_packet *packet)
{
	bool transport = sa->mode == IPSF_MODE_TRANSPORT;

	packet->tos = ipsf_ecn_encap(ipsf_ip_tos(packet), transport || sa->copy_ecn, transport || sa->copy_dscp);
	if (!transport && !sa->copy_df)
		packet->flags &= (uint8_t)~IPSF_PACKET_DF;
	packet->path = path;
	packet->carrier = sa->carrier;
}

/* s2.4: bytes of padding, so that what is sealed is a multiple of 4. */
static unsigned padding_of(const struct ipsf_packet *packet)
{
	return (unsigned)-(packet->length + IPSF_ESP_TRAILER) & (IPSF_ESP_ALIGN - 1);
}

static bool has_room(const struct ipsf_packet *packet)
{
	return packet->headroom >= IPSF_ESP_TEXT &&
	       packet->tailroom >= padding_of(packet) + IPSF_ESP_TRAILER + IPSF_ICV_SIZE &&
	       packet->length <= ESP_MAX - IPSF_ESP_ROOM;
}

/* What can be sealed has room for ESP, and in transport mode an IP header that the outer one can replace; how many are left. */
static unsigned admit(const struct ipsf_sa_out *sa, const struct ipsf_path *path, struct ipsf_packet *const *packets, unsigned n)
{
	const bool transport = sa->mode == IPSF_MODE_TRANSPORT;
	unsigned ready = 0;

	for (unsigned i = 0; i < n; i++) {
		struct ipsf_packet *packet = packets[i];

		if (transport) {
			decide_outer(sa, path, packet);
			if (!cut_ip_header(path, packet))
				continue;
		}
		if (IPSF_LIKELY(has_room(packet)))
			ready++;
		else
			drop(packet, IPSF_DROP_TOO_LONG);
	}
	return ready;
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

/* s2.4 to s2.6: padding 1, 2, 3 ..., its length, the next header. One store of 8 bytes: there is room for the ICV behind. */
static void add_trailer(const struct ipsf_sa_out *sa, struct ipsf_packet *packet)
{
	static const uint8_t trailer[IPSF_ESP_ALIGN][8] = {{0}, {1, 1}, {1, 2, 2}, {1, 2, 3, 3}};
	unsigned pad = padding_of(packet);
	uint8_t *end = packet->data + packet->length;

	memcpy(end, trailer[pad], sizeof trailer[pad]);
	end[pad + 1] = sa->mode != IPSF_MODE_TUNNEL ? packet->protocol : packet->version == 4 ? IPSF_PROTO_IPV4 : IPSF_PROTO_IPV6;
	packet->length += pad + IPSF_ESP_TRAILER;
	packet->tailroom = (uint16_t)(packet->tailroom - pad - IPSF_ESP_TRAILER - IPSF_ICV_SIZE);
}

/*
 * s3.3.2.2: header, IV, AAD and nonce of one packet. The IV is the sequence number: unique as long as the number is
 * (RFC 4106 s3.1).
 */
static void prepare(const struct ipsf_sa_out *sa, struct ipsf_packet *packet, uint64_t sequence, struct ipsf_aead_op *op)
{
	uint8_t *esp = packet->data - IPSF_ESP_TEXT;

	ipsf_write64(esp, (uint64_t)sa->spi << 32 | (uint32_t)sequence);
	ipsf_write64(esp + IPSF_ESP_HEADER, sequence);
	ipsf_esp_op(op, sa->spi, sequence, sa->esn, sa->salt, esp + IPSF_ESP_HEADER);
	op->source = op->destination = packet->data;
	op->length = packet->length;
	op->icv = packet->data + packet->length;
	packet->sequence = sequence;
	packet->data = esp;
	packet->length += IPSF_ESP_TEXT + IPSF_ICV_SIZE;
	packet->headroom = (uint16_t)(packet->headroom - IPSF_ESP_TEXT);
}

/* The packets that get the reserved numbers, in their order: all, mostly. Those beyond are refused. */
static struct ipsf_packet *const *numbered(struct ipsf_packet *const *packets, unsigned n, unsigned reserved, enum ipsf_drop beyond,
					   struct ipsf_packet **some)
{
	unsigned k = 0;

	if (IPSF_LIKELY(reserved == n))
		return packets;
	for (unsigned i = 0; i < n; i++) {
		if (packets[i]->drop)
			continue;
		if (k == reserved)
			drop(packets[i], beyond);
		else
			some[k++] = packets[i];
	}
	return some;
}

/* Gives the numbers out in order and seals; the bytes that got one, ESP's own apart. False: the engine failed on some. */
static bool seal(struct ipsf_sa_out *sa, const struct ipsf_path *path, unsigned worker, struct ipsf_packet *const *packets,
		 unsigned n, uint64_t first, uint64_t *bytes)
{
	const bool tunnel = sa->mode == IPSF_MODE_TUNNEL;
	struct ipsf_aead_op ops[IPSF_BATCH_MAX];
	unsigned ok = 1;

	*bytes = 0;
	for (unsigned i = 0; i < n; i++) {
		if (tunnel)
			decide_outer(sa, path, packets[i]);
		*bytes += packets[i]->length;
		add_trailer(sa, packets[i]);
		prepare(sa, packets[i], first + i, &ops[i]);
	}
	ipsf_key_seal(&sa->key, worker, ops, n);
	for (unsigned i = 0; i < n; i++)
		ok &= ops[i].ok;
	for (unsigned i = 0; i < n && IPSF_UNLIKELY(!ok); i++)
		if (!ops[i].ok)
			drop(packets[i], IPSF_DROP_CRYPTO);
	return ok;
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
	return ipsf_notice_once(&sa->told, IPSF_NOTICE_HARD_LIFETIME);
}

unsigned ipsf_esp_encap(struct ipsf_sa_out *sa, unsigned worker, struct ipsf_packet *const *packets, unsigned n)
{
	const struct ipsf_path *path = atomic_load_explicit(&sa->path, memory_order_acquire);
	struct ipsf_packet *some[IPSF_BATCH_MAX];
	uint64_t first, bytes = atomic_load_explicit(&sa->bytes, memory_order_relaxed);
	enum ipsf_drop beyond;
	unsigned ready, reserved;
	bool sealed;

	if (sa->hard_bytes && bytes >= sa->hard_bytes) /* to a run: what passes the limit is at most one batch a worker */
		return refuse_all(sa, packets, n);
	ready = admit(sa, path, packets, n);
	reserved = reserve(sa, ready, &first);
	beyond = sa->hard_packets && first + reserved > sa->hard_packets ? IPSF_DROP_SA_EXPIRED : IPSF_DROP_SEQUENCE_EXHAUSTED;
	sealed = seal(sa, path, worker, numbered(packets, n, reserved, beyond, some), reserved, first, &bytes);
	bytes += atomic_fetch_add_explicit(&sa->bytes, bytes, memory_order_relaxed);
	if (IPSF_UNLIKELY(!sealed || reserved < n))
		ipsf_sa_count_drops(&sa->drops, packets, n);
	return lifetime(sa, first + reserved - 1, bytes, reserved < ready);
}

/* ---- for esp_segment.c, which seals what a super-packet is cut into by the same rules ---- */

bool ipsf_esp_outer(const struct ipsf_sa_out *sa, struct ipsf_packet *packet)
{
	const struct ipsf_path *path = atomic_load_explicit(&sa->path, memory_order_acquire);

	decide_outer(sa, path, packet);
	return sa->mode == IPSF_MODE_TUNNEL || cut_ip_header(path, packet);
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
