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
    SPI_LENGTH,
    InvalidKePayload,
    InvalidSyntax,
    NotifyError,
    NotifyType,
    TemporaryFailure,
)
from ipsecfast.ike.crypto.keymat import derive_rekeyed_ike_keys
from ipsecfast.ike.crypto.primitives import KeyExchange
from ipsecfast.ike.crypto.suite import Suite
from ipsecfast.ike.exchange import key_exchange
from ipsecfast.ike.exchange.base import error_code, require
from ipsecfast.ike.exchange.child_exchange import ChildExchange
from ipsecfast.ike.exchange.ike_followup_ke import KeyedExchange, hold
from ipsecfast.ike.exchange.informational import DeleteChild, DeleteIke, DeleteOffered
from ipsecfast.ike.extension.quick_crash import PassToken, take_token, token_payloads
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.succession import hand_over, retire_redundant, settle_rekey, spawn
from ipsecfast.ike.wire.message import ZERO_SPI, Message
from ipsecfast.ike.wire.payloads import KePayload, NoncePayload, Payload, SaPayload
from ipsecfast.ike.wire.proposal import accept_answer, additional_groups, key_exchange_groups, select
from ipsecfast.ike.work import Steps
from ipsecfast.model import Proposal

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


class RekeyIke(KeyedExchange):
    """The initiator's side."""

    moves = False

    def __init__(self) -> None:
        super().__init__()
        self._group: int | None = None
        self._spi = b""
        self._nonce = b""
        self._key_exchange: KeyExchange | None = None
        self._proposals: tuple[Proposal, ...] = ()
        self._agreed: tuple[Proposal, bytes, bytes, bytes] | None = None  # with the peer's SPI, Nr and g^ir
        self._token = b""

    def create(self, sa: IkeSa, now: float) -> Steps[Sequence[Payload]]:
        self._spi = sa.context.new_ike_spi()
        self._nonce = sa.context.nonce()
        self._proposals = tuple(replace(p, spi=self._spi) for p in sa.connection.proposals)
        groups = key_exchange_groups(self._proposals)
        self._key_exchange, _ = yield from key_exchange.generate(sa.context, self._group or groups[0])
        ke = KePayload(self._key_exchange.group, self._key_exchange.public)
        return (SaPayload(self._proposals), NoncePayload(self._nonce), ke)

    def agree(self, sa: IkeSa, message: Message, now: float) -> Steps[tuple[tuple[int, ...], float]]:
        assert self._key_exchange is not None
        proposal = accept_answer(require(message, SaPayload).proposals, self._proposals)
        ke, nonce = require(message, KePayload), require(message, NoncePayload).data
        if ke.group != self._key_exchange.group or ke.group not in key_exchange_groups((proposal,)):
            raise InvalidSyntax(f"the peer answered group {self._key_exchange.group} with group {ke.group}")
        spi_r = peer_spi(proposal)
        shared, now = yield from key_exchange.shared_secret(self._key_exchange, ke.data)
        self._agreed = proposal, spi_r, nonce, shared
        self._token = take_token(message)
        return additional_groups((proposal,)), now

    def complete(self, sa: IkeSa, additional: bytes, now: float) -> None:
        assert self._agreed is not None
        proposal, spi_r, nonce, shared = self._agreed
        nonces, spis = (self._nonce, nonce), (self._spi, spi_r)
        new = successor(sa, proposal, nonces, spis, shared, additional, initiator=True, now=now)
        new.peer_token = self._token
        self._settle(sa, new, now)

    def _settle(self, sa: IkeSa, new: IkeSa, now: float) -> None:
        """s2.8.2: of two new IKE SAs the one with the lowest of the four nonces goes, deleted by the end that made it;
        the end that made the other one deletes the old IKE SA."""
        theirs = sa.peer_successor
        if theirs is not None and min(new.nonces) < min(theirs.nonces):
            new.redundant = True
            new.start(DeleteIke(Cause.REKEYED), now)
            hand_over(sa, theirs, now)
            return
        if theirs is not None:
            retire_redundant(theirs, now)
        hand_over(sa, new, now)
        new.start(PassToken(), now)
        sa.start(DeleteIke(Cause.REKEYED), now, first=True)

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        code = error_code(error)
        self._begin_anew()
        if sa.peer_successor is not None:  # s2.25.2: ours came too late; the peer's stands
            settle_rekey(sa, now)
        elif code == NotifyType.INVALID_KE_PAYLOAD and self._group is None:
            group = int.from_bytes(error.notify_data, "big")
            if group in key_exchange_groups(self._proposals):
                self._group = group
                sa.start(self, now, first=True)
                return
            sa.rekey_failed(error, now)
        else:
            sa.rekey_failed(error, now)


