"""The page of the matrix: rows are trials, columns peers; what needs more words is said below.

`ci/interop` runs the peers beside each other; each run saves its part, and this program makes the page of all:
`matrix_page.py PAGE PART ...`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pytest
from peer import OURS, THEIRS, Trial

LACKS = "lacks: "  # begins the reason of a skipped cell: the peer has no such thing
HEAD = """# Interoperability

Written by `make interop`; {when}, ipsecfast {version}, {system}.
Each cell is a tunnel that came up, carried ping (and TCP during rekeys) without loss, if nothing else is said, and was
deleted, between ipsecfast and that daemon with the ESP of a Linux kernel. Where a cell says two things, the first is
where ipsecfast began what the row is about, the second where the peer did.
"""
STATES = {"passed": "ok", "failed": "**FAILED**", "lacks": "lacks", "absent": "not tried"}


@dataclass(slots=True)
class Result:
    state: str  # a key of STATES
    reason: str = ""


@dataclass(slots=True)
class Matrix:
    """The results of a run: (row, peer, side)."""

    titles: dict[str, str] = field(default_factory=dict)  # peer -> name and version
    system: str = ""
    rows: dict[str, str] = field(default_factory=dict)  # name of the trial -> words
    results: dict[tuple[str, str, str], Result] = field(default_factory=dict)

    def take(self, item: pytest.Function, report: pytest.TestReport) -> None:
        """One phase of one cell."""
        parameters = item.callspec.params
        trial: Trial = parameters["trial"]
        key = (trial.name, parameters["peer"], parameters["side"])
        self.rows[trial.name] = trial.row
        if report.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash is not None else str(report.longrepr)
            self.results[key] = Result("failed", text.splitlines()[0][:300] if text else report.when or "")
        elif report.skipped:
            reason = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
            reason = reason.removeprefix("Skipped: ")
            state = "lacks" if reason.startswith(LACKS) else "absent"
            self.results[key] = Result(state, reason.removeprefix(LACKS))
        elif report.when == "call":
            said = dict(report.user_properties).get("only", "")
            self.results[key] = Result("passed", str(said))

    def save(self, path: Path) -> None:
        results = [[*key, result.state, result.reason] for key, result in self.results.items()]
        path.write_text(json.dumps(asdict(self) | {"results": results}))

    @classmethod
    def of_parts(cls, paths: list[Path]) -> Matrix:
        whole = cls()
        for path in paths:
            part = json.loads(path.read_text())
            whole.titles |= part["titles"]
            whole.system = part["system"] or whole.system
            whole.rows |= part["rows"]
            whole.results |= {(row, peer, side): Result(*result) for row, peer, side, *result in part["results"]}
        return whole

    def write(self, path: Path) -> None:
        notes: dict[str, int] = {}
        peers = list(dict.fromkeys(peer for _, peer, _ in self.results))
        titles = [self.titles.get(peer, peer) for peer in peers]
        lines = [f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(peers)}"]
        for name, words in self.rows.items():
            lines.append(f"| {words} | {' | '.join(self._cell(name, peer, notes) for peer in peers)} |")
        said = "".join(f"{number}. {reason}\n" for reason, number in notes.items())
        head = HEAD.format(when=f"{datetime.now(UTC):%Y-%m-%d}", version=version("ipsecfast"), system=self.system)
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([head, *lines, "", said]))

    def _cell(self, name: str, peer: str, notes: dict[str, int]) -> str:
        found = [self.results.get((name, peer, side)) for side in (OURS, THEIRS)]
        texts = [self._text(result, notes) for result in found]
        return texts[0] if texts[0] == texts[1] else " / ".join(texts)

    def _text(self, result: Result | None, notes: dict[str, int]) -> str:
        if result is None:
            return STATES["absent"]
        if not result.reason:
            return STATES[result.state]
        return f"{STATES[result.state]} [{notes.setdefault(result.reason, len(notes) + 1)}]"


if __name__ == "__main__":
    page, *parts = map(Path, sys.argv[1:])
    Matrix.of_parts(parts).write(page)
