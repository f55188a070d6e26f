"""The line scanner against `tomllib`: it knows every key that the parser finds, and where it stands."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

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


# ---- any valid text ----

BLANKS = st.sampled_from(["", " ", "\t", "  "])
BREAKS = st.sampled_from(["", " ", "\n", '\n  # note ] } = "\n', " # [x]\n\n"])
NAMES = st.one_of(
    st.sampled_from(["a", "b-c", "d_1", "42"]),
    st.sampled_from(["a.b", "with space", "=", "#", "]", 'q"', "ü"]).map(
        lambda name: json.dumps(name, ensure_ascii=False)
    ),
    st.sampled_from(["'lit.eral'", "'x]y'"]),
)
SCALARS = st.sampled_from([
    "1", "-2.5e3", "true", "0xff", "2026-01-31", "2026-01-31 12:00:00Z", "inf",
    '"x # ] } , ="', '"\\" \\\\"', "''", '""',
    "'C:\\'", '"""\nline "" two"""', '"""end""""', "'''it''s\n]'''", "'''q''''", '"""a\\\n  b"""',
])  # fmt: skip


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    items = st.lists(st.tuples(BREAKS, inner, BREAKS).map("".join), max_size=3)
    return st.tuples(items, BREAKS).map(lambda found: f"[{','.join(found[0])}{found[1]}]")


def inline_tables(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    entries = st.dictionaries(NAMES, st.tuples(BLANKS, inner, BLANKS).map("".join), max_size=3)
    return entries.map(lambda found: "{" + ",".join(f" {key} ={value}" for key, value in found.items()) + " }")


VALUES = st.recursive(SCALARS, lambda inner: arrays(inner) | inline_tables(inner), max_leaves=8)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map(" . ".join)
STATEMENTS = st.one_of(
    st.tuples(KEYS, BLANKS, VALUES).map(lambda found: f"{found[0]} {found[1]}= {found[2]}"),
    st.tuples(st.sampled_from(["[{}]", "[ {} ]", "[[{}]]"]), KEYS).map(lambda found: found[0].format(found[1])),
    st.sampled_from(["", "# nothing"]),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(BLANKS, STATEMENTS, BLANKS).map("".join), max_size=8).map("\n".join))
def test_any_valid_text_has_a_line_for_every_key(text: str) -> None:
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        reject()
    lines = key_lines(text)
    paths = all_paths(data)
    assert set(lines) <= paths
    leaves = {path for path in paths if not any(other[: len(path)] == path for other in paths - {path})}
    assert leaves <= set(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
