"""Half-open IKE SAs under attack: limits for each source, cookies, puzzles (RFC 8019)."""

from __future__ import annotations

import hmac
import pickle
import random
from dataclasses import replace
from functools import partial
from ipaddress import ip_address

import pytest
from simulation import ADDRESS, Pair

from ipsecfast.ike.constants import ExchangeType, NotifyType, PrfId
from ipsecfast.ike.context import Settings
from ipsecfast.ike.extension import puzzles
from ipsecfast.ike.extension.puzzles import Puzzle
from ipsecfast.ike.half_open import EASIEST, HARDEST, HalfOpen
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.wire.message import ZERO_SPI, Message, encode_message
from ipsecfast.ike.wire.payloads import KePayload, NoncePayload, PuzzleSolutionPayload, SaPayload
from ipsecfast.model import Path

UNDER_ATTACK = Settings(cookie_threshold=4, half_open_limit=64)


def flood(pair: Pair, count: int, address: str = "", *, seed: int = 1) -> int:
    """IKE_SA_INIT requests of somebody who reads no answers; how many half-open IKE SAs they make."""
    rng = random.Random(seed)
    proposals = pair.a.endpoint.connections["ab"].proposals
    before = len(pair.b.endpoint.context.half_open)
    for _ in range(count):
        payloads = (SaPayload(proposals), KePayload(31, rng.randbytes(32)), NoncePayload(rng.randbytes(32)))
        request = Message(rng.randbytes(8), ZERO_SPI, ExchangeType.IKE_SA_INIT, 0, False, True, payloads)
        remote = ip_address(address) if address else ADDRESS["a"]
        pair.b.endpoint.receive_datagram(encode_message(request), Path(ADDRESS["b"], 500, remote, 500), pair.now)
    pair.b.perform_silently()
    return len(pair.b.endpoint.context.half_open) - before


def crowd(pair: Pair, count: int) -> None:
    """So many half-open IKE SAs of as many sources."""
    connection = pair.b.endpoint.connections["ab"]
    for number in range(count):
        path = Path(ADDRESS["b"], 500, ip_address(0xC6336400 + number), 500)
        context = pair.b.endpoint.context
        context.half_open.add(IkeSa(context, (connection,), path, initiator=False, now=pair.now))


def attacked(settings: Settings = UNDER_ATTACK, others: int = 20) -> Pair:
    pair = Pair(settings=settings)
    crowd(pair, others)
    return pair


def test_the_exchange() -> None:
    """s7.1: a cookie with a puzzle, and the same request again with both solutions; nothing is kept in between."""
    pair = attacked().up()
    assert pair.exchange()[1] == "<-- b IKE_SA_INIT {N(COOKIE), N(PUZZLE)}"
    assert pair.exchange()[2].startswith("a --> IKE_SA_INIT {N(COOKIE), PS, SA, KE, Ni")
    assert pair.b.endpoint.counters["puzzles sent"] == 1
    assert "puzzle-solved" in pair.a.events()
    pair.check_converged(children=1)


