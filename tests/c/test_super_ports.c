/*
 * Super-packets and the kernel: datagrams of a sealed one arrive one by one whatever carries them, and what the kernel cuts out of
 * the packets that the TUN port joined is what was joined.
 *
 *     joined by the port -> ipsfj0 10.9.0.1, fd09::1 | the kernel forwards | ipsfk0 10.8.0.1, fd08::1 -> a TUN device without offloads
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/ipv6.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ip.h"
#include "port.h"
#include "super_packets.h"

#define BIG (96u << 10)
#define DATAGRAMS 512

static struct ipsf_pool *pool;
static struct ipsf_batch outgoing, incoming;
static uint64_t drops[IPSF_DROP_COUNT];

static bool wait_for(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	return poll(&p, 1, 1000) > 0;
}

static void write_file(const char *name, const char *text)
{
	const int fd = open(name, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

/* ---- sealed super-packets over sockets ---- */

struct datagram {
	uint32_t length, number;
};

static struct datagram sent[DATAGRAMS];
static unsigned n_sent;

/* n datagrams at a stride, the last shorter; 1: a plain packet. Each begins with its number. */
static void add_sealed(const struct ipsf_path *path, unsigned n, uint32_t stride, uint32_t last, uint8_t flags)
{
	struct ipsf_buffer *buffer = ipsf_pool_take(pool);
	uint8_t *data = buffer->bytes + IPSF_HEADROOM;
	struct ipsf_packet *packet = ipsf_batch_add(&outgoing, buffer, data, (n - 1) * stride + last);
	memset(data, 0x5a, packet->length);
	for (unsigned i = 0; i < n; i++, n_sent++) {
		sent[n_sent] = (struct datagram){i + 1 < n ? stride : last, n_sent};
		put32(data + i * stride, 0x01000000u + n_sent);
	}
	packet->segments = (uint8_t)(n > 1 ? n : 0);
	packet->segment_size = (uint16_t)(n > 1 ? stride : 0);
	packet->path = path;
	packet->flags = flags;
}

static void expect_all(struct ipsf_port *to)
{
	unsigned got = 0;
	while (got < n_sent && (to->ops->recv(to, &incoming, drops) > 0 || wait_for(to->fd))) {
		for (unsigned i = 0; i < incoming.n; i++, got++) {
			CHECK(incoming.packet[i]->length == sent[got].length);
			CHECK(get32(incoming.packet[i]->data) == 0x01000000u + sent[got].number);
		}
		ipsf_batch_clear(&incoming);
	}
	CHECK(got == n_sent);
}

static void send_outgoing(struct ipsf_port *from)
{
	from->ops->send(from, outgoing.packet, outgoing.n);
	const uint64_t before = ipsf_batch_volume(&outgoing).packets;
	ipsf_batch_sweep(&outgoing, drops);
	CHECK(before == ipsf_batch_volume(&outgoing).packets);
	ipsf_batch_clear(&outgoing);
}

static void over_sockets(uint64_t *seed, struct ipsf_port *from, struct ipsf_port *to, const struct ipsf_path *path)
{
	for (unsigned round = 0; round < 200; round++) {
		const uint32_t common = 8 + below(seed, 1400);
		n_sent = 0;
		for (unsigned k = 1 + below(seed, 6); k; k--) {
			const uint32_t stride = below(seed, 2) ? common : 8 + below(seed, 1400);
			const unsigned n = below(seed, 3) ? 2 + below(seed, 63) : 1;
			add_sealed(path, n, stride, below(seed, 2) ? stride : 4 + below(seed, stride - 4),
				   below(seed, 8) ? IPSF_PACKET_DF : 0);
		}
		send_outgoing(from);
		expect_all(to);
	}
}

static uint16_t number_of(const struct ipsf_port *port)
{
	struct sockaddr_in6 at;
	socklen_t size = sizeof at;
	CHECK(getsockname(port->fd, (struct sockaddr *)&at, &size) == 0);
	return ntohs(at.sin6_port); /* at the same place for IPv4 */
}

static struct ipsf_path loopback(uint8_t version, uint16_t local, uint16_t remote)
{
	struct ipsf_path path = {.local = {.version = version}, .remote = {.version = version}, .local_port = local, .remote_port = remote};
	const uint8_t v4[4] = {127, 0, 0, 1};
	memcpy(path.local.bytes, v4, 4);
	if (version == 6) {
		memset(path.local.bytes, 0, 16);
		path.local.bytes[15] = 1;
	}
	path.remote = path.local;
	return path;
}

