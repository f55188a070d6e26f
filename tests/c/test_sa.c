/*
 * What makes an SA and what must not; that nothing is left of one that could not be made; that workers who share an outbound SA
 * never use a number twice nor one beyond the last.
 */
#include <malloc.h>
#include <pthread.h>

#include "child.h"
#include "esp_pair.h"

static void nothing_wrong_is_accepted(void)
{
	struct ipsf_sa_params good = params_of(IPSF_MODE_TUNNEL, 4, 20), p;
	struct ipsf_sa_out *out;
	struct ipsf_sa_in *in;

#define REFUSED(change) \
	do { \
		p = good; \
		change; \
		CHECK(ipsf_sa_out_new(&p, NULL, &out) == IPSF_EINVAL && ipsf_sa_in_new(&p, NULL, &in) == IPSF_EINVAL); \
	} while (0)
	REFUSED(p.spi = 0);
	REFUSED(p.spi = 255);
	REFUSED(p.encryption = 12);
	REFUSED(p.key_length = 16); /* the salt is missing */
	REFUSED(p.key_length = 0);
	REFUSED(p.key_length = 255);
	REFUSED(p.mode = 2);
	REFUSED(p.copy_dscp = 4);
	REFUSED(p.path.remote.version = 0);
	REFUSED(p.path.local.version = 6);
	REFUSED(p.path.remote_port = 0);
	REFUSED(p.initial_sequence = UINT64_C(1) << 32);
#undef REFUSED
	CHECK(ipsf_sa_out_new(&good, "no such engine", &out) == IPSF_ENOENT);
	CHECK(ipsf_sa_in_new(&good, "no such engine", &in) == IPSF_ENOENT);
	ipsf_sa_out_free(NULL);
	ipsf_sa_in_free(NULL);
}

static void nothing_wrong_is_accepted_inbound(void)
{
	struct ipsf_sa_params good = params_of(IPSF_MODE_TUNNEL, 4, 20), p;
	struct ipsf_selector s;
	struct ipsf_sa_in *in;

#define REFUSED(change) \
	do { \
		p = good; \
		s = site(4, 1); \
		p.local_ts = &s; \
		p.n_local_ts = 1; \
		change; \
		CHECK(ipsf_sa_in_new(&p, NULL, &in) == IPSF_EINVAL); \
		p.remote_ts = p.local_ts; \
		p.n_remote_ts = p.n_local_ts; \
		p.local_ts = good.local_ts; \
		p.n_local_ts = 1; \
	} while (0)
	REFUSED(p.local_ts = NULL);
	REFUSED(p.n_local_ts = 0);
	REFUSED(p.n_local_ts = 65536);
	REFUSED(s.first.version = 5);
	REFUSED(s.last.version = 6);
	REFUSED(s.last.bytes[0] = 9);
	REFUSED(s.port_first = 2; s.port_last = 1);
	REFUSED(p.replay_window = 63);
	REFUSED(p.replay_window = 65537);
#undef REFUSED
	p = good;
	p.replay_window = 0;
	CHECK(ipsf_sa_in_new(&p, NULL, &in) == IPSF_OK);
	ipsf_sa_in_free(in);
}

static void fields_are_kept(void)
{
	struct ipsf_sa_params p = params_of(IPSF_MODE_TRANSPORT, 6, 36);
	struct ipsf_sa_out *out;
	struct ipsf_sa_in *in;

	p.copy_dscp = IPSF_COPY_OUT;
	p.initial_sequence = 77;
	CHECK(ipsf_sa_out_new(&p, NULL, &out) == IPSF_OK && ipsf_sa_in_new(&p, NULL, &in) == IPSF_OK);
	CHECK(out->spi == SPI && out->carrier == IPSF_CARRIER_UDP6 && out->mode == IPSF_MODE_TRANSPORT);
	CHECK(out->copy_dscp && !in->copy_dscp && out->last_sequence == UINT32_MAX);
	CHECK(!memcmp(out->salt, p.key + 32, 4) && !memcmp(in->salt, p.key + 32, 4));
	CHECK(ipsf_sa_out_sequence(out) == 77 && ipsf_replay_top(in->replay) == 77);
	CHECK(in->local_ts != p.local_ts && in->remote_ts != p.remote_ts && in->n_local == 4 && in->n_remote == 4);
	CHECK(!memcmp(in->local_ts, p.local_ts, 4 * sizeof *p.local_ts));
	CHECK((uintptr_t)out % IPSF_CACHE_LINE == 0);
	ipsf_sa_out_free(out);
	ipsf_sa_in_free(in);
	p.esn = 1;
	p.udp_encap = 0;
	p.path.remote_port = 0;
	CHECK(ipsf_sa_out_new(&p, NULL, &out) == IPSF_OK && out->last_sequence == UINT64_MAX && out->carrier == IPSF_CARRIER_RAW6);
	ipsf_sa_out_free(out);
}

