"""X.509 certificates of peers: the path to an authority that we trust, and whose they are (RFC 4945, RFC 5280).

Paths are built and checked by `cryptography.x509.verification`. What it does not take, keys on Edwards and Brainpool
curves, is walked here link by link, by the same rules. The wall clock's time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha1
from ipaddress import ip_address
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from ipsecfast.configured import PublicKey
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import AuthenticationFailed, CertEncoding, IdType, InvalidSyntax
from ipsecfast.ike.crypto.signature import is_supported, key_text
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import CertPayload, CertreqPayload

T = TypeVar("T", bound=x509.ExtensionType)

MAX_CERTIFICATES = 10  # of one message
MAX_DEPTH = 8
AUTHORITY_HASH_LENGTH = 20
_KNOWN_CRITICAL = frozenset(
    {
        x509.BasicConstraints.oid,
        x509.KeyUsage.oid,
        x509.ExtendedKeyUsage.oid,
        x509.SubjectAlternativeName.oid,
        x509.CertificatePolicies.oid,
    }
)
# What the library raises for octets that are not what they should be, sooner or later.
UNREADABLE = (
    OverflowError,
    TypeError,
    ValueError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_LIBRARY_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})


# -- on the wire -------------------------------------------------------------------------------------------------------


def certificate_payloads(certificates: Iterable[x509.Certificate]) -> tuple[CertPayload, ...]:
    """s3.6: the signer's own certificate first."""
    return tuple(CertPayload(CertEncoding.X509_SIGNATURE, c.public_bytes(Encoding.DER)) for c in certificates)


def request_payloads(authorities: Iterable[x509.Certificate]) -> tuple[CertreqPayload, ...]:
    """s3.7: the authorities whose certificates we take, by the SHA-1 of their public keys. None: nothing is asked."""
    hashes = list(dict.fromkeys(authority_hash(authority) for authority in authorities))
    return (CertreqPayload(CertEncoding.X509_SIGNATURE, b"".join(hashes)),) if hashes else ()


def authority_hash(authority: x509.Certificate) -> bytes:
    info = authority.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha1(info, usedforsecurity=False).digest()


def authority_hashes(requests: Iterable[bytes]) -> tuple[bytes, ...]:
    """The other way round: what several CERTREQ payloads name, in their order."""
    return tuple(
        data[at : at + AUTHORITY_HASH_LENGTH]
        for data in requests
        for at in range(0, len(data) - AUTHORITY_HASH_LENGTH + 1, AUTHORITY_HASH_LENGTH)
    )


def received_certificates(message: Message) -> list[x509.Certificate]:
    """The certificates of a message, in their order.

    Raises:
        InvalidSyntax: too many, or one that is none.
    """
    payloads = [p for p in message.all(CertPayload) if p.encoding == CertEncoding.X509_SIGNATURE]
    if len(payloads) > MAX_CERTIFICATES:
        raise InvalidSyntax(f"{len(payloads)} certificates; {MAX_CERTIFICATES} are accepted")
    try:
        certificates = [_read(payload.data) for payload in payloads]
    except UNREADABLE as error:
        raise InvalidSyntax(f"a CERT payload that holds no certificate: {error}") from error
    return [*certificates[:1], *(certificate for certificate in certificates[1:] if _has_known_key(certificate))]


def _read(data: bytes) -> x509.Certificate:
    """The library parses a certificate's parts when they are asked for; a stranger's is read through before it is used.

    Raises one of UNREADABLE."""
    certificate = x509.load_der_x509_certificate(data)
    parts = certificate.subject, certificate.issuer, certificate.extensions, certificate.serial_number
    del parts
    return certificate


def _has_known_key(certificate: x509.Certificate) -> bool:
    """Others can't be on a path, but may lie beside one."""
    try:
        certificate.public_key()
    except (UnsupportedAlgorithm, ValueError):
        return False
    return True


def links(
    own: Sequence[x509.Certificate], others: Sequence[x509.Certificate]
) -> list[tuple[x509.Certificate, x509.Certificate]]:
    """Certificates of ours, the first and those above it, each with its issuer, as far as that is among these."""
    known = [*own[1:], *others]
    found: list[tuple[x509.Certificate, x509.Certificate]] = []
    certificate = own[0] if own else None
    while certificate is not None and len(found) < MAX_DEPTH:
        issuer = next((one for one in known if one != certificate and _issued(one, certificate)), None)
        if issuer is not None:
            found.append((certificate, issuer))
        certificate = issuer
    return found


