"""10,000 mutated IKE datagrams against both roles: nothing raises, each is counted once, the gateway goes on.

Two kinds: octets on the wire that anyone could send, and, worse, what a peer with the keys could send: the clear text
is mutated and sealed again. Seeded; `IPSECFAST_SIM_SEED` replays one seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from simulation import Gateway, Pair, child, connection, own_cipher, replay_seed

from ipsecfast.configured import PostquantumKey
from ipsecfast.ike.actions import Transmit
from ipsecfast.ike.constants import ExchangeType, Flags, PayloadType
from ipsecfast.ike.lasting import Lasting
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.wire.message import GENERIC_HEADER, HEADER, encode_chain, first_type
from ipsecfast.ike.wire.payloads import UnknownPayload
from ipsecfast.model import Path

SEEDS = [replay_seed()] if replay_seed() is not None else list(range(10))
PER_SEED = 1000
INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)


def mutated(rng: random.Random, data: bytes) -> bytes:
    """One to four changes: a bit, an octet, a number, a part cut out, doubled or replaced, an end cut off or added."""
    octets = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        if not octets:
            break
        position = rng.randrange(len(octets))
        match rng.randrange(7):
            case 0:
                octets[position] ^= 1 << rng.randrange(8)
            case 1:
                octets[position] = rng.choice(INTERESTING)
            case 2:
                octets[position : position + 2] = rng.choice((0, 3, 4, 8, 0xFFFF)).to_bytes(2, "big")
            case 3:
                del octets[position : position + rng.randint(1, 40)]
            case 4:
                part = octets[position : position + rng.randint(1, 60)]
                octets[position:position] = part
            case 5:
                del octets[position:]
            case 6:
                octets += rng.randbytes(rng.randint(1, 40))
    return bytes(octets)


def fix_length(data: bytes) -> bytes:
    """So that the header's length does not give most of them away."""
    return data[:24] + len(data).to_bytes(4, "big") + data[28:] if len(data) >= 28 else data


def accounted_for(gateway: Gateway) -> bool:
    counters = gateway.endpoint.counters
    return counters["datagrams"] == sum(counters[outcome] for outcome in Outcome)


def fresh(seed: int, **options: object) -> Pair:
    """Every other seed with additional key exchanges, the others with tickets and redirects; every third with a PPK."""
    words = "x25519-ke1_mlkem768" if seed % 2 else "x25519"
    ike, esp = (f"aes128gcm16-prfsha256-{words}",), (f"aes128gcm16-{words}", "aes128gcm16")
    if seed % 3 == 0:
        options["ppks"] = (PostquantumKey(b"ppk", b"a post-quantum pre-shared key"),)
    options |= {"resumption": True, "redirect": True} if seed % 2 == 0 else {}
    ends = {
        x: connection(x, **options, ike=ike, children=tuple(child(f"net{n}", x, esp=esp) for n in (0, 1))) for x in "ab"
    }
    pair = Pair(ends["a"], ends["b"], seed=seed)
    for name, gateway in pair.gateways.items():
        gateway.endpoint.context.lasting = Lasting(crash_secret=name.encode() * 32)
    return pair


def genuine(seed: int) -> list[tuple[str, bytes, Path]]:
    """The datagrams of a life: set up, a restart and what follows, a second child, rekeys, deletes; with who receives
    them and on which path."""
    pair = fresh(seed)
    pair.a.initiate(None)
    pair.run(2.0)
    pair.b.restart()
    pair.traffic(0.1)
    pair.run(8.0)
    for what in ("net0", None):
        pair.b.rekey(what)
        pair.run(2.0)
    pair.a.terminate("net1")
    pair.run(2.0)
    sent = [(g, x) for g in (pair.a, pair.b) for x in g.performed if isinstance(x, Transmit)]
    return [(g.peer_name, x.data, Path(x.path.remote, 500, x.path.local, 500)) for g, x in sent]


