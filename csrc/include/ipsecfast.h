/*
 * The data plane of ipsecfast: the only public header.
 *
 * Two ways to use it. A gateway makes one ipsf_dataplane, gives it workers with ports, and steers it with plain
 * messages (ipsf_command in, ipsf_event out). A library user seals and opens arrays of packets with one SA, asks an
 * SPD, drives a replay window: the same objects, without threads.
 *
 * Errors: functions that can fail return 0 or a negative ipsf_error. A bad packet is no error: it has a drop reason.
 * Threads: commands and events belong to one control thread; ipsf_worker_run() is the whole life of a worker's thread.
 */
#ifndef IPSECFAST_H
#define IPSECFAST_H

#include <stddef.h>
#include <stdint.h>

/* ---- numbers that have names: each table has one file in csrc/tables/ ---- */

enum ipsf_error {
	IPSF_OK = 0,
	IPSF_ENOMEM = -1,
	IPSF_EINVAL = -2,      /* a value out of its range, a key of the wrong length, an unknown algorithm */
	IPSF_EEXIST = -3,      /* an SA with this SPI is installed already */
	IPSF_ENOENT = -4,      /* no such SA, child, worker or engine */
	IPSF_ECRYPTO = -5,     /* the crypto library refused */
	IPSF_ESYS = -6,        /* a system call failed: errno tells */
	IPSF_ENOSPC = -7,      /* the caller's output is too small */
	IPSF_ELATE = -8,       /* a worker after the first SA: keys and the owners of SAs follow from the number of workers */
};
const char *ipsf_error_text(int error);

enum ipsf_drop {
#define IPSF_DROP(name, text, help) IPSF_DROP_##name,
#include "../tables/drop_reasons.def"
#undef IPSF_DROP
	IPSF_DROP_COUNT
};
const char *ipsf_drop_text(unsigned reason); /* a stable word, e.g. "replay" */
const char *ipsf_drop_help(unsigned reason); /* one sentence: what it means, where to look */

enum ipsf_event_kind {
#define IPSF_EVENT(name, text) IPSF_EVENT_##name,
#include "../tables/events.def"
#undef IPSF_EVENT
	IPSF_EVENT_COUNT
};
const char *ipsf_event_text(unsigned kind);

enum ipsf_mode { IPSF_MODE_TUNNEL = 0, IPSF_MODE_TRANSPORT = 1 };
enum ipsf_action { IPSF_DISCARD = 0, IPSF_BYPASS = 1, IPSF_PROTECT = 2 };
enum ipsf_copy { IPSF_COPY_NO = 0, IPSF_COPY_OUT = 1, IPSF_COPY_IN = 2, IPSF_COPY_YES = 3 };

/* ---- values ---- */

/* version 4 or 6 (0: none); an IPv4 address stands in bytes[0..3]. */
struct ipsf_addr {
	uint8_t bytes[16];
	uint8_t version;
};

/* Ports are 0 for bare ESP. Host byte order. */
struct ipsf_path {
	struct ipsf_addr local, remote;
	uint16_t local_port, remote_port;
};

/* RFC 7296 s3.13.1. protocol 0: any; for ICMP a port is type << 8 | code; OPAQUE is port_first 65535, port_last 0. */
struct ipsf_selector {
	struct ipsf_addr first, last;
	uint16_t port_first, port_last;
	uint8_t protocol;
};

#define IPSF_POLICY_HOLD 1u /* keep the packets of a PROTECT policy without SA and ask for one (IPSF_EVENT_ACQUIRE) */

struct ipsf_policy {
	struct ipsf_selector source, destination;
	uint32_t reqid;  /* PROTECT: whose active outbound SA */
	uint8_t action;  /* enum ipsf_action */
	uint8_t flags;
};

#define IPSF_TFC_MAX 16384 /* bytes of TFC padding and what it pads */
#define IPSF_KEY_MAX 36 /* AES-256 and the salt of RFC 4106 */

/*
 * Cold: all that was negotiated for one SA of one direction. Copied in; the receiver wipes its copy. Zero limit: none.
 */
