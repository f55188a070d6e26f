/*
 * Where an SA ends and what it tells: sequence numbers, soft and hard limits, copies in one batch, a peer that moves.
 */
#include "esp_pair.h"

static struct slot slots[IPSF_BATCH_MAX];
static uint8_t plain[256];

static void put_all(unsigned n)
{
	size_t length = udp_packet(plain, 4, false, 80, 0); /* 100 bytes */

	for (unsigned i = 0; i < n; i++)
		slot_put(&slots[i], plain, length);
}

static unsigned dropped(unsigned n, unsigned reason)
{
	unsigned count = 0;

	for (unsigned i = 0; i < n; i++)
		count += slots[i].packet.drop == reason;
	return count;
}

/* s3.3.3: the last number is given, none after it, and it never begins anew. */
static void test_last_number(bool esn)
{
	uint64_t last = esn ? UINT64_MAX : UINT32_MAX;

	for (uint64_t left = 0; left < IPSF_BATCH_MAX; left += 7) {
		struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
		unsigned soft = esn ? 0 : IPSF_NOTICE_SOFT_LIFETIME;
		struct pair pair;

		params.esn = esn;
		params.initial_sequence = last - left;
		pair_init(&pair, &params, "auto");
		for (unsigned round = 0; round < 3; round++) {
			put_all(IPSF_BATCH_MAX);
			CHECK(slots_seal(&pair, slots, IPSF_BATCH_MAX) == (round ? 0 : soft | IPSF_NOTICE_HARD_LIFETIME));
			CHECK(dropped(IPSF_BATCH_MAX, IPSF_DROP_NONE) == (round ? 0 : left));
			CHECK(dropped(IPSF_BATCH_MAX, IPSF_DROP_SEQUENCE_EXHAUSTED) == IPSF_BATCH_MAX - (round ? 0 : left));
			CHECK(ipsf_sa_out_sequence(pair.out) == last);
			for (uint64_t i = 0; i < left && !round; i++) /* the first ones, in their order */
				CHECK(slots[i].packet.sequence == last - left + 1 + i);
			slots_open(&pair, slots, IPSF_BATCH_MAX);
			CHECK(pair.in->packets == left && pair.in->replay->top == last);
		}
		CHECK(ipsf_sa_dropped(&pair.out->drops, IPSF_DROP_SEQUENCE_EXHAUSTED) == 3 * IPSF_BATCH_MAX - left);
		pair_fini(&pair);
	}
}

/*
 * Batches of n packets of 100 bytes until well behind every limit; how often and after how many packets each notice
 * came.
 */
struct course {
	unsigned soft, hard, soft_at, hard_at, passed, expired;
};

static void note(struct course *course, unsigned notices, unsigned n, unsigned total)
{
	course->soft += (notices & IPSF_NOTICE_SOFT_LIFETIME) != 0;
	course->hard += (notices & IPSF_NOTICE_HARD_LIFETIME) != 0;
	if (notices & IPSF_NOTICE_SOFT_LIFETIME)
		course->soft_at = total;
	if (notices & IPSF_NOTICE_HARD_LIFETIME)
		course->hard_at = total;
	course->passed += dropped(n, IPSF_DROP_NONE);
	course->expired += dropped(n, IPSF_DROP_SA_EXPIRED);
}

static void run(const struct ipsf_sa_params *out, const struct ipsf_sa_params *in, unsigned n, struct course *sealing,
		struct course *opening)
{
	struct ipsf_sa_params arriving = inbound(in);
	struct pair pair = { .path = arriving.path };

	CHECK(!ipsf_sa_out_new(out, "auto", &pair.out) && !ipsf_sa_in_new(&arriving, "auto", &pair.in));
	memset(sealing, 0, sizeof *sealing);
	memset(opening, 0, sizeof *opening);
	for (unsigned total = n; total <= 400; total += n) {
		put_all(n);
		note(sealing, slots_seal(&pair, slots, n), n, total);
		note(opening, slots_open(&pair, slots, n), n, total);
	}
	pair_fini(&pair);
}

