/* The table of AEAD engines. A new engine is a file of its own and a line here. */
#include "aead.h"

#include <stdlib.h>

extern const struct ipsf_aead_engine ipsf_aead_openssl;
#ifdef IPSF_HAVE_IPSECMB
extern const struct ipsf_aead_engine ipsf_aead_ipsecmb;
#endif

/*
 * The order is what "auto" prefers; a gateway measures its machine and chooses by name (ipsecfast/engines.py). One packet of
 * AES-128-GCM, fresh IV, one core of a Zen 5 (AVX-512, VAES), nanoseconds; `ipsecfast bench stages` measures it anew. ipsec-mb's
 * direct calls, as we use them, beat its job interface here, which gains only where one packet can't fill the AES units.
 *
 *     bytes        64   1,400
 *     openssl     107     347   (3.0: no wide VAES)
 *     ipsec-mb     23      74
 */
static const struct ipsf_aead_engine *const engines[] = {
#ifdef IPSF_HAVE_IPSECMB
	&ipsf_aead_ipsecmb,
#endif
	&ipsf_aead_openssl,
};

const struct ipsf_aead_engine *ipsf_aead_find(const char *name)
{
	bool any = !name || !strcmp(name, "auto");

	for (size_t i = 0; i < sizeof engines / sizeof engines[0]; i++)
		if ((any || !strcmp(name, engines[i]->name)) && engines[i]->available())
			return engines[i];
	return NULL;
}

size_t ipsf_engine_count(void)
{
	size_t n = 0;

	for (size_t i = 0; i < sizeof engines / sizeof engines[0]; i++)
		n += engines[i]->available();
	return n;
}

const char *ipsf_engine_name(size_t index)
{
	for (size_t i = 0; i < sizeof engines / sizeof engines[0]; i++)
		if (engines[i]->available() && index-- == 0)
			return engines[i]->name;
	return NULL;
}

const char *ipsf_engine_version(const char *name)
{
	const struct ipsf_aead_engine *engine = ipsf_aead_find(name);

	return engine ? engine->version() : NULL;
}

const char *ipsf_engine_choose(const char *name)
{
	const struct ipsf_aead_engine *engine = ipsf_aead_find(name);

	return engine ? engine->name : NULL;
}

int ipsf_aead_key_new(const struct ipsf_aead_engine *engine, const uint8_t *bytes, size_t length, struct ipsf_aead_key **out)
{
	const size_t size = (engine->key_size + IPSF_CACHE_LINE - 1) & ~(size_t)(IPSF_CACHE_LINE - 1);
	struct ipsf_aead_key *key = aligned_alloc(IPSF_CACHE_LINE, size);
	int error;

	if (!key)
		return IPSF_ENOMEM;
	memset(key, 0, size);
	error = engine->key_set(key, bytes, length);
	if (error) {
		ipsf_aead_key_free(engine, key);
		return error;
	}
	*out = key;
	return IPSF_OK;
}

void ipsf_aead_key_free(const struct ipsf_aead_engine *engine, struct ipsf_aead_key *key)
{
	if (!key)
		return;
	engine->key_clear(key);
	free(key);
}
