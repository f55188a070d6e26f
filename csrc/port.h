/*
 * A port is where packets come from and go to. One table of functions a kind; the worker's loop knows nothing else.
 *
 * Threads: recv() of a port belongs to one thread, send() to one thread, which may be another: what each side keeps stands apart.
 * Outer ports give and take bare ESP (and IKE): UDP and IP headers are the port's own business, the path travels beside.
 */
#ifndef IPSF_PORT_H
#define IPSF_PORT_H

#include <stdatomic.h>

#include "packet.h"

struct ipsf_hops;
struct ipsf_intake;
struct ipsf_port;

/* For gathers() below: what was taken from a port since it was last empty. */
struct ipsf_gathering {
	unsigned taken; /* packets */
	bool now;       /* of those there were many when it was empty again */
};

#define IPSF_GATHERS_FROM 8 /* packets, as many as came while the last ones were carried: then the next may gather */

static inline void ipsf_gathering_emptied(struct ipsf_gathering *gathering)
{
	gathering->now = gathering->taken >= IPSF_GATHERS_FROM;
	gathering->taken = 0;
}

struct ipsf_port_ops {
	/*
	 * Fills an empty batch with up to IPSF_BATCH_MAX packets without waiting: their number (0: nothing there), or IPSF_ESYS.
	 * GRO datagrams are cut by their stride here; what does not fit the batch comes with the next call (see pending).
	 * Packets lost before they could be read (kernel overflow, truncation, no buffer) are added to drops[].
	 */
	int (*recv)(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT]);
	/*
	 * Whether recv() left something behind that poll() does not know of, though its batch was not full. NULL: it never does.
	 * The receiving thread asks.
	 */
	bool (*pending)(const struct ipsf_port *port);
	/*
	 * Whether recv() had many packets one by one and left none: for a moment the worker looks elsewhere, so that some gather, each
	 * at a lower price. It need not be waited for. NULL: it never does. The receiving thread asks.
	 */
	bool (*gathers)(const struct ipsf_port *port);
	/* Sends n packets in order; marks packet->drop where one did not leave. Equal-sized neighbours may leave as one GSO datagram. */
	void (*send)(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n);
	/*
	 * Whether this port knows the way for the packet (a next hop's hardware address); the worker asks the ports in their order and
	 * sends by the first that says yes. NULL: it always does. No side effects, any packet that may be sent here.
	 */
	bool (*reaches)(const struct ipsf_port *port, const struct ipsf_packet *packet);
	/* Forgets what was received and not yet delivered; its buffers go back to the worker's pool, which ends. NULL: keeps nothing. */
	void (*drain)(struct ipsf_port *port);
	void (*free)(struct ipsf_port *port);
};

/* Every kind of port begins with this. fd is for poll(): readable when recv() has something. carriers: a set of 1 << ipsf_carrier,
 * 0 for an inner port. */
struct ipsf_port {
	const struct ipsf_port_ops *ops;
	int fd;
	unsigned carriers;
	bool sends_clear;            /* BYPASS packets may leave here as they are */
	uint32_t receive_size;       /* bytes a buffer must hold for one recv, headroom and tailroom apart */
	_Atomic(struct ipsf_hops *) hops; /* of a port that has `reaches`: what it knows (link.h), published like the SPD; else NULL */
	struct ipsf_intake *intake;  /* of a ring port: what it takes from the kernel (intake.h); else NULL */
	char name[32];
};

#endif
