"""IKE_AUTH by certificates and signatures, between two gateways (RFC 7296 s2.15, RFC 7427)."""

from __future__ import annotations

import functools
from dataclasses import replace
from datetime import timedelta

import pytest
from simulation import ADDRESS, Pair, connection, run_quiet

from ipsecfast.configured import AuthConfig, AuthKind, ConnectionConfig, Credential, Fragmentation
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import AuthMethod, CertEncoding, ExchangeType, NotifyType
from ipsecfast.ike.credential import announced, raw_keys
from ipsecfast.ike.crypto import signature
from ipsecfast.ike.exchange import ike_sa_init
from ipsecfast.ike.lasting import Lasting
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import AuthPayload, CertPayload, CertreqPayload
from ipsecfast.pki import Issued, KeyType, make_authority, make_certificate

ID = {"a": Identity(2, b"a.test"), "b": Identity(2, b"b.test")}


@functools.cache
def root(kind: KeyType = KeyType.ECDSA256, name: str = "Root") -> Issued:
    return make_authority(name, kind)


@functools.cache
def issued(me: str, kind: KeyType = KeyType.ECDSA256, issuer: str = "Root") -> Issued:
    return make_certificate([f"{me}.test", str(ADDRESS[me])], kind, root(kind, issuer))


def local(me: str, kind: KeyType = KeyType.ECDSA256, issuer: str = "Root") -> AuthConfig:
    mine = issued(me, kind, issuer)
    return AuthConfig(ID[me], AuthKind.PUBKEY, certificates=(mine.certificate,), key=mine.key)


def remote(peer: str, kind: KeyType = KeyType.ECDSA256, issuer: str = "Root") -> AuthConfig:
    return AuthConfig(ID[peer], AuthKind.PUBKEY, authorities=(root(kind, issuer).certificate,))


def by_certificate(me: str, kind: KeyType = KeyType.ECDSA256, **options: object) -> ConnectionConfig:
    peer = "b" if me == "a" else "a"
    return connection(me, **{"local": local(me, kind), "remote": remote(peer, kind), "secrets": (), **options})


def refused(made: Pair, who: str, event: str = "request-refused") -> str:
    """The sentence in the log of `who`, after an attempt that came to nothing."""
    made.a.initiate()
    run_quiet(made)
    assert not made.a.established
    assert not made.b.established
    return next(n.message for n in made.gateways[who].log if n.event == event)


def test_the_exchanges() -> None:
    made = Pair(by_certificate("a"), by_certificate("b")).up()
    notifies = (
        "N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), N(IKEV2_FRAGMENTATION_SUPPORTED), "
        "N(SIGNATURE_HASH_ALGORITHMS)"
    )
    more = "N(CHILDLESS_IKEV2_SUPPORTED), CERTREQ, N(SUPPORTED_AUTH_METHODS)"
    assert made.exchange() == [
        f"a --> IKE_SA_INIT {{SA, KE, Ni, {notifies}}}",
        f"<-- b IKE_SA_INIT {{SA, KE, Nr, {notifies}, {more}}}",
        "a --> IKE_AUTH {IDi, CERT, N(INITIAL_CONTACT), CERTREQ, N(SUPPORTED_AUTH_METHODS), IDr, AUTH, SA, TSi, TSr}",
        "<-- b IKE_AUTH {IDr, CERT, AUTH, SA, TSi, TSr}",
    ]
    made.check_converged(children=1)


@pytest.mark.parametrize("kind", [KeyType.RSA2048, KeyType.ECDSA521, KeyType.ED25519, KeyType.ED448, KeyType.ML_DSA_65])
def test_every_kind_of_key(kind: KeyType) -> None:
    made = Pair(by_certificate("a", kind), by_certificate("b", kind)).up()
    made.a.rekey(None)
    run_quiet(made)
    made.check_converged(children=1)


