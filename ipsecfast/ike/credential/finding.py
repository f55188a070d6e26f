"""What is found out about the revocation of one certificate, and how old what says so may be."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

CLOCK_SKEW = timedelta(minutes=5)  # of who signs: "from now on" may be a little later than our clock says
MAX_AGE = timedelta(hours=1)  # of an OCSP response that does not say when the next one comes (RFC 6960 s4.2.2.1)


class State(StrEnum):
    """RFC 6960 s2.2's words, for CRLs too."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """`text` is a sentence that names the certificate and who says so, or why nobody does. `until`: what says so is
    valid until then."""

    state: State
    text: str
    until: datetime | None = None

    @property
    def good(self) -> bool:
        return self.state is State.GOOD


def unknown(text: str) -> Finding:
    return Finding(State.UNKNOWN, text)


def time_mistake(what: str, this_update: datetime, next_update: datetime | None, at: datetime) -> str | None:
    """Why `what` does not count now, or None (RFC 5280 s6.3.3 (a), RFC 6960 s3.2 steps 5 and 6)."""
    if this_update > at + CLOCK_SKEW:
        return f"{what} is from {time_text(this_update)} on; here it is {time_text(at)}"
    end = this_update + MAX_AGE if next_update is None else next_update
    if at > end:
        return f"{what} ended on {time_text(end)}; here it is {time_text(at)}"
    return None


def time_text(moment: datetime) -> str:
    return f"{moment:%F %T} UTC"
