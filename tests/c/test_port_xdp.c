/*
 * An AF_XDP port at the end of a veth pair, in a network namespace of its own:
 *
 *     a packet socket -- end-a ==== end-b -- port
 *
 * What is received, and when packets may gather. Without the right to make a namespace, or without AF_XDP, nothing is tested, and said so.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "link.h"
#include "port.h"

#define ESP 40 /* bytes */

static const uint8_t mac_a[6] = {2, 0, 0, 0, 0, 0xa}, mac_b[6] = {2, 0, 0, 0, 0, 0xb};
static struct ipsf_batch batch;
static uint64_t drops[IPSF_DROP_COUNT];

static bool make_place(void)
{
	return unshare(CLONE_NEWNET) == 0 &&
	       system("ip link add end-a address 02:00:00:00:00:0a type veth peer name end-b address 02:00:00:00:00:0b 2>/dev/null &&"
		      "ip link set end-a up && ip link set end-b up") == 0;
}

static struct ipsf_port *open_port(void)
{
	const struct ipsf_xdp_options options = {.interface = "end-b", .outer = 1};
	const struct ipsf_addr ours = {.version = 4, .bytes = {192, 0, 2, 2}};
	struct ipsf_port *port = NULL;
	if (ipsf_port_xdp_group(&options, 1, &port) != 1)
		return NULL;
	CHECK(ipsf_port_set_address(port, mac_b) == IPSF_OK && ipsf_port_take(port, &ours, 32, 0) == IPSF_OK);
	return port;
}

static int open_sender(void)
{
	const struct sockaddr_ll end = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("end-a")};
	const int s = socket(AF_PACKET, SOCK_RAW, 0);
	CHECK(bind(s, (const struct sockaddr *)&end, sizeof end) == 0);
	return s;
}

/* n frames of bare ESP, numbered from first on. */
static void send_esp(int s, uint32_t first, uint32_t n)
{
	const struct ipsf_path path = {.local = {.version = 4, .bytes = {192, 0, 2, 1}}, .remote = {.version = 4, .bytes = {192, 0, 2, 2}}};
	struct ipsf_packet packet = {.path = &path, .carrier = IPSF_CARRIER_RAW4};
	struct ipsf_hop hop = {.mtu = 1500};
	const uint32_t headers = ipsf_link_header_size(packet.carrier);
	uint8_t frame[IPSF_LINK_HEADER_MAX + ESP] = {0};
	memcpy(hop.destination, mac_b, 6);
	memcpy(hop.source, mac_a, 6);
	for (uint32_t i = first; i < first + n; i++) {
		frame[headers] = 1; /* an SPI */
		ipsf_write32(frame + headers + 4, i);
		ipsf_link_write_outer(frame, &hop, &packet, 4500, (uint16_t)i, frame + headers, ESP);
		CHECK(send(s, frame, headers + ESP, 0) == (ssize_t)(headers + ESP));
	}
}

/* Receives until the port has none left; how many came, in their order. */
static uint32_t receive(struct ipsf_port *port, uint32_t first)
{
	struct pollfd wait = {.fd = port->fd, .events = POLLIN};
	uint32_t got = 0;
	CHECK(poll(&wait, 1, 1000) == 1);
	while (port->ops->recv(port, &batch, drops) == IPSF_BATCH_MAX || batch.n) {
		const bool full = batch.n == IPSF_BATCH_MAX;
		for (unsigned i = 0; i < batch.n; i++)
			CHECK(batch.packet[i]->length == ESP && ipsf_read32(batch.packet[i]->data + 4) == first + got + i);
		got += batch.n;
		ipsf_batch_clear(&batch);
		if (!full)
			break;
	}
	return got;
}

int main(void)
{
	struct ipsf_pool *pool;
	struct ipsf_port *port = make_place() ? open_port() : NULL;
	if (!port) {
		printf("port_xdp: not tested, for no AF_XDP port on a veth pair can be had here: %s\n", strerror(errno));
		return 0;
	}
	CHECK(ipsf_pool_new(IPSF_BATCH_MAX, 2048, &pool) == IPSF_OK);
	ipsf_batch_init(&batch, pool);
	const int s = open_sender();
	CHECK(port->ops->recv(port, &batch, drops) == 0 && !port->ops->gathers(port));
	send_esp(s, 0, 3);
	CHECK(receive(port, 0) == 3 && !port->ops->gathers(port)); /* a few: each is wanted at once */
	send_esp(s, 3, 20);
	CHECK(receive(port, 3) == 20 && port->ops->gathers(port)); /* many, and none is left */
	CHECK(port->ops->recv(port, &batch, drops) == 0 && !port->ops->gathers(port));
	send_esp(s, 23, IPSF_BATCH_MAX + 20);
	CHECK(port->ops->recv(port, &batch, drops) == IPSF_BATCH_MAX && !port->ops->gathers(port)); /* the others are there already */
	ipsf_batch_clear(&batch);
	CHECK(receive(port, 23 + IPSF_BATCH_MAX) == 20 && port->ops->gathers(port));
	for (uint32_t i = 0; i < 3 * 4096; i += 64) { /* round the rings: no frame is lost on the way */
		send_esp(s, i, 64);
		CHECK(receive(port, i) == 64);
	}
	close(s);
	ipsf_port_free(port);
	ipsf_pool_free(pool);
	for (unsigned i = 1; i < IPSF_DROP_COUNT; i++)
		CHECK(drops[i] == 0);
	return check_summary("port_xdp");
}
