"""The IKE daemons that `bench ike` measures: ours as it is run, and charon of strongSwan with its ESP in user space.

Each stands in a namespace, on one CPU, as responder for whoever has the proof, and with a connection for each peer that
it is to initiate to.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from ipsecfast.bench.contenders import first_line, in_own_run
from ipsecfast.bench.ike_load import FIRST_PEER_NETWORK, Plan
from ipsecfast.bench.rivals import CHARON, LIBIPSEC, STRONGSWAN_CONF
from ipsecfast.control import Command, Verb, send_command
from ipsecfast.lab.netns import Namespace, stop
from ipsecfast.lab.testbed import PROGRAM, TestbedError, toml_text, wait_for
from ipsecfast.pki import Issued, KeyType, make_authority, make_certificate

SUBJECT, PEER = "subject.bench.test", "peer{}.bench.test"
SUBJECT_ADDRESS, LOAD_ADDRESS = "192.0.2.1", "192.0.2.2"
NETWORK, PEERS_NETWORK = "10.1.0.0/24", "10.128.0.0/9"
IKE, ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16"
CLOCK_TICK = os.sysconf("SC_CLK_TCK")
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Proof:
    """How both ends prove who they are: by a shared secret, or by ECDSA certificates of one authority."""

    kind: str  # "psk" or "ecdsa"
    secret: str
    authority: Issued
    own: Issued

    @classmethod
    def make(cls, kind: str) -> Proof:
        authority = make_authority("bench", KeyType.ECDSA256)
        return cls(kind, secrets.token_hex(16), authority, make_certificate([SUBJECT], KeyType.ECDSA256, authority))

    @property
    def by_certificate(self) -> bool:
        return self.kind != "psk"


class Subject(ABC):
    """One daemon, running from construction to `close`. `peers`: connections that it can initiate. `encap`: ESP in UDP,
    and with it IKE, over port 4500, as behind a NAT."""

    name: str
    process: subprocess.Popen[str]

    def __init__(self, place: Namespace, folder: Path, proof: Proof, peers: int, *, encap: bool = True) -> None:
        self.place = place
        self.encap = encap
        self.folder = folder
        self.proof = proof
        folder.mkdir(parents=True)
        proof.own.save(folder / "own.pem", folder / "own.key")
        proof.authority.save(folder / "ca.pem", folder / "ca.key")
        self._start(peers)

    @staticmethod
    def missing() -> str | None:
        """Why it can't run on this machine."""
        return None

    @abstractmethod
    def _start(self, peers: int) -> None:
        """Runs and answers when this returns."""

    @abstractmethod
    def initiate(self, number: int) -> None:
        """The connection with this number; it is up when this returns."""

    def plan(self, *, initiator: bool, peers: int, parallel: int) -> Plan:
        """What the load generator has to do with it."""
        return Plan(
            initiator=initiator, peers=peers, local=LOAD_ADDRESS, remote=SUBJECT_ADDRESS, identity=PEER,
            remote_identity=SUBJECT, proposal=IKE, esp_proposal=ESP, remote_network=NETWORK, secret=self.proof.secret,
            authority=(str(self.folder / "ca.pem"), str(self.folder / "ca.key")) if self.proof.by_certificate else None,
            parallel=parallel, encap=self.encap,
        )  # fmt: skip

    def run_on_first_cpu(self, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = self.place.start(
                in_own_run(["taskset", "-c", "0", *command]), stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )

    def cpu(self) -> float:
        """Seconds of CPU that its threads have used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICK

    def memory(self) -> int:
        """Octets of its own memory that are in use."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))

    def alive(self) -> bool:
        if self.process.poll() is not None:
            said = (self.folder / "log").read_text(errors="replace")[-500:]
            raise TestbedError(f"{self.name} ended with {self.process.returncode}: {said}")
        return True

    def close(self) -> None:
        stop(self.process, patience=5)


class Ours(Subject):
    """`ipsecfast run`, data plane, TUN device and routes included."""

    name = "ipsecfast"
    _program: Sequence[str] = PROGRAM

    def _start(self, peers: int) -> None:
        file, self._control = self.folder / "ipsecfast.toml", self.folder / "control.sock"
        file.touch(mode=0o600)
        file.write_text(toml_text(self._config(peers)))
        self.run_on_first_cpu([*self._program, "run", str(file)])
        wait_for("the gateway answers", lambda: self.alive() and self._control.exists(), seconds=PATIENCE)

    def _config(self, peers: int) -> dict[str, object]:
        local: dict[str, object] = {"id": SUBJECT}
        remote: dict[str, object] = {"id": "*.bench.test"}
        if self.proof.by_certificate:
            local |= {"auth": "pubkey", "certs": ["own.pem"], "key": "own.key"}
            remote |= {"auth": "pubkey", "cacerts": ["ca.pem"]}
        shared = {
            "local_addrs": [SUBJECT_ADDRESS], "proposals": [IKE], "unique": "never", "encap": self.encap,
            "dpd_delay": "0", "local": local,
        }  # fmt: skip
        answering = {**shared, "remote": remote, "children": {"net": _child(PEERS_NETWORK)}}
        connections = {"answering": answering} if not peers else {}
        for number in range(peers):
            remote_addrs = {"remote_addrs": [LOAD_ADDRESS], "remote": {**remote, "id": PEER.format(0)}}
            connections[f"c{number}"] = {**shared, **remote_addrs, "children": {"net": _child(_network(number))}}
        secret = {} if self.proof.by_certificate else {"secrets": {"all": {"secret": self.proof.secret}}}
        gateway = {"control": str(self._control), "workers": 1}
        return {"gateway": gateway, "connections": connections, **secret}

    def initiate(self, number: int) -> None:
        lines = list(send_command(str(self._control), Command(Verb.INITIATE, f"c{number}", "", PATIENCE)))
        if not lines[-1]["ok"]:
            raise TestbedError(f"{self.name} can't initiate: {lines[-1]['error']}")


class Sampled(Ours):
    """Ours, which can be asked where its CPU time goes."""

    name = "ipsecfast, sampled"

    def _start(self, peers: int) -> None:
        self._shares = self.folder / "shares.json"
        self._program = [sys.executable, "-m", "ipsecfast.bench.ike_profile", str(self._shares)]
        super()._start(peers)

    def begin(self) -> None:
        self.process.send_signal(signal.SIGUSR1)

    def end(self) -> dict[str, int]:
        """Samples since `begin`, by group."""
        self.process.send_signal(signal.SIGUSR2)
        wait_for("the samples", lambda: self.alive() and self._shares.exists(), seconds=PATIENCE)
        counts: dict[str, int] = json.loads(self._shares.read_text())
        return counts


def _network(number: int) -> str:
    return f"{ip_address(FIRST_PEER_NETWORK + number)}/32"


def _child(network: str) -> dict[str, object]:
    return {"local_ts": [NETWORK], "remote_ts": [network], "esp_proposals": [ESP]}


SWANCTL_CONNECTION = """
  c{number} {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {ike}
    encap = {encap}
    unique = never
    dpd_delay = 0
    local {{
      auth = {auth}
      id = {subject}
      {certs}
    }}
    remote {{
      auth = {auth}
      id = {peer}
      {cacerts}
    }}
    children {{
      net{number} {{
        local_ts = {network}
        remote_ts = {peer_network}
        esp_proposals = {esp}
      }}
    }}
  }}
"""
# Not its defences are measured, its tables or its log: neither cookies nor limits, room for many IKE SAs, and about as
# much in the log as ours writes.
MANY = """charon {
  dos_protection = no
  ikesa_table_size = 4096
  ikesa_table_segments = 16
  filelog {
    log {
      path = FOLDER/charon.log
      default = 0
    }
  }
"""


class Charon(Subject):
    """charon of strongSwan with kernel-libipsec, which has its ESP in the same process, as ours has."""

    name = "charon"

    @staticmethod
    def missing() -> str | None:
        if not CHARON.exists() or not shutil.which("swanctl"):
            return "charon is not installed (packages strongswan-charon and strongswan-swanctl)"
        return None if LIBIPSEC.exists() else "charon's user-space ESP is missing (package libcharon-extra-plugins)"

    @staticmethod
    def version() -> str:
        return first_line([str(CHARON), "--version"])

    def _start(self, peers: int) -> None:
        # Copies: a machine's AppArmor profile allows charon and swanctl no files elsewhere.
        charon = shutil.copy(CHARON, self.folder / "charon")
        shutil.copy(shutil.which("swanctl") or "swanctl", self.folder / "swanctl-copy")
        text = STRONGSWAN_CONF.format(folder=self.folder).replace(
            "charon {\n", MANY.replace("FOLDER", str(self.folder)), 1
        )
        (self.folder / "strongswan.conf").write_text(text)
        (self.folder / "swanctl.conf").write_text(self._config(peers))
        for name, issued in (("x509", self.proof.own), ("x509ca", self.proof.authority)):
            (self.folder / name).mkdir()
            (self.folder / name / "own.pem").write_bytes(issued.certificate.public_bytes(Encoding.PEM))
        (self.folder / "private").mkdir()
        shutil.copy(self.folder / "own.key", self.folder / "private" / "own.key")
        self.run_on_first_cpu([str(charon)], {"STRONGSWAN_CONF": str(self.folder / "strongswan.conf")})
        wait_for("charon answers", lambda: self.alive() and (self.folder / "vici.sock").exists(), seconds=PATIENCE)
        self._swanctl("--load-all", "--file", str(self.folder / "swanctl.conf"))

    def _config(self, peers: int) -> str:
        certificate = self.proof.by_certificate
        shared = {
            "local": SUBJECT_ADDRESS, "remote": LOAD_ADDRESS if peers else "%any", "ike": IKE, "esp": ESP,
            "encap": "yes" if self.encap else "no",
            "auth": "pubkey" if certificate else "psk", "subject": SUBJECT, "network": NETWORK,
            "peer": PEER.format(0) if peers else "%any",
            "certs": f"certs = {self.folder}/own.pem" if certificate else "",
            "cacerts": f"cacerts = {self.folder}/ca.pem" if certificate else "",
        }  # fmt: skip
        texts = [
            SWANCTL_CONNECTION.format(
                number=number, peer_network=_network(number) if peers else PEERS_NETWORK, **shared
            )
            for number in range(peers or 1)
        ]
        key = f"private-own {{\n    file = {self.folder}/private/own.key\n  }}"
        secret = key if certificate else f'ike-all {{\n    secret = "{self.proof.secret}"\n  }}'
        return f"connections {{{''.join(texts)}}}\nsecrets {{\n  {secret}\n}}\n"

    def initiate(self, number: int) -> None:
        self._swanctl("--initiate", "--child", f"net{number}", "--timeout", str(int(PATIENCE)))

    def _swanctl(self, *arguments: str) -> None:
        environment = ("env", f"STRONGSWAN_CONF={self.folder}/strongswan.conf", f"SWANCTL_DIR={self.folder}")
        command = [*environment, f"{self.folder}/swanctl-copy", *arguments, "--uri", f"unix://{self.folder}/vici.sock"]
        try:
            self.place.check_output(command, timeout=60)
        except subprocess.CalledProcessError as error:
            raise TestbedError(f"swanctl {arguments[0]}: {error.output[-500:]}") from error


SUBJECTS: tuple[type[Subject], ...] = (Ours, Charon)
