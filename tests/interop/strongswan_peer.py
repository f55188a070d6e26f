"""strongSwan, releases 5.9 and 6, as a peer of the matrix: charon in the guest, with the kernel's ESP."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import strongswan
from linux_guest import LinuxGuest
from peer import PPK, PPK_ID, THEIRS, Credentials, Peer, Trial, psk
from strongswan import Connection, Release

from ipsecfast.lab.netns import A, B

LACKS = {
    "intermediate": "strongSwan offers it only with additional key exchanges",
    "resumption": "strongSwan has no session resumption (RFC 5723)",
}
LACKS_59 = {
    "mlkem768": "strongSwan 5.9 has no additional key exchanges (RFC 9370) and no ML-KEM",
    "per-resource": "strongSwan 5.9 has no per-resource Child SAs (RFC 9611)",
    **LACKS,
}


class StrongSwanPeer(Peer):
    def __init__(self, guest: LinuxGuest, root: Path, release: Release | None = None) -> None:
        super().__init__(guest, root)
        self.lacks_words: Mapping[str, str] = LACKS_59 if release is None else LACKS
        self.daemon = strongswan.in_guest(guest, self.folder, release)

    @property
    def title(self) -> str:
        found = re.search(r"\d+\.\d+\.\d+\S*", self.daemon.swanctl("--version", check=False))
        return f"strongSwan {found[0] if found else '(of no known version)'}"

    def load(self, trial: Trial, credentials: Credentials | None) -> None:
        self.daemon.swanctl("--terminate", "--ike", "net", "--force", check=False)
        self.guest.run("ip", "xfrm", "state", "flush")
        certificates: dict[str, str] = {}
        if credentials is not None:
            for name in ("b", "middle", "root"):
                shutil.copy(credentials.certificate(name), self.folder / f"{name}.pem")
            files = {name: self.inside(self.folder / f"{name}.pem") for name in ("b", "middle", "root")}
            certificates = {
                "auth": "ike:rsa/pss-sha256" if trial.pss else "pubkey",
                "certs": f"{files['b']}, {files['middle']}",
                "cacert": files["root"],
                "key": str(credentials.key("b")),
            }
        self.daemon.load(
            Connection(
                local=B.outer[trial.at],
                remote=trial.our_address,
                local_ts=_selectors(["dynamic"] if trial.mode == "transport" else trial.remote_networks()),
                remote_ts=_selectors(trial.selectors(A.networks)),
                proposals=trial.ike or "default",
                esp_proposals=trial.esp or "default",
                mode=trial.mode,
                encap="yes" if trial.encap else "no",
                secret=psk(),
                per_cpu_sas="yes" if "per-resource" in trial.needs else "",
                more=_more(trial),
                more_child="\n".join(f"{key} = {value}" for key, value in trial.limits(THEIRS).items()),
                more_secrets=f"ppk-1 {{\n id = {PPK_ID}\n secret = {PPK}\n}}" if "ppk_id" in trial.connection else "",
                **certificates,
            )
        )

    def initiate(self) -> None:
        self.daemon.swanctl("--initiate", "--child", "net", "--timeout", "15", check=False)

    def rekey(self, what: str) -> None:
        self.daemon.rekey(what)

    def reauthenticate(self) -> None:
        self.daemon.swanctl("--rekey", "--ike", "net", "--reauth")

    def terminate(self, what: str) -> None:
        self.daemon.terminate(what)

    def agrees_on_ike(self, spi_i: str) -> bool:
        return self.daemon.agrees_on_ike(spi_i)

    def log_text(self) -> str:
        return "\n".join(self.daemon.log_text().splitlines()[-200:])

    def stop(self) -> None:
        self.daemon.close()


def _selectors(selectors: list[str]) -> str:
    """With numbers of protocols: there is no /etc/protocols in the root of release 6."""
    return ",".join(selectors).replace("[tcp", "[6")


def _more(trial: Trial) -> str:
    """What else the connection says, in swanctl's words, which are ours."""
    words = {key: value for key, value in trial.connection.items() if key in ("ppk_id", "ppk_required", "childless")}
    return "\n".join(f"{key} = {'yes' if value is True else value}" for key, value in words.items())
