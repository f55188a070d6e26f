/*
 * The ports, each with its real other end: memory with memory, UDP and raw ESP over loopback, TUN with the kernel's
 * own UDP.
 * All in a network namespace of its own; where none can be made only what needs no privilege is tried, and the rest
 * is named.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "check.h"
#include "port_socket.h"
#include "udpencap.h"

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

/* Adds a packet of length bytes, all of them value, to the batch that will be sent. */
static struct ipsf_packet *prepare(const struct ipsf_path *path, uint32_t length, uint8_t value)
{
	struct ipsf_buffer *buffer = ipsf_pool_take(pool);
	if (!buffer)
		abort();
	memset(buffer->bytes + IPSF_HEADROOM, value, length);
	struct ipsf_packet *packet = ipsf_batch_add(&outgoing, buffer, buffer->bytes + IPSF_HEADROOM, length);
	packet->path = path;
	return packet;
}

static void send_all(struct ipsf_port *port)
{
	port->ops->send(port, outgoing.packet, outgoing.n);
}

static bool wait_for(int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	return poll(&wait, 1, 5000) == 1;
}

/* Receives until n packets have come, one batch after the other; each is shown to look(). */
static unsigned receive(struct ipsf_port *port, unsigned n, void (*look)(const struct ipsf_packet *packet, unsigned index))
{
	unsigned got = 0;
	while (got < n) {
		CHECK(port->ops->recv(port, &batch, drops) >= 0);
		if (batch.n == 0 && !wait_for(port->fd))
			break;
		for (unsigned i = 0; i < batch.n; i++)
			look(batch.packet[i], got + i);
		got += batch.n;
		ipsf_batch_clear(&batch);
	}
	return got;
}

static const struct ipsf_path *expected_path;
static uint32_t expected_length[IPSF_BATCH_MAX];
static uint8_t expected_tos;

static void look(const struct ipsf_packet *packet, unsigned index)
{
	bool same = packet->length == expected_length[index];
	for (uint32_t i = 0; same && i < packet->length; i++)
		same = packet->data[i] == index + 1;
	CHECK(same);
	CHECK(packet->tos == expected_tos);
	CHECK(memcmp(&packet->path->remote, &expected_path->local, sizeof packet->path->remote) == 0);
	CHECK(memcmp(&packet->path->local, &expected_path->remote, sizeof packet->path->local) == 0);
	CHECK(packet->path->remote_port == expected_path->local_port && packet->path->local_port == expected_path->remote_port);
	CHECK(packet->buffer->users >= 1 && packet->headroom <= IPSF_HEADROOM + 60);
}

static void round_trip(struct ipsf_port *from, struct ipsf_port *to, const struct ipsf_path *path, uint8_t tos, uint8_t flags)
{
	expected_path = path;
	expected_tos = tos;
	for (unsigned i = 0; i < outgoing.n; i++) {
		expected_length[i] = outgoing.packet[i]->length;
		outgoing.packet[i]->tos = tos;
		outgoing.packet[i]->flags = flags;
	}
	send_all(from);
	for (unsigned i = 0; i < outgoing.n; i++)
		CHECK(outgoing.packet[i]->drop == IPSF_DROP_NONE);
	CHECK(receive(to, outgoing.n, look) == outgoing.n);
	ipsf_batch_clear(&outgoing);
}

/* Runs of equal size with shorter last ones, one by one, all sizes mixed; TOS and DF change between. */
static void datagrams(struct ipsf_port *from, struct ipsf_port *to, const struct ipsf_path *path, uint32_t unit)
{
	static const uint8_t tos[] = {0, 0xb8, 0x02, 0x03};
	for (unsigned round = 0; round < 8; round++) {
		const unsigned n = round == 0 ? 1 : IPSF_BATCH_MAX;
		for (unsigned i = 0; i < n; i++) {
			const uint32_t length = round % 3 == 0 ? unit : round % 3 == 1 ? (i % 10 == 9 ? unit / 2 : unit) : 16 + i * 13;
			prepare(path, length, (uint8_t)(i + 1));
		}
		round_trip(from, to, path, tos[round % 4], round % 2 ? IPSF_PACKET_DF : 0);
	}
}

static uint16_t port_number(const struct ipsf_port *port)
{
	return ((const struct ipsf_port_socket *)port)->port_number;
}

/* A kernel without IPv6 is an excuse, nothing else is. */
static bool lacks_family(int status, uint8_t version)
{
	if (status == IPSF_OK)
		return false;
	printf("test_ports: no port over IPv%u: %s\n", version, strerror(errno));
	CHECK(errno == EAFNOSUPPORT || errno == EADDRNOTAVAIL);
	return true;
}