/* An engine that makes no key: what was made before it must go again (ASan would find it). */
static int refuse_key(struct ipsf_aead_key *key, const uint8_t *bytes, size_t length)
{
	(void)key, (void)bytes, (void)length;
	return IPSF_ECRYPTO;
}

static void no_key(struct ipsf_aead_key *key)
{
	(void)key;
}

static void failure_leaves_nothing(void)
{
	const struct ipsf_aead_engine engine = {.name = "refuses", .key_size = 64, .key_set = refuse_key, .key_clear = no_key};
	struct ipsf_sa_params p = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct ipsf_sa_out *out = NULL;
	struct ipsf_sa_in *in = NULL;

	CHECK(ipsf_sa_out_create(&p, &engine, 1, &out) == IPSF_ECRYPTO && !out);
	CHECK(ipsf_sa_in_create(&p, &engine, 1, &in) == IPSF_ECRYPTO && !in);
}

/* A gateway with 100,000 pairs: malloc's header, the child and its place in the table (half of which is used) included. */
static void a_pair_takes_a_kibibyte(void)
{
	struct ipsf_sa_params p = params_of(IPSF_MODE_TUNNEL, 4, 36);
	struct ipsf_selector dns = site(4, 1);
	struct ipsf_keycache *cache;
	struct ipsf_sa_out *out;
	struct ipsf_sa_in *in;
	size_t bytes = sizeof(struct ipsf_child) + 4 * sizeof(void *) + sizeof in;

	dns.protocol = 17;
	p.replay_window = 2048;
	p.local_ts = &dns;
	p.n_local_ts = p.n_remote_ts = 1;
	CHECK(ipsf_keycache_new(ipsf_aead_find("auto"), 1, &cache) == IPSF_OK);
	CHECK(ipsf_sa_out_share(&p, cache, &out) == IPSF_OK && ipsf_sa_in_share(&p, cache, &in) == IPSF_OK);
	CHECK(!in->simple);
	bytes += malloc_usable_size(out->memory) + malloc_usable_size(in) + 3 * sizeof(size_t);
	CHECK(bytes <= 1024);
	ipsf_sa_out_free(out);
	ipsf_sa_in_free(in);
	p.n_local_ts = 0;
	CHECK(ipsf_sa_in_share(&p, cache, &in) == IPSF_EINVAL);
	ipsf_keycache_free(cache);
}

static void algorithm_table(void)
{
	CHECK(ipsf_algorithm_find(20, 20)->key == 16 && ipsf_algorithm_find(20, 28)->key == 24 && ipsf_algorithm_find(20, 36)->key == 32);
	CHECK(!ipsf_algorithm_find(20, 32) && !ipsf_algorithm_find(28, 36));
	CHECK(ipsf_esp_overhead(20, IPSF_MODE_TUNNEL, 1, 4) == 8 + 8 + 3 + 2 + 16 + 20 + 8);
	CHECK(ipsf_esp_overhead(20, IPSF_MODE_TUNNEL, 0, 6) == 8 + 8 + 3 + 2 + 16 + 40);
	CHECK(ipsf_esp_overhead(20, IPSF_MODE_TRANSPORT, 0, 4) == 8 + 8 + 3 + 2 + 16);
	CHECK(ipsf_esp_overhead(1, IPSF_MODE_TUNNEL, 0, 4) == IPSF_EINVAL);
}

/* ---- workers that share one outbound SA ---- */

#define WORKERS 4
#define NUMBERS 20000u

struct shared {
	struct ipsf_sa_out *sa;
	_Atomic uint8_t used[NUMBERS + 1]; /* how often: the number less the first */
	uint64_t before;
	_Atomic uint64_t sealed, refused, soft, hard;
	unsigned refusal;
};

struct worker {
	struct shared *shared;
	unsigned number;
	pthread_t thread;
};

