"""Pre-shared keys: `[secrets.NAME]` in the configuration or, better, in a file that only its owner can read.

`type = "ppk"` makes it a post-quantum one (RFC 8784), whose `ids` are PPK_IDs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ipsecfast.config import values
from ipsecfast.config.section import Section
from ipsecfast.configured import ConnectionConfig, PostquantumKey, PresharedKey
from ipsecfast.identity import Identity

MIN_PPK_LENGTH = 32  # RFC 8784 s6: 256 bits of entropy
_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretType(StrEnum):
    """What a secret is for (vici's `type`): to prove who we are, or against quantum computers."""

    IKE = "ike"
    PPK = "ppk"


@dataclass(frozen=True, slots=True)
class Secrets:
    """All secrets of a file, or of two."""

    preshared: tuple[PresharedKey, ...] = ()
    postquantum: tuple[PostquantumKey, ...] = ()

    def __add__(self, other: Secrets) -> Secrets:
        return Secrets(self.preshared + other.preshared, self.postquantum + other.postquantum)

    def __bool__(self) -> bool:
        return bool(self.preshared or self.postquantum)


def read_secrets(root: Section) -> Secrets:
    """All `[secrets.NAME]` of a file."""
    return sum((_read_secret(section) for _, section in root.sections("secrets")), Secrets())


def _read_secret(section: Section) -> Secrets:
    kind = section.take("type", values.choice(SecretType), SecretType.IKE)
    why = "the pre-shared key: text, 0x hexadecimal or 0s base64"
    if kind is SecretType.PPK:
        ids = section.take_list("ids", values.text, ())
        if not ids and "ids" not in section:
            section.problem("ids", None, 'missing: the name that both ends give this key, such as ids = ["ppk-1"]')
        secret = section.require("secret", values.secret, b"", why)
        if 0 < len(secret) < MIN_PPK_LENGTH:
            section.warning("secret", f"a PPK of {len(secret)} octets: against a quantum computer take 32 random ones")
        read = Secrets(postquantum=tuple(PostquantumKey(one.encode(), secret) for one in ids))
    else:
        identities = section.take_list("ids", values.identity_or_pattern, ())
        secret = section.require("secret", values.secret, b"", why)
        read = Secrets(preshared=(PresharedKey(identities, secret),))
    section.finish()
    return read


def access_mistake(status: os.stat_result) -> str | None:
    """Why a file with secrets is refused: others could read it, or somebody else owns it. None if it may be used."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_mode & _GROUP_AND_OTHERS:
        return f"group or others can use it (mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 it"
    if status.st_uid not in (0, os.geteuid()):
        return f"belongs to user {status.st_uid}: it must belong to root or to the user who runs the gateway"
    return None


def secrets_for(connection: ConnectionConfig, secrets: Sequence[PresharedKey]) -> tuple[PresharedKey, ...]:
    """The keys that this connection may use, in the order of the file; `pad.find_secret` chooses among them.

    A key without identities is for everybody. Where the peer's identity is known, a key must name it, or nobody but us:
    a key made for us and another peer must not authenticate this one.
    """
    ours = (connection.local.identity, connection.remote.identity)
    return tuple(secret for secret in secrets if _applies(secret, *ours))


def ppks_for(connection: ConnectionConfig, ppks: Sequence[PostquantumKey]) -> tuple[PostquantumKey, ...]:
    """Those that `ppk_id` names, a `*` in front of it standing for anything, in the order of the file."""
    wanted = connection.ppk_id
    if wanted is None:
        return ()
    if wanted.startswith("*"):
        return tuple(ppk for ppk in ppks if ppk.id.endswith(wanted[1:].encode()))
    return tuple(ppk for ppk in ppks if ppk.id == wanted.encode())


def _applies(secret: PresharedKey, local: Identity | None, remote: Identity | None) -> bool:
    if not secret.identities or remote is None or remote.is_pattern:
        return True
    if any(identity.covers(remote) for identity in secret.identities):
        return True
    return local is not None and all(identity.covers(local) for identity in secret.identities)
