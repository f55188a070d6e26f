/*
 * An AF_XDP socket with its four rings, and the memory of frames ("umem") that several of them share.
 *
 * A frame is a buffer of a pool (packet.h): 2048 or 4096 bytes that begin with struct ipsf_buffer, so that what the kernel has received is
 * sealed where it stands and sent from there by another socket over the same memory. The memory has two pools: one for packets on
 * their way out (received by an inner port, sent by an outer one), one for those on their way in; so either may be another thread's.
 *
 *     | ipsf_buffer 64 | the kernel's headroom 256 | frame ... |
 */
#ifndef IPSF_XDP_SOCKET_H
#define IPSF_XDP_SOCKET_H

#include "packet.h"
#include "xdp_ring.h"

#define IPSF_XDP_CHUNK_MAX 4096u
#define IPSF_XDP_KERNEL_HEADROOM 256u /* XDP_PACKET_HEADROOM */
#define IPSF_XDP_ENTRIES 4096u        /* of each ring: some ten milliseconds in which the worker waits for its core */
#define IPSF_XDP_FRAMES (2 * IPSF_XDP_ENTRIES + 4 * IPSF_BATCH_MAX) /* of each pool: waiting to be filled, being sent, in hand */
/* Bytes of the longest frame that a chunk can receive, room for ESP's trailer behind it. */
#define IPSF_XDP_FRAME_MAX(chunk) ((chunk) - (uint32_t)sizeof(struct ipsf_buffer) - IPSF_XDP_KERNEL_HEADROOM - IPSF_TAILROOM)

struct ipsf_xdp_memory {
	uint8_t *area;
	size_t size;
	uint32_t chunk;            /* bytes of a frame's buffer */
	struct ipsf_pool *pool[2]; /* enum ipsf_direction */
	int fd;                    /* a socket that brought it to the kernel; -1: none has */
	unsigned users;
};

struct ipsf_xdp_socket {
	int fd;
	struct ipsf_xdp_memory *memory;
	bool zero_copy;
	struct ipsf_xdp_ring fill, receive;        /* the receiving thread's */
	struct ipsf_xdp_ring transmit, completion; /* the sending thread's */
};

/* With one user. chunk: 2048 or 4096. IPSF_ENOMEM, IPSF_ESYS. */
IPSF_MUST_CHECK int ipsf_xdp_memory_new(uint32_t chunk, struct ipsf_xdp_memory **memory);
void ipsf_xdp_memory_release(struct ipsf_xdp_memory *memory); /* one user less; NULL is allowed */

static inline bool ipsf_xdp_memory_has(const struct ipsf_xdp_memory *memory, const void *p)
{
	return (uintptr_t)p - (uintptr_t)memory->area < memory->size;
}

static inline struct ipsf_buffer *ipsf_xdp_buffer(const struct ipsf_xdp_memory *memory, uint64_t address)
{
	return (struct ipsf_buffer *)(void *)(memory->area + (address & ~(uint64_t)(memory->chunk - 1)));
}

/*
 * A socket bound to one queue over that memory, which must be fresh or in use by a socket already (then shared: IPSF_ESYS with
 * EOPNOTSUPP or EINVAL where the kernel can't). Zero-copy where the driver can.
 */
IPSF_MUST_CHECK int ipsf_xdp_socket_open(struct ipsf_xdp_socket *s, struct ipsf_xdp_memory *memory, unsigned interface_index,
					 uint32_t queue);
void ipsf_xdp_socket_close(struct ipsf_xdp_socket *s); /* errno is kept */

#endif
