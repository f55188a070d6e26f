"""The list of revoked certificates of the small authority of `pki`: one CRL file, which is its own record.

Each list is made from the one before it, with the next number (RFC 5280 s5.2.3). DER, as whoever fetches it by HTTP
expects it (s4.2.1.13).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from ipsecfast.errors import PkiError
from ipsecfast.pki import CLOCK_SKEW, Issued, hash_for, read_file

CRL_DAYS = 30


class Reason(StrEnum):
    """Why a certificate is revoked (RFC 5280 s5.3.1), in the words of the command line."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "key-compromise"
    AFFILIATION_CHANGED = "affiliation-changed"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessation-of-operation"
    CERTIFICATE_HOLD = "certificate-hold"
    PRIVILEGE_WITHDRAWN = "privilege-withdrawn"


def make_crl(
    issuer: Issued,
    before: x509.CertificateRevocationList | None,
    revoked: Sequence[x509.RevokedCertificate] = (),
    *,
    days: int = CRL_DAYS,
    now: datetime | None = None,
) -> x509.CertificateRevocationList:
    """What stood in the list before, and `revoked`; from now on, for `days`.

    Raises:
        PkiError: the list before is of another authority.
    """
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    if before is not None and not before.is_signature_valid(issuer.certificate.public_key()):  # type: ignore[arg-type]
        raise PkiError("the CRL that is there already is not by this authority")
    entries = {entry.serial_number: entry for entry in (*(before or ()), *revoked)}
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(now - CLOCK_SKEW)
        .next_update(now + timedelta(days=days))
        .add_extension(x509.CRLNumber(_number(before) + 1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.certificate.public_key()),  # type: ignore[arg-type]
            critical=False,
        )
    )
    for entry in entries.values():
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(issuer.key, hash_for(issuer.key))


def _number(crl: x509.CertificateRevocationList | None) -> int:
    if crl is None:
        return 0
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0


def revoke(certificate: x509.Certificate, issuer: Issued, reason: Reason) -> x509.RevokedCertificate:
    """The entry of a certificate, revoked now.

    Raises:
        PkiError: it is one of another authority.
    """
    try:
        certificate.verify_directly_issued_by(issuer.certificate)
    except (InvalidSignature, TypeError, ValueError) as error:
        raise PkiError("this authority did not issue that certificate") from error
    now = datetime.now(UTC).replace(microsecond=0)
    builder = x509.RevokedCertificateBuilder().serial_number(certificate.serial_number).revocation_date(now)
    if reason is not Reason.UNSPECIFIED:  # RFC 5280 s5.3.1: then the extension is left out
        flag = x509.ReasonFlags[reason.name.lower()]
        builder = builder.add_extension(x509.CRLReason(flag), critical=False)
    return builder.build()


def load_crl(path: Path) -> x509.CertificateRevocationList | None:
    """The list so far, None where there is none yet. Raises PkiError."""
    return read_file(path, x509.load_der_x509_crl) if path.exists() else None


def save_crl(crl: x509.CertificateRevocationList, path: Path) -> None:
    """In the place of the one before; nobody sees half a list. Raises PkiError."""
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_bytes(crl.public_bytes(Encoding.DER))
        os.replace(temporary, path)
    except OSError as error:
        raise PkiError(f"{path} can't be written: {error.strerror}") from error
