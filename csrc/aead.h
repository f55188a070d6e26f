/*
 * One interface to AEAD for all engines; each is an entry of a table and a file of its own (aead_openssl.c,
 * aead_ipsecmb.c).
 *
 * An expanded key belongs to one thread: an engine may write into it while it works. Where it stands is the caller's (keycache.h).
 */
#ifndef IPSF_AEAD_H
#define IPSF_AEAD_H

#include "base.h"
#include "include/ipsecfast.h"

#define IPSF_NONCE_SIZE 12
#define IPSF_ICV_SIZE 16
#define IPSF_MAX_WORKERS 64

struct ipsf_aead_key;

/* One packet's work, in one cache line. source and destination are equal or do not overlap. */
struct ipsf_aead_op {
	const uint8_t *source;
	uint8_t *destination;
	uint8_t *icv;                     /* seal writes it, open compares in constant time */
	union {
		struct {
			uint32_t length;    /* bytes of text */
			uint8_t aad_length; /* 8, with ESN 12 */
			uint8_t ok;         /* 1: sealed, or opened and authentic */
		};
		uint64_t sizes;             /* both at once */
	};
	uint8_t aad[12] __attribute__((aligned(8)));
	uint8_t nonce[IPSF_NONCE_SIZE] __attribute__((aligned(4)));
} __attribute__((aligned(IPSF_CACHE_LINE)));
static_assert(sizeof(struct ipsf_aead_op) == IPSF_CACHE_LINE, "one packet's work is one cache line");

#define IPSF_AEAD_SIZES(length, aad_length)                                                                     \
	(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? (uint64_t)(aad_length) << 32 | (uint32_t)(length) :             \
	 (uint64_t)(length) << 32 | (uint64_t)(aad_length) << 24)

struct ipsf_aead_engine {
	const char *name;
	bool (*available)(void); /* does this machine have what it needs */
	const char *(*version)(void); /* of its library, as that runs */
	size_t key_size;         /* bytes of an expanded key, aligned to a cache line, zeroed before the first key_set() */
	/*
	 * Expands an AES key, without salt, over what was there: nothing of that is left. May take memory the first time, and when the
	 * length changes. IPSF_EINVAL, IPSF_ENOMEM, IPSF_ECRYPTO; then only key_set() and key_clear() are allowed.
	 */
	int (*key_set)(struct ipsf_aead_key *key, const uint8_t *bytes, size_t length);
	void (*key_clear)(struct ipsf_aead_key *key); /* wipes; gives memory back; as before the first key_set() */
	/* Work on n ops of one key; ok tells for each, true: for all. Every return code of the library is checked. */
	bool (*seal)(struct ipsf_aead_key *key, struct ipsf_aead_op *ops, unsigned n);
	bool (*open)(struct ipsf_aead_key *key, struct ipsf_aead_op *ops, unsigned n);
};

/* An expanded key alone. IPSF_EINVAL, IPSF_ENOMEM, IPSF_ECRYPTO. */
IPSF_MUST_CHECK int ipsf_aead_key_new(const struct ipsf_aead_engine *engine, const uint8_t *bytes, size_t length,
				      struct ipsf_aead_key **key);
void ipsf_aead_key_free(const struct ipsf_aead_engine *engine, struct ipsf_aead_key *key);

/* "auto" or NULL: the best that is available; NULL when there is none of that name. */
const struct ipsf_aead_engine *ipsf_aead_find(const char *name);

#endif
