"""CRLs and OCSP responses of the authorities that tests make, as an authority or a responder would sign them."""

from __future__ import annotations

import datetime as dt

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from ipsecfast.pki import Issued, KeyType, hash_for, make_certificate
from ipsecfast.pki_crl import Reason, make_crl, revoke

GOOD, REVOKED, UNKNOWN = ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN
HOUR = dt.timedelta(hours=1)


def crl_of(issuer: Issued, *revoked: Issued, reason: Reason = Reason.KEY_COMPROMISE) -> x509.CertificateRevocationList:
    return make_crl(issuer, None, [revoke(one.certificate, issuer, reason) for one in revoked])


def with_extensions(
    crl: x509.CertificateRevocationList, issuer: Issued, *extensions: tuple[x509.ExtensionType, bool]
) -> x509.CertificateRevocationList:
    """The same list with more said about it, signed anew."""
    builder = x509.CertificateRevocationListBuilder(crl.issuer, crl.last_update_utc, crl.next_update_utc)
    for entry in crl:
        builder = builder.add_revoked_certificate(entry)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer.key, hash_for(issuer.key))


def response_of(
    certificate: x509.Certificate,
    issuer: Issued,
    status: ocsp.OCSPCertStatus = GOOD,
    *,
    signer: Issued | None = None,
    at: dt.datetime | None = None,
    lasts: dt.timedelta | None = HOUR,
    by_key: bool = False,
    nonce: bytes = b"",
    digest: hashes.HashAlgorithm | None = None,
) -> ocsp.OCSPResponse:
    """By the authority itself, or by a responder that it has made."""
    now = (at or dt.datetime.now(dt.UTC)).replace(microsecond=0)
    responder = signer or issuer
    revoked = status is REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        certificate,
        issuer.certificate,
        hashes.SHA1(),
        status,
        now,
        now + lasts if lasts is not None else None,
        now - HOUR if revoked else None,
        x509.ReasonFlags.superseded if revoked else None,
    )
    encoding = ocsp.OCSPResponderEncoding.HASH if by_key else ocsp.OCSPResponderEncoding.NAME
    builder = builder.responder_id(encoding, responder.certificate)
    if signer is not None:
        builder = builder.certificates([signer.certificate])
    if nonce:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.sign(responder.key, digest or hash_for(responder.key))


def octets(response: ocsp.OCSPResponse | x509.CertificateRevocationList) -> bytes:
    return response.public_bytes(Encoding.DER)


def responder_of(issuer: Issued, *, purpose: bool = True, nocheck: bool = True) -> Issued:
    """A certificate that may sign OCSP responses for `issuer` (RFC 6960 s4.2.2.2)."""
    made = make_certificate(["ocsp.test"], KeyType.ECDSA256, issuer)
    one = made.certificate
    builder = x509.CertificateBuilder(
        issuer.certificate.subject, one.subject, one.public_key(), one.serial_number,
        one.not_valid_before_utc, one.not_valid_after_utc,
    )  # fmt: skip
    if purpose:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), critical=False)
    if nocheck:
        builder = builder.add_extension(x509.OCSPNoCheck(), critical=False)
    return Issued(builder.sign(issuer.key, hash_for(issuer.key)), made.key)
