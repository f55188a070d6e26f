"""Loads on a contender of `bench tunnel`, the same programs with the same options for everybody: iperf3 and our own
ping, and for rates without loss the generator. Also what the load cost: CPU time of processes, softirq of the machine.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipsecfast.bench.generator import open_sink, received_packets
from ipsecfast.bench.runner import VariantFailed
from ipsecfast.lab.netns import A, B, TwoSites
from ipsecfast.lab.traffic import ping

PING_TIMEOUT = 1.0
PING_INTERVAL = 0.02
LOSS_ALLOWED = 0.001  # "without loss": so few that the machine's own pauses are not the figure
TRIALS = 8
ASK_MORE = 2.0  # as long as nothing was lost
DRAIN_SECONDS = 0.05
HEADERS = 28  # IPv4 and UDP: sizes here are those of whole IP packets, as everywhere in this package
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Latency:
    """Round-trip times in milliseconds; what had no answer counts as the timeout."""

    p50: float
    p99: float

    @staticmethod
    def of(times: Sequence[float | None]) -> Latency:
        found = sorted(PING_TIMEOUT * 1000 if one is None else one * 1000 for one in times)
        return Latency(statistics.median(found), found[min(len(found) - 1, int(len(found) * 0.99))])


def ping_for(sites: TwoSites, seconds: float) -> Latency:
    """From host A to host B, 50 times a second while answers come."""
    times: list[float | None] = []
    end = time.monotonic() + seconds
    while not times or time.monotonic() < end:
        times += sites.a.host.run(ping, B.host[0], 1, timeout=PING_TIMEOUT)
        time.sleep(PING_INTERVAL)
    return Latency.of(times)


class Iperf:
    """One run of iperf3 from host A to host B, begun when the constructor returns."""

    def __init__(self, sites: TwoSites, *options: str) -> None:
        self._server = sites.b.host.start(
            ["iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        sites.b.host.run(_await_listener, 5201)
        command = ["iperf3", "--client", B.host[0], "--json", *options]
        self._client = sites.a.host.start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def finish(self, timeout: float) -> dict[str, Any]:
        """The "end" of the client's report. Raises VariantFailed with what went wrong."""
        try:
            output, said = self._client.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as error:
            self._client.kill()
            self._client.communicate()
            raise VariantFailed(f"iperf3 did not end within {timeout:.0f} s") from error
        finally:
            self._server.kill()
            self._server.wait()
        try:
            report = json.loads(output)
        except ValueError as error:
            raise VariantFailed(f"iperf3: {(output + said).strip()[-200:]}") from error
        if "error" in report:
            raise VariantFailed(f"iperf3: {report['error']}")
        end: dict[str, Any] = report["end"]
        return end


def _await_listener(port: int) -> None:
    """In the thread of a namespace: until a TCP socket there listens on the port."""
    wanted, deadline = f":{port:04X} ", time.monotonic() + 10
    while time.monotonic() < deadline:
        for table in ("tcp", "tcp6"):
            lines = Path(f"/proc/thread-self/net/{table}").read_text().splitlines()
            if any(line.split()[3] == "0A" and f"{line.split()[1]} ".endswith(wanted) for line in lines[1:]):
                return
        time.sleep(0.01)
    raise VariantFailed("iperf3 --server did not listen within 10 s")


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Seconds of CPU: of the given processes with all their threads, and in softirqs of the whole machine."""

    processes: float
    softirq: float

    @staticmethod
    def now(pids: Sequence[int]) -> CpuTime:
        ticks = 0
        for pid in pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])  # utime and stime, fields 14 and 15 of proc(5)
        softirq = int(Path("/proc/stat").read_text().split(None, 8)[7])
        return CpuTime(ticks / TICKS, softirq / TICKS)

    def since(self, before: CpuTime) -> CpuTime:
        return CpuTime(self.processes - before.processes, self.softirq - before.softirq)


def tcp(sites: TwoSites, streams: int, seconds: float, *, back: bool = False) -> float:
    """Gbit/s that arrived."""
    options = ["--parallel", str(streams), "--time", f"{seconds:.0f}", *(["--reverse"] if back else [])]
    end = Iperf(sites, *options).finish(seconds + 20)
    return float(end["sum_received"]["bits_per_second"]) / 1e9


def udp_flood(sites: TwoSites, size: int, seconds: float) -> tuple[float, Latency]:
    """Packets of `size` bytes at the highest rate that the sender makes: kpps that arrived, and pings meanwhile."""
    flood = Iperf(sites, "--udp", "--bitrate", "0", "--length", str(size - HEADERS), "--time", f"{seconds:.0f}")
    latency = ping_for(sites, max(0.5, seconds - 0.5))
    total = flood.finish(seconds + 20)["sum"]
    return (total["packets"] - total["lost_packets"]) / total["seconds"] / 1000, latency


def in_tcp(sites: TwoSites, seconds: float) -> Latency:
    stream = Iperf(sites, "--time", f"{seconds:.0f}")
    latency = ping_for(sites, max(0.5, seconds - 0.5))
    stream.finish(seconds + 20)
    return latency


# ---- rates without loss ----


class Counted:
    """The generator at host A, the counter of its link at host B: what was sent, what came."""

    def __init__(self, sites: TwoSites, size: int, seconds: float) -> None:
        self._sites, self._size, self._seconds = sites, size, seconds
        self._mac = sites.a.gateway.mac("inner")

    def trial(self, rate: float) -> tuple[float, float]:
        """Packets a second: sent and received; `rate` 0: as fast as it goes."""
        host = self._sites.b.host
        sink = host.run(open_sink)
        try:
            before = host.run(received_packets, "eth0")
            output = self._sites.a.host.check_output([
                sys.executable, "-m", "ipsecfast.bench.generator", A.host[0], B.host[0], self._mac,
                "--size", str(self._size - HEADERS), "--rate", str(rate), "--seconds", str(self._seconds),
            ])  # fmt: skip
            received = self._drained() - before
        finally:
            sink.close()
        done = json.loads(output)
        return done["sent"] / done["seconds"], received / done["seconds"]

    def _drained(self) -> int:
        """The counter when nothing comes any more."""
        last = -1
        while (now := self._sites.b.host.run(received_packets, "eth0")) != last:
            last = now
            time.sleep(DRAIN_SECONDS)
        return now


def highest_rate(trial: Callable[[float], tuple[float, float]], trials: int = TRIALS) -> float:
    """The highest rate that was sent, of which LOSS_ALLOWED at most was lost; 0 if every trial lost more.

    By bisection of what is asked for: where other work takes the sender's core it sends less than that, and what it
    sent at full speed is no bound for what may be asked.
    """
    sent, received = trial(0.0)
    if received >= sent * (1 - LOSS_ALLOWED):
        return sent
    best, passed, failed, asked = 0.0, 0.0, math.inf, received
    for _ in range(trials - 1):
        sent, received = trial(asked)
        if received >= sent * (1 - LOSS_ALLOWED):
            best, passed = max(best, sent), max(passed, asked)
        else:
            failed = min(failed, asked)
        asked = asked * ASK_MORE if failed == math.inf else (passed + failed) / 2
    return best
