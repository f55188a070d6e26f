/*
 * What the UDP port and the raw ESP port share: many datagrams a system call, addresses and TOS beside them.
 *
 * Receiving: recvmmsg into buffers of the worker's pool; a GRO datagram is cut by its stride, its segments share the
 * buffer.
 * What doesn't fit the batch waits here, with its buffers, for the next call.
 * Sending: neighbours of equal path, TOS, DF and size leave as one GSO datagram (UDP), all of them by few sendmmsg.
 * The receiving and the sending thread touch different halves of the struct.
 */
#ifndef IPSF_PORT_SOCKET_H
#define IPSF_PORT_SOCKET_H

#include <netinet/in.h>
#include <sys/socket.h>

#include "port.h"

#define IPSF_GSO_BYTES 65507 /* largest UDP payload over IPv4 */
#define IPSF_CONTROL_SIZE 192

union ipsf_sockaddr {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct ipsf_received {
	struct ipsf_path path;
	uint32_t length, stride; /* bytes; stride 0: one datagram */
	uint8_t tos;
};

struct ipsf_socket_rx {
	struct ipsf_pool *pool;        /* whose buffers are posted */
	unsigned n, next;              /* datagrams received, the one that is being cut */
	uint32_t offset;               /* how far */
	unsigned stale;                /* messages from the first on that must be made ready for the kernel */
	uint32_t overflow;             /* SO_RXQ_OVFL as last seen */
	struct ipsf_buffer *buffer[IPSF_BATCH_MAX];
	struct ipsf_received received[IPSF_BATCH_MAX];
	struct mmsghdr message[IPSF_BATCH_MAX];
	struct iovec vector[IPSF_BATCH_MAX];
	union ipsf_sockaddr address[IPSF_BATCH_MAX];
	uint8_t control[IPSF_BATCH_MAX][IPSF_CONTROL_SIZE] __attribute__((aligned(8)));
};

#define IPSF_TX_MESSAGES (IPSF_BATCH_MAX + 1) /* the last: for datagrams sent one by one after GSO was refused */
#define IPSF_TX_VECTORS (2 * IPSF_BATCH_MAX)  /* a packet each, and what a message leaves of one to the next */

/* A place in the packets that are sent: where a message begins. */
struct ipsf_socket_place {
	unsigned packet;               /* which */
	unsigned datagram;             /* which of its datagrams: only super-packets have more than one */
};

struct ipsf_socket_tx {
	int discover;                  /* IP_MTU_DISCOVER as last set, -1: not yet */
	bool segments;                 /* the kernel takes UDP_SEGMENT */
	unsigned patience;             /* how often this send() may still wait for room */
	struct ipsf_socket_place first[IPSF_TX_MESSAGES]; /* where a message begins */
	unsigned count[IPSF_TX_MESSAGES]; /* datagrams in it */
	struct mmsghdr message[IPSF_TX_MESSAGES];
	struct iovec vector[IPSF_TX_VECTORS];
	union ipsf_sockaddr address[IPSF_TX_MESSAGES];
	uint8_t control[IPSF_TX_MESSAGES][IPSF_CONTROL_SIZE] __attribute__((aligned(8)));
};

struct ipsf_port_socket {
	struct ipsf_port port;
	uint16_t port_number;          /* UDP, host order; 0: raw */
	uint8_t version;
	int clear_fd;                  /* raw: takes whole IP packets; -1: there is none */
	struct ipsf_socket_rx rx __attribute__((aligned(IPSF_CACHE_LINE)));
	struct ipsf_socket_tx tx __attribute__((aligned(IPSF_CACHE_LINE)));
};

/* A socket of that kind with all options that both need, in a port without name and ops. IPSF_ENOMEM, IPSF_ESYS
 * (errno). */
IPSF_MUST_CHECK int ipsf_port_socket_new(uint8_t version, int type, int protocol, uint32_t mark,
					 struct ipsf_port_socket **out);
void ipsf_port_socket_free(struct ipsf_port *port);
int ipsf_port_socket_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT]);
bool ipsf_port_socket_pending(const struct ipsf_port *port);
void ipsf_port_socket_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n);
void ipsf_port_socket_drain(struct ipsf_port *port);

/* setsockopt of an int; IPSF_ESYS. */
IPSF_MUST_CHECK int ipsf_socket_option(int fd, int level, int name, int value);
/* Attaches a filter (option: SO_ATTACH_...); IPSF_ESYS. */
struct ipsf_steer;
IPSF_MUST_CHECK int ipsf_socket_filter(int fd, int option, struct ipsf_steer *steer);
/* Which drop reason an errno of a send is. */
enum ipsf_drop ipsf_send_error(int error);

#endif
