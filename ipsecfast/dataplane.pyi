"""The data plane of a gateway: workers, commands and events; and, re-exported, ports and the library over numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Self, final

import numpy as np
from numpy.typing import NDArray

from ipsecfast.library import InboundSa as InboundSa
from ipsecfast.library import OutboundSa as OutboundSa
from ipsecfast.library import PacketBatch as PacketBatch
from ipsecfast.library import ReplayWindow as ReplayWindow
from ipsecfast.library import Spd as Spd
from ipsecfast.library import raw_open as raw_open
from ipsecfast.library import raw_seal as raw_seal
from ipsecfast.model import DataPlaneEvent, NextHop, Path, Policy, SaParams
from ipsecfast.ports import GeneratorPort as GeneratorPort
from ipsecfast.ports import IkeGate as IkeGate
from ipsecfast.ports import MemoryPort as MemoryPort
from ipsecfast.ports import PacketPort as PacketPort
from ipsecfast.ports import Port as Port
from ipsecfast.ports import RawEspPort as RawEspPort
from ipsecfast.ports import RingPort as RingPort
from ipsecfast.ports import TunPort as TunPort
from ipsecfast.ports import UdpPort as UdpPort
from ipsecfast.ports import XdpPort as XdpPort
from ipsecfast.values import DROP_HELP as DROP_HELP
from ipsecfast.values import DROP_REASONS as DROP_REASONS
from ipsecfast.values import ENGINES as ENGINES
from ipsecfast.values import choose_engine as choose_engine
from ipsecfast.values import esp_overhead as esp_overhead

@final
class Worker:
    """One thread's work: `run` is a thread's target and holds no GIL until `stop` or DataPlane.close()."""
    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn: ...
    @property
    def name(self) -> str: ...
    def run(self) -> None: ...
    def step(self) -> int: ...
    def stop(self) -> None: ...

@final
class DataPlane:
    """SAs, SPD and workers of one gateway."""
    def __new__(cls, *, engine: str = "auto") -> Self: ...
    @property
    def engine(self) -> str: ...
    @property
    def event_fd(self) -> int: ...
    def add_worker(
        self,
        name: str,
        inner: Port | Sequence[Port],
        outer: Sequence[Port],
        *,
        outbound: bool = True,
        inbound: bool = True,
        busy: bool = False,
    ) -> Worker: ...
    def install_inbound(self, params: SaParams) -> None: ...
    def install_outbound(self, params: SaParams) -> None: ...
    def activate_outbound(self, reqid: int, spi: int) -> None: ...
    def remove_inbound(self, spi: int) -> None: ...
    def remove_outbound(self, reqid: int, spi: int) -> None: ...
    def move_peer(self, reqid: int, inbound_spi: int, outbound_spi: int, path: Path) -> None: ...
    def release_held(self, reqid: int) -> None: ...
    def publish_spd(self, policies: Sequence[Policy] | NDArray[np.void]) -> None: ...
    def replace_policies(self, index: int, removed: int, policies: Sequence[Policy] | NDArray[np.void]) -> None: ...
    @property
    def policy_count(self) -> int: ...
    @property
    def policy_bytes(self) -> int: ...
    def install_sas_array(self, sas: NDArray[np.void], *, inbound: bool, activate: bool = False) -> None: ...
    def publish_hops(self, port: RingPort, hops: Sequence[NextHop]) -> None: ...
    def events(self, limit: int = 256) -> list[DataPlaneEvent]: ...
    def worker_stats(self) -> list[dict[str, Any]]:
        """name; outbound, inbound: {rx_packets, rx_bytes, tx_packets, tx_bytes}; consumed; held;
        handed_over, taken_over; cpu; drops."""
    def sa_stats(self) -> list[dict[str, Any]]:
        """spi, reqid, inbound, active, packets, bytes, sequence, drops: {reason: n}."""
    def sa_stats_array(self) -> NDArray[np.void]:
        """SA_COUNT_DTYPE of `ipsecfast.arrays`: the same without the reasons of drops."""
    def close(self) -> None: ...
