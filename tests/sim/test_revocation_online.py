"""Certificates that are revoked, or not, between two gateways: CRLs and OCSP fetched, from files, inside IKE."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
import revocations as made
from cryptography.x509 import ocsp
from simulation import ADDRESS, Pair, connection, run_quiet

from ipsecfast.configured import (
    AuthConfig,
    AuthKind,
    AuthorityConfig,
    ConnectionConfig,
    Fragmentation,
    OcspUse,
    RevocationPolicy,
)
from ipsecfast.identity import Identity
from ipsecfast.ike.actions import Source
from ipsecfast.ike.constants import CertEncoding
from ipsecfast.ike.credential.ocsp import nonce_of
from ipsecfast.ike.wire.payloads import CertPayload, CertreqPayload
from ipsecfast.pki import Issued, KeyType, Pointers, make_authority, make_certificate

STRICT, IFURI, RELAXED = RevocationPolicy.STRICT, RevocationPolicy.IFURI, RevocationPolicy.RELAXED
CRL_URI, OCSP_URI = "http://crl.test/root.crl", "http://ocsp.test/"
BOTH, CRL_ONLY, OCSP_ONLY, NOWHERE = (
    Pointers((CRL_URI,), (OCSP_URI,)), Pointers((CRL_URI,)), Pointers((), (OCSP_URI,)), Pointers()
)  # fmt: skip


@functools.cache
def root() -> Issued:
    return make_authority("Root", KeyType.ECDSA256)


@functools.cache
def issued(me: str, pointers: Pointers) -> Issued:
    return make_certificate([f"{me}.test", str(ADDRESS[me])], KeyType.ECDSA256, root(), pointers=pointers)


def gateway(
    me: str, pointers: Pointers = NOWHERE, policy: RevocationPolicy = RELAXED, **options: object
) -> ConnectionConfig:
    """`pointers` stand in its own certificate, `policy` is for the peer's."""
    peer = "b" if me == "a" else "a"
    mine = issued(me, pointers)
    ids = {x: Identity(2, f"{x}.test".encode()) for x in "ab"}
    settings: dict = {
        "local": AuthConfig(ids[me], AuthKind.PUBKEY, certificates=(mine.certificate,), key=mine.key),
        "remote": AuthConfig(ids[peer], AuthKind.PUBKEY, authorities=(root().certificate,), revocation=policy),
        "secrets": (),
    }
    return connection(me, **settings | options)


def crl(*revoked: Issued) -> Callable[[Source], bytes]:
    return lambda _: made.octets(made.crl_of(root(), *revoked))


def responder(*revoked: Issued, nonce: bytes | None = None) -> Callable[[Source], bytes]:
    """Answers the very request; `nonce`: always with this one."""

    def answer(source: Source) -> bytes:
        request = ocsp.load_der_ocsp_request(source.request)
        certificate = next(
            c for me in "ab" for p in (BOTH, CRL_ONLY, OCSP_ONLY, NOWHERE)
            if (c := issued(me, p).certificate).serial_number == request.serial_number
        )  # fmt: skip
        status = made.REVOKED if certificate in [r.certificate for r in revoked] else made.GOOD
        sent = next(e.value.nonce for e in request.extensions)  # type: ignore[attr-defined]
        return made.octets(made.response_of(certificate, root(), status, nonce=sent if nonce is None else nonce))

    return answer


def pair(a: ConnectionConfig, b: ConnectionConfig, **web: Callable[[Source], bytes | str]) -> Pair:
    made_pair = Pair(a, b)
    made_pair.web = {{"crl": CRL_URI, "ocsp": OCSP_URI}.get(name, name): answer for name, answer in web.items()}
    return made_pair


def refused(made_pair: Pair, who: str) -> str:
    made_pair.a.initiate()
    run_quiet(made_pair)
    assert not made_pair.a.established
    assert not made_pair.b.established
    event = "request-refused" if who == "b" else "auth-failed"
    return next(n.message for n in made_pair.gateways[who].log if n.event == event)


