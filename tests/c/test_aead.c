/*
 * Every engine against published vectors, then against each other: all key sizes, lengths from 0 on, in place and from one buffer
 * to another; every bit that is changed is noticed.
 */
#include "check.h"
#include "keycache.h"

struct vector {
	const char *source, *key, *nonce, *aad, *plain, *sealed, *icv;
};

static const struct vector vectors[] = {
	{"GCM specification, test case 1", "00000000000000000000000000000000", "000000000000000000000000", "", "", "",
	 "58e2fccefa7e3061367f1d57a4e7455a"},
	{"GCM specification, test case 2", "00000000000000000000000000000000", "000000000000000000000000", "",
	 "00000000000000000000000000000000", "0388dace60b6a392f328c2b971b2fe78", "ab6e47d42cec13bdf53a67b21257bddf"},
	{"NIST CAVP gcmEncryptExtIV192, first", "aa740abfadcda779220d3b406c5d7ec09a77fe9d94104539", "ab2265b4c168955561f04315",
	 "", "", "", "f149e2b5f0adaa9842ca5f45b768a8fc"},
	{"draft-mcgrew-gcm-test-01: AES-128, ESN", "4c80cdefbb5d10da906ac73c3613a634", "2e443b684956ed7e3b244cfe",
	 "000043218765432100000000",
	 "45000048699a000080114db7c0a80102c0a801010a9bf15638d301000001000000000000045f736970045f75647003736970"
	 "0963796265726369747902646b000021000101020201",
	 "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a13c5d15b2"
	 "1e1884f5ff6247aeabb786b93bce61bc17d768fd9732",
	 "459018148f6cbe722fd04796562dfdb4"},
	{"draft-mcgrew-gcm-test-01: AES-192", "feffe9928665731c6d6a8f9467308308feffe9928665731c", "cafebabefacedbaddecaf888",
	 "0000a5f80000000a",
	 "45000028a4ad4000400678800a01038f0a010612802306b8cb712602dd6bb03e501016d075680001",
	 "a5b1f8066029aea40e598b8122de02420938b3ab33f828e687b8858b5bfbdbd0315b27452144cc77",
	 "95457b9652037f5318027b5b4cd7a636"},
	{"draft-mcgrew-gcm-test-01: AES-256", "abbccddef00112233445566778899aababbccddef00112233445566778899aab",
	 "112233440102030405060708", "4a2cbfe300000002",
	 "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee0000000007002400020bf0000020405b40101040201020201",
	 "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763748a637985771d347f0545659f14e99def842d8e",
	 "b335f4eecfdbf831824b4c4915956c96"},
	{"draft-mcgrew-gcm-test-01: one word", "7d773d00c144c525ac619d18c84a3f47", "d966426743457e9182443bc6", "335467aeffffffff",
	 "01020201", "437f866b", "cb3f699fe9b0822bac961c4504bef270"},
};

#define LENGTH_MAX 9000

static size_t unhex(const char *text, uint8_t *bytes)
{
	size_t n = strlen(text) / 2;

	for (size_t i = 0; i < n; i++) {
		char pair[3] = {text[2 * i], text[2 * i + 1], 0};

		bytes[i] = (uint8_t)strtoul(pair, NULL, 16);
	}
	return n;
}

static void run_vector(const struct ipsf_aead_engine *engine, const struct vector *v)
{
	uint8_t bytes[32], text[256], sealed[256], icv[16], expected_icv[16], opened[256];
	struct ipsf_aead_key *key;
	struct ipsf_aead_op op = {.source = text, .destination = sealed, .icv = icv};

	CHECK(ipsf_aead_key_new(engine, bytes, unhex(v->key, bytes), &key) == IPSF_OK);
	op.length = (uint32_t)unhex(v->plain, text);
	op.aad_length = (uint8_t)unhex(v->aad, op.aad);
	unhex(v->nonce, op.nonce);
	unhex(v->icv, expected_icv);
	engine->seal(key, &op, 1);
	CHECK(op.ok == 1 && !memcmp(icv, expected_icv, 16));
	CHECK(unhex(v->sealed, text) == op.length && !memcmp(sealed, text, op.length));
	op.source = sealed;
	op.destination = opened;
	op.ok = 0;
	engine->open(key, &op, 1);
	unhex(v->plain, text);
	CHECK(op.ok == 1 && !memcmp(opened, text, op.length));
	ipsf_aead_key_free(engine, key);
}

