/*
 * Policies that come and go: by command, with the children that they name; and under the eyes of workers, who always see one
 * whole snapshot.
 */
#include <pthread.h>

#include "gateways.h"

static int replace(struct gateway *g, size_t index, size_t gone, const struct ipsf_policy *policies, size_t n)
{
	return command(g, (struct ipsf_command){.kind = IPSF_CMD_REPLACE_POLICIES, .index = index, .n_removed = gone,
						.policies = policies, .n_policies = n});
}

/* To 10.2.0.to only. */
static struct ipsf_policy host_policy(uint8_t to, uint32_t reqid)
{
	struct ipsf_policy policy = protect_policy(1, reqid, 0);
	policy.destination.first = policy.destination.last = ipv4(10, 2, 0, to);
	return policy;
}

/* The SPI that a packet for 10.2.0.to leaves by; 0: it doesn't. */
static uint32_t leaves_by(struct gateway *g, uint8_t to)
{
	uint8_t bytes[300], tos;
	struct ipsf_path path;
	CHECK(send_packet(g, 100, to, 0) == IPSF_OK && ipsf_worker_step(g->out) == 1);
	return ipsf_port_memory_get(g->outer, bytes, sizeof bytes, &path, &tos) > 0 ? ipsf_read32(bytes) : 0;
}

static void install_child(struct gateway *g, uint32_t reqid, uint32_t spi)
{
	const struct ipsf_selector ts[2] = {net_selector(1), net_selector(2)};
	struct ipsf_sa_params params = sa_params(g, spi, ts);
	params.reqid = reqid;
	CHECK(command(g, (struct ipsf_command){.kind = IPSF_CMD_INSTALL_OUTBOUND, .sa = &params}) == IPSF_OK);
	CHECK(command(g, (struct ipsf_command){.kind = IPSF_CMD_ACTIVATE_OUTBOUND, .reqid = reqid, .spi = spi}) == IPSF_OK);
}

static void by_command(void)
{
	struct gateway a, b;
	const struct ipsf_policy whole = protect_policy(1, 1, 0), host = host_policy(7, 2), other = host_policy(7, 3);
	gateways_new(&a, &b, 64, false);
	install_child(&a, 1, 0x1001);
	install_child(&a, 2, 0x1002);
	CHECK(replace(&a, 0, 0, &whole, 1) == IPSF_OK && leaves_by(&a, 7) == 0x1001);
	CHECK(replace(&a, 1, 0, &host, 1) == IPSF_OK && leaves_by(&a, 7) == 0x1001); /* behind the one that matches already */
	CHECK(replace(&a, 0, 0, &host, 1) == IPSF_OK && leaves_by(&a, 7) == 0x1002 && leaves_by(&a, 8) == 0x1001);
	CHECK(replace(&a, 0, 1, &other, 1) == IPSF_OK && leaves_by(&a, 7) == 0); /* reqid 3 has no SA */
	CHECK(drops_of(a.out, IPSF_DROP_NO_SA) == 1);
	CHECK(ipsf_dataplane_policy_count(a.dp) == 3 && ipsf_dataplane_policy_memory(a.dp) > 0);
	CHECK(replace(&a, 0, 1, NULL, 0) == IPSF_OK && leaves_by(&a, 7) == 0x1001);
	CHECK(replace(&a, 0, 2, NULL, 0) == IPSF_OK && leaves_by(&a, 7) == 0);
	CHECK(drops_of(a.out, IPSF_DROP_NO_POLICY) == 1);
	CHECK(replace(&a, 0, 1, NULL, 0) == IPSF_EINVAL && replace(&a, 1, 0, &whole, 1) == IPSF_EINVAL);
	CHECK(replace(&a, 0, 0, NULL, 1) == IPSF_EINVAL);
	CHECK(publish(&a, &host, 1) == IPSF_OK && replace(&a, 1, 0, &whole, 1) == IPSF_OK);
	CHECK(leaves_by(&a, 7) == 0x1002 && leaves_by(&a, 9) == 0x1001);
	CHECK(conserved(a.out));
	gateway_free(&a);
	gateway_free(&b);
}

