"""Any sequence of SAs and traps: what the book tells change by change adds up to the whole, and to what a list says."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from ipaddress import IPv4Network, ip_address
from itertools import product
from time import thread_time

from hypothesis import given, settings
from hypothesis import strategies as st

from ipsecfast.config.values import fixed_selector
from ipsecfast.configured import AuthConfig, ChildConfig, ConnectionConfig
from ipsecfast.model import IPAddress, IPNetwork, Path, Policy, PolicyAction, SaParams, TrafficSelector
from ipsecfast.netlink import Route, networks_of
from ipsecfast.spd import ChildKey, Selectors, SpdBook, SpdChange

PATH = Path(ip_address("192.0.2.1"), 0, ip_address("192.0.2.2"), 0)
EXPLICIT = [Policy(fixed_selector("10.1.0.9"), fixed_selector("0.0.0.0/0"), PolicyAction.BYPASS)]
CHILDREN: list[ChildKey] = [(connection, child) for connection in "ab" for child in ("first", "second")]
TEXTS = [
    "0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.2.0.0/24", "10.2.0.4-10.2.0.10", "10.2.0.0/24[tcp/80]",
    "10.2.0.0/24[udp]", "::/0", "2001:db8::/32", "2001:db8:1::/48", "2001:db8:1::5",
]  # fmt: skip
ADDRESSES = [ip_address(text) for text in ("127.0.0.1", "fe80::1", "10.1.0.1", "10.2.0.5", "2001:db8:1::5", "10.1.7.7")]


def connections() -> list[ConnectionConfig]:
    nobody, anything = AuthConfig(None), (fixed_selector("0.0.0.0/0"),)
    return [
        ConnectionConfig(name, (), (), (), nobody, nobody,
                         tuple(ChildConfig(child, anything, anything, ()) for one, child in CHILDREN if one == name))
        for name in "ab"
    ]  # fmt: skip


class PlainBook:
    """The whole SPD and all routes from what is there, in the words of `SpdBook`."""

    def __init__(self) -> None:
        self.children: dict[ChildKey, dict[int, tuple[dict[int, tuple[Selectors, Selectors]], list[object]]]] = {}
        self.children = {child: {} for child in CHILDREN}

    def entry(self, child: ChildKey, reqid: int) -> tuple[dict[int, tuple[Selectors, Selectors]], list[object]]:
        return self.children.setdefault(child, {}).setdefault(reqid, ({}, []))

    def remove_sa(self, reqid: int, spi: int) -> None:
        for entries in self.children.values():
            if reqid in entries and spi in entries[reqid][0]:
                del entries[reqid][0][spi]
                if not any(entries[reqid]):
                    del entries[reqid]
                return

    def policies(self) -> list[Policy]:
        found = list(EXPLICIT)
        for entries in self.children.values():
            for reqid, (sas, trap) in entries.items():
                for local, remote in pairs([*sas.values()] or trap):  # type: ignore[arg-type]
                    found.append(Policy(local, remote, PolicyAction.PROTECT, reqid, hold=True))
        return list(dict.fromkeys(found))

    def routes(self, ours: Sequence[IPAddress]) -> set[Route]:
        entries = [entry for by_reqid in self.children.values() for entry in by_reqid.values()]
        every = [pair for sas, trap in entries for pair in pairs([*sas.values(), *trap])]  # type: ignore[list-item]
        remote = {network for _, selector in every for network in networks_of(selector)}
        routes = {Route(network, source_of(network, every, ours)) for network in remote}
        for network in {network for selector, _ in every for network in networks_of(selector)} - remote:
            if any(is_inside(network, wider) for wider in remote):
                routes.add(Route(network, throw=True))
        return routes


def pairs(sets: Iterable[tuple[Selectors, Selectors]]) -> list[tuple[TrafficSelector, TrafficSelector]]:
    return [
        (local, remote)
        for local_ts, remote_ts in sets
        for local, remote in product(local_ts, remote_ts)
        if local.version == remote.version
        and (not local.protocol or not remote.protocol or local.protocol == remote.protocol)
    ]


def source_of(
    network: IPNetwork, every: Iterable[tuple[TrafficSelector, TrafficSelector]], ours: Iterable[IPAddress]
) -> IPAddress | None:
    local = [local for local, remote in every if network in networks_of(remote)]
    for address in ours:
        usable = not address.is_loopback and not address.is_link_local
        if usable and any(one.version == address.version and one.start <= address <= one.end for one in local):  # type: ignore[operator]
            return address
    return None


def is_inside(network: IPNetwork, wider: IPNetwork) -> bool:
    return network.version == wider.version and network != wider and network.subnet_of(wider)  # type: ignore[arg-type]


selectors = st.lists(st.sampled_from(TEXTS), min_size=1, max_size=3, unique=True).map(
    lambda texts: tuple(map(fixed_selector, texts))
)


@st.composite
def steps(draw: st.DrawFn) -> tuple[str, int, int, Selectors, Selectors]:
    kind = draw(st.sampled_from(["sa", "sa", "trap", "remove", "remove"]))
    return kind, draw(st.integers(1, 6)), draw(st.integers(1, 3)), draw(selectors), draw(selectors)


def take(book: SpdBook, plain: PlainBook, step: tuple[str, int, int, Selectors, Selectors]) -> SpdChange | None:
    kind, reqid, spi, local, remote = step
    child = CHILDREN[reqid % 4] if reqid < 6 else ("a", "not configured")
    if kind == "remove":
        plain.remove_sa(reqid, spi)
        return book.remove_sa(reqid, spi)
    if kind == "trap":
        plain.entry(child, reqid)[1][:] = [(local, remote)]
        return book.add_trap(child, reqid, local, remote)
    plain.entry(child, reqid)[0][spi] = (local, remote)
    return book.add_sa(child, SaParams(spi, reqid, 20, b"", PATH, local, remote))


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_changes_add_up_to_the_whole(data: st.DataObject) -> None:
    book, plain = SpdBook(EXPLICIT, connections()), PlainBook()
    published = book.policies()
    assert published == EXPLICIT
    installed: dict[IPNetwork, Route] = {}
    ours: Collection[IPAddress] = ADDRESSES
    for step in data.draw(st.lists(steps(), max_size=20)):
        change = take(book, plain, step)
        if change is not None:
            published[change.index : change.index + change.removed] = change.policies
        assert published == book.policies() == plain.policies()
        if data.draw(st.integers(0, 3)) == 0:  # several changes may come before the routes are asked for
            ours = data.draw(st.sampled_from([ADDRESSES, ADDRESSES[::-1], ADDRESSES[3:], []]))
            for network, route in book.routes.changes(ours).items():
                assert route != installed.get(network)
                if route is None:
                    del installed[network]
                else:
                    installed[network] = route
            assert set(installed.values()) == book.routes.routes() == plain.routes(list(ours))
            assert not book.routes.touched


def test_one_more_among_many_costs_little() -> None:
    """A hundredth of what all of them cost would be too much by far; it is some ten microseconds."""
    number = 20_000
    networks = [IPv4Network((0x14000000 + (i << 8), 24)) for i in range(number)]
    local = (fixed_selector("10.1.0.0/16"),)
    book = SpdBook(EXPLICIT, [])
    began = thread_time()
    for i, network in enumerate(networks):
        book.add_sa(("b", str(i % 977)), SaParams(i + 1, i + 1, 20, b"", PATH, local, (net(network),)))
    book.routes.changes(ADDRESSES)
    whole = thread_time() - began
    began = thread_time()
    change = book.add_sa(
        ("b", "500"), SaParams(1 << 30, 1 << 30, 20, b"", PATH, local, (net(IPv4Network("9.0.0.0/24")),))
    )
    routes = book.routes.changes(ADDRESSES)
    assert thread_time() - began < whole / 100
    assert change is not None
    assert 0 < change.index < number
    assert routes == {IPv4Network("9.0.0.0/24"): Route(IPv4Network("9.0.0.0/24"), ip_address("10.1.0.1"))}


def net(network: IPv4Network) -> TrafficSelector:
    return TrafficSelector.from_network(network)
