#include "packet.h"

#include <stdlib.h>

/*
 * A stack of what is free, beside the buffers and not in them: a buffer that has waited long is in no cache, and taking it would wait
 * for its first line. So take touches no buffer; a free one has one user, as it will have when it is taken.
 * One worker writes it for every packet: on lines of its own.
 */
struct ipsf_pool {
	uint32_t available __attribute__((aligned(IPSF_CACHE_LINE)));
	uint32_t count, buffer_size;
	uint8_t *memory; /* its own; NULL: the caller's */
	struct ipsf_buffer *free[]; /* of count */
};

static size_t stride_of(uint32_t buffer_size)
{
	size_t stride = sizeof(struct ipsf_buffer) + buffer_size;

	return (stride + IPSF_CACHE_LINE - 1) & ~(size_t)(IPSF_CACHE_LINE - 1);
}

size_t ipsf_pool_bytes(uint32_t count, uint32_t buffer_size)
{
	return stride_of(buffer_size) * count;
}

static void fill(struct ipsf_pool *pool, uint8_t *memory)
{
	for (uint32_t i = pool->count; i-- > 0;) {
		struct ipsf_buffer *buffer = (struct ipsf_buffer *)(memory + stride_of(pool->buffer_size) * i);

		buffer->users = 1;
		buffer->size = pool->buffer_size;
		buffer->pool = pool;
		pool->free[pool->available++] = buffer;
	}
}

int ipsf_pool_over(void *memory, uint32_t count, uint32_t buffer_size, struct ipsf_pool **out)
{
	const size_t size = sizeof(struct ipsf_pool) + count * sizeof(struct ipsf_buffer *);
	struct ipsf_pool *pool = aligned_alloc(IPSF_CACHE_LINE, (size + IPSF_CACHE_LINE - 1) & ~(size_t)(IPSF_CACHE_LINE - 1));

	if (!pool)
		return IPSF_ENOMEM;
	*pool = (struct ipsf_pool){.count = count, .buffer_size = buffer_size};
	fill(pool, memory);
	*out = pool;
	return IPSF_OK;
}

int ipsf_pool_new(uint32_t count, uint32_t buffer_size, struct ipsf_pool **out)
{
	uint8_t *memory = aligned_alloc(IPSF_CACHE_LINE, ipsf_pool_bytes(count, buffer_size));
	int status = memory ? ipsf_pool_over(memory, count, buffer_size, out) : IPSF_ENOMEM;

	if (status == IPSF_OK)
		(*out)->memory = memory;
	else
		free(memory);
	return status;
}

void ipsf_pool_free(struct ipsf_pool *pool)
{
	if (!pool)
		return;
	free(pool->memory);
	free(pool);
}

uint32_t ipsf_pool_buffer_size(const struct ipsf_pool *pool)
{
	return pool->buffer_size;
}

uint32_t ipsf_pool_available(const struct ipsf_pool *pool)
{
	return pool->available;
}

struct ipsf_buffer *ipsf_pool_take(struct ipsf_pool *pool)
{
	return pool->available ? pool->free[--pool->available] : NULL;
}

void ipsf_buffer_release(struct ipsf_buffer *buffer)
{
	struct ipsf_pool *pool = buffer->pool;

	if (buffer->users > 1) {
		buffer->users--;
		return;
	}
	pool->free[pool->available++] = buffer;
}

void ipsf_batch_init(struct ipsf_batch *batch, struct ipsf_pool *pool)
{
	batch->n = 0;
	batch->pool = pool;
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++)
		batch->packet[i] = &batch->store[i];
}

struct ipsf_packet *ipsf_batch_add(struct ipsf_batch *batch, struct ipsf_buffer *buffer, uint8_t *data, uint32_t length)
{
	struct ipsf_packet *packet;
	uint32_t before;

	if (batch->n == IPSF_BATCH_MAX)
		return NULL;
	packet = batch->packet[batch->n++];
	memset(packet, 0, sizeof *packet);
	before = (uint32_t)(data - buffer->bytes);
	packet->data = data;
	packet->buffer = buffer;
	packet->length = length;
	packet->headroom = ipsf_room(before);
	packet->tailroom = ipsf_room(buffer->size - before - length);
	return packet;
}

/* The first packet that is marked; mostly there is none, and nothing to move. */
static unsigned first_dropped(const struct ipsf_batch *batch)
{
	unsigned i = 0;

	while (i < batch->n && IPSF_LIKELY(!batch->packet[i]->drop))
		i++;
	return i;
}

/* Some of a super-packet's datagrams did not leave: they are counted, the rest goes on as what was sent. */
static bool lost_in_part(struct ipsf_packet *packet, uint64_t drops[IPSF_DROP_COUNT])
{
	uint32_t bytes = packet->lost * (uint32_t)packet->segment_size;

	if (packet->lost == 0 || packet->lost >= packet->segments)
		return false;
	drops[packet->drop] += packet->lost;
	packet->length -= bytes < packet->length ? bytes : packet->length;
	packet->segments = (uint8_t)(packet->segments - packet->lost);
	packet->drop = packet->lost = 0;
	return true;
}

/* Pointers of dropped packets move behind the others: the batch keeps all of its descriptors. */
void ipsf_batch_sweep(struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	unsigned kept = first_dropped(batch);

	for (unsigned i = kept; i < batch->n; i++) {
		struct ipsf_packet *packet = batch->packet[i];

		if (packet->drop && !lost_in_part(packet, drops)) {
			drops[packet->drop] += ipsf_packet_count(packet);
			ipsf_buffer_release(packet->buffer);
			continue;
		}
		batch->packet[i] = batch->packet[kept];
		batch->packet[kept++] = packet;
	}
	batch->n = kept;
}

void ipsf_batch_clear(struct ipsf_batch *batch)
{
	for (unsigned i = 0; i < batch->n; i++)
		ipsf_buffer_release(batch->packet[i]->buffer);
	batch->n = 0;
}
