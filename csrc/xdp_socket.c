#define _GNU_SOURCE
#include "xdp_socket.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"

#define QUEUE_WAITS 100 /* ten milliseconds each: the kernel gives a queue back some time after its last socket was closed */
#define TX_BUDGET 9 /* XDP_MAX_TX_SKB_BUDGET of Linux 6.17, which older headers lack */

static_assert(sizeof(struct ipsf_buffer) == IPSF_CACHE_LINE, "the umem's headroom keeps the kernel off a buffer's own words");

/* ---- memory ---- */

int ipsf_xdp_memory_new(uint32_t chunk, struct ipsf_xdp_memory **out)
{
	const uint32_t buffer_size = chunk - (uint32_t)sizeof(struct ipsf_buffer);
	const size_t half = ipsf_pool_bytes(IPSF_XDP_FRAMES, buffer_size);
	struct ipsf_xdp_memory *memory = calloc(1, sizeof *memory);
	if (!memory)
		return IPSF_ENOMEM;
	memory->fd = -1;
	memory->users = 1;
	memory->chunk = chunk;
	memory->size = 2 * half;
	memory->area = mmap(NULL, memory->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory->area == MAP_FAILED) {
		memory->area = NULL;
		ipsf_xdp_memory_release(memory);
		return IPSF_ESYS;
	}
	(void)madvise(memory->area, memory->size, MADV_HUGEPAGE); /* a wish: it works without */
	for (unsigned i = 0; i < 2; i++) {
		if (ipsf_pool_over(memory->area + i * half, IPSF_XDP_FRAMES, buffer_size, &memory->pool[i]) != IPSF_OK) {
			ipsf_xdp_memory_release(memory);
			return IPSF_ENOMEM;
		}
	}
	*out = memory;
	return IPSF_OK;
}

void ipsf_xdp_memory_release(struct ipsf_xdp_memory *memory)
{
	const int error = errno;
	if (!memory || --memory->users)
		return;
	ipsf_pool_free(memory->pool[0]);
	ipsf_pool_free(memory->pool[1]);
	if (memory->area)
		munmap(memory->area, memory->size);
	free(memory);
	errno = error;
}

/* ---- rings ---- */

static int set_size(int fd, int option)
{
	const int entries = (int)IPSF_XDP_ENTRIES;
	return setsockopt(fd, SOL_XDP, option, &entries, sizeof entries) < 0 ? IPSF_ESYS : IPSF_OK;
}

static int map_ring(int fd, const struct xdp_ring_offset *offset, uint64_t page, size_t entry_size, struct ipsf_xdp_ring *ring)
{
	ring->size = IPSF_XDP_ENTRIES;
	ring->map_size = (size_t)offset->desc + IPSF_XDP_ENTRIES * entry_size;
	ring->map = mmap(NULL, ring->map_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, (off_t)page);
	if (ring->map == MAP_FAILED) {
		ring->map = NULL;
		return IPSF_ESYS;
	}
	uint8_t *start = ring->map;
	ring->producer = (_Atomic uint32_t *)(void *)(start + offset->producer);
	ring->consumer = (_Atomic uint32_t *)(void *)(start + offset->consumer);
	ring->flags = (_Atomic uint32_t *)(void *)(start + offset->flags);
	ring->entry.address = (uint64_t *)(void *)(start + offset->desc);
	return IPSF_OK;
}

static int make_rings(struct ipsf_xdp_socket *s)
{
	struct xdp_mmap_offsets offsets;
	socklen_t size = sizeof offsets;
	if (set_size(s->fd, XDP_UMEM_FILL_RING) != IPSF_OK || set_size(s->fd, XDP_UMEM_COMPLETION_RING) != IPSF_OK ||
	    set_size(s->fd, XDP_RX_RING) != IPSF_OK || set_size(s->fd, XDP_TX_RING) != IPSF_OK ||
	    getsockopt(s->fd, SOL_XDP, XDP_MMAP_OFFSETS, &offsets, &size) < 0)
		return IPSF_ESYS;
	if (map_ring(s->fd, &offsets.fr, XDP_UMEM_PGOFF_FILL_RING, sizeof(uint64_t), &s->fill) != IPSF_OK ||
	    map_ring(s->fd, &offsets.cr, XDP_UMEM_PGOFF_COMPLETION_RING, sizeof(uint64_t), &s->completion) != IPSF_OK ||
	    map_ring(s->fd, &offsets.rx, XDP_PGOFF_RX_RING, sizeof(struct xdp_desc), &s->receive) != IPSF_OK)
		return IPSF_ESYS;
	return map_ring(s->fd, &offsets.tx, XDP_PGOFF_TX_RING, sizeof(struct xdp_desc), &s->transmit);
}

