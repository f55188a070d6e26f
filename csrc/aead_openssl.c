/*
 * AES-GCM by OpenSSL's EVP: the reference engine, on every architecture.
 *
 * A context a worker and direction, with the key set once; a packet costs the setting of its IV and three updates. EVP
 * contexts can't be shared between threads, and setting the key anew would cost more than a small packet.
 */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "aead.h"

struct ipsf_aead_key {
	unsigned n_workers;
	struct {
		EVP_CIPHER_CTX *seal, *open;
	} worker[];
};

static bool openssl_available(void)
{
	return true;
}

static void openssl_key_free(struct ipsf_aead_key *key)
{
	if (!key)
		return;
	for (unsigned i = 0; i < key->n_workers; i++) { /* EVP_CIPHER_CTX_free wipes */
		EVP_CIPHER_CTX_free(key->worker[i].seal);
		EVP_CIPHER_CTX_free(key->worker[i].open);
	}
	free(key);
}

static const char *cipher_name(size_t length)
{
	switch (length) {
	case 16: return "AES-128-GCM";
	case 24: return "AES-192-GCM";
	case 32: return "AES-256-GCM";
	default: return NULL;
	}
}

static EVP_CIPHER_CTX *context_new(const EVP_CIPHER *cipher, const uint8_t *key, int encrypt)
{
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();

	if (context && EVP_CipherInit_ex(context, cipher, NULL, key, NULL, encrypt) == 1 &&
	    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_IVLEN, IPSF_NONCE_SIZE, NULL) == 1)
		return context;
	EVP_CIPHER_CTX_free(context);
	return NULL;
}

static int make_contexts(struct ipsf_aead_key *key, const EVP_CIPHER *cipher, const uint8_t *bytes)
{
	for (unsigned i = 0; i < key->n_workers; i++) {
		key->worker[i].seal = context_new(cipher, bytes, 1);
		key->worker[i].open = context_new(cipher, bytes, 0);
		if (!key->worker[i].seal || !key->worker[i].open)
			return IPSF_ECRYPTO;
	}
	return IPSF_OK;
}

static int openssl_key_new(const uint8_t *bytes, size_t length, unsigned n_workers, struct ipsf_aead_key **out)
{
	const char *name = cipher_name(length);
	struct ipsf_aead_key *key;
	EVP_CIPHER *cipher;
	int error;

	if (!name || !n_workers || n_workers > IPSF_MAX_WORKERS)
		return IPSF_EINVAL;
	key = calloc(1, sizeof *key + n_workers * sizeof key->worker[0]);
	if (!key)
		return IPSF_ENOMEM;
	key->n_workers = n_workers;
	cipher = EVP_CIPHER_fetch(NULL, name, NULL);
	error = cipher ? make_contexts(key, cipher, bytes) : IPSF_ECRYPTO;
	EVP_CIPHER_free(cipher); /* the contexts hold it */
	if (error) {
		openssl_key_free(key);
		return error;
	}
	*out = key;
	return IPSF_OK;
}

static bool start(EVP_CIPHER_CTX *context, const struct ipsf_aead_op *op)
{
	int n;

	return EVP_CipherInit_ex(context, NULL, NULL, NULL, op->nonce, -1) == 1 &&
	       EVP_CipherUpdate(context, NULL, &n, op->aad, op->aad_length) == 1 &&
	       EVP_CipherUpdate(context, op->destination, &n, op->source, (int)op->length) == 1;
}

static void openssl_seal(struct ipsf_aead_key *key, unsigned worker, struct ipsf_aead_op *ops, unsigned n)
{
	EVP_CIPHER_CTX *context = key->worker[worker].seal;
	uint8_t nothing[16];
	int length;

	for (unsigned i = 0; i < n; i++)
		ops[i].ok = start(context, &ops[i]) && EVP_EncryptFinal_ex(context, nothing, &length) == 1 &&
			    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, IPSF_ICV_SIZE, ops[i].icv) == 1;
}

static void openssl_open(struct ipsf_aead_key *key, unsigned worker, struct ipsf_aead_op *ops, unsigned n)
{
	EVP_CIPHER_CTX *context = key->worker[worker].open;
	uint8_t nothing[16];
	int length;

	for (unsigned i = 0; i < n; i++)
		ops[i].ok = start(context, &ops[i]) &&
			    EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, IPSF_ICV_SIZE, ops[i].icv) == 1 &&
			    EVP_DecryptFinal_ex(context, nothing, &length) == 1;
}

const struct ipsf_aead_engine ipsf_aead_openssl = {
	.name = "openssl",
	.available = openssl_available,
	.key_new = openssl_key_new,
	.key_free = openssl_key_free,
	.seal = openssl_seal,
	.open = openssl_open,
};
