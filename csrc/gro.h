/*
 * Joining what gso.h cuts: packets of one TCP or UDP flow that follow each other become one super-packet again, by the rules of the
 * kernel's GRO, so that cutting it yields the same packets. What is replaced is verified before: IP header and checksum of each.
 *
 * Nothing is copied: a run names packets, the first of which gets the headers of the whole; the writer gathers the payloads.
 * Flows may be interleaved; each keeps its order, and runs stand in the order of their first packets. Pure, one thread.
 */
#ifndef IPSF_GRO_H
#define IPSF_GRO_H

#include "packet.h"

struct ipsf_gro_run {
	uint8_t first, last;   /* packets, by number; next[] leads from one to the other */
	uint8_t n;
	bool verified;         /* the first packet's checksums were looked at, and are right */
	bool constant_id;      /* IPv4 with DF: all have the same identification */
	uint16_t header, size; /* bytes: headers, payload of each but the last */
	uint32_t length;       /* of the whole */
};

struct ipsf_gro {
	unsigned runs;
	struct ipsf_gro_run run[IPSF_BATCH_MAX];
	uint8_t next[IPSF_BATCH_MAX];
};

/* Sorts parsed packets (n <= IPSF_BATCH_MAX) into runs; udp: whether UDP may be joined too. */
void ipsf_gro_sort(struct ipsf_gro *gro, struct ipsf_packet *const *packets, unsigned n, bool udp);
/*
 * Gives the first packet of a run of more than one the headers of the whole: lengths, flags, and in the checksum field the pseudo
 * header's sum. Its segment_size says what it is now; its own length and payload stay.
 */
void ipsf_gro_write_headers(const struct ipsf_gro_run *run, struct ipsf_packet *const *packets);

#endif
