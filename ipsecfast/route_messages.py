"""Routes of a table of ours, added and removed by messages of our own to the kernel (rtnetlink(7)).

pyroute2 asks all other questions. Each tunnel brings a route or more, and a message of pyroute2 costs 0.7 ms of CPU and
a change of threads: more than half of what IKE itself needs for a tunnel. Here it is 0.03 ms.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from ipsecfast.errors import NetlinkError
from ipsecfast.model import IPAddress, IPNetwork

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence number, port
ROUTE = struct.Struct("=BBBBBBBBI")  # family, prefix lengths, TOS, table, protocol, scope, type, flags
ATTRIBUTE = struct.Struct("=HH")  # length, type
NUMBER = struct.Struct("=I")
ERROR = struct.Struct("=i")

NETLINK_ROUTE = 0
NLMSG_ERROR = 2
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
NLM_F_REQUEST, NLM_F_ACK, NLM_F_REPLACE, NLM_F_CREATE = 0x001, 0x004, 0x100, 0x400
RTN_UNICAST, RTN_THROW = 1, 9
RTA_DST, RTA_OIF, RTA_PREFSRC, RTA_TABLE = 1, 4, 7, 15
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255
AT_ONCE = 64  # messages before the answers are read: so many fit into the socket's buffer
ANSWER_LENGTH = 1 << 16
PATIENCE = 10.0  # seconds; the kernel answers at once


@dataclass(frozen=True, slots=True)
class RouteMessage:
    """A route of `table` to `network`, by the device with the number `device`; None: throw, look in the next table."""

    network: IPNetwork
    table: int
    protocol: int
    device: int | None
    source: IPAddress | None = None

    def encode(self, *, remove: bool) -> bytes:
        """Without the header. The kernel takes any scope of a route that it is to remove."""
        link = SCOPE_LINK if self.device is not None and self.network.version == 4 else SCOPE_UNIVERSE
        family = socket.AF_INET if self.network.version == 4 else socket.AF_INET6
        kind = RTN_THROW if self.device is None else RTN_UNICAST
        attributes = [(RTA_DST, self.network.network_address.packed), (RTA_TABLE, NUMBER.pack(self.table))]
        if self.device is not None:
            attributes.append((RTA_OIF, NUMBER.pack(self.device)))
        if self.source is not None:
            attributes.append((RTA_PREFSRC, self.source.packed))
        scope = SCOPE_NOWHERE if remove and family == socket.AF_INET else link
        fixed = ROUTE.pack(family, self.network.prefixlen, 0, 0, 0, self.protocol, scope, kind, 0)
        return fixed + b"".join(ATTRIBUTE.pack(ATTRIBUTE.size + len(data), name) + data for name, data in attributes)


class RouteSocket:
    """The conversation with the kernel of this network namespace about routes."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(PATIENCE)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def replace(self, routes: Iterable[RouteMessage]) -> Iterator[tuple[RouteMessage, NetlinkError | None]]:
        """Adds routes, each in the place of one to the same network; yields what became of each."""
        flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
        return self._change(routes, RTM_NEWROUTE, flags, "add")

    def remove(self, routes: Iterable[RouteMessage]) -> Iterator[tuple[RouteMessage, NetlinkError | None]]:
        return self._change(routes, RTM_DELROUTE, NLM_F_REQUEST | NLM_F_ACK, "remove")

    def _change(
        self, routes: Iterable[RouteMessage], kind: int, flags: int, verb: str
    ) -> Iterator[tuple[RouteMessage, NetlinkError | None]]:
        left = iter(routes)
        while batch := list(islice(left, AT_ONCE)):
            first = self._sequence + 1
            self._sequence += len(batch)
            messages = []
            for number, route in enumerate(batch, first):
                body = route.encode(remove=kind == RTM_DELROUTE)
                messages.append(HEADER.pack(HEADER.size + len(body), kind, flags, number, 0) + body)
            try:
                self._socket.send(b"".join(messages))
                answers = dict(self._answers(len(batch)))
            except OSError as error:
                raise NetlinkError(f"can't {verb} routes: {error.strerror or error}") from error
            for number, route in enumerate(batch, first):
                code = answers.get(number, 0)
                why = f"can't {verb} the route to {route.network}: {os.strerror(code)}"
                yield route, NetlinkError(why) if code else None

    def _answers(self, count: int) -> Iterator[tuple[int, int]]:
        """Sequence number and error code (0: done) of so many acknowledgements."""
        while count > 0:
            data, offset = self._socket.recv(ANSWER_LENGTH), 0
            while offset + HEADER.size <= len(data):
                length, kind, _, number, _ = HEADER.unpack_from(data, offset)
                if kind == NLMSG_ERROR:
                    count -= 1
                    yield number, -ERROR.unpack_from(data, offset + HEADER.size)[0]
                offset += (length + 3) & ~3
