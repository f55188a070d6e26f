/* The pool hands out each buffer once and takes each back once; the sweep keeps the order and loses nothing. */
#include "check.h"
#include "packet.h"

#define BUFFERS 128
#define SIZE 2048

static void pool_is_bounded(void)
{
	struct ipsf_pool *pool;
	struct ipsf_buffer *taken[BUFFERS];

	CHECK(ipsf_pool_new(BUFFERS, SIZE, &pool) == IPSF_OK);
	CHECK(ipsf_pool_buffer_size(pool) == SIZE && ipsf_pool_available(pool) == BUFFERS);
	for (unsigned i = 0; i < BUFFERS; i++) {
		taken[i] = ipsf_pool_take(pool);
		CHECK(taken[i] && taken[i]->users == 1 && taken[i]->size == SIZE);
		CHECK((uintptr_t)taken[i]->bytes % IPSF_CACHE_LINE == 0);
		memset(taken[i]->bytes, (int)i, SIZE); /* ASan: all of it is there; below: nobody else's */
	}
	CHECK(!ipsf_pool_take(pool) && ipsf_pool_available(pool) == 0);
	for (unsigned i = 0; i < BUFFERS; i++) {
		CHECK(taken[i]->bytes[0] == i && taken[i]->bytes[SIZE - 1] == i);
		ipsf_buffer_release(taken[i]);
	}
	CHECK(ipsf_pool_available(pool) == BUFFERS);
	ipsf_pool_free(pool);
	ipsf_pool_free(NULL);
}

static void buffer_is_shared(void)
{
	struct ipsf_pool *pool;
	struct ipsf_buffer *buffer;

	CHECK(ipsf_pool_new(1, SIZE, &pool) == IPSF_OK);
	buffer = ipsf_pool_take(pool);
	buffer->users += 2;
	ipsf_buffer_release(buffer);
	ipsf_buffer_release(buffer);
	CHECK(!ipsf_pool_take(pool));
	ipsf_buffer_release(buffer);
	CHECK(ipsf_pool_take(pool) == buffer);
	ipsf_pool_free(pool);
}

static void fill(struct ipsf_batch *batch, struct ipsf_pool *pool)
{
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) {
		struct ipsf_buffer *buffer = ipsf_pool_take(pool);
		struct ipsf_packet *packet = ipsf_batch_add(batch, buffer, buffer->bytes + IPSF_HEADROOM, 100 + i);

		CHECK(packet && packet->headroom == IPSF_HEADROOM && packet->length == 100 + i && !packet->drop);
		CHECK(packet && packet->tailroom == SIZE - IPSF_HEADROOM - 100 - i && packet->buffer == buffer);
	}
}

/* 200 random patterns of drops, each against the list that remains. */
static void sweep_keeps_order(void)
{
	struct ipsf_pool *pool;
	static struct ipsf_batch batch;
	uint64_t seed = 1;

	CHECK(ipsf_pool_new(IPSF_BATCH_MAX, SIZE, &pool) == IPSF_OK);
	ipsf_batch_init(&batch, pool);
	for (unsigned round = 0; round < 200; round++) {
		uint64_t drops[IPSF_DROP_COUNT] = {0}, pattern = test_random(&seed);
		uint32_t expected[IPSF_BATCH_MAX];
		unsigned kept = 0;

		if (round < 2)
			pattern = round ? UINT64_MAX : 0;
		fill(&batch, pool);
		CHECK(!ipsf_batch_add(&batch, batch.packet[0]->buffer, batch.packet[0]->data, 1));
		for (unsigned i = 0; i < IPSF_BATCH_MAX; i++) {
			if (pattern >> i & 1)
				batch.packet[i]->drop = i % 2 ? IPSF_DROP_REPLAY : IPSF_DROP_MTU;
			else
				expected[kept++] = 100 + i;
		}
		ipsf_batch_sweep(&batch, drops);
		CHECK(batch.n == kept && ipsf_pool_available(pool) == IPSF_BATCH_MAX - kept);
		CHECK(drops[IPSF_DROP_REPLAY] + drops[IPSF_DROP_MTU] == IPSF_BATCH_MAX - kept && !drops[IPSF_DROP_NONE]);
		for (unsigned i = 0; i < kept; i++)
			CHECK(batch.packet[i]->length == expected[i]);
		ipsf_batch_clear(&batch);
		CHECK(batch.n == 0 && ipsf_pool_available(pool) == IPSF_BATCH_MAX);
	}
	ipsf_pool_free(pool);
}

