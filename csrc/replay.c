#include "replay.h"

#include <stdlib.h>

static uint32_t ring_words(uint32_t size)
{
	uint32_t needed = size / 64 + 2, words = 1;

	while (words < needed)
		words *= 2;
	return words;
}

int ipsf_replay_create(uint32_t size, bool esn, uint64_t top, struct ipsf_replay **replay)
{
	uint32_t words = ring_words(size);
	struct ipsf_replay *r;

	if (size && (size < IPSF_REPLAY_MIN || size > IPSF_REPLAY_MAX))
		return IPSF_EINVAL;
	if (!esn && top > UINT32_MAX)
		return IPSF_EINVAL;
	r = calloc(1, sizeof *r + words * sizeof r->words[0]);
	if (!r)
		return IPSF_ENOMEM;
	r->top = top;
	r->size = size;
	r->word_mask = words - 1;
	r->esn = esn;
	if (top) { /* what was before a take-over can't be told apart: all of it counts as seen */
		memset(r->words, 0xff, words * sizeof r->words[0]);
		r->words[(top >> 6) & r->word_mask] = UINT64_MAX >> (63 - (top & 63));
	}
	*replay = r;
	return IPSF_OK;
}

int ipsf_replay_new(uint32_t size, int esn, struct ipsf_replay **replay)
{
	return ipsf_replay_create(size, esn, 0, replay);
}

void ipsf_replay_free(struct ipsf_replay *replay)
{
	free(replay);
}

uint64_t ipsf_replay_top(const struct ipsf_replay *replay)
{
	return __atomic_load_n(&replay->top, __ATOMIC_RELAXED); /* statistics ask while the owner works */
}

/* RFC 4303 app. A2.2; 0 (never valid) for a number that would lie before the first 2^32. */
uint64_t ipsf_replay_reconstruct(const struct ipsf_replay *replay, uint32_t low)
{
	uint32_t window = replay->size ? replay->size : IPSF_REPLAY_MIN;
	uint32_t top_low = (uint32_t)replay->top, high = (uint32_t)(replay->top >> 32);
	uint32_t bottom = top_low - window + 1; /* modulo 2^32 */

	if (!replay->esn)
		return low;
	if (top_low >= window - 1)              /* case A: the window lies within one subspace */
		high += low < bottom;
	else if (low >= bottom) {               /* case B: it reaches back into the one before */
		if (!high)
			return 0;
		high--;
	}
	return (uint64_t)high << 32 | low;
}

static bool seen(const struct ipsf_replay *replay, uint64_t sequence)
{
	return replay->words[(sequence >> 6) & replay->word_mask] >> (sequence & 63) & 1;
}

int ipsf_replay_check(const struct ipsf_replay *replay, uint64_t sequence)
{
	if (!sequence) /* the first packet has number 1 */
		return 0;
	if (!replay->size || sequence > replay->top)
		return 1;
	return replay->top - sequence < replay->size && !seen(replay, sequence);
}

/* RFC 6479: words that the window moves into are cleared, whole words only. */
static void advance(struct ipsf_replay *replay, uint64_t sequence)
{
	uint64_t from = replay->top >> 6, words = (sequence >> 6) - from;

	if (words > (uint64_t)replay->word_mask + 1)
		words = (uint64_t)replay->word_mask + 1;
	for (uint64_t i = 1; i <= words; i++)
		replay->words[((sequence >> 6) - words + i) & replay->word_mask] = 0;
	__atomic_store_n(&replay->top, sequence, __ATOMIC_RELAXED);
}

int ipsf_replay_update(struct ipsf_replay *replay, uint64_t sequence)
{
	if (!ipsf_replay_check(replay, sequence))
		return 0;
	if (sequence > replay->top)
		advance(replay, sequence);
	replay->words[(sequence >> 6) & replay->word_mask] |= UINT64_C(1) << (sequence & 63);
	return 1;
}
