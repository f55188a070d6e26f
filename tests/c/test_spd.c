/* The compiled SPD beside the ordered list that it stands for; the flow cache beside the SPD; what is refused. */
#include "flow.h"

#include <time.h>

#include "check.h"

static uint64_t seed;

static uint32_t below(uint32_t n)
{
	return (uint32_t)(test_random(&seed) % n);
}

static bool address_in(const struct ipsf_selector *s, const uint8_t address[16])
{
	const size_t n = s->first.version == 6 ? 16 : 4;
	return memcmp(s->first.bytes, address, n) <= 0 && memcmp(address, s->last.bytes, n) <= 0;
}

static bool ports_free(const struct ipsf_selector *s)
{
	return (s->port_first == 0 && s->port_last == 65535) || (s->port_first == 65535 && s->port_last == 0);
}

/* RFC 4301 s4.4.1: the list in its order, as plain as can be. -1: none; *fragment: ports decide, but are hidden. */
static int32_t oracle(const struct ipsf_policy *policies, size_t n, const struct ipsf_flow *flow, bool *fragment)
{
	*fragment = false;
	for (size_t i = 0; i < n; i++) {
		const struct ipsf_selector *s = &policies[i].source, *d = &policies[i].destination;
		if (s->first.version != flow->version || !address_in(s, flow->source) || !address_in(d, flow->destination))
			continue;
		if ((s->protocol && s->protocol != flow->protocol) || (d->protocol && d->protocol != flow->protocol))
			continue;
		const bool free_ports = ports_free(s) && ports_free(d);
		if (flow->ports == IPSF_PORTS_HIDDEN) {
			*fragment = !free_ports;
			return (int32_t)i;
		}
		if (flow->ports == IPSF_PORTS_NONE ? free_ports :
		    s->port_first <= flow->source_port && flow->source_port <= s->port_last &&
		    d->port_first <= flow->destination_port && flow->destination_port <= d->port_last)
			return (int32_t)i;
	}
	return -1;
}

/* Addresses out of a small, clustered world, so that policies overlap and packets hit. */
static void random_address(uint8_t version, struct ipsf_addr *address)
{
	memset(address, 0, sizeof *address);
	address->version = version;
	address->bytes[0] = (uint8_t)(10 + below(2));
	const unsigned n = version == 6 ? 16 : 4;
	for (unsigned i = 1; i < n; i++)
		address->bytes[i] = (uint8_t)(below(4) == 0 ? below(256) : below(3));
}

static void random_range(uint8_t version, struct ipsf_selector *s)
{
	const unsigned bits = version == 6 ? 128 : 32;
	random_address(version, &s->first);
	if (below(4) == 0) { /* any two ends */
		random_address(version, &s->last);
		if (memcmp(s->first.bytes, s->last.bytes, 16) > 0) {
			const struct ipsf_addr swap = s->first;
			s->first = s->last;
			s->last = swap;
		}
		return;
	}
	const unsigned length = below(5) == 0 ? 0 : below(3) == 0 ? bits : below(bits + 1);
	s->last = s->first;
	for (unsigned bit = length; bit < bits; bit++) {
		s->first.bytes[bit / 8] &= (uint8_t)~(0x80u >> bit % 8);
		s->last.bytes[bit / 8] |= (uint8_t)(0x80u >> bit % 8);
	}
}

static void random_ports(struct ipsf_selector *s)
{
	s->port_first = 0;
	s->port_last = 65535;
	switch (below(6)) {
	case 0: s->port_first = s->port_last = (uint16_t)below(8); break;
	case 1: s->port_last = (uint16_t)(s->port_first = (uint16_t)below(6), s->port_first + below(60000)); break;
	case 2: s->port_first = 65535; s->port_last = 0; break;
	default: break;
	}
}

static void random_policy(struct ipsf_policy *policy)
{
	static const uint8_t protocols[] = {0, 0, 0, 1, 6, 17, 50, 58};
	const uint8_t version = below(2) ? 4 : 6;
	memset(policy, 0, sizeof *policy);
	random_range(version, &policy->source);
	random_range(version, &policy->destination);
	policy->source.protocol = policy->destination.protocol = protocols[below(sizeof protocols)];
	random_ports(&policy->source);
	random_ports(&policy->destination);
	policy->action = (uint8_t)below(3);
	policy->reqid = 1 + below(1000);
}

