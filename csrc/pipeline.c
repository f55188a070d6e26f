#include "pipeline.h"

#include "algorithm.h"
#include "runs.h"
#include "sealing.h"
#include "udpencap.h"

#define ACQUIRE_AGAIN 3000000000u    /* nanoseconds until an unanswered ACQUIRE is raised again */
#define OWN_AGAIN 30000000000u       /* the same for a worker's own SA: the one for all carries its packets meanwhile */
#define UNKNOWN_SPI_RATE 4           /* events a second; all are counted */
#define TRANSPORT_HEADROOM 64        /* what rebuilding an inner IP header may need (RFC 4303 s3.1.1) */

/* ---- events ---- */

static bool post(struct ipsf_pipeline *p, const struct ipsf_event *event, const uint8_t *data)
{
	const bool posted = ipsf_event_post(p->events, event, data);
	p->told |= posted;
	return posted;
}

/* One event for each notice; which of them found no room: the SA will raise those again. */
static unsigned report(struct ipsf_pipeline *p, unsigned notices, struct ipsf_event *event)
{
	static const struct {
		unsigned notice, kind;
	} table[] = {
		{IPSF_NOTICE_FIRST_INBOUND, IPSF_EVENT_FIRST_INBOUND},
		{IPSF_NOTICE_PEER_MOVED, IPSF_EVENT_PEER_MOVED},
		{IPSF_NOTICE_SOFT_LIFETIME, IPSF_EVENT_SOFT_LIFETIME},
		{IPSF_NOTICE_HARD_LIFETIME, IPSF_EVENT_HARD_LIFETIME},
	};
	unsigned untold = 0;
	for (unsigned i = 0; i < sizeof table / sizeof table[0]; i++) {
		event->kind = table[i].kind;
		if ((notices & table[i].notice) && !post(p, event, NULL))
			untold |= table[i].notice;
	}
	return untold;
}

static struct ipsf_selector selector_of(const struct ipsf_flow *flow, const uint8_t address[16], uint16_t port)
{
	struct ipsf_selector selector = {.protocol = flow->protocol, .port_last = UINT16_MAX};
	memcpy(selector.first.bytes, address, 16);
	selector.first.version = flow->version;
	selector.last = selector.first;
	if (flow->ports == IPSF_PORTS_KNOWN)
		selector.port_first = selector.port_last = port;
	return selector;
}

/*
 * ACQUIRE (RFC 4301 s4.4.1: an SA is made on demand): once a child, or once a resource that wants its own (RFC 9611 s6), until it is
 * answered or some seconds have passed.
 */
static void ask(struct ipsf_pipeline *p, struct ipsf_child *child, bool own, const struct ipsf_packet *packet)
{
	struct ipsf_lanes *lanes = atomic_load(&child->lanes);
	const unsigned lane = own ? ipsf_lane_of(lanes, p->worker, ipsf_ip_tos(packet)) : 0;
	_Atomic uint64_t *when = own ? &lanes->lane[lane].asked : &child->asked;
	uint64_t asked = atomic_load(when);
	struct ipsf_flow flow;
	if (asked != 0 && p->now - asked < (own ? OWN_AGAIN : ACQUIRE_AGAIN))
		return;
	if (!atomic_compare_exchange_strong(when, &asked, p->now ? p->now : 1))
		return; /* another worker did */
	ipsf_flow_of(packet, &flow);
	const struct ipsf_event event = {.kind = IPSF_EVENT_ACQUIRE, .reqid = child->reqid,
					 .resource = (uint8_t)(own ? lane + 1 : 0),
					 .source = selector_of(&flow, flow.source, flow.source_port),
					 .destination = selector_of(&flow, flow.destination, flow.destination_port)};
	if (!post(p, &event, NULL))
		atomic_store(when, 0);
}

/* ---- outbound ---- */

/*
 * A batch on its way out. The child that it last asked for is remembered, for neighbours mostly belong to one; no longer than the
 * batch, for a rekey switches its SA.
 */
struct choice {
	const struct ipsf_spd *spd;
	uint64_t generation;
	const struct ipsf_children *children;
	uint64_t reqid;         /* of the last child; NOBODY: none was asked for yet, or it had no SA */
	struct ipsf_sa_out *sa; /* its active one */
	unsigned decided;       /* packets that did not simply go the way of the one before */
	uint64_t bytes;         /* of all */
	unsigned segments;      /* not 0: there are super-packets */
	bool marked;            /* some packets are dropped, or taken */
};

#define NOBODY UINT64_MAX /* no reqid: those have 32 bits */
#define NO_SPI UINT64_MAX /* likewise */

