/*
 * Mutated ESP packets: what strangers change on the way (bits, lengths, SPIs, replays), and what a peer with the right
 * key may seal (lying lengths, bad trailers, extension headers, noise). Each is accounted for: in = out + drops by
 * reason.
 *
 * test_esp_mutate [count [seed]], or IPSECFAST_MUTATIONS=count; 40,000 without. ci/fuzz asks for 1,000,000.
 */
#include "esp_pair.h"
#include "sad.h"

#define PAIRS 8u /* modes, versions, engines and ESN mixed */

static uint64_t seed;
static struct slot slots[IPSF_BATCH_MAX];
static struct pair pairs[PAIRS];
static struct ipsf_sad sad;

/* What has gone in, come out and been dropped, all SAs together. */
static struct {
	unsigned long in, out, drops[IPSF_DROP_COUNT], before_an_sa, opened_in_full;
} account;

/* The untouched packet of a slot, to know what must come out if the window lets it. */
struct original {
	uint8_t plain[BUFFER_SIZE];
	size_t length;
	bool intact;
};
static struct original originals[IPSF_BATCH_MAX];

static uint32_t below(uint32_t n)
{
	return (uint32_t)(test_random(&seed) % n);
}

static void noise(uint8_t *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = (uint8_t)test_random(&seed);
}

static struct ipsf_sa_params params_number(unsigned i)
{
	struct ipsf_sa_params p = params_of(i & 1, i & 2 ? 6 : 4, (uint8_t)(20 + 8 * (i % 3)));

	p.spi = SPI + (i & 4 ? i << 20 : i); /* some share a slot of the SAD */
	p.esn = i >> 1 & 1;
	p.initial_sequence = p.esn ? (UINT64_C(1) << 32) - 1000 : 0;
	p.replay_window = i & 1 ? 64 : 2048;
	return p;
}

static void set_up(void)
{
	ipsf_sad_init(&sad);
	for (unsigned i = 0; i < PAIRS; i++) {
		struct ipsf_sa_params params = params_number(i);

		pair_init(&pairs[i], &params, ipsf_engine_name(i / 2 % ipsf_engine_count()));
		CHECK(ipsf_sad_insert(&sad, pairs[i].in) == IPSF_OK);
	}
}

static void tear_down(void)
{
	ipsf_sad_fini(&sad); /* frees the inbound SAs */
	for (unsigned i = 0; i < PAIRS; i++)
		ipsf_sa_out_free(pairs[i].out);
}

/* ---- what is sealed ---- */

/* An honest packet in slot i. */
static void honest(const struct pair *pair, unsigned i)
{
	bool transport = pair->out->mode == IPSF_MODE_TRANSPORT;
	uint8_t version = transport ? pair->path.remote.version : below(2) ? 6 : 4;
	struct ipsf_packet *packet = &slots[i].packet;
	struct original *o = &originals[i];

	o->length = udp_packet(o->plain, version, transport, 8 + below(below(8) ? 200 : 1400), (uint8_t)below(256));
	slot_put(&slots[i], o->plain, o->length);
	CHECK(ipsf_ip_parse(packet));
	ipsf_esp_encap(pair->out, 0, &packet, 1);
	CHECK(!packet->drop);
	o->intact = true;
}

/* Up to three extension headers, in any order, with lengths that may lie, behind an IPv6 header; the new length. */
static size_t extend(uint8_t *text, size_t length)
{
	static const uint8_t kinds[] = { IPSF_PROTO_HOPOPTS, IPSF_PROTO_ROUTING, IPSF_PROTO_FRAGMENT, IPSF_PROTO_DSTOPTS };

	for (unsigned n = below(4); n-- > 0 && length + 8 < BUFFER_SIZE - 300;) {
		memmove(text + 48, text + 40, length - 40);
		noise(text + 40, 8);
		text[40] = text[6];
		text[41] = below(4) ? 0 : (uint8_t)below(256);
		text[6] = kinds[below(4)];
		length += 8;
	}
	ipsf_write16(text + 4, (uint16_t)(length - 40));
	return length;
}

