"""The status document as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_PLAIN_WIDTH = 160  # columns where the output is no terminal: nothing is cut


def print_status(status: dict[str, Any], console: Console | None = None) -> None:
    """Prints the document that `ipsecfast.status` describes."""
    console = console or _console()
    process = f"pid {status['pid']}, up {_duration(status['uptime'])}"
    device = f"device {status['tun']} (MTU {status['mtu']}), engine {status['engine']}"
    console.print(f"ipsecfast {status['version']}, {process}, {device}", highlight=False)
    for connection in status["connections"]:
        _print_connection(console, connection, set(status["traps"]))
    _print_drops(console, status)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_PLAIN_WIDTH)


def _print_connection(console: Console, connection: dict[str, Any], traps: set[str]) -> None:
    local = f"{connection['local_id']} at {', '.join(connection['local_addrs'])}"
    remote = f"{connection['remote_id']} at {', '.join(connection['remote_addrs'])}"
    console.print(f"\n[bold]{connection['name']}[/bold]: {local} <-> {remote}", highlight=False)
    for failure in connection["failures"]:
        console.print(f"  [red]{_duration(failure['ago'])} ago:[/red] {escape(failure['message'])}", highlight=False)
    for ike_sa in connection["ike_sas"]:
        console.print(f"  {_ike_line(ike_sa)}", highlight=False)
        for finding in ike_sa["revocation"]:
            console.print(f"    {finding['text']}", highlight=False, markup=False)
        if ike_sa["child_sas"]:
            console.print(_child_table(ike_sa["child_sas"]))
    for child in connection["children"]:
        if not any(sa["name"] == child["name"] for ike_sa in connection["ike_sas"] for sa in ike_sa["child_sas"]):
            waits = "waits for its first packet" if f"{connection['name']}/{child['name']}" in traps else "is down"
            selectors = f"{', '.join(child['local_ts'])} === {', '.join(child['remote_ts'])}"
            console.print(f"  {child['name']}: {selectors} {waits}", highlight=False)


def _ike_line(ike_sa: dict[str, Any]) -> str:
    role = "initiator" if ike_sa["initiator"] else "responder"
    times = _times(ike_sa)
    translated = [f"{end} end" for end in ("local", "remote") if ike_sa["nat"][end]]
    strength = ", quantum-resistant" if ike_sa["quantum_resistant"] else ""
    strength += f", PPK {ike_sa['ppk']}" if ike_sa["ppk"] else ""
    nat = f" (NAT at the {' and the '.join(translated)})" if translated else ""
    return (
        f"IKE SA {ike_sa['spi_i']}_i {ike_sa['spi_r']}_r {ike_sa['state']} as {role}{times}\n"
        f"    {ike_sa['local']} - {ike_sa['remote']}{nat}, {ike_sa['proposal'] or 'not negotiated yet'}{strength}"
    )


def _times(sa: dict[str, Any]) -> str:
    parts = [f", since {_duration(sa['established'])}" if sa["established"] is not None else ""]
    if sa["rekey_in"] is not None:
        parts.append(f", rekeying in {_duration(sa['rekey_in'])}")
    elif sa["reauth_in"] is not None:
        parts.append(f", authenticated anew in {_duration(sa['reauth_in'])}")
    elif sa["expires_in"] is not None:
        parts.append(f", ends in {_duration(sa['expires_in'])}")
    return "".join(parts)


def _child_table(child_sas: list[dict[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=True)
    for heading in ("Child SA", "state", "SPI in / out", "algorithms", "selectors"):
        table.add_column(heading, overflow="fold")
    for heading in ("packets in / out", "bytes in / out", "rekeying in"):
        table.add_column(heading, justify="right")
    for sa in child_sas:
        table.add_row(
            f"{sa['name']}\n{sa['serves']}" if sa["serves"] else sa["name"],
            sa["state"] if sa["outbound"] == "active" else f"{sa['state']}, outbound {sa['outbound']}",
            f"{sa['spi_in']}\n{sa['spi_out']}",
            f"{sa['proposal']}{' esn' if sa['esn'] and 'esn' not in sa['proposal'] else ''}\n{_wrapping(sa)}",
            "\n=== ".join((", ".join(sa["local_ts"]), ", ".join(sa["remote_ts"]))),
            f"{sa['in']['packets']:,}\n{sa['out']['packets']:,}",
            f"{_octets(sa['in']['bytes'])}\n{_octets(sa['out']['bytes'])}",
            _duration(sa["rekey_in"]) if sa["rekey_in"] is not None else "-",
        )
    return table


def _wrapping(sa: dict[str, Any]) -> str:
    strength = ", quantum-resistant" if sa["quantum_resistant"] else ""
    return f"{sa['mode']}, {'ESP in UDP' if sa['udp_encap'] else 'bare ESP'}{strength}"


def _print_drops(console: Console, status: dict[str, Any]) -> None:
    if not status["drops"]:
        return
    table = Table(title="dropped packets", box=box.SIMPLE, title_justify="left")
    table.add_column("packets", justify="right")
    table.add_column("reason")
    table.add_column("what it means", overflow="fold")
    for reason, count in sorted(status["drops"].items(), key=lambda item: -item[1]):
        table.add_row(f"{count:,}", reason, status["drop_help"].get(reason, ""))
    console.print(table)


def _duration(seconds: float) -> str:
    """The two largest units: 1d 3h, 4h 5m, 12m 3s, 7s."""
    return " ".join(list(_units(int(seconds)))[:2]) or "0s"


def _units(seconds: int) -> Iterator[str]:
    for unit, length in (("d", _DAY), ("h", _HOUR), ("m", _MINUTE), ("s", 1)):
        count, seconds = divmod(seconds, length)
        if count:
            yield f"{count}{unit}"


def _octets(count: int) -> str:
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
