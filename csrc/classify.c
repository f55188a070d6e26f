#include "classify.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>

#include "ip.h"

/*
 * Registers: R6 context, R7 the frame (XDP: itself; else a copy of its headers on the stack), R8 its length, later the IP packet's,
 * R9 XDP: the frame's end; SOCKET: the word in `given`. Offsets below are from the start of the frame.
 */
#define IP ETH_HLEN
#define STACK_KEY (-24)   /* struct ipsf_classify_prefix; the address in it is the other map's key */
#define STACK_FRAME (-94) /* 68 bytes, placed so that the IP header is aligned */
#define UDP_HEADER 8
#define SNAP_LENGTH 0x40000 /* a socket filter's return value: bytes of the packet that are wanted */

/* Behind VERSION_6 come those that each IP version has of its own: label(e, ...). */
enum label { PASS, TAKE, VERSION_6, DESTINATION, TCP = DESTINATION + 2, SEGMENT = TCP + 2, ONE_PACKET = SEGMENT + 2, JUDGE = ONE_PACKET + 2, LABELS };
static_assert(LABELS <= IPSF_BPF_LABELS, "the assembler has room for them");

struct emitter {
	struct ipsf_bpf_code *code;
	const struct ipsf_classify *what;
	unsigned version; /* that of the part that is being emitted */
};

enum bpf_prog_type ipsf_classify_program_type(enum ipsf_hook hook)
{
	static const enum bpf_prog_type types[IPSF_HOOK_COUNT] = {BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_SCHED_CLS, BPF_PROG_TYPE_SOCKET_FILTER};
	return types[hook];
}

unsigned ipsf_classify_attach_type(enum ipsf_hook hook)
{
	static const unsigned types[IPSF_HOOK_COUNT] = {BPF_XDP, BPF_XDP, IPSF_BPF_TCX_INGRESS, 0};
	return types[hook];
}

uint32_t ipsf_classify_taken(enum ipsf_hook hook)
{
	static const uint32_t verdicts[IPSF_HOOK_COUNT] = {XDP_REDIRECT, XDP_REDIRECT, 2 /* TC_ACT_SHOT */, SNAP_LENGTH};
	return verdicts[hook];
}

/* ---- pieces ---- */

static unsigned label(const struct emitter *e, enum label of_version)
{
	return of_version + (e->version == 6);
}

static int header_size(const struct emitter *e)
{
	return e->version == 4 ? IPSF_IPV4_HEADER : IPSF_IPV6_HEADER;
}

static int protocol_at(const struct emitter *e)
{
	return IP + (e->version == 4 ? 9 : 6);
}

static bool is_xdp(const struct emitter *e)
{
	return e->what->hook == IPSF_HOOK_XDP || e->what->hook == IPSF_HOOK_XDP_GENERIC;
}

static bool copies(const struct emitter *e)
{
	return !is_xdp(e);
}

static void load(struct emitter *e, unsigned size, unsigned to, int offset)
{
	ipsf_bpf_load(e->code, size, to, R7, offset);
}

/* The packet passes unless its bytes from..to are there; from then on they may be loaded. */
static void need(struct emitter *e, int from, int to)
{
	if (!copies(e)) {
		ipsf_bpf_alu(e->code, BPF_MOV, R2, R7);
		ipsf_bpf_alu_value(e->code, BPF_ADD, R2, to);
		ipsf_bpf_jump(e->code, BPF_JGT, R2, R9, PASS);
		return;
	}
	ipsf_bpf_alu(e->code, BPF_MOV, R1, R6);
	ipsf_bpf_alu_value(e->code, BPF_MOV, R2, from);
	ipsf_bpf_alu(e->code, BPF_MOV, R3, R7);
	ipsf_bpf_alu_value(e->code, BPF_ADD, R3, from);
	ipsf_bpf_alu_value(e->code, BPF_MOV, R4, to - from);
	ipsf_bpf_call(e->code, BPF_FUNC_skb_load_bytes);
	ipsf_bpf_jump_value(e->code, BPF_JNE, R0, 0, PASS);
}

/* R0: the value of the key on the stack. It passes where there is none. */
static void look_up(struct emitter *e, int map, int key)
{
	ipsf_bpf_map(e->code, R1, map);
	ipsf_bpf_alu(e->code, BPF_MOV, R2, R10);
	ipsf_bpf_alu_value(e->code, BPF_ADD, R2, key);
	ipsf_bpf_call(e->code, BPF_FUNC_map_lookup_elem);
	ipsf_bpf_jump_null(e->code, R0, PASS);
}

/* R9: the word that the socket filter leaves and tc finds. */
static void find_given(struct emitter *e)
{
	ipsf_bpf_store_value(e->code, BPF_W, R10, STACK_KEY, 0);
	look_up(e, e->what->given, STACK_KEY);
	ipsf_bpf_alu(e->code, BPF_MOV, R9, R0);
}

