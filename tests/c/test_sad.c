/*
 * SPI -> SA beside a plain list: own SPIs and foreign ones that fall into the same slot, in any order of coming and going; and
 * readers that look while the control thread writes.
 */
#include <pthread.h>

#include "esp_pair.h"
#include "sad.h"

#define SLOTS (1u << IPSF_SAD_SLOT_BITS)
#define SPIS 64

static struct ipsf_sad sad;

static struct ipsf_sa_in *make(uint32_t spi)
{
	struct ipsf_sa_params out = params_of(IPSF_MODE_TUNNEL, 4, 20), in = inbound(&out);
	struct ipsf_sa_in *sa = NULL;

	in.spi = spi;
	CHECK(ipsf_sa_in_new(&in, NULL, &sa) == IPSF_OK);
	return sa;
}

/* Eight slots with eight SPIs each; the last slot and the first among them. */
static uint32_t spi_of(unsigned i)
{
	static const uint32_t slots[8] = {0, 1, 1023, 1024, 300, 70000, SLOTS - 1, SLOTS / 2};

	return (i / 8 + 1) * 7 * SLOTS + slots[i % 8];
}

/* Everything that is in the list is found, nothing else, and a walk meets each once. */
static void agrees(struct ipsf_sa_in *const *list)
{
	struct ipsf_sa_in *sa = NULL;
	uint32_t cursor = 0;
	size_t n = 0, met = 0;

	for (unsigned i = 0; i < SPIS; i++) {
		CHECK(ipsf_sad_find(&sad, spi_of(i)) == list[i]);
		CHECK(!ipsf_sad_find(&sad, spi_of(i) + 7 * 9 * SLOTS));
		n += list[i] != NULL;
	}
	while ((sa = ipsf_sad_next(&sad, &cursor, sa)) != NULL) {
		unsigned i = 0;

		while (i < SPIS && list[i] != sa)
			i++;
		CHECK(i < SPIS);
		met++;
	}
	CHECK(sad.count == n && met == n);
}

static void beside_a_list(void)
{
	struct ipsf_sa_in *list[SPIS] = {0};
	uint64_t seed = 1;

	ipsf_sad_init(&sad);
	agrees(list);
	CHECK(!ipsf_sad_remove(&sad, 4711));
	for (unsigned step = 0; step < 2000; step++) {
		unsigned i = (unsigned)(test_random(&seed) % SPIS);

		if (list[i]) {
			CHECK(ipsf_sad_insert(&sad, list[i]) == IPSF_EEXIST);
			CHECK(ipsf_sad_remove(&sad, spi_of(i)) == list[i]);
			ipsf_sa_in_free(list[i]);
			list[i] = NULL;
		} else {
			list[i] = make(spi_of(i));
			CHECK(ipsf_sad_insert(&sad, list[i]) == IPSF_OK);
		}
		if (step % 20 == 0)
			agrees(list);
	}
	ipsf_sad_fini(&sad); /* what is left goes with it: ASan counts */
	memset(list, 0, sizeof list);
	agrees(list);
}

/* ---- readers beside the writer ---- */

#define READERS 2
#define CHURN 3000
#define STABLE 3u /* this one stays all the time, in a slot whose chain changes around it */

static _Atomic bool ended;

static void *look_up(void *argument)
{
	uint64_t seed = (uint64_t)(uintptr_t)argument;

	while (!atomic_load(&ended)) {
		unsigned i = (unsigned)(test_random(&seed) % SPIS);
		struct ipsf_sa_in *sa = ipsf_sad_find(&sad, spi_of(i));

		CHECK(!sa || (sa->spi == spi_of(i) && sa->n_local == 4));
		CHECK(ipsf_sad_find(&sad, spi_of(STABLE)) != NULL);
	}
	return NULL;
}

static void beside_readers(void)
{
	static struct ipsf_sa_in *list[SPIS], *removed[CHURN];
	pthread_t readers[READERS];
	unsigned n = 0;
	uint64_t seed = 2;

	ipsf_sad_init(&sad);
	list[STABLE] = make(spi_of(STABLE));
	CHECK(ipsf_sad_insert(&sad, list[STABLE]) == IPSF_OK);
	for (uintptr_t i = 0; i < READERS; i++)
		CHECK(pthread_create(&readers[i], NULL, look_up, (void *)(i + 1)) == 0);
	for (unsigned step = 0; step < CHURN; step++) {
		unsigned i = (unsigned)(test_random(&seed) % SPIS);

		if (i == STABLE)
			continue;
		if (list[i]) {
			removed[n++] = ipsf_sad_remove(&sad, spi_of(i));
			CHECK(removed[n - 1] == list[i]);
			list[i] = NULL;
		} else {
			list[i] = make(spi_of(i));
			CHECK(ipsf_sad_insert(&sad, list[i]) == IPSF_OK);
		}
	}
	atomic_store(&ended, true);
	for (unsigned i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	for (unsigned i = 0; i < n; i++) /* an epoch has passed */
		ipsf_sa_in_free(removed[i]);
	agrees(list);
	ipsf_sad_fini(&sad);
}

int main(void)
{
	beside_a_list();
	beside_readers();
	return check_summary("test_sad");
}
