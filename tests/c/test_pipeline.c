/* Both journeys step by step over memory: what passes, what is dropped and why, what is told, and that nothing
 * vanishes. */
#include "gateways.h"

static unsigned take_events(struct gateway *g, uint32_t kind, struct ipsf_event *last)
{
	static uint8_t data[IPSF_IKE_MAX];
	struct ipsf_event event;
	unsigned n = 0;
	while (ipsf_dataplane_next_event(g->dp, &event, data, sizeof data) == 1) {
		n += event.kind == kind;
		if (event.kind == kind && last)
			*last = event;
	}
	return n;
}

static int outside(struct gateway *g, const void *data, size_t length)
{
	const struct ipsf_path path = path_from(g->net);
	return ipsf_port_memory_put(g->outer, data, length, &path, 0);
}

static void end(struct gateway *a, struct gateway *b)
{
	CHECK(conserved(a->out) && conserved(b->out));
	gateway_free(a);
	gateway_free(b);
}

/* Every length, in batches of every size: each packet arrives, in order, as it was. */
static void across(void)
{
	struct gateway a, b;
	struct ipsf_event event;
	uint32_t number = 0, expected = 0, got = 0;
	gateways_new(&a, &b, 256, false);
	one_way(&a, &b, 0x1000);
	for (unsigned batch = 1; batch < 130; batch++) {
		for (unsigned i = 0; i < batch; i++, number++)
			CHECK(send_packet(&a, PACKET_MIN + number % 1400, 1, number) == IPSF_OK);
		while (ipsf_worker_step(a.out) > 0)
			;
		while (ipsf_worker_step(b.in) > 0)
			;
		for (int n; (n = next_packet(&b, &got)) > 0; expected++)
			CHECK(got == expected && (uint32_t)n == PACKET_MIN + expected % 1400);
	}
	CHECK(expected == number);
	CHECK(take_events(&b, IPSF_EVENT_FIRST_INBOUND, &event) == 1 && event.spi == 0x1000);
	end(&a, &b);
}

static void fates_outbound(void)
{
	struct gateway a, b;
	struct ipsf_policy policies[4];
	uint8_t bytes[100], tos;
	struct ipsf_path path;
	gateways_new(&a, &b, 64, false);
	CHECK(send_packet(&a, 60, 1, 0) == IPSF_OK && ipsf_worker_step(a.out) == 1);
	CHECK(drops_of(a.out, IPSF_DROP_NO_POLICY) == 1);
	for (unsigned i = 0; i < 4; i++) {
		policies[i] = protect_policy(1, 7, 0);
		policies[i].destination.first = policies[i].destination.last = ipv4(10, 2, 0, (uint8_t)(i + 1));
		policies[i].action = (uint8_t)(i % 3);
	}
	CHECK(publish(&a, policies, 4) == IPSF_OK);
	for (uint8_t to = 1; to <= 5; to++)
		CHECK(send_packet(&a, 60, to, to) == IPSF_OK);
	memset(bytes, 0, sizeof bytes);
	CHECK(ipsf_port_memory_put(a.inner, bytes, 40, NULL, 0) == IPSF_OK);
	CHECK(ipsf_worker_step(a.out) == 6);
	CHECK(drops_of(a.out, IPSF_DROP_POLICY_DISCARD) == 2 && drops_of(a.out, IPSF_DROP_NO_SA) == 1);
	CHECK(drops_of(a.out, IPSF_DROP_NO_POLICY) == 2 && drops_of(a.out, IPSF_DROP_MALFORMED) == 1);
	CHECK(ipsf_port_memory_get(a.outer, bytes, sizeof bytes, &path, &tos) == 60); /* BYPASS: as it was */
	CHECK(bytes[0] == 0x45 && bytes[19] == 2 && path.remote.version == 0);
	CHECK(ipsf_port_memory_get(a.outer, bytes, sizeof bytes, &path, &tos) == 0);
	end(&a, &b);
}

