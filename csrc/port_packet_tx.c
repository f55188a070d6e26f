#define _GNU_SOURCE
#include "port_packet.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

#include "gro.h"
#include "gso.h"
#include "port_socket.h"

#define SEND_BUFFER (16 << 20)  /* bytes */
#define SUPER_MAX 65000         /* bytes of datagrams in one super-packet: with its headers it is an IP packet still */
#define WAIT_MS 1               /* for room in a full device queue, at most WAITS times a send() */
#define WAITS 8

static_assert(IPSF_BATCH_MAX <= IPSF_PACKET_MESSAGES && 2 * IPSF_BATCH_MAX <= IPSF_PACKET_VECTORS, "a batch of runs fits");

/* ---- the socket ---- */

int ipsf_packet_tx_open(struct ipsf_port_packet *p, bool bypass)
{
	const struct sockaddr_ll address = {.sll_family = AF_PACKET, .sll_ifindex = (int)p->port.intake->interface_index};
	struct ipsf_packet_tx *tx = &p->tx;
	tx->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0); /* protocol 0: receives nothing */
	if (tx->fd < 0 || ipsf_socket_option(tx->fd, SOL_PACKET, PACKET_VNET_HDR, 1) != IPSF_OK ||
	    ipsf_socket_option(tx->fd, SOL_PACKET, PACKET_QDISC_BYPASS, bypass) != IPSF_OK)
		return IPSF_ESYS;
	if (ipsf_socket_option(tx->fd, SOL_SOCKET, SO_SNDBUFFORCE, SEND_BUFFER) != IPSF_OK &&
	    ipsf_socket_option(tx->fd, SOL_SOCKET, SO_SNDBUF, SEND_BUFFER) != IPSF_OK)
		return IPSF_ESYS;
	tx->segments = true;
	return bind(tx->fd, (const struct sockaddr *)&address, sizeof address) < 0 ? IPSF_ESYS : IPSF_OK;
}

void ipsf_packet_tx_close(struct ipsf_port_packet *p)
{
	if (p->tx.fd >= 0)
		close(p->tx.fd);
}

/* ---- places ---- */

static void forward(struct ipsf_packet *const *packets, struct ipsf_packet_place *at)
{
	if (++at->datagram == ipsf_packet_count(packets[at->packet]))
		*at = (struct ipsf_packet_place){at->packet + 1, 0};
}

static void lose(struct ipsf_packet *const *packets, struct ipsf_packet_place at, unsigned count, enum ipsf_drop reason)
{
	for (; count-- > 0; forward(packets, &at))
		ipsf_packet_lose(packets[at.packet], reason);
}

/* ---- messages ---- */

static void begin_message(struct ipsf_packet_tx *tx, unsigned m, struct iovec *vector, struct ipsf_packet_place at, unsigned frame_header)
{
	tx->head[m].vnet = (struct virtio_net_hdr){.gso_type = VIRTIO_NET_HDR_GSO_NONE};
	tx->first[m] = at;
	tx->count[m] = 0;
	vector[0] = (struct iovec){&tx->head[m], sizeof tx->head[m].vnet + frame_header};
	tx->message[m].msg_hdr = (struct msghdr){.msg_iov = vector, .msg_iovlen = 1};
}

static void add_vector(struct msghdr *message, uint8_t *data, uint32_t length)
{
	struct iovec *last = &message->msg_iov[message->msg_iovlen - 1];
	if ((uint8_t *)last->iov_base + last->iov_len == data)
		last->iov_len += length; /* datagrams of one super-packet stand wall to wall */
	else
		message->msg_iov[message->msg_iovlen++] = (struct iovec){data, length};
}

static bool same_path(const struct ipsf_path *a, const struct ipsf_path *b)
{
	return a == b || memcmp(a, b, sizeof *a) == 0;
}

/* Their headers differ in nothing that the kernel does not count on itself. */
static bool alike(const struct ipsf_packet *a, const struct ipsf_packet *b)
{
	return a == b || (a->tos == b->tos && a->carrier == b->carrier && !((a->flags ^ b->flags) & IPSF_PACKET_DF) &&
			  same_path(a->path, b->path));
}

/* The pseudo header's sum, as the kernel wants to find it in the field of a checksum that it completes. */
static void ask_for_checksum(struct ipsf_packet_head *head, uint32_t length, bool v6)
{
	uint8_t *ip = head->frame + IPSF_ETHERNET_HEADER, *udp = ip + (v6 ? IPSF_IPV6_HEADER : IPSF_IPV4_HEADER);
	const uint32_t sum = ipsf_checksum_add(v6 ? ip + 8 : ip + 12, v6 ? 32 : 8, IPSF_PROTO_UDP + IPSF_UDP_HEADER + length);
	ipsf_write16(udp + 6, (uint16_t)~ipsf_checksum_fold(sum));
	head->vnet.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	head->vnet.csum_start = (uint16_t)(udp - head->frame);
	head->vnet.csum_offset = 6;
}

