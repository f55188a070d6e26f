#define _GNU_SOURCE
#include "intake.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define DESTINATIONS_MAX (1u << 20) /* allocated as they come */

static int make_destinations(enum ipsf_role role)
{
	const struct ipsf_bpf_map_shape addresses = {BPF_MAP_TYPE_HASH, sizeof(struct ipsf_classify_address), 4, DESTINATIONS_MAX,
						     BPF_F_NO_PREALLOC, "ipsf_addresses"};
	const struct ipsf_bpf_map_shape prefixes = {BPF_MAP_TYPE_LPM_TRIE, sizeof(struct ipsf_classify_prefix), 4, DESTINATIONS_MAX,
						    BPF_F_NO_PREALLOC, "ipsf_prefixes"};
	return ipsf_bpf_map_new(role == IPSF_ROLE_OUTER ? &addresses : &prefixes);
}

int ipsf_intake_new(enum ipsf_role role, unsigned interface_index, struct ipsf_intake **out)
{
	const struct ipsf_bpf_map_shape device = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct ipsf_classify_device), 1, 0, "ipsf_device"};
	const struct ipsf_bpf_map_shape given = {BPF_MAP_TYPE_PERCPU_ARRAY, 4, sizeof(uint32_t), 1, 0, "ipsf_given"};
	struct ipsf_intake *intake = malloc(sizeof *intake);
	if (!intake)
		return IPSF_ENOMEM;
	*intake = (struct ipsf_intake){.role = role, .interface_index = interface_index, .users = 1, .destinations = -1, .given = -1,
				       .link = -1};
	intake->device = ipsf_bpf_map_new(&device);
	if (intake->device >= 0)
		intake->destinations = make_destinations(role);
	if (intake->destinations >= 0)
		intake->given = ipsf_bpf_map_new(&given);
	if (intake->given < 0) {
		ipsf_intake_release(intake);
		return IPSF_ESYS;
	}
	*out = intake;
	return IPSF_OK;
}

struct ipsf_intake *ipsf_intake_share(struct ipsf_intake *intake)
{
	intake->users++;
	return intake;
}

void ipsf_intake_release(struct ipsf_intake *intake)
{
	const int error = errno; /* of what went wrong before */
	if (!intake || --intake->users)
		return;
	if (intake->link >= 0)
		close(intake->link);
	if (intake->device >= 0)
		close(intake->device);
	if (intake->destinations >= 0)
		close(intake->destinations);
	if (intake->given >= 0)
		close(intake->given);
	free(intake);
	errno = error;
}

int ipsf_intake_program(const struct ipsf_intake *intake, enum ipsf_hook hook, int sockets)
{
	const struct ipsf_classify what = {intake->role, hook, intake->device, intake->destinations, sockets, intake->given};
	struct ipsf_bpf_code *code = malloc(sizeof *code);
	char log[IPSF_BPF_LOG_SIZE];
	if (!code)
		return IPSF_ENOMEM;
	int program = ipsf_classify_emit(&what, code);
	if (program == IPSF_OK)
		program = ipsf_bpf_program_new(code, ipsf_classify_program_type(hook), ipsf_classify_attach_type(hook), "ipsf_take", log,
					       sizeof log);
	free(code);
	return program;
}

/* ---- the public functions ---- */

int ipsf_port_set_address(struct ipsf_port *port, const uint8_t address[6])
{
	const uint32_t key = 0;
	struct ipsf_classify_device device = {.zero = {0}};
	if (!port->intake)
		return IPSF_EINVAL;
	memcpy(device.address, address, sizeof device.address);
	return ipsf_bpf_map_set(port->intake->device, &key, &device);
}

/* The key of either map: an address is the end of a prefix. False: no such prefix, or OUTER and not one address. */
static bool make_key(const struct ipsf_intake *intake, const struct ipsf_addr *network, uint8_t prefix_length,
		     struct ipsf_classify_prefix *key)
{
	const unsigned bits = network->version == 4 ? 32 : 128;
	if ((network->version != 4 && network->version != 6) || prefix_length > bits ||
	    (intake->role == IPSF_ROLE_OUTER && prefix_length != bits))
		return false;
	*key = (struct ipsf_classify_prefix){.bits = 32u + prefix_length, .address.version = network->version};
	memcpy(key->address.address, network->bytes, bits / 8);
	return true;
}

int ipsf_port_take(struct ipsf_port *port, const struct ipsf_addr *network, uint8_t prefix_length, uint32_t longest)
{
	struct ipsf_classify_prefix key;
	const struct ipsf_intake *intake = port->intake;
	if (!intake || !make_key(intake, network, prefix_length, &key))
		return IPSF_EINVAL;
	return ipsf_bpf_map_set(intake->destinations, intake->role == IPSF_ROLE_OUTER ? (void *)&key.address : (void *)&key, &longest);
}

int ipsf_port_leave(struct ipsf_port *port, const struct ipsf_addr *network, uint8_t prefix_length)
{
	struct ipsf_classify_prefix key;
	const struct ipsf_intake *intake = port->intake;
	if (!intake || !make_key(intake, network, prefix_length, &key))
		return IPSF_EINVAL;
	const int status =
		ipsf_bpf_map_delete(intake->destinations, intake->role == IPSF_ROLE_OUTER ? (void *)&key.address : (void *)&key);
	return status != IPSF_OK && errno == ENOENT ? IPSF_OK : status;
}
