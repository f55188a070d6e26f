/* Byte order in the type, alignment, and bounds: what every other file starts from. No ownership, any thread. */
#ifndef IPSF_BASE_H
#define IPSF_BASE_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define IPSF_CACHE_LINE 64
#define IPSF_MUST_CHECK __attribute__((warn_unused_result))
#define IPSF_LIKELY(x) __builtin_expect(!!(x), 1)
#define IPSF_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Numbers as they stand on the wire; a struct each, so that the compiler refuses to mix them with host integers. */
struct ipsf_be16 { uint8_t b[2]; };
struct ipsf_be32 { uint8_t b[4]; };
struct ipsf_be64 { uint8_t b[8]; };

static inline uint16_t ipsf_read16(const void *p)
{
	const uint8_t *b = p;
	return (uint16_t)((b[0] << 8) | b[1]);
}

static inline uint32_t ipsf_read32(const void *p)
{
	uint32_t v;
	memcpy(&v, p, sizeof v);
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap32(v) : v;
}

static inline uint64_t ipsf_read64(const void *p)
{
	uint64_t v;
	memcpy(&v, p, sizeof v);
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(v) : v;
}

/* From host order to that of the wire, or back. */
static inline uint64_t ipsf_swap64(uint64_t v)
{
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(v) : v;
}

/* Two 16-bit numbers as they follow each other on the wire: as they follow each other in memory, host order. */
static inline uint32_t ipsf_read16_pair(const void *p)
{
	const uint32_t v = ipsf_read32(p);
	return __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? v << 16 | v >> 16 : v;
}

static inline void ipsf_write16(void *p, uint16_t v)
{
	uint8_t *b = p;
	b[0] = (uint8_t)(v >> 8);
	b[1] = (uint8_t)v;
}

static inline void ipsf_write32(void *p, uint32_t v)
{
	v = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap32(v) : v;
	memcpy(p, &v, sizeof v);
}

static inline void ipsf_write64(void *p, uint64_t v)
{
	v = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? __builtin_bswap64(v) : v;
	memcpy(p, &v, sizeof v);
}

/* Wipes key material; the compiler may not leave it out. */
static inline void ipsf_wipe(void *p, size_t n)
{
	memset(p, 0, n);
	__asm__ __volatile__("" : : "r"(p) : "memory");
}

#endif