static void udp(uint64_t *seed, uint8_t version)
{
	struct ipsf_port *a, *b;
	if (ipsf_port_udp_new(version, 0, 0, &a) != IPSF_OK || ipsf_port_udp_new(version, 0, 0, &b) != IPSF_OK) {
		printf("test_super_ports: no UDP over IPv%u here: %s\n", version, strerror(errno));
		return;
	}
	const struct ipsf_path path = loopback(version, number_of(a), number_of(b));
	over_sockets(seed, a, b, &path);
	b->ops->drain(b);
	ipsf_port_free(a);
	ipsf_port_free(b);
}

/* A raw socket gets each datagram by itself; over loopback it hears itself. */
static void bare(uint64_t *seed)
{
	struct ipsf_port *esp;
	if (ipsf_port_raw_new(4, 0, &esp) != IPSF_OK)
		return;
	const struct ipsf_path path = loopback(4, 0, 0);
	over_sockets(seed, esp, esp, &path);
	esp->ops->drain(esp);
	ipsf_port_free(esp);
}

static void set_loopback_mtu(int mtu)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_mtu = mtu};
	const int fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(ioctl(fd, SIOCSIFMTU, &request) == 0);
	close(fd);
}

/* Datagrams that don't fit the path are lost, each counted; a shorter last one passes. */
static void too_large(void)
{
	struct ipsf_port *a, *b;
	CHECK(ipsf_port_udp_new(4, 0, 0, &a) == IPSF_OK && ipsf_port_udp_new(4, 0, 0, &b) == IPSF_OK);
	const struct ipsf_path path = loopback(4, number_of(a), number_of(b));
	set_loopback_mtu(1500);
	n_sent = 0;
	add_sealed(&path, 10, 2000, 500, IPSF_PACKET_DF);
	add_sealed(&path, 10, 2000, 2000, IPSF_PACKET_DF);
	add_sealed(&path, 10, 1000, 1000, IPSF_PACKET_DF);
	a->ops->send(a, outgoing.packet, outgoing.n);
	ipsf_batch_sweep(&outgoing, drops);
	CHECK(drops[IPSF_DROP_MTU] == 19 && outgoing.n == 2 && ipsf_batch_volume(&outgoing).packets == 11);
	ipsf_batch_clear(&outgoing);
	sent[0] = sent[9];
	for (unsigned i = 0; i < 10; i++)
		sent[1 + i] = sent[20 + i];
	n_sent = 11;
	expect_all(b);
	set_loopback_mtu(65536);
	drops[IPSF_DROP_MTU] = 0;
	b->ops->drain(b);
	ipsf_port_free(a);
	ipsf_port_free(b);
}

/* ---- TUN: the kernel cuts what the port joined ---- */

static struct super flow;
static uint8_t expected[SUPER_MAX], got[SUPER_MAX];

static void set_up(const char *name, uint8_t net)
{
	struct ifreq request = {0};
	struct in6_ifreq six = {.ifr6_prefixlen = 64};
	struct sockaddr_in in = {.sin_family = AF_INET};
	const int fd = socket(AF_INET, SOCK_DGRAM, 0), fd6 = socket(AF_INET6, SOCK_DGRAM, 0);
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	in.sin_addr.s_addr = htonl(0x0a000001u | (uint32_t)net << 16);
	memcpy(&request.ifr_addr, &in, sizeof in);
	CHECK(ioctl(fd, SIOCSIFADDR, &request) == 0);
	in.sin_addr.s_addr = htonl(0x0a000002u | (uint32_t)net << 16);
	memcpy(&request.ifr_dstaddr, &in, sizeof in);
	CHECK(ioctl(fd, SIOCSIFDSTADDR, &request) == 0);
	request.ifr_mtu = 9000;
	CHECK(ioctl(fd, SIOCSIFMTU, &request) == 0);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	CHECK(ioctl(fd, SIOCSIFFLAGS, &request) == 0);
	CHECK(ioctl(fd, SIOCGIFINDEX, &request) == 0);
	six.ifr6_ifindex = request.ifr_ifindex;
	six.ifr6_addr.s6_addr[0] = 0xfd, six.ifr6_addr.s6_addr[1] = net, six.ifr6_addr.s6_addr[15] = 1;
	CHECK(ioctl(fd6, SIOCSIFADDR, &six) == 0);
	close(fd);
	close(fd6);
}