static void fates_inbound(void)
{
	struct gateway a, b;
	struct ipsf_event event;
	uint8_t bytes[1200] = {0}, data[2000];
	gateways_new(&a, &b, 64, false);
	CHECK(outside(&b, (const uint8_t[]){0xff}, 1) == IPSF_OK);        /* keepalive */
	CHECK(outside(&b, (const uint8_t[]){0xfe}, 1) == IPSF_OK);
	CHECK(outside(&b, bytes, 3) == IPSF_OK && outside(&b, bytes, 0) == IPSF_OK);
	memset(bytes + 4, 0xab, sizeof bytes - 4);
	CHECK(outside(&b, bytes, sizeof bytes) == IPSF_OK);               /* IKE */
	CHECK(outside(&b, bytes + 8, 7) == IPSF_OK);
	for (unsigned i = 0; i < 50; i++)
		CHECK(outside(&b, bytes + 8, 100) == IPSF_OK);            /* no such SPI */
	CHECK(ipsf_worker_step(b.in) == 56);
	struct ipsf_counters counters;
	ipsf_worker_counters(b.in, &counters);
	CHECK(counters.consumed == 2 && counters.drops[IPSF_DROP_TOO_SHORT] == 4 && counters.drops[IPSF_DROP_UNKNOWN_SPI] == 50);
	CHECK(ipsf_dataplane_next_event(b.dp, &event, data, 100) == IPSF_ENOSPC);
	CHECK(ipsf_dataplane_next_event(b.dp, &event, data, sizeof data) == 1);
	CHECK(event.kind == IPSF_EVENT_IKE_DATAGRAM && event.length == 1196 && memcmp(data, bytes + 4, 1196) == 0);
	CHECK(event.path.remote.bytes[3] == 1 && event.path.remote_port == 4500);
	CHECK(take_events(&b, IPSF_EVENT_UNKNOWN_SPI, &event) == 4 && event.spi == 0xabababab); /* a few a second */
	end(&a, &b);
}

/* A flood of IKE messages is counted where the ring has no more room; the SAs are heard all the same. */
static void ike_flood(void)
{
	static uint8_t bytes[60000];
	struct gateway a, b;
	unsigned sent = 0;
	gateways_new(&a, &b, 64, false);
	one_way(&a, &b, 0x1000);
	for (; sent < 40; sent++)
		CHECK(outside(&b, bytes, sizeof bytes) == IPSF_OK && ipsf_worker_step(b.in) == 1);
	CHECK(send_packet(&a, 100, 1, 1) == IPSF_OK && ipsf_worker_step(a.out) == 1 && ipsf_worker_step(b.in) == 1);
	const uint64_t lost = drops_of(b.in, IPSF_DROP_EVENT_FULL);
	struct ipsf_event event;
	unsigned heard = 0, first = 0;
	while (ipsf_dataplane_next_event(b.dp, &event, bytes, sizeof bytes) == 1) {
		heard += event.kind == IPSF_EVENT_IKE_DATAGRAM;
		first += event.kind == IPSF_EVENT_FIRST_INBOUND;
	}
	CHECK(lost > 0 && heard + lost == sent && first == 1);
	end(&a, &b);
}

static void held_until_activated(void)
{
	struct gateway a, b;
	struct ipsf_event event;
	struct ipsf_counters counters;
	const struct ipsf_policy policy = protect_policy(1, 1, IPSF_POLICY_HOLD);
	uint32_t got = 0, expected = 0;
	gateways_new(&a, &b, 256, false);
	CHECK(publish(&a, &policy, 1) == IPSF_OK);
	for (uint32_t i = 0; i < IPSF_HOLD_PACKETS + 10; i++)
		CHECK(send_packet(&a, 100 + i, 1, i) == IPSF_OK);
	while (ipsf_worker_step(a.out) > 0)
		;
	CHECK(take_events(&a, IPSF_EVENT_ACQUIRE, &event) == 1 && event.reqid == 1);
	CHECK(event.source.first.bytes[1] == 1 && event.destination.first.bytes[1] == 2 && event.destination.port_first == 2000 &&
	      event.destination.port_last == 2000 && event.source.protocol == 17);
	ipsf_worker_counters(a.out, &counters);
	CHECK(counters.held == IPSF_HOLD_PACKETS && counters.drops[IPSF_DROP_HOLD_FULL] == 10 && conserved(a.out));
	CHECK(install(&b, IPSF_CMD_INSTALL_INBOUND, 0x1000) == IPSF_OK && install(&a, IPSF_CMD_INSTALL_OUTBOUND, 0x1000) == IPSF_OK);
	CHECK(ipsf_worker_step(a.out) == 0 && drops_of(a.out, IPSF_DROP_HOLD_RELEASED) == 0);
	CHECK(activate(&a, 0x1000) == IPSF_OK);
	CHECK(send_packet(&a, 100, 1, IPSF_HOLD_PACKETS) == IPSF_OK); /* newer: comes behind */
	CHECK(ipsf_worker_step(a.out) == 1);
	while (ipsf_worker_step(b.in) > 0)
		;
	for (; next_packet(&b, &got) > 0; expected++)
		CHECK(got == expected);
	CHECK(expected == IPSF_HOLD_PACKETS + 1);
	ipsf_worker_counters(a.out, &counters);
	CHECK(counters.held == 0);
	end(&a, &b);
}