static void drop_what_was_given(struct emitter *e)
{
	find_given(e);
	ipsf_bpf_load(e->code, BPF_W, R2, R9, 0);
	ipsf_bpf_store_value(e->code, BPF_W, R9, 0, 0);
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, 0, JUDGE);
	ipsf_bpf_return(e->code, (int32_t)ipsf_classify_taken(IPSF_HOOK_TC));
	ipsf_bpf_label(e->code, JUDGE);
}

/* The one that tc did not see, if there was one, is over. */
static void give_nothing(struct emitter *e)
{
	find_given(e);
	ipsf_bpf_store_value(e->code, BPF_W, R9, 0, 0);
}

static void begin(struct emitter *e)
{
	ipsf_bpf_alu(e->code, BPF_MOV, R6, R1);
	if (!copies(e)) {
		ipsf_bpf_load(e->code, BPF_W, R7, R6, offsetof(struct xdp_md, data));
		ipsf_bpf_load(e->code, BPF_W, R9, R6, offsetof(struct xdp_md, data_end));
		ipsf_bpf_alu(e->code, BPF_MOV, R8, R9);
		ipsf_bpf_alu(e->code, BPF_SUB, R8, R7);
		return;
	}
	if (e->what->given >= 0 && e->what->hook == IPSF_HOOK_TC)
		drop_what_was_given(e);
	if (e->what->given >= 0 && e->what->hook == IPSF_HOOK_SOCKET)
		give_nothing(e);
	ipsf_bpf_alu(e->code, BPF_MOV, R7, R10);
	ipsf_bpf_alu_value(e->code, BPF_ADD, R7, STACK_FRAME);
	ipsf_bpf_load(e->code, BPF_W, R8, R6, offsetof(struct __sk_buff, len));
	ipsf_bpf_load(e->code, BPF_W, R2, R6, offsetof(struct __sk_buff, vlan_present));
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, 0, PASS); /* the tag stands beside the frame */
}

/* Ethernet: to this interface, and to nobody else. */
static void ethernet(struct emitter *e)
{
	need(e, 0, ETH_HLEN);
	ipsf_bpf_store_value(e->code, BPF_W, R10, STACK_KEY, 0);
	look_up(e, e->what->device, STACK_KEY);
	for (int i = 0; i < ETH_ALEN; i += 2) { /* halves: an IP header is aligned, what stands before it is not */
		ipsf_bpf_load(e->code, BPF_H, R2, R0, (int)offsetof(struct ipsf_classify_device, address) + i);
		load(e, BPF_H, R3, i);
		ipsf_bpf_jump(e->code, BPF_JNE, R2, R3, PASS);
	}
	load(e, BPF_H, R2, 2 * ETH_ALEN);
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, htons(ETH_P_IP), VERSION_6);
}

/* R2: the IP packet's length by its header. The frame may be longer (Ethernet pads to 60 bytes), not shorter. R8 becomes it. */
static void check_length(struct emitter *e)
{
	ipsf_bpf_alu(e->code, BPF_MOV, R3, R2);
	ipsf_bpf_alu_value(e->code, BPF_ADD, R3, IP);
	ipsf_bpf_jump(e->code, BPF_JGT, R3, R8, PASS);
	ipsf_bpf_alu(e->code, BPF_MOV, R8, R2);
}

/* RFC 1812 s5.2.2: the sum over the header is all ones. */
static void header_checksum(struct emitter *e)
{
	load(e, BPF_W, R2, IP);
	for (int offset = 4; offset < IPSF_IPV4_HEADER; offset += 4) {
		load(e, BPF_W, R3, IP + offset);
		ipsf_bpf_alu(e->code, BPF_ADD, R2, R3);
	}
	for (unsigned i = 0; i < 3; i++) { /* 35 bits, 20, 17, 16 */
		ipsf_bpf_alu(e->code, BPF_MOV, R3, R2);
		ipsf_bpf_alu_value(e->code, BPF_RSH, R3, 16);
		ipsf_bpf_alu_value(e->code, BPF_AND, R2, 0xffff);
		ipsf_bpf_alu(e->code, BPF_ADD, R2, R3);
	}
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, 0xffff, PASS);
}

static void check_v4(struct emitter *e)
{
	need(e, IP, IP + IPSF_IPV4_HEADER);
	load(e, BPF_B, R2, IP);
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, 0x45, PASS);
	load(e, BPF_H, R2, IP + 6);
	ipsf_bpf_jump_value(e->code, BPF_JSET, R2, htons(0xbfff), PASS); /* a fragment, or the reserved flag */
	load(e, BPF_H, R2, IP + 2);
	ipsf_bpf_from_be16(e->code, R2);
	ipsf_bpf_jump_value(e->code, BPF_JLT, R2, IPSF_IPV4_HEADER, PASS);
	check_length(e);
	header_checksum(e);
}

