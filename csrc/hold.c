#include "hold.h"

#include <stdlib.h>

void ipsf_hold_init(struct ipsf_hold *hold)
{
	memset(hold, 0, sizeof *hold);
	hold->ready_last = &hold->ready;
}

/* Frees a queue and what is in it; how many packets that were. */
static uint32_t queue_free(struct ipsf_hold *hold, struct ipsf_hold_queue *queue)
{
	const uint32_t n = queue->n;
	for (struct ipsf_held *held = queue->first, *next; held; held = next) {
		next = held->next;
		hold->bytes -= held->length;
		free(held);
	}
	hold->packets -= n;
	free(queue);
	return n;
}

static void list_free(struct ipsf_hold *hold, struct ipsf_hold_queue *queue)
{
	while (queue) {
		struct ipsf_hold_queue *next = queue->next;
		queue_free(hold, queue);
		queue = next;
	}
}

void ipsf_hold_fini(struct ipsf_hold *hold)
{
	for (unsigned i = 0; i < IPSF_HOLD_BUCKETS; i++)
		list_free(hold, hold->bucket[i]);
	list_free(hold, hold->ready);
	ipsf_hold_init(hold);
}

static struct ipsf_hold_queue *find(const struct ipsf_hold *hold, uint32_t reqid)
{
	struct ipsf_hold_queue *queue = hold->bucket[ipsf_child_slot(reqid) % IPSF_HOLD_BUCKETS];
	while (queue && queue->reqid != reqid)
		queue = queue->next;
	return queue;
}

bool ipsf_hold_has(const struct ipsf_hold *hold, uint32_t reqid)
{
	return hold->queues && find(hold, reqid);
}

static struct ipsf_hold_queue *queue_new(struct ipsf_hold *hold, const struct ipsf_child *child)
{
	struct ipsf_hold_queue **bucket = &hold->bucket[ipsf_child_slot(child->reqid) % IPSF_HOLD_BUCKETS];
	struct ipsf_hold_queue *queue = calloc(1, sizeof *queue);
	if (!queue)
		return NULL;
	queue->reqid = child->reqid;
	queue->releases = atomic_load(&child->releases);
	queue->last = &queue->first;
	queue->next = *bucket;
	*bucket = queue;
	hold->queues++;
	return queue;
}

bool ipsf_hold_add(struct ipsf_hold *hold, const struct ipsf_child *child, const struct ipsf_packet *packet)
{
	struct ipsf_hold_queue *queue = find(hold, child->reqid);
	const unsigned n = ipsf_packet_count(packet);
	if ((queue && queue->n + n > IPSF_HOLD_PACKETS) || hold->bytes + packet->length > IPSF_HOLD_BYTES)
		return false;
	struct ipsf_held *held = malloc(sizeof *held + packet->length);
	if (!held || (!queue && !(queue = queue_new(hold, child)))) {
		free(held);
		return false;
	}
	held->next = NULL;
	held->length = packet->length;
	held->segment_size = packet->segment_size;
	held->segments = packet->segments;
	memcpy(held->bytes, packet->data, packet->length);
	*queue->last = held;
	queue->last = &held->next;
	queue->n += n;
	hold->packets += n;
	hold->bytes += packet->length;
	return true;
}

static void make_ready(struct ipsf_hold *hold, struct ipsf_hold_queue *queue)
{
	queue->next = NULL;
	*hold->ready_last = queue;
	hold->ready_last = &queue->next;
}

void ipsf_hold_review(struct ipsf_hold *hold, const struct ipsf_children *children, unsigned worker,
		      uint64_t drops[IPSF_DROP_COUNT])
{
	for (unsigned i = 0; hold->queues && i < IPSF_HOLD_BUCKETS; i++) {
		struct ipsf_hold_queue **link = &hold->bucket[i], *queue;
		while ((queue = *link) != NULL) {
			const struct ipsf_child *child = ipsf_child_find(children, queue->reqid);
			const bool released = !child || atomic_load(&child->releases) != queue->releases;
			if (!released && !ipsf_child_sa(child, worker, 0)) {
				link = &queue->next;
				continue;
			}
			*link = queue->next;
			hold->queues--;
			if (released)
				drops[IPSF_DROP_HOLD_RELEASED] += queue_free(hold, queue);
			else
				make_ready(hold, queue);
		}
	}
}

/* The first of the ready packets, into the batch. */
static bool take_one(struct ipsf_hold *hold, struct ipsf_hold_queue *queue, struct ipsf_batch *batch)
{
	struct ipsf_held *held = queue->first;
	struct ipsf_buffer *buffer = ipsf_pool_take(batch->pool);
	if (!buffer)
		return false;
	memcpy(buffer->bytes + IPSF_HEADROOM, held->bytes, held->length);
	struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, buffer->bytes + IPSF_HEADROOM, held->length);
	packet->segment_size = held->segment_size;
	packet->segments = held->segments;
	queue->first = held->next;
	queue->n -= ipsf_packet_count(packet);
	hold->packets -= ipsf_packet_count(packet);
	hold->bytes -= held->length;
	free(held);
	return true;
}

unsigned ipsf_hold_take(struct ipsf_hold *hold, struct ipsf_batch *batch)
{
	while (hold->ready && batch->n < IPSF_BATCH_MAX) {
		struct ipsf_hold_queue *queue = hold->ready;
		if (queue->first && !take_one(hold, queue, batch))
			break;
		if (queue->first)
			continue;
		hold->ready = queue->next;
		if (!hold->ready)
			hold->ready_last = &hold->ready;
		free(queue);
	}
	return batch->n;
}
