"""The control socket: framing, permissions, leftovers, and what a client hears when nobody answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from ipsecfast.control import (
    MAX_LINE,
    Command,
    ControlServer,
    NoGatewayError,
    Say,
    Verb,
    gateway_answers,
    parse_command,
    send_command,
)
from ipsecfast.errors import ControlError


async def perform(command: Command, say: Say) -> dict[str, Any]:
    if command.connection == "unknown":
        raise ControlError("there is no connection unknown")
    say(f"working on {command.target}")
    return {"message": f"{command.command.value} done", "timeout": command.timeout}


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[ControlServer]:
    server = ControlServer(str(path), perform)
    await server.start()
    try:
        yield server
    finally:
        await server.close()


async def ask(path: Path, command: Command) -> list[dict[str, Any]]:
    return await asyncio.to_thread(lambda: list(send_command(str(path), command)))


def raw_answer(path: Path, data: bytes) -> dict[str, Any]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(str(path))
        connection.sendall(data)
        with connection.makefile("rb") as lines:
            answer: dict[str, Any] = json.loads(lines.readline())
            return answer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "gw.sock"


def test_a_command_is_answered_with_notices_and_one_last_line(path: Path) -> None:
    async def scenario() -> None:
        async with serving(path):
            answer = await ask(path, Command(Verb.INITIATE, "b", "net", 5.0))
            assert answer == [
                {"notice": "working on b/net"},
                {"ok": True, "message": "initiate done", "timeout": 5.0},
            ]

    asyncio.run(scenario())


def test_a_refused_command_is_told_why(path: Path) -> None:
    async def scenario() -> None:
        async with serving(path):
            assert await ask(path, Command(Verb.REKEY, "unknown")) == [
                {"ok": False, "error": "there is no connection unknown"}
            ]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n",
        b"[]\n",
        b"{}\n",
        b'{"command": "explode"}\n',
        b'{"command": "initiate", "connection": 5}\n',
        b'{"command": "initiate", "timeout": "soon"}\n',
        b'{"command": "initiate", "timeout": -1}\n',
        b"\xff\xfe\n",
        b"x" * (MAX_LINE * 3) + b"\n",
    ],
)
def test_what_is_no_request_is_refused_and_the_server_goes_on(path: Path, line: bytes) -> None:
    async def scenario() -> None:
        async with serving(path):
            answer = await asyncio.to_thread(raw_answer, path, line)
            assert answer["ok"] is False
            assert answer["error"]
            assert (await ask(path, Command(Verb.STATUS)))[-1]["ok"]

    asyncio.run(scenario())


def test_a_client_that_leaves_at_once_does_no_harm(path: Path) -> None:
    async def scenario() -> None:
        async with serving(path):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
                connection.connect(str(path))
            assert (await ask(path, Command(Verb.STATUS)))[-1]["ok"]

    asyncio.run(scenario())


def test_only_the_owner_may_use_the_socket_and_it_is_gone_afterwards(path: Path) -> None:
    async def scenario() -> None:
        async with serving(path):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert gateway_answers(path)
        assert not path.exists()
        assert not path.parent.exists()

    asyncio.run(scenario())


def test_a_leftover_is_replaced_and_a_running_gateway_is_not(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))

    async def scenario() -> None:
        async with serving(path):
            with pytest.raises(ControlError, match=r"a gateway answers on .* already"):
                await ControlServer(str(path), perform).start()
            assert (await ask(path, Command(Verb.STATUS)))[-1]["ok"]

    asyncio.run(scenario())
    assert path.parent.exists()  # it was there before


def test_a_file_that_is_no_socket_is_not_touched(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(ControlError, match="can't make the control socket"):
        asyncio.run(ControlServer(str(path), perform).start())
    assert path.read_text() == "precious"


def test_no_gateway_answers(path: Path) -> None:
    with pytest.raises(NoGatewayError, match="is `ipsecfast run` running"):
        list(send_command(str(path), Command(Verb.STATUS)))


def test_a_gateway_that_ends_before_it_has_answered(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        answers = send_command(str(path), Command(Verb.STATUS, timeout=1.0))

        async def scenario() -> None:
            client = asyncio.create_task(asyncio.to_thread(list, answers))
            connection, _ = await asyncio.to_thread(listener.accept)
            await asyncio.to_thread(connection.recv, 1000)
            connection.close()
            await client

        with pytest.raises(ControlError, match="ended before it had answered"):
            asyncio.run(scenario())


def test_a_command_survives_the_socket() -> None:
    line = b'{"command": "terminate", "connection": "b", "child": "net", "timeout": 3}'
    assert parse_command(line) == Command(Verb.TERMINATE, "b", "net", 3.0)
    assert parse_command(line).target == "b/net"
