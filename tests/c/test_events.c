/* The ring of events keeps order and bytes, refuses what doesn't fit, keeps room for small events; doorbell and rate
 * limit. */
#include "events.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "doorbell.h"
#include "stats.h"

static struct ipsf_event ike(uint32_t number, uint32_t length)
{
	struct ipsf_event event = {.kind = IPSF_EVENT_IKE_DATAGRAM, .spi = number, .length = length};
	return event;
}

static void fill(uint8_t *data, uint32_t number, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++)
		data[i] = (uint8_t)(number * 31 + i);
}

static bool filled(const uint8_t *data, uint32_t number, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++) {
		if (data[i] != (uint8_t)(number * 31 + i))
			return false;
	}
	return true;
}

/* Round and round, over the edge of the ring, beside a plain count of what is inside. */
static void order_and_bytes(void)
{
	struct ipsf_ring *ring;
	uint64_t random = 1;
	uint32_t posted = 0, taken = 0;
	uint8_t data[1500];
	CHECK(ipsf_ring_new(3000, &ring) == IPSF_EINVAL);
	CHECK(ipsf_ring_new(8192, &ring) == IPSF_OK);
	for (unsigned step = 0; step < 20000; step++) {
		const uint32_t length = posted * 7 % 1500;
		struct ipsf_event event = ike(posted, length);
		fill(data, posted, length);
		if (test_random(&random) % 2) {
			posted += ipsf_event_post(ring, &event, data);
			continue;
		}
		const int got = ipsf_event_take(ring, &event, data, sizeof data);
		CHECK(got == (taken < posted));
		if (got == 1) {
			CHECK(event.spi == taken && event.length == taken * 7 % 1500 && filled(data, taken, event.length));
			taken++;
		}
	}
	CHECK(taken > 1000);
	ipsf_ring_free(ring);
}

static void full(void)
{
	struct ipsf_ring *ring;
	struct ipsf_event event = ike(1, 1000);
	uint8_t data[1000];
	unsigned small = 0;
	fill(data, 1, sizeof data);
	CHECK(ipsf_ring_new(4096, &ring) == IPSF_OK);
	while (ipsf_event_post(ring, &event, data))
		small++;
	CHECK(small == 2); /* 3072 bytes for IKE, each a good 1100 */
	event = (struct ipsf_event){.kind = IPSF_EVENT_FIRST_INBOUND, .spi = 9};
	CHECK(ipsf_event_post(ring, &event, NULL)); /* room is kept */
	CHECK(ipsf_event_take(ring, &event, data, 999) == IPSF_ENOSPC);
	CHECK(ipsf_event_take(ring, &event, data, sizeof data) == 1 && event.length == 1000 && filled(data, 1, 1000));
	CHECK(ipsf_event_take(ring, &event, data, sizeof data) == 1);
	CHECK(ipsf_event_take(ring, &event, data, 0) == 1 && event.kind == IPSF_EVENT_FIRST_INBOUND && event.spi == 9);
	CHECK(ipsf_event_take(ring, &event, data, 0) == 0);
	ipsf_ring_free(ring);
}

static bool readable(int fd)
{
	struct pollfd wait = {.fd = fd, .events = POLLIN};
	return poll(&wait, 1, 0) == 1;
}

static void doorbell(void)
{
	struct ipsf_doorbell bell;
	CHECK(ipsf_doorbell_init(&bell) == IPSF_OK);
	CHECK(!readable(bell.fd));
	ipsf_doorbell_ring(&bell);
	ipsf_doorbell_ring(&bell);
	CHECK(readable(bell.fd));
	ipsf_doorbell_silence(&bell);
	CHECK(!readable(bell.fd));
	ipsf_doorbell_silence(&bell);
	ipsf_doorbell_ring(&bell);
	CHECK(readable(bell.fd));
	ipsf_doorbell_fini(&bell);
}

static void rate(void)
{
	struct ipsf_rate limit = {0};
	unsigned allowed = 0;
	for (uint64_t now = 5; now < 3000000005u; now += 1000000)
		allowed += ipsf_rate_allow(&limit, now, 10);
	CHECK(allowed == 30);
}

static void statistics(void)
{
	static struct ipsf_stats stats;
	struct ipsf_counters counters;
	uint64_t drops[IPSF_DROP_COUNT] = {[IPSF_DROP_REPLAY] = 2, [IPSF_DROP_MTU] = 1};
	CHECK(ipsf_stats_take_drops(&stats, drops) == 3 && drops[IPSF_DROP_REPLAY] == 0);
	CHECK(ipsf_stats_take_drops(&stats, drops) == 0);
	ipsf_stats_add(&stats.rx_packets[IPSF_IN], 5);
	ipsf_stats_read(&stats, &counters);
	CHECK(counters.drops[IPSF_DROP_REPLAY] == 2 && counters.drops[IPSF_DROP_MTU] == 1 && counters.rx_packets[1] == 5);
}

/* One thread posts, one takes and sleeps on the doorbell between. */
static struct ipsf_ring *shared;
static struct ipsf_doorbell bell;
#define POSTS 20000u

static void *producer(void *argument)
{
	uint8_t data[64];
	(void)argument;
	for (uint32_t i = 0; i < POSTS; i++) {
		const struct ipsf_event event = ike(i, i % 64);
		fill(data, i, i % 64);
		while (!ipsf_event_post(shared, &event, data))
			sched_yield();
		ipsf_doorbell_ring(&bell);
	}
	return NULL;
}

static void threads(void)
{
	pthread_t thread;
	struct ipsf_event event;
	uint8_t data[64];
	uint32_t next = 0;
	CHECK(ipsf_ring_new(4096, &shared) == IPSF_OK && ipsf_doorbell_init(&bell) == IPSF_OK);
	CHECK(pthread_create(&thread, NULL, producer, NULL) == 0);
	while (next < POSTS) {
		struct pollfd wait = {.fd = bell.fd, .events = POLLIN};
		CHECK(poll(&wait, 1, 20000) == 1);
		ipsf_doorbell_silence(&bell);
		while (ipsf_event_take(shared, &event, data, sizeof data) == 1) {
			CHECK(event.spi == next && filled(data, next, event.length));
			next++;
		}
	}
	CHECK(pthread_join(thread, NULL) == 0);
	ipsf_doorbell_fini(&bell);
	ipsf_ring_free(shared);
}

int main(void)
{
	order_and_bytes();
	full();
	doorbell();
	rate();
	statistics();
	threads();
	return check_summary("test_events");
}
