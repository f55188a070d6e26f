#define _GNU_SOURCE
#include "bpf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FULL_LOG (1u << 18) /* bytes; the kernel refuses a program with a log that does not fit */

int ipsf_bpf_finish(struct ipsf_bpf_code *code)
{
	for (unsigned i = 0; i < code->n; i++) {
		if (!code->target[i])
			continue;
		const unsigned place = code->place[code->target[i] - 1];
		if (place <= i + 1) /* not set, or backwards */
			return IPSF_EINVAL;
		code->insn[i].off = (int16_t)(place - 1 - (i + 1));
		code->target[i] = 0;
	}
	return code->overflow || code->n == 0 ? IPSF_EINVAL : IPSF_OK;
}

static int bpf(enum bpf_cmd command, union bpf_attr *attributes)
{
	const long result = syscall(SYS_bpf, command, attributes, sizeof *attributes);
	return result < 0 ? IPSF_ESYS : (int)result;
}

static uint64_t address_of(const void *p)
{
	return (uint64_t)(uintptr_t)p;
}

int ipsf_bpf_map_new(const struct ipsf_bpf_map_shape *shape)
{
	union bpf_attr a;
	memset(&a, 0, sizeof a);
	a.map_type = shape->type;
	a.key_size = shape->key_size;
	a.value_size = shape->value_size;
	a.max_entries = shape->entries;
	a.map_flags = shape->flags;
	snprintf(a.map_name, sizeof a.map_name, "%s", shape->name);
	return bpf(BPF_MAP_CREATE, &a);
}

static int element(enum bpf_cmd command, int map, const void *key, const void *value)
{
	union bpf_attr a;
	memset(&a, 0, sizeof a);
	a.map_fd = (uint32_t)map;
	a.key = address_of(key);
	a.value = address_of(value);
	return bpf(command, &a);
}

int ipsf_bpf_map_set(int map, const void *key, const void *value)
{
	return element(BPF_MAP_UPDATE_ELEM, map, key, value);
}

int ipsf_bpf_map_delete(int map, const void *key)
{
	return element(BPF_MAP_DELETE_ELEM, map, key, NULL);
}

int ipsf_bpf_map_get(int map, const void *key, void *value)
{
	return element(BPF_MAP_LOOKUP_ELEM, map, key, value);
}

/* Once more, with the verifier's words; those at the end are kept. errno stays that of the refusal. */
static void explain(union bpf_attr *a, char *log, size_t size)
{
	const int error = errno;
	char *all = calloc(1, FULL_LOG);
	if (all) {
		a->log_level = 1;
		a->log_buf = address_of(all);
		a->log_size = FULL_LOG;
		const int program = bpf(BPF_PROG_LOAD, a);
		if (program >= 0)
			close(program);
		const size_t length = strlen(all);
		snprintf(log, size, "%s", length < size ? all : all + length - (size - 1));
	}
	free(all);
	errno = error;
}

int ipsf_bpf_program_new(const struct ipsf_bpf_code *code, enum bpf_prog_type type, unsigned attach, const char *name, char *log,
			 size_t size)
{
	union bpf_attr a;
	memset(&a, 0, sizeof a);
	a.prog_type = type;
	a.expected_attach_type = attach;
	a.insns = address_of(code->insn);
	a.insn_cnt = code->n;
	a.license = address_of("Apache-2.0");
	snprintf(a.prog_name, sizeof a.prog_name, "%s", name);
	log[0] = 0;
	const int program = bpf(BPF_PROG_LOAD, &a);
	if (program < 0)
		explain(&a, log, size);
	return program;
}

int ipsf_bpf_filter_new(int (*emit)(struct ipsf_bpf_code *code), const char *name)
{
	struct ipsf_bpf_code code;
	char log[IPSF_BPF_LOG_SIZE];
	if (emit(&code) != IPSF_OK)
		return IPSF_EINVAL;
	const int program = ipsf_bpf_program_new(&code, BPF_PROG_TYPE_SOCKET_FILTER, 0, name, log, sizeof log);
	return program < 0 ? IPSF_ESYS : program;
}

int ipsf_bpf_link_new(int program, unsigned interface_index, unsigned attach, uint32_t flags)
{
	union bpf_attr a;
	memset(&a, 0, sizeof a);
	a.link_create.prog_fd = (uint32_t)program;
	a.link_create.target_ifindex = interface_index;
	a.link_create.attach_type = attach;
	a.link_create.flags = flags;
	return bpf(BPF_LINK_CREATE, &a);
}
