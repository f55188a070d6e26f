/* Commands: what each does, what each refuses; status; that children and SAs come and go without a trace. */
#include "gateways.h"

static int release(struct gateway *g, uint32_t reqid)
{
	return command(g, (struct ipsf_command){.kind = IPSF_CMD_RELEASE_HELD, .reqid = reqid});
}

static int move(struct gateway *g, uint32_t out, uint32_t in, const struct ipsf_path *path)
{
	return command(g, (struct ipsf_command){.kind = IPSF_CMD_MOVE_PEER, .reqid = 1, .spi = out, .inbound_spi = in, .path = path});
}

static void refusals(void)
{
	struct gateway a, b;
	struct ipsf_dataplane *none;
	const struct ipsf_selector ts[2] = {net_selector(1), net_selector(2)};
	struct ipsf_path path = path_from(1);
	gateways_new(&a, &b, 64, false);
	CHECK(ipsf_dataplane_new("no such engine", &none) == IPSF_ENOENT);
	CHECK(install(&a, IPSF_CMD_INSTALL_INBOUND, 0x1000) == IPSF_OK && install(&a, IPSF_CMD_INSTALL_INBOUND, 0x1000) == IPSF_EEXIST);
	CHECK(install(&a, IPSF_CMD_INSTALL_OUTBOUND, 0x2000) == IPSF_OK && install(&a, IPSF_CMD_INSTALL_OUTBOUND, 0x2000) == IPSF_EEXIST);
	CHECK(activate(&a, 0x1000) == IPSF_ENOENT && remove_sa(&a, IPSF_CMD_REMOVE_OUTBOUND, 0x1000) == IPSF_ENOENT);
	CHECK(remove_sa(&a, IPSF_CMD_REMOVE_INBOUND, 0x2000) == IPSF_ENOENT);
	struct ipsf_sa_params params = sa_params(&a, 0x3000, ts);
	params.key_length = 21;
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &params}) == IPSF_EINVAL);
	params = sa_params(&a, 0x3000, ts);
	params.reqid = 0;
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &params}) == IPSF_EINVAL);
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_INBOUND, .sa = &params}) == IPSF_EINVAL);
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_INBOUND}) == IPSF_EINVAL);
	CHECK(command(&a, (struct ipsf_command){.kind = (enum ipsf_command_kind)99}) == IPSF_EINVAL);
	CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_PUBLISH_SPD, .n_policies = 1}) == IPSF_EINVAL);
	CHECK(move(&a, 0x2000, 0x9999, &path) == IPSF_ENOENT && move(&a, 0x9999, 0x1000, &path) == IPSF_ENOENT);
	CHECK(move(&a, 0x2000, 0x1000, NULL) == IPSF_EINVAL);
	path.remote.version = path.local.version = 6;
	CHECK(move(&a, 0x2000, 0x1000, &path) == IPSF_EINVAL); /* the carrier would change */
	path = path_from(1);
	path.remote_port = 0;
	CHECK(move(&a, 0x2000, 0x1000, &path) == IPSF_EINVAL);
	CHECK(release(&a, 77) == IPSF_OK);
	gateway_free(&a);
	gateway_free(&b);
}

/* A port's receiving half and sending half have one worker each; workers come before SAs. */
static void workers(void)
{
	struct gateway a, b;
	struct ipsf_worker *worker;
	struct ipsf_port *inner, *host, *many[IPSF_OUTER_MAX + 1];
	gateways_new(&a, &b, 64, true);
	CHECK(ipsf_port_memory_pair(16, &inner, &host) == IPSF_OK);
	CHECK(ipsf_dataplane_add_worker(a.dp, "again", &a.inner, 1, &host, 1, IPSF_WORKER_OUTBOUND, &worker) == IPSF_EINVAL);
	CHECK(ipsf_dataplane_add_worker(a.dp, "again", &inner, 1, &a.outer, 1, IPSF_WORKER_INBOUND, &worker) == IPSF_EINVAL);
	CHECK(ipsf_dataplane_add_worker(a.dp, "nothing", &inner, 1, &host, 1, 0, &worker) == IPSF_EINVAL);
	for (unsigned i = 0; i <= IPSF_OUTER_MAX; i++)
		many[i] = host;
	CHECK(ipsf_dataplane_add_worker(a.dp, "many", &inner, 1, many, IPSF_OUTER_MAX + 1, 3, &worker) == IPSF_EINVAL);
	CHECK(install(&a, IPSF_CMD_INSTALL_INBOUND, 0x1000) == IPSF_OK);
	CHECK(ipsf_dataplane_add_worker(a.dp, "late", &inner, 1, &host, 1, 3, &worker) == IPSF_ELATE);
	ipsf_port_free(inner);
	ipsf_port_free(host);
	gateway_free(&a);
	gateway_free(&b);
}

static const struct ipsf_sa_status *find_status(const struct ipsf_sa_status *status, size_t n, uint32_t spi, bool inbound)
{
	for (size_t i = 0; i < n; i++) {
		if (status[i].spi == spi && status[i].inbound == inbound)
			return &status[i];
	}
	return NULL;
}

