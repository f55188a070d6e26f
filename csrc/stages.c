/*
 * What each stage of the two journeys costs: the pipeline's own functions over batches in memory, without ports.
 *
 * Plaintext lies in the buffers from the beginning; what seals is followed by what opens in place, so nothing has to be
 * copied in between. Filling descriptors is measured apart. Beside the worker the only file of C that reads a clock.
 */
#define _GNU_SOURCE
#include <stdlib.h>

#include "esp.h"
#include "ip.h"
#include "pipeline.h"
#include "stats.h"
#include "ticks.h"

#define FLOW_SETS_LOG2 11      /* as a worker has */
#define SPI_FIRST 0x1000u
#define NETWORK_FROM 0x0a000000u /* 10.0.0.0/8: the senders */
#define NETWORK_TO 0x20000000u   /* from 32.0.0.0 on: one /24 a policy */
#define POLICIES_MAX (1u << 20)
#define FLOWS_MAX (1u << 16)
#define SIZE_MAX_BYTES 65000u
#define EVENT_RING 4096u

struct frame {
	struct ipsf_buffer *buffer;
	uint32_t length;
};

struct ipsf_stage_bench {
	struct ipsf_stage_setup setup;
	struct ipsf_published published;
	struct ipsf_pipeline pipeline;
	struct ipsf_stats stats;
	struct ipsf_path path;          /* whence what is received comes */
	struct ipsf_pool *pool;
	struct ipsf_batch plain, sealed;
	struct frame *frames;
	size_t n_frames, next;          /* the next batch begins with this frame */
	struct ipsf_sa_out **out;       /* one a child */
	struct ipsf_keycache *keys;     /* of the SAs, as a worker has */
	struct ipsf_aead_key *key;
	const struct ipsf_aead_engine *engine;
	struct ipsf_aead_op ops[IPSF_BATCH_MAX];
	struct ipsf_replay *replay;
	uint64_t number;                /* the last given to replay, or as a nonce */
	uint64_t ticks[IPSF_STAGE_COUNT], dropped;
	int32_t sink;                   /* results that nobody needs, so that they are computed */
};

/* ---- making ---- */

static struct ipsf_addr address(uint32_t number)
{
	struct ipsf_addr a = {.version = 4};
	ipsf_write32(a.bytes, number);
	return a;
}

static struct ipsf_selector network(uint32_t first, uint32_t last)
{
	return (struct ipsf_selector){.first = address(first), .last = address(last), .port_last = UINT16_MAX};
}

static uint32_t policy_network(uint32_t policy)
{
	return NETWORK_TO + policy * 256;
}

/* Policies of all ages: flow f meets one that its SA's child has, anywhere in the list. */
static uint32_t policy_of_flow(const struct ipsf_stage_setup *setup, uint32_t flow)
{
	const uint32_t rows = setup->policies / setup->sas;
	return (uint32_t)((uint64_t)(flow + 1) * 2654435761u % rows) * setup->sas + flow % setup->sas;
}

static int make_spd(struct ipsf_stage_bench *b)
{
	struct ipsf_policy *policies = calloc(b->setup.policies, sizeof *policies);
	struct ipsf_spd *spd;
	if (!policies)
		return IPSF_ENOMEM;
	for (uint32_t i = 0; i < b->setup.policies; i++)
		policies[i] = (struct ipsf_policy){
			.source = network(NETWORK_FROM, NETWORK_FROM | 0xffffffu),
			.destination = network(policy_network(i), policy_network(i) + 255),
			.reqid = 1 + i % b->setup.sas,
			.action = IPSF_PROTECT,
		};
	const int status = ipsf_spd_compile(policies, b->setup.policies, &spd);
	free(policies);
	if (status == IPSF_OK)
		atomic_store(&b->published.spd, spd);
	return status;
}

