/*
 * Cutting super-packets against building each segment by itself; what a virtio header may claim, and its lies; any bytes at all.
 */
#include "gso.h"
#include "ip.h"
#include "super_packets.h"
#include "vnet.h"

static struct super super, intact;
static uint8_t expected[SUPER_MAX];

/* A copy with nothing around it: ASan sees every byte too far. */
static struct ipsf_packet exact_copy(const struct super *s)
{
	struct ipsf_packet packet = {.data = malloc(s->length), .length = s->length};

	if (!packet.data)
		exit(1);
	memcpy(packet.data, s->bytes + ROOM, s->length);
	return packet;
}

static void cut_one(const struct super *s)
{
	struct ipsf_packet packet = exact_copy(s);
	const uint32_t n = super_count(s);
	struct ipsf_pieces pieces;

	CHECK(ipsf_vnet_accept(&s->vnet, &packet));
	CHECK(packet.segments == (n > 1 ? n : 0) && packet.segment_size == (n > 1 ? s->size : 0));
	packet.flags |= IPSF_PACKET_CLEAR;
	CHECK(ipsf_pieces_begin(&pieces, &packet) == n);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t length, wanted = naive_segment(s, i, expected);
		const uint8_t *data = ipsf_piece(&pieces, i, &length);

		CHECK(length == wanted && memcmp(data, expected, wanted) == 0);
	}
	free(packet.data);
}

static void cuts_as_the_naive(uint64_t *seed)
{
	for (unsigned round = 0; round < 3000; round++) {
		super_random(seed, &super);
		cut_one(&super);
	}
	for (uint32_t size = 1; size < 64; size++) /* headers longer than what stands before them */
		for (uint8_t version = 4; version <= 6; version += 2) {
			super_make(seed, &super, version, 6, size * 64, size);
			cut_one(&super);
			super_make(seed, &super, version, 17, size * 63 + 1, size);
			cut_one(&super);
		}
}

/* A checksum alone, at any place: the kernel's own tunnels leave inner ones to us. */
static void completes_checksums(uint64_t *seed)
{
	for (unsigned round = 0; round < 2000; round++) {
		const uint32_t n = 2 + below(seed, 2000), start = below(seed, n - 1), offset = below(seed, n - 1 - start);
		struct super s = {.length = n, .vnet = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = (uint16_t)start,
							.csum_offset = (uint16_t)offset}};
		struct ipsf_packet packet;

		random_bytes(seed, super_data(&s), n);
		packet = exact_copy(&s);
		CHECK(ipsf_vnet_accept(&s.vnet, &packet) && packet.segments == 0);
		const uint32_t sum = 0xffffu - naive_sum(super_data(&s) + start, n - start, 0);
		CHECK(get16(packet.data + start + offset) == (sum ? sum : 0xffff));
		free(packet.data);
	}
}

static bool accepts(const struct super *s)
{
	struct ipsf_packet packet = exact_copy(s);
	const bool accepted = ipsf_vnet_accept(&s->vnet, &packet);

	free(packet.data);
	return accepted;
}

#define LIE(change) \
	do { \
		super = intact; \
		change; \
		CHECK(!accepts(&super)); \
	} while (0)

/* Each contradiction alone makes the packet a liar. */
static void refuses_lies(uint64_t *seed)
{
	for (unsigned round = 0; round < 400; round++) {
		const uint8_t version = round % 2 ? 4 : 6, protocol = round % 4 < 2 ? 6 : 17;

		super_make(seed, &intact, version, protocol, 10000, 1000);
		super = intact;
		CHECK(accepts(&super));
		LIE(super.vnet.gso_size = 0);
		LIE(super.vnet.gso_size = (uint16_t)(super.payload / 65));
		LIE(super.vnet.gso_type = 3);
		LIE(super.vnet.gso_type = (uint8_t)(super.vnet.gso_type == 1 ? 4 : 1));
		LIE(super.vnet.gso_type = (uint8_t)(super.vnet.gso_type == 5 ? 1 : 5));
		LIE(super.vnet.gso_type = VIRTIO_NET_HDR_GSO_ECN);
		LIE(super.vnet.flags = 0);
		LIE(super.vnet.csum_start = (uint16_t)(super.transport + 1));
		LIE(super.vnet.csum_start = 0xffff);
		LIE(super.vnet.csum_offset = (uint16_t)(22 - super.vnet.csum_offset));
		LIE(super.vnet.hdr_len = 0xffff);
		LIE(super.length--);
		LIE(super.length++);
		LIE(super.length = super.header);
		LIE(super.length = super.transport + 3);
		LIE(super_data(&super)[0] = 0x54);
		LIE(if (protocol == 6) super_data(&super)[super.transport + 12] = 0x40; else
			put16(super_data(&super) + super.transport + 4, 8));
		LIE(if (version == 4) { put16(super_data(&super) + 6, 0x2000); } else { super_data(&super)[6] = 44; });
		LIE((super.vnet.gso_type = 0, super.vnet.csum_start = (uint16_t)(super.length - 1), super.vnet.csum_offset = 0));
	}
}

/* Random bytes changed in packet and header: what is accepted can be cut, into packets that hold together. */
static void any_bytes(uint64_t *seed)
{
	unsigned accepted = 0;

	for (unsigned round = 0; round < 20000; round++) {
		super_random(seed, &super);
		for (uint32_t n = 1 + below(seed, 3); n; n--) {
			const uint32_t at = below(seed, super.header + (uint32_t)sizeof super.vnet);

			if (at < super.header)
				super_data(&super)[at] = (uint8_t)test_random(seed);
			else
				((uint8_t *)&super.vnet)[at - super.header] = (uint8_t)test_random(seed);
		}
		struct ipsf_packet packet = exact_copy(&super);
		if (ipsf_vnet_accept(&super.vnet, &packet) && packet.segments) {
			struct ipsf_gso gso;
			uint32_t payload = 0;

			accepted++;
			ipsf_gso_begin(&gso, &packet);
			for (unsigned i = 0; i < packet.segments; i++) {
				struct ipsf_packet segment = {0};

				segment.data = ipsf_gso_segment(&gso, i, &segment.length);
				const uint32_t length = segment.length;
				CHECK(ipsf_ip_parse(&segment) && segment.length == length && length > gso.header);
				payload += length - gso.header;
			}
			CHECK(payload == packet.length - gso.header);
		}
		free(packet.data);
	}
	CHECK(accepted > 1000);
}

int main(void)
{
	uint64_t seed = 9293;

	cuts_as_the_naive(&seed);
	completes_checksums(&seed);
	refuses_lies(&seed);
	any_bytes(&seed);
	return check_summary("test_gso");
}
