/* Bare ESP (protocol 50), and the way out for BYPASS packets: a second socket that takes whole IP packets. */
#define _GNU_SOURCE
#include "port_socket.h"

#include <errno.h>
#include <stdio.h>

static const struct ipsf_port_ops raw_ops = {
	.recv = ipsf_port_socket_recv,
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

int ipsf_port_raw_new(uint8_t version, uint32_t mark, struct ipsf_port **port)
{
	struct ipsf_port_socket *s;
	if (version != 4 && version != 6)
		return IPSF_EINVAL;
	const int status = ipsf_port_socket_new(version, SOCK_RAW, IPPROTO_ESP, mark, &s);
	if (status != IPSF_OK)
		return status;
	if (open_clear(s, mark) != IPSF_OK) {
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
