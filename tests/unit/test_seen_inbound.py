"""Which inbound SAs carried packets since the last look, while SAs come and go in any order; beside a plain dict."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecfast.arrays import SA_COUNT_DTYPE
from ipsecfast.forwarding import grown_since

looks = st.lists(st.dictionaries(st.integers(256, 280), st.integers(0, 3), max_size=12), max_size=6)


@given(looks=looks, seed=st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_grown_are_those_with_more_packets_than_before(looks: list[dict[int, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    before: dict[int, int] = {}
    known: Any = np.zeros(0, SA_COUNT_DTYPE)
    for look in looks:
        counts = np.zeros(len(look), SA_COUNT_DTYPE)
        counts["spi"], counts["packets"] = list(look), list(look.values())
        random.shuffle(cast(Any, counts))
        assert sorted(grown_since(known, counts)) == sorted(spi for spi, n in look.items() if n > before.get(spi, 0))
        before, known = look, counts
