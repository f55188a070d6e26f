/*
 * Joining packets against cutting what was joined: whatever comes out of it must be what went in, byte for byte, each flow in its
 * order; and clean flows must be joined as far as they can be, interleaved or not.
 */
#include "gro.h"
#include "gso.h"
#include "ip.h"
#include "super_packets.h"
#include "vnet.h"

#define FLOWS 4
#define ORIGINAL_MAX 9200u

static struct super flow[FLOWS];
static uint8_t original[IPSF_BATCH_MAX][ORIGINAL_MAX], bytes[IPSF_BATCH_MAX][ORIGINAL_MAX];
static struct ipsf_packet store[IPSF_BATCH_MAX], *packets[IPSF_BATCH_MAX];
static unsigned flow_of[IPSF_BATCH_MAX];
static uint8_t whole[SUPER_MAX + 1], segment_bytes[ORIGINAL_MAX];
static struct ipsf_gro gro;

/* ---- packets to join ---- */

/* As one that may be joined looks: no SYN, RST, URG; sometimes with CWR at its begin, PSH and FIN at its end. */
static void make_honest(uint64_t *seed, struct super *s)
{
	uint8_t *flags = super_data(s) + s->transport + 13;

	if (s->protocol == 6)
		*flags = (uint8_t)(0x10 | (*flags & (below(seed, 4) ? 0x40 : 0xc9)));
}

static void make_flow(uint64_t *seed, struct super *s, unsigned n, bool honest)
{
	const uint32_t size = 1 + below(seed, below(seed, 4) ? 1400 : 9000), payload = size * (n - 1) + 1 + below(seed, size);

	do
		super_make(seed, s, below(seed, 2) ? 4 : 6, below(seed, 2) ? 6 : 17, payload, size);
	while (honest && s->transport != (s->version == 4 ? 20u : 40u));
	if (honest || below(seed, 4))
		make_honest(seed, s);
}

/* Segment i of flow f becomes packet number n. */
static void put_segment(unsigned n, unsigned f, uint32_t i)
{
	flow_of[n] = f;
	store[n] = (struct ipsf_packet){.data = bytes[n], .length = naive_segment(&flow[f], i, bytes[n])};
	packets[n] = &store[n];
}

/* What may happen to a packet; its checksums may be right again afterwards, or not. */
static void disturb(uint64_t *seed, const struct super *s, struct ipsf_packet *packet)
{
	const uint32_t header = s->header < packet->length ? s->header : packet->length;
	uint8_t *next = packet->data + s->transport;

	packet->data[below(seed, 3) ? below(seed, header) : below(seed, packet->length)] ^= (uint8_t)(1 + below(seed, 255));
	if (below(seed, 2))
		return;
	if (s->version == 4 && packet->data[0] >> 4 == 4)
		write_lengths(s, packet->data, packet->length);
	const uint32_t field = s->protocol == 6 ? 16 : 6, length = packet->length - s->transport;
	put16(next + field, 0);
	put16(next + field, 0xffffu - naive_sum(next, length, naive_pseudo(s, packet->data, length)));
}

/* Whether a disturbed packet is still seen to be of its flow; a fragment, which shows no ports, counts. */
static bool still_of(const struct super *s, const struct ipsf_packet *packet)
{
	const uint8_t *ip = s->bytes + ROOM;
	const bool fragment = packet->flags & (IPSF_PACKET_FIRST_FRAGMENT | IPSF_PACKET_LATER_FRAGMENT);
	const uint32_t at = s->version == 4 ? 12 : 8, n = s->version == 4 ? 8 : 32;

	return packet->version == s->version && packet->protocol == s->protocol && memcmp(packet->data + at, ip + at, n) == 0 &&
	       (fragment || (packet->source_port == get16(ip + s->transport) &&
			     packet->destination_port == get16(ip + s->transport + 2)));
}

/* Keeps those that still are IP packets: what decap hands on. One that became another flow's has one of its own. */
static unsigned parse_all(unsigned n)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < n; i++) {
		if (!ipsf_ip_parse(packets[i]))
			continue;
		memcpy(original[kept], packets[i]->data, packets[i]->length);
		flow_of[kept] = still_of(&flow[flow_of[i]], packets[i]) ? flow_of[i] : FLOWS + i;
		packets[kept++] = packets[i];
	}
	return kept;
}

/* ---- what must hold of any result ---- */

