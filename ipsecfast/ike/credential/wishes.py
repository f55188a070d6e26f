"""What the two ends ask of each other's credentials: CERTREQ payloads (RFC 7296 s3.7, RFC 4806, RFC 7670), and what is
kept of it for the life of an IKE SA."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

from ipsecfast.configured import AuthKind, ConnectionConfig, Credential
from ipsecfast.ike.constants import CertEncoding, ExchangeType, NotifyType
from ipsecfast.ike.credential import announced
from ipsecfast.ike.credential.announced import Announcement
from ipsecfast.ike.credential.certificates import authority_hash, authority_hashes, links, request_payloads
from ipsecfast.ike.credential.finding import Finding
from ipsecfast.ike.crypto import signature
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import CertreqPayload, Payload

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


@dataclass(slots=True)
class Credentials:
    """Of one IKE SA; its successors have the same."""

    peer_hashes: frozenset[int] = frozenset()  # RFC 7427: what signatures for the peer may use; empty: it knows none
    announced: tuple[Announcement, ...] | None = None  # RFC 9593; None: the peer knows nothing of it
    authorities: tuple[bytes, ...] = ()  # by the SHA-1 of their keys: those that the peer trusts, in its order
    wants_ocsp: bool = False  # RFC 4806: the peer asks for OCSP responses
    findings: tuple[Finding, ...] = ()  # of each certificate of the peer below the authority
    path: tuple[x509.Certificate, ...] = ()  # the peer's, its own first, if it is to be looked at again


def requests(configs: Sequence[ConnectionConfig]) -> tuple[Payload, ...]:
    """s3.7: the authorities that we trust; RFC 7670 s3: raw keys, if we know any; RFC 4806 s3.1: OCSP responses, by
    whomever the authority lets make them (no responder is named)."""
    remotes = [config.remote for config in configs if config.remote.method is AuthKind.PUBKEY]
    asks_ocsp = any(config.ocsp.requests and config.remote.authorities for config in configs)
    return (
        *request_payloads(authority for remote in remotes for authority in remote.authorities),
        *((CertreqPayload(CertEncoding.RAW_PUBLIC_KEY, b""),) if any(remote.pubkeys for remote in remotes) else ()),
        *((CertreqPayload(CertEncoding.OCSP_CONTENT, b""),) if asks_ocsp else ()),
    )


def announcements(sa: IkeSa, configs: Sequence[ConnectionConfig]) -> tuple[Payload, ...]:
    """RFC 9593 s3.1: the responder always, the initiator to a responder that did."""
    known = not sa.initiator or sa.credentials.announced is not None
    return announced.payloads(configs) if known else ()


def take_wishes(kept: Credentials, message: Message) -> None:
    """What the peer says in IKE_SA_INIT or, as the initiator, in IKE_AUTH."""
    if message.exchange == ExchangeType.IKE_SA_INIT:
        kept.peer_hashes = _peer_hashes(message)
    if notify := message.notify(NotifyType.SUPPORTED_AUTH_METHODS):
        kept.announced = announced.parse(notify.data)
    asked = message.all(CertreqPayload)
    kept.wants_ocsp |= any(request.encoding == CertEncoding.OCSP_CONTENT for request in asked)
    kept.authorities = authority_hashes(r.data for r in asked if r.encoding == CertEncoding.X509_SIGNATURE)


def _peer_hashes(message: Message) -> frozenset[int]:
    """RFC 7427 s4. Empty: the peer knows none."""
    notify = message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS)
    data = notify.data if notify else b""
    return frozenset(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data) - 1, 2))


# -- ours --------------------------------------------------------------------------------------------------------------


def choose(kept: Credentials, config: ConnectionConfig) -> Credential:
    """Of our credentials the first by which the peer would have us prove ourselves, as it has announced it (RFC 9593);
    else the first of an authority that it trusts (s3.7); else the first."""
    if len(config.local.credentials) == 1:
        return config.local.credentials[0]
    ranked = [
        (not suits(kept, config, one), not _is_trusted(kept, config, one), number)
        for number, one in enumerate(config.local.credentials)
    ]
    return config.local.credentials[min(ranked)[-1]]


def suits(kept: Credentials, config: ConnectionConfig, one: Credential) -> bool:
    """An announcement fits its key, and the authority that it is linked to."""
    identifiers, methods = wanted(kept, config, one)
    return signature.takes(one.key.public_key(), kept.peer_hashes, identifiers, methods)


def wanted(kept: Credentials, config: ConnectionConfig, one: Credential) -> tuple[frozenset[bytes], frozenset[int]]:
    """The AlgorithmIdentifiers and the older methods that the peer has announced for certificates of our authority."""
    said = kept.announced or ()
    ours = _authorities(config, one) if any(a.link for a in said) else ()
    numbers = [n for n, key in enumerate(kept.authorities, 1) if key in ours]
    fitting = [a for a in said if a.link == 0 or a.link in numbers]
    return frozenset(a.identifier for a in fitting if a.identifier), frozenset(a.method for a in fitting)


def _is_trusted(kept: Credentials, config: ConnectionConfig, one: Credential) -> bool:
    return not kept.authorities or not _authorities(config, one).isdisjoint(kept.authorities)


def _authorities(config: ConnectionConfig, one: Credential) -> frozenset[bytes]:
    """By the SHA-1 of their keys: those above the certificate, as far as we know them."""
    return frozenset(authority_hash(issuer) for _, issuer in links(one.certificates, known_authorities(config)))


def known_authorities(config: ConnectionConfig) -> list[x509.Certificate]:
    return [*(authority.certificate for authority in config.authorities), *config.remote.authorities]
