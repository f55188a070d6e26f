/*
 * Packets on their way: the descriptor (one cache line), the batch, the pool of buffers.
 *
 * Ownership: a worker owns its pool, its batches and every packet in them from receive to send; nothing here is shared
 * between threads. A packet's bytes lie in a buffer of the pool, or of one that a port of this thread brought (a buffer knows its pool);
 * several packets may share one buffer (the segments of a GRO datagram), so buffers count their users.
 */
#ifndef IPSF_PACKET_H
#define IPSF_PACKET_H

#include "base.h"
#include "include/ipsecfast.h"

#define IPSF_BATCH_MAX 64
#define IPSF_HEADROOM 128  /* before received bytes: outer IP, UDP, ESP header and IV, and an Ethernet header */
#define IPSF_TAILROOM 64   /* behind them: padding, trailer, ICV */

struct ipsf_pool;

struct ipsf_buffer {
	struct ipsf_pool *pool;   /* where it goes back to: the worker's, or that of a port whose device reads and writes it */
	uint32_t users;
	uint32_t size;            /* bytes */
	uint8_t bytes[] __attribute__((aligned(IPSF_CACHE_LINE)));
};

/* Which port can carry a sealed packet: SA's encapsulation and the outer address family. */
enum ipsf_carrier { IPSF_CARRIER_UDP4, IPSF_CARRIER_UDP6, IPSF_CARRIER_RAW4, IPSF_CARRIER_RAW6, IPSF_CARRIER_COUNT };

enum ipsf_packet_flag {
	IPSF_PACKET_DF = 1u,             /* outbound: the outer header wants DF; parse: the inner one has it */
	IPSF_PACKET_FIRST_FRAGMENT = 2u,
	IPSF_PACKET_LATER_FRAGMENT = 4u, /* ports unknown */
	IPSF_PACKET_CLEAR = 8u,          /* BYPASS: leaves as it is */
	IPSF_PACKET_IKE = 16u,           /* inbound: an IKE message, marker removed */
	IPSF_PACKET_TRUNCATED = 32u,
};

struct ipsf_packet {
	uint8_t *data;
	struct ipsf_buffer *buffer;
	union {
		struct ipsf_sa_out *out;
		struct ipsf_sa_in *in;
		const void *any;
	} sa;
	uint64_t sequence;            /* host order, extended where the SA has ESN */
	const struct ipsf_path *path; /* received: whence, valid until the port's next recv; sealed: whither, the SA's */
	/* Three words of fields, read and written at once where every packet passes: stores are what it costs there. */
	union {
		struct {
			uint32_t length;             /* bytes at data */
			uint16_t headroom, tailroom; /* bytes free before and behind */
		};
		uint64_t extent;
	};
	union {
		struct {
			union {
				struct {
					uint16_t source_port, destination_port; /* host order; ICMP: type << 8 | code in both */
				};
				uint32_t ports; /* both at once, as they stand there */
			};
			uint16_t transport;    /* offset of the next layer's header, extension headers skipped */
			uint16_t segment_size; /* 0: one plain packet. A super-packet: inner, TCP or UDP payload bytes a segment;
						* sealed, bytes from one ESP datagram at data to the next (only the last may
						* be shorter) */
		};
		uint64_t layers;
	};
	union {
		struct {
			uint8_t version, protocol; /* of the inner packet */
			uint8_t tos;               /* outer DSCP and ECN: as received, as to be sent */
			uint8_t flags;             /* enum ipsf_packet_flag */
			uint8_t drop;              /* enum ipsf_drop; a stage marks, the sweep counts and recycles */
			uint8_t carrier;           /* enum ipsf_carrier */
			uint8_t segments;          /* of a super-packet; 0: one plain packet */
			uint8_t lost;              /* of those, how many did not leave while the others did: drop tells why. 0: all
						    * or none */
		};
		uint64_t marks;
	};
};
static_assert(sizeof(struct ipsf_packet) == IPSF_CACHE_LINE, "a descriptor is one cache line");

/* Where a field stands in its word, and a value there. */
#define IPSF_PACKET_SHIFT(field)                                                              \
	(8 * (__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? offsetof(struct ipsf_packet, field) % 8 : \
	      8 - offsetof(struct ipsf_packet, field) % 8 - sizeof(((struct ipsf_packet *)0)->field)))
#define IPSF_PACKET_FIELD(field, value) ((uint64_t)(value) << IPSF_PACKET_SHIFT(field))
#define IPSF_PACKET_PART(word, field) ((__typeof__(((struct ipsf_packet *)0)->field))((word) >> IPSF_PACKET_SHIFT(field)))

/* How many packets of the wire a descriptor stands for: what is counted. */
static inline unsigned ipsf_packet_count(const struct ipsf_packet *packet)
{
	return packet->segments ? packet->segments : 1;
}

