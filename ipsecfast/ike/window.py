"""Message IDs and retransmission (RFC 7296 s2.1-2.3): a window of one request in each direction.

We announce no SET_WINDOW_SIZE, so one request of ours waits for its response before the next is sent, and the peer
may send the request after the last one we answered, or that last one again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from hashlib import sha256

MAX_MESSAGE_ID = 0xFFFFFFFF


class Arrival(Enum):
    """What a message ID says about a datagram, before anything in it is believed."""

    NEW_REQUEST = auto()
    DUPLICATE_REQUEST = auto()
    EXPECTED_RESPONSE = auto()
    OUT_OF_WINDOW = auto()


@dataclass(slots=True)
class Outstanding:
    """Our request that waits for its response; its datagrams go out again bit by bit the same (s2.1)."""

    message_id: int
    datagrams: tuple[bytes, ...]
    sendings: int = 1


class Window:
    """The message IDs of one IKE SA: those of our requests and those of the peer's count apart (s2.2)."""

    __slots__ = ("_last_digest", "_last_response", "expected_request", "next_request", "outstanding")

    def __init__(self) -> None:
        self.next_request = 0
        self.expected_request = 0
        self.outstanding: Outstanding | None = None
        self._last_digest = b""
        self._last_response: tuple[bytes, ...] | None = None

    def classify(self, response: bool, message_id: int, datagram: bytes) -> Arrival:
        """A duplicate must be the last request bit by bit, or its first fragment: so a stranger can't make us repeat an
        answer (s2.1, RFC 7383 s2.6.1)."""
        if response:
            waits = self.outstanding is not None and self.outstanding.message_id == message_id
            return Arrival.EXPECTED_RESPONSE if waits else Arrival.OUT_OF_WINDOW
        if message_id == self.expected_request:
            return Arrival.NEW_REQUEST
        is_last = message_id + 1 == self.expected_request and self._last_response is not None
        if is_last and sha256(datagram).digest() == self._last_digest:
            return Arrival.DUPLICATE_REQUEST
        return Arrival.OUT_OF_WINDOW

    @property
    def cached_response(self) -> tuple[bytes, ...] | None:
        """The answer to the last request, kept until the next request shows that it arrived."""
        return self._last_response

    def answered(self, request: bytes, response: tuple[bytes, ...]) -> None:
        """The expected request was answered: remember the answer for its duplicates, expect the next.

        `request` is its datagram, or that of its first fragment.
        """
        self._last_digest = sha256(request).digest()
        self._last_response = response
        self.expected_request += 1

    def sent(self, datagrams: tuple[bytes, ...]) -> None:
        """Our next request left; nothing else may until it is answered."""
        if self.outstanding is not None:
            raise RuntimeError(f"request {self.outstanding.message_id} is not answered yet")
        self.outstanding = Outstanding(self.next_request, datagrams)

    def restart(self) -> None:
        """IKE_SA_INIT again with the same message ID: with a cookie or another group (s2.6, s1.2)."""
        self.outstanding = None

    def concluded(self) -> None:
        """The response to our request was accepted."""
        self.outstanding = None
        self.next_request += 1

    @property
    def exhausted(self) -> bool:
        """The IKE SA must go before message IDs wrap (s2.2)."""
        return max(self.next_request, self.expected_request) >= MAX_MESSAGE_ID