@pytest.mark.parametrize("seed", SEEDS)
def test_octets_that_anyone_could_send(seed: int) -> None:
    rng = random.Random(seed)
    corpus = genuine(seed)
    genuine_octets = {data for _, data, _ in corpus}
    # The same seed: SPIs and keys of the corpus are those of this pair. Who knows the SPIs can spoil IKE_SA_INIT, which
    # nothing protects, so it is tried again.
    pair = fresh(seed, keyingtries=0)
    pair.a.initiate(None)
    for number in range(PER_SEED // 2):
        to, data, path = rng.choice(corpus)
        hostile = mutated(rng, data)
        if fix_length(hostile) in genuine_octets:
            continue  # undone by the last change; the peer itself could have sent it
        pair.gateways[to].endpoint.receive_datagram(
            fix_length(hostile) if rng.random() < 0.8 else hostile, path, pair.now
        )
        if number % 25 == 0:
            pair.run(0.05)
    pair.run(600.0)
    for gateway in (pair.a, pair.b):
        assert accounted_for(gateway)
        assert gateway.established, "garbage kept two honest peers apart"
    pair.check_converged(children=2)


def sealed(sa: IkeSa, rng: random.Random, exchange: int, body: bytes, first: int, *, response: bool) -> bytes:
    """A datagram of `sa`'s owner with `body` as the inside of its SK payload, whatever that is."""
    cipher = own_cipher(sa)
    message_id = sa.window.expected_request - 1 if response else sa.window.next_request
    flags = (Flags.RESPONSE if response else 0) | (Flags.INITIATOR if sa.initiator else 0)
    length = 4 + cipher.sealed_length(len(body))
    header = HEADER.pack(
        sa.spi_i, sa.spi_r, PayloadType.SK, 0x20, exchange, flags, max(message_id, 0), 28 + length
    ) + GENERIC_HEADER.pack(first, 0, length)
    return header + cipher.seal(rng.randbytes(cipher.iv_length), header, body)


def insides(seed: int) -> Iterator[tuple[int, bool, int, bytes]]:
    """(exchange, response, first payload type, chain of payloads) of all protected messages of a life."""
    pair = fresh(seed)
    pair.a.initiate(None)
    pair.run(2.0)
    for gateway, what in ((pair.a, "net0"), (pair.b, None), (pair.b, "net1")):
        gateway.rekey(what)
        pair.run(2.0)
    pair.a.terminate("net1")
    pair.run(2.0)
    for line in pair.transcript:
        message = getattr(line, "message", None)
        if message is not None and message.exchange != ExchangeType.IKE_SA_INIT:
            yield message.exchange, message.response, first_type(message.payloads), encode_chain(message.payloads)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_peer_with_the_keys_could_send(seed: int) -> None:
    """Requests and responses, in every state that they can meet."""
    rng = random.Random(seed)
    corpus = list(insides(seed))
    pair = fresh(seed)
    pair.keys.honest = False
    sent = 0
    while sent < PER_SEED // 2:
        sender = rng.choice((pair.a, pair.b))
        victim = pair.gateways[sender.peer_name]
        sa = next(iter(sender.ike_sas), None)
        if sa is None or not sa.has_keys:
            sender.initiate(None)
            pair.run(rng.choice([0.03, 0.07, 1.0]))
            sent += 1
            continue
        if rng.random() < 0.3 and victim.established:
            victim.endpoint.rekey("ab", rng.choice([None, "net0"]), pair.now)
            victim.perform()
        exchange, response, first, chain = rng.choice(corpus)
        exchange = exchange if rng.random() < 0.9 else rng.choice(list(ExchangeType))
        first = first if rng.random() < 0.9 else rng.randrange(256)
        data = sealed(sa, rng, exchange, mutated(rng, chain), first, response=response)
        victim.endpoint.receive_datagram(data, Path(victim.address, 500, sender.address, 500), pair.now)
        victim.perform()
        sent += 1
        if rng.random() < 0.2:
            pair.run(rng.choice([0.0, 0.05, 10.0]))
    assert accounted_for(pair.a)
    assert accounted_for(pair.b)
    pair.a.endpoint.shutdown(pair.now)
    pair.b.endpoint.shutdown(pair.now)
    pair.run(600.0)
    for gateway in (pair.a, pair.b):
        assert gateway.endpoint.idle
        assert not gateway.dataplane.inbound, "an SA without an IKE SA"


def test_every_outcome_has_a_counter_of_its_own() -> None:
    assert len({str(o) for o in Outcome}) == len(Outcome)


def test_a_critical_payload_inside_is_refused_by_its_type() -> None:
    """s2.5: UNSUPPORTED_CRITICAL_PAYLOAD, and the IKE SA goes on."""
    pair = fresh(1)
    pair.a.initiate(None)
    pair.run(2.0)
    sa = pair.a.established[0]
    body = encode_chain((UnknownPayload(200, True, b"x"),))
    data = sealed(sa, random.Random(1), ExchangeType.INFORMATIONAL, body, 200, response=False)
    pair.b.endpoint.receive_datagram(data, Path(pair.b.address, 500, pair.a.address, 500), pair.now)
    mark = pair.mark()
    pair.b.perform()
    assert pair.exchange(mark) == ["<-- b INFORMATIONAL {N(UNSUPPORTED_CRITICAL_PAYLOAD)}"]
    assert pair.b.established