/* ---- the socket ---- */

static int register_memory(int fd, const struct ipsf_xdp_memory *memory)
{
	struct xdp_umem_reg umem;
	memset(&umem, 0, sizeof umem);
	umem.addr = (uint64_t)(uintptr_t)memory->area;
	umem.len = memory->size;
	umem.chunk_size = memory->chunk;
	umem.headroom = sizeof(struct ipsf_buffer);
	return setsockopt(fd, SOL_XDP, XDP_UMEM_REG, &umem, sizeof umem) < 0 ? IPSF_ESYS : IPSF_OK;
}

static int bind_patiently(int fd, const struct sockaddr_xdp *address)
{
	const struct timespec pause = {.tv_nsec = 10000000};
	for (unsigned i = 0; i < QUEUE_WAITS; i++) {
		if (bind(fd, (const struct sockaddr *)address, sizeof *address) == 0)
			return IPSF_OK;
		if (errno != EBUSY)
			return IPSF_ESYS;
		nanosleep(&pause, NULL);
	}
	errno = EBUSY;
	return IPSF_ESYS;
}

/* Without a word about copying the kernel takes zero-copy where the driver has it. A shared memory's rules are its first socket's. */
static int bind_queue(struct ipsf_xdp_socket *s, unsigned interface_index, uint32_t queue)
{
	const bool shared = s->memory->fd >= 0;
	struct sockaddr_xdp address = {.sxdp_family = AF_XDP, .sxdp_ifindex = interface_index, .sxdp_queue_id = queue,
				       .sxdp_flags = shared ? XDP_SHARED_UMEM : XDP_USE_NEED_WAKEUP,
				       .sxdp_shared_umem_fd = shared ? (uint32_t)s->memory->fd : 0};
	struct xdp_options options = {0};
	socklen_t size = sizeof options;
	if (bind_patiently(s->fd, &address) != IPSF_OK ||
	    getsockopt(s->fd, SOL_XDP, XDP_OPTIONS, &options, &size) < 0)
		return IPSF_ESYS;
	s->zero_copy = options.flags & XDP_OPTIONS_ZEROCOPY;
	return IPSF_OK;
}

static int open_all(struct ipsf_xdp_socket *s, unsigned interface_index, uint32_t queue)
{
	const int budget = (int)IPSF_XDP_ENTRIES;
	s->fd = socket(AF_XDP, SOCK_RAW | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || (s->memory->fd < 0 && register_memory(s->fd, s->memory) != IPSF_OK) || make_rings(s) != IPSF_OK ||
	    bind_queue(s, interface_index, queue) != IPSF_OK)
		return IPSF_ESYS;
	(void)setsockopt(s->fd, SOL_XDP, TX_BUDGET, &budget, sizeof budget); /* older kernels take 32 packets a call: more calls */
	if (s->memory->fd < 0)
		s->memory->fd = s->fd;
	return IPSF_OK;
}

int ipsf_xdp_socket_open(struct ipsf_xdp_socket *s, struct ipsf_xdp_memory *memory, unsigned interface_index, uint32_t queue)
{
	*s = (struct ipsf_xdp_socket){.fd = -1, .memory = memory};
	memory->users++;
	const int status = open_all(s, interface_index, queue);
	if (status != IPSF_OK)
		ipsf_xdp_socket_close(s);
	return status;
}

static void unmap(struct ipsf_xdp_ring *ring)
{
	if (ring->map)
		munmap(ring->map, ring->map_size);
	ring->map = NULL;
}

void ipsf_xdp_socket_close(struct ipsf_xdp_socket *s)
{
	const int error = errno;
	unmap(&s->fill);
	unmap(&s->receive);
	unmap(&s->transmit);
	unmap(&s->completion);
	if (s->memory && s->memory->fd == s->fd)
		s->memory->fd = -1; /* who comes later can't share it any more */
	if (s->fd >= 0)
		close(s->fd);
	ipsf_xdp_memory_release(s->memory);
	*s = (struct ipsf_xdp_socket){.fd = -1};
	errno = error;
}
