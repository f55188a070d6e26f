"""What figures depend on: processor, kernel, libraries, and which ipsecfast was measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

import ipsecfast


def machine() -> dict[str, str | int]:
    """`commit` is that of the working copy that the package lies in, with a plus sign if it was changed, or ""."""
    from ipsecfast.values import ENGINE_VERSIONS  # tables and comparisons of reports do without the extension modules

    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{engine: ENGINE_VERSIONS.get(engine, "not here") for engine in ("openssl", "ipsec-mb")},
        "ipsecfast": ipsecfast.__version__,
        "commit": commit(),
    }


def describe(facts: Mapping[str, str | int]) -> str:
    """One line for the head of a table."""
    which = f" ({facts['commit']})" if facts["commit"] else ""
    cores = f"{facts['cores']} core{'s' * (facts['cores'] != 1)}"
    return (
        f"{facts['cpu']}, {cores}; Linux {facts['kernel']}; Python {facts['python']}; {facts['openssl']}; "
        f"ipsec-mb {facts['ipsec-mb']}; ipsecfast {facts['ipsecfast']}{which}"
    )


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return ", ".join(sorted(names)) or platform.machine()


def cycles_a_nanosecond() -> float:
    """The rate of the processor's clock as the kernel tells it, in GHz; 0 where it does not tell."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2]) / 1000
    return 0.0


def commit() -> str:
    root = Path(ipsecfast.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    try:
        found = _git(root, "rev-parse", "--short=12", "HEAD")
        return found + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""  # no git here, or somebody else's folder: a report can do without


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