static void write_packet(const struct ipsf_stage_setup *setup, uint32_t flow, uint8_t *ip, uint32_t size)
{
	memset(ip, 0, size);
	ip[0] = 0x45;
	ipsf_write16(ip + 2, (uint16_t)size);
	ip[6] = 0x40; /* DF */
	ip[8] = 64;
	ip[9] = IPSF_PROTO_UDP;
	ipsf_write32(ip + 12, NETWORK_FROM + 2 + flow);
	ipsf_write32(ip + 16, policy_network(policy_of_flow(setup, flow)) + 2);
	ipsf_write16(ip + 10, ipsf_checksum_fold(ipsf_checksum_add(ip, IPSF_IPV4_HEADER, 0)));
	ipsf_write16(ip + 20, (uint16_t)(1024 + flow % 50000));
	ipsf_write16(ip + 22, 6000);
	ipsf_write16(ip + 24, (uint16_t)(size - IPSF_IPV4_HEADER));
}

static int make_frames(struct ipsf_stage_bench *b)
{
	uint32_t largest = 0;
	b->n_frames = (b->setup.flows + b->setup.batch - 1) / b->setup.batch * b->setup.batch;
	for (size_t i = 0; i < b->setup.n_sizes; i++)
		largest = b->setup.sizes[i] > largest ? b->setup.sizes[i] : largest;
	b->frames = calloc(b->n_frames, sizeof *b->frames);
	if (!b->frames || ipsf_pool_new((uint32_t)b->n_frames, largest + IPSF_HEADROOM + IPSF_TAILROOM, &b->pool) != IPSF_OK)
		return IPSF_ENOMEM;
	for (size_t i = 0; i < b->n_frames; i++) {
		struct frame *frame = &b->frames[i];
		frame->length = b->setup.sizes[i % b->setup.n_sizes];
		frame->buffer = ipsf_pool_take(b->pool);
		if (!frame->buffer)
			return IPSF_ENOMEM;
		write_packet(&b->setup, (uint32_t)(i % b->setup.flows), frame->buffer->bytes + IPSF_HEADROOM, frame->length);
	}
	ipsf_batch_init(&b->plain, b->pool);
	ipsf_batch_init(&b->sealed, b->pool);
	for (unsigned i = 0; i < IPSF_BATCH_MAX; i++)
		memset(b->ops[i].nonce, 0xff, 4); /* no SA's salt */
	return IPSF_OK;
}

static int make_child(struct ipsf_stage_bench *b, struct ipsf_sa_params *params)
{
	struct ipsf_child *child;
	struct ipsf_sa_in *in;
	if (ipsf_child_new(params->reqid, &child) != IPSF_OK)
		return IPSF_ENOMEM;
	ipsf_children_insert(atomic_load(&b->published.children), child);
	int status = ipsf_sa_out_share(params, b->keys, &b->out[params->reqid - 1]);
	if (status != IPSF_OK)
		return status;
	atomic_store(&child->active, b->out[params->reqid - 1]);
	status = ipsf_sa_in_share(params, b->keys, &in);
	if (status != IPSF_OK)
		return status;
	status = ipsf_sad_insert(&b->published.sad, in);
	if (status != IPSF_OK)
		ipsf_sa_in_free(in);
	return status;
}

/* Both ends of every SA are here: what the outbound one seals the inbound one opens, which has the path turned round. */
static int make_children(struct ipsf_stage_bench *b)
{
	const struct ipsf_stage_setup *setup = &b->setup;
	const struct ipsf_selector from = network(NETWORK_FROM, NETWORK_FROM | 0xffffffu);
	const struct ipsf_selector to = network(NETWORK_TO, policy_network(setup->policies) - 1);
	struct ipsf_sa_params params = {.encryption = 20, .key_length = (uint8_t)(setup->key_length + 4), .udp_encap = 1,
					.esn = setup->esn, .copy_df = 1, .copy_ecn = 1, .replay_window = setup->replay_window,
					.path = b->path, .remote_ts = &from, .local_ts = &to, .n_local_ts = 1, .n_remote_ts = 1};
	struct ipsf_children *children;
	int status = ipsf_children_new(setup->sas, &children);
	if (status != IPSF_OK)
		return status;
	atomic_store(&b->published.children, children);
	b->out = calloc(setup->sas, sizeof(struct ipsf_sa_out *));
	status = b->out ? IPSF_OK : IPSF_ENOMEM;
	memcpy(params.key, setup->key, setup->key_length);
	for (uint32_t i = 0; i < setup->sas && status == IPSF_OK; i++) {
		params.spi = SPI_FIRST + i;
		params.reqid = 1 + i;
		ipsf_write32(params.key + setup->key_length, i); /* the salt: no nonce twice under the one key */
		status = make_child(b, &params);
	}
	ipsf_wipe(params.key, sizeof params.key);
	return status;
}