static void check_v6(struct emitter *e)
{
	load(e, BPF_H, R2, 2 * ETH_ALEN);
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, htons(ETH_P_IPV6), PASS);
	need(e, IP, IP + IPSF_IPV6_HEADER);
	load(e, BPF_B, R2, IP);
	ipsf_bpf_alu_value(e->code, BPF_RSH, R2, 4);
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, 6, PASS);
	load(e, BPF_H, R2, IP + 4);
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, 0, PASS); /* a jumbogram */
	ipsf_bpf_from_be16(e->code, R2);
	ipsf_bpf_alu_value(e->code, BPF_ADD, R2, IPSF_IPV6_HEADER);
	check_length(e);
}

/* The destination on the stack, as both maps know it. */
static void make_key(struct emitter *e)
{
	const int address = STACK_KEY + (int)offsetof(struct ipsf_classify_prefix, address.address);
	ipsf_bpf_store_value(e->code, BPF_W, R10, STACK_KEY, e->version == 4 ? 64 : 160);
	ipsf_bpf_store_value(e->code, BPF_W, R10, STACK_KEY + (int)offsetof(struct ipsf_classify_prefix, address.version), (int32_t)e->version);
	if (e->version == 4) {
		load(e, BPF_W, R2, IP + 16);
		ipsf_bpf_store(e->code, BPF_W, R10, address, R2);
		ipsf_bpf_store_value(e->code, BPF_W, R10, address + 4, 0);
		ipsf_bpf_store_value(e->code, BPF_DW, R10, address + 8, 0);
		return;
	}
	for (int i = 0; i < 16; i += 8) {
		load(e, BPF_DW, R2, IP + 24 + i);
		ipsf_bpf_store(e->code, BPF_DW, R10, address + i, R2);
	}
}

/*
 * A UDP super-packet looks like one long datagram; taken as such it would arrive as one. (A TCP super-packet is a segment like others.)
 */
static void pass_udp_of_generic(struct emitter *e)
{
	if (e->what->hook != IPSF_HOOK_XDP_GENERIC)
		return;
	load(e, BPF_B, R2, protocol_at(e));
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, IPSF_PROTO_UDP, PASS);
}

/* ---- outer ---- */

/* RFC 3948 s2: no marker of IKE, no keepalive. */
static void check_udp(struct emitter *e)
{
	const int udp = IP + header_size(e);
	need(e, udp, udp + UDP_HEADER + 4);
	load(e, BPF_H, R2, udp + 2);
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, htons(IPSF_CLASSIFY_UDP_PORT), PASS);
	load(e, BPF_H, R2, udp + 4);
	ipsf_bpf_from_be16(e->code, R2);
	ipsf_bpf_jump_value(e->code, BPF_JLT, R2, UDP_HEADER + 4, PASS);
	ipsf_bpf_alu_value(e->code, BPF_ADD, R2, header_size(e));
	ipsf_bpf_jump(e->code, BPF_JNE, R2, R8, PASS);
	load(e, BPF_W, R2, udp + UDP_HEADER);
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, 0, PASS);
}

static void outer(struct emitter *e)
{
	load(e, BPF_B, R2, protocol_at(e));
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, IPSF_PROTO_ESP, label(e, DESTINATION));
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, IPSF_PROTO_UDP, PASS);
	check_udp(e);
	ipsf_bpf_label(e->code, label(e, DESTINATION));
	make_key(e);
	look_up(e, e->what->destinations, STACK_KEY + (int)offsetof(struct ipsf_classify_prefix, address));
	ipsf_bpf_go(e->code, TAKE);
}

/* ---- inner ---- */

/* 0/8, 127/8, multicast and reserved; ::/64 with what stands in it, link-local, multicast: the kernel knows what to do with them. */
static void check_ordinary(struct emitter *e, int address)
{
	if (e->version == 4) {
		load(e, BPF_B, R2, address);
		ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, 0, PASS);
		ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, 127, PASS);
		ipsf_bpf_jump_value(e->code, BPF_JGE, R2, 224, PASS);
		return;
	}
	load(e, BPF_DW, R2, address);
	ipsf_bpf_jump_null(e->code, R2, PASS);
	load(e, BPF_B, R2, address);
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, 0xff, PASS);
	load(e, BPF_H, R2, address);
	ipsf_bpf_alu_value(e->code, BPF_AND, R2, htons(0xffc0));
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, htons(0xfe80), PASS);
}

