/*
 * AF_PACKET ports at both ends of a veth pair, in a network namespace of their own:
 *
 *     port (outer or inner) -- end-a ==== end-b -- port        and the kernel's own stack at both ends
 *
 * What one sends the other receives, bare and in UDP, plain and as super-packets; what a port takes the stack never sees, what it
 * doesn't take the stack answers as ever. Without the right to make a namespace nothing is tested, and said so.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "gso.h"
#include "port_packet.h"
#include "steer.h"

static const uint8_t mac_a[6] = {2, 0, 0, 0, 0, 0xa}, mac_b[6] = {2, 0, 0, 0, 0, 0xb};
static struct ipsf_pool *pool;
static struct ipsf_batch batch, outgoing;
static uint64_t drops[IPSF_DROP_COUNT];

static bool run(const char *command)
{
	return system(command) == 0;
}

/* False: no namespace, no ip command, or no right. */
static bool make_place(void)
{
	return unshare(CLONE_NEWNET) == 0 &&
	       run("ip link add end-a address 02:00:00:00:00:0a type veth peer name end-b address 02:00:00:00:00:0b 2>/dev/null &&"
		   "ip addr add 192.0.2.1/24 dev end-a && ip addr add 192.0.2.2/24 dev end-b && ip addr add 10.9.0.1/24 dev end-a &&"
		   "ip -6 addr add fd00::1/64 dev end-a nodad && ip -6 addr add fd00::2/64 dev end-b nodad &&"
		   "ip link set end-a up && ip link set end-b up && ip link set lo up &&"
		   "ip neigh add 10.9.0.2 lladdr 02:00:00:00:00:0b dev end-a");
}

static struct ipsf_addr address_of(const char *text)
{
	struct ipsf_addr address = {.version = strchr(text, ':') ? 6 : 4};
	CHECK(inet_pton(address.version == 4 ? AF_INET : AF_INET6, text, address.bytes) == 1);
	return address;
}

/* The only next hop of the port. */
static void set_hop(struct ipsf_port *port, const char *to, const uint8_t *destination, const uint8_t *source, uint32_t mtu)
{
	struct ipsf_hop hop = {.network = address_of(to), .mtu = mtu};
	struct ipsf_hops *table;
	hop.prefix_length = hop.network.version == 4 ? 32 : 128;
	memcpy(hop.destination, destination, 6);
	memcpy(hop.source, source, 6);
	CHECK(ipsf_hops_new(&hop, 1, &table) == IPSF_OK);
	ipsf_hops_free(atomic_exchange(&port->hops, table));
}

static struct ipsf_port *open_port(const char *interface, bool outer)
{
	struct ipsf_port *port = NULL;
	const struct ipsf_packet_options options = {.interface = interface, .outer = outer, .bypass = 1, .udp_port = 4500};
	const int status = ipsf_port_packet_group(&options, 1, &port);
	CHECK(status == IPSF_OK);
	if (status != IPSF_OK) {
		perror(interface);
		exit(check_summary("port_packet"));
	}
	CHECK(ipsf_port_set_address(port, strcmp(interface, "end-a") == 0 ? mac_a : mac_b) == IPSF_OK);
	return port;
}

static void take(struct ipsf_port *port, const char *network, uint8_t length, uint32_t longest)
{
	const struct ipsf_addr address = address_of(network);
	CHECK(ipsf_port_take(port, &address, length, longest) == IPSF_OK);
}

static bool wait_for(int fd, int ms)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	return poll(&wait, 1, ms) == 1;
}

/* Receives until n packets have come, or nothing more does; each is shown to look(). How many came. */
static unsigned receive(struct ipsf_port *port, unsigned n, void (*look)(const struct ipsf_packet *packet, unsigned index))
{
	unsigned got = 0;
	while (got < n) {
		ipsf_batch_clear(&batch);
		const int some = port->ops->recv(port, &batch, drops);
		CHECK(some >= 0);
		if (some == 0 && !wait_for(port->fd, 1000))
			break;
		for (unsigned i = 0; i < batch.n; i++)
			look(batch.packet[i], got + i);
		got += batch.n;
	}
	ipsf_batch_clear(&batch);
	return got;
}

