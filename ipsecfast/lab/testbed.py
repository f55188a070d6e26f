"""Gateways and flows under observation in the topology of `netns`: what demo, tests and benchmarks share.

A `GatewayProcess` is a real `ipsecfast run` with a configuration made here, reached by control socket and signals
as any other. A `NumberedFlow` is a stream of numbered UDP packets whose losses and duplicates are counted.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from ipsecfast.control import Command, Verb, send_command
from ipsecfast.lab.netns import Addresses, Namespace, stop

SECRET = "only for the demo and the tests, not a secret"  # noqa: S105 (that is the point)
PROGRAM = (sys.executable, "-m", "ipsecfast")
TRAFFIC = (sys.executable, "-m", "ipsecfast.lab.traffic")
DRAIN_SECONDS = 0.5
PATIENCE = 30.0  # seconds that what is sure to happen may take on a machine that is busy otherwise
START_PATIENCE = 60.0  # ... until a gateway has started
BUFFERED = 1_000_000  # bytes of a paced stream

Value = TypeVar("Value")


class TestbedError(RuntimeError):
    """Something that had to happen did not; the text says what, and what was seen instead."""

    __test__ = False  # pytest: not a test


def wait_for(what: str, probe: Callable[[], Value | None], *, seconds: float = PATIENCE, every: float = 0.05) -> Value:
    """Calls `probe` until it returns something true; raises TestbedError with the last answer after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() >= deadline:
            raise TestbedError(f"{what}: not within {seconds:g} s, last seen: {found!r}")
        time.sleep(every)


def toml_text(table: Mapping[str, Any], path: str = "") -> str:
    """A TOML document: strings, numbers, booleans, lists of them, tables of tables, and lists of flat tables."""
    arrays = {key: value for key, value in table.items() if isinstance(value, list) and _has_tables(value)}
    values = {key: value for key, value in table.items() if not isinstance(value, Mapping) and key not in arrays}
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    text = (f"[{path}]\n" if path and (values or not table) else "") + "".join(f"{line}\n" for line in lines)
    for key, value in table.items():
        if isinstance(value, Mapping):
            text += toml_text(value, f"{path}.{key}" if path else key)
    for key, entries in arrays.items():
        name = f"{path}.{key}" if path else key
        text += "".join(f"[[{name}]]\n{toml_text(entry)}" for entry in entries)
    return text


def _has_tables(entries: list[Any]) -> bool:
    return any(isinstance(entry, Mapping) for entry in entries)


