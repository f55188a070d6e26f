"""What the IKE core wants done: one ordered stream of values, to be performed in that order.

`IkeEndpoint.actions()` yields these; `gateway.py` performs them one by one and is the only module that knows how.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from ipsecfast.ike.lasting import Lasting
from ipsecfast.model import Path, SaParams, SpiRank

Details: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Transmit:
    """Send one IKE message. The shell puts the non-ESP marker before it where `path.nat_t` says so."""

    path: Path
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class InstallSa:
    """A Child SA exists: inbound ACTIVE at once; outbound ACTIVE if `activate_outbound`, else REGISTERED (s2.8).

    `connection` and `child` are the configured names. SPD entries for the SA's selectors go in before this returns.
    """

    connection: str
    child: str
    inbound: SaParams
    outbound: SaParams
    activate_outbound: bool


@dataclass(frozen=True, slots=True)
class ActivateOutbound:
    """From now on packets of the child `reqid` leave through the registered outbound SA `spi`."""

    reqid: int
    spi: int


@dataclass(frozen=True, slots=True)
class RemoveSa:
    """The SA pair is gone. Selectors leave the SPD with the last SA of `reqid`, unless a trap keeps them."""

    reqid: int
    inbound_spi: int
    outbound_spi: int


@dataclass(frozen=True, slots=True)
class MovePeer:
    """The SA pair goes on over another path (RFC 7296 s2.23)."""

    reqid: int
    inbound_spi: int
    outbound_spi: int
    path: Path


@dataclass(frozen=True, slots=True)
class InstallTrap:
    """PROTECT policies for the configured selectors of a child: its packets ask for an SA (`Acquire`) and are held.

    Stands for start_action trap and start alike; the gateway takes the selectors from the configuration.
    """

    connection: str
    child: str
    reqid: int


@dataclass(frozen=True, slots=True)
class ReleaseHeld:
    """There will be no SA for the packets held for `reqid`: drop them, counted."""

    reqid: int


@dataclass(frozen=True, slots=True)
class RankSpi:
    """From now on messages for the IKE SPI `spi` of ours have this rank."""

    spi: bytes
    rank: SpiRank


@dataclass(frozen=True, slots=True)
class ResolveName:
    """A gateway's name is to become addresses; `IkeEndpoint.resolved` takes them."""

    connection: str
    name: str


@dataclass(frozen=True, slots=True)
class Compute:
    """Call `call` in a thread, or in a process where it `holds_interpreter`, and give what it returns, or the exception
    that it raises, to `IkeEndpoint.handle_result` under the number `job`. What is `urgent` goes before what is not."""

    job: int
    call: Callable[[], object] = field(repr=False)
    urgent: bool
    holds_interpreter: bool


@dataclass(frozen=True, slots=True)
class KeepSecrets:
    """What is to outlive a restart has changed."""

    lasting: Lasting


@dataclass(frozen=True, slots=True)
class Source:
    """What is to be fetched: an http or file URI, at most `limit` octets; `request`: a POST of these octets (OCSP)."""

    uri: str
    limit: int
    request: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch all `sources` within `seconds`, and give `IkeEndpoint.handle_result` a tuple under the number `job`: of
    each the octets, or a sentence that says why there are none."""

    job: int
    sources: tuple[Source, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Notify:
    """Something a person wants to know. `event` is a stable word, `message` the sentence, `level` logging's.

    `key` is what a rate limit applies to ("" is never limited); `details` are fields for `--log-format json`.
    """

    event: str
    message: str
    level: int = 20
    connection: str = ""
    child: str = ""
    key: str = ""
    details: Details = ()


Action: TypeAlias = (
    Transmit
    | InstallSa
    | ActivateOutbound
    | RemoveSa
    | MovePeer
    | InstallTrap
    | ReleaseHeld
    | RankSpi
    | ResolveName
    | Compute
    | KeepSecrets
    | Fetch
    | Notify
)