def _issued(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True


# -- trust -------------------------------------------------------------------------------------------------------------


def public_key_of(certificate: x509.Certificate) -> PublicKey:
    """Raises AuthenticationFailed for a key that can sign nothing here."""
    try:
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError) as error:
        raise AuthenticationFailed(f"the key of {subject_text(certificate)} can't be read: {error}") from error
    if not is_supported(key):  # type: ignore[arg-type]
        raise AuthenticationFailed(f"the key of {subject_text(certificate)} is of a kind that is not taken here")
    return key  # type: ignore[return-value]


def trusted_path(
    leaf: x509.Certificate,
    others: Sequence[x509.Certificate],
    authorities: Sequence[x509.Certificate],
    at: datetime,
) -> list[x509.Certificate]:
    """From `leaf` to one of `authorities`, over any of `others`, all valid at that time.

    Raises:
        AuthenticationFailed: there is no such path; the sentence names the certificate and what is wrong with it.
    """
    in_time(leaf, at)
    if not authorities:
        raise AuthenticationFailed(f"no authority is configured that could vouch for {subject_text(leaf)}")
    if all(_library_takes(certificate) for certificate in (leaf, *others, *authorities)):
        return _library_path(leaf, others, authorities, at)
    path = _walk(leaf, others, authorities, at)
    _end_entity(leaf)
    return path


def _library_takes(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in _LIBRARY_CURVES
    return not isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey)


def _library_path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], at: datetime
) -> list[x509.Certificate]:
    """The extended key usages of the Web are not asked for: RFC 4945 s5.1.3.12 lets them be absent or anything."""
    builder = PolicyBuilder().store(Store(list(authorities))).time(at).max_chain_depth(MAX_DEPTH)
    builder = builder.extension_policies(ca_policy=_authority_policy(), ee_policy=ExtensionPolicy.permit_all())
    try:
        path = builder.build_client_verifier().verify(leaf, list(others)).chain
    except VerificationError as error:
        raise _no_path(leaf, others, authorities, str(error)) from error
    _end_entity(leaf)
    return path


def _authority_policy() -> ExtensionPolicy:
    """RFC 5280 s6.1.4: an authority says that it is one; a key usage may be missing, as in many private ones."""
    policy = ExtensionPolicy.permit_all()
    policy = policy.require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
    return policy.may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)


def _is_authority(_policy: Policy, certificate: x509.Certificate, extension: x509.BasicConstraints) -> None:
    if not extension.ca:
        raise ValueError(f"{subject_text(certificate)} is no authority")


def _signs_certificates(_policy: Policy, certificate: x509.Certificate, extension: x509.KeyUsage | None) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError(f"{subject_text(certificate)} may not sign certificates")


def _no_path(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], why: str
) -> AuthenticationFailed:
    known = ", ".join(map(subject_text, authorities))
    sent = f" with {', '.join(map(subject_text, others))}" if others else ""
    return AuthenticationFailed(
        f"no path from the certificate of {subject_text(leaf)} (issued by {name_text(leaf.issuer)}){sent} "
        f"to an authority that is configured ({known}): {why}"
    )


def _walk(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], authorities: Sequence[x509.Certificate], at: datetime
) -> list[x509.Certificate]:
    """Depth first; no certificate twice in a path."""
    if leaf in authorities:
        return [leaf]
    reasons: list[str] = []

    def extend(path: list[x509.Certificate]) -> list[x509.Certificate] | None:
        for issuer in (*authorities, *others):
            if issuer in path or issuer.subject != path[-1].issuer:
                continue
            if (reason := _link_mistake(path, issuer, at)) is not None:
                reasons.append(reason)
            elif issuer in authorities:
                return [*path, issuer]
            elif len(path) < MAX_DEPTH and (found := extend([*path, issuer])) is not None:
                return found
        return None

    found = extend([leaf])
    if found is None:
        raise _no_path(leaf, others, authorities, "; ".join(reasons) or "its issuer is not among them")
    return found


