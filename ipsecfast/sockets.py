"""The UDP sockets that carry IKE: port 500 is ours alone, port 4500 is shared with the data plane (RFC 3948).

Each port has a socket for each `SpiRank`, between which the gate, a program in the kernel, decides: what strangers
send fills a queue of its own and is served last (`Reception`). Where the kernel takes no such program there is one
socket for all on port 500, and the data plane passes on what comes to port 4500.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Protocol

from ipsecfast.model import IKE_PORT, NAT_T_PORT, IPAddress, Path, SpiRank

NON_ESP_MARKER = bytes(4)  # RFC 3948 s2.2
NAT_KEEPALIVE = b"\xff"  # RFC 3948 s2.3
MAX_DATAGRAM = 65535
RECEIVE_BUFFER = 1 << 20
AT_ONCE = {SpiRank.PROVEN: 64, SpiRank.BEGUN: 32, SpiRank.UNKNOWN: 16}  # datagrams of one socket, a turn

IPV4_LENGTH = 4  # octets
REMEMBERED = 1024  # addresses: peers come again

# Linux's numbers, which the socket module of Python 3.11 does not all have.
IP_PKTINFO = 8
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT = 23, 0

_PKTINFO4 = struct.Struct("=I4s4s")  # interface, local address, destination of the header
_PKTINFO6 = struct.Struct("=16sI")  # address, interface
_ANCILLARY_SPACE = socket.CMSG_SPACE(_PKTINFO4.size) + socket.CMSG_SPACE(_PKTINFO6.size)


class IkeSocket:
    """A UDP port of one IP version, bound to all addresses; it knows which of them a datagram was for.

    `joins`: others have the port too, and share it.
    """

    def __init__(self, version: int, *, mark: int, port: int = IKE_PORT, joins: bool = False) -> None:
        self.version = version
        self.port = port
        self._socket = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            self._configure(mark)
            if joins:
                share(self._socket)
            self._socket.bind(("", port))
        except OSError:
            self._socket.close()
            raise

    def _configure(self, mark: int) -> None:
        option = self._socket.setsockopt
        self._socket.setblocking(False)
        option(socket.SOL_SOCKET, socket.SO_MARK, mark)
        option(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        if self.version == 4:
            option(socket.IPPROTO_IP, IP_PKTINFO, 1)
            option(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT)  # a long message may be fragmented
        else:
            option(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            option(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            option(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT)

    def share(self) -> None:
        """Others of ours may have the port too; bound alone first, it was nobody else's."""
        share(self._socket)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self, limit: int) -> Iterator[tuple[bytes, Path]]:
        """Up to `limit` datagrams that wait, with the path they came over."""
        for _ in range(limit):
            try:
                data, ancillary, _, peer = self._socket.recvmsg(MAX_DATAGRAM, _ANCILLARY_SPACE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue  # an ICMP error of an earlier datagram; retransmission tells when it matters
            local, remote = _local_address(ancillary), _remote_address(peer[0])
            if local is not None:
                yield data, Path(local, self.port, remote, peer[1])

    def send(self, data: bytes, path: Path) -> None:
        """Raises OSError as the kernel does (ENETUNREACH ...)."""
        send_from(self._socket, data, path)


class MarkedIkeSocket:
    """The sending half of IKE on port 4500: the data plane's own socket, duplicated; it receives there."""

    def __init__(self, version: int, fd: int) -> None:
        self.version = version
        self._socket = socket.socket(
            socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM, fileno=os.dup(fd)
        )

    def send(self, data: bytes, path: Path) -> None:
        """Puts the non-ESP marker before a message, not before a keepalive (RFC 3948 s2.2, s2.3).

        Raises OSError as the kernel does.
        """
        send_from(self._socket, data if data == NAT_KEEPALIVE else NON_ESP_MARKER + data, path)

    def share(self) -> None:
        """Others of ours may have the port too."""
        share(self._socket)

    def close(self) -> None:
        self._socket.close()


def share(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


class Guard(Protocol):
    """`ports.IkeGate`, as far as it is needed here."""

    def guard(self, fd: int, workers: int = 0) -> None: ...


def open_port_500(version: int, mark: int, gate: Guard | None) -> list[IkeSocket]:
    """One for each rank in their order, or one. Raises OSError, with the port's own reason from the first."""
    first = IkeSocket(version, mark=mark)
    if gate is None:
        return [first]
    first.share()
    others = [IkeSocket(version, mark=mark, joins=True) for _ in tuple(SpiRank)[1:]]
    gate.guard(first.fileno())
    return [first, *others]


def open_port_4500(version: int, mark: int, gate: Guard, beside: MarkedIkeSocket, workers: int) -> list[IkeSocket]:
    """One for each rank in their order, behind the sockets of the workers, whose first is `beside`. Raises OSError."""
    beside.share()
    sockets = [IkeSocket(version, mark=mark, port=NAT_T_PORT, joins=True) for _ in SpiRank]
    gate.guard(sockets[0].fileno(), workers)
    return sockets


class Reception:
    """What waits in the sockets of IKE, in the order in which it is served: turn by turn, the lowest rank first.

    A descriptor of its own (`fileno`) can be read while anything waits.
    """

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._waiting = select.epoll()
        self._sockets: dict[int, tuple[SpiRank, IkeSocket]] = {}

    def fileno(self) -> int:
        return self._waiting.fileno()

    def add(self, sockets: Sequence[IkeSocket]) -> None:
        """One for each rank, or one for all."""
        for rank, one in zip(SpiRank, sockets, strict=False):
            self._sockets[one.fileno()] = rank, one
            self._waiting.register(one.fileno(), select.EPOLLIN)

    def turn(self) -> Iterator[Iterator[tuple[bytes, Path]]]:
        """One turn: of each socket where something waits, the first datagrams with the paths they came over."""
        ready = sorted((self._sockets[fd] for fd, _ in self._waiting.poll(0)), key=lambda found: found[0])
        for rank, one in ready:
            received = one.receive(AT_ONCE[rank])
            yield received if one.port == IKE_PORT else self._messages(received)

    def _messages(self, received: Iterator[tuple[bytes, Path]]) -> Iterator[tuple[bytes, Path]]:
        """Without their markers (RFC 3948 s2.2). The gate lets nothing else come here; what came before it stood is
        counted."""
        for data, path in received:
            if data.startswith(NON_ESP_MARKER):
                yield data[len(NON_ESP_MARKER) :], path
            else:
                self._counters["datagrams on port 4500 before the gate of IKE stood"] += 1

    def close(self) -> None:
        """The sockets too, those of a group from its end, or the others would change their places in it."""
        self._waiting.close()
        for _, one in reversed(self._sockets.values()):
            one.close()


def send_from(sender: socket.socket, data: bytes, path: Path) -> None:
    """One datagram along the path: the kernel takes the source address from it, unless it is unspecified."""
    ancillary = [] if path.local.is_unspecified else [_packet_info(path.local)]
    sender.sendmsg([data], ancillary, 0, (str(path.remote), path.remote_port))


def _packet_info(local: IPAddress) -> tuple[int, int, bytes]:
    if local.version == 4:
        return socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, local.packed, bytes(4))
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(local.packed, 0)


@lru_cache(REMEMBERED)
def _remote_address(text: str) -> IPAddress:
    return IPv6Address(text.partition("%")[0]) if ":" in text else IPv4Address(text)


@lru_cache(REMEMBERED)
def _packed_address(packed: bytes) -> IPAddress:
    return IPv4Address(packed) if len(packed) == IPV4_LENGTH else IPv6Address(packed)


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> IPAddress | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return _packed_address(_PKTINFO4.unpack_from(data)[1])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return _packed_address(_PKTINFO6.unpack_from(data)[0])
    return None
