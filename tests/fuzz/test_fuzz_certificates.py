"""Certificates, CRLs, OCSP responses and raw keys of strangers: mutated octets are refused, or used without surprise.

`IPSECFAST_FUZZ_ROUNDS` multiplies the number of mutations.
"""

from __future__ import annotations

import datetime as dt
import os
import random
from collections.abc import Iterable
from contextlib import suppress

import pytest
import revocations as made
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from simulation import Pair, connection

from ipsecfast.configured import AuthConfig, AuthKind, ConnectionConfig, RevocationPolicy
from ipsecfast.errors import ProtocolError
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import AuthMethod, CertEncoding
from ipsecfast.ike.credential import announced, certificates, raw_keys, revocation
from ipsecfast.ike.credential.finding import State
from ipsecfast.ike.credential.ocsp import nonce_of
from ipsecfast.ike.credential.revocation import Link
from ipsecfast.ike.credential.standing import brought
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import AuthPayload, CertPayload
from ipsecfast.pki import KeyType, Pointers, make_authority, make_certificate

ROUNDS = int(os.environ.get("IPSECFAST_FUZZ_ROUNDS", "1"))
MUTATIONS = 500 * ROUNDS
NOW = dt.datetime.now(dt.UTC) + dt.timedelta(hours=1)  # later than what the tests are about to make, however slowly
ROOT = make_authority("Root", KeyType.ECDSA256)
LEAF = make_certificate(
    ["a.test", "192.0.2.1"], KeyType.ECDSA256, ROOT, pointers=Pointers(("http://x/",), ("http://y/",))
)
LINK = Link(LEAF.certificate, ROOT.certificate)
NAMES = [Identity(kind, b"a.test") for kind in (1, 2, 3, 5, 9, 11)]
POINT = x509.IssuingDistributionPoint(
    [x509.UniformResourceIdentifier("http://x/")], None, False, False, None, False, False
)
DOCUMENTS = [
    made.octets(made.crl_of(ROOT, LEAF)),
    made.octets(made.with_extensions(made.crl_of(ROOT, LEAF), ROOT, (POINT, True))),
    made.octets(made.response_of(LEAF.certificate, ROOT, made.REVOKED, nonce=b"n" * 32)),
    made.octets(made.response_of(LEAF.certificate, ROOT, made.REVOKED, signer=made.responder_of(ROOT), by_key=True)),
]

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning", "ignore::cryptography.utils.CryptographyDeprecationWarning"
)


def mutated(rng: random.Random, octets: bytes) -> bytes:
    data = bytearray(octets)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data))
        data[at] = rng.choice((rng.randrange(256), data[at] ^ (1 << rng.randrange(8)), 0x00, 0x17, 0x18, 0x30))
    return bytes(data[: rng.randrange(len(data))] if rng.random() < 0.05 else data)


def message(encoding: int, data: bytes) -> Message:
    return Message(b"i" * 8, b"r" * 8, 35, 1, False, True, (CertPayload(encoding, data),))


@pytest.mark.parametrize("kind", [KeyType.ECDSA256, KeyType.ED25519, KeyType.RSA2048])
def test_certificates(kind: KeyType) -> None:
    """What is used of a peer's certificate, in the order in which it is used: nothing but ProtocolError comes out."""
    rng = random.Random(f"certificates {kind}")
    root = make_authority("Root", kind)
    octets = make_certificate(["a.test", "192.0.2.1"], kind, root).certificate.public_bytes(Encoding.DER)
    for _ in range(MUTATIONS):
        with suppress(ProtocolError):
            (found,) = certificates.received_certificates(message(CertEncoding.X509_SIGNATURE, mutated(rng, octets)))
            assert isinstance(certificates.identities_text(found), str)
            for identity in NAMES:
                certificates.has_identity(found, identity)
            certificates.public_key_of(found)
            certificates.trusted_path(found, [found], [root.certificate], NOW)


@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
def test_crls_and_responses(number: int) -> None:
    """All of these say "revoked": no mutation makes that "good"."""
    rng = random.Random(f"documents {number}")
    for _ in range(MUTATIONS):
        octets = mutated(rng, DOCUMENTS[number])
        for encoding in (CertEncoding.CRL, CertEncoding.OCSP_CONTENT):
            evidence = brought(message(encoding, octets))
            for response in evidence.responses:
                nonce_of(response)
            assert revocation.find(LINK, evidence, NOW).state is not State.GOOD


def test_raw_keys() -> None:
    rng = random.Random("raw keys")
    key = LEAF.certificate.public_key()
    config = connection("a", remote=AuthConfig(None, AuthKind.PUBKEY, pubkeys=(key,)))  # type: ignore[arg-type]
    octets = raw_keys.encoded(key)  # type: ignore[arg-type]
    for _ in range(MUTATIONS):
        data = mutated(rng, octets)
        with suppress(ProtocolError):
            found = raw_keys.candidates(config, message(CertEncoding.RAW_PUBLIC_KEY, data), NAMES[1])
            assert data == octets
            raw_keys.check(found, AuthPayload(AuthMethod.DIGITAL_SIGNATURE, data), b"octets", NAMES[1])
            raise AssertionError("a signature that is none")


def test_announced_methods() -> None:
    """Whatever comes, what is understood of it can be said again in the same octets."""
    rng = random.Random("announced")
    (notify,) = announced.payloads([connection("a", remote=AuthConfig(None, AuthKind.PUBKEY))])
    for _ in range(MUTATIONS):
        found = announced.parse(mutated(rng, notify.data) if rng.random() < 0.5 else rng.randbytes(rng.randrange(64)))
        sayable = tuple(a for a in found if a.method not in (2, 13) and (a.method != 14 or a.identifier))
        assert announced.parse(b"".join(one.encode() for one in sayable)) == sayable


@pytest.mark.parametrize("number", range(20 * ROUNDS))
def test_a_whole_exchange_with_mutated_credentials(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in CERT payloads, with whatever key it is signed: nothing comes out of either endpoint."""
    rng = random.Random(f"exchange {number}")
    sent = certificates.certificate_payloads

    def worse(own: Iterable[x509.Certificate]) -> tuple[CertPayload, ...]:
        more = [CertPayload(kind, mutated(rng, octets)) for kind in (7, 14) for octets in DOCUMENTS]
        return (*(CertPayload(p.encoding, mutated(rng, p.data)) for p in sent(own)), *rng.sample(more, 2))

    monkeypatch.setattr(certificates, "certificate_payloads", worse)
    pair = Pair(*(by_certificate(me) for me in "ab"), seed=number)
    pair.a.initiate()
    pair.run(400.0)
    assert pair.transcript


def by_certificate(me: str) -> ConnectionConfig:
    mine = make_certificate([f"{me}.test"], KeyType.ECDSA256, ROOT)
    own = AuthConfig(Identity(2, f"{me}.test".encode()), AuthKind.PUBKEY, (mine.certificate,), key=mine.key)
    theirs = AuthConfig(None, AuthKind.PUBKEY, authorities=(ROOT.certificate,), revocation=RevocationPolicy.IFURI)
    return connection(me, local=own, remote=theirs, secrets=())
