/* RFC 3948 s2: what a datagram on the UDP encapsulation port is. Pure, any thread. */
#ifndef IPSF_UDPENCAP_H
#define IPSF_UDPENCAP_H

#include "base.h"

#define IPSF_NON_ESP_MARKER 4u /* bytes, all zero: an SPI is never 0 (RFC 4303 s2.1) */

enum ipsf_datagram { IPSF_DATAGRAM_ESP, IPSF_DATAGRAM_IKE, IPSF_DATAGRAM_KEEPALIVE, IPSF_DATAGRAM_SHORT };

static inline enum ipsf_datagram ipsf_udpencap_classify(const uint8_t *data, uint32_t length)
{
	if (length == 1 && data[0] == 0xff)
		return IPSF_DATAGRAM_KEEPALIVE; /* s2.3 */
	if (length < IPSF_NON_ESP_MARKER)
		return IPSF_DATAGRAM_SHORT;
	return ipsf_read32(data) == 0 ? IPSF_DATAGRAM_IKE : IPSF_DATAGRAM_ESP; /* s2.2, s2.1 */
}

#endif