def admit(sa: IkeSa) -> None:
    """Whether the peer may rekey the IKE SA now."""
    if not sa.usable or sa.peer_successor is not None:
        raise TemporaryFailure("the IKE SA is being rekeyed or closed already")
    if sa.predecessor is not None and sa.predecessor.state is IkeState.REKEYED:  # or there would be ever more of them
        raise TemporaryFailure("the IKE SA before this one is not deleted yet")
    if isinstance(sa.current, (ChildExchange, DeleteChild, DeleteOffered)):  # s2.25.2
        raise TemporaryFailure("a Child SA of this IKE SA is being created, rekeyed or closed")


def respond(sa: IkeSa, message: Message, now: float) -> Steps[Sequence[Payload]]:
    """The responder's side. While we rekey too, both new IKE SAs stand until the nonces decide."""
    admit(sa)
    offered = require(message, SaPayload).proposals
    proposal = select(offered, sa.connection.proposals)
    ke, nonce_i = require(message, KePayload), require(message, NoncePayload).data
    groups = key_exchange_groups((proposal,))
    if ke.group not in groups:
        raise InvalidKePayload(groups[0], f"the peer sent a value for group {ke.group}, we take group {groups[0]}")
    spi_i = peer_spi(proposal)
    (public, shared), now = yield from key_exchange.respond(sa.context, ke.group, ke.data)
    nonce_r, spi_r = sa.context.nonce(), sa.context.new_ike_spi()
    answer = (
        SaPayload((replace(proposal, spi=spi_r),)),
        NoncePayload(nonce_r),
        KePayload(ke.group, public),
        *token_payloads(sa.context, spi_i, spi_r, initiator=False),
    )

    def finish(additional: bytes, now: float) -> None:
        admit(sa)
        nonces, spis = (nonce_i, nonce_r), (spi_i, spi_r)
        sa.peer_successor = successor(sa, proposal, nonces, spis, shared, additional, initiator=False, now=now)
        if not sa.begins_rekey:
            settle_rekey(sa, now)

    groups = additional_groups((proposal,))
    if not groups:
        finish(b"", now)
        return answer
    return (*answer, hold(sa, groups, finish, lambda: None, now))


def peer_spi(proposal: Proposal) -> bytes:
    if len(proposal.spi) != SPI_LENGTH or proposal.spi == ZERO_SPI:
        raise InvalidSyntax(f"an IKE SA can't have the SPI {proposal.spi.hex() or 'of no octets'}")
    return proposal.spi


def successor(
    sa: IkeSa,
    proposal: Proposal,
    nonces: tuple[bytes, bytes],
    spis: tuple[bytes, bytes],
    shared: bytes,
    additional: bytes,
    *,
    initiator: bool,
    now: float,
) -> IkeSa:
    """The new IKE SA, established at once (s1.3.2); message IDs begin at 0, its initiator is who rekeyed (s2.18)."""
    suite = Suite.of(proposal)
    keys = derive_rekeyed_ike_keys(
        sa.prf, sa.keys.sk_d, suite.prf, suite.encr, suite.integ, shared, *nonces, *spis, additional
    )
    return spawn(sa, suite, keys, nonces, spis, initiator=initiator, now=now)
