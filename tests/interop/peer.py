"""What the matrix tries (`Trial`), and what a peer must be able to do for it (`Peer`): the words are ipsecfast's own.

A peer is one daemon in the guest, with the guest's kernel for ESP; gateway A is ipsecfast:

    host A --- gateway A: ipsecfast === tap === guest: the peer, Linux XFRM; dummy0 has host B's addresses
    10.1.0.2             192.0.2.1             192.0.2.2                     10.2.0.2
    fd00:a::2            fd00:2::1             fd00:2::2                     fd00:b::2
"""

from __future__ import annotations

import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from linux_guest import LinuxGuest

from ipsecfast.lab.netns import A, B
from ipsecfast.lab.testbed import SECRET, tunnel_config
from ipsecfast.pki import KeyType, make_authority, make_certificate

PEERS = Path(__file__).parents[2] / ".peers"
PPK_ID, PPK = "ppk-1", "0x" + "5a" * 32
IKE, ESP = "aes128gcm16-prfsha256-x25519", "aes128gcm16"
DEFAULT = ""  # proposals: what the program takes when nothing is configured
OURS, THEIRS = "ours", "theirs"
A_BEHIND_NAT, B_BEHIND_NAT = "192.0.2.9", "192.0.2.12"  # what the other end sees of a gateway behind a NAT
NEVER = 1_000_000_000  # bytes or packets: a limit that nothing here reaches


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One row of the matrix: how both ends are configured. What is done then, `life` says (a method of `Cell`)."""

    name: str
    row: str
    ike: str = IKE
    esp: str = ESP
    key: KeyType | None = None  # with certificates of this kind; None: with a pre-shared key
    pss: bool = False
    outer: int = 4
    inner: tuple[int, ...] = (4,)
    networks: int = 1
    mode: str = "tunnel"
    encap: bool = False
    loss: int = 0  # per cent of the packets, each way
    life: str = "lives"
    nat: str = ""  # which end is behind a NAT
    port: str = ""  # protocol and port, such as tcp/7001, that the peer's network is narrowed to; ours to the protocol
    limit: tuple[str, int] | None = None  # of the Child SA at the end that begins: bytes or packets
    sided: bool = False  # the configuration depends on who begins, which `side` is then
    side: str = ""
    needs: tuple[str, ...] = ()  # features beyond the words of the proposals
    connection: Mapping[str, Any] = field(default_factory=dict)  # keys of our connection
    child: Mapping[str, Any] = field(default_factory=dict)
    gateway: Mapping[str, Any] = field(default_factory=dict)

    def features(self) -> Iterator[str]:
        """What a peer must have, the most particular first."""
        if self.nat:
            yield f"{self.life} {self.nat} {self.mode}"
        yield from self.needs
        for protocol, words in (("ike", self.ike), ("esp", self.esp)):
            for word in words.split("-"):
                yield f"{protocol} {word}"
                yield word.partition("_")[2] or word
        if self.key is not None:
            yield f"{self.key}-pss" if self.pss else str(self.key)
            yield "certificates"
        else:
            yield "psk"
        yield self.mode
        yield self.life

    def begun_by(self, side: str) -> Trial:
        return replace(self, side=side) if self.sided else self

    @property
    def at(self) -> int:
        return 0 if self.outer == 4 else 1

    @property
    def in_udp(self) -> bool:
        return self.encap or bool(self.nat)

    @property
    def our_address(self) -> str:
        """As the peer sees it."""
        return A_BEHIND_NAT if self.nat == OURS else A.outer[self.at]

    @property
    def their_address(self) -> str:
        """As we see it."""
        return B_BEHIND_NAT if self.nat == THEIRS else B.outer[self.at]

    def limits(self, side: str) -> dict[str, int]:
        """The keys of the child at that end."""
        if self.limit is None or self.side != side:
            return {}
        what, number = self.limit
        return {f"rekey_{what}": number, f"life_{what}": NEVER, f"rand_{what}": 0}

    def selectors(self, networks: tuple[str, str]) -> list[str]:
        """The traffic selectors of one end: its networks, and narrow ones that only lengthen the list."""
        if self.mode == "transport":
            return ["dynamic"]
        own = [networks[0 if version == 4 else 1] for version in self.inner]
        if self.port:
            own = [f"{network}[{self.port.partition('/')[0]}]" for network in own]
        more = {4: "198.18.{}.0/24", 6: "2001:db8:{:x}::/64"}[self.inner[-1]]
        return own + [more.format(number) for number in range(1, self.networks)]

    def addresses(self) -> list[str]:
        """What must answer at the far end."""
        if self.mode == "transport":
            return [self.their_address]
        return [B.host[0 if version == 4 else 1] for version in self.inner]

    def our_config(self, credentials: Credentials | None) -> dict[str, Any]:
        connection = {"encap": self.encap, **self.connection}
        if self.ike:
            connection["proposals"] = [self.ike]
        child: dict[str, Any] = {"mode": self.mode, **self.child, **self.limits(OURS)}
        if self.esp:
            child["esp_proposals"] = [self.esp]
        child["local_ts"] = self.selectors(A.networks)
        child["remote_ts"] = ["dynamic"] if self.mode == "transport" else self.remote_networks()
        connection["remote_addrs"] = [self.their_address]
        config = tunnel_config(A, B, outer=self.outer, connection=connection, child=child)
        config["gateway"] = dict(self.gateway)
        if "ppk_id" in self.connection:
            config["secrets"]["ppk"] = {"type": "ppk", "ids": [PPK_ID], "secret": PPK}
        if credentials is not None:
            ours = config["connections"]["net"]
            certs = [str(credentials.certificate("a")), str(credentials.certificate("middle"))]
            ours["local"] |= {"auth": "pubkey", "certs": certs, "key": str(credentials.key("a")), "rsa_pss": self.pss}
            ours["remote"] |= {"auth": "pubkey", "cacerts": [str(credentials.certificate("root"))]}
        return config

    def remote_networks(self) -> list[str]:
        port = f"[{self.port}]" if self.port else ""
        return [B.networks[0 if version == 4 else 1] + port for version in self.inner]


@dataclass(frozen=True, slots=True)
class Credentials:
    """A root, an authority in between, and certificates for a.test and b.test, all of one kind, as files."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, kind: KeyType) -> Credentials:
        made = cls(folder)
        root = make_authority("Root", kind)
        middle = make_authority("Middle", kind, issuer=root)
        issued = {"root": root, "middle": middle}
        issued |= {name: make_certificate([f"{name}.test"], kind, middle) for name in "ab"}
        for name, one in issued.items():
            one.save(made.certificate(name), made.key(name))
        return made

    def certificate(self, name: str) -> Path:
        return self.folder / f"{name}.pem"

    def key(self, name: str) -> Path:
        return self.folder / f"{name}.key"