/* Datagram i < ipsf_packet_count() of a sealed packet, super-packet or plain. */
static inline uint8_t *ipsf_packet_datagram(const struct ipsf_packet *packet, unsigned i, uint32_t *length)
{
	const uint32_t offset = i * (uint32_t)packet->segment_size, left = packet->length - offset;

	*length = packet->segment_size && packet->segment_size < left ? packet->segment_size : left;
	return packet->data + offset;
}

/* For ports: one datagram of the packet did not leave. */
static inline void ipsf_packet_lose(struct ipsf_packet *packet, enum ipsf_drop reason)
{
	packet->drop = (uint8_t)reason;
	packet->lost++;
}

static inline uint16_t ipsf_room(uint32_t bytes)
{
	return (uint16_t)(bytes < UINT16_MAX ? bytes : UINT16_MAX);
}

/* Cut bytes off the front or the back, no more than there are: they become room, as much of it as 16 bits can say. */
static inline void ipsf_packet_cut_front(struct ipsf_packet *packet, uint32_t bytes)
{
	packet->data += bytes;
	packet->length -= bytes;
	packet->headroom = ipsf_room(packet->headroom + bytes);
}

static inline void ipsf_packet_cut_back(struct ipsf_packet *packet, uint32_t bytes)
{
	packet->length -= bytes;
	packet->tailroom = ipsf_room(packet->tailroom + bytes);
}

struct ipsf_batch {
	uint32_t n;
	struct ipsf_packet *packet[IPSF_BATCH_MAX];
	struct ipsf_pool *pool;
	struct ipsf_packet store[IPSF_BATCH_MAX] __attribute__((aligned(IPSF_CACHE_LINE)));
};

/* A pool of count buffers of buffer_size bytes. IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_pool_new(uint32_t count, uint32_t buffer_size, struct ipsf_pool **pool);
/* The same over memory of the caller's (ipsf_pool_bytes() of it, aligned to a cache line), which must outlive the pool. */
IPSF_MUST_CHECK int ipsf_pool_over(void *memory, uint32_t count, uint32_t buffer_size, struct ipsf_pool **pool);
size_t ipsf_pool_bytes(uint32_t count, uint32_t buffer_size);
void ipsf_pool_free(struct ipsf_pool *pool);
uint32_t ipsf_pool_buffer_size(const struct ipsf_pool *pool);
uint32_t ipsf_pool_available(const struct ipsf_pool *pool);
/* A buffer with one user, or NULL. Never allocates. */
IPSF_MUST_CHECK struct ipsf_buffer *ipsf_pool_take(struct ipsf_pool *pool);
void ipsf_buffer_release(struct ipsf_buffer *buffer); /* one user less; the last returns it to its pool */

void ipsf_batch_init(struct ipsf_batch *batch, struct ipsf_pool *pool);
/* Appends a descriptor for length bytes at data inside buffer (takes over one user); NULL when the batch is full. */
struct ipsf_packet *ipsf_batch_add(struct ipsf_batch *batch, struct ipsf_buffer *buffer, uint8_t *data, uint32_t length);
/* Counts the marked packets into drops[], recycles them and closes the gaps; order is kept. A super-packet of which only a
 * part is lost stays, with what did leave. */
void ipsf_batch_sweep(struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT]);
/* What is counted of a batch: packets of the wire and their bytes. */
struct ipsf_volume {
	uint64_t packets, bytes;
};

/* Packets of the wire; segments is 0 where no packet has any. */
static inline uint64_t ipsf_batch_count(const struct ipsf_batch *batch, unsigned segments)
{
	uint64_t packets = batch->n;

	for (unsigned i = 0; i < batch->n && segments; i++)
		packets += ipsf_packet_count(batch->packet[i]) - 1;
	return packets;
}

static inline struct ipsf_volume ipsf_batch_volume(const struct ipsf_batch *batch)
{
	unsigned segments = 0;
	uint64_t bytes = 0;

	for (unsigned i = 0; i < batch->n; i++) {
		segments |= batch->packet[i]->segments;
		bytes += batch->packet[i]->length;
	}
	return (struct ipsf_volume){ipsf_batch_count(batch, segments), bytes};
}

/* Sweeps, and tells what is left: mostly all, and then one look at each packet tells both. */
static inline struct ipsf_volume ipsf_batch_settle(struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_volume volume = {batch->n, 0};
	unsigned unusual = 0;

	for (unsigned i = 0; i < batch->n; i++) {
		const struct ipsf_packet *packet = batch->packet[i];

		unusual |= packet->drop | packet->segments;
		volume.bytes += packet->length;
	}
	if (IPSF_LIKELY(!unusual))
		return volume;
	ipsf_batch_sweep(batch, drops);
	return ipsf_batch_volume(batch);
}

/* Recycles everything that is left: the batch was sent. */
void ipsf_batch_clear(struct ipsf_batch *batch);

#endif
