/*
 * Which frames of an interface are ours to take, and which the kernel keeps: one description, from which come the XDP program of
 * AF_XDP ports, the socket filter of AF_PACKET ports, and the tc program that drops behind them what they took. Pure.
 *
 * Of all roles: unicast to the interface's own hardware address, no VLAN tag, IPv4 without options and with a right header checksum,
 * or IPv6 without extension headers; whole packets, whose lengths agree with the frame.
 * OUTER: ESP, and UDP to port 4500 with something that is neither IKE (the non-ESP marker, RFC 3948 s2.2) nor a keepalive, to an
 * address of ours.
 * INNER: a packet that a router forwards without having to say anything: TTL above 1, ordinary addresses, and a destination whose
 * longest prefix in the map is marked with a length not below the packet's (0: the kernel keeps them all).
 * Everything else goes on to the kernel: ARP, neighbour discovery, IKE, what must be fragmented or answered with an ICMP error, and
 * everything malformed, which the kernel drops and counts.
 */
#ifndef IPSF_CLASSIFY_H
#define IPSF_CLASSIFY_H

#include "bpf.h"

#define IPSF_CLASSIFY_UDP_PORT 4500 /* RFC 3948 */

enum ipsf_role { IPSF_ROLE_OUTER, IPSF_ROLE_INNER };

enum ipsf_hook {
	IPSF_HOOK_XDP,    /* takes to the socket of the queue; what no socket stands for passes */
	IPSF_HOOK_XDP_GENERIC, /* the same on socket buffers, without UDP: one of them may be a super-packet, and XDP is not told */
	IPSF_HOOK_TC,     /* drops what is ours: an AF_PACKET socket has had it */
	IPSF_HOOK_SOCKET, /* gives a packet socket what is ours */
	IPSF_HOOK_COUNT
};

/* The maps: device, one entry, and destinations. OUTER: a hash of addresses (the value says nothing); INNER: an LPM trie. */
struct ipsf_classify_device {
	uint8_t address[6], zero[2];
};

struct ipsf_classify_address {
	uint32_t version;      /* 4 or 6 */
	uint8_t address[16];   /* IPv4 in the first four, the others 0 */
};

struct ipsf_classify_prefix {
	uint32_t bits;         /* 32 (the version) + the prefix length */
	struct ipsf_classify_address address;
};

struct ipsf_classify {
	enum ipsf_role role;
	enum ipsf_hook hook;
	int device, destinations; /* maps */
	int sockets;              /* XDP: a map of sockets, one a queue */
	/*
	 * TC and SOCKET: a word for each CPU (a per-CPU array of one uint32_t), 1 while tc has not seen the packet that the socket filter
	 * took. A CPU is done with a packet at both before it begins another, so tc drops that one without looking at it again; what it
	 * finds 0 for it judges itself. -1: none, tc judges all.
	 */
	int given;
};

/* Emits the program. IPSF_EINVAL: it grew beyond what the assembler holds. */
IPSF_MUST_CHECK int ipsf_classify_emit(const struct ipsf_classify *what, struct ipsf_bpf_code *code);
/* Its program type and attach type. */
enum bpf_prog_type ipsf_classify_program_type(enum ipsf_hook hook);
unsigned ipsf_classify_attach_type(enum ipsf_hook hook);
/* The return value by which the program takes a frame. */
uint32_t ipsf_classify_taken(enum ipsf_hook hook);

#endif
