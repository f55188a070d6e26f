/* RFC 4303 s3.4, inbound packet processing, in its order. */
#include "sealing.h"

#define ESP_MIN (IPSF_ESP_TEXT + IPSF_ESP_TRAILER + IPSF_ICV_SIZE)
#define PLAIN_TEXT_MIN (IPSF_IPV4_HEADER + 4 + IPSF_ESP_ALIGN - 1 + IPSF_ESP_TRAILER) /* an IP header, ports, a trailer */
#define PLAIN_ROOM 0xff00u /* with what ESP took before and behind it fits into 16 bits */

static bool refuse(struct ipsf_packet *packet, enum ipsf_drop reason)
{
	packet->drop = (uint8_t)reason;
	return false;
}

static enum ipsf_drop wrong_length(uint32_t length)
{
	if (length < ESP_MIN)
		return IPSF_DROP_TOO_SHORT;
	return length > UINT16_MAX ? IPSF_DROP_TOO_LONG : IPSF_DROP_MALFORMED;
}

/* s3.4.2 and s3.4.3: reconstructs the number and asks the window, before anything is spent on the ICV. */
static inline bool check_sequence(const struct ipsf_sa_in *sa, struct ipsf_packet *packet, const uint8_t *esp)
{
	const uint32_t length = packet->length;

	/* s2.4: header, IV and ICV are multiples of 4, so the text must be one */
	if (IPSF_UNLIKELY(length < ESP_MIN || length > UINT16_MAX || length % IPSF_ESP_ALIGN))
		return refuse(packet, wrong_length(length));
	packet->sequence = ipsf_window_reconstruct(sa->replay, ipsf_read32(esp + 4));
	if (IPSF_UNLIKELY(!ipsf_window_check(sa->replay, packet->sequence)))
		return refuse(packet, IPSF_DROP_REPLAY);
	return true;
}

static inline void prepare(const struct ipsf_sa_in *sa, const struct ipsf_packet *packet, uint8_t *esp, struct ipsf_aead_op *op)
{
	const uint32_t length = packet->length;
	uint8_t *const to = packet->data;

	ipsf_esp_op(op, esp, packet->sequence, sa->esn, sa->salt);
	op->source = esp + IPSF_ESP_TEXT;
	op->destination = to + IPSF_ESP_TEXT;
	op->length = length - IPSF_ESP_TEXT - IPSF_ICV_SIZE;
	op->icv = esp + length - IPSF_ICV_SIZE;
}

static bool right_padding(const uint8_t *padding, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (padding[i] != i + 1)
			return false;
	return true;
}

/* s2.4 to s2.6: padding is 1, 2, 3 ... as far as its length says, which must fit into the text. The next header; -1: impossible. */
static int read_trailer(const uint8_t *text, uint32_t length, unsigned *pad)
{
	*pad = text[length - 2];
	if (*pad + (uint32_t)IPSF_ESP_TRAILER > length || !right_padding(text + length - IPSF_ESP_TRAILER - *pad, *pad))
		return -1;
	return text[length - 1];
}

/*
 * Mostly padding is no longer than alignment asks for, and the next header is IPv4: then the text's last word tells at once. False:
 * it is something else.
 */
static inline bool ends_plainly(const uint8_t *text, uint32_t length, unsigned *pad)
{
	static const struct {
		uint32_t bits, value;
	} plain[IPSF_ESP_ALIGN] = {{0xffff, 0x0004}, {0xffffff, 0x010104}, {0xffffffff, 0x01020204}, {0xffffffff, 0x02030304}};
	const uint32_t last = ipsf_read32(text + length - 4);

	*pad = last >> 8 & (IPSF_ESP_ALIGN - 1);
	return (last & plain[*pad].bits) == plain[*pad].value && (IPSF_LIKELY(*pad < 3) || text[length - 5] == 1);
}