static void account(struct shared *s, const struct ipsf_packet *packet)
{
	if (packet->drop) {
		CHECK(packet->drop == s->refusal);
		atomic_fetch_add(&s->refused, 1);
		return;
	}
	CHECK(packet->sequence > s->before && packet->sequence <= s->before + NUMBERS);
	CHECK(ipsf_read32(packet->data + 4) == (uint32_t)packet->sequence && ipsf_read64(packet->data + 8) == packet->sequence);
	if (packet->sequence - s->before <= NUMBERS)
		CHECK(atomic_fetch_add(&s->used[packet->sequence - s->before], 1) == 0);
	atomic_fetch_add(&s->sealed, 1);
}

/* Runs of 1 to 64 packets until the SA has given no number for a while. */
static void *seal_until_exhausted(void *argument)
{
	struct worker *w = argument;
	struct shared *s = w->shared;
	struct slot *slots = calloc(IPSF_BATCH_MAX, sizeof *slots);
	struct ipsf_packet *packets[IPSF_BATCH_MAX];
	uint64_t seed = w->number + 1;
	uint8_t plain[64];
	size_t length = udp_packet(plain, 4, false, 12, 0);

	for (unsigned idle = 0; idle < 3;) {
		unsigned n = 1 + (unsigned)(test_random(&seed) % IPSF_BATCH_MAX), passed = 0, notices;

		for (unsigned i = 0; i < n; i++) {
			slot_put(&slots[i], plain, length);
			CHECK(ipsf_ip_parse(&slots[i].packet));
			packets[i] = &slots[i].packet;
		}
		notices = ipsf_esp_encap(s->sa, w->number, packets, n);
		atomic_fetch_add(&s->soft, notices & IPSF_NOTICE_SOFT_LIFETIME ? 1 : 0);
		atomic_fetch_add(&s->hard, notices & IPSF_NOTICE_HARD_LIFETIME ? 1 : 0);
		for (unsigned i = 0; i < n; i++) {
			account(s, packets[i]);
			passed += !packets[i]->drop;
		}
		idle += passed == 0;
	}
	free(slots);
	return NULL;
}

static void share(const char *engine, struct ipsf_sa_params *p, unsigned refusal, uint64_t numbers)
{
	static struct shared s;
	struct worker workers[WORKERS];

	memset(&s, 0, sizeof s);
	s.before = p->initial_sequence;
	s.refusal = refusal;
	CHECK(ipsf_sa_out_create(p, ipsf_aead_find(engine), WORKERS, &s.sa) == IPSF_OK);
	for (unsigned i = 0; i < WORKERS; i++) {
		workers[i] = (struct worker){.shared = &s, .number = i};
		CHECK(pthread_create(&workers[i].thread, NULL, seal_until_exhausted, &workers[i]) == 0);
	}
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(workers[i].thread, NULL);
	CHECK(s.sealed == numbers && ipsf_sa_out_sequence(s.sa) == s.before + numbers); /* all used, none twice */
	CHECK(s.soft == 1 && s.hard == 1);                                            /* told once, by whichever worker */
	CHECK(ipsf_sa_dropped(&s.sa->drops, refusal) == s.refused && s.refused > 0);
	CHECK(atomic_load(&s.sa->bytes) == numbers * 32);
	ipsf_sa_out_free(s.sa);
}

static void workers_share_numbers(const char *engine)
{
	struct ipsf_sa_params p = params_of(IPSF_MODE_TUNNEL, 4, 20);

	p.initial_sequence = UINT32_MAX - NUMBERS;
	share(engine, &p, IPSF_DROP_SEQUENCE_EXHAUSTED, NUMBERS);
	p.esn = 1;
	p.initial_sequence = UINT64_MAX - NUMBERS;
	p.soft_packets = UINT64_MAX - 100;
	share(engine, &p, IPSF_DROP_SEQUENCE_EXHAUSTED, NUMBERS);
	p.initial_sequence = 0;
	p.soft_packets = 100;
	p.hard_packets = NUMBERS - 7;
	share(engine, &p, IPSF_DROP_SA_EXPIRED, NUMBERS - 7);
}

int main(void)
{
	nothing_wrong_is_accepted();
	nothing_wrong_is_accepted_inbound();
	fields_are_kept();
	failure_leaves_nothing();
	algorithm_table();
	a_pair_takes_a_kibibyte();
	for (size_t i = 0; i < ipsf_engine_count(); i++)
		workers_share_numbers(ipsf_engine_name(i));
	return check_summary("test_sa");
}