/* A GRO buffer is larger than 16 bits of headroom can say. */
static void rooms_saturate(void)
{
	struct ipsf_pool *pool;
	static struct ipsf_batch batch;
	struct ipsf_buffer *buffer;
	struct ipsf_packet *packet;

	CHECK(ipsf_pool_new(1, 200000, &pool) == IPSF_OK);
	ipsf_batch_init(&batch, pool);
	buffer = ipsf_pool_take(pool);
	packet = ipsf_batch_add(&batch, buffer, buffer->bytes + 100000, 10);
	CHECK(packet->headroom == UINT16_MAX && packet->tailroom == UINT16_MAX);
	ipsf_batch_clear(&batch);
	ipsf_pool_free(pool);
}

static void texts_exist(void)
{
	for (unsigned i = 0; i < IPSF_DROP_COUNT; i++) {
		CHECK(ipsf_drop_text(i)[0] && ipsf_drop_help(i)[0]);
		for (unsigned j = 0; j < i; j++)
			CHECK(strcmp(ipsf_drop_text(i), ipsf_drop_text(j)));
	}
	for (unsigned i = 0; i < IPSF_EVENT_COUNT; i++)
		CHECK(ipsf_event_text(i)[0]);
	for (int error = IPSF_ENOSPC; error <= IPSF_OK; error++)
		CHECK(strcmp(ipsf_error_text(error), "unknown error"));
	CHECK(!strcmp(ipsf_drop_text(IPSF_DROP_COUNT), "unknown") && !strcmp(ipsf_event_text(IPSF_EVENT_COUNT), "unknown"));
	CHECK(!strcmp(ipsf_error_text(-100), "unknown error") && ipsf_drop_help(IPSF_DROP_COUNT)[0]);
}

/* A batch with buffers of two pools gives each its own. */
static void mixed(void)
{
	struct ipsf_pool *own, *brought;
	uint64_t drops[IPSF_DROP_COUNT] = {0};
	static struct ipsf_batch batch;
	void *memory = aligned_alloc(4096, 2 * 4096);
	const uint32_t size = 4096 - sizeof(struct ipsf_buffer);
	CHECK(memory && ipsf_pool_bytes(2, size) == 2 * 4096); /* as a device wants its frames */
	CHECK(ipsf_pool_new(2, SIZE, &own) == IPSF_OK && ipsf_pool_over(memory, 2, size, &brought) == IPSF_OK);
	ipsf_batch_init(&batch, own);
	for (unsigned i = 0; i < 4; i++) {
		struct ipsf_buffer *buffer = ipsf_pool_take(i % 2 ? own : brought);
		CHECK(buffer && (i % 2 || ((uint8_t *)buffer - (uint8_t *)memory) % 4096 == 0));
		CHECK(ipsf_batch_add(&batch, buffer, buffer->bytes, 10) != NULL);
	}
	CHECK(ipsf_pool_take(own) == NULL && ipsf_pool_take(brought) == NULL);
	batch.packet[0]->drop = batch.packet[1]->drop = IPSF_DROP_MALFORMED;
	ipsf_batch_sweep(&batch, drops);
	CHECK(ipsf_pool_available(own) == 1 && ipsf_pool_available(brought) == 1);
	ipsf_batch_clear(&batch);
	CHECK(ipsf_pool_available(own) == 2 && ipsf_pool_available(brought) == 2);
	ipsf_pool_free(own);
	ipsf_pool_free(brought);
	free(memory);
}

int main(void)
{
	mixed();
	pool_is_bounded();
	buffer_is_shared();
	sweep_keeps_order();
	rooms_saturate();
	texts_exist();
	return check_summary("test_packet");
}
