"""Rekeying the IKE SA (RFC 7296 s1.3.2, s2.18) and what happens when both ends do it at once (s2.8.2, s2.25.2).

HDR, SK {SA, Ni, KEi}  -->
                         <--  HDR, SK {SA, Nr, KEr}
HDR(old), SK {D}  -->
                         <--  HDR(old), SK {}
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ipsecfast.ike.constants import (
    ADDITIONAL_KES,
    SPI_LENGTH,
    ExchangeType,
    InvalidKePayload,
    InvalidSyntax,
    NotifyError,
    NotifyType,
    TemporaryFailure,
)
from ipsecfast.ike.crypto import KeyExchange, generate_key_exchange, respond_key_exchange
from ipsecfast.ike.exchange.base import Exchange, error_code, raise_for_errors, require
from ipsecfast.ike.exchange.child_exchange import ChildExchange
from ipsecfast.ike.exchange.informational import DeleteChild, DeleteIke, DeleteOffered
from ipsecfast.ike.keymat import derive_rekeyed_ike_keys
from ipsecfast.ike.message import ZERO_SPI, Message
from ipsecfast.ike.payloads import KePayload, NoncePayload, Payload, SaPayload
from ipsecfast.ike.proposal import accept_answer, key_exchange_groups, select
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.suite import Suite
from ipsecfast.model import Proposal

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


class RekeyIke(Exchange):
    """The initiator's side."""

    type = ExchangeType.CREATE_CHILD_SA
    states = frozenset({IkeState.ESTABLISHED})

    def __init__(self) -> None:
        self._group: int | None = None
        self._spi = b""
        self._nonce = b""
        self._key_exchange: KeyExchange | None = None
        self._proposals: tuple[Proposal, ...] = ()

    def request(self, sa: IkeSa, now: float) -> Sequence[Payload]:
        self._spi = sa.context.new_ike_spi()
        self._nonce = sa.context.nonce()
        self._proposals = tuple(replace(p, spi=self._spi) for p in _first_exchange_only(sa.connection.proposals))
        groups = key_exchange_groups(self._proposals)
        self._key_exchange = generate_key_exchange(self._group or groups[0], sa.context.random)
        ke = KePayload(self._key_exchange.group, self._key_exchange.public)
        return (SaPayload(self._proposals), NoncePayload(self._nonce), ke)

    def response(self, sa: IkeSa, message: Message, now: float) -> None:
        assert self._key_exchange is not None
        raise_for_errors(message)
        proposal = accept_answer(require(message, SaPayload).proposals, self._proposals)
        ke, nonce = require(message, KePayload), require(message, NoncePayload).data
        if ke.group != self._key_exchange.group or ke.group not in key_exchange_groups((proposal,)):
            raise InvalidSyntax(f"the peer answered group {self._key_exchange.group} with group {ke.group}")
        shared = self._key_exchange.shared_secret(ke.data)
        spis = (self._spi, peer_spi(proposal))
        new = successor(sa, proposal, (self._nonce, nonce), shared, spis, initiator=True, now=now)
        self._settle(sa, new, now)

    def _settle(self, sa: IkeSa, new: IkeSa, now: float) -> None:
        """s2.8.2: of two new IKE SAs the one with the lowest of the four nonces goes, deleted by the end that made it;
        the end that made the other one deletes the old IKE SA."""
        theirs = sa.peer_successor
        if theirs is not None and min(new.nonces) < min(theirs.nonces):
            new.redundant = True
            new.start(DeleteIke(Cause.REKEYED), now)
            sa.hand_over(theirs, now)
            return
        if theirs is not None:
            theirs.retire_redundant(now)
        sa.hand_over(new, now)
        sa.start(DeleteIke(Cause.REKEYED), now, first=True)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        code = error_code(error)
        if sa.peer_successor is not None:  # s2.25.2: ours came too late; the peer's stands
            sa.settle_rekey(now)
        elif code == NotifyType.INVALID_KE_PAYLOAD and self._group is None:
            group = int.from_bytes(error.notify_data, "big")
            if group in key_exchange_groups(self._proposals):
                self._group = group
                sa.start(self, now, first=True)
                return
            sa.rekey_failed(error, now)
        else:
            sa.rekey_failed(error, now)


def respond(sa: IkeSa, message: Message, now: float) -> Sequence[Payload]:
    """The responder's side. While we rekey too, both new IKE SAs stand until the nonces decide."""
    if not sa.usable or sa.peer_successor is not None:
        raise TemporaryFailure("the IKE SA is being rekeyed or closed already")
    if isinstance(sa.current, (ChildExchange, DeleteChild, DeleteOffered)):  # s2.25.2
        raise TemporaryFailure("a Child SA of this IKE SA is being created, rekeyed or closed")
    offered = require(message, SaPayload).proposals
    proposal = select(offered, _first_exchange_only(sa.connection.proposals))
    ke, nonce_i = require(message, KePayload), require(message, NoncePayload).data
    groups = key_exchange_groups((proposal,))
    if ke.group not in groups:
        raise InvalidKePayload(groups[0], f"the peer sent a value for group {ke.group}, we take group {groups[0]}")
    spi_i = peer_spi(proposal)
    public, shared = respond_key_exchange(ke.group, ke.data, sa.context.random)
    nonce_r, spi_r = sa.context.nonce(), sa.context.new_ike_spi()
    new = successor(sa, proposal, (nonce_i, nonce_r), shared, (spi_i, spi_r), initiator=False, now=now)
    sa.peer_successor = new
    if not isinstance(sa.current, RekeyIke):
        sa.settle_rekey(now)
    answer = SaPayload((replace(proposal, spi=spi_r),))
    return (answer, NoncePayload(nonce_r), KePayload(ke.group, public))


def _first_exchange_only(proposals: Sequence[Proposal]) -> tuple[Proposal, ...]:
    """Without the additional key exchanges: what they brought is in SK_d, from which the new keys come (s2.18)."""
    return tuple(
        replace(p, transforms=tuple(t for t in p.transforms if t.type not in ADDITIONAL_KES)) for p in proposals
    )


def peer_spi(proposal: Proposal) -> bytes:
    if len(proposal.spi) != SPI_LENGTH or proposal.spi == ZERO_SPI:
        raise InvalidSyntax(f"an IKE SA can't have the SPI {proposal.spi.hex() or 'of no octets'}")
    return proposal.spi


def successor(
    sa: IkeSa,
    proposal: Proposal,
    nonces: tuple[bytes, bytes],
    shared: bytes,
    spis: tuple[bytes, bytes],
    *,
    initiator: bool,
    now: float,
) -> IkeSa:
    """The new IKE SA, established at once (s1.3.2); message IDs begin at 0, its initiator is who rekeyed (s2.18)."""
    suite = Suite.of(proposal)
    keys = derive_rekeyed_ike_keys(sa.prf, sa.keys.sk_d, suite.prf, suite.encr, suite.integ, shared, *nonces, *spis)
    return sa.spawn(suite, keys, nonces, spis, initiator=initiator, now=now)
