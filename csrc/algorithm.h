/* What csrc/tables/algorithms.def says of ESP's encryption algorithms, and what follows from it. */
#ifndef IPSF_ALGORITHM_H
#define IPSF_ALGORITHM_H

#include "base.h"
#include "include/ipsecfast.h"

#define IPSF_ESP_HEADER 8  /* SPI and sequence number */
#define IPSF_ESP_TRAILER 2 /* pad length and next header */

struct ipsf_algorithm {
	uint16_t id;      /* IANA transform ID, type 1 */
	uint8_t key;      /* bytes, the salt apart */
	uint8_t salt, iv, icv, alignment;
};

/* By transform ID and bytes of key and salt; NULL: unknown. */
const struct ipsf_algorithm *ipsf_algorithm_find(uint16_t id, size_t key_length);

#endif