static bool valid(const struct ipsf_stage_setup *setup)
{
	for (size_t i = 0; i < setup->n_sizes; i++)
		if (setup->sizes[i] < IPSF_IPV4_HEADER + 8 || setup->sizes[i] > SIZE_MAX_BYTES)
			return false;
	return setup->n_sizes && setup->batch && setup->batch <= IPSF_BATCH_MAX && setup->flows && setup->flows <= FLOWS_MAX &&
	       setup->sas && setup->sas <= setup->policies && setup->policies <= POLICIES_MAX &&
	       setup->key_length <= sizeof setup->key;
}

static int make(struct ipsf_stage_bench *b)
{
	b->engine = ipsf_aead_find(b->setup.engine);
	b->path = (struct ipsf_path){.local = address(0xc0000202), .remote = address(0xc0000201), .local_port = 4500,
				     .remote_port = 4500};
	ipsf_sad_init(&b->published.sad);
	ipsf_hold_init(&b->pipeline.hold);
	b->pipeline.published = &b->published;
	if (!b->engine)
		return IPSF_ENOENT;
	int status = ipsf_aead_key_new(b->engine, b->setup.key, b->setup.key_length, &b->key);
	if (status == IPSF_OK)
		status = ipsf_keycache_new(b->engine, 1, &b->keys);
	if (status == IPSF_OK)
		status = ipsf_keycache_join(b->keys);
	if (status == IPSF_OK)
		status = ipsf_flow_cache_new(FLOW_SETS_LOG2, (uint64_t)(uintptr_t)b, &b->pipeline.flows);
	if (status == IPSF_OK)
		status = ipsf_ring_new(EVENT_RING, &b->pipeline.events);
	if (status == IPSF_OK)
		status = ipsf_replay_create(b->setup.replay_window, b->setup.esn, 0, &b->replay);
	if (status == IPSF_OK)
		status = make_spd(b);
	if (status == IPSF_OK)
		status = make_children(b);
	return status == IPSF_OK ? make_frames(b) : status;
}

int ipsf_stage_bench_new(const struct ipsf_stage_setup *setup, struct ipsf_stage_bench **out)
{
	struct ipsf_stage_bench *b;
	if (!valid(setup))
		return IPSF_EINVAL;
	b = aligned_alloc(IPSF_CACHE_LINE, (sizeof *b + IPSF_CACHE_LINE - 1) & ~(size_t)(IPSF_CACHE_LINE - 1));
	if (!b)
		return IPSF_ENOMEM;
	memset(b, 0, sizeof *b);
	b->setup = *setup;
	const int status = make(b);
	if (status != IPSF_OK) {
		ipsf_stage_bench_free(b);
		return status;
	}
	b->setup.sizes = NULL; /* the caller's; no longer needed */
	*out = b;
	return IPSF_OK;
}

void ipsf_stage_bench_free(struct ipsf_stage_bench *b)
{
	if (!b)
		return;
	struct ipsf_children *children = atomic_load(&b->published.children);
	for (uint32_t i = 0; children && i <= children->mask; i++)
		free(atomic_load(&children->slot[i]));
	for (uint32_t i = 0; b->out && i < b->setup.sas; i++)
		ipsf_sa_out_free(b->out[i]);
	free(b->out);
	free(children);
	ipsf_sad_fini(&b->published.sad);
	ipsf_keycache_free(b->keys);
	ipsf_spd_free(atomic_load(&b->published.spd));
	ipsf_replay_free(b->replay);
	ipsf_ring_free(b->pipeline.events);
	ipsf_flow_cache_free(b->pipeline.flows);
	if (b->key)
		ipsf_aead_key_free(b->engine, b->key);
	ipsf_hold_fini(&b->pipeline.hold);
	ipsf_pool_free(b->pool);
	free(b->frames);
	ipsf_wipe(b, sizeof *b);
	free(b);
}

/* ---- batches ---- */

/* As a port fills one. The frames stay users of their buffers. */
static void fill(struct ipsf_stage_bench *b)
{
	b->plain.n = 0;
	for (uint32_t i = 0; i < b->setup.batch; i++) {
		const struct frame *frame = &b->frames[b->next + i];
		frame->buffer->users++;
		ipsf_batch_add(&b->plain, frame->buffer, frame->buffer->bytes + IPSF_HEADROOM, frame->length);
	}
}

