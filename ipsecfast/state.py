"""What a gateway keeps over its restarts: secrets of its own, in one file of a directory that only its user can enter.

Each gateway has a directory of its own: two with one secret could be made to tell of each other's IKE SAs.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ipsecfast.errors import SetupError
from ipsecfast.ike.extension.tickets import KEY_LENGTH, NUMBER_LENGTH
from ipsecfast.ike.lasting import FORGETFUL, Lasting, TicketKey

SECRETS = "secrets.json"
SECRET_LENGTH = 32
_GROUP_AND_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class KeptState:
    """What lasts, and where: `keep` replaces it, on the disk too, if there is a directory at all."""

    def __init__(self, lasting: Lasting, file: Path | None = None) -> None:
        self.lasting = lasting
        self._file = file

    def keep(self, lasting: Lasting) -> None:
        """Raises OSError if it can't be written."""
        self.lasting = lasting
        if self._file is not None:
            _write(self._file, _read(self._file) | _table(lasting))


@contextmanager
def kept_state(directory: str | None) -> Iterator[KeptState]:
    """Reads what was kept, makes what is missing, and keeps other gateways away until the end.

    None: nothing is kept. Raises SetupError if the directory or its file can't be used as they are.
    """
    if directory is None:
        yield KeptState(FORGETFUL)
        return
    path = Path(directory)
    try:
        descriptor = _enter(path)
    except OSError as error:
        raise _unusable(path, error) from error
    try:
        yield _load(path / SECRETS)
    finally:
        os.close(descriptor)  # and with it the lock goes


def _load(file: Path) -> KeptState:
    try:
        kept = _read(file)
        if "crash_secret" not in kept:
            kept["crash_secret"] = os.urandom(SECRET_LENGTH).hex()
            _write(file, kept)
    except OSError as error:
        raise _unusable(file, error) from error
    try:
        secret = bytes.fromhex(kept["crash_secret"])
        keys = tuple(_ticket_key(entry) for entry in kept.get("ticket_keys", ()))
    except (TypeError, ValueError, KeyError):
        secret, keys = b"", ()
    if len(secret) != SECRET_LENGTH:
        raise SetupError(f"gateway.state: {file} is not what this gateway wrote: remove it")
    return KeptState(Lasting(secret, keys), file)


def _ticket_key(entry: dict[str, Any]) -> TicketKey:
    key = TicketKey(bytes.fromhex(entry["number"]), bytes.fromhex(entry["key"]), float(entry["made"]))
    if (len(key.number), len(key.key)) != (NUMBER_LENGTH, KEY_LENGTH):
        raise ValueError("not a ticket key")
    return key


def _table(lasting: Lasting) -> dict[str, Any]:
    keys = [{"number": k.number.hex(), "key": k.key.hex(), "made": k.made} for k in lasting.ticket_keys]
    return {"crash_secret": lasting.crash_secret.hex(), "ticket_keys": keys}


def _unusable(path: Path, error: OSError) -> SetupError:
    return SetupError(f"gateway.state: {error.filename or path} can't be used: {error.strerror}")


def _enter(path: Path) -> int:
    """The open directory, locked."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _check(path, os.fstat(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise SetupError(f"gateway.state: {path} belongs to another gateway that runs: give each its own") from error
    except SetupError:
        os.close(descriptor)
        raise
    return descriptor


def _check(path: Path, status: os.stat_result) -> None:
    if status.st_mode & _GROUP_AND_OTHERS:
        mode = stat.S_IMODE(status.st_mode)
        raise SetupError(f"gateway.state: group or others can use {path} (mode {mode:04o}): chmod go= it")
    if status.st_uid not in (0, os.geteuid()):
        raise SetupError(
            f"gateway.state: {path} belongs to user {status.st_uid}, not to root or to the user who runs the gateway"
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            _check(file, os.fstat(stream.fileno()))
            kept = json.load(stream)
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise SetupError(f"gateway.state: {file} is not what this gateway wrote: remove it") from error
    if not isinstance(kept, dict):
        raise SetupError(f"gateway.state: {file} is not what this gateway wrote: remove it")
    return kept


def _write(file: Path, kept: dict[str, Any]) -> None:
    """All or nothing, whenever the machine stops."""
    unready = file.with_suffix(".new")
    unready.unlink(missing_ok=True)
    with open(unready, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as stream:
        json.dump(kept, stream)
        stream.flush()
        os.fsync(stream.fileno())
    unready.replace(file)
