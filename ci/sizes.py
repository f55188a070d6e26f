"""Sizes of functions and files: no function above 60 lines, no file above 650, unless its first line says why.

A file's first line gives the reason as `size: <why>`, in the comment syntax of its language.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

MAX_FUNCTION = 60
MAX_FILE = 650
FOLDERS = ("ipsecfast", "csrc", "tests", "bench", "ci")
PYX_DEF = re.compile(r"^(\s*)(?:async\s+)?(?:def|cdef|cpdef)\b[^=]*?(\w+)\s*\(")


def sources() -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted(Path(folder).rglob("*")):
            if path.suffix in {".py", ".pyx", ".c", ".h"} and path != Path("ipsecfast/dataplane.c"):
                yield path


def python_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """Name, first line and number of lines of each function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node.lineno, (node.end_lineno or node.lineno) - node.lineno + 1


def cython_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """The same by indentation: a function ends before the first line that is not indented deeper than its `def`."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        match = PYX_DEF.match(line)
        if not match:
            continue
        depth, last, signature = len(match[1]), number, True
        for inner in range(number, len(lines)):
            stripped = lines[inner].strip()
            if signature:
                signature = not stripped.endswith(":")
            elif stripped and len(lines[inner]) - len(lines[inner].lstrip()) <= depth:
                break
            if stripped:
                last = inner
        yield match[2], number + 1, last - number + 1


def c_functions(text: str) -> Iterator[tuple[str, int, int]]:
    """The same for C: from the line of the name to the closing brace in the first column."""
    lines = text.splitlines()
    start, name = None, ""
    for number, line in enumerate(lines):
        head = re.match(r"^[A-Za-z_][\w\s\*]*?\**(\w+)\s*\(", line)
        if start is None and head and not line.rstrip().endswith(";"):
            start, name, opened = number, head[1], False
        if start is not None:
            opened = opened or "{" in line
            if not opened and line.rstrip().endswith(";"):
                start = None
            elif opened and (line.startswith("}") or (number == start and line.rstrip().endswith("}"))):
                yield name, start + 1, number - start + 1
                start = None


FUNCTIONS = {".py": python_functions, ".pyx": cython_functions, ".c": c_functions, ".h": c_functions}


def main() -> int:
    sizes: dict[str, list[int]] = {"Python": [], "C": []}
    bad = 0
    for path in sources():
        text = path.read_text()
        if "size:" in text.partition("\n")[0]:
            continue
        if (lines := text.count("\n")) > MAX_FILE:
            print(f"{path}: {lines} lines, more than {MAX_FILE}")
            bad += 1
        for name, line, length in FUNCTIONS[path.suffix](text):
            if not path.is_relative_to("tests"):
                sizes["C" if path.suffix in {".c", ".h"} else "Python"].append(length)
            if length > MAX_FUNCTION:
                print(f"{path}:{line}: {name} has {length} lines, more than {MAX_FUNCTION}")
                bad += 1
    for language, found in sizes.items():
        if found:
            tenth = sorted(found)[int(len(found) * 0.9) - 1]
            print(f"{language}: {len(found)} functions, median {statistics.median(found):g} lines, 90 % up to {tenth}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
