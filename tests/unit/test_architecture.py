"""The documents are true to the code: the files they name exist, the drawn table is the table, the example is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ipsecfast.config import load_config
from ipsecfast.ike.constants import ExchangeType
from ipsecfast.ike.states import IkeState, Role
from ipsecfast.ike.transitions import TRANSITIONS

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("ARCHITECTURE.md", "CONTRIBUTING.md")
FOLDERS = (
    "",
    "csrc",
    "csrc/include",
    "ipsecfast",
    "ipsecfast/ike",
    "ipsecfast/ike/credential",
    "ipsecfast/ike/crypto",
    "ipsecfast/ike/extension",
    "ipsecfast/ike/wire",
    "ipsecfast/config",
    "ipsecfast/lab",
    "ipsecfast/bench",
    "tests/c",
)
PLANNED: set[str] = set()


def drawn_transitions() -> set[tuple[IkeState, int, Role]]:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")
    ]
    head = next(row for row in rows if row[0] == "state")
    exchanges = [ExchangeType[name] for name in head[1:]]
    states = [row for row in rows if row[0] in IkeState.__members__]
    return {
        (IkeState[row[0]], exchange, Role[role.upper()])
        for row in states
        for exchange, cell in zip(exchanges, row[1:], strict=True)
        for role in re.findall(r"\w+", cell)
    }


def test_the_drawn_transition_table_is_the_table() -> None:
    assert drawn_transitions() == set(TRANSITIONS)


def expand(name: str) -> list[str]:
    brackets = re.search(r"\[([ch]+)\]", name)
    return [name.replace(brackets.group(), letter) for letter in brackets.group(1)] if brackets else [name]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_a_document_names_exists(document: str) -> None:
    names = re.findall(r"`([\w./\[\]]+\.(?:py|pyx|pyi|pxd|c|h|def|toml|md|\[ch\]))`", (ROOT / document).read_text())
    assert names
    folders = [ROOT / folder for folder in FOLDERS]
    for name in (expanded for found in names for expanded in expand(found)):
        assert name in PLANNED or any((folder / name).exists() for folder in folders), f"{document} names {name}"


def test_the_first_tunnel_of_the_readme_is_a_configuration(tmp_path: Path) -> None:
    toml = re.search(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert toml
    file = tmp_path / "a.toml"
    file.write_text(toml.group(1))
    file.chmod(0o600)
    connection = load_config(file).connections[0]
    assert (connection.name, connection.children[0].name) == ("site-b", "net")
