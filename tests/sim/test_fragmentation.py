"""IKE fragmentation between two gateways (RFC 7383)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulation import Link, Pair, connection, own_cipher, run_quiet

from ipsecfast.configured import Fragmentation
from ipsecfast.ike.context import Settings
from ipsecfast.ike.wire.fragments import Reassembly, open_fragment
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import Payload

NARROW = Settings(fragment_size={4: 200, 6: 220})


def fragmented(**options: object) -> Pair:
    return Pair(connection("a", **options), connection("b"), settings=NARROW)


def skf(pair: Pair) -> list[str]:
    return [line for line in pair.exchange() if "SKF" in line]


def test_a_long_message_leaves_in_pieces() -> None:
    pair = fragmented().up()
    assert pair.exchange()[2:] == [
        "a --> IKE_AUTH {SKF 1/2}",
        "a --> IKE_AUTH {SKF 2/2}",
        "<-- b IKE_AUTH {SKF 1/2}",
        "<-- b IKE_AUTH {SKF 2/2}",
    ]
    assert pair.b.endpoint.counters["fragments kept"] == 1
    pair.check_converged(children=1)


def test_rekeyed_ike_sas_go_on_fragmenting() -> None:
    pair = fragmented().up()
    pair.a.rekey(None)
    run_quiet(pair)
    mark = pair.mark()
    pair.b.rekey("net")
    run_quiet(pair)
    assert "SKF 1/2" in pair.exchange(mark)[0]
    pair.check_converged(children=1)


@pytest.mark.parametrize("value", [Fragmentation.NO, Fragmentation.ACCEPT])
def test_without_our_will_nothing_of_ours_is_cut(value: Fragmentation) -> None:
    pair = fragmented(fragmentation=value).up()
    theirs = [] if value is Fragmentation.NO else ["<-- b IKE_AUTH {SKF 1/2}", "<-- b IKE_AUTH {SKF 2/2}"]
    assert skf(pair) == theirs
    pair.check_converged(children=1)


def test_no_datagram_is_longer_than_the_path_takes() -> None:
    pair = Pair(settings=NARROW)
    longest = [0]
    carry = pair.carry_ike

    def measure(sender: object, path: object, data: bytes) -> None:
        if data[18] != 34:  # IKE_SA_INIT can't be cut (s2.3)
            longest[0] = max(longest[0], len(data))
        carry(sender, path, data)  # type: ignore[arg-type]

    pair.carry_ike = measure  # type: ignore[method-assign]
    pair.up()
    assert 100 < longest[0] <= 200 - 28


@pytest.mark.parametrize("lost", ["1/2", "2/2"])
@pytest.mark.parametrize("sender", ["a", "b"])
def test_a_lost_fragment_comes_again_with_all_the_others(sender: str, lost: str) -> None:
    """s2.6.1: the whole message is sent again; what came before is not needed again, what comes twice does no harm."""
    losses = []

    def drop(who: str, message: Message | None) -> bool:
        text = [getattr(p, "data", b"").decode(errors="replace") for p in message.payloads] if message else []
        if who == sender and lost in text and not losses:
            losses.append(text)
            return True
        return False

    pair = Pair(link=Link(drop=drop), settings=NARROW)
    pair.a.initiate()
    pair.run(30.0)
    assert losses
    pair.check_converged(children=1)
    assert sum(f"SKF {lost}" in line and line.startswith("a" if sender == "a" else "<") for line in skf(pair)) == 2


def test_a_peer_that_cuts_smaller_the_second_time() -> None:
    """s2.5.2: more fragments than before replace what came of fewer."""
    narrower = replace(NARROW, fragment_size={4: 160, 6: 180})
    pair = Pair(settings=NARROW)
    pair.link.drop = lambda who, message: (
        who == "a" and message is not None and b"2/2" in [getattr(p, "data", b"") for p in message.payloads]
    )
    pair.a.initiate()
    pair.run(0.5)
    sa = pair.a.ike_sas[0]
    assert sa.window.outstanding is not None
    assert sa.current is not None
    wide = len(sa.window.outstanding.datagrams)
    sa.context.settings = narrower
    message = sa.encode(35, 1, reopened(pair), response=False)
    sa.window.outstanding.datagrams = message
    assert len(message) > wide
    pair.run(30.0)
    pair.check_converged(children=1)


def reopened(pair: Pair) -> tuple[Payload, ...]:
    """The payloads of a's outstanding request, put together by its own key."""
    sa, whole, box = pair.a.ike_sas[0], None, Reassembly()
    for datagram in sa.window.outstanding.datagrams:
        whole = box.add(open_fragment(datagram, own_cipher(sa))) or whole
    assert whole is not None
    return whole[0].payloads
