/* Bare ESP (protocol 50), and the way out for BYPASS packets: a second socket that takes whole IP packets. */
#define _GNU_SOURCE
#include "port_socket.h"

#include <errno.h>
#include <stdio.h>

#include "steer.h"

static const struct ipsf_port_ops raw_ops = {
	.recv = ipsf_port_socket_recv,
	.pending = ipsf_port_socket_pending,
	.send = ipsf_port_socket_send,
	.drain = ipsf_port_socket_drain,
	.free = ipsf_port_socket_free,
};

/* IPPROTO_RAW: the packet brings its own IP header, for IPv4 and IPv6 alike; such a socket receives nothing. */
static int open_clear(struct ipsf_port_socket *s, uint32_t mark)
{
	s->clear_fd = socket(s->version == 4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_RAW);
	if (s->clear_fd < 0)
		return IPSF_ESYS;
	return mark ? ipsf_socket_option(s->clear_fd, SOL_SOCKET, SO_MARK, (int)mark) : IPSF_OK;
}

/* Every socket of the protocol gets a copy of every packet: the filter of one in a group accepts its own SPIs. */
static int filter(const struct ipsf_port_socket *s, size_t i, size_t n)
{
	struct ipsf_steer steer;
	if (n == 1)
		return IPSF_OK;
	ipsf_steer_raw(&steer, s->version, (uint32_t)i, (uint32_t)n);
	return ipsf_socket_filter(s->port.fd, SO_ATTACH_FILTER, &steer);
}

static int make_port(uint8_t version, uint32_t mark, size_t i, size_t n, struct ipsf_port **port)
{
	struct ipsf_port_socket *s;
	const int status = ipsf_port_socket_new(version, SOCK_RAW, IPPROTO_ESP, mark, &s);
	if (status != IPSF_OK)
		return status;
	if (filter(s, i, n) != IPSF_OK || open_clear(s, mark) != IPSF_OK) {
		ipsf_port_socket_free(&s->port);
		return IPSF_ESYS;
	}
	s->port.ops = &raw_ops;
	s->port.carriers = 1u << (version == 4 ? IPSF_CARRIER_RAW4 : IPSF_CARRIER_RAW6);
	s->port.sends_clear = true;
	snprintf(s->port.name, sizeof s->port.name, "esp%u", version);
	*port = &s->port;
	return IPSF_OK;
}

int ipsf_port_raw_group(uint8_t version, uint32_t mark, size_t n, struct ipsf_port **ports)
{
	if ((version != 4 && version != 6) || n == 0)
		return IPSF_EINVAL;
	for (size_t i = 0; i < n; i++) {
		const int status = make_port(version, mark, i, n, &ports[i]);
		if (status == IPSF_OK)
			continue;
		while (i-- > 0)
			ipsf_port_socket_free(ports[i]);
		return status;
	}
	return IPSF_OK;
}

int ipsf_port_raw_new(uint8_t version, uint32_t mark, struct ipsf_port **port)
{
	return ipsf_port_raw_group(version, mark, 1, port);
}
