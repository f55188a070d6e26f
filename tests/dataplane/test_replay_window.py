"""The anti-replay window beside a naive one: a set of all numbers ever accepted (RFC 4303 s3.4.3, app. A)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecfast.dataplane import ReplayWindow
from ipsecfast.errors import DataPlaneError

SIZES = (64, 65, 100, 128, 1000, 2048, 65536)


class NaiveWindow:
    """What the RFC says, without any cleverness."""

    def __init__(self, size: int, esn: bool) -> None:
        self.size, self.esn, self.top, self.seen = size, esn, 0, set[int]()

    def check(self, number: int) -> bool:
        last = 2**64 - 1 if self.esn else 2**32 - 1
        return 0 < number <= last and number + self.size > self.top and number not in self.seen

    def update(self, number: int) -> bool:
        accepted = self.check(number)
        if accepted:
            self.seen.add(number)
            self.top = max(self.top, number)
        return accepted

    def reconstruct(self, low: int) -> int:
        """Appendix A2.2: of all numbers with these lower bits the one that fits the window."""
        if not self.esn:
            return low
        top_high, top_low = self.top >> 32, self.top & 0xFFFFFFFF
        if top_low >= self.size - 1:
            high = top_high if low >= top_low - self.size + 1 else top_high + 1
        else:
            below = low >= (top_low - self.size + 1) % 2**32
            if below and top_high == 0:
                return 0  # before the first packet: never valid
            high = top_high - 1 if below else top_high
        return high << 32 | low


def steps(size: int) -> st.SearchStrategy[list[int]]:
    """Numbers relative to the top: near it, around the window's left edge, and jumps over it."""
    near = st.integers(-3, 3)
    edge = st.integers(-size - 3, -size + 3)
    return st.lists(st.one_of(near, edge, st.integers(-2 * size, 3 * size), st.just(10 * size)), max_size=200)


@pytest.mark.parametrize("esn", [False, True], ids=["32", "esn"])
@pytest.mark.parametrize("size", SIZES)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_accepts_what_the_naive_window_accepts(size: int, esn: bool, data: st.DataObject) -> None:
    window, naive = ReplayWindow(size, esn=esn), NaiveWindow(size, esn)
    start = data.draw(st.sampled_from([1, 2**31, 2**32 - 2 * size, *([2**32 - 1, 2**40, 2**63] if esn else [])]))
    for step in [start - naive.top, *data.draw(steps(size))]:
        number = naive.top + step
        if not 0 <= number < (2**64 if esn else 2**32):
            continue
        assert window.check(number) == naive.check(number)
        assert window.update(number) == naive.update(number)
        assert window.top == naive.top


@given(st.lists(st.integers(0, 400), max_size=1000))
@settings(max_examples=60, deadline=None)
def test_an_array_of_numbers_is_the_same_as_one_after_the_other(numbers: list[int]) -> None:
    naive = NaiveWindow(64, esn=False)
    accepted = ReplayWindow(64).accept(np.array(numbers, np.uint64))
    assert accepted.dtype == np.uint8
    assert accepted.tolist() == [naive.update(number) for number in numbers]


@pytest.mark.parametrize("size", [64, 2048, 65536])
@given(top=st.integers(1, 2**64 - 1), distance=st.integers(-(2**17), 2**17))
@settings(max_examples=200, deadline=None)
def test_the_upper_half_of_an_extended_number_is_found(size: int, top: int, distance: int) -> None:
    window, naive = ReplayWindow(size, esn=True), NaiveWindow(size, esn=True)
    assert window.update(top)
    naive.update(top)
    low = (top + distance) & 0xFFFFFFFF
    assert window.reconstruct(low) == naive.reconstruct(low) % 2**64
    if -size < distance < 2**31 and 0 < top + distance < 2**64:
        assert window.reconstruct(low) == top + distance


def test_zero_is_never_a_sequence_number() -> None:
    """RFC 4303 s2.2: the first packet of an SA has number 1."""
    window = ReplayWindow()
    assert not window.check(0)
    assert not window.update(0)
    assert window.top == 0


def test_every_order_of_a_window_is_accepted_once() -> None:
    order = np.random.default_rng(1).permutation(2048).astype(np.uint64) + 1
    window = ReplayWindow(2048)
    assert window.accept(order).all()
    assert not window.accept(order).any()


@pytest.mark.parametrize("size", [1, 63, 65537, 2**32 - 1])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(DataPlaneError, match=str(size)):
        ReplayWindow(size)


def test_without_esn_numbers_end_at_32_bits() -> None:
    window = ReplayWindow()
    assert window.accept(np.array([2**32 - 1, 2**32, 2**63], np.uint64)).tolist() == [1, 0, 0]
    for method in (window.check, window.update):
        with pytest.raises(ValueError, match=str(2**32)):
            method(2**32)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_what_is_no_sequence_number_is_a_value_error(number: int) -> None:
    window = ReplayWindow()
    for method in (window.check, window.update, window.reconstruct):
        with pytest.raises(ValueError, match=str(number)):
            method(number)