static void random_flow(struct ipsf_flow *flow)
{
	static const uint8_t protocols[] = {1, 6, 17, 50, 58, 47};
	struct ipsf_addr source, destination;
	memset(flow, 0, sizeof *flow);
	flow->version = below(2) ? 4 : 6;
	random_address(flow->version, &source);
	random_address(flow->version, &destination);
	memcpy(flow->source, source.bytes, 16);
	memcpy(flow->destination, destination.bytes, 16);
	flow->protocol = protocols[below(sizeof protocols)];
	flow->ports = below(8) == 0 ? IPSF_PORTS_HIDDEN : flow->protocol == 50 || flow->protocol == 47 ? IPSF_PORTS_NONE : IPSF_PORTS_KNOWN;
	if (flow->ports == IPSF_PORTS_KNOWN) {
		flow->source_port = (uint16_t)(below(3) ? below(10) : below(65536));
		flow->destination_port = (uint16_t)(below(3) ? below(10) : below(65536));
	}
}

static uint8_t expected_drop(const struct ipsf_policy *policies, int32_t index, bool fragment)
{
	if (index < 0)
		return IPSF_DROP_NO_POLICY;
	if (fragment)
		return IPSF_DROP_FRAGMENT;
	return policies[index].action == IPSF_DISCARD ? IPSF_DROP_POLICY_DISCARD : IPSF_DROP_NONE;
}

static void compare(const struct ipsf_policy *policies, size_t n, unsigned flows, unsigned *hits)
{
	struct ipsf_spd *spd;
	struct ipsf_flow_cache *cache;
	CHECK(ipsf_spd_compile(policies, n, &spd) == IPSF_OK);
	CHECK(ipsf_flow_cache_new(4, test_random(&seed), &cache) == IPSF_OK);
	CHECK(ipsf_spd_count(spd) == n);
	struct ipsf_flow flow;
	for (unsigned i = 0; i < flows; i++) {
		bool fragment;
		if (i % 3 != 2) /* every third is asked again: from the cache */
			random_flow(&flow);
		const int32_t index = oracle(policies, n, &flow, &fragment);
		const struct ipsf_decision plain = ipsf_spd_lookup(spd, &flow);
		const struct ipsf_decision cached = *ipsf_flow_cache_lookup(cache, spd, ipsf_spd_generation(spd), &flow);
		CHECK(plain.index == index);
		CHECK(plain.drop == expected_drop(policies, index, fragment));
		CHECK(index < 0 || fragment || plain.action == policies[index].action);
		CHECK(plain.reqid == (index >= 0 && !fragment && plain.action == IPSF_PROTECT ? policies[index].reqid : 0));
		CHECK(memcmp(&plain, &cached, sizeof plain) == 0);
		*hits += index >= 0;
	}
	ipsf_flow_cache_free(cache);
	ipsf_spd_free(spd);
}

static void against_the_list(void)
{
	static struct ipsf_policy policies[1000];
	static const size_t sizes[] = {0, 1, 2, 3, 5, 8, 20, 50, 200, 1000};
	unsigned hits = 0;
	for (unsigned round = 0; round < 60; round++) {
		const size_t n = sizes[round % 10];
		for (size_t i = 0; i < n; i++)
			random_policy(&policies[i]);
		compare(policies, n, 1000, &hits);
	}
	CHECK(hits > 10000);
}

/* ---- changes ---- */

#define CHANGED_MAX 400
#define KEPT 4

/* A snapshot and the list that it stands for. */
struct kept {
	struct ipsf_spd *spd;
	struct ipsf_policy policies[CHANGED_MAX];
	size_t n;
};

/* Few shapes and many twins: rules that differ in their ports only, and whole ones, close together. */
static void random_twin(struct ipsf_policy *policy)
{
	random_policy(policy);
	if (below(3) == 0)
		return;
	const struct ipsf_addr a = {.bytes = {10, 0, (uint8_t)below(3)}, .version = 4}, b = {.bytes = {10, 1, 0, 0}, .version = 4};
	policy->source.first = policy->source.last = a;
	policy->destination.first = policy->destination.last = b;
	policy->source.protocol = policy->destination.protocol = below(2) ? 6 : 17;
}

