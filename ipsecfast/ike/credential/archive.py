"""CRLs and OCSP responses that were fetched, each kept until there is a reason to ask again; and where nobody answered.

They are bounded in number and in octets; what was used longest ago goes first. Whether one counts is not looked at
here: that is asked of each of them at each use (`revocation`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from ipsecfast.ike.credential.certificates import UNREADABLE
from ipsecfast.ike.credential.finding import MAX_AGE

Document: TypeAlias = x509.CertificateRevocationList | ocsp.OCSPResponse

FRESH = 3600.0  # seconds: then it is asked for again, although the old one may count still
FRESH_FILE = 10.0  # of what the operator puts on this machine: reading it again costs nothing
PAUSE = 30.0  # seconds until who did not answer is asked again: not every IKE SA shall wait for it
MAX_ENTRIES = 1024
MAX_OCTETS = 64 << 20


@dataclass(slots=True)
class Entry:
    """What came the last time that something did; `failure`: why nothing did the last time that it was asked for."""

    document: Document | None
    failure: str
    asked_at: float
    octets: int
    until: datetime | None  # what it says itself


class Archive:
    """By what was asked: a URI, and for OCSP the certificate with it."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Hashable, Entry] = OrderedDict()
        self._octets = 0

    def keep(self, key: Hashable, document: Document, octets: int, now: float) -> None:
        self._put(key, Entry(document, "", now, octets, _until(document)))

    def fail(self, key: Hashable, why: str, now: float) -> None:
        """What came before under this key is kept beside it: it may count still."""
        before = self._entries.get(key)
        if before is None:
            self._put(key, Entry(None, why, now, 0, None))
        else:
            self._put(key, replace(before, failure=why, asked_at=now))

    def document(self, key: Hashable) -> Document | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry.document

    def response_octets(self, key: Hashable) -> bytes:
        """DER of an OCSP response; empty where there is none."""
        document = self.document(key)
        return document.public_bytes(Encoding.DER) if isinstance(document, ocsp.OCSPResponse) else b""

    def octets(self, key: Hashable) -> int:
        entry = self._entries.get(key)
        return entry.octets if entry is not None else 0

    def failure(self, key: Hashable) -> str:
        entry = self._entries.get(key)
        return entry.failure if entry is not None else ""

    def due(self, key: Hashable, now: float, at: datetime, *, local: bool) -> bool:
        """Whether there is a reason to ask (again); `at` is the time of day."""
        entry = self._entries.get(key)
        if entry is None:
            return True
        over = entry.until is not None and at > entry.until
        fresh = FRESH_FILE if local else PAUSE if entry.failure or over else FRESH
        return now - entry.asked_at >= fresh

    def _put(self, key: Hashable, entry: Entry) -> None:
        before = self._entries.pop(key, None)
        self._octets += entry.octets - (before.octets if before is not None else 0)
        self._entries[key] = entry
        while len(self._entries) > MAX_ENTRIES or (self._octets > MAX_OCTETS and len(self._entries) > 1):
            _, oldest = self._entries.popitem(last=False)
            self._octets -= oldest.octets


def _until(document: Document) -> datetime | None:
    try:
        if isinstance(document, x509.CertificateRevocationList):
            return document.next_update_utc
        return document.next_update_utc or document.this_update_utc + MAX_AGE
    except UNREADABLE:  # an OCSP response about none, or many, has no time of its own
        return None
