"""The rivals of `bench tunnel`: strongSwan with its own ESP in user space, wireguard-go, OpenVPN without DCO."""

from __future__ import annotations

import secrets
import shutil
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID

from ipsecfast.bench.contenders import Daemons, find_program, first_line
from ipsecfast.lab.netns import Addresses, Site
from ipsecfast.lab.testbed import TestbedError, wait_for

# ---- strongSwan ----

CHARON = Path("/usr/lib/ipsec/charon")
LIBIPSEC = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
STRONGSWAN_CONF = """
charon {{
  load_modular = no
  load = random nonce openssl kdf pem pkcs1 x509 pubkey hmac sha1 sha2 aes gcm kernel-libipsec kernel-netlink \
socket-default vici
  install_routes = yes
  plugins {{
    vici {{ socket = unix://{folder}/vici.sock }}
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
    local_addrs = {own.outer[0]}
    remote_addrs = {peer.outer[0]}
    proposals = aes128gcm16-prfsha256-x25519
    encap = yes
    local {{
      auth = psk
      id = {own.letter}
    }}
    remote {{
      auth = psk
      id = {peer.letter}
    }}
    children {{
      net {{
        local_ts = {own.networks[0]}
        remote_ts = {peer.networks[0]}
        esp_proposals = aes128gcm16
      }}
    }}
  }}
}}
secrets {{
  ike-net {{
    secret = "{secret}"
  }}
}}
"""


class StrongSwan(Daemons):
    """charon with kernel-libipsec: ESP in its own process, over a TUN device, in UDP 4500."""

    @staticmethod
    def missing() -> str | None:
        if not CHARON.exists() or not shutil.which("swanctl"):
            return "packages strongswan-charon and strongswan-swanctl are not installed"
        if not LIBIPSEC.exists():
            return "its user-space ESP is missing (package libcharon-extra-plugins)"
        return None

    @property
    def version(self) -> str:
        return first_line([str(CHARON), "--version"])

    def _connect(self) -> None:
        secret = secrets.token_hex(16)
        for site, own, peer in self.ends():
            folder = self.folder / own.letter
            folder.mkdir()
            # Copies: a machine's AppArmor profile allows charon and swanctl no files elsewhere.
            charon = shutil.copy(CHARON, folder / "charon")
            shutil.copy(shutil.which("swanctl") or "swanctl", folder / "swanctl-copy")
            (folder / "strongswan.conf").write_text(STRONGSWAN_CONF.format(folder=folder))
            (folder / "swanctl.conf").write_text(SWANCTL_CONF.format(own=own, peer=peer, secret=secret))
            self.start(site.gateway, own, [str(charon)], env={"STRONGSWAN_CONF": f"{folder}/strongswan.conf"})
            wait_for("charon answers", lambda: self._answers(site, own))  # noqa: B023 (called at once)
            self._swanctl(site, own, "--load-all", "--file", f"{folder}/swanctl.conf")
        site, own, _ = self.ends()[0]
        self._swanctl(site, own, "--initiate", "--child", "net", "--timeout", "15")

    def _answers(self, site: Site, own: Addresses) -> bool:
        self.alive()
        return (self.folder / own.letter / "vici.sock").exists()

    def _swanctl(self, site: Site, own: Addresses, *arguments: str) -> None:
        folder = self.folder / own.letter
        environment = ("env", f"STRONGSWAN_CONF={folder}/strongswan.conf")
        command = [*environment, f"{folder}/swanctl-copy", *arguments, "--uri", f"unix://{folder}/vici.sock"]
        site.gateway.check_output(command, timeout=30)


# ---- wireguard-go ----

WIREGUARD_PORT = 51820
WIREGUARD_LINK = "wg0"


