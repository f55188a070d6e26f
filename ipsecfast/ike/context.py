"""What all IKE SAs of one endpoint share: limits, randomness, timers, counters, and the one stream of actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import TYPE_CHECKING

from ipsecfast.ike.actions import Action, Notify
from ipsecfast.ike.child import ChildTable, Reqids
from ipsecfast.ike.constants import SPI_LENGTH
from ipsecfast.ike.credential.archive import Archive
from ipsecfast.ike.extension.tickets import Spent
from ipsecfast.ike.half_open import HalfOpen
from ipsecfast.ike.jobs import Jobs
from ipsecfast.ike.lasting import FORGETFUL, Lasting
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.sa_table import IkeSaTable
from ipsecfast.ike.timers import Backoff, Bucket, RateLimit, TimerQueue, fraction
from ipsecfast.ike.wire.message import ZERO_SPI

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

NONCE_LENGTH = 32  # RFC 7296 s2.10: at least half the key size of the PRF
DEBUG, INFO, WARNING, ERROR = 10, 20, 30, 40  # the levels of `logging`


@dataclass(frozen=True, slots=True)
class Settings:
    """The limits of an endpoint; times in seconds."""

    retransmit: Backoff = field(default_factory=Backoff)
    cookie_threshold: int = 32  # half-open IKE SAs from which on a cookie is asked for (s2.6)
    half_open_limit: int = 1000
    half_open_per_source: int = 128  # of one IPv4 address, or IPv6 /64
    puzzle_limit: int = 18  # bits of a puzzle that we solve at most (RFC 8019): a second or two
    half_open_timeout: float = 30.0
    children_limit: int = 1024  # Child SAs of one IKE SA, should its configuration not need more itself
    offload_from: float = 0.0005  # seconds of computing from which on it leaves the core; less costs less than the way
    half_open_work: int = 32  # computations for half-open IKE SAs that wait at most, before new ones are turned away
    # Octets of the longest IP packet of a fragmented message, by IP version: what every path takes (RFC 7383 s2.5.1
    # asks for 576 over IPv4; no path that carries ESP is that narrow, and the fewer fragments, the fewer get lost).
    fragment_size: Mapping[int, int] = field(default_factory=lambda: {4: 1280, 6: 1280})
    keepalive: float = 20.0  # RFC 3948 s4: the default of NAT keepalives
    child_linger: float = 2.0  # how long the inbound half of a replaced Child SA takes packets that are under way
    activate_delay: float = 0.1  # what the initiator may need to install a new Child SA before our packets come
    follow_up_timeout: float = 60.0  # how long what a CREATE_CHILD_SA agreed on waits for the next key exchange
    ticket_lifetime: float = 4 * 3600.0  # how long a session may be resumed (RFC 5723)
    session_lifetime: float = 24 * 3600.0  # until the two ends have to prove again who they are
    redirect_grace: float = 2.0  # how long an IKE SA that is left for another gateway still carries its Child SAs
    redirect_patience: float = 60.0  # how long a peer that was sent away may take to go (RFC 5685 s5)
    retry: tuple[float, float] = (5.0, 10.0)  # after TEMPORARY_FAILURE, and a rekey that failed otherwise
    reconnect: tuple[float, float] = (5.0, 300.0)  # first and longest pause between attempts of a connection
    supersede_pause: float = 10.0  # what a peer that authenticates itself anew has to move its Child SAs
    acquire_pause: float = 2.0  # after a failed attempt packets don't ask for the next one at once
    unprotected: RateLimit = field(default_factory=lambda: RateLimit(0.1, 20))  # s2.21.4: errors to strangers
    unknown_spis: RateLimit = field(default_factory=lambda: RateLimit(0.1, 20))  # ESP that is looked into (s1.5)
    complaints: RateLimit = field(default_factory=lambda: RateLimit(1.0, 20))  # log lines that strangers cause


class Context:
    """Shared by reference; the endpoint makes it, its IKE SAs, Child SAs and connections use it."""

    def __init__(
        self,
        settings: Settings,
        random: Callable[[int], bytes],
        wall_clock: Callable[[], datetime],
        lasting: Lasting = FORGETFUL,
    ) -> None:
        self.settings = settings
        self.lasting = lasting
        self.random = random
        self.wall_clock = wall_clock
        self.children = ChildTable(self.emit, random)
        self.timers = TimerQueue()
        self.counters: Counter[str] = Counter()
        self.reqids = Reqids()
        self.ike_sas = IkeSaTable(self.emit)
        self.order = count(1)  # of what is begun and comes to stand here
        self.spent = Spent()
        self.by_request: dict[bytes, IkeSa] = {}  # by the digest of the peer's IKE_SA_INIT request
        self.half_open = HalfOpen()
        self.jobs = Jobs(self)
        self.archive = Archive()
        self._actions: list[Action] = []
        self._complaints = Bucket(settings.complaints)
        self._unprotected = Bucket(settings.unprotected)

    def forget(self, sa: IkeSa) -> None:
        """Nothing is left of a closed IKE SA."""
        self.ike_sas.forget(sa)
        self.by_request.pop(sa.request_digest, None)
        for later in (sa.heir, sa.peer_successor):  # or each would keep all that were before it
            if later is not None and later.predecessor is sa:
                later.predecessor = None

    def settle(self, outcome: Outcome) -> None:
        """A datagram that was deferred has come to its end."""
        if outcome is not Outcome.DEFERRED:
            self.counters[Outcome.DEFERRED] -= 1
            self.counters[outcome] += 1

    # -- actions ---------------------------------------------------------------------------------------------------

    def emit(self, action: Action) -> None:
        self._actions.append(action)

    def drain(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    def complain(
        self, now: float, event: str, message: str | Callable[[], str], key: str, level: int = WARNING
    ) -> None:
        """A log line that someone without any key can cause: few of them, and `key` lets the shell thin them out. A
        `message` that takes some looking around is only made when it is told."""
        if self._complaints.take(now):
            self.emit(Notify(event, message if isinstance(message, str) else message(), level, key=key))
        else:
            self.counters["complaints suppressed"] += 1

    def may_answer_stranger(self, now: float) -> bool:
        """Unprotected errors leave at a limited rate (s2.21.4): forged senders must not be flooded through us."""
        allowed = self._unprotected.take(now)
        if not allowed:
            self.counters["unprotected answers suppressed"] += 1
        return allowed

    # -- randomness ------------------------------------------------------------------------------------------------

    def nonce(self) -> bytes:
        return self.random(NONCE_LENGTH)

    def fraction(self) -> float:
        return fraction(self.random)

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * self.fraction()

    def new_ike_spi(self) -> bytes:
        """Ours, nonzero and not in use (s2.6)."""
        spi = self.random(SPI_LENGTH)
        while spi == ZERO_SPI or spi in self.ike_sas:
            spi = self.random(SPI_LENGTH)
        return spi
