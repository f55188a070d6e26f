/* What an AF_XDP port does without an interface: its rings, against a queue that just counts; checksums that were left to hardware. */
#include <string.h>

#include "check.h"
#include "link.h"
#include "xdp_socket.h"

#define SIZE 8u

/* Both sides of one ring, as we and the kernel have them, their indices about to wrap. */
struct pair {
	_Atomic uint32_t producer, consumer, flags;
	uint64_t entries[SIZE];
	struct ipsf_xdp_ring in, out;
};

static void pair_init(struct pair *p, uint32_t start)
{
	atomic_store(&p->producer, start);
	atomic_store(&p->consumer, start);
	atomic_store(&p->flags, 0);
	p->in = (struct ipsf_xdp_ring){.producer = &p->producer, .consumer = &p->consumer, .flags = &p->flags,
				       .entry.address = p->entries, .size = SIZE, .mine = start, .theirs = start};
	p->out = p->in;
}

static void rings(uint32_t start, uint64_t seed)
{
	struct pair p;
	uint64_t put = 0, got = 0;
	pair_init(&p, start);
	for (unsigned turn = 0; turn < 20000; turn++) {
		const uint32_t wanted = (uint32_t)(test_random(&seed) % (SIZE + 2));
		if (test_random(&seed) % 2) {
			const uint32_t room = ipsf_xdp_room(&p.in, wanted), n = room < wanted ? room : wanted;
			CHECK(room <= SIZE - (put - got) && (room >= wanted || room == SIZE - (put - got)));
			for (uint32_t i = 0; i < n; i++)
				p.in.entry.address[ipsf_xdp_next(&p.in)] = put++;
			ipsf_xdp_publish(&p.in);
			CHECK(ipsf_xdp_all_taken(&p.in) == (put == got));
		} else {
			const uint32_t ready = ipsf_xdp_ready(&p.out, wanted), n = ready < wanted ? ready : wanted;
			CHECK(ready <= put - got && (ready >= wanted || ready == put - got));
			for (uint32_t i = 0; i < n; i++)
				CHECK(p.out.entry.address[ipsf_xdp_next(&p.out)] == got++);
			ipsf_xdp_consumed(&p.out);
		}
	}
	CHECK(put > 10000);
	CHECK(!ipsf_xdp_needs_wakeup(&p.in));
	atomic_store(&p.flags, XDP_RING_NEED_WAKEUP);
	CHECK(ipsf_xdp_needs_wakeup(&p.in));
}

static void memory(uint32_t chunk)
{
	struct ipsf_xdp_memory *m;
	uint8_t elsewhere;
	CHECK(ipsf_xdp_memory_new(chunk, &m) == IPSF_OK);
	CHECK(ipsf_pool_available(m->pool[0]) == IPSF_XDP_FRAMES && ipsf_pool_available(m->pool[1]) == IPSF_XDP_FRAMES);
	for (unsigned i = 0; i < 2; i++) {
		struct ipsf_buffer *buffer = ipsf_pool_take(m->pool[i]);
		const uint64_t address = (uint64_t)((uint8_t *)buffer - m->area);
		CHECK(address % chunk == 0 && ipsf_xdp_memory_has(m, buffer));
		CHECK(ipsf_xdp_buffer(m, address + chunk - 1) == buffer && ipsf_xdp_buffer(m, address) == buffer);
		CHECK(buffer->bytes + buffer->size == (uint8_t *)buffer + chunk);
		ipsf_buffer_release(buffer);
	}
	CHECK(!ipsf_xdp_memory_has(m, &elsewhere) && !ipsf_xdp_memory_has(m, m->area + m->size));
	ipsf_xdp_memory_release(m);
	ipsf_xdp_memory_release(NULL);
}

/* ---- checksums ---- */

static uint32_t make_packet(uint64_t *seed, uint8_t *ip, bool v4, uint8_t protocol)
{
	const uint32_t header = v4 ? 20 : 40, length = 20 + (uint32_t)(test_random(seed) % 200);
	for (uint32_t i = 0; i < header + length; i++)
		ip[i] = (uint8_t)test_random(seed);
	ip[0] = v4 ? 0x45 : 0x60;
	ip[v4 ? 9 : 6] = protocol;
	ipsf_write16(ip + (v4 ? 2 : 4), (uint16_t)(v4 ? header + length : length));
	return header + length;
}

static uint16_t pseudo_sum(const uint8_t *ip, bool v4, uint32_t total, uint8_t protocol)
{
	const uint32_t header = v4 ? 20 : 40, from = v4 ? 12 : 8;
	uint32_t sum = protocol + total - header;
	for (uint32_t i = from; i < header; i += 2)
		sum += ipsf_read16(ip + i);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static bool right(const uint8_t *ip, bool v4, uint32_t total, uint8_t protocol)
{
	uint32_t sum = pseudo_sum(ip, v4, total, protocol);
	for (uint32_t i = v4 ? 20 : 40; i < total; i++)
		sum += (uint32_t)ip[i] << (i % 2 ? 0 : 8);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return sum == 0xffff;
}

static void checksums(uint64_t seed)
{
	static const uint8_t protocols[] = {6, 17, 1};
	for (unsigned i = 0; i < 6000; i++) {
		uint8_t ip[300], before[300];
		const bool v4 = i % 2, untouched = i / 2 % 3 == 0;
		const uint8_t protocol = protocols[i % 3];
		struct ipsf_packet packet = {.data = ip, .length = make_packet(&seed, ip, v4, protocol)};
		const uint32_t field = (v4 ? 20u : 40u) + (protocol == 6 ? 16u : 6u);
		const uint32_t total = packet.length;
		const uint16_t pseudo = pseudo_sum(ip, v4, total, protocol);
		ipsf_write16(ip + field, untouched ? (uint16_t)(pseudo + 1) : pseudo);
		memcpy(before, ip, total);
		packet.length += (uint32_t)(test_random(&seed) % 8); /* Ethernet pads */
		ipsf_link_complete_checksum(&packet);
		if (untouched || protocol == 1)
			CHECK(memcmp(before, ip, total) == 0);
		else
			CHECK(right(ip, v4, total, protocol));
		memcpy(before, ip, total);
		ipsf_link_complete_checksum(&packet); /* what is right stays */
		CHECK(memcmp(before, ip, total) == 0);
	}
}

/* The right checksum is by accident what a lazy sender would leave. */
static void accident(void)
{
	uint8_t ip[28] = {0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 2, 3, 10, 4, 5, 6};
	struct ipsf_packet packet = {.data = ip, .length = sizeof ip};
	const uint16_t pseudo = pseudo_sum(ip, true, 28, 17);
	ipsf_write16(ip + 26, pseudo);
	uint32_t rest = 0xffffu - pseudo; /* the other words sum to what makes it right */
	rest = rest >= pseudo ? rest - pseudo : rest + 0xffffu - pseudo;
	ipsf_write16(ip + 20, (uint16_t)rest);
	CHECK(right(ip, true, 28, 17));
	ipsf_link_complete_checksum(&packet);
	CHECK(ipsf_read16(ip + 26) == pseudo && right(ip, true, 28, 17));
}

int main(void)
{
	rings(0, 1);
	rings(UINT32_MAX - 1000, 2);
	memory(2048);
	memory(4096);
	checksums(3);
	accident();
	return check_summary("test_xdp");
}
