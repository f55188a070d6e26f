"""Whether the certificates of a path are revoked: all that is at hand held against each, and what a policy makes of it.

Nothing is fetched here: CRLs, OCSP responses and the time of day are arguments. `crl` and `ocsp` look at one of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID

from ipsecfast.configured import AuthorityConfig, RevocationPolicy
from ipsecfast.ike.constants import AuthenticationFailed
from ipsecfast.ike.credential import crl as crls
from ipsecfast.ike.credential import ocsp as ocsps
from ipsecfast.ike.credential.certificates import UNREADABLE, extension_of, subject_text
from ipsecfast.ike.credential.finding import Finding, State, unknown

MAX_URIS = 4  # of one kind that one certificate may send us to
MAX_URI_LENGTH = 1024
_PEM = b"-----BEGIN"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is at hand: of any authority, valid or not."""

    crls: tuple[x509.CertificateRevocationList, ...] = ()
    responses: tuple[ocsp.OCSPResponse, ...] = ()

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(self.crls + other.crls, self.responses + other.responses)


NOTHING = Evidence()


@dataclass(frozen=True, slots=True)
class Link:
    """One certificate of a path below the trust anchor, and the next one, which has issued it."""

    certificate: x509.Certificate
    issuer: x509.Certificate

    @property
    def key(self) -> tuple[bytes, int]:
        """Names the certificate as authorities do: by issuer and serial number."""
        return self.certificate.issuer.public_bytes(), self.certificate.serial_number


def links(path: Sequence[x509.Certificate]) -> list[Link]:
    """The anchor, last in the path, is trusted as it is: nobody could revoke it."""
    return [Link(certificate, issuer) for certificate, issuer in pairwise(path)]


def find(link: Link, evidence: Evidence, at: datetime, failures: Sequence[str] = ()) -> Finding:
    """A revocation is believed whoever tells of it; otherwise one that says "good" is enough. `failures`: what else
    there is to say why nobody knows."""
    found = list(_findings(link, evidence, at))
    for state in (State.REVOKED, State.GOOD):
        if told := next((finding for finding in found if finding.state is state), None):
            return told
    reasons = "; ".join(dict.fromkeys([*(finding.text for finding in found), *failures]))
    reasons = reasons or "no CRL and no OCSP response is at hand"
    return unknown(f"whether {subject_text(link.certificate)} is revoked is not known: {reasons}")


def _findings(link: Link, evidence: Evidence, at: datetime) -> Iterator[Finding]:
    for response in evidence.responses:
        finding = ocsps.look_up(link.certificate, link.issuer, response, at, evidence.crls)
        if finding is not None:
            yield finding
    for crl in evidence.crls:
        finding = crls.look_up(link.certificate, link.issuer, crl, at)
        if finding is not None:
            yield finding


def judge(policy: RevocationPolicy, link: Link, finding: Finding, *, has_uris: bool) -> None:
    """swanctl's `revocation`: `strict` wants to know of each certificate that it is good, `ifuri` where there is a URI
    to ask, `relaxed` only refuses what is revoked.

    Raises:
        AuthenticationFailed: the path does not count.
    """
    if finding.state is State.REVOKED:
        raise AuthenticationFailed(finding.text)
    needed = policy is RevocationPolicy.STRICT or (policy is RevocationPolicy.IFURI and has_uris)
    if needed and not finding.good:
        raise AuthenticationFailed(f"{finding.text} (revocation = {policy.value})")


# -- where to ask ------------------------------------------------------------------------------------------------------


def ocsp_uris(link: Link, authorities: Iterable[AuthorityConfig]) -> tuple[str, ...]:
    """Those that the operator has for the issuer, then those that the certificate names (RFC 5280 s4.2.2.1)."""
    access = extension_of(link.certificate, x509.AuthorityInformationAccess) or ()
    named = [d.access_location for d in access if d.access_method == AuthorityInformationAccessOID.OCSP]
    return _uris([uri for authority in of_issuer(link.issuer, authorities) for uri in authority.ocsp_uris], named)


def crl_uris(link: Link, authorities: Iterable[AuthorityConfig]) -> tuple[str, ...]:
    """As above (s4.2.1.13). A CRL of some reasons, or by somebody else than the issuer, is not asked for."""
    points = extension_of(link.certificate, x509.CRLDistributionPoints) or ()
    named = [name for p in points if p.reasons is None and p.crl_issuer is None for name in p.full_name or ()]
    return _uris([uri for authority in of_issuer(link.issuer, authorities) for uri in authority.crl_uris], named)


def of_issuer(issuer: x509.Certificate, authorities: Iterable[AuthorityConfig]) -> Iterator[AuthorityConfig]:
    """An authority is its name and its key, whichever certificate of it is configured."""
    key = issuer.public_key()
    for authority in authorities:
        if authority.certificate.subject == issuer.subject and authority.certificate.public_key() == key:
            yield authority


def _uris(configured: Iterable[str], named: Iterable[x509.GeneralName]) -> tuple[str, ...]:
    """What a certificate names is taken with http alone: nothing on this machine, no other protocol."""
    values = [n.value for n in named if isinstance(n, x509.UniformResourceIdentifier)]
    usable = [v for v in values if v.lower().startswith("http://") and len(v) <= MAX_URI_LENGTH and v.isprintable()]
    return tuple(dict.fromkeys([*configured, *usable[:MAX_URIS]]))


# -- octets ------------------------------------------------------------------------------------------------------------


def parse_crl(data: bytes) -> x509.CertificateRevocationList:
    """PEM or DER. Raises ValueError."""
    try:
        return x509.load_pem_x509_crl(data) if _PEM in data[:1024] else x509.load_der_x509_crl(data)
    except UNREADABLE as error:
        raise ValueError(str(error)) from error


def parse_response(data: bytes) -> ocsp.OCSPResponse:
    """DER. Raises ValueError."""
    try:
        return ocsp.load_der_ocsp_response(data)
    except UNREADABLE as error:
        raise ValueError(str(error)) from error
