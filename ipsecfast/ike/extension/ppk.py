"""Post-quantum pre-shared keys: what is recorded today stays secret though a quantum computer breaks its key exchange.

RFC 8784, in IKE_AUTH: the PPK goes into SK_d, SK_pi and SK_pr, so the Child SAs and rekeyed IKE SAs are protected, the
IKE SA that carried IKE_AUTH is not.

HDR, SAi1, KEi, Ni, N(USE_PPK), N(USE_PPK_INT)  -->
                         <--  HDR, SAr1, KEr, Nr, N(USE_PPK)
HDR, SK {IDi, AUTH, SAi2, TSi, TSr, N(PPK_IDENTITY)(PPK_ID), [N(NO_PPK_AUTH)]}  -->
                         <--  HDR, SK {IDr, AUTH, SAr2, TSi, TSr, [N(PPK_IDENTITY)]}

RFC 9867, in the last IKE_INTERMEDIATE: it goes into all keys, so the IKE SA is protected from IKE_AUTH on.

                         <--  HDR, SAr1, KEr, Nr, N(USE_PPK_INT)
HDR, SK {[KEi(n)], N(PPK_IDENTITY_KEY)(PPK_ID, confirmation) ...}  -->
                         <--  HDR, SK {[KEr(n)], [N(PPK_IDENTITY)(PPK_ID)]}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from itertools import islice
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import constant_time

from ipsecfast.configured import ConnectionConfig, PostquantumKey
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import AuthenticationFailed, InvalidSyntax, NotifyType, PayloadType
from ipsecfast.ike.credential.proof import prove, verify
from ipsecfast.ike.crypto.keymat import IkeKeys, derive_ppk_ike_keys, mix_ppk
from ipsecfast.ike.exchange.base import require
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import AuthPayload, IdPayload, NotifyPayload, Payload
from ipsecfast.ike.work import Steps

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

PPK_ID_FIXED = 2  # RFC 8784 s5.1: the PPK_ID names a key that both ends were given
CONFIRMATION_LENGTH = 8  # RFC 9867 s3.1.1
MAX_CANDIDATES = 16  # of a peer's PPKs that are looked at


class PpkUse(Enum):
    """What both ends said in IKE_SA_INIT."""

    NONE = auto()
    AUTH = auto()  # RFC 8784
    INTERMEDIATE = auto()  # RFC 9867


@dataclass(slots=True)
class PpkState:
    """Of one IKE SA. `key` went into its keys; `without` are those before, until the peer has said that it has it."""

    use: PpkUse = PpkUse.NONE
    key: PostquantumKey | None = None
    without: IkeKeys | None = None


# -- IKE_SA_INIT -------------------------------------------------------------------------------------------------------


def offer(config: ConnectionConfig) -> tuple[Payload, ...]:
    """The initiator would do either; IKE_INTERMEDIATE has to be offered with it."""
    if not config.ppks:
        return ()
    return (NotifyPayload(NotifyType.USE_PPK), NotifyPayload(NotifyType.USE_PPK_INT))


def take_answer(sa: IkeSa, message: Message, *, intermediate: bool) -> None:
    """What the responder chose. Nobody vouches for it yet, but AUTH will: IKE_SA_INIT stands in it.

    Raises:
        AuthenticationFailed: it does without although `ppk_required`.
    """
    if not sa.connection.config.ppks:
        return
    if message.notify(NotifyType.USE_PPK_INT) and intermediate:
        sa.ppk.use = PpkUse.INTERMEDIATE
    elif message.notify(NotifyType.USE_PPK):
        sa.ppk.use = PpkUse.AUTH
    elif sa.connection.config.ppk_required:
        raise AuthenticationFailed(
            "the peer uses no PPK, and ppk_required = true here: give it a ppk_id and the secret too"
        )


def answer(sa: IkeSa, message: Message, *, intermediate: bool) -> tuple[Payload, ...]:
    """The responder's choice, RFC 9867 before RFC 8784, where any connection for these addresses has a PPK."""
    if not any(connection.config.ppks for connection in sa.candidates):
        return ()
    if message.notify(NotifyType.USE_PPK_INT) and intermediate:
        sa.ppk.use = PpkUse.INTERMEDIATE
        return (NotifyPayload(NotifyType.USE_PPK_INT),)
    if message.notify(NotifyType.USE_PPK):
        sa.ppk.use = PpkUse.AUTH
        return (NotifyPayload(NotifyType.USE_PPK),)
    return ()


