#include "checksum.h"

#define LANES 16 /* a block: so many 32-bit words are added side by side, which compilers turn into vectors */

/*
 * One's complement sums don't care for byte order (RFC 1071 s2(B)) nor for the width of what is added (s2(C)): the words are
 * added as the machine reads them, each into 64 bits that can't overflow, and only the end is turned round.
 */
static uint64_t add_blocks(const uint8_t *data, size_t blocks)
{
	uint64_t lane[LANES] = {0}, sum = 0;

	for (size_t i = 0; i < blocks; i++) {
		uint32_t word[LANES];

		memcpy(word, data + i * sizeof word, sizeof word);
		for (unsigned j = 0; j < LANES; j++)
			lane[j] += word[j];
	}
	for (unsigned j = 0; j < LANES; j++)
		sum += lane[j];
	return sum;
}

/* The last bytes, fewer than a block; the missing one of an odd length is zero. */
static uint64_t add_rest(const uint8_t *data, size_t length)
{
	uint64_t sum = 0;
	uint32_t word;

	for (; length >= sizeof word; data += sizeof word, length -= sizeof word) {
		memcpy(&word, data, sizeof word);
		sum += word;
	}
	word = 0;
	memcpy(&word, data, length);
	return sum + word;
}

uint32_t ipsf_checksum_add(const void *data, size_t length, uint32_t sum)
{
	const size_t blocks = length / (LANES * sizeof(uint32_t)), done = blocks * LANES * sizeof(uint32_t);
	uint64_t wide = (blocks ? add_blocks(data, blocks) : 0) + add_rest((const uint8_t *)data + done, length - done);
	uint16_t folded;

	wide = (wide & UINT32_MAX) + (wide >> 32);
	wide = (wide & UINT16_MAX) + (wide >> 16 & UINT16_MAX) + (wide >> 32);
	wide = (wide & UINT16_MAX) + (wide >> 16);
	folded = (uint16_t)((wide & UINT16_MAX) + (wide >> 16));
	return sum + ipsf_read16(&folded);
}