/* Headers that a router reads or that the SPD's ports hide behind: hop-by-hop, routing, fragment, destination options, mobility. */
static void check_next_header(struct emitter *e)
{
	static const uint32_t headers[] = {IPSF_PROTO_HOPOPTS, IPSF_PROTO_ROUTING, IPSF_PROTO_FRAGMENT, IPSF_PROTO_DSTOPTS,
					   IPSF_PROTO_MOBILITY};
	load(e, BPF_B, R2, protocol_at(e));
	for (unsigned i = 0; i < sizeof headers / sizeof headers[0]; i++)
		ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, headers[i], PASS);
}

/* R8: of a packet that GRO has put together, the length of one segment with its headers. */
static void segment_length(struct emitter *e)
{
	const int transport = IP + header_size(e);
	ipsf_bpf_load(e->code, BPF_W, R2, R6, offsetof(struct __sk_buff, gso_size));
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, 0, label(e, ONE_PACKET));
	load(e, BPF_B, R2, protocol_at(e));
	ipsf_bpf_jump_value(e->code, BPF_JEQ, R2, IPSF_PROTO_TCP, label(e, TCP));
	ipsf_bpf_jump_value(e->code, BPF_JNE, R2, IPSF_PROTO_UDP, PASS);
	ipsf_bpf_alu_value(e->code, BPF_MOV, R8, UDP_HEADER);
	ipsf_bpf_go(e->code, label(e, SEGMENT));
	ipsf_bpf_label(e->code, label(e, TCP));
	need(e, transport + 12, transport + 13);
	load(e, BPF_B, R8, transport + 12);
	ipsf_bpf_alu_value(e->code, BPF_RSH, R8, 4);
	ipsf_bpf_alu_value(e->code, BPF_LSH, R8, 2);
	ipsf_bpf_label(e->code, label(e, SEGMENT));
	ipsf_bpf_load(e->code, BPF_W, R2, R6, offsetof(struct __sk_buff, gso_size));
	ipsf_bpf_alu(e->code, BPF_ADD, R8, R2);
	ipsf_bpf_alu_value(e->code, BPF_ADD, R8, header_size(e));
	ipsf_bpf_label(e->code, label(e, ONE_PACKET));
}

static void inner(struct emitter *e)
{
	load(e, BPF_B, R2, IP + (e->version == 4 ? 8 : 7)); /* TTL, hop limit */
	ipsf_bpf_jump_value(e->code, BPF_JLT, R2, 2, PASS);
	check_ordinary(e, IP + (e->version == 4 ? 12 : 8));
	check_ordinary(e, IP + (e->version == 4 ? 16 : 24));
	if (e->version == 6)
		check_next_header(e);
	if (copies(e))
		segment_length(e);
	make_key(e);
	look_up(e, e->what->destinations, STACK_KEY);
	ipsf_bpf_load(e->code, BPF_W, R2, R0, 0);
	ipsf_bpf_jump(e->code, BPF_JGT, R8, R2, PASS);
	ipsf_bpf_go(e->code, TAKE);
}

/* ---- the whole ---- */

static void verdicts(struct emitter *e)
{
	static const int32_t passed[IPSF_HOOK_COUNT] = {XDP_PASS, XDP_PASS, -1 /* the next program, or the stack */, 0};
	const enum ipsf_hook hook = e->what->hook;
	ipsf_bpf_label(e->code, TAKE);
	if (is_xdp(e)) {
		ipsf_bpf_map(e->code, R1, e->what->sockets);
		ipsf_bpf_load(e->code, BPF_W, R2, R6, offsetof(struct xdp_md, rx_queue_index));
		ipsf_bpf_alu_value(e->code, BPF_MOV, R3, XDP_PASS);
		ipsf_bpf_call(e->code, BPF_FUNC_redirect_map);
		ipsf_bpf_emit(e->code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	} else {
		if (e->what->given >= 0 && hook == IPSF_HOOK_SOCKET)
			ipsf_bpf_store_value(e->code, BPF_W, R9, 0, 1);
		ipsf_bpf_return(e->code, (int32_t)ipsf_classify_taken(hook));
	}
	ipsf_bpf_label(e->code, PASS);
	ipsf_bpf_return(e->code, passed[hook]);
}

int ipsf_classify_emit(const struct ipsf_classify *what, struct ipsf_bpf_code *code)
{
	struct emitter e = {.code = code, .what = what};
	memset(code, 0, sizeof *code);
	begin(&e);
	ethernet(&e);
	for (e.version = 4; e.version <= 6; e.version += 2) {
		if (e.version == 6)
			ipsf_bpf_label(code, VERSION_6);
		if (e.version == 4)
			check_v4(&e);
		else
			check_v6(&e);
		pass_udp_of_generic(&e);
		if (what->role == IPSF_ROLE_OUTER)
			outer(&e);
		else
			inner(&e);
	}
	verdicts(&e);
	return ipsf_bpf_finish(code);
}
