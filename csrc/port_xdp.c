/*
 * AF_XDP ports: whole Ethernet frames between a queue of an interface and memory that the kernel shares with us, no system call for
 * a packet received, one for a batch sent. The XDP program on the interface (classify.h) redirects to the sockets what is ours.
 *
 * Where the driver does zero-copy, a packet received by one port and sent by another over the same memory is copied nowhere: its
 * headers are written before it, and its buffer is the kernel's until the completion ring gives it back. What comes from elsewhere (a
 * TUN device, the segments of a super-packet) is copied once, into a frame of this port.
 *
 * Where it does not, the kernel makes a socket buffer of each frame in the transmit ring. A packet socket makes one for up to 64 ESP
 * datagrams or decrypted packets of a flow: then these leave by the sending half of an AF_PACKET port. Decrypted packets that can't be
 * joined leave by the ring: 310 ns each on a veth pair, with what the other end does, where the packet socket takes 560.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/if_link.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "gso.h"
#include "port_packet.h"
#include "port_socket.h"
#include "stats.h"
#include "xdp_socket.h"

#define QUEUES_MAX 64
#define QUIET_ROUNDS 256 /* empty receives between two looks at what the kernel has to say */
#define AHEAD 8          /* frames: what a look into memory takes, in work on others */
#define SEND_BUFFER (16 << 20) /* bytes, more than the transmit ring can hold: the kernel takes all that stands in it */
#define KICKS 16         /* tries to make the kernel take what stands in the transmit ring, a send() */

/* What the ports of one interface share: the program on it and its map of sockets. */
struct program {
	int link, sockets;
	const char *mode;
	unsigned users;
};

/* What a group of ports is made of. */
struct plan {
	const struct ipsf_xdp_options *options;
	struct ipsf_intake *intake;
	struct program *program;
	uint32_t chunk; /* bytes of a frame's buffer */
};

struct receiver {
	struct ipsf_pool *pool;
	uint64_t lost; /* as last told by the kernel */
	uint32_t quiet;
	struct ipsf_gathering gathering;
	struct ipsf_path path[IPSF_BATCH_MAX];
};

struct sender {
	struct ipsf_pool *pool;
	uint16_t id; /* IPv4's, of the next datagram */
	bool stuck;  /* the kernel takes nothing: the interface is down */
};

struct ipsf_port_xdp {
	struct ipsf_port_packet packet; /* the port itself, and its sending half where the driver does no zero-copy */
	struct program *program;
	struct ipsf_xdp_socket socket;
	bool ring; /* all frames leave by the transmit ring */
	struct receiver rx __attribute__((aligned(IPSF_CACHE_LINE)));
	struct sender tx __attribute__((aligned(IPSF_CACHE_LINE)));
};

static bool is_outer(const struct ipsf_port_xdp *x)
{
	return x->packet.port.carriers != 0;
}

/* ---- receiving ---- */

/* Gives the kernel frames to fill, as many as there are and fit. */
static void fill(struct ipsf_port_xdp *x)
{
	struct ipsf_xdp_ring *ring = &x->socket.fill;
	const uint32_t before = ring->mine;
	for (uint32_t room = ipsf_xdp_room(ring, IPSF_BATCH_MAX); room > 0; room--) {
		struct ipsf_buffer *buffer = ipsf_pool_take(x->rx.pool);
		if (!buffer)
			break;
		ring->entry.address[ipsf_xdp_next(ring)] = (uint64_t)((uint8_t *)buffer - x->socket.memory->area);
	}
	if (ring->mine != before)
		ipsf_xdp_publish(ring);
	if (x->socket.zero_copy && ipsf_xdp_needs_wakeup(ring))
		(void)recvfrom(x->packet.port.fd, NULL, 0, MSG_DONTWAIT, NULL, NULL); /* what it could say, SO_ERROR says later */
}