/* PROTECT: the child's active SA, that of the worker or DSCP class first (RFC 9611), or wait for one. What waits already goes first. */
static void protect(struct ipsf_pipeline *p, struct choice *choice, const struct ipsf_decision *decision, struct ipsf_packet *packet)
{
	struct ipsf_child *child = ipsf_child_find(choice->children, decision->reqid);
	const uint8_t tos = ipsf_ip_tos(packet);
	struct ipsf_sa_out *sa = child ? ipsf_child_sa(child, p->worker, tos) : NULL;
	if (IPSF_LIKELY(sa && !ipsf_hold_has(&p->hold, decision->reqid))) {
		packet->sa.out = choice->sa = sa;
		choice->reqid = IPSF_UNLIKELY(ipsf_child_divides(child)) ? NOBODY : decision->reqid;
		if (IPSF_UNLIKELY(ipsf_child_wants_own(child, sa, p->worker, tos)))
			ask(p, child, true, packet);
		return;
	}
	if (!child || (!sa && !(decision->flags & IPSF_POLICY_HOLD))) {
		packet->drop = IPSF_DROP_NO_SA;
		return;
	}
	if (!sa)
		ask(p, child, false, packet);
	packet->drop = ipsf_hold_add(&p->hold, child, packet) ? IPSF_TAKEN : IPSF_DROP_HOLD_FULL;
}

/* RFC 4301 s5.1: what the SPD says of the packet. */
static void decide_anew(struct ipsf_pipeline *p, struct choice *choice, const struct ipsf_decision *decision, struct ipsf_packet *packet)
{
	choice->decided++;
	packet->drop = decision->drop;
	if (decision->action == IPSF_BYPASS)
		packet->flags |= IPSF_PACKET_CLEAR;
	else if (decision->drop == IPSF_DROP_NONE)
		protect(p, choice, decision, packet);
	choice->marked |= packet->drop != IPSF_DROP_NONE;
}

/* Neighbours mostly belong to one child. Nothing of it waits: nothing did a moment ago, and it has an SA. */
static inline void decide(struct ipsf_pipeline *p, struct choice *choice, const struct ipsf_decision *decision,
			  struct ipsf_packet *packet)
{
	if (IPSF_LIKELY(decision->reqid == choice->reqid))
		packet->sa.out = choice->sa;
	else
		decide_anew(p, choice, decision, packet);
}

/* A packet that is not read straight away. */
static void choose_any(struct ipsf_pipeline *p, struct choice *choice, struct ipsf_packet *packet)
{
	struct ipsf_flow flow;
	if (ipsf_ip_parse_any(packet)) {
		ipsf_flow_of(packet, &flow);
		decide(p, choice, ipsf_flow_cache_lookup(p->flows, choice->spd, choice->generation, &flow), packet);
	} else {
		choice->marked = true;
	}
}

static inline const struct ipsf_decision *remembered(const struct ipsf_pipeline *p, const struct choice *choice,
						      const struct ipsf_packet *packet)
{
	return ipsf_flow_cache_lookup_plain(p->flows, choice->spd, choice->generation, packet);
}

/* Every packet from the one on has its SA, or is marked, or a BYPASS packet. */
static void choose(struct ipsf_pipeline *p, struct choice *choice, struct ipsf_packet *const *packets, unsigned n)
{
	uint64_t marks = 0, bytes = 0;
	for (unsigned i = 0; i < n; i++) {
		struct ipsf_packet *packet = packets[i];
		marks |= packet->marks;
		bytes += packet->length;
		if (IPSF_LIKELY(ipsf_ip_parse_plain(packet)))
			decide(p, choice, remembered(p, choice, packet), packet);
		else
			choose_any(p, choice, packet);
	}
	choice->segments |= IPSF_PACKET_PART(marks, segments);
	choice->bytes += bytes;
}

/*
 * Most batches are plain packets for one tunnel: each is read, looked up and prepared in one go, made once with ESN and once without.
 * They wait for ipsf_sealing_end(). The first, of n, that is something else.
 */
