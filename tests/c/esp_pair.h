/*
 * A pair of SAs from gateway A to gateway B, packets in buffers with ESP's room, and IP packets to put in.
 *
 *     10.1.0.0/16, fd01::/64 -- A 192.0.2.1, 2001:db8::1 == B 192.0.2.2, 2001:db8::2 -- 10.2.0.0/16, fd02::/64
 */
#ifndef IPSF_TEST_ESP_PAIR_H
#define IPSF_TEST_ESP_PAIR_H

#include "check.h"
#include "esp.h"
#include "ip.h"

#define SPI 0x10000001u
#define BUFFER_SIZE 2048

/* Like a pool's buffer, but with nothing else near: ASan sees every byte too far. */
struct slot {
	struct ipsf_packet packet;
	uint8_t bytes[IPSF_HEADROOM + BUFFER_SIZE + IPSF_TAILROOM];
};

struct pair {
	struct ipsf_sa_out *out;
	struct ipsf_sa_in *in;
	struct ipsf_path path; /* as B sees it */
	struct ipsf_path moved;
};

static inline struct ipsf_addr gateway(uint8_t version, uint8_t last)
{
	struct ipsf_addr address = { .version = version };

	memcpy(address.bytes, version == 4 ? "\xc0\x00\x02" : "\x20\x01\x0d\xb8", version == 4 ? 3 : 4);
	address.bytes[version == 4 ? 3 : 15] = last;
	return address;
}

static inline struct ipsf_addr host(uint8_t version, uint8_t site)
{
	struct ipsf_addr address = { .version = version, .bytes = { version == 4 ? 10 : 0xfd, site } };

	address.bytes[version == 4 ? 3 : 15] = 2;
	return address;
}

static inline struct ipsf_selector site(uint8_t version, uint8_t number)
{
	struct ipsf_selector s = { .port_last = UINT16_MAX };

	s.first = s.last = host(version, number);
	memset(s.first.bytes + (version == 4 ? 2 : 8), 0, version == 4 ? 2 : 8);
	memset(s.last.bytes + (version == 4 ? 2 : 8), 0xff, version == 4 ? 2 : 8);
	return s;
}

static inline struct ipsf_selector single(struct ipsf_addr address)
{
	return (struct ipsf_selector){ .first = address, .last = address, .port_last = UINT16_MAX };
}

/* What A has of the outbound SA. The selectors are static: the SA copies them. */
static inline struct ipsf_sa_params params_of(uint8_t mode, uint8_t outer, uint8_t key_length)
{
	static struct ipsf_selector local[4], remote[4];
	struct ipsf_sa_params p = { .spi = SPI, .reqid = 1, .encryption = 20, .key_length = key_length, .mode = mode,
				    .udp_encap = 1, .copy_ecn = 1, .replay_window = 64, .local_ts = local,
				    .remote_ts = remote, .n_local_ts = 4, .n_remote_ts = 4 };

	for (unsigned i = 0; i < sizeof p.key; i++)
		p.key[i] = (uint8_t)(i * 7 + 1);
	p.path = (struct ipsf_path){ gateway(outer, 1), gateway(outer, 2), 4500, 4500 };
	local[0] = site(4, 1), local[1] = site(6, 1), local[2] = single(gateway(4, 1)), local[3] = single(gateway(6, 1));
	remote[0] = site(4, 2), remote[1] = site(6, 2), remote[2] = single(gateway(4, 2)), remote[3] = single(gateway(6, 2));
	return p;
}

/* The same SA as B has it. */
static inline struct ipsf_sa_params inbound(const struct ipsf_sa_params *out)
{
	struct ipsf_sa_params p = *out;

	p.local_ts = out->remote_ts, p.remote_ts = out->local_ts;
	p.n_local_ts = out->n_remote_ts, p.n_remote_ts = out->n_local_ts;
	p.path = (struct ipsf_path){ out->path.remote, out->path.local, out->path.remote_port, out->path.local_port };
	return p;
}

static inline size_t from_hex(const char *hex, uint8_t *to)
{
	size_t n = strlen(hex) / 2;
	unsigned byte;

	for (size_t i = 0; i < n; i++) {
		CHECK(sscanf(hex + 2 * i, "%2x", &byte) == 1);
		to[i] = (uint8_t)byte;
	}
	return n;
}

static inline void pair_init(struct pair *pair, const struct ipsf_sa_params *params, const char *engine)
{
	struct ipsf_sa_params in = inbound(params);

	if (ipsf_sa_out_new(params, engine, &pair->out) || ipsf_sa_in_new(&in, engine, &pair->in)) {
		fprintf(stderr, "no SA with engine %s\n", engine);
		exit(1);
	}
	pair->path = in.path;
}

static inline void pair_fini(struct pair *pair)
{
	ipsf_sa_out_free(pair->out);
	ipsf_sa_in_free(pair->in);
}

static inline void slot_put(struct slot *slot, const uint8_t *data, size_t length)
{
	memset(slot, 0, sizeof *slot);
	slot->packet.data = memcpy(slot->bytes + IPSF_HEADROOM, data, length);
	slot->packet.length = (uint32_t)length;
	slot->packet.headroom = IPSF_HEADROOM;
	slot->packet.tailroom = (uint16_t)(BUFFER_SIZE + IPSF_TAILROOM - length);
}

