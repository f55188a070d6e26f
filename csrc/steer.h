/*
 * Which worker owns an inbound SA, and how the kernel is told: socket filters (classic BPF) that compute the same. Pure.
 *
 * The owner follows from the SPI alone, so that all packets of an SA come to one worker and its replay window has one writer. What
 * comes to another nevertheless (a GRO datagram of several SAs, a kernel without these filters) is handed over (handover.h). IKE
 * messages (SPI 0 stands for the non-ESP marker) and keepalives come to worker 0.
 */
#ifndef IPSF_STEER_H
#define IPSF_STEER_H

#include <linux/filter.h>

#include "base.h"

#define IPSF_STEER_MAX 8

struct ipsf_steer {
	unsigned short n;
	struct sock_filter code[IPSF_STEER_MAX];
};

/*
 * The bits of an SPI that say the owner, above those that index the SAD. We choose our inbound SPIs (InboundSpis in ike/child.py):
 * new SAs go round the workers, and a rekey keeps these bits, so that a flow stays with its worker, in order.
 */
#define IPSF_OWNER_SHIFT 20u
#define IPSF_OWNER_MASK 0xffu

static inline unsigned ipsf_owner(uint32_t spi, unsigned n_workers)
{
	return (spi >> IPSF_OWNER_SHIFT & IPSF_OWNER_MASK) % n_workers;
}

/* Of a reuseport group of n UDP sockets the one that a payload is for. */
void ipsf_steer_group(struct ipsf_steer *steer, uint32_t n);
/* Accepts what is for socket i of n raw ESP sockets, each of which gets a copy. version 4: behind the IP header. */
void ipsf_steer_raw(struct ipsf_steer *steer, uint8_t version, uint32_t i, uint32_t n);

/*
 * Of the queues of a TUN device the one for an IP packet: by a hash of its addresses and, of TCP, UDP and SCTP packets that are no
 * fragments, ports; the kernel takes it modulo the queues. Without it the kernel remembers on which queue an answer was written and
 * moves the flow there: all flows of an SA would end up with its owner. IPSF_EINVAL: it grew beyond what the assembler holds.
 */
struct ipsf_bpf_code;
IPSF_MUST_CHECK int ipsf_steer_flows(struct ipsf_bpf_code *code);

/*
 * Of a reuseport group of UDP sockets the one that an IKE message is for: the socket whose number the map has for the SPI that its
 * header has for ours (RFC 7296 s3.1: the responder's in a message of the original initiator, else the initiator's), the one behind
 * all of them for what the map does not have. workers: as many sockets stand before these in the group, and take ESP by its owner,
 * as ipsf_steer_group() has it; messages have the non-ESP marker. 0: port 500, without either. IPSF_EINVAL as above.
 */
IPSF_MUST_CHECK int ipsf_steer_ike(struct ipsf_bpf_code *code, int map, uint32_t workers);

#endif
