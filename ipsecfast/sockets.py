"""The UDP sockets that carry IKE: port 500 is ours alone, port 4500 is shared with the data plane (RFC 3948)."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address

from ipsecfast.model import IKE_PORT, IPAddress, Path

NON_ESP_MARKER = bytes(4)  # RFC 3948 s2.2
NAT_KEEPALIVE = b"\xff"  # RFC 3948 s2.3
MAX_DATAGRAM = 65535
RECEIVE_BUFFER = 1 << 20

# Linux's numbers, which the socket module of Python 3.11 does not all have.
IP_PKTINFO = 8
IP_MTU_DISCOVER, IP_PMTUDISC_DONT = 10, 0
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT = 23, 0

_PKTINFO4 = struct.Struct("=I4s4s")  # interface, local address, destination of the header
_PKTINFO6 = struct.Struct("=16sI")  # address, interface
_ANCILLARY_SPACE = socket.CMSG_SPACE(_PKTINFO4.size) + socket.CMSG_SPACE(_PKTINFO6.size)


class IkeSocket:
    """UDP port 500 of one IP version, bound to all addresses; it knows which of them a datagram was for."""

    def __init__(self, version: int, *, mark: int, port: int = IKE_PORT) -> None:
        self.version = version
        self.port = port
        self._socket = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        try:
            self._configure(mark)
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
            local = _local_address(ancillary)
            remote = IPv4Address(peer[0]) if self.version == 4 else IPv6Address(peer[0].partition("%")[0])
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

    def close(self) -> None:
        self._socket.close()


def send_from(sender: socket.socket, data: bytes, path: Path) -> None:
    """One datagram along the path: the kernel takes the source address from it, unless it is unspecified."""
    ancillary = [] if path.local.is_unspecified else [_packet_info(path.local)]
    sender.sendmsg([data], ancillary, 0, (str(path.remote), path.remote_port))


def _packet_info(local: IPAddress) -> tuple[int, int, bytes]:
    if local.version == 4:
        return socket.IPPROTO_IP, IP_PKTINFO, _PKTINFO4.pack(0, local.packed, bytes(4))
    return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _PKTINFO6.pack(local.packed, 0)


def _local_address(ancillary: list[tuple[int, int, bytes]]) -> IPAddress | None:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
            return IPv4Address(_PKTINFO4.unpack(data[: _PKTINFO4.size])[1])
        if (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            return IPv6Address(_PKTINFO6.unpack(data[: _PKTINFO6.size])[0])
    return None
