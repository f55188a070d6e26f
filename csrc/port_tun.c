/*
 * A TUN device: the inner port of a gateway. A virtio header before each packet (IFF_VNET_HDR) lets the kernel hand over
 * super-packets of up to 64 KB, TCP and UDP, with their checksums still to be made, and take such from us.
 *
 * Packets that come one by one are read one by one until there are none (EAGAIN) or the batch is full. Measured with 64-byte UDP on
 * Linux 6.18: 490 ns a read(), of which 230 are the system call, against 600 ns a packet where io_uring does 32 reads a submission;
 * what it saves at the border it spends on its requests. Cores are added by queues (ipsf_port_tun_group), a worker each.
 *
 * While packets come quickly, a worker that looks again at once finds a few, and spends itself on the sendmsg() for these. So they
 * gather for a moment first (port.h): of a flood of 64-byte UDP 20 leave as one datagram instead of 7, at three quarters of the CPU.
 *
 * A packet that is written alone carries no word on its checksum, not even DATA_VALID: verifying it would be work that the receiver
 * does anyway, and where it is forwarded nobody else would look. Only what is joined is verified, because there it is replaced.
 */
#define _GNU_SOURCE
#include "gro.h"
#include "bpf.h"
#include "port.h"
#include "steer.h"
#include "vnet.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define SEALED_MAX (96u << 10) /* a super-packet's 64 segments, with headers and ESP around each: up to 512 bytes a segment */
#define BATCH_BYTES (128u << 10) /* a batch ends behind them: what was read is still in the cache when it is sealed */

#ifndef TUN_F_USO4 /* headers before Linux 6.2 */
#define TUN_F_USO4 0x20u
#define TUN_F_USO6 0x40u
#endif
#define OFFLOAD_TCP (TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN)
#define OFFLOAD_UDP (TUN_F_USO4 | TUN_F_USO6)

