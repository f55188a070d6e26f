#include "stats.h"

uint64_t ipsf_stats_take_drops(struct ipsf_stats *stats, uint64_t drops[IPSF_DROP_COUNT])
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++) {
		if (drops[i] == 0)
			continue;
		ipsf_stats_add(&stats->drops[i], drops[i]);
		sum += drops[i];
		drops[i] = 0;
	}
	return sum;
}

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void ipsf_stats_read(const struct ipsf_stats *stats, struct ipsf_counters *counters)
{
	for (unsigned i = 0; i < 2; i++) {
		counters->rx_packets[i] = get(&stats->rx_packets[i]);
		counters->rx_bytes[i] = get(&stats->rx_bytes[i]);
		counters->tx_packets[i] = get(&stats->tx_packets[i]);
		counters->tx_bytes[i] = get(&stats->tx_bytes[i]);
	}
	counters->consumed = get(&stats->consumed);
	counters->held = get(&stats->held);
	counters->handed_over = get(&stats->handed_over);
	counters->taken_over = get(&stats->taken_over);
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++)
		counters->drops[i] = get(&stats->drops[i]);
}
