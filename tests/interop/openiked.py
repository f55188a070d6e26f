"""OpenIKED 7 as a peer, as far as IKE_AUTH: its build for Linux and ipsecfast have no ESP algorithm in common.

Its ESP there is AES-CBC with HMAC alone (PF_KEY carries no AEAD, so the build leaves AES-GCM out), ipsecfast's is
AES-GCM alone, and it has no IKE SA without a Child SA (RFC 6023).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from linux_guest import GuestError, LinuxGuest
from peer import Credentials, Peer, Trial, psk

from ipsecfast.lab.netns import A, B
from ipsecfast.pki import KeyType, make_authority

SOCKET = "/run/iked.sock"
NO_ESP = (
    "no Child SA: OpenIKED's build for Linux has AES-CBC with HMAC alone for ESP, ipsecfast has AES-GCM alone, and "
    "OpenIKED keeps no IKE SA without a Child SA (RFC 6023)"
)
CONF = """
set passive
set decouple
set {fragmentation}
ikev2 "net" active esp {family} {protocol} from {local_ts} to {remote_ts} local {local} peer {remote} \\
  {ike} childsa enc aes-128 auth hmac-sha2-256 group none noesn \\
  srcid b.test dstid a.test {auth}
"""
WORDS = {
    "aes128gcm16": "enc aes-128-gcm", "aes256gcm16": "enc aes-256-gcm",
    "aes128": "enc aes-128", "aes256": "enc aes-256",
    "prfsha256": "prf hmac-sha2-256", "prfsha384": "prf hmac-sha2-384", "prfsha512": "prf hmac-sha2-512",
    "sha256": "prf hmac-sha2-256 auth hmac-sha2-256", "sha512": "prf hmac-sha2-512 auth hmac-sha2-512",
    "x25519": "group curve25519", "ecp256bp": "group brainpool256", "ecp384bp": "group brainpool384",
    "ecp512bp": "group brainpool512",
}  # fmt: skip
LACKS = {
    "rekeys_child": NO_ESP,
    "rekeys_ike": NO_ESP,
    "rekeys_by_limit": NO_ESP,
    "reauthenticates": NO_ESP,
    "carries_dscp": NO_ESP,
    "behind_nat": NO_ESP,
    "rekeys_behind_nat": NO_ESP,
    "transport": NO_ESP,
    "survives_loss": NO_ESP,
    "several selectors": NO_ESP,
    "nat": NO_ESP,
    "esp default": NO_ESP,
    "esn": NO_ESP,
    "esp aes256gcm16": NO_ESP,
    "mlkem768": "OpenIKED 7.4 has no additional key exchanges (RFC 9370); its hybrid is sntrup761x25519",
    "ppk": "OpenIKED 7.4 has no PPKs (RFC 8784)",
    "childless": "OpenIKED 7.4 keeps no IKE SA without a Child SA (RFC 6023)",
    "per-resource": "OpenIKED 7.4 has no per-resource Child SAs (RFC 9611)",
    "intermediate": "OpenIKED 7.4 has no IKE_INTERMEDIATE (RFC 9242)",
    "resumption": "OpenIKED 7.4 has no session resumption (RFC 5723)",
    "x448": "OpenIKED 7.4 has no Curve448",
    "ed25519": "OpenIKED 7.4 has no EdDSA authentication (RFC 8420)",
    "ed448": "OpenIKED 7.4 has no EdDSA authentication (RFC 8420)",
}


def _with_port(selector: str) -> str:
    """`10.2.0.0/24[tcp/7001]` as `10.2.0.0/24 port 7001`."""
    network, _, narrower = selector.rstrip("]").partition("[")
    port = narrower.partition("/")[2]
    return f"{network} port {port}" if port else network


class OpenIked(Peer):
    lacks_words: Mapping[str, str] = LACKS
    has_esp = False

    def __init__(self, guest: LinuxGuest, root: Path) -> None:
        super().__init__(guest, root)
        self._process: int | None = None
        self.log = self.folder / "iked.log"
        etc = f"{root}/etc/iked"
        guest.run("sh", "-c", f"mkdir -p {root}/var; ln -sfn ../run {root}/var/run; mount -t tmpfs iked {etc}")
        guest.run("sh", "-c", f"cd {etc} && mkdir ca certs crls private pubkeys")

    @property
    def title(self) -> str:
        return self.run("iked", "-V").strip()

    def load(self, trial: Trial, credentials: Credentials | None) -> None:
        self.stop()
        words = " ".join(WORDS.get(word, f"group {word}") for word in trial.ike.split("-"))
        text = CONF.format(
            family="inet" if trial.outer == 4 else "inet6",
            fragmentation="fragmentation",
            local=B.outer[trial.at],
            remote=A.outer[trial.at],
            protocol="proto 6" if trial.port else "",
            local_ts=_with_port(trial.remote_networks()[0]),
            remote_ts=_with_port(trial.selectors(A.networks)[0]),
            ike=f"ikesa {words}" if trial.ike else "",
            auth=f'psk "{psk()}"' if credentials is None else "rfc7427",
        )
        conf = self.folder / "iked.conf"
        conf.write_text(text)
        conf.chmod(0o600)
        self._certificates(credentials)
        self.log.unlink(missing_ok=True)
        arguments = ("-d", "-vv", "-f", self.inside(conf), "-s", SOCKET)
        self._process = self.guest.start(*self.command("iked", *arguments), log=self.log)
        deadline = time.monotonic() + 20
        while "config_getcompile: compilation done" not in self.log_text():
            if time.monotonic() > deadline:
                raise RuntimeError(f"iked did not come up: {self.log_text()}")
            time.sleep(0.1)

    def _certificates(self, credentials: Credentials | None) -> None:
        """The files that iked looks for; it wants a key even where a pre-shared one is used."""
        made = self.folder / "etc"
        shutil.rmtree(made, ignore_errors=True)
        for name in ("ca", "certs", "private"):
            (made / name).mkdir(parents=True)
        if credentials is None:
            make_authority("Unused", KeyType.ECDSA256).save(made / "unused.pem", made / "private/local.key")
        else:
            shutil.copy(credentials.key("b"), made / "private/local.key")
            chain = [credentials.certificate(name).read_text() for name in ("b", "middle")]
            (made / "certs/b.test.crt").write_text("".join(chain[:1]))
            (made / "ca/ca.crt").write_text(credentials.certificate("root").read_text() + chain[1])
        etc = f"{self.root}/etc/iked"
        self.guest.run("sh", "-c", f"cd {etc} && rm -rf */* && cp -r {made}/. . && chmod 600 private/local.key")

    def initiate(self) -> None:
        self.run("ikectl", "-s", SOCKET, "active")

    def rekey(self, what: str) -> None:
        raise NotImplementedError(NO_ESP)

    def terminate(self, what: str) -> None:
        self.run("ikectl", "-s", SOCKET, "reset", "sa")

    def agrees_on_ike(self, spi_i: str) -> bool:
        return spi_i in self.run("ikectl", "-s", SOCKET, "show", "sa", check=False)

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self) -> None:
        if self._process is not None:
            with suppress(GuestError):  # it may have ended already
                self.guest.kill(self._process)
            self._process = None
