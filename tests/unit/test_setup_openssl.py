"""setup.py: how another OpenSSL than the system's is found and linked."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def setup_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """setup.py without building anything: distutils asks for a name and no command."""
    root = Path(__file__).parents[2]
    pytest.importorskip("setuptools.modified")
    pytest.importorskip("Cython.Build")
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["setup.py", "--name"])
    monkeypatch.setattr("Cython.Build.cythonize", lambda extensions, **_: extensions)
    specification = importlib.util.spec_from_file_location("ipsecfast_setup", root / "setup.py")
    assert specification
    assert specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def prefix(folder: Path, *names: str) -> Path:
    (folder / "include" / "x86_64-linux-gnu").mkdir(parents=True)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("Libs: -lcrypto\nLibs.private: -lz -ldl -pthread\n" if name.endswith(".pc") else "")
    return folder


def test_the_system_s_is_linked_by_its_name(setup_module: ModuleType) -> None:
    found = setup_module.OpenSsl("")
    assert (found.include_dirs, found.objects, found.libraries, found.link_flags) == ([], [], ["crypto"], [])


def test_an_archive_is_linked_in_and_keeps_its_symbols(setup_module: ModuleType, tmp_path: Path) -> None:
    root = prefix(tmp_path, "lib/libcrypto.a", "lib/libcrypto.so", "lib/pkgconfig/libcrypto.pc")
    found = setup_module.OpenSsl(str(root))
    assert found.objects == [str(root / "lib/libcrypto.a")]
    assert found.libraries == ["z", "dl"]
    assert "-Wl,--exclude-libs,ALL" in found.link_flags
    assert found.include_dirs == [str(root / "include"), str(root / "include/x86_64-linux-gnu")]


def test_a_shared_library_is_found_again_at_run_time(setup_module: ModuleType, tmp_path: Path) -> None:
    found = setup_module.OpenSsl(str(prefix(tmp_path, "lib64/libcrypto.so")))
    assert found.objects == []
    assert found.libraries == ["crypto"]
    assert found.link_flags == [f"-L{tmp_path / 'lib64'}", f"-Wl,-rpath,{tmp_path / 'lib64'}"]
