"""The counting of numbered packets, beside the naive way to count; and what else of the test bed needs no namespace."""

from __future__ import annotations

import tomllib
from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP
from scapy.packet import Raw

from ipsecfast.lab.netns import A, B
from ipsecfast.lab.testbed import toml_text, tunnel_config
from ipsecfast.lab.traffic import Tally, icmp_message


@given(st.lists(st.lists(st.integers(0, 40), min_size=1, max_size=20), max_size=10))
def test_tally_counts_as_a_counter_does(batches: list[list[int]]) -> None:
    tally = Tally(np.zeros(4, dtype=np.uint8))
    for batch in batches:
        tally.add(np.array(batch, dtype=np.int64))
    numbers = [number for batch in batches for number in batch]
    result = tally.result()
    missing = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
    assert result["received"] == len(numbers)
    assert result["distinct"] == len(Counter(numbers))
    assert result["duplicates"] == len(numbers) - len(set(numbers))
    assert result["gaps"] == len(missing)
    assert result["longest_gap"] == longest_run(missing)
    highest_before = [max(numbers[:index], default=-1) for index in range(len(numbers))]
    assert result["reordered"] == sum(number < top for number, top in zip(numbers, highest_before, strict=True))


def longest_run(numbers: list[int]) -> int:
    best = run = 0
    for index, number in enumerate(numbers):
        run = run + 1 if index and numbers[index - 1] == number - 1 else 1
        best = max(best, run)
    return best


@given(st.binary(max_size=60))
def test_icmp_message_has_the_checksum_of_rfc_792(data: bytes) -> None:
    body = b"\x12\x34\x00\x07" + data
    assert icmp_message(4, 8, body) == bytes(ICMP(type=8, id=0x1234, seq=7) / Raw(data))


def test_generated_configuration_is_toml() -> None:
    config = tunnel_config(A, B, outer=6, inner=(4, 6), connection={"encap": True}, child={"mode": "tunnel"})
    read = tomllib.loads(toml_text(config))
    assert read["connections"] == config["connections"]
    assert read["secrets"] == config["secrets"]
