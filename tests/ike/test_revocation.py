"""CRLs (RFC 5280 s6.3) and OCSP responses (RFC 6960 s3.2) held against certificates; what a policy makes of it."""

from __future__ import annotations

import datetime as dt
import functools

import pytest
import revocations as made
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ocsp

from ipsecfast.configured import AuthorityConfig, RevocationPolicy
from ipsecfast.ike.constants import AuthenticationFailed
from ipsecfast.ike.credential import crl as crls
from ipsecfast.ike.credential import ocsp as ocsps
from ipsecfast.ike.credential import revocation
from ipsecfast.ike.credential.finding import State
from ipsecfast.ike.credential.ocsp import make_request, nonce_of
from ipsecfast.ike.credential.revocation import Evidence, Link
from ipsecfast.pki import Issued, KeyType, Pointers, make_authority, make_certificate
from ipsecfast.pki_crl import Reason, make_crl

NOW = dt.datetime.now(dt.UTC)
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
CRL_URI, OCSP_URI = "http://crl.test/root.crl", "http://ocsp.test/"
KINDS = [KeyType.ECDSA256, KeyType.RSA2048, KeyType.ED25519, KeyType.ED448, KeyType.ML_DSA_65]


@functools.cache
def issued(kind: KeyType) -> tuple[Issued, Issued]:
    authority = make_authority("Root", kind)
    return authority, make_certificate(["a.test"], kind, authority, pointers=Pointers((CRL_URI,), (OCSP_URI,)))


def root(kind: KeyType = KeyType.ECDSA256) -> Issued:
    return issued(kind)[0]


def leaf(kind: KeyType = KeyType.ECDSA256) -> Issued:
    return issued(kind)[1]


def link(kind: KeyType = KeyType.ECDSA256) -> Link:
    return Link(leaf(kind).certificate, root(kind).certificate)


def by_crl(*crls: x509.CertificateRevocationList, at: dt.datetime = NOW, kind: KeyType = KeyType.ECDSA256) -> str:
    found = revocation.find(link(kind), Evidence(crls), at)
    return f"{found.state}: {found.text}"


def by_ocsp(
    response: ocsp.OCSPResponse, *crls: x509.CertificateRevocationList, at: dt.datetime = NOW,
    kind: KeyType = KeyType.ECDSA256,
) -> str:  # fmt: skip
    found = revocation.find(link(kind), Evidence(crls, (response,)), at)
    return f"{found.state}: {found.text}"


# -- CRLs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_crl_of_every_kind_of_key(kind: KeyType) -> None:
    empty, full = made.crl_of(root(kind)), made.crl_of(root(kind), leaf(kind))
    assert by_crl(empty, kind=kind).startswith('good: "CN=a.test" is not revoked, says the CRL of "CN=Root" of ')
    assert by_crl(full, kind=kind).startswith("revoked: ")


def test_a_refusal_names_the_certificate_since_when_and_who_says_so() -> None:
    text = by_crl(made.crl_of(root(), leaf()))
    number, today = f"{leaf().certificate.serial_number:x}", f"{NOW:%F}"
    assert text.startswith(
        f'revoked: the certificate of "CN=a.test", serial number {number}, is revoked since {today} '
    )
    assert '(key compromise), says the CRL of "CN=Root" of ' in text


def test_on_hold_is_revoked() -> None:
    assert "(on hold)" in by_crl(made.crl_of(root(), leaf(), reason=Reason.CERTIFICATE_HOLD))
    assert "UTC, says" in by_crl(made.crl_of(root(), leaf(), reason=Reason.UNSPECIFIED))


@pytest.mark.parametrize(("days", "words"), [(-1, "is from "), (31, "ended on ")])
def test_a_crl_out_of_time_says_nothing(days: int, words: str) -> None:
    text = by_crl(made.crl_of(root(), leaf()), at=NOW + days * DAY)
    assert text.startswith('unknown: whether "CN=a.test" is revoked is not known: the CRL of "CN=Root" of ')
    assert words in text


def test_a_crl_by_somebody_else() -> None:
    false = make_authority("Root", KeyType.ECDSA256)
    assert 'is not by "CN=Root"' in by_crl(made.crl_of(false))
    assert "no CRL and no OCSP response is at hand" in by_crl(made.crl_of(make_authority("Other", KeyType.ECDSA256)))


