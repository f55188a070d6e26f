"""What becomes of datagrams."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """What became of one datagram. Each is also the name of a counter; together they are all that was received."""

    PROCESSED = "processed"
    DUPLICATE = "duplicates"
    ANSWERED_ERROR = "answered with an error"
    FAILED_RESPONSE = "unusable responses"
    COOKIE_SENT = "cookies sent"
    PUZZLE_SENT = "puzzles sent"
    HALF_OPEN_REFUSED = "half-open refused"
    NO_CONNECTION = "no connection for the addresses"
    REDIRECTED = "redirected"
    KEEPALIVE = "keepalives received"
    MALFORMED = "malformed"
    VERSION = "unsupported major version"
    UNKNOWN_SPI = "unknown IKE SPI"
    INTEGRITY = "integrity failures"
    FRAGMENT = "fragments kept"
    OUT_OF_WINDOW = "outside the window"
    REFUSED = "not allowed in this state"
    UNPROTECTED = "unprotected notifies"
    DEFERRED = "waiting for work"  # counted as something else when that is done
    BUSY = "dropped while another message of the IKE SA waited"
    ABANDONED = "dropped with their IKE SA"