/* A TUN device as others have it: no header, no offloads. */
static int plain_tun(const char *name)
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	const int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
	return fd >= 0 && ioctl(fd, TUNSETIFF, &request) == 0 ? fd : -1;
}

/* From the peer of one device to the peer of the other. */
static void make_flow(uint64_t *seed, uint8_t version, uint8_t protocol, unsigned n)
{
	const uint8_t v4[2][16] = {{10, 9, 0, 2}, {10, 8, 0, 2}};
	const uint8_t v6[2][16] = {{0xfd, 9, [15] = 2}, {0xfd, 8, [15] = 2}};
	const uint32_t most = 60000 / n, size = 1 + below(seed, most < 1400 ? most : 1400);
	uint8_t *ip = super_data(&flow);
	do
		super_make(seed, &flow, version, protocol, (n - 1) * size + 1 + below(seed, size), size);
	while (flow.transport != (version == 4 ? 20u : 40u) || super_count(&flow) != n);
	if (version == 4)
		ip[8] = 64, put16(ip + 6, 0x4000);
	else
		ip[7] = 64;
	if (protocol == 6)
		ip[flow.transport + 13] = (uint8_t)(0x10 | (ip[flow.transport + 13] & 0xc9));
	ip[version == 4 ? 1 : 0] = version == 4 ? 0 : 0x60;
	super_between(&flow, version == 4 ? v4[0] : v6[0], version == 4 ? v4[1] : v6[1]);
}

/* Segment i as the kernel forwards it: a hop further. */
static uint32_t forwarded(uint32_t i)
{
	const uint32_t length = naive_segment(&flow, i, expected);
	expected[flow.version == 4 ? 8 : 7]--;
	write_lengths(&flow, expected, length);
	return length;
}

static void join_and_cut(uint64_t *seed, struct ipsf_port *device, int other, uint8_t version, uint8_t protocol)
{
	const unsigned n = 1 + below(seed, 64);
	make_flow(seed, version, protocol, n);
	for (unsigned i = 0; i < n; i++) {
		struct ipsf_buffer *buffer = ipsf_pool_take(pool);
		uint8_t *data = buffer->bytes + IPSF_HEADROOM;
		CHECK(ipsf_ip_parse(ipsf_batch_add(&outgoing, buffer, data, naive_segment(&flow, i, data))));
	}
	send_outgoing(device);
	for (unsigned i = 0; i < n;) {
		if (!wait_for(other))
			break;
		const ssize_t length = read(other, got, sizeof got);
		if (length < 40 || got[version == 4 ? 9 : 6] != protocol)
			continue; /* the kernel's own chatter */
		CHECK((uint32_t)length == forwarded(i) && memcmp(got, expected, (size_t)length) == 0);
		i++;
	}
}

static void tun(uint64_t *seed)
{
	struct ipsf_port *device;
	const int other = plain_tun("ipsfk0");
	if (other < 0 || ipsf_port_tun_new("ipsfj0", &device) != IPSF_OK) {
		printf("test_super_ports: no TUN device here: %s\n", strerror(errno));
		return;
	}
	write_file("/proc/sys/net/ipv4/ip_forward", "1");
	write_file("/proc/sys/net/ipv6/conf/all/forwarding", "1");
	write_file("/proc/sys/net/ipv4/conf/all/rp_filter", "0");
	set_up(device->name, 9);
	set_up("ipsfk0", 8);
	for (unsigned round = 0; round < 400; round++)
		join_and_cut(seed, device, other, round % 2 ? 4 : 6, round % 4 < 2 ? 6 : 17);
	device->ops->drain(device);
	ipsf_port_free(device);
	close(other);
}

int main(void)
{
	uint64_t seed = 894;
	const bool own = unshare(CLONE_NEWNET) == 0 || unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0;
	struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	const int fd = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(ipsf_pool_new(256, BIG, &pool) == IPSF_OK);
	ipsf_batch_init(&outgoing, pool);
	ipsf_batch_init(&incoming, pool);
	if (own)
		CHECK(ioctl(fd, SIOCSIFFLAGS, &lo) == 0);
	else
		printf("test_super_ports: no network namespace of our own: %s\n", strerror(errno));
	close(fd);
	udp(&seed, 4);
	udp(&seed, 6);
	if (own) {
		too_large();
		bare(&seed);
		tun(&seed);
	}
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++)
		CHECK(drops[i] == 0);
	CHECK(ipsf_pool_available(pool) == 256);
	ipsf_pool_free(pool);
	return check_summary("test_super_ports");
}
