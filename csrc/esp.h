/* What encap and decap share: the layout of AES-GCM's ESP (RFC 4106) and how nonce and AAD are made from it. */
#ifndef IPSF_ESP_H
#define IPSF_ESP_H

#include "algorithm.h"
#include "sa.h"

#define IPSF_ESP_IV 8
#define IPSF_ESP_TEXT (IPSF_ESP_HEADER + IPSF_ESP_IV) /* where the ciphertext begins */
#define IPSF_ESP_ALIGN 4u

/*
 * RFC 4106 s5: the AAD is SPI and sequence number, 32 bits of it as in the ESP header, or (ESN) 64; s4: the nonce is salt and IV.
 * Both stand in esp already.
 */
static inline void ipsf_esp_op(struct ipsf_aead_op *op, const uint8_t *esp, uint64_t sequence, bool esn, const uint8_t salt[4])
{
	memcpy(op->aad, esp, IPSF_ESP_HEADER);
	op->aad_length = IPSF_ESP_HEADER;
	if (IPSF_UNLIKELY(esn)) {
		ipsf_write64(op->aad + 4, sequence);
		op->aad_length = 12;
	}
	memcpy(op->nonce, salt, 4);
	memcpy(op->nonce + 4, esp + IPSF_ESP_HEADER, IPSF_ESP_IV);
}

/*
 * ipsf_esp_decap() of datagrams that stand at sources[i], which stay as they are: the inner packet comes to
 * packets[i]->data, where there is room for as many bytes. sources NULL: in place.
 */
unsigned ipsf_esp_decap_from(struct ipsf_sa_in *sa, unsigned worker, struct ipsf_packet *const *packets,
			     uint8_t *const *sources, unsigned n, struct ipsf_path *moved);

/* The steps of RFC 4303 s3.3 that esp_encap.c and esp_segment.c share. */

/* s3.1.1, RFC 4301 s5.1.2: what the outer header says; transport mode: the IP header is cut off. False: drop is marked. */
IPSF_MUST_CHECK bool ipsf_esp_outer(const struct ipsf_sa_out *sa, struct ipsf_packet *packet);
/* s3.3.3: reserves up to n sequence numbers, *first and those behind it; how many. */
unsigned ipsf_esp_reserve(struct ipsf_sa_out *sa, unsigned n, uint64_t *first);
/* The SA has sealed bytes more, up to sequence; refused: a limit of packets stopped it. The notices that became true. */
unsigned ipsf_esp_lifetime(struct ipsf_sa_out *sa, uint64_t sequence, uint64_t bytes, bool refused);

/* The limit in bytes is passed. */
static inline bool ipsf_sa_out_expired(const struct ipsf_sa_out *sa)
{
	return sa->hard_bytes && atomic_load_explicit(&sa->bytes, memory_order_relaxed) >= sa->hard_bytes;
}

/* True the first time any of the notices is raised for an SA; *told remembers. */
static inline unsigned ipsf_notice_once(_Atomic uint32_t *told, unsigned notices)
{
	return notices & ~atomic_fetch_or_explicit(told, notices, memory_order_relaxed);
}

/* Drops of one SA, counted apart from the worker's. */
static inline void ipsf_sa_count_drops(_Atomic(struct ipsf_sa_drops *) *drops, struct ipsf_packet *const *packets, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		if (IPSF_UNLIKELY(packets[i]->drop))
			ipsf_sa_count_drop(drops, packets[i]->drop, ipsf_packet_count(packets[i]));
}

#endif
