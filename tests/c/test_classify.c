/*
 * What the programs for the kernel take and what they leave: every variant against a plain reading of the same rules in C, on random
 * frames with random faults (BPF_PROG_TEST_RUN). Without the right to load programs only the assembler is tested, and said so.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "classify.h"
#include "ip.h"

#define FRAME_MAX 512
#define FRAMES 30000
#define ADDRESSES 4
#define PREFIXES 9

static const uint8_t our_mac[6] = {2, 0, 0, 0, 0, 7};
static const char *const our_addresses[ADDRESSES] = {"192.0.2.1", "10.1.0.1", "2001:db8::1", "fd00::1"};

struct prefix {
	const char *address;
	uint32_t length, limit;
};
static const struct prefix prefixes[PREFIXES] = {
	{"10.2.0.0", 16, 400},    {"10.2.7.0", 24, 0},  {"10.2.7.8", 32, 300},    {"0.0.0.0", 1, 100},  {"127.0.0.0", 7, 500},
	{"fd00:b::", 32, 400},    {"fd00:b:7::", 48, 0}, {"fd00:b:7::8", 128, 300}, {"f000::", 4, 350},
};

/* ---- the oracle ---- */

static unsigned version_of(const char *text)
{
	return strchr(text, ':') ? 6 : 4;
}

static uint32_t matching_bits(const uint8_t *a, const uint8_t *b, uint32_t length)
{
	uint32_t n = 0;
	while (n < length && ((a[n / 8] ^ b[n / 8]) >> (7 - n % 8) & 1) == 0)
		n++;
	return n;
}

static uint32_t limit_of(unsigned version, const uint8_t *destination)
{
	uint32_t best = 0, limit = 0;
	for (unsigned i = 0; i < PREFIXES; i++) {
		uint8_t address[16];
		if (version_of(prefixes[i].address) != version)
			continue;
		inet_pton(version == 4 ? AF_INET : AF_INET6, prefixes[i].address, address);
		if (matching_bits(address, destination, prefixes[i].length) == prefixes[i].length && prefixes[i].length >= best) {
			best = prefixes[i].length;
			limit = prefixes[i].limit;
		}
	}
	return limit;
}

static bool ours(unsigned version, const uint8_t *destination)
{
	for (unsigned i = 0; i < ADDRESSES; i++) {
		uint8_t address[16];
		if (version_of(our_addresses[i]) != version)
			continue;
		inet_pton(version == 4 ? AF_INET : AF_INET6, our_addresses[i], address);
		if (memcmp(address, destination, version == 4 ? 4 : 16) == 0)
			return true;
	}
	return false;
}

static bool ordinary(unsigned version, const uint8_t *a)
{
	static const uint8_t zero[8];
	if (version == 4)
		return a[0] != 0 && a[0] != 127 && a[0] < 224;
	return memcmp(a, zero, 8) != 0 && a[0] != 0xff && !(a[0] == 0xfe && (a[1] & 0xc0) == 0x80);
}

struct view {
	unsigned version;
	uint8_t protocol, ttl;
	const uint8_t *source, *destination, *payload;
	uint32_t header, length; /* bytes; of the whole packet */
};

static bool read_v4(const uint8_t *ip, uint32_t room, struct view *v)
{
	if (room < 20 || ip[0] != 0x45 || (ipsf_read16(ip + 6) & 0xbfff))
		return false;
	*v = (struct view){4, ip[9], ip[8], ip + 12, ip + 16, ip + 20, 20, ipsf_read16(ip + 2)};
	return v->length >= 20 && v->length <= room && ipsf_checksum_fold(ipsf_checksum_add(ip, 20, 0)) == 0;
}

static bool read_v6(const uint8_t *ip, uint32_t room, struct view *v)
{
	if (room < 40 || ip[0] >> 4 != 6)
		return false;
	*v = (struct view){6, ip[6], ip[7], ip + 8, ip + 24, ip + 40, 40, ipsf_read16(ip + 4) + 40u};
	return v->length > 40 && v->length <= room;
}

static bool outer_takes(const struct view *v, uint32_t room)
{
	if (v->protocol == IPSF_PROTO_UDP) {
		const uint32_t bytes = v->length - v->header;
		if (room < v->header + 12 || ipsf_read16(v->payload + 2) != 4500 || ipsf_read16(v->payload + 4) != bytes || bytes < 12 ||
		    ipsf_read32(v->payload + 8) == 0)
			return false;
	}
	return (v->protocol == IPSF_PROTO_ESP || v->protocol == IPSF_PROTO_UDP) && ours(v->version, v->destination);
}