/* s3.4.4.1: cuts header, IV, padding and ICV off; the next header, or -1: the trailer is impossible. */
static inline int cut_esp(struct ipsf_packet *packet)
{
	uint8_t *const text = packet->data + IPSF_ESP_TEXT;
	const uint32_t length = packet->length - IPSF_ESP_TEXT - IPSF_ICV_SIZE;
	int next_header = IPSF_PROTO_IPV4;
	unsigned pad;

	if (IPSF_UNLIKELY(length < 8 || !ends_plainly(text, length, &pad)))
		next_header = read_trailer(text, length, &pad);
	if (IPSF_UNLIKELY(next_header < 0))
		return -1;
	packet->data = text;
	packet->length = length - pad - IPSF_ESP_TRAILER;
	packet->headroom = ipsf_room(packet->headroom + (uint32_t)IPSF_ESP_TEXT);
	packet->tailroom = ipsf_room(packet->tailroom + pad + (uint32_t)IPSF_ESP_TRAILER + IPSF_ICV_SIZE);
	return next_header;
}

static bool allowed_by_selectors(const struct ipsf_sa_in *sa, const struct ipsf_packet *packet)
{
	const uint8_t *source = ipsf_ip_source(packet), *destination = ipsf_ip_destination(packet);
	unsigned i, j;

	for (i = 0; i < sa->n_remote; i++)
		if (ipsf_selector_matches(&sa->remote_ts[i], packet, source, packet->source_port))
			break;
	for (j = 0; j < sa->n_local; j++)
		if (ipsf_selector_matches(&sa->local_ts[j], packet, destination, packet->destination_port))
			break;
	return i < sa->n_remote && j < sa->n_local;
}

static inline bool in_range(struct ipsf_range4 range, const uint8_t *address)
{
	return ipsf_read32(address) - range.first <= range.span;
}

/* RFC 4301 s5.2 step 4: the inner packet must be one that the SA was negotiated for. */
static inline bool allowed(const struct ipsf_sa_in *sa, const struct ipsf_packet *packet)
{
	if (IPSF_LIKELY(sa->simple))
		return packet->version == 4 && in_range(sa->remote4, packet->data + 12) && in_range(sa->local4, packet->data + 16);
	return allowed_by_selectors(sa, packet);
}

/* RFC 6040 s4.2: what the outer header says of congestion goes on with the inner one. */
static enum ipsf_drop take_tos(const struct ipsf_sa_in *sa, struct ipsf_packet *packet)
{
	const uint8_t before = ipsf_ip_tos(packet);
	const int tos = ipsf_ecn_decap(before, packet->tos, sa->copy_ecn, sa->copy_dscp);

	if (tos < 0)
		return IPSF_DROP_ECN;
	if (tos != before)
		ipsf_ip_set_tos(packet, (uint8_t)tos);
	return IPSF_DROP_NONE;
}

/* The outer header has nothing new to say: no congestion field of its own, or the inner one's (the diagonal of the table). */
static inline bool same_tos(const struct ipsf_sa_in *sa, const struct ipsf_packet *packet)
{
	const unsigned outer = packet->tos & 3u;

	return !sa->copy_dscp && (outer == IPSF_NOT_ECT || outer == (ipsf_ip_tos(packet) & 3u));
}

/* The inner packet is there. */
static inline enum ipsf_drop finish_tunnel(const struct ipsf_sa_in *sa, struct ipsf_packet *packet, unsigned version)
{
	if (IPSF_UNLIKELY(!ipsf_ip_parse(packet)))
		return packet->drop;
	if (IPSF_UNLIKELY(packet->version != version))
		return IPSF_DROP_MALFORMED;
	if (IPSF_UNLIKELY(!allowed(sa, packet)))
		return IPSF_DROP_SELECTOR;
	return IPSF_LIKELY(same_tos(sa, packet)) ? IPSF_DROP_NONE : take_tos(sa, packet);
}

