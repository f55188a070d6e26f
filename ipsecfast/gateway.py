"""The gateway: the thin shell around both cores. It owns sockets, clock and randomness, and knows nothing of protocols.

Datagrams, data plane events, time and the operator's commands go into the IKE core; after each, what it wants done is
performed in order (`_perform`). This is the only module that knows both cores.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from ipsecfast.commands import SEND_FAILED, Commands
from ipsecfast.config import GatewayConfig, concrete_remote, outer_families
from ipsecfast.configured import ConnectionConfig
from ipsecfast.control import Command, ControlServer, Say, Verb
from ipsecfast.dataplane import IkeGate, choose_engine
from ipsecfast.errors import ConfigError, ConfigProblem, DataPlaneError, IpsecError, SetupError
from ipsecfast.fetcher import Fetcher
from ipsecfast.forwarding import Forwarding
from ipsecfast.ike.actions import (
    Action,
    ActivateOutbound,
    Compute,
    Fetch,
    InstallSa,
    InstallTrap,
    KeepSecrets,
    MovePeer,
    Notify,
    RankSpi,
    ReleaseHeld,
    RemoveSa,
    ResolveName,
    Transmit,
)
from ipsecfast.ike.context import Settings
from ipsecfast.ike.endpoint import IkeEndpoint
from ipsecfast.logs import LOGGER, NotifyLimiter, log_event, log_notify
from ipsecfast.model import IKE_PORT, IkeDatagram, InboundSeen, IPAddress
from ipsecfast.netlink import Changes, Netlink
from ipsecfast.preflight import (
    advice,
    check_machine,
    check_privileges,
    foreign_local_addresses,
    has_ipv6,
    with_local_address,
)
from ipsecfast.rings import ring_problems
from ipsecfast.sockets import IkeSocket, MarkedIkeSocket, Reception, open_port_500, open_port_4500
from ipsecfast.spd import resolve_selectors
from ipsecfast.state import KeptState, kept_state
from ipsecfast.status import status_document
from ipsecfast.steps import Steps
from ipsecfast.threads import with_workers, worker_count
from ipsecfast.workshop import Workshop

EVENTS_AT_ONCE = 256
TICK = 1.0  # seconds
REFRESH_DELAY = 0.05  # seconds in which changes of the network gather before next hops are read anew
YOUNG_OBJECTS = 20_000  # made since Python last looked for garbage in circles
FAREWELL_TIME = 2.0  # seconds for the peers to answer our DELETEs


def run_gateway(config: GatewayConfig) -> None:
    """Runs until SIGINT, SIGTERM or the command `shutdown`; takes down what it has set up, whatever happens.

    Raises IpsecError if it can't start or a worker thread fails.
    """
    for warning in config.warnings:
        log_event(logging.WARNING, "configuration", str(warning))
    check_privileges()
    check_engine(config)
    with closing(Netlink()) as netlink, kept_state(config.state) as state:
        check_machine(config, netlink)
        addresses = netlink.addresses()
        problems = foreign_local_addresses(config, addresses) + ring_problems(config, netlink)
        if problems:
            raise ConfigError(problems)
        for sentence in advice(config, netlink, addresses):
            log_event(logging.WARNING, "machine", sentence)
        gateway = Gateway(config, netlink, addresses, state)
        gc.freeze()  # what is there now stays; each tunnel brings more, and little of it is ever garbage in circles
        gc.set_threshold(YOUNG_OBJECTS)
        asyncio.run(gateway.run())


def check_engine(config: GatewayConfig) -> None:
    """Raises ConfigError if the AEAD engine isn't built in."""
    try:
        choose_engine(config.engine)
    except DataPlaneError as error:
        raise ConfigError([ConfigProblem(config.file, "gateway.engine", config.engine, str(error))]) from error


def machine_warnings(config: GatewayConfig) -> list[ConfigProblem]:
    """What would keep `run` from working on this machine as it is now: warnings of `check`, errors of `run`."""
    warnings: list[ConfigProblem] = []
    try:
        check_engine(config)
    except ConfigError as error:
        warnings += error.problems
    with closing(Netlink()) as netlink:
        warnings += foreign_local_addresses(config, netlink.addresses()) + ring_problems(config, netlink)
    return warnings


