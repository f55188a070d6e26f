/*
 * AF_PACKET ports: whole Ethernet frames of one interface. What the socket's filter (classify.h) takes is dropped for the kernel's
 * own stack by the same choice at tc ingress (tcx), behind the sockets' tap.
 *
 * Receiving: TPACKET_V3. The kernel fills blocks of a ring with frames, one behind the other, and gives a block away when it is full
 * or a millisecond old; frames are copied to the worker's buffers, so that a block goes back at once, whatever becomes of its packets.
 * Sending: sendmmsg on a socket of its own. (In a transmit ring a frame stays until its last user lets go, on a veth pair the
 * receiver's socket: a slow receiver would stop all others.) Either way a virtio header stands before the frame: checksums still to
 * be made and super-packets pass both ways.
 *
 * The receiving and the sending thread touch different halves of the struct.
 */
#ifndef IPSF_PORT_PACKET_H
#define IPSF_PORT_PACKET_H

#include <linux/if_packet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "intake.h"
#include "link.h"
#include "vnet.h"

#define IPSF_PACKET_MESSAGES 64
#define IPSF_PACKET_VECTORS (IPSF_PACKET_MESSAGES + 256) /* a header each, and datagrams */

/* A received UDP datagram of several (a super-packet of the outer side) that did not fit the batch wholly. */
struct ipsf_packet_rest {
	struct ipsf_buffer *buffer; /* NULL: there is none */
	uint8_t *data;
	uint32_t length, stride;
	struct ipsf_path path;
	uint8_t tos, carrier;
};

struct ipsf_packet_rx {
	uint8_t *ring;
	size_t ring_size;               /* bytes */
	unsigned block;                 /* which is read */
	uint32_t left;                  /* frames in it */
	const struct tpacket3_hdr *next;
	struct ipsf_packet_rest rest;
	unsigned paths;                 /* used */
	struct ipsf_path path[IPSF_BATCH_MAX];
};

/* What stands before a datagram or packet: the virtio header, then Ethernet and, on the outer side, IP and UDP. */
struct ipsf_packet_head {
	struct virtio_net_hdr vnet;
	uint8_t frame[IPSF_LINK_HEADER_MAX];
};
static_assert(offsetof(struct ipsf_packet_head, frame) == sizeof(struct virtio_net_hdr), "header and frame leave as one");

struct ipsf_packet_place {
	unsigned packet, datagram;
};

struct ipsf_packet_tx {
	int fd;
	bool segments;                  /* the kernel takes super-packets of UDP */
	uint16_t id;                    /* IPv4's, of the next datagram */
	unsigned patience;              /* how often this send() may still wait for room */
	struct ipsf_packet_place first[IPSF_PACKET_MESSAGES]; /* which datagrams are in a message */
	unsigned count[IPSF_PACKET_MESSAGES];
	struct mmsghdr message[IPSF_PACKET_MESSAGES];
	struct ipsf_packet_head head[IPSF_PACKET_MESSAGES];
	struct iovec vector[IPSF_PACKET_VECTORS];
};

struct ipsf_port_packet {
	struct ipsf_port port;
	uint16_t udp_port;              /* outer: of our UDP encapsulation socket */
	/* Inner: sends packets (at most a batch) of which no two can leave as one, if there is a cheaper way for these. NULL: there is none. */
	void (*send_singly)(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n);
	struct ipsf_packet_rx rx __attribute__((aligned(IPSF_CACHE_LINE)));
	struct ipsf_packet_tx tx __attribute__((aligned(IPSF_CACHE_LINE)));
};

/* The functions of the two halves, in port_packet_rx.c and port_packet_tx.c. */
int ipsf_packet_rx_open(struct ipsf_port_packet *p);
/* Frames of the interface go to one of n ports each: outer ones by SPI, inner ones by flow. */
int ipsf_packet_rx_spread(struct ipsf_port *const *ports, size_t n);
void ipsf_packet_rx_close(struct ipsf_port_packet *p);
int ipsf_packet_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT]);
void ipsf_packet_drain(struct ipsf_port *port);
int ipsf_packet_tx_open(struct ipsf_port_packet *p, bool bypass);
void ipsf_packet_tx_close(struct ipsf_port_packet *p);
void ipsf_packet_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n);

#endif