static void status(void)
{
	struct gateway a, b;
	struct ipsf_sa_status status[4];
	gateways_new(&a, &b, 64, false);
	one_way(&a, &b, 0x1000);
	CHECK(install(&a, IPSF_CMD_INSTALL_OUTBOUND, 0x1001) == IPSF_OK);
	for (uint32_t i = 0; i < 3; i++)
		CHECK(send_packet(&a, 100, 1, i) == IPSF_OK && ipsf_worker_step(a.out) == 1);
	CHECK(ipsf_worker_step(b.in) == 3);
	CHECK(ipsf_dataplane_sa_status(a.dp, NULL, 0) == 2);
	CHECK(ipsf_dataplane_sa_status(a.dp, status, 4) == 2);
	const struct ipsf_sa_status *active = find_status(status, 2, 0x1000, false), *other = find_status(status, 2, 0x1001, false);
	CHECK(active && active->active && active->packets == 3 && active->sequence == 3 && active->bytes == 300 && active->reqid == 1);
	CHECK(other && !other->active && other->packets == 0);
	CHECK(ipsf_dataplane_sa_status(b.dp, status, 4) == 1);
	const struct ipsf_sa_status *in = find_status(status, 1, 0x1000, true);
	CHECK(in && in->packets == 3 && in->sequence == 3);
	gateway_free(&a);
	gateway_free(&b);
}

/* MOVE_PEER: the very next packet takes the new way. */
static void moved(void)
{
	struct gateway a, b;
	struct ipsf_path path = path_from(1), got;
	uint8_t bytes[200], tos;
	gateways_new(&a, &b, 64, false);
	one_way(&a, &b, 0x1000);
	CHECK(install(&a, IPSF_CMD_INSTALL_INBOUND, 0x2000) == IPSF_OK);
	path.remote_port = 1024;
	path.remote.bytes[3] = 99;
	CHECK(move(&a, 0x1000, 0x2000, &path) == IPSF_OK);
	CHECK(send_packet(&a, 100, 1, 1) == IPSF_OK && ipsf_worker_step(a.out) == 1);
	CHECK(ipsf_port_memory_get(a.outer, bytes, sizeof bytes, &got, &tos) > 100);
	CHECK(got.remote_port == 1024 && got.remote.bytes[3] == 99);
	gateway_free(&a);
	gateway_free(&b);
}

/* A thousand children, some with SAs, some with policies only, come and go; packets find the right one all the time. */
static void many_children(void)
{
	enum { N = 1000 };
	static struct ipsf_policy policies[N];
	const struct ipsf_selector ts[2] = {net_selector(1), net_selector(2)};
	struct gateway a, b;
	struct ipsf_event event;
	gateways_new(&a, &b, 64, false);
	for (uint32_t i = 0; i < N; i++) {
		policies[i] = protect_policy(1, i + 1, 0);
		policies[i].destination.first = policies[i].destination.last = ipv4(10, 2, (uint8_t)(i >> 8), (uint8_t)i);
		struct ipsf_sa_params params = sa_params(&a, 0x1000 + i, ts);
		params.reqid = i + 1;
		if (i % 2 == 0)
			CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &params}) == IPSF_OK);
	}
	CHECK(publish(&a, policies, N) == IPSF_OK);
	for (uint32_t i = 0; i < N; i += 2)
		CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_ACTIVATE_OUTBOUND, .reqid = i + 1, .spi = 0x1000 + i}) == IPSF_OK);
	for (uint32_t i = 0; i < 200; i++) {
		uint8_t bytes[200], tos;
		struct ipsf_path path;
		CHECK(send_packet(&a, 60, (uint8_t)i, i) == IPSF_OK && ipsf_worker_step(a.out) == 1);
		const int n = ipsf_port_memory_get(a.outer, bytes, sizeof bytes, &path, &tos);
		CHECK(i % 2 ? n == 0 : n > 60 && ipsf_read32(bytes) == 0x1000 + i);
	}
	CHECK(drops_of(a.out, IPSF_DROP_NO_SA) == 100);
	CHECK(publish(&a, NULL, 0) == IPSF_OK); /* half of the children go, the others still have SAs */
	for (uint32_t i = 0; i < N; i += 2)
		CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_REMOVE_OUTBOUND, .reqid = i + 1, .spi = 0x1000 + i}) == IPSF_OK);
	CHECK(publish(&a, policies, N / 2) == IPSF_OK && publish(&a, NULL, 0) == IPSF_OK);
	CHECK(ipsf_dataplane_sa_status(a.dp, NULL, 0) == 0);
	CHECK(ipsf_dataplane_next_event(a.dp, &event, NULL, 0) == 0);
	gateway_free(&a);
	gateway_free(&b);
}

int main(void)
{
	refusals();
	workers();
	status();
	moved();
	many_children();
	return check_summary("test_dataplane");
}