struct ipsf_port_tun {
	struct ipsf_port port;
	struct ipsf_pool *pool; /* of the spare */
	struct ipsf_buffer *spare; /* taken for a read that found nothing */
	struct ipsf_gathering gathering; /* of packets of one segment */
	bool steered; /* of the first queue: flows stay on their queues by our hash */
	bool udp;                  /* the kernel knows UDP super-packets */
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

/* What was read into the spare becomes a packet, unless it lies about itself. */
static void add_spare(struct ipsf_port_tun *tun, struct ipsf_batch *batch, const struct virtio_net_hdr *header, uint32_t length,
		      uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_packet *packet = ipsf_batch_add(batch, tun->spare, tun->spare->bytes + IPSF_HEADROOM, length);
	if (IPSF_LIKELY(ipsf_vnet_accept(header, packet))) {
		tun->spare = NULL;
		tun->gathering.taken += packet->segments == 0;
		return;
	}
	drops[IPSF_DROP_SUPER_PACKET]++;
	batch->n--; /* the buffer stays the spare */
}

/*
 * read() without the C library, which marks each as a point where the thread may be cancelled: with the ways there and back 45 of
 * 420 ns, measured with 64 bytes. Ours is never cancelled.
 */
static ssize_t read_at_once(int fd, void *bytes, size_t room)
{
	return syscall(SYS_read, fd, bytes, room);
}

static bool tun_gathers(const struct ipsf_port *port)
{
	return ((const struct ipsf_port_tun *)port)->gathering.now;
}

static int tun_recv(struct ipsf_port *port, struct ipsf_batch *batch, uint64_t drops[IPSF_DROP_COUNT])
{
	struct ipsf_port_tun *tun = (struct ipsf_port_tun *)port;
	struct virtio_net_hdr header;
	tun->gathering.now = false;
	for (size_t bytes = 0; bytes < BATCH_BYTES && batch->n < IPSF_BATCH_MAX && take_spare(tun, batch->pool);) {
		uint8_t *start = tun->spare->bytes + IPSF_HEADROOM - sizeof header;
		const size_t room = tun->spare->size - IPSF_HEADROOM - IPSF_TAILROOM;
		const ssize_t n = read_at_once(port->fd, start, sizeof header + room);
		if (n < 0) {
			const int error = errno;
			ipsf_gathering_emptied(&tun->gathering);
			return batch->n ? (int)batch->n : read_error(error);
		}
		memcpy(&header, start, sizeof header);
		add_spare(tun, batch, &header, (size_t)n > sizeof header ? (uint32_t)((size_t)n - sizeof header) : 0, drops);
		bytes += (size_t)n;
	}
	return (int)batch->n;
}

static enum ipsf_drop write_error(int error)
{
	return error == EAGAIN || error == ENOBUFS || error == ENOMEM ? IPSF_DROP_PORT_FULL : IPSF_DROP_PORT_ERROR;
}

/* One write, whatever the packets of the run weigh: all of it arrives or nothing. */
static int write_parts(int fd, const struct iovec *parts, int n)
{
	while (writev(fd, parts, n) < 0) {
		if (errno != EINTR)
			return errno;
	}
	return 0;
}

/* The virtio header, the first packet, the payloads of the others. */
static void write_run(struct ipsf_port *port, const struct ipsf_gro *gro, const struct ipsf_gro_run *run,
		      struct ipsf_packet *const *packets)
{
	struct virtio_net_hdr header = {0};
	struct iovec parts[1 + IPSF_BATCH_MAX] = {{&header, sizeof header}};
	const struct ipsf_packet *first = packets[run->first];
	int n = 1;
	if (run->n > 1) {
		ipsf_gro_write_headers(run, packets);
		ipsf_vnet_describe(first, run->header, &header);
	}
	parts[n++] = (struct iovec){first->data, first->length};
	for (unsigned i = run->first; i != run->last;) {
		i = gro->next[i];
		parts[n++] = (struct iovec){packets[i]->data + run->header, packets[i]->length - run->header};
	}
	const int error = write_parts(port->fd, parts, n);
	if (IPSF_LIKELY(error == 0))
		return;
	packets[run->last]->drop = (uint8_t)write_error(error);
	for (unsigned i = run->first; i != run->last; i = gro->next[i])
		packets[i]->drop = (uint8_t)write_error(error);
}

static void tun_send(struct ipsf_port *port, struct ipsf_packet *const *packets, unsigned n)
{
	const struct ipsf_port_tun *tun = (const struct ipsf_port_tun *)port;
	struct ipsf_gro gro;
	ipsf_gro_sort(&gro, packets, n, tun->udp);
	for (unsigned i = 0; i < gro.runs; i++)
		write_run(port, &gro, &gro.run[i], packets);
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

static const struct ipsf_port_ops tun_ops = {
	.recv = tun_recv, .gathers = tun_gathers, .send = tun_send, .drain = tun_drain, .free = tun_free};

/* What the kernel may leave to us, and we to it. */
static int set_offload(struct ipsf_port_tun *tun)
{
	const int header = sizeof(struct virtio_net_hdr), fd = tun->port.fd;
	if (ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
		return IPSF_ESYS;
	tun->udp = ioctl(fd, TUNSETOFFLOAD, (unsigned long)(OFFLOAD_TCP | OFFLOAD_UDP)) == 0;
	if (!tun->udp && ioctl(fd, TUNSETOFFLOAD, (unsigned long)OFFLOAD_TCP) < 0)
		return IPSF_ESYS;
	return IPSF_OK;
}

/* The kernel may choose the name's number ("tun%d"): port.name is what it became. flags: IFF_MULTI_QUEUE where there are more. */
static int make_device(struct ipsf_port *port, const char *name, int flags)
{
	struct ifreq request = {0};
	port->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (port->fd < 0)
		return IPSF_ESYS;
	snprintf(request.ifr_name, sizeof request.ifr_name, "%.*s", IFNAMSIZ - 1, name);
	request.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | flags);
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
	tun->port = (struct ipsf_port){.ops = &tun_ops, .fd = -1, .receive_size = SEALED_MAX};
	if (make_device(&tun->port, name, flags) != IPSF_OK || set_offload(tun) != IPSF_OK) {
		tun_free(&tun->port);
		return IPSF_ESYS;
	}
	*port = &tun->port;
	return IPSF_OK;
}

/* The kernel keeps the program as long as the device lives. */
static int steer_queues(int fd)
{
	const int program = ipsf_bpf_filter_new(ipsf_steer_flows, "ipsf_flows");
	if (program < 0)
		return program;
	const int status = ioctl(fd, TUNSETSTEERINGEBPF, &program) < 0 ? IPSF_ESYS : IPSF_OK;
	close(program);
	return status;
}

static int free_queues(struct ipsf_port **ports, size_t n, int status)
{
	while (n-- > 0)
		tun_free(ports[n]);
	return status;
}

int ipsf_port_tun_group(const char *name, size_t n, struct ipsf_port **ports)
{
	if (strlen(name) >= IFNAMSIZ || n == 0)
		return IPSF_EINVAL;
	for (size_t i = 0; i < n; i++) {
		const int status = make_queue(i ? ports[0]->name : name, n > 1 ? IFF_MULTI_QUEUE : 0, &ports[i]);
		if (status != IPSF_OK)
			return free_queues(ports, i, status);
	}
	((struct ipsf_port_tun *)ports[0])->steered = n == 1 || steer_queues(ports[0]->fd) == IPSF_OK;
	return IPSF_OK;
}

int ipsf_port_tun_steered(const struct ipsf_port *port)
{
	return ((const struct ipsf_port_tun *)port)->steered;
}

int ipsf_port_tun_new(const char *name, struct ipsf_port **port)
{
	return ipsf_port_tun_group(name, 1, port);
}
