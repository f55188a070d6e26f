"""Pre-shared keys: `[secrets.NAME]` in the configuration or, better, in a file that only its owner can read."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from ipsecfast.config import values
from ipsecfast.config.section import Section
from ipsecfast.configured import ConnectionConfig, PresharedKey
from ipsecfast.identity import Identity

_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_secrets(root: Section) -> tuple[PresharedKey, ...]:
    """All `[secrets.NAME]` of a file."""
    return tuple(_read_secret(section) for _, section in root.sections("secrets"))


def _read_secret(section: Section) -> PresharedKey:
    identities = section.take_list("ids", values.required_identity, ())
    secret = section.require("secret", values.secret, b"", "the pre-shared key: text, 0x hexadecimal or 0s base64")
    section.finish()
    return PresharedKey(identities, secret)


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
    """The keys that this connection may use, the one that names most of its identities first.

    A key without identities is for everybody. Where the peer's identity is known, a key must name it, or nobody but us:
    a key made for us and another peer must not authenticate this one.
    """
    usable = [secret for secret in secrets if _applies(secret, connection.local.identity, connection.remote.identity)]
    ours = {connection.local.identity, connection.remote.identity}
    return tuple(sorted(usable, key=lambda secret: -len(ours.intersection(secret.identities))))


def _applies(secret: PresharedKey, local: Identity | None, remote: Identity | None) -> bool:
    if not secret.identities or remote is None:
        return True
    return remote in secret.identities or set(secret.identities) == {local}