static void twin_flow(struct ipsf_flow *flow)
{
	random_flow(flow);
	if (below(2))
		return;
	memset(flow, 0, sizeof *flow);
	flow->version = 4;
	flow->source[0] = flow->destination[0] = 10;
	flow->source[2] = (uint8_t)below(3);
	flow->destination[1] = 1;
	flow->protocol = below(2) ? 6 : 17;
	flow->ports = below(2) ? IPSF_PORTS_HIDDEN : IPSF_PORTS_KNOWN;
	if (flow->ports == IPSF_PORTS_KNOWN) {
		flow->source_port = (uint16_t)below(10);
		flow->destination_port = (uint16_t)below(65536);
	}
}

static void answers_as_its_list(const struct kept *kept, unsigned flows)
{
	struct ipsf_flow flow;
	bool fragment;
	CHECK(ipsf_spd_count(kept->spd) == kept->n);
	for (unsigned i = 0; i < flows; i++) {
		twin_flow(&flow);
		const int32_t index = oracle(kept->policies, kept->n, &flow, &fragment);
		const struct ipsf_decision found = ipsf_spd_lookup(kept->spd, &flow);
		CHECK(found.index == index && found.drop == expected_drop(kept->policies, index, fragment));
		CHECK(index < 0 || fragment || found.action == kept->policies[index].action);
		CHECK(found.reqid == (index >= 0 && !fragment && found.action == IPSF_PROTECT ? kept->policies[index].reqid : 0));
	}
}

/* gone of the list at index give way to n others. */
static void change(const struct kept *from, struct kept *to, size_t index, size_t gone, size_t n)
{
	struct ipsf_policy added[40];
	for (size_t i = 0; i < n; i++)
		random_twin(&added[i]);
	CHECK(ipsf_spd_splice(from->spd, index, gone, added, n, &to->spd) == IPSF_OK);
	CHECK(ipsf_spd_generation(to->spd) > ipsf_spd_generation(from->spd));
	memcpy(to->policies, from->policies, index * sizeof added[0]);
	memcpy(to->policies + index, added, n * sizeof added[0]);
	memcpy(to->policies + index + n, from->policies + index + gone, (from->n - index - gone) * sizeof added[0]);
	to->n = from->n - gone + n;
	for (size_t i = 0; i < to->n; i += 7)
		CHECK(ipsf_spd_reqid(to->spd, i) == (to->policies[i].action == IPSF_PROTECT ? to->policies[i].reqid : 0));
}

/* A chain of changes; the last few snapshots live on and answer as ever, the oldest is freed first. Ends with nothing. */
static void changes(void)
{
	static struct kept kept[KEPT];
	for (unsigned round = 0; round < 12; round++) {
		kept[0].n = round % 2 ? 100 : 0;
		for (size_t i = 0; i < kept[0].n; i++)
			random_twin(&kept[0].policies[i]);
		CHECK(ipsf_spd_compile(kept[0].policies, kept[0].n, &kept[0].spd) == IPSF_OK);
		unsigned step;
		for (step = 1; step < 300; step++) {
			const struct kept *from = &kept[(step - 1) % KEPT];
			struct kept *to = &kept[step % KEPT];
			const size_t index = below((uint32_t)from->n + 1);
			const size_t most = from->n - index < 40 ? from->n - index : 40;
			const size_t gone = step > 270 ? from->n - index : below(3) ? 0 : below((uint32_t)most + 1);
			const size_t n = step > 270 ? 0 : from->n > CHANGED_MAX - 40 ? 0 : below(4) ? below(4) : below(40);
			if (step >= KEPT) /* it stood here, and is the oldest */
				ipsf_spd_free(to->spd);
			change(from, to, step == 299 ? 0 : index, step == 299 ? from->n : gone, n);
			for (unsigned i = 0; i < KEPT && i <= step; i++)
				answers_as_its_list(&kept[i], 8);
		}
		CHECK(kept[(step - 1) % KEPT].n == 0);
		for (unsigned i = 0; i < KEPT; i++)
			ipsf_spd_free(kept[(step + i) % KEPT].spd);
	}
}