static void turn(struct ipsf_stage_bench *b)
{
	b->next = b->next + b->setup.batch < b->n_frames ? b->next + b->setup.batch : 0;
}

static void parse(struct ipsf_stage_bench *b)
{
	for (uint32_t i = 0; i < b->plain.n; i++)
		b->sink += ipsf_ip_parse(b->plain.packet[i]);
}

/* What has left as ESP comes back, as a UDP port hands it in; the batch of the sealed takes the buffers over. */
static void receive_sealed(struct ipsf_stage_bench *b)
{
	b->sealed.n = 0;
	for (uint32_t i = 0; i < b->plain.n; i++) {
		const struct ipsf_packet *sent = b->plain.packet[i];
		struct ipsf_packet *packet = ipsf_batch_add(&b->sealed, sent->buffer, sent->data, sent->length);
		packet->path = &b->path;
		packet->carrier = IPSF_CARRIER_UDP4;
		packet->tos = sent->tos;
	}
	b->plain.n = 0;
}

static void forget_events(struct ipsf_stage_bench *b)
{
	struct ipsf_event event;
	while (b->pipeline.told && ipsf_event_take(b->pipeline.events, &event, NULL, 0) == 1)
		;
	b->pipeline.told = false;
}

static void done(struct ipsf_stage_bench *b, struct ipsf_batch *batch)
{
	ipsf_batch_sweep(batch, b->pipeline.drops);
	b->dropped += b->setup.batch - batch->n;
	ipsf_batch_clear(batch);
}

/* ---- stages ---- */

static void spend(struct ipsf_stage_bench *b, enum ipsf_stage stage, uint64_t since)
{
	b->ticks[stage] += ipsf_ticks() - since;
}

/* What a worker counts before and after it sends. */
static void count_received(struct ipsf_stage_bench *b, enum ipsf_direction direction)
{
	ipsf_stats_add(&b->stats.rx_packets[direction], b->pipeline.received.packets);
	ipsf_stats_add(&b->stats.rx_bytes[direction], b->pipeline.received.bytes);
}

static void count_sent(struct ipsf_stage_bench *b, struct ipsf_batch *batch, enum ipsf_direction direction)
{
	const struct ipsf_volume sent = ipsf_batch_settle(batch, b->pipeline.drops); /* what the port refused is no part of it */
	ipsf_stats_add(&b->stats.tx_packets[direction], sent.packets);
	ipsf_stats_add(&b->stats.tx_bytes[direction], sent.bytes);
	ipsf_stats_take_drops(&b->stats, b->pipeline.drops);
	ipsf_stats_add(&b->stats.consumed, b->pipeline.consumed);
	b->pipeline.consumed = 0;
}

static void there_and_back(struct ipsf_stage_bench *b)
{
	fill(b);
	uint64_t began = ipsf_ticks();
	ipsf_outbound(&b->pipeline, &b->plain);
	count_received(b, IPSF_OUT);
	count_sent(b, &b->plain, IPSF_OUT);
	spend(b, IPSF_STAGE_OUTBOUND, began);
	receive_sealed(b);
	began = ipsf_ticks();
	ipsf_inbound(&b->pipeline, &b->sealed);
	count_received(b, IPSF_IN);
	count_sent(b, &b->sealed, IPSF_IN);
	spend(b, IPSF_STAGE_INBOUND, began);
	done(b, &b->sealed);
	forget_events(b);
}

/* ESP alone: every packet by the first SA. */
static void seal_and_open(struct ipsf_stage_bench *b)
{
	struct ipsf_sa_in *in = ipsf_sad_find(&b->published.sad, SPI_FIRST);
	struct ipsf_path moved;
	fill(b);
	parse(b);
	uint64_t began = ipsf_ticks();
	ipsf_esp_encap(b->out[0], 0, b->plain.packet, b->plain.n);
	spend(b, IPSF_STAGE_SEAL, began);
	ipsf_batch_sweep(&b->plain, b->pipeline.drops);
	receive_sealed(b);
	began = ipsf_ticks();
	ipsf_esp_decap(in, 0, b->sealed.packet, b->sealed.n, &moved);
	spend(b, IPSF_STAGE_OPEN, began);
	done(b, &b->sealed);
}