/* Nonce, AAD and text of op i from a seed: the same for every engine. */
static void random_op(struct ipsf_aead_op *op, uint8_t *text, uint32_t length, uint64_t *seed)
{
	for (uint32_t j = 0; j < length; j++)
		text[j] = (uint8_t)test_random(seed);
	for (unsigned j = 0; j < 12; j++) {
		op->aad[j] = (uint8_t)test_random(seed);
		op->nonce[j] = (uint8_t)test_random(seed);
	}
	op->length = length;
	op->aad_length = length & 1 ? 12 : 8;
	op->source = op->destination = text;
	op->ok = 0;
}

static uint32_t length_of(unsigned i)
{
	return i < 600 ? i : (i - 599) * 97 % LENGTH_MAX;
}

/* One engine seals, into another buffer or in place, the other opens: both of the same bytes. */
static void cross(const struct ipsf_aead_engine *a, const struct ipsf_aead_engine *b, size_t key_length)
{
	static uint8_t plain[LENGTH_MAX + 16], in_place[LENGTH_MAX + 16], apart[LENGTH_MAX + 16];
	uint8_t bytes[32], icv[16];
	uint64_t seed = key_length;
	struct ipsf_aead_key *ka, *kb;
	struct ipsf_aead_op op = {0};

	for (size_t i = 0; i < key_length; i++)
		bytes[i] = (uint8_t)test_random(&seed);
	CHECK(ipsf_aead_key_new(a, bytes, key_length, &ka) == IPSF_OK && ipsf_aead_key_new(b, bytes, key_length, &kb) == IPSF_OK);
	for (unsigned i = 0; i < 700; i++) {
		random_op(&op, in_place, length_of(i), &seed);
		memcpy(plain, in_place, op.length);
		op.icv = in_place + op.length;
		a->seal(ka, &op, 1);
		CHECK(op.ok == 1);
		op.source = plain;
		op.destination = apart;
		op.icv = icv;
		b->seal(kb, &op, 1);
		CHECK(op.ok == 1 && !memcmp(icv, in_place + op.length, 16) && !memcmp(apart, in_place, op.length));
		op.source = op.destination = apart;
		op.ok = 0;
		a->open(ka, &op, 1);
		CHECK(op.ok == 1 && !memcmp(apart, plain, op.length));
		op.source = in_place;
		op.ok = 0;
		b->open(kb, &op, 1);
		CHECK(op.ok == 1 && !memcmp(apart, plain, op.length));
	}
	ipsf_aead_key_free(a, ka);
	ipsf_aead_key_free(b, kb);
}

static void open_changed(const struct ipsf_aead_engine *engine, struct ipsf_aead_key *key, const struct ipsf_aead_op *good,
			 uint8_t *changed, unsigned bit)
{
	uint8_t out[64];
	struct ipsf_aead_op op = *good;
	/* Where the bit lies in the copy of the op, if it lies in the op. */
	size_t inside = (size_t)(changed - (const uint8_t *)good);
	uint8_t *at = inside < sizeof *good ? (uint8_t *)&op + inside : changed;

	op.destination = out;
	op.ok = 1;
	*at ^= (uint8_t)(1u << bit);
	engine->open(key, &op, 1);
	CHECK(op.ok == 0);
	*at ^= (uint8_t)(1u << bit);
}

/* One bit of text, ICV, AAD or nonce, and the key. */
static void every_bit_counts(const struct ipsf_aead_engine *engine)
{
	uint8_t text[33 + 16], key_bytes[16] = {1, 2, 3}, out[64];
	uint64_t seed = 5;
	struct ipsf_aead_key *key, *other;
	struct ipsf_aead_op op = {0};

	CHECK(ipsf_aead_key_new(engine, key_bytes, 16, &key) == IPSF_OK);
	key_bytes[15] ^= 1;
	CHECK(ipsf_aead_key_new(engine, key_bytes, 16, &other) == IPSF_OK);
	random_op(&op, text, 33, &seed);
	op.icv = text + 33;
	engine->seal(key, &op, 1);
	for (unsigned bit = 0; bit < 8; bit++) {
		for (unsigned i = 0; i < sizeof text; i++)
			open_changed(engine, key, &op, text + i, bit);
		for (unsigned i = 0; i < 12; i++) {
			open_changed(engine, key, &op, op.aad + i, bit);
			open_changed(engine, key, &op, op.nonce + i, bit);
		}
	}
	op.destination = out;
	engine->open(other, &op, 1);
	CHECK(op.ok == 0);
	engine->open(key, &op, 1);
	CHECK(op.ok == 1);
	ipsf_aead_key_free(engine, key);
	ipsf_aead_key_free(engine, other);
}

