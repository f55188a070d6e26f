"""Named timers on virtual time: one queue for the whole endpoint, so that `next_timeout` is one look at a heap.

Nothing here knows what time it is; every method that needs it is told. Times are seconds of any monotonic clock.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, auto
from itertools import count
from typing import Protocol


class Timer(IntEnum):  # whose hashes cost nothing
    """What may be waited for. An owner has each of them at most once."""

    RETRANSMIT = auto()  # the outstanding request has no answer yet (RFC 7296 s2.1)
    HALF_OPEN = auto()  # an initiator that never came with IKE_AUTH
    REAUTH = auto()  # the peer is to prove anew who it is (s2.8.3)
    REKEY = auto()  # soft lifetime of an IKE SA or a Child SA (s2.8)
    EXPIRE = auto()  # hard lifetime
    ACTIVATE = auto()  # the responder of a first Child SA lets the initiator install it before it sends
    LIVENESS = auto()  # nothing heard for dpd_delay (s2.4)
    KEEPALIVE = auto()  # NAT mapping (RFC 3948 s2.3)
    FOLLOW_UP = auto()  # the peer's CREATE_CHILD_SA waits for its additional key exchanges (RFC 9370 s2.2.4)
    LEAVE = auto()  # who is redirected has had the time to settle elsewhere (RFC 5685)
    RETRY = auto()  # after TEMPORARY_FAILURE (s2.25)
    LINGER = auto()  # what is closed stays a little: answers to duplicates, ESP still in flight
    CONNECT = auto()  # the next attempt of a connection (keyingtries)


class TimerOwner(Protocol):
    def on_timer(self, timer: Timer, now: float) -> None: ...


MAX_STALE = 64  # entries of the heap that may be stale beside as many as there are timers


class TimerQueue:
    """A heap with lazy deletion: what counts is the table, an entry of the heap that differs from it is stale."""

    __slots__ = ("_deadlines", "_heap", "_order")

    def __init__(self) -> None:
        self._deadlines: dict[tuple[TimerOwner, Timer], float] = {}
        self._heap: list[tuple[float, int, TimerOwner, Timer]] = []
        self._order = count()

    def set(self, owner: TimerOwner, timer: Timer, deadline: float) -> None:
        """Start the timer, or move it."""
        self._deadlines[owner, timer] = deadline
        heapq.heappush(self._heap, (deadline, next(self._order), owner, timer))
        if len(self._heap) > 2 * len(self._deadlines) + MAX_STALE:
            self._sweep()

    def _sweep(self) -> None:
        """Without the stale entries, which would keep their owners, and their keys, until a lifetime is over."""
        self._heap = [e for e in self._heap if self._deadlines.get((e[2], e[3])) == e[0]]
        heapq.heapify(self._heap)

    def clear(self, owner: TimerOwner, timer: Timer) -> None:
        self._deadlines.pop((owner, timer), None)

    def clear_all(self, owner: TimerOwner) -> None:
        for timer in Timer:
            self._deadlines.pop((owner, timer), None)

    def deadline(self, owner: TimerOwner, timer: Timer) -> float | None:
        return self._deadlines.get((owner, timer))

    def next(self) -> float | None:
        """The earliest deadline, None when nothing is waited for."""
        while self._heap:
            deadline, _, owner, timer = self._heap[0]
            if self._deadlines.get((owner, timer)) == deadline:
                return deadline
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> tuple[TimerOwner, Timer] | None:
        """The earliest timer whose deadline has come; it no longer runs. In order of deadline, then of `set`."""
        deadline = self.next()
        if deadline is None or deadline > now:
            return None
        _, _, owner, timer = heapq.heappop(self._heap)
        del self._deadlines[owner, timer]
        return owner, timer

    def __len__(self) -> int:
        return len(self._deadlines)


def fraction(random: Callable[[int], bytes]) -> float:
    """A random number in [0, 1)."""
    return int.from_bytes(random(4), "big") / 2**32


@dataclass(frozen=True, slots=True)
class Backoff:
    """Retransmission (s2.1, s2.4): `timeout * base ** n` seconds after the n-th sending, `tries` more sendings.

    Each wait is shortened by up to `jitter` of itself, so that gateways that lost one link don't answer in step.
    """

    timeout: float = 4.0
    base: float = 1.8
    tries: int = 5
    jitter: float = 0.1

    def wait(self, sent_before: int, random: Callable[[int], bytes]) -> float:
        """Seconds from the sending number `sent_before` (0: the first) until the next, or until giving up."""
        return self.timeout * self.base**sent_before * (1.0 - self.jitter * fraction(random))

    @property
    def total(self) -> float:
        """Seconds after which the sender has given up at the latest."""
        return sum(self.timeout * self.base**n for n in range(self.tries + 1))


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `burst` at once, one more each `interval` seconds."""

    interval: float
    burst: int


class Bucket:
    """A token bucket: what unauthenticated strangers cause (answers, log lines) goes through one of these."""

    __slots__ = ("_limit", "_since", "_tokens")

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._tokens = float(limit.burst)
        self._since = 0.0

    def take(self, now: float) -> bool:
        """True when it may happen once more."""
        gained = max(0.0, now - self._since) / self._limit.interval
        self._tokens = min(float(self._limit.burst), self._tokens + gained)
        self._since = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
