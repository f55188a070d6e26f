"""Which of several IKE SAs stays: one order, whatever came to stand first (RFC 7296 s2.8.1, s2.8.3)."""

from __future__ import annotations

from itertools import combinations, count, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipsecfast.ike.origin import MAX_KNOWN, Origin, last


class End:
    """What one end sees of all IKE SAs between two."""

    def __init__(self) -> None:
        self.order = count(1)
        self.origins: list[Origin] = []

    def begin(self, *, began: bool = True) -> Origin:
        return Origin(began=began, begun=next(self.order))

    def stand(self, origin: Origin, number: int) -> Origin:
        nonces = bytes([number]) * 32, b"\xff" * 32
        origin.came_up(nonces, self.origins, next(self.order))
        origin.proved = True
        self.origins.append(origin)
        return origin

    def new(self, number: int, *, began: bool = True) -> Origin:
        return self.stand(self.begin(began=began), number)


def test_what_is_begun_later_stays() -> None:
    end = End()
    first, second, third = end.new(9), end.new(1, began=False), end.new(5)
    assert third.comes_after(second)
    assert third.comes_after(first)
    assert not first.comes_after(third)
    assert last([first, third, second]) is third


@pytest.mark.parametrize(("ours", "theirs"), [(1, 2), (2, 1)])
def test_of_two_beside_each_other_the_lowest_nonce_goes(ours: int, theirs: int) -> None:
    end = End()
    end.new(9)
    mine, others = end.begin(), end.begin(began=False)
    end.stand(mine, ours)
    end.stand(others, theirs)
    assert mine.before is others.before is end.origins[0]
    assert mine.prevails(others) is (ours > theirs)
    assert others.prevails(mine) is (ours < theirs)


def test_one_that_the_peer_never_had() -> None:
    """The same end authenticates itself again without a word on the one before: it never had that one's IKE_AUTH
    response, so to it there was none."""
    end = End()
    end.new(9)
    beside, unheard = end.begin(), end.begin(began=False)
    end.stand(unheard, 1)
    unheard.proved = False
    again = end.new(4, began=False)
    end.stand(beside, 2)
    assert unheard.void
    assert again.before is end.origins[0]
    assert last(end.origins) is again


@given(st.data())
def test_the_order_in_which_they_come_to_stand_does_not_count(data: st.DataObject) -> None:
    """Any tree: each has come after one of those before it; what was begun beside others by the same end is what the
    other end began. All orders in which they can come to stand give the same judgement."""
    size = data.draw(st.integers(2, 5))
    parents = [None, *(data.draw(st.integers(0, n - 1)) for n in range(1, size))]
    numbers = data.draw(st.permutations(range(1, size + 1)))
    judged = set()
    for order in permutations(range(1, size)):
        if any(parents[n] and order.index(parents[n]) > order.index(n) for n in order):
            continue
        end = End()
        made = {0: end.new(numbers[0])}
        for n in order:  # what it came after is given, as times and roles would tell
            made[n] = end.stand(end.begin(), numbers[n])
            made[n].before = made[parents[n] or 0]
        for x, y in combinations(range(size), 2):
            assert made[x].prevails(made[y]) is not made[y].prevails(made[x])
        judged.add(next(n for n, origin in made.items() if origin is last(end.origins)))
    assert len(judged) == 1


def test_what_is_long_over_is_forgotten() -> None:
    """And with it what was begun beside the next one, which must not come up again for want of what came before."""
    end = End()
    end.new(1)
    beside, other = end.begin(), end.begin(began=False)
    end.stand(beside, 200)
    end.stand(other, 100)
    winner = beside
    for _ in range(2 * MAX_KNOWN):
        assert last(end.origins) is winner
        winner = end.new(3)
        assert len(winner.known) <= MAX_KNOWN
        assert len(winner._line()) <= MAX_KNOWN
    assert other.void
    assert winner.prevails(other)
