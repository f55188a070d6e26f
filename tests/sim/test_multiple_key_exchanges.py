"""Additional key exchanges: IKE_INTERMEDIATE before IKE_AUTH (RFC 9242, RFC 9370 s2.2.2); peers that have none."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from simulation import Link, Pair, connection, run_quiet

from ipsecfast.config.connections import DEFAULT_IKE_PROPOSALS
from ipsecfast.configured import Fragmentation
from ipsecfast.ike.actions import Transmit
from ipsecfast.ike.constants import ExchangeType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.crypto.keymat import IkeKeys
from ipsecfast.ike.exchange import ike_sa_init, key_exchange
from ipsecfast.ike.exchange.ike_intermediate import IkeIntermediate
from ipsecfast.ike.snapshot import ike_sa_status
from ipsecfast.ike.timers import Backoff
from ipsecfast.ike.wire.message import Message

HYBRID = "aes256gcm16-prfsha384-x25519-ke1_mlkem768"
CLASSIC = "aes256gcm16-prfsha384-x25519"


def both(*ike: str, **options: object) -> Pair:
    return Pair(connection("a", ike=ike, **options), connection("b", ike=ike, **options))


def resistant(pair: Pair) -> list[bool]:
    return [ike_sa_status(g.established[0], pair.now).quantum_resistant for g in (pair.a, pair.b)]


def test_one_additional_key_exchange() -> None:
    """RFC 9370, appendix A.1."""
    pair = both(HYBRID, fragmentation=Fragmentation.NO).up()
    nat = "N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP)"
    assert pair.exchange() == [
        f"a --> IKE_SA_INIT {{SA, KE, Ni, {nat}, N(INTERMEDIATE_EXCHANGE_SUPPORTED)}}",
        f"<-- b IKE_SA_INIT {{SA, KE, Nr, {nat}, N(INTERMEDIATE_EXCHANGE_SUPPORTED), N(CHILDLESS_IKEV2_SUPPORTED)}}",
        "a --> IKE_INTERMEDIATE {KE}",
        "<-- b IKE_INTERMEDIATE {KE}",
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}",
        "<-- b IKE_AUTH {IDr, AUTH, SA, TSi, TSr}",
    ]
    assert resistant(pair) == [True, True]
    assert pair.a.established[0].proposal_words == HYBRID
    pair.check_converged(children=1)


def test_the_keys_change_with_every_key_exchange() -> None:
    pair = both("aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_mlkem1024-ke5_x448").up()
    assert sum("IKE_INTERMEDIATE" in line and "a -->" in line for line in pair.exchange()) > 3, "in fragments"
    for gateway in (pair.a, pair.b):
        (had,) = gateway.keys.values()
        assert len({keys.sk_ei for keys in had} | {keys.sk_d for keys in had}) == 8
    assert pair.a.keys[pair.a.established[0].own_spi] == pair.b.keys[pair.b.established[0].own_spi]
    pair.check_converged(children=1)


def clear(datagrams: list[bytes], keys: IkeKeys) -> tuple[bytes, bytes]:
    """A | P of one message from its datagrams (RFC 9242 s3.3.2), written from the RFC and with the cipher alone."""
    first, payloads = datagrams[0], b""
    of_initiator = bool(first[19] & 8)
    key = keys.sk_ei if of_initiator else keys.sk_er
    body = 28 + 4 + (4 if first[16] == 53 else 0)
    for datagram in datagrams:
        nonce, sealed = key[-4:] + datagram[body : body + 8], datagram[body + 8 :]
        padded = AESGCM(key[:-4]).decrypt(nonce, sealed, datagram[:body])
        payloads += padded[: -1 - padded[-1]]
    length = 32 + len(payloads)
    header = first[:16] + b"\x2e" + first[17:24] + length.to_bytes(4, "big")
    return header + first[28:30] + (length - 28).to_bytes(2, "big"), payloads


@pytest.mark.parametrize("fragmentation", [Fragmentation.NO, Fragmentation.YES])
def test_auth_covers_the_messages_as_if_they_were_whole(fragmentation: Fragmentation) -> None:
    """RFC 9242 s3.3, from what was on the wire."""
    words = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_mlkem1024"
    pair = both(words, fragmentation=fragmentation).up()
    macs = {"a": b"", "b": b""}
    for gateway in (pair.a, pair.b):
        sent = [action.data for action in gateway.performed if isinstance(action, Transmit)]
        had = gateway.keys[gateway.established[0].own_spi]
        for message_id in (1, 2):
            datagrams = [d for d in sent if d[18] == 43 and d[23] == message_id]
            assert (len(datagrams) > 1) == (fragmentation is Fragmentation.YES and len(b"".join(datagrams)) > 1280)
            key = had[message_id - 1].sk_pi if gateway is pair.a else had[message_id - 1].sk_pr
            octets = b"".join(clear(datagrams, had[message_id - 1]))
            macs[gateway.name] = hmac.digest(key, macs[gateway.name] + octets, "sha384")
    for gateway in (pair.a, pair.b):
        assert gateway.established[0].intauth.octets() == macs["a"] + macs["b"] + b"\0\0\0\3"


@pytest.mark.parametrize("words", ["x25519-ke1_none", "x25519-ke3_x448", "mlkem768", "ecp256-ke1_x25519-ke7_mlkem1024"])
def test_other_choices(words: str) -> None:
    pair = both(f"aes128gcm16-prfsha256-{words}").up()
    assert resistant(pair) == ["mlkem" in words] * 2
    rounds = sum(line.startswith("a --> IKE_INTERMEDIATE") for line in pair.exchange())
    assert bool(rounds) == ("ke" in words.replace("mlkem768", "").replace("ke1_none", ""))
    pair.check_converged(children=1)


def test_between_two_of_us_by_default() -> None:
    pair = both(*DEFAULT_IKE_PROPOSALS).up()
    assert pair.a.established[0].proposal_words == HYBRID
    assert resistant(pair) == [True, True]


# -- fallback --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("without", ["a", "b"])
def test_a_peer_without_additional_key_exchanges(without: str) -> None:
    """Its proposals decide: the classic one that both have."""
    words = {x: (CLASSIC,) if x == without else (HYBRID, CLASSIC) for x in "ab"}
    pair = Pair(connection("a", ike=words["a"]), connection("b", ike=words["b"])).up()
    assert resistant(pair) == [False, False]
    pair.check_converged(children=1)


def test_a_responder_chooses_none_where_it_is_offered() -> None:
    pair = Pair(connection("a", ike=(HYBRID + "-ke1_none",)), connection("b", ike=(CLASSIC,))).up()
    assert pair.a.established[0].proposal_words == CLASSIC + "-ke1_none"
    assert resistant(pair) == [False, False]


def test_a_responder_announces_intermediate_exchanges_only_where_one_follows() -> None:
    """Libreswan would begin one about nothing, and then wants it in AUTH."""
    pair = Pair(connection("a", ike=(HYBRID, CLASSIC)), connection("b", ike=(CLASSIC,)))
    pair.up()
    request, response = pair.exchange()[:2]
    assert "N(INTERMEDIATE_EXCHANGE_SUPPORTED)" in request
    assert "N(INTERMEDIATE_EXCHANGE_SUPPORTED)" not in response
    pair.check_converged(children=1)


@pytest.mark.parametrize("ike", [(HYBRID, CLASSIC), (HYBRID + "-ke1_none",)])
def test_an_initiator_without_intermediate_exchanges(monkeypatch: pytest.MonkeyPatch, ike: tuple[str, ...]) -> None:
    """RFC 9370 s2.2.2: who does not announce IKE_INTERMEDIATE gets no additional key exchange, whatever it offers."""
    monkeypatch.setattr(ike_sa_init, "intermediate_offer", lambda: ())
    pair = both(*ike).up()
    assert "ke1_mlkem768" not in pair.a.established[0].proposal_words
    pair.check_converged(children=1)


def test_no_fallback_where_none_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ike_sa_init, "intermediate_offer", lambda: ())
    pair = both(HYBRID)
    pair.a.initiate()
    pair.run(1.0)
    assert pair.exchange()[1] == "<-- b IKE_SA_INIT {N(NO_PROPOSAL_CHOSEN)}"
    (line,) = [n.message for n in pair.b.log if n.event == "request-refused"]
    assert "IKE_INTERMEDIATE, which the peer does not have" in line


def test_a_responder_that_chooses_without_announcing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anyone may have sent that; the right response would be taken later."""
    pair = both(HYBRID)
    pair.a.initiate()
    monkeypatch.setattr(ike_sa_init, "intermediate_offer", lambda: ())
    pair.run(1.0)
    assert not pair.a.established
    assert "does not have IKE_INTERMEDIATE" in "".join(n.message for n in pair.a.log if n.event == "bad-response")


