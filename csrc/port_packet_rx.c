#define _GNU_SOURCE
#include "port_packet.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <sys/mman.h>
#include <unistd.h>

#include "gso.h"
#include "steer.h"

#define BLOCK_SIZE (256u << 10) /* bytes: three super-packets, or 800 small ones */
#define BLOCKS 32
#define FRAME_SIZE 2048         /* the kernel wants one; frames in blocks are as long as they are */
#define RETIRE_MS 1             /* age of a block that is given away although it is not full */
#define FRAME_MAX 65550         /* bytes: the longest IP packet in Ethernet */
#define SEALED_MAX (96u << 10)  /* inner: a super-packet's segments with ESP around each, as of a TUN port */

/* ---- the ring ---- */

static int option(int fd, int name, int value)
{
	return setsockopt(fd, SOL_PACKET, name, &value, sizeof value) < 0 ? IPSF_ESYS : IPSF_OK;
}

static int make_ring(struct ipsf_port_packet *p)
{
	const struct tpacket_req3 request = {.tp_block_size = BLOCK_SIZE, .tp_block_nr = BLOCKS, .tp_frame_size = FRAME_SIZE,
					     .tp_frame_nr = BLOCKS * (BLOCK_SIZE / FRAME_SIZE), .tp_retire_blk_tov = RETIRE_MS};
	struct ipsf_packet_rx *rx = &p->rx;
	if (setsockopt(p->port.fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) < 0)
		return IPSF_ESYS;
	rx->ring_size = (size_t)BLOCK_SIZE * BLOCKS;
	void *ring = mmap(NULL, rx->ring_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, p->port.fd, 0);
	if (ring == MAP_FAILED)
		return IPSF_ESYS;
	rx->ring = ring;
	return IPSF_OK;
}

/* The filter comes before the interface: nothing that is not ours is ever in the ring. */
static int set_filter(const struct ipsf_port_packet *p)
{
	const int program = ipsf_intake_program(p->port.intake, IPSF_HOOK_SOCKET, -1);
	if (program < 0)
		return program;
	const int status = setsockopt(p->port.fd, SOL_SOCKET, SO_ATTACH_BPF, &program, sizeof program);
	const int error = errno;
	close(program);
	errno = error;
	return status < 0 ? IPSF_ESYS : IPSF_OK;
}

int ipsf_packet_rx_open(struct ipsf_port_packet *p)
{
	const struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
					    .sll_ifindex = (int)p->port.intake->interface_index};
	p->port.fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (p->port.fd < 0 || option(p->port.fd, PACKET_VERSION, TPACKET_V3) != IPSF_OK ||
	    option(p->port.fd, PACKET_VNET_HDR, 1) != IPSF_OK || option(p->port.fd, PACKET_IGNORE_OUTGOING, 1) != IPSF_OK ||
	    make_ring(p) != IPSF_OK)
		return IPSF_ESYS;
	const int status = set_filter(p);
	if (status != IPSF_OK)
		return status;
	p->port.receive_size = p->port.carriers ? FRAME_MAX : SEALED_MAX;
	return bind(p->port.fd, (const struct sockaddr *)&address, sizeof address) < 0 ? IPSF_ESYS : IPSF_OK;
}

/* ---- several workers ---- */

/*
 * Of n ports the one that owns the SPI (steer.h) in a frame that the filter has taken: bare ESP or ESP in UDP, behind an IP header
 * without options. The kernel lets it run at the IP header.
 */
static int spread_by_spi(int fd, uint32_t n)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 6, 6, 0), /* version 6: 6 instructions on */
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 9),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPSF_PROTO_ESP, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IPSF_IPV4_HEADER),
		BPF_JUMP(BPF_JMP | BPF_JA, 7, 0, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IPSF_IPV4_HEADER + IPSF_UDP_HEADER),
		BPF_JUMP(BPF_JMP | BPF_JA, 5, 0, 0),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 6),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPSF_PROTO_ESP, 0, 2),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IPSF_IPV6_HEADER),
		BPF_JUMP(BPF_JMP | BPF_JA, 1, 0, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, IPSF_IPV6_HEADER + IPSF_UDP_HEADER),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, IPSF_OWNER_SHIFT),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, IPSF_OWNER_MASK),
		BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, n),
		BPF_STMT(BPF_RET | BPF_A, 0),
	};
	const struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
	return setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof program) < 0 ? IPSF_ESYS : IPSF_OK;
}

