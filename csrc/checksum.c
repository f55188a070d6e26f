#include "checksum.h"

#define BLOCK 32 /* bytes a turn: four sums side by side, for each waits on its own carry */

/*
 * One's complement sums don't care for byte order (RFC 1071 s2(B)) nor for the width of what is added (s2(C)): 64 bits are
 * added as the machine reads them, the carry comes in again at the low end, and only the end is turned round. Compilers make
 * two instructions of this, add and add with carry: half of what vectors take that widen each word first.
 */
static inline uint64_t add_word(uint64_t sum, const uint8_t *data)
{
	uint64_t word;

	memcpy(&word, data, sizeof word);
	sum += word;
	return sum + (sum < word);
}

static inline uint64_t add(uint64_t sum, uint64_t other)
{
	sum += other;
	return sum + (sum < other);
}

static uint64_t add_blocks(const uint8_t *data, const uint8_t *end)
{
	uint64_t a = 0, b = 0, c = 0, d = 0;

	for (; data < end; data += BLOCK) {
		a = add_word(a, data);
		b = add_word(b, data + 8);
		c = add_word(c, data + 16);
		d = add_word(d, data + 24);
	}
	return add(add(a, b), add(c, d));
}

/* The last bytes, fewer than a block; those that are missing to a word are zero. */
static uint64_t add_rest(const uint8_t *data, size_t length)
{
	uint64_t sum = 0;
	uint8_t last[8] = {0};

	for (; length >= sizeof last; data += sizeof last, length -= sizeof last)
		sum = add_word(sum, data);
	for (size_t i = 0; i < length; i++)
		last[i] = data[i];
	return add_word(sum, last);
}

uint32_t ipsf_checksum_add(const void *data, size_t length, uint32_t sum)
{
	const uint8_t *bytes = data, *rest = bytes + length / BLOCK * BLOCK;
	uint64_t wide = add(add_blocks(bytes, rest), add_rest(rest, length % BLOCK));
	uint16_t folded;

	wide = (wide & UINT32_MAX) + (wide >> 32);
	wide = (wide & UINT16_MAX) + (wide >> 16 & UINT16_MAX) + (wide >> 32);
	wide = (wide & UINT16_MAX) + (wide >> 16);
	folded = (uint16_t)((wide & UINT16_MAX) + (wide >> 16));
	return sum + ipsf_read16(&folded);
}
