/*
 * Counters of one worker: the worker alone writes, anybody reads at any time (relaxed atomics, no lock).
 *
 * What holds whenever the worker rests, over both directions:
 *
 *     received + taken over = sent + dropped (all reasons) + consumed + held + handed over
 */
#ifndef IPSF_STATS_H
#define IPSF_STATS_H

#include <stdatomic.h>

#include "base.h"
#include "include/ipsecfast.h"

enum ipsf_direction { IPSF_OUT = 0, IPSF_IN = 1 };

struct ipsf_stats {
	_Atomic uint64_t rx_packets[2], rx_bytes[2], tx_packets[2], tx_bytes[2];
	_Atomic uint64_t consumed, held;
	_Atomic uint64_t handed_over, taken_over;
	_Atomic uint64_t drops[IPSF_DROP_COUNT];
} __attribute__((aligned(IPSF_CACHE_LINE)));

static inline void ipsf_stats_add(_Atomic uint64_t *counter, uint64_t n)
{
	const uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

/* Adds drops[] to the counters and clears it; how many there were. */
uint64_t ipsf_stats_take_drops(struct ipsf_stats *stats, uint64_t drops[IPSF_DROP_COUNT]);
void ipsf_stats_read(const struct ipsf_stats *stats, struct ipsf_counters *counters);

#endif
