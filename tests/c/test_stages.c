/* The stage benchmark runs its own packets through both journeys: none may be lost, whatever the setting. */
#include "../../csrc/include/ipsecfast.h"
#include "check.h"

static void run(const struct ipsf_stage_setup *setup)
{
	struct ipsf_stage_bench *bench;
	struct ipsf_stage_times times;
	CHECK(ipsf_stage_bench_new(setup, &bench) == IPSF_OK);
	for (unsigned i = 0; i < 3; i++) {
		ipsf_stage_bench_run(bench, 30, &times);
		CHECK(times.dropped == 0);
		for (unsigned stage = 0; stage < IPSF_STAGE_COUNT; stage++)
			CHECK(times.nanoseconds[stage] > 0);
	}
	ipsf_stage_bench_free(bench);
}

int main(void)
{
	static const uint32_t sizes[] = {28, 64, 576, 1400, 9000};
	struct ipsf_stage_setup setup = {.sizes = sizes, .n_sizes = 5, .policies = 100, .flows = 33, .sas = 1, .batch = 64,
					 .key_length = 16, .replay_window = 64};
	struct ipsf_stage_bench *bench;
	for (size_t engine = 0; engine < ipsf_engine_count(); engine++) {
		setup.engine = ipsf_engine_name(engine);
		for (setup.sas = 1; setup.sas <= 100; setup.sas += 33) {
			setup.esn = setup.sas & 1;
			setup.batch = 65 - setup.sas % 64;
			run(&setup);
		}
	}
	setup.sas = 101;
	CHECK(ipsf_stage_bench_new(&setup, &bench) == IPSF_EINVAL);
	setup.sas = 1;
	setup.key_length = 15;
	CHECK(ipsf_stage_bench_new(&setup, &bench) == IPSF_EINVAL);
	setup.engine = "none";
	CHECK(ipsf_stage_bench_new(&setup, &bench) == IPSF_ENOENT);
	return check_summary("test_stages");
}