/* By addresses and ports, as a TUN device's queues; the kernel's own hash of a flow costs 150 ns a packet more. */
static int spread_by_flow(int fd)
{
	const int program = ipsf_bpf_filter_new(ipsf_steer_flows, "ipsf_flows");
	if (program < 0)
		return program;
	const int status = setsockopt(fd, SOL_PACKET, PACKET_FANOUT_DATA, &program, sizeof program) < 0 ? IPSF_ESYS : IPSF_OK;
	const int error = errno;
	close(program);
	errno = error;
	return status;
}

/* A group's number is the kernel's to choose, by its first member; members count in the order in which they join. */
int ipsf_packet_rx_spread(struct ipsf_port *const *ports, size_t n)
{
	const bool outer = ports[0]->carriers != 0;
	const int type = (outer ? PACKET_FANOUT_CBPF : PACKET_FANOUT_EBPF) << 16;
	int group = 0;
	socklen_t size = sizeof group;
	if (option(ports[0]->fd, PACKET_FANOUT, type | PACKET_FANOUT_FLAG_UNIQUEID << 16) != IPSF_OK ||
	    getsockopt(ports[0]->fd, SOL_PACKET, PACKET_FANOUT, &group, &size) < 0)
		return IPSF_ESYS;
	for (size_t i = 1; i < n; i++) {
		if (option(ports[i]->fd, PACKET_FANOUT, (group & 0xffff) | type) != IPSF_OK)
			return IPSF_ESYS;
	}
	return outer ? spread_by_spi(ports[0]->fd, (uint32_t)n) : spread_by_flow(ports[0]->fd);
}

void ipsf_packet_rx_close(struct ipsf_port_packet *p)
{
	if (p->rx.ring)
		munmap(p->rx.ring, p->rx.ring_size);
	if (p->port.fd >= 0)
		close(p->port.fd);
}

static struct tpacket_block_desc *block_at(const struct ipsf_packet_rx *rx)
{
	return (struct tpacket_block_desc *)(void *)(rx->ring + (size_t)rx->block * BLOCK_SIZE);
}

/* Frames that found no room in the ring since this was last asked. */
static void count_lost(const struct ipsf_port *port, uint64_t drops[IPSF_DROP_COUNT])
{
	struct tpacket_stats_v3 lost;
	socklen_t size = sizeof lost;
	if (getsockopt(port->fd, SOL_PACKET, PACKET_STATISTICS, &lost, &size) == 0)
		drops[IPSF_DROP_RX_OVERFLOW] += lost.tp_drops;
}

/* An interface that went down leaves an error, which poll() would show for ever. */
static void clear_error(const struct ipsf_port *port)
{
	int error;
	socklen_t size = sizeof error;
	(void)getsockopt(port->fd, SOL_SOCKET, SO_ERROR, &error, &size); /* it is the interface's, which netlink tells of */
}

/* A block with frames is open for reading; false: the kernel has given none away. */
static bool open_block(struct ipsf_port_packet *p, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_packet_rx *rx = &p->rx;
	if (rx->left)
		return true;
	struct tpacket_block_desc *block = block_at(rx);
	const uint32_t status = __atomic_load_n(&block->hdr.bh1.block_status, __ATOMIC_ACQUIRE);
	if (!(status & TP_STATUS_USER)) {
		clear_error(&p->port);
		return false;
	}
	if (status & TP_STATUS_LOSING)
		count_lost(&p->port, drops);
	rx->left = block->hdr.bh1.num_pkts;
	rx->next = (const void *)((const uint8_t *)block + block->hdr.bh1.offset_to_first_pkt);
	return true;
}

