#include "port.h"

const char *ipsf_port_name(const struct ipsf_port *port)
{
	return port->name;
}

int ipsf_port_fd(const struct ipsf_port *port)
{
	return port->fd;
}

void ipsf_port_free(struct ipsf_port *port)
{
	if (port)
		port->ops->free(port);
}