struct ipsf_sa_params {
	uint32_t spi, reqid;
	uint16_t encryption;      /* IANA transform ID, type 1: 20 is AES-GCM-16 */
	uint8_t key[IPSF_KEY_MAX];
	uint8_t key_length;       /* bytes, the salt included */
	uint8_t mode;             /* enum ipsf_mode */
	uint8_t udp_encap, esn;
	uint8_t copy_df, copy_ecn, copy_dscp;
	uint16_t tfc_padding;     /* outbound, tunnel mode: bytes that an inner packet has at least (RFC 4303 s2.7); 0: as it is */
	uint32_t replay_window;   /* packets, 64 to 65,536, 0: anti-replay off */
	struct ipsf_path path;
	const struct ipsf_selector *local_ts, *remote_ts;
	uint32_t n_local_ts, n_remote_ts;
	uint64_t soft_bytes, hard_bytes, soft_packets, hard_packets;
	uint64_t initial_sequence; /* an SA that is taken over: the last number used, or the top of the window; 0: a new SA */
	/*
	 * RFC 9611, outbound. resource: 0: an SA for all workers; i: worker i - 1 alone, while it is active. resources: of an SA for
	 * all, how many of the workers ask for one of their own (ACQUIRE). With by_dscp a resource is no worker, but a class of
	 * packets (RFC 4301 s4.1): dscp[d] is that of inner DSCP d, 0: none of its own.
	 */
	uint8_t resource, resources, by_dscp;
	uint8_t dscp[64];
};

/* ---- library: arrays of packets ---- */

struct ipsf_sa_out;
struct ipsf_sa_in;

/* Packets back to back: packet i is data[offsets[i]] .. + lengths[i]. */
struct ipsf_packets {
	uint8_t *data;
	size_t size;             /* bytes at data */
	uint64_t *offsets;
	uint32_t *lengths;
	size_t count;
};

size_t ipsf_engine_count(void);
const char *ipsf_engine_name(size_t index);
/* What the engine's library says of its version; NULL when there is no engine of that name. */
const char *ipsf_engine_version(const char *name);
/* Resolves "auto" (or NULL) to the engine that is best on this machine; NULL when there is none of that name. */
const char *ipsf_engine_choose(const char *name);

int ipsf_sa_out_new(const struct ipsf_sa_params *params, const char *engine, struct ipsf_sa_out **sa);
void ipsf_sa_out_free(struct ipsf_sa_out *sa);
uint64_t ipsf_sa_out_sequence(const struct ipsf_sa_out *sa); /* the last number used */
int ipsf_sa_in_new(const struct ipsf_sa_params *params, const char *engine, struct ipsf_sa_in **sa);
void ipsf_sa_in_free(struct ipsf_sa_in *sa);
/* Bytes that ESP (and UDP, and the outer IP header of outer_version) put around a packet at most, padding included. */
int ipsf_esp_overhead(uint16_t encryption, uint8_t mode, uint8_t udp_encap, uint8_t outer_version);

/*
 * Seals (RFC 4303 s3.3) or opens (s3.4) packets->count packets. out->data is filled from its start; out->offsets,
 * lengths and reasons[count] are written for each (length 0 and a drop reason where a packet did not pass). IPSF_ENOSPC
 * when out->size might not suffice: seal needs the sum of lengths + count * IPSF_ESP_ROOM, open the sum of lengths.
 * Transport mode takes and gives whole IP packets with their ESP inside. Tunnel mode gives the bare ESP datagram,
 * without the outer header.
 *
 * In place (out may be packets itself): where out->data is packets->data nothing is moved, the packet grows and shrinks
 * where it stands. Seal then needs IPSF_ESP_HEADROOM free bytes before each packet and the rest of IPSF_ESP_ROOM behind
 * it, for each its own, packets in the order of their offsets; else IPSF_ENOSPC.
 */
#define IPSF_ESP_ROOM 64
#define IPSF_ESP_HEADROOM 16
int ipsf_seal(struct ipsf_sa_out *sa, const struct ipsf_packets *packets, struct ipsf_packets *out, uint8_t *reasons);
int ipsf_open(struct ipsf_sa_in *sa, const struct ipsf_packets *packets, struct ipsf_packets *out, uint8_t *reasons);
/* The same engine without ESP around it: n packets of one length with fresh IVs, 8 bytes AAD. For benchmarks. */
int ipsf_raw_seal(const char *engine, const uint8_t *key, size_t key_length, uint8_t *data, size_t length, size_t stride,
		  size_t n, size_t rounds);