static inline __attribute__((always_inline)) unsigned prepare(struct ipsf_flow_cache *flows, uint64_t generation, uint64_t reqid,
							       const bool esn, struct ipsf_packet *const *packets, unsigned from,
							       unsigned n, struct ipsf_sealing *s)
{
	struct ipsf_aead_op *op = s->ops + from;
	uint64_t sequence = s->first + from, bytes = 0;
	unsigned i;
	for (i = from; i < n; i++, op++, sequence++) {
		struct ipsf_packet *packet = packets[i];
		const uint8_t *const ip = packet->data;
		if (IPSF_UNLIKELY(packet->marks || packet->length < IPSF_IPV4_HEADER + 4))
			break;
		const uint64_t first = ipsf_read64(ip);
		const uint8_t protocol = ip[9];
		if (IPSF_UNLIKELY(!ipsf_ip_is_plain(first, protocol, packet->length) || !ipsf_sealing_has_space(packet)))
			break;
		const uint32_t ports = ipsf_read16_pair(ip + IPSF_IPV4_HEADER);
		uint64_t addresses;
		memcpy(&addresses, ip + 12, sizeof addresses);
		const struct ipsf_decision *decision = ipsf_flow_cache_peek(flows, generation, addresses,
									    ipsf_flow_rest(ports, 4, protocol, IPSF_PORTS_KNOWN));
		if (IPSF_UNLIKELY(!decision || decision->reqid != reqid))
			break;
		bytes += packet->length;
		ipsf_sealing_prepare_plain(s, esn, packet, first, ports, protocol, sequence, op);
	}
	s->bytes += bytes;
	return i;
}

static __attribute__((noinline)) unsigned prepare_short(struct ipsf_flow_cache *flows, uint64_t generation, uint64_t reqid,
							struct ipsf_packet *const *packets, unsigned from, unsigned n,
							struct ipsf_sealing *s)
{
	return prepare(flows, generation, reqid, false, packets, from, n, s);
}

static __attribute__((noinline)) unsigned prepare_esn(struct ipsf_flow_cache *flows, uint64_t generation, uint64_t reqid,
						      struct ipsf_packet *const *packets, unsigned from, unsigned n,
						      struct ipsf_sealing *s)
{
	return prepare(flows, generation, reqid, true, packets, from, n, s);
}

/* Packets of one SA from the first on that one call seals: a super-packet alone, or those before the next. */
static unsigned sealed_at_once(struct ipsf_packet *const *packets, unsigned n)
{
	unsigned i = 1;
	while (i < n && !packets[0]->segments && !packets[i]->segments)
		i++;
	return i;
}

static unsigned seal_mixed(struct ipsf_pipeline *p, struct ipsf_sa_out *sa, struct ipsf_pool *pool, struct ipsf_packet *const *packets,
			   unsigned n)
{
	unsigned notices = 0;
	for (unsigned i = 0, some; i < n; i += some) {
		some = sealed_at_once(packets + i, n - i);
		notices |= packets[i]->segments ? ipsf_esp_segment(sa, p->worker, packets[i], pool, p->drops) :
						  ipsf_esp_encap(sa, p->worker, packets + i, some);
	}
	return notices;
}

/* What an SA has to tell of a run. True: something was dropped. */
static bool tell(struct ipsf_pipeline *p, struct ipsf_sa_out *sa, unsigned notices)
{
	if (IPSF_LIKELY(notices == 0))
		return false;
	struct ipsf_event event = {.spi = sa->spi, .reqid = sa->reqid};
	atomic_fetch_and(&sa->told, ~report(p, notices, &event));
	return notices & IPSF_NOTICE_DROPPED;
}

/* BYPASS packets have no SA. True: something was dropped. */
static bool seal_runs(struct ipsf_pipeline *p, const struct choice *choice, struct ipsf_pool *pool, struct ipsf_packet *const *packets,
		      unsigned n)
{
	struct ipsf_runs runs;
	bool dropped = false;
	ipsf_runs_begin(&runs, packets, n);
	while (ipsf_runs_next(&runs)) {
		struct ipsf_sa_out *sa = runs.packet[0]->sa.out;
		if (sa)
			dropped |= tell(p, sa, choice->segments ? seal_mixed(p, sa, pool, runs.packet, runs.n) :
								  ipsf_esp_encap(sa, p->worker, runs.packet, runs.n));
	}
	return dropped;
}

/* A packet that was chosen joins the run if it is one of it. */
static bool join(struct ipsf_sealing *s, struct ipsf_packet *packet, unsigned i)
{
	if (packet->drop || packet->segments || packet->version != 4 || packet->sa.out != s->sa || !ipsf_sealing_has_room(packet))
		return false;
	ipsf_outer_decide(&s->outer, packet->data[1], packet);
	s->bytes += packet->length;
	ipsf_sealing_prepare(s->sa, packet, s->first + i, IPSF_PROTO_IPV4, &s->ops[i]);
	return true;
}

/*
 * Chooses packets and prepares them as one run, from the first on, as long as they are such. How many are prepared, *chosen may be one
 * more.
 */
