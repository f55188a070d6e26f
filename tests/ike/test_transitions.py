"""`TRANSITIONS`, exhaustively: what is in the table is handled, what is absent is refused and changes nothing."""

from __future__ import annotations

import itertools

import pytest
from simulation import Pair, own_cipher

from ipsecfast.ike.constants import IN_CLEAR, ExchangeType
from ipsecfast.ike.exchange.base import Exchange
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.states import IkeState, Role
from ipsecfast.ike.transitions import TRANSITIONS
from ipsecfast.ike.wire.message import Message, encode_message, parse_header, seal_message

ALL = list(itertools.product(IkeState, ExchangeType, Role))
# RFC 7296 s1.2-1.4, s2.25, RFC 5723, RFC 9242, RFC 9370: all that may happen. Written down a second time, on purpose.
ALLOWED = {
    (IkeState.CONNECTING, ExchangeType.IKE_SA_INIT, Role.RESPONDER),
    (IkeState.CONNECTING, ExchangeType.IKE_SA_INIT, Role.INITIATOR),
    (IkeState.CONNECTING, ExchangeType.IKE_SESSION_RESUME, Role.RESPONDER),
    (IkeState.CONNECTING, ExchangeType.IKE_SESSION_RESUME, Role.INITIATOR),
    (IkeState.CONNECTING, ExchangeType.IKE_INTERMEDIATE, Role.RESPONDER),
    (IkeState.CONNECTING, ExchangeType.IKE_INTERMEDIATE, Role.INITIATOR),
    (IkeState.CONNECTING, ExchangeType.IKE_AUTH, Role.RESPONDER),
    (IkeState.CONNECTING, ExchangeType.IKE_AUTH, Role.INITIATOR),
    (IkeState.ESTABLISHED, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER),
    (IkeState.ESTABLISHED, ExchangeType.CREATE_CHILD_SA, Role.INITIATOR),
    (IkeState.ESTABLISHED, ExchangeType.IKE_FOLLOWUP_KE, Role.RESPONDER),
    (IkeState.ESTABLISHED, ExchangeType.IKE_FOLLOWUP_KE, Role.INITIATOR),
    (IkeState.ESTABLISHED, ExchangeType.INFORMATIONAL, Role.RESPONDER),
    (IkeState.ESTABLISHED, ExchangeType.INFORMATIONAL, Role.INITIATOR),
    (IkeState.REKEYED, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER),
    (IkeState.REKEYED, ExchangeType.CREATE_CHILD_SA, Role.INITIATOR),
    (IkeState.REKEYED, ExchangeType.IKE_FOLLOWUP_KE, Role.RESPONDER),
    (IkeState.REKEYED, ExchangeType.IKE_FOLLOWUP_KE, Role.INITIATOR),
    (IkeState.REKEYED, ExchangeType.INFORMATIONAL, Role.RESPONDER),
    (IkeState.REKEYED, ExchangeType.INFORMATIONAL, Role.INITIATOR),
    (IkeState.DELETING, ExchangeType.CREATE_CHILD_SA, Role.RESPONDER),
    (IkeState.DELETING, ExchangeType.IKE_FOLLOWUP_KE, Role.RESPONDER),
    (IkeState.DELETING, ExchangeType.INFORMATIONAL, Role.RESPONDER),
    (IkeState.DELETING, ExchangeType.INFORMATIONAL, Role.INITIATOR),
}


def test_the_table_is_the_protocol() -> None:
    assert set(TRANSITIONS) == ALLOWED


class Pending(Exchange):
    """An outstanding request of any exchange type."""

    states = frozenset(IkeState)

    def __init__(self, exchange: ExchangeType) -> None:
        self.type = exchange
        self.answered = False

    def request(self, sa: IkeSa, now: float) -> tuple[()]:
        return ()

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        self.answered = True


def authentic(peer: IkeSa, exchange: ExchangeType, message_id: int, role: Role) -> bytes:
    """What the peer would send: for `Role.RESPONDER` of ours a request."""
    message = Message(peer.spi_i, peer.spi_r, exchange, message_id, role is Role.INITIATOR, peer.initiator)
    if exchange in IN_CLEAR:
        return encode_message(message)
    cipher = own_cipher(peer)
    return seal_message(message, cipher, (1 << 40).to_bytes(cipher.iv_length, "big"))


@pytest.mark.parametrize(("state", "exchange", "role"), ALL)
def test_every_combination(state: IkeState, exchange: ExchangeType, role: Role) -> None:
    """An authentic message with the right message ID meets the IKE SA in each state. The state of a role that the IKE
    SA can have: who answers IKE_SA_INIT and IKE_AUTH is the responder of the IKE SA."""
    pair = Pair().up()
    us, them = (pair.b, pair.a) if role is Role.RESPONDER else (pair.a, pair.b)
    sa, peer = us.established[0], them.established[0]
    if role is Role.INITIATOR:
        pending = Pending(exchange)
        sa.start(pending, pair.now)
        us.endpoint.actions()
        message_id = sa.window.next_request
    else:
        message_id = sa.window.expected_request
    sa.state = state
    before = (sa.window.expected_request, sa.window.next_request)
    data = authentic(peer, exchange, message_id, role)
    outcome = sa.handle(parse_header(data), data, sa.path, pair.now)
    if (state, exchange, role) in ALLOWED:
        assert outcome is not Outcome.REFUSED
        assert (sa.window.expected_request, sa.window.next_request) != before or exchange in IN_CLEAR
    else:
        assert outcome is Outcome.REFUSED
        assert sa.state is state
        assert (sa.window.expected_request, sa.window.next_request) == before
        assert us.endpoint.actions() == []


@pytest.mark.parametrize("exchange", sorted(IN_CLEAR | {ExchangeType.IKE_INTERMEDIATE, ExchangeType.IKE_AUTH}))
def test_an_initiator_is_not_asked_to_be_a_responder(exchange: ExchangeType) -> None:
    """The table has no column for who began the IKE SA; `_fits` keeps the opening exchanges in their direction."""
    pair = Pair().up()
    sa, peer = pair.a.established[0], pair.b.established[0]
    sa.state = IkeState.CONNECTING
    data = authentic(peer, exchange, sa.window.expected_request, Role.RESPONDER)
    assert sa.handle(parse_header(data), data, sa.path, pair.now) is Outcome.REFUSED


def test_a_response_of_another_exchange_is_refused() -> None:
    pair = Pair().up()
    sa, peer = pair.a.established[0], pair.b.established[0]
    sa.start(Pending(ExchangeType.INFORMATIONAL), pair.now)
    data = authentic(peer, ExchangeType.CREATE_CHILD_SA, sa.window.next_request, Role.INITIATOR)
    assert sa.handle(parse_header(data), data, sa.path, pair.now) is Outcome.REFUSED


def test_the_initiator_flag_must_be_the_senders() -> None:
    """A message reflected to its sender has the right keys' SPIs, but the wrong flag."""
    pair = Pair().up()
    sa = pair.a.established[0]
    data = authentic(sa, ExchangeType.INFORMATIONAL, sa.window.expected_request, Role.RESPONDER)
    assert sa.handle(parse_header(data), data, sa.path, pair.now) is Outcome.REFUSED
