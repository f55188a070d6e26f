#include "doorbell.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include "include/ipsecfast.h"

int ipsf_doorbell_init(struct ipsf_doorbell *bell)
{
	atomic_init(&bell->rung, 0);
	bell->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	return bell->fd < 0 ? IPSF_ESYS : IPSF_OK;
}

void ipsf_doorbell_fini(struct ipsf_doorbell *bell)
{
	if (bell->fd >= 0)
		close(bell->fd);
	bell->fd = -1;
}

/* write and read of an eventfd that doesn't block fail only when it is rung or silent already: that is what was
 * wanted. */
void ipsf_doorbell_ring(struct ipsf_doorbell *bell)
{
	const uint64_t one = 1;
	if (atomic_exchange(&bell->rung, 1) == 0 && write(bell->fd, &one, sizeof one) < 0)
		return;
}

/* First the descriptor, then the mark: a ring in between finds the mark still set, and the listener looks after this
 * anyway. */
void ipsf_doorbell_silence(struct ipsf_doorbell *bell)
{
	uint64_t count;
	if (read(bell->fd, &count, sizeof count) < 0)
		count = 0;
	atomic_exchange(&bell->rung, 0);
}
