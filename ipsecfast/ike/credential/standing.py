"""Whether certificates still stand: the peer's, before we believe it, and ours, for a peer that asks (RFC 4806).

HDR, SK {IDi, CERT+, [CERT(OCSP response)+], CERTREQ, [CERTREQ(OCSP)], ...}  -->
                         <--  HDR, SK {IDr, CERT+, [CERT(OCSP response)+], AUTH, ...}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509

from ipsecfast.configured import ConnectionConfig, RevocationPolicy
from ipsecfast.ike.constants import CertEncoding
from ipsecfast.ike.credential import revocation
from ipsecfast.ike.credential.certificates import MAX_CERTIFICATES, links
from ipsecfast.ike.credential.finding import Finding, State
from ipsecfast.ike.credential.inquiry import Case, Place, case, inquire
from ipsecfast.ike.credential.revocation import Evidence, Link
from ipsecfast.ike.credential.wishes import known_authorities
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import CertPayload
from ipsecfast.ike.work import Steps

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

T = TypeVar("T")


# -- the peer's --------------------------------------------------------------------------------------------------------


def examine(
    sa: IkeSa, config: ConnectionConfig, path: Sequence[x509.Certificate], message: Message, now: float
) -> Steps[float]:
    """The certificates of the peer's path: only once the signature was found right, for nobody else shall send us to
    ask anything anywhere. The time when that is known.

    Raises:
        AuthenticationFailed: one is revoked, or is not known to stand where the policy wants to know it.
    """
    given = brought(message)
    cases = [case(link, config.authorities, given) for link in revocation.links(path)]
    if not cases:
        return now
    findings, now = yield from inquire(sa.context, cases, now)
    sa.credentials.findings = tuple(findings)
    sa.credentials.path = tuple(path) if config.remote.recheck_revocation else ()
    for one, finding in zip(cases, findings, strict=True):
        revocation.judge(config.remote.revocation, one.link, finding, has_uris=bool(one.places))
    _limit_session(sa, config, findings)
    if config.remote.revocation is RevocationPolicy.RELAXED:
        for one, finding in zip(cases, findings, strict=True):
            if one.places and finding.state is State.UNKNOWN:
                sa.note("revocation-unknown", f"{finding.text}; revocation = relaxed goes on", warning=True)
    return now


def examine_again(sa: IkeSa, now: float) -> Steps[None]:
    """The same of an IKE SA that stands. What was good does not end because nobody knows at the moment; that is decided
    with the next authentication.

    Raises:
        AuthenticationFailed: one was revoked since.
    """
    authorities = sa.connection.config.authorities
    cases = [case(link, authorities) for link in revocation.links(sa.credentials.path)]
    findings, _ = yield from inquire(sa.context, cases, now)
    for before, one, finding in zip(sa.credentials.findings, cases, findings, strict=True):
        revocation.judge(RevocationPolicy.RELAXED, one.link, finding, has_uris=bool(one.places))
        if finding.state is State.UNKNOWN and before.good:
            sa.note("revocation-unknown", f"{finding.text}; the IKE SA goes on", warning=True)
    sa.credentials.findings = tuple(findings)


def _limit_session(sa: IkeSa, config: ConnectionConfig, findings: Sequence[Finding]) -> None:
    """A session that is resumed (RFC 5723) asks nobody: where we want to know, it ends with what we know."""
    if config.remote.revocation is not RevocationPolicy.RELAXED:
        ends = [finding.until.timestamp() for finding in findings if finding.until is not None]
        sa.session.proved_until = min([sa.session.proved_until, *ends])


def brought(message: Message) -> Evidence:
    """OCSP responses (RFC 4806 s3.2) and CRLs (s3.6) that came with the certificates. What can't be read is as if it
    had not come: nothing good can follow from it."""
    payloads = message.all(CertPayload)
    crls = [p.data for p in payloads if p.encoding == CertEncoding.CRL][:MAX_CERTIFICATES]
    responses = [p.data for p in payloads if p.encoding == CertEncoding.OCSP_CONTENT][:MAX_CERTIFICATES]
    return Evidence(_readable(revocation.parse_crl, crls), _readable(revocation.parse_response, responses))


def _readable(parse: Callable[[bytes], T], octets: Sequence[bytes]) -> tuple[T, ...]:
    found = []
    for one in octets:
        try:
            found.append(parse(one))
        except ValueError:
            continue
    return tuple(found)


# -- ours --------------------------------------------------------------------------------------------------------------


def own_responses(
    sa: IkeSa, config: ConnectionConfig, ours: Sequence[x509.Certificate], now: float
) -> Steps[tuple[tuple[CertPayload, ...], float]]:
    """OCSP responses that say that our certificates are good, if the peer wants any: from our files, or from the
    responders that the certificates or the operator name."""
    if not (sa.credentials.wants_ocsp and config.ocsp.replies):
        return (), now
    cases = [_own_case(Link(*link), config) for link in links(ours, known_authorities(config))]
    cases = [one for one in cases if one.places]
    if not cases:
        return (), now
    findings, now = yield from inquire(sa.context, cases, now)
    payloads = []
    for one, finding in zip(cases, findings, strict=True):
        response = next((octets for p in one.places if (octets := sa.context.archive.response_octets(p.key))), None)
        if finding.good and response is not None:
            payloads.append(CertPayload(CertEncoding.OCSP_CONTENT, response))
        else:
            sa.note("no-ocsp-response", f"the peer asks for an OCSP response of ours: {finding.text}", warning=True)
    return tuple(payloads), now


def _own_case(link: Link, config: ConnectionConfig) -> Case:
    files = tuple(Place(link, uri, True) for uri in config.local.ocsp_responses)
    one = case(link, config.authorities)
    return replace(one, places=(*files, *(place for place in one.places if place.by_ocsp)))
