"""How the gateway tells what happens: a line that a person can read, or a JSON object a line; floods are thinned."""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

from ipsecfast.ike.actions import Notify

LOGGER = logging.getLogger("ipsecfast")
SUPPRESSION_TIME = 10.0  # seconds in which a key of `Notify` is logged once

_LEVEL_WORDS = {logging.DEBUG: "debug", logging.INFO: "info", logging.WARNING: "warning", logging.ERROR: "error"}


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def set_up_logging(log_format: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Sends the log of this package to stderr (or `stream`), and to nowhere else."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False
    # No line names threads, processes or source lines: looking for them is half of what a line costs (logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.000 warning the sentence`, which names connection and child itself."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return f"{time} {level_word(record.levelno):<7} {record.getMessage()}{trace}"


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, event, message; connection, child and more fields where they are known."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, str | int] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": level_word(record.levelno),
            "event": getattr(record, "event", "log"),
            "message": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def level_word(level: int) -> str:
    return _LEVEL_WORDS.get(level, logging.getLevelName(level).lower())


def log_event(level: int, event: str, message: str, *, connection: str = "", child: str = "", **details: str) -> None:
    """One event of the gateway: the stable word `event` is for programs, the sentence for people."""
    fields = {"connection": connection, "child": child, **details}
    extra = {"event": event, "fields": {key: value for key, value in fields.items() if value}}
    LOGGER.log(level, "%s", message, extra=extra)


def log_notify(notify: Notify, suppressed: int = 0) -> None:
    """A `Notify` of the IKE core; `suppressed` more of its kind were left out since the last one."""
    message, details = notify.message, dict(notify.details)
    if suppressed:
        message += f" ({suppressed} more like this were left out)"
        details["suppressed"] = str(suppressed)
    log_event(notify.level, notify.event, message, connection=notify.connection, child=notify.child, **details)


@dataclass(slots=True)
class _Window:
    """The time until which a key is silent, the last message that was left out, how many were."""

    until: float
    last: Notify
    suppressed: int = 0


class NotifyLimiter:
    """Lets one `Notify` of a key through in `SUPPRESSION_TIME` seconds and counts the others. Time is an argument."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}

    def passes(self, notify: Notify, now: float) -> bool:
        if not notify.key:
            return True
        window = self._windows.get(notify.key)
        if window is None:
            self._windows[notify.key] = _Window(now + SUPPRESSION_TIME, notify)
            return True
        window.last = notify  # `expired` will tell it, together with the number of the others
        window.suppressed += 1
        return False

    def expired(self, now: float) -> list[tuple[Notify, int]]:
        """To be called every second: of each key whose time is over the last message that was left out, and how many
        besides it; such a key stays limited, the others are forgotten."""
        over = [(key, window) for key, window in self._windows.items() if window.until <= now]
        told = []
        for key, window in over:
            del self._windows[key]
            if window.suppressed:
                told.append((window.last, window.suppressed - 1))
                self._windows[key] = _Window(now + SUPPRESSION_TIME, window.last)
        return told
