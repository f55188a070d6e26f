/* The SAs as a library: arrays of packets in memory, in steps of one batch. No ports, no threads. */
#include "esp.h"
#include "ip.h"

static_assert(IPSF_ESP_HEADROOM == IPSF_ESP_TEXT, "what in place sealing writes before a packet");

/* One step's descriptors and, for transport mode, the IP headers that ESP stands behind. */
struct step {
	struct ipsf_packet store[IPSF_BATCH_MAX];
	struct ipsf_packet *packets[IPSF_BATCH_MAX]; /* those that go on */
	uint8_t *sources[IPSF_BATCH_MAX];            /* where these came from: what is opened is not copied before */
	struct ipsf_path path[IPSF_BATCH_MAX];
	uint8_t header[IPSF_BATCH_MAX][IPSF_IPV6_HEADER];
	unsigned n, ready;
	bool in_place;
};

static void describe(struct ipsf_packet *packet, uint8_t *data, uint32_t length, uint16_t headroom, uint16_t tailroom)
{
	memset(packet, 0, sizeof *packet);
	packet->data = data;
	packet->length = length;
	packet->headroom = headroom;
	packet->tailroom = tailroom;
}

static bool inside(const struct ipsf_packets *packets, size_t i)
{
	return packets->offsets[i] <= packets->size && packets->lengths[i] <= packets->size - packets->offsets[i];
}

/* Sealing in place: each packet has the headroom of ESP before it and the tailroom behind, for itself. */
static bool has_room(const struct ipsf_packets *packets)
{
	size_t end = 0;

	for (size_t i = 0; i < packets->count; i++) {
		if (packets->offsets[i] < end + IPSF_ESP_HEADROOM)
			return false;
		end = packets->offsets[i] + packets->lengths[i] + IPSF_ESP_ROOM - IPSF_ESP_HEADROOM;
	}
	return end <= packets->size;
}

static bool enough(const struct ipsf_packets *packets, const struct ipsf_packets *out, size_t room)
{
	size_t needed = 0;

	if (out->count < packets->count)
		return false;
	if (out->data == packets->data)
		return room ? has_room(packets) : true;
	for (size_t i = 0; i < packets->count; i++)
		needed += packets->lengths[i] + room;
	return needed <= out->size;
}

/* Where ESP or the inner packet is now, as offsets into out. */
static void report(const struct step *step, struct ipsf_packets *out, size_t first, uint8_t *reasons)
{
	for (unsigned i = 0; i < step->n; i++) {
		const struct ipsf_packet *packet = &step->store[i];

		reasons[first + i] = packet->drop;
		out->lengths[first + i] = packet->drop ? 0 : packet->length;
		if (!packet->drop)
			out->offsets[first + i] = (uint64_t)(packet->data - out->data);
		else if (!step->in_place)
			out->offsets[first + i] = 0;
	}
}

static unsigned plain_header(uint8_t version)
{
	return version == 4 ? IPSF_IPV4_HEADER : IPSF_IPV6_HEADER;
}

/* Puts an IP header before packet->data and lets its length, protocol and checksum say what follows. */
static void put_header(struct ipsf_packet *packet, const uint8_t *header, uint8_t protocol)
{
	uint8_t version = header[0] >> 4, *ip = packet->data - plain_header(version);

	memmove(ip, header, plain_header(version));
	packet->data = ip;
	packet->length += plain_header(version);
	if (version == 4) {
		ipsf_write16(ip + 2, (uint16_t)packet->length);
		ip[9] = protocol;
		ipsf_write16(ip + 10, 0);
		ipsf_write16(ip + 10, ipsf_checksum_fold(ipsf_checksum_add(ip, IPSF_IPV4_HEADER, 0)));
	} else {
		ipsf_write16(ip + 4, (uint16_t)(packet->length - IPSF_IPV6_HEADER));
		ip[6] = protocol;
	}
}

/*
 * Reads the packet where it stands; copies it to where ESP has room around it, if it has none: the trailer must follow
 * the text.
 */