static void udp(uint8_t version)
{
	struct ipsf_port *a, *b;
	if (lacks_family(ipsf_port_udp_new(version, 0, 0, &a), version))
		return;
	CHECK(ipsf_port_udp_new(version, 0, 0, &b) == IPSF_OK);
	const struct ipsf_path path = loopback(version, port_number(a), port_number(b));
	const struct ipsf_path back = loopback(version, port_number(b), port_number(a));
	datagrams(a, b, &path, 1400);
	datagrams(b, a, &back, 100);
	prepare(&path, 65507, 1);
	round_trip(a, b, &path, 0, 0);
	prepare(&path, 1, 0xff);
	CHECK(ipsf_udpencap_classify(outgoing.packet[0]->data, 1) == IPSF_DATAGRAM_KEEPALIVE);
	ipsf_batch_clear(&outgoing);
	struct ipsf_port *taken;
	CHECK(ipsf_port_udp_new(version, port_number(a), 0, &taken) == IPSF_ESYS && errno == EADDRINUSE);
	CHECK(ipsf_port_udp_new(5, 0, 0, &taken) == IPSF_EINVAL);
	a->ops->drain(a);
	b->ops->drain(b);
	ipsf_port_free(a);
	ipsf_port_free(b);
}

/* A receiver that sleeps while a burst comes: the segments of many GRO datagrams wait for the batches that follow. */
static void burst(void)
{
	struct ipsf_port *a, *b;
	unsigned sent = 0;
	CHECK(ipsf_port_udp_new(4, 0, 0, &a) == IPSF_OK && ipsf_port_udp_new(4, 0, 0, &b) == IPSF_OK);
	const struct ipsf_path path = loopback(4, port_number(a), port_number(b));
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < IPSF_BATCH_MAX; i++)
			prepare(&path, 1000, (uint8_t)(i + 1));
		send_all(a);
		sent += outgoing.n;
		ipsf_batch_clear(&outgoing);
	}
	unsigned got = 0, fullest = 0;
	while (got < sent && (b->ops->recv(b, &batch, drops) > 0 || wait_for(b->fd))) {
		for (unsigned i = 0; i < batch.n; i++)
			CHECK(batch.packet[i]->length == 1000 && batch.packet[i]->data[999] == (got + i) % IPSF_BATCH_MAX + 1);
		got += batch.n;
		fullest = batch.n > fullest ? batch.n : fullest;
		ipsf_batch_clear(&batch);
	}
	CHECK(got == sent && fullest == IPSF_BATCH_MAX);
	b->ops->drain(b); /* in the middle of things, too */
	ipsf_port_free(a);
	ipsf_port_free(b);
}

static void unreachable(void)
{
	struct ipsf_port *a;
	CHECK(ipsf_port_udp_new(4, 0, 0, &a) == IPSF_OK);
	struct ipsf_path path = loopback(4, port_number(a), 9);
	memcpy(path.local.bytes, (const uint8_t[]){192, 0, 2, 77}, 4); /* not ours */
	prepare(&path, 100, 1);
	prepare(&path, 100, 1);
	send_all(a);
	CHECK(outgoing.packet[0]->drop == IPSF_DROP_PORT_ERROR && outgoing.packet[1]->drop == IPSF_DROP_PORT_ERROR);
	ipsf_batch_sweep(&outgoing, drops);
	ipsf_port_free(a);
	CHECK(ipsf_send_error(EMSGSIZE) == IPSF_DROP_MTU && ipsf_send_error(ENOBUFS) == IPSF_DROP_PORT_FULL);
	drops[IPSF_DROP_PORT_ERROR] = 0;
}

static void set_loopback_mtu(int mtu)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_mtu = mtu};
	const int fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(ioctl(fd, SIOCSIFMTU, &request) == 0);
	close(fd);
}

/* Larger than the MTU: with DF each is refused as MTU; without, what can't leave as segments leaves in fragments. */
static void too_large_for_the_path(void)
{
	struct ipsf_port *a, *b;
	CHECK(ipsf_port_udp_new(4, 0, 0, &a) == IPSF_OK && ipsf_port_udp_new(4, 0, 0, &b) == IPSF_OK);
	const struct ipsf_path path = loopback(4, port_number(a), port_number(b));
	set_loopback_mtu(1500);
	for (uint8_t i = 0; i < 10; i++) {
		prepare(&path, 2000, i)->flags = IPSF_PACKET_DF;
		prepare(&path, 1000, i)->flags = IPSF_PACKET_DF;
	}
	send_all(a);
	for (unsigned i = 0; i < outgoing.n; i++)
		CHECK(outgoing.packet[i]->drop == (i % 2 ? IPSF_DROP_NONE : IPSF_DROP_MTU));
	ipsf_batch_clear(&outgoing);
	for (unsigned got = 0; got < 10 && wait_for(b->fd); got += batch.n, ipsf_batch_clear(&batch))
		CHECK(b->ops->recv(b, &batch, drops) > 0 && batch.packet[0]->length == 1000);
	for (uint8_t i = 0; i < 10; i++)
		prepare(&path, 2000, (uint8_t)(i + 1));
	round_trip(a, b, &path, 0, 0);
	for (uint8_t i = 0; i < 10; i++) /* and afterwards segments again */
		prepare(&path, 1400, (uint8_t)(i + 1));
	round_trip(a, b, &path, 0, IPSF_PACKET_DF);
	set_loopback_mtu(65536);
	b->ops->drain(b);
	ipsf_port_free(a);
	ipsf_port_free(b);
}

