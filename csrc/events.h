/*
 * What workers tell the control thread: one ring a worker.
 *
 * A record is a struct ipsf_event and, for an IKE message, its bytes. IKE messages leave a quarter of the ring to the
 * small events,
 * so that a flood on the IKE port can't silence the SAs. Nothing here rings the doorbell: the worker does, once a pass.
 */
#ifndef IPSF_EVENTS_H
#define IPSF_EVENTS_H

#include "ring.h"

/* Producer: copies event and its event->length bytes in. false: no room. */
IPSF_MUST_CHECK bool ipsf_event_post(struct ipsf_ring *ring, const struct ipsf_event *event, const uint8_t *data);
/* Consumer: 1 and the oldest event, 0 when there is none, IPSF_ENOSPC when its bytes don't fit (it stays). */
IPSF_MUST_CHECK int ipsf_event_take(struct ipsf_ring *ring, struct ipsf_event *event, uint8_t *data, size_t size);

/* At most so many a second. The clock is the caller's, in nanoseconds. */
struct ipsf_rate {
	uint64_t since;
	uint32_t count;
};
IPSF_MUST_CHECK bool ipsf_rate_allow(struct ipsf_rate *rate, uint64_t now, uint32_t per_second);

#endif
