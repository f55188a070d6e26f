/*
 * A source and a sink for benchmarks: recv() delivers given packets in turn, as many as were granted; send() counts and forgets.
 *
 * What it costs, honestly: a packet is copied from the given ones into a buffer of the worker's pool (sealing and opening overwrite
 * it), as a kernel would; there is no system call and no second thread. ipsf_port_generator_drive() does only that, to be timed.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "doorbell.h"
#include "port.h"

#define LENGTH_MAX 65535u

struct ipsf_port_generator {
	struct ipsf_port port;
	struct ipsf_doorbell bell; /* rung: there may be something */
	struct ipsf_packets packets;
	struct ipsf_path path;
	bool has_path;
	uint8_t carrier;
	_Atomic uint64_t granted __attribute__((aligned(IPSF_CACHE_LINE)));
	/* the receiving thread's */
	_Atomic uint64_t delivered __attribute__((aligned(IPSF_CACHE_LINE)));
	size_t next;
	/* the sending thread's */
	_Atomic uint64_t sent __attribute__((aligned(IPSF_CACHE_LINE)));
	_Atomic uint64_t sent_bytes;
};

static struct ipsf_port_generator *of(const struct ipsf_port *port)
{
	return (struct ipsf_port_generator *)(uintptr_t)port;
}

/* One writer: no locked instruction. */
static void add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

static bool deliver(struct ipsf_port_generator *g, struct ipsf_batch *batch)
{
	struct ipsf_buffer *buffer = ipsf_pool_take(batch->pool);
	if (!buffer)
		return false;
	const uint32_t length = g->packets.lengths[g->next];
	uint8_t *data = buffer->bytes + IPSF_HEADROOM;
	memcpy(data, g->packets.data + g->packets.offsets[g->next], length);
	struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, data, length);
	packet->path = g->has_path ? &g->path : NULL;
	packet->carrier = g->carrier;
	if (++g->next == g->packets.count)
		g->next = 0;
	return true;
}

static void fill(struct ipsf_port_generator *g, struct ipsf_batch *batch)
{
	const uint64_t left = atomic_load(&g->granted) - atomic_load_explicit(&g->delivered, memory_order_relaxed);
	const uint32_t most = left < IPSF_BATCH_MAX ? (uint32_t)left : IPSF_BATCH_MAX;
	while (batch->n < most && deliver(g, batch))
		continue;
	add(&g->delivered, batch->n);
}

static int generator_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_port_generator *g = of(port);
	(void)drops;
	fill(g, batch);
	if (batch->n == 0) {
		ipsf_doorbell_silence(&g->bell);
		fill(g, batch); /* what was granted before it was silent */
	}
	return (int)batch->n;
}

static void generator_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	struct ipsf_port_generator *g = of(port);
	uint64_t bytes = 0;
	for (unsigned i = 0; i < n; i++)
		bytes += packets[i]->length;
	add(&g->sent, n);
	add(&g->sent_bytes, bytes);
}

static void generator_free(struct ipsf_port *port)
{
	struct ipsf_port_generator *g = of(port);
	ipsf_doorbell_fini(&g->bell);
	free(g->packets.data);
	free(g->packets.offsets);
	free(g->packets.lengths);
	free(g);
}

static const struct ipsf_port_ops generator_ops = {.recv = generator_recv, .send = generator_send, .free = generator_free};

static bool inside(const struct ipsf_packets *packets)
{
	for (size_t i = 0; i < packets->count; i++) {
		const uint32_t length = packets->lengths[i];
		if (length > LENGTH_MAX || packets->offsets[i] > packets->size || length > packets->size - packets->offsets[i])
			return false;
	}
	return true;
}

static void *copy(const void *from, size_t size)
{
	void *to = malloc(size ? size : 1);
	return to && size ? memcpy(to, from, size) : to;
}

