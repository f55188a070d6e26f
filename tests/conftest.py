"""What holds for all tests: those marked `slow` or `matrix` run only when asked for (`-m slow`, `-m matrix`)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings


def pytest_configure(config: pytest.Config) -> None:
    # A busy machine refutes no property.
    settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("untimed")
    config.addinivalue_line("markers", "slow: takes minutes; runs with -m slow (make soak)")
    config.addinivalue_line("markers", "matrix: needs peers that ci/peers fetches; runs with -m matrix (make interop)")
    if not config.option.markexpr:
        config.option.markexpr = "not slow and not matrix"
