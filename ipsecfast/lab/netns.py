"""Network namespaces that vanish with this process: the topologies of the demo, the tests and the benchmarks.

A namespace here has no name and no mount: a thread of its own lives in it, and what runs in that thread (a function, a
socket it opens, a process it starts) is in the namespace. When the process ends, however it ends, the kernel removes
namespace, links and addresses; processes started here die with it (PR_SET_PDEATHSIG). To look inside a running one:
`nsenter --net=/proc/PID/fd/N`, with the numbers that `Namespace.path` gives.

The topology of everything in this project:

    host A            gateway A                    gateway B            host B
    10.1.0.2/24 ----- 10.1.0.1   192.0.2.1 ------- 192.0.2.2   10.2.0.1 ----- 10.2.0.2/24
    fd00:a::2/64      fd00:a::1  fd00:2::1/64      fd00:2::2   fd00:b::1      fd00:b::2/64
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

from pyroute2 import IPRoute

CLONE_NEWNET = 0x40000000
IFF_UP = 1
LOCAL_TABLE = 255
IFA_F_NODAD = 0x02  # no duplicate address detection: the address can be used at once

Result = TypeVar("Result")
Output = int | IO[Any] | None


class Namespace:
    """One network namespace, alive from construction to `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._processes: list[subprocess.Popen[str]] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"netns-{name}")
        try:
            self.fd = self._thread.submit(_leave_for_new_namespace).result()
        except BaseException:
            self._thread.shutdown()
            raise
        self.sysctl(net__ipv6__conf__default__accept_dad=0)  # nobody else is on these links: addresses at once
        self.run(_link_up, "lo")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def run(self, function: Callable[..., Result], *args: Any, **kwargs: Any) -> Result:
        """Calls `function` in the namespace's thread; the sockets it opens stay in the namespace."""
        return self._thread.submit(function, *args, **kwargs).result()

    def start(
        self,
        command: Sequence[str],
        *,
        stdin: Output = subprocess.DEVNULL,
        stdout: Output = None,
        stderr: Output = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Starts a program in the namespace, in a session of its own (the terminal's ctrl-C does not reach it).

        It ends with the namespace at the latest: `close` stops it.
        """
        tied = ["setpriv", "--pdeathsig", "KILL", "--", *command]
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        process: subprocess.Popen[str] = self.run(
            subprocess.Popen, tied, **streams, env=env, text=True, start_new_session=True
        )
        self._processes = [one for one in self._processes if one.poll() is None] + [process]
        return process

    def check_output(self, command: Sequence[str], *, timeout: float = 60.0) -> str:
        """Runs a program to its end; returns what it printed, raises CalledProcessError if it failed."""
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, output)
        return output

    def sysctl(self, **values: str | int) -> None:
        """Sets sysctls of the namespace; in a key "__" stands for the point: net__ipv4__ip_forward=1."""
        self.run(_write_sysctls, values)

    def add_address(self, link: str, address: str) -> None:
        self.run(_add_address, link, address)

    def add_route(self, destination: str, gateway: str) -> None:
        self.run(_add_route, destination, gateway)

    def add_device_route(self, destination: str, link: str) -> None:
        self.run(_add_device_route, destination, link)

    def mac(self, link: str) -> str:
        """The link's own address, as hexadecimal digits and colons."""
        return self.run(_mac, link)

    def set_link(self, link: str, **attributes: Any) -> None:
        """Changes a link: `mtu=1400`, `state="down"`."""
        self.run(_set_link, link, attributes)

    def close(self) -> None:
        """Stops what was started in the namespace and gives it up; the kernel removes it and its links."""
        for process in reversed(self._processes):
            stop(process)
        os.close(self.fd)
        self._thread.shutdown()


def join(first: Namespace, first_link: str, second: Namespace, second_link: str) -> None:
    """Lays a veth pair between two namespaces and sets both ends up."""
    first.run(_add_veth, first_link, second_link, second.fd)
    first.run(_link_up, first_link)
    second.run(_link_up, second_link)


@dataclass(frozen=True, slots=True)
class Addresses:
    """What one side of the topology is called, each as (IPv4, IPv6)."""

    letter: str
    host: tuple[str, str]
    inner: tuple[str, str]
    outer: tuple[str, str]
    networks: tuple[str, str]


A = Addresses(
    letter="A",
    host=("10.1.0.2", "fd00:a::2"),
    inner=("10.1.0.1", "fd00:a::1"),
    outer=("192.0.2.1", "fd00:2::1"),
    networks=("10.1.0.0/24", "fd00:a::/64"),
)
B = Addresses(
    letter="B",
    host=("10.2.0.2", "fd00:b::2"),
    inner=("10.2.0.1", "fd00:b::1"),
    outer=("192.0.2.2", "fd00:2::2"),
    networks=("10.2.0.0/24", "fd00:b::/64"),
)
PREFIX_LENGTHS = (24, 64)


class Site:
    """One side of the topology: a host and its gateway, wired; `outer` is still to be laid."""

    def __init__(self, addresses: Addresses) -> None:
        self.addresses = addresses
        with ExitStack() as undo:
            self.host = Namespace(f"host-{addresses.letter}")
            undo.callback(self.host.close)
            self.gateway = Namespace(f"gateway-{addresses.letter}")
            undo.callback(self.gateway.close)
            self._wire()
            undo.pop_all()

    def add_outer_addresses(self) -> None:
        for address, length in zip(self.addresses.outer, PREFIX_LENGTHS, strict=True):
            self.gateway.add_address("outer", f"{address}/{length}")

    def close(self) -> None:
        self.host.close()
        self.gateway.close()

    def _wire(self) -> None:
        self.gateway.sysctl(
            net__ipv4__ip_forward=1,
            net__ipv6__conf__all__forwarding=1,
            net__ipv4__conf__all__rp_filter=0,
            net__ipv4__conf__default__rp_filter=0,
        )
        join(self.host, "eth0", self.gateway, "inner")
        ends = zip(self.addresses.host, self.addresses.inner, PREFIX_LENGTHS, ("0.0.0.0/0", "::/0"), strict=True)
        for host, inner, length, everywhere in ends:
            self.host.add_address("eth0", f"{host}/{length}")
            self.gateway.add_address("inner", f"{inner}/{length}")
            self.host.add_route(everywhere, inner)


class TwoSites:
    """The whole topology. A context manager: on exit all namespaces and what was started in them are gone."""

    def __init__(self) -> None:
        with ExitStack() as undo:
            self.a = Site(A)
            undo.callback(self.a.close)
            self.b = Site(B)
            undo.callback(self.b.close)
            join(self.a.gateway, "outer", self.b.gateway, "outer")
            self.a.add_outer_addresses()
            self.b.add_outer_addresses()
            self._undo = undo.pop_all()

    def __enter__(self) -> TwoSites:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()


def stop(process: subprocess.Popen[Any], patience: float = 5.0) -> int:
    """SIGTERM, then after `patience` seconds SIGKILL; returns the exit status."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


# What runs in a namespace's thread.


def _leave_for_new_namespace() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, f"a new network namespace: {os.strerror(code)}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _link_index(route: IPRoute, link: str) -> int:
    found = route.link_lookup(ifname=link)
    if not found:
        raise OSError(f"there is no link {link}")
    return int(found[0])


def _link_up(link: str) -> None:
    _set_link(link, {"state": "up"})


def _set_link(link: str, attributes: Mapping[str, Any]) -> None:
    with IPRoute() as route:
        route.link("set", index=_link_index(route, link), **attributes)


def _add_veth(link: str, peer: str, peer_namespace: int) -> None:
    with IPRoute() as route:
        route.link("add", ifname=link, kind="veth", peer={"ifname": peer, "net_ns_fd": peer_namespace})


def _add_address(link: str, address: str) -> None:
    host, _, length = address.partition("/")
    with IPRoute() as route:
        flags = {"flags": IFA_F_NODAD} if ":" in host else {}
        index = _link_index(route, link)
        route.addr("add", index=index, address=host, prefixlen=int(length), **flags)
        if flags and route.get_links(index)[0]["flags"] & IFF_UP:
            _await_own(route, ip_address(host))


def _await_own(route: IPRoute, own: IPv4Address | IPv6Address) -> None:
    """The kernel makes an IPv6 address its own in a work queue, a moment later: until then packets to it are lost."""
    deadline = time.monotonic() + 5
    while not any(
        ip_address(found) == own
        for one in route.get_routes(family=socket.AF_INET6, table=LOCAL_TABLE)
        if (found := one.get("dst"))
    ):
        if time.monotonic() > deadline:
            raise OSError(f"{own} did not become an address of this machine within 5 s")
        time.sleep(0.002)


def _add_route(destination: str, gateway: str) -> None:
    with IPRoute() as route:
        route.route("add", dst=destination, gateway=gateway)


def _add_device_route(destination: str, link: str) -> None:
    with IPRoute() as route:
        route.route("add", dst=destination, oif=_link_index(route, link))


def _mac(link: str) -> str:
    with IPRoute() as route:
        return str(route.get_links(_link_index(route, link))[0].get("address"))


def _write_sysctls(values: Mapping[str, str | int]) -> None:
    for key, value in values.items():
        Path("/proc/sys", key.replace("__", "/")).write_text(f"{value}\n")