/* A bad packet in a run harms no other, and each worker's part of a key gives the same. */
static void runs_and_workers(const struct ipsf_aead_engine *engine)
{
	static uint8_t text[64][128 + 16];
	struct ipsf_aead_op ops[64];
	uint8_t bytes[32] = {7};
	uint64_t seed = 11;
	struct ipsf_key key;

	CHECK(ipsf_key_init_own(&key, engine, 3, bytes, 32) == IPSF_OK);
	for (unsigned round = 0; round < 50; round++) {
		uint64_t bad = test_random(&seed);

		for (unsigned i = 0; i < 64; i++) {
			random_op(&ops[i], text[i], (uint32_t)(test_random(&seed) % 128) + 1, &seed);
			ops[i].icv = text[i] + ops[i].length;
		}
		ipsf_key_seal(&key, round % 3, ops, 64);
		for (unsigned i = 0; i < 64; i++) {
			CHECK(ops[i].ok == 1);
			if (bad >> i & 1)
				text[i][0] ^= 0x80;
		}
		ipsf_key_open(&key, (round + 1) % 3, ops, 64);
		for (unsigned i = 0; i < 64; i++)
			CHECK(ops[i].ok == !(bad >> i & 1));
		ipsf_key_seal(&key, 0, ops, 0); /* nothing to do is no error */
	}
	ipsf_key_fini(&key);
}

static void refuses(const struct ipsf_aead_engine *engine)
{
	const size_t bad[] = {0, 1, 15, 17, 20, 31, 33};
	uint8_t bytes[64] = {0};
	struct ipsf_aead_key *key;
	struct ipsf_key own;

	for (unsigned i = 0; i < sizeof bad / sizeof bad[0]; i++)
		CHECK(ipsf_aead_key_new(engine, bytes, bad[i], &key) == IPSF_EINVAL);
	CHECK(ipsf_key_init_own(&own, engine, 0, bytes, 16) == IPSF_EINVAL);
	CHECK(ipsf_key_init_own(&own, engine, IPSF_MAX_WORKERS + 1, bytes, 16) == IPSF_EINVAL);
	CHECK(ipsf_key_init_own(&own, engine, 1, bytes, 33) == IPSF_EINVAL);
	CHECK(ipsf_key_init_own(&own, engine, 1, bytes, 17) == IPSF_ECRYPTO);
	ipsf_aead_key_free(engine, NULL);
}

static void names(void)
{
	CHECK(ipsf_engine_count() >= 1 && ipsf_aead_find("openssl"));
	CHECK(!ipsf_aead_find("no such engine") && !ipsf_engine_choose("") && !ipsf_engine_name(ipsf_engine_count()));
	CHECK(!strcmp(ipsf_engine_choose(NULL), ipsf_engine_name(0)) && !strcmp(ipsf_engine_choose("auto"), ipsf_engine_name(0)));
	for (size_t i = 0; i < ipsf_engine_count(); i++)
		CHECK(!strcmp(ipsf_engine_choose(ipsf_engine_name(i)), ipsf_engine_name(i)));
}

int main(void)
{
	names();
	for (size_t i = 0; i < ipsf_engine_count(); i++) {
		const struct ipsf_aead_engine *engine = ipsf_aead_find(ipsf_engine_name(i));

		for (unsigned v = 0; v < sizeof vectors / sizeof vectors[0]; v++)
			run_vector(engine, &vectors[v]);
		every_bit_counts(engine);
		runs_and_workers(engine);
		refuses(engine);
		for (size_t j = 0; j < ipsf_engine_count(); j++)
			for (size_t bits = 16; bits <= 32; bits += 8)
				cross(engine, ipsf_aead_find(ipsf_engine_name(j)), bits);
	}
	return check_summary("test_aead");
}
