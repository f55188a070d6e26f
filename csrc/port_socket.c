#define _GNU_SOURCE
#include "port_socket.h"

#include "gso.h"

#include <errno.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "steer.h"

#define SOCKET_BUFFER (8 << 20) /* bytes: a worker that waits for its core must not cost packets, nor a flood keep a ping waiting */
#define DATAGRAM_MAX 65535
#define WAIT_MS 5                /* for room in a full socket buffer, at most WAITS times a send() */
#define WAITS 4

/* ---- making and freeing ---- */

int ipsf_socket_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof value) < 0 ? IPSF_ESYS : IPSF_OK;
}

int ipsf_socket_filter(int fd, int option, struct ipsf_steer *steer)
{
	const struct sock_fprog program = {.len = steer->n, .filter = steer->code};
	return setsockopt(fd, SOL_SOCKET, option, &program, sizeof program) < 0 ? IPSF_ESYS : IPSF_OK;
}

/* Beyond net.core.[rw]mem_max where we may, else as far as it goes. */
static int set_buffers(int fd)
{
	if (ipsf_socket_option(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER) != IPSF_OK &&
	    ipsf_socket_option(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER) != IPSF_OK)
		return IPSF_ESYS;
	if (ipsf_socket_option(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER) != IPSF_OK &&
	    ipsf_socket_option(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER) != IPSF_OK)
		return IPSF_ESYS;
	return IPSF_OK;
}

static int set_options(int fd, uint8_t version, int type, uint32_t mark)
{
	if (set_buffers(fd) != IPSF_OK || ipsf_socket_option(fd, SOL_SOCKET, SO_RXQ_OVFL, 1) != IPSF_OK)
		return IPSF_ESYS;
	if (mark && ipsf_socket_option(fd, SOL_SOCKET, SO_MARK, (int)mark) != IPSF_OK)
		return IPSF_ESYS;
	if (version == 4) {
		const int status = ipsf_socket_option(fd, IPPROTO_IP, IP_PKTINFO, 1);
		return status != IPSF_OK ? status : ipsf_socket_option(fd, IPPROTO_IP, IP_RECVTOS, 1);
	}
	if (type == SOCK_DGRAM && ipsf_socket_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) != IPSF_OK) /* raw ones are anyway */
		return IPSF_ESYS;
	const int status = ipsf_socket_option(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
	return status != IPSF_OK ? status : ipsf_socket_option(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
}

int ipsf_port_socket_new(uint8_t version, int type, int protocol, uint32_t mark, struct ipsf_port_socket **out)
{
	struct ipsf_port_socket *s = aligned_alloc(IPSF_CACHE_LINE, sizeof *s);
	if (!s)
		return IPSF_ENOMEM;
	memset(s, 0, sizeof *s);
	s->version = version;
	s->clear_fd = -1;
	s->tx.discover = -1;
	s->rx.stale = IPSF_BATCH_MAX;
	s->port.receive_size = DATAGRAM_MAX;
	s->port.fd = socket(version == 4 ? AF_INET : AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, protocol);
	if (s->port.fd < 0 || set_options(s->port.fd, version, type, mark) != IPSF_OK) {
		ipsf_port_socket_free(&s->port);
		return IPSF_ESYS;
	}
	*out = s;
	return IPSF_OK;
}

void ipsf_port_socket_free(struct ipsf_port *port)
{
	struct ipsf_port_socket *s = (struct ipsf_port_socket *)port;
	const int error = errno; /* of what went wrong before */
	if (port->fd >= 0)
		close(port->fd);
	if (s->clear_fd >= 0)
		close(s->clear_fd);
	free(s);
	errno = error;
}

/* ---- receiving ---- */

static void address_from(const union ipsf_sockaddr *from, struct ipsf_addr *address, uint16_t *port_number)
{
	if (from->any.sa_family == AF_INET) {
		address->version = 4;
		memcpy(address->bytes, &from->v4.sin_addr, 4);
		*port_number = ntohs(from->v4.sin_port);
	} else {
		address->version = 6;
		memcpy(address->bytes, &from->v6.sin6_addr, 16);
		*port_number = ntohs(from->v6.sin6_port);
	}
}

static int control_int(const struct cmsghdr *c)
{
	int value = *CMSG_DATA(c); /* IP_TOS comes as one byte */
	if (c->cmsg_len >= CMSG_LEN(sizeof value))
		memcpy(&value, CMSG_DATA(c), sizeof value);
	return value;
}

static bool control_is(const struct cmsghdr *c, int level, int type)
{
	return c->cmsg_level == level && c->cmsg_type == type;
}

/* Local address, TOS, stride and lost datagrams (a lost GRO datagram counts once), as far as the kernel says. */
static void read_control(struct ipsf_socket_rx *rx, struct msghdr *header, struct ipsf_received *received,
			 uint64_t drops[IPSF_DROP_COUNT])
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
		if (control_is(c, IPPROTO_IP, IP_PKTINFO)) {
			memcpy(received->path.local.bytes, CMSG_DATA(c) + offsetof(struct in_pktinfo, ipi_addr), 4);
		} else if (control_is(c, IPPROTO_IPV6, IPV6_PKTINFO)) {
			memcpy(received->path.local.bytes, CMSG_DATA(c) + offsetof(struct in6_pktinfo, ipi6_addr), 16);
		} else if (control_is(c, IPPROTO_IP, IP_TOS) || control_is(c, IPPROTO_IPV6, IPV6_TCLASS)) {
			received->tos = (uint8_t)control_int(c);
		} else if (control_is(c, IPPROTO_UDP, UDP_GRO)) {
			received->stride = (uint32_t)control_int(c);
		} else if (control_is(c, SOL_SOCKET, SO_RXQ_OVFL)) {
			const uint32_t lost = (uint32_t)control_int(c);
			drops[IPSF_DROP_RX_OVERFLOW] += lost - rx->overflow;
			rx->overflow = lost;
		}
	}
}

