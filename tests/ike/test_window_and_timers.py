"""Message IDs, retransmission and the timer queue by themselves."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from ipsecfast.ike.timers import Backoff, Bucket, RateLimit, Timer, TimerQueue
from ipsecfast.ike.window import Arrival, Window


class Owner:
    def on_timer(self, timer: Timer, now: float) -> None: ...


def test_requests_are_taken_in_turn_and_the_last_is_answered_again() -> None:
    window = Window()
    assert window.classify(False, 0, b"first") is Arrival.NEW_REQUEST
    window.answered(b"first", (b"answer",))
    assert window.classify(False, 0, b"first") is Arrival.DUPLICATE_REQUEST
    assert window.cached_response == (b"answer",)
    assert window.classify(False, 0, b"not bit by bit the same") is Arrival.OUT_OF_WINDOW
    assert window.classify(False, 1, b"next") is Arrival.NEW_REQUEST
    assert window.classify(False, 2, b"too early") is Arrival.OUT_OF_WINDOW
    window.answered(b"next", (b"another answer",))
    assert window.classify(False, 0, b"first") is Arrival.OUT_OF_WINDOW


def test_only_the_outstanding_request_has_a_response() -> None:
    window = Window()
    assert window.classify(True, 0, b"r") is Arrival.OUT_OF_WINDOW
    window.sent((b"q",))
    with pytest.raises(RuntimeError):
        window.sent((b"a second one",))
    assert window.classify(True, 1, b"r") is Arrival.OUT_OF_WINDOW
    assert window.classify(True, 0, b"r") is Arrival.EXPECTED_RESPONSE
    window.concluded()
    assert window.classify(True, 0, b"r") is Arrival.OUT_OF_WINDOW
    assert window.next_request == 1


def test_a_restarted_request_keeps_its_message_id() -> None:
    window = Window()
    window.sent((b"q",))
    window.restart()
    window.sent((b"q with a cookie",))
    assert window.outstanding is not None
    assert window.outstanding.message_id == 0


def test_strongswans_backoff() -> None:
    """4 s, then 1.8 times as long each time; given up after 165 s."""
    backoff = Backoff(jitter=0.0)
    waits = [backoff.wait(n, random.Random(1).randbytes) for n in range(6)]
    assert [round(w, 1) for w in waits] == [4.0, 7.2, 13.0, 23.3, 42.0, 75.6]
    assert round(sum(waits)) == round(backoff.total) == 165


def test_jitter_only_shortens() -> None:
    rng = random.Random(1)
    waits = [Backoff().wait(0, rng.randbytes) for _ in range(200)]
    assert 3.6 <= min(waits) < 3.7
    assert 3.9 < max(waits) <= 4.0


def test_the_queue_against_a_plain_table() -> None:
    """A thousand random sets, moves and clears; the oracle is a dictionary."""
    rng = random.Random(7)
    queue, oracle = TimerQueue(), {}
    owners = [Owner() for _ in range(10)]
    now = 0.0
    for _ in range(1000):
        owner, timer = rng.choice(owners), rng.choice(list(Timer))
        match rng.randrange(4):
            case 0 | 1:
                deadline = now + rng.randrange(1, 50)
                queue.set(owner, timer, deadline)
                oracle[owner, timer] = deadline
            case 2:
                queue.clear(owner, timer)
                oracle.pop((owner, timer), None)
            case 3:
                now += rng.randrange(5)
                fired = []
                while due := queue.pop_due(now):
                    fired.append(due)
                assert set(fired) == {key for key, when in oracle.items() if when <= now}
                times = [oracle.pop(key) for key in fired]
                assert all(a <= b for a, b in pairwise(times))
        assert queue.next() == min(oracle.values(), default=None)
        assert len(queue) == len(oracle)
    queue.clear_all(owners[0])
    assert not any(queue.deadline(owners[0], timer) for timer in Timer)


def test_rate_limit() -> None:
    bucket = Bucket(RateLimit(interval=2.0, burst=3))
    assert [bucket.take(10.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(11.0) is False
    assert bucket.take(12.1) is True
    assert bucket.take(12.1) is False
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False]


def test_stale_entries_of_the_queue_do_not_pile_up() -> None:
    """A peer that makes and deletes SAs all day leaves nothing of them until their lifetimes would have been over."""
    queue, keeper = TimerQueue(), Owner()
    queue.set(keeper, Timer.EXPIRE, 50_000.0)
    for number in range(10_000):
        owner = Owner()
        queue.set(owner, Timer.EXPIRE, 100_000.0 + number)
        queue.clear_all(owner)
    assert len(queue._heap) < 100
    assert queue.next() == 50_000.0
    assert queue.pop_due(60_000.0) == (keeper, Timer.EXPIRE)