def states(made_pair: Pair, who: str) -> list[tuple[str, str]]:
    (sa,) = made_pair.gateways[who].established
    return [(finding.state.value, finding.text) for finding in sa.credentials.findings]


# -- again, after a rekey ----------------------------------------------------------------------------------------------


def rechecking(policy: RevocationPolicy) -> Pair:
    """b looks at a's certificate again; both ends are up."""
    end = gateway("b", OCSP_ONLY, policy)
    end = replace(end, remote=replace(end.remote, recheck_revocation=True))
    return pair(gateway("a", OCSP_ONLY), end, ocsp=responder()).up()


@pytest.mark.parametrize("who", ["a", "b"])
@pytest.mark.parametrize("fetching", [0.0, 2.0])
def test_what_was_revoked_since_ends_with_the_rekey(who: str, fetching: float) -> None:
    """Whoever rekeys; the end that asks deletes the new IKE SA, and nothing of it comes back by itself."""
    p = rechecking(STRICT)
    p.fetching = fetching
    p.run(2 * 3600.0)
    p.web[OCSP_URI] = responder(issued("a", OCSP_ONLY))
    asked = len(p.fetched)
    p.gateways[who].rekey(None)
    p.run(1.0)
    assert p.b.established, "not before both ends have done with the old IKE SA"
    mark = p.mark()
    run_quiet(p)
    assert len(p.fetched) == asked + 1
    assert p.exchange(mark)[-2:] == ["<-- b INFORMATIONAL {D}", "a --> INFORMATIONAL {}"]
    assert not p.a.ike_sas
    assert not p.b.ike_sas
    (text,) = [n.message for n in p.b.log if n.event == "revoked"]
    assert 'the IKE SA ends: the certificate of "CN=a.test", serial number ' in text
    p.check_forgotten()


def test_what_is_good_still_or_not_known_at_the_moment_stays() -> None:
    p = rechecking(STRICT)
    over = timedelta(hours=2)  # then what the responder said before counts no longer
    for answer, passed, state in ((responder(), timedelta(), "good"), (lambda _: "nobody answers", over, "unknown")):
        p.run(2 * 3600.0)
        p.wall_clock += passed
        p.web[OCSP_URI] = answer
        p.b.rekey(None)
        p.run(60.0)
        assert states(p, "b")[0][0] == state
        p.check_converged(children=1)
    assert [n.event for n in p.b.log if n.event.startswith("revo")] == ["revocation-unknown"]


def test_without_the_option_nobody_is_asked_again() -> None:
    p = pair(gateway("a", OCSP_ONLY), gateway("b", OCSP_ONLY, STRICT), ocsp=responder()).up()
    p.run(2 * 3600.0)
    asked = len(p.fetched)
    p.a.rekey(None)
    run_quiet(p)
    assert len(p.fetched) == asked
    assert not p.b.established[0].credentials.path


# -- fetched -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fetching", [0.0, 2.0])
def test_both_ends_ask_the_responder(fetching: float) -> None:
    """OCSP before the CRL; each IKE SA waits for its own answer, nothing else does."""
    p = pair(gateway("a", BOTH, STRICT), gateway("b", BOTH, STRICT), ocsp=responder(), crl=crl())
    p.fetching = fetching
    p.a.initiate()
    p.run(8.0)
    assert p.fetched == [OCSP_URI, OCSP_URI]
    for who, peer in (("a", "b"), ("b", "a")):
        ((state, text),) = states(p, who)
        assert state == "good"
        assert text.startswith(f'"CN={peer}.test" is not revoked, says the OCSP response by "CN=Root" of ')
    run_quiet(p)
    p.check_converged(children=1)


def test_a_revoked_peer_is_refused_by_either_end() -> None:
    for bad, good in (("a", "b"), ("b", "a")):
        for pointers, web in (
            (OCSP_ONLY, {"ocsp": responder(issued(bad, OCSP_ONLY))}),
            (CRL_ONLY, {"crl": crl(issued(bad, CRL_ONLY))}),
        ):
            text = refused(pair(gateway("a", pointers), gateway("b", pointers), **web), good)
            assert f'the certificate of "CN={bad}.test", serial number ' in text
            assert "is revoked since " in text
            assert "says the OCSP response by" in text or 'says the CRL of "CN=Root" of ' in text


