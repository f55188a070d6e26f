/* The gate of IKE: which socket of a group a message comes to, asked of the program itself, one datagram at a time. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bpf.h"
#include "check.h"
#include "steer.h"

#define WORKERS 2u
#define FROM_INITIATOR 0x08
#define MARKER 4

static const uint8_t ours[8] = {1, 2, 3, 4, 5, 6, 7, 8}, other[8] = {1, 2, 3, 4, 5, 6, 7, 9}, zero[8];

static uint32_t said(int program, const uint8_t *datagram, uint32_t length)
{
	uint8_t frame[14 + 64] = {0};
	union bpf_attr a;
	memcpy(frame + 14, datagram, length);
	memset(&a, 0, sizeof a);
	a.test.prog_fd = (uint32_t)program;
	a.test.data_in = (uint64_t)(uintptr_t)frame;
	a.test.data_size_in = 14 + length;
	a.test.repeat = 1;
	CHECK(syscall(SYS_bpf, BPF_PROG_TEST_RUN, &a, sizeof a) == 0);
	return a.test.retval;
}

/* Of a message with these SPIs and flags; behind a marker where the sockets are the workers' too. */
static uint32_t message(int program, uint32_t workers, const uint8_t *spi_i, const uint8_t *spi_r, uint8_t flags)
{
	uint8_t datagram[MARKER + 28] = {0};
	uint8_t *header = datagram + (workers ? MARKER : 0);
	memcpy(header, spi_i, 8);
	memcpy(header + 8, spi_r, 8);
	header[19] = flags;
	return said(program, datagram, (workers ? MARKER : 0) + 28) - workers;
}

static int program_for(int map, uint32_t workers)
{
	struct ipsf_bpf_code code;
	char log[IPSF_BPF_LOG_SIZE];
	CHECK(ipsf_steer_ike(&code, map, workers) == IPSF_OK);
	const int program = ipsf_bpf_program_new(&code, BPF_PROG_TYPE_SOCKET_FILTER, 0, "ike", log, sizeof log);
	CHECK(program >= 0 && log[0] == 0);
	return program;
}

/* Whose SPI is ours says the flag of the sender's role (RFC 7296 s3.1), so a forged one does not help. */
static void messages(int map, uint32_t workers)
{
	const int program = program_for(map, workers);
	for (uint32_t rank = IPSF_RANK_PROVEN; rank < IPSF_RANK_UNKNOWN; rank++) {
		CHECK(ipsf_bpf_map_set(map, ours, &rank) == IPSF_OK);
		CHECK(message(program, workers, other, ours, FROM_INITIATOR) == rank);
		CHECK(message(program, workers, ours, other, 0) == rank);
		CHECK(message(program, workers, ours, zero, 0x20) == rank); /* a response that gives no SPI yet */
		CHECK(message(program, workers, ours, other, FROM_INITIATOR) == IPSF_RANK_UNKNOWN);
		CHECK(message(program, workers, other, ours, 0) == IPSF_RANK_UNKNOWN);
	}
	CHECK(message(program, workers, other, zero, FROM_INITIATOR) == IPSF_RANK_UNKNOWN);
	CHECK(ipsf_bpf_map_delete(map, ours) == IPSF_OK);
	CHECK(message(program, workers, other, ours, FROM_INITIATOR) == IPSF_RANK_UNKNOWN);
	for (uint32_t length = workers ? MARKER : 1; length < (workers ? MARKER : 0) + 20u; length++)
		CHECK(said(program, (const uint8_t[64]){0}, length) == workers + IPSF_RANK_UNKNOWN);
	close(program);
}

static void esp(int map)
{
	const int program = program_for(map, WORKERS);
	for (uint32_t i = 1; i < 300; i++) {
		const uint32_t spi = i << IPSF_OWNER_SHIFT | 0x1000u;
		uint8_t datagram[40] = {0};
		ipsf_write32(datagram, spi);
		CHECK(said(program, datagram, sizeof datagram) == ipsf_owner(spi, WORKERS));
	}
	CHECK(said(program, (const uint8_t *)"\xff", 1) == 0);
	close(program);
}

static void refusals(struct ipsf_gate *gate)
{
	const int alone = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr_in any = {.sin_family = AF_INET};
	CHECK(ipsf_gate_rank(gate, ours, IPSF_RANK_UNKNOWN) == IPSF_OK); /* none was there */
	CHECK(ipsf_gate_rank(gate, ours, IPSF_RANK_BEGUN) == IPSF_OK && ipsf_gate_rank(gate, ours, IPSF_RANK_PROVEN) == IPSF_OK);
	CHECK(ipsf_gate_rank(gate, ours, IPSF_RANK_UNKNOWN) == IPSF_OK);
	CHECK(bind(alone, (struct sockaddr *)&any, sizeof any) == 0);
	CHECK(ipsf_gate_guard(gate, alone, 0) == IPSF_ESYS && errno == EINVAL); /* of no group */
	close(alone);
}

int main(void)
{
	struct ipsf_gate *gate;
	const struct ipsf_bpf_map_shape spis = {BPF_MAP_TYPE_HASH, 8, 4, 16, 0, "spis"};
	const int map = ipsf_bpf_map_new(&spis);
	if (map < 0) {
		printf("test_gate: no BPF here: %s\n", strerror(errno));
		return check_summary("test_gate");
	}
	messages(map, 0);
	messages(map, WORKERS);
	esp(map);
	close(map);
	CHECK(ipsf_gate_new(&gate) == IPSF_OK);
	refusals(gate);
	ipsf_gate_free(gate);
	ipsf_gate_free(NULL);
	return check_summary("test_gate");
}
