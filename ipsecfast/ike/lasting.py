"""What outlives a restart of the gateway. The shell keeps it and hands it in; without it, restarts simply forget."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Lasting:
    """`crash_secret`: what quick crash detection makes its tokens of (RFC 6290 s5); empty: we make none."""

    crash_secret: bytes = field(default=b"", repr=False)


FORGETFUL = Lasting()