/*
 * RFC 4303 s3.1.1: the outer header becomes the packet's own again; through a NAT its checksums are mended (RFC 3948
 * s3.1.2).
 */
static enum ipsf_drop finish_transport(const struct ipsf_sa_in *sa, struct ipsf_packet *packet, int next_header)
{
	if (!ipsf_ip_build(packet, packet->path, (uint8_t)next_header))
		return IPSF_DROP_TOO_LONG;
	if (!ipsf_ip_parse(packet))
		return packet->drop;
	if (!allowed(sa, packet))
		return IPSF_DROP_SELECTOR;
	if (sa->udp_encap)
		ipsf_ip_mend_checksum(packet);
	return IPSF_DROP_NONE;
}

static enum ipsf_drop finish_any(const struct ipsf_sa_in *sa, struct ipsf_packet *packet, int next_header)
{
	if (next_header < 0)
		return IPSF_DROP_BAD_TRAILER;
	if (next_header == IPSF_PROTO_NONE) /* RFC 4303 s2.6 */
		return IPSF_DROP_DUMMY;
	if (sa->mode == IPSF_MODE_TRANSPORT)
		return finish_transport(sa, packet, next_header);
	if (next_header == IPSF_PROTO_IPV4)
		return finish_tunnel(sa, packet, 4);
	return next_header == IPSF_PROTO_IPV6 ? finish_tunnel(sa, packet, 6) : IPSF_DROP_BAD_TRAILER;
}

/* From an authentic ESP packet to the inner one, or a drop reason; *bytes grows by what ESP protected. */
static inline enum ipsf_drop finish(const struct ipsf_sa_in *sa, struct ipsf_packet *packet, uint64_t *bytes)
{
	const int next_header = cut_esp(packet);

	*bytes += packet->length;
	if (IPSF_LIKELY(next_header == IPSF_PROTO_IPV4 && sa->mode == IPSF_MODE_TUNNEL))
		return finish_tunnel(sa, packet, 4);
	return finish_any(sa, packet, next_header);
}

static bool same_path(const struct ipsf_path *a, const struct ipsf_path *b)
{
	size_t size = a->remote.version == 4 ? 4 : 16;

	return a->remote_port == b->remote_port && a->local_port == b->local_port &&
	       a->remote.version == b->remote.version && !memcmp(a->remote.bytes, b->remote.bytes, size) &&
	       !memcmp(a->local.bytes, b->local.bytes, size);
}

/* RFC 7296 s2.23: only the newest authentic packet tells where the peer is; an old one may have taken the old way. */
static unsigned follow(struct ipsf_sa_in *sa, const struct ipsf_packet *newest, struct ipsf_path *moved)
{
	if (!sa->udp_encap || !newest->path || same_path(newest->path, &sa->home[1]))
		return 0;
	sa->home[1] = *moved = *newest->path;
	return IPSF_NOTICE_PEER_MOVED;
}

static bool passed(const _Atomic uint64_t *counter, uint64_t limit)
{
	return limit && atomic_load_explicit(counter, memory_order_relaxed) >= limit;
}

static bool expired(const struct ipsf_sa_in *sa)
{
	return passed(&sa->packets, sa->hard_packets) || passed(&sa->bytes, sa->hard_bytes);
}

/* What has become true of the SA and was not told before. */
static unsigned news(struct ipsf_sa_in *sa)
{
	unsigned notices = atomic_load_explicit(&sa->packets, memory_order_relaxed) ? IPSF_NOTICE_FIRST_INBOUND : 0;

	if (passed(&sa->packets, sa->soft_packets) || passed(&sa->bytes, sa->soft_bytes))
		notices |= IPSF_NOTICE_SOFT_LIFETIME;
	if (expired(sa))
		notices |= IPSF_NOTICE_HARD_LIFETIME;
	notices &= ~sa->told;
	sa->told |= notices;
	return notices;
}