static void held_and_released(void)
{
	struct gateway a, b;
	const struct ipsf_policy policy = protect_policy(1, 1, IPSF_POLICY_HOLD);
	gateways_new(&a, &b, 256, false);
	CHECK(publish(&a, &policy, 1) == IPSF_OK);
	CHECK(send_packet(&a, 100, 1, 1) == IPSF_OK && ipsf_worker_step(a.out) == 1);
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_RELEASE_HELD, .reqid = 1}) == IPSF_OK);
	CHECK(ipsf_worker_step(a.out) == 0 && drops_of(a.out, IPSF_DROP_HOLD_RELEASED) == 1);
	CHECK(send_packet(&a, 100, 1, 1) == IPSF_OK && ipsf_worker_step(a.out) == 1);
	CHECK(take_events(&a, IPSF_EVENT_ACQUIRE, NULL) == 2); /* answered, so asked again */
	CHECK(publish(&a, NULL, 0) == IPSF_OK);                /* the child is gone, what it held goes too */
	CHECK(ipsf_worker_step(a.out) == 0 && drops_of(a.out, IPSF_DROP_HOLD_RELEASED) == 2);
	CHECK(send_packet(&a, 100, 1, 1) == IPSF_OK && ipsf_worker_step(a.out) == 1);
	CHECK(drops_of(a.out, IPSF_DROP_NO_POLICY) == 1);
	end(&a, &b);
}

/* Limits are told once each. */
static void notices(void)
{
	struct gateway a, b;
	struct ipsf_event event;
	const struct ipsf_selector ts[2] = {net_selector(1), net_selector(2)};
	const struct ipsf_policy policy = protect_policy(1, 1, 0);
	gateways_new(&a, &b, 256, false);
	struct ipsf_sa_params params = sa_params(&a, 0x1000, ts);
	params.soft_packets = 5;
	params.hard_packets = 10;
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &params}) == IPSF_OK);
	CHECK(install(&b, IPSF_CMD_INSTALL_INBOUND, 0x1000) == IPSF_OK);
	CHECK(publish(&a, &policy, 1) == IPSF_OK && activate(&a, 0x1000) == IPSF_OK);
	for (uint32_t i = 0; i < 12; i++)
		CHECK(send_packet(&a, 100, 1, i) == IPSF_OK && ipsf_worker_step(a.out) == 1);
	CHECK(drops_of(a.out, IPSF_DROP_SA_EXPIRED) == 2);
	uint8_t data[4];
	unsigned seen[IPSF_EVENT_COUNT] = {0};
	while (ipsf_dataplane_next_event(a.dp, &event, data, sizeof data) == 1) {
		CHECK(event.spi == 0x1000 && event.reqid == 1 && !event.inbound);
		seen[event.kind]++;
	}
	CHECK(seen[IPSF_EVENT_SOFT_LIFETIME] == 1 && seen[IPSF_EVENT_HARD_LIFETIME] == 1);
	CHECK(ipsf_worker_step(b.in) == 10);
	CHECK(take_events(&b, IPSF_EVENT_FIRST_INBOUND, &event) == 1 && event.inbound);
	end(&a, &b);
}

/*
 * A NAT on the way gives the peer another port: told once for each new one, and only for the newest authentic packet.
 */
static void moving_peer(void)
{
	struct gateway a, b;
	struct ipsf_event event;
	uint8_t bytes[3][200], tos;
	struct ipsf_path path;
	int n = 0;
	gateways_new(&a, &b, 64, false);
	one_way(&a, &b, 0x1000);
	for (unsigned i = 0; i < 3; i++) {
		CHECK(send_packet(&a, 100, 1, i) == IPSF_OK && ipsf_worker_step(a.out) == 1);
		n = ipsf_port_memory_get(a.outer, bytes[i], sizeof bytes[i], &path, &tos);
		CHECK(n > 100 && path.remote.bytes[3] == 2);
	}
	path = path_from(2);
	path.remote_port = 1024;
	CHECK(ipsf_port_memory_put(b.outer, bytes[1], (size_t)n, &path, 0) == IPSF_OK && ipsf_worker_step(b.in) == 1);
	CHECK(take_events(&b, IPSF_EVENT_PEER_MOVED, &event) == 1 && event.path.remote_port == 1024 && event.spi == 0x1000);
	CHECK(ipsf_port_memory_put(b.outer, bytes[2], (size_t)n, &path, 0) == IPSF_OK && ipsf_worker_step(b.in) == 1);
	CHECK(take_events(&b, IPSF_EVENT_PEER_MOVED, NULL) == 0);
	path.remote_port = 1025;
	CHECK(ipsf_port_memory_put(b.outer, bytes[0], (size_t)n, &path, 0) == IPSF_OK && ipsf_worker_step(b.in) == 1);
	CHECK(ipsf_port_memory_put(b.outer, bytes[2], (size_t)n, &path, 0) == IPSF_OK && ipsf_worker_step(b.in) == 1);
	CHECK(take_events(&b, IPSF_EVENT_PEER_MOVED, NULL) == 0 && drops_of(b.in, IPSF_DROP_REPLAY) == 1);
	end(&a, &b);
}