static void seal_gather(struct step *step, const struct ipsf_sa_out *sa, const struct ipsf_packets *in, size_t first,
			uint8_t **to)
{
	step->ready = 0;
	for (unsigned i = 0; i < step->n; i++) {
		struct ipsf_packet *packet = &step->store[i];
		uint32_t length = in->lengths[first + i];
		uint8_t *place = *to + IPSF_ESP_TEXT;

		*to += length + IPSF_ESP_ROOM;
		describe(packet, in->data + in->offsets[first + i], length, IPSF_ESP_TEXT, IPSF_ESP_ROOM - IPSF_ESP_TEXT);
		if (!ipsf_ip_parse(packet))
			continue;
		if (sa->mode == IPSF_MODE_TRANSPORT)
			memcpy(step->header[i], packet->data, plain_header(packet->version));
		if (!step->in_place)
			packet->data = memcpy(place, packet->data, packet->length);
		step->packets[step->ready++] = packet;
	}
}

static void seal_headers(struct step *step)
{
	for (unsigned i = 0; i < step->n; i++)
		if (!step->store[i].drop)
			put_header(&step->store[i], step->header[i], IPSF_PROTO_ESP);
}

int ipsf_seal(struct ipsf_sa_out *sa, const struct ipsf_packets *packets, struct ipsf_packets *out, uint8_t *reasons)
{
	uint8_t *to = out->data;
	struct step step;

	for (size_t i = 0; i < packets->count; i++)
		if (!inside(packets, i))
			return IPSF_EINVAL;
	if (!enough(packets, out, IPSF_ESP_ROOM))
		return IPSF_ENOSPC;
	step.in_place = out->data == packets->data;
	for (size_t first = 0; first < packets->count; first += step.n) {
		size_t left = packets->count - first;

		step.n = left < IPSF_BATCH_MAX ? (unsigned)left : IPSF_BATCH_MAX;
		seal_gather(&step, sa, packets, first, &to);
		ipsf_esp_encap(sa, 0, step.packets, step.ready);
		if (sa->mode == IPSF_MODE_TRANSPORT)
			seal_headers(&step);
		report(&step, out, first, reasons);
	}
	return IPSF_OK;
}

static void take_address(struct ipsf_addr *to, const uint8_t *bytes, uint8_t version)
{
	memset(to, 0, sizeof *to);
	to->version = version;
	memcpy(to->bytes, bytes, version == 4 ? 4 : 16);
}

/* Transport mode: what the port does for a gateway. Reads the outer header and steps over it. */
static bool strip_header(struct step *step, unsigned i, struct ipsf_packet *packet)
{
	if (!ipsf_ip_parse(packet))
		return false;
	if (packet->flags & (IPSF_PACKET_FIRST_FRAGMENT | IPSF_PACKET_LATER_FRAGMENT))
		packet->drop = IPSF_DROP_FRAGMENT;
	else if (packet->protocol != IPSF_PROTO_ESP)
		packet->drop = IPSF_DROP_MALFORMED;
	else if (packet->transport != plain_header(packet->version))
		packet->drop = IPSF_DROP_OPTIONS;
	if (packet->drop)
		return false;
	memcpy(step->header[i], packet->data, packet->transport);
	take_address(&step->path[i].remote, ipsf_ip_source(packet), packet->version);
	take_address(&step->path[i].local, ipsf_ip_destination(packet), packet->version);
	step->path[i].local_port = step->path[i].remote_port = 0;
	packet->path = &step->path[i];
	packet->tos = ipsf_ip_tos(packet);
	ipsf_packet_cut_front(packet, packet->transport);
	return true;
}

static void open_gather(struct step *step, const struct ipsf_sa_in *sa, const struct ipsf_packets *in, size_t first,
			uint8_t **to)
{
	step->ready = 0;
	for (unsigned i = 0; i < step->n; i++) {
		struct ipsf_packet *packet = &step->store[i];
		uint8_t *from = in->data + in->offsets[first + i], *place = step->in_place ? from : *to;
		uint32_t length = in->lengths[first + i];

		*to += length;
		describe(packet, from, length, 0, 0);
		if (sa->mode == IPSF_MODE_TRANSPORT && !strip_header(step, i, packet))
			continue;
		if (packet->length >= 4 && ipsf_read32(packet->data) != sa->spi) {
			packet->drop = IPSF_DROP_UNKNOWN_SPI;
			continue;
		}
		step->sources[step->ready] = packet->data;
		step->packets[step->ready++] = packet;
		packet->data = place + (packet->data - from);
	}
}