def test_the_crl_where_the_responder_fails() -> None:
    p = pair(gateway("a", BOTH, STRICT), gateway("b", BOTH, STRICT), crl=crl()).up()
    assert p.fetched == [OCSP_URI, CRL_URI, OCSP_URI, CRL_URI]
    assert 'says the CRL of "CN=Root"' in states(p, "a")[0][1]


def test_nobody_knows() -> None:
    """strict and ifuri refuse and say why; relaxed goes on, and says so."""
    for policy in (STRICT, IFURI):
        text = refused(pair(gateway("a", BOTH), gateway("b", BOTH, policy)), "b")
        assert 'whether "CN=a.test" is revoked is not known: ' in text
        assert f"{OCSP_URI}: nobody answers; {CRL_URI}: nobody answers (revocation = {policy.value})" in text
    p = pair(gateway("a", BOTH), gateway("b", BOTH)).up()
    assert any("relaxed goes on" in n.message for n in p.b.log if n.event == "revocation-unknown")
    assert states(p, "b")[0][0] == "unknown"


def test_no_uri() -> None:
    text = refused(pair(gateway("a"), gateway("b", policy=STRICT)), "b")
    assert "no CRL and no OCSP response is at hand (revocation = strict)" in text
    for policy in (IFURI, RELAXED):
        p = pair(gateway("a"), gateway("b", policy=policy)).up()
        assert not any(n.event == "revocation-unknown" for n in p.b.log)
        assert not p.fetched


def test_uris_and_files_of_the_operator() -> None:
    authorities = (AuthorityConfig(root().certificate, ("file:///etc/root.crl",), (OCSP_URI,)),)
    p = pair(gateway("a"), gateway("b", policy=STRICT, authorities=authorities), ocsp=responder()).up()
    assert p.fetched == [OCSP_URI]
    p = pair(gateway("a"), gateway("b", policy=STRICT, authorities=authorities))
    p.web["file:///etc/root.crl"] = crl()
    p.up()
    assert p.fetched == [OCSP_URI, "file:///etc/root.crl"]


def test_what_was_fetched_is_kept_an_hour() -> None:
    """And then it is asked for again, though it would count for a month; and counts where nobody answers then."""
    p = pair(gateway("a", CRL_ONLY), gateway("b", policy=STRICT), crl=crl()).up()
    for minutes, times in ((30, 1), (70, 2)):
        p.a.terminate()
        p.run(minutes * 60)
        p.up()
        assert p.fetched == [CRL_URI] * times
    p.web.clear()
    p.a.terminate()
    p.run(7200)
    p.up()
    assert p.fetched == [CRL_URI] * 3
    p.wall_clock += timedelta(days=40)
    p.a.terminate()
    p.run(7200)
    assert "ended on" in refused(p, "b")


def test_who_does_not_answer_is_not_asked_by_every_ike_sa() -> None:
    p = pair(gateway("a", CRL_ONLY), gateway("b")).up()
    for _ in range(3):
        p.a.terminate()
        p.run(1.0)
        p.up()
    assert p.fetched == [CRL_URI]
    p.a.terminate()
    p.run(60.0)
    p.up()
    assert p.fetched == [CRL_URI] * 2