/* Packets end exactly at the limit when sent, and at the limit's batch when received (the peer counts for itself). */
static void test_packet_limits(unsigned n)
{
	struct ipsf_sa_params limited = params_of(IPSF_MODE_TUNNEL, 4, 20), free_of_limits = limited;
	unsigned all = 400 / n * n;
	struct course sealing, opening;

	limited.soft_packets = 100;
	limited.hard_packets = 150;
	run(&limited, &free_of_limits, n, &sealing, &opening);
	CHECK(sealing.soft == 1 && sealing.soft_at == (100 + n - 1) / n * n);
	CHECK(sealing.passed == 150 && sealing.expired == all - 150);
	CHECK(sealing.hard == 1 && sealing.hard_at == (150 + n) / n * n); /* when the first packet is refused */
	CHECK(opening.passed == 150 && opening.soft == 0 && opening.hard == 0);
	run(&free_of_limits, &limited, n, &sealing, &opening);
	CHECK(sealing.passed == all && sealing.soft == 0 && sealing.hard == 0);
	CHECK(opening.soft == 1 && opening.soft_at == (100 + n - 1) / n * n);
	CHECK(opening.hard == 1 && opening.hard_at == (150 + n - 1) / n * n);
	CHECK(opening.passed == opening.hard_at && opening.expired == all - opening.passed);
}

/* Bytes end with the batch that passes the limit. */
static void test_byte_limits(unsigned n)
{
	struct ipsf_sa_params limited = params_of(IPSF_MODE_TUNNEL, 4, 20), free_of_limits = limited;
	unsigned all = 400 / n * n;
	struct course sealing, opening;

	limited.soft_bytes = 9901; /* within the 100th packet */
	limited.hard_bytes = 15000;
	run(&limited, &free_of_limits, n, &sealing, &opening);
	CHECK(sealing.soft == 1 && sealing.soft_at == (100 + n - 1) / n * n);
	CHECK(sealing.hard == 1 && sealing.hard_at == (150 + n - 1) / n * n);
	CHECK(sealing.passed == sealing.hard_at && sealing.expired == all - sealing.passed);
	run(&free_of_limits, &limited, n, &sealing, &opening);
	CHECK(opening.soft == 1 && opening.soft_at == (100 + n - 1) / n * n);
	CHECK(opening.hard == 1 && opening.hard_at == (150 + n - 1) / n * n);
	CHECK(opening.passed == opening.hard_at && opening.expired == all - opening.passed);
}

/* A notice that found no room in the ring of events is asked for again: the pipeline clears its bit in `told`. */
static void test_notice_again(void)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct pair pair;

	params.hard_packets = 10;
	pair_init(&pair, &params, "auto");
	put_all(20);
	CHECK(slots_seal(&pair, slots, 20) == IPSF_NOTICE_HARD_LIFETIME);
	CHECK(slots_open(&pair, slots, 20) == (IPSF_NOTICE_FIRST_INBOUND | IPSF_NOTICE_HARD_LIFETIME));
	for (unsigned i = 0; i < 3; i++) {
		pair.out->told = pair.in->told = 0;
		put_all(1);
		CHECK(slots_seal(&pair, slots, 1) == IPSF_NOTICE_HARD_LIFETIME && slots[0].packet.drop == IPSF_DROP_SA_EXPIRED);
		put_all(1);
		CHECK(slots_open(&pair, slots, 1) == (IPSF_NOTICE_FIRST_INBOUND | IPSF_NOTICE_HARD_LIFETIME));
		CHECK(slots[0].packet.drop == IPSF_DROP_SA_EXPIRED && pair.in->packets == 10);
	}
	pair_fini(&pair);
}

/* Copies within one batch: the window can't know them before the first is opened; exactly one passes all the same. */
static void test_copies_in_a_batch(const char *engine)
{
	static struct slot originals[16];
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	uint64_t seed = 7;

	for (unsigned round = 0; round < 100; round++) {
		unsigned times[16] = { 0 }, passed[16] = { 0 };
		struct pair pair;

		pair_init(&pair, &params, engine);
		put_all(16);
		slots_seal(&pair, slots, 16);
		memcpy(originals, slots, sizeof originals);
		for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) {
			unsigned which = (unsigned)(test_random(&seed) % 16);
			const struct slot *original = &originals[which];

			times[which]++;
			slot_put(&slots[i], original->bytes + original->packet.headroom, original->packet.length);
		}
		slots_open(&pair, slots, IPSF_BATCH_MAX);
		for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) {
			CHECK(slots[i].packet.drop == IPSF_DROP_NONE || slots[i].packet.drop == IPSF_DROP_REPLAY);
			passed[slots[i].packet.sequence - 1] += !slots[i].packet.drop;
		}
		for (unsigned i = 0; i < 16; i++)
			CHECK(passed[i] == (times[i] > 0));
		pair_fini(&pair);
	}
}

