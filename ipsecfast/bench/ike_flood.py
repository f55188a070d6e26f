"""A flood of IKE_SA_INIT requests from forged addresses, while the peers of a gateway go on rekeying.

`python -m ipsecfast.bench.ike_flood REMOTE PORT COUNT RATE` sends COUNT requests to port 500 or 4500, RATE of them a
second, each from another address of FORGED, with an SPI, a nonce and a key exchange value of its own, and never answers
what comes back. The kernel of its namespace must take these addresses for local ones (`prepare`).
"""

from __future__ import annotations

import os
import socket
import sys
import time
from ipaddress import IPv4Address, IPv4Network

from pyroute2 import IPRoute

from ipsecfast.bench.ike_subjects import IKE
from ipsecfast.ike.constants import ExchangeType, KeGroup
from ipsecfast.ike.wire.message import ZERO_SPI, Message, encode_message
from ipsecfast.ike.wire.payloads import KePayload, NoncePayload, SaPayload
from ipsecfast.ike.wire.proposal import parse_proposal
from ipsecfast.model import NAT_T_PORT, Path, ProtocolId
from ipsecfast.sockets import NON_ESP_MARKER, send_from

FORGED = IPv4Network("198.18.0.0/15")
NONCE_LENGTH = KEY_LENGTH = 32
SOURCE_PORT = 500
RTN_LOCAL, SCOPE_HOST = 2, 254
AT_ONCE = 100  # datagrams between two looks at the clock


def prepare() -> None:
    """Every address of FORGED is one of this network namespace."""
    with IPRoute() as route:
        (loopback,) = route.link_lookup(ifname="lo")
        route.route("add", dst=str(FORGED), oif=loopback, type=RTN_LOCAL, scope=SCOPE_HOST, table=255)


def requests(count: int) -> list[bytes]:
    """IKE_SA_INIT requests that any responder would take."""
    proposals = (parse_proposal(IKE, ProtocolId.IKE),)
    made = []
    for _ in range(count):
        payloads = (
            SaPayload(proposals),
            KePayload(KeGroup.CURVE25519, os.urandom(KEY_LENGTH)),
            NoncePayload(os.urandom(NONCE_LENGTH)),
        )
        made.append(
            encode_message(Message(os.urandom(8), ZERO_SPI, ExchangeType.IKE_SA_INIT, 0, False, True, payloads))
        )
    return made


def main() -> None:
    remote, port = IPv4Address(sys.argv[1]), int(sys.argv[2])
    count, rate = int(sys.argv[3]), float(sys.argv[4])
    marker = NON_ESP_MARKER if port == NAT_T_PORT else b""
    some = requests(1000)
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("", SOURCE_PORT + 1))
    began = time.monotonic()
    for number in range(count):
        source = FORGED[1 + number % (FORGED.num_addresses - 2)]
        data = marker + os.urandom(8) + some[number % len(some)][8:]  # another SPI: nobody has seen it before
        send_from(sender, data, Path(source, SOURCE_PORT, remote, port))
        if number % AT_ONCE == 0:
            time.sleep(max(0.0, began + number / rate - time.monotonic()))


if __name__ == "__main__":
    main()
