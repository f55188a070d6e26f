"""From a TOML file to a `GatewayConfig`, or to a `ConfigError` with every mistake in it."""

from __future__ import annotations

import dataclasses
import os
import tomllib
from pathlib import Path

from ipsecfast.config import values
from ipsecfast.config.certificates import read_authorities
from ipsecfast.config.checks import check_connection, check_connections, check_gateway, check_secrets
from ipsecfast.config.connections import read_connection
from ipsecfast.config.gateway import (
    DEFAULT_CONTROL,
    DEFAULT_MARK,
    DEFAULT_PUZZLE_LIMIT,
    DEFAULT_TABLE,
    DEFAULT_TUN,
    Carrier,
    Engine,
    GatewayConfig,
    PollMode,
    RingChoice,
)
from ipsecfast.config.lines import key_lines
from ipsecfast.config.policies import read_policies
from ipsecfast.config.secrets import Secrets, access_mistake, ppks_for, read_secrets, secrets_for
from ipsecfast.config.section import Report, Section
from ipsecfast.configured import ConnectionConfig
from ipsecfast.errors import ConfigError, ConfigProblem

_MIN_MTU, _MAX_MTU = 576, 65535


def load_config(file: str | os.PathLike[str]) -> GatewayConfig:
    """Reads and checks the whole file, and the secrets file it names.

    Raises ConfigError with all problems, in the order of the files. Touches nothing but the two files.
    """
    path = Path(file)
    root = _open(path, secret=False)
    reports = [root.report]
    gateway = root.section("gateway")
    by_default: Carrier | RingChoice = Carrier.AUTO
    outer = gateway.take("outer", values.outer, by_default)
    carrier = outer if isinstance(outer, Carrier) else Carrier.AUTO
    connections = _read_connections(root, _all_secrets(root, gateway, path, reports), carrier)
    authorities = read_authorities(root)
    connections = tuple(dataclasses.replace(connection, authorities=authorities) for connection in connections)
    config = GatewayConfig(
        file=str(path),
        connections=connections,
        policies=read_policies(root),
        tun=gateway.take("tun", values.interface_name, DEFAULT_TUN),
        state=gateway.take("state", values.optional(values.absolute_path), None),
        control=gateway.take("control", values.socket_path, DEFAULT_CONTROL),
        engine=gateway.take("engine", values.choice(Engine), Engine.AUTO).value,
        mtu=gateway.take("mtu", values.optional(values.integer(_MIN_MTU, _MAX_MTU)), None),
        table=gateway.take("table", values.integer(1, 32765), DEFAULT_TABLE),
        mark=gateway.take("mark", values.integer(1, 0xFFFFFFFF), DEFAULT_MARK),
        workers=gateway.take("workers", values.workers, None),
        poll=gateway.take("poll", values.choice(PollMode), PollMode.SLEEP),
        pin=gateway.take("pin", values.pin, values.NOT_PINNED),
        puzzle_limit=gateway.take("puzzle_limit", values.integer(0, 24), DEFAULT_PUZZLE_LIMIT),
        outer=outer if isinstance(outer, RingChoice) else None,
        inner=gateway.take("inner", values.inner, None),
    )
    gateway.finish()
    root.finish()
    check_gateway(config, root.report)
    problems = [problem for report in reports for problem in _in_file_order(report.problems)]
    if problems:
        raise ConfigError(problems)
    warnings = tuple(warning for report in reports for warning in _in_file_order(report.warnings))
    return dataclasses.replace(config, warnings=warnings)


def _in_file_order(problems: list[ConfigProblem]) -> list[ConfigProblem]:
    return sorted(problems, key=lambda problem: problem.line or 0)


def _open(path: Path, *, secret: bool) -> Section:
    """The root table of a file. Raises ConfigError if it can't be read, is open to others (secrets) or is no TOML."""
    try:
        with path.open("rb") as stream:
            mistake = access_mistake(os.fstat(stream.fileno())) if secret else None
            text = stream.read().decode() if mistake is None else ""
    except OSError as error:
        raise _unreadable(path, f"can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _unreadable(path, "is not UTF-8 text, as TOML has to be") from error
    if mistake is not None:
        raise _unreadable(path, mistake)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _unreadable(path, f"is not valid TOML: {error}") from error
    return Section(Report(str(path), key_lines(text.replace("\r\n", "\n")), secret=secret), (), data)


def _unreadable(path: Path, message: str) -> ConfigError:
    return ConfigError([ConfigProblem(str(path), "file", "", message)])


def _warn_of_readable_secrets(root: Section, path: Path, secrets: Secrets) -> None:
    mistake = access_mistake(path.stat()) if secrets else None
    if mistake is not None:
        advice = "or keep the secrets in a file of their own"
        root.report.warning(("secrets",), None, f"this file holds secrets and {mistake}, {advice}")


def _all_secrets(root: Section, gateway: Section, config_path: Path, reports: list[Report]) -> Secrets | None:
    """Those of the configuration and of the secrets file; None if that file is refused."""
    secrets = read_secrets(root)
    _warn_of_readable_secrets(root, config_path, secrets)
    name = gateway.take("secrets", values.text, "")
    if not name:
        return secrets
    try:
        secrets_root = _open(config_path.parent / name, secret=True)
    except ConfigError as error:
        gateway.problem("secrets", name, error.problems[0].message)
        return None
    reports.append(secrets_root.report)
    secrets += read_secrets(secrets_root)
    secrets_root.finish()
    return secrets


def _read_connections(root: Section, secrets: Secrets | None, carrier: Carrier) -> tuple[ConnectionConfig, ...]:
    connections = []
    report = root.report
    for name, section in root.sections("connections"):
        mistakes_before = len(report.problems)
        _check_names(name, section)
        connection = read_connection(name, section, carrier)
        known = secrets or Secrets()
        connection = dataclasses.replace(
            connection, secrets=secrets_for(connection, known.preshared), ppks=ppks_for(connection, known.postquantum)
        )
        connections.append(connection)
        if len(report.problems) == mistakes_before:  # else what follows from a mistake would be told as another one
            check_connection(connection, section.path, report)
            if secrets is not None:
                check_secrets(connection, section.path, report)
    if not connections and not any(problem.key == "connections" for problem in report.problems):
        report.problem(("connections",), None, "missing: give at least one [connections.NAME]")
    check_connections(connections, report)
    return tuple(connections)


def _check_names(name: str, section: Section) -> None:
    named = [(section.path, name)]
    named += [((*section.path, "children", child), child) for child, _ in section.sections("children")]
    for path, one in named:
        try:
            values.name(one)
        except ValueError as error:
            section.report.problem(path, one, str(error))
