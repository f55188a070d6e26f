"""One complete CRL held against one certificate (RFC 5280 s5, s6.3.3). Delta CRLs and indirect CRLs are not taken."""

from __future__ import annotations

from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from ipsecfast.ike.constants import AuthenticationFailed
from ipsecfast.ike.credential.certificates import UNREADABLE, extension_of, name_text, public_key_of, subject_text
from ipsecfast.ike.credential.finding import Finding, State, time_mistake, time_text, unknown

BROKEN_HASHES = (hashes.MD5, hashes.SHA1)
_KNOWN_CRITICAL = frozenset({x509.IssuingDistributionPoint.oid, x509.CRLNumber.oid, x509.AuthorityKeyIdentifier.oid})


def look_up(
    certificate: x509.Certificate, issuer: x509.Certificate, crl: x509.CertificateRevocationList, at: datetime
) -> Finding | None:
    """What the CRL says about a certificate of `issuer`; None: it is one of another authority."""
    try:
        if crl.issuer != certificate.issuer:
            return None
        mistake = (
            time_mistake(crl_text(crl), crl.last_update_utc, crl.next_update_utc, at)
            or _scope_mistake(certificate, crl)
            or _signature_mistake(issuer, crl)
        )
        if mistake is not None:
            return unknown(mistake)
        entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    except UNREADABLE as error:
        return unknown(f"a CRL can't be read: {error}")
    if entry is None:
        return Finding(
            State.GOOD, f"{subject_text(certificate)} is not revoked, says {crl_text(crl)}", crl.next_update_utc
        )
    return Finding(State.REVOKED, revoked_text(certificate, entry.revocation_date_utc, _reason(entry), crl_text(crl)))


def revoked_text(certificate: x509.Certificate, since: datetime, reason: x509.ReasonFlags | None, who: str) -> str:
    """The sentence of a refusal: which certificate, since when, why, who says so."""
    why = f" ({_WORDS.get(reason, reason.value)})" if reason is not None else ""
    number = f"{certificate.serial_number:x}"
    return (
        f"the certificate of {subject_text(certificate)}, serial number {number}, is revoked since {time_text(since)}"
        f"{why}, says {who}"
    )


_WORDS = {
    x509.ReasonFlags.key_compromise: "key compromise",
    x509.ReasonFlags.ca_compromise: "compromise of the authority",
    x509.ReasonFlags.affiliation_changed: "affiliation changed",
    x509.ReasonFlags.superseded: "superseded",
    x509.ReasonFlags.cessation_of_operation: "cessation of operation",
    x509.ReasonFlags.certificate_hold: "on hold",
    x509.ReasonFlags.privilege_withdrawn: "privilege withdrawn",
    x509.ReasonFlags.aa_compromise: "compromise of the attribute authority",
}


def crl_text(crl: x509.CertificateRevocationList) -> str:
    return f'the CRL of "{name_text(crl.issuer)}" of {time_text(crl.last_update_utc)}'


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags | None:
    """An entry counts whatever else it says (s5.3): only the reason is read of it."""
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except (x509.ExtensionNotFound, *UNREADABLE):
        return None


def _scope_mistake(certificate: x509.Certificate, crl: x509.CertificateRevocationList) -> str | None:
    """s5.2, s6.3.3 (b): whether this CRL is a complete one that speaks of such a certificate."""
    name = crl_text(crl)
    if crl.next_update_utc is None:
        return f"{name} does not say until when it counts"  # s5.1.2.5
    for extension in crl.extensions:
        if isinstance(extension.value, x509.DeltaCRLIndicator):
            return f"{name} is a delta CRL, which is not taken"
        if extension.critical and extension.oid not in _KNOWN_CRITICAL:
            return f"{name} has the critical extension {extension.oid.dotted_string}, which is not understood"
        if isinstance(extension.value, x509.IssuingDistributionPoint):
            mistake = _distribution_mistake(certificate, extension.value)
            if mistake is not None:
                return f"{name} {mistake}"
    return None


def _distribution_mistake(certificate: x509.Certificate, point: x509.IssuingDistributionPoint) -> str | None:
    """s5.2.5."""
    constraints = extension_of(certificate, x509.BasicConstraints)
    authority = constraints is not None and constraints.ca
    if point.indirect_crl:
        return "is an indirect CRL, which is not taken"
    if point.only_some_reasons is not None:
        return "tells of some reasons only"
    if point.only_contains_attribute_certs or (point.only_contains_user_certs and authority):
        return "is not for certificates of authorities" if authority else "is for attribute certificates only"
    if point.only_contains_ca_certs and not authority:
        return "is for certificates of authorities only"
    if point.relative_name is not None or (point.full_name and not _names_point(certificate, point.full_name)):
        return "is of another distribution point than the certificate names"
    return None


def _names_point(certificate: x509.Certificate, names: list[x509.GeneralName]) -> bool:
    points = extension_of(certificate, x509.CRLDistributionPoints) or ()
    return any(name in names for point in points for name in point.full_name or ())


def _signature_mistake(issuer: x509.Certificate, crl: x509.CertificateRevocationList) -> str | None:
    """s6.3.3 (f), (g): by the key of the certificate's own issuer, who may sign CRLs."""
    usage = extension_of(issuer, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        return f"{subject_text(issuer)} may not sign CRLs"
    if isinstance(crl.signature_hash_algorithm, BROKEN_HASHES):
        return f"{crl_text(crl)} is signed with {crl.signature_hash_algorithm.name}, which is broken"
    try:
        signed = crl.is_signature_valid(public_key_of(issuer))
    except (AuthenticationFailed, TypeError) as error:
        return f"the signature of {crl_text(crl)} can't be checked: {error}"
    return None if signed else f"the signature of {crl_text(crl)} is not by {subject_text(issuer)}"