def test_a_crl_of_a_certificate_that_may_not_sign_crls() -> None:
    c = link()
    other = Link(c.certificate, leaf().certificate)  # whose key usage lacks cRLSign
    found = revocation.find(other, Evidence((made.crl_of(root()),)), NOW)
    assert '"CN=a.test" may not sign CRLs' in found.text


def point(**options: object) -> x509.IssuingDistributionPoint:
    settings: dict = {
        "full_name": None, "relative_name": None, "only_contains_user_certs": False, "only_contains_ca_certs": False,
        "only_some_reasons": None, "indirect_crl": False, "only_contains_attribute_certs": False,
    }  # fmt: skip
    return x509.IssuingDistributionPoint(**settings | options)


def uri(text: str) -> list[x509.GeneralName]:
    return [x509.UniformResourceIdentifier(text)]


@pytest.mark.parametrize(
    ("extension", "critical", "words"),
    [
        (x509.DeltaCRLIndicator(1), True, "is a delta CRL"),
        (x509.DeltaCRLIndicator(1), False, "is a delta CRL"),
        (point(indirect_crl=True), True, "is an indirect CRL"),
        (point(only_some_reasons=frozenset([x509.ReasonFlags.key_compromise])), True, "tells of some reasons only"),
        (point(only_contains_ca_certs=True), True, "is for certificates of authorities only"),
        (point(only_contains_attribute_certs=True), True, "is for attribute certificates only"),
        (point(full_name=uri("http://other.test/")), True, "is of another distribution point"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\5\0"), True, "not understood"),
    ],
)
def test_crls_that_are_not_taken(extension: x509.ExtensionType, critical: bool, words: str) -> None:
    """Not even a good word of theirs counts; they say nothing at all."""
    crl = made.with_extensions(made.crl_of(root()), root(), (extension, critical))
    text = by_crl(crl)
    assert text.startswith("unknown: ")
    assert words in text


@pytest.mark.parametrize("extension", [point(full_name=uri(CRL_URI)), point(only_contains_user_certs=True)])
def test_crls_of_a_part_that_is_the_right_one(extension: x509.ExtensionType) -> None:
    crl = made.with_extensions(made.crl_of(root(), leaf()), root(), (extension, True))
    assert by_crl(crl).startswith("revoked: ")


def test_a_crl_of_end_entities_says_nothing_of_an_authority() -> None:
    middle = make_authority("Middle", KeyType.ECDSA256, issuer=root())
    crl = made.with_extensions(made.crl_of(root()), root(), (point(only_contains_user_certs=True), True))
    found = revocation.find(Link(middle.certificate, root().certificate), Evidence((crl,)), NOW)
    assert "is not for certificates of authorities" in found.text


def test_broken_hashes_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library signs with none, so one of its own stands for them."""
    assert crls.BROKEN_HASHES == (hashes.MD5, hashes.SHA1)
    monkeypatch.setattr(crls, "BROKEN_HASHES", (hashes.SHA256,))
    assert "is signed with sha256, which is broken" in by_crl(made.crl_of(root()))
    assert "is signed with sha256, which is broken" in by_ocsp(made.response_of(leaf().certificate, root()))


# -- OCSP --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_key", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_response_by_the_authority_itself(kind: KeyType, by_key: bool) -> None:
    response = made.response_of(leaf(kind).certificate, root(kind), by_key=by_key)
    assert by_ocsp(response, kind=kind).startswith('good: "CN=a.test" is not revoked, says the OCSP response by ')


def test_revoked_and_unknown_by_ocsp() -> None:
    text = by_ocsp(made.response_of(leaf().certificate, root(), made.REVOKED))
    assert text.startswith('revoked: the certificate of "CN=a.test"')
    assert '(superseded), says the OCSP response by "CN=Root" of ' in text
    assert 'does not know "CN=a.test"' in by_ocsp(made.response_of(leaf().certificate, root(), made.UNKNOWN))


def test_a_responder_that_says_nothing() -> None:
    refused = ocsp.OCSPResponseBuilder.build_unsuccessful(ocsp.OCSPResponseStatus.TRY_LATER)
    assert "try later" in by_ocsp(refused)


@pytest.mark.parametrize(
    ("lasts", "after", "words"),
    [
        (HOUR, -HOUR, "is from "),
        (HOUR, 2 * HOUR, "ended on "),
        (None, 2 * HOUR, "ended on "),
        (None, HOUR / 2, "not rev"),
    ],
)
def test_a_response_out_of_time(lasts: dt.timedelta | None, after: dt.timedelta, words: str) -> None:
    """One that does not say when the next comes is good for an hour."""
    assert words in by_ocsp(made.response_of(leaf().certificate, root(), lasts=lasts), at=NOW + after)


def test_a_response_about_somebody_else() -> None:
    """Of another certificate; and of the same serial number of another authority with the same name."""
    other = make_certificate(["b.test"], KeyType.ECDSA256, root())
    assert "at hand" in by_ocsp(made.response_of(other.certificate, root()))
    false = make_authority("Root", KeyType.ECDSA256)
    assert "at hand" in by_ocsp(made.response_of(leaf().certificate, false))


def test_a_response_that_somebody_else_signed() -> None:
    false = make_authority("Root", KeyType.ECDSA256)
    response = made.response_of(leaf().certificate, root(), signer=false)
    assert 'the signature of the OCSP response by "CN=Root"' in by_ocsp(response)


@pytest.mark.parametrize("by_key", [False, True])
def test_a_responder_with_the_right(by_key: bool) -> None:
    response = made.response_of(leaf().certificate, root(), signer=made.responder_of(root()), by_key=by_key)
    assert by_ocsp(response).startswith("good: ")


def test_responders_without_the_right() -> None:
    """s4.2.2.2: any customer of the authority could answer for any other."""
    customer = made.responder_of(root(), purpose=False)
    assert "lacks the extended key usage OCSPSigning" in by_ocsp(
        made.response_of(leaf().certificate, root(), signer=customer)
    )
    stranger = made.responder_of(make_authority("Root", KeyType.ECDSA256))
    assert 'is not one of "CN=Root"' in by_ocsp(made.response_of(leaf().certificate, root(), signer=stranger))
    late = made.response_of(leaf().certificate, root(), signer=made.responder_of(root()), at=NOW + 800 * DAY)
    assert "expired on" in by_ocsp(late, at=NOW + 800 * DAY)


def test_a_response_without_the_certificate_of_its_signer() -> None:
    signer = made.responder_of(root())
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(leaf().certificate, root().certificate, hashes.SHA256(), made.GOOD, NOW, NOW + HOUR, None, None)
        .responder_id(ocsp.OCSPResponderEncoding.NAME, signer.certificate)
    )
    assert "no certificate of its signer" in by_ocsp(builder.sign(signer.key, hashes.SHA256()))  # type: ignore[arg-type]


def test_a_revoked_responder() -> None:
    """s4.2.2.2.1: looked up in the CRLs at hand, unless nobody is to look."""
    asked, trusted = (made.responder_of(root(), nocheck=nocheck) for nocheck in (False, True))
    crl = made.crl_of(root(), asked, trusted)
    for signer, counts in ((asked, False), (trusted, True)):
        found = ocsps.look_up(
            leaf().certificate,
            root().certificate,
            made.response_of(leaf().certificate, root(), signer=signer),
            NOW,
            [crl],
        )
        assert found is not None
        assert found.good is counts
        assert counts or 'of "CN=ocsp.test", serial number' in found.text


def test_requests() -> None:
    request = ocsp.load_der_ocsp_request(make_request(leaf().certificate, root().certificate, b"n" * 32))
    assert request.serial_number == leaf().certificate.serial_number
    assert request.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 32
    assert not ocsp.load_der_ocsp_request(make_request(leaf().certificate, root().certificate)).extensions


def test_nonces_of_responses() -> None:
    assert nonce_of(made.response_of(leaf().certificate, root(), nonce=b"n" * 32)) == b"n" * 32
    assert nonce_of(made.response_of(leaf().certificate, root())) is None


# -- together ----------------------------------------------------------------------------------------------------------


def test_a_revocation_is_believed_whoever_tells_of_it() -> None:
    good, bad = made.response_of(leaf().certificate, root()), made.crl_of(root(), leaf())
    assert by_ocsp(good, bad).startswith("revoked: ")
    assert by_ocsp(made.response_of(leaf().certificate, root(), made.REVOKED), made.crl_of(root())).startswith(
        "revoked"
    )


def test_every_certificate_below_the_anchor() -> None:
    middle = make_authority("Middle", KeyType.ECDSA256, issuer=root())
    end = make_certificate(["a.test"], KeyType.ECDSA256, middle)
    path = [end.certificate, middle.certificate, root().certificate]
    assert [one.certificate for one in revocation.links(path)] == path[:2]
    evidence = Evidence((made.crl_of(root(), middle), made.crl_of(middle)))
    states = [revocation.find(one, evidence, NOW).state for one in revocation.links(path)]
    assert states == [State.GOOD, State.REVOKED]
    assert revocation.links(path[2:]) == []


@pytest.mark.parametrize(
    ("policy", "state", "uris", "passes"),
    [
        ("strict", "good", False, True), ("strict", "unknown", False, False), ("strict", "revoked", False, False),
        ("ifuri", "good", True, True), ("ifuri", "unknown", False, True), ("ifuri", "unknown", True, False),
        ("ifuri", "revoked", False, False),
        ("relaxed", "good", True, True), ("relaxed", "unknown", True, True), ("relaxed", "revoked", False, False),
    ],
)  # fmt: skip
def test_policies(policy: str, state: str, uris: bool, passes: bool) -> None:
    finding = revocation.Finding(State(state), "the sentence")
    if passes:
        revocation.judge(RevocationPolicy(policy), link(), finding, has_uris=uris)
        return
    with pytest.raises(AuthenticationFailed, match="the sentence"):
        revocation.judge(RevocationPolicy(policy), link(), finding, has_uris=uris)


# -- where to ask ------------------------------------------------------------------------------------------------------


def test_uris_of_certificates_and_of_the_operator() -> None:
    ours = AuthorityConfig(root().certificate, ("file:///etc/root.crl",), ("http://10.0.0.1/",))
    other = AuthorityConfig(make_authority("Root", KeyType.ECDSA256).certificate, ("http://other.test/",))
    assert revocation.crl_uris(link(), (other, ours)) == ("file:///etc/root.crl", CRL_URI)
    assert revocation.ocsp_uris(link(), (other, ours)) == ("http://10.0.0.1/", OCSP_URI)
    bare = Link(make_certificate(["a.test"], KeyType.ECDSA256, root()).certificate, root().certificate)
    assert revocation.crl_uris(bare, ()) == revocation.ocsp_uris(bare, ()) == ()


@pytest.mark.parametrize(
    "bad", ["file:///etc/shadow", "ldap://x.test/cn=Root", "https://x.test/", "http://x/" + "a" * 2000]
)
def test_a_certificate_sends_us_to_http_only(bad: str) -> None:
    one = make_certificate(["a.test"], KeyType.ECDSA256, root(), pointers=Pointers((bad,), (bad,)))
    assert revocation.crl_uris(Link(one.certificate, root().certificate), ()) == ()
    assert revocation.ocsp_uris(Link(one.certificate, root().certificate), ()) == ()


def test_a_certificate_sends_us_to_a_few_places_only() -> None:
    many = tuple(f"http://x.test/{n}" for n in range(20))
    one = make_certificate(["a.test"], KeyType.ECDSA256, root(), pointers=Pointers(many, many))
    assert len(revocation.crl_uris(Link(one.certificate, root().certificate), ())) == revocation.MAX_URIS


def test_octets_that_are_none() -> None:
    for parse in (revocation.parse_crl, revocation.parse_response):
        for data in (b"", b"\x30\x03abc", b"-----BEGIN X509 CRL-----\n", b"<html>"):
            with pytest.raises(ValueError):  # noqa: PT011 - the words are the library's
                parse(data)


def test_numbers_of_lists_grow() -> None:
    first = make_crl(root(), None)
    second = make_crl(root(), first)
    numbers = [c.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number for c in (first, second)]
    assert numbers == [1, 2]
