/*
 * AES-GCM by Intel's ipsec-mb, x86 only: the file with all of it.
 *
 * The direct GCM calls take everything as arguments and return nothing: what can be wrong with them (a null pointer, a
 * length) is checked when the key is made, and can't become wrong later. The manager is read only after it is set up,
 * so all threads share one; what a call writes lies on its stack.
 */
#include <intel-ipsec-mb.h>
#include <pthread.h>

#include "aead.h"

#define NEEDED (IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ) /* without them the library emulates: slower than OpenSSL */

struct ipsf_aead_key {
	struct gcm_key_data data;
	aes_gcm_enc_dec_t seal, open;
};

static IMB_MGR *manager;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void set_up(void)
{
	IMB_MGR *made = alloc_mb_mgr(0);
	IMB_ARCH arch;

	if (!made)
		return;
	init_mb_mgr_auto(made, &arch);
	if (imb_get_errno(made) == 0 && (made->features & NEEDED) == NEEDED)
		manager = made;
	else
		free_mb_mgr(made);
}

static bool ipsecmb_available(void)
{
	pthread_once(&once, set_up);
	return manager != NULL;
}

/* A longer key's round keys would stand behind those of a shorter one. */
static void choose(struct ipsf_aead_key *key, aes_gcm_enc_dec_t seal, aes_gcm_enc_dec_t open)
{
	if (key->seal != seal)
		ipsf_wipe(key, sizeof *key);
	key->seal = seal;
	key->open = open;
}

static bool expand(struct ipsf_aead_key *key, const uint8_t *bytes, size_t length)
{
	switch (length) {
	case 16:
		choose(key, manager->gcm128_enc, manager->gcm128_dec);
		IMB_AES128_GCM_PRE(manager, bytes, &key->data);
		return true;
	case 24:
		choose(key, manager->gcm192_enc, manager->gcm192_dec);
		IMB_AES192_GCM_PRE(manager, bytes, &key->data);
		return true;
	case 32:
		choose(key, manager->gcm256_enc, manager->gcm256_dec);
		IMB_AES256_GCM_PRE(manager, bytes, &key->data);
		return true;
	default:
		return false;
	}
}

static void ipsecmb_key_clear(struct ipsf_aead_key *key)
{
	ipsf_wipe(key, sizeof *key);
}

static int ipsecmb_key_set(struct ipsf_aead_key *key, const uint8_t *bytes, size_t length)
{
	if (!ipsecmb_available())
		return IPSF_ECRYPTO;
	if (!expand(key, bytes, length))
		return IPSF_EINVAL;
	return imb_get_errno(manager) == 0 ? IPSF_OK : IPSF_ECRYPTO;
}

static bool ipsecmb_seal(struct ipsf_aead_key *key, struct ipsf_aead_op *ops, unsigned n)
{
	struct gcm_context_data context;

	for (unsigned i = 0; i < n; i++) {
		struct ipsf_aead_op *op = &ops[i];

		key->seal(&key->data, &context, op->destination, op->source, op->length, op->nonce, op->aad, op->aad_length,
			  op->icv, IPSF_ICV_SIZE);
		op->ok = 1;
	}
	return true;
}

/* No branch on a secret: all bytes are compared. */
static bool same_icv(const uint8_t *a, const uint8_t *b)
{
	uint64_t x[2], y[2];

	memcpy(x, a, sizeof x);
	memcpy(y, b, sizeof y);
	return ((x[0] ^ y[0]) | (x[1] ^ y[1])) == 0;
}

static bool ipsecmb_open(struct ipsf_aead_key *key, struct ipsf_aead_op *ops, unsigned n)
{
	struct gcm_context_data context;
	uint8_t icv[IPSF_ICV_SIZE];
	bool all = true;

	for (unsigned i = 0; i < n; i++) {
		struct ipsf_aead_op *op = &ops[i];

		key->open(&key->data, &context, op->destination, op->source, op->length, op->nonce, op->aad, op->aad_length,
			  icv, IPSF_ICV_SIZE);
		op->ok = same_icv(icv, op->icv);
		all &= op->ok;
	}
	return all;
}

const struct ipsf_aead_engine ipsf_aead_ipsecmb = {
	.name = "ipsec-mb",
	.available = ipsecmb_available,
	.version = imb_get_version_str,
	.key_size = sizeof(struct ipsf_aead_key),
	.key_set = ipsecmb_key_set,
	.key_clear = ipsecmb_key_clear,
	.seal = ipsecmb_seal,
	.open = ipsecmb_open,
};
