/* The wide checksum against the one that RFC 1071 writes down: every length and alignment around a block, and random ones. */
#include "checksum.h"
#include "super_packets.h"

static uint8_t bytes[70000];

static uint16_t naive(const uint8_t *data, uint32_t length, uint32_t sum)
{
	return (uint16_t)~naive_sum(data, length, sum);
}

static void short_ones(void)
{
	for (uint32_t length = 0; length < 400; length++)
		for (uint32_t start = 0; start < 8; start++)
			CHECK(ipsf_checksum_fold(ipsf_checksum_add(bytes + start, length, 7)) == naive(bytes + start, length, 7));
}

/* Bytes that make every addition carry. */
static void extremes(void)
{
	static uint8_t full[70000];

	memset(full, 0xff, sizeof full);
	for (uint32_t length = 0; length <= 65535; length += 251)
		CHECK(ipsf_checksum_fold(ipsf_checksum_add(full, length, 0x1ffff)) == naive(full, length, 1));
}

static void random_ones(uint64_t *seed)
{
	for (unsigned round = 0; round < 2000; round++) {
		const uint32_t start = below(seed, 64), length = below(seed, 65536);

		CHECK(ipsf_checksum_fold(ipsf_checksum_add(bytes + start, length, 0)) == naive(bytes + start, length, 0));
	}
}

int main(void)
{
	uint64_t seed = 1071;

	random_bytes(&seed, bytes, sizeof bytes);
	short_ones();
	extremes();
	random_ones(&seed);
	return check_summary("test_checksum");
}
