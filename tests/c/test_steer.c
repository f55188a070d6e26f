/*
 * Groups of ports: that the kernel brings each SPI to the worker that owns it, IKE and keepalives to the first, and keeps a flow on
 * its TUN queue. In a network namespace of its own; where none can be made only UDP is tried.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf.h"
#include "check.h"
#include "port_socket.h"
#include "steer.h"

#define GROUP 3
#define SPIS 60u

static struct ipsf_pool *pool;
static struct ipsf_batch batch, outgoing;
static uint64_t drops[IPSF_DROP_COUNT];

static struct ipsf_path loopback(uint8_t version, uint16_t local_port, uint16_t remote_port)
{
	struct ipsf_path path = {.local_port = local_port, .remote_port = remote_port};
	path.local.version = path.remote.version = version;
	if (version == 4)
		memcpy(path.local.bytes, (const uint8_t[]){127, 0, 0, 1}, 4);
	else
		path.local.bytes[15] = 1;
	memcpy(path.remote.bytes, path.local.bytes, 16);
	return path;
}

static void send_one(struct ipsf_port *port, const struct ipsf_path *path, const void *bytes, uint32_t length)
{
	struct ipsf_buffer *buffer = ipsf_pool_take(pool);
	if (!buffer)
		abort();
	memcpy(buffer->bytes + IPSF_HEADROOM, bytes, length);
	ipsf_batch_add(&outgoing, buffer, buffer->bytes + IPSF_HEADROOM, length)->path = path;
	port->ops->send(port, outgoing.packet, 1);
	CHECK(outgoing.packet[0]->drop == IPSF_DROP_NONE);
	ipsf_batch_clear(&outgoing);
}

/* A datagram that begins with spi; each of its own length, so that GRO does not join them. */
static void send_spi(struct ipsf_port *port, const struct ipsf_path *path, uint32_t spi)
{
	uint8_t bytes[2000] = {0};
	ipsf_write32(bytes, spi);
	send_one(port, path, bytes, 40 + spi % 1000);
}

static uint16_t port_number(const struct ipsf_port *port)
{
	return ((const struct ipsf_port_socket *)port)->port_number;
}

/* How many packets came to each port; every one must be there by its SPI. */
static void expect(struct ipsf_port **group, unsigned total)
{
	unsigned got = 0;
	for (unsigned turn = 0; got < total && turn < 1000; turn++) {
		struct pollfd wait[GROUP];
		for (unsigned i = 0; i < GROUP; i++)
			wait[i] = (struct pollfd){.fd = group[i]->fd, .events = POLLIN};
		if (poll(wait, GROUP, 5000) <= 0)
			break;
		for (unsigned i = 0; i < GROUP; i++) {
			CHECK(group[i]->ops->recv(group[i], &batch, drops) >= 0);
			for (unsigned j = 0; j < batch.n; j++)
				CHECK((batch.packet[j]->length < 4 ? 0 : ipsf_owner(ipsf_read32(batch.packet[j]->data), GROUP)) == i);
			got += batch.n;
			ipsf_batch_clear(&batch);
		}
	}
	CHECK(got == total);
}

static bool nothing_more(struct ipsf_port **group)
{
	bool nothing = true;
	for (unsigned i = 0; i < GROUP; i++) {
		nothing &= group[i]->ops->recv(group[i], &batch, drops) == 0;
		ipsf_batch_clear(&batch);
	}
	return nothing;
}

static void free_group(struct ipsf_port **group)
{
	for (unsigned i = 0; i < GROUP; i++) {
		if (group[i]->ops->drain)
			group[i]->ops->drain(group[i]);
		ipsf_port_free(group[i]);
	}
}

static bool lacks_family(int status, uint8_t version)
{
	if (status == IPSF_OK)
		return false;
	printf("test_steer: no port over IPv%u: %s\n", version, strerror(errno));
	CHECK(errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL);
	return true;
}