def test_long_messages_are_cut() -> None:
    """Two ML-DSA certificates and a signature are more than any path takes in one datagram (RFC 7383)."""
    kind = KeyType.ML_DSA_65
    made = Pair(by_certificate("a", kind), by_certificate("b", kind)).up()
    assert sum("a --> IKE_AUTH {SKF " in line for line in made.exchange()) >= 8


def test_one_side_by_secret_the_other_by_certificate() -> None:
    """Each side proves itself in its own way (s2.15)."""
    secret = connection("a").secrets
    made = Pair(
        by_certificate("a", remote=AuthConfig(ID["b"]), secrets=secret),
        by_certificate("b", local=AuthConfig(ID["b"]), secrets=secret),
    ).up()
    made.check_converged(children=1)


def test_the_certificate_itself_is_trusted() -> None:
    pinned = {me: AuthConfig(ID[me], AuthKind.PUBKEY, certificates=local(me).certificates) for me in "ab"}
    Pair(by_certificate("a", remote=pinned["b"]), by_certificate("b", remote=pinned["a"])).up()
    wrong = replace(pinned["a"], certificates=local("b").certificates)
    assert "no authority is configured" in refused(Pair(by_certificate("a"), by_certificate("b", remote=wrong)), "b")


def test_another_authority() -> None:
    text = refused(Pair(by_certificate("a", local=local("a", issuer="Other")), by_certificate("b")), "b")
    assert 'no path from the certificate of "CN=a.test" (issued by CN=Other)' in text
    assert '"CN=Root"' in text


def test_somebody_elses_certificate() -> None:
    """A valid certificate of another customer of the same authority, and its key: the identity decides."""
    thief = AuthConfig(ID["a"], AuthKind.PUBKEY, certificates=(issued("b").certificate,), key=issued("b").key)
    text = refused(Pair(by_certificate("a", local=thief), by_certificate("b")), "b")
    assert 'the peer says it is a.test, but its certificate is for b.test, 192.0.2.2, "CN=b.test"' in text


def test_a_certificate_without_its_key() -> None:
    thief = AuthConfig(ID["a"], AuthKind.PUBKEY, certificates=(issued("a").certificate,), key=issued("b").key)
    assert "the signature is not by this ECDSA key" in refused(
        Pair(by_certificate("a", local=thief), by_certificate("b")), "b"
    )


def test_the_initiator_looks_as_closely() -> None:
    made = Pair(by_certificate("a"), by_certificate("b", local=local("b", issuer="Other")))
    assert "no path from the certificate of" in refused(made, "a", "auth-failed")


def test_expired() -> None:
    made = Pair(by_certificate("a"), by_certificate("b"))
    made.wall_clock += timedelta(days=5000)
    assert "expired on" in refused(made, "b")


def test_a_secret_where_a_certificate_is_asked_for() -> None:
    secret = connection("a").secrets
    made = Pair(by_certificate("a", local=AuthConfig(ID["a"]), secrets=secret), by_certificate("b"))
    assert "proves itself by a shared secret, not by a certificate" in refused(made, "b")


def test_a_certificate_where_a_secret_is_asked_for() -> None:
    made = Pair(by_certificate("a"), connection("b"))
    assert "proves itself by a signature, not by a shared secret" in refused(made, "b")


def test_no_certificate_is_sent_and_none_is_known() -> None:
    silent = replace(local("a"), certificates=())
    assert "sent no certificate" in refused(Pair(by_certificate("a", local=silent), by_certificate("b")), "b")