/* Children live as long as a policy or an SA names them, in whatever order these go. */
static void children(void)
{
	enum { N = 500 };
	struct gateway a, b;
	uint64_t seed = 1;
	gateways_new(&a, &b, 64, false);
	for (uint32_t round = 0; round < 4; round++) {
		size_t count = 0;
		for (uint32_t i = 0; i < N; i++) {
			const struct ipsf_policy pair[2] = {host_policy((uint8_t)i, i + 1), host_policy((uint8_t)(i + 1), i + 1)};
			CHECK(replace(&a, test_random(&seed) % (count + 1), 0, pair, 2) == IPSF_OK);
			count += 2;
			if (i % 2)
				install_child(&a, i + 1, 0x1000 + i);
		}
		for (uint32_t i = 1; i < N; i += 4)
			CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_REMOVE_OUTBOUND, .reqid = i + 1, .spi = 0x1000 + i}) == IPSF_OK);
		for (size_t gone; count; count -= gone) {
			const size_t index = test_random(&seed) % count;
			gone = 1 + test_random(&seed) % (count - index < 5 ? count - index : 5);
			CHECK(replace(&a, index, gone, NULL, 0) == IPSF_OK);
		}
		for (uint32_t i = 3; i < N; i += 4)
			CHECK(command(&a, (struct ipsf_command){.kind = IPSF_CMD_REMOVE_OUTBOUND, .reqid = i + 1, .spi = 0x1000 + i}) == IPSF_OK);
		CHECK(ipsf_dataplane_policy_count(a.dp) == 0 && ipsf_dataplane_sa_status(a.dp, NULL, 0) == 0);
	}
	gateway_free(&a);
	gateway_free(&b);
}

/* ---- beside workers ---- */

#define READERS 2
#define STEPS 4000
#define MOST 64

static struct ipsf_epoch epoch;
static _Atomic(struct ipsf_spd *) published;
static _Atomic bool ended;

/*
 * The policy of number k protects 10.2.0.k with reqid 2k + 1, but where the snapshot is an odd one with 2k + 2: whoever finds
 * reqids of both kinds in one snapshot has seen half a change.
 */
static void *look_up(void *argument)
{
	const unsigned worker = (unsigned)(uintptr_t)argument;
	uint64_t seed = worker;
	while (!atomic_load(&ended)) {
		ipsf_epoch_online(&epoch, worker);
		const struct ipsf_spd *spd = atomic_load(&published);
		unsigned kinds = 0;
		for (unsigned i = 0; i < 20; i++) {
			const uint8_t k = (uint8_t)(test_random(&seed) % (MOST + 8));
			const struct ipsf_flow flow = {.source = {10, 1, 0, 1}, .destination = {10, 2, 0, k}, .version = 4, .protocol = 17,
						       .ports = IPSF_PORTS_KNOWN};
			const struct ipsf_decision found = ipsf_spd_lookup(spd, &flow);
			CHECK(found.index < 0 ? found.drop == IPSF_DROP_NO_POLICY : (found.reqid - 1) / 2 == k);
			kinds |= found.index < 0 ? 0 : 1u << found.reqid % 2;
		}
		CHECK(kinds != 3);
		if (test_random(&seed) % 4 == 0)
			ipsf_epoch_offline(&epoch, worker);
	}
	ipsf_epoch_offline(&epoch, worker);
	return NULL;
}

static void free_spd(void *spd)
{
	ipsf_spd_free(spd);
}

static void show(struct ipsf_spd *next)
{
	CHECK(ipsf_epoch_reserve(&epoch, 1) == IPSF_OK);
	ipsf_epoch_retire(&epoch, free_spd, atomic_exchange(&published, next));
	ipsf_epoch_collect(&epoch);
}

/* Each step replaces all policies by others, of which there are more or fewer, in another order. */
static void beside_workers(void)
{
	static struct ipsf_policy policies[MOST];
	pthread_t readers[READERS];
	struct ipsf_spd *spd;
	uint64_t seed = 3;
	ipsf_epoch_init(&epoch);
	CHECK(ipsf_spd_compile(NULL, 0, &spd) == IPSF_OK);
	atomic_store(&published, spd);
	for (uintptr_t i = 0; i < READERS; i++)
		CHECK(pthread_create(&readers[i], NULL, look_up, (void *)i) == 0);
	for (uint32_t step = 0; step < STEPS; step++) {
		const size_t n = test_random(&seed) % MOST;
		const uint32_t first = (uint32_t)(test_random(&seed) % MOST);
		for (uint32_t i = 0; i < n; i++) {
			const uint8_t k = (uint8_t)((first + i) % MOST);
			policies[i] = host_policy(k, 2u * k + 1 + step % 2);
		}
		struct ipsf_spd *now = atomic_load(&published), *next;
		CHECK(ipsf_spd_splice(now, 0, ipsf_spd_count(now), policies, n, &next) == IPSF_OK);
		show(next);
	}
	atomic_store(&ended, true);
	for (unsigned i = 0; i < READERS; i++)
		CHECK(pthread_join(readers[i], NULL) == 0);
	ipsf_epoch_fini(&epoch);
	ipsf_spd_free(atomic_load(&published));
}

int main(void)
{
	by_command();
	children();
	beside_workers();
	return check_summary("test_policies");
}
