/*
 * Security associations: outbound and inbound are distinct types, so that one can't stand where the other belongs.
 *
 * Each is one allocation: what is immutable (read by every packet), what every packet writes, and what is cold; of an outbound SA, which
 * all workers write, on cache lines of their own. With a window of 2,048 packets and one pair of IPv4 networks an inbound SA takes
 * 552 bytes, an outbound one 262; what the engine makes of the key stands elsewhere (keycache.h). The control thread makes and
 * frees them; a worker may use one between two of its epoch ticks.
 */
#ifndef IPSF_SA_H
#define IPSF_SA_H

#include <stdatomic.h>

#include "keycache.h"
#include "packet.h"
#include "replay.h"

/* What an SA has to tell the control plane, at most once each; the pipeline turns them into events. */
enum ipsf_notice {
	IPSF_NOTICE_FIRST_INBOUND = 1u,
	IPSF_NOTICE_PEER_MOVED = 2u,
	IPSF_NOTICE_SOFT_LIFETIME = 4u,
	IPSF_NOTICE_HARD_LIFETIME = 8u,
	IPSF_NOTICE_DROPPED = 16u, /* no event: some packets of the run are marked */
};

/* Most SAs never drop a packet: the counters are made with the first one. */
struct ipsf_sa_drops {
	_Atomic uint64_t by[IPSF_DROP_COUNT];
};

struct ipsf_sa_out {
	/* immutable */
	struct ipsf_key key;
	_Atomic(const struct ipsf_path *) path; /* home, until MOVE_PEER replaces it; what replaced it is freed after an epoch */
	uint32_t spi, reqid;
	uint8_t salt[4];
	uint8_t mode, carrier, esn, udp_encap;
	uint8_t copy_df, copy_ecn, copy_dscp;
	uint8_t resource;                       /* 0: any worker sends by it; i: worker i - 1 (child.h) */
	bool plain;                             /* tunnel mode and no TFC padding: the way of nearly all packets */
	uint16_t tfc;                           /* bytes that an inner packet is padded to (RFC 4303 s2.7) */
	uint64_t last_sequence;                 /* the last number that may be used: 2^32 - 1 or 2^64 - 1 */
	uint64_t soft_bytes, hard_bytes, soft_packets, hard_packets;
	/* mutable: written by every worker that uses the SA */
	_Atomic uint64_t sequence __attribute__((aligned(IPSF_CACHE_LINE))); /* the last number reserved */
	_Atomic uint64_t bytes;                 /* that ESP protected, its padding apart; packets are the sequence */
	_Atomic uint32_t told;                  /* enum ipsf_notice already raised */
	/* cold */
	struct ipsf_sa_out *next;
	_Atomic(struct ipsf_sa_drops *) drops;  /* NULL: nothing was dropped yet */
	void *memory;                           /* in which the SA begins with a line */
	struct ipsf_path home[];                /* one: the path of the beginning */
};

/* Addresses from first to first + span, host order. */
struct ipsf_range4 {
	uint32_t first, span;
};

struct ipsf_sa_in {
	/* immutable */
	struct ipsf_key key;
	uint32_t spi;
	uint8_t salt[4];
	_Atomic(struct ipsf_sa_in *) next;      /* of the SAD slot: who looks for another reads it and the SPI, on no line that is written */
	_Atomic(const struct ipsf_path *) path; /* as of an outbound SA */
	uint8_t mode, udp_encap, esn;
	uint8_t copy_ecn, copy_dscp;
	uint8_t owner;                          /* the worker that opens its packets: the window has one writer */
	bool simple;                            /* one selector a side, IPv4, any protocol and port: the ranges are all of it */
	struct ipsf_range4 remote4, local4;
	uint64_t soft_bytes, hard_bytes, soft_packets, hard_packets;
	/* mutable: written by the one worker that owns the window */
	struct ipsf_replay *replay;             /* in tail */
	_Atomic uint64_t packets, bytes;        /* one writer; atomic only for the reader of statistics */
	uint32_t told;
	/* cold */
	uint32_t reqid;
	_Atomic(struct ipsf_sa_drops *) drops;  /* NULL: nothing was dropped yet */
	const struct ipsf_selector *local_ts, *remote_ts; /* in tail, behind the window; none of them for a simple SA */
	uint16_t n_local, n_remote;
	struct ipsf_path *home;                 /* in tail, behind the window: [0] the path of the beginning, [1] the one last told
						 * by PEER_MOVED, which the owner writes */
	/*
	 * The window, then what is cold: so no line that every packet writes holds the beginning of the SA behind this one, which
	 * another worker may own.
	 */
	uint64_t tail[];
};

