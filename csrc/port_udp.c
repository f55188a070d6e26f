/* ESP in UDP (RFC 3948), and IKE behind the non-ESP marker: one wildcard socket a family. */
#define _GNU_SOURCE
#include "port_socket.h"

#include <netinet/udp.h>
#include <stdio.h>

#include "steer.h"

static const struct ipsf_port_ops udp_ops = {
	.recv = ipsf_port_socket_recv,
	.pending = ipsf_port_socket_pending,
	.send = ipsf_port_socket_send,
	.drain = ipsf_port_socket_drain,
	.free = ipsf_port_socket_free,
};

/* Port 0 takes a free one; which it became is learnt here. */
static int bind_port(struct ipsf_port_socket *s, uint16_t port_number)
{
	union ipsf_sockaddr address = {0};
	socklen_t size = s->version == 4 ? sizeof address.v4 : sizeof address.v6;
	if (s->version == 4)
		address.v4 = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port_number)};
	else
		address.v6 = (struct sockaddr_in6){.sin6_family = AF_INET6, .sin6_port = htons(port_number)};
	if (bind(s->port.fd, &address.any, size) < 0 || getsockname(s->port.fd, &address.any, &size) < 0)
		return IPSF_ESYS;
	s->port_number = ntohs(s->version == 4 ? address.v4.sin_port : address.v6.sin6_port);
	return IPSF_OK;
}

static bool reuse(const struct ipsf_port_socket *s)
{
	return ipsf_socket_option(s->port.fd, SOL_SOCKET, SO_REUSEPORT, 1) == IPSF_OK;
}

/* joins: the port is that of a group, which has been made so. */
static int make_port(uint8_t version, uint16_t port_number, uint32_t mark, bool joins, struct ipsf_port_socket **out)
{
	struct ipsf_port_socket *s;
	const int status = ipsf_port_socket_new(version, SOCK_DGRAM, IPPROTO_UDP, mark, &s);
	if (status != IPSF_OK)
		return status;
	if ((joins && !reuse(s)) || bind_port(s, port_number) != IPSF_OK) {
		ipsf_port_socket_free(&s->port);
		return IPSF_ESYS;
	}
	/* Older kernels know neither: then each datagram comes and goes alone. */
	const bool receives_segments = ipsf_socket_option(s->port.fd, IPPROTO_UDP, UDP_GRO, 1) == IPSF_OK;
	s->tx.segments = receives_segments && ipsf_socket_option(s->port.fd, IPPROTO_UDP, UDP_SEGMENT, 0) == IPSF_OK;
	s->port.ops = &udp_ops;
	s->port.carriers = 1u << (version == 4 ? IPSF_CARRIER_UDP4 : IPSF_CARRIER_UDP6);
	snprintf(s->port.name, sizeof s->port.name, "udp%u:%u", version, s->port_number);
	*out = s;
	return IPSF_OK;
}

/*
 * The first is bound alone, so that a port which another program has is refused, although that one would share it. *made: ports that
 * are there, after a failure too.
 */
static int make_group(uint8_t version, uint16_t port_number, uint32_t mark, size_t n, struct ipsf_port **ports, size_t *made)
{
	struct ipsf_port_socket *first = NULL, *s;
	struct ipsf_steer steer;
	for (*made = 0; *made < n;) {
		const int status = make_port(version, first ? first->port_number : port_number, mark, first, &s);
		if (status != IPSF_OK)
			return status;
		ports[(*made)++] = &s->port;
		if (!first && n > 1 && !reuse(s))
			return IPSF_ESYS;
		first = first ? first : s;
	}
	if (n == 1)
		return IPSF_OK;
	ipsf_steer_group(&steer, (uint32_t)n);
	return ipsf_socket_filter(first->port.fd, SO_ATTACH_REUSEPORT_CBPF, &steer);
}

int ipsf_port_udp_group(uint8_t version, uint16_t port_number, uint32_t mark, size_t n, struct ipsf_port **ports)
{
	size_t made = 0;
	if ((version != 4 && version != 6) || n == 0)
		return IPSF_EINVAL;
	const int status = make_group(version, port_number, mark, n, ports, &made);
	while (status != IPSF_OK && made > 0)
		ipsf_port_socket_free(ports[--made]);
	return status;
}

int ipsf_port_udp_new(uint8_t version, uint16_t port_number, uint32_t mark, struct ipsf_port **port)
{
	return ipsf_port_udp_group(version, port_number, mark, 1, port);
}