/* Makes the messages that the kernel filled last time ready again; how many are ready, from the first on. */
static unsigned post_buffers(struct ipsf_socket_rx *rx)
{
	for (unsigned i = 0; i < rx->stale; i++) {
		if (!rx->buffer[i] && !(rx->buffer[i] = ipsf_pool_take(rx->pool)))
			return i;
		struct ipsf_buffer *buffer = rx->buffer[i];
		rx->vector[i] = (struct iovec){buffer->bytes + IPSF_HEADROOM, buffer->size - IPSF_HEADROOM - IPSF_TAILROOM};
		rx->message[i].msg_hdr = (struct msghdr){
			.msg_name = &rx->address[i], .msg_namelen = sizeof rx->address[i], .msg_iov = &rx->vector[i], .msg_iovlen = 1,
			.msg_control = rx->control[i], .msg_controllen = IPSF_CONTROL_SIZE};
	}
	rx->stale = 0;
	return IPSF_BATCH_MAX;
}

/* Errors that a later receive will not see: reports of earlier sends, an interface that comes and goes. */
static bool passing(int error)
{
	switch (error) {
	case EAGAIN: case EINTR: case ENOBUFS: case ENOMEM:
	case ECONNREFUSED: case ENETDOWN: case ENETUNREACH: case EHOSTUNREACH: case EHOSTDOWN: case EMSGSIZE: case EPROTO:
		return true;
	default:
		return false;
	}
}