def test_without_announced_hashes_the_older_signatures_serve(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 4754: the method says curve and hash."""
    monkeypatch.setattr(ike_sa_init, "hash_offer", lambda sa: ())
    methods = []
    monkeypatch.setattr(signature, "verify", lambda key, method, *rest: methods.append(method))
    Pair(by_certificate("a"), by_certificate("b")).up()
    assert methods == [AuthMethod.ECDSA_SHA256_P256] * 2


def test_announced_hashes() -> None:
    """RFC 7427 s4: SHA-2 and "Identity", never SHA-1."""
    made = Pair(by_certificate("a"), by_certificate("b")).up()
    for line in made.transcript[1:3]:
        assert line.message.notify(NotifyType.SIGNATURE_HASH_ALGORITHMS).data.hex() == "0002000300040005"


def test_a_session_is_resumed_until_the_certificate_expires() -> None:
    """RFC 5723 s6.2: without certificates and signatures, and never longer than they would be good for."""
    short = make_certificate(["a.test", str(ADDRESS["a"])], KeyType.ECDSA256, root(KeyType.ECDSA256, "Root"), days=1)
    mine = replace(local("a"), certificates=(short.certificate,), key=short.key)
    made = Pair(by_certificate("a", local=mine, resumption=True), by_certificate("b", resumption=True), seed=3)
    for gateway in (made.a, made.b):
        gateway.endpoint.context.lasting = Lasting(crash_secret=b"s" * 32)
    made.up()

    def come_back() -> list[str]:
        made.b.restart()
        made.a.dataplane.send(made.a.the_child().reqid)
        mark = made.mark()
        made.run(8.0)
        return made.exchange(mark)[3:]

    resumed = come_back()
    assert resumed[0].startswith("a --> IKE_SESSION_RESUME")
    assert not any("CERT" in line for line in resumed)
    made.check_converged(children=1)
    made.wall_clock = short.certificate.not_valid_after_utc - timedelta(hours=1)
    made.a.rekey(None)  # for a ticket of this hour
    made.run(8.0)
    assert made.a.endpoint.connections["ab"].ticket is not None
    made.wall_clock += timedelta(hours=2)
    assert come_back()[0].startswith("a --> IKE_SA_INIT")
    run_quiet(made)
    assert not made.b.established


# -- raw public keys (RFC 7670) ----------------------------------------------------------------------------------------


def messages(made: Pair) -> list[Message]:
    return [line.message for line in made.transcript if not isinstance(line, str) and line.message is not None]


def raw(me: str, kind: KeyType = KeyType.ECDSA256) -> AuthConfig:
    key = issued(me, kind).key
    return AuthConfig(ID[me], AuthKind.PUBKEY, pubkeys=(key.public_key(),), key=key)


def knows(peer: str, *kinds: KeyType) -> AuthConfig:
    keys = tuple(issued(peer, kind).key.public_key() for kind in kinds or (KeyType.ECDSA256,))
    return AuthConfig(ID[peer], AuthKind.PUBKEY, pubkeys=keys)


@pytest.mark.parametrize("kind", [KeyType.ECDSA256, KeyType.RSA2048, KeyType.ED25519, KeyType.ML_DSA_65])
def test_raw_public_keys(kind: KeyType) -> None:
    one = by_certificate("a", local=raw("a", kind), remote=knows("b", kind))
    made = Pair(one, by_certificate("b", local=raw("b", kind), remote=knows("a", kind))).up()
    made.check_converged(children=1)


def test_the_exchanges_with_raw_keys() -> None:
    """One CERT and one CERTREQ, both of encoding 15; the latter is empty."""
    one = by_certificate("a", local=raw("a"), remote=knows("b"))
    made = Pair(one, by_certificate("b", local=raw("b"), remote=knows("a"))).up()
    assert (
        "a --> IKE_AUTH {IDi, CERT, N(INITIAL_CONTACT), CERTREQ, N(SUPPORTED_AUTH_METHODS), IDr, AUTH, SA, TSi, TSr}"
        in made.exchange()
    )
    first_auth = next(m for m in messages(made) if m.exchange == ExchangeType.IKE_AUTH)
    (request,), (sent,) = first_auth.all(CertreqPayload), first_auth.all(CertPayload)
    assert (request.encoding, request.data) == (CertEncoding.RAW_PUBLIC_KEY, b"")
    assert (sent.encoding, sent.data) == (CertEncoding.RAW_PUBLIC_KEY, raw_keys.encoded(one.local.pubkeys[0]))


def test_one_side_by_raw_key_the_other_by_certificate() -> None:
    made = Pair(by_certificate("a", local=raw("a")), by_certificate("b", remote=knows("a"))).up()
    made.check_converged(children=1)


def test_a_peer_that_does_not_send_its_raw_key() -> None:
    """It is one of those configured; which one the signature tells."""
    one = by_certificate("a", local=replace(raw("a"), pubkeys=()))
    Pair(one, by_certificate("b", remote=knows("a", KeyType.ED25519, KeyType.ECDSA256))).up()
    text = refused(Pair(one, by_certificate("b", remote=replace(knows("b"), identity=ID["a"]))), "b")
    assert "a.test: the signature is not by this ECDSA key on secp256r1" in text


def test_another_raw_key() -> None:
    made = Pair(by_certificate("a", local=raw("a")), by_certificate("b", remote=replace(knows("b"), identity=ID["a"])))
    text = refused(made, "b")
    assert "a.test proves itself by the raw public key ECDSA key on secp256r1 " in text
    assert "; remote.pubkeys: ECDSA key on secp256r1 " in text
    text = refused(Pair(by_certificate("a", local=raw("a")), by_certificate("b")), "b")
    assert "remote.pubkeys: none is configured" in text


# -- announced methods (RFC 9593) --------------------------------------------------------------------------------------


def several(me: str, *kinds: KeyType) -> AuthConfig:
    """A credential of each kind, the first one preferred, all by one authority."""
    first, *others = (issued(me, kind, "Root") for kind in kinds)
    more = tuple(Credential(one.key, (one.certificate,)) for one in others)
    return AuthConfig(ID[me], AuthKind.PUBKEY, certificates=(first.certificate,), key=first.key, others=more)


def signed_by(made: Pair, who: str) -> str:
    """The name of the signature that `who` made."""
    peer = made.gateways["b" if who == "a" else "a"]
    (auth,) = (p for m in messages(made) if m.exchange == ExchangeType.IKE_AUTH and m.response is (who == "b")
               for p in m.all(AuthPayload))  # fmt: skip
    assert peer.established
    length = auth.data[0]
    return next(s.name for s in signature.SCHEMES if auth.data[1 : 1 + length] in s.identifiers)


@pytest.mark.parametrize("who", ["a", "b"])
def test_who_has_several_credentials_takes_what_the_other_announces(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both roles: the responder announces in IKE_SA_INIT, the initiator in IKE_AUTH."""
    kinds = (KeyType.ECDSA256, KeyType.ED25519, KeyType.ECDSA384)
    authorities = tuple(root(kind, "Root").certificate for kind in kinds)
    ends = {
        me: by_certificate(
            me, local=several(me, *kinds) if me == who else local(me),
            remote=replace(remote("b" if me == "a" else "a"), authorities=authorities),
            fragmentation=Fragmentation.NO,
        )
        for me in "ab"
    }  # fmt: skip
    made = Pair(ends["a"], ends["b"]).up()
    assert signed_by(made, who) == "ECDSA with SHA2_256"
    only = tuple(s for s in signature.SCHEMES if s.name in ("Ed25519",))
    monkeypatch.setattr(announced, "SCHEMES", only)
    monkeypatch.setattr(announced, "OLDER_METHODS", ())
    made = Pair(ends["a"], ends["b"]).up()
    assert signed_by(made, who) == "Ed25519"


def test_an_initiator_announces_only_to_who_announces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ike_sa_init, "announcements", lambda sa, configs: ())
    made = Pair(by_certificate("a"), by_certificate("b")).up()
    assert not any("SUPPORTED_AUTH_METHODS" in line for line in made.exchange())