int ipsf_raw_open(const char *engine, const uint8_t *key, size_t key_length, uint8_t *data, size_t length, size_t stride,
		  size_t n, size_t rounds);

/* ---- what each stage costs, for benchmarks: one thread, memory only ---- */

enum ipsf_stage {
#define IPSF_STAGE(name, text, help) IPSF_STAGE_##name,
#include "../tables/stages.def"
#undef IPSF_STAGE
	IPSF_STAGE_COUNT
};
const char *ipsf_stage_text(unsigned stage); /* a stable word, e.g. "spd-hit" */
const char *ipsf_stage_help(unsigned stage);

/*
 * Packets of the given sizes in turn, UDP over IPv4, of `flows` flows in turn; flow i belongs to SA i % sas. An SPD of
 * `policies` policies (at least sas), each a pair of prefixes.
 */
struct ipsf_stage_setup {
	const char *engine;
	uint8_t key[32], key_length; /* AES, without salt */
	uint8_t esn;
	const uint32_t *sizes;       /* bytes of the inner packets, 28 to 65,000 */
	size_t n_sizes;
	uint32_t policies, flows, sas;
	uint32_t batch;              /* packets a step, 1 to 64 */
	uint32_t replay_window;
};

struct ipsf_stage_times {
	double nanoseconds[IPSF_STAGE_COUNT], cycles[IPSF_STAGE_COUNT]; /* a packet; cycles are 0 where the machine doesn't say */
	uint64_t dropped;                                              /* not 0: the figures mean nothing */
};

struct ipsf_stage_bench;
/* IPSF_EINVAL, IPSF_ENOMEM, IPSF_ENOENT, IPSF_ECRYPTO. */
int ipsf_stage_bench_new(const struct ipsf_stage_setup *setup, struct ipsf_stage_bench **bench);
/* Measures every stage over so many batches, one stage after the other; those that undo each other batch by batch. */
void ipsf_stage_bench_run(struct ipsf_stage_bench *bench, size_t batches, struct ipsf_stage_times *times);
void ipsf_stage_bench_free(struct ipsf_stage_bench *bench);

struct ipsf_replay;
int ipsf_replay_new(uint32_t size, int esn, struct ipsf_replay **replay);
void ipsf_replay_free(struct ipsf_replay *replay);
uint64_t ipsf_replay_reconstruct(const struct ipsf_replay *replay, uint32_t low);
int ipsf_replay_check(const struct ipsf_replay *replay, uint64_t sequence);  /* 1: may be accepted */
int ipsf_replay_update(struct ipsf_replay *replay, uint64_t sequence);       /* 1: accepted now, 0: was seen or too old */
uint64_t ipsf_replay_top(const struct ipsf_replay *replay);

struct ipsf_spd;
/* How many policies, from the first on, say something that can be: ranges in order, one family, one protocol, a known action. */
size_t ipsf_policies_valid(const struct ipsf_policy *policies, size_t n);
int ipsf_spd_compile(const struct ipsf_policy *policies, size_t n, struct ipsf_spd **spd); /* copies the policies */
void ipsf_spd_free(struct ipsf_spd *spd);
size_t ipsf_spd_count(const struct ipsf_spd *spd);
/* Bytes that the SPD occupies, with what older snapshots of it keep until they are freed. */
size_t ipsf_spd_memory(const struct ipsf_spd *spd);
/*
 * addresses: n * 16 bytes (IPv4 in the first 4), version 4 or 6 for all; out[i]: index of the first matching policy, or
 * -1.
 */
void ipsf_spd_lookup_array(const struct ipsf_spd *spd, uint8_t version, const uint8_t *sources, const uint8_t *destinations,
			   const uint8_t *protocols, const uint16_t *source_ports, const uint16_t *destination_ports,
			   size_t n, int32_t *out);

/* ---- gateway: ports, workers, commands, events ---- */

struct ipsf_port;
int ipsf_port_tun_new(const char *name, struct ipsf_port **port);
/*
 * n queues of one TUN device, one for each worker; all or none. A flow stays on its queue, by a hash (BPF program). Where the kernel takes no
 * program, ipsf_port_tun_steered() of the first is 0, and a flow moves to the queue where its answers are written.
 */