static int fetch(struct ipsf_port_socket *s, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_socket_rx *rx = &s->rx;
	rx->n = rx->next = 0;
	const unsigned posted = post_buffers(rx);
	if (posted == 0)
		return IPSF_OK;
	const int n = recvmmsg(s->port.fd, rx->message, posted, MSG_DONTWAIT, NULL);
	if (n < 0)
		return passing(errno) ? IPSF_OK : IPSF_ESYS;
	for (int i = 0; i < n; i++) {
		struct ipsf_received *received = &rx->received[i];
		*received = (struct ipsf_received){.length = rx->message[i].msg_len};
		address_from(&rx->address[i], &received->path.remote, &received->path.remote_port);
		received->path.local.version = s->version;
		received->path.local_port = s->port_number;
		if (s->port_number == 0)
			received->path.remote_port = 0;
		read_control(rx, &rx->message[i].msg_hdr, received, drops);
	}
	rx->n = (unsigned)n;
	rx->stale = rx->n > rx->stale ? rx->n : rx->stale;
	rx->offset = 0;
	return IPSF_OK;
}

/* The buffer of the datagram at rx->next goes to the packets that were cut from it. */
static void next_datagram(struct ipsf_socket_rx *rx)
{
	ipsf_buffer_release(rx->buffer[rx->next]);
	rx->buffer[rx->next] = NULL;
	rx->next++;
	rx->offset = 0;
}

/* A raw IPv4 socket delivers the IP header too. */
static uint32_t header_length(const struct ipsf_port_socket *s, const uint8_t *data, uint32_t length)
{
	if (s->port_number != 0 || s->version != 4 || length == 0)
		return 0;
	const uint32_t header = (data[0] & 15u) * 4;
	return header < length ? header : length;
}

/* One packet out of the datagram at rx->next; false when the batch is full. */
static bool cut(struct ipsf_port_socket *s, struct ipsf_batch *batch)
{
	struct ipsf_socket_rx *rx = &s->rx;
	struct ipsf_received *from = &rx->received[rx->next];
	struct ipsf_buffer *buffer = rx->buffer[rx->next];
	uint8_t *data = buffer->bytes + IPSF_HEADROOM + rx->offset;
	const uint32_t left = from->length - rx->offset;
	const uint32_t length = from->stride && from->stride < left ? from->stride : left;
	const uint32_t skip = header_length(s, data, length);
	struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, data + skip, length - skip);
	if (!packet)
		return false;
	buffer->users++;
	packet->path = &from->path;
	packet->tos = from->tos;
	packet->carrier = (uint8_t)((s->port_number ? IPSF_CARRIER_UDP4 : IPSF_CARRIER_RAW4) + (s->version == 6));
	if (rx->offset > 0)
		packet->headroom = 0; /* the segment before stands there */
	if (length < left)
		packet->tailroom = 0;
	rx->offset += length;
	return true;
}

/* The next GRO datagram would be split between this batch and the next: it goes there whole, so that it can be joined again. */
static bool splits(const struct ipsf_socket_rx *rx, const struct ipsf_batch *batch)
{
	const struct ipsf_received *next = &rx->received[rx->next];
	return rx->offset == 0 && batch->n > 0 && next->stride != 0 &&
	       batch->n + (next->length + next->stride - 1) / next->stride > IPSF_BATCH_MAX;
}

bool ipsf_port_socket_pending(const struct ipsf_port *port)
{
	const struct ipsf_socket_rx *rx = &((const struct ipsf_port_socket *)port)->rx;
	return rx->next < rx->n;
}

int ipsf_port_socket_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_port_socket *s = (struct ipsf_port_socket *)port;
	struct ipsf_socket_rx *rx = &s->rx;
	rx->pool = batch->pool;
	if (rx->next == rx->n && fetch(s, drops) != IPSF_OK)
		return IPSF_ESYS;
	while (rx->next < rx->n) {
		if (rx->message[rx->next].msg_hdr.msg_flags & MSG_TRUNC) {
			drops[IPSF_DROP_TRUNCATED]++;
			rx->next++; /* its buffer stays posted */
			continue;
		}
		if (splits(rx, batch) || !cut(s, batch))
			break;
		if (rx->offset >= rx->received[rx->next].length)
			next_datagram(rx);
	}
	return (int)batch->n;
}