def _link_mistake(path: Sequence[x509.Certificate], issuer: x509.Certificate, at: datetime) -> str | None:
    """RFC 5280 s6.1: why `issuer` can't have issued the last certificate of `path`."""
    below = sum(1 for certificate in path[1:] if certificate.subject != certificate.issuer)
    name = subject_text(issuer)
    try:
        in_time(issuer, at)
        only_known_critical(issuer)
        constraints = issuer.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            return f"{name} is no authority"
        if constraints.path_length is not None and below > constraints.path_length:
            return f"{name} allows {constraints.path_length} authorities below itself, not {below}"
        usage = extension_of(issuer, x509.KeyUsage)
        if usage is not None and not usage.key_cert_sign:
            return f"{name} may not sign certificates"
        path[-1].verify_directly_issued_by(issuer)
    except AuthenticationFailed as error:
        return str(error)
    except x509.ExtensionNotFound:
        return f"{name} does not say that it is an authority"
    except InvalidSignature:
        return f"the signature is not by {name}"
    except (TypeError, ValueError) as error:
        return f"{name}: {error}"
    return None


def only_known_critical(certificate: x509.Certificate) -> None:
    """Name constraints too are refused here rather than passed over (RFC 5280 s4.2)."""
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            raise AuthenticationFailed(
                f"{subject_text(certificate)} has the critical extension {extension.oid.dotted_string}, "
                "which is not understood"
            )


def _end_entity(leaf: x509.Certificate) -> None:
    """RFC 4945 s5.1.3.2: a key usage, where it is given, must allow signatures."""
    only_known_critical(leaf)
    usage = extension_of(leaf, x509.KeyUsage)
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise AuthenticationFailed(f"the key usage of {subject_text(leaf)} does not allow signatures")


def in_time(certificate: x509.Certificate, at: datetime) -> None:
    if at < certificate.not_valid_before_utc:
        raise AuthenticationFailed(
            f"the certificate of {subject_text(certificate)} is valid from {certificate.not_valid_before_utc:%F %T} "
            f"UTC on; here it is {at:%F %T} UTC"
        )
    if at > certificate.not_valid_after_utc:
        raise AuthenticationFailed(
            f"the certificate of {subject_text(certificate)} expired on {certificate.not_valid_after_utc:%F %T} UTC; "
            f"here it is {at:%F %T} UTC"
        )


def extension_of(certificate: x509.Certificate, kind: type[T]) -> T | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


# -- identity (RFC 4945 s3.1) ------------------------------------------------------------------------------------------


def has_identity(certificate: x509.Certificate, identity: Identity) -> bool:
    """Whether the certificate is for `identity`: in its subjectAltName, or its subject (a name), or its key ID."""
    if identity.type == IdType.ID_DER_ASN1_DN:
        return subject_identity(certificate).same_as(identity)
    if identity.type == IdType.ID_KEY_ID:
        key_id = extension_of(certificate, x509.SubjectKeyIdentifier)
        return key_id is not None and key_id.digest == identity.data
    return identity.data.lower() in {data.lower() for kind, data in _names(certificate) if kind == identity.type}


def _names(certificate: x509.Certificate) -> list[tuple[int, bytes]]:
    """The subjectAltName as IKE identities. A name in the subject's CN counts for nothing (RFC 4945 s3.1.2)."""
    names = extension_of(certificate, x509.SubjectAlternativeName) or ()
    found = []
    for name in names:
        match name:
            case x509.DNSName():
                found.append((int(IdType.ID_FQDN), name.value.encode()))
            case x509.RFC822Name():
                found.append((int(IdType.ID_RFC822_ADDR), name.value.encode()))
            case x509.IPAddress():
                address = ip_address(str(name.value))
                kind = IdType.ID_IPV4_ADDR if address.version == 4 else IdType.ID_IPV6_ADDR
                found.append((int(kind), address.packed))
    return found


def identities_text(certificate: x509.Certificate) -> str:
    """All that the certificate may stand for, in a sentence."""
    alternative = [str(Identity(kind, data)) for kind, data in _names(certificate)]
    return ", ".join([*alternative, f'"{name_text(certificate.subject)}"'])


def subject_identity(certificate: x509.Certificate) -> Identity:
    return Identity(IdType.ID_DER_ASN1_DN, certificate.subject.public_bytes())


def subject_text(certificate: x509.Certificate) -> str:
    return f'"{name_text(certificate.subject)}"'


def name_text(name: x509.Name) -> str:
    """RFC 4514; a stranger chose it and it stands in logs."""
    text = name.rfc4514_string()
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def describe(certificate: x509.Certificate) -> str:
    return f"{subject_text(certificate)}, {key_text(public_key_of(certificate))}"
