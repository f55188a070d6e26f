/*
 * A pair of ports over memory: what one end sends the other receives, with path and TOS. Inner or outer port, any
 * carrier.
 *
 * Each direction is a ring with one producer and one consumer. Copying in and out is the whole cost; the doorbell rings
 * only when the receiver had silenced it, that is, had found nothing.
 */
#include "port.h"

#include <stdio.h>
#include <stdlib.h>

#include "doorbell.h"
#include "gso.h"
#include "ring.h"

#define PACKET_MAX 65535u
#define BYTES_A_PACKET 2048u /* room in a ring; a ring of large packets is full before it holds its capacity */

struct record {
	struct ipsf_path path; /* as the receiver has it */
	uint32_t length;
	uint8_t tos;
};

struct lane {
	struct ipsf_ring *ring;
	size_t capacity; /* packets */
	struct ipsf_doorbell bell;
	_Atomic size_t put __attribute__((aligned(IPSF_CACHE_LINE)));
	_Atomic size_t got __attribute__((aligned(IPSF_CACHE_LINE)));
};

struct pair {
	struct lane toward[2]; /* [i]: what end i receives */
	_Atomic unsigned ends;
};

struct ipsf_port_memory {
	struct ipsf_port port;
	struct pair *pair;
	unsigned end;
	struct ipsf_path path[IPSF_BATCH_MAX]; /* of the packets of the last recv() */
};

static struct lane *lane_in(const struct ipsf_port_memory *m)
{
	return &m->pair->toward[m->end];
}

static struct lane *lane_out(const struct ipsf_port_memory *m)
{
	return &m->pair->toward[1 - m->end];
}

static bool lane_put(struct lane *lane, const struct record *record, const uint8_t *data)
{
	const size_t put = atomic_load_explicit(&lane->put, memory_order_relaxed);
	if (put - atomic_load_explicit(&lane->got, memory_order_acquire) >= lane->capacity)
		return false;
	if (!ipsf_ring_put(lane->ring, record, sizeof *record, data, record->length, 0))
		return false;
	atomic_store_explicit(&lane->put, put + 1, memory_order_relaxed);
	return true;
}

static void lane_take(struct lane *lane, const struct record *record, uint8_t *data)
{
	ipsf_ring_take(lane->ring, sizeof *record, data, record->length);
	atomic_store_explicit(&lane->got, atomic_load_explicit(&lane->got, memory_order_relaxed) + 1, memory_order_release);
}

static enum ipsf_carrier carrier_of(const struct ipsf_path *path)
{
	const bool udp = path->local_port || path->remote_port;
	return (enum ipsf_carrier)((udp ? IPSF_CARRIER_UDP4 : IPSF_CARRIER_RAW4) + (path->remote.version == 6));
}

/* The same path as the other end has it. */
static struct ipsf_path from_other_end(const struct ipsf_path *path)
{
	return (struct ipsf_path){.local = path->remote, .remote = path->local, .local_port = path->remote_port,
				  .remote_port = path->local_port};
}

/* Up to a batch out of the ring. */
static void drain_ring(struct ipsf_port_memory *m, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct record record;
	while (batch->n < IPSF_BATCH_MAX && ipsf_ring_peek(lane_in(m)->ring, &record, sizeof record)) {
		struct ipsf_buffer *buffer = ipsf_pool_take(batch->pool);
		if (!buffer)
			return;
		if (record.length > buffer->size - IPSF_HEADROOM - IPSF_TAILROOM) {
			ipsf_buffer_release(buffer);
			lane_take(lane_in(m), &record, NULL);
			drops[IPSF_DROP_TOO_LONG]++;
			continue;
		}
		uint8_t *data = buffer->bytes + IPSF_HEADROOM;
		lane_take(lane_in(m), &record, data);
		m->path[batch->n] = record.path;
		const struct ipsf_path *path = &m->path[batch->n];
		struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, data, record.length);
		packet->path = path;
		packet->tos = record.tos;
		packet->carrier = (uint8_t)carrier_of(path);
	}
}

static int memory_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_port_memory *m = (struct ipsf_port_memory *)port;
	drain_ring(m, batch, drops);
	if (batch->n == 0) {
		ipsf_doorbell_silence(&lane_in(m)->bell);
		drain_ring(m, batch, drops); /* what came before it was silent */
	}
	return (int)batch->n;
}

static void send_pieces(struct ipsf_port_memory *m, struct ipsf_packet *packet)
{
	struct ipsf_pieces pieces;
	const unsigned n = ipsf_pieces_begin(&pieces, packet);
	for (unsigned i = 0; i < n; i++) {
		struct record record = {.tos = packet->tos};
		const uint8_t *data = ipsf_piece(&pieces, i, &record.length);
		if (packet->path)
			record.path = from_other_end(packet->path);
		if (!lane_put(lane_out(m), &record, data))
			ipsf_packet_lose(packet, IPSF_DROP_PORT_FULL);
	}
}

