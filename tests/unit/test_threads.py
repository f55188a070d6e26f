"""How many workers a gateway has, and where they run."""

from __future__ import annotations

import os

import pytest

from ipsecfast.config import GatewayConfig
from ipsecfast.errors import SetupError
from ipsecfast.threads import AUTO_WORKERS, cpus_of, worker_count


@pytest.fixture
def _four_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 2, 5, 7})


@pytest.fixture
def _many_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(200)))


@pytest.mark.usefixtures("_four_cpus")
def test_a_worker_for_each_cpu() -> None:
    assert worker_count(GatewayConfig("f", ())) == 4
    assert worker_count(GatewayConfig("f", (), workers=1)) == 1
    assert worker_count(GatewayConfig("f", (), pin=(5, 7))) == 2
    assert worker_count(GatewayConfig("f", (), workers=3, pin=(5, 7))) == 3


@pytest.mark.usefixtures("_many_cpus")
def test_no_more_than_can_be_fed() -> None:
    assert worker_count(GatewayConfig("f", ())) == AUTO_WORKERS
    assert worker_count(GatewayConfig("f", (), workers=64)) == 64


@pytest.mark.usefixtures("_four_cpus")
def test_where_they_run() -> None:
    assert cpus_of(GatewayConfig("f", ()), 2) == [None, None]
    assert cpus_of(GatewayConfig("f", (), pin=True), 6) == [1, 2, 5, 7, 1, 2]
    assert cpus_of(GatewayConfig("f", (), pin=(7, 2)), 3) == [7, 2, 7]
    with pytest.raises(SetupError, match=r"names CPU 3, but this process may use \[1, 2, 5, 7\]"):
        cpus_of(GatewayConfig("f", (), pin=(2, 3)), 2)
