"""Who proves what in IKE_AUTH (RFC 7296 s2.15): by a pre-shared key, or by a signature and a certificate (RFC 7427).

`prove` makes our AUTH and CERT payloads, `verify` looks at the peer's. What is wrong is said in a sentence for our log;
the peer learns nothing but AUTHENTICATION_FAILED.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from cryptography import x509

from ipsecfast.configured import AuthKind, ConnectionConfig, PublicKey
from ipsecfast.identity import Identity
from ipsecfast.ike.auth import psk_auth, signed_octets, verify_psk
from ipsecfast.ike.constants import AuthenticationFailed, AuthMethod, PayloadType
from ipsecfast.ike.credential import certificates, pad, raw_keys, standing
from ipsecfast.ike.credential import wishes as credentials
from ipsecfast.ike.crypto import signature
from ipsecfast.ike.exchange.base import require
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.mismatch import Field, Mismatch
from ipsecfast.ike.wire.payloads import AuthPayload, IdPayload, Payload
from ipsecfast.ike.work import Steps, Work, result_of

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


Proof: TypeAlias = tuple[tuple[Payload, ...], AuthPayload]
PATH_SECONDS = 0.0003  # to build a path and look at what its certificates say, signatures apart


def prove(
    sa: IkeSa, config: ConnectionConfig, id_payload: IdPayload, peer: Identity | None, now: float
) -> Steps[tuple[Proof, float]]:
    """Our certificates, where we need any, and our AUTH payload; and the time then.

    Raises:
        AuthenticationFailed: we have no proof that this peer could take.
    """
    octets = _own_octets(sa, id_payload)
    if config.local.method is AuthKind.PUBKEY:
        one = credentials.choose(sa.credentials, config)
        identifiers, _ = credentials.wanted(sa.credentials, config, one)
        hashes, pss = sa.credentials.peer_hashes, config.local.rsa_pss
        sign = partial(signature.sign, one.key, octets, hashes, pss=pss, announced=identifiers)
        (method, data), now = yield from result_of(Work(sign, signature.seconds(one.key.public_key()).sign))
        if not one.certificates and config.local.pubkeys:
            return (raw_keys.payloads(one.key), AuthPayload(method, data)), now
        responses, now = yield from standing.own_responses(sa, config, one.certificates, now)
        return ((*certificates.certificate_payloads(one.certificates), *responses), AuthPayload(method, data)), now
    secret = pad.find_secret(config, id_payload.identity, peer)
    if secret is None:
        who = peer or "of any identity"
        text = f"there is no secret for us as {id_payload.identity} and the peer {who}; add one to [secrets]"
        raise AuthenticationFailed(text).about(Mismatch(Field.SECRET, ""))
    return ((), AuthPayload(AuthMethod.SHARED_KEY_MIC, psk_auth(sa.prf, secret, octets))), now


def verify(sa: IkeSa, config: ConnectionConfig, message: Message, kind: PayloadType, now: float) -> Steps[float]:
    """The peer is who its ID payload says; and the time at which that is known.

    Raises:
        AuthenticationFailed: it is not, or it has not shown it in the way that is configured.
    """
    id_payload, auth = require(message, IdPayload, kind), require(message, AuthPayload)
    octets = _peer_octets(sa, id_payload)
    by_secret = auth.method == AuthMethod.SHARED_KEY_MIC
    if config.remote.method is AuthKind.PSK:
        if not by_secret:
            raise _wrong_kind(id_payload, "a signature", AuthKind.PSK)
        _verify_secret(sa, config, id_payload, auth, octets)
        return now
    if by_secret:
        raise _wrong_kind(id_payload, "a shared secret", AuthKind.PUBKEY)
    try:
        return (yield from _verify_signature(sa, config, message, id_payload, auth, octets))
    except AuthenticationFailed as error:
        if error.mismatch is None:
            error.about(Mismatch(Field.CERTIFICATE, "", str(id_payload.identity)))
        raise


def _wrong_kind(id_payload: IdPayload, theirs: str, kind: AuthKind) -> AuthenticationFailed:
    ours = "a shared secret" if kind is AuthKind.PSK else "a certificate"
    text = f"{id_payload.identity} proves itself by {theirs}, not by {ours} as remote.auth is configured here"
    error = AuthenticationFailed(text)
    error.about(Mismatch(Field.AUTHENTICATION, kind, theirs, kind))
    return error


def _verify_secret(
    sa: IkeSa, config: ConnectionConfig, id_payload: IdPayload, auth: AuthPayload, octets: bytes
) -> None:
    local = pad.local_identity(config, sa.path.local)
    secret = pad.find_secret(config, local, id_payload.identity)
    if secret is None:
        text = f"there is no secret for us as {local} and the peer {id_payload.identity}; add one to [secrets]"
        raise AuthenticationFailed(text).about(Mismatch(Field.SECRET, ""))
    if not verify_psk(sa.prf, secret, octets, auth.data):
        text = f"{id_payload.identity} has another secret than we have for us as {local} and that peer"
        ends = f"{local} and {id_payload.identity}"
        raise AuthenticationFailed(text).about(Mismatch(Field.SECRET, ends))


def _verify_signature(
    sa: IkeSa, config: ConnectionConfig, message: Message, id_payload: IdPayload, auth: AuthPayload, octets: bytes
) -> Steps[float]:
    """First whose certificate it is and who vouches for it, then the signature: the cheap mistakes come first. Last,
    whether it is revoked."""
    identity = id_payload.identity
    if raw_keys.meant(config, message):
        return (yield from _verify_raw_key(config, message, identity, auth, octets))
    certificate, others = _certificate(config, message, identity)
    if not certificates.has_identity(certificate, identity):
        names = certificates.identities_text(certificate)
        text = f"the peer says it is {identity}, but its certificate is for {names}"
        raise AuthenticationFailed(text).about(Mismatch(Field.CERTIFICATE, names, str(identity)))
    path = partial(_path, config, certificate, others, sa.context.wall_clock())
    key = certificates.public_key_of(certificate)
    check = partial(_check, path, key, auth, octets, identity)
    seconds = (2 + len(others)) * signature.seconds(key).verify + PATH_SECONDS
    found, now = yield from result_of(Work(check, seconds))
    return (yield from standing.examine(sa, config, found, message, now))


def _verify_raw_key(
    config: ConnectionConfig, message: Message, identity: Identity, auth: AuthPayload, octets: bytes
) -> Steps[float]:
    """RFC 7670. The configuration alone says whose key it is."""
    keys = raw_keys.candidates(config, message, identity)
    check = partial(raw_keys.check, keys, auth, octets, identity)
    _, now = yield from result_of(Work(check, sum(signature.seconds(key).verify for key in keys)))
    return now


def _check(
    path: Callable[[], list[x509.Certificate]], key: PublicKey, auth: AuthPayload, octets: bytes, identity: Identity
) -> list[x509.Certificate]:
    """The path of the certificate, once both it and the signature are found right."""
    found = path()
    try:
        signature.verify(key, auth.method, auth.data, octets)
    except AuthenticationFailed as error:
        raise AuthenticationFailed(f"{identity}: {error}") from error
    return found


def _path(
    config: ConnectionConfig, certificate: x509.Certificate, others: Sequence[x509.Certificate], at: datetime
) -> list[x509.Certificate]:
    """To an authority, or the certificate alone where it is one that we were given."""
    if certificate in config.remote.certificates:
        return [certificate]
    return certificates.trusted_path(certificate, others, config.remote.authorities, at)


def _certificate(
    config: ConnectionConfig, message: Message, identity: Identity
) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """The one that was sent first is the signer's (s3.6); a peer that sends none may have one that we were given."""
    sent = certificates.received_certificates(message)
    if sent:
        return sent[0], sent[1:]
    known = [c for c in config.remote.certificates if certificates.has_identity(c, identity)]
    if not known:
        raise AuthenticationFailed(f"{identity} sent no certificate, and none of remote.certs is its own")
    return known[0], []


def _own_octets(sa: IkeSa, id_payload: IdPayload) -> bytes:
    """s2.15: what our AUTH covers: our IKE_SA_INIT message, the peer's nonce, our identity."""
    nonce_i, nonce_r = sa.nonces
    if sa.initiator:
        return signed_octets(sa.init_sent, nonce_r, sa.prf, sa.keys.sk_pi, id_payload, sa.intauth.octets())
    return signed_octets(sa.init_sent, nonce_i, sa.prf, sa.keys.sk_pr, id_payload, sa.intauth.octets())


def _peer_octets(sa: IkeSa, id_payload: IdPayload) -> bytes:
    nonce_i, nonce_r = sa.nonces
    if sa.initiator:
        return signed_octets(sa.init_received, nonce_i, sa.prf, sa.keys.sk_pr, id_payload, sa.intauth.octets())
    return signed_octets(sa.init_received, nonce_r, sa.prf, sa.keys.sk_pi, id_payload, sa.intauth.octets())