/* What comes and goes again and again leaves nothing behind; what is refused changes nothing. */
static void churn(void)
{
	static struct kept kept;
	struct ipsf_spd *next;
	struct ipsf_policy policy;
	kept.n = 300;
	for (size_t i = 0; i < kept.n; i++)
		random_twin(&kept.policies[i]);
	CHECK(ipsf_spd_compile(kept.policies, kept.n, &kept.spd) == IPSF_OK);
	const size_t before = ipsf_spd_memory(kept.spd);
	for (unsigned i = 0; i < 20000; i++) {
		const size_t index = i % 2 ? i % 300 : (i + 1) % 300;
		CHECK(ipsf_spd_splice(kept.spd, index, i % 2, &kept.policies[index], 1 - i % 2, &next) == IPSF_OK);
		ipsf_spd_free(kept.spd);
		kept.spd = next;
	}
	answers_as_its_list(&kept, 2000);
	CHECK(ipsf_spd_memory(kept.spd) < before + before / 2);
	random_policy(&policy);
	policy.action = 3;
	CHECK(ipsf_spd_splice(kept.spd, 0, 0, &policy, 1, &next) == IPSF_EINVAL);
	CHECK(ipsf_spd_splice(kept.spd, 301, 0, NULL, 0, &next) == IPSF_EINVAL);
	CHECK(ipsf_spd_splice(kept.spd, 299, 2, NULL, 0, &next) == IPSF_EINVAL);
	CHECK(ipsf_spd_splice(kept.spd, 0, 0, NULL, 1, &next) == IPSF_EINVAL);
	answers_as_its_list(&kept, 200);
	ipsf_spd_free(kept.spd);
}

static struct ipsf_policy any_to_any(void)
{
	struct ipsf_policy policy = {.action = IPSF_PROTECT, .reqid = 1};
	policy.source.first.version = policy.source.last.version = 4;
	memset(policy.source.last.bytes, 255, 4);
	policy.source.port_last = 65535;
	policy.destination = policy.source;
	return policy;
}

static void refused(void)
{
	struct ipsf_spd *spd = NULL;
	struct ipsf_policy policy = any_to_any();
	policy.source.last.version = 6;
	CHECK(ipsf_spd_compile(&policy, 1, &spd) == IPSF_EINVAL);
	policy = any_to_any();
	policy.destination.first.version = policy.destination.last.version = 6;
	CHECK(ipsf_spd_compile(&policy, 1, &spd) == IPSF_EINVAL);
	policy = any_to_any();
	policy.source.first.bytes[0] = 11;
	policy.source.last.bytes[0] = 10;
	CHECK(ipsf_spd_compile(&policy, 1, &spd) == IPSF_EINVAL);
	policy = any_to_any();
	policy.source.port_first = 5;
	policy.source.port_last = 4;
	CHECK(ipsf_spd_compile(&policy, 1, &spd) == IPSF_EINVAL);
	policy = any_to_any();
	policy.action = 3;
	CHECK(ipsf_spd_compile(&policy, 1, &spd) == IPSF_EINVAL);
	policy = any_to_any();
	policy.reqid = 0;
	CHECK(ipsf_spd_compile(&policy, 1, &spd) == IPSF_EINVAL);
	policy = any_to_any();
	policy.source.protocol = 6;
	policy.destination.protocol = 17;
	CHECK(ipsf_spd_compile(&policy, 1, &spd) == IPSF_EINVAL);
	CHECK(spd == NULL);
}

/* A new snapshot empties the cache: what the old one said is never heard again. */
static void generations(void)
{
	struct ipsf_policy policy = any_to_any();
	struct ipsf_spd *first, *second;
	struct ipsf_flow_cache *cache;
	const struct ipsf_flow flow = {.version = 4, .protocol = 17};
	CHECK(ipsf_spd_compile(&policy, 1, &first) == IPSF_OK);
	policy.action = IPSF_DISCARD;
	CHECK(ipsf_spd_compile(&policy, 1, &second) == IPSF_OK);
	CHECK(ipsf_flow_cache_new(8, 1, &cache) == IPSF_OK);
	CHECK(ipsf_spd_generation(first) != ipsf_spd_generation(second));
	for (unsigned i = 0; i < 3; i++) {
		CHECK(ipsf_flow_cache_lookup(cache, first, ipsf_spd_generation(first), &flow)->action == IPSF_PROTECT);
		CHECK(ipsf_flow_cache_lookup(cache, second, ipsf_spd_generation(second), &flow)->action == IPSF_DISCARD);
	}
	ipsf_flow_cache_free(cache);
	ipsf_spd_free(first);
	ipsf_spd_free(second);
}