static bool inner_takes(const struct view *v, uint32_t room, uint32_t gso_size)
{
	const uint8_t p = v->protocol;
	uint32_t length = v->length;
	if (v->ttl < 2 || !ordinary(v->version, v->source) || !ordinary(v->version, v->destination))
		return false;
	if (v->version == 6 && (p == 0 || p == 43 || p == 44 || p == 60 || p == 135))
		return false;
	if (gso_size && p == IPSF_PROTO_TCP) {
		if (room < v->header + 13)
			return false;
		length = v->header + (v->payload[12] >> 4) * 4u + gso_size;
	} else if (gso_size) {
		if (p != IPSF_PROTO_UDP)
			return false;
		length = v->header + 8 + gso_size;
	}
	return length <= limit_of(v->version, v->destination);
}

static bool takes(enum ipsf_role role, enum ipsf_hook hook, const uint8_t *frame, uint32_t length, uint32_t gso_size)
{
	struct view v;
	if (length < 14 || memcmp(frame, our_mac, 6) != 0)
		return false;
	const uint16_t type = ipsf_read16(frame + 12);
	const bool readable = type == 0x0800 ? read_v4(frame + 14, length - 14, &v) : type == 0x86dd && read_v6(frame + 14, length - 14, &v);
	if (!readable || (hook == IPSF_HOOK_XDP_GENERIC && v.protocol == IPSF_PROTO_UDP))
		return false;
	return role == IPSF_ROLE_OUTER ? outer_takes(&v, length - 14) : inner_takes(&v, length - 14, gso_size);
}

/* ---- frames ---- */

static const char *const interesting[] = {
	"192.0.2.1", "10.1.0.1",  "10.2.0.5",  "10.2.7.9",       "10.2.7.8",  "10.3.0.1",  "127.0.0.1",   "224.0.0.5", "255.255.255.255",
	"0.0.0.1",   "2001:db8::1", "fd00::1", "fd00:b::5",      "fd00:b:7::9", "fd00:b:7::8", "fe80::1", "ff02::1",   "::1",
	"f123::1",   "200.1.1.1",
};

static void random_address(uint64_t *seed, unsigned version, uint8_t *out)
{
	const size_t size = version == 4 ? 4 : 16;
	for (;;) {
		const char *text = interesting[test_random(seed) % (sizeof interesting / sizeof interesting[0])];
		if (version_of(text) == version && inet_pton(version == 4 ? AF_INET : AF_INET6, text, out) == 1)
			break;
	}
	if (test_random(seed) % 8 == 0)
		out[test_random(seed) % size] ^= (uint8_t)(1u << test_random(seed) % 8);
}

static void random_payload(uint64_t *seed, uint8_t *p, uint32_t length)
{
	for (uint32_t i = 0; i < length; i++)
		p[i] = (uint8_t)test_random(seed);
	if (length < 12)
		return;
	if (test_random(seed) % 4)
		ipsf_write16(p + 2, 4500);
	if (test_random(seed) % 8)
		ipsf_write16(p + 4, (uint16_t)length);
	if (test_random(seed) % 4 == 0)
		ipsf_write32(p + 8, 0);
}

/* A frame that some rule may take; its length. */
static uint32_t random_frame(uint64_t *seed, uint8_t *frame)
{
	static const uint8_t protocols[] = {6, 17, 17, 50, 50, 1, 58, 0, 43, 44, 60, 135, 132};
	const unsigned version = test_random(seed) % 2 ? 4 : 6;
	const uint32_t header = version == 4 ? 20 : 40, payload = (uint32_t)(test_random(seed) % (test_random(seed) % 4 ? 30 : 420));
	const uint8_t protocol = protocols[test_random(seed) % sizeof protocols];
	uint8_t *ip = frame + 14;
	memset(frame, 0, 14 + header);
	memcpy(frame, our_mac, 6);
	ipsf_write16(frame + 12, version == 4 ? 0x0800 : 0x86dd);
	random_payload(seed, ip + header, payload);
	if (version == 4) {
		ip[0] = 0x45;
		ipsf_write16(ip + 2, (uint16_t)(header + payload));
		ip[6] = test_random(seed) % 2 ? 0x40 : 0;
		ip[8] = (uint8_t)(1 + test_random(seed) % 8 * 9);
		ip[9] = protocol;
	} else {
		ip[0] = 0x60;
		ipsf_write16(ip + 4, (uint16_t)payload);
		ip[6] = protocol;
		ip[7] = (uint8_t)(1 + test_random(seed) % 8 * 9);
	}
	random_address(seed, version, ip + (version == 4 ? 12 : 8));
	random_address(seed, version, ip + (version == 4 ? 16 : 24));
	if (test_random(seed) % 3 == 0)
		inet_pton(version == 4 ? AF_INET : AF_INET6, our_addresses[version == 4 ? 0 : 2], ip + (version == 4 ? 16 : 24));
	return 14 + header + payload;
}