def test_a_responder_that_is_down_is_not_asked_about_every_certificate() -> None:
    """Each certificate of a path has its own answer; that there is none holds for all of them, for a while."""
    middle = make_authority("Middle", KeyType.ECDSA256, issuer=root(), pointers=OCSP_ONLY)
    leaf = make_certificate(["a.test"], KeyType.ECDSA256, middle, pointers=OCSP_ONLY)
    one = gateway("a")
    one = replace(one, local=replace(one.local, certificates=(leaf.certificate, middle.certificate), key=leaf.key))
    p = pair(one, gateway("b")).up()
    assert p.fetched == [OCSP_URI] * 2  # at once, before anybody knew
    other = make_certificate(["a.test"], KeyType.ECDSA256, root(), pointers=OCSP_ONLY)
    p.a.endpoint.connections["ab"].config = replace(
        one, local=replace(one.local, certificates=(other.certificate,), key=other.key)
    )
    p.a.terminate()
    p.run(1.0)
    p.up()
    assert p.fetched == [OCSP_URI] * 2
    assert f"{OCSP_URI}: nobody answers" in states(p, "b")[0][1]
    p.a.terminate()
    p.run(60.0)
    p.up()
    assert p.fetched == [OCSP_URI] * 3


@pytest.mark.parametrize("data", [b"", b"<html>", b"\x30\x03abc", b"-----BEGIN X509 CRL-----"])
def test_what_comes_is_something_else(data: bytes) -> None:
    text = refused(pair(gateway("a", BOTH), gateway("b", policy=STRICT), crl=lambda _: data, ocsp=lambda _: data), "b")
    assert f"{OCSP_URI} yields something that is no OCSP response; {CRL_URI} yields something that is no CRL" in text


def test_an_old_answer_is_not_taken_for_a_new_one() -> None:
    text = refused(pair(gateway("a", OCSP_ONLY), gateway("b", policy=STRICT), ocsp=responder(nonce=b"x" * 32)), "b")
    assert "its nonce is not ours" in text
    pair(gateway("a", OCSP_ONLY), gateway("b", policy=STRICT), ocsp=responder(nonce=b"")).up()


def test_nobody_is_asked_for_a_peer_that_is_not_who_it_says() -> None:
    """A stranger with somebody's certificate, and another key, must not send us anywhere."""
    one = gateway("a", BOTH)
    thief = replace(one, local=replace(one.local, key=issued("b", BOTH).key))
    text = refused(pair(thief, gateway("b", policy=STRICT), ocsp=responder(), crl=crl()), "b")
    assert "the signature is not by" in text


def test_every_certificate_of_the_path_is_looked_at() -> None:
    middle = make_authority("Middle", KeyType.ECDSA256, issuer=root(), pointers=CRL_ONLY)
    leaf = make_certificate(["a.test"], KeyType.ECDSA256, middle, pointers=Pointers(("http://middle.test/",)))
    one = gateway("a")
    one = replace(one, local=replace(one.local, certificates=(leaf.certificate, middle.certificate), key=leaf.key))
    for revoked, good in (((), True), ((middle,), False)):
        p = pair(one, gateway("b", policy=STRICT), crl=crl(*revoked))
        p.web["http://middle.test/"] = lambda _: made.octets(made.crl_of(middle))
        if good:
            p.up()
            assert [state for state, _ in states(p, "b")] == ["good", "good"]
        else:
            assert 'the certificate of "CN=Middle"' in refused(p, "b")
        assert p.fetched == ["http://middle.test/", CRL_URI]


def test_a_slow_responder_holds_up_its_own_ike_sa_only() -> None:
    """The initiator repeats its request meanwhile; it is answered once."""
    p = pair(gateway("a", OCSP_ONLY), gateway("b", policy=STRICT), ocsp=responder())
    p.fetching = 20.0
    p.a.initiate()
    run_quiet(p)
    p.check_converged(children=1)
    assert p.fetched == [OCSP_URI]


def test_an_ike_sa_that_ends_while_it_waits() -> None:
    p = pair(gateway("a", OCSP_ONLY), gateway("b", policy=STRICT), ocsp=responder())
    p.fetching = 3.0
    p.a.initiate()
    p.run(0.1)
    for who in (p.a, p.b):
        for sa in who.ike_sas:
            sa.fail(p.now, "the operator has thought better of it")
    run_quiet(p)
    assert not p.b.established


# -- inside IKE (RFC 4806) ---------------------------------------------------------------------------------------------