class Peer(ABC):
    """One daemon in the guest. It has one connection, `net`, with one child, `net`."""

    lacks_words: Mapping[str, str] = {}  # a feature -> what the peer lacks, in words for the page
    revives = False  # what it began it begins again when the other end deletes it
    early = ""  # as responder it sends on a new Child SA before its response can have been read: in words for the page
    has_esp = True  # it and ipsecfast have an ESP algorithm in common

    def __init__(self, guest: LinuxGuest, root: Path) -> None:
        self.guest = guest
        self.root = root
        if root != Path("/"):
            mount = "mount --bind /dev dev; mount -t proc proc proc; mount -t sysfs sys sys; mount -t tmpfs run run"
            guest.run("sh", "-c", f"cd '{root}' && {{ mountpoint -q proc || {{ {mount}; }}; }}")
        (root / "tmp").mkdir(exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="ipsecfast-", dir=root / "tmp"))

    def inside(self, path: Path) -> str:
        """What the daemon calls a file of this machine."""
        return str(Path("/") / path.relative_to(self.root))

    def run(self, *command: str, check: bool = True, timeout: float = 30.0) -> str:
        """Runs a program of the peer's root in the guest."""
        return self.guest.run(*self.command(*command), check=check, timeout=timeout)

    def command(self, *command: str) -> tuple[str, ...]:
        return command if self.root == Path("/") else ("chroot", str(self.root), *command)

    def lacks(self, trial: Trial, side: str) -> str | None:
        """Why this trial can't be begun by `side`, in words, or None."""
        words = (word for feature in trial.features() for word in (feature, f"{feature} by {side}"))
        return next((self.lacks_words[word] for word in words if word in self.lacks_words), None)

    def child_spis(self) -> set[str]:
        """The SPIs that the peer receives with, as hexadecimal numbers of eight digits: what its kernel has."""
        state = self.guest.run("ip", "xfrm", "state")
        ours = "|".join(re.escape(address) for address in B.outer)
        return set(re.findall(rf"dst (?:{ours})\n\s+proto esp spi 0x([0-9a-f]{{8}}) reqid [1-9]", state))

    @property
    @abstractmethod
    def title(self) -> str:
        """Name and version."""

    @abstractmethod
    def load(self, trial: Trial, credentials: Credentials | None) -> None:
        """Forgets what was before, and has the other end of the trial's connection."""

    @abstractmethod
    def initiate(self) -> None: ...

    @abstractmethod
    def rekey(self, what: str) -> None:
        """`what`: child or ike."""

    def reauthenticate(self) -> None:
        """Makes a new IKE SA beside the old one."""
        raise NotImplementedError

    def suspend(self) -> None:
        """Drops its IKE SA without a word and keeps the ticket (RFC 5723)."""
        raise NotImplementedError

    @abstractmethod
    def terminate(self, what: str) -> None: ...

    @abstractmethod
    def agrees_on_ike(self, spi_i: str) -> bool:
        """It has one IKE SA, and that is the one with the initiator's SPI `spi_i`."""

    @abstractmethod
    def log_text(self) -> str: ...

    @abstractmethod
    def stop(self) -> None: ...

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def fetched(name: str) -> Path | str:
    """The root file system that `ci/peers` made, or why there is none."""
    root = PEERS / name
    return (
        root if (root / "versions").exists() else f"there is no {root.relative_to(PEERS.parent)} (ci/peers fetches it)"
    )


def psk() -> str:
    return SECRET