# -- what must not pass ------------------------------------------------------------------------------------------------


def test_ike_auth_before_the_key_exchange_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ike_sa_init, "first_after_init", lambda _, groups, auth: auth)
    pair = both(HYBRID)
    pair.a.initiate()
    run_quiet(pair, 1.0)
    assert pair.exchange()[3] == "<-- b IKE_AUTH {N(INVALID_SYNTAX)}"
    assert not pair.b.ike_sas


@pytest.mark.parametrize("length", [1, 1183, 1185])
def test_an_encapsulation_key_of_another_length(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    pair = both(HYBRID, fragmentation=Fragmentation.NO)

    class Wrong:
        group, public = 36, bytes(length)

    make_one = key_exchange.make_key_exchange
    monkeypatch.setattr(
        key_exchange, "make_key_exchange", lambda g, private: Wrong() if g == 36 else make_one(g, private)
    )
    pair.a.initiate()
    pair.run(1.0)
    assert pair.exchange()[3] == "<-- b IKE_INTERMEDIATE {N(INVALID_SYNTAX)}"
    assert not pair.b.ike_sas
    assert not pair.a.ike_sas


def test_a_damaged_ciphertext_ends_in_a_failed_ike_auth(monkeypatch: pytest.MonkeyPatch) -> None:
    """FIPS 203 s6.3: decapsulation does not fail; the two ends have different keys and can't understand each other."""
    answer = key_exchange.answer_key_exchange

    def damaged(group: int, private: bytes, peer_public: bytes) -> tuple[bytes, bytes]:
        public, secret = answer(group, private, peer_public)
        return (public[:-1] + bytes([public[-1] ^ 1]) if group == 36 else public), secret

    monkeypatch.setattr(key_exchange, "answer_key_exchange", damaged)
    pair = both(HYBRID)
    pair.a.initiate()
    pair.run(3.0)
    assert pair.b.endpoint.counters["integrity failures"] == 1
    assert not pair.a.established


def test_a_changed_message_before_ike_auth_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9242 s3.3: AUTH covers IKE_INTERMEDIATE; so it fails when the two ends saw different ones."""
    pair = both(HYBRID)
    pair.a.initiate()
    pair.run(0.05)
    pair.b.ike_sas[0].intauth.add(pair.b.ike_sas[0].prf, b"key", b"another message", response=True)
    pair.run(1.0)
    assert not pair.a.established
    assert "has another secret" in "".join(n.message for n in pair.b.log)


def test_an_exchange_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ike_sa_init, "first_after_init", lambda _, groups, auth: IkeIntermediate((*groups, 37), auth))
    pair = both(HYBRID, fragmentation=Fragmentation.NO)
    pair.a.initiate()
    pair.run(1.0)
    assert pair.exchange()[5] == "<-- b IKE_INTERMEDIATE {N(INVALID_SYNTAX)}"
    assert not pair.b.ike_sas
    assert "IKE_INTERMEDIATE failed" in "".join(n.message for n in pair.a.log if n.event == "ike-failed")


# -- a bad link --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_loss_and_fragments(seed: int) -> None:
    """Requests, responses and fragments get lost and doubled; a responder has changed its keys already when an old
    request comes once more, and answers it as before."""
    settings = Settings(retransmit=Backoff(timeout=2.0, base=1.3, tries=12), half_open_timeout=200.0)
    if seed % 2:
        settings = replace(settings, fragment_size={4: 400, 6: 420})
    ends = [connection(x, ike=("aes128gcm16-prfsha256-x25519-ke1_mlkem768-ke2_mlkem1024",)) for x in "ab"]
    pair = Pair(*ends, seed=seed, settings=settings, link=Link(loss=0.1, duplicate=0.2, jitter=0.1))
    pair.a.initiate()
    pair.run(100.0)
    pair.link = Link()
    run_quiet(pair)
    assert resistant(pair) == [True, True], pair.text()
    pair.check_converged(children=1)


@pytest.mark.parametrize("sender", ["a", "b"])
def test_one_loss(sender: str) -> None:
    lost: list[Message] = []

    def drop(by: str, message: Message | None) -> bool:
        first = by == sender and message is not None and message.exchange == ExchangeType.IKE_INTERMEDIATE
        if first and not lost:
            lost.append(message)
            return True
        return False

    pair = both(HYBRID, fragmentation=Fragmentation.NO)
    pair.link = Link(drop=drop)
    pair.a.initiate()
    pair.run(10.0)
    assert resistant(pair) == [True, True]
    pair.check_converged(children=1)


def test_the_successor_is_quantum_resistant_too() -> None:
    """SK_d goes into its keys (RFC 7296 s2.18)."""
    pair = both(HYBRID).up()
    pair.a.rekey(None)
    run_quiet(pair)
    assert resistant(pair) == [True, True]
    pair.check_converged(children=1)
