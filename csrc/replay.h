/*
 * The anti-replay window (RFC 4303 s3.4.3, app. A; the ring of words of RFC 6479, which clears whole words and so needs one more than
 * the size; this one clears to the bit, and 2,048 numbers take 256 bytes). One thread owns a window.
 *
 * Order of use: reconstruct() the 64-bit number, check() before the ICV is verified, update() after it.
 */
#ifndef IPSF_REPLAY_H
#define IPSF_REPLAY_H

#include "base.h"
#include "include/ipsecfast.h"

#define IPSF_REPLAY_MIN 64u
#define IPSF_REPLAY_MAX 65536u

struct ipsf_replay {
	uint64_t top;        /* the highest number accepted */
	uint32_t size;       /* numbers that the window remembers; 0: anti-replay is off */
	uint32_t word_mask;  /* words in the ring, a power of two, less one: as many bits as the size, or more */
	bool esn;
	uint64_t words[];
};

/* size 0 or 64 to 65,536, else IPSF_EINVAL; IPSF_ENOMEM. top: the highest number that counts as accepted already. */
IPSF_MUST_CHECK int ipsf_replay_create(uint32_t size, bool esn, uint64_t top, struct ipsf_replay **replay);

/* The same in place: ipsf_replay_bytes(size) of them, zeroed, aligned to 8. IPSF_EINVAL. */
size_t ipsf_replay_bytes(uint32_t size);
IPSF_MUST_CHECK int ipsf_replay_init(struct ipsf_replay *replay, uint32_t size, bool esn, uint64_t top);

/* What ipsf_replay_reconstruct(), _check() and _update() do, in line for every packet. */

/* RFC 4303 app. A2.2; 0 (never valid) for a number that would lie before the first 2^32. */
static inline uint64_t ipsf_window_reconstruct(const struct ipsf_replay *replay, uint32_t low)
{
	if (IPSF_LIKELY(!replay->esn))
		return low;

	uint32_t window = replay->size ? replay->size : IPSF_REPLAY_MIN;
	uint32_t top_low = (uint32_t)replay->top, high = (uint32_t)(replay->top >> 32);
	uint32_t bottom = top_low - window + 1; /* modulo 2^32 */

	if (top_low >= window - 1)              /* case A: the window lies within one subspace */
		high += low < bottom;
	else if (low >= bottom) {               /* case B: it reaches back into the one before */
		if (!high)
			return 0;
		high--;
	}
	return (uint64_t)high << 32 | low;
}

static inline bool ipsf_window_seen(const struct ipsf_replay *replay, uint64_t sequence)
{
	return replay->words[(sequence >> 6) & replay->word_mask] >> (sequence & 63) & 1;
}

static inline bool ipsf_window_check(const struct ipsf_replay *replay, uint64_t sequence)
{
	if (IPSF_LIKELY(sequence > replay->top))
		return true;
	if (!sequence) /* the first packet has number 1 */
		return false;
	if (!replay->size)
		return true;
	return replay->top - sequence < replay->size && !ipsf_window_seen(replay, sequence);
}

/* Forgets what the ring says of n > 0 numbers from first on: what stands there is of numbers that leave the window. */
void ipsf_window_forget(struct ipsf_replay *replay, uint64_t first, uint64_t n);

/* The numbers between the old top and the new one were not seen; the bit of the new one is about to be set. */
static inline void ipsf_window_advance(struct ipsf_replay *replay, uint64_t sequence)
{
	const uint64_t skipped = sequence - replay->top - 1;

	if (IPSF_UNLIKELY(skipped))
		ipsf_window_forget(replay, replay->top + 1, skipped);
	__atomic_store_n(&replay->top, sequence, __ATOMIC_RELAXED);
}

static inline bool ipsf_window_update(struct ipsf_replay *replay, uint64_t sequence)
{
	if (IPSF_LIKELY(sequence > replay->top))
		ipsf_window_advance(replay, sequence);
	else if (!ipsf_window_check(replay, sequence))
		return false;
	replay->words[(sequence >> 6) & replay->word_mask] |= UINT64_C(1) << (sequence & 63);
	return true;
}

#endif
