/*
 * A TUN device: the inner port of a gateway. One packet a system call (IFF_VNET_HDR, which carries super-packets, and
 * more
 * queues change only what is in this file: the descriptor has a segment_size).
 */
#define _GNU_SOURCE
#include "port.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define PACKET_MAX 65535

struct ipsf_port_tun {
	struct ipsf_port port;
	struct ipsf_pool *pool; /* of the spare */
	struct ipsf_buffer *spare; /* taken for a read that found nothing */
};

static bool take_spare(struct ipsf_port_tun *tun, struct ipsf_pool *pool)
{
	tun->pool = pool;
	if (!tun->spare)
		tun->spare = ipsf_pool_take(pool);
	return tun->spare != NULL;
}

/* IPSF_ESYS: the device is gone (EBADFD). While the interface is down it is only silent. */
static int read_error(int error)
{
	return error == EBADFD || error == EBADF || error == ENODEV ? IPSF_ESYS : IPSF_OK;
}

static int tun_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_port_tun *tun = (struct ipsf_port_tun *)port;
	while (batch->n < IPSF_BATCH_MAX && take_spare(tun, batch->pool)) {
		uint8_t *data = tun->spare->bytes + IPSF_HEADROOM;
		const size_t room = tun->spare->size - IPSF_HEADROOM - IPSF_TAILROOM;
		const ssize_t n = read(port->fd, data, room);
		if (n < 0)
			return batch->n ? (int)batch->n : read_error(errno);
		if (!ipsf_batch_add(batch, tun->spare, data, (uint32_t)n))
			drops[IPSF_DROP_TOO_LONG]++;
		else
			tun->spare = NULL;
	}
	return (int)batch->n;
}

static enum ipsf_drop write_error(int error)
{
	return error == EAGAIN || error == ENOBUFS || error == ENOMEM ? IPSF_DROP_PORT_FULL : IPSF_DROP_PORT_ERROR;
}

static void tun_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		while (write(port->fd, packets[i]->data, packets[i]->length) < 0) {
			if (errno == EINTR)
				continue;
			packets[i]->drop = (uint8_t)write_error(errno);
			break;
		}
	}
}

static void tun_drain(struct ipsf_port *port)
{
	struct ipsf_port_tun *tun = (struct ipsf_port_tun *)port;
	if (tun->spare)
		ipsf_buffer_release(tun->spare);
	tun->spare = NULL;
}

static void tun_free(struct ipsf_port *port)
{
	const int error = errno;
	if (port->fd >= 0)
		close(port->fd);
	free(port);
	errno = error;
}

static const struct ipsf_port_ops tun_ops = {.recv = tun_recv, .send = tun_send, .drain = tun_drain, .free = tun_free};

/* The kernel may choose the name's number ("tun%d"): port.name is what it became. flags: IFF_MULTI_QUEUE where there are more. */
static int make_device(struct ipsf_port *port, const char *name, int flags)
{
	struct ifreq request = {0};
	port->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (port->fd < 0)
		return IPSF_ESYS;
	snprintf(request.ifr_name, sizeof request.ifr_name, "%.*s", IFNAMSIZ - 1, name);
	request.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | flags);
	if (ioctl(port->fd, TUNSETIFF, &request) < 0)
		return IPSF_ESYS;
	snprintf(port->name, sizeof port->name, "%s", request.ifr_name);
	return IPSF_OK;
}

static int make_queue(const char *name, int flags, struct ipsf_port **port)
{
	struct ipsf_port_tun *tun = calloc(1, sizeof *tun);
	if (!tun)
		return IPSF_ENOMEM;
	tun->port = (struct ipsf_port){.ops = &tun_ops, .fd = -1, .receive_size = PACKET_MAX};
	if (make_device(&tun->port, name, flags) != IPSF_OK) {
		tun_free(&tun->port);
		return IPSF_ESYS;
	}
	*port = &tun->port;
	return IPSF_OK;
}

int ipsf_port_tun_group(const char *name, size_t n, struct ipsf_port **ports)
{
	if (strlen(name) >= IFNAMSIZ || n == 0)
		return IPSF_EINVAL;
	for (size_t i = 0; i < n; i++) {
		const int status = make_queue(i ? ports[0]->name : name, n > 1 ? IFF_MULTI_QUEUE : 0, &ports[i]);
		if (status == IPSF_OK)
			continue;
		while (i-- > 0)
			tun_free(ports[i]);
		return status;
	}
	return IPSF_OK;
}

int ipsf_port_tun_new(const char *name, struct ipsf_port **port)
{
	return ipsf_port_tun_group(name, 1, port);
}
