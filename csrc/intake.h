/*
 * What of one interface's traffic the ring ports take from the kernel: the maps that the programs of classify.h read, filled by the
 * control thread. The ports of several workers on one interface share one intake.
 *
 * The kernel holds maps and programs only as long as one of our descriptors does: a killed gateway takes nothing any more.
 */
#ifndef IPSF_INTAKE_H
#define IPSF_INTAKE_H

#include "classify.h"
#include "port.h"

struct ipsf_intake {
	enum ipsf_role role;
	unsigned interface_index;
	unsigned users;
	int device, destinations, given; /* maps */
	int link;                 /* of the program on the interface; -1: none yet */
};

/* With one user; takes nothing yet. IPSF_ENOMEM, IPSF_ESYS. */
IPSF_MUST_CHECK int ipsf_intake_new(enum ipsf_role role, unsigned interface_index, struct ipsf_intake **intake);
/* Another port uses it. */
struct ipsf_intake *ipsf_intake_share(struct ipsf_intake *intake);
/* One user less; with the last it goes. NULL is allowed. */
void ipsf_intake_release(struct ipsf_intake *intake);

/* A program for this intake, loaded. sockets: XDP's map of them, else -1. A descriptor; IPSF_EINVAL, IPSF_ESYS (errno). */
IPSF_MUST_CHECK int ipsf_intake_program(const struct ipsf_intake *intake, enum ipsf_hook hook, int sockets);

#endif
