"""Who carries packets between the two sites of `bench tunnel`: nobody, ipsecfast in its kinds, and its rivals.

Each contender stands in a topology of its own (`lab.netns`), all alike: veth pairs of MTU 1,500, the same addresses. It
connects the two gateways with the defaults of its own, AES-128-GCM where it has a choice, and says which of its
processes do the work. What can't stand here says why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ipsecfast
from ipsecfast.lab.netns import A, Addresses, B, Namespace, Site, TwoSites, stop
from ipsecfast.lab.testbed import GatewayProcess, TestbedError, tunnel_config, wait_for
from ipsecfast.lab.traffic import ping

RIVALS_FOLDER = ".rivals"  # of the project, where ci/rivals puts what the distribution has only in newer releases
SETTLE_SECONDS = 20.0


class Contender(ABC):
    """One topology with something between its gateways; packets pass when the constructor of a subclass returns."""

    kind = "rival"

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undo:
            self.sites = undo.enter_context(TwoSites())
            undo.callback(self._end)
            self._connect()
            wait_for(f"packets pass through {name}", self._passes, seconds=SETTLE_SECONDS)
            self._undo = undo.pop_all()

    @property
    @abstractmethod
    def version(self) -> str:
        """For the report."""

    @property
    @abstractmethod
    def pids(self) -> Sequence[int]:
        """The processes that carry packets, whose CPU time is counted."""

    @abstractmethod
    def _connect(self) -> None: ...

    def _end(self) -> None:  # noqa: B027 (those without processes have nothing to end)
        """Ends what `_connect` began."""

    def _passes(self) -> bool:
        return None not in self.sites.a.host.run(ping, B.host[0], 1, timeout=0.3)

    def ends(self) -> tuple[tuple[Site, Addresses, Addresses], ...]:
        """Each gateway's site with its own addresses and those of its peer."""
        return (self.sites.a, A, B), (self.sites.b, B, A)

    def close(self) -> None:
        self._undo.close()


class PlainVeth(Contender):
    """No tunnel: the gateways route. What everything else is measured against."""

    kind = "plain"
    version = ""
    pids = ()

    def _connect(self) -> None:
        for site, _, peer in self.ends():
            site.gateway.add_route(peer.networks[0], peer.outer[0])


class Ipsecfast(Contender):
    """Two `ipsecfast run` with IKE between them, ESP in UDP. `gateway` and `connection` are keys of these tables."""

    kind = "ours"
    version = ipsecfast.__version__

    def __init__(
        self, name: str, folder: Path, gateway: Mapping[str, Any], connection: Mapping[str, Any] | None = None
    ) -> None:
        self._settings, self._connection = gateway, connection or {}
        self._gateways: list[GatewayProcess] = []
        super().__init__(name, folder)

    @property
    def pids(self) -> Sequence[int]:
        return [gateway.process.pid for gateway in self._gateways]

    def _connect(self) -> None:
        for site, own, peer in self.ends():
            connection = {"encap": True, **self._connection}
            config = tunnel_config(own, peer, connection=connection, child={"esp_proposals": ["aes128gcm16"]})
            config["gateway"] = dict(self._settings)
            self._gateways.append(GatewayProcess(site.gateway, self.folder / own.letter, config))
        self._gateways[0].command("initiate", "net")

    def drops(self) -> dict[str, int]:
        """Of both gateways together, by reason."""
        found: dict[str, int] = {}
        for gateway in self._gateways:
            for reason, count in gateway.status()["drops"].items():
                found[reason] = found.get(reason, 0) + count
        return found

    def _end(self) -> None:
        for gateway in self._gateways:
            gateway.close()


class Daemons(Contender):
    """A rival of one process a gateway."""

    @staticmethod
    @abstractmethod
    def missing() -> str | None:
        """Why it can't stand on this machine, or None."""

    def __init__(self, name: str, folder: Path) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        super().__init__(name, folder)

    @property
    def pids(self) -> Sequence[int]:
        return [process.pid for process in self._processes]

    def start(
        self, place: Namespace, own: Addresses, command: Sequence[str], env: Mapping[str, str] | None = None
    ) -> int:
        """Starts a daemon with a /run of its own; its process ID. Its output is in the folder."""
        with (self.folder / f"{own.letter}.log").open("ab") as log:
            process = place.start(in_own_run(command), stdout=log, stderr=log, env={**os.environ, **(env or {})})
        self._processes.append(process)
        return process.pid

    def alive(self) -> None:
        """Raises TestbedError with what a daemon said, if one ended."""
        for process, (_, own, _) in zip(self._processes, self.ends(), strict=False):
            if process.poll() is not None:
                said = (self.folder / f"{own.letter}.log").read_text(errors="replace")[-500:]
                raise TestbedError(f"{self.name} ended with {process.returncode}: {said}")

    def _passes(self) -> bool:
        self.alive()
        return super()._passes()

    def _end(self) -> None:
        for process in self._processes:
            stop(process)


def in_own_run(command: Sequence[str]) -> list[str]:
    """The command with a tmpfs of its own on /run, in the same process: /proc/PID/root/run shows it to others."""
    own_run = 'mount -t tmpfs tmpfs /run && exec "$@"'
    return ["unshare", "-m", "--propagation", "private", "sh", "-c", own_run, "sh", *command]


def find_program(name: str) -> str | None:
    """From what ci/rivals fetched, else from PATH."""
    fetched = Path(ipsecfast.__file__).parents[1] / RIVALS_FOLDER / "root"
    for folder in ("usr/bin", "usr/sbin"):
        if os.access(fetched / folder / name, os.X_OK):
            return str(fetched / folder / name)
    return shutil.which(name)


def first_line(command: Sequence[str]) -> str:
    """Of what a program prints about itself."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else "unknown"


Maker = Callable[[str, Path], Contender]