class Gateway:
    """One running gateway. `run` is its whole life."""

    def __init__(
        self, config: GatewayConfig, netlink: Netlink, addresses: tuple[IPAddress, ...], state: KeptState
    ) -> None:
        self.config = config
        self.connections = tuple(self._resolved(connection, netlink, addresses) for connection in config.connections)
        self._children = {
            (connection.name, child.name): (connection, child)
            for connection in self.connections
            for child in connection.children
        }
        self._state = state
        self.counters: Counter[str] = Counter()
        self._steps = Steps()
        self._control = ControlServer(config.control, self._perform_command)
        self._forwarding = Forwarding(config, self.connections, netlink)
        self._endpoint = IkeEndpoint(
            self.connections,
            random=os.urandom,
            wall_clock=partial(datetime.now, UTC),
            settings=Settings(puzzle_limit=config.puzzle_limit),
            lasting=state.lasting,
        )
        self._commands = Commands(self.connections, self._endpoint, self._drain, self._now)
        self._workshop = Workshop(self._on_result)
        self._fetcher = Fetcher(self._on_result, Path(config.state, "crls") if config.state else None, config.mark)
        self._limiter = NotifyLimiter()
        self._reception = Reception(self.counters)
        self._gate: IkeGate | None = None
        self._ike_sockets: dict[int, IkeSocket] = {}
        self._marked_sockets: dict[int, MarkedIkeSocket] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._refresh: asyncio.TimerHandle | None = None
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def _resolved(
        self, connection: ConnectionConfig, netlink: Netlink, addresses: tuple[IPAddress, ...]
    ) -> ConnectionConfig:
        peer = concrete_remote(connection)
        connection = with_workers(connection, worker_count(self.config))
        return with_local_address(connection, addresses, netlink.path_to(peer, self.config.mark) if peer else None)

    # ---- life ----

    async def run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_log_exception)
        self._stop = asyncio.Event()
        self._started = self._now()
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._stop.set)
        try:
            await self._set_up()
            await self._stop.wait()
            if self._failure is None:
                await self._say_goodbye()
        finally:
            await self._control.close()
            self._steps.undo_all()
        if self._failure is not None:
            raise DataPlaneError(f"a worker thread failed: {self._failure!r}") from self._failure
        log_event(logging.INFO, "stopped", "the gateway has ended, everything is taken down")

    async def _set_up(self) -> None:
        """In the order in which a failure costs least; each step is recorded with its undoing."""
        outer, inner = self._outer_versions(), self._inner_versions()
        self._control.check()
        self._make_gate()
        self._open_ike_sockets(outer)
        for sentence in self._forwarding.open(self._steps, outer, inner):
            log_event(logging.WARNING, "machine", sentence)
        self._open_marked_sockets(outer)
        self._forwarding.start_workers(self._steps, self._worker_failed)
        self._watch(self._forwarding.event_fd, self._on_events)
        if self._forwarding.has_rings:
            self._watch_network()
        self._steps.add("timers", self._stop_timers)
        self._steps.add("work", self._workshop.close)
        self._steps.add("what is being fetched", self._fetcher.close)
        self._tick()
        self._endpoint.start(self._now())
        self._drain()
        await self._control.start()
        self._tell_that_it_runs(outer)

    def _outer_versions(self) -> list[int]:
        """The IP versions of the peers; IPv6 only where the kernel has it, if no address asks for it."""
        wanted = {version for connection in self.connections for version in outer_families(connection)}
        return self._available(wanted, "local_addrs and remote_addrs")

    def _inner_versions(self) -> list[int]:
        children = [(connection, child) for connection in self.connections for child in connection.children]
        wanted: set[int] = set()
        for connection, child in children:
            for selector in (*child.local_ts, *child.remote_ts):
                wanted |= {selector.version} if selector is not None else outer_families(connection)
        wanted |= {policy.source.version for policy in self.config.policies}
        return self._available(wanted, "selectors")

    def _available(self, versions: set[int], what: str) -> list[int]:
        if 6 in versions and not has_ipv6():
            if versions == {6}:
                raise SetupError(f"this kernel has no IPv6, but the {what} of the configuration are IPv6")
            log_event(logging.WARNING, "machine", f"this kernel has no IPv6: the {what} are served for IPv4 only")
            versions = versions - {6}
        return sorted(versions)

    def _make_gate(self) -> None:
        try:
            self._gate = IkeGate()
        except DataPlaneError as error:
            text = f"a flood of IKE_SA_INIT requests will delay the messages of established peers: {error}"
            log_event(logging.WARNING, "machine", text)

    def _open_ike_sockets(self, versions: list[int]) -> None:
        self._steps.add("the sockets of IKE", self._reception.close)
        for version in versions:
            try:
                sockets = open_port_500(version, self.config.mark, self._gate)
            except OSError as error:
                raise _port_error(IKE_PORT, version, error) from error
            self._ike_sockets[version] = sockets[0]
            self._reception.add(sockets)
        self._watch(self._reception.fileno(), self._on_readable)

    def _open_marked_sockets(self, versions: list[int]) -> None:
        for version in versions:
            marked = MarkedIkeSocket(version, self._forwarding.udp_fileno(version))
            self._steps.add(f"IKE on port 4500, IPv{version}", marked.close)
            self._marked_sockets[version] = marked
            if self._gate is not None:
                workers = self._forwarding.workers
                self._reception.add(open_port_4500(version, self.config.mark, self._gate, marked, workers))

    def _watch(self, fd: int, readable: Callable[[], None]) -> None:
        self._loop.add_reader(fd, readable)
        self._steps.add(f"watching file {fd}", lambda: self._loop.remove_reader(fd))

    def _watch_network(self) -> None:
        """Neighbours, routes, addresses and links change; ring ports follow."""
        changes = Changes()
        self._steps.add("news of the network", changes.close)
        self._watch(changes.fileno(), partial(self._on_network_change, changes))
        self._forwarding.refresh_rings()

    def _on_network_change(self, changes: Changes) -> None:
        changes.drain()
        self._refresh_soon()

    def _refresh_soon(self) -> None:
        if self._refresh is None:
            self._refresh = self._loop.call_later(REFRESH_DELAY, self._refresh_rings)

    def _refresh_rings(self) -> None:
        self._refresh = None
        self._forwarding.refresh_rings()

    def _tell_that_it_runs(self, versions: list[int]) -> None:
        families = " and ".join(f"IPv{version}" for version in versions)
        engine = self._forwarding.engine
        log_event(
            logging.INFO,
            "running",
            f"ready over {families}: device {self.config.tun} (MTU {self._forwarding.mtu}), "
            f"engine {engine.engine} ({engine.why}), control socket {self.config.control}",
        )

    async def _say_goodbye(self) -> None:
        """Tells every peer that its SAs are gone, and waits a moment for the answers."""
        log_event(logging.INFO, "stopping", "the gateway is ending")
        self._endpoint.shutdown(self._now())
        self._drain()
        deadline = self._now() + FAREWELL_TIME
        while self._now() < deadline and not self._endpoint.idle:
            await asyncio.sleep(0.02)

    def _worker_failed(self, error: BaseException) -> None:
        """Called in the worker's thread."""
        self._failure = error
        self._loop.call_soon_threadsafe(self._stop.set)

    def _now(self) -> float:
        return self._loop.time()

    # ---- what comes in ----

    def _on_readable(self) -> None:
        """A turn of the sockets; after it timers, events of the data plane and the operator have theirs."""
        for received in self._reception.turn():
            for data, path in received:
                self.counters[f"IKE datagrams received on port {path.local_port}"] += 1
                self._endpoint.receive_datagram(data, path, self._now())
            self._drain()

    def _on_events(self) -> None:
        events = self._forwarding.events(EVENTS_AT_ONCE)
        if len(events) == EVENTS_AT_ONCE:  # there may be more, and the bell has rung already
            self._loop.call_soon(self._on_events)
        for event in events:
            if isinstance(event, IkeDatagram):
                self.counters["IKE datagrams received on port 4500"] += 1
                self._endpoint.receive_datagram(event.data, event.path, self._now())
            else:
                self.counters["data plane events"] += 1
                self._endpoint.handle_data_plane(event, self._now())
        self._drain()

    def _on_result(self, job: int, result: object) -> None:
        self._endpoint.handle_result(job, result, self._now())
        self._drain()

    def _on_timeout(self) -> None:
        self._timer = None
        self._endpoint.handle_timeout(self._now())
        self._drain()

    def _tick(self) -> None:
        """Every second: which peers have shown that they live, and what the log left out."""
        self._ticker = self._loop.call_later(TICK, self._tick)
        now = self._now()
        for spi in self._forwarding.seen_inbound():
            self._endpoint.handle_data_plane(InboundSeen(spi), now)
        for notify, suppressed in self._limiter.expired(now):
            log_notify(notify, suppressed)
        self._drain()

    def _stop_timers(self) -> None:
        self._ticker.cancel()
        for timer in (self._timer, self._refresh):
            if timer is not None:
                timer.cancel()

    async def _perform_command(self, command: Command, say: Say) -> dict[str, Any]:
        if command.command is Verb.SHUTDOWN:
            self._loop.call_soon(self._stop.set)
            return {"message": "the gateway is ending"}
        if command.command is Verb.STATUS:
            return {"status": self.status()}
        return {"message": await self._commands.perform(command, say)}

    # ---- what goes out ----

    def _drain(self) -> None:
        """Performs all that the IKE core wants done, in its order, and sets the one timer."""
        for action in self._endpoint.actions():
            try:
                self._perform(action)
            except (IpsecError, OSError, ValueError) as error:
                self._failed(action, error)
            self._commands.observe(action)
        if self._forwarding.has_rings and self._forwarding.rings_stale:
            self._refresh_soon()
        self._set_timer()

    def _set_timer(self) -> None:
        """One that runs out too early does no harm: most are for answers that come."""
        deadline = self._endpoint.next_timeout()
        if deadline is None or (self._timer is not None and self._timer.when() <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._on_timeout)

    def _perform(self, action: Action) -> None:
        forwarding = self._forwarding
        match action:
            case Transmit():
                self._transmit(action)
            case InstallSa(connection, child, inbound, outbound, activate):
                forwarding.install((connection, child), inbound, outbound, activate=activate)
            case ActivateOutbound(reqid, spi):
                forwarding.activate(reqid, spi)
            case RemoveSa(reqid, inbound_spi, outbound_spi):
                forwarding.remove(reqid, inbound_spi, outbound_spi)
            case MovePeer(reqid, inbound_spi, outbound_spi, path):
                forwarding.move(reqid, inbound_spi, outbound_spi, path)
            case InstallTrap(connection, child, reqid):
                self._install_trap(connection, child, reqid)
            case ReleaseHeld(reqid):
                forwarding.release_held(reqid)
            case RankSpi(spi, rank):
                if self._gate is not None:
                    self._gate.rank(spi, rank)
            case KeepSecrets(lasting):
                self._state.keep(lasting)
            case ResolveName():
                task = self._loop.create_task(self._resolve(action))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case Compute():
                self._workshop.submit(action)
            case Fetch():
                self._fetcher.submit(action)
            case Notify():
                self._notify(action)

    async def _resolve(self, action: ResolveName) -> None:
        """In a thread of its own: a name server may take its time."""
        try:
            found = await self._loop.getaddrinfo(action.name, IKE_PORT, type=socket.SOCK_DGRAM)
        except OSError as error:
            log_event(
                logging.WARNING, "resolve-failed", f"{action.name}: {error.strerror}", connection=action.connection
            )
            found = []
        addresses = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
        self._endpoint.resolved(action, addresses, self._now())
        self._drain()

    def _transmit(self, action: Transmit) -> None:
        """A datagram that can't leave is counted and told; IKE sends it again (RFC 7296 s2.1)."""
        sockets = self._marked_sockets if action.path.nat_t else self._ike_sockets
        try:
            sockets[action.path.remote.version].send(action.data, action.path)
        except OSError as error:
            self.counters["IKE datagrams not sent"] += 1
            text = f"can't send to {action.path.remote}: {error.strerror}"
            notify = Notify(SEND_FAILED, text, logging.WARNING, key=f"send {action.path.remote} {error.errno}")
            self._notify(notify)
            self._commands.observe(notify)
        else:
            self.counters["IKE datagrams sent"] += 1

    def _install_trap(self, connection_name: str, child_name: str, reqid: int) -> None:
        connection, child = self._children[connection_name, child_name]
        local = next((entry for entry in connection.local_addrs if isinstance(entry, IPAddress)), None)
        local_ts = resolve_selectors(child.local_ts, local)
        remote_ts = resolve_selectors(child.remote_ts, concrete_remote(connection))
        self._forwarding.trap((connection_name, child_name), reqid, local_ts, remote_ts)

    def _notify(self, notify: Notify) -> None:
        if self._limiter.passes(notify, self._now()):
            log_notify(notify)

    def _failed(self, action: Action, error: Exception) -> None:
        """The kernel or the data plane refused what was negotiated: without it the SA is of no use, so it goes."""
        name = type(action).__name__
        self.counters[f"{name} failed"] += 1
        if isinstance(action, InstallSa):
            text = f"the Child SA can't be installed: {error}"
            log_event(logging.ERROR, "install-failed", text, connection=action.connection, child=action.child)
            self._loop.call_soon(self._give_up, action.connection, action.child)
        else:
            log_event(logging.ERROR, "action-failed", f"{name}: {error}")

    def _give_up(self, connection: str, child: str) -> None:
        self._endpoint.terminate(connection, child, self._now())
        self._drain()

    # ---- status ----

    def status(self) -> dict[str, Any]:
        """The document that `ipsecfast.status` describes."""
        return status_document(
            self.config,
            self._endpoint.status(self._now()),
            sa_stats=self._forwarding.sa_stats(),
            worker_stats=self._forwarding.worker_stats(),
            engine=self._forwarding.data_plane.engine,
            mtu=self._forwarding.mtu,
            drop_help=self._forwarding.drop_help(),
            traps=self._forwarding.traps(),
            uptime=self._now() - self._started,
            ike=self._endpoint.counters,
            gateway=self.counters,
        )


def _log_exception(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A bug of ours in a callback: the gateway goes on, the log has the traceback."""
    LOGGER.error("%s", context["message"], exc_info=context.get("exception"), extra={"event": "bug"})


def _port_error(port: int, version: int, error: OSError) -> SetupError:
    if error.errno == errno.EADDRINUSE:
        return SetupError(f"UDP port {port} (IPv{version}) is in use: another IKE daemon is running (ss -lup shows it)")
    return SetupError(f"can't open UDP port {port} (IPv{version}): {error.strerror}")