/* The header that came with the packet takes the place of the one that decap built; what follows it stays the same. */
static void open_headers(struct step *step)
{
	for (unsigned i = 0; i < step->n; i++) {
		struct ipsf_packet *packet = &step->store[i];
		uint8_t protocol;

		if (packet->drop)
			continue;
		protocol = packet->data[packet->version == 4 ? 9 : 6]; /* not packet->protocol: that is behind extension headers */
		ipsf_packet_cut_front(packet, plain_header(packet->version));
		put_header(packet, step->header[i], protocol);
	}
}

int ipsf_open(struct ipsf_sa_in *sa, const struct ipsf_packets *packets, struct ipsf_packets *out, uint8_t *reasons)
{
	uint8_t *to = out->data;
	struct ipsf_path moved;
	struct step step;

	for (size_t i = 0; i < packets->count; i++)
		if (!inside(packets, i))
			return IPSF_EINVAL;
	if (!enough(packets, out, 0))
		return IPSF_ENOSPC;
	step.in_place = out->data == packets->data;
	for (size_t first = 0; first < packets->count; first += step.n) {
		size_t left = packets->count - first;

		step.n = left < IPSF_BATCH_MAX ? (unsigned)left : IPSF_BATCH_MAX;
		open_gather(&step, sa, packets, first, &to);
		ipsf_esp_decap_from(sa, 0, step.packets, step.sources, step.ready, &moved);
		if (sa->mode == IPSF_MODE_TRANSPORT)
			open_headers(&step);
		report(&step, out, first, reasons);
	}
	return IPSF_OK;
}

/* ---- the engine alone, for benchmarks: the same batches, nothing but AEAD ---- */

static void raw_step(struct ipsf_aead_op *ops, uint8_t *data, size_t length, size_t stride, unsigned n, uint64_t *iv)
{
	for (unsigned i = 0; i < n; i++, data += stride) {
		ops[i].source = ops[i].destination = data;
		ops[i].icv = data + length;
		ops[i].length = (uint32_t)length;
		ops[i].aad_length = 8;
		ipsf_write64(ops[i].nonce + 4, ++*iv);
	}
}

static int raw(const char *name, bool sealing, const uint8_t *key, size_t key_length, uint8_t *data, size_t length,
	       size_t stride, size_t n, size_t rounds)
{
	const struct ipsf_aead_engine *engine = ipsf_aead_find(name);
	struct ipsf_aead_op ops[IPSF_BATCH_MAX] = { 0 };
	struct ipsf_aead_key *expanded;
	uint64_t iv = 0;
	int error;

	if (!engine)
		return IPSF_ENOENT;
	if (!n || length > INT32_MAX || stride < length + IPSF_ICV_SIZE)
		return IPSF_EINVAL;
	error = ipsf_aead_key_new(engine, key, key_length, &expanded);
	if (error)
		return error;
	for (size_t round = 0; round < rounds; round++) {
		for (size_t first = 0; first < n; first += IPSF_BATCH_MAX) {
			unsigned step = n - first < IPSF_BATCH_MAX ? (unsigned)(n - first) : IPSF_BATCH_MAX;

			raw_step(ops, data + first * stride, length, stride, step, &iv);
			(sealing ? engine->seal : engine->open)(expanded, ops, step);
		}
	}
	ipsf_aead_key_free(engine, expanded);
	return IPSF_OK;
}

int ipsf_raw_seal(const char *engine, const uint8_t *key, size_t key_length, uint8_t *data, size_t length, size_t stride,
		  size_t n, size_t rounds)
{
	return raw(engine, true, key, key_length, data, length, stride, n, rounds);
}

int ipsf_raw_open(const char *engine, const uint8_t *key, size_t key_length, uint8_t *data, size_t length, size_t stride,
		  size_t n, size_t rounds)
{
	return raw(engine, false, key, key_length, data, length, stride, n, rounds);
}
