"""The control socket: one JSON object a line each way, over a unix socket that only its owner can open (mode 0600).

A request is `{"command": "status" | "initiate" | "terminate" | "rekey" | "reauthenticate" | "redirect" | "shutdown"}`,
for those in the middle with `"connection"`, `"child"` (either may be missing, `child` alone names a child of any
connection) and `"timeout"` in seconds; `redirect` has `"gateway"`, an address or a host name, or "" for none any more.
The answer is any number of `{"notice": "sentence"}` and then one last line: `{"ok": true, ...}` or
`{"ok": false, "error": "sentence"}`. The answer to `status` has `"status"`: see `ipsecfast.status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

from ipsecfast.errors import ControlError

UNREADY = ".new"  # the end of the socket's name until it listens
MAX_LINE = 1 << 16  # bytes of a request
REQUEST_TIME = 10.0  # seconds in which a client has to send its request
MAX_TIMEOUT = 3600
DEFAULT_TIMEOUT = 60.0  # seconds that `initiate`, `terminate` and `rekey` wait for their outcome
ANSWER_MARGIN = 10.0  # seconds that a client waits beyond that


class Verb(StrEnum):
    STATUS = "status"
    INITIATE = "initiate"
    TERMINATE = "terminate"
    REKEY = "rekey"
    REAUTHENTICATE = "reauthenticate"
    REDIRECT = "redirect"
    SHUTDOWN = "shutdown"


@dataclass(frozen=True, slots=True)
class Command:
    """One request. `connection` and `child` are configured names, "" where none was given; `gateway` is redirect's."""

    command: Verb
    connection: str = ""
    child: str = ""
    timeout: float = DEFAULT_TIMEOUT
    gateway: str = ""

    @property
    def target(self) -> str:
        return f"{self.connection}/{self.child}" if self.child else self.connection


class NoGatewayError(ControlError):
    """Nobody answers on the control socket, or we may not ask."""


Say: TypeAlias = Callable[[str], None]
# Performs a command; what it returns goes into the last line. Raises ControlError with the sentence for the operator.
Perform: TypeAlias = Callable[[Command, Say], Awaitable[dict[str, Any]]]


def parse_command(line: bytes) -> Command:
    """Raises ControlError if the line is no request."""
    try:
        request = json.loads(line)
        verb = Verb(request["command"])
        names = [request.get(key, "") for key in ("connection", "child", "gateway")]
        timeout = float(request.get("timeout", DEFAULT_TIMEOUT))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ControlError(f"not a request: a JSON object with a command of {', '.join(Verb)} is expected") from error
    if not all(isinstance(name, str) for name in names) or not 0 <= timeout <= MAX_TIMEOUT:
        raise ControlError(f"connection, child and gateway are texts, timeout is a number of seconds to {MAX_TIMEOUT}")
    connection, child, gateway = names
    return Command(verb, connection, child, timeout, gateway)


class ControlServer:
    """Listens on the socket and hands each request to `perform`."""

    def __init__(self, path: str, perform: Perform) -> None:
        self.path = Path(path)
        self._perform = perform
        self._server: asyncio.Server | None = None
        self._made_folder = False

    async def start(self) -> None:
        """Binds the socket; a socket file that nobody answers on is a leftover and replaced.

        Raises ControlError if another gateway answers there, or the path can't be used.
        """
        self.check()
        try:
            listener = self._bind()
        except OSError as error:
            raise ControlError(f"can't make the control socket {self.path}: {error.strerror}") from error
        self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MAX_LINE)

    def check(self) -> None:
        """Raises ControlError if a gateway answers there already."""
        if gateway_answers(self.path):
            raise ControlError(f"a gateway answers on {self.path} already: stop it, or set gateway.control")

    def _bind(self) -> socket.socket:
        if not self.path.parent.exists():
            self.path.parent.mkdir(mode=0o755, parents=True)
            self._made_folder = True
        if self.path.exists() and not stat.S_ISSOCK(self.path.stat().st_mode):
            raise FileExistsError(errno.EEXIST, "there is a file that is no socket")
        unready = Path(f"{self.path}{UNREADY}")
        unready.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        previous = os.umask(0o177)  # the file is 0600 from its first moment
        try:
            listener.bind(str(unready))
            listener.listen()
            unready.replace(self.path)  # who sees the file can connect
        except OSError:
            listener.close()
            raise
        finally:
            os.umask(previous)
        return listener

    async def close(self) -> None:
        if self._server is None:
            return
        self._server.close()
        self.path.unlink(missing_ok=True)
        if self._made_folder:
            with contextlib.suppress(OSError):  # another gateway's socket may be in it
                self.path.parent.rmdir()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def answer(line: dict[str, Any]) -> None:
            writer.write(json.dumps(line).encode() + b"\n")

        try:
            answer(await self._answer(reader, lambda sentence: answer({"notice": sentence})))
            await writer.drain()
        except (ConnectionError, TimeoutError):
            return  # the client has gone or sends nothing: there is nobody to tell
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, say: Say) -> dict[str, Any]:
        try:
            line = await asyncio.wait_for(reader.readline(), REQUEST_TIME)
            return {"ok": True, **await self._perform(parse_command(line), say)}
        except ControlError as error:
            return {"ok": False, "error": str(error)}
        except ValueError:  # StreamReader: the line is longer than the limit
            return {"ok": False, "error": f"a request has at most {MAX_LINE} bytes"}


def gateway_answers(path: Path) -> bool:
    """Whether somebody listens on the socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def send_command(path: str, command: Command) -> Iterator[dict[str, Any]]:
    """The client's side: the lines of the answer, the last one has `ok`. Raises ControlError if no gateway answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(command.timeout + ANSWER_MARGIN)
        try:
            connection.connect(path)
            connection.sendall(json.dumps(asdict(command)).encode() + b"\n")
            with connection.makefile("rb") as lines:
                yield from _answer_lines(lines)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoGatewayError(f"no gateway answers on {path}: is `ipsecfast run` running?") from error
        except PermissionError as error:
            raise NoGatewayError(f"{path} may only be used by its owner: try as root") from error
        except TimeoutError as error:
            raise ControlError(f"the gateway on {path} did not answer in time") from error
        except OSError as error:
            raise ControlError(f"the gateway on {path} went away: {error.strerror}") from error


def _answer_lines(lines: Any) -> Iterator[dict[str, Any]]:
    for line in lines:
        answer = json.loads(line)
        yield answer
        if "ok" in answer:
            return
    raise ControlError("the gateway ended before it had answered")
