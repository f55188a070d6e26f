#include "events.h"

#define SECOND 1000000000u

bool ipsf_event_post(struct ipsf_ring *ring, const struct ipsf_event *event, const uint8_t *data)
{
	const size_t reserve = event->kind == IPSF_EVENT_IKE_DATAGRAM ? ipsf_ring_capacity(ring) / 4 : 0;
	return ipsf_ring_put(ring, event, sizeof *event, data, event->length, reserve);
}

int ipsf_event_take(struct ipsf_ring *ring, struct ipsf_event *event, uint8_t *data, size_t size)
{
	if (!ipsf_ring_peek(ring, event, sizeof *event))
		return 0;
	if (event->length > size)
		return IPSF_ENOSPC;
	ipsf_ring_take(ring, sizeof *event, data, event->length);
	return 1;
}

bool ipsf_rate_allow(struct ipsf_rate *rate, uint64_t now, uint32_t per_second)
{
	if (rate->count == 0 || now - rate->since >= SECOND) {
		rate->since = now;
		rate->count = 0;
	}
	if (rate->count >= per_second)
		return false;
	rate->count++;
	return true;
}