static unsigned prepare_run(struct ipsf_pipeline *p, struct choice *choice, const struct ipsf_batch *batch, struct ipsf_sealing *s,
			    unsigned *chosen)
{
	struct ipsf_packet *const *packets = batch->packet;
	unsigned i = 0;
	choose(p, choice, packets, 1);
	*chosen = 1;
	if (!choice->sa || choice->reqid == NOBODY || !choice->sa->plain || packets[0]->version != 4 ||
	    packets[0]->segments || ipsf_sa_out_expired(choice->sa))
		return 0;
	const unsigned n = ipsf_sealing_begin(s, choice->sa, batch->n);
	const uint64_t reqid = choice->reqid;
	while (i < n && join(s, packets[i], i)) {
		const uint64_t before = s->bytes;
		i = (s->sa->esn ? prepare_esn : prepare_short)(p->flows, choice->generation, reqid, packets, i + 1, n, s);
		choice->bytes += s->bytes - before;
		if (i < n)
			choose(p, choice, packets + i, 1);
		*chosen = i + (i < n);
	}
	return i;
}

void ipsf_outbound(struct ipsf_pipeline *p, struct ipsf_batch *batch)
{
	const struct ipsf_spd *spd = atomic_load_explicit(&p->published->spd, memory_order_acquire);
	struct choice choice = {.spd = spd, .generation = ipsf_spd_generation(spd), .reqid = NOBODY,
				.children = atomic_load_explicit(&p->published->children, memory_order_acquire)};
	struct ipsf_sealing s; /* 4 KiB, most of it for what is prepared */
	unsigned chosen = 0;
	bool dropped = false;
	s.reserved = 0;
	const unsigned prepared = batch->n ? prepare_run(p, &choice, batch, &s, &chosen) : 0;
	choose(p, &choice, batch->packet + chosen, batch->n - chosen);
	p->received = (struct ipsf_volume){ipsf_batch_count(batch, choice.segments), choice.bytes};
	if (IPSF_UNLIKELY(choice.marked))
		ipsf_batch_sweep(batch, p->drops);
	if (s.reserved)
		dropped |= tell(p, s.sa, ipsf_sealing_end(&s, p->worker, batch->packet, prepared, prepared, s.bytes, false));
	if (prepared < batch->n)
		dropped |= seal_runs(p, &choice, batch->pool, batch->packet + prepared, batch->n - prepared);
	if (IPSF_UNLIKELY(dropped))
		ipsf_batch_sweep(batch, p->drops);
}

/* ---- inbound ---- */

static void hand_over_ike(struct ipsf_pipeline *p, struct ipsf_packet *packet)
{
	const struct ipsf_event event = {.kind = IPSF_EVENT_IKE_DATAGRAM, .path = *packet->path,
					 .length = packet->length - IPSF_NON_ESP_MARKER};
	if (!post(p, &event, packet->data + IPSF_NON_ESP_MARKER)) {
		packet->drop = IPSF_DROP_EVENT_FULL;
		return;
	}
	p->consumed++;
	packet->drop = IPSF_TAKEN;
}

/* The SA's owner opens it: a replay window has one writer. */
static void hand_over(struct ipsf_pipeline *p, struct ipsf_packet *packet)
{
	if (ipsf_desk_give(p->desk, packet->sa.in->owner, packet)) {
		p->handed_over++;
		packet->drop = IPSF_TAKEN;
	} else {
		packet->drop = IPSF_DROP_HANDOVER_FULL;
	}
}

/* RFC 4303 s3.4.2: the SA by its SPI alone, for all of them are unicast. */
static void find_sa(struct ipsf_pipeline *p, struct ipsf_packet *packet)
{
	if (packet->length < IPSF_ESP_HEADER) {
		packet->drop = IPSF_DROP_TOO_SHORT;
		return;
	}
	const uint32_t spi = ipsf_read32(packet->data);
	packet->sa.in = ipsf_sad_find(&p->published->sad, spi);
	if (IPSF_LIKELY(packet->sa.in)) {
		if (IPSF_UNLIKELY(packet->sa.in->owner != p->worker))
			hand_over(p, packet);
		return;
	}
	packet->drop = IPSF_DROP_UNKNOWN_SPI;
	const struct ipsf_event event = {.kind = IPSF_EVENT_UNKNOWN_SPI, .spi = spi, .path = *packet->path, .inbound = 1};
	if (ipsf_rate_allow(&p->unknown_spi, p->now, UNKNOWN_SPI_RATE) && !post(p, &event, NULL))
		p->unknown_spi.count = 0; /* nobody was told: the next one may try */
}