/* Faults in the headers, in the length, behind; then the checksum is made right or left. */
static uint32_t disturb(uint64_t *seed, uint8_t *frame, uint32_t length)
{
	uint8_t *ip = frame + 14;
	while (test_random(seed) % 3 == 0)
		frame[test_random(seed) % (length < 60 ? length : 60)] ^= (uint8_t)(1u << test_random(seed) % 8);
	if (ipsf_read16(frame + 12) == 0x0800 && test_random(seed) % 16) {
		ipsf_write16(ip + 10, 0);
		ipsf_write16(ip + 10, ipsf_checksum_fold(ipsf_checksum_add(ip, 20, 0)));
	}
	if (test_random(seed) % 8 == 0)
		length = 14 + (uint32_t)(test_random(seed) % (length - 13));
	if (test_random(seed) % 8 == 0) {
		const uint32_t padding = (uint32_t)(test_random(seed) % 30);
		memset(frame + length, 0, padding);
		length += padding;
	}
	return length;
}

/* ---- the kernel ---- */

struct kernel {
	int device, addresses, trie, ways, given, program[2][IPSF_HOOK_COUNT];
};

static void fill_maps(const struct kernel *k)
{
	const uint32_t zero = 0, one = 1;
	struct ipsf_classify_device device = {{0}, {0}};
	memcpy(device.address, our_mac, 6);
	CHECK(ipsf_bpf_map_set(k->device, &zero, &device) == IPSF_OK);
	CHECK(ipsf_bpf_map_set(k->ways, &zero, &one) == IPSF_OK); /* the loopback interface, for redirect needs a target */
	for (unsigned i = 0; i < ADDRESSES; i++) {
		struct ipsf_classify_address key = {.version = version_of(our_addresses[i])};
		CHECK(inet_pton(key.version == 4 ? AF_INET : AF_INET6, our_addresses[i], key.address) == 1);
		CHECK(ipsf_bpf_map_set(k->addresses, &key, &one) == IPSF_OK);
	}
	for (unsigned i = 0; i < PREFIXES; i++) {
		struct ipsf_classify_prefix key = {.bits = 32 + prefixes[i].length, .address.version = version_of(prefixes[i].address)};
		CHECK(inet_pton(key.address.version == 4 ? AF_INET : AF_INET6, prefixes[i].address, key.address.address) == 1);
		CHECK(ipsf_bpf_map_set(k->trie, &key, &prefixes[i].limit) == IPSF_OK);
	}
}

static int load_program(const struct kernel *k, enum ipsf_role role, enum ipsf_hook hook)
{
	struct ipsf_bpf_code code;
	char log[IPSF_BPF_LOG_SIZE];
	const struct ipsf_classify what = {role, hook, k->device, role == IPSF_ROLE_OUTER ? k->addresses : k->trie, k->ways, k->given};
	CHECK(ipsf_classify_emit(&what, &code) == IPSF_OK);
	const int program = ipsf_bpf_program_new(&code, ipsf_classify_program_type(hook), ipsf_classify_attach_type(hook), "test", log,
						 sizeof log);
	if (program < 0)
		fprintf(stderr, "role %u, hook %u: %s\n%s", role, hook, strerror(errno), log);
	CHECK(program >= 0);
	return program;
}

static void load_programs(struct kernel *k)
{
	for (unsigned hook = 0; hook < IPSF_HOOK_COUNT; hook++) {
		k->program[IPSF_ROLE_OUTER][hook] = load_program(k, IPSF_ROLE_OUTER, (enum ipsf_hook)hook);
		k->program[IPSF_ROLE_INNER][hook] = load_program(k, IPSF_ROLE_INNER, (enum ipsf_hook)hook);
	}
}