/* One thread writes the counters; they are atomic only for the one that reads statistics. */
static void add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

static void count(struct ipsf_sa_in *sa, unsigned packets, uint64_t bytes)
{
	add(&sa->packets, packets);
	add(&sa->bytes, bytes);
}

/* A run on its way. */
struct opening {
	struct ipsf_aead_op ops[IPSF_BATCH_MAX]; /* of the packets that are not marked, in their order */
	unsigned admitted;                       /* ops */
	const struct ipsf_packet *newest;        /* authentic, with the highest number that the window had met */
	unsigned authentic;
	uint64_t bytes;                          /* that ESP protected */
};

/* s3.4.2, s3.4.3: what may be opened. */
static void admit(const struct ipsf_sa_in *sa, struct ipsf_packet *const *packets, uint8_t *const *sources, unsigned n,
		  struct opening *o)
{
	struct ipsf_aead_op *op = o->ops;

	for (unsigned i = 0; i < n; i++) {
		struct ipsf_packet *packet = packets[i];
		uint8_t *esp = sources ? sources[i] : packet->data;

		if (check_sequence(sa, packet, esp))
			prepare(sa, packet, esp, op++);
	}
	o->admitted = (unsigned)(op - o->ops);
}

/*
 * Most packets are the next in order and plain IPv4 inside, and their SA is for two networks: these are accepted in one go, asked the
 * same in the same order, without a call on the way. The first of n, from the one on, that is something else; op is of the first.
 */
static unsigned accept_plain(const struct ipsf_sa_in *sa, struct ipsf_packet *const *packets, unsigned from, unsigned n,
			     const struct ipsf_aead_op *op, uint64_t *bytes)
{
	static const uint64_t grown[IPSF_ESP_ALIGN] = {IPSF_SEALING_GROWTH(0), IPSF_SEALING_GROWTH(1), IPSF_SEALING_GROWTH(2),
						       IPSF_SEALING_GROWTH(3)};
	const uint64_t received = IPSF_PACKET_FIELD(tos, 0xff) | IPSF_PACKET_FIELD(carrier, 0xff); /* the marks that a port makes */
	const struct ipsf_range4 remote = sa->remote4, local = sa->local4;
	struct ipsf_replay *const window = sa->replay;
	uint64_t top = window->top, sum = 0;
	unsigned i;

	for (i = from; i < n; i++, op++) {
		struct ipsf_packet *packet = packets[i];
		const uint64_t marks = packet->marks, extent = packet->extent;
		const uint32_t length = IPSF_PACKET_PART(extent, length) - IPSF_ESP_TEXT - IPSF_ICV_SIZE;
		uint8_t *const text = packet->data + IPSF_ESP_TEXT;
		unsigned pad;

		if (IPSF_UNLIKELY((marks & ~received) || !op->ok || packet->sequence != top + 1 || length < PLAIN_TEXT_MIN))
			break;
		if (IPSF_UNLIKELY(!ends_plainly(text, length, &pad) || packet->headroom > PLAIN_ROOM || packet->tailroom > PLAIN_ROOM))
			break;
		const uint64_t first = ipsf_read64(text);
		const uint8_t protocol = text[9];
		const uint64_t tos = IPSF_PACKET_PART(marks, tos) & 3u;
		if (IPSF_UNLIKELY(!ipsf_ip_is_plain(first, protocol, length - pad - IPSF_ESP_TRAILER) || !in_range(remote, text + 12) ||
				  !in_range(local, text + 16) || (tos && tos != (first >> IPSF_IPV4_TOS_SHIFT & 3))))
			break;
		top++;
		window->words[(top >> 6) & window->word_mask] |= UINT64_C(1) << (top & 63);
		sum += length - pad - IPSF_ESP_TRAILER;
		packet->data = text;
		packet->extent = extent - grown[pad];
		packet->layers = IPSF_PACKET_FIELD(ports, ipsf_read16_pair(text + IPSF_IPV4_HEADER)) |
				 IPSF_PACKET_FIELD(transport, IPSF_IPV4_HEADER);
		packet->marks = marks | IPSF_PACKET_FIELD(version, 4) | IPSF_PACKET_FIELD(protocol, protocol) |
				IPSF_PACKET_FIELD(flags, first >> IPSF_IPV4_DF_SHIFT & IPSF_PACKET_DF);
	}
	__atomic_store_n(&window->top, top, __ATOMIC_RELAXED);
	*bytes += sum;
	return i;
}