/* What the kernel took for us and had no frame or no room for. IPSF_ESYS: the interface is gone. */
static int ask_kernel(struct ipsf_port_xdp *x, uint64_t drops[IPSF_DROP_COUNT])
{
	struct xdp_statistics s;
	socklen_t size = sizeof s;
	int error = 0;
	memset(&s, 0, sizeof s);
	if (getsockopt(x->packet.port.fd, SOL_XDP, XDP_STATISTICS, &s, &size) == 0) {
		const uint64_t lost = s.rx_dropped + s.rx_ring_full;
		drops[IPSF_DROP_RX_OVERFLOW] += lost - x->rx.lost;
		x->rx.lost = lost;
	}
	size = sizeof error;
	if (getsockopt(x->packet.port.fd, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error != 0) {
		errno = error;
		return IPSF_ESYS;
	}
	return IPSF_OK;
}

/* Something may have been lost if one of the rings ran out; and in a while anyway. */
static bool worth_asking(struct ipsf_port_xdp *x, uint32_t ready)
{
	const struct ipsf_xdp_ring *filled = &x->socket.fill;
	if (ready == 0)
		return x->rx.quiet++ % QUIET_ROUNDS == 0;
	x->rx.quiet = 0;
	return ready == x->socket.receive.size || atomic_load_explicit(filled->consumer, memory_order_relaxed) == filled->mine;
}

/* One frame as a packet; what contradicts itself is counted here. */
static void take_frame(struct ipsf_port_xdp *x, const struct xdp_desc *desc, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_buffer *buffer = ipsf_xdp_buffer(x->socket.memory, desc->addr);
	struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, x->socket.memory->area + desc->addr, desc->len);
	bool good;
	if (is_outer(x)) {
		good = ipsf_link_parse_outer(packet, IPSF_CLASSIFY_UDP_PORT, &x->rx.path[batch->n - 1]);
	} else {
		good = ipsf_link_parse_inner(packet);
		if (good)
			ipsf_link_complete_checksum(packet);
	}
	if (good)
		return;
	drops[packet->drop]++;
	ipsf_buffer_release(buffer);
	batch->n--;
}

/* What the kernel, on another core, has written is in no cache of ours, nor is a buffer's head, which nobody has touched for a round of
 * the rings. */
static void fetch_ahead(const struct ipsf_port_xdp *x, const struct ipsf_xdp_ring *ring, uint32_t ahead)
{
	const struct xdp_desc *desc = &ring->entry.desc[(ring->mine + ahead) & (ring->size - 1)];
	const uint8_t *frame = x->socket.memory->area + desc->addr;
	__builtin_prefetch(ipsf_xdp_buffer(x->socket.memory, desc->addr), 1);
	__builtin_prefetch(frame, 1);
	__builtin_prefetch(frame + IPSF_CACHE_LINE, 1);
}

static int xdp_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_port_xdp *x = (struct ipsf_port_xdp *)port;
	struct ipsf_xdp_ring *ring = &x->socket.receive;
	const uint32_t ready = ipsf_xdp_ready(ring, UINT32_MAX), n = ready < IPSF_BATCH_MAX ? ready : IPSF_BATCH_MAX;
	if (worth_asking(x, ready) && ask_kernel(x, drops) != IPSF_OK)
		return IPSF_ESYS;
	for (uint32_t i = 0; i < AHEAD && i < n; i++)
		fetch_ahead(x, ring, i);
	for (uint32_t i = 0; i < n; i++) {
		if (i + AHEAD < n)
			fetch_ahead(x, ring, AHEAD);
		const struct xdp_desc *desc = &ring->entry.desc[ipsf_xdp_next(ring)];
		take_frame(x, desc, batch, drops);
	}
	if (n)
		ipsf_xdp_consumed(ring);
	x->rx.gathering.now = false;
	x->rx.gathering.taken += n;
	if (n == ready)
		ipsf_gathering_emptied(&x->rx.gathering);
	fill(x);
	return (int)batch->n;
}

static bool xdp_gathers(const struct ipsf_port *port)
{
	return ((const struct ipsf_port_xdp *)port)->rx.gathering.now;
}

/* ---- sending ---- */

/* Frames that have left. */
static void reap(struct ipsf_port_xdp *x)
{
	struct ipsf_xdp_ring *ring = &x->socket.completion;
	const uint32_t n = ipsf_xdp_ready(ring, UINT32_MAX);
	for (uint32_t i = 0; i < n; i++)
		ipsf_buffer_release(ipsf_xdp_buffer(x->socket.memory, ring->entry.address[ipsf_xdp_next(ring)]));
	if (n)
		ipsf_xdp_consumed(ring);
}

static bool again(int error)
{
	return error == EAGAIN || error == EBUSY || error == ENOBUFS || error == EINTR;
}