/* Loopback brings a raw socket's own packets back to it: what one side sends it receives. */
static void raw(uint8_t version)
{
	struct ipsf_port *esp;
	if (lacks_family(ipsf_port_raw_new(version, 0, &esp), version))
		return;
	const struct ipsf_path path = loopback(version, 0, 0);
	datagrams(esp, esp, &path, 1400);
	esp->ops->drain(esp);
	ipsf_port_free(esp);
}

static void memory(void)
{
	struct ipsf_port *a, *b;
	const struct ipsf_path path = loopback(4, 4500, 4501);
	uint8_t bytes[100] = {1}, tos;
	struct ipsf_path got;
	CHECK(ipsf_port_memory_pair(0, &a, &b) == IPSF_EINVAL);
	CHECK(ipsf_port_memory_pair(IPSF_BATCH_MAX, &a, &b) == IPSF_OK);
	datagrams(a, b, &path, 1400);
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++)
		CHECK(ipsf_port_memory_put(b, bytes, sizeof bytes, &path, 5) == IPSF_OK);
	CHECK(ipsf_port_memory_put(b, bytes, sizeof bytes, &path, 5) == IPSF_ENOSPC);
	prepare(&path, 10, 1);
	send_all(a);
	CHECK(outgoing.packet[0]->drop == IPSF_DROP_PORT_FULL);
	ipsf_batch_clear(&outgoing);
	CHECK(wait_for(b->fd));
	CHECK(b->ops->recv(b, &batch, drops) == IPSF_BATCH_MAX && batch.packet[63]->tos == 5);
	CHECK(batch.packet[0]->carrier == IPSF_CARRIER_UDP4 && batch.packet[0]->path->remote_port == 4501);
	ipsf_batch_clear(&batch);
	CHECK(b->ops->recv(b, &batch, drops) == 0);
	prepare(&path, 10, 7);
	send_all(b);
	ipsf_batch_clear(&outgoing);
	CHECK(ipsf_port_memory_get(b, bytes, 9, &got, &tos) == IPSF_ENOSPC);
	CHECK(ipsf_port_memory_get(b, bytes, sizeof bytes, &got, &tos) == 10 && bytes[9] == 7);
	CHECK(ipsf_port_memory_get(b, bytes, sizeof bytes, &got, &tos) == 0);
	ipsf_port_free(a);
	ipsf_port_free(b);
}

/* ---- TUN: the kernel's UDP socket is the other end ---- */

/* address 0: none; else the peer's is the next one. */
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

static void turn_round(uint8_t *ip)
{
	uint8_t address[4], port[2];
	memcpy(address, ip + 12, 4);
	memcpy(ip + 12, ip + 16, 4);
	memcpy(ip + 16, address, 4);
	memcpy(port, ip + 20, 2);
	memcpy(ip + 20, ip + 22, 2);
	memcpy(ip + 22, port, 2);
}

static unsigned echoed;

/*
 * Packets for 10.9.0.2 come out of the device; turned round they go back in, and arrive at the socket that sent them.
 */
static void echo(const struct ipsf_packet *packet, unsigned index)
{
	(void)index;
	if (packet->length < 28 || packet->data[0] != 0x45 || packet->data[9] != 17)
		return; /* the kernel's own chatter */
	struct ipsf_packet *answer = prepare(NULL, packet->length, 0);
	memcpy(answer->data, packet->data, packet->length);
	turn_round(answer->data);
	echoed++;
}

