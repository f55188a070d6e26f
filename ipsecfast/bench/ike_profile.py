"""Where the CPU time of a handshake goes: our gateway, sampled by its own CPU clock while peers come and go.

`python -m ipsecfast.bench.ike_profile FILE run CONFIGURATION` is `ipsecfast run CONFIGURATION`; from SIGUSR1 until
SIGUSR2 it looks at each tick of its CPU time where it is, then writes into FILE how often it was in each of `GROUPS`. A
sample belongs to the innermost code of this package, so what that calls in OpenSSL, the kernel or the standard library
counts for it; values that both cores share (`VOCABULARY`) count for whoever uses them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType

import ipsecfast
from ipsecfast.cli import main as run_program

ROOT = f"{Path(ipsecfast.__file__).parent}{os.sep}"
TICK = 0.001  # seconds of CPU time; the kernel's own ticks may be longer
VOCABULARY = frozenset({"model.py", "identity.py", "configured.py"})
CRYPTOGRAPHY, PARSING, STATE_MACHINE = "cryptography", "parsing, serialising", "state machine"
INSTALLATION, REST = "system calls, installation", "event loop, log, rest"
GROUPS = (CRYPTOGRAPHY, PARSING, STATE_MACHINE, INSTALLATION, REST)
OF_FOLDER = {"ike/crypto": CRYPTOGRAPHY, "ike/wire": PARSING}
OF_FILE = {"auth.py": CRYPTOGRAPHY, "certificates.py": CRYPTOGRAPHY, "selectors.py": STATE_MACHINE}  # before its folder
INSTALLING = frozenset(
    {"forwarding.py", "netlink.py", "rings.py", "route_messages.py", "routes.py", "sockets.py", "spd.py", "threads.py"}
)


def group_of(frame: FrameType | None) -> str:
    """The group of what runs in this frame."""
    while frame is not None:
        path = frame.f_code.co_filename
        if path.startswith(ROOT) and (name := path.removeprefix(ROOT)) not in VOCABULARY:
            folder, _, file = name.rpartition(os.sep)
            if folder.startswith("ike"):
                return OF_FILE.get(file) or OF_FOLDER.get(folder, STATE_MACHINE)
            return INSTALLATION if file in INSTALLING else REST
        frame = frame.f_back
    return REST


class Sampler:
    """Counts from `begin` to `end`; both are signal handlers."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._counts: Counter[str] = Counter()

    def install(self) -> None:
        signal.signal(signal.SIGUSR1, self.begin)
        signal.signal(signal.SIGUSR2, self.end)
        signal.signal(signal.SIGPROF, self.sample)

    def begin(self, number: int, frame: FrameType | None) -> None:
        self._counts.clear()
        signal.setitimer(signal.ITIMER_PROF, TICK, TICK)

    def sample(self, number: int, frame: FrameType | None) -> None:
        self._counts[group_of(frame)] += 1

    def end(self, number: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        made = self._file.with_suffix(".new")
        made.write_text(json.dumps({group: self._counts[group] for group in GROUPS}))
        made.rename(self._file)


def main() -> None:
    Sampler(Path(sys.argv.pop(1))).install()
    run_program()


if __name__ == "__main__":
    main()