def responses(p: Pair, who: str) -> int:
    lines = [line for line in p.transcript if not isinstance(line, str) and line.sender == who and line.message]
    payloads = [c for line in lines for c in line.message.all(CertPayload)]  # type: ignore[union-attr]
    return sum(c.encoding == CertEncoding.OCSP_CONTENT for c in payloads)


def asks(p: Pair, who: str) -> bool:
    lines = [line for line in p.transcript if not isinstance(line, str) and line.sender == who and line.message]
    found = [c for line in lines for c in line.message.all(CertreqPayload)]  # type: ignore[union-attr]
    assert all(c.data == b"" for c in found if c.encoding == CertEncoding.OCSP_CONTENT)
    return any(c.encoding == CertEncoding.OCSP_CONTENT for c in found)


def test_each_end_brings_what_the_other_asks_for() -> None:
    """The exchange of s4: nobody asks a responder but the one whose certificate it is."""
    whole = Fragmentation.NO
    one, two = (gateway(me, OCSP_ONLY, STRICT, ocsp=OcspUse.BOTH, fragmentation=whole) for me in "ab")
    p = pair(one, two, ocsp=responder()).up()
    asked = "CERTREQ, CERTREQ, N(SUPPORTED_AUTH_METHODS)"
    assert p.exchange()[1].endswith(f"{asked}}}")
    assert p.exchange()[2:] == [
        f"a --> IKE_AUTH {{IDi, CERT, CERT, N(INITIAL_CONTACT), {asked}, IDr, AUTH, SA, TSi, TSr}}",
        "<-- b IKE_AUTH {IDr, CERT, CERT, AUTH, SA, TSi, TSr}",
    ]
    assert p.fetched == [OCSP_URI] * 2
    assert [states(p, who)[0][0] for who in "ab"] == ["good", "good"]


@pytest.mark.parametrize(
    ("use_a", "use_b", "a_asks", "b_brings"),
    [("request", "reply", True, True), ("request", "never", True, False), ("reply", "reply", False, False),
     ("never", "both", False, False), ("both", "request", True, False)],
)  # fmt: skip
def test_who_asks_and_who_answers(use_a: str, use_b: str, a_asks: bool, b_brings: bool) -> None:
    p = pair(gateway("a", ocsp=OcspUse(use_a)), gateway("b", OCSP_ONLY, ocsp=OcspUse(use_b)), ocsp=responder()).up()
    assert asks(p, "a") is a_asks
    assert bool(responses(p, "b")) is b_brings


def test_a_response_from_a_file() -> None:
    """Made beforehand, by whatever the operator likes; its nonce, if it has one, is nobody's."""
    two = gateway("b", ocsp=OcspUse.REPLY)
    two = replace(two, local=replace(two.local, ocsp_responses=("file:///var/b.ocsp",)), authorities=(
        AuthorityConfig(root().certificate),
    ))  # fmt: skip
    p = pair(gateway("a", policy=STRICT, ocsp=OcspUse.REQUEST), two)
    response = made.response_of(issued("b", NOWHERE).certificate, root(), nonce=b"old")
    assert nonce_of(response) == b"old"
    p.web["file:///var/b.ocsp"] = lambda _: made.octets(response)
    p.up()
    assert responses(p, "b") == 1
    assert states(p, "a")[0][0] == "good"


def test_a_peer_that_brings_nothing_is_asked_about_elsewhere() -> None:
    p = pair(
        gateway("a", policy=STRICT, ocsp=OcspUse.REQUEST), gateway("b", OCSP_ONLY, ocsp=OcspUse.NEVER),
        ocsp=responder(),
    ).up()  # fmt: skip
    assert p.fetched == [OCSP_URI]


def test_a_revoked_gateway_brings_nothing_good() -> None:
    p = pair(
        gateway("a", ocsp=OcspUse.REQUEST), gateway("b", OCSP_ONLY, ocsp=OcspUse.REPLY),
        ocsp=responder(issued("b", OCSP_ONLY)),
    )  # fmt: skip
    assert 'the certificate of "CN=b.test"' in refused(p, "a")
    assert any(n.event == "no-ocsp-response" and "is revoked since" in n.message for n in p.b.log)
