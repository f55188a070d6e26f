/*
 * The two journeys of a packet between two ports, as pure functions over a batch: no socket, no clock, no randomness.
 */
#ifndef IPSF_PIPELINE_H
#define IPSF_PIPELINE_H

#include "events.h"
#include "handover.h"
#include "flow.h"
#include "hold.h"
#include "sad.h"

/* What the control thread publishes and every worker reads. */
struct ipsf_published {
	_Atomic(struct ipsf_spd *) spd;           /* never NULL */
	_Atomic(struct ipsf_children *) children; /* never NULL */
	struct ipsf_sad sad;
};

/* A packet that left the batch without being dropped: held, or handed to the control thread or another worker. The sweep recycles it. */
#define IPSF_TAKEN IPSF_DROP_COUNT

/* What one worker brings along; its own, all of it but what is published. */
struct ipsf_pipeline {
	struct ipsf_published *published;
	unsigned worker;                          /* its number, for keys and epochs */
	bool told;                                /* events were posted: the doorbell must ring */
	uint64_t now;                             /* nanoseconds of a steady clock */
	struct ipsf_flow_cache *flows;
	struct ipsf_ring *events;
	struct ipsf_hold hold;
	struct ipsf_desk *desk;                   /* where packets of other workers' SAs go; NULL: there is no other inbound worker */
	struct ipsf_rate unknown_spi;
	struct ipsf_volume received;              /* what the last batch held in the beginning */
	uint64_t consumed, handed_over;           /* since the worker last looked */
	uint64_t drops[IPSF_DROP_COUNT + 1];      /* likewise; the last: IPSF_TAKEN */
};

/* From IP packets to what the outer ports carry: sealed ESP, or BYPASS packets marked IPSF_PACKET_CLEAR. Order is
 * kept. */
void ipsf_outbound(struct ipsf_pipeline *p, struct ipsf_batch *batch);
/* From datagrams of the outer ports to IP packets; IKE messages become events. Order is kept. */
void ipsf_inbound(struct ipsf_pipeline *p, struct ipsf_batch *batch);

#endif