void ipsf_port_socket_drain(struct ipsf_port *port)
{
	struct ipsf_socket_rx *rx = &((struct ipsf_port_socket *)port)->rx;
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) {
		if (rx->buffer[i])
			ipsf_buffer_release(rx->buffer[i]);
		rx->buffer[i] = NULL;
	}
	rx->stale = IPSF_BATCH_MAX;
	rx->n = rx->next = 0;
}

/* ---- sending ---- */

enum ipsf_drop ipsf_send_error(int error)
{
	switch (error) {
	case EMSGSIZE: return IPSF_DROP_MTU;
	case EAGAIN: case ENOBUFS: case ENOMEM: return IPSF_DROP_PORT_FULL;
	default: return IPSF_DROP_PORT_ERROR;
	}
}

static socklen_t address_to(const struct ipsf_port_socket *s, const struct ipsf_path *path, union ipsf_sockaddr *to)
{
	const uint16_t port_number = s->port_number ? path->remote_port : 0;
	if (s->version == 4) {
		to->v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port_number)};
		memcpy(&to->v4.sin_addr, path->remote.bytes, 4);
		return sizeof to->v4;
	}
	to->v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port_number)};
	memcpy(&to->v6.sin6_addr, path->remote.bytes, 16);
	return sizeof to->v6;
}

static void add_control(struct msghdr *header, int level, int type, const void *value, size_t size)
{
	struct cmsghdr *c = (struct cmsghdr *)(void *)((uint8_t *)header->msg_control + header->msg_controllen);
	c->cmsg_level = level;
	c->cmsg_type = type;
	c->cmsg_len = CMSG_LEN(size);
	memcpy(CMSG_DATA(c), value, size);
	header->msg_controllen += CMSG_SPACE(size);
}

/* Source address, TOS, and where several datagrams leave as one their size. */
static void write_control(const struct ipsf_port_socket *s, const struct ipsf_packet *packet, uint16_t segment_size,
			  struct msghdr *header)
{
	const int tos = packet->tos;
	if (s->version == 4) {
		struct in_pktinfo from = {0};
		memcpy(&from.ipi_spec_dst, packet->path->local.bytes, 4);
		add_control(header, IPPROTO_IP, IP_PKTINFO, &from, sizeof from);
		add_control(header, IPPROTO_IP, IP_TOS, &tos, sizeof tos);
	} else {
		struct in6_pktinfo from = {0};
		memcpy(&from.ipi6_addr, packet->path->local.bytes, 16);
		add_control(header, IPPROTO_IPV6, IPV6_PKTINFO, &from, sizeof from);
		add_control(header, IPPROTO_IPV6, IPV6_TCLASS, &tos, sizeof tos);
	}
	if (segment_size)
		add_control(header, IPPROTO_UDP, UDP_SEGMENT, &segment_size, sizeof segment_size);
}

static bool same_path(const struct ipsf_path *a, const struct ipsf_path *b)
{
	return a == b || memcmp(a, b, sizeof *a) == 0;
}

/* What one message may still hold: datagrams of stride bytes, of which only the last may be shorter. */
struct room {
	uint32_t stride, bytes;
	unsigned datagrams;
};

/*
 * How many datagrams of the packet, from number at on, may join; none: the message ends before them. One that is shorter than the
 * stride, as the last of a super-packet may be, takes what room there was.
 */
static unsigned join(struct room *room, const struct ipsf_packet *packet, unsigned at, uint32_t *bytes)
{
	const uint32_t step = packet->segments ? packet->segment_size : packet->length, offset = at * step;
	const uint32_t left = packet->length - offset, size = left < step ? left : step;
	unsigned n = size < room->stride ? 1 : ipsf_packet_count(packet) - at;
	if (size > room->stride || size > room->bytes || room->datagrams == 0)
		return 0;
	n = n > room->datagrams ? room->datagrams : n;
	n = n * step > room->bytes ? room->bytes / step : n;
	*bytes = n * step < left ? n * step : left;
	room->bytes -= *bytes;
	room->datagrams = *bytes < n * room->stride ? 0 : room->datagrams - n;
	return n;
}