/* The kernel sends what stands in the ring. What it can't take now stays there for the next time. */
static void kick(struct ipsf_port_xdp *x)
{
	struct ipsf_xdp_ring *ring = &x->socket.transmit;
	ipsf_xdp_publish(ring);
	for (unsigned i = 0; i < KICKS && ipsf_xdp_needs_wakeup(ring) && !ipsf_xdp_all_taken(ring); i++) {
		if (sendto(x->packet.port.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 && !again(errno)) {
			x->tx.stuck = true; /* ENETDOWN, ENXIO */
			return;
		}
		reap(x);
	}
	x->tx.stuck = false;
}

/* Whether one more frame can be sent. */
static bool has_room(struct ipsf_port_xdp *x)
{
	if (IPSF_LIKELY(ipsf_xdp_room(&x->socket.transmit, 1) > 0))
		return true;
	kick(x);
	return ipsf_xdp_room(&x->socket.transmit, 1) > 0;
}

static void push(struct ipsf_port_xdp *x, const uint8_t *frame, uint32_t length)
{
	struct ipsf_xdp_ring *ring = &x->socket.transmit;
	ring->entry.desc[ipsf_xdp_next(ring)] = (struct xdp_desc){.addr = (uint64_t)(frame - x->socket.memory->area), .len = length};
}

/* headers bytes before length bytes at data. */
static void write_headers(struct ipsf_port_xdp *x, const struct ipsf_hop *hop, struct ipsf_packet *packet, uint8_t *at,
			  const uint8_t *data, uint32_t length)
{
	if (is_outer(x))
		ipsf_link_write_outer(at, hop, packet, IPSF_CLASSIFY_UDP_PORT, x->tx.id++, data, length);
	else
		ipsf_link_write_inner(at, hop, packet);
}

static bool send_in_place(struct ipsf_port_xdp *x, const struct ipsf_hop *hop, struct ipsf_packet *packet, uint32_t headers)
{
	if (packet->segments || packet->headroom < headers || packet->buffer->users != 1 ||
	    !ipsf_xdp_memory_has(x->socket.memory, packet->buffer))
		return false;
	write_headers(x, hop, packet, packet->data - headers, packet->data, packet->length);
	packet->buffer->users++; /* the completion ring gives it back */
	push(x, packet->data - headers, packet->length + headers);
	return true;
}

/* One datagram or packet of it, in a frame of ours. */
static enum ipsf_drop send_copy(struct ipsf_port_xdp *x, const struct ipsf_hop *hop, struct ipsf_packet *packet, uint32_t headers,
				const uint8_t *data, uint32_t length)
{
	struct ipsf_buffer *buffer;
	if (headers + length > x->socket.memory->chunk - sizeof *buffer)
		return IPSF_DROP_MTU;
	if (!has_room(x) || !(buffer = ipsf_pool_take(x->tx.pool)))
		return IPSF_DROP_PORT_FULL;
	write_headers(x, hop, packet, buffer->bytes, data, length);
	memcpy(buffer->bytes + headers, data, length);
	push(x, buffer->bytes, headers + length);
	return IPSF_DROP_NONE;
}

static void send_packet(struct ipsf_port_xdp *x, const struct ipsf_hops *table, struct ipsf_packet *packet)
{
	const struct ipsf_hop *hop = is_outer(x) ? ipsf_link_outer_hop(table, packet) : ipsf_link_inner_hop(table, packet);
	const uint32_t headers = is_outer(x) ? ipsf_link_header_size(packet->carrier) : IPSF_ETHERNET_HEADER;
	if (!hop || x->tx.stuck || !has_room(x)) {
		packet->drop = !hop ? IPSF_DROP_NO_NEXT_HOP : x->tx.stuck ? IPSF_DROP_PORT_ERROR : IPSF_DROP_PORT_FULL;
		return;
	}
	if (IPSF_LIKELY(send_in_place(x, hop, packet, headers)))
		return;
	for (unsigned i = 0, n = ipsf_packet_count(packet); i < n; i++) {
		uint32_t length;
		const uint8_t *data = ipsf_packet_datagram(packet, i, &length);
		const enum ipsf_drop drop = send_copy(x, hop, packet, headers, data, length);
		if (drop != IPSF_DROP_NONE)
			ipsf_packet_lose(packet, drop);
	}
}

static void send_by_ring(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_port_xdp *x = (struct ipsf_port_xdp *)port;
	const struct ipsf_hops *table = atomic_load_explicit(&port->hops, memory_order_acquire);
	reap(x);
	if (x->tx.stuck)
		kick(x); /* perhaps it is up again */
	for (unsigned i = 0; i < n; i++)
		send_packet(x, table, packets[i]);
	kick(x);
}

static void xdp_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	const struct ipsf_port_xdp *x = (const struct ipsf_port_xdp *)port;
	if (x->ring)
		send_by_ring(port, packets, n);
	else
		ipsf_packet_send(port, packets, n);
}

