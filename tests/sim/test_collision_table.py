"""Every two operations begun by both ends at the same moment (RFC 7296 s2.8.1, s2.8.2, s2.25), message by message.

a has the lowest nonce. In each transcript the first two requests cross each other.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from simulation import Gateway, Pair, child, connection, run_quiet

OPERATIONS: dict[str, Callable[[Gateway], None]] = {
    "rekey child": lambda gateway: gateway.rekey("net1"),
    "delete child": lambda gateway: gateway.terminate("net1"),
    "rekey IKE": lambda gateway: gateway.rekey(None),
    "delete IKE": lambda gateway: gateway.terminate(None),
    "create child": lambda gateway: gateway.initiate("net2"),
}

# What a does, what b does, the transcript, how many Child SAs and IKE SAs there are in the end.
TABLE = [
    # s2.8.1: a's successor has the lowest nonce and goes; b's maker deletes the old one.
    (
        "rekey child",
        "rekey child",
        [
            "a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
            "a --> CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
            "a --> INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {D}",
            "a --> INFORMATIONAL {D}",
        ],
        1,
        1,
    ),
    # s2.25.1: who is closing it answers TEMPORARY_FAILURE; who rekeys it answers the DELETE as usual.
    (
        "rekey child",
        "delete child",
        [
            "a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}",
            "<-- b INFORMATIONAL {D}",
            "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
            "a --> INFORMATIONAL {D}",
        ],
        0,
        1,
    ),
    # s2.25.2: TEMPORARY_FAILURE to each other; both again after a pause.
    (
        "rekey child",
        "rekey IKE",
        [
            "a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {SA, Ni, KE}",
            "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
            "a --> CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
            "a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
            "a --> INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {D}",
            "<-- b CREATE_CHILD_SA {SA, Ni, KE}",
            "a --> CREATE_CHILD_SA {SA, Nr, KE}",
            "<-- b INFORMATIONAL {D}",
            "a --> INFORMATIONAL {}",
        ],
        1,
        1,
    ),
    # s2.25.2: nothing new on an IKE SA that is being closed.
    (
        "rekey child",
        "delete IKE",
        [
            "a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}",
            "<-- b INFORMATIONAL {D}",
            "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
            "a --> INFORMATIONAL {}",
        ],
        0,
        0,
    ),
    # Two different Child SAs: as usual.
    (
        "rekey child",
        "create child",
        [
            "a --> CREATE_CHILD_SA {N(REKEY_SA), SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
            "a --> CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
            "a --> INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {D}",
        ],
        2,
        1,
    ),
    # s1.4.1: whose DELETE is under way does not name the SA again.
    (
        "delete child",
        "delete child",
        [
            "a --> INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {}",
            "a --> INFORMATIONAL {}",
        ],
        0,
        1,
    ),
    # s2.25.2: the DELETE is answered as usual, the rekey comes again later.
    (
        "delete child",
        "rekey IKE",
        [
            "a --> INFORMATIONAL {D}",
            "<-- b CREATE_CHILD_SA {SA, Ni, KE}",
            "<-- b INFORMATIONAL {D}",
            "a --> CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
            "<-- b CREATE_CHILD_SA {SA, Ni, KE}",
            "a --> CREATE_CHILD_SA {SA, Nr, KE}",
            "<-- b INFORMATIONAL {D}",
            "a --> INFORMATIONAL {}",
        ],
        0,
        1,
    ),
    # s2.25.2: the Child SA goes with the IKE SA.
    (
        "delete child",
        "delete IKE",
        [
            "a --> INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {}",
            "a --> INFORMATIONAL {}",
        ],
        0,
        0,
    ),
    # Two different Child SAs: as usual.
    (
        "delete child",
        "create child",
        [
            "a --> INFORMATIONAL {D}",
            "<-- b CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
            "<-- b INFORMATIONAL {D}",
            "a --> CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
        ],
        1,
        1,
    ),
    # s2.8.2: a's successor has the lowest nonce: a deletes it, b the old one.
    (
        "rekey IKE",
        "rekey IKE",
        [
            "a --> CREATE_CHILD_SA {SA, Ni, KE}",
            "<-- b CREATE_CHILD_SA {SA, Ni, KE}",
            "<-- b CREATE_CHILD_SA {SA, Nr, KE}",
            "a --> CREATE_CHILD_SA {SA, Nr, KE}",
            "a --> INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {}",
            "a --> INFORMATIONAL {}",
        ],
        1,
        1,
    ),
    # s2.25.2: the rekey is forgotten.
    (
        "rekey IKE",
        "delete IKE",
        [
            "a --> CREATE_CHILD_SA {SA, Ni, KE}",
            "<-- b INFORMATIONAL {D}",
            "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
            "a --> INFORMATIONAL {}",
        ],
        0,
        0,
    ),
    # s2.25.2: TEMPORARY_FAILURE to each other; both again after a pause.
    (
        "rekey IKE",
        "create child",
        [
            "a --> CREATE_CHILD_SA {SA, Ni, KE}",
            "<-- b CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
            "a --> CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
            "<-- b CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
            "a --> CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
            "a --> CREATE_CHILD_SA {SA, Ni, KE}",
            "<-- b CREATE_CHILD_SA {SA, Nr, KE}",
            "a --> INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {}",
        ],
        2,
        1,
    ),
    # s2.25.2: answered as usual, one's own request is forgotten.
    (
        "delete IKE",
        "delete IKE",
        [
            "a --> INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {D}",
            "<-- b INFORMATIONAL {}",
            "a --> INFORMATIONAL {}",
        ],
        0,
        0,
    ),
    # s2.25.2: nothing new on an IKE SA that is being closed.
    (
        "delete IKE",
        "create child",
        [
            "a --> INFORMATIONAL {D}",
            "<-- b CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
            "<-- b INFORMATIONAL {}",
            "a --> CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
        ],
        0,
        0,
    ),
    # As s2.8.1: a's has the lowest nonce and is deleted by a, once b has shown that it has its own.
    (
        "create child",
        "create child",
        [
            "a --> CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {SA, Ni, TSi, TSr}",
            "<-- b CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
            "a --> CREATE_CHILD_SA {SA, Nr, TSi, TSr}",
            "<-- b INFORMATIONAL {}",
            "a --> INFORMATIONAL {D}",
            "a --> INFORMATIONAL {}",
            "<-- b INFORMATIONAL {D}",
        ],
        2,
        1,
    ),
]


def two_children() -> Pair:
    """net1 stands, net2 does not."""
    both = {x: (child("net1", x), child("net2", x)) for x in "ab"}
    pair = Pair(connection("a", children=both["a"]), connection("b", children=both["b"]))
    pair.a.initiate("net1")
    pair.run(1.0)
    pair.a.next_nonces(b"\x00" * 32, b"\xff" * 32)
    pair.b.next_nonces(b"\x40" * 32, b"\x80" * 32)
    return pair


@pytest.mark.parametrize(
    ("of_a", "of_b", "transcript", "children", "ike_sas"), TABLE, ids=[f"{row[0]} x {row[1]}" for row in TABLE]
)
def test_collision(of_a: str, of_b: str, transcript: list[str], children: int, ike_sas: int) -> None:
    pair = two_children()
    mark = pair.mark()
    OPERATIONS[of_a](pair.a)
    OPERATIONS[of_b](pair.b)
    run_quiet(pair)
    assert pair.exchange(mark) == transcript
    assert len(pair.a.established) == ike_sas
    pair.check_converged(children=children)
    pair.check_forgotten()


def test_the_table_is_complete() -> None:
    names = list(OPERATIONS)
    assert [row[:2] for row in TABLE] == [(x, y) for at, x in enumerate(names) for y in names[at:]]
