/*
 * One interface to AEAD for all engines; each is an entry of a table and a file of its own (aead_openssl.c,
 * aead_ipsecmb.c).
 *
 * A key is made once per SA and used by several workers at once: what an engine must write while it works it keeps per
 * worker (n_workers of them). ipsf_aead_key_free wipes all of it.
 */
#ifndef IPSF_AEAD_H
#define IPSF_AEAD_H

#include "base.h"
#include "include/ipsecfast.h"

#define IPSF_NONCE_SIZE 12
#define IPSF_ICV_SIZE 16
#define IPSF_MAX_WORKERS 64

struct ipsf_aead_key;

/* One packet's work. source and destination are equal or do not overlap. */
struct ipsf_aead_op {
	const uint8_t *source;
	uint8_t *destination;
	uint8_t *icv;                     /* seal writes it, open compares in constant time */
	uint32_t length;                  /* bytes of text */
	uint8_t aad_length;               /* 8, with ESN 12 */
	uint8_t ok;                       /* 1: sealed, or opened and authentic */
	uint8_t aad[12];
	uint8_t nonce[IPSF_NONCE_SIZE];
};

struct ipsf_aead_engine {
	const char *name;
	bool (*available)(void); /* does this machine have what it needs */
	/* key: AES key without salt. IPSF_EINVAL, IPSF_ENOMEM, IPSF_ECRYPTO. */
	int (*key_new)(const uint8_t *key, size_t length, unsigned n_workers, struct ipsf_aead_key **out);
	void (*key_free)(struct ipsf_aead_key *key);
	/* Work on n ops of one key; ok tells for each. Every return code of the library is checked. */
	void (*seal)(struct ipsf_aead_key *key, unsigned worker, struct ipsf_aead_op *ops, unsigned n);
	void (*open)(struct ipsf_aead_key *key, unsigned worker, struct ipsf_aead_op *ops, unsigned n);
};

/* "auto" or NULL: the best that is available; NULL when there is none of that name. */
const struct ipsf_aead_engine *ipsf_aead_find(const char *name);

#endif