static void udp(uint8_t version)
{
	struct ipsf_port *group[GROUP], *peer, *intruder[GROUP];
	if (lacks_family(ipsf_port_udp_group(version, 0, 0, GROUP, group), version))
		return;
	CHECK(ipsf_port_udp_new(version, 0, 0, &peer) == IPSF_OK);
	const struct ipsf_path path = loopback(version, port_number(peer), port_number(group[0]));
	for (uint32_t i = 0; i < SPIS; i++)
		send_spi(peer, &path, i << IPSF_OWNER_SHIFT | (0x1000 + i));
	expect(group, SPIS);
	for (unsigned i = 0; i < 10; i++) { /* the non-ESP marker, and what is too short for an SPI */
		send_spi(peer, &path, 0);
		send_one(peer, &path, "\xff", 1);
	}
	expect(group, 20);
	CHECK(nothing_more(group));
	for (unsigned i = 0; i < GROUP; i++) /* any of them sends from the port */
		send_spi(group[i], &(struct ipsf_path){path.remote, path.local, path.remote_port, path.local_port}, i);
	for (unsigned got = 0; got < GROUP; got += batch.n, ipsf_batch_clear(&batch)) {
		CHECK(poll(&(struct pollfd){.fd = peer->fd, .events = POLLIN}, 1, 5000) == 1);
		CHECK(peer->ops->recv(peer, &batch, drops) > 0 && batch.packet[0]->path->remote_port == port_number(group[0]));
	}
	CHECK(ipsf_port_udp_group(version, port_number(group[0]), 0, GROUP, intruder) == IPSF_ESYS && errno == EADDRINUSE);
	CHECK(ipsf_port_udp_group(version, 0, 0, 0, intruder) == IPSF_EINVAL);
	free_group(group);
	peer->ops->drain(peer);
	ipsf_port_free(peer);
}

/* Over loopback what the group sends comes back to it: to the one socket whose filter accepts it. */
static void raw(uint8_t version)
{
	struct ipsf_port *group[GROUP];
	const struct ipsf_path path = loopback(version, 0, 0);
	if (lacks_family(ipsf_port_raw_group(version, 0, GROUP, group), version))
		return;
	for (uint32_t i = 0; i < SPIS; i++)
		send_spi(group[0], &path, i << IPSF_OWNER_SHIFT | (0x1000 + i));
	expect(group, SPIS);
	CHECK(nothing_more(group));
	CHECK(ipsf_port_raw_group(5, 0, GROUP, group) == IPSF_EINVAL && ipsf_port_raw_group(4, 0, 0, group) == IPSF_EINVAL);
	free_group(group);
}

static void bring_up(const char *name, uint32_t address)
{
	struct ifreq request = {0};
	const int fd = socket(AF_INET, SOCK_DGRAM, 0);
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	if (address) {
		struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(address)};
		memcpy(&request.ifr_addr, &in, sizeof in);
		CHECK(ioctl(fd, SIOCSIFADDR, &request) == 0);
		in.sin_addr.s_addr = htonl(address + 1);
		memcpy(&request.ifr_dstaddr, &in, sizeof in);
		CHECK(ioctl(fd, SIOCSIFDSTADDR, &request) == 0);
	}
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
	close(fd);
}

#define FLOWS 40u
#define ROUNDS 12u /* that fit the queue of one, should all flows be on it */

static void send_flows(const int *fds, uint32_t number)
{
	const struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7), .sin_addr.s_addr = htonl(0x0a090002)};
	for (unsigned i = 0; i < FLOWS; i++)
		CHECK(sendto(fds[i], &number, sizeof number, 0, (const struct sockaddr *)&to, sizeof to) == sizeof number);
}

struct spread {
	int queue_of[65536];   /* of the flow with this source port, from 1 */
	uint32_t next[65536];
	unsigned got, used;
};

/* Puts the packet, turned round, into another queue, where the kernel would move the flow if nothing kept it. */
static void answer(struct ipsf_port *port, const struct ipsf_packet *packet)
{
	uint8_t bytes[64];
	memcpy(bytes, packet->data, packet->length);
	memcpy(bytes + 12, packet->data + 16, 4);
	memcpy(bytes + 16, packet->data + 12, 4);
	memcpy(bytes + 20, packet->data + 22, 2);
	memcpy(bytes + 22, packet->data + 20, 2);
	send_one(port, NULL, bytes, packet->length);
}

/* Every packet of a flow comes out of one queue, in order. */
static void look(struct spread *spread, const struct ipsf_packet *packet, int queue)
{
	const uint8_t *ip = packet->data;
	const unsigned flow = ipsf_read16(ip + 20);
	uint32_t number;
	memcpy(&number, ip + 28, sizeof number);
	CHECK((!spread->queue_of[flow] || spread->queue_of[flow] == queue) && number == spread->next[flow]++);
	spread->queue_of[flow] = queue;
	spread->used |= 1u << queue;
	spread->got++;
}

static void read_queues(struct ipsf_port **group, struct spread *spread)
{
	for (unsigned turn = 0; turn < 60; turn++) {
		const unsigned queue = turn % GROUP;
		CHECK(group[queue]->ops->recv(group[queue], &batch, drops) >= 0);
		for (unsigned j = 0; j < batch.n; j++) {
			if (batch.packet[j]->data[0] != 0x45 || batch.packet[j]->data[9] != 17)
				continue; /* the kernel's own chatter */
			look(spread, batch.packet[j], (int)queue + 1);
			answer(group[(queue + 1) % GROUP], batch.packet[j]);
		}
		ipsf_batch_clear(&batch);
	}
}