/* false, with a word why, where programs may not be loaded here. */
static bool open_kernel(struct kernel *k)
{
	const struct ipsf_bpf_map_shape device = {BPF_MAP_TYPE_ARRAY, 4, sizeof(struct ipsf_classify_device), 1, 0, "device"};
	const struct ipsf_bpf_map_shape addresses = {BPF_MAP_TYPE_HASH, sizeof(struct ipsf_classify_address), 4, 64, 0, "addresses"};
	const struct ipsf_bpf_map_shape trie = {BPF_MAP_TYPE_LPM_TRIE, sizeof(struct ipsf_classify_prefix), 4, 64, BPF_F_NO_PREALLOC,
						"prefixes"};
	const struct ipsf_bpf_map_shape ways = {BPF_MAP_TYPE_DEVMAP, 4, 4, 1, 0, "ways"};
	k->device = ipsf_bpf_map_new(&device);
	if (k->device < 0) {
		printf("test_classify: programs not tested, bpf(2) says: %s\n", strerror(errno));
		return false;
	}
	k->addresses = ipsf_bpf_map_new(&addresses);
	k->trie = ipsf_bpf_map_new(&trie);
	k->ways = ipsf_bpf_map_new(&ways);
	fill_maps(k);
	k->given = -1;
	load_programs(k);
	return true;
}

/* The kernel takes an Ethernet header off before it asks a socket filter: it gets one that nobody misses. */
static bool kernel_takes(const struct kernel *k, enum ipsf_role role, enum ipsf_hook hook, const uint8_t *frame, uint32_t length,
			 uint32_t gso_size)
{
	uint8_t longer[14 + FRAME_MAX] = {[12] = 0x88, [13] = 0xb5};
	const uint32_t front = hook == IPSF_HOOK_SOCKET ? 14 : 0;
	struct __sk_buff context;
	union bpf_attr a;
	memcpy(longer + front, frame, length);
	memset(&context, 0, sizeof context);
	context.gso_size = gso_size;
	memset(&a, 0, sizeof a);
	a.test.prog_fd = (uint32_t)k->program[role][hook];
	a.test.data_in = (uint64_t)(uintptr_t)longer;
	a.test.data_size_in = front + length;
	a.test.repeat = 1;
	if (hook > IPSF_HOOK_XDP_GENERIC) {
		a.test.ctx_in = (uint64_t)(uintptr_t)&context;
		a.test.ctx_size_in = sizeof context;
	}
	const long status = syscall(SYS_bpf, BPF_PROG_TEST_RUN, &a, sizeof a);
	if (status < 0 && hook == IPSF_HOOK_TC && length < 14 + 40)
		return false; /* the kernel makes no such socket buffers: here they can't be tried, and there they don't come */
	CHECK(status == 0);
	return a.test.retval == ipsf_classify_taken(hook);
}

static void compare(const struct kernel *k, uint64_t seed)
{
	unsigned taken[2] = {0, 0};
	for (unsigned i = 0; i < FRAMES; i++) {
		uint8_t frame[FRAME_MAX];
		const uint64_t from = seed;
		const uint32_t length = disturb(&seed, frame, random_frame(&seed, frame));
		const uint32_t gso_size = test_random(&seed) % 4 ? 0 : (uint32_t)(1 + test_random(&seed) % 400);
		for (unsigned role = 0; role < 2; role++) {
			for (unsigned hook = 0; hook < IPSF_HOOK_COUNT; hook++) {
				const uint32_t gso = hook <= IPSF_HOOK_XDP_GENERIC ? 0 : gso_size;
				const bool expected = takes(role, hook, frame, length, gso);
				const bool is = kernel_takes(k, role, hook, frame, length, gso);
				taken[role] += expected;
				CHECK(is == expected);
				if (is != expected)
					fprintf(stderr, "role %u, hook %u, state of the random numbers %#llx\n", role, hook,
						(unsigned long long)from);
			}
		}
	}
	CHECK(taken[0] > FRAMES / 10 && taken[1] > FRAMES / 10); /* so that both answers are asked for */
	printf("test_classify: %u frames, %u and %u times taken\n", FRAMES, taken[0], taken[1]);
}

