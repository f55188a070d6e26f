"""What the IKE core wants computed, in threads and processes: every result comes back, in the event loop."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from functools import partial

from ipsecfast.ike.actions import Compute
from ipsecfast.ike.constants import InvalidSyntax
from ipsecfast.ike.crypto.primitives import generate_key_exchange, make_key_exchange
from ipsecfast.workshop import Workshop


class Bench:
    """A workshop with one worker, and what it delivered."""

    def __init__(self, *works: Compute) -> None:
        self.results: list[tuple[int, object]] = []
        self.threads: set[int] = set()
        self._works = works

    def run(self) -> Bench:
        asyncio.run(self._run())
        return self

    async def _run(self) -> None:
        done = asyncio.Event()

        def deliver(job: int, result: object) -> None:
            self.results.append((job, result))
            self.threads.add(threading.get_ident())
            if len(self.results) == len(self._works):
                done.set()

        workshop = Workshop(deliver, workers=1)
        try:
            for work in self._works:
                workshop.submit(work)
            await asyncio.wait_for(done.wait(), 60)
        finally:
            workshop.close()


def work(job: int, call: Callable[[], object], *, urgent: bool = True, holds: bool = False) -> Compute:
    return Compute(job, call, urgent=urgent, holds_interpreter=holds)


def refuse() -> None:
    raise InvalidSyntax("no value")


def test_results_and_errors_come_back_to_the_event_loop() -> None:
    made = Bench(work(1, lambda: 5), work(2, refuse)).run()
    assert made.results[0] == (1, 5)
    assert isinstance(made.results[1][1], InvalidSyntax)
    assert made.threads == {threading.get_ident()}


def test_what_is_urgent_goes_first() -> None:
    works = (work(n, lambda: None, urgent=n in (4, 5)) for n in range(6))
    assert [job for job, _ in Bench(*works).run().results] == [0, 4, 5, 1, 2, 3]


def test_a_process_makes_the_same_keys() -> None:
    private = bytes(range(40))
    ours = make_key_exchange(14, private)
    theirs = generate_key_exchange(14, os.urandom)
    made = Bench(
        work(1, partial(make_key_exchange, 14, private), holds=True),
        work(2, partial(ours.shared_secret, theirs.public), holds=True),
        work(3, partial(ours.shared_secret, b"too short"), holds=True),
        work(4, os.getpid, holds=True),
    ).run()
    results = dict(made.results)
    assert results[1] == ours
    assert results[2] == theirs.shared_secret(ours.public)
    assert isinstance(results[3], InvalidSyntax)
    assert results[4] != os.getpid()


def test_a_process_that_dies_is_replaced() -> None:
    made = Bench(
        work(1, partial(signal.raise_signal, signal.SIGKILL), holds=True), work(2, os.getpid, holds=True)
    ).run()
    assert [job for job, _ in made.results] == [1, 2]
    assert isinstance(made.results[0][1], Exception)
    assert isinstance(made.results[1][1], int)
