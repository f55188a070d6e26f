"""Asking whether certificates are revoked: those of the peer's path once its signature was found right, and our own for
a peer that wants to be told (RFC 4806).

What is asked leaves the core as a `Fetch` and comes back to the IKE SA that waits for it (`work`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.x509 import ocsp

from ipsecfast.configured import AuthorityConfig
from ipsecfast.ike.actions import Action, Fetch, Source
from ipsecfast.ike.credential import revocation
from ipsecfast.ike.credential.finding import Finding, State
from ipsecfast.ike.credential.ocsp import NONCE_LENGTH, make_request, nonce_of
from ipsecfast.ike.credential.revocation import Evidence, Link
from ipsecfast.ike.work import Errand, Steps, Work, result_of

if TYPE_CHECKING:
    from ipsecfast.ike.context import Context

MAX_CRL = 16 << 20  # octets
MAX_RESPONSE = 64 << 10
ROUND_SECONDS = 4.0  # for all that is asked at once
MAX_ROUNDS = 4  # together less than what a half-open IKE SA may take
FILE = "file:"
DOCUMENT_SECONDS, OCTET_SECONDS = 2e-4, 1e-8  # to check a signature and to look through a long CRL


@dataclass(frozen=True, slots=True)
class Inquiry(Errand[tuple[bytes | str, ...]]):
    """The octets of each source, or the sentence why there are none."""

    sources: tuple[Source, ...]

    def action(self, job: int, *, urgent: bool) -> Action:
        return Fetch(job, self.sources, ROUND_SECONDS)


@dataclass(frozen=True, slots=True)
class Place:
    """Where to ask about one certificate."""

    link: Link
    uri: str
    by_ocsp: bool

    @property
    def key(self) -> Hashable:
        """A CRL speaks of all certificates of its authority, an OCSP response of this one."""
        return (self.uri, self.link.key) if self.by_ocsp else self.uri

    @property
    def local(self) -> bool:
        return self.uri.startswith(FILE)

    def source(self, nonce: bytes) -> Source:
        if self.by_ocsp and not self.local:
            return Source(self.uri, MAX_RESPONSE, make_request(self.link.certificate, self.link.issuer, nonce))
        return Source(self.uri, MAX_RESPONSE if self.by_ocsp else MAX_CRL)


@dataclass(frozen=True, slots=True)
class Case:
    """One certificate, the places to ask about it in their order, and what was given with it."""

    link: Link
    places: tuple[Place, ...]
    given: Evidence = revocation.NOTHING


def case(link: Link, authorities: Sequence[AuthorityConfig], given: Evidence = revocation.NOTHING) -> Case:
    """OCSP first: it is smaller and newer."""
    by_ocsp = (Place(link, uri, True) for uri in revocation.ocsp_uris(link, authorities))
    by_crl = (Place(link, uri, False) for uri in revocation.crl_uris(link, authorities))
    return Case(link, (*by_ocsp, *by_crl), given)


def inquire(context: Context, cases: Sequence[Case], now: float) -> Steps[tuple[list[Finding], float]]:
    """What is found of each certificate: by what was given, by what is in the archive and fresh, then by one place
    after the other until one knows; of all certificates at once. And the time then."""
    for _ in range(MAX_ROUNDS):
        findings, now = yield from _findings(context, cases, now, fresh=True)
        unknown = [case for case, finding in zip(cases, findings, strict=True) if finding.state is State.UNKNOWN]
        asked = {place.key: place for one in unknown if (place := _next_place(context, one, now)) is not None}
        if not asked:
            break
        now = yield from _ask(context, tuple(asked.values()), now)
    return (yield from _findings(context, cases, now, fresh=False))


def _next_place(context: Context, one: Case, now: float) -> Place | None:
    """A server that did not answer about one certificate is left alone for all of them for a while."""
    at = context.wall_clock()
    asked = (p for p in one.places if context.archive.due(p.key, now, at, local=p.local))
    return next((p for p in asked if p.key == p.uri or context.archive.due(p.uri, now, at, local=p.local)), None)


def _ask(context: Context, places: Sequence[Place], now: float) -> Steps[float]:
    nonces = [context.random(NONCE_LENGTH) for _ in places]
    sources = tuple(place.source(nonce) for place, nonce in zip(places, nonces, strict=True))
    replies, now = yield from result_of(Inquiry(sources))
    for place, nonce, reply in zip(places, nonces, replies, strict=True):
        try:
            document = _document(place, nonce, reply)
        except ValueError as error:
            context.archive.fail(place.key, str(error), now)
            if isinstance(reply, str):
                context.archive.fail(place.uri, reply, now)
        else:
            context.archive.keep(place.key, document, len(reply), now)
    return now


def _document(place: Place, nonce: bytes, reply: bytes | str) -> x509.CertificateRevocationList | ocsp.OCSPResponse:
    """Raises ValueError with the sentence why the reply is of no use."""
    if isinstance(reply, str):
        raise ValueError(reply)
    try:
        if not place.by_ocsp:
            return revocation.parse_crl(reply)
        response = revocation.parse_response(reply)
    except ValueError as error:
        what = "OCSP response" if place.by_ocsp else "CRL"
        raise ValueError(f"{place.uri} yields something that is no {what}") from error
    if not place.local and nonce_of(response) not in (None, nonce):
        raise ValueError(f"{place.uri} answers somebody else's request: its nonce is not ours")
    return response


# -- what is at hand ---------------------------------------------------------------------------------------------------


def _findings(
    context: Context, cases: Sequence[Case], now: float, *, fresh: bool
) -> Steps[tuple[list[Finding], float]]:
    """By what is in the archive: only by what there is no reason to ask for again, or by all, however old: if it still
    counts, it counts."""
    parts, octets = [], 0
    for one in cases:
        places = [p for p in one.places if not (fresh and _doubtful(context, p, now))]
        documents = [d for p in places if (d := context.archive.document(p.key)) is not None]
        octets += sum(context.archive.octets(p.key) for p in places)
        failures = [f for p in one.places if (f := context.archive.failure(p.key) or context.archive.failure(p.uri))]
        parts.append((one.link, one.given + _evidence(documents), failures))
    count = sum(len(evidence.crls) + len(evidence.responses) for _, evidence, _ in parts)
    seconds = count * DOCUMENT_SECONDS + octets * OCTET_SECONDS
    return (yield from result_of(Work(partial(_find_all, parts, context.wall_clock()), seconds)))


def _doubtful(context: Context, place: Place, now: float) -> bool:
    due = context.archive.due(place.key, now, context.wall_clock(), local=place.local)
    return due or bool(context.archive.failure(place.key))


def _find_all(parts: Sequence[tuple[Link, Evidence, list[str]]], at: datetime) -> list[Finding]:
    return [revocation.find(link, evidence, at, failures) for link, evidence, failures in parts]


def _evidence(documents: Sequence[x509.CertificateRevocationList | ocsp.OCSPResponse]) -> Evidence:
    return Evidence(
        tuple(d for d in documents if isinstance(d, x509.CertificateRevocationList)),
        tuple(d for d in documents if isinstance(d, ocsp.OCSPResponse)),
    )
