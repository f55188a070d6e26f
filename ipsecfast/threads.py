"""The worker threads of a gateway: how many, on which CPUs, and their life.

Every worker carries both directions: worker i has queue i of the TUN device and socket i of every group, and what it
receives it also sends. So all cores work whatever the directions' shares are.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path as FilePath

from ipsecfast.config import GatewayConfig, PollMode
from ipsecfast.configured import ConnectionConfig
from ipsecfast.dataplane import DataPlane, Port, Worker
from ipsecfast.errors import SetupError
from ipsecfast.steps import Steps

AUTO_WORKERS = 16  # at most, unless the operator asks for more: each has its own sockets and buffers


def worker_count(config: GatewayConfig) -> int:
    """As configured; by default one for each CPU that is pinned to, or that this process may use."""
    if config.workers is not None:
        return config.workers
    return len(config.pin) if isinstance(config.pin, tuple) else min(AUTO_WORKERS, len(os.sched_getaffinity(0)))


def with_workers(connection: ConnectionConfig, count: int) -> ConnectionConfig:
    """`per_cpu_sas = true` stands for one for each worker."""
    children = (replace(c, per_cpu_sas=count) if c.per_cpu_sas is None else c for c in connection.children)
    return replace(connection, children=tuple(children))


def cpus_of(config: GatewayConfig, count: int) -> list[int | None]:
    """The CPU of each worker, None where it may run anywhere. Fewer CPUs than workers are shared.

    Raises SetupError if a CPU is named that this process may not use.
    """
    usable = sorted(os.sched_getaffinity(0))
    if not config.pin:
        return [None] * count
    cpus = config.pin if isinstance(config.pin, tuple) else tuple(usable)
    missing = [cpu for cpu in cpus if cpu not in usable]
    if missing:
        raise SetupError(f"gateway.pin names CPU {missing[0]}, but this process may use {usable}")
    return [cpus[i % len(cpus)] for i in range(count)]


def start_workers(
    plane: DataPlane,
    config: GatewayConfig,
    ports: Sequence[tuple[Sequence[Port], Sequence[Port]]],
    steps: Steps,
    failed: Callable[[BaseException], None],
) -> None:
    """A worker for each pair (inner ports, outer ports), in their order. `failed` is called in a thread that ends by an
    exception. Raises DataPlaneError, SetupError."""
    cpus = cpus_of(config, len(ports))
    busy = config.poll is PollMode.BUSY
    workers = [plane.add_worker(f"ipsf-worker{i}", inner, outer, busy=busy) for i, (inner, outer) in enumerate(ports)]
    for worker, cpu in zip(workers, cpus, strict=True):  # all of them are there before one runs
        thread = threading.Thread(target=_run_worker, args=(worker, cpu, failed), name=worker.name)
        thread.start()
        steps.add(f"worker {worker.name}", partial(_stop_worker, worker, thread))


def _run_worker(worker: Worker, cpu: int | None, failed: Callable[[BaseException], None]) -> None:
    thread = threading.current_thread()
    try:
        FilePath(f"/proc/self/task/{thread.native_id}/comm").write_text(thread.name)
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})  # of this thread alone
        worker.run()
    except BaseException as error:  # whatever it was, a gateway without a worker must not look alive
        failed(error)


def _stop_worker(worker: Worker, thread: threading.Thread) -> None:
    worker.stop()
    thread.join()