static void memory_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_port_memory *m = (struct ipsf_port_memory *)port;
	for (unsigned i = 0; i < n; i++)
		send_pieces(m, packets[i]);
	ipsf_doorbell_ring(&lane_out(m)->bell);
}

static void pair_free(struct pair *pair)
{
	for (unsigned i = 0; i < 2; i++) {
		ipsf_doorbell_fini(&pair->toward[i].bell);
		ipsf_ring_free(pair->toward[i].ring);
	}
	free(pair);
}

static void memory_free(struct ipsf_port *port)
{
	struct ipsf_port_memory *m = (struct ipsf_port_memory *)port;
	if (atomic_fetch_sub(&m->pair->ends, 1) == 1)
		pair_free(m->pair);
	free(m);
}

static const struct ipsf_port_ops memory_ops = {.recv = memory_recv, .send = memory_send, .free = memory_free};

static size_t ring_bytes(size_t capacity)
{
	size_t bytes = 2 * (PACKET_MAX + 1);
	while (bytes < capacity * (BYTES_A_PACKET + sizeof(struct record)))
		bytes *= 2;
	return bytes;
}

static int lane_init(struct lane *lane, size_t capacity)
{
	lane->capacity = capacity;
	if (ipsf_ring_new(ring_bytes(capacity), &lane->ring) != IPSF_OK)
		return IPSF_ENOMEM;
	return ipsf_doorbell_init(&lane->bell);
}

static int pair_new(size_t capacity, struct pair **out)
{
	struct pair *pair = aligned_alloc(IPSF_CACHE_LINE, sizeof *pair);
	if (!pair)
		return IPSF_ENOMEM;
	memset(pair, 0, sizeof *pair);
	atomic_init(&pair->ends, 2);
	pair->toward[0].bell.fd = pair->toward[1].bell.fd = -1;
	for (unsigned i = 0; i < 2; i++) {
		const int status = lane_init(&pair->toward[i], capacity);
		if (status != IPSF_OK) {
			pair_free(pair);
			return status;
		}
	}
	*out = pair;
	return IPSF_OK;
}

static struct ipsf_port_memory *end_new(struct pair *pair, unsigned end)
{
	static _Atomic unsigned numbers;
	struct ipsf_port_memory *m = calloc(1, sizeof *m);
	if (!m)
		return NULL;
	m->pair = pair;
	m->end = end;
	m->port.ops = &memory_ops;
	m->port.fd = pair->toward[end].bell.fd;
	m->port.carriers = (1u << IPSF_CARRIER_COUNT) - 1;
	m->port.sends_clear = true;
	m->port.receive_size = PACKET_MAX;
	snprintf(m->port.name, sizeof m->port.name, "memory%u", atomic_fetch_add(&numbers, 1));
	return m;
}

int ipsf_port_memory_pair(size_t capacity, struct ipsf_port **a, struct ipsf_port **b)
{
	struct pair *pair;
	if (capacity == 0 || capacity > SIZE_MAX / 8192)
		return IPSF_EINVAL;
	const int status = pair_new(capacity, &pair);
	if (status != IPSF_OK)
		return status;
	struct ipsf_port_memory *first = end_new(pair, 0), *second = end_new(pair, 1);
	if (!first || !second) {
		free(first);
		free(second);
		pair_free(pair);
		return IPSF_ENOMEM;
	}
	*a = &first->port;
	*b = &second->port;
	return IPSF_OK;
}

int ipsf_port_memory_put(struct ipsf_port *port, const uint8_t *data, size_t length, const struct ipsf_path *path,
			 uint8_t tos)
{
	struct ipsf_port_memory *m = (struct ipsf_port_memory *)port;
	struct record record = {.length = (uint32_t)length, .tos = tos};
	if (length > PACKET_MAX)
		return IPSF_ENOSPC;
	if (path)
		record.path = *path;
	if (!lane_put(lane_in(m), &record, data))
		return IPSF_ENOSPC;
	ipsf_doorbell_ring(&lane_in(m)->bell);
	return IPSF_OK;
}

int ipsf_port_memory_get(struct ipsf_port *port, uint8_t *data, size_t size, struct ipsf_path *path, uint8_t *tos)
{
	struct ipsf_port_memory *m = (struct ipsf_port_memory *)port;
	struct record record;
	if (!ipsf_ring_peek(lane_out(m)->ring, &record, sizeof record))
		return 0;
	if (record.length > size)
		return IPSF_ENOSPC;
	lane_take(lane_out(m), &record, data);
	*path = from_other_end(&record.path);
	*tos = record.tos;
	return (int)record.length;
}
