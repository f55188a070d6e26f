"""Every kind of mismatch between two gateways, and the sentences about it: in the log of both, and in `status`.

Each of `KINDS` is a pair of connections that differ in one thing. Beside them stands what the end says that knows both
sides, and what the other one says, which was only refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address

import pytest
from simulation import ADDRESS, IKE_PROPOSAL, NAT_ADDRESS, Link, Nat, Pair, child, connection, selector
from test_certificate_auth import by_certificate, local

from ipsecfast.configured import AuthConfig, AuthKind, ConnectionConfig, Vendor
from ipsecfast.identity import Identity
from ipsecfast.ike import diagnosis, dialects
from ipsecfast.ike.constants import ExchangeType, KeGroup, NotifyType
from ipsecfast.ike.snapshot import FailureStatus
from ipsecfast.ike.wire.message import ZERO_SPI, Message, encode_message
from ipsecfast.ike.wire.mismatch import Field, Mismatch
from ipsecfast.ike.wire.payloads import NotifyPayload, VendorIdPayload
from ipsecfast.ike.wire.proposal import parse_proposal
from ipsecfast.ike.wire.selectors import SelectorPair
from ipsecfast.model import Mode, Path, ProtocolId, TrafficSelector

ID = {name: Identity(2, f"{name}.test".encode()) for name in "abc"}
REFUSED_PROOF = "said that we are a.test and asked for b.test, and proved it by the pre-shared key"


def esp(me: str, words: str, **options: object) -> ConnectionConfig:
    return connection(me, children=(child("net", me, esp=(words,)),), **options)


def rekey(pair: Pair) -> None:
    pair.a.rekey("net")
    pair.run(2.0)


@dataclass(frozen=True)
class Kind:
    """`a` initiates. What `status` of the two shows: the field, and a part of the sentence that a person can act on."""

    a: ConnectionConfig
    b: ConnectionConfig
    a_field: Field
    a_says: str
    b_field: Field | None
    b_says: str
    then: Callable[[Pair], None] = field(default=lambda pair: None)


KINDS: dict[str, Callable[[], Kind]] = {
    "encryption of the IKE SA": lambda: Kind(
        connection("a", ike=("aes128gcm16-prfsha256-x25519",)),
        connection("b", ike=("aes256gcm16-prfsha256-x25519",)),
        Field.PROPOSAL,
        "accepts none of our IKE proposals aes128gcm16-prfsha256-x25519, or has no connection for our addresses; what "
        "fits on the other gateway: proposals = aes128gcm16-prfsha256-x25519",
        Field.ENCRYPTION,
        "no common encryption: the peer offers aes128gcm16; configured: aes256gcm16; what fits on the other gateway: "
        "proposals = aes256gcm16-prfsha256-x25519",
    ),
    "PRF": lambda: Kind(
        connection("a", ike=("aes128gcm16-prfsha384-x25519",)),
        connection("b", vendor=Vendor.LIBRESWAN),
        Field.PROPOSAL,
        "prfsha384",
        Field.PRF,
        "no common PRF: the peer offers prfsha384; configured: prfsha256; what fits on the other gateway (Libreswan, "
        "ipsec.conf): ike=aes_gcm128-sha2_256;dh31",
    ),
    "integrity": lambda: Kind(
        connection("a", ike=("aes128-sha384-prfsha256-ecp256",)),
        connection("b", ike=("aes128-sha256-ecp256",), vendor=Vendor.CISCO_IOS),
        Field.PROPOSAL,
        "sha384",
        Field.INTEGRITY,
        "crypto ikev2 proposal NAME with encryption aes-cbc-128, integrity sha256, group 19",
    ),
    "key exchange": lambda: Kind(
        connection("a", ike=("aes128gcm16-prfsha256-ecp384",), vendor=Vendor.CISCO_IOS),
        connection("b", vendor=Vendor.AWS),
        Field.PROPOSAL,
        "crypto ikev2 proposal NAME with encryption aes-gcm-128, prf sha256, group 20",
        Field.KEY_EXCHANGE,
        "the peer offers ecp384; configured: x25519; the other gateway (AWS) has no x25519: allow here what it has",
    ),
    "our identity": lambda: Kind(
        connection("a"),
        connection("b", remote=AuthConfig(ID["c"])),
        Field.PROOF,
        REFUSED_PROOF,
        Field.PEER_IDENTITY,
        "the peer says it is a.test, asks for b.test; that fits no connection: ab (we are b.test, the peer c.test); "
        "what fits on the other gateway: local.id = c.test",
    ),
    "the peer's identity": lambda: Kind(
        connection("a", remote=AuthConfig(ID["c"]), secrets=connection("a").secrets + connection("b").secrets),
        connection("b"),
        Field.SECRET,
        "there is no secret for us as a.test and the peer c.test; add one to [secrets]",
        None,
        "",
    ),
    "pre-shared key": lambda: Kind(
        connection("a", secret=b"one"),
        connection("b", secret=b"two", vendor=Vendor.CISCO_IOS),
        Field.PROOF,
        REFUSED_PROOF + ". It has another key for us",
        Field.SECRET,
        "a.test has another secret than we have for us as b.test and that peer; what fits on the other gateway (Cisco "
        "IOS): pre-shared-key of this peer in its crypto ikev2 keyring (b.test and a.test)",
    ),
    "secret instead of certificate": lambda: Kind(
        connection("a"),
        by_certificate("b"),
        Field.PROOF,
        REFUSED_PROOF,
        Field.AUTHENTICATION,
        "a.test proves itself by a shared secret, not by a certificate as remote.auth is configured here; what fits on "
        "the other gateway: local.auth = pubkey",
    ),
    "certificate instead of secret": lambda: Kind(
        by_certificate("a"),
        connection("b", vendor=Vendor.LIBRESWAN),
        Field.PROOF,
        "proved it by the signature of our certificate",
        Field.AUTHENTICATION,
        "not by a shared secret as remote.auth is configured here; what fits on the other gateway (Libreswan, "
        "ipsec.conf): leftauth=secret",
    ),
    "authority": lambda: Kind(
        by_certificate("a", local=local("a", issuer="Other")),
        by_certificate("b"),
        Field.PROOF,
        "its log says which",
        Field.CERTIFICATE,
        'no path from the certificate of "CN=a.test" (issued by CN=Other) to an authority that is configured',
    ),
    "name in the certificate": lambda: Kind(
        by_certificate("a", local=replace(local("a"), identity=ID["c"])),
        by_certificate("b", remote=replace(by_certificate("b").remote, identity=None)),
        Field.PROOF,
        "we said that we are c.test",
        Field.CERTIFICATE,
        "the peer says it is c.test, but its certificate is for",
    ),
    "encryption of the Child SA": lambda: Kind(
        esp("a", "aes128gcm16"),
        esp("b", "aes256gcm16", vendor=Vendor.CISCO_IOS),
        Field.PROPOSAL,
        "we offered 10.1.0.0/24 === 10.2.0.0/24 with aes128gcm16 in tunnel mode; what fits on the other gateway: "
        "esp_proposals = aes128gcm16 of the child",
        Field.ENCRYPTION,
        "the peer offers aes128gcm16; configured: aes256gcm16; what fits on the other gateway (Cisco IOS): "
        "crypto ipsec transform-set NAME esp-gcm 256",
    ),
    "sequence numbers": lambda: Kind(
        esp("a", "aes128gcm16-esn"),
        esp("b", "aes128gcm16-noesn"),
        Field.PROPOSAL,
        "esp_proposals = aes128gcm16-esn of the child",
        Field.SEQUENCE_NUMBERS,
        "the peer offers esn; configured: noesn",
    ),
    "key exchange of Child SAs": lambda: Kind(
        esp("a", "aes128gcm16-x25519"),
        esp("b", "aes128gcm16", vendor=Vendor.LIBRESWAN),
        Field.PROPOSAL,
        "rekey failed",
        Field.PFS,
        "the peer offers x25519; configured: none; what fits on the other gateway (Libreswan, ipsec.conf): pfs=no",
        rekey,
    ),
    "traffic selectors": lambda: Kind(
        connection("a", children=(child("net", "a", local_ts=(selector("10.9.0.0/24"),)),)),
        connection("b", vendor=Vendor.CISCO_IOS),
        Field.SELECTORS,
        "what fits on the other gateway: local_ts = 10.2.0.0/24 and remote_ts = 10.9.0.0/24 of the child",
        Field.SELECTORS,
        "the peer wants 10.2.0.0/24 === 10.9.0.0/24 in tunnel mode; configured: net 10.2.0.0/24 === 10.1.0.0/24 in "
        "tunnel mode; what fits on the other gateway (Cisco IOS): the access list of its crypto map: permit ip "
        "10.1.0.0 0.0.0.255 10.2.0.0 0.0.0.255",
    ),
    "mode": lambda: Kind(
        connection("a", children=(child("net", "a", mode=Mode.TRANSPORT),)),
        connection("b"),
        Field.SELECTORS,
        "in transport mode",
        Field.MODE,
        "configured: net 10.2.0.0/24 === 10.1.0.0/24 in tunnel mode; what fits on the other gateway: mode = tunnel of "
        "the child",
    ),
}


def shown(pair: Pair, name: str) -> FailureStatus | None:
    (status,) = pair.gateways[name].endpoint.status(pair.now)
    return status.failures[-1] if status.failures else None


@pytest.mark.parametrize("name", KINDS)
def test_a_sentence_for_each_kind_of_mismatch(name: str) -> None:
    kind = KINDS[name]()
    pair = Pair(kind.a, kind.b)
    pair.a.initiate()
    pair.run(1.0)
    kind.then(pair)
    for me, expected, words in (("a", kind.a_field, kind.a_says), ("b", kind.b_field, kind.b_says)):
        failure = shown(pair, me)
        assert (failure.field if failure else None) == expected
        if failure is not None:
            assert words in failure.message
            assert failure.message in " ".join(n.message for n in pair.gateways[me].log)


def test_addresses() -> None:
    """No connection to show it at: the log names the connection that is nearest, and its key."""
    pair = Pair(connection("a"), connection("b", remote_addrs=(NAT_ADDRESS,)))
    pair.a.initiate()
    pair.run(1.0)
    (line,) = [n.message for n in pair.b.log if n.event == "init-refused"]
    assert line.endswith(
        "no connection is configured for 192.0.2.2 (local_addrs) and 192.0.2.1 (remote_addrs); ab has remote_addrs "
        "198.51.100.7"
    )


def test_another_version() -> None:
    pair = Pair(connection("a"), connection("b", vendor=Vendor.LIBRESWAN))
    main_mode = b"\x01" * 8 + bytes(8) + bytes([1, 0x10, 2, 0]) + bytes(4) + (28).to_bytes(4, "big")
    path = Path(ADDRESS["b"], 500, ADDRESS["a"], 500)
    pair.b.endpoint.receive_datagram(main_mode, path, pair.now)
    failure = shown(pair, "b")
    assert failure is not None
    assert failure.field == Field.VERSION
    assert "only IKEv2 is spoken here; what fits on the other gateway (Libreswan, ipsec.conf): keyexchange=ikev2" in (
        failure.message
    )


def test_an_expired_certificate_says_since_when() -> None:
    pair = Pair(by_certificate("a"), by_certificate("b"))
    pair.b.endpoint.context.wall_clock = lambda before=pair.b.endpoint.context.wall_clock: before() + timedelta(3650)
    pair.a.initiate()
    pair.run(1.0)
    failure = shown(pair, "b")
    assert failure is not None
    assert failure.field == Field.CERTIFICATE
    assert "expired on" in failure.message


# -- nothing comes back ------------------------------------------------------------------------------------------------


def dead(pair: Pair) -> str:
    pair.a.initiate()
    pair.run(200.0)
    failure = shown(pair, "a")
    assert failure is not None
    assert failure.field == Field.REACHABILITY
    return failure.message


def test_silence() -> None:
    text = dead(Pair(link=Link(down=True)))
    assert "no answer to IKE_SA_INIT sent 6 times" in text
    assert "the peer is down, or UDP 500 does not pass" in text


def test_silence_after_the_first_exchange() -> None:
    def no_auth(by: str, message: Message | None) -> bool:
        return message is not None and message.exchange == ExchangeType.IKE_AUTH

    text = dead(Pair(link=Link(drop=no_auth)))
    assert "it answered IKE_SA_INIT, so it is there: it refuses us without a word" in text
    assert "4500" not in text


def test_silence_on_port_4500() -> None:
    def no_auth(by: str, message: Message | None) -> bool:
        return message is not None and message.exchange == ExchangeType.IKE_AUTH

    anyone = connection("b", remote_addrs=())
    text = dead(Pair(connection("a"), anyone, nat=Nat(), link=Link(drop=no_auth)))
    assert "UDP 4500 does not pass" in text


def test_silence_after_an_answer_that_could_not_be_used() -> None:
    """Unprotected answers prove nothing (s2.21.1), but they are a hint once nothing else has come."""
    pair = Pair(link=Link(drop=lambda by, m: by == "b"))
    pair.a.initiate()
    sa = pair.a.ike_sas[0]
    asked = NotifyPayload(NotifyType.INVALID_KE_PAYLOAD, int(KeGroup.ECP_521).to_bytes(2, "big"))
    answer = Message(sa.spi_i, ZERO_SPI, ExchangeType.IKE_SA_INIT, 0, True, False, (asked,))
    pair.a.endpoint.receive_datagram(encode_message(answer), sa.path, pair.now)
    pair.run(200.0)
    failure = shown(pair, "a")
    assert failure is not None
    assert (
        "what came could not be used: the peer takes no key exchange but ecp521; we offered x25519" in failure.message
    )


# -- the end of a failure, and the words -------------------------------------------------------------------------------


def test_a_failure_is_shown_until_it_is_over() -> None:
    pair = Pair(esp("a", "aes128gcm16"), esp("b", "aes256gcm16"))
    pair.a.initiate()
    pair.run(1.0)
    assert shown(pair, "a")
    assert shown(pair, "b")
    for gateway, me in ((pair.a, "a"), (pair.b, "b")):
        gateway.endpoint.connections["ab"].config = esp(me, "aes256gcm16")
    pair.a.initiate()
    pair.run(1.0)
    assert shown(pair, "a") is None
    assert shown(pair, "b") is None


def test_vendor_ids() -> None:
    def said(data: bytes) -> Vendor:
        return dialects.vendor_of(Message(ZERO_SPI, ZERO_SPI, 34, 0, False, True, (VendorIdPayload(data),)))

    assert said(bytes.fromhex("882fe56d6fd20dbc2251613b2ebe5beb")) is Vendor.STRONGSWAN
    assert said(b"OE-Libreswan-5.2") is Vendor.LIBRESWAN
    assert said(b"CISCO-DELETE-REASON") is Vendor.CISCO_IOS
    assert said(b"") is Vendor.UNKNOWN


@pytest.mark.parametrize("vendor", list(Vendor))
def test_every_product_has_words_for_everything(vendor: Vendor) -> None:
    """Or says what it lacks; never nothing."""
    some_hosts = TrafficSelector(ip_address("10.2.0.1"), ip_address("10.2.0.9"))
    pair = SelectorPair((selector("10.1.0.0/24"),), (some_hosts, selector("2001:db8::/32")))
    wanted = (
        (Field.PROPOSAL, parse_proposal(IKE_PROPOSAL, ProtocolId.IKE)),
        (Field.PROPOSAL, parse_proposal("aes256-sha512-prfsha384-modp2048", ProtocolId.IKE)),
        (Field.PROPOSAL, parse_proposal("aes192gcm16-ecp256-esn", ProtocolId.ESP)),
        (Field.PFS, parse_proposal("aes128gcm16", ProtocolId.ESP)),
        (Field.PFS, parse_proposal("aes128gcm16-ecp384", ProtocolId.ESP)),
        (Field.SELECTORS, pair),
        *((Field.MODE, mode) for mode in Mode),
        *((Field.AUTHENTICATION, kind) for kind in AuthKind),
        (Field.PEER_IDENTITY, ID["a"]),
        (Field.OUR_IDENTITY, Identity(1, bytes([192, 0, 2, 1]))),
    )
    for name, want in wanted:
        text = diagnosis.remedy(Mismatch(name, "", wanted=want), vendor)
        assert text.startswith(("what fits on the other gateway", "the other gateway"))
        assert "Identity(" not in text
        assert "Transform(" not in text
    assert diagnosis.remedy(Mismatch(Field.SECRET, "a and b"), vendor)
    assert diagnosis.remedy(Mismatch(Field.REACHABILITY, "x"), vendor) == ""
