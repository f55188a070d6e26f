/*
 * The Internet checksum (RFC 1071), wide: every byte of a packet that the kernel left to us, or that we replace, passes here.
 * Pure, any thread. The naive one, 16 bits at a time, is the oracle in tests/c/test_checksum.c.
 */
#ifndef IPSF_CHECKSUM_H
#define IPSF_CHECKSUM_H

#include "base.h"

/* The sum over length bytes, as 16-bit words of the wire, added to sum; fold with ipsf_checksum_fold. At most 1 MiB at once. */
uint32_t ipsf_checksum_add(const void *data, size_t length, uint32_t sum);

static inline uint16_t ipsf_checksum_fold(uint32_t sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

#endif
