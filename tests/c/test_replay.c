/*
 * The replay window beside a naive oracle: a byte for each number ever accepted, and the rule of RFC 4303 s3.4.3 as it reads.
 * Small windows are tried with every number around them; large ones with random walks.
 */
#include "check.h"
#include "replay.h"

#define SPAN (1u << 20) /* numbers that an oracle remembers, from base */

struct oracle {
	uint64_t base, top;
	uint32_t size;
	uint8_t accepted[SPAN];
};

static struct oracle oracle;

static void oracle_reset(uint32_t size, uint64_t top)
{
	oracle.size = size;
	oracle.top = top;
	oracle.base = top > SPAN / 4 ? top - SPAN / 4 : 0;
	memset(oracle.accepted, 0, SPAN);
	memset(oracle.accepted, 1, (size_t)(top - oracle.base) + 1); /* a window taken over counts all before as seen */
}

static void oracle_reset_small(uint32_t size)
{
	oracle.size = size;
	oracle.base = oracle.top = 0;
	memset(oracle.accepted, 0, 1024); /* more than the exhaustive tests reach */
}

static int oracle_allows(uint64_t sequence)
{
	if (sequence == 0)
		return 0;
	if (sequence > oracle.top)
		return 1;
	return oracle.size == 0 || (oracle.top - sequence < oracle.size && !oracle.accepted[sequence - oracle.base]);
}

static int oracle_update(uint64_t sequence)
{
	if (!oracle_allows(sequence))
		return 0;
	oracle.accepted[sequence - oracle.base] = 1;
	if (sequence > oracle.top)
		oracle.top = sequence;
	return 1;
}

static struct ipsf_replay *fresh(uint32_t size, bool esn, uint64_t top)
{
	struct ipsf_replay *replay = NULL;

	CHECK(ipsf_replay_create(size, esn, top, &replay) == IPSF_OK);
	oracle_reset(size, top);
	return replay;
}

static void step(struct ipsf_replay *replay, uint64_t sequence)
{
	CHECK(ipsf_replay_check(replay, sequence) == oracle_allows(sequence));
	CHECK(ipsf_replay_update(replay, sequence) == oracle_update(sequence));
	CHECK(ipsf_replay_top(replay) == oracle.top);
}

/* A window at every place of its ring: after one packet every number around it, twice. */
static void exhaustive_pairs(uint32_t size)
{
	for (uint64_t top = 1; top <= 4u * 64; top++) {
		struct ipsf_replay *replay;

		CHECK(ipsf_replay_create(size, false, 0, &replay) == IPSF_OK);
		oracle_reset_small(size);
		step(replay, top);
		for (uint64_t sequence = 0; sequence <= top + 3; sequence++) {
			step(replay, sequence);
			step(replay, sequence);
		}
		ipsf_replay_free(replay);
	}
}

/* Every sequence of four out of the numbers where something changes: word borders, window borders, jumps over the ring. */
static void exhaustive_orders(uint32_t size)
{
	const uint64_t numbers[] = {1, 2, 63, 64, 65, size - 1, size, size + 1, size + 63, size + 64, 2 * size, 4 * size + 130};
	const unsigned n = sizeof numbers / sizeof numbers[0];

	for (unsigned code = 0; code < n * n * n * n; code++) {
		struct ipsf_replay *replay;

		CHECK(ipsf_replay_create(size, false, 0, &replay) == IPSF_OK);
		oracle_reset_small(size);
		for (unsigned i = 0, c = code; i < 4; i++, c /= n)
			step(replay, numbers[c % n]);
		for (unsigned i = 0; i < n; i++) /* what was accepted stays refused */
			step(replay, numbers[i]);
		ipsf_replay_free(replay);
	}
}

/* Every jump from every place of the ring, over a window that is full: what leaves is forgotten to the bit, what stays is not. */
static void exhaustive_jumps(uint32_t size)
{
	for (uint64_t top = size; top < size + 128u; top++) {
		for (uint64_t jump = 1; jump <= size + 130u; jump++) {
			struct ipsf_replay *replay;

			CHECK(ipsf_replay_create(size, false, 0, &replay) == IPSF_OK);
			oracle_reset_small(size);
			for (uint64_t sequence = top - size + 1; sequence <= top; sequence += 1 + sequence % 3)
				step(replay, sequence);
			step(replay, top + jump);
			for (uint64_t sequence = top; sequence <= top + jump; sequence++)
				CHECK(ipsf_replay_check(replay, sequence) == oracle_allows(sequence));
			for (uint64_t sequence = 1; sequence < top + jump; sequence += 1 + sequence % 2)
				step(replay, sequence);
			ipsf_replay_free(replay);
		}
	}
}

