"""The command `ipsecfast`.

Exit codes: 0 done; 1 refused or failed (a configuration with mistakes, a machine that can't, a peer that said no);
2 wrong usage; 3 no gateway answers on the control socket. What went wrong stands on stderr, one sentence a line.

click parses the command line: subcommands, options that follow from types, help, completion, and a runner for tests.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from types import ModuleType
from typing import Any, NoReturn, TypeVar

import click

from ipsecfast import __version__
from ipsecfast.bench.command import bench
from ipsecfast.config import DEFAULT_CONTROL, GatewayConfig, load_config
from ipsecfast.control import DEFAULT_TIMEOUT, Command, NoGatewayError, Verb, send_command
from ipsecfast.errors import ConfigError, ControlError, IpsecError
from ipsecfast.logs import LogFormat
from ipsecfast.pki_command import pki

F = TypeVar("F", bound=Callable[..., Any])

FAILED, NO_GATEWAY = 1, 3
EXTENSION_MODULES = ("ipsecfast.dataplane", "ipsecfast.library", "ipsecfast.values")

FIRST_STEPS = """\b
First steps:
  ipsecfast demo                  two gateways and two hosts on this machine, traffic between them
  ipsecfast check gateway.toml    what is wrong with a configuration, or what it will do
  ipsecfast run gateway.toml      the gateway, in the foreground (as root)
  ipsecfast status                what it is doing
  ipsecfast bench                 how fast it is here, beside others
