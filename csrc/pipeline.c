#include "pipeline.h"

#include "algorithm.h"
#include "ip.h"
#include "runs.h"
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
 * ACQUIRE (RFC 4301 s4.4.1: an SA is made on demand): once a child, or once a worker that wants its own (RFC 9611 s6), until it is
 * answered or some seconds have passed.
 */
static void ask(struct ipsf_pipeline *p, struct ipsf_child *child, bool own, const struct ipsf_flow *flow)
{
	_Atomic uint64_t *when = own ? &atomic_load(&child->lanes)->lane[p->worker].asked : &child->asked;
	uint64_t asked = atomic_load(when);
	if (asked != 0 && p->now - asked < (own ? OWN_AGAIN : ACQUIRE_AGAIN))
		return;
	if (!atomic_compare_exchange_strong(when, &asked, p->now ? p->now : 1))
		return; /* another worker did */
	const struct ipsf_event event = {.kind = IPSF_EVENT_ACQUIRE, .reqid = child->reqid,
					 .resource = (uint8_t)(own ? p->worker + 1 : 0),
					 .source = selector_of(flow, flow->source, flow->source_port),
					 .destination = selector_of(flow, flow->destination, flow->destination_port)};
	if (!post(p, &event, NULL))
		atomic_store(when, 0);
}

/* ---- outbound ---- */

/* The child that the batch last asked for: neighbours mostly belong to one. No longer than a batch, for a rekey switches its SA. */
struct last_child {
	uint32_t reqid;
	struct ipsf_sa_out *sa; /* NULL: none was asked for yet, or it had no SA */
};

/* PROTECT: the child's active SA, the worker's own first (RFC 9611), or wait for one. What waits already goes first. */
static void protect(struct ipsf_pipeline *p, const struct ipsf_children *children, const struct ipsf_flow *flow,
		    const struct ipsf_decision *decision, struct last_child *last, struct ipsf_packet *packet)
{
	struct ipsf_child *child = ipsf_child_find(children, decision->reqid);
	struct ipsf_sa_out *sa = child ? ipsf_child_sa(child, p->worker) : NULL;
	if (IPSF_LIKELY(sa && !ipsf_hold_has(&p->hold, decision->reqid))) {
		packet->sa.out = sa;
		*last = (struct last_child){decision->reqid, sa};
		if (IPSF_UNLIKELY(ipsf_child_wants_own(child, sa, p->worker)))
			ask(p, child, true, flow);
		return;
	}
	if (!child || (!sa && !(decision->flags & IPSF_POLICY_HOLD))) {
		packet->drop = IPSF_DROP_NO_SA;
		return;
	}
	if (!sa)
		ask(p, child, false, flow);
	packet->drop = ipsf_hold_add(&p->hold, child, packet) ? IPSF_TAKEN : IPSF_DROP_HOLD_FULL;
}

/* RFC 4301 s5.1: what the SPD says of the packet. */
static void decide(struct ipsf_pipeline *p, const struct ipsf_children *children, const struct ipsf_flow *flow,
		   const struct ipsf_decision *decision, struct last_child *last, struct ipsf_packet *packet)
{
	packet->drop = decision->drop;
	if (decision->action == IPSF_BYPASS)
		packet->flags |= IPSF_PACKET_CLEAR;
	else if (decision->drop != IPSF_DROP_NONE)
		return;
	else if (IPSF_LIKELY(last->sa && last->reqid == decision->reqid))
		packet->sa.out = last->sa; /* nothing of this child waits: nothing did a moment ago, and it has an SA */
	else
		protect(p, children, flow, decision, last, packet);
}

/* Every packet has its SA, or is marked. True: some are marked. */
static bool choose(struct ipsf_pipeline *p, const struct ipsf_batch *batch)
{
	const struct ipsf_spd *spd = atomic_load_explicit(&p->published->spd, memory_order_acquire);
	const struct ipsf_children *children = atomic_load_explicit(&p->published->children, memory_order_acquire);
	const uint64_t generation = ipsf_spd_generation(spd);
	struct last_child last = {0};
	struct ipsf_flow flow;
	unsigned marked = 0;
	for (unsigned i = 0; i < batch->n; i++) {
		struct ipsf_packet *packet = batch->packet[i];
		if (IPSF_LIKELY(ipsf_ip_parse(packet))) {
			ipsf_flow_of(packet, &flow);
			const struct ipsf_decision decision = ipsf_flow_cache_lookup(p->flows, spd, generation, &flow);
			decide(p, children, &flow, &decision, &last, packet);
		}
		marked |= packet->drop;
	}
	return marked;
}