static void expect_nothing(struct ipsf_port *port)
{
	usleep(20000);
	ipsf_batch_clear(&batch);
	CHECK(port->ops->recv(port, &batch, drops) == 0);
}

/* ---- outer ---- */

static struct ipsf_path path;
static uint32_t expected_length[1024];
static unsigned expected_first;

static struct ipsf_packet *prepare(uint8_t carrier, uint32_t length, uint8_t value)
{
	struct ipsf_buffer *buffer = ipsf_pool_take(pool);
	if (!buffer)
		abort();
	memset(buffer->bytes + IPSF_HEADROOM, value, length);
	buffer->bytes[IPSF_HEADROOM] = 1; /* an SPI is not 0 */
	struct ipsf_packet *packet = ipsf_batch_add(&outgoing, buffer, buffer->bytes + IPSF_HEADROOM, length);
	packet->path = &path;
	packet->carrier = carrier;
	packet->tos = 0xb9;
	packet->flags = IPSF_PACKET_DF;
	return packet;
}

static void send_all(struct ipsf_port *port)
{
	for (unsigned i = 0; i < outgoing.n; i++)
		CHECK(port->ops->reaches(port, outgoing.packet[i]));
	port->ops->send(port, outgoing.packet, outgoing.n);
	for (unsigned i = 0; i < outgoing.n; i++)
		CHECK(!outgoing.packet[i]->drop && !outgoing.packet[i]->lost);
	ipsf_batch_clear(&outgoing);
}

static void look_outer(const struct ipsf_packet *packet, unsigned index)
{
	CHECK(packet->length == expected_length[index]);
	CHECK(packet->data[0] == 1 && packet->data[packet->length - 1] == (uint8_t)(expected_first + index));
	CHECK(packet->tos == 0xb9 && packet->path->local.version == path.remote.version);
	CHECK(memcmp(packet->path->local.bytes, path.remote.bytes, 16) == 0 && packet->path->remote_port == path.local_port);
}

/* Lengths that differ, a run of equal ones with a shorter end, and sealed super-packets: what arrives is one by one what was sent. */
static void test_outer(struct ipsf_port *from, struct ipsf_port *to, uint8_t carrier)
{
	const bool v6 = carrier == IPSF_CARRIER_UDP6 || carrier == IPSF_CARRIER_RAW6, udp = ipsf_carrier_is_udp(carrier);
	path = (struct ipsf_path){.local = address_of(v6 ? "fd00::1" : "192.0.2.1"), .remote = address_of(v6 ? "fd00::2" : "192.0.2.2")};
	path.local_port = path.remote_port = udp ? 4500 : 0;
	set_hop(from, v6 ? "fd00::2" : "192.0.2.2", mac_b, mac_a, 1500);
	take(to, v6 ? "fd00::2" : "192.0.2.2", v6 ? 128 : 32, 0);
	unsigned n = 0;
	for (; n < 20; n++)
		prepare(carrier, expected_length[n] = 40 + 7 * n, (uint8_t)n);
	for (; n < 50; n++)
		prepare(carrier, expected_length[n] = n < 49 ? 900 : 100, (uint8_t)n);
	struct ipsf_packet *super = prepare(carrier, 30 * 1000 + 60, 0);
	super->segment_size = 1000;
	super->segments = 31;
	for (unsigned i = 0; i < 31; i++, n++) {
		expected_length[n] = i < 30 ? 1000 : 60;
		memset(super->data + 1000 * i, (uint8_t)n, expected_length[n]);
		super->data[1000 * i] = 1;
	}
	send_all(from);
	CHECK(receive(to, n, look_outer) == n);
	expect_nothing(to);
}

