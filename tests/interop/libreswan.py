"""Libreswan 5 as a peer: pluto in the guest, its certificates in an NSS database of its own."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, load_pem_private_key
from cryptography.hazmat.primitives.serialization.pkcs12 import serialize_key_and_certificates
from cryptography.x509 import load_pem_x509_certificate
from linux_guest import GuestError, LinuxGuest
from peer import PPK, PPK_ID, THEIRS, Credentials, Peer, Trial, psk

from ipsecfast.lab.netns import A, B

LIBEXEC = "/usr/libexec/ipsec"
CONTROL = "/run/pluto/pluto.ctl"
CONF = """
config setup
    logfile={folder}/pluto.log
conn net
    keyexchange=ikev2
    auto=ignore
    left={local}
    leftid=@b.test
    leftsubnet={local_ts}
    leftupdown=%disabled
    right={remote}
    rightid=@a.test
    rightsubnet={remote_ts}
    type={mode}
    encap-dscp=yes
    encapsulation={encapsulation}
"""
AUTH = {
    "psk": "    authby=secret\n",
    "pubkey": (
        "    authby={authby}\n    leftcert=b.test\n    leftsendcert=always\n    sendca=issuer\n    rightca=%same\n"
    ),
}
WORDS = {
    "x25519": "dh31", "ecp256": "dh19", "ecp384": "dh20", "ecp521": "dh21", "aes128gcm16": "aes_gcm128",
    "aes256gcm16": "aes_gcm256", "prfsha256": "sha2_256", "prfsha384": "sha2_384", "prfsha512": "sha2_512",
    "sha256": "sha2_256", "sha384": "sha2_384", "sha512": "sha2_512",
}  # fmt: skip
NO_REPLACEMENT = (
    "as responder, Libreswan 5.2 does not replace the addresses in what the initiator proposes that a NAT has changed "
    "(RFC 7296 s2.23.1)"
)
LACKS = {
    "mlkem768": "Libreswan 5.2 has no additional key exchanges (RFC 9370)",
    "ed25519": "Libreswan 5.2 has no EdDSA authentication (RFC 8420)",
    "ed448": "Libreswan 5.2 has no EdDSA authentication (RFC 8420)",
    "esn": "Libreswan 5.2 gives outbound SAs a replay window of 0, which newer Linux refuses with ESN",
    "intermediate by ours": (
        "as responder, Libreswan 5.2 checks AUTH as if there had been an IKE_INTERMEDIATE exchange, wherever both ends "
        "have announced it"
    ),
    "carries_dscp": "Libreswan 5.2 does not copy it to the outside, although it is told to (encap-dscp=yes)",
    "reauthenticates by theirs": "Libreswan 5.2 deletes the old IKE SA first, and makes no Child SA with the new one",
    "behind_nat theirs transport by ours": NO_REPLACEMENT,
    "rekeys_behind_nat theirs transport by ours": NO_REPLACEMENT,
    "behind_nat ours transport by ours": NO_REPLACEMENT,
    "rekeys_behind_nat ours transport by ours": NO_REPLACEMENT,
    "childless": "Libreswan 5.2 makes no IKE SA without a Child SA (RFC 6023)",
    "per-resource": "Libreswan 5.2 has no per-resource Child SAs (RFC 9611)",
    "x448": "Libreswan 5.2 has no Curve448",
    "ecp256bp": "Libreswan 5.2 has no Brainpool groups",
    "ecp384bp": "Libreswan 5.2 has no Brainpool groups",
    "ecp512bp": "Libreswan 5.2 has no Brainpool groups",
}


class Libreswan(Peer):
    lacks_words: Mapping[str, str] = LACKS
    revives = True
    early = (
        "as responder Libreswan 5.2 sends on a new Child SA before its response can have been read (RFC 7296 s2.8); "
        "what comes so early has no SA here yet and is lost, one ping at most each time"
    )

    def __init__(self, guest: LinuxGuest, root: Path) -> None:
        super().__init__(guest, root)
        self.nss = self.folder / "nss"
        self.log = self.folder / "pluto.log"
        self._process: int | None = None
        for empty in ("etc/hosts", "etc/resolv.conf"):
            (root / empty).touch()

    @property
    def title(self) -> str:
        return self.run(f"{LIBEXEC}/whack", "--version").split("(")[0].strip()

    def load(self, trial: Trial, credentials: Credentials | None) -> None:
        self.stop()
        self._write(trial, credentials)
        self._database(credentials)
        self._start()
        self.run(
            f"{LIBEXEC}/addconn", "--config", self.inside(self.folder / "ipsec.conf"), "--ctlsocket", CONTROL, "net"
        )
        self._whack("--listen")

    def _write(self, trial: Trial, credentials: Credentials | None) -> None:
        text = CONF.format(
            folder=self.inside(self.folder),
            local=B.outer[trial.at],
            remote=trial.our_address,
            local_ts=_without_ports(trial.remote_networks()),
            remote_ts=_without_ports(trial.selectors(A.networks)),
            mode=trial.mode,
            encapsulation="yes" if trial.encap else "auto",
        )
        if trial.mode == "transport":
            text = re.sub(r".*subnet=.*\n", "", text)
        secrets = f'@b.test @a.test : PSK "{psk()}"\n'
        text += AUTH["psk" if credentials is None else "pubkey"].format(
            authby="ecdsa" if str(trial.key).startswith("ec") else "rsasig"
        )
        if trial.ike:
            text += f"    ike={_words(trial.ike)}\n"
        if trial.esp:
            esp = [word for word in trial.esp.split("-") if word not in ("esn", "noesn")]
            text += f"    esp={_words('-'.join(esp[:1]))}\n    pfs={'yes' if len(esp) > 1 else 'no'}\n"
        text += f"    esn={'yes' if 'esn' in trial.esp.split('-') else 'no'}\n"
        if trial.port:
            text += f"    leftprotoport={trial.port}\n    rightprotoport={trial.port.partition('/')[0]}\n"
        if trial.limit and trial.side == THEIRS:
            text += f"    ipsec-max-{trial.limit[0]}={4 * trial.limit[1]}\n"  # it rekeys well before that
        if "ppk_id" in trial.connection:
            text += "    ppk=insist\n"
            secrets += f'@b.test @a.test : PPKS "{PPK_ID}" {PPK}\n'
        if "intermediate" in trial.needs:
            text += "    intermediate=yes\n"
        if "resumption" in trial.connection:
            text += "    session-resumption=yes\n"
        (self.folder / "ipsec.conf").write_text(text)
        (self.folder / "ipsec.secrets").write_text(secrets)

    def _database(self, credentials: Credentials | None) -> None:
        """A new NSS database, with our certificate, its key and the authorities."""
        shutil.rmtree(self.nss, ignore_errors=True)
        self.nss.mkdir()
        database = ("-d", f"sql:{self.inside(self.nss)}")
        self.run("certutil", "-N", *database, "--empty-password")
        if credentials is None:
            return
        names = ("b", "middle", "root")
        ours, middle, root = (load_pem_x509_certificate(credentials.certificate(name).read_bytes()) for name in names)
        key = load_pem_private_key(credentials.key("b").read_bytes(), None)
        bundle = self.folder / "b.p12"
        bundle.write_bytes(
            serialize_key_and_certificates(b"b.test", key, ours, [middle, root], BestAvailableEncryption(b"only here"))  # type: ignore[arg-type]
        )
        self.run("pk12util", "-i", self.inside(bundle), *database, "-W", "only here")
        shutil.copy(credentials.certificate("root"), self.folder / "root.pem")
        self.run("certutil", "-A", *database, "-n", "root", "-t", "CT,,", "-i", self.inside(self.folder / "root.pem"))

    def _start(self) -> None:
        self.log.unlink(missing_ok=True)
        self.guest.run("mkdir", "-p", f"{self.root}/run/pluto")
        folder = self.inside(self.folder)
        arguments = [
            "--nofork", "--no-dnssec", "--config", f"{folder}/ipsec.conf", "--secretsfile", f"{folder}/ipsec.secrets",
            "--ipsecdir", folder, "--nssdir", self.inside(self.nss), "--logfile", self.inside(self.log),
            "--rundir", "/run/pluto",
        ]  # fmt: skip
        pluto = self.command(f"{LIBEXEC}/pluto", *arguments)
        self._process = self.guest.start(*pluto, log=self.folder / "stdout.log")
        deadline = time.monotonic() + 20
        while "xfrm" not in self._whack("--status"):
            if time.monotonic() > deadline:
                raise RuntimeError(f"pluto did not come up: {(self.folder / 'stdout.log').read_text(errors='replace')}")
            time.sleep(0.2)

    def initiate(self) -> None:
        self._whack("--initiate", "--asynchronous", "--name", "net")

    def rekey(self, what: str) -> None:
        self._whack(f"--rekey-{what}", "--asynchronous", "--name", "net")

    def suspend(self) -> None:
        self._whack("--suspend", "--name", "net")

    def terminate(self, what: str) -> None:
        self._whack("--terminate" if what == "ike" else "--delete-child", "--name", "net")

    def agrees_on_ike(self, spi_i: str) -> bool:
        """pluto shows no SPIs of IKE SAs; it shows how many there are."""
        return len(re.findall(r"ESTABLISHED_IKE_SA", self._whack("--showstates"))) == 1

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def stop(self) -> None:
        if self._process is not None:
            self._whack("--shutdown")
            with suppress(GuestError):  # it may have ended already
                self.guest.kill(self._process)
            self._process = None
            self.guest.run("ip", "xfrm", "state", "flush")
            self.guest.run("ip", "xfrm", "policy", "flush")

    def _whack(self, *arguments: str) -> str:
        return self.run(f"{LIBEXEC}/whack", "--ctlsocket", CONTROL, *arguments, check=False)


def _without_ports(selectors: list[str]) -> str:
    return ",".join(selector.partition("[")[0] for selector in selectors)


def _words(proposal: str) -> str:
    """`aes128gcm16-prfsha256-x25519` as `aes_gcm128-sha2_256-dh31`."""
    return "-".join(WORDS.get(word, word) for word in proposal.split("-"))
