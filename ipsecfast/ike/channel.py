"""The protected channel of one IKE SA: message IDs, SK payloads, retransmission (RFC 7296 s2.1-2.4, s3.14).

It knows what a message is, not what it means. `IkeSa` puts requests in and gets authentic messages out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from ipsecfast.ike.actions import Transmit
from ipsecfast.ike.auth import IntAuth
from ipsecfast.ike.constants import IN_CLEAR, ExchangeType
from ipsecfast.ike.context import Context
from ipsecfast.ike.crypto.keymat import IkeKeys
from ipsecfast.ike.crypto.primitives import SkCipher
from ipsecfast.ike.crypto.suite import Suite
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.window import Window
from ipsecfast.ike.wire.fragments import Reassembly, is_fragment, open_fragment, seal_datagrams
from ipsecfast.ike.wire.message import (
    ZERO_SPI,
    Header,
    Message,
    covered_octets_of,
    encode_message,
    open_message,
    parse_message,
)
from ipsecfast.ike.wire.payloads import Payload
from ipsecfast.model import NAT_T_PORT, Path

NAT_KEEPALIVE = b"\xff"  # RFC 3948 s2.3
UNLIMITED = 1 << 16
IP_AND_UDP_HEADERS = {4: 20 + 8, 6: 40 + 8}
NON_ESP_MARKER_LENGTH = 4


class Channel(ABC):
    """SPIs, keys, window, path and NATs of an IKE SA. `initiator`: we are its original initiator (s2.2)."""

    def __init__(self, context: Context, path: Path, *, initiator: bool) -> None:
        self.context = context
        self.path = path
        self.initiator = initiator
        self.local_nat = self.remote_nat = self.udp_encap = False
        self.fragments_in = self.fragments_out = False  # RFC 7383: both sides can; and we are asked to
        self.spi_i = self.spi_r = ZERO_SPI
        self.window = Window()
        self.init_sent = b""  # our IKE_SA_INIT message and the peer's, for AUTH (s2.15)
        self.init_received = b""
        self.request_digest = b""
        self.intauth = IntAuth()
        self.last_heard = self.last_sent = 0.0
        self._suite: Suite | None = None
        self._keys: IkeKeys | None = None
        self._upcoming: IkeKeys | None = None
        self._cipher_out: SkCipher | None = None
        self._cipher_in: SkCipher | None = None
        self._iv = 0
        self._reassembly = {False: Reassembly(), True: Reassembly()}  # of a request and of a response

    @property
    def suite(self) -> Suite:
        assert self._suite is not None
        return self._suite

    @property
    def keys(self) -> IkeKeys:
        assert self._keys is not None
        return self._keys

    @property
    def has_keys(self) -> bool:
        return self._keys is not None

    def install_keys(self, suite: Suite, keys: IkeKeys) -> None:
        self._suite, self._keys = suite, keys
        of_initiator = suite.cipher(keys.sk_ei, keys.sk_ai)
        of_responder = suite.cipher(keys.sk_er, keys.sk_ar)
        self._cipher_out, self._cipher_in = (
            (of_initiator, of_responder) if self.initiator else (of_responder, of_initiator)
        )

    def change_keys_after_response(self, keys: IkeKeys) -> None:
        """RFC 9370 s2.2.2: the response to the request that is being answered still leaves under the old ones."""
        self._upcoming = keys

    def open(self, header: Header, data: bytes) -> tuple[Message, bytes] | None:
        """An authentic message and the datagram that stands for it; for IKE_SA_INIT, which is in clear, just a
        well-formed one. None: a fragment, and more of them must come.

        Raises:
            IntegrityError: nobody knows who sent it.
            NotifyError: authentic and wrong.
        """
        if header.exchange in IN_CLEAR:
            return parse_message(data, header), data
        assert self._cipher_in is not None
        opened = self._open_protected(header, data, self._cipher_in)
        if opened is not None and header.exchange == ExchangeType.IKE_INTERMEDIATE:
            self._cover(opened[0], opened[0].covered)
        return opened

    def _open_protected(self, header: Header, data: bytes, cipher: SkCipher) -> tuple[Message, bytes] | None:
        reassembly = self._reassembly[header.is_response]
        if is_fragment(header) and self.fragments_in:
            return reassembly.add(open_fragment(data, cipher))
        message = open_message(data, cipher, header)
        reassembly.clear()
        return message, data

    def _cover(self, message: Message, octets: bytes) -> None:
        """RFC 9242 s3.3: AUTH will cover this IKE_INTERMEDIATE message, under the keys that it goes by."""
        sk_p = self.keys.sk_pi if message.initiator else self.keys.sk_pr
        self.intauth.add(self.suite.prf, sk_p, octets, response=message.response)

    def encode(
        self, exchange: int, message_id: int, payloads: Sequence[Payload], *, response: bool
    ) -> tuple[bytes, ...]:
        """The datagrams of one message: several where it is longer than the path surely takes (RFC 7383)."""
        message = Message(self.spi_i, self.spi_r, exchange, message_id, response, self.initiator, tuple(payloads))
        if exchange in IN_CLEAR:
            return (encode_message(message),)
        if exchange == ExchangeType.IKE_INTERMEDIATE:
            self._cover(message, covered_octets_of(message))
        cipher = self._cipher_out
        assert cipher is not None
        datagrams = seal_datagrams(message, cipher, lambda: self._next_iv(cipher), self._longest_datagram())
        if self._upcoming is not None:
            self.install_keys(self.suite, self._upcoming)
            self._upcoming = None
        return datagrams

    def _longest_datagram(self) -> int:
        """Octets from the IKE header on (RFC 7383 s2.5.1)."""
        if not self.fragments_out:
            return UNLIMITED
        version = self.path.remote.version
        marker = NON_ESP_MARKER_LENGTH if self.path.nat_t else 0
        return self.context.settings.fragment_size[version] - IP_AND_UDP_HEADERS[version] - marker

    def _next_iv(self, cipher: SkCipher) -> bytes:
        """RFC 5282 s3.1: for AES-GCM a counter, which never repeats under one key; else unpredictable (s3.14)."""
        if not cipher.iv_is_counter:
            return self.context.random(cipher.iv_length)
        self._iv += 1
        return self._iv.to_bytes(cipher.iv_length, "big")

    def send_request(self, exchange: int, payloads: Sequence[Payload], now: float) -> None:
        """Our next request; it is sent again until `request_concluded`."""
        datagrams = self.encode(exchange, self.window.next_request, payloads, response=False)
        if exchange in IN_CLEAR:
            (self.init_sent,) = datagrams
        self.window.sent(datagrams)
        self.go_on_waiting(now)
        self.transmit(datagrams, self.path, now)

    def retransmit(self, now: float) -> bool:
        """The outstanding request once more, bit by bit the same (s2.1); False when it was sent often enough."""
        outstanding = self.window.outstanding
        assert outstanding is not None
        if outstanding.sendings > self.context.settings.retransmit.tries:
            return False
        outstanding.sendings += 1
        self.context.counters["retransmissions"] += 1
        self.go_on_waiting(now)
        self.transmit(outstanding.datagrams, self.path, now)
        return True

    def go_on_waiting(self, now: float) -> None:
        """For the response to the outstanding request, if there is one: longer each time (s2.4)."""
        if self.window.outstanding is not None:
            sent_before = self.window.outstanding.sendings - 1
            wait = self.context.settings.retransmit.wait(sent_before, self.context.random)
            self.context.timers.set(self, Timer.RETRANSMIT, now + wait)

    def request_concluded(self) -> None:
        self.window.concluded()
        self.context.timers.clear(self, Timer.RETRANSMIT)

    def request_withdrawn(self) -> None:
        """It goes out again in another shape, under the same message ID (exchanges in clear only)."""
        self.window.restart()
        self.context.timers.clear(self, Timer.RETRANSMIT)

    @abstractmethod
    def on_timer(self, timer: Timer, now: float) -> None: ...

    def transmit(self, datagrams: tuple[bytes, ...], path: Path, now: float) -> None:
        self.last_sent = now
        for datagram in datagrams:
            self.context.emit(Transmit(path, datagram))

    def keep_mapping(self, now: float) -> None:
        """RFC 3948 s4: the NAT before us forgets who we are when nothing leaves for a while."""
        keepalive = self.context.settings.keepalive
        if now >= self.last_sent + keepalive:
            self.context.counters["keepalives sent"] += 1
            self.transmit((NAT_KEEPALIVE,), self.path, now)
        self.context.timers.set(self, Timer.KEEPALIVE, self.last_sent + keepalive)

    @property
    def esp_path(self) -> Path:
        """s2.23: ESP in UDP takes IKE's ports, bare ESP has none."""
        if not self.udp_encap:
            return Path(self.path.local, 0, self.path.remote, 0)
        remote_port = self.path.remote_port if self.path.nat_t else NAT_T_PORT
        return Path(self.path.local, NAT_T_PORT, self.path.remote, remote_port)