static void random_walk(uint32_t size, uint64_t top, bool esn, uint64_t seed)
{
	struct ipsf_replay *replay = fresh(size, esn, top);

	for (unsigned i = 0; i < 30000; i++) {
		uint64_t r = test_random(&seed), reach = r % 97 == 0 ? 3u * size : r % 7 == 0 ? size + 70 : 40;
		uint64_t at = oracle.top + test_random(&seed) % 5;
		uint64_t back = test_random(&seed) % (reach + 1);

		if (r % 97 == 1)
			at += test_random(&seed) % (size + 200); /* a jump forward, at times over the whole window */
		if (at - oracle.base >= SPAN)
			break;
		if (at - oracle.base < back)
			back = 0;
		step(replay, at - back);
	}
	ipsf_replay_free(replay);
}

/* RFC 4303 app. A2.2 in one sentence: the only number with these low bits in [bottom of window, bottom + 2^32). */
static uint64_t oracle_reconstruct(uint64_t top, uint32_t size, uint32_t low)
{
	__int128 bottom = (__int128)top - size + 1;
	__int128 number = (bottom >> 32) * ((__int128)1 << 32) + low;

	while (number < bottom)
		number += (__int128)1 << 32;
	return number < 0 ? 0 : (uint64_t)number;
}

static void reconstruct_around(uint64_t top, uint32_t size)
{
	struct ipsf_replay *replay;

	CHECK(ipsf_replay_create(size, true, top, &replay) == IPSF_OK);
	for (int64_t d = -70; d <= 70; d++) {
		uint32_t near = (uint32_t)(top + (uint64_t)d), edge = (uint32_t)(top - size + (uint64_t)d);

		CHECK(ipsf_replay_reconstruct(replay, near) == oracle_reconstruct(top, size, near));
		CHECK(ipsf_replay_reconstruct(replay, edge) == oracle_reconstruct(top, size, edge));
		CHECK(ipsf_replay_reconstruct(replay, (uint32_t)d) == oracle_reconstruct(top, size, (uint32_t)d));
	}
	ipsf_replay_free(replay);
}

/* Tops around a multiple of 2^32, and where the window's bottom passes it: cases A and B of A2.1 and the border between. */
static void reconstruct_agrees(void)
{
	const uint64_t bases[] = {0, UINT64_C(1) << 32, UINT64_C(5) << 32, UINT64_C(0xffffffff) << 32};
	const uint32_t sizes[] = {64, 100, 2048, 65536};

	for (unsigned b = 0; b < 4; b++)
		for (unsigned s = 0; s < 4; s++)
			for (int64_t d = -5; d <= 70; d++) {
				if (b || d >= 0)
					reconstruct_around(bases[b] + (uint64_t)d, sizes[s]);
				reconstruct_around(bases[b] + sizes[s] - 5 + (uint64_t)(d + 5), sizes[s]);
			}
}

/* The high half is not sent: a stream that crosses 2^32 in disorder is put together from its low halves alone. */
static void wrap_over_2_32(void)
{
	const uint64_t start = (UINT64_C(1) << 32) - 5000;
	struct ipsf_replay *replay = fresh(2048, true, start);

	for (uint64_t i = 1; i < 10000; i++) {
		uint64_t sequence = start + (i ^ 37); /* neighbours change places */

		CHECK(ipsf_replay_reconstruct(replay, (uint32_t)sequence) == sequence);
		step(replay, sequence);
		CHECK(!ipsf_replay_check(replay, ipsf_replay_reconstruct(replay, (uint32_t)sequence)));
	}
	CHECK(ipsf_replay_top(replay) > UINT64_C(1) << 32);
	ipsf_replay_free(replay);
}

static void refuses(void)
{
	const uint32_t bad[] = {1, 63, 65537, UINT32_MAX};
	struct ipsf_replay *replay;

	for (unsigned i = 0; i < 4; i++)
		CHECK(ipsf_replay_new(bad[i], 0, &replay) == IPSF_EINVAL);
	CHECK(ipsf_replay_create(64, false, UINT64_C(1) << 32, &replay) == IPSF_EINVAL);
	ipsf_replay_free(NULL);
}

int main(void)
{
	const uint32_t small[] = {0, 64, 65, 100, 127, 128, 129, 192}, large[] = {64, 1000, 2048, 4097, 32768};

	refuses();
	for (unsigned i = 0; i < sizeof small / sizeof small[0]; i++) {
		exhaustive_pairs(small[i]);
		if (small[i])
			exhaustive_orders(small[i]);
	}
	for (unsigned i = 0; i < sizeof large / sizeof large[0]; i++) {
		random_walk(large[i], 0, false, i + 1);
		random_walk(large[i], 77777, true, i + 100);
		random_walk(large[i], (UINT64_C(1) << 32) - 1000, true, i + 200);
	}
	random_walk(65536, 0, false, 7);
	exhaustive_jumps(64);
	exhaustive_jumps(100);
	exhaustive_jumps(128);
	reconstruct_agrees();
	wrap_over_2_32();
	return check_summary("test_replay");
}
