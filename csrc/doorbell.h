/*
 * A doorbell: wakes a thread that sleeps in poll(). Many may ring, one listens; ringing twice costs one system call.
 *
 * The listener silences it, and only then looks (again) at what the ringing was about: so nothing is missed.
 */
#ifndef IPSF_DOORBELL_H
#define IPSF_DOORBELL_H

#include <stdatomic.h>

#include "base.h"

struct ipsf_doorbell {
	int fd; /* readable after ring() */
	_Atomic uint32_t rung;
};

/* IPSF_ESYS. */
IPSF_MUST_CHECK int ipsf_doorbell_init(struct ipsf_doorbell *bell);
void ipsf_doorbell_fini(struct ipsf_doorbell *bell);
void ipsf_doorbell_ring(struct ipsf_doorbell *bell);
void ipsf_doorbell_silence(struct ipsf_doorbell *bell);

#endif