int ipsf_port_tun_group(const char *name, size_t n, struct ipsf_port **ports);
int ipsf_port_tun_steered(const struct ipsf_port *port);
int ipsf_port_udp_new(uint8_t version, uint16_t port_number, uint32_t mark, struct ipsf_port **port);
int ipsf_port_raw_new(uint8_t version, uint32_t mark, struct ipsf_port **port);
/*
 * n ports of one number or protocol, one for each inbound worker in the order in which these are added: the kernel brings the packets of
 * an SPI to the worker that owns its SA, IKE and keepalives to the first. All or none.
 */
int ipsf_port_udp_group(uint8_t version, uint16_t port_number, uint32_t mark, size_t n, struct ipsf_port **ports);
int ipsf_port_raw_group(uint8_t version, uint32_t mark, size_t n, struct ipsf_port **ports);
/*
 * The gate of IKE: which socket of a port's group a message comes to, so that what strangers send fills their own queue and no other. The
 * control thread tells it our SPIs. Until the last descriptor of a group is closed its program stays; a gate may go before. All: IPSF_ESYS
 * (errno).
 */
enum ipsf_rank {
	IPSF_RANK_PROVEN,  /* for an IKE SA whose peer has shown who it is */
	IPSF_RANK_BEGUN,   /* for one that has not come so far */
	IPSF_RANK_UNKNOWN, /* for no IKE SA of ours: whatever anyone sends */
};
struct ipsf_gate;
int ipsf_gate_new(struct ipsf_gate **gate); /* IPSF_ENOMEM too */
void ipsf_gate_free(struct ipsf_gate *gate);
int ipsf_gate_rank(struct ipsf_gate *gate, const uint8_t spi[8], enum ipsf_rank rank);
/*
 * From now on of the group of this socket. It consists of the workers' sockets (a UDP port group; 0: port 500, without a non-ESP marker)
 * and behind them, in the order in which they were bound, one for each rank.
 */
int ipsf_gate_guard(struct ipsf_gate *gate, int socket, uint32_t workers);
/*
 * AF_XDP ports. outer: take ESP to us, and ESP in UDP to port 4500, and send such; else packets to protect. Where the driver does not
 * run XDP itself ("generic") UDP is left to the kernel, whose super-packets of it could not be told from datagrams.
 */
struct ipsf_xdp_options {
	const char *interface;
	uint8_t outer;
	uint8_t ring; /* frames leave by the transmit ring also where the driver does no zero-copy; else a packet socket sends there */
	struct ipsf_port *const *beside; /* NULL, or n: NULL or a port whose memory it shares where the kernel can */
};
/*
 * n of them, or as many as the interface has queues: port i on queue i; their number. What comes on other queues is the kernel's. They
 * take nothing before ipsf_port_take(). Programs and sockets leave the interface with the ports, or with the process. All or none.
 * IPSF_ESYS: EBUSY (the interface has an XDP program already), EMSGSIZE (its MTU is above 3,698), others.
 */
int ipsf_port_xdp_group(const struct ipsf_xdp_options *options, size_t n, struct ipsf_port **ports);
const char *ipsf_port_xdp_mode(const struct ipsf_port *port); /* "native, zero-copy", "native", "generic" */
int ipsf_port_xdp_shares(const struct ipsf_port *port);       /* 1: its memory is another port's, too */

/* An AF_PACKET port. outer: takes ESP, and ESP in UDP to udp_port, of this interface, and sends such; else packets to protect. */
struct ipsf_packet_options {
	const char *interface;
	uint8_t outer;
	uint8_t bypass;    /* frames pass by the interface's queueing discipline */
	uint16_t udp_port;
};
/* n of them on one interface, one for each worker: outer ones as the UDP ports (by SPI), inner ones by flow. All or none. */
int ipsf_port_packet_group(const struct ipsf_packet_options *options, size_t n, struct ipsf_port **ports);
int ipsf_port_memory_pair(size_t capacity, struct ipsf_port **a, struct ipsf_port **b);
/* Puts one packet where port receives it (as if the peer sent it); 0 or IPSF_ENOSPC when the ring is full. */
int ipsf_port_memory_put(struct ipsf_port *port, const uint8_t *data, size_t length, const struct ipsf_path *path, uint8_t tos);
/* Takes what port sent; length, 0 when there is none, IPSF_ENOSPC. */
int ipsf_port_memory_get(struct ipsf_port *port, uint8_t *data, size_t size, struct ipsf_path *path, uint8_t *tos);
/*
 * A source and a sink for benchmarks. It delivers copies of packets (copied here; NULL: a sink only) in turn, again from the first after
 * the last, each as if it came over path (NULL: an inner port), as many as are granted; it counts what is sent and forgets it.
 */