/* s3.4.4.1: the window learns of what is authentic, and that becomes an inner packet. True: something is dropped. */
static bool accept(struct ipsf_sa_in *sa, struct ipsf_packet *const *packets, unsigned n, struct opening *o)
{
	struct ipsf_replay *const window = sa->replay;
	const struct ipsf_aead_op *op = o->ops;
	const struct ipsf_packet *newest = NULL;
	const bool plain = sa->simple && sa->mode == IPSF_MODE_TUNNEL && !sa->copy_dscp;
	unsigned dropped = 0, authentic = 0;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < n; i++) {
		if (IPSF_LIKELY(plain)) {
			const unsigned before = i;

			i = accept_plain(sa, packets, i, n, op, &bytes);
			op += i - before;
			authentic += i - before;
			newest = i > before ? packets[i - 1] : newest;
			if (i == n)
				break;
		}
		struct ipsf_packet *packet = packets[i];
		const bool ahead = packet->sequence > window->top;

		if (IPSF_UNLIKELY(packet->drop)) {
			dropped = 1;
		} else if (IPSF_UNLIKELY(!op++->ok)) {
			dropped |= !refuse(packet, IPSF_DROP_INTEGRITY);
		} else if (IPSF_UNLIKELY(!ipsf_window_update(window, packet->sequence))) { /* twice in one batch */
			dropped |= !refuse(packet, IPSF_DROP_REPLAY);
		} else {
			const enum ipsf_drop reason = finish(sa, packet, &bytes);

			newest = ahead ? packet : newest;
			authentic++;
			if (IPSF_UNLIKELY(reason))
				dropped |= !refuse(packet, reason);
		}
	}
	o->newest = newest;
	o->authentic = authentic;
	o->bytes = bytes;
	return dropped;
}

unsigned ipsf_esp_decap(struct ipsf_sa_in *sa, unsigned worker, struct ipsf_packet *const *packets, unsigned n,
			struct ipsf_path *moved)
{
	return ipsf_esp_decap_from(sa, worker, packets, NULL, n, moved);
}

static unsigned refuse_all(struct ipsf_sa_in *sa, struct ipsf_packet *const *packets, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		refuse(packets[i], IPSF_DROP_SA_EXPIRED);
	ipsf_sa_count_drops(&sa->drops, packets, n);
	return IPSF_NOTICE_DROPPED | news(sa);
}

unsigned ipsf_esp_decap_from(struct ipsf_sa_in *sa, unsigned worker, struct ipsf_packet *const *packets,
			     uint8_t *const *sources, unsigned n, struct ipsf_path *moved)
{
	struct opening o;
	unsigned notices = 0;
	bool dropped;

	if (IPSF_UNLIKELY(expired(sa))) /* to a run: what passes the limit is less than one batch */
		return refuse_all(sa, packets, n);
	admit(sa, packets, sources, n, &o);
	ipsf_key_open(&sa->key, worker, o.ops, o.admitted);
	dropped = accept(sa, packets, n, &o);
	if (o.newest)
		notices = follow(sa, o.newest, moved);
	count(sa, o.authentic, o.bytes);
	notices |= news(sa);
	if (IPSF_LIKELY(!dropped))
		return notices;
	ipsf_sa_count_drops(&sa->drops, packets, n);
	return notices | IPSF_NOTICE_DROPPED;
}
