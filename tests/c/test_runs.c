/* Runs beside the naive rule: every packet in exactly one run, runs by first packet, order kept, neighbours of equal SA. */
#include "runs.h"

#include "check.h"

static uint64_t seed = 4301;

static void one_batch(struct ipsf_batch *batch, unsigned n, unsigned sas)
{
	static char sa[IPSF_BATCH_MAX * 64];
	struct ipsf_packet *seen[IPSF_BATCH_MAX];
	struct ipsf_runs runs;
	unsigned total = 0;
	batch->n = n;
	for (unsigned i = 0; i < n; i++) {
		const unsigned which = (unsigned)(test_random(&seed) % sas);
		batch->packet[i]->sa.any = which ? sa + 64 * which : NULL; /* BYPASS packets have none */
	}
	ipsf_runs_begin(&runs, batch->packet, batch->n);
	while (ipsf_runs_next(&runs)) {
		unsigned expected = 0, first = 0;
		for (unsigned i = 0; i < total; i++)
			CHECK(seen[i]->sa.any != runs.packet[0]->sa.any);
		while (batch->packet[first] != runs.packet[0])
			first++;
		for (unsigned i = 0; i < first; i++) { /* whoever stands before the first has had its run */
			bool had = false;
			for (unsigned j = 0; j < total; j++)
				had |= seen[j] == batch->packet[i];
			CHECK(had);
		}
		for (unsigned i = 0; i < n; i++) {
			if (batch->packet[i]->sa.any != runs.packet[0]->sa.any)
				continue;
			CHECK(expected < runs.n && runs.packet[expected] == batch->packet[i]);
			seen[total++] = batch->packet[i];
			expected++;
		}
		CHECK(expected == runs.n);
	}
	CHECK(total == n);
	CHECK(!ipsf_runs_next(&runs));
}

int main(void)
{
	static struct ipsf_batch batch;
	ipsf_batch_init(&batch, NULL);
	for (unsigned n = 0; n <= IPSF_BATCH_MAX; n++)
		for (unsigned sas = 1; sas <= IPSF_BATCH_MAX; sas++)
			one_batch(&batch, n, sas);
	return check_summary("test_runs");
}