/* A frame at the socket filter and at tc, as the kernel asks them: they agree, and nothing is remembered for the next frame. */
static void one_after_the_other(const struct kernel *k, uint64_t seed)
{
	uint8_t frame[FRAME_MAX], other[FRAME_MAX] = {0};
	unsigned taken = 0;
	for (unsigned i = 0; i < FRAMES / 10; i++) {
		const uint32_t length = disturb(&seed, frame, random_frame(&seed, frame));
		const enum ipsf_role role = i % 2 ? IPSF_ROLE_OUTER : IPSF_ROLE_INNER;
		const bool expected = takes(role, IPSF_HOOK_SOCKET, frame, length, 0);
		taken += expected;
		CHECK(kernel_takes(k, role, IPSF_HOOK_SOCKET, frame, length, 0) == expected);
		if (i % 3) /* it never comes to tc, or another does first: each is judged anew */
			CHECK(kernel_takes(k, role, IPSF_HOOK_TC, frame, length, 0) == expected);
		CHECK(!kernel_takes(k, role, IPSF_HOOK_SOCKET, other, sizeof other, 0));
		CHECK(!kernel_takes(k, role, IPSF_HOOK_TC, other, sizeof other, 0));
		CHECK(kernel_takes(k, role, IPSF_HOOK_TC, frame, length, 0) == expected);
	}
	CHECK(taken > FRAMES / 1000);
}

/* What the filter took tc drops without a look at it, once. */
static void dropped_unseen(const struct kernel *k, uint64_t seed)
{
	uint8_t frame[FRAME_MAX], other[FRAME_MAX] = {0};
	uint32_t length;
	do
		length = random_frame(&seed, frame);
	while (!takes(IPSF_ROLE_INNER, IPSF_HOOK_SOCKET, frame, length, 0));
	CHECK(kernel_takes(k, IPSF_ROLE_INNER, IPSF_HOOK_SOCKET, frame, length, 0));
	CHECK(kernel_takes(k, IPSF_ROLE_INNER, IPSF_HOOK_TC, other, sizeof other, 0));
	CHECK(!kernel_takes(k, IPSF_ROLE_INNER, IPSF_HOOK_TC, other, sizeof other, 0));
}

/* A word of a CPU is asked for: this thread stays on one. */
static void remember(struct kernel *k, uint64_t seed)
{
	const struct ipsf_bpf_map_shape given = {BPF_MAP_TYPE_PERCPU_ARRAY, 4, sizeof(uint32_t), 1, 0, "given"};
	cpu_set_t one;
	CPU_ZERO(&one);
	CPU_SET((unsigned)sched_getcpu(), &one);
	CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
	k->given = ipsf_bpf_map_new(&given);
	load_programs(k);
	one_after_the_other(k, seed);
	dropped_unseen(k, seed);
}

static void assembler(void)
{
	struct ipsf_bpf_code code;
	memset(&code, 0, sizeof code);
	CHECK(ipsf_bpf_finish(&code) == IPSF_EINVAL); /* nothing in it */
	ipsf_bpf_jump_value(&code, BPF_JEQ, R1, 7, 1);
	ipsf_bpf_return(&code, 0);
	CHECK(ipsf_bpf_finish(&code) == IPSF_EINVAL); /* the label is not set */
	ipsf_bpf_label(&code, 1);
	ipsf_bpf_return(&code, 1);
	CHECK(ipsf_bpf_finish(&code) == IPSF_OK && code.n == 5 && code.insn[0].off == 2);
	ipsf_bpf_go(&code, 1);
	CHECK(ipsf_bpf_finish(&code) == IPSF_EINVAL); /* backwards */
	for (unsigned i = 0; i < IPSF_BPF_CODE_MAX; i++)
		ipsf_bpf_return(&code, 0);
	ipsf_bpf_label(&code, 1);
	CHECK(code.n == IPSF_BPF_CODE_MAX && ipsf_bpf_finish(&code) == IPSF_EINVAL); /* too long */
}

static void refused(void)
{
	struct ipsf_bpf_code code;
	char log[IPSF_BPF_LOG_SIZE];
	memset(&code, 0, sizeof code);
	ipsf_bpf_load(&code, BPF_W, R0, R1, 4096); /* beyond the context */
	ipsf_bpf_return(&code, 0);
	CHECK(ipsf_bpf_finish(&code) == IPSF_OK);
	CHECK(ipsf_bpf_program_new(&code, BPF_PROG_TYPE_XDP, BPF_XDP, "bad", log, sizeof log) == IPSF_ESYS && errno == EACCES);
	CHECK(strstr(log, "invalid bpf_context access"));
}

int main(void)
{
	struct kernel k;
	const uint64_t seed = (uint64_t)time(NULL);
	assembler();
	if (open_kernel(&k)) {
		printf("test_classify: seed %llu\n", (unsigned long long)seed);
		refused();
		compare(&k, seed);
		remember(&k, seed);
	}
	return check_summary("test_classify");
}