/* Behind the frame just read; behind the last the block goes back. */
static void step(struct ipsf_packet_rx *rx)
{
	if (rx->left && --rx->left) {
		rx->next = (const void *)((const uint8_t *)rx->next + rx->next->tp_next_offset);
		return;
	}
	__atomic_store_n(&block_at(rx)->hdr.bh1.block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	rx->block = (rx->block + 1) % BLOCKS;
}

/* ---- frames to packets ---- */

/* As many datagrams as the batch has room for; their buffer has a user each, and one while there is a rest. */
static void cut_rest(struct ipsf_packet_rx *rx, struct ipsf_batch *batch)
{
	struct ipsf_packet_rest *rest = &rx->rest;
	const struct ipsf_path *path = NULL;
	while (rest->length) {
		const uint32_t length = rest->stride < rest->length ? rest->stride : rest->length;
		struct ipsf_packet *packet = ipsf_batch_add(batch, rest->buffer, rest->data, length);
		if (!packet)
			return;
		if (!path) {
			path = &rx->path[rx->paths];
			rx->path[rx->paths++] = rest->path;
		}
		rest->buffer->users++;
		packet->path = path;
		packet->tos = rest->tos;
		packet->carrier = rest->carrier;
		packet->headroom = 0; /* a datagram before may stand there, and one behind */
		packet->tailroom = 0;
		rest->data += length;
		rest->length -= length;
	}
	ipsf_buffer_release(rest->buffer);
	rest->buffer = NULL;
}

/* What the kernel joined, UDP datagrams of one stride, is cut again. */
static void split(struct ipsf_packet_rx *rx, struct ipsf_batch *batch, struct ipsf_packet *packet, uint32_t stride)
{
	rx->rest = (struct ipsf_packet_rest){.buffer = packet->buffer, .data = packet->data, .length = packet->length, .stride = stride,
					     .path = *packet->path, .tos = packet->tos, .carrier = packet->carrier};
	batch->n--;
	cut_rest(rx, batch);
}

static bool take_outer(struct ipsf_port_packet *p, struct ipsf_batch *batch, struct ipsf_packet *packet,
		       const struct virtio_net_hdr *header)
{
	struct ipsf_packet_rx *rx = &p->rx;
	const uint32_t stride = header->gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? header->gso_size : 0;
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE && stride == 0) {
		packet->drop = IPSF_DROP_SUPER_PACKET;
		return false;
	}
	if (!ipsf_link_parse_outer(packet, p->udp_port, &rx->path[rx->paths]))
		return false;
	if (stride && stride < packet->length)
		split(rx, batch, packet, stride);
	else
		rx->paths++;
	return true;
}

/* The virtio header counts from the start of the frame, ipsf_vnet_accept() from that of the packet. */
static bool take_inner(struct ipsf_packet *packet, const struct virtio_net_hdr *header)
{
	struct virtio_net_hdr h = *header;
	if (!ipsf_link_parse_inner(packet))
		return false;
	h.csum_start = (uint16_t)(h.csum_start - IPSF_ETHERNET_HEADER);
	if ((h.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && header->csum_start < IPSF_ETHERNET_HEADER) {
		packet->drop = IPSF_DROP_SUPER_PACKET;
		return false;
	}
	h.hdr_len = 0;
	if (ipsf_vnet_accept(&h, packet))
		return true;
	packet->drop = IPSF_DROP_SUPER_PACKET;
	return false;
}

/* The frame at rx->next into a buffer of its own; a packet of the batch, or a drop. */
static void take_frame(struct ipsf_port_packet *p, struct ipsf_batch *batch, struct ipsf_buffer *buffer,
		       uint64_t drops[IPSF_DROP_COUNT])
{
	const struct tpacket3_hdr *frame = p->rx.next;
	const uint8_t *bytes = (const uint8_t *)frame + frame->tp_mac;
	uint8_t *data = buffer->bytes + IPSF_HEADROOM - IPSF_ETHERNET_HEADER; /* so the IP header is aligned */
	struct virtio_net_hdr header;
	memcpy(&header, bytes - sizeof header, sizeof header);
	struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, data, frame->tp_snaplen);
	if (frame->tp_snaplen < frame->tp_len || frame->tp_snaplen > p->port.receive_size) {
		packet->drop = IPSF_DROP_TRUNCATED;
	} else {
		memcpy(data, bytes, frame->tp_snaplen);
		if (p->port.carriers ? take_outer(p, batch, packet, &header) : take_inner(packet, &header))
			return;
	}
	drops[packet->drop]++;
	ipsf_buffer_release(buffer);
	batch->n--;
}

int ipsf_packet_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_port_packet *p = (struct ipsf_port_packet *)port;
	struct ipsf_packet_rx *rx = &p->rx;
	struct ipsf_buffer *buffer;
	rx->paths = 0;
	if (rx->rest.buffer)
		cut_rest(rx, batch);
	while (batch->n < IPSF_BATCH_MAX && open_block(p, drops)) {
		if (rx->left) {
			if (!(buffer = ipsf_pool_take(batch->pool)))
				break;
			take_frame(p, batch, buffer, drops);
		}
		step(rx);
	}
	return (int)batch->n;
}

void ipsf_packet_drain(struct ipsf_port *port)
{
	struct ipsf_packet_rx *rx = &((struct ipsf_port_packet *)port)->rx;
	if (rx->rest.buffer)
		ipsf_buffer_release(rx->rest.buffer);
	rx->rest.buffer = NULL;
}
