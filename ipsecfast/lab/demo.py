"""`ipsecfast demo`: two gateways and two hosts in namespaces of this machine, real IKEv2 and traffic, in half a minute.

    host A --- gateway A === ESP === gateway B --- host B

The gateways are two `ipsecfast run` processes with generated configuration. An ordinary user gets namespaces of their
own through a user namespace. Everything made here ends with this process, also after ctrl-C (see `netns`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from ipsecfast.errors import IpsecError
from ipsecfast.lab.display import Display, GatewayView, Step
from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.testbed import (
    TRAFFIC,
    ChildView,
    Figures,
    FlowResult,
    GatewayProcess,
    NumberedFlow,
    TestbedError,
    tunnel_config,
    wait_for,
)
from ipsecfast.lab.traffic import ping

TUN_DEVICE = "/dev/net/tun"
PINGS = 10
STREAM_SECONDS = 5
FLOOD_SECONDS = 3
FLOOD_SIZE = 1350
FLOW_RATES = (50_000, 25_000, 12_500, 6_000)  # packets a second: the first without loss is used
TRIAL_SECONDS = 1.0
AFTER_REKEY_SECONDS = 1.0
SAMPLE_SECONDS = 0.5


class NotHeld(Exception):
    """A step did not give what it should; the text is its result."""


@dataclass(slots=True)
class Demo:
    """The running demo: what its steps share. Each step returns what came out of it, or raises NotHeld."""

    folder: Path
    sites: TwoSites
    gateways: list[GatewayProcess] = field(default_factory=list)
    rate: int = FLOW_RATES[0]

    @property
    def address(self) -> str:
        return B.host[0]

    def start_gateways(self) -> str:
        for site, own, peer in ((self.sites.a, A, B), (self.sites.b, B, A)):
            config = tunnel_config(own, peer, inner=(4, 6))
            self.gateways.append(GatewayProcess(site.gateway, self.folder / own.letter, config))
        return "two processes, each with one TOML file"

    def negotiate(self) -> str:
        start = time.monotonic()
        self.gateways[0].command("initiate", "net")
        took = time.monotonic() - start
        view = wait_for("both ends have the Child SA", self._both_up)
        return f"{view.ike_algorithms}; ESP {view.algorithms}; {took * 1000:.0f} ms"

    def _both_up(self) -> ChildView | None:
        views = [gateway.child() for gateway in self.gateways]
        return views[0] if all(views) else None

    def ping(self) -> str:
        times = [rtt for address in B.host for rtt in self._ping(address)]
        answered = [rtt for rtt in times if rtt is not None]
        if len(answered) != len(times):
            raise NotHeld(f"{len(times) - len(answered)} of {len(times)} without an answer")
        median = statistics.median(answered) * 1000
        return f"{len(times)} of {len(times)} answered, IPv4 and IPv6; median {median:.2f} ms"

    def _ping(self, address: str) -> list[float | None]:
        return self.sites.a.host.run(ping, address, PINGS, 0.05)

    def stream(self) -> str:
        if shutil.which("iperf3"):
            bits, tool = self._iperf("--time", str(STREAM_SECONDS))["bits_per_second"], "iperf3"
        else:
            bits, tool = self._own_stream(), "own sender, no iperf3 here"
        if bits < 1e6:
            raise NotHeld(f"{bits / 1e6:.3f} Mbit/s")
        return f"{bits / 1e9:.2f} Gbit/s, one stream, {STREAM_SECONDS} s ({tool})"

    def flood(self) -> str:
        if shutil.which("iperf3"):
            figures = self._iperf("--udp", "--bitrate", "0", "--length", str(FLOOD_SIZE), "--time", str(FLOOD_SECONDS))
            received = figures["packets"] - figures["lost_packets"]
            packets, tool = received / figures["seconds"], "iperf3"
        else:
            result = self._flow(rate=1_000_000, size=FLOOD_SIZE, seconds=FLOOD_SECONDS)
            packets, tool = result.distinct / result.seconds, "own sender, no iperf3 here"
        if packets < 1:
            raise NotHeld("nothing arrived")
        bits = packets * FLOOD_SIZE * 8
        return f"{bits / 1e9:.2f} Gbit/s, {packets:,.0f} packets/s of {FLOOD_SIZE} bytes received ({tool})"

    def choose_rate(self) -> str:
        """The highest rate at which nothing is lost without a rekey, so that what a rekey loses can be seen."""
        for self.rate in FLOW_RATES:
            result = self._flow(rate=self.rate, seconds=TRIAL_SECONDS)
            if result.lost == 0:
                return f"{self.rate:,} packets/s without loss"
        raise NotHeld(f"even at {self.rate:,} packets/s {result.lost} of {result.sent} were lost")

    def rekey_child(self) -> str:
        before = self._child()
        result = self._flow(lambda: self._rekey("net", lambda now: now.spi_in != before.spi_in))
        return self._nothing_lost(result, f"SPI {before.spi_in} -> {self._child().spi_in}")

    def rekey_ike(self) -> str:
        before = self._child()
        result = self._flow(lambda: self._rekey("", lambda now: now.ike_spi != before.ike_spi))
        return self._nothing_lost(result, f"SPI {before.ike_spi} -> {self._child().ike_spi}")

    def finish(self) -> str:
        statuses = [gateway.close() for gateway in self.gateways]
        if any(statuses):
            raise NotHeld(f"exit statuses {statuses}")
        return "both gateways ended by SIGTERM with status 0"

    def _child(self) -> ChildView:
        return self.gateways[0].expect_child()

    def _rekey(self, child: str, done: Callable[[ChildView], bool]) -> None:
        self.gateways[0].command("rekey", "net", child)
        wait_for("new SPIs", lambda: done(self._child()))
        time.sleep(AFTER_REKEY_SECONDS)

    def _nothing_lost(self, result: FlowResult, what: str) -> str:
        text = f"{what}; {result}"
        if result.lost or result.duplicates:
            raise NotHeld(text)
        return text

    def _flow(
        self,
        meanwhile: Callable[[], None] | None = None,
        *,
        rate: int | None = None,
        size: int = 200,
        seconds: float = 0.0,
    ) -> FlowResult:
        a, b = self.sites.a.host, self.sites.b.host
        flow = NumberedFlow(a, b, self.address, rate=rate or self.rate, size=size)
        time.sleep(seconds)
        if meanwhile is not None:
            meanwhile()
        return flow.finish()

    def _own_stream(self) -> float:
        where = [self.address, "7001"]
        listen = self.sites.b.host.start([*TRAFFIC, "tcp-receive", *where], stdout=subprocess.PIPE)
        receiver = Figures(listen)
        receiver.await_first("seconds", "the receiver listens")
        self.sites.a.host.check_output([*TRAFFIC, "tcp-send", *where, "--seconds", str(STREAM_SECONDS)])
        return float(receiver.finish()["bytes"] * 8 / STREAM_SECONDS)

    def _iperf(self, *options: str) -> dict[str, float]:
        """One run of iperf3 from host A to host B; the receiver's sum."""
        server = self.sites.b.host.start(
            ["iperf3", "--server", "--one-off", "--forceflush"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert server.stdout is not None  # noqa: S101 (it was started with a pipe)
        while "listening" not in server.stdout.readline():
            if server.poll() is not None:
                raise NotHeld("iperf3 --server ended by itself")
        drain = threading.Thread(target=server.stdout.read, daemon=True)
        drain.start()
        try:
            output = self.sites.a.host.check_output(["iperf3", "--client", self.address, "--json", *options])
        except subprocess.CalledProcessError as error:
            raise NotHeld(f"iperf3: {error.output.strip()[-300:]}") from error
        end = json.loads(output)["end"]
        figures: dict[str, float] = end.get("sum_received") or end["sum"]
        return figures


class Sampler(threading.Thread):
    """Asks both gateways for their figures twice a second and shows them."""

    def __init__(self, demo: Demo, display: Display) -> None:
        super().__init__(daemon=True)
        self._demo, self._display = demo, display
        self._stop = threading.Event()
        self._before: dict[str, tuple[float, int]] = {}

    def run(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self._display.show_gateways([self._view(gateway) for gateway in tuple(self._demo.gateways)])

    def stop(self) -> None:
        self._stop.set()
        self.join()

    def _view(self, gateway: GatewayProcess) -> GatewayView:
        name = f"gateway {gateway.file.parent.name}"
        try:
            child = gateway.child()
        except (OSError, IpsecError):  # it is starting, or ending
            child = None
        if child is None:
            return GatewayView(name, "", "", 0, 0.0, 0)
        now = time.monotonic()
        then, octets = self._before.get(name, (now, child.octets))
        self._before[name] = (now, child.octets)
        rate = max(0.0, (child.octets - octets) * 8 / (now - then)) if now > then else 0.0
        spis = f"{child.spi_in} in {child.spi_out} out"
        return GatewayView(name, child.ike_spi, spis, child.packets, rate, child.drops)


STEPS: tuple[tuple[str, Callable[[Demo], str], bool], ...] = (  # title, what is done, whether the rest needs it
    ("gateways", Demo.start_gateways, True),
    ("IKEv2", Demo.negotiate, True),
    ("ping", Demo.ping, False),
    ("TCP", Demo.stream, False),
    ("UDP", Demo.flood, False),
    ("a rate without loss", Demo.choose_rate, True),
    ("Child SA rekeyed under load", Demo.rekey_child, False),
    ("IKE SA rekeyed under load", Demo.rekey_ike, False),
    ("end", Demo.finish, False),
)


def main(arguments: list[str]) -> int:
    """Runs all of it; 0 if every step held. Needs root, or re-executes itself in a user namespace."""
    parser = argparse.ArgumentParser(prog="ipsecfast demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--plain", action="store_true", help="lines instead of the moving display")
    given = parser.parse_args(arguments)
    mistake = _prepare(arguments)
    if mistake:
        print(f"ipsecfast demo: {mistake}", file=sys.stderr)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    console = Console(highlight=False, force_terminal=False if given.plain else None)
    shown = Display([Step(title) for title, _, _ in STEPS], console)
    try:
        with tempfile.TemporaryDirectory(prefix="ipsecfast-demo-") as folder, TwoSites() as sites, shown:
            demo = Demo(Path(folder), sites)
            sampler = Sampler(demo, shown)
            if shown.console.is_terminal:
                sampler.start()
            try:
                failures = _perform(demo, shown)
            finally:
                if sampler.is_alive():
                    sampler.stop()
    except KeyboardInterrupt:
        print("ipsecfast demo: interrupted; nothing is left behind", file=sys.stderr)
        return 130
    shown.summary()
    for title, text in failures:
        shown.details(title, text)
    return 1 if failures else 0


def _perform(demo: Demo, display: Display) -> list[tuple[str, str]]:
    """Does the steps; what a person needs to look into those that failed, as (title, text)."""
    failures: list[tuple[str, str]] = []
    for step, (_, action, needed) in zip(display.steps, STEPS, strict=True):
        display.begin(step)
        held = True
        try:
            text = action(demo)
        except (NotHeld, TestbedError, OSError, subprocess.SubprocessError, IpsecError) as error:
            held, text = False, str(error)
        display.end(step, held=held, text=text)
        if not held:
            failures.append((step.title, text))
        if needed and not held:
            break
    logs = [(str(gateway.file.parent.name), gateway.log_text()) for gateway in demo.gateways] if failures else []
    return failures + [(f"log of gateway {name}", text) for name, text in logs]


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


# ---- root, or a user namespace ----


def _prepare(arguments: list[str]) -> str | None:
    """Why the demo can't run here, or None. An ordinary user's process is replaced by one in a user namespace."""
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        return _no_tun()
    if os.geteuid() == 0:
        return None
    if shutil.which("unshare") is None:
        return "an ordinary user needs `unshare` (package util-linux) for namespaces of their own"
    unshare = ["unshare", "--user", "--map-root-user"]
    probe = subprocess.run([*unshare, "--net", "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"this user may not make a user namespace ({probe.stderr.strip()}){_userns_reason()}; root may"
    return os.execvp(unshare[0], [*unshare, sys.executable, "-m", "ipsecfast", "demo", *arguments])  # noqa: S606


def _no_tun() -> str:
    if not os.path.exists(TUN_DEVICE):
        return f"there is no {TUN_DEVICE}: load the module (modprobe tun), or give the container that device"
    return f"{TUN_DEVICE} is closed to this user: run it as root, or open it with chmod 666 {TUN_DEVICE}"


def _userns_reason() -> str:
    """Which setting of the kernel forbids it, where one is known to."""
    for file, forbidding in (
        ("/proc/sys/user/max_user_namespaces", "0"),
        ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        try:
            value = Path(file).read_text().strip()
        except OSError:
            continue
        if value == forbidding:
            return f": {file} is {value}"
    return ""
