"""The program inside the emulated guest of `bench kernel`: one way through the topology, measured, told in JSON lines.

    python -m ipsecfast.bench.kernel_guest WAY BYTES FOLDER_OF_MODULES

First line: {"expected", "counted"}, instructions of a known loop. Then for each line of input one measurement:
{"instructions", "contexts"}. Or {"error": text}, and the end. Topology and gateways are those of the lab.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
import time
import tty
from array import array
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from pyroute2 import IPRoute, WireGuard

from ipsecfast.bench.bulk import send_bulk
from ipsecfast.bench.counting import calibrate, counted
from ipsecfast.bench.kernel_ways import WAYS, Ours, Plain, Way, Wireguard, Xfrm
from ipsecfast.lab.netns import A, Addresses, B, Namespace, Site, TwoSites
from ipsecfast.lab.testbed import GatewayProcess, tunnel_config

WARM_UP = 4 << 20  # bytes before each measurement: the window has opened, code and buffers are warm
PORT = 7001
RUN = Path("/run")
KEY = "0x" + bytes(range(1, 21)).hex()
SPIS = {"A": "0x1001", "B": "0x1002"}  # by the letter of the sender
WIREGUARD_PORT = 51820
UDP_ENCAP, UDP_ENCAP_ESPINUDP = 100, 2
SIOCETHTOOL, ETHTOOL_SGRO = 0x8946, 0x2C

KERNEL, OTHERS = "kernel threads", "others"

Labels = Mapping[int, str]
TaskTimes = dict[str, tuple[str, int]]  # by thread: its label, nanoseconds


# ---- the ways: each a context in which packets go from host A to host B; yields what its processes are called ----


@contextmanager
def plain(way: Plain, sites: TwoSites) -> Iterator[Labels]:
    _route_both(sites)
    yield {}


@contextmanager
def xfrm(way: Xfrm, sites: TwoSites) -> Iterator[Labels]:
    _route_both(sites)
    with ExitStack() as stack:
        for site, own, peer in _ends(sites):
            for link in ("inner", "outer") if way.gro else ():
                site.gateway.run(_switch_gro_on, link)
            if way.udp:
                stack.enter_context(site.gateway.run(_espinudp_socket))
            for source, destination in ((own, peer), (peer, own)):
                _add_state(site.gateway, source, destination, way)
            for direction in ("out", "in", "fwd"):
                ends = (own, peer) if direction == "out" else (peer, own)
                _add_policy(site.gateway, *ends, direction)
        if way.gro:
            sites.b.host.run(_switch_gro_on, "eth0")
            sites.a.host.run(_switch_gro_on, "eth0")
        yield {}


@contextmanager
def wireguard(way: Wireguard, sites: TwoSites) -> Iterator[Labels]:
    keys = {letter: X25519PrivateKey.generate() for letter in "AB"}
    for site, own, peer in _ends(sites):
        site.gateway.run(_add_wireguard, keys[own.letter], keys[peer.letter], peer)
    yield {}


@contextmanager
def ours(way: Ours, sites: TwoSites) -> Iterator[Labels]:
    gateways: list[GatewayProcess] = []
    with ExitStack() as stack:
        for site, own, peer in _ends(sites):
            connection = {"encap": way.udp}
            config = tunnel_config(own, peer, connection=connection, child={"esp_proposals": ["aes128gcm16"]})
            config["gateway"] = {"engine": way.engine}
            gateways.append(GatewayProcess(site.gateway, RUN / own.letter, config))
            stack.callback(gateways[-1].close)
        gateways[0].command("initiate", "net")
        for gateway in gateways:
            gateway.expect_child()
        yield {gateway.process.pid: f"gateway {letter}" for gateway, letter in zip(gateways, "AB", strict=True)}


def open_way(way: Way, sites: TwoSites) -> AbstractContextManager[Labels]:
    match way:
        case Plain():
            return plain(way, sites)
        case Xfrm():
            return xfrm(way, sites)
        case Wireguard():
            return wireguard(way, sites)
        case Ours():
            return ours(way, sites)


def _ends(sites: TwoSites) -> tuple[tuple[Site, Addresses, Addresses], ...]:
    return (sites.a, A, B), (sites.b, B, A)


def _route_both(sites: TwoSites) -> None:
    for site, _, peer in _ends(sites):
        site.gateway.add_route(peer.networks[0], peer.outer[0])


def _ip(place: Namespace, *words: str) -> None:
    place.check_output(["ip", *words])


def _add_state(place: Namespace, source: Addresses, destination: Addresses, way: Xfrm) -> None:
    ends = ["src", source.outer[0], "dst", destination.outer[0]]
    kind = ["proto", "esp", "spi", SPIS[source.letter], "reqid", "1", "mode", "tunnel", "replay-window", "32"]
    cipher = ["aead", "rfc4106(gcm(aes))", KEY, "128"]
    encap = ["encap", "espinudp", "4500", "4500", destination.outer[0]] if way.udp else []
    _ip(place, "xfrm", "state", "add", *ends, *kind, *cipher, *encap)


def _add_policy(place: Namespace, source: Addresses, destination: Addresses, direction: str) -> None:
    selector = ["src", source.networks[0], "dst", destination.networks[0], "dir", direction]
    template = ["tmpl", "src", source.outer[0], "dst", destination.outer[0], "proto", "esp", "reqid", "1"]
    _ip(place, "xfrm", "policy", "add", *selector, *template, "mode", "tunnel")


def _espinudp_socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", 4500))
    sock.setsockopt(socket.IPPROTO_UDP, UDP_ENCAP, UDP_ENCAP_ESPINUDP)
    return sock


def _switch_gro_on(link: str) -> None:
    value = array("I", [ETHTOOL_SGRO, 1])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP8x", link.encode(), value.buffer_info()[0]))


def _add_wireguard(own: X25519PrivateKey, peer_key: X25519PrivateKey, peer: Addresses) -> None:
    with IPRoute() as route, WireGuard() as device:
        route.link("add", ifname="wg0", kind="wireguard")
        other = {
            "public_key": base64.b64encode(peer_key.public_key().public_bytes_raw()).decode(),
            "endpoint_addr": peer.outer[0],
            "endpoint_port": WIREGUARD_PORT,
            "allowed_ips": [peer.networks[0]],
        }
        private = base64.b64encode(own.private_bytes_raw()).decode()
        device.set("wg0", private_key=private, listen_port=WIREGUARD_PORT, peer=other)
        index = route.link_lookup(ifname="wg0")[0]
        route.link("set", index=index, state="up")
        route.route("add", dst=peer.networks[0], oif=index)


# ---- the measurement ----


def measure(sites: TwoSites, count: int, labels: Labels) -> tuple[int, dict[str, int]]:
    """`count` bytes from host A to host B on a new connection, after some that warm it up.

    Returns the instructions, and the part of each context: the kernel's work for a packet counts for the thread in
    whose context it is done.
    """
    command = [sys.executable, "-m", "ipsecfast.bench.bulk", B.host[0], str(PORT), str(WARM_UP), str(count)]
    sink = sites.b.host.start(command, stdout=subprocess.PIPE)
    assert sink.stdout is not None  # noqa: S101 (it was started with a pipe)
    if sink.stdout.readline() != "ready\n":
        raise RuntimeError(f"the receiver did not start: status {sink.wait()}")
    with sites.a.host.run(socket.create_connection, (B.host[0], PORT)) as sock:
        send_bulk(sock, WARM_UP)
        names = {**labels, sink.pid: "receiver"}
        before, own = task_times(names), time.thread_time_ns()
        with counted() as result:
            send_bulk(sock, count)
        own = time.thread_time_ns() - own
        contexts = grown(before, task_times(names))
    sink.wait()
    return result.instructions, {"sender": own, **contexts}


def task_times(labels: Labels, proc: Path = Path("/proc")) -> TaskTimes:
    """Nanoseconds on the CPU of each thread of other processes, labelled as `labels`, KERNEL or OTHERS."""
    times: TaskTimes = {}
    for process in proc.glob("[0-9]*"):
        pid = int(process.name)
        if pid == os.getpid():
            continue
        try:
            label = labels.get(pid) or (OTHERS if (process / "cmdline").read_bytes() else KERNEL)
            for task in (process / "task").iterdir():
                times[task.name] = label, int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
    return times


def grown(before: TaskTimes, after: TaskTimes) -> dict[str, int]:
    """What each label has spent between the two."""
    spent: dict[str, int] = {}
    for task, (label, time_after) in after.items():
        _, time_before = before.get(task, (label, 0))
        spent[label] = spent.get(label, 0) + time_after - time_before
    return spent


def tell(**line: Any) -> None:
    print(json.dumps(line), flush=True)


def run(way: Way, count: int, modules: str) -> None:
    subprocess.run(["modprobe", "-d", modules, "-a", "veth", *way.modules], check=True)
    expected, found = calibrate()
    with TwoSites() as sites:
        sites.a.host.sysctl(net__ipv4__tcp_congestion_control="cubic")
        with open_way(way, sites) as labels:
            tell(expected=expected, counted=found)
            while sys.stdin.readline():
                instructions, contexts = measure(sites, count, labels)
                tell(instructions=instructions, contexts=contexts)


def main() -> None:
    tty.setraw(sys.stdin)
    name, count, modules = sys.argv[1:]
    try:
        run(WAYS[name], int(count), modules)
    except Exception as error:
        tell(error=f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    main()
