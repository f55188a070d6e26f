"""What outlives a restart of the gateway. The shell keeps it and hands it in; without it, restarts simply forget."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TicketKey:
    """What tickets are sealed with (RFC 5723 s6.1): `number` names it in them, `made` is in seconds of Unix time."""

    number: bytes
    key: bytes = field(repr=False)
    made: float


@dataclass(frozen=True, slots=True)
class Lasting:
    """`crash_secret`: what quick crash detection makes its tokens of (RFC 6290 s5); empty: we make none.
    `ticket_keys`: those that tickets still in use were sealed with, the newest first."""

    crash_secret: bytes = field(default=b"", repr=False)
    ticket_keys: tuple[TicketKey, ...] = ()


FORGETFUL = Lasting()