static void queues(void)
{
	static struct spread spread;
	static int fds[FLOWS];
	struct ipsf_port *group[GROUP], *other;
	if (ipsf_port_tun_group("ipsfq%d", GROUP, group) != IPSF_OK) {
		printf("test_steer: no TUN device here: %s\n", strerror(errno));
		return;
	}
	CHECK(ipsf_port_tun_steered(group[0]));
	bring_up(group[0]->name, 0x0a090001);
	for (unsigned i = 0; i < FLOWS; i++)
		fds[i] = socket(AF_INET, SOCK_DGRAM, 0);
	for (uint32_t number = 0; number < ROUNDS; number++) {
		send_flows(fds, number);
		if (number % 4 == 3)
			read_queues(group, &spread);
	}
	CHECK(spread.got == ROUNDS * FLOWS && __builtin_popcount(spread.used) == GROUP);
	CHECK(ipsf_port_tun_group("a-name-that-is-too-long", 2, &other) == IPSF_EINVAL && ipsf_port_tun_group("x", 0, &other) == IPSF_EINVAL);
	CHECK(ipsf_port_tun_new(group[0]->name, &other) == IPSF_ESYS);
	for (unsigned i = 0; i < FLOWS; i++)
		close(fds[i]);
	free_group(group);
}

/* The program itself, on one packet: what it says of flows that differ in one thing, and of fragments, which have no ports. */
static uint32_t said(int program, const uint8_t *ip, uint32_t length)
{
	uint8_t frame[14 + 100] = {0};
	union bpf_attr a;
	memcpy(frame + 14, ip, length);
	ipsf_write16(frame + 12, ip[0] >> 4 == 6 ? 0x86dd : 0x0800);
	memset(&a, 0, sizeof a);
	a.test.prog_fd = (uint32_t)program;
	a.test.data_in = (uint64_t)(uintptr_t)frame;
	a.test.data_size_in = 14 + length;
	a.test.repeat = 1;
	CHECK(syscall(SYS_bpf, BPF_PROG_TEST_RUN, &a, sizeof a) == 0);
	return a.test.retval;
}

/* How the two queues are used by 256 packets that differ in byte `at`. */
static void spreads(int program, const uint8_t *ip, unsigned at, bool expected)
{
	uint8_t bytes[100];
	unsigned odd = 0;
	memcpy(bytes, ip, sizeof bytes);
	for (unsigned i = 0; i < 256; i++) {
		bytes[at] = (uint8_t)i;
		odd += said(program, bytes, sizeof bytes) & 1;
	}
	CHECK(expected ? odd > 64 && odd < 192 : odd == 0 || odd == 256);
}

static void hash(void)
{
	struct ipsf_bpf_code code;
	char log[IPSF_BPF_LOG_SIZE];
	uint8_t v4[100] = {0x45, [9] = 17, [12] = 10, [16] = 10}, v6[100] = {0x60, [6] = 6, [8] = 0xfd, [24] = 0xfd};
	CHECK(ipsf_steer_flows(&code) == IPSF_OK);
	const int program = ipsf_bpf_program_new(&code, BPF_PROG_TYPE_SOCKET_FILTER, 0, "flows", log, sizeof log);
	if (program < 0) {
		printf("test_steer: no BPF here: %s\n", strerror(errno));
		return;
	}
	for (unsigned at = 12; at < 24; at++)
		spreads(program, v4, at, true);
	spreads(program, v4, 1, false); /* DSCP */
	spreads(program, v4, 28, false); /* payload */
	v4[0] = 0x46; /* options before the ports */
	spreads(program, v4, 20, false);
	spreads(program, v4, 27, true);
	v4[6] = 0x20; /* a fragment */
	spreads(program, v4, 27, false);
	for (unsigned at = 8; at < 44; at++)
		spreads(program, v6, at, true);
	spreads(program, v6, 44, false);
	v6[6] = 58; /* ICMPv6 has no ports */
	spreads(program, v6, 41, false);
	close(program);
}

int main(void)
{
	const bool own = unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
	if (own)
		bring_up("lo", 0);
	else
		printf("test_steer: no network namespace of our own: %s\n", strerror(errno));
	CHECK(ipsf_pool_new(1024, 65535 + IPSF_HEADROOM + IPSF_TAILROOM, &pool) == IPSF_OK);
	ipsf_batch_init(&batch, pool);
	ipsf_batch_init(&outgoing, pool);
	udp(4);
	udp(6);
	if (own) {
		raw(4);
		raw(6);
		queues();
		hash();
	}
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++)
		CHECK(drops[i] == 0);
	CHECK(ipsf_pool_available(pool) == 1024);
	ipsf_pool_free(pool);
	return check_summary("test_steer");
}
