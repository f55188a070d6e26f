"""Quick crash detection (RFC 6290): a token that only a gateway which lost an IKE SA would ever show.

    HDR, SK {IDi, ..., AUTH, N(QCD_TOKEN), ...}  -->
                             <--  HDR, SK {IDr, ..., AUTH, N(QCD_TOKEN), ...}
    (the responder restarts)
    HDR, SK {...}  -->
                             <--  HDR, N(INVALID_IKE_SPI), N(QCD_TOKEN)

Who sees the token of its IKE SA in clear knows that the other end has lost that IKE SA, without waiting for the end of
all retransmissions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import constant_time, hashes, hmac

from ipsecfast.ike.constants import IN_CLEAR, ExchangeType, NotifyError, NotifyType, PayloadType
from ipsecfast.ike.context import Context
from ipsecfast.ike.exchange.base import Exchange
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.wire.message import Header, Message, parse_message
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload
from ipsecfast.model import ProtocolId

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

MIN_TOKEN_LENGTH, MAX_TOKEN_LENGTH = 16, 128  # s4.1
MAX_TOKENS = 4  # that are looked at in one message: a maker may have more than one method (s4.5)
PROTECTED = frozenset({PayloadType.SK, PayloadType.SKF})


def make_token(secret: bytes, spi_i: bytes, spi_r: bytes, *, initiator: bool) -> bytes:
    """s5.1: a pseudo-random function of the SPIs. `initiator`: the maker is the IKE SA's original initiator.

    The role goes in so that nobody gets the token of a living IKE SA by asking for it with the roles exchanged. The
    peer's address stays out (s5.2 is for gateways that share a secret): behind a NAT it changes while we restart.
    """
    context = hmac.HMAC(secret, hashes.SHA256())
    context.update(bytes([initiator]) + spi_i + spi_r)
    return context.finalize()


# -- the token maker ---------------------------------------------------------------------------------------------------


def token_payloads(context: Context, spi_i: bytes, spi_r: bytes, *, initiator: bool) -> tuple[Payload, ...]:
    """For a protected message to the other end; none, when we would not know our secret after a restart."""
    secret = context.lasting.crash_secret
    return (_notify(make_token(secret, spi_i, spi_r, initiator=initiator)),) if secret else ()


def own_token(sa: IkeSa) -> tuple[Payload, ...]:
    return token_payloads(sa.context, sa.spi_i, sa.spi_r, initiator=sa.initiator)


def confession(context: Context, header: Header) -> tuple[Payload, ...]:
    """s4.5: for the answer to a protected request on an IKE SA that isn't there. s9.2: never for one that is, whichever
    of the two SPIs the request calls ours."""
    alive = header.spi_i in context.ike_sas or header.spi_r in context.ike_sas
    if alive or header.next_payload not in PROTECTED:
        return ()
    return token_payloads(context, header.spi_i, header.spi_r, initiator=not header.from_initiator)


def _notify(token: bytes) -> NotifyPayload:
    return NotifyPayload(NotifyType.QUICK_CRASH_DETECTION, token, ProtocolId.IKE)


class PassToken(Exchange):
    """s4.3: after a rekey of ours, for the new IKE SA: the response had the peer's token, ours comes in a request."""

    type = ExchangeType.INFORMATIONAL
    states = frozenset({IkeState.ESTABLISHED})
    moves = False

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload] | None:
        return own_token(sa) or None

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        """It has arrived."""


# -- the token taker ---------------------------------------------------------------------------------------------------


def take_token(message: Message) -> bytes:
    """The peer's token in an authentic message; empty: it makes none, or none that we may take (s4.1)."""
    notify = message.notify(NotifyType.QUICK_CRASH_DETECTION)
    fits = notify is not None and MIN_TOKEN_LENGTH <= len(notify.data) <= MAX_TOKEN_LENGTH
    return notify.data if notify is not None and fits else b""


def replace_token(sa: IkeSa, notify: NotifyPayload) -> None:
    """s4.4: the peer has another one for this IKE SA now."""
    if MIN_TOKEN_LENGTH <= len(notify.data) <= MAX_TOKEN_LENGTH:
        sa.peer_token = notify.data


def is_unprotected_answer(header: Header) -> bool:
    """A response in clear to a request that was protected."""
    clear = header.next_payload not in PROTECTED
    return header.is_response and clear and header.exchange not in IN_CLEAR


def heed(sa: IkeSa, data: bytes, now: float) -> Outcome:
    """s4.5: with the right token the peer has lost the IKE SA: it goes without a word, and what it served comes anew.
    Anything else in clear proves nothing (RFC 7296 s2.4): the request is repeated as if nothing had come."""
    try:
        message = parse_message(data)
    except NotifyError:
        return Outcome.MALFORMED
    tokens = [n.data for n in message.all(NotifyPayload) if n.notify_type == NotifyType.QUICK_CRASH_DETECTION]
    same_sa = (message.spi_i, message.spi_r) == (sa.spi_i, sa.spi_r)
    known = sa.peer_token and not sa.closed and same_sa
    if not known or not any(constant_time.bytes_eq(token, sa.peer_token) for token in tokens[:MAX_TOKENS]):
        sa.context.complain(now, "hint", f"{sa}: an answer in clear, which proves nothing", f"hint {sa.path.remote}")
        return Outcome.UNPROTECTED
    sa.note("peer-restarted", "the peer proves that it has lost this IKE SA: it has restarted", warning=True)
    sa.close(Cause.REKEYED if sa.state is IkeState.REKEYED else sa.closing or Cause.PEER_RESTARTED, now)
    return Outcome.PROCESSED
