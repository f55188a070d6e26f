"""Fetches what the IKE core asks for (`Fetch`): CRLs and OCSP responses, by HTTP or from files, beside the event loop.

`http.client` does it: one GET or one POST without TLS, cookies, proxies and environment variables is all there is to
do, and what is fetched is signed. Everything is bounded: connections, octets, redirections, time.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

from ipsecfast.ike.actions import Fetch, Source
from ipsecfast.ike.credential.revocation import parse_crl

Deliver = Callable[[int, object], None]

CONNECTIONS = 8  # at once, to all servers together
MAX_WAITING = 256  # sources; who comes later hears at once that there is no room
MAX_REDIRECTIONS = 3
MAX_CACHED_FILES = 256
MAX_AGE = timedelta(hours=1)  # of a CRL in the cache that is not asked for again
_MOVED = frozenset({301, 302, 303, 307, 308})
_MOVED_AS_IT_IS = frozenset({307, 308})  # a POST stays one
_OCSP_REQUEST, _OCSP_RESPONSE = "application/ocsp-request", "application/ocsp-response"


class Fetcher:
    """`deliver(job, replies)` is called in the event loop, within the time that the action allows. `close` waits for
    nothing. `directory`: where CRLs outlive a restart, or None. `mark`: the firewall mark of what we send, or 0; so it
    does not wait for the tunnel that waits for it.
    """

    def __init__(self, deliver: Deliver, directory: Path | None = None, mark: int = 0) -> None:
        self._deliver = deliver
        self._mark = mark
        self._cache = Cache(directory) if directory is not None else None
        self._executor = ThreadPoolExecutor(CONNECTIONS, "fetch")
        self._tasks: set[asyncio.Task[None]] = set()
        self._under_way: dict[Source, asyncio.Future[bytes | str]] = {}

    def submit(self, action: Fetch) -> None:
        task = asyncio.get_running_loop().create_task(self._fetch(action))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fetch(self, action: Fetch) -> None:
        replies = await asyncio.gather(*(self._one(source, action.seconds) for source in action.sources))
        self._deliver(action.job, tuple(replies))

    async def _one(self, source: Source, seconds: float) -> bytes | str:
        """Who asks for the same at the same time gets the same."""
        future = self._under_way.get(source)
        if future is None:
            if len(self._under_way) >= MAX_WAITING:
                return f"{source.uri} was not asked: too much is being fetched already"
            work = partial(retrieve, source, time.monotonic() + seconds, self._cache, self._mark)
            future = asyncio.get_running_loop().run_in_executor(self._executor, work)
            self._under_way[source] = future
            future.add_done_callback(lambda _: self._under_way.pop(source, None))
        try:
            return await asyncio.wait_for(asyncio.shield(future), seconds)
        except TimeoutError:
            return f"{source.uri} did not answer within {seconds:g} s"

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)


def retrieve(source: Source, deadline: float, cache: Cache | None = None, mark: int = 0) -> bytes | str:
    """The octets of a source, or the sentence why there are none. Blocks; `deadline` is of the monotonic clock.

    A CRL that was kept is taken while it is fresh, and where nobody answers, while it counts.
    """
    if source.uri.startswith("file:"):
        return _or_sentence(source, deadline, lambda: _read(source))
    kept = cache if not source.request else None
    if kept is not None and (fresh := kept.get(source.uri, MAX_AGE)) is not None:
        return fresh
    reply = _or_sentence(source, deadline, lambda: _http(source, source.uri, deadline, mark))
    if kept is None:
        return reply
    if isinstance(reply, str):
        return kept.get(source.uri) or reply
    kept.put(source.uri, reply)
    return reply


def _or_sentence(source: Source, deadline: float, get: Callable[[], bytes]) -> bytes | str:
    try:
        return get()
    except (OSError, ValueError, http.client.HTTPException) as error:
        late = time.monotonic() >= deadline  # then whatever happened is what we did to the connection
        return f"{source.uri}: {'no answer in time' if late else _words(error)}"


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _read(source: Source) -> bytes:
    with open(unquote(urlsplit(source.uri).path), "rb") as stream:
        data = stream.read(source.limit + 1)
    return _bounded(data, source)


def _bounded(data: bytes, source: Source) -> bytes:
    if len(data) > source.limit:
        raise ValueError(f"more than {source.limit} octets, which are accepted")
    return data


class _MarkedConnection(http.client.HTTPConnection):
    """An HTTP connection whose packets have a firewall mark from the first on."""

    def __init__(self, host: str, port: int, deadline: float, mark: int) -> None:
        super().__init__(host, port)
        self._deadline, self._mark = deadline, mark

    def connect(self) -> None:
        """To the first address of the name that answers."""
        failure: OSError | None = None
        for family, kind, protocol, _, address in socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            connected = socket.socket(family, kind, protocol)
            try:
                if self._mark:
                    connected.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self._mark)
                connected.settimeout(_left(self._deadline))
                connected.connect(address)
            except OSError as error:
                connected.close()
                failure = error
            else:
                self.sock = connected
                return
        raise failure or OSError(f"{self.host} has no address")


def _http(source: Source, uri: str, deadline: float, mark: int, redirections: int = MAX_REDIRECTIONS) -> bytes:
    parts = urlsplit(uri)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"{uri} is not an http URI")
    connection = _MarkedConnection(parts.hostname, parts.port or 80, deadline, mark)
    try:
        connection.connect()
        with _cut_at(connection.sock, deadline):
            response = _ask(connection, source, parts.path or "/", parts.query)
            if response.status not in _MOVED:
                return _body(response, source, deadline)
            target = urljoin(uri, response.getheader("Location", ""))
    finally:
        connection.close()
    if not redirections or (source.request and response.status not in _MOVED_AS_IT_IS):
        raise ValueError(f"sends us to {target} ({response.status}), which is not followed")
    return _http(source, target, deadline, mark, redirections - 1)


@contextmanager
def _cut_at(connected: socket.socket, deadline: float) -> Iterator[None]:
    """A server that drips must not hold us longer than one that is silent."""
    timer = threading.Timer(_left(deadline), _cut, (connected,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(connected: socket.socket) -> None:
    with suppress(OSError):
        connected.shutdown(socket.SHUT_RDWR)


def _ask(connection: http.client.HTTPConnection, source: Source, path: str, query: str) -> http.client.HTTPResponse:
    target = f"{path}?{query}" if query else path
    headers = {"Connection": "close", "User-Agent": "ipsecfast"}
    if source.request:
        headers |= {"Content-Type": _OCSP_REQUEST, "Accept": _OCSP_RESPONSE}
        connection.request("POST", target, source.request, headers)
    else:
        connection.request("GET", target, headers=headers)
    return connection.getresponse()


def _body(response: http.client.HTTPResponse, source: Source, deadline: float) -> bytes:
    if response.status != 200:
        raise ValueError(f"answers {response.status} {response.reason}")
    data = response.read(source.limit + 1)
    _left(deadline)
    return _bounded(data, source)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class Cache:
    """CRLs in a directory, each under the hash of its URI. OCSP responses are too short-lived to be kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()

    def get(self, uri: str, max_age: timedelta | None = None) -> bytes | None:
        """What was fetched not longer ago than that, if it still counts by what it says itself."""
        file = self._file(uri)
        now = datetime.now(UTC)
        try:
            age = now - datetime.fromtimestamp(file.stat().st_mtime, UTC)
            data = file.read_bytes()
            until = parse_crl(data).next_update_utc
        except (OSError, ValueError):
            return None
        fresh = max_age is None or age < max_age
        return data if fresh and until is not None and until > now else None

    def put(self, uri: str, data: bytes) -> None:
        """Only what is a CRL. A directory that can't be written is no reason not to use what came."""
        try:
            parse_crl(data)
            with self._lock:
                self._directory.mkdir(mode=0o700, exist_ok=True)
                unready = self._file(uri).with_suffix(".new")
                unready.write_bytes(data)
                os.replace(unready, self._file(uri))
                self._tidy()
        except (OSError, ValueError):
            return

    def _file(self, uri: str) -> Path:
        return self._directory / f"{hashlib.sha256(uri.encode()).hexdigest()}.crl"

    def _tidy(self) -> None:
        files = sorted(self._directory.glob("*.crl"), key=lambda file: file.stat().st_mtime, reverse=True)
        for file in files[MAX_CACHED_FILES:]:
            file.unlink(missing_ok=True)
