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