/* ---- making and freeing ---- */

static void release_program(struct program *program)
{
	const int error = errno;
	if (!program || --program->users)
		return;
	if (program->link >= 0)
		close(program->link);
	if (program->sockets >= 0)
		close(program->sockets);
	free(program);
	errno = error;
}

static int attach(struct program *program, const struct ipsf_intake *intake, enum ipsf_hook hook, uint32_t flags)
{
	const int loaded = ipsf_intake_program(intake, hook, program->sockets);
	if (loaded < 0)
		return loaded;
	program->link = ipsf_bpf_link_new(loaded, intake->interface_index, BPF_XDP, flags);
	const int error = errno;
	close(loaded);
	errno = error;
	return program->link < 0 ? IPSF_ESYS : IPSF_OK;
}

/* The driver runs it where it can, else the kernel does, on socket buffers. EBUSY is final: another program is there. */
static int attach_somehow(struct program *program, const struct ipsf_intake *intake)
{
	program->mode = "native";
	const int status = attach(program, intake, IPSF_HOOK_XDP, XDP_FLAGS_DRV_MODE);
	if (status != IPSF_ESYS || errno == EBUSY || errno == EPERM)
		return status;
	program->mode = "generic";
	return attach(program, intake, IPSF_HOOK_XDP_GENERIC, XDP_FLAGS_SKB_MODE);
}

static int new_program(const struct ipsf_intake *intake, struct program **out)
{
	const struct ipsf_bpf_map_shape sockets = {.type = BPF_MAP_TYPE_XSKMAP, .key_size = sizeof(uint32_t), .entries = QUEUES_MAX,
						   .value_size = sizeof(uint32_t), .name = "ipsf_sockets"};
	struct program *program = malloc(sizeof *program);
	if (!program)
		return IPSF_ENOMEM;
	*program = (struct program){.link = -1, .users = 1, .mode = "", .sockets = ipsf_bpf_map_new(&sockets)};
	const int status = program->sockets < 0 ? IPSF_ESYS : attach_somehow(program, intake);
	if (status != IPSF_OK) {
		release_program(program);
		return status;
	}
	*out = program;
	return IPSF_OK;
}

static void xdp_free(struct ipsf_port *port)
{
	struct ipsf_port_xdp *x = (struct ipsf_port_xdp *)port;
	const int error = errno;
	release_program(x->program); /* first: what comes from now on is the kernel's */
	ipsf_xdp_socket_close(&x->socket);
	ipsf_packet_tx_close(&x->packet);
	ipsf_intake_release(port->intake);
	ipsf_hops_free(atomic_load(&port->hops));
	free(x);
	errno = error;
}

static const struct ipsf_port_ops xdp_ops = {
	.recv = xdp_recv, .gathers = xdp_gathers, .send = xdp_send, .reaches = ipsf_link_reaches, .free = xdp_free};

/* A socket over the memory of the port beside it, if the kernel can share that, else over its own. */
static int open_socket(struct ipsf_port_xdp *x, const struct plan *plan, uint32_t queue)
{
	const struct ipsf_port *beside = plan->options->beside ? plan->options->beside[queue] : NULL;
	const unsigned index = plan->intake->interface_index;
	struct ipsf_xdp_memory *memory = NULL;
	if (beside && beside->ops == &xdp_ops)
		memory = ((const struct ipsf_port_xdp *)beside)->socket.memory;
	if (memory && memory->chunk >= plan->chunk && ipsf_xdp_socket_open(&x->socket, memory, index, queue) == IPSF_OK)
		return IPSF_OK;
	int status = ipsf_xdp_memory_new(plan->chunk, &memory);
	if (status != IPSF_OK)
		return status;
	status = ipsf_xdp_socket_open(&x->socket, memory, index, queue);
	ipsf_xdp_memory_release(memory);
	return status;
}

static int open_port(struct ipsf_port_xdp *x, const struct plan *plan, uint32_t queue)
{
	const bool outer = is_outer(x);
	const int status = open_socket(x, plan, queue);
	if (status != IPSF_OK)
		return status;
	x->packet.port.fd = x->socket.fd;
	x->rx.pool = x->socket.memory->pool[outer ? IPSF_IN : IPSF_OUT];
	x->tx.pool = x->socket.memory->pool[outer ? IPSF_OUT : IPSF_IN];
	snprintf(x->packet.port.name, sizeof x->packet.port.name, "xdp:%s/%u", plan->options->interface, queue);
	fill(x);
	x->ring = x->socket.zero_copy || plan->options->ring;
	if (ipsf_socket_option(x->socket.fd, SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER) != IPSF_OK &&
	    ipsf_socket_option(x->socket.fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER) != IPSF_OK)
		return IPSF_ESYS;
	if (!x->ring && ipsf_packet_tx_open(&x->packet, false) != IPSF_OK)
		return IPSF_ESYS;
	x->packet.send_singly = send_by_ring;
	return ipsf_bpf_map_set(x->program->sockets, &queue, &x->socket.fd);
}