/* What is longer than the link, or has no next hop, is for the sockets; one that lost its next hop meanwhile is a drop. */
static void test_reach(struct ipsf_port *from)
{
	path = (struct ipsf_path){.local = address_of("192.0.2.1"), .remote = address_of("192.0.2.2"), .local_port = 4500,
				  .remote_port = 4500};
	set_hop(from, "192.0.2.2", mac_b, mac_a, 1000);
	CHECK(from->ops->reaches(from, prepare(IPSF_CARRIER_UDP4, 972, 0)));
	CHECK(!from->ops->reaches(from, prepare(IPSF_CARRIER_UDP4, 973, 0)));
	path.remote = address_of("192.0.2.3");
	struct ipsf_packet *lost = prepare(IPSF_CARRIER_UDP4, 100, 0);
	CHECK(!from->ops->reaches(from, lost));
	from->ops->send(from, &lost, 1);
	CHECK(lost->drop == IPSF_DROP_NO_NEXT_HOP);
	ipsf_batch_clear(&outgoing);
}

/* ---- inner ---- */

#define PAYLOAD 700

static void look_inner(const struct ipsf_packet *packet, unsigned index)
{
	struct ipsf_pieces pieces;
	struct ipsf_packet copy = *packet;
	(void)index;
	CHECK(ipsf_ip_parse(&copy) && copy.destination_port == 7777 && packet->data[8] == 63);
	copy.flags |= IPSF_PACKET_CLEAR;
	copy.segments = packet->segments;
	copy.segment_size = packet->segment_size;
	const unsigned n = ipsf_pieces_begin(&pieces, &copy);
	for (unsigned i = 0; i < n; i++) {
		uint32_t length;
		const uint8_t *ip = ipsf_piece(&pieces, i, &length);
		CHECK(length == 28 + PAYLOAD && ipsf_checksum_fold(ipsf_checksum_add(ip, 20, 0)) == 0);
		CHECK(ipsf_checksum_fold(ipsf_checksum_add(ip + 20, length - 20, ipsf_checksum_add(ip + 12, 8, 17 + length - 20))) == 0);
	}
}

static unsigned wire_packets;

static void count_inner(const struct ipsf_packet *packet, unsigned index)
{
	look_inner(packet, index);
	wire_packets += ipsf_packet_count(packet);
}

/* The kernel's own UDP at end-a, checksum and segmentation left to the device: complete packets come out at end-b, and nothing answers. */
static void test_inner(void)
{
	struct ipsf_port *b = open_port("end-b", false);
	static uint8_t payload[20 * PAYLOAD];
	const int s = socket(AF_INET, SOCK_DGRAM, 0), stride = PAYLOAD;
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7777)};
	to.sin_addr.s_addr = inet_addr("10.9.0.2");
	take(b, "10.9.0.0", 16, 28 + PAYLOAD);
	CHECK(connect(s, (struct sockaddr *)&to, sizeof to) == 0);
	CHECK(send(s, payload, PAYLOAD, 0) == PAYLOAD);
	CHECK(receive(b, 1, look_inner) == 1);
	CHECK(setsockopt(s, IPPROTO_UDP, 103 /* UDP_SEGMENT */, &stride, sizeof stride) == 0);
	CHECK(send(s, payload, sizeof payload, 0) == sizeof payload);
	CHECK(receive(b, 1, count_inner) == 1 && wire_packets == 20);
	const int longer = PAYLOAD + 1;
	CHECK(setsockopt(s, IPPROTO_UDP, 103, &longer, sizeof longer) == 0);
	CHECK(send(s, payload, sizeof payload, 0) == sizeof payload);
	expect_nothing(b); /* too long: the kernel's */
	take(b, "10.9.0.2", 32, 0);
	CHECK(send(s, payload, PAYLOAD, 0) == PAYLOAD);
	expect_nothing(b); /* a narrower network that stays with the kernel */
	close(s);
	ipsf_port_free(b);
}

/* ---- the stack ---- */

static unsigned long counter(const char *name)
{
	char command[128], text[64] = "0";
	snprintf(command, sizeof command, "nstat -asz %s | awk '$1==\"%s\" {print $2}'", name, name);
	FILE *p = popen(command, "r");
	if (p && fgets(text, sizeof text, p))
		text[sizeof text - 1] = 0;
	if (p)
		pclose(p);
	return strtoul(text, NULL, 10);
}