/* RFC 3948 s2 where the port carries UDP. */
static void classify(struct ipsf_pipeline *p, struct ipsf_packet *packet)
{
	const bool udp = packet->carrier == IPSF_CARRIER_UDP4 || packet->carrier == IPSF_CARRIER_UDP6;
	switch (udp ? ipsf_udpencap_classify(packet->data, packet->length) : IPSF_DATAGRAM_ESP) {
	case IPSF_DATAGRAM_ESP:
		find_sa(p, packet);
		break;
	case IPSF_DATAGRAM_IKE:
		hand_over_ike(p, packet);
		break;
	case IPSF_DATAGRAM_KEEPALIVE:
		p->consumed++;
		packet->drop = IPSF_TAKEN;
		break;
	case IPSF_DATAGRAM_SHORT:
		packet->drop = IPSF_DROP_TOO_SHORT;
		break;
	}
}

/*
 * Segments of one GRO datagram stand wall to wall; transport mode builds a longer IP header than it takes away: move.
 */
static void give_headroom(struct ipsf_batch *batch, struct ipsf_packet *packet)
{
	struct ipsf_buffer *buffer;
	if (packet->headroom >= TRANSPORT_HEADROOM)
		return;
	if (packet->length > ipsf_pool_buffer_size(batch->pool) - IPSF_HEADROOM - IPSF_TAILROOM ||
	    !(buffer = ipsf_pool_take(batch->pool))) {
		packet->drop = IPSF_DROP_TOO_LONG;
		return;
	}
	memcpy(buffer->bytes + IPSF_HEADROOM, packet->data, packet->length);
	ipsf_buffer_release(packet->buffer);
	packet->buffer = buffer;
	packet->data = buffer->bytes + IPSF_HEADROOM;
	packet->headroom = IPSF_HEADROOM;
	packet->tailroom = IPSF_TAILROOM;
}

/* True: something was dropped. */
static bool open_run(struct ipsf_pipeline *p, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_sa_in *sa = packets[0]->sa.in;
	struct ipsf_path moved;
	const unsigned notices = ipsf_esp_decap(sa, p->worker, packets, n, &moved);
	if (IPSF_LIKELY(notices == 0))
		return false;
	struct ipsf_event event = {.spi = sa->spi, .reqid = sa->reqid, .inbound = 1};
	if (notices & IPSF_NOTICE_PEER_MOVED)
		event.path = moved;
	const unsigned untold = report(p, notices, &event);
	sa->told &= ~untold;
	if (untold & IPSF_NOTICE_PEER_MOVED)
		memset(&sa->home[1], 0, sizeof sa->home[1]);
	return notices & IPSF_NOTICE_DROPPED;
}

static bool open_runs(struct ipsf_pipeline *p, const struct ipsf_batch *batch)
{
	struct ipsf_runs runs;
	bool dropped = false;
	ipsf_runs_begin(&runs, batch->packet, batch->n);
	while (ipsf_runs_next(&runs))
		dropped |= open_run(p, runs.packet, runs.n);
	return dropped;
}

/*
 * Every packet that stays has its SA. Neighbours mostly belong to one SA: what begins with its SPI, which is never 0, is its ESP,
 * whatever carries it. True: all belong to one.
 */
static bool assign(struct ipsf_pipeline *p, struct ipsf_batch *batch)
{
	struct ipsf_sa_in *last = NULL;
	uint64_t spi = NO_SPI;
	bool transport = false;
	unsigned classified = 0, marked = 0;
	uint64_t bytes = 0;
	for (unsigned i = 0; i < batch->n; i++) {
		struct ipsf_packet *packet = batch->packet[i];
		bytes += packet->length;
		if (IPSF_LIKELY(packet->length >= IPSF_ESP_HEADER && ipsf_read32(packet->data) == spi)) {
			packet->sa.in = last;
		} else {
			classified++;
			classify(p, packet);
			marked |= packet->drop;
			if (packet->drop)
				continue;
			last = packet->sa.in;
			spi = last->spi;
			transport = last->mode == IPSF_MODE_TRANSPORT;
		}
		if (IPSF_UNLIKELY(transport)) {
			give_headroom(batch, packet);
			marked |= packet->drop;
		}
	}
	p->received = (struct ipsf_volume){batch->n, bytes};
	if (IPSF_UNLIKELY(marked))
		ipsf_batch_sweep(batch, p->drops);
	return classified == 1 && !marked;
}

void ipsf_inbound(struct ipsf_pipeline *p, struct ipsf_batch *batch)
{
	const bool dropped = assign(p, batch) ? open_run(p, batch->packet, batch->n) : open_runs(p, batch);
	if (IPSF_UNLIKELY(dropped))
		ipsf_batch_sweep(batch, p->drops);
}