"""


@click.group(
    invoke_without_command=True,
    epilog=FIRST_STEPS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--version", is_flag=True, help="Show the versions of ipsecfast and of its AEAD engines' libraries.")
@click.pass_context
def main(context: click.Context, version: bool) -> None:
    """An IPsec gateway in user space: IKEv2, ESP, one TOML file."""
    if version:
        click.echo(versions())
        context.exit()
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def versions() -> str:
    try:
        from ipsecfast.values import ENGINE_VERSIONS
    except ModuleNotFoundError:
        return f"ipsecfast, version {__version__} (its extension modules are not built)"
    return "\n".join(
        [f"ipsecfast, version {__version__}", *(f"{name}: {said}" for name, said in ENGINE_VERSIONS.items())]
    )


def fail(message: str, code: int = FAILED) -> NoReturn:
    click.echo(f"ipsecfast: {message}", err=True)
    sys.exit(code)


# ---- run and check ----

config_argument = click.argument("file", type=click.Path())


@main.command()
@config_argument
@click.option("--log-format", type=click.Choice([one.value for one in LogFormat]), default=LogFormat.TEXT.value)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info")
def run(file: str, log_format: str, log_level: str) -> None:
    """Run the gateway that FILE describes, in the foreground, until ctrl-C or SIGTERM.

    Device, routes and rules are there while it runs and gone afterwards.
    """
    config = _load_or_fail(file)
    gateway = _gateway_module()
    from ipsecfast.logs import set_up_logging

    set_up_logging(LogFormat(log_format), log_level)
    try:
        gateway.run_gateway(config)
    except ConfigError as error:
        _print_problems(error)
        sys.exit(FAILED)
    except IpsecError as error:
        fail(str(error))


def _gateway_module() -> ModuleType:
    """The gateway needs the extension modules; what else the command line does works without them."""
    try:
        return importlib.import_module("ipsecfast.gateway")
    except ModuleNotFoundError as error:
        if error.name in EXTENSION_MODULES:
            fail("the extension modules are not built: pip install . in the source folder")
        raise


def _load_or_fail(file: str) -> GatewayConfig:
    try:
        return load_config(file)
    except ConfigError as error:
        _print_problems(error)
        sys.exit(FAILED)


def _print_problems(error: ConfigError) -> None:
    for problem in error.problems:
        click.echo(f"error: {problem}", err=True)
    count = len(error.problems)
    click.echo(f"ipsecfast: {count} mistake{'s' if count != 1 else ''} in the configuration", err=True)


@main.command()
@config_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON object: ok, problems, warnings, summary.")
def check(file: str, as_json: bool) -> None:
    """Check FILE: every mistake with its place and what would be right, or what the gateway will do.

    Touches nothing. Exit code 1 if there is a mistake.
    """
    try:
        config = load_config(file)
    except ConfigError as error:
        if as_json:
            problems = [asdict(problem) for problem in error.problems]
            click.echo(json.dumps({"file": file, "ok": False, "problems": problems, "warnings": [], "summary": []}))
        else:
            _print_problems(error)
        sys.exit(FAILED)
    from ipsecfast.summary import summary

    warnings = [*config.warnings, *_gateway_module().machine_warnings(config)]
    if as_json:
        entry = {"file": file, "ok": True, "problems": [], "warnings": [asdict(one) for one in warnings]}
        click.echo(json.dumps(entry | {"summary": list(summary(config))}))
        return
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{file} is right:")
    for line in summary(config):
        click.echo(f"  {line}")


# ---- a running gateway ----


def control_option(function: F) -> F:
    return click.option(
        "--control",
        default=DEFAULT_CONTROL,
        envvar="IPSECFAST_CONTROL",
        show_default=True,
        show_envvar=True,
        help="The gateway's control socket (gateway.control in its configuration).",
    )(function)


@main.command()
@control_option
@click.option("--json", "as_json", is_flag=True, help="The whole status as one JSON object.")
def status(control: str, as_json: bool) -> None:
    """Show connections, IKE SAs and Child SAs, what they carried and what was dropped."""
    answer = _ask(control, Command(Verb.STATUS))["status"]
    if as_json:
        click.echo(json.dumps(answer))
        return
    from ipsecfast.status_table import print_status

    print_status(answer)


timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(0, 3600),
    default=DEFAULT_TIMEOUT,
    show_default=True,
    help="Seconds to wait for the outcome; 0 doesn't wait.",
)


def target_options(function: F) -> F:
    """TARGET or swanctl's --ike and --child, and how long to wait."""
    options = (
        click.argument("target", required=False, metavar="CONNECTION[/CHILD]"),
        click.option("--ike", help="The connection, as swanctl has it."),
        click.option("--child", help="The child; without a connection the one child of that name."),
        timeout_option,
        control_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


@main.command()
@target_options
def initiate(target: str | None, ike: str | None, child: str | None, timeout: float, control: str) -> None:
    """Negotiate a connection and all its children, or one child of it, and wait for the outcome."""
    _ask_about(Verb.INITIATE, target, ike, child, timeout, control)


@main.command()
@target_options
def terminate(target: str | None, ike: str | None, child: str | None, timeout: float, control: str) -> None:
    """Delete a connection's IKE SA with all its Child SAs, or one child's SAs."""
    _ask_about(Verb.TERMINATE, target, ike, child, timeout, control)


@main.command()
@target_options
@click.option("--reauth", is_flag=True, help="Prove anew who both ends are, on new SAs; then the old ones go.")
def rekey(
    target: str | None, ike: str | None, child: str | None, timeout: float, control: str, *, reauth: bool
) -> None:
    """Rekey a connection's IKE SA, or one child's SAs, now."""
    verb = Verb.REAUTHENTICATE if reauth else Verb.REKEY
    if reauth and (child is not None or "/" in (target or "")):
        raise click.UsageError("--reauth is of a whole connection, not of one child")
    _ask_about(verb, target, ike, child, timeout, control)


@main.command()
@click.argument("connection")
@click.argument("gateway", metavar="ADDRESS|NAME|none")
@timeout_option
@control_option
def redirect(connection: str, gateway: str, timeout: float, control: str) -> None:
    """Send a connection's peers to another gateway (RFC 5685), before this one is taken down for maintenance, say.

    Those that are connected are asked to move, new ones are sent there at once. With `none` they are served here again.
    """
    where = "" if gateway == "none" else gateway
    answer = _ask(control, Command(Verb.REDIRECT, connection, timeout=timeout, gateway=where))
    click.echo(answer["message"])


@main.command()
@control_option
def shutdown(control: str) -> None:
    """Stop the gateway as SIGTERM does: peers are told, and all that it set up is taken down."""
    click.echo(_ask(control, Command(Verb.SHUTDOWN))["message"])


def _ask_about(
    verb: Verb, target: str | None, ike: str | None, child: str | None, timeout: float, control: str
) -> None:
    connection, child_name = _names(target, ike, child)
    answer = _ask(control, Command(verb, connection, child_name, timeout))
    click.echo(answer["message"])


def _names(target: str | None, ike: str | None, child: str | None) -> tuple[str, str]:
    if target is not None and (ike is not None or child is not None):
        raise click.UsageError("give CONNECTION[/CHILD], or --ike and --child, not both")
    if target is not None:
        connection, _, child = target.partition("/")
        return connection, child
    if ike is None and child is None:
        raise click.UsageError("which one? give CONNECTION, CONNECTION/CHILD, or --ike and --child")
    return ike or "", child or ""


def _ask(control: str, command: Command) -> dict[str, Any]:
    """The last line of the answer; notices on the way go to stderr."""
    answer: dict[str, Any] = {}
    try:
        for answer in send_command(control, command):
            if "notice" in answer:
                click.echo(answer["notice"], err=True)
    except NoGatewayError as error:
        fail(str(error), NO_GATEWAY)
    except ControlError as error:
        fail(str(error))
    if not answer["ok"]:
        fail(answer["error"])
    return answer


# ---- demo ----


@main.command(
    add_help_option=False, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Show it: two hosts, two gateways, a tunnel, traffic and rekeys, on this machine alone."""
    from ipsecfast.lab.demo import main as demo_main

    sys.exit(demo_main(list(arguments)))


# ---- pki, bench ----

main.add_command(pki)
main.add_command(bench)
