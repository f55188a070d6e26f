"""strongSwan as a peer: one charon, in a namespace with its own ESP or in the guest with the kernel's.

Release 5.9 is what Debian's packages install; release 6 runs from a root file system of its own, which `ci/peers`
fetches or IPSECFAST_STRONGSWAN6 names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from linux_guest import LinuxGuest
from peer import PEERS

from ipsecfast.lab.netns import Namespace, stop

CHARON = Path("/usr/lib/ipsec/charon")
LIBIPSEC = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
SWANCTL = "swanctl"
PLUGINS = (
    "random nonce openssl kdf pem pkcs1 x509 pubkey revocation hmac sha1 sha2 aes gcm {esp} kernel-netlink "
    "socket-default vici"
)
PLUGINS_6 = "random nonce openssl pem pkcs1 x509 pubkey revocation curl gcm {esp} kernel-netlink socket-default vici"
IN_BARE_ROOT = 'for d in dev proc sys; do mount --rbind /$d "$0/$d"; done; exec chroot "$0" "$@"'
STRONGSWAN_CONF = """
{section} {{
  load_modular = no
  load = {plugins}
  install_routes = yes
  retransmit_tries = 6
  retransmit_timeout = 1
  retransmit_base = 1.3
  delete_rekeyed_delay = 1
  make_before_break = yes
  {settings}
  plugins {{
    vici {{ socket = unix://{socket} }}
  }}
  filelog {{
    log {{
      path = {log}
      flush_line = yes
      default = 1
      ike = 2
      cfg = 2
    }}
  }}
}}
swanctl {{
  load = random nonce openssl pem pkcs1 pubkey x509
}}
"""
SWANCTL_CONF = """
connections {{
  net {{
    version = 2
    local_addrs = {local}
    remote_addrs = {remote}
    proposals = {proposals}
    encap = {encap}
    dpd_delay = {dpd_delay}
    rekey_time = 4h
    {more}
    local {{
      auth = {auth}
      id = {local_id}
      {local_certs}
      {more_local}
    }}
    remote {{
      auth = {auth}
      id = {remote_id}
      {remote_cas}
      {more_remote}
    }}
    children {{
      net {{
        local_ts = {local_ts}
        remote_ts = {remote_ts}
        esp_proposals = {esp_proposals}
        mode = {mode}
        rekey_time = 1h
        replay_window = {replay_window}
        {per_cpu}
        {more_child}
      }}
    }}
  }}
}}
secrets {{
  ike-1 {{
    secret = "{secret}"
  }}
  {more_secrets}
}}
"""


def missing(*, libipsec: bool) -> str | None:
    """Why strongSwan can't be the peer here, or None."""
    if not CHARON.exists() or not shutil.which(SWANCTL):
        return "there is no strongSwan (packages strongswan-charon, strongswan-swanctl)"
    if libipsec and not LIBIPSEC.exists():
        return "strongSwan's user-space ESP is missing (package libcharon-extra-plugins)"
    return None


@dataclass(frozen=True, slots=True)
class Release:
    """One installation: the root of its Debian, and the names of what is in it."""

    root: Path = Path("/")
    charon: Path = CHARON
    section: str = "charon"
    plugins: str = PLUGINS
    bare: bool = False  # nobody has mounted its /dev, /proc and /sys

    def inside(self, path: Path) -> Path:
        """What the daemon calls a file."""
        return Path("/") / path.relative_to(self.root)

    def command(self, *arguments: str) -> tuple[str, ...]:
        if self.bare:
            return ("unshare", "-m", "--propagation", "private", "sh", "-c", IN_BARE_ROOT, str(self.root), *arguments)
        return arguments if self.root == Path("/") else ("chroot", str(self.root), *arguments)


def release_6() -> Release | str:
    """strongSwan 6, or why there is none."""
    root = Path(os.environ.get("IPSECFAST_STRONGSWAN6", PEERS / "strongswan6"))
    charon = Path("usr/sbin/charon-systemd")
    if not (root / charon).exists():
        return (
            "there is no strongSwan 6: neither has ci/peers fetched it nor does IPSECFAST_STRONGSWAN6 name the root of "
            "a Debian with charon-systemd, strongswan-swanctl, libcharon-extra-plugins, libstrongswan-standard-plugins"
        )
    return Release(root, Path("/") / charon, "charon-systemd", PLUGINS_6)


@dataclass(frozen=True, slots=True)
class Connection:
    """The peer's end of the one connection `net` with its one child `net`, in swanctl's words."""

    local: str
    remote: str
    local_ts: str
    remote_ts: str
    local_id: str = "b.test"
    remote_id: str = "a.test"
    proposals: str = "aes128gcm16-prfsha256-x25519"
    esp_proposals: str = "aes128gcm16"
    mode: str = "tunnel"
    encap: str = "no"
    dpd_delay: str = "0s"
    replay_window: int = 32
    per_cpu_sas: str = ""  # release 6.0.2 and newer know it
    secret: str = "only for tests, not a secret"
    auth: str = "psk"
    certs: str = ""  # files: our certificate, comma, those that lead to the authority
    cacert: str = ""  # file: the authority of the peer
    key: str = ""  # file
    more: str = ""  # lines of the connection
    more_child: str = ""
    more_local: str = ""  # of its end, of ours
    more_remote: str = ""
    crl: str = ""  # file: a CRL of an authority
    more_secrets: str = ""

    @property
    def per_cpu(self) -> str:
        return f"per_cpu_sas = {self.per_cpu_sas}" if self.per_cpu_sas else ""

    @property
    def local_certs(self) -> str:
        return f"certs = {self.certs}" if self.certs else ""

    @property
    def remote_cas(self) -> str:
        return f"cacerts = {self.cacert}" if self.cacert else ""

    def text(self) -> str:
        made = {name: getattr(self, name) for name in ("local_certs", "remote_cas", "per_cpu")}
        return SWANCTL_CONF.format(**{name: getattr(self, name) for name in self.__slots__}, **made)


class Place(Protocol):
    """Where the daemon runs."""

    def run(self, *command: str, timeout: float = ..., check: bool = ...) -> str: ...

    def start(self, *command: str, log: Path) -> Any: ...

    def kill(self, process: Any) -> None: ...


class NamespacePlace:
    """A namespace; the daemon has a /run of its own there."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace

    def run(self, *command: str, timeout: float = 30.0, check: bool = True) -> str:
        try:
            return self.namespace.check_output(command, timeout=timeout)
        except subprocess.CalledProcessError as error:
            if check:
                raise RuntimeError(f"{error}\n{error.output}") from error
            return str(error.output)

    def start(self, *command: str, log: Path) -> subprocess.Popen[str]:
        own_run = 'mount -t tmpfs tmpfs /run && exec "$@"'
        with log.open("ab") as output:
            return self.namespace.start(
                ["unshare", "-m", "--propagation", "private", "sh", "-c", own_run, "sh", *command],
                stdout=output,
                stderr=output,
            )

    def kill(self, process: subprocess.Popen[str]) -> None:
        stop(process)


class StrongSwan:
    """One charon. `libipsec`: its own ESP in user space (in UDP only), else the kernel's of the guest."""

    def __init__(
        self, place: Place, folder: Path, *, libipsec: bool, release: Release | None = None, settings: str = ""
    ) -> None:
        """`settings`: more lines of strongswan.conf."""
        self.place = place
        self.folder = folder
        self.release = release or Release()
        self.log = folder / "charon.log"
        charon, self._swanctl = self.release.charon, Path(SWANCTL)
        if release is None:
            # A copy of its own: a machine's AppArmor profile for charon allows it no configuration elsewhere.
            charon = Path(shutil.copy(CHARON, folder / "charon"))
            self._swanctl = Path(shutil.copy(shutil.which(SWANCTL) or SWANCTL, folder / "swanctl-copy"))
        inside = self.release.inside(folder)
        socket = inside / "vici.sock" if libipsec else Path("/run/vici.sock")
        self._uri = f"unix://{socket}"
        self._conf = inside / "strongswan.conf"
        (folder / "strongswan.conf").write_text(
            STRONGSWAN_CONF.format(
                section=self.release.section,
                plugins=self.release.plugins.format(esp="kernel-libipsec" if libipsec else ""),
                socket=socket,
                log=inside / "charon.log",
                settings=settings,
            )
        )
        command = self.release.command("env", f"STRONGSWAN_CONF={self._conf}", str(charon))
        self._process = place.start(*command, log=folder / "stdout.log")
        self._await_socket()

    def load(self, connection: Connection) -> None:
        path = self.folder / "swanctl.conf"
        path.write_text(connection.text())
        private = self.folder / "private"  # where swanctl looks for keys
        private.mkdir(exist_ok=True)
        if connection.key:
            shutil.copy(connection.key, private / "net.key")
        crls = self.folder / "x509crl"
        shutil.rmtree(crls, ignore_errors=True)
        if connection.crl:
            crls.mkdir()
            shutil.copy(connection.crl, crls)
        self.swanctl("--load-all", "--clear", "--file", str(self.release.inside(path)))

    def swanctl(self, *arguments: str, check: bool = True) -> str:
        command = self.release.command(
            "env",
            f"STRONGSWAN_CONF={self._conf}",
            f"SWANCTL_DIR={self.release.inside(self.folder)}",
            str(self._swanctl),
            *arguments,
            "--uri",
            self._uri,
        )
        return self.place.run(*command, check=check)

    def initiate(self) -> str:
        return self.swanctl("--initiate", "--child", "net", "--timeout", "15")

    def rekey(self, what: str) -> None:
        self.swanctl("--rekey", f"--{what}", "net")

    def terminate(self, what: str) -> None:
        self.swanctl("--terminate", f"--{what}", "net")

    def sas(self) -> str:
        return self.swanctl("--list-sas")

    def child_spis(self) -> set[str]:
        """The inbound SPIs of the installed children, as hexadecimal numbers of eight digits."""
        return set(re.findall(r"^\s+in\s+([0-9a-f]{8})", self.sas(), re.MULTILINE))

    def ike_spis(self) -> set[str]:
        return set(re.findall(r"([0-9a-f]{16})_[ir]\*? ", self.sas()))

    def agrees_on_ike(self, spi_i: str) -> bool:
        return self.ike_spis() == {spi_i}

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def close(self) -> None:
        self.place.kill(self._process)

    def _await_socket(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if "uptime" in self.swanctl("--stats", check=False):
                return
            time.sleep(0.1)
        stdout = (self.folder / "stdout.log").read_text(errors="replace")
        raise RuntimeError(f"charon did not come up:\n{stdout}\n{self.log.read_text() if self.log.exists() else ''}")


def in_guest(guest: LinuxGuest, folder: Path, release: Release | None = None) -> StrongSwan:
    return StrongSwan(guest, folder, libipsec=False, release=release)


def in_namespace(namespace: Namespace, folder: Path, release: Release | None = None, settings: str = "") -> StrongSwan:
    if release is not None:
        release = replace(release, bare=not (release.root / "dev/null").exists())
    return StrongSwan(NamespacePlace(namespace), folder, libipsec=True, release=release, settings=settings)