static void look_any(const struct ipsf_packet *packet, unsigned index)
{
	(void)packet;
	(void)index;
}

/* A frame to end-b past the kernel's own routing, so that it comes in over the wire: bare ESP from 192.0.2.1. */
static void send_esp(struct ipsf_port *from, unsigned n)
{
	path = (struct ipsf_path){.local = address_of("192.0.2.7"), .remote = address_of("192.0.2.2")};
	set_hop(from, "192.0.2.2", mac_b, mac_a, 1500);
	for (unsigned i = 0; i < n; i++)
		prepare(IPSF_CARRIER_RAW4, 100, 0);
	send_all(from);
}

/* Protocol 50 that nobody takes: the stack counts it unknown and answers. Taken, it does neither; given up, it does again. */
static void test_stack(struct ipsf_port *from)
{
	const unsigned long before = counter("IpInUnknownProtos");
	send_esp(from, 3);
	usleep(50000);
	const unsigned long untaken = counter("IpInUnknownProtos");
	CHECK(untaken == before + 3);
	struct ipsf_port *b = open_port("end-b", true);
	take(b, "192.0.2.2", 32, 0);
	const unsigned long received = counter("IpInReceives");
	send_esp(from, 50);
	CHECK(receive(b, 50, look_any) == 50);
	CHECK(counter("IpInUnknownProtos") == untaken && counter("IpInReceives") == received);
	const struct ipsf_addr ours = address_of("192.0.2.2");
	CHECK(ipsf_port_leave(b, &ours, 32) == IPSF_OK && ipsf_port_leave(b, &ours, 32) == IPSF_OK);
	send_esp(from, 2);
	usleep(50000);
	CHECK(counter("IpInUnknownProtos") == untaken + 2);
	take(b, "192.0.2.2", 32, 0);
	ipsf_port_free(b);
	send_esp(from, 2);
	usleep(50000);
	CHECK(counter("IpInUnknownProtos") == untaken + 4); /* all gone with the port */
}

/* Down and up again: no error that stays, and it goes on. */
static void test_down(struct ipsf_port *from)
{
	struct ipsf_port *b = open_port("end-b", true);
	take(b, "192.0.2.2", 32, 0);
	CHECK(run("ip link set end-b down"));
	CHECK(b->ops->recv(b, &batch, drops) == 0);
	CHECK(!wait_for(b->fd, 20));
	CHECK(run("ip link set end-b up"));
	usleep(20000);
	send_esp(from, 5);
	CHECK(receive(b, 5, look_any) == 5);
	ipsf_port_free(b);
}

/* ---- several workers ---- */

static void test_spread(struct ipsf_port *from)
{
	struct ipsf_port *ports[3];
	const struct ipsf_packet_options options = {.interface = "end-b", .outer = 1, .bypass = 1, .udp_port = 4500};
	CHECK(ipsf_port_packet_group(&options, 3, ports) == IPSF_OK);
	CHECK(ipsf_port_set_address(ports[0], mac_b) == IPSF_OK);
	for (unsigned carrier = 0; carrier < IPSF_CARRIER_COUNT; carrier++) {
		const bool v6 = carrier == IPSF_CARRIER_UDP6 || carrier == IPSF_CARRIER_RAW6;
		path = (struct ipsf_path){.local = address_of(v6 ? "fd00::1" : "192.0.2.1"),
					  .remote = address_of(v6 ? "fd00::2" : "192.0.2.2"), .local_port = 4500, .remote_port = 4500};
		set_hop(from, v6 ? "fd00::2" : "192.0.2.2", mac_b, mac_a, 1500);
		take(ports[0], v6 ? "fd00::2" : "192.0.2.2", v6 ? 128 : 32, 0);
		for (uint32_t spi = 0; spi < 30; spi++) {
			struct ipsf_packet *packet = prepare((uint8_t)carrier, 64 + spi % 7 * 8, 0);
			ipsf_write32(packet->data, (1 + spi) << IPSF_OWNER_SHIFT | spi);
			send_all(from);
		}
		for (unsigned i = 0; i < 3; i++) {
			unsigned got = 0;
			while (got < 10 && (ports[i]->ops->recv(ports[i], &batch, drops) > 0 || wait_for(ports[i]->fd, 1000))) {
				for (unsigned k = 0; k < batch.n; k++)
					CHECK(ipsf_owner(ipsf_read32(batch.packet[k]->data), 3) == i);
				got += batch.n;
				ipsf_batch_clear(&batch);
			}
			CHECK(got == 10);
			expect_nothing(ports[i]);
		}
	}
	for (unsigned i = 0; i < 3; i++)
		ipsf_port_free(ports[i]);
}

