#include "replay.h"

#include <stdlib.h>

static uint32_t ring_words(uint32_t size)
{
	uint32_t words = 1;

	while (words * 64 < size)
		words *= 2;
	return words;
}

size_t ipsf_replay_bytes(uint32_t size)
{
	return sizeof(struct ipsf_replay) + ring_words(size) * sizeof(uint64_t);
}

int ipsf_replay_init(struct ipsf_replay *r, uint32_t size, bool esn, uint64_t top)
{
	if (size && (size < IPSF_REPLAY_MIN || size > IPSF_REPLAY_MAX))
		return IPSF_EINVAL;
	if (!esn && top > UINT32_MAX)
		return IPSF_EINVAL;
	r->top = top;
	r->size = size;
	r->word_mask = ring_words(size) - 1;
	r->esn = esn;
	if (top) /* what was before a take-over can't be told apart: all of it counts as seen */
		memset(r->words, 0xff, ring_words(size) * sizeof r->words[0]);
	return IPSF_OK;
}

int ipsf_replay_create(uint32_t size, bool esn, uint64_t top, struct ipsf_replay **replay)
{
	struct ipsf_replay *r = size <= IPSF_REPLAY_MAX ? calloc(1, ipsf_replay_bytes(size)) : NULL;
	int error;

	if (!r)
		return size <= IPSF_REPLAY_MAX ? IPSF_ENOMEM : IPSF_EINVAL;
	error = ipsf_replay_init(r, size, esn, top);
	if (error)
		free(r);
	else
		*replay = r;
	return error;
}

/* The bits from first on in its word, n at most; how many. */
static uint64_t forget_in_word(struct ipsf_replay *replay, uint64_t first, uint64_t n)
{
	const uint64_t left = 64 - (first & 63), some = n < left ? n : left;

	replay->words[(first >> 6) & replay->word_mask] &= ~(UINT64_MAX >> (64 - some) << (first & 63));
	return some;
}

void ipsf_window_forget(struct ipsf_replay *replay, uint64_t first, uint64_t n)
{
	const uint64_t bits = ((uint64_t)replay->word_mask + 1) * 64;

	if (n > bits)
		n = bits;
	for (uint64_t done = 0; done < n;)
		done += forget_in_word(replay, first + done, n - done);
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

uint64_t ipsf_replay_reconstruct(const struct ipsf_replay *replay, uint32_t low)
{
	return ipsf_window_reconstruct(replay, low);
}

int ipsf_replay_check(const struct ipsf_replay *replay, uint64_t sequence)
{
	return ipsf_window_check(replay, sequence);
}

int ipsf_replay_update(struct ipsf_replay *replay, uint64_t sequence)
{
	return ipsf_window_update(replay, sequence);
}