# -- IKE_INTERMEDIATE (RFC 9867 s3.1) ----------------------------------------------------------------------------------


def candidates(sa: IkeSa) -> tuple[Payload, ...]:
    """The initiator's PPKs, each with a proof that it has it."""
    return tuple(
        NotifyPayload(NotifyType.PPK_IDENTITY_KEY, encode_ppk_id(key.id) + confirmation(sa, key))
        for key in sa.connection.config.ppks
    )


def confirmation(sa: IkeSa, key: PostquantumKey) -> bytes:
    """prf(PPK, Ni | Nr | SPIi | SPIr), its first 8 octets: that both ends have the same key under this PPK_ID."""
    nonce_i, nonce_r = sa.nonces
    return sa.prf.compute(key.secret, nonce_i + nonce_r + sa.spi_i + sa.spi_r)[:CONFIRMATION_LENGTH]


def awaited(sa: IkeSa) -> bool:
    """The initiator still has to say which PPKs it has."""
    return sa.ppk.use is PpkUse.INTERMEDIATE and sa.ppk.key is None


def choose(sa: IkeSa, message: Message, keys: IkeKeys) -> tuple[IkeKeys, tuple[Payload, ...]]:
    """The responder's side: `keys` with the first PPK that we have too, of any connection to which this IKE SA may
    still belong, and what the response says of it. `ppk_required` is looked at in IKE_AUTH, when the connection is
    known."""
    known = {key.id: key for connection in sa.candidates for key in connection.config.ppks}
    for notify in islice(_notifies(message, NotifyType.PPK_IDENTITY_KEY), MAX_CANDIDATES):
        key = known.get(parse_ppk_id(notify.data[:-CONFIRMATION_LENGTH]))
        if key and constant_time.bytes_eq(confirmation(sa, key), notify.data[-CONFIRMATION_LENGTH:]):
            return with_ppk(sa, keys, key), (NotifyPayload(NotifyType.PPK_IDENTITY, encode_ppk_id(key.id)),)
    if message.notify(NotifyType.PPK_IDENTITY_KEY):
        sa.ppk.use = PpkUse.NONE  # it has told them all
    return keys, ()


def take_choice(sa: IkeSa, message: Message, keys: IkeKeys) -> IkeKeys:
    """The initiator's side: `keys` with the PPK that the responder chose, or as they are.

    Raises:
        AuthenticationFailed: it chose none although `ppk_required`.
        InvalidSyntax: it chose one that we did not offer.
    """
    notify = message.notify(NotifyType.PPK_IDENTITY)
    if notify is None:
        if sa.connection.config.ppk_required:
            raise AuthenticationFailed(_no_common_key(sa.connection.config))
        return keys
    ppk_id = parse_ppk_id(notify.data)
    key = _find(sa.connection.config.ppks, ppk_id)
    if key is None:
        raise InvalidSyntax(f"the peer chose the PPK {ppk_id_text(ppk_id)}, which we did not offer")
    return with_ppk(sa, keys, key)


def with_ppk(sa: IkeSa, keys: IkeKeys, key: PostquantumKey) -> IkeKeys:
    """RFC 9867 s3.1.2: all keys anew; who records the traffic can't ever decrypt what comes from here on."""
    sa.ppk.key = key
    sa.quantum_resistant = True
    suite = sa.suite
    return derive_ppk_ike_keys(
        suite.prf, suite.encr, suite.integ, key.secret, keys.sk_d, *sa.nonces, sa.spi_i, sa.spi_r
    )


# -- IKE_AUTH (RFC 8784 s3) --------------------------------------------------------------------------------------------


def prove_initiator(
    sa: IkeSa, config: ConnectionConfig, id_payload: IdPayload, peer: Identity | None, now: float
) -> Steps[tuple[tuple[Payload, ...], AuthPayload, tuple[Payload, ...]]]:
    """Our certificates, AUTH and what tells of the PPK: its name, and the AUTH that counts if the peer has not got it.

    Raises:
        AuthenticationFailed: as `prove`.
    """
    if sa.ppk.use is not PpkUse.AUTH:
        (certificates, auth), _ = yield from prove(sa, config, id_payload, peer, now)
        return certificates, auth, ()
    key = config.ppks[0]
    notifies = [NotifyPayload(NotifyType.PPK_IDENTITY, encode_ppk_id(key.id))]
    if not config.ppk_required:
        (_, without), now = yield from prove(sa, config, id_payload, peer, now)
        notifies.append(NotifyPayload(NotifyType.NO_PPK_AUTH, without.data))
    _mix(sa, key)
    (certificates, auth), _ = yield from prove(sa, config, id_payload, peer, now)
    return certificates, auth, tuple(notifies)