/* ---- RFC 7296 s2.23: the peer's new path ---- */

static void seal_one(struct pair *pair, struct slot *slot)
{
	size_t length = udp_packet(plain, 4, false, 80, 0);

	slot_put(slot, plain, length);
	slots_seal(pair, slot, 1);
}

/* Opens one packet as if it came from this port of the peer; whether that told of a move. */
static bool arrives(struct pair *pair, struct slot *slot, uint16_t port)
{
	struct ipsf_packet *packet = &slot->packet;
	struct ipsf_path path = pair->path;
	unsigned notices;

	path.remote_port = port;
	packet->path = &path;
	notices = ipsf_esp_decap(pair->in, 0, &packet, 1, &pair->moved);
	CHECK(!(notices & IPSF_NOTICE_PEER_MOVED) || pair->moved.remote_port == port);
	return notices & IPSF_NOTICE_PEER_MOVED;
}

static void test_peer_moves(bool udp_encap)
{
	struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 4, 20);
	struct slot copy;
	struct pair pair;

	params.udp_encap = udp_encap;
	pair_init(&pair, &params, "auto");
	for (unsigned i = 0; i < 8; i++)
		seal_one(&pair, &slots[i]);
	copy = slots[4];
	copy.packet.data = copy.bytes + (slots[4].packet.data - slots[4].bytes);
	CHECK(!arrives(&pair, &slots[0], 4500));                 /* where it was negotiated */
	CHECK(arrives(&pair, &slots[2], 5000) == udp_encap);     /* elsewhere: told once */
	CHECK(!arrives(&pair, &slots[3], 5000));
	CHECK(!arrives(&pair, &slots[1], 4500));                 /* authentic, but old: took the old way */
	CHECK(!arrives(&pair, &slots[4], 5000));
	CHECK(!arrives(&pair, &copy, 6000) && copy.packet.drop == IPSF_DROP_REPLAY);
	slots[5].packet.data[20] ^= 1;
	CHECK(!arrives(&pair, &slots[5], 6000) && slots[5].packet.drop == IPSF_DROP_INTEGRITY);
	CHECK(arrives(&pair, &slots[6], 4500) == udp_encap);     /* and back */
	CHECK(!arrives(&pair, &slots[7], 4500));
	pair_fini(&pair);
}

/* In one batch the newest packet decides, wherever it stands. */
static void test_newest_of_a_batch(void)
{
	for (unsigned newest = 0; newest < 8; newest++) {
		struct ipsf_sa_params params = params_of(IPSF_MODE_TUNNEL, 6, 20);
		struct ipsf_packet *packets[8];
		struct ipsf_path paths[8];
		struct pair pair;

		pair_init(&pair, &params, "auto");
		for (unsigned i = 0; i < 8; i++)
			seal_one(&pair, &slots[i]);
		for (unsigned i = 0; i < 8; i++) {
			paths[i] = pair.path;
			paths[i].remote.bytes[15] = (uint8_t)(10 + i);
			packets[i] = &slots[(i - newest + 7) % 8].packet; /* packets[newest] is the eighth */
			packets[i]->path = &paths[i];
		}
		CHECK(ipsf_esp_decap(pair.in, 0, packets, 8, &pair.moved) == (IPSF_NOTICE_FIRST_INBOUND | IPSF_NOTICE_PEER_MOVED));
		CHECK(pair.moved.remote.bytes[15] == 10 + newest);
		pair_fini(&pair);
	}
}

int main(void)
{
	static const unsigned batches[] = { 1, 3, 16, 64 };

	test_last_number(false);
	test_last_number(true);
	for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
		test_packet_limits(batches[i]);
		test_byte_limits(batches[i]);
	}
	test_notice_again();
	for (size_t i = 0; i < ipsf_engine_count(); i++)
		test_copies_in_a_batch(ipsf_engine_name(i));
	test_peer_moves(true);
	test_peer_moves(false);
	test_newest_of_a_batch();
	return check_summary("test_esp_limits");
}