/* Fields of the inner packet that lie; sometimes all of it is noise. */
static size_t lie(uint8_t *text, size_t length)
{
	if (text[0] >> 4 == 6 && below(2))
		length = extend(text, length);
	switch (below(6)) {
	case 0: text[0] = (uint8_t)test_random(&seed); break;
	case 1: ipsf_write16(text + (text[0] >> 4 == 4 ? 2 : 4), (uint16_t)below(below(2) ? 65536 : 2048)); break;
	case 2: text[below((uint32_t)(length < 40 ? length : 40))] ^= (uint8_t)(1u << below(8)); break;
	case 3: length = below((uint32_t)length + 1); break;
	case 4: noise(text, length); break;
	default: break;
	}
	return length;
}

/* RFC 4303 s2.4 to s2.7 done wrong, or right; a multiple of 4. */
static size_t careless_trailer(uint8_t *text, size_t length, uint8_t version)
{
	static const uint8_t next[] = { 4, 41, 59, 17, 0, 43, 44, 60, 6, 255 };
	unsigned tfc = below(4) ? 0 : below(200), pad = (unsigned)(6 - (length + tfc) % 4) % 4 + 4 * (below(4) ? 0 : below(64));
	uint8_t right = version == 4 ? 4 : 41;

	memset(text + length, (int)below(2), tfc);
	length = trailer(text, length + tfc, pad < 256 ? pad : pad - 4, below(3) ? right : next[below(sizeof next)]);
	if (below(4) == 0)
		text[length - 2] = (uint8_t)below(256);
	if (below(8) == 0)
		text[length - 3] ^= 1;
	return length;
}

/* A packet that only somebody with the key can make. */
static void forged(const struct pair *pair, unsigned i)
{
	uint8_t version = below(2) ? 6 : 4, text[BUFFER_SIZE];
	bool transport = pair->out->mode == IPSF_MODE_TRANSPORT;
	size_t length = udp_packet(text, version, transport, 8 + below(600), (uint8_t)below(256));

	length = careless_trailer(text, lie(text, length), version);
	slot_forge(pair, &slots[i], text, length, atomic_fetch_add(&pair->out->sequence, 1) + 1);
	originals[i].intact = false;
}

/* ---- what is changed on the way ---- */

static void replay_of_another(unsigned i)
{
	unsigned other = below(i);
	struct ipsf_packet *from = &slots[other].packet;

	slot_put(&slots[i], slots[other].bytes + (from->data - slots[other].bytes), from->length);
	originals[i] = originals[other]; /* one of the two passes */
}

static void mutate(unsigned i)
{
	struct ipsf_packet *p = &slots[i].packet;
	bool *intact = &originals[i].intact;

	switch (below(10)) {
	case 0: p->data[below(p->length)] ^= (uint8_t)(1u << below(8)); *intact = false; break;
	case 1: p->length = below(p->length); *intact = false; break;
	case 2: /* longer, by what happens to stand behind */
		p->length += 1 + below(p->tailroom < 400 ? p->tailroom : 400);
		*intact = false;
		break;
	case 3: p->data[below(4)] ^= (uint8_t)(1 + below(255)); *intact = false; break;
	case 4: p->data[4 + below(4)] ^= (uint8_t)(1 + below(255)); *intact = false; break;
	case 5: noise(p->data, p->length); *intact = false; break;
	case 6:
		if (i)
			replay_of_another(i);
		break;
	default: break;
	}
}

/* ---- what B does with it ---- */

static void classify(struct ipsf_packet *p)
{
	p->sa.in = p->length < 8 ? NULL : ipsf_sad_find(&sad, ipsf_read32(p->data));
	if (p->sa.in)
		return;
	p->drop = p->length < 8 ? IPSF_DROP_TOO_SHORT : IPSF_DROP_UNKNOWN_SPI;
	account.before_an_sa++;
}

