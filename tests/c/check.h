/* What every C test uses: CHECK counts what held and names what did not; random numbers from a seed that is printed. */
#ifndef IPSF_TEST_CHECK_H
#define IPSF_TEST_CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static unsigned long checks_held, checks_failed;

#define CHECK(condition) \
	do { \
		if (condition) \
			__atomic_add_fetch(&checks_held, 1, __ATOMIC_RELAXED); \
		else if (__atomic_add_fetch(&checks_failed, 1, __ATOMIC_RELAXED) <= 20) \
			fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
	} while (0)

static inline int check_summary(const char *name)
{
	printf("%s: %lu checks held, %lu failed\n", name, checks_held, checks_failed);
	return checks_failed || !checks_held;
}

/* splitmix64 */
static inline uint64_t test_random(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15u;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return z ^ z >> 31;
}

#endif
