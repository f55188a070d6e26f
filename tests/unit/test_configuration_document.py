"""CONFIGURATION.md says what the reader of the configuration knows: every key, no other, and an example that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipsecfast.config import load_config
from ipsecfast.errors import ConfigError

DOCUMENT = Path(__file__).parents[2] / "CONFIGURATION.md"
TABLES = {
    "[gateway]": "gateway",
    "[connections.NAME]": "connections.b",
    "[connections.NAME.local]": "connections.b.local",
    "[connections.NAME.remote]": "connections.b.remote",
    "[connections.NAME.children.NAME]": "connections.b.children.net",
    "[authorities.NAME]": "authorities.ca",
    "[secrets.NAME]": "secrets.all",
    "[[policies]]": "policies[0]",
}
EVERY_TABLE_WITH_AN_UNKNOWN_KEY = """
[gateway]
zzz = 1
[connections.b]
zzz = 1
local.zzz = 1
remote.zzz = 1
children.net.zzz = 1
[authorities.ca]
zzz = 1
[secrets.all]
zzz = 1
[[policies]]
zzz = 1
"""


def documented() -> dict[str, set[str]]:
    keys: dict[str, set[str]] = {}
    for section in re.split(r"^##+ ", DOCUMENT.read_text(), flags=re.MULTILINE):
        for heading, path in TABLES.items():
            if section.startswith(f"`{heading}`"):
                rows = re.findall(r"^\| (`[^|]*`) \|", section, re.MULTILINE)
                keys[path] = {key for row in rows for key in re.findall(r"`(\w+)`", row)}
    return keys


@pytest.fixture
def known(tmp_path: Path) -> dict[str, set[str]]:
    """The reader names the keys of a table when it is asked for one that is like none of them."""
    file = tmp_path / "gw.toml"
    file.write_text(EVERY_TABLE_WITH_AN_UNKNOWN_KEY)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    unknown = {problem.key: problem.message for problem in caught.value.problems if problem.key.endswith(".zzz")}
    return {
        key.removesuffix(".zzz"): set(message.removeprefix("unknown key; known here: ").split(", "))
        for key, message in unknown.items()
    }


def test_every_key_is_documented_and_no_other(known: dict[str, set[str]]) -> None:
    known["connections.b"] -= {"local", "remote", "children"}
    assert documented() == known


def test_the_example_works(tmp_path: Path) -> None:
    gateway, secrets = re.findall(r"```toml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "secrets.toml").touch(mode=0o600)
    (tmp_path / "secrets.toml").write_text(secrets.replace("...", "AAEC"))
    (tmp_path / "gw.toml").write_text(gateway)
    assert load_config(tmp_path / "gw.toml").connections[0].children[0].name == "lan"