static uint32_t gather(const struct ipsf_gro_run *run)
{
	const struct ipsf_packet *first = packets[run->first];
	uint32_t length = first->length;

	memcpy(whole, first->data, length);
	for (unsigned i = run->first; i != run->last;) {
		i = gro.next[i];
		memcpy(whole + length, packets[i]->data + run->header, packets[i]->length - run->header);
		length += packets[i]->length - run->header;
	}
	return length;
}

static void check_segment(const struct ipsf_gro_run *run, const struct ipsf_gso *gso, unsigned i, unsigned number)
{
	uint32_t length;
	const uint8_t *data = ipsf_gso_segment(gso, i, &length);

	CHECK(length == packets[number]->length || number == run->first);
	memcpy(segment_bytes, data, length);
	if (run->constant_id) { /* atomic: identification and the header's checksum may differ, but it must be right */
		CHECK(naive_sum(segment_bytes, 20, 0) == 0xffff && (segment_bytes[6] & 0x40));
		memcpy(segment_bytes + 4, original[number] + 4, 2);
		memcpy(segment_bytes + 10, original[number] + 10, 2);
	}
	CHECK(memcmp(segment_bytes, original[number], length) == 0);
}

static void check_run(const struct ipsf_gro_run *run)
{
	struct virtio_net_hdr header;
	struct ipsf_gso gso;
	struct ipsf_packet joined = {.data = whole};

	ipsf_gro_write_headers(run, packets);
	ipsf_vnet_describe(packets[run->first], run->header, &header);
	joined.length = gather(run);
	CHECK(joined.length == run->length && header.hdr_len == run->header);
	CHECK(ipsf_vnet_accept(&header, &joined) && joined.segments == run->n && joined.segment_size == run->size);
	ipsf_gso_begin(&gso, &joined);
	for (unsigned i = 0, number = run->first; i < run->n; i++, number = gro.next[number])
		check_segment(run, &gso, i, number);
}

static void check_all(unsigned n)
{
	bool seen[IPSF_BATCH_MAX] = {false};
	int latest[FLOWS + IPSF_BATCH_MAX], before = -1;

	memset(latest, 0xff, sizeof latest);
	for (unsigned r = 0; r < gro.runs; r++) {
		const struct ipsf_gro_run *run = &gro.run[r];
		unsigned number = run->first;

		CHECK((int)run->first > before);
		before = run->first;
		for (unsigned i = 0; i < run->n; i++, number = gro.next[number]) {
			CHECK(number < n && !seen[number] && (int)number > latest[flow_of[number]]);
			CHECK(flow_of[number] == flow_of[run->first]);
			seen[number] = true;
			latest[flow_of[number]] = (int)number;
		}
		if (run->n > 1)
			check_run(run);
		else
			CHECK(memcmp(packets[run->first]->data, original[run->first], packets[run->first]->length) == 0);
	}
	for (unsigned i = 0; i < n; i++)
		CHECK(seen[i]);
}

/* ---- the rounds ---- */

/* Flows at once, as if one batch had them from several GRO datagrams. */
static unsigned interleave(uint64_t *seed, unsigned flows)
{
	uint32_t at[FLOWS] = {0};
	unsigned n = 0, f = 0;

	for (unsigned idle = 0; n < IPSF_BATCH_MAX && idle < 200; idle++) {
		if (below(seed, 3) == 0)
			f = below(seed, flows);
		if (at[f] == super_count(&flow[f]))
			continue;
		put_segment(n++, f, at[f]++);
		idle = 0;
	}
	return n;
}

static void clean_flows_join(uint64_t *seed)
{
	for (unsigned round = 0; round < 2000; round++) {
		const unsigned flows = 1 + below(seed, FLOWS), most = IPSF_BATCH_MAX / flows;

		for (unsigned f = 0; f < flows; f++)
			make_flow(seed, &flow[f], 1 + below(seed, most), true);
		const unsigned n = parse_all(interleave(seed, flows));
		ipsf_gro_sort(&gro, packets, n, true);
		CHECK(gro.runs <= flows);
		check_all(n);
	}
}