/* An SA whose key is expanded where the others' are, in keys, which outlives it. IPSF_EINVAL, IPSF_ENOMEM. */
IPSF_MUST_CHECK int ipsf_sa_out_share(const struct ipsf_sa_params *params, struct ipsf_keycache *keys, struct ipsf_sa_out **sa);
IPSF_MUST_CHECK int ipsf_sa_in_share(const struct ipsf_sa_params *params, struct ipsf_keycache *keys, struct ipsf_sa_in **sa);
/* As ipsf_sa_out_new and ipsf_sa_in_new, for n_workers: the expanded key is the SA's own. IPSF_EINVAL, IPSF_ENOMEM, IPSF_ECRYPTO. */
IPSF_MUST_CHECK int ipsf_sa_out_create(const struct ipsf_sa_params *params, const struct ipsf_aead_engine *engine,
				       unsigned n_workers, struct ipsf_sa_out **sa);
IPSF_MUST_CHECK int ipsf_sa_in_create(const struct ipsf_sa_params *params, const struct ipsf_aead_engine *engine,
				      unsigned n_workers, struct ipsf_sa_in **sa);

/*
 * Counts n packets that an SA dropped for a reason; any worker. Where there is no memory for the first they are counted by the
 * worker only.
 */
void ipsf_sa_count_drop(_Atomic(struct ipsf_sa_drops *) *drops, unsigned reason, uint64_t n);
uint64_t ipsf_sa_dropped(const _Atomic(struct ipsf_sa_drops *) *drops, unsigned reason);

/* A path's carrier: (udp_encap, version of path->remote). */
enum ipsf_carrier ipsf_carrier_of(const struct ipsf_path *path, bool udp_encap);

/*
 * RFC 4303 s3.3: seals n packets (n <= IPSF_BATCH_MAX) of one SA in place, in their head- and tailroom. The packets are
 * parsed (ip.h). Yields the bare ESP datagram (tunnel) or the ESP datagram with the inner IP header cut off and its
 * addresses implied by the path (transport), with path, carrier, tos and DF for the port. Marks drop where a packet
 * can't be sealed. Returns the enum ipsf_notice that became true.
 */
unsigned ipsf_esp_encap(struct ipsf_sa_out *sa, unsigned worker, struct ipsf_packet *const *packets, unsigned n);

/*
 * The same for one super-packet: its segments are sealed out of its buffer, which is used up and released, into one of the pool's,
 * datagram behind datagram. Segments for which no sequence number is left are counted in drops[], here and at the SA.
 */
unsigned ipsf_esp_segment(struct ipsf_sa_out *sa, unsigned worker, struct ipsf_packet *packet, struct ipsf_pool *pool,
			  uint64_t drops[IPSF_DROP_COUNT]);

/*
 * RFC 4303 s3.4: opens n bare ESP datagrams of one SA in place: window check, open, window update, trailer, parse,
 * inner selector check (RFC 4301 s5.2), ECN (RFC 6040). Yields the inner IP packet; in transport mode one whose IP
 * header is rebuilt from the path it came by. Marks drop. Returns notices; *moved is the path of the newest authentic
 * packet when IPSF_NOTICE_PEER_MOVED.
 */
unsigned ipsf_esp_decap(struct ipsf_sa_in *sa, unsigned worker, struct ipsf_packet *const *packets, unsigned n,
			struct ipsf_path *moved);

#endif
