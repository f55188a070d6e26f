"""What holds for all tests: those marked `slow` run only when asked for (`-m slow`)."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes minutes; runs with -m slow (make soak)")
    if not config.option.markexpr:
        config.option.markexpr = "not slow"