static void anything_survives(uint64_t *seed)
{
	unsigned joined = 0;

	for (unsigned round = 0; round < 10000; round++) {
		const unsigned flows = 1 + below(seed, FLOWS);

		for (unsigned f = 0; f < flows; f++)
			make_flow(seed, &flow[f], 1 + below(seed, 30), below(seed, 2));
		unsigned n = interleave(seed, flows);
		for (unsigned k = below(seed, 5); k; k--) {
			const unsigned i = below(seed, n);

			disturb(seed, &flow[flow_of[i]], packets[i]);
		}
		n = parse_all(n);
		ipsf_gro_sort(&gro, packets, n, below(seed, 8));
		for (unsigned r = 0; r < gro.runs; r++)
			joined += gro.run[r].n > 1;
		check_all(n);
	}
	CHECK(joined > 10000);
}

/* ---- single rules ---- */

static unsigned runs_of_flow(void (*change)(unsigned i, uint8_t *ip), bool mend)
{
	const unsigned n = super_count(&flow[0]);

	for (unsigned i = 0; i < n; i++) {
		put_segment(i, 0, i);
		change(i, bytes[i]);
		if (!mend)
			continue;
		write_lengths(&flow[0], bytes[i], store[i].length);
		put16(bytes[i] + 36, 0);
		put16(bytes[i] + 36, 0xffffu - naive_sum(bytes[i] + 20, store[i].length - 20,
							 naive_pseudo(&flow[0], bytes[i], store[i].length - 20)));
	}
	CHECK(parse_all(n) == n);
	ipsf_gro_sort(&gro, packets, n, true);
	const unsigned runs = gro.runs;
	check_all(n);
	return runs;
}

static void nothing(unsigned i, uint8_t *ip)
{
	(void)i, (void)ip;
}

static void cwr_in_the_middle(unsigned i, uint8_t *ip)
{
	ip[33] |= i == 4 ? 0x80 : 0;
}

static void cwr_first(unsigned i, uint8_t *ip)
{
	ip[33] |= i == 0 ? 0x80 : 0;
}

static void push_in_the_middle(unsigned i, uint8_t *ip)
{
	ip[33] |= i == 4 ? 0x08 : 0;
}

static void congestion_in_the_middle(unsigned i, uint8_t *ip)
{
	ip[1] = i == 4 ? 3 : 2;
}

static void same_ids(unsigned i, uint8_t *ip)
{
	(void)i;
	put16(ip + 4, 7);
}

static void same_ids_without_df(unsigned i, uint8_t *ip)
{
	same_ids(i, ip);
	ip[6] = 0;
}

static void reset_last(unsigned i, uint8_t *ip)
{
	ip[33] |= i == 9 ? 0x04 : 0;
}

static void fragment_in_the_middle(unsigned i, uint8_t *ip)
{
	ip[6] = i == 4 ? 0x20 : 0x40;
}

static void bad_checksum_first(unsigned i, uint8_t *ip)
{
	ip[36] ^= i == 0;
}

static void bad_checksum_in_the_middle(unsigned i, uint8_t *ip)
{
	ip[50] ^= i == 4;
}

static void bad_ip_checksum(unsigned i, uint8_t *ip)
{
	ip[10] ^= i == 4;
}

/* Ten segments of 1,000 bytes. */
static void single_rules(uint64_t *seed)
{
	do
		super_make(seed, &flow[0], 4, 6, 10000, 1000);
	while (flow[0].header != 40);
	uint8_t *ip = super_data(&flow[0]);
	put16(ip + 6, 0x4000);
	ip[33] = 0x10;
	CHECK(runs_of_flow(nothing, false) == 1);
	CHECK(runs_of_flow(cwr_first, true) == 1);
	CHECK(runs_of_flow(cwr_in_the_middle, true) == 2);
	CHECK(runs_of_flow(push_in_the_middle, true) == 2);
	CHECK(runs_of_flow(congestion_in_the_middle, true) == 3);
	CHECK(runs_of_flow(same_ids, true) == 1);
	CHECK(runs_of_flow(same_ids_without_df, true) == 10);
	CHECK(runs_of_flow(reset_last, true) == 2);
	CHECK(runs_of_flow(fragment_in_the_middle, true) == 3);
	CHECK(runs_of_flow(bad_checksum_first, false) == 2);
	CHECK(runs_of_flow(bad_checksum_in_the_middle, false) == 3);
	CHECK(runs_of_flow(bad_ip_checksum, false) == 3);
}

int main(void)
{
	uint64_t seed = 3168;

	clean_flows_join(&seed);
	anything_survives(&seed);
	single_rules(&seed);
	return check_summary("test_gro");
}