struct ipsf_generator_counts {
	uint64_t granted, delivered, sent, sent_bytes;
};
int ipsf_port_generator_new(const struct ipsf_packets *packets, const struct ipsf_path *path, struct ipsf_port **port);
int ipsf_port_generator_grant(struct ipsf_port *port, uint64_t n); /* any thread; IPSF_EINVAL: it has no packets */
void ipsf_port_generator_counts(const struct ipsf_port *port, struct ipsf_generator_counts *counts); /* any thread */
/* Delivers to itself what is granted: what the port alone costs. Not while a worker has the port. IPSF_ENOMEM. */
int ipsf_port_generator_drive(struct ipsf_port *port);
const char *ipsf_port_name(const struct ipsf_port *port);
int ipsf_port_fd(const struct ipsf_port *port);
void ipsf_port_free(struct ipsf_port *port);

/*
 * Who sends on what goes to a network over an Ethernet link: both hardware addresses, and the largest IP packet in bytes.
 * mtu 0: the network stays with the kernel, whatever wider entries say. Host bits of network are ignored.
 */
struct ipsf_hop {
	struct ipsf_addr network;
	uint8_t prefix_length;
	uint8_t destination[6], source[6];
	uint32_t mtu;
};

/*
 * What a ring port takes from the kernel; ports that share an intake need it once. Nothing is taken before set_address: frames to
 * that hardware address are. take: outer ports ESP to an address of ours (the prefix is the whole address, longest says nothing);
 * inner ports packets to network that are not longer than longest bytes, 0: the network stays with the kernel, whatever wider ones
 * say. leave: no entry any more. IPSF_EINVAL: not a ring port, a bad prefix. IPSF_ESYS.
 */
int ipsf_port_set_address(struct ipsf_port *port, const uint8_t address[6]);
int ipsf_port_take(struct ipsf_port *port, const struct ipsf_addr *network, uint8_t prefix_length, uint32_t longest);
int ipsf_port_leave(struct ipsf_port *port, const struct ipsf_addr *network, uint8_t prefix_length);

struct ipsf_dataplane;
struct ipsf_worker;

#define IPSF_WORKER_OUTBOUND 1u
#define IPSF_WORKER_INBOUND 2u
#define IPSF_WORKER_BUSY 4u /* never sleeps: looks at its ports again and again */

struct ipsf_counters {
	uint64_t rx_packets[2], rx_bytes[2], tx_packets[2], tx_bytes[2]; /* [0]: outbound, [1]: inbound */
	uint64_t consumed;                                               /* keepalives, IKE messages: taken, neither sent nor dropped */
	uint64_t held;                                                   /* packets waiting now for their SA */
	uint64_t handed_over, taken_over;                                /* packets of SAs that another worker owns; by others to it */
	uint64_t cpu_ns;                                                 /* of its threads in ipsf_worker_run() */
	uint64_t drops[IPSF_DROP_COUNT];
};

struct ipsf_sa_status {
	uint32_t spi, reqid;
	uint8_t inbound, active;
	uint64_t packets, bytes, sequence;
	uint64_t drops[IPSF_DROP_COUNT];
};

int ipsf_dataplane_new(const char *engine, struct ipsf_dataplane **dp);
void ipsf_dataplane_free(struct ipsf_dataplane *dp); /* after its workers' threads have ended; ports stay the caller's */
const char *ipsf_dataplane_engine(const struct ipsf_dataplane *dp);
int ipsf_dataplane_event_fd(const struct ipsf_dataplane *dp);
/*
 * A worker between n_inner (1..8) inner and n_outer (0..16) outer ports; all workers come before the first SA. It receives from all of
 * them, as directions say. What was opened goes to the first inner port, from the last to the first, that reaches it: inner[0] is the
 * default. What was sealed goes to the first outer port of its carrier, in their order, that reaches it.
 * IPSF_EINVAL: a number out of its range, or a port is another worker's in one of the directions. IPSF_ELATE.
 */