/* Datagrams of many flows from the kernel at end-a: each flow comes out at one of three ports, in its order, and all ports have some. */
static void test_spread_flows(void)
{
	enum { FLOWS = 32, EACH = 5 };
	struct ipsf_port *ports[3];
	const struct ipsf_packet_options options = {.interface = "end-b", .bypass = 1, .udp_port = 4500};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(7777)};
	uint8_t seen[FLOWS] = {0}, where[FLOWS];
	uint16_t source[FLOWS];
	to.sin_addr.s_addr = inet_addr("10.9.0.2");
	CHECK(ipsf_port_packet_group(&options, 3, ports) == IPSF_OK);
	CHECK(ipsf_port_set_address(ports[0], mac_b) == IPSF_OK);
	take(ports[0], "10.9.0.0", 16, 1500);
	for (unsigned flow = 0; flow < FLOWS; flow++) {
		const int s = socket(AF_INET, SOCK_DGRAM, 0);
		struct sockaddr_in from = {.sin_family = AF_INET};
		socklen_t size = sizeof from;
		CHECK(connect(s, (struct sockaddr *)&to, sizeof to) == 0 && getsockname(s, (struct sockaddr *)&from, &size) == 0);
		source[flow] = ntohs(from.sin_port);
		for (uint8_t i = 0; i < EACH; i++)
			CHECK(send(s, (uint8_t[]){(uint8_t)flow, i}, 2, 0) == 2);
		close(s);
	}
	for (uint8_t port = 0; port < 3; port++) {
		unsigned got = 0;
		while (ports[port]->ops->recv(ports[port], &batch, drops) > 0 || wait_for(ports[port]->fd, 50)) {
			for (unsigned k = 0; k < batch.n; k++) {
				const uint8_t *ip = batch.packet[k]->data, flow = ip[28] % FLOWS;
				CHECK(ipsf_read16(ip + 20) == source[flow] && ip[29] == seen[flow]);
				CHECK(seen[flow]++ == 0 || where[flow] == port);
				where[flow] = port;
			}
			got += batch.n;
			ipsf_batch_clear(&batch);
		}
		CHECK(got > 0);
	}
	for (unsigned flow = 0; flow < FLOWS; flow++)
		CHECK(seen[flow] == EACH);
	for (unsigned i = 0; i < 3; i++)
		ipsf_port_free(ports[i]);
}

int main(void)
{
	if (!make_place()) {
		printf("port_packet: not tested, for no network namespace with a veth pair can be made here\n");
		return 0;
	}
	CHECK(ipsf_pool_new(256, 96u << 10, &pool) == IPSF_OK);
	ipsf_batch_init(&batch, pool);
	ipsf_batch_init(&outgoing, pool);
	struct ipsf_port *a = open_port("end-a", true), *b = open_port("end-b", true);
	for (unsigned carrier = 0; carrier < IPSF_CARRIER_COUNT; carrier++)
		test_outer(a, b, (uint8_t)carrier);
	test_reach(a);
	b->ops->drain(b);
	ipsf_port_free(b);
	test_inner();
	test_stack(a);
	test_down(a);
	test_spread(a);
	test_spread_flows();
	CHECK(ipsf_pool_available(pool) == 256);
	ipsf_port_free(a);
	ipsf_pool_free(pool);
	for (unsigned i = 1; i < IPSF_DROP_COUNT; i++)
		CHECK(drops[i] == 0);
	return check_summary("port_packet");
}
