/* ESP in UDP (RFC 3948), and IKE behind the non-ESP marker: one wildcard socket a family. */
#define _GNU_SOURCE
#include "port_socket.h"

#include <netinet/udp.h>
#include <stdio.h>

static const struct ipsf_port_ops udp_ops = {
	.recv = ipsf_port_socket_recv,
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

int ipsf_port_udp_new(uint8_t version, uint16_t port_number, uint32_t mark, struct ipsf_port **port)
{
	struct ipsf_port_socket *s;
	if (version != 4 && version != 6)
		return IPSF_EINVAL;
	const int status = ipsf_port_socket_new(version, SOCK_DGRAM, IPPROTO_UDP, mark, &s);
	if (status != IPSF_OK)
		return status;
	if (bind_port(s, port_number) != IPSF_OK) {
		ipsf_port_socket_free(&s->port);
		return IPSF_ESYS;
	}
	/* Older kernels know neither: then each datagram comes and goes alone. */
	const bool receives_segments = ipsf_socket_option(s->port.fd, IPPROTO_UDP, UDP_GRO, 1) == IPSF_OK;
	s->tx.segments = receives_segments && ipsf_socket_option(s->port.fd, IPPROTO_UDP, UDP_SEGMENT, 0) == IPSF_OK;
	s->port.ops = &udp_ops;
	s->port.carriers = 1u << (version == 4 ? IPSF_CARRIER_UDP4 : IPSF_CARRIER_UDP6);
	snprintf(s->port.name, sizeof s->port.name, "udp%u:%u", version, s->port_number);
	*port = &s->port;
	return IPSF_OK;
}
