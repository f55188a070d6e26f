#include "steer.h"

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