/* Opens the batch in runs of equal SA, as the pipeline does. */
static void open_all(const struct pair *pair, unsigned n)
{
	struct ipsf_packet *run[IPSF_BATCH_MAX];
	struct ipsf_path moved;

	for (unsigned i = 0; i < n; i++) {
		slots[i].packet.path = &pair->path;
		slots[i].packet.tos = (uint8_t)below(256);
		classify(&slots[i].packet);
	}
	for (unsigned i = 0, k; i < n; i += k ? k : 1) {
		for (k = 0; i + k < n && !slots[i + k].packet.drop && slots[i + k].packet.sa.in == slots[i].packet.sa.in; k++)
			run[k] = &slots[i + k].packet;
		if (k)
			ipsf_esp_decap(slots[i].packet.sa.in, 0, run, k, &moved);
	}
}

/*
 * What comes out lies inside its buffer, has lengths that agree, and, if nobody touched it, is what went in but for
 * TOS.
 */
static void check_out(unsigned i)
{
	const struct slot *slot = &slots[i];
	const struct ipsf_packet *p = &slot->packet;
	uint32_t said = p->version == 4 ? ipsf_read16(p->data + 2) : ipsf_read16(p->data + 4) + 40u;

	CHECK(p->data >= slot->bytes && p->data + p->length <= slot->bytes + sizeof slot->bytes);
	CHECK(p->data - slot->bytes == p->headroom && p->length == said && p->transport <= p->length);
	if (!originals[i].intact)
		return;
	account.opened_in_full++;
	CHECK(p->length == originals[i].length);
	CHECK(!memcmp(p->data + p->transport, originals[i].plain + p->transport, p->length - p->transport));
	if (p->version == 4)
		CHECK(ipsf_checksum_fold(ipsf_checksum_add(p->data, 20, 0)) == 0);
}

static void settle(unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		account.in++;
		account.drops[slots[i].packet.drop]++;
		if (slots[i].packet.drop)
			continue;
		account.out++;
		check_out(i);
	}
}

static void batch(unsigned n)
{
	const struct pair *pair = &pairs[below(PAIRS)];

	for (unsigned i = 0; i < n; i++) {
		if (below(2))
			honest(pair, i);
		else
			forged(pair, i);
		mutate(i);
	}
	open_all(pair, n);
	settle(n);
}

static void report(void)
{
	unsigned long dropped = 0, of_sas = 0;

	for (unsigned i = 1; i < IPSF_DROP_COUNT; i++)
		dropped += account.drops[i];
	for (unsigned i = 0; i < PAIRS; i++)
		for (unsigned j = 0; j < IPSF_DROP_COUNT; j++)
			of_sas += ipsf_sa_dropped(&pairs[i].in->drops, j);
	CHECK(account.in == account.out + dropped && dropped == of_sas + account.before_an_sa);
	printf("test_esp_mutate: %lu in, %lu out, %lu of them untouched\n", account.in, account.out, account.opened_in_full);
	for (unsigned i = 1; i < IPSF_DROP_COUNT; i++)
		if (account.drops[i])
			printf("  %-20s %9lu\n", ipsf_drop_text(i), account.drops[i]);
}

/* The mutations reach what they are made for. */
static void check_reach(void)
{
	static const enum ipsf_drop wanted[] = { IPSF_DROP_MALFORMED, IPSF_DROP_TOO_SHORT, IPSF_DROP_UNKNOWN_SPI, IPSF_DROP_REPLAY,
		IPSF_DROP_INTEGRITY, IPSF_DROP_BAD_TRAILER, IPSF_DROP_DUMMY, IPSF_DROP_SELECTOR, IPSF_DROP_ECN };

	for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++)
		CHECK(account.drops[wanted[i]] > 0);
	CHECK(account.opened_in_full > account.in / 20);
}

int main(int argc, char **argv)
{
	const char *text = argc > 1 ? argv[1] : getenv("IPSECFAST_MUTATIONS");
	unsigned long count = text ? strtoul(text, NULL, 10) : 40000;

	seed = argc > 2 ? strtoul(argv[2], NULL, 10) : 4303;
	printf("test_esp_mutate: seed %llu\n", (unsigned long long)seed);
	set_up();
	while (account.in < count)
		batch(1 + below(IPSF_BATCH_MAX));
	report();
	if (account.in >= 20000) /* fewer may miss a rare one */
		check_reach();
	tear_down();
	return check_summary("test_esp_mutate");
}
