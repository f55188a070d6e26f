"""What ESP costs on top of its cipher: the engine alone, then seal and open of the library, side by side on one core.

    python -m bench.stages [--json] [--rounds N] [--sizes 64,1400] [--engines openssl] [--require 0.8]

`raw` is the engine on as many bytes, in place, with a fresh IV and 8 bytes of AAD each. `seal` and `open` are all of
RFC 4303 around it, in place as in a gateway's buffers: parse, sequence number, padding, header, ICV; window, trailer,
selectors, ECN. `seal to` and `open to` do the same from one array into another. All work on batches of 64, caches warm.

Each round measures every stage of every engine one after the other, each shorter than a scheduler's slice, so that a
slow moment of the machine meets all of them. Figures are medians over the rounds; the ratio is the median of the
rounds' ratios.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import statistics
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path as FilePath
from time import perf_counter_ns

import numpy as np

from ipsecfast.dataplane import ENGINES, InboundSa, OutboundSa, PacketBatch, raw_open, raw_seal
from ipsecfast.model import Path, SaParams, TrafficSelector

BATCH = 64
STAGES = ("seal", "open", "seal to", "open to")
SIZES = (64, 256, 576, 1400, 8900)
ACCEPTED_AT, ACCEPTED_STAGES = 1400, ("seal", "open")  # what --require looks at
SLICE_NS = 400_000  # one measurement: shorter than the time that a scheduler gives to another process
KEY = bytes(range(16))
SALT = bytes(4)


@dataclass(frozen=True, slots=True)
class Stage:
    """One line of the result: times in ns a packet, rates in Gbit/s of inner packets."""

    engine: str
    size: int
    stage: str
    raw_ns: float
    ours_ns: float
    raw_gbps: float
    ours_gbps: float
    ratio: float


def sa_params(window: int = 2048) -> SaParams:
    path = Path(ip_address("192.0.2.1"), 4500, ip_address("192.0.2.2"), 4500)
    local, remote = (TrafficSelector.from_network(ip_network(text)) for text in ("10.1.0.0/16", "10.2.0.0/16"))
    return SaParams(0x1001, 1, 20, KEY + SALT, path, (local,), (remote,), udp_encap=True, replay_window=window)


def inbound(params: SaParams) -> SaParams:
    """The same SA at the other end."""
    path = Path(params.path.remote, 4500, params.path.local, 4500)
    return SaParams(
        params.spi, 1, 20, params.key, path, params.remote_ts, params.local_ts, udp_encap=True,
        replay_window=params.replay_window,
    )  # fmt: skip


def packet(size: int) -> bytes:
    """An IPv4 UDP packet of `size` bytes from site to site; no checksums, for nobody looks at them."""
    addresses = ip_address("10.1.0.2").packed + ip_address("10.2.0.2").packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0x4000, 64, 17, 0) + addresses
    return head + struct.pack("!HHHH", 5000, 6000, size - 20, 0) + bytes(size - 28)


class Bench:
    """One engine at one size."""

    def __init__(self, engine: str, size: int) -> None:
        self.engine, self.size = engine, size
        self.plain = PacketBatch.from_packets([packet(size)] * BATCH)
        self.in_place = PacketBatch.with_room([packet(size)] * BATCH)
        self.sealed = PacketBatch.empty(BATCH, BATCH * (size + 64))
        self.opened = PacketBatch.empty(BATCH, BATCH * (size + 64))
        self.reasons = np.zeros(BATCH, np.uint8)
        self.sender = OutboundSa(sa_params(), engine=engine)
        self.receiver = InboundSa(inbound(sa_params()), engine=engine)
        self.stride = (size + 127) // 64 * 64
        self.memory = np.zeros(BATCH * self.stride, np.uint8)
        self.batches = max(1, int(SLICE_NS / (self._raw(raw_seal, 20) * BATCH)))

    def measure(self) -> dict[str, float]:
        """Nanoseconds a packet: the engine alone, then what stands on it."""
        times = {"raw seal": self._raw(raw_seal, self.batches)}
        times["seal"], times["open"] = self._there_and_back(self.in_place, self.in_place, self.in_place)
        times["raw open"] = self._raw(raw_open, self.batches)
        times["seal to"], times["open to"] = self._there_and_back(self.plain, self.sealed, self.opened)
        return times

    def _raw(self, work: Callable[..., None], batches: int) -> float:
        began = perf_counter_ns()
        work(self.engine, KEY, self.memory, self.size, self.stride, batches)
        return (perf_counter_ns() - began) / batches / BATCH

    def _there_and_back(self, plain: PacketBatch, sealed: PacketBatch, opened: PacketBatch) -> tuple[float, float]:
        """Seals and opens in turn, for a window opens nothing twice, each timed for itself."""
        seal, unseal, reasons, now = self.sender.seal, self.receiver.open, self.reasons, perf_counter_ns
        sealing = opening = 0
        for _ in range(self.batches):
            began = now()
            seal(plain, sealed, reasons=reasons)
            between = now()
            unseal(sealed, opened, reasons=reasons)
            opening += now() - between
            sealing += between - began
        if reasons.any():
            raise SystemExit(f"{self.engine}, {self.size} bytes: packets were dropped, the figures mean nothing")
        return sealing / self.batches / BATCH, opening / self.batches / BATCH


def run(engines: Sequence[str], sizes: Sequence[int], rounds: int) -> Iterator[Stage]:
    for size in sizes:
        benches = [Bench(engine, size) for engine in engines]
        measured: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
        for number in range(rounds + 1):
            for bench in benches:
                times = bench.measure()
                if number:  # the first one warms up
                    measured[bench.engine].append(times)
        for engine in engines:
            yield from (_stage(engine, size, stage, measured[engine]) for stage in STAGES)


def _stage(engine: str, size: int, stage: str, rounds: Sequence[dict[str, float]]) -> Stage:
    alone = f"raw {stage.removesuffix(' to')}"
    raw = statistics.median(times[alone] for times in rounds)
    ours = statistics.median(times[stage] for times in rounds)
    ratio = statistics.median(times[alone] / times[stage] for times in rounds)
    return Stage(engine, size, stage, raw, ours, size * 8 / raw, size * 8 / ours, ratio)


def machine() -> dict[str, str]:
    """What the figures depend on."""
    lines = FilePath("/proc/cpuinfo").read_text().splitlines()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(names)) or platform.machine(),
        "openssl": _library_version("libcrypto.so.3", "OpenSSL_version", 0),
        "ipsec-mb": _library_version("libIPSec_MB.so.1", "imb_get_version_str"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "kernel": platform.release(),
    }


def _library_version(library: str, function: str, *arguments: int) -> str:
    """Of the library that the extensions are linked with."""
    try:
        ask = getattr(ctypes.CDLL(library), function)
    except (OSError, AttributeError):
        return "not here"
    ask.restype = ctypes.c_char_p
    return (ask(*arguments) or b"unknown").decode()


def print_table(about: dict[str, str], stages: Sequence[Stage], rounds: int) -> None:
    print(f"{about['cpu']}; {about['openssl']}; ipsec-mb {about['ipsec-mb']}; Python {about['python']}")
    print(f"AES-128-GCM, one core, batches of {BATCH}, medians of {rounds} rounds\n")
    print("engine      bytes    stage    raw ns   ours ns  raw Gbit/s  ours Gbit/s  ours/raw")
    for one in stages:
        print(
            f"{one.engine:10} {one.size:6} {one.stage:>8} {one.raw_ns:9.1f} {one.ours_ns:9.1f} "
            f"{one.raw_gbps:11.2f} {one.ours_gbps:12.2f} {one.ratio:9.2f}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.stages", description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--rounds", type=int, default=101, help="measurements of each stage, at least 5 (default 101)")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="bytes of the inner packets")
    parser.add_argument("--engines", default=",".join(ENGINES), help="engines to compare")
    parser.add_argument("--require", type=float, default=0.0, metavar="RATIO",
                        help=f"exit 1 where ours/raw at {ACCEPTED_AT} bytes is below")  # fmt: skip
    options = parser.parse_args()
    options.sizes = [int(size) for size in options.sizes.split(",")]
    options.engines = options.engines.split(",")
    if options.rounds < 5 or min(options.sizes) < 64 or max(options.sizes) > 65_000:
        parser.error("at least 5 rounds, sizes from 64 to 65000")
    if unknown := set(options.engines) - set(ENGINES):
        parser.error(f"no engine {', '.join(sorted(unknown))}; there is: {', '.join(ENGINES)}")
    return options


def main() -> int:
    options = arguments()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    about, stages = machine(), list(run(options.engines, options.sizes, options.rounds))
    if options.json:
        print(
            json.dumps(
                {"machine": about, "rounds": options.rounds, "stages": [asdict(one) for one in stages]}, indent=2
            )
        )
    else:
        print_table(about, stages, options.rounds)
    judged = [one for one in stages if one.size == ACCEPTED_AT and one.stage in ACCEPTED_STAGES]
    below = [one for one in judged if one.ratio < options.require]
    for one in below:
        print(
            f"{one.engine} {one.stage} at {one.size} bytes: {one.ratio:.2f}, {options.require} is required",
            file=sys.stderr,
        )
    return 1 if below else 0


if __name__ == "__main__":
    sys.exit(main())