static void arrays(void)
{
	const struct ipsf_policy policy = any_to_any();
	struct ipsf_spd *spd;
	const uint8_t addresses[32] = {10, 0, 0, 1};
	const uint8_t protocols[2] = {6, 50};
	const uint16_t ports[2] = {80, 0};
	int32_t out[2] = {7, 7};
	CHECK(ipsf_spd_compile(&policy, 1, &spd) == IPSF_OK);
	ipsf_spd_lookup_array(spd, 4, addresses, addresses, protocols, ports, ports, 2, out);
	CHECK(out[0] == 0 && out[1] == 0);
	ipsf_spd_lookup_array(spd, 6, addresses, addresses, protocols, ports, ports, 2, out);
	CHECK(out[0] == -1 && out[1] == -1);
	ipsf_spd_free(spd);
}

/* What a packet's descriptor says becomes a flow; a later fragment and a protocol without ports show none. */
static void flows_of_packets(void)
{
	uint8_t bytes[40] = {0x45};
	bytes[12] = 10;
	bytes[16] = 11;
	struct ipsf_packet packet = {.data = bytes, .length = 40, .version = 4, .protocol = 17, .source_port = 5, .destination_port = 6};
	struct ipsf_flow flow;
	ipsf_flow_of(&packet, &flow);
	CHECK(flow.source[0] == 10 && flow.destination[0] == 11 && flow.ports == IPSF_PORTS_KNOWN && flow.destination_port == 6);
	packet.flags = IPSF_PACKET_LATER_FRAGMENT;
	ipsf_flow_of(&packet, &flow);
	CHECK(flow.ports == IPSF_PORTS_HIDDEN && flow.source_port == 0);
	packet.flags = 0;
	packet.protocol = 47;
	packet.version = 6;
	ipsf_flow_of(&packet, &flow);
	CHECK(flow.ports == IPSF_PORTS_NONE && flow.source[4] == 10 && flow.source[8] == 11);
}

/* Made in registers, a flow is what it would be written field by field. */
static void flows_by_field(void)
{
	uint8_t bytes[40];
	for (unsigned i = 0; i < 20000; i++) {
		struct ipsf_packet packet = {.data = bytes, .version = below(2) ? 4 : 6, .protocol = (uint8_t)below(256),
					     .source_port = (uint16_t)below(65536), .destination_port = (uint16_t)below(65536),
					     .flags = (uint8_t)below(256)};
		struct ipsf_flow flow, expected = {.version = packet.version, .protocol = packet.protocol};
		const unsigned size = packet.version == 4 ? 4 : 16, at = packet.version == 4 ? 12 : 8;
		for (unsigned b = 0; b < sizeof bytes; b++)
			bytes[b] = (uint8_t)below(256);
		memcpy(expected.source, bytes + at, size);
		memcpy(expected.destination, bytes + at + size, size);
		expected.ports = packet.flags & IPSF_PACKET_LATER_FRAGMENT      ? IPSF_PORTS_HIDDEN :
				 ipsf_protocol_has_ports(packet.protocol) ? IPSF_PORTS_KNOWN :
									    IPSF_PORTS_NONE;
		if (expected.ports == IPSF_PORTS_KNOWN) {
			expected.source_port = packet.source_port;
			expected.destination_port = packet.destination_port;
		}
		ipsf_flow_of(&packet, &flow);
		CHECK(memcmp(&flow, &expected, sizeof flow) == 0);
	}
}

int main(int argc, char **argv)
{
	seed = argc > 1 ? strtoull(argv[1], NULL, 10) : (uint64_t)time(NULL);
	printf("test_spd: seed %llu\n", (unsigned long long)seed);
	against_the_list();
	changes();
	churn();
	refused();
	generations();
	arrays();
	flows_of_packets();
	flows_by_field();
	return check_summary("test_spd");
}