def test_an_initiator_that_knows_no_puzzles(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is let in as long as half of the places are free, one for each source."""

    def nothing(*_: object) -> object:
        return None
        yield

    monkeypatch.setattr(puzzles, "solve", nothing)
    pair = attacked().up()
    assert pair.exchange()[2].startswith("a --> IKE_SA_INIT {N(COOKIE), SA, KE, Ni")
    assert pair.b.endpoint.counters["without a puzzle's solution"] == 1
    full = attacked(others=40)
    full.a.initiate()
    full.run(20.0)
    assert not full.b.established
    assert full.b.endpoint.counters["puzzles sent"] > 1


def test_solvers_get_in_until_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    attacked(others=60).up().check_converged(children=1)


def test_an_absurd_puzzle_is_not_solved(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cookie goes back alone; and it does not happen more often than a cookie may be asked for."""
    monkeypatch.setattr(puzzles, "make", lambda message, difficulty: Puzzle(PrfId.PRF_HMAC_SHA2_256, 60))
    pair = attacked(others=40)
    pair.a.initiate()
    pair.run(5.0)
    assert 0 < pair.a.events().count("puzzle-refused") <= 7
    assert not pair.a.established


@pytest.mark.parametrize("prf", list(puzzles.HASHES))
def test_solutions(prf: int) -> None:
    """s3: written from the RFC."""
    keys = puzzles.search(puzzles.HASHES[prf], b"the cookie", 9, 12345)
    assert keys is not None
    parts = [keys[at : at + 8] for at in range(0, 32, 8)]
    assert len(set(parts)) == 4
    for key in parts:
        value = hmac.digest(key, b"the cookie", puzzles.HASHES[prf])
        assert int.from_bytes(value, "big") % 2**9 == 0

    def solved(data: bytes, difficulty: int = 9, cookie: bytes = b"the cookie") -> bool:
        return puzzles.solved(Puzzle(prf, difficulty), cookie, PuzzleSolutionPayload(data))

    assert solved(keys)
    assert not solved(keys, cookie=b"another")
    assert not solved(keys, difficulty=30)
    assert not solved(parts[0] * 4), "four different ones"
    assert not solved(keys[:-1])
    assert not solved(b"")
    assert not solved(bytes(65 * 4))
    assert not puzzles.solved(Puzzle(prf, 9), b"the cookie", None)
    assert not puzzles.solved(Puzzle(99, 9), b"the cookie", PuzzleSolutionPayload(keys))


def test_the_search_may_run_in_another_process() -> None:
    """It is work that holds Python's lock (`work.Work`)."""
    call = pickle.loads(pickle.dumps(partial(puzzles.search, "sha256", b"cookie", 5, 7)))
    assert call() == puzzles.search("sha256", b"cookie", 5, 7)


def test_a_hopeless_search_ends() -> None:
    assert puzzles.search("sha256", b"cookie", 0, 2**64 - 2) is not None
    assert puzzles.search("sha256", b"cookie", 3, 0) is not None


@pytest.mark.parametrize("data", [b"", b"\0\5", b"\0\5\1\0"])
def test_a_malformed_puzzle_is_none(data: bytes) -> None:
    assert Puzzle.parse(data) is None


def test_a_solution_counts_for_its_own_cookie_alone() -> None:
    """The cookie carries the puzzle: an easier one can't be put in its place."""
    pair = attacked()
    jar = pair.b.endpoint._cookies
    path = Path(ADDRESS["b"], 500, ADDRESS["a"], 500)
    cookie = jar.make(bytes(32), path, b"initiatr", 1.0, Puzzle(5, 14))
    assert len(cookie) <= 64
    assert jar.accepts(cookie, bytes(32), path, b"initiatr") == Puzzle(5, 14)
    assert jar.accepts(cookie[:-1] + b"\1", bytes(32), path, b"initiatr") is None
    assert jar.accepts(cookie, bytes(31), path, b"initiatr") is None
    assert jar.accepts(cookie, bytes(32), replace(path, remote=ip_address("192.0.2.9")), b"initiatr") is None
    assert jar.accepts(bytes(400), bytes(32), path, b"initiatr") is None


def test_each_source_has_its_limit() -> None:
    """One address with cookies disabled, as an attacker who answers them would look like."""
    settings = Settings(cookie_threshold=10**6, half_open_per_source=8)
    pair = Pair(settings=settings)
    assert flood(pair, 100) == 2, "from a quarter of the limit on it must bring a cookie"
    counters = pair.b.endpoint.counters
    assert counters["cookies sent"] == 98
    context = pair.b.endpoint.context
    template = next(iter(context.half_open))
    for _ in range(6):
        context.half_open.add(IkeSa(context, template.candidates, template.path, initiator=False, now=pair.now))
    assert flood(pair, 10, seed=2) == 0
    assert counters["half-open refused by source"] == 10


def test_a_prefix_is_one_source() -> None:
    pair = Pair()
    half_open, context = HalfOpen(), pair.a.endpoint.context
    connection = pair.a.endpoint.connections["ab"]

    def sa(remote: str) -> IkeSa:
        local = ip_address("2001:db8::1" if ":" in remote else "192.0.2.1")
        return IkeSa(context, (connection,), Path(local, 500, ip_address(remote), 500), initiator=False, now=0.0)

    ones = [sa("2001:db8:1:2::1"), sa("2001:db8:1:2:ffff::1"), sa("2001:db8:1:3::1"), sa("192.0.2.7"), sa("192.0.2.8")]
    for one in ones:
        half_open.add(one)
    assert half_open.of(ip_address("2001:db8:1:2::9")) == 2
    assert half_open.of(ip_address("192.0.2.7")) == 1
    moved = ones[0]
    moved.path = replace(moved.path, remote=ip_address("2001:db8:9::1"))  # a NAT rebinds it: it counts as it came
    for one in (*ones, *ones):
        half_open.discard(one)
    assert len(half_open) == half_open.of(ip_address("2001:db8:1:2::9")) == 0


def test_difficulty_follows_the_pressure() -> None:
    pair = Pair(settings=Settings(cookie_threshold=8, half_open_limit=10_000))
    context, stranger = pair.b.endpoint.context, ip_address("203.0.113.1")
    seen = []
    for total in (0, 7, 8, 15, 16, 32, 64, 128, 4096):
        crowd(pair, total - len(context.half_open))
        demand = context.half_open.demand(stranger, context.settings)
        seen.append((demand.cookie, demand.difficulty))
    assert seen == [
        (False, 0), (False, 0), (True, 0), (True, 0), (True, EASIEST), (True, EASIEST + 2), (True, EASIEST + 4),
        (True, EASIEST + 6), (True, HARDEST),
    ]  # fmt: skip


def test_a_flood_leaves_an_established_tunnel_alone() -> None:
    """Spoofed addresses, each once, and one that sends all the time: nothing is kept of the most, rekeys go on."""
    pair = Pair().up()
    pair.traffic(5.0, every=0.05)
    for number in range(2000):
        flood(pair, 1, str(ip_address(0x0A000000 + number)), seed=number)
    flood(pair, 2000, "198.51.100.99")
    pair.b.rekey(None)
    pair.a.rekey("net")
    pair.run(5.0)
    context = pair.b.endpoint.context
    assert len(context.half_open) <= context.settings.cookie_threshold
    assert pair.lost == 0
    pair.run(60.0)
    assert not context.half_open
    pair.check_converged(children=1)


def test_two_solutions_of_the_same_puzzle_differ() -> None:
    """Initiators begin their search anywhere: what one found is of no use to who watches."""
    assert puzzles.search("sha256", b"cookie", 4, 1) != puzzles.search("sha256", b"cookie", 4, 10**9)
    assert NotifyType.PUZZLE == 16434