/* Transport mode out of the middle of a GRO datagram: there is no headroom, the packet is moved to where there is
 * some. */
static void wall_to_wall(void)
{
	struct gateway a, b;
	uint8_t bytes[2000], sealed[2000], tos;
	struct ipsf_path path;
	const struct ipsf_selector ts[2] = {{.first = ipv4(192, 0, 2, 1), .last = ipv4(192, 0, 2, 1), .port_last = UINT16_MAX},
					    {.first = ipv4(192, 0, 2, 2), .last = ipv4(192, 0, 2, 2), .port_last = UINT16_MAX}};
	const struct ipsf_selector reversed[2] = {ts[1], ts[0]};
	struct ipsf_policy policy = {.source = ts[0], .destination = ts[1], .reqid = 1, .action = IPSF_PROTECT};
	gateways_new(&a, &b, 64, false);
	struct ipsf_sa_params out = sa_params(&a, 0x1000, ts), in = sa_params(&b, 0x1000, reversed);
	out.mode = in.mode = IPSF_MODE_TRANSPORT;
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &out}) == IPSF_OK);
	CHECK(command(&b, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_INBOUND, .sa = &in}) == IPSF_OK);
	CHECK(publish(&a, &policy, 1) == IPSF_OK && activate(&a, 0x1000) == IPSF_OK);
	make_packet(bytes, 100, 1, 1, 77);
	memcpy(bytes + 12, ts[0].first.bytes, 4);
	memcpy(bytes + 16, ts[1].first.bytes, 4);
	ipsf_write16(bytes + 10, 0);
	ipsf_write16(bytes + 10, ipsf_checksum_fold(ipsf_checksum_add(bytes, 20, 0)));
	CHECK(ipsf_port_memory_put(a.inner, bytes, 100, NULL, 0) == IPSF_OK && ipsf_worker_step(a.out) == 1);
	const int n = ipsf_port_memory_get(a.outer, sealed, sizeof sealed, &path, &tos);
	CHECK(n > 80);
	struct ipsf_batch *batch = b.in->batch;
	struct ipsf_buffer *buffer = ipsf_pool_take(b.in->pool);
	memcpy(buffer->bytes, sealed, (size_t)n);
	struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, buffer->bytes, (uint32_t)n);
	const struct ipsf_path way = path_from(2);
	packet->tailroom = 0;
	packet->path = &way;
	packet->carrier = IPSF_CARRIER_UDP4;
	CHECK(packet->headroom == 0);
	ipsf_inbound(&b.in->pipeline, batch);
	CHECK(batch->n == 1 && batch->packet[0]->length == 100 && ipsf_read32(batch->packet[0]->data + 28) == 77);
	ipsf_batch_clear(batch);
	end(&a, &b);
}

/* An outer port that carries something else, and none that sends in the clear. */
static void no_way_out(void)
{
	struct gateway a, b;
	struct ipsf_policy policies[2] = {protect_policy(1, 1, 0), protect_policy(1, 1, 0)};
	policies[0].destination.first = policies[0].destination.last = ipv4(10, 2, 0, 9);
	policies[0].action = IPSF_BYPASS;
	gateways_new(&a, &b, 64, false);
	one_way(&a, &b, 0x1000);
	CHECK(publish(&a, policies, 2) == IPSF_OK);
	a.out->clear[0].n = a.out->carrier[IPSF_CARRIER_UDP4].n = 0;
	CHECK(send_packet(&a, 60, 9, 1) == IPSF_OK && send_packet(&a, 60, 1, 2) == IPSF_OK && ipsf_worker_step(a.out) == 2);
	CHECK(drops_of(a.out, IPSF_DROP_NO_BYPASS_PORT) == 1 && drops_of(a.out, IPSF_DROP_NO_CARRIER) == 1);
	end(&a, &b);
}

int main(void)
{
	across();
	fates_outbound();
	fates_inbound();
	ike_flood();
	held_until_activated();
	held_and_released();
	notices();
	moving_peer();
	wall_to_wall();
	no_way_out();
	return check_summary("test_pipeline");
}
