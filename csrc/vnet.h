/*
 * The header that the kernel puts before a packet of a TUN device or a packet socket, and we before ours (struct virtio_net_hdr):
 * what is left to do about checksum and segmentation. Pure, any thread.
 */
#ifndef IPSF_VNET_H
#define IPSF_VNET_H

#include <linux/virtio_net.h>

#include "packet.h"

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4 /* headers before Linux 6.2 */
#define VIRTIO_NET_HDR_GSO_UDP_L4 5
#endif

/*
 * A packet as it was read, data at its IP header: completes its checksum, or makes a super-packet of it (segment_size, segments,
 * parsed). What the header says is held against the packet's own headers: false, where it contradicts them.
 */
IPSF_MUST_CHECK bool ipsf_vnet_accept(const struct virtio_net_hdr *header, struct ipsf_packet *packet);

/* What the kernel is told of a packet to which ipsf_gro_write_headers() gave a super-packet's headers, so many bytes of them. */
void ipsf_vnet_describe(const struct ipsf_packet *packet, uint16_t bytes, struct virtio_net_hdr *header);

#endif
