#define _GNU_SOURCE
#include "port_packet.h"

#include <errno.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define ALL_CARRIERS ((1u << IPSF_CARRIER_COUNT) - 1)

static bool reaches(const struct ipsf_port *port, const struct ipsf_packet *packet)
{
	return ipsf_link_reaches(port, packet);
}

static void packet_free(struct ipsf_port *port)
{
	struct ipsf_port_packet *p = (struct ipsf_port_packet *)port;
	const int error = errno; /* of what went wrong before */
	ipsf_packet_rx_close(p);
	ipsf_packet_tx_close(p);
	ipsf_intake_release(port->intake);
	ipsf_hops_free(atomic_load(&port->hops));
	free(p);
	errno = error;
}

static const struct ipsf_port_ops packet_ops = {
	.recv = ipsf_packet_recv,
	.send = ipsf_packet_send,
	.reaches = reaches,
	.drain = ipsf_packet_drain,
	.free = packet_free,
};

/* intake: a user of it becomes the port's, also when this fails. */
static int open_port(const struct ipsf_packet_options *options, struct ipsf_intake *intake, struct ipsf_port **port)
{
	struct ipsf_port_packet *p = aligned_alloc(IPSF_CACHE_LINE, sizeof *p);
	if (!p) {
		ipsf_intake_release(intake);
		return IPSF_ENOMEM;
	}
	memset(p, 0, sizeof *p);
	p->port = (struct ipsf_port){.ops = &packet_ops, .fd = -1, .carriers = options->outer ? ALL_CARRIERS : 0, .intake = intake};
	p->udp_port = options->udp_port;
	p->tx.fd = -1;
	snprintf(p->port.name, sizeof p->port.name, "packet:%s", options->interface);
	int status = ipsf_packet_rx_open(p);
	if (status == IPSF_OK)
		status = ipsf_packet_tx_open(p, options->bypass);
	if (status != IPSF_OK) {
		packet_free(&p->port);
		return status;
	}
	*port = &p->port;
	return IPSF_OK;
}

/*
 * What the sockets take the stack drops: the same choice at tc ingress, which comes behind the sockets' tap. The link holds it as
 * long as the intake lives.
 */
static int drop_for_stack(struct ipsf_intake *intake)
{
	const int program = ipsf_intake_program(intake, IPSF_HOOK_TC, -1);
	if (program < 0)
		return program;
	intake->link = ipsf_bpf_link_new(program, intake->interface_index, IPSF_BPF_TCX_INGRESS, 0);
	const int error = errno;
	close(program);
	errno = error;
	return intake->link < 0 ? IPSF_ESYS : IPSF_OK;
}

static void free_ports(struct ipsf_port **ports, size_t n)
{
	while (n-- > 0)
		packet_free(ports[n]);
}

int ipsf_port_packet_group(const struct ipsf_packet_options *options, size_t n, struct ipsf_port **ports)
{
	struct ipsf_intake *intake;
	const unsigned interface_index = if_nametoindex(options->interface);
	if (n == 0 || n > UINT8_MAX || interface_index == 0)
		return n == 0 || n > UINT8_MAX ? IPSF_EINVAL : IPSF_ESYS;
	int status = ipsf_intake_new(options->outer ? IPSF_ROLE_OUTER : IPSF_ROLE_INNER, interface_index, &intake);
	if (status != IPSF_OK)
		return status;
	size_t made = 0;
	for (; made < n && status == IPSF_OK; made += status == IPSF_OK)
		status = open_port(options, ipsf_intake_share(intake), &ports[made]);
	if (status == IPSF_OK && n > 1)
		status = ipsf_packet_rx_spread(ports, n);
	if (status == IPSF_OK)
		status = drop_for_stack(intake);
	if (status != IPSF_OK)
		free_ports(ports, made);
	ipsf_intake_release(intake);
	return status;
}
