"""IKE_INTERMEDIATE (RFC 9242) before IKE_AUTH, once for each additional key exchange of the IKE SA (RFC 9370 s2.2.2).

HDR, SK {KEi(n)}  -->
                         <--  HDR, SK {KEr(n)}

The last one, or one of its own, agrees on a PPK (RFC 9867, `ppk`). From the next message on both ends use keys that
SK(n) or the PPK went into. AUTH covers all of these messages (`auth.IntAuth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipsecfast.ike.constants import ML_KEM, ExchangeType, InvalidSyntax, NotifyError
from ipsecfast.ike.crypto.keymat import IkeKeys, derive_rekeyed_ike_keys
from ipsecfast.ike.crypto.primitives import KeyExchange
from ipsecfast.ike.exchange import key_exchange
from ipsecfast.ike.exchange.base import Exchange, raise_for_errors, require
from ipsecfast.ike.exchange.ike_auth import IkeAuth
from ipsecfast.ike.extension import ppk
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import KePayload, Payload
from ipsecfast.ike.work import Steps

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


class IkeIntermediate(Exchange):
    """The initiator's side: the first of `groups` now, the others after it, the PPK with the last, then IKE_AUTH."""

    type = ExchangeType.IKE_INTERMEDIATE
    states = frozenset({IkeState.CONNECTING})

    def __init__(self, groups: Sequence[int], auth: IkeAuth) -> None:
        self.child = auth.child
        self._groups = groups
        self._auth = auth
        self._key_exchange: KeyExchange | None = None

    def request(self, sa: IkeSa, now: float) -> Steps[Sequence[Payload]]:
        ke: tuple[Payload, ...] = ()
        if self._groups:
            self._key_exchange, _ = yield from key_exchange.generate(sa.context, self._groups[0])
            ke = (KePayload(self._key_exchange.group, self._key_exchange.public),)
        return (*ke, *(ppk.candidates(sa) if self._agrees_on_ppk(sa) else ()))

    def response(self, sa: IkeSa, message: Message, now: float) -> Steps[None]:
        raise_for_errors(message)
        keys = sa.keys
        if self._key_exchange is not None:
            ke = require(message, KePayload)
            if ke.group != self._key_exchange.group:
                raise InvalidSyntax(f"the peer answered method {self._key_exchange.group} with method {ke.group}")
            shared, now = yield from key_exchange.shared_secret(self._key_exchange, ke.data)
            keys = updated_keys(sa, ke.group, shared)
        if self._agrees_on_ppk(sa):
            keys = ppk.take_choice(sa, message, keys)
        sa.install_keys(sa.suite, keys)
        rest = self._groups[1:]
        sa.proceed(IkeIntermediate(rest, self._auth) if rest else self._auth, now)

    def _agrees_on_ppk(self, sa: IkeSa) -> bool:
        return sa.ppk.use is ppk.PpkUse.INTERMEDIATE and len(self._groups) <= 1

    def failed(self, sa: IkeSa, error: NotifyError, now: float) -> None:
        """The responder gives its half-open IKE SA up by itself."""
        sa.fail(now, f"IKE_INTERMEDIATE failed: {error}")

    def abandoned(self, sa: IkeSa, now: float) -> None:
        self._auth.abandoned(sa, now)


def first_after_init(sa: IkeSa, groups: Sequence[int], auth: IkeAuth) -> IkeIntermediate | IkeAuth:
    """What the initiator sends next."""
    return IkeIntermediate(groups, auth) if groups or sa.ppk.use is ppk.PpkUse.INTERMEDIATE else auth


def respond(sa: IkeSa, message: Message, now: float) -> Steps[Sequence[Payload]]:
    """The responder's side; no one is authenticated yet, and any error ends the IKE SA (s2.21.2)."""
    if not sa.additional and not ppk.awaited(sa):
        raise InvalidSyntax("an IKE_INTERMEDIATE exchange for which nothing was agreed")
    keys = sa.keys
    payloads: tuple[Payload, ...] = ()
    if sa.additional:
        group, ke = sa.additional[0], require(message, KePayload)
        if ke.group != group:
            raise InvalidSyntax(f"a value for method {ke.group} where it is method {group}'s turn")
        (public, shared), _ = yield from key_exchange.respond(sa.context, group, ke.data)
        sa.additional = sa.additional[1:]
        keys, payloads = updated_keys(sa, group, shared), (KePayload(group, public),)
    if not sa.additional and ppk.awaited(sa):
        keys, chosen = ppk.choose(sa, message, keys)
        payloads += chosen
    sa.change_keys_after_response(keys)
    return payloads


def updated_keys(sa: IkeSa, group: int, shared: bytes) -> IkeKeys:
    """RFC 9370 s2.2.2: SKEYSEED(n) = prf(SK_d(n-1), SK(n) | Ni | Nr), and all keys from it."""
    suite = sa.suite
    sa.quantum_resistant |= group in ML_KEM
    return derive_rekeyed_ike_keys(
        suite.prf, sa.keys.sk_d, suite.prf, suite.encr, suite.integ, shared, *sa.nonces, sa.spi_i, sa.spi_r
    )
