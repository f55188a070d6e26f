"""The longest messages of each kind that a peer with the keys may send, valid or not: what each costs the event loop.

    python -m guided heavy        CPU milliseconds of each; exit status 1 if one takes more than 50

What is offloaded (`work`) does not count: it is computed elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

from simulation import Pair, child, connection, selector

from guided.hostile import sealed
from guided.lives import SETTINGS, certified, pair_in_state
from guided.records import Record
from guided.rewind import Snapshot
from guided.targets import MAX_SECONDS
from ipsecfast.ike.constants import (
    MAX_CLEAR_LENGTH,
    CertEncoding,
    ExchangeType,
    KeGroup,
    NotifyType,
    PayloadType,
    TsType,
)
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.wire.fragments import MAX_FRAGMENTS
from ipsecfast.ike.wire.message import HEADER, MAX_PAYLOADS, ZERO_SPI, encode_chain, first_type
from ipsecfast.ike.wire.payloads import (
    MAX_ATTRIBUTES,
    CertPayload,
    CertreqPayload,
    ConfigAttribute,
    ConfigPayload,
    DeletePayload,
    KePayload,
    NoncePayload,
    NotifyPayload,
    Payload,
    SaPayload,
    TsPayload,
    UnknownSelector,
    VendorIdPayload,
)
from ipsecfast.ike.wire.proposal import parse_proposal
from ipsecfast.model import Path, ProtocolId, TrafficSelector

ROOM = 65000  # octets of payloads, a little less than what fragments carry
ROUNDS = 3
IKE_PROPOSAL = "aes128gcm16-prfsha256-x25519"
NONCE = NoncePayload(b"n" * 32)
KE = KePayload(KeGroup.CURVE25519, bytes(range(32)))
SPI = b"\xc0\xff\xee\x00"


def many_transforms(protocol: ProtocolId, octets: int, words: str, proposals: int = 255) -> SaPayload:
    """So many proposals, each with as many transforms as fit; only the last one can be agreed on."""
    good = parse_proposal(words, protocol)
    spi = SPI if protocol is ProtocolId.ESP else SPI * 2
    room = octets // proposals - 8 - len(spi) - 8 * (len(good.transforms) - 1)
    strange = tuple(replace(good.transforms[0], id=60000 + n) for n in range(room // 12))
    bad = replace(good, transforms=(*strange, *good.transforms[1:]), spi=spi)
    numbered = (replace(bad, number=n) for n in range(1, proposals))
    return SaPayload((*numbered, replace(good, spi=spi, number=proposals)))


def hosts(number: int, network: int) -> tuple[TrafficSelector, ...]:
    """Single addresses with a hole after each, so that none can be joined."""
    first = ip_address(f"10.{network}.0.0")
    return tuple(TrafficSelector(first + 2 * n, first + 2 * n) for n in range(number))


def selectors(kind: PayloadType, network: int) -> TsPayload:
    return TsPayload(kind, hosts(255, network))


def esp_offer(*more: Payload) -> tuple[Payload, ...]:
    offer = SaPayload((replace(parse_proposal("aes128gcm16", ProtocolId.ESP), spi=SPI),))
    return (*more, offer, NONCE)


def in_established() -> Iterator[tuple[str, int, tuple[Payload, ...]]]:
    """What is said, in which exchange, by which payloads."""
    ts = selectors(PayloadType.TSi, 1), selectors(PayloadType.TSr, 2)
    all_of_it = TsPayload(PayloadType.TSi, (selector("0.0.0.0/0"),))
    child_sa, information = ExchangeType.CREATE_CHILD_SA, ExchangeType.INFORMATIONAL
    one_each = all_of_it, TsPayload(PayloadType.TSr, ts[1].selectors[:1])
    yield "255 proposals of ESP", child_sa, (many_transforms(ProtocolId.ESP, ROOM, "aes128gcm16"), NONCE, *one_each)
    yield "255 proposals of IKE", child_sa, (many_transforms(ProtocolId.IKE, ROOM, IKE_PROPOSAL), NONCE, KE)
    yield "255 selectors at each end", child_sa, (*esp_offer(), *ts)
    yield "255 selectors at one end", child_sa, (*esp_offer(), all_of_it, ts[1])
    by_port = tuple(replace(all_of_it.selectors[0], port_start=n, port_end=n + 1) for n in range(0, 510, 2))
    yield "255 ranges of ports", child_sa, (*esp_offer(), *(TsPayload(t.kind, by_port) for t in ts))
    unknown = tuple(UnknownSelector(TsType.TS_IPV4_ADDR_RANGE + 100, 0, b"x" * 200) for _ in range(254))
    yield (
        "254 selectors of unknown types",
        child_sa,
        (
            *esp_offer(),
            TsPayload(PayloadType.TSi, ts[0].selectors[:1], unknown),
            ts[1],
        ),
    )
    yield "16,000 SPIs in one DELETE", information, (DeletePayload(ProtocolId.ESP, (SPI,) * 16000),)
    yield "as many DELETEs as there may be", information, (DeletePayload(ProtocolId.ESP, (SPI,) * 10),) * MAX_PAYLOADS
    yield "one more", information, (DeletePayload(ProtocolId.ESP, (SPI,) * 10),) * (MAX_PAYLOADS + 1)
    yield "notifies", information, (NotifyPayload(40000, b"x" * 100),) * MAX_PAYLOADS
    yield "error notifies", information, (NotifyPayload(NotifyType.INVALID_SPI, SPI),) * MAX_PAYLOADS
    yield "REDIRECTs", information, (NotifyPayload(NotifyType.REDIRECT, b"\x01"),) * MAX_PAYLOADS
    yield "notifies before a request", child_sa, (*(NotifyPayload(40000),) * 500, *esp_offer(), *ts)
    yield "vendor IDs", information, (VendorIdPayload(b"v" * 100),) * MAX_PAYLOADS
    yield "attributes of CP", information, (ConfigPayload(1, (ConfigAttribute(1),) * MAX_ATTRIBUTES),)


def in_auth(pair: Pair) -> Iterator[tuple[str, int, tuple[Payload, ...]]]:
    """The request that is under way, with more in it."""
    (line,) = [x for x in pair.transcript if hasattr(x, "message") and x.message.exchange == ExchangeType.IKE_AUTH]
    payloads = line.message.payloads
    yield "IKE_AUTH as it is", ExchangeType.IKE_AUTH, payloads
    certificates = [p for p in payloads if isinstance(p, CertPayload)]
    hashes = (CertreqPayload(CertEncoding.X509_SIGNATURE, b"h" * (ROOM - 4000)),)
    yield "3,000 authorities asked for", ExchangeType.IKE_AUTH, (*payloads, *hashes)
    yield (
        "hash algorithms",
        ExchangeType.IKE_AUTH,
        (
            *payloads,
            NotifyPayload(NotifyType.SIGNATURE_HASH_ALGORITHMS, b"\x00\x09" * 30000),
        ),
    )
    yield (
        "announced methods",
        ExchangeType.IKE_AUTH,
        (
            *payloads,
            NotifyPayload(NotifyType.SUPPORTED_AUTH_METHODS, b"\x02\x00" * 30000),
        ),
    )
    if certificates:
        yield "ten certificates", ExchangeType.IKE_AUTH, (*payloads, *certificates * 9)
        yield "sixty certificates", ExchangeType.IKE_AUTH, (*payloads, *certificates * 60)
        crl = CertPayload(CertEncoding.CRL, b"\x30\x82" + b"0" * 6000)
        yield "ten CRLs that are none", ExchangeType.IKE_AUTH, (*payloads, *(crl,) * 10)


def in_clear() -> Iterator[tuple[str, int, tuple[Payload, ...]]]:
    init = ExchangeType.IKE_SA_INIT
    many = many_transforms(ProtocolId.IKE, MAX_CLEAR_LENGTH - 400, IKE_PROPOSAL, proposals=40)
    yield "IKE_SA_INIT full of proposals", init, (many, NONCE, KE)
    one = SaPayload((parse_proposal(IKE_PROPOSAL, ProtocolId.IKE),))
    yield "IKE_SA_INIT full of notifies", init, (one, KE, NONCE, *(NotifyPayload(40000),) * 500)
    hashes = (NotifyPayload(NotifyType.NAT_DETECTION_SOURCE_IP, b"h" * 20),) * 280
    yield "IKE_SA_INIT full of NAT hashes", init, (one, KE, NONCE, *hashes)


def measured(pair: Pair, snapshot: Snapshot, octets: Callable[[], list[bytes]]) -> tuple[float, str]:
    """CPU seconds of the slowest datagram, at best; what became of the message."""
    best, counters = float("inf"), pair.b.endpoint.counters
    for _ in range(ROUNDS):
        snapshot.restore()
        before = counters.copy()
        path = Path(pair.b.address, 500, pair.a.address, 500)
        slowest = 0.0
        for data in octets():
            began = time.process_time()
            pair.b.endpoint.receive_datagram(data, path, pair.now)
            slowest = max(slowest, time.process_time() - began)
        best = min(best, slowest)
    outcomes = [
        str(outcome) for outcome in Outcome if outcome is not Outcome.FRAGMENT and counters[outcome] > before[outcome]
    ]
    return best, ", ".join(outcomes)


def fragmented(pair: Pair, exchange: int, payloads: tuple[Payload, ...]) -> list[bytes]:
    """For the one IKE SA of b, in as many fragments as there may be."""
    (sa,) = pair.b.ike_sas
    chain = encode_chain(payloads)
    return list(sealed(sa, Record(64, exchange, first_type(payloads), chain), pieces=MAX_FRAGMENTS))


def clear(exchange: int, payloads: tuple[Payload, ...]) -> list[bytes]:
    chain = encode_chain(payloads)
    header = HEADER.pack(b"hostile!", ZERO_SPI, first_type(payloads), 0x20, exchange, 8, 0, HEADER.size + len(chain))
    return [header + chain]


def many_selectors() -> Pair:
    """Both ends with a hundred selectors, most of which fit."""
    ts = {"a": hosts(100, 1), "b": hosts(100, 2)}
    ends = {
        me: connection(me, children=(child("net", me, local_ts=ts[me], remote_ts=ts[peer]),))
        for me, peer in ("ab", "ba")
    }
    pair = Pair(ends["a"], ends["b"], settings=SETTINGS)
    pair.a.initiate(None)
    return pair.run(1.0)


def with_certificates() -> Pair:
    pair = Pair(certified("a"), certified("b"), settings=SETTINGS)
    pair.a.initiate(None)
    return pair.run(0.045)


def cases() -> Iterator[tuple[str, float, str]]:
    pair = many_selectors()
    snapshot = Snapshot(pair)
    for what, exchange, payloads in in_established():
        yield what, *measured(pair, snapshot, lambda e=exchange, p=payloads: fragmented(pair, e, p))
    for what, exchange, payloads in in_clear():
        yield what, *measured(pair, snapshot, lambda e=exchange, p=payloads: clear(e, p))
    for state in (pair_in_state(15), with_certificates()):
        snapshot = Snapshot(state)
        for what, exchange, payloads in in_auth(state):
            yield what, *measured(state, snapshot, lambda s=state, e=exchange, p=payloads: fragmented(s, e, p))


def main() -> int:
    worst = 0.0
    for what, seconds, outcome in cases():
        print(f"{1000 * seconds:8.2f} ms  {what}: {outcome}", flush=True)
        worst = max(worst, seconds)
    return int(worst > MAX_SECONDS)
