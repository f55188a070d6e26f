/* The cheapest clock of the machine, for benchmarks: how many ticks have passed. Ticks are cycles where they are said to be. */
#ifndef IPSF_TICKS_H
#define IPSF_TICKS_H

#include <stdint.h>
#include <time.h>

static inline uint64_t ipsf_nanoseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#if defined(__x86_64__) || defined(__i386__)
#include <x86intrin.h>

#define IPSF_TICKS_ARE_CYCLES 1 /* of the time stamp counter: the nominal frequency, whatever the core's is */

static inline uint64_t ipsf_ticks(void)
{
	return __rdtsc();
}
#else
#define IPSF_TICKS_ARE_CYCLES 0

static inline uint64_t ipsf_ticks(void)
{
	return ipsf_nanoseconds();
}
#endif

#endif
