"""On which line of a TOML text each key stands: `tomllib` gives the values, this gives their places.

The text has been read by `tomllib` before, so it is known to be valid TOML 1.0; what is left is to tell keys, strings,
arrays and inline tables apart. No value is interpreted here.
"""

from __future__ import annotations

import re
import tomllib
from typing import TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[ \t]*\.[ \t]*)+""")
_STRING = re.compile(r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*\'''', re.DOTALL)
_BARE_VALUE = re.compile(r"[^,\]}\n#]+")


def key_lines(text: str) -> dict[KeyPath, int]:
    """Line (from 1) of every key, table header and array element of a valid TOML text, by its path."""
    return _Scanner(text).scan()


class _Scanner:
    """One pass over the text; `at` is the next character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[KeyPath, int] = {}
        self.table_counts: dict[KeyPath, int] = {}

    def scan(self) -> dict[KeyPath, int]:
        table: KeyPath = ()
        self._blank()
        while self.at < len(self.text):
            if self.text.startswith("[[", self.at):
                table = self._header("[[", "]]", array=True)
            elif self.text[self.at] == "[":
                table = self._header("[", "]", array=False)
            else:
                self._key_value(table)
            self._blank()
        return self.lines

    def _header(self, opening: str, closing: str, *, array: bool) -> KeyPath:
        self.at += len(opening)
        self._blank()
        line = self._line()
        path = self._resolve(self._key())
        if array:
            index = self.table_counts.get(path, 0)
            self.table_counts[path] = index + 1
            self.lines.setdefault(path, line)
            path = (*path, index)
        self.lines.setdefault(path, line)
        self._blank()
        self.at += len(closing)
        return path

    def _resolve(self, key: KeyPath) -> KeyPath:
        """Inside an array of tables a header means its newest element: `[a.b]` after `[[a]]` is a[-1].b."""
        path: KeyPath = ()
        for part in key[:-1]:
            path = (*path, part)
            if path in self.table_counts:
                path = (*path, self.table_counts[path] - 1)
        return (*path, key[-1])

    def _key_value(self, table: KeyPath) -> None:
        line = self._line()
        key = self._key()
        for end in range(1, len(key) + 1):
            self.lines.setdefault((*table, *key[:end]), line)
        self._blank()
        self.at += 1  # "="
        self._blank()
        self._value((*table, *key))

    def _key(self) -> KeyPath:
        start = self.at
        self._skip(_KEY)
        node: object = tomllib.loads(f"{self.text[start : self.at]} = 0")
        path: list[str] = []
        while isinstance(node, dict):
            name, node = next(iter(node.items()))
            path.append(name)
        return tuple(path)

    def _value(self, path: KeyPath) -> None:
        if self.text[self.at] == "[":
            self._array(path)
        elif self.text[self.at] == "{":
            self._inline_table(path)
        elif self.text[self.at] in "\"'":
            self._skip(_STRING)
        else:
            self._skip(_BARE_VALUE)

    def _array(self, path: KeyPath) -> None:
        self.at += 1
        self._blank()
        index = 0
        while self.text[self.at] != "]":
            self.lines.setdefault((*path, index), self._line())
            self._value((*path, index))
            index += 1
            self._comma()
        self.at += 1

    def _inline_table(self, path: KeyPath) -> None:
        self.at += 1
        self._blank()
        while self.text[self.at] != "}":
            self._key_value(path)
            self._comma()
        self.at += 1

    def _comma(self) -> None:
        self._blank()
        if self.text[self.at] == ",":
            self.at += 1
            self._blank()

    def _blank(self) -> None:
        self._skip(_BLANK)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise ValueError(f"line {self._line()} is not valid TOML")
        self.at = match.end()

    def _line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1
