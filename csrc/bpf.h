/*
 * Programs for the kernel: an assembler for eBPF, and bpf(2) itself. No compiler for BPF and no loader library is needed, to build or
 * to run: a program here is a C function that emits instructions.
 *
 * Ownership: maps, programs and links are file descriptors; a link and what it holds vanish with the last of them, however the
 * process ends. Any thread; nothing here keeps state.
 */
#ifndef IPSF_BPF_H
#define IPSF_BPF_H

#include <linux/bpf.h>

#include "base.h"
#include "include/ipsecfast.h"

/* ---- the assembler: pure ---- */

#define IPSF_BPF_CODE_MAX 256
#define IPSF_BPF_LABELS 16

enum ipsf_bpf_register { R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, R10 };

/* Instructions as they are emitted; jumps forward name a label, which is set later. */
struct ipsf_bpf_code {
	struct bpf_insn insn[IPSF_BPF_CODE_MAX];
	uint8_t target[IPSF_BPF_CODE_MAX]; /* a jump's label + 1 */
	uint16_t place[IPSF_BPF_LABELS];   /* where a label stands, + 1 */
	unsigned n;
	bool overflow;
};

static inline void ipsf_bpf_emit(struct ipsf_bpf_code *code, unsigned op, unsigned to, unsigned from, int offset, int32_t value)
{
	if (code->n == IPSF_BPF_CODE_MAX) {
		code->overflow = true;
		return;
	}
	code->insn[code->n++] = (struct bpf_insn){.code = (uint8_t)op, .dst_reg = to & 15u, .src_reg = from & 15u,
						  .off = (int16_t)offset, .imm = value};
}

/* size: BPF_B, BPF_H, BPF_W, BPF_DW. Values come in the machine's byte order: compare with numbers turned by htons, htonl. */
static inline void ipsf_bpf_load(struct ipsf_bpf_code *code, unsigned size, unsigned to, unsigned from, int offset)
{
	ipsf_bpf_emit(code, BPF_LDX | size | BPF_MEM, to, from, offset, 0);
}

static inline void ipsf_bpf_store(struct ipsf_bpf_code *code, unsigned size, unsigned to, int offset, unsigned from)
{
	ipsf_bpf_emit(code, BPF_STX | size | BPF_MEM, to, from, offset, 0);
}

static inline void ipsf_bpf_store_value(struct ipsf_bpf_code *code, unsigned size, unsigned to, int offset, int32_t value)
{
	ipsf_bpf_emit(code, BPF_ST | size | BPF_MEM, to, 0, offset, value);
}

/* op: BPF_MOV, BPF_ADD, BPF_SUB, BPF_AND, BPF_RSH, ...; 64 bits, by a register or by a number (sign-extended). */
static inline void ipsf_bpf_alu(struct ipsf_bpf_code *code, unsigned op, unsigned to, unsigned from)
{
	ipsf_bpf_emit(code, BPF_ALU64 | op | BPF_X, to, from, 0, 0);
}

static inline void ipsf_bpf_alu_value(struct ipsf_bpf_code *code, unsigned op, unsigned to, int32_t value)
{
	ipsf_bpf_emit(code, BPF_ALU64 | op | BPF_K, to, 0, 0, value);
}

/* 16 bits, 32 bits from network byte order. */
static inline void ipsf_bpf_from_be16(struct ipsf_bpf_code *code, unsigned reg)
{
	ipsf_bpf_emit(code, BPF_ALU | BPF_END | BPF_TO_BE, reg, 0, 0, 16);
}

static inline void ipsf_bpf_from_be32(struct ipsf_bpf_code *code, unsigned reg)
{
	ipsf_bpf_emit(code, BPF_ALU | BPF_END | BPF_TO_BE, reg, 0, 0, 32);
}

static inline void ipsf_bpf_aim(struct ipsf_bpf_code *code, unsigned label)
{
	if (code->n < IPSF_BPF_CODE_MAX)
		code->target[code->n] = (uint8_t)(label + 1);
}

/* op: BPF_JEQ, BPF_JNE, BPF_JGT, BPF_JLT, BPF_JSET, ... Numbers compare as 32 bits: what is compared was loaded, or is a length. */
static inline void ipsf_bpf_jump(struct ipsf_bpf_code *code, unsigned op, unsigned a, unsigned b, unsigned label)
{
	ipsf_bpf_aim(code, label);
	ipsf_bpf_emit(code, BPF_JMP | op | BPF_X, a, b, 0, 0);
}