static void tun(void)
{
	struct ipsf_port *device;
	if (ipsf_port_tun_new("ipsft%d", &device) != IPSF_OK) {
		printf("test_ports: no TUN device here: %s\n", strerror(errno));
		return;
	}
	CHECK(strcmp(ipsf_port_name(device), "ipsft0") == 0);
	bring_up(device->name, 0x0a090001);
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7), .sin_addr.s_addr = htonl(0x0a090002)};
	uint8_t bytes[1400] = {0};
	for (uint8_t i = 0; i < 100; i++) {
		bytes[0] = i;
		CHECK(sendto(fd, bytes, 1 + i * 13u, 0, (const struct sockaddr *)&to, sizeof to) == 1 + i * 13);
	}
	for (unsigned got = 0, turns = 0; got < 100 && turns < 100; got += echoed, turns++) {
		CHECK(device->ops->recv(device, &batch, drops) >= 0);
		CHECK(device->ops->gathers(device) == (batch.n < IPSF_BATCH_MAX)); /* many came, and none is left */
		echoed = 0;
		for (unsigned i = 0; i < batch.n; i++)
			echo(batch.packet[i], i);
		ipsf_batch_clear(&batch);
		send_all(device);
		for (unsigned i = 0; i < outgoing.n; i++)
			CHECK(outgoing.packet[i]->drop == IPSF_DROP_NONE);
		ipsf_batch_clear(&outgoing);
	}
	uint8_t back = 0;
	while (back < 100 && wait_for(fd) && recv(fd, bytes, sizeof bytes, 0) == 1 + back * 13 && bytes[0] == back)
		back++;
	CHECK(back == 100);
	close(fd);
	CHECK(device->ops->recv(device, &batch, drops) == 0 && !device->ops->gathers(device));
	prepare(NULL, 40, 0); /* no IP version: refused */
	send_all(device);
	CHECK(outgoing.packet[0]->drop == IPSF_DROP_PORT_ERROR);
	ipsf_batch_clear(&outgoing);
	struct ipsf_port *twice;
	CHECK(ipsf_port_tun_new(device->name, &twice) == IPSF_ESYS && errno == EBUSY);
	CHECK(ipsf_port_tun_new("a-name-that-is-too-long", &twice) == IPSF_EINVAL);
	device->ops->drain(device);
	ipsf_port_free(device);
}

/* BYPASS: a whole IP packet of ours, sent as it is, arrives at the kernel's socket; too large for the device: MTU. */
static void clear(void)
{
	struct ipsf_port *esp;
	if (ipsf_port_raw_new(4, 0, &esp) != IPSF_OK)
		return;
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(7777), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	CHECK(bind(fd, (const struct sockaddr *)&at, sizeof at) == 0);
	struct ipsf_packet *packet = prepare(NULL, 32, 0);
	static const uint8_t header[] = {0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1};
	memcpy(packet->data, header, sizeof header);
	ipsf_write16(packet->data + 20, 1);
	ipsf_write16(packet->data + 22, 7777);
	ipsf_write16(packet->data + 24, 12);
	memcpy(packet->data + 28, "abcd", 4);
	packet->flags = IPSF_PACKET_CLEAR;
	send_all(esp);
	CHECK(outgoing.packet[0]->drop == IPSF_DROP_NONE);
	uint8_t bytes[10];
	CHECK(wait_for(fd) && recv(fd, bytes, sizeof bytes, 0) == 4 && memcmp(bytes, "abcd", 4) == 0);
	ipsf_batch_clear(&outgoing);
	close(fd);
	esp->ops->drain(esp);
	ipsf_port_free(esp);
}

static void classify(void)
{
	CHECK(ipsf_udpencap_classify((const uint8_t[]){0xff}, 1) == IPSF_DATAGRAM_KEEPALIVE);
	CHECK(ipsf_udpencap_classify((const uint8_t[]){0xfe}, 1) == IPSF_DATAGRAM_SHORT);
	CHECK(ipsf_udpencap_classify((const uint8_t[]){0xff, 0xff}, 2) == IPSF_DATAGRAM_SHORT);
	CHECK(ipsf_udpencap_classify((const uint8_t[]){0}, 0) == IPSF_DATAGRAM_SHORT);
	CHECK(ipsf_udpencap_classify((const uint8_t[]){0, 0, 0, 0}, 4) == IPSF_DATAGRAM_IKE);
	CHECK(ipsf_udpencap_classify((const uint8_t[]){0, 0, 0, 1}, 4) == IPSF_DATAGRAM_ESP);
}

int main(void)
{
	const bool own = unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
	if (own)
		bring_up("lo", 0);
	else
		printf("test_ports: no network namespace of our own: %s\n", strerror(errno));
	CHECK(ipsf_pool_new(512, 65535 + IPSF_HEADROOM + IPSF_TAILROOM, &pool) == IPSF_OK);
	ipsf_batch_init(&batch, pool);
	ipsf_batch_init(&outgoing, pool);
	classify();
	memory();
	udp(4);
	udp(6);
	burst();
	unreachable();
	if (own) {
		too_large_for_the_path();
		raw(4);
		raw(6);
		clear();
		tun();
	}
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++)
		CHECK(drops[i] == 0);
	CHECK(ipsf_pool_available(pool) == 512); /* every buffer came back */
	ipsf_pool_free(pool);
	return check_summary("test_ports");
}