static int copy_packets(struct ipsf_port_generator *g, const struct ipsf_packets *packets)
{
	g->packets = (struct ipsf_packets){.size = packets->size, .count = packets->count,
					   .data = copy(packets->data, packets->size),
					   .offsets = copy(packets->offsets, packets->count * sizeof *packets->offsets),
					   .lengths = copy(packets->lengths, packets->count * sizeof *packets->lengths)};
	g->port.receive_size = 1;
	for (size_t i = 0; i < packets->count; i++) {
		if (packets->lengths[i] > g->port.receive_size)
			g->port.receive_size = packets->lengths[i];
	}
	return g->packets.data && g->packets.offsets && g->packets.lengths ? IPSF_OK : IPSF_ENOMEM;
}

static void set_path(struct ipsf_port_generator *g, const struct ipsf_path *path)
{
	if (!path)
		return;
	const bool udp = path->local_port || path->remote_port;
	g->path = *path;
	g->has_path = true;
	g->carrier = (uint8_t)((udp ? IPSF_CARRIER_UDP4 : IPSF_CARRIER_RAW4) + (path->remote.version == 6));
}

int ipsf_port_generator_new(const struct ipsf_packets *packets, const struct ipsf_path *path, struct ipsf_port **port)
{
	static const struct ipsf_packets none;
	static _Atomic unsigned numbers;
	packets = packets ? packets : &none;
	if (!inside(packets))
		return IPSF_EINVAL;
	struct ipsf_port_generator *g = aligned_alloc(IPSF_CACHE_LINE, sizeof *g);
	if (!g)
		return IPSF_ENOMEM;
	memset(g, 0, sizeof *g);
	g->port = (struct ipsf_port){.ops = &generator_ops, .fd = -1, .carriers = (1u << IPSF_CARRIER_COUNT) - 1, .sends_clear = true};
	g->bell.fd = -1;
	set_path(g, path);
	int status = copy_packets(g, packets);
	status = status == IPSF_OK ? ipsf_doorbell_init(&g->bell) : status;
	if (status != IPSF_OK) {
		generator_free(&g->port);
		return status;
	}
	g->port.fd = g->bell.fd;
	snprintf(g->port.name, sizeof g->port.name, "generator%u", atomic_fetch_add(&numbers, 1));
	*port = &g->port;
	return IPSF_OK;
}

int ipsf_port_generator_grant(struct ipsf_port *port, uint64_t n)
{
	struct ipsf_port_generator *g = of(port);
	if (n && g->packets.count == 0)
		return IPSF_EINVAL;
	atomic_fetch_add(&g->granted, n);
	ipsf_doorbell_ring(&g->bell);
	return IPSF_OK;
}

void ipsf_port_generator_counts(const struct ipsf_port *port, struct ipsf_generator_counts *counts)
{
	const struct ipsf_port_generator *g = of(port);
	counts->granted = atomic_load(&g->granted);
	counts->delivered = atomic_load_explicit(&g->delivered, memory_order_relaxed);
	counts->sent = atomic_load_explicit(&g->sent, memory_order_relaxed);
	counts->sent_bytes = atomic_load_explicit(&g->sent_bytes, memory_order_relaxed);
}

int ipsf_port_generator_drive(struct ipsf_port *port)
{
	struct ipsf_pool *pool = NULL;
	uint64_t drops[IPSF_DROP_COUNT] = {0};
	struct ipsf_batch *batch = aligned_alloc(IPSF_CACHE_LINE, sizeof *batch);
	if (!batch || ipsf_pool_new(2 * IPSF_BATCH_MAX, port->receive_size + IPSF_HEADROOM + IPSF_TAILROOM, &pool) != IPSF_OK) {
		free(batch);
		return IPSF_ENOMEM;
	}
	ipsf_batch_init(batch, pool);
	while (port->ops->recv(port, batch, drops) > 0) {
		port->ops->send(port, batch->packet, batch->n);
		ipsf_batch_clear(batch);
	}
	ipsf_pool_free(pool);
	free(batch);
	return IPSF_OK;
}