/* May leave in one message as far as the kernel's arguments for it go. */
static bool alike(const struct ipsf_packet *a, const struct ipsf_packet *b)
{
	return a->tos == b->tos && !((a->flags ^ b->flags) & (IPSF_PACKET_DF | IPSF_PACKET_CLEAR)) && same_path(a->path, b->path);
}

/*
 * Message m takes datagrams from *at on, which moves behind them, as many as leave as one datagram that the kernel cuts: at least
 * one. vector: n of them are free; those used.
 */
static unsigned fill_message(struct ipsf_port_socket *s, unsigned m, struct iovec *vector, unsigned n,
			     struct ipsf_packet *const *packets, unsigned end, struct ipsf_socket_place *at)
{
	struct ipsf_socket_tx *tx = &s->tx;
	const struct ipsf_packet *first = packets[at->packet];
	struct room room = {.bytes = IPSF_GSO_BYTES, .datagrams = tx->segments ? IPSF_GSO_SEGMENTS : 1};
	unsigned used = 0;
	(void)ipsf_packet_datagram(first, at->datagram, &room.stride);
	room.bytes = room.stride > room.bytes ? room.stride : room.bytes; /* the first always leaves */
	tx->first[m] = *at;
	tx->count[m] = 0;
	while (used < n && at->packet < end && alike(packets[at->packet], first)) {
		const struct ipsf_packet *packet = packets[at->packet];
		uint32_t length, ignored;
		const unsigned joined = join(&room, packet, at->datagram, &length);
		if (joined == 0)
			break;
		vector[used++] = (struct iovec){ipsf_packet_datagram(packet, at->datagram, &ignored), length};
		tx->count[m] += joined;
		at->datagram += joined;
		if (at->datagram == ipsf_packet_count(packet))
			*at = (struct ipsf_socket_place){at->packet + 1, 0};
	}
	struct msghdr *header = &tx->message[m].msg_hdr;
	*header = (struct msghdr){.msg_name = &tx->address[m], .msg_iov = vector, .msg_iovlen = used, .msg_control = tx->control[m]};
	header->msg_namelen = address_to(s, first->path, &tx->address[m]);
	write_control(s, first, (uint16_t)(tx->count[m] > 1 ? room.stride : 0), header);
	return used;
}

static void set_discover(struct ipsf_port_socket *s, bool df)
{
	const int discover = df ? IP_PMTUDISC_PROBE : IP_PMTUDISC_DONT; /* the same numbers for IPv6 */
	if (s->tx.discover == discover)
		return;
	const int status = s->version == 4 ? ipsf_socket_option(s->port.fd, IPPROTO_IP, IP_MTU_DISCOVER, discover) :
					     ipsf_socket_option(s->port.fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, discover);
	s->tx.discover = status == IPSF_OK ? discover : -1;
}

/* After EAGAIN and its like: waits a little for room. false: it was waited long enough. */
static bool wait_for_room(struct ipsf_port_socket *s, int fd)
{
	struct pollfd room = {.fd = fd, .events = POLLOUT};
	if (s->tx.patience == 0)
		return false;
	s->tx.patience--;
	return poll(&room, 1, WAIT_MS) >= 0 || errno == EINTR;
}

static bool retry(struct ipsf_port_socket *s, int fd, int error)
{
	return error == EINTR || (ipsf_send_error(error) == IPSF_DROP_PORT_FULL && wait_for_room(s, fd));
}

/* The datagram at *at alone, which moves behind it. */
static void send_single(struct ipsf_port_socket *s, struct ipsf_packet *const *packets, struct ipsf_socket_place *at)
{
	const unsigned m = IPSF_TX_MESSAGES - 1;
	struct ipsf_packet *packet = packets[at->packet];
	const bool segments = s->tx.segments;
	struct iovec vector;
	s->tx.segments = false;
	fill_message(s, m, &vector, 1, packets, at->packet + 1, at);
	s->tx.segments = segments;
	while (sendmsg(s->port.fd, &s->tx.message[m].msg_hdr, MSG_DONTWAIT) < 0) {
		if (!retry(s, s->port.fd, errno)) {
			ipsf_packet_lose(packet, ipsf_send_error(errno));
			return;
		}
	}
}