/* An IP header for what follows it: addresses of the same version, a right checksum. The length of all. */
static inline size_t ip_header(uint8_t *to, struct ipsf_addr source, struct ipsf_addr destination, uint8_t protocol,
			       size_t payload, uint8_t tos)
{
	size_t n = source.version == 4 ? 4 : 16;

	memset(to, 0, n == 4 ? 20 : 40);
	if (source.version == 4) {
		to[0] = 0x45, to[1] = tos, to[6] = 0x40, to[8] = 64, to[9] = protocol;
		ipsf_write16(to + 2, (uint16_t)(20 + payload));
	} else {
		ipsf_write32(to, 6u << 28 | (uint32_t)tos << 20);
		ipsf_write16(to + 4, (uint16_t)payload);
		to[6] = protocol, to[7] = 64;
	}
	memcpy(to + (n == 4 ? 12 : 8), source.bytes, n);
	memcpy(to + (n == 4 ? 16 : 24), destination.bytes, n);
	if (n == 4)
		ipsf_write16(to + 10, ipsf_checksum_fold(ipsf_checksum_add(to, 20, 0)));
	return (n == 4 ? 20 : 40) + payload;
}

/*
 * A UDP packet (payload of 8 or more bytes, counted from the UDP header on) from host to host, or gateway to gateway.
 */
static inline size_t udp_packet(uint8_t *to, uint8_t version, bool gateways, size_t payload, uint8_t tos)
{
	struct ipsf_addr a = gateways ? gateway(version, 1) : host(version, 1), b = gateways ? gateway(version, 2) : host(version, 2);
	size_t length = ip_header(to, a, b, IPSF_PROTO_UDP, payload, tos), header = length - payload;

	for (size_t i = 8; i < payload; i++)
		to[header + i] = (uint8_t)i;
	ipsf_write16(to + header, 1024);
	ipsf_write16(to + header + 2, 53);
	ipsf_write16(to + header + 4, (uint16_t)payload);
	ipsf_write16(to + header + 6, 0);
	return length;
}

/* That something was dropped is told when it is true; the other notices. */
static inline unsigned without_drops(unsigned notices, struct ipsf_packet *const *packets, unsigned n)
{
	unsigned dropped = 0;

	for (unsigned i = 0; i < n; i++)
		dropped |= packets[i]->drop;
	CHECK(!(notices & IPSF_NOTICE_DROPPED) == !dropped);
	return notices & (unsigned)~IPSF_NOTICE_DROPPED;
}

/* Parses and seals what stands in the slots; the notices, drops apart. */
static inline unsigned slots_seal(struct pair *pair, struct slot *slots, unsigned n)
{
	struct ipsf_packet *packets[IPSF_BATCH_MAX] = {NULL};
	unsigned ready = 0;

	for (unsigned i = 0; i < n; i++)
		if (ipsf_ip_parse(&slots[i].packet))
			packets[ready++] = &slots[i].packet;
	return without_drops(ipsf_esp_encap(pair->out, 0, packets, ready), packets, ready);
}

/* ESP around any text, its trailer included, as a peer with the right key and no manners would send it. */
static inline void slot_forge(const struct pair *pair, struct slot *slot, const uint8_t *text, size_t length, uint64_t sequence)
{
	uint8_t *esp = slot->bytes + IPSF_HEADROOM;
	struct ipsf_aead_op op;

	memset(slot, 0, sizeof *slot);
	ipsf_write32(esp, pair->out->spi);
	ipsf_write32(esp + 4, (uint32_t)sequence);
	ipsf_write64(esp + 8, sequence);
	memcpy(esp + IPSF_ESP_TEXT, text, length);
	ipsf_esp_op(&op, esp, sequence, pair->out->esn, pair->out->salt);
	op.source = op.destination = esp + IPSF_ESP_TEXT;
	op.length = (uint32_t)length;
	op.icv = esp + IPSF_ESP_TEXT + length;
	ipsf_key_seal(&pair->out->key, 0, &op, 1);
	CHECK(op.ok);
	slot->packet.data = esp;
	slot->packet.length = (uint32_t)(length + IPSF_ESP_TEXT + IPSF_ICV_SIZE);
	slot->packet.headroom = IPSF_HEADROOM;
	slot->packet.tailroom = (uint16_t)(BUFFER_SIZE + IPSF_TAILROOM - slot->packet.length);
}

/* Appends RFC 4303's padding, its length and the next header; the new length. */
static inline size_t trailer(uint8_t *text, size_t length, unsigned pad, uint8_t next_header)
{
	for (unsigned i = 0; i < pad; i++)
		text[length++] = (uint8_t)(i + 1);
	text[length++] = (uint8_t)pad;
	text[length++] = next_header;
	return length;
}

/* Opens what stands in the slots, as if it came by pair->path with its outer TOS; the notices, drops apart. */
static inline unsigned slots_open(struct pair *pair, struct slot *slots, unsigned n)
{
	struct ipsf_packet *packets[IPSF_BATCH_MAX] = {NULL};
	unsigned ready = 0;

	for (unsigned i = 0; i < n; i++) {
		slots[i].packet.path = &pair->path;
		if (!slots[i].packet.drop)
			packets[ready++] = &slots[i].packet;
	}
	return without_drops(ipsf_esp_decap(pair->in, 0, packets, ready, &pair->moved), packets, ready);
}

#endif
