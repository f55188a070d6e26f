"""What the IKE core wants computed (`Compute`), beside the event loop: in threads, or in processes where the library
keeps Python's lock.

At most as many computations are under way as there are workers; what waits, waits here, and what is urgent first: so a
crowd of strangers can't keep a peer that is known from its rekey.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context

from ipsecfast.errors import ProtocolError
from ipsecfast.ike.actions import Compute
from ipsecfast.logs import LOGGER

Deliver = Callable[[int, object], None]


class Workshop:
    """`deliver(job, result or exception)` is called in the event loop. `close` waits for nothing."""

    def __init__(self, deliver: Deliver, workers: int = 0) -> None:
        self._deliver = deliver
        self._workers = workers or max(1, (os.cpu_count() or 1) - 1)
        self._threads = _Room(self._workers, lambda: ThreadPoolExecutor(self._workers, "ike-work"))
        self._processes = _Room(self._workers, lambda: _processes(self._workers))

    def submit(self, work: Compute) -> None:
        """Some time later, `deliver`."""
        room = self._processes if work.holds_interpreter else self._threads
        (room.urgent if work.urgent else room.other).append(work)
        self._go_on(room)

    def _go_on(self, room: _Room) -> None:
        while room.free and (queue := room.urgent or room.other):
            work = queue.popleft()
            room.free -= 1
            future = asyncio.get_running_loop().run_in_executor(room.executor(), work.call)
            future.add_done_callback(partial(self._done, room, work))

    def _done(self, room: _Room, work: Compute, future: asyncio.Future[object]) -> None:
        room.free += 1
        if future.cancelled():
            return
        error = future.exception()
        if error is not None and not isinstance(error, ProtocolError):
            LOGGER.error("work for IKE failed", exc_info=error, extra={"event": "bug"})
        if isinstance(error, BrokenProcessPool):  # somebody killed one: the next work gets new ones
            room.renew()
        self._go_on(room)
        self._deliver(work.job, error if error is not None else future.result())

    def close(self) -> None:
        for room in (self._threads, self._processes):
            room.close()


def _processes(workers: int) -> ProcessPoolExecutor:
    """Spawned, not forked: they inherit neither files nor keys. An interrupt is for the gateway, which ends them."""
    return ProcessPoolExecutor(workers, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN))


class _Room:
    """One kind of workers, made when the first work comes."""

    def __init__(self, places: int, make: Callable[[], Executor]) -> None:
        self.free = places
        self.urgent: deque[Compute] = deque()
        self.other: deque[Compute] = deque()
        self._make = make
        self._executor: Executor | None = None

    def executor(self) -> Executor:
        if self._executor is None:
            self._executor = self._make()
        return self._executor

    def renew(self) -> None:
        self.close()
        self._executor = None

    def close(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)