/* The headers of message m: of one datagram, or of several of which the kernel makes as many. */
static void write_outer(struct ipsf_port_packet *p, unsigned m, const struct ipsf_hop *hop, const struct ipsf_packet *first,
			uint32_t stride, uint32_t total)
{
	struct ipsf_packet_tx *tx = &p->tx;
	struct ipsf_packet_head *head = &tx->head[m];
	const struct iovec *vector = tx->message[m].msg_hdr.msg_iov;
	const bool one = tx->count[m] == 1;
	ipsf_link_write_outer(head->frame, hop, first, p->udp_port, tx->id, one ? vector[1].iov_base : NULL, total);
	tx->id = (uint16_t)(tx->id + tx->count[m]);
	if (one)
		return;
	ask_for_checksum(head, total, first->path->remote.version == 6);
	head->vnet.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
	head->vnet.gso_size = (uint16_t)stride;
	head->vnet.hdr_len = (uint16_t)ipsf_link_header_size(first->carrier);
}

/* ESP datagrams from *at on, which moves behind them: many in one frame that the kernel cuts (UDP), or one. room: vectors. */
static void fill_outer(struct ipsf_port_packet *p, unsigned m, struct iovec *vector, unsigned room, const struct ipsf_hop *hop,
		       struct ipsf_packet *const *packets, unsigned n, struct ipsf_packet_place *at)
{
	struct ipsf_packet_tx *tx = &p->tx;
	struct msghdr *message = &tx->message[m].msg_hdr;
	const struct ipsf_packet *first = packets[at->packet];
	const unsigned most = tx->segments && ipsf_carrier_is_udp(first->carrier) ? IPSF_GSO_SEGMENTS : 1;
	uint32_t stride, length, total = 0;
	uint8_t *data = ipsf_packet_datagram(first, at->datagram, &stride);
	begin_message(tx, m, vector, *at, ipsf_link_header_size(first->carrier));
	for (length = stride; length <= stride && total + length <= SUPER_MAX;) {
		add_vector(message, data, length);
		total += length;
		tx->count[m]++;
		forward(packets, at);
		if (length < stride || tx->count[m] == most || message->msg_iovlen == room || at->packet == n ||
		    !alike(packets[at->packet], first))
			break;
		data = ipsf_packet_datagram(packets[at->packet], at->datagram, &length);
	}
	write_outer(p, m, hop, first, stride, total);
}

/* Decrypted packets of one flow that follow each other leave as one that the kernel cuts, or its receiver takes as it is. */
static void fill_inner(struct ipsf_packet_tx *tx, unsigned m, struct iovec *vector, const struct ipsf_hop *hop, const struct ipsf_gro *gro,
		       unsigned run_number, struct ipsf_packet *const *packets)
{
	const struct ipsf_gro_run *run = &gro->run[run_number];
	struct ipsf_packet *first = packets[run->first];
	struct virtio_net_hdr *vnet = &tx->head[m].vnet;
	begin_message(tx, m, vector, (struct ipsf_packet_place){run_number, 0}, IPSF_ETHERNET_HEADER);
	if (run->n > 1) {
		ipsf_gro_write_headers(run, packets);
		ipsf_vnet_describe(first, run->header, vnet);
		vnet->hdr_len = (uint16_t)(vnet->hdr_len + IPSF_ETHERNET_HEADER); /* it counts from the frame's start */
		vnet->csum_start = (uint16_t)(vnet->csum_start + IPSF_ETHERNET_HEADER);
	}
	ipsf_link_write_inner(tx->head[m].frame, hop, first);
	add_vector(&tx->message[m].msg_hdr, first->data, first->length);
	for (unsigned i = run->first; i != run->last;) {
		i = gro->next[i];
		add_vector(&tx->message[m].msg_hdr, packets[i]->data + run->header, packets[i]->length - run->header);
	}
}

static void lose_run(struct ipsf_packet *const *packets, const struct ipsf_gro *gro, unsigned run_number, enum ipsf_drop reason)
{
	const struct ipsf_gro_run *run = &gro->run[run_number];
	packets[run->last]->drop = (uint8_t)reason;
	for (unsigned i = run->first; i != run->last; i = gro->next[i])
		packets[i]->drop = (uint8_t)reason;
}

/* ---- sending ---- */

