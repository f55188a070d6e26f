"""One OCSP response held against one certificate (RFC 6960 s3.2, s4.2.2), and the request for it (s4.1, RFC 9654)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ipsecfast.configured import PublicKey
from ipsecfast.ike.constants import AuthenticationFailed
from ipsecfast.ike.credential import crl as crls
from ipsecfast.ike.credential.certificates import (
    UNREADABLE,
    extension_of,
    in_time,
    name_text,
    only_known_critical,
    public_key_of,
    subject_text,
)
from ipsecfast.ike.credential.finding import Finding, State, time_mistake, time_text, unknown

NONCE_LENGTH = 32  # RFC 9654 s2.1
MAX_RESPONDERS = 8  # certificates of one response that are looked at


def make_request(certificate: x509.Certificate, issuer: x509.Certificate, nonce: bytes = b"") -> bytes:
    """DER. The CertID goes by SHA-1, which every responder knows (RFC 5019 s2.1.1); it protects nothing."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())  # noqa: S303
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def look_up(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    response: ocsp.OCSPResponse,
    at: datetime,
    known_crls: Iterable[x509.CertificateRevocationList] = (),
) -> Finding | None:
    """What the response says about a certificate of `issuer`; None: it is about others. `known_crls` tell of the
    responder's own certificate."""
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        word = response.response_status.name.lower().replace("_", " ")
        return unknown(f"the OCSP responder says nothing of {subject_text(certificate)}: {word}")
    try:
        single = next((s for s in response.responses if _is_about(s, certificate, issuer)), None)
        if single is None:
            return None
        name = response_text(response)
        mistake = time_mistake(name, single.this_update_utc, single.next_update_utc, at)
        if mistake is None:
            mistake = _signature_mistake(response, _responder(response, issuer, at, known_crls))
        return unknown(mistake) if mistake is not None else _finding(certificate, single, name)
    except (AuthenticationFailed, *UNREADABLE) as error:
        return unknown(f"an OCSP response about {subject_text(certificate)} does not count: {error}")


def response_text(response: ocsp.OCSPResponse) -> str:
    name, key = response.responder_name, response.responder_key_hash
    who = f'"{name_text(name)}"' if name is not None else f"the key {(key or b'').hex()}"
    return f"the OCSP response by {who} of {time_text(response.produced_at_utc)}"


def nonce_of(response: ocsp.OCSPResponse) -> bytes | None:
    """The nonce that came back; many responders make their answers beforehand and have none (RFC 5019 s4)."""
    try:
        return response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except (x509.ExtensionNotFound, *UNREADABLE):
        return None


def _is_about(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """s4.1.1: the CertID that we would make with the same hash."""
    if single.serial_number != certificate.serial_number:
        return False
    ours = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, single.hash_algorithm).build()
    return (single.issuer_name_hash, single.issuer_key_hash) == (ours.issuer_name_hash, ours.issuer_key_hash)


def _finding(certificate: x509.Certificate, single: ocsp.OCSPSingleResponse, name: str) -> Finding:
    match single.certificate_status:
        case ocsp.OCSPCertStatus.GOOD:
            text = f"{subject_text(certificate)} is not revoked, says {name}"
            return Finding(State.GOOD, text, single.next_update_utc)
        case ocsp.OCSPCertStatus.REVOKED:
            since = single.revocation_time_utc or single.this_update_utc
            return Finding(State.REVOKED, crls.revoked_text(certificate, since, single.revocation_reason, name))
        case _:
            return unknown(f"{name} does not know {subject_text(certificate)}")


def _responder(
    response: ocsp.OCSPResponse,
    issuer: x509.Certificate,
    at: datetime,
    known_crls: Iterable[x509.CertificateRevocationList],
) -> PublicKey:
    """s4.2.2.2: who signed it: the issuer itself, or one whom it has made its responder."""
    if _is_responder(response, issuer):
        return public_key_of(issuer)
    for delegate in response.certificates[:MAX_RESPONDERS]:
        if _is_responder(response, delegate):
            _check_delegate(delegate, issuer, at, known_crls)
            return public_key_of(delegate)
    raise AuthenticationFailed(f"{response_text(response)} brings no certificate of its signer")


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if response.responder_name is not None:
        return response.responder_name == certificate.subject
    key = certificate.public_key()
    return response.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(key).digest


def _check_delegate(
    delegate: x509.Certificate,
    issuer: x509.Certificate,
    at: datetime,
    known_crls: Iterable[x509.CertificateRevocationList],
) -> None:
    """s4.2.2.2: issued by the very authority, for OCSP. Whether it is itself revoked (s4.2.2.2.1) is looked up in the
    CRLs at hand, unless id-pkix-ocsp-nocheck says that nobody needs to."""
    name = subject_text(delegate)
    try:
        delegate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError) as error:
        raise AuthenticationFailed(f"the responder {name} is not one of {subject_text(issuer)}") from error
    in_time(delegate, at)
    only_known_critical(delegate)
    purposes = extension_of(delegate, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
        raise AuthenticationFailed(f"{name} may not sign OCSP responses: it lacks the extended key usage OCSPSigning")
    usage = extension_of(delegate, x509.KeyUsage)
    if usage is not None and not usage.digital_signature:
        raise AuthenticationFailed(f"the key usage of {name} does not allow signatures")
    if extension_of(delegate, x509.OCSPNoCheck) is not None:
        return
    for crl in known_crls:
        found = crls.look_up(delegate, issuer, crl, at)
        if found is not None and found.state is State.REVOKED:
            raise AuthenticationFailed(found.text)


def _signature_mistake(response: ocsp.OCSPResponse, key: PublicKey) -> str | None:
    name, digest = response_text(response), response.signature_hash_algorithm
    if isinstance(digest, crls.BROKEN_HASHES):
        return f"{name} is signed with {digest.name}, which is broken"
    try:
        if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
            if digest is None:
                return f"{name} is signed with another kind of key than its signer has"
            _verify_hashed(key, response, digest)
        else:
            key.verify(response.signature, response.tbs_response_bytes)
    except InvalidSignature:
        return f"the signature of {name} is wrong"
    return None


def _verify_hashed(
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, response: ocsp.OCSPResponse, digest: hashes.HashAlgorithm
) -> None:
    if isinstance(key, rsa.RSAPublicKey):
        key.verify(response.signature, response.tbs_response_bytes, padding.PKCS1v15(), digest)
    else:
        key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(digest))