def tunnel_config(
    own: Addresses,
    peer: Addresses,
    *,
    outer: int = 4,
    inner: tuple[int, ...] = (4,),
    connection: Mapping[str, Any] | None = None,
    child: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The configuration of one end: connection `net`, child `net`. `outer` and `inner` are IP versions.

    `connection` and `child` add keys to their tables or replace them.
    """
    versions = {4: 0, 6: 1}
    at = versions[outer]
    return {
        "gateway": {},
        "connections": {
            "net": {
                "local_addrs": [own.outer[at]],
                "remote_addrs": [peer.outer[at]],
                **(connection or {}),
                "local": {"id": f"{own.letter.lower()}.test"},
                "remote": {"id": f"{peer.letter.lower()}.test"},
                "children": {
                    "net": {
                        "local_ts": [own.networks[versions[version]] for version in inner],
                        "remote_ts": [peer.networks[versions[version]] for version in inner],
                        **(child or {}),
                    }
                },
            }
        },
        "secrets": {"net": {"secret": SECRET}},
    }


@dataclass(frozen=True, slots=True)
class ChildView:
    """The newest Child SA of the first connection, as `ipsecfast status` tells it. SPIs are hexadecimal digits."""

    ike_spi: str
    ike_algorithms: str
    spi_in: str
    spi_out: str
    algorithms: str
    esn: bool
    udp_encap: bool
    remote_ts: tuple[str, ...]
    packets: int
    octets: int
    drops: int


def newest_child(status: Mapping[str, Any]) -> ChildView | None:
    """None while there is no Child SA that carries packets out; a responder's does so from its first packet on."""
    pairs = [(ike, child) for ike in status["connections"][0]["ike_sas"] for child in ike["child_sas"]]
    installed = [(ike, child) for ike, child in pairs if child["state"] == "installed"]
    ready = [(ike, child) for ike, child in installed if child["outbound"] == "active"] or installed
    if not ready:
        return None
    ike, child = ready[-1]
    return ChildView(
        ike_spi=ike["spi_i"],
        ike_algorithms=ike["proposal"],
        spi_in=child["spi_in"],
        spi_out=child["spi_out"],
        algorithms=child["proposal"],
        esn=child["esn"],
        udp_encap=child["udp_encap"],
        remote_ts=tuple(child["remote_ts"]),
        packets=sum(one[way]["packets"] for _, one in pairs for way in ("in", "out")),
        octets=sum(one[way]["bytes"] for _, one in pairs for way in ("in", "out")),
        drops=sum(status["drops"].values()),
    )


class GatewayProcess:
    """One `ipsecfast run` in a namespace; ready for commands when the constructor returns."""

    def __init__(self, place: Namespace, folder: Path, config: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.place = place
        self.file = folder / "ipsecfast.toml"
        self.control = folder / "control.sock"
        self.log = folder / "gateway.log"
        settings = {**config, "gateway": {"control": str(self.control), **config.get("gateway", {})}}
        self.file.touch(mode=0o600)
        self.file.write_text(toml_text(settings))
        with self.log.open("ab") as log:
            self.process = place.start([*PROGRAM, "run", str(self.file)], stdout=log, stderr=log)
        try:
            wait_for(f"the gateway of {self.file} answers", self._answers, seconds=START_PATIENCE)
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        if self.process.poll() is not None:
            raise TestbedError(f"the gateway ended with {self.process.returncode}:\n{self.log_text()}")
        return self.control.exists()

    def command(
        self, verb: str, connection: str = "", child: str = "", *, timeout: float = 20.0, gateway: str = ""
    ) -> dict[str, Any]:
        """A command over the control socket, as the command line sends it; its answer.

        Raises TestbedError if the gateway refused, with its sentence and all that it said before.
        """
        lines = list(send_command(str(self.control), Command(Verb(verb), connection, child, timeout, gateway)))
        if not lines[-1]["ok"]:
            said = [line["notice"] for line in lines[:-1]] + [lines[-1]["error"]]
            raise TestbedError(f"{verb} {connection} {child}: " + "; ".join(said))
        return lines[-1]

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.command("status")["status"]
        return status

    def child(self) -> ChildView | None:
        return newest_child(self.status())

    def expect_child(self) -> ChildView:
        return wait_for("a Child SA", self.child)

    def counts(self) -> tuple[int, int]:
        """IKE SAs and Child SAs of all connections, in whatever state."""
        ike_sas = [ike for connection in self.status()["connections"] for ike in connection["ike_sas"]]
        return len(ike_sas), sum(len(ike["child_sas"]) for ike in ike_sas)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> int:
        """SIGTERM, and the exit status."""
        return stop(self.process, patience=10)


class Figures:
    """The JSON lines that a program of `traffic` prints, one each half second."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None  # noqa: S101 (it was started with a pipe)
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    @property
    def last(self) -> dict[str, Any]:
        return self.lines[-1] if self.lines else {}

    def await_first(self, key: str, what: str) -> None:
        """Waits until the figure `key` is above 0; raises TestbedError if the program ends before."""

        def seen() -> bool:
            if not self.last.get(key) and self.process.poll() is not None:
                raise TestbedError(f"{what}: {self.process.args!r} ended with {self.process.returncode}")
            return bool(self.last.get(key))

        wait_for(what, seen)

    def finish(self) -> dict[str, Any]:
        """Tells the program to stop and returns its last figures."""
        stop(self.process)
        self._thread.join(5)
        if not self.last.get("done"):
            raise TestbedError(f"{self.process.args!r} ended without its figures: {self.last}")
        return self.last


@dataclass(frozen=True, slots=True)
class FlowResult:
    """What became of a flow: packets, and seconds of sending."""

    sent: int
    received: int
    distinct: int
    reordered: int
    longest_gap: int
    seconds: float

    @property
    def lost(self) -> int:
        return self.sent - self.distinct

    @property
    def duplicates(self) -> int:
        return self.received - self.distinct

    @property
    def rate(self) -> float:
        return self.sent / self.seconds

    def __str__(self) -> str:
        text = f"{self.sent} packets, {self.rate:,.0f}/s, lost {self.lost}, duplicated {self.duplicates}"
        return f"{text}, longest gap {self.longest_gap}" if self.lost else text


class NumberedFlow:
    """Numbered UDP from one namespace to an address in another; packets flow when the constructor returns."""

    def __init__(
        self,
        source: Namespace,
        destination: Namespace,
        address: str,
        *,
        port: int = 7000,
        rate: int = 50_000,
        size: int = 200,
    ) -> None:
        where = [address, str(port)]
        listen = destination.start([*TRAFFIC, "udp-receive", *where], stdout=subprocess.PIPE)
        self._receiver = Figures(listen)
        self._receiver.await_first("seconds", "the receiver listens")
        send = [*TRAFFIC, "udp-send", *where, "--rate", str(rate), "--size", str(size)]
        self._sender = Figures(source.start(send, stdout=subprocess.PIPE))
        self._receiver.await_first("received", "packets arrive")

    @property
    def received(self) -> int:
        return int(self._receiver.last.get("received", 0))

    def finish(self) -> FlowResult:
        sent = self._sender.finish()
        time.sleep(DRAIN_SECONDS)
        got = self._receiver.finish()
        return FlowResult(
            sent=sent["sent"],
            received=got["received"],
            distinct=got["distinct"],
            reordered=got["reordered"],
            longest_gap=got["longest_gap"],
            seconds=sent["seconds"],
        )


class SteadyPing:
    """Echo requests, twenty a second, from construction to `finish`."""

    def __init__(self, source: Namespace, address: str) -> None:
        command = [*TRAFFIC, "ping", address, "0", "--rate", "20"]
        self._figures = Figures(source.start(command, stdout=subprocess.PIPE))
        self._figures.await_first("answered", "pings are answered")

    def finish(self) -> int:
        """How many had no answer."""
        last = self._figures.finish()
        return int(last["sent"] - last["answered"])


class Stream:
    """A TCP stream, from construction to `finish`, at most `pace` bytes a second.

    Without `destination` somebody listens already.
    """

    def __init__(
        self,
        source: Namespace,
        destination: Namespace | None,
        address: str,
        *,
        port: int = 7001,
        pace: int | None = None,
    ) -> None:
        where = [address, str(port)]
        if destination is not None:
            sink = Figures(destination.start([*TRAFFIC, "tcp-receive", *where], stdout=subprocess.PIPE))
            sink.await_first("seconds", "the receiver listens")
        paced = [] if pace is None else ["--pace", str(pace)]
        self._sender = Figures(source.start([*TRAFFIC, "tcp-send", *where, *paced], stdout=subprocess.PIPE))
        self._sender.await_first("bytes", "the stream runs")

    def goes_on(self) -> None:
        """Waits until it has sent more than what may lie in the buffers of a connection that is dead."""
        before = self._sender.last["bytes"]
        wait_for("the stream goes on", lambda: self._sender.last["bytes"] >= before + BUFFERED)

    def finish(self) -> list[int]:
        """The bytes sent in each half second."""
        self._sender.finish()
        totals = [0, *(line["bytes"] for line in self._sender.lines[:-1])]
        return [after - before for before, after in pairwise(totals)]
