/* The gate of IKE (ipsecfast.h): the map of our SPIs, and the program over it (steer.h) at the sockets' groups. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bpf.h"
#include "steer.h"

#define SPIS_MAX (1u << 20) /* allocated as they come; what is beyond comes as a stranger's */

struct ipsf_gate {
	int map;
};

static int load(const struct ipsf_gate *gate, uint32_t workers)
{
	struct ipsf_bpf_code code;
	char log[IPSF_BPF_LOG_SIZE];
	if (ipsf_steer_ike(&code, gate->map, workers) != IPSF_OK)
		return IPSF_EINVAL;
	return ipsf_bpf_program_new(&code, BPF_PROG_TYPE_SOCKET_FILTER, 0, "ipsf_ike", log, sizeof log);
}

/* Loads a program only to know that the kernel takes it. */
static int make_map(struct ipsf_gate *gate)
{
	const struct ipsf_bpf_map_shape spis = {BPF_MAP_TYPE_HASH, 8, 4, SPIS_MAX, BPF_F_NO_PREALLOC, "ipsf_ike_spis"};
	gate->map = ipsf_bpf_map_new(&spis);
	if (gate->map < 0)
		return gate->map;
	const int program = load(gate, 0);
	const int error = errno;
	close(program >= 0 ? program : gate->map);
	errno = error;
	return program >= 0 ? IPSF_OK : program;
}

int ipsf_gate_new(struct ipsf_gate **out)
{
	struct ipsf_gate *gate = malloc(sizeof *gate);
	if (!gate)
		return IPSF_ENOMEM;
	const int status = make_map(gate);
	if (status == IPSF_OK)
		*out = gate;
	else
		free(gate);
	return status;
}

void ipsf_gate_free(struct ipsf_gate *gate)
{
	if (!gate)
		return;
	close(gate->map);
	free(gate);
}

int ipsf_gate_rank(struct ipsf_gate *gate, const uint8_t spi[8], enum ipsf_rank rank)
{
	const uint32_t value = rank;
	if (rank != IPSF_RANK_UNKNOWN)
		return ipsf_bpf_map_set(gate->map, spi, &value);
	const int status = ipsf_bpf_map_delete(gate->map, spi);
	return status == IPSF_ESYS && errno == ENOENT ? IPSF_OK : status;
}

int ipsf_gate_guard(struct ipsf_gate *gate, int socket, uint32_t workers)
{
	const int program = load(gate, workers);
	if (program < 0)
		return program;
	const int status = setsockopt(socket, SOL_SOCKET, SO_ATTACH_REUSEPORT_EBPF, &program, sizeof program) < 0 ? IPSF_ESYS : IPSF_OK;
	close(program);
	return status;
}
