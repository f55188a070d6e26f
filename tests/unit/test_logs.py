"""What a log line looks like, and that floods of one kind are thinned without hiding their number."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from ipsecfast.ike.actions import Notify
from ipsecfast.logs import (
    LOGGER,
    SUPPRESSION_TIME,
    LogFormat,
    NotifyLimiter,
    log_event,
    log_notify,
    set_up_logging,
)

FLOOD = Notify("malformed", "a datagram is too short", logging.WARNING, key="malformed")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    before = LOGGER.handlers[:], LOGGER.level, LOGGER.propagate
    yield io.StringIO()
    LOGGER.handlers[:], LOGGER.level, LOGGER.propagate = before


def test_text_lines_have_level_and_sentence(stream: io.StringIO) -> None:
    set_up_logging(LogFormat.TEXT, "info", stream)
    log_notify(Notify("child_up", "Child SA is up, 100% of it", connection="b", child="net"))
    log_event(logging.ERROR, "failed", "no way")
    first, second = stream.getvalue().splitlines()
    assert first.endswith(" info    Child SA is up, 100% of it")
    assert second.endswith(" error   no way")


def test_json_lines_have_the_details_as_fields(stream: io.StringIO) -> None:
    set_up_logging(LogFormat.JSON, "debug", stream)
    log_notify(Notify("child_up", "up", connection="b", details=(("spi", "c0ffee00"),)), suppressed=3)
    entry = json.loads(stream.getvalue())
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "info",
        "event": "child_up",
        "message": "up (3 more like this were left out)",
        "connection": "b",
        "spi": "c0ffee00",
        "suppressed": "3",
    }


@pytest.mark.parametrize("log_format", list(LogFormat))
def test_a_traceback_is_kept(stream: io.StringIO, log_format: LogFormat) -> None:
    set_up_logging(log_format, "info", stream)
    try:
        raise RuntimeError("a bug")
    except RuntimeError:
        LOGGER.exception("it broke")
    assert "RuntimeError: a bug" in stream.getvalue()
    assert len(stream.getvalue().splitlines()) == 1 or log_format is LogFormat.TEXT


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    set_up_logging(LogFormat.TEXT, "warning", stream)
    log_event(logging.INFO, "quiet", "nobody hears this")
    assert stream.getvalue() == ""


def test_one_notify_of_a_key_passes_and_the_others_are_counted() -> None:
    limiter = NotifyLimiter()
    assert [limiter.passes(FLOOD, now) for now in (0.0, 1.0, 2.0, 3.0)] == [True, False, False, False]
    assert limiter.expired(SUPPRESSION_TIME - 0.1) == []
    assert limiter.expired(SUPPRESSION_TIME) == [(FLOOD, 2)]


def test_a_flood_that_goes_on_stays_limited_and_a_quiet_key_is_forgotten() -> None:
    limiter = NotifyLimiter()
    limiter.passes(FLOOD, 0.0)
    limiter.passes(FLOOD, 1.0)
    assert limiter.expired(SUPPRESSION_TIME) == [(FLOOD, 0)]
    assert not limiter.passes(FLOOD, SUPPRESSION_TIME + 1)
    assert limiter.expired(2 * SUPPRESSION_TIME) == [(FLOOD, 0)]
    assert limiter.expired(3 * SUPPRESSION_TIME) == []
    assert limiter.passes(FLOOD, 3 * SUPPRESSION_TIME + 1)


def test_keys_are_limited_apart_and_no_key_never() -> None:
    limiter = NotifyLimiter()
    other = Notify("other", "x", key="other")
    free = Notify("free", "x")
    assert all(limiter.passes(notify, 0.0) for notify in (FLOOD, other, free, free, free))