/* After EAGAIN and its like: waits a little for room. false: it was waited long enough. */
static bool retry(struct ipsf_packet_tx *tx, int error)
{
	struct pollfd room = {.fd = tx->fd, .events = POLLOUT};
	if (error == EINTR)
		return true;
	if (ipsf_send_error(error) != IPSF_DROP_PORT_FULL || tx->patience == 0)
		return false;
	tx->patience--;
	return poll(&room, 1, WAIT_MS) >= 0 || errno == EINTR;
}

/*
 * Message m was refused. A kernel that does not know super-packets of UDP (before Linux 6.2) says EINVAL: from now on each datagram
 * leaves alone; those at hand are lost, and counted.
 */
static void refused(struct ipsf_packet_tx *tx, struct ipsf_packet *const *packets, const struct ipsf_gro *gro, unsigned m, int error)
{
	if (error == EINVAL && tx->head[m].vnet.gso_type == VIRTIO_NET_HDR_GSO_UDP_L4)
		tx->segments = false;
	if (gro)
		lose_run(packets, gro, tx->first[m].packet, ipsf_send_error(error));
	else
		lose(packets, tx->first[m], tx->count[m], ipsf_send_error(error));
}

/* gro: of the inner side, whose messages are runs; else NULL. */
static void send_messages(struct ipsf_packet_tx *tx, struct ipsf_packet *const *packets, const struct ipsf_gro *gro, unsigned n)
{
	for (unsigned m = 0; m < n;) {
		const int sent = sendmmsg(tx->fd, tx->message + m, n - m, MSG_DONTWAIT);
		if (sent > 0)
			m += (unsigned)sent;
		else if (!retry(tx, errno))
			refused(tx, packets, gro, m++, errno);
	}
}

/* As many messages as there is room for; *at moves behind what they hold. Their number. */
static unsigned fill_messages(struct ipsf_port_packet *p, struct ipsf_packet *const *packets, unsigned n, struct ipsf_packet_place *at)
{
	struct ipsf_packet_tx *tx = &p->tx;
	const struct ipsf_hops *table = atomic_load(&p->port.hops);
	unsigned messages = 0, used = 0;
	while (messages < IPSF_PACKET_MESSAGES && used + 2 <= IPSF_PACKET_VECTORS && at->packet < n) {
		struct ipsf_packet *packet = packets[at->packet];
		const struct ipsf_hop *hop = ipsf_link_outer_hop(table, packet);
		if (!hop) { /* it was there when the worker asked */
			lose(packets, *at, ipsf_packet_count(packet) - at->datagram, IPSF_DROP_NO_NEXT_HOP);
			*at = (struct ipsf_packet_place){at->packet + 1, 0};
			continue;
		}
		fill_outer(p, messages, tx->vector + used, IPSF_PACKET_VECTORS - used, hop, packets, n, at);
		used += (unsigned)tx->message[messages++].msg_hdr.msg_iovlen;
	}
	return messages;
}

static void send_outer(struct ipsf_port_packet *p, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_packet_place at = {0, 0};
	while (at.packet < n) {
		const unsigned messages = fill_messages(p, packets, n, &at);
		send_messages(&p->tx, packets, NULL, messages);
	}
}

/* A batch at most: no more messages than packets, no more vectors than two a packet. */
static void send_inner(struct ipsf_port_packet *p, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_packet_tx *tx = &p->tx;
	const struct ipsf_hops *table = atomic_load(&p->port.hops);
	struct ipsf_gro gro;
	unsigned messages = 0, used = 0;
	ipsf_gro_sort(&gro, packets, n, tx->segments);
	if (p->send_singly && gro.runs == n) {
		p->send_singly(&p->port, packets, n);
		return;
	}
	for (unsigned i = 0; i < gro.runs; i++) {
		const struct ipsf_hop *hop = ipsf_link_inner_hop(table, packets[gro.run[i].first]);
		if (!hop) {
			lose_run(packets, &gro, i, IPSF_DROP_NO_NEXT_HOP);
			continue;
		}
		fill_inner(tx, messages, tx->vector + used, hop, &gro, i, packets);
		used += (unsigned)tx->message[messages++].msg_hdr.msg_iovlen;
	}
	send_messages(tx, packets, &gro, messages);
}

void ipsf_packet_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_port_packet *p = (struct ipsf_port_packet *)port;
	p->tx.patience = WAITS;
	if (port->carriers) {
		send_outer(p, packets, n);
		return;
	}
	for (unsigned done = 0, most; done < n; done += most) {
		most = n - done < IPSF_BATCH_MAX ? n - done : IPSF_BATCH_MAX;
		send_inner(p, packets + done, most);
	}
}