/* Message m was refused: what it held goes one by one, or is marked. EIO: this socket's way out can't cut at all. */
static void refused(struct ipsf_port_socket *s, struct ipsf_packet *const *packets, unsigned m, int error)
{
	struct ipsf_socket_place at = s->tx.first[m];
	const unsigned count = s->tx.count[m];
	const bool singly = count > 1 && (error == EINVAL || error == EIO || error == EMSGSIZE);
	if (error == EIO)
		s->tx.segments = false;
	for (unsigned i = 0; i < count; i++) {
		if (singly) {
			send_single(s, packets, &at);
			continue;
		}
		ipsf_packet_lose(packets[at.packet], ipsf_send_error(error));
		if (++at.datagram == ipsf_packet_count(packets[at.packet]))
			at = (struct ipsf_socket_place){at.packet + 1, 0};
	}
}

static void send_messages(struct ipsf_port_socket *s, struct ipsf_packet *const *packets, unsigned n)
{
	for (unsigned m = 0; m < n;) {
		const int sent = sendmmsg(s->port.fd, s->tx.message + m, n - m, MSG_DONTWAIT);
		if (sent > 0)
			m += (unsigned)sent;
		else if (!retry(s, s->port.fd, errno))
			refused(s, packets, m++, errno);
	}
}

static bool send_clear_piece(struct ipsf_port_socket *s, const uint8_t *data, uint32_t length, const union ipsf_sockaddr *to,
			     socklen_t size)
{
	while (sendto(s->clear_fd, data, length, MSG_DONTWAIT, &to->any, size) < 0) {
		if (!retry(s, s->clear_fd, errno))
			return false;
	}
	return true;
}

/* BYPASS: the packet as it is, to the destination it names; a super-packet cut, for a raw socket can't. */
static void send_clear(struct ipsf_port_socket *s, struct ipsf_packet *packet)
{
	union ipsf_sockaddr to;
	struct ipsf_path path = {0};
	struct ipsf_pieces pieces;
	const unsigned n = ipsf_pieces_begin(&pieces, packet);
	memcpy(path.remote.bytes, packet->data + (s->version == 4 ? 16 : 24), s->version == 4 ? 4 : 16);
	const socklen_t size = address_to(s, &path, &to);
	for (unsigned i = 0; i < n; i++) {
		uint32_t length;
		const uint8_t *data = ipsf_piece(&pieces, i, &length);
		if (!send_clear_piece(s, data, length, &to, size))
			ipsf_packet_lose(packet, ipsf_send_error(errno));
	}
}

/* From *at on as many messages as share the first packet's DF and find room in the arrays; *at moves behind them. */
static void send_some(struct ipsf_port_socket *s, struct ipsf_packet *const *packets, unsigned n, struct ipsf_socket_place *at)
{
	const uint8_t kind = IPSF_PACKET_DF | IPSF_PACKET_CLEAR, df = packets[at->packet]->flags & IPSF_PACKET_DF;
	unsigned messages = 0, used = 0;
	while (messages < IPSF_TX_MESSAGES - 1 && used < IPSF_TX_VECTORS && at->packet < n &&
	       (packets[at->packet]->flags & kind) == df) {
		used += fill_message(s, messages++, s->tx.vector + used, IPSF_TX_VECTORS - used, packets, n, at);
	}
	set_discover(s, df);
	send_messages(s, packets, messages);
}

void ipsf_port_socket_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_port_socket *s = (struct ipsf_port_socket *)port;
	struct ipsf_socket_place at = {0, 0};
	s->tx.patience = WAITS;
	while (at.packet < n) {
		if (packets[at.packet]->flags & IPSF_PACKET_CLEAR)
			send_clear(s, packets[at.packet++]);
		else
			send_some(s, packets, n, &at);
	}
}
