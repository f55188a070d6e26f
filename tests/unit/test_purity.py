"""Who may import the data plane: an extension module, which import-linter does not see. So its rule stands here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import ipsecfast

PACKAGE = Path(ipsecfast.__file__).parent
EXTENSIONS = {"ipsecfast.dataplane", "ipsecfast.library", "ipsecfast.measure", "ipsecfast.ports", "ipsecfast.values"}
MAY_DRIVE_IT = {"engines.py", "forwarding.py", "rings.py", "gateway.py", "threads.py"}
MAY_ASK_IT = {"cli.py"}  # which libraries are inside


def imported_by(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_only_the_gateway_and_what_forwards_know_the_data_plane() -> None:
    files = {str(file.relative_to(PACKAGE)): imported_by(file) for file in PACKAGE.rglob("*.py")}
    drivers = {name for name, imported in files.items() if imported & EXTENSIONS}
    assert {
        name for name in drivers if not name.startswith("bench/")
    } == MAY_DRIVE_IT | MAY_ASK_IT  # who measures may touch all


def test_ike_is_pure() -> None:
    shell = {"asyncio", "os", "random", "secrets", "select", "signal", "socket", "subprocess", "threading", "time"}
    for file in (PACKAGE / "ike").rglob("*.py"):
        assert not imported_by(file) & shell, file


EACH_FIRST = """
import importlib, sys
for name in sys.argv[1:]:
    for loaded in [m for m in sys.modules if m.startswith("ipsecfast.ike")]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""


def test_every_module_of_ike_can_be_imported_first() -> None:
    """Nobody has to know in which order the others import each other."""
    files = (file.relative_to(PACKAGE.parent).with_suffix("") for file in (PACKAGE / "ike").rglob("*.py"))
    names = sorted(".".join(file.parts).removesuffix(".__init__") for file in files)
    done = subprocess.run([sys.executable, "-c", EACH_FIRST, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(names) > 70