/* Packets of one SA from the first on that one call seals: a super-packet alone, or those before the next. */
static unsigned sealed_at_once(struct ipsf_packet *const *packets, unsigned n)
{
	unsigned i = 1;
	while (i < n && !packets[0]->segments && !packets[i]->segments)
		i++;
	return i;
}

static void seal_run(struct ipsf_pipeline *p, struct ipsf_pool *pool, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_sa_out *sa = packets[0]->sa.out;
	unsigned notices = 0;
	for (unsigned i = 0, some; i < n; i += some) {
		some = sealed_at_once(packets + i, n - i);
		notices |= packets[i]->segments ? ipsf_esp_segment(sa, p->worker, packets[i], pool, p->drops) :
						  ipsf_esp_encap(sa, p->worker, packets + i, some);
	}
	if (IPSF_LIKELY(notices == 0))
		return;
	struct ipsf_event event = {.spi = sa->spi, .reqid = sa->reqid};
	atomic_fetch_and(&sa->told, ~report(p, notices, &event));
}

void ipsf_outbound(struct ipsf_pipeline *p, struct ipsf_batch *batch)
{
	struct ipsf_runs runs;
	if (choose(p, batch))
		ipsf_batch_sweep(batch, p->drops);
	ipsf_runs_begin(&runs, batch);
	while (ipsf_runs_next(&runs)) { /* BYPASS packets have no SA */
		if (runs.packet[0]->sa.out)
			seal_run(p, batch->pool, runs.packet, runs.n);
	}
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

static void open_run(struct ipsf_pipeline *p, struct ipsf_sa_in *sa, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_path moved;
	const unsigned notices = ipsf_esp_decap(sa, p->worker, packets, n, &moved);
	if (IPSF_LIKELY(notices == 0))
		return;
	struct ipsf_event event = {.spi = sa->spi, .reqid = sa->reqid, .inbound = 1};
	if (notices & IPSF_NOTICE_PEER_MOVED)
		event.path = moved;
	const unsigned untold = report(p, notices, &event);
	sa->told &= ~untold;
	if (untold & IPSF_NOTICE_PEER_MOVED)
		memset(&sa->home[1], 0, sizeof sa->home[1]);
}

/*
 * Every packet has its SA, or is marked. True: some are marked. Neighbours mostly belong to one SA: what begins with its SPI, which is
 * never 0, is its ESP, whatever carries it.
 */
static bool assign(struct ipsf_pipeline *p, struct ipsf_batch *batch)
{
	struct ipsf_sa_in *last = NULL;
	unsigned marked = 0;
	for (unsigned i = 0; i < batch->n; i++) {
		struct ipsf_packet *packet = batch->packet[i];
		if (IPSF_LIKELY(last && packet->length >= IPSF_ESP_HEADER && ipsf_read32(packet->data) == last->spi)) {
			packet->sa.in = last;
		} else {
			classify(p, packet);
			last = packet->drop ? last : packet->sa.in;
		}
		if (!packet->drop && packet->sa.in->mode == IPSF_MODE_TRANSPORT)
			give_headroom(batch, packet);
		marked |= packet->drop;
	}
	return marked;
}

void ipsf_inbound(struct ipsf_pipeline *p, struct ipsf_batch *batch)
{
	struct ipsf_runs runs;
	if (assign(p, batch))
		ipsf_batch_sweep(batch, p->drops);
	ipsf_runs_begin(&runs, batch);
	while (ipsf_runs_next(&runs))
		open_run(p, runs.packet[0]->sa.in, runs.packet, runs.n);
	ipsf_batch_sweep(batch, p->drops);
}