static int new_port(const struct plan *plan, uint32_t queue, struct ipsf_port **out)
{
	struct ipsf_port_xdp *x = aligned_alloc(IPSF_CACHE_LINE, sizeof *x);
	if (!x)
		return IPSF_ENOMEM;
	memset(x, 0, sizeof *x);
	x->packet.port = (struct ipsf_port){.ops = &xdp_ops, .fd = -1, .receive_size = IPSF_XDP_FRAME_MAX(plan->chunk)};
	x->packet.port.carriers = plan->intake->role == IPSF_ROLE_OUTER ? (1u << IPSF_CARRIER_COUNT) - 1 : 0;
	x->packet.port.intake = ipsf_intake_share(plan->intake);
	x->packet.udp_port = IPSF_CLASSIFY_UDP_PORT;
	x->packet.tx.fd = -1;
	x->program = plan->program;
	x->program->users++;
	x->socket.fd = -1;
	const int status = open_port(x, plan, queue);
	if (status != IPSF_OK) {
		xdp_free(&x->packet.port);
		return status;
	}
	*out = &x->packet.port;
	return IPSF_OK;
}

/* The smallest that holds the interface's frames: a longer one would be lost after it was taken. 0 with errno, e.g. EMSGSIZE. */
static uint32_t choose_chunk(const char *interface)
{
	struct ifreq request = {0};
	const int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return 0;
	snprintf(request.ifr_name, sizeof request.ifr_name, "%s", interface);
	const int status = ioctl(fd, SIOCGIFMTU, &request), error = errno;
	close(fd);
	errno = status < 0 ? error : EMSGSIZE;
	for (uint32_t chunk = IPSF_XDP_CHUNK_MAX / 2; status == 0 && chunk <= IPSF_XDP_CHUNK_MAX; chunk *= 2) {
		if ((uint32_t)request.ifr_mtu + IPSF_ETHERNET_HEADER <= IPSF_XDP_FRAME_MAX(chunk))
			return chunk;
	}
	return 0;
}

/* How many were made: as many as the interface has queues (a queue that it has not: EINVAL), at most n. */
static int new_ports(const struct plan *plan, size_t n, struct ipsf_port **ports)
{
	for (uint32_t i = 0; i < n; i++) {
		const int status = new_port(plan, i, &ports[i]);
		if (status == IPSF_OK)
			continue;
		if (i > 0 && status == IPSF_ESYS && errno == EINVAL)
			return (int)i;
		while (i-- > 0)
			ipsf_port_free(ports[i]);
		return status;
	}
	return (int)n;
}

int ipsf_port_xdp_group(const struct ipsf_xdp_options *options, size_t n, struct ipsf_port **ports)
{
	struct plan plan = {.options = options};
	const unsigned index = if_nametoindex(options->interface);
	if (n == 0 || n > QUEUES_MAX)
		return IPSF_EINVAL;
	if (index == 0 || (plan.chunk = choose_chunk(options->interface)) == 0)
		return IPSF_ESYS;
	int status = ipsf_intake_new(options->outer ? IPSF_ROLE_OUTER : IPSF_ROLE_INNER, index, &plan.intake);
	if (status != IPSF_OK)
		return status;
	status = new_program(plan.intake, &plan.program);
	if (status == IPSF_OK) {
		status = new_ports(&plan, n, ports);
		release_program(plan.program);
	}
	ipsf_intake_release(plan.intake);
	return status;
}

const char *ipsf_port_xdp_mode(const struct ipsf_port *port)
{
	const struct ipsf_port_xdp *x = (const struct ipsf_port_xdp *)port;
	return port->ops != &xdp_ops ? "" : x->socket.zero_copy ? "native, zero-copy" : x->program->mode;
}

int ipsf_port_xdp_shares(const struct ipsf_port *port)
{
	const struct ipsf_port_xdp *x = (const struct ipsf_port_xdp *)port;
	return port->ops == &xdp_ops && x->socket.memory->users > 1;
}