static inline void ipsf_bpf_jump_value(struct ipsf_bpf_code *code, unsigned op, unsigned a, uint32_t value, unsigned label)
{
	ipsf_bpf_aim(code, label);
	ipsf_bpf_emit(code, BPF_JMP32 | op | BPF_K, a, 0, 0, (int32_t)value);
}

/* A pointer that a helper gave and that may be NULL: all of its bits. */
static inline void ipsf_bpf_jump_null(struct ipsf_bpf_code *code, unsigned reg, unsigned label)
{
	ipsf_bpf_aim(code, label);
	ipsf_bpf_emit(code, BPF_JMP | BPF_JEQ | BPF_K, reg, 0, 0, 0);
}

static inline void ipsf_bpf_go(struct ipsf_bpf_code *code, unsigned label)
{
	ipsf_bpf_aim(code, label);
	ipsf_bpf_emit(code, BPF_JMP | BPF_JA, 0, 0, 0, 0);
}

static inline void ipsf_bpf_label(struct ipsf_bpf_code *code, unsigned label)
{
	code->place[label] = (uint16_t)(code->n + 1);
}

static inline void ipsf_bpf_call(struct ipsf_bpf_code *code, int32_t helper)
{
	ipsf_bpf_emit(code, BPF_JMP | BPF_CALL, 0, 0, 0, helper);
}

/* The address of a map (its descriptor, until the kernel has loaded the program): two instructions. */
static inline void ipsf_bpf_map(struct ipsf_bpf_code *code, unsigned to, int map)
{
	ipsf_bpf_emit(code, BPF_LD | BPF_DW | BPF_IMM, to, BPF_PSEUDO_MAP_FD, 0, map);
	ipsf_bpf_emit(code, 0, 0, 0, 0, 0);
}

static inline void ipsf_bpf_return(struct ipsf_bpf_code *code, int32_t value)
{
	ipsf_bpf_alu_value(code, BPF_MOV, R0, value);
	ipsf_bpf_emit(code, BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
}

/* Aims the jumps. IPSF_EINVAL: the program is too long, or a label it jumps to is not set or stands behind. */
IPSF_MUST_CHECK int ipsf_bpf_finish(struct ipsf_bpf_code *code);

/* ---- bpf(2): each returns 0 or a descriptor, or IPSF_ESYS with errno ---- */

struct ipsf_bpf_map_shape {
	enum bpf_map_type type;
	uint32_t key_size, value_size, entries, flags; /* bytes, bytes, at most, BPF_F_... */
	const char *name;                              /* at most 15 characters */
};
IPSF_MUST_CHECK int ipsf_bpf_map_new(const struct ipsf_bpf_map_shape *shape);
IPSF_MUST_CHECK int ipsf_bpf_map_set(int map, const void *key, const void *value);
IPSF_MUST_CHECK int ipsf_bpf_map_delete(int map, const void *key); /* ENOENT: there was none */
IPSF_MUST_CHECK int ipsf_bpf_map_get(int map, const void *key, void *value);

#define IPSF_BPF_LOG_SIZE 4096 /* bytes of the verifier's words that are kept: the last ones say why */

/*
 * The finished program, checked by the kernel. log (size bytes): why it was refused, "" where the verifier said nothing. attach: the
 * attach type that the program is for, 0 where its type says all.
 */
IPSF_MUST_CHECK int ipsf_bpf_program_new(const struct ipsf_bpf_code *code, enum bpf_prog_type type, unsigned attach, const char *name,
					 char *log, size_t size);
/* A socket filter, emitted and loaded. IPSF_EINVAL: it grew beyond what the assembler holds. */
IPSF_MUST_CHECK int ipsf_bpf_filter_new(int (*emit)(struct ipsf_bpf_code *code), const char *name);
/* Attaches a program to an interface (BPF_XDP with XDP_FLAGS_..., IPSF_BPF_TCX_INGRESS) until the descriptor is closed. */
IPSF_MUST_CHECK int ipsf_bpf_link_new(int program, unsigned interface_index, unsigned attach, uint32_t flags);

#define IPSF_BPF_TCX_INGRESS 46 /* BPF_TCX_INGRESS of Linux 6.6, which older headers lack */

#endif
