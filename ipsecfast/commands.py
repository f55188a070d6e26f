"""The operator's commands that change SAs: `initiate`, `terminate`, `rekey`, `reauthenticate`, `redirect`. Each waits
for its outcome.

What became of a command is read from the status of the IKE core; why it failed is the sentence of a `Notify`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from ipsecfast.configured import ConnectionConfig
from ipsecfast.control import Command, Say, Verb
from ipsecfast.errors import ControlError
from ipsecfast.ike.actions import Action, Notify
from ipsecfast.ike.child import LIVE
from ipsecfast.ike.endpoint import IkeEndpoint
from ipsecfast.ike.extension.gateway_identity import parse_target
from ipsecfast.ike.snapshot import ChildStatus, IkeSaStatus
from ipsecfast.ike.states import IkeState

# The events of `Notify` that mean that a command of this kind has failed.
FAILURES = {
    Verb.INITIATE: frozenset({"peer-dead", "ike-failed", "auth-failed", "child-failed", "no-address", "gave-up"}),
    Verb.REKEY: frozenset({"peer-dead", "rekey-failed", "ike-down", "ike-expired"}),
    Verb.REAUTHENTICATE: frozenset({"reauth-failed", "reauth-awaited", "ike-down", "ike-expired"}),
    Verb.TERMINATE: frozenset[str](),
    Verb.REDIRECT: frozenset({"peer-dead"}),
}
SEND_FAILED = "send-failed"  # names no connection: everyone who waits is told
LIVE_STATES = frozenset(state.value for state in LIVE)


class _Watch:
    """One command that waits: the notices that concern it, and a flag that something has happened."""

    def __init__(self, command: Command) -> None:
        self.command = command
        self.changed = asyncio.Event()
        self.notices: deque[Notify] = deque()

    def observe(self, action: Action) -> None:
        if isinstance(action, Notify) and self._concerns(action):
            self.notices.append(action)
        self.changed.set()

    def _concerns(self, notify: Notify) -> bool:
        same_child = not self.command.child or notify.child in ("", self.command.child)
        return notify.event == SEND_FAILED or (notify.connection == self.command.connection and same_child)


class Commands:
    """`drain` performs what the IKE core wants done; `observe` is to be told each action that was performed."""

    def __init__(
        self,
        connections: Sequence[ConnectionConfig],
        endpoint: IkeEndpoint,
        drain: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        self._connections = {connection.name: connection for connection in connections}
        self._endpoint = endpoint
        self._drain = drain
        self._now = now
        self._watches: list[_Watch] = []

    def observe(self, action: Action) -> None:
        for watch in self._watches:
            watch.observe(action)

    async def perform(self, command: Command, say: Say) -> str:
        """Does it and waits; the sentence that tells the outcome. Raises ControlError with one that tells why not."""
        command = self._resolve(command)
        child = command.child or None
        match command.command:
            case Verb.INITIATE:
                return await self._initiate(command, child, say)
            case Verb.TERMINATE:
                count = self._endpoint.terminate(command.connection, child, self._now())
                return await self._closing(command, count, say)
            case Verb.REKEY:
                return await self._rekey(command, child, say)
            case Verb.REAUTHENTICATE:
                return await self._reauthenticate(command, say)
            case Verb.REDIRECT:
                return await self._redirect(command, say)
            case _:
                raise ControlError(f"{command.command.value} is no command for a connection")

    # ---- names ----

    def _resolve(self, command: Command) -> Command:
        """The command with the full names, which must be configured ones."""
        connection = command.connection or self._connection_of(command.child)
        config = self._connections.get(connection)
        if config is None:
            known = ", ".join(self._connections)
            raise ControlError(f"there is no connection {connection!r}; there are: {known}")
        children = [child.name for child in config.children]
        if command.child and command.child not in children:
            raise ControlError(f"{connection} has no child {command.child!r}; it has: {', '.join(children)}")
        return replace(command, connection=connection)

    def _connection_of(self, child: str) -> str:
        owners = [name for name, one in self._connections.items() if any(c.name == child for c in one.children)]
        if len(owners) != 1:
            found = f"the connections {', '.join(owners)} have one" if owners else "no connection has one"
            raise ControlError(f"which child {child!r}? {found}; write CONNECTION/CHILD")
        return owners[0]

    # ---- the four ----

    async def _initiate(self, command: Command, child: str | None, say: Say) -> str:
        config = self._connections[command.connection]
        wanted = {child} if child else {one.name for one in config.children}

        def up() -> bool:
            return wanted <= {one.name for one in self._live(command.connection)}

        if up():
            return f"{command.target} is up already"
        with self._watching(command) as watch:
            self._endpoint.initiate(command.connection, child, self._now())
            self._drain()
            return await self._outcome(watch, up, "is up", say)

    async def _closing(self, command: Command, count: int, say: Say) -> str:
        if not count:
            raise ControlError(f"{command.target} is not up: there is nothing to terminate")

        old = self._present(command)

        def gone() -> bool:
            return not old & self._present(command)

        with self._watching(command) as watch:
            self._drain()
            outcome = await self._outcome(watch, gone, "is down", say)
        return f"{outcome}; there is a new one already, the peer's doing" if self._present(command) else outcome

    async def _rekey(self, command: Command, child: str | None, say: Say) -> str:
        old = self._spis(command)

        def renewed() -> bool:
            now = self._spis(command)
            return bool(now) and not now & old

        with self._watching(command) as watch:
            if not self._endpoint.rekey(command.connection, child, self._now()):
                raise ControlError(f"{command.target} is not up: there is nothing to rekey")
            self._drain()
            return await self._outcome(watch, renewed, "is rekeyed", say)

    async def _redirect(self, command: Command, say: Say) -> str:
        """Peers that know how are sent away; waits until they have gone."""
        name = command.connection
        if command.child:
            raise ControlError(f"only a whole connection can be redirected, such as {name}")
        try:
            target = parse_target(command.gateway) if command.gateway else None
        except ValueError as error:
            raise ControlError(f"{command.gateway}: {error}") from error
        before = self._spis(command)
        asked, unable = self._endpoint.send_away(name, target, self._now())
        if target is None:
            return f"{name}: peers are served here again"
        stay = f"; {unable} that can't be redirected stay" if unable else ""
        done = f"{name}: {asked} peers went to {target}{stay}, new ones are sent there"

        def gone() -> bool:
            return len(self._spis(command) & before) <= unable

        with self._watching(command) as watch:
            self._drain()
            await self._outcome(watch, gone, "is redirected", say)
        return done

    async def _reauthenticate(self, command: Command, say: Say) -> str:
        old = self._spis(command)

        def renewed() -> bool:
            now = self._spis(command)
            return bool(now) and not now & old

        with self._watching(command) as watch:
            if not self._endpoint.reauthenticate(command.connection, self._now()):
                raise ControlError(f"{command.target} is not up, or being authenticated anew already")
            self._drain()
            return await self._outcome(watch, renewed, "is authenticated anew", say)

    # ---- what there is ----

    def _ike_sas(self, connection: str) -> tuple[IkeSaStatus, ...]:
        return self._endpoint.status_of(connection, self._now()).ike_sas

    def _children(self, connection: str) -> list[ChildStatus]:
        return [child for ike_sa in self._ike_sas(connection) for child in ike_sa.children]

    def _live(self, connection: str) -> list[ChildStatus]:
        return [child for child in self._children(connection) if child.state in LIVE_STATES]

    def _spis(self, command: Command) -> set[str]:
        """Of the Child SAs of the child, or of the IKE SAs, that are in use."""
        if command.child:
            return {f"{one.spi_in:08x}" for one in self._live(command.connection) if one.name == command.child}
        established = IkeState.ESTABLISHED.value
        return {one.spi_i + one.spi_r for one in self._ike_sas(command.connection) if one.state == established}

    def _present(self, command: Command) -> set[str]:
        """The SPIs of the Child SAs of the child, or of the IKE SAs, in whatever state."""
        if command.child:
            children = self._children(command.connection)
            return {f"{one.spi_in:08x}" for one in children if one.name == command.child}
        return {one.spi_i + one.spi_r for one in self._ike_sas(command.connection)}

    # ---- waiting ----

    @contextmanager
    def _watching(self, command: Command) -> Iterator[_Watch]:
        watch = _Watch(command)
        self._watches.append(watch)
        try:
            yield watch
        finally:
            self._watches.remove(watch)

    async def _outcome(self, watch: _Watch, done: Callable[[], bool], words: str, say: Say) -> str:
        command = watch.command
        deadline = self._now() + command.timeout
        while not done():
            self._tell(watch, say)
            left = deadline - self._now()
            if left <= 0:
                if not command.timeout:
                    return f"{command.command.value} {command.target}: begun"
                raise ControlError(f"{command.command.value} {command.target}: no outcome within {command.timeout:g} s")
            watch.changed.clear()
            try:
                await asyncio.wait_for(watch.changed.wait(), left)
            except TimeoutError:
                continue
        return f"{command.target} {words}"

    def _tell(self, watch: _Watch, say: Say) -> None:
        """The notices that have come; the first that means failure ends the command."""
        while watch.notices:
            notify = watch.notices.popleft()
            if notify.event in FAILURES[watch.command.command]:
                raise ControlError(notify.message)
            say(notify.message)
