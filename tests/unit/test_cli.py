"""The command line: what it prints where, and its exit codes. A real gateway stands behind it in `interop`."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ipsecfast import __version__
from ipsecfast.cli import main
from ipsecfast.values import ENGINE_VERSIONS, ENGINES

CONFIG = """
[connections.b]
local_addrs = "192.0.2.1"
remote_addrs = "192.0.2.2"
[connections.b.local]
id = "a.test"
[connections.b.children.net]
local_ts = "10.1.0.0/24"
remote_ts = "10.2.0.0/24"
start_action = "trap"
[secrets.all]
secret = "TOPSECRET"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "gw.toml"
    file.write_text(CONFIG)
    file.chmod(0o600)
    return file


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_version_names_the_libraries_that_run() -> None:
    said = run("--version")
    assert said.exit_code == 0
    assert said.output.splitlines()[0] == f"ipsecfast, version {__version__}"
    assert [line.partition(":")[0] for line in said.output.splitlines()[1:]] == list(ENGINE_VERSIONS)
    assert set(ENGINE_VERSIONS) == set(ENGINES)
    assert ENGINE_VERSIONS["openssl"].startswith("OpenSSL 3.")
    assert f"openssl: {ENGINE_VERSIONS['openssl']}" in said.output


class Answers:
    """A socket that answers each request with prepared lines and keeps what was asked."""

    def __init__(self, path: Path, *lines: dict[str, Any]) -> None:
        self.requests: list[dict[str, Any]] = []
        self._lines = lines
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection, connection.makefile("rwb") as stream:
            self.requests.append(json.loads(stream.readline()))
            for line in self._lines:
                stream.write(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        self._thread.join()
        self._listener.close()


@pytest.fixture
def answering(tmp_path: Path) -> Iterator[Any]:
    made: list[Answers] = []

    def answer(*lines: dict[str, Any]) -> tuple[Path, Answers]:
        made.append(Answers(tmp_path / "gw.sock", *lines))
        return tmp_path / "gw.sock", made[-1]

    yield answer
    for answers in made:
        answers.close()


def test_alone_it_shows_help_with_the_first_steps() -> None:
    result = run()
    assert result.exit_code == 0
    assert "First steps:" in result.output
    for command in ("run", "check", "status", "initiate", "terminate", "rekey", "redirect", "shutdown", "demo"):
        assert f"\n  {command} " in result.output


def test_a_right_file_is_told_in_a_few_lines(config: Path) -> None:
    result = run("check", config)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        f"{config} is right:",
        "  device ipsec0 (MTU from the route to the peer), routing table 220, engine auto, "
        "control /run/ipsecfast/ipsecfast.sock",
        "  b: a.test at 192.0.2.1 <-> anyone with the secret at 192.0.2.2, pre-shared key",
        "    net: 10.1.0.0/24 === 10.2.0.0/24, tunnel mode, negotiated for its first packet",
    ]
    assert "warning" in result.stderr
    assert "connections.b.local_addrs = 192.0.2.1: is not an address of this machine" in result.stderr
    assert "TOPSECRET" not in result.output


def test_check_as_json(config: Path) -> None:
    result = run("check", "--json", config)
    answer = json.loads(result.stdout)
    assert (answer["ok"], answer["problems"]) == (True, [])
    assert answer["warnings"][0]["key"] == "connections.b.local_addrs"
    assert len(answer["summary"]) == 3


@pytest.mark.parametrize("command", ["check", "run"])
def test_every_mistake_is_printed_and_nothing_is_started(config: Path, command: str) -> None:
    config.write_text(CONFIG.replace("start_action", "start_akction").replace('"10.2.0.0/24"', '"10.2.0.0/33"'))
    result = run(command, config)
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"error: {config}:9: connections.b.children.net.remote_ts")
    assert lines[1].startswith(f"error: {config}:10: connections.b.children.net.start_akction")
    assert lines[2] == "ipsecfast: 2 mistakes in the configuration"


def test_mistakes_as_json(config: Path) -> None:
    config.write_text("[gateway]\ntun = 5\n")
    result = run("check", "--json", config)
    assert result.exit_code == 1
    problems = json.loads(result.stdout)["problems"]
    assert [problem["key"] for problem in problems] == ["connections", "gateway.tun"]
    assert problems[1] == {
        "file": str(config),
        "key": "gateway.tun",
        "value": "5",
        "message": 'expected a text in quotes, such as "abc"',
        "line": 2,
    }


def test_a_file_that_is_not_there() -> None:
    result = run("check", "/nowhere/gw.toml")
    assert result.exit_code == 1
    assert "error: /nowhere/gw.toml: file: can't be read: No such file or directory" in result.stderr


@pytest.mark.parametrize(
    "command",
    [["status"], ["initiate", "b"], ["terminate", "b"], ["rekey", "b"], ["redirect", "b", "192.0.2.3"], ["shutdown"]],
)
def test_no_gateway_answers(tmp_path: Path, command: list[str]) -> None:
    result = run(*command, "--control", tmp_path / "nothing.sock")
    assert result.exit_code == 3
    assert "no gateway answers on" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "connection", "child"),
    [
        (["b"], "b", ""),
        (["b/net"], "b", "net"),
        (["--ike", "b"], "b", ""),
        (["--child", "net"], "", "net"),
        (["--ike", "b", "--child", "net"], "b", "net"),
    ],
)
def test_what_a_command_is_about(answering: Any, arguments: list[str], connection: str, child: str) -> None:
    path, answers = answering({"notice": "working"}, {"ok": True, "message": "b/net is up"})
    result = run("initiate", *arguments, "--timeout", "5", "--control", path)
    assert result.exit_code == 0
    assert (result.stdout, result.stderr) == ("b/net is up\n", "working\n")
    assert answers.requests == [
        {"command": "initiate", "connection": connection, "child": child, "timeout": 5.0, "gateway": ""}
    ]


@pytest.mark.parametrize(
    ("word", "gateway"), [("192.0.2.3", "192.0.2.3"), ("gw.example.org", "gw.example.org"), ("none", "")]
)
def test_where_peers_are_sent(answering: Any, word: str, gateway: str) -> None:
    path, answers = answering({"ok": True, "message": "done"})
    assert run("redirect", "b", word, "--timeout", "5", "--control", path).stdout == "done\n"
    asked = {"command": "redirect", "connection": "b", "child": "", "timeout": 5.0, "gateway": gateway}
    assert answers.requests == [asked]


@pytest.mark.parametrize("arguments", [[], ["b", "--child", "net"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert run("rekey", *arguments).exit_code == 2


def test_a_refusal_is_a_sentence_on_stderr_and_exit_code_1(answering: Any) -> None:
    path, _ = answering({"ok": False, "error": "the peer answers NO_PROPOSAL_CHOSEN"})
    result = run("initiate", "b", "--control", path)
    assert result.exit_code == 1
    assert result.stderr == "ipsecfast: the peer answers NO_PROPOSAL_CHOSEN\n"


def test_a_gateway_that_dies_while_it_answers(answering: Any) -> None:
    path, _ = answering({"notice": "working"})
    result = run("initiate", "b", "--control", path)
    assert result.exit_code == 1
    assert "ended before it had answered" in result.stderr
