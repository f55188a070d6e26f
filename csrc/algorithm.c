#include "algorithm.h"

#include "packet.h"

static const struct ipsf_algorithm algorithms[] = {
#define IPSF_ALGORITHM(name, id, key, salt, iv, icv, alignment) { id, key, salt, iv, icv, alignment },
#include "tables/algorithms.def"
#undef IPSF_ALGORITHM
};

/* What every algorithm of the table puts around a packet fits the room of a buffer, before and behind. */
#define IPSF_ALGORITHM(name, id, key, salt, iv, icv, alignment) \
	static_assert(IPSF_ESP_HEADER + (iv) <= IPSF_HEADROOM, #name); \
	static_assert((alignment) - 1 + IPSF_ESP_TRAILER + (icv) <= IPSF_TAILROOM, #name); \
	static_assert(IPSF_ESP_HEADER + (iv) + (alignment) - 1 + IPSF_ESP_TRAILER + (icv) <= IPSF_ESP_ROOM, #name);
#include "tables/algorithms.def"
#undef IPSF_ALGORITHM

const struct ipsf_algorithm *ipsf_algorithm_find(uint16_t id, size_t key_length)
{
	for (size_t i = 0; i < sizeof algorithms / sizeof algorithms[0]; i++)
		if (algorithms[i].id == id && (size_t)algorithms[i].key + algorithms[i].salt == key_length)
			return &algorithms[i];
	return NULL;
}

int ipsf_esp_overhead(uint16_t encryption, uint8_t mode, uint8_t udp_encap, uint8_t outer_version)
{
	for (size_t i = 0; i < sizeof algorithms / sizeof algorithms[0]; i++) {
		const struct ipsf_algorithm *a = &algorithms[i];
		int esp = IPSF_ESP_HEADER + a->iv + a->alignment - 1 + IPSF_ESP_TRAILER + a->icv;

		if (a->id != encryption)
			continue;
		if (mode == IPSF_MODE_TUNNEL)
			esp += outer_version == 6 ? 40 : 20;
		return esp + (udp_encap ? 8 : 0);
	}
	return IPSF_EINVAL;
}
