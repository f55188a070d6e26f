"""The exception tree. A bad packet is never an exception: it is a counted drop reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class IpsecError(Exception):
    """The root: catch this to catch everything that ipsecfast raises on purpose."""


@dataclass(frozen=True, slots=True)
class ConfigProblem:
    """One mistake in a configuration: where it stands, what stands there, what would be right."""

    file: str
    key: str
    value: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        shown = f" = {self.value}" if self.value else ""
        return f"{place}: {self.key}{shown}: {self.message}"


class ConfigError(IpsecError):
    """The configuration can't work; `problems` holds every mistake found, not only the first."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(str(p) for p in problems))
        self.problems = tuple(problems)


class SetupError(IpsecError):
    """The gateway can't start on this machine: something is missing or taken."""


class DataPlaneError(IpsecError):
    """The data plane refused a command; the text says which and why."""


class ControlError(IpsecError):
    """A gateway could not be reached, or refused a command, over its control socket."""


class PkiError(IpsecError):
    """A certificate or key could not be made, read or written."""


class NetlinkError(IpsecError):
    """The kernel refused a link, an address, a route or a rule."""


class ProtocolError(IpsecError):
    """What a peer sent can't be accepted. Subclasses name the error notify that answers it (`ipsecfast.ike`)."""
