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

static inline unsigned ipsf_owner(uint32_t spi, unsigned n_workers)
{
	return spi % n_workers;
}

/* Of a reuseport group of n UDP sockets the one that a payload is for. */
void ipsf_steer_group(struct ipsf_steer *steer, uint32_t n);
/* Accepts what is for socket i of n raw ESP sockets, each of which gets a copy. version 4: behind the IP header. */
void ipsf_steer_raw(struct ipsf_steer *steer, uint8_t version, uint32_t i, uint32_t n);

#endif
