/*
 * The SPD for outbound packets (RFC 4301 s4.4.1): an immutable compiled snapshot. What it said of the last flows a worker
 * remembers (flow.h).
 *
 * A snapshot is made by the control thread, read by every worker between two of its epoch ticks, and never changes. The
 * next one is made from it by naming what goes and what comes; what they have in common they share.
 */
#ifndef IPSF_SPD_H
#define IPSF_SPD_H

#include "packet.h"

/* What a packet shows of its ports. */
enum ipsf_ports {
	IPSF_PORTS_KNOWN,
	IPSF_PORTS_NONE,   /* the protocol has none */
	IPSF_PORTS_HIDDEN, /* a later fragment: they stood in the first one */
};

/*
 * What decides about a packet. An IPv4 address stands in the first 4 bytes, the rest is zero: flows compare by their words.
 */
struct ipsf_flow {
	union {
		struct {
			uint8_t source[16], destination[16];
			uint16_t source_port, destination_port; /* host order; ICMP: type << 8 | code in both; 0 unless known */
			uint8_t version, protocol, ports;       /* ports: enum ipsf_ports */
			uint8_t zero;
		};
		uint64_t word[5];
	};
};
static_assert(sizeof(struct ipsf_flow) == 40, "a flow is five words");

struct ipsf_decision {
	int32_t index;  /* of the policy, -1: none matched */
	uint32_t reqid; /* PROTECT, and nothing forbids it; else 0 */
	uint8_t action; /* enum ipsf_action */
	uint8_t flags;  /* IPSF_POLICY_HOLD */
	uint8_t drop;   /* enum ipsf_drop: NO_POLICY, POLICY_DISCARD, FRAGMENT, or NONE */
	uint8_t zero;
	uint32_t zero2;
};

/*
 * The first policy that matches. A later fragment matches by addresses and protocol; if the first such policy asks
 * for ports,
 * the answer is FRAGMENT, for the ports that would decide can't be seen (RFC 4301 s7).
 */
struct ipsf_decision ipsf_spd_lookup(const struct ipsf_spd *spd, const struct ipsf_flow *flow);
/* No two snapshots of a process have the same. Never 0. */
uint64_t ipsf_spd_generation(const struct ipsf_spd *spd);

/*
 * The next snapshot: the same policies, but gone of them from index on give way to n others; as a whole or not at all. spd
 * must be the newest of its kind and may be read until it is freed; the oldest is freed first (ipsf_spd_free). Control
 * thread. IPSF_EINVAL (out of range, or as of ipsf_spd_compile), IPSF_ENOMEM.
 */
IPSF_MUST_CHECK int ipsf_spd_splice(struct ipsf_spd *spd, size_t index, size_t gone, const struct ipsf_policy *policies,
				    size_t n, struct ipsf_spd **next);
/* The reqid of a policy of the newest snapshot, 0 unless it says PROTECT. Control thread. */
uint32_t ipsf_spd_reqid(const struct ipsf_spd *spd, size_t index);

#endif
