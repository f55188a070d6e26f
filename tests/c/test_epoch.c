/* Nothing is freed while a worker may still use it; all of it is freed in the end. */
#include "epoch.h"

#include <pthread.h>
#include <sched.h>

#include "check.h"

static unsigned freed;

static void count_free(void *what)
{
	freed++;
	free(what);
}

static void one_worker_at_a_time(void)
{
	static struct ipsf_epoch epoch;
	ipsf_epoch_init(&epoch);
	freed = 0;
	CHECK(ipsf_epoch_reserve(&epoch, 3) == IPSF_OK);
	ipsf_epoch_online(&epoch, 0);
	ipsf_epoch_online(&epoch, 1);
	ipsf_epoch_retire(&epoch, count_free, malloc(1));
	CHECK(ipsf_epoch_collect(&epoch) == 1 && freed == 0);
	ipsf_epoch_tick(&epoch, 0);
	CHECK(ipsf_epoch_collect(&epoch) == 1);
	ipsf_epoch_retire(&epoch, count_free, malloc(1));
	ipsf_epoch_tick(&epoch, 1); /* passed both; worker 0 only the first */
	CHECK(ipsf_epoch_collect(&epoch) == 1 && freed == 1);
	ipsf_epoch_offline(&epoch, 0); /* who sleeps holds nothing */
	CHECK(ipsf_epoch_collect(&epoch) == 0 && freed == 2);
	ipsf_epoch_retire(&epoch, count_free, malloc(1));
	ipsf_epoch_fini(&epoch);
	CHECK(freed == 3);
}

/* Threads read a published number through its pointer while it is replaced; a freed one is poisoned first. */
#define POISON 0xdeadu
static struct ipsf_epoch shared;
static _Atomic(unsigned *) published;
static _Atomic bool stop;
static _Atomic unsigned reading; /* threads that have begun */

static void poison_free(void *what)
{
	*(unsigned *)what = POISON;
	free(what);
}

static void *reader(void *argument)
{
	const unsigned worker = *(const unsigned *)argument;
	unsigned long bad = 0, reads = 0;
	atomic_fetch_add(&reading, 1);
	do {
		ipsf_epoch_online(&shared, worker);
		for (unsigned pass = 0; pass < 100; pass++) {
			const unsigned *value = atomic_load(&published);
			for (unsigned i = 0; i < 10; i++, reads++)
				bad += *value == POISON;
			ipsf_epoch_tick(&shared, worker);
		}
		ipsf_epoch_offline(&shared, worker);
	} while (!atomic_load(&stop));
	CHECK(bad == 0 && reads > 0);
	return NULL;
}

static unsigned *number(unsigned value)
{
	unsigned *n = malloc(sizeof *n);
	if (!n)
		abort();
	*n = value;
	return n;
}

static void threads(void)
{
	unsigned ids[2] = {3, 7};
	pthread_t thread[2];
	ipsf_epoch_init(&shared);
	atomic_store(&published, number(0));
	for (unsigned i = 0; i < 2; i++)
		CHECK(pthread_create(&thread[i], NULL, reader, &ids[i]) == 0);
	while (atomic_load(&reading) < 2)
		sched_yield();
	for (unsigned i = 1; i < 20000; i++) {
		CHECK(ipsf_epoch_reserve(&shared, 1) == IPSF_OK);
		ipsf_epoch_retire(&shared, poison_free, atomic_exchange(&published, number(i)));
		ipsf_epoch_collect(&shared);
	}
	atomic_store(&stop, true);
	for (unsigned i = 0; i < 2; i++)
		CHECK(pthread_join(thread[i], NULL) == 0);
	CHECK(ipsf_epoch_collect(&shared) == 0);
	free(atomic_load(&published));
	ipsf_epoch_fini(&shared);
}

int main(void)
{
	one_worker_at_a_time();
	threads();
	return check_summary("test_epoch");
}
