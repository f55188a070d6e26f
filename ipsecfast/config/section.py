"""Reading one table of a TOML file key by key, and collecting everything that is wrong with it.

A `Report` belongs to one file. A `Section` is one table in it: every key that is asked for is known from then on, what
is left over at the end is a mistake of the one who typed it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from ipsecfast.config.lines import KeyPath
from ipsecfast.errors import ConfigProblem

T = TypeVar("T")
Parse = Callable[[object], T]

_SHOWN_VALUE = 60


class Report:
    """The problems and warnings of one file. Values under `secrets`, or all if `secret`, never enter a message."""

    def __init__(self, file: str, lines: Mapping[KeyPath, int], *, secret: bool = False) -> None:
        self.file = file
        self.lines = lines
        self.secret = secret
        self.problems: list[ConfigProblem] = []
        self.warnings: list[ConfigProblem] = []

    def problem(self, path: KeyPath, value: object, message: str) -> None:
        entry = self._entry(path, value, message)
        if entry not in self.problems:  # a table that is read twice tells its mistake once
            self.problems.append(entry)

    def warning(self, path: KeyPath, value: object, message: str) -> None:
        self.warnings.append(self._entry(path, value, message))

    def _entry(self, path: KeyPath, value: object, message: str) -> ConfigProblem:
        hidden = value is None or self.secret or path[:1] == ("secrets",)
        shown = "" if hidden else _shown(value)
        return ConfigProblem(self.file, key_text(path), shown, message, self._line(path))

    def _line(self, path: KeyPath) -> int | None:
        """The line of the key itself or of the nearest table around it."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return None


def key_text(path: KeyPath) -> str:
    """`("connections", "b", "proposals", 0)` as an operator writes it: `connections.b.proposals[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _shown(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # TOML has dates, JSON hasn't
        text = str(value)
    return text if len(text) <= _SHOWN_VALUE else text[: _SHOWN_VALUE - 3] + "..."


class Section:
    """One table: takes values out by key, parsed; a wrong value is reported and replaced by the default."""

    def __init__(self, report: Report, path: KeyPath, data: Mapping[str, object]) -> None:
        self.report = report
        self.path = path
        self._data = data
        self._known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def take(self, key: str, parse: Parse[T], default: T) -> T:
        """The value of `key` through `parse`, whose ValueError says what would be right."""
        self._known.add(key)
        if key not in self._data:
            return default
        return self._parsed((*self.path, key), self._data[key], parse, default)

    def require(self, key: str, parse: Parse[T], default: T, why: str) -> T:
        if key not in self._data:
            self._known.add(key)
            self.problem(key, None, f"missing: {why}")
            return default
        return self.take(key, parse, default)

    def take_list(self, key: str, parse: Parse[T], default: Sequence[T]) -> tuple[T, ...]:
        """Like `take` for a list; a single value stands for a list of one. An empty list is a mistake."""
        self._known.add(key)
        if key not in self._data:
            return tuple(default)
        value = self._data[key]
        if not isinstance(value, list):
            items: list[tuple[KeyPath, object]] = [((*self.path, key), value)]
        else:
            items = [((*self.path, key, index), item) for index, item in enumerate(value)]
        if not items:
            self.problem(key, value, "the list is empty: give at least one value, or leave the key out")
        return tuple(one for path, item in items for one in self._parsed_or_none_of_it(path, item, parse))

    def section(self, key: str) -> Section:
        """The table under `key`; an empty one if it isn't there."""
        self._known.add(key)
        value = self._data.get(key, {})
        if not isinstance(value, dict):
            self.problem(key, value, f"is a table: write [{key_text((*self.path, key))}] and its keys below it")
            value = {}
        return Section(self.report, (*self.path, key), value)

    def sections(self, key: str) -> Iterator[tuple[str, Section]]:
        """The named tables under `key`, in the order of the file."""
        around = self.section(key)
        for name in around._data:
            yield name, around.section(name)

    def array(self, key: str) -> Iterator[Section]:
        """The tables of `[[key]]`, in the order of the file."""
        self._known.add(key)
        value = self._data.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            self.problem(key, value, f"is a list of tables: write [[{key_text((*self.path, key))}]] before each")
            return
        for index, item in enumerate(value):
            yield Section(self.report, (*self.path, key, index), item)

    def problem(self, key: str, value: object, message: str) -> None:
        self.report.problem((*self.path, key), value, message)

    def warning(self, key: str, message: str) -> None:
        self.report.warning((*self.path, key), None, message)

    def finish(self) -> None:
        """Reports every key that nobody asked for, with the known key that looks most like it."""
        for key, value in self._data.items():
            if key in self._known:
                continue
            near = difflib.get_close_matches(key, sorted(self._known), 1, 0.6)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(self._known))}"
            self.problem(key, None if isinstance(value, dict | list) else value, f"unknown key; {hint}")

    def _parsed_or_none_of_it(self, path: KeyPath, value: object, parse: Parse[T]) -> tuple[T, ...]:
        return self._parsed(path, value, lambda one: (parse(one),), ())

    def _parsed(self, path: KeyPath, value: object, parse: Parse[T], default: T) -> T:
        try:
            return parse(value)
        except ValueError as error:
            self.report.problem(path, value, str(error))
            return default