def settle_initiator(sa: IkeSa, message: Message) -> None:
    """The response says whether the responder has the PPK; without it both go on with the keys as they were.

    Raises:
        AuthenticationFailed: it has not, and `ppk_required`.
    """
    if sa.ppk.without is None:
        return
    if message.notify(NotifyType.PPK_IDENTITY) is None:
        config = sa.connection.config
        if config.ppk_required:
            raise AuthenticationFailed(_no_common_key(config))
        sa.install_keys(sa.suite, sa.ppk.without)
        sa.note("ppk-unused", f"without a PPK: {_no_common_key(config)}", warning=True)
        sa.ppk.key = None
    sa.ppk.without = None


def verify_initiator(
    sa: IkeSa, config: ConnectionConfig, message: Message, now: float
) -> Steps[tuple[tuple[Payload, ...], float]]:
    """The responder's side, now that the connection is known: AUTH with the PPK if we have it, else NO_PPK_AUTH; and
    what the response says of it (the table of s3).

    Raises:
        AuthenticationFailed: as `verify`; or no PPK, and one end insists on one.
    """
    notify = message.notify(NotifyType.PPK_IDENTITY) if sa.ppk.use is PpkUse.AUTH else None
    key = _find(config.ppks, parse_ppk_id(notify.data)) if notify else None
    if key is not None:
        _mix(sa, key)
        sa.ppk.without = None
    elif notify is not None:
        message = _without_ppk(message, parse_ppk_id(notify.data))
    if sa.ppk.key is None and config.ppk_required:
        raise AuthenticationFailed("the peer uses no PPK that we have, and ppk_required = true here")
    if sa.ppk.key is not None and sa.ppk.key not in config.ppks:
        name = ppk_id_text(sa.ppk.key.id)
        raise AuthenticationFailed(f"the PPK {name} is not for {config.name}: its ppk_id says another one")
    now = yield from verify(sa, config, message, PayloadType.IDi, now)
    return ((NotifyPayload(NotifyType.PPK_IDENTITY),) if key is not None else ()), now


def _without_ppk(message: Message, ppk_id: bytes) -> Message:
    """The message as its sender would have made it without a PPK."""
    instead = message.notify(NotifyType.NO_PPK_AUTH)
    if instead is None:
        raise AuthenticationFailed(f"the peer insists on the PPK {ppk_id_text(ppk_id)}, which we have not got")
    auth = AuthPayload(require(message, AuthPayload).method, instead.data)
    return replace(message, payloads=tuple(auth if isinstance(p, AuthPayload) else p for p in message.payloads))


def _mix(sa: IkeSa, key: PostquantumKey) -> None:
    """s3: SK_d, SK_pi and SK_pr with the PPK; what protects messages stays as it was."""
    sa.ppk.key, sa.ppk.without = key, sa.keys
    sa.install_keys(sa.suite, mix_ppk(sa.prf, key.secret, sa.keys))


# -- PPK_ID (RFC 8784 s5.1) --------------------------------------------------------------------------------------------


def encode_ppk_id(ppk_id: bytes) -> bytes:
    return bytes([PPK_ID_FIXED]) + ppk_id


def parse_ppk_id(data: bytes) -> bytes:
    """Octets of a PPK_ID of type FIXED. One of another type names nothing that we were given: b""."""
    if len(data) < 2:
        raise InvalidSyntax(f"a PPK_ID of {len(data)} octets")
    return data[1:] if data[0] == PPK_ID_FIXED else b""


def ppk_id_text(ppk_id: bytes) -> str:
    """For a log: a stranger may have chosen these octets."""
    return str(Identity(2, ppk_id)) if ppk_id else "of a type other than FIXED"


def _find(keys: Sequence[PostquantumKey], ppk_id: bytes) -> PostquantumKey | None:
    return next((key for key in keys if key.id == ppk_id), None)


def _notifies(message: Message, kind: NotifyType) -> Iterable[NotifyPayload]:
    return (n for n in message.all(NotifyPayload) if n.notify_type == kind)


def _no_common_key(config: ConnectionConfig) -> str:
    names = ", ".join(ppk_id_text(key.id) for key in config.ppks)
    return f"the peer has not got the PPK {names}, or has another secret under that name"