class WireguardGo(Daemons):
    """wireguard-go, configured over its own socket (the text protocol of wireguard.com/xplatform)."""

    @staticmethod
    def missing() -> str | None:
        return None if find_program("wireguard-go") else "wireguard-go is not installed (ci/rivals fetches the newest)"

    @property
    def version(self) -> str:
        return first_line([find_program("wireguard-go") or "", "--version"])

    def _connect(self) -> None:
        keys = {own.letter: X25519PrivateKey.generate() for _, own, _ in self.ends()}
        for site, own, peer in self.ends():
            program = find_program("wireguard-go") or "wireguard-go"
            environment = {"LOG_LEVEL": "error", "WG_PROCESS_FOREGROUND": "1"}
            pid = self.start(site.gateway, own, [program, "--foreground", WIREGUARD_LINK], environment)
            control = Path(f"/proc/{pid}/root/run/wireguard/{WIREGUARD_LINK}.sock")
            wait_for("wireguard-go answers", lambda: self._answers(control))  # noqa: B023 (called at once)
            public = keys[peer.letter].public_key()
            _configure(
                control,
                {
                    "private_key": keys[own.letter].private_bytes_raw().hex(),
                    "listen_port": str(WIREGUARD_PORT),
                    "public_key": public.public_bytes_raw().hex(),
                    "endpoint": f"{peer.outer[0]}:{WIREGUARD_PORT}",
                    "allowed_ip": peer.networks[0],
                },
            )
            site.gateway.set_link(WIREGUARD_LINK, state="up")
            site.gateway.add_device_route(peer.networks[0], WIREGUARD_LINK)

    def _answers(self, control: Path) -> bool:
        self.alive()
        return control.exists()


def _configure(control: Path, settings: Mapping[str, str]) -> None:
    """One `set` operation; raises TestbedError with the daemon's error number."""
    request = "set=1\n" + "".join(f"{key}={value}\n" for key, value in settings.items()) + "\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(control))
        connection.sendall(request.encode())
        answer = connection.recv(4096).decode()
    if "errno=0" not in answer:
        raise TestbedError(f"wireguard-go refused its configuration: {answer.strip()}")


# ---- OpenVPN ----

OPENVPN_ADDRESSES = {"A": "10.9.0.1", "B": "10.9.0.2"}


class OpenVpn(Daemons):
    """OpenVPN between two peers over UDP, TLS with certificates that know each other by fingerprint, no DCO."""

    @staticmethod
    def missing() -> str | None:
        return None if find_program("openvpn") else "package openvpn is not installed"

    @property
    def version(self) -> str:
        return " ".join(first_line([find_program("openvpn") or "", "--version"]).split()[:2])

    def _connect(self) -> None:
        prints = {own.letter: _self_signed(self.folder / f"{own.letter}.pem") for _, own, _ in self.ends()}
        for site, own, peer in self.ends():
            network, _, _ = peer.networks[0].partition("/")
            role = ["--tls-server", "--dh", "none"] if own.letter == "A" else ["--tls-client"]
            pem = str(self.folder / f"{own.letter}.pem")
            command = [
                find_program("openvpn") or "openvpn", "--dev", "tun0", "--dev-type", "tun", "--disable-dco",
                "--proto", "udp", "--local", own.outer[0], "--remote", peer.outer[0],
                "--ifconfig", OPENVPN_ADDRESSES[own.letter], OPENVPN_ADDRESSES[peer.letter],
                "--route", network, "255.255.255.0", *role,
                "--data-ciphers", "AES-128-GCM", "--cert", pem, "--key", pem,
                "--peer-fingerprint", prints[peer.letter], "--verb", "1",
            ]  # fmt: skip
            self.start(site.gateway, own, command)


def _self_signed(file: Path) -> str:
    """A key and its certificate in one PEM file; the SHA-256 fingerprint as OpenVPN writes it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file.stem)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.touch(mode=0o600)
    file.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


RIVALS: dict[str, type[Daemons]] = {"strongswan": StrongSwan, "wireguard-go": WireguardGo, "openvpn": OpenVpn}
