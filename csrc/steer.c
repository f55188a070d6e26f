#include "steer.h"

#include <netinet/in.h>

#include "bpf.h"
#include "udpencap.h"

static void emit(struct ipsf_steer *steer, struct sock_filter instruction)
{
	steer->code[steer->n++] = instruction;
}

/* ipsf_owner() of the SPI that was loaded. */
static void emit_owner(struct ipsf_steer *steer, uint32_t n)
{
	emit(steer, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, IPSF_OWNER_SHIFT));
	emit(steer, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, IPSF_OWNER_MASK));
	emit(steer, (struct sock_filter)BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, n));
}

/* A load beyond the packet ends the program with 0: worker 0 for a group, no packet for a raw socket. */
void ipsf_steer_group(struct ipsf_steer *steer, uint32_t n)
{
	steer->n = 0;
	emit(steer, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0));
	emit_owner(steer, n);
	emit(steer, (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0));
}

void ipsf_steer_raw(struct ipsf_steer *steer, uint8_t version, uint32_t i, uint32_t n)
{
	steer->n = 0;
	if (version == 4)
		emit(steer, (struct sock_filter)BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0));
	else
		emit(steer, (struct sock_filter)BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, 0));
	emit(steer, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_IND, 0));
	emit_owner(steer, n);
	emit(steer, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, i, 0, 1));
	emit(steer, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, UINT32_MAX));
	emit(steer, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0));
}

/* ---- flows: R6 is the packet, R7 the hash, R8 the protocol, R2 where its header begins ---- */

#define HEADER (-40) /* on the stack; of an IPv4 header 20 bytes are read */
#define PORTS (-48)
#define MIX 0x5851f42d /* odd, its bits without a pattern */

enum { IPV6, PROTOCOL, HAS_PORTS, DONE, NOTHING };

/* Copies length bytes from R2 on to the stack at `to`; R0 is not 0 when there are fewer. */
static void emit_read(struct ipsf_bpf_code *code, int to, int length)
{
	ipsf_bpf_alu(code, BPF_MOV, R1, R6);
	ipsf_bpf_alu(code, BPF_MOV, R3, R10);
	ipsf_bpf_alu_value(code, BPF_ADD, R3, to);
	ipsf_bpf_alu_value(code, BPF_MOV, R4, length);
	ipsf_bpf_call(code, BPF_FUNC_skb_load_bytes);
}

/* Each word changes all bits of the hash, the low ones too: the kernel divides by the number of queues. */
static void emit_mix(struct ipsf_bpf_code *code, int at, int words)
{
	for (int i = 0; i < words; i++) {
		ipsf_bpf_load(code, BPF_W, R0, R10, at + 4 * i);
		ipsf_bpf_alu(code, BPF_XOR, R7, R0);
		ipsf_bpf_alu_value(code, BPF_MUL, R7, MIX);
		ipsf_bpf_alu(code, BPF_MOV, R0, R7);
		ipsf_bpf_alu_value(code, BPF_RSH, R0, 32);
		ipsf_bpf_alu(code, BPF_XOR, R7, R0);
	}
}

static void emit_ipv4(struct ipsf_bpf_code *code)
{
	emit_mix(code, HEADER + 12, 2);
	ipsf_bpf_load(code, BPF_H, R0, R10, HEADER + 6);
	ipsf_bpf_from_be16(code, R0);
	ipsf_bpf_jump_value(code, BPF_JSET, R0, 0x3fff, DONE); /* more fragments, or an offset */
	ipsf_bpf_load(code, BPF_B, R8, R10, HEADER + 9);
	ipsf_bpf_load(code, BPF_B, R2, R10, HEADER);
	ipsf_bpf_alu_value(code, BPF_AND, R2, 15);
	ipsf_bpf_alu_value(code, BPF_LSH, R2, 2);
	ipsf_bpf_go(code, PROTOCOL);
}

static void emit_ipv6(struct ipsf_bpf_code *code)
{
	ipsf_bpf_label(code, IPV6);
	ipsf_bpf_alu_value(code, BPF_MOV, R2, 0);
	emit_read(code, HEADER, 40);
	ipsf_bpf_jump_value(code, BPF_JNE, R0, 0, NOTHING);
	emit_mix(code, HEADER + 8, 8);
	ipsf_bpf_load(code, BPF_B, R8, R10, HEADER + 6);
	ipsf_bpf_alu_value(code, BPF_MOV, R2, 40);
}

static void emit_ports(struct ipsf_bpf_code *code)
{
	ipsf_bpf_label(code, PROTOCOL);
	ipsf_bpf_jump_value(code, BPF_JEQ, R8, IPPROTO_TCP, HAS_PORTS);
	ipsf_bpf_jump_value(code, BPF_JEQ, R8, IPPROTO_UDP, HAS_PORTS);
	ipsf_bpf_jump_value(code, BPF_JNE, R8, IPPROTO_SCTP, DONE);
	ipsf_bpf_label(code, HAS_PORTS);
	emit_read(code, PORTS, 4);
	ipsf_bpf_jump_value(code, BPF_JNE, R0, 0, DONE);
	emit_mix(code, PORTS, 1);
}