int ipsf_dataplane_add_worker(struct ipsf_dataplane *dp, const char *name, struct ipsf_port *const *inner, size_t n_inner,
			      struct ipsf_port *const *outer, size_t n_outer, unsigned directions, struct ipsf_worker **worker);
int ipsf_worker_run(struct ipsf_worker *worker);   /* until ipsf_worker_stop(); 0 or IPSF_ESYS */
int ipsf_worker_step(struct ipsf_worker *worker);  /* one pass without waiting: packets handled */
void ipsf_worker_stop(struct ipsf_worker *worker); /* any thread */
const char *ipsf_worker_name(const struct ipsf_worker *worker);
void ipsf_worker_counters(const struct ipsf_worker *worker, struct ipsf_counters *counters);

enum ipsf_command_kind {
	IPSF_CMD_INSTALL_INBOUND,
	IPSF_CMD_INSTALL_OUTBOUND, /* REGISTERED: carries nothing until activated */
	IPSF_CMD_ACTIVATE_OUTBOUND,
	IPSF_CMD_REMOVE_INBOUND,
	IPSF_CMD_REMOVE_OUTBOUND,
	IPSF_CMD_MOVE_PEER,
	IPSF_CMD_RELEASE_HELD,
	IPSF_CMD_PUBLISH_SPD,      /* all policies anew */
	IPSF_CMD_REPLACE_POLICIES, /* n_removed of them from index on give way to the given ones, all at once */
	IPSF_CMD_PUBLISH_HOPS,     /* the whole table of a port's next hops */
};

/*
 * One message of the control plane: plain values, no callbacks, so that the data plane may one day be another process.
 */
struct ipsf_command {
	enum ipsf_command_kind kind;
	uint32_t reqid;
	uint32_t spi;           /* of the direction the command names; MOVE_PEER: outbound */
	uint32_t inbound_spi;   /* MOVE_PEER */
	const struct ipsf_sa_params *sa;
	const struct ipsf_path *path;
	const struct ipsf_policy *policies;
	size_t n_policies;
	size_t index, n_removed; /* REPLACE_POLICIES */
	struct ipsf_port *port; /* PUBLISH_HOPS: a port that needs next hops, and what it shall know */
	const struct ipsf_hop *hops;
	size_t n_hops;
};
int ipsf_dataplane_apply(struct ipsf_dataplane *dp, const struct ipsf_command *command);

#define IPSF_IKE_MAX 65535

struct ipsf_event {
	uint32_t kind; /* enum ipsf_event_kind */
	uint32_t spi, reqid;
	uint8_t inbound;
	uint8_t resource;                         /* ACQUIRE: 0, or the one (of sa_params) whose own SA is missing */
	struct ipsf_path path;
	struct ipsf_selector source, destination; /* ACQUIRE: the packet's own */
	uint32_t length;                          /* IKE_DATAGRAM: bytes in the caller's buffer */
};
/* 1 and an event, or 0 when there is none, or IPSF_ENOSPC (the event stays). Events lost on a full ring are counted. */
int ipsf_dataplane_next_event(struct ipsf_dataplane *dp, struct ipsf_event *event, uint8_t *data, size_t size);
/* One line of a long table; the same SAs in the same order as of ipsf_dataplane_sa_status. */
struct ipsf_sa_count {
	uint32_t spi, reqid;
	uint8_t inbound, active;
	uint64_t packets, bytes, sequence, drops; /* drops: for whatever reason */
};

size_t ipsf_dataplane_sa_counts(const struct ipsf_dataplane *dp, struct ipsf_sa_count *counts, size_t n);
size_t ipsf_dataplane_policy_count(const struct ipsf_dataplane *dp);
size_t ipsf_dataplane_policy_memory(const struct ipsf_dataplane *dp); /* bytes, see ipsf_spd_memory */
/* Status of up to n SAs, both directions; the number there are. */
size_t ipsf_dataplane_sa_status(const struct ipsf_dataplane *dp, struct ipsf_sa_status *status, size_t n);

#endif
