"""What fetches CRLs and OCSP responses: real HTTP on the loopback interface, servers of every temper."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import revocations as made

from ipsecfast import fetcher
from ipsecfast.fetcher import Cache, Fetcher, retrieve
from ipsecfast.ike.actions import Fetch, Source
from ipsecfast.pki import KeyType, make_authority

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers what `answers` has under the path; counts."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(f"{self.command} {self.path}")
                outer.answers[self.path.partition("?")[0]](self)

            do_POST = do_GET

            def log_message(self, *arguments: object) -> None:
                del arguments

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def get(uri: str, *, limit: int = 1000, request: bytes = b"", seconds: float = 5.0) -> bytes | str:
    return retrieve(Source(uri, limit, request), time.monotonic() + seconds)


def test_get_and_post(server: Server) -> None:
    def echo(handler: BaseHTTPRequestHandler) -> None:
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        assert handler.headers["Content-Type"] == "application/ocsp-request"
        body(data[::-1])(handler)

    server.answers = {"/ca.crl": body(b"a list"), "/": echo}
    assert get(f"{server.uri}/ca.crl?x=1") == b"a list"
    assert get(server.uri, request=b"abc") == b"cba"
    assert server.asked == ["GET /ca.crl?x=1", "POST /"]


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a list.crl"
    file.write_bytes(b"octets")
    assert get(file.as_uri()) == b"octets"
    assert "more than 5 octets" in str(get(file.as_uri(), limit=5))
    assert str(get((tmp_path / "none").as_uri())).endswith("No such file or directory")


@pytest.mark.parametrize("uri", ["https://127.0.0.1/", "ftp://127.0.0.1/", "http:///x", "http://[::1", "nothing"])
def test_other_uris_are_not_asked(uri: str) -> None:
    assert isinstance(get(uri), str)


def test_refusals_are_sentences(server: Server) -> None:
    server.answers = {"/404": body(b"", 404), "/long": body(b"x" * 1001)}
    assert get(f"{server.uri}/404") == f"{server.uri}/404: answers 404 Not Found"
    assert "more than 1000 octets" in str(get(f"{server.uri}/long"))
    server.close()
    assert get(f"{server.uri}/").endswith("Connection refused")


def test_redirections_are_followed_a_few_times_to_http_only(server: Server) -> None:
    server.answers = {
        "/1": body(b"", 302, Location="/2"),
        "/2": body(b"", 301, Location=f"{server.uri}/3"),
        "/3": body(b"", 307, Location="/4"),
        "/4": body(b"here"),
        "/loop": body(b"", 302, Location="/loop"),
        "/file": body(b"", 302, Location="file:///etc/passwd"),
        "/tls": body(b"", 302, Location="https://127.0.0.1/"),
        "/nowhere": body(b"", 302),
    }
    assert get(f"{server.uri}/1") == b"here"
    assert "which is not followed" in str(get(f"{server.uri}/loop"))
    assert server.asked.count("GET /loop") == 1 + fetcher.MAX_REDIRECTIONS
    assert "is not an http URI" in str(get(f"{server.uri}/file"))
    assert "is not an http URI" in str(get(f"{server.uri}/tls"))
    assert "which is not followed" in str(get(f"{server.uri}/nowhere"))
    assert "which is not followed" in str(get(f"{server.uri}/1", request=b"a POST"))
    assert get(f"{server.uri}/3", request=b"a POST") == b"here"


def silent(handler: BaseHTTPRequestHandler) -> None:
    del handler
    time.sleep(1.0)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
    for _ in range(40):
        try:
            handler.wfile.write(b"x")
        except OSError:
            return
        time.sleep(0.05)


@pytest.mark.parametrize("temper", [silent, dripping])
def test_slow_servers_are_left(server: Server, temper: Answer) -> None:
    """As soon as the time is over; a server that drips does not get more of it."""
    server.answers = {"/": temper}
    assert get(server.uri, seconds=0.3) == f"{server.uri}: no answer in time"


# -- beside the event loop ---------------------------------------------------------------------------------------------


def fetched(*actions: Fetch, directory: Path | None = None) -> dict[int, object]:
    replies: dict[int, object] = {}

    async def run() -> None:
        made = Fetcher(replies.__setitem__, directory)
        for action in actions:
            made.submit(action)
        while len(replies) < len(actions):
            await asyncio.sleep(0.01)
        made.close()

    asyncio.run(run())
    return replies


def test_all_sources_of_an_action_come_back_together(server: Server) -> None:
    server.answers = {"/a": body(b"a"), "/b": body(b"", 500)}
    sources = (Source(f"{server.uri}/a", 10), Source(f"{server.uri}/b", 10))
    assert fetched(Fetch(7, sources, 5.0)) == {7: (b"a", f"{server.uri}/b: answers 500 Internal Server Error")}


def test_who_asks_for_the_same_at_the_same_time_gets_the_same(server: Server) -> None:
    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.2)
        body(b"a")(handler)

    server.answers = {"/a": slowly}
    source = Source(f"{server.uri}/a", 10)
    assert fetched(*(Fetch(n, (source,), 5.0) for n in range(20))) == dict.fromkeys(range(20), (b"a",))
    assert server.asked == ["GET /a"]


def test_an_action_has_its_answer_in_time(server: Server) -> None:
    server.answers = {"/": silent}
    assert fetched(Fetch(1, (Source(server.uri, 10),), 0.2)) in (
        {1: (f"{server.uri} did not answer within 0.2 s",)},
        {1: (f"{server.uri}: no answer in time",)},
    )


def test_there_is_an_end_to_what_waits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MAX_WAITING", 1)
    server.answers = {"/a": body(b"a"), "/b": body(b"b")}
    sources = (Source(f"{server.uri}/a", 10), Source(f"{server.uri}/b", 10))
    assert fetched(Fetch(1, sources, 5.0)) == {
        1: (b"a", f"{server.uri}/b was not asked: too much is being fetched already")
    }


# -- the directory -----------------------------------------------------------------------------------------------------

CRL = made.octets(made.crl_of(make_authority("Root", KeyType.ECDSA256)))


def test_crls_outlive_a_restart(server: Server, tmp_path: Path) -> None:
    server.answers = {"/": body(CRL)}
    source = Source(server.uri, 10_000)
    for _ in range(2):
        assert fetched(Fetch(1, (source,), 5.0), directory=tmp_path / "crls") == {1: (CRL,)}
    assert server.asked == ["GET /"]


def test_an_old_one_is_asked_for_again_and_serves_where_nobody_answers(server: Server, tmp_path: Path) -> None:
    server.answers = {"/": body(CRL)}
    cache = Cache(tmp_path)
    source = Source(server.uri, 10_000)
    assert retrieve(source, time.monotonic() + 5, cache) == CRL
    (file,) = tmp_path.glob("*.crl")
    os.utime(file, (time.time() - 7200, time.time() - 7200))
    assert retrieve(source, time.monotonic() + 5, cache) == CRL
    assert server.asked == ["GET /"] * 2
    os.utime(file, (time.time() - 7200, time.time() - 7200))
    server.close()
    assert retrieve(source, time.monotonic() + 5, cache) == CRL


def test_what_is_no_crl_is_not_kept(server: Server, tmp_path: Path) -> None:
    server.answers = {"/": body(b"<html>")}
    cache = Cache(tmp_path)
    assert retrieve(Source(server.uri, 1000), time.monotonic() + 5, cache) == b"<html>"
    assert retrieve(Source(server.uri, 1000, b"POST"), time.monotonic() + 5, cache) == b"<html>"
    assert not list(tmp_path.iterdir())


def test_the_directory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetcher, "MAX_CACHED_FILES", 3)
    cache = Cache(tmp_path)
    for number in range(6):
        cache.put(f"http://{number}/", CRL)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="a firewall mark needs CAP_NET_ADMIN")
def test_what_is_sent_has_the_mark(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = []
    connect = socket.socket.connect

    def marked(self: socket.socket, address: object) -> None:
        marks.append(self.getsockopt(socket.SOL_SOCKET, socket.SO_MARK))
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", marked)
    server.answers = {"/": body(b"", 302, Location="/2"), "/2": body(b"here")}
    assert retrieve(Source(server.uri, 10), time.monotonic() + 5, None, 7) == b"here"
    assert marks == [7, 7]
