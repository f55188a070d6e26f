/*
 * The anti-replay window (RFC 4303 s3.4.3, app. A; the ring of words of RFC 6479). One thread owns a window.
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
	uint32_t word_mask;  /* words in the ring, a power of two, less one; one word more than the size needs */
	bool esn;
	uint64_t words[];
};

/* size 0 or 64 to 65,536, else IPSF_EINVAL; IPSF_ENOMEM. top: the highest number that counts as accepted already. */
IPSF_MUST_CHECK int ipsf_replay_create(uint32_t size, bool esn, uint64_t top, struct ipsf_replay **replay);

#endif
