"""The line scanner against `tomllib`: it knows every key that the parser finds, and where it stands."""

from __future__ import annotations

import tomllib

import pytest

from ipsecfast.config.lines import KeyPath, key_lines

TEXT = '''# a comment with [brackets] and = signs
top = 1

[gateway]            # line 4
tun = "ipsec0"
"quoted key" = 'lit # eral'

[connections.site-b.children."net.1"]
local_ts = [         # line 9
    "10.1.0.0/24",   # line 10
    # a comment in the list
    "10.2.0.0/24",   # line 12
]
text = """
[not.a.table]
key = "no key"
"""
dotted.key = { inner = [1, { deep = true }], other = "}" }   # line 18

[[policies]]
action = "bypass"    # line 21
when = 2026-01-01T00:00:00Z
[policies.more]
x = -0.5
[[policies]]
action = "discard"   # line 26
escaped = "a \\" ] b"
multi = \'\'\'it's
two lines\'\'\'
last = 1             # line 30
'''


def all_paths(value: object, path: KeyPath = ()) -> set[KeyPath]:
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return {(*path, key) for key, _ in items} | {p for key, one in items for p in all_paths(one, (*path, key))}


def test_every_key_that_the_parser_finds_has_a_line_and_no_other() -> None:
    lines = key_lines(TEXT)
    tables_by_name_only = {("connections",), ("connections", "site-b"), ("connections", "site-b", "children")}
    assert set(lines) == all_paths(tomllib.loads(TEXT)) - tables_by_name_only


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("top",), 2),
        (("gateway",), 4),
        (("gateway", "quoted key"), 6),
        (("connections", "site-b", "children", "net.1", "local_ts"), 9),
        (("connections", "site-b", "children", "net.1", "local_ts", 1), 12),
        (("connections", "site-b", "children", "net.1", "text"), 14),
        (("connections", "site-b", "children", "net.1", "dotted", "key", "inner", 1, "deep"), 18),
        (("policies", 0, "action"), 21),
        (("policies", 0, "more", "x"), 24),
        (("policies", 1, "action"), 26),
        (("policies", 1, "last"), 30),
    ],
)
def test_where_a_key_stands(path: KeyPath, line: int) -> None:
    assert key_lines(TEXT)[path] == line