int ipsf_steer_flows(struct ipsf_bpf_code *code)
{
	memset(code, 0, sizeof *code);
	ipsf_bpf_alu(code, BPF_MOV, R6, R1);
	ipsf_bpf_alu_value(code, BPF_MOV, R7, 0);
	ipsf_bpf_alu_value(code, BPF_MOV, R2, 0);
	emit_read(code, HEADER, 20);
	ipsf_bpf_jump_value(code, BPF_JNE, R0, 0, NOTHING);
	ipsf_bpf_load(code, BPF_B, R8, R10, HEADER);
	ipsf_bpf_alu_value(code, BPF_RSH, R8, 4);
	ipsf_bpf_jump_value(code, BPF_JEQ, R8, 6, IPV6);
	emit_ipv4(code);
	emit_ipv6(code);
	emit_ports(code);
	ipsf_bpf_label(code, DONE);
	ipsf_bpf_alu(code, BPF_MOV, R0, R7);
	ipsf_bpf_emit(code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	ipsf_bpf_label(code, NOTHING);
	ipsf_bpf_return(code, 0);
	return ipsf_bpf_finish(code);
}

/* ---- IKE: R6 is the datagram ---- */

#define IKE_HEADER (-48) /* on the stack: both SPIs, and the flags behind them */
#define IKE_READ 20
#define IKE_FLAGS 19
#define FROM_INITIATOR 0x08
#define OUR_SPI (-8)

enum { ESP, SHORT, OURS, UNKNOWN };

static void emit_exit(struct ipsf_bpf_code *code)
{
	ipsf_bpf_emit(code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* Goes on behind the marker. */
static void emit_marker(struct ipsf_bpf_code *code)
{
	ipsf_bpf_alu_value(code, BPF_MOV, R2, 0);
	emit_read(code, IKE_HEADER, 4);
	ipsf_bpf_jump_value(code, BPF_JNE, R0, 0, SHORT);
	ipsf_bpf_load(code, BPF_W, R0, R10, IKE_HEADER);
	ipsf_bpf_jump_value(code, BPF_JNE, R0, 0, ESP);
}

static void emit_esp(struct ipsf_bpf_code *code, uint32_t workers)
{
	ipsf_bpf_label(code, ESP);
	ipsf_bpf_from_be32(code, R0);
	ipsf_bpf_alu_value(code, BPF_RSH, R0, IPSF_OWNER_SHIFT);
	ipsf_bpf_alu_value(code, BPF_AND, R0, IPSF_OWNER_MASK);
	ipsf_bpf_alu_value(code, BPF_MOD, R0, (int32_t)workers);
	emit_exit(code);
	ipsf_bpf_label(code, SHORT); /* a keepalive */
	ipsf_bpf_return(code, 0);
}

/* The number that the map has for our SPI, counted from behind the workers' sockets. */
static void emit_rank(struct ipsf_bpf_code *code, int map, uint32_t workers)
{
	ipsf_bpf_load(code, BPF_DW, R7, R10, IKE_HEADER + 8);
	ipsf_bpf_load(code, BPF_B, R0, R10, IKE_HEADER + IKE_FLAGS);
	ipsf_bpf_jump_value(code, BPF_JSET, R0, FROM_INITIATOR, OURS);
	ipsf_bpf_load(code, BPF_DW, R7, R10, IKE_HEADER);
	ipsf_bpf_label(code, OURS);
	ipsf_bpf_store(code, BPF_DW, R10, OUR_SPI, R7);
	ipsf_bpf_map(code, R1, map);
	ipsf_bpf_alu(code, BPF_MOV, R2, R10);
	ipsf_bpf_alu_value(code, BPF_ADD, R2, OUR_SPI);
	ipsf_bpf_call(code, BPF_FUNC_map_lookup_elem);
	ipsf_bpf_jump_null(code, R0, UNKNOWN);
	ipsf_bpf_load(code, BPF_W, R0, R0, 0);
	ipsf_bpf_alu_value(code, BPF_ADD, R0, (int32_t)workers);
	emit_exit(code);
}

int ipsf_steer_ike(struct ipsf_bpf_code *code, int map, uint32_t workers)
{
	memset(code, 0, sizeof *code);
	ipsf_bpf_alu(code, BPF_MOV, R6, R1);
	if (workers)
		emit_marker(code);
	ipsf_bpf_alu_value(code, BPF_MOV, R2, workers ? IPSF_NON_ESP_MARKER : 0);
	emit_read(code, IKE_HEADER, IKE_READ);
	ipsf_bpf_jump_value(code, BPF_JNE, R0, 0, UNKNOWN);
	emit_rank(code, map, workers);
	ipsf_bpf_label(code, UNKNOWN);
	ipsf_bpf_return(code, (int32_t)(workers + IPSF_RANK_UNKNOWN));
	if (workers)
		emit_esp(code, workers);
	return ipsf_bpf_finish(code);
}