static void prepare_raw(struct ipsf_stage_bench *b)
{
	for (uint32_t i = 0; i < b->setup.batch; i++) {
		const struct frame *frame = &b->frames[b->next + i];
		struct ipsf_aead_op *op = &b->ops[i];
		op->source = op->destination = frame->buffer->bytes + IPSF_HEADROOM;
		op->icv = op->destination + frame->length;
		op->length = frame->length;
		op->aad_length = 8;
		ipsf_write64(op->nonce + 4, ++b->number);
	}
}

static void raw_there_and_back(struct ipsf_stage_bench *b)
{
	prepare_raw(b);
	uint64_t began = ipsf_ticks();
	b->engine->seal(b->key, b->ops, b->setup.batch);
	spend(b, IPSF_STAGE_RAW_SEAL, began);
	began = ipsf_ticks();
	b->engine->open(b->key, b->ops, b->setup.batch);
	spend(b, IPSF_STAGE_RAW_OPEN, began);
	for (uint32_t i = 0; i < b->setup.batch; i++)
		b->dropped += !b->ops[i].ok;
}

static void fill_and_parse(struct ipsf_stage_bench *b)
{
	uint64_t began = ipsf_ticks();
	fill(b);
	spend(b, IPSF_STAGE_FILL, began);
	began = ipsf_ticks();
	parse(b);
	spend(b, IPSF_STAGE_PARSE, began);
	done(b, &b->plain);
}

static void ask_spd(struct ipsf_stage_bench *b)
{
	const struct ipsf_spd *spd = atomic_load(&b->published.spd);
	const uint64_t generation = ipsf_spd_generation(spd);
	struct ipsf_flow flow;
	fill(b);
	parse(b);
	uint64_t began = ipsf_ticks();
	for (uint32_t i = 0; i < b->plain.n; i++)
		b->sink += ipsf_flow_cache_lookup_plain(b->pipeline.flows, spd, generation, b->plain.packet[i])->index;
	spend(b, IPSF_STAGE_SPD_HIT, began);
	began = ipsf_ticks();
	for (uint32_t i = 0; i < b->plain.n; i++) {
		ipsf_flow_of(b->plain.packet[i], &flow);
		b->sink -= ipsf_spd_lookup(spd, &flow).index;
	}
	spend(b, IPSF_STAGE_SPD_MISS, began);
	done(b, &b->plain);
}

static void ask_window(struct ipsf_stage_bench *b)
{
	const uint64_t began = ipsf_ticks();
	for (uint32_t i = 0; i < b->setup.batch; i++) {
		const uint64_t sequence = ipsf_window_reconstruct(b->replay, (uint32_t)(b->replay->top + 1));
		if (!ipsf_window_check(b->replay, sequence) || !ipsf_window_update(b->replay, sequence))
			b->dropped++;
	}
	spend(b, IPSF_STAGE_REPLAY, began);
}

void ipsf_stage_bench_run(struct ipsf_stage_bench *b, size_t batches, struct ipsf_stage_times *times)
{
	static void (*const stages[])(struct ipsf_stage_bench *) = {raw_there_and_back, seal_and_open, there_and_back,
								   fill_and_parse, ask_spd, ask_window};
	const uint64_t time = ipsf_nanoseconds(), tick = ipsf_ticks();
	b->dropped = 0;
	memset(b->ticks, 0, sizeof b->ticks);
	for (size_t stage = 0; stage < sizeof stages / sizeof stages[0]; stage++) {
		for (size_t i = 0; i < batches; i++, turn(b))
			stages[stage](b);
	}
	const uint64_t ticks = ipsf_ticks() - tick;
	const double rate = (double)(ipsf_nanoseconds() - time) / (double)ticks;
	const double packets = (double)batches * b->setup.batch;
	for (unsigned stage = 0; stage < IPSF_STAGE_COUNT; stage++) {
		const double spent = (double)b->ticks[stage] / packets;
		times->nanoseconds[stage] = spent * rate;
		times->cycles[stage] = IPSF_TICKS_ARE_CYCLES ? spent : 0;
	}
	times->dropped = b->dropped;
}
