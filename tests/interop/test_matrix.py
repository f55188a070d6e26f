"""The matrix of real peers (`make interop`): each trial with each of them, begun by us and by them; see `peer.py`."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import strongswan
from against_strongswan import GENTLE, Tunnel
from conftest import GATEWAYS, MATRIX
from libreswan import Libreswan
from linux_guest import LinuxGuest
from matrix_page import LACKS
from matrix_trials import TRIALS
from openiked import NO_ESP, OpenIked
from peer import A_BEHIND_NAT, B_BEHIND_NAT, OURS, THEIRS, Credentials, Peer, Trial, fetched
from strongswan_peer import StrongSwanPeer
from test_gateway_workers import own_sas
from test_nat import forget_flows

from ipsecfast.lab.netns import A, B, Namespace, Site
from ipsecfast.lab.testbed import GatewayProcess, SteadyPing, Stream, TestbedError, wait_for
from ipsecfast.lab.traffic import ping
from ipsecfast.pki import KeyType

pytestmark = pytest.mark.matrix
LOSSY = 60.0  # seconds, where packets are lost


def strongswan_5(guest: LinuxGuest) -> Peer | str:
    return strongswan.missing(libipsec=False) or StrongSwanPeer(guest, Path("/"))


def strongswan_6(guest: LinuxGuest) -> Peer | str:
    release = strongswan.release_6()
    return release if isinstance(release, str) else StrongSwanPeer(guest, release.root, release)


def libreswan(guest: LinuxGuest) -> Peer | str:
    root = fetched("libreswan5")
    return root if isinstance(root, str) else Libreswan(guest, root)


def openiked(guest: LinuxGuest) -> Peer | str:
    root = fetched("openiked7")
    return root if isinstance(root, str) else OpenIked(guest, root)


PEERS = {"strongswan5": strongswan_5, "strongswan6": strongswan_6, "libreswan": libreswan, "openiked": openiked}


@pytest.fixture(scope="module")
def peer(request: pytest.FixtureRequest, ready_guest: LinuxGuest) -> Iterator[Peer]:
    made = PEERS[request.param](ready_guest)
    if isinstance(made, str):
        pytest.skip(made)
    matrix = request.config.stash[MATRIX]
    matrix.titles[request.param] = made.title
    matrix.system = f"Linux {ready_guest.run('uname', '-r').strip()} (user-mode) at the peers"
    yield made
    made.close()


class Cell:
    """One trial with one peer, begun by `side`; the method that the trial names is what happens."""

    def __init__(self, tunnel: Tunnel, peer: Peer, trial: Trial, side: str) -> None:
        self.tunnel = tunnel
        self.peer = peer
        self.trial = trial
        self.side = side
        self.other = THEIRS if side == OURS else OURS
        self.note = ""  # for the page

    def lives(self) -> None:
        self.tunnel.up(self.side)
        self._shows()
        self.tunnel.answers(*self.trial.addresses())
        self._down(self.side)

    def rekeys_child(self) -> None:
        self._rekeys("child")

    def rekeys_ike(self) -> None:
        self._rekeys("ike")

    def sends_fragments(self) -> None:
        before = self.tunnel.ours.status()["ike"].get("fragments kept", 0)
        self.tunnel.up(self.side)
        assert self.tunnel.ours.status()["ike"]["fragments kept"] > before
        self.tunnel.answers(*self.trial.addresses())
        self._down(self.side)

    def survives_loss(self) -> None:
        """Retransmissions, of ours and of theirs, bring each exchange to its end."""
        with lossy(self.tunnel.ours.place, self.trial.loss):
            self.tunnel.up(self.side, LOSSY)
            self.tunnel.rekey("child", self.side, LOSSY)
            self.tunnel.rekey("ike", self.side, LOSSY)
            answered = [
                time is not None for time in self.tunnel.host.run(ping, self.trial.addresses()[0], 40, 0.02, 0.2)
            ]
            assert sum(answered) >= 20, answered
        self.tunnel.answers(*self.trial.addresses())
        self._down(self.side)

    def rekeys_by_limit(self) -> None:
        """Whoever begins has a limit in bytes or packets, and rekeys each time that it is used up."""
        self.tunnel.up(self.other)
        address = self.trial.addresses()[0]
        pings = SteadyPing(self.tunnel.host, address)
        stream = Stream(self.tunnel.host, None, address, pace=GENTLE)
        words = "by which the peer replaced" if self.side == THEIRS else "by which we replaced"
        wait_for("three rekeys", lambda: self.tunnel.ours.log_text().count(words) >= 3)
        stream.goes_on()
        stream.finish()
        self._lost_nothing(pings)
        self.tunnel.agree()
        self._down(self.other)

    def reauthenticates(self) -> None:
        """Twice, make before break: both prove anew who they are, on a new IKE SA with a new Child SA."""
        self.tunnel.up(self.other)
        pings = SteadyPing(self.tunnel.host, self.trial.addresses()[0])
        for _ in range(2):
            before = self.tunnel.ours.expect_child()
            if self.side == OURS:
                self.tunnel.ours.command("reauthenticate", "net")
            else:
                self.peer.reauthenticate()
            wait_for("a new IKE SA", lambda before=before: self.tunnel.ours.expect_child().ike_spi != before.ike_spi)
            self.tunnel.agree()
            assert self.tunnel.ours.expect_child().spi_in != before.spi_in
        # As responder a peer sends on the new Child SA at once: that may overtake its IKE_AUTH response (s2.8).
        assert pings.finish() <= (2 if self.side == OURS else 0)
        self._down(self.other)

    def carries_dscp(self) -> None:
        """Of inner packets on the outer ones (RFC 4301 s5.1.2.1), on the way there and on the way back."""
        self.tunnel.up(self.side)
        with watching(self.tunnel.ours.place, "ip dscp ef meta l4proto esp") as seen:
            self.tunnel.host.check_output(["ping", "-c", "3", "-Q", "0xb8", self.trial.addresses()[0]])
            assert seen() == {"input": 3, "output": 3}
            self.tunnel.answers(*self.trial.addresses())
            assert seen() == {"input": 3, "output": 3}
        self._down(self.side)

    def has_classes(self) -> None:
        """Packets with the DSCP of a class get a Child SA of their own."""
        self.tunnel.up(self.side)
        address = self.trial.addresses()[0]
        mark = ["ping", "-c", "3", "-Q", "0xb8", address]
        self.tunnel.host.check_output(mark)
        wait_for("a Child SA for the class", lambda: set(own_sas(self.tunnel.ours)) == {0, 1})
        before = own_sas(self.tunnel.ours)
        self.tunnel.host.check_output(mark)
        self.tunnel.answers(address)
        after = own_sas(self.tunnel.ours)
        carried = [after[number]["out"]["packets"] - before[number]["out"]["packets"] for number in (0, 1)]
        assert carried == [3, 3]
        self.tunnel.down(THEIRS)

    def only_that_port(self) -> None:
        self.tunnel.up(self.side)
        address = self.trial.addresses()[0]
        stream = Stream(self.tunnel.host, None, address, pace=GENTLE)
        assert self.tunnel.host.run(ping, address, 2, 0.05, 0.5) == [None, None]
        stream.goes_on()
        stream.finish()
        self._down(self.side)

    def behind_nat(self, *rekeyed: str) -> None:
        """One end has another address outside, and ports that it does not know of if it begins."""
        with translated(self.tunnel.ours.place, self.trial.nat):
            self.tunnel.up(self.side)
            self._shows()
            stream = Stream(self.tunnel.host, None, self.trial.addresses()[0], pace=GENTLE)
            for what in rekeyed:
                self.tunnel.rekey(what, self.side)
            stream.goes_on()
            stream.finish()
            self.tunnel.answers(*self.trial.addresses())
            self._down(self.side)

    def rekeys_behind_nat(self) -> None:
        self.behind_nat("child", "ike", "child")

    def has_resources(self) -> None:
        """Beside the Child SA for all each of our two workers gets its own, once it has packets."""
        self.tunnel.up(self.side)
        streams = [Stream(self.tunnel.host, None, self.trial.addresses()[0], pace=GENTLE // 8) for _ in range(8)]
        wait_for("a Child SA for each worker", lambda: set(own_sas(self.tunnel.ours)) == {0, 1, 2}, every=0.2)
        theirs = {child["spi_out"] for child in own_sas(self.tunnel.ours).values()}
        wait_for("the peer has them too", lambda: self.peer.child_spis() == theirs, every=0.2)
        for stream in streams:
            stream.goes_on()
            stream.finish()
        self.tunnel.down(THEIRS)

    def has_tickets(self) -> None:
        """The responder gives one; the peer, which can end its IKE SA for that, takes it up again by it."""
        self.tunnel.up(self.side)
        words = "sending IKE_SESSION_RESUME ticket" if self.side == OURS else "received v2N_TICKET_LT_OPAQUE"
        assert words in self.peer.log_text()
        if self.side == THEIRS:
            self.peer.suspend()
            self.peer.initiate()
            self.tunnel.agree()
            assert "sent IKE_SESSION_RESUME request" in self.peer.log_text()
            assert "TICKET_NACK" not in self.peer.log_text()
        self.tunnel.answers(*self.trial.addresses())
        self._down(self.side)

    def _shows(self) -> None:
        """What was configured is what was negotiated."""
        child = self.tunnel.ours.expect_child()
        assert child.udp_encap == self.trial.in_udp
        assert child.esn == ("esn" in self.trial.esp.split("-")) or not self.trial.esp
        if self.trial.ike:
            assert set(self.trial.ike.split("-")) <= set(child.ike_algorithms.split("-"))

    def _rekeys(self, what: str) -> None:
        """Twice, for the second one is of an SA that was itself made so; then a Child SA out of what there is now."""
        self.tunnel.up(self.other)
        address = self.trial.addresses()[0]
        pings = SteadyPing(self.tunnel.host, address)
        stream = Stream(self.tunnel.host, None, address, pace=GENTLE)
        for each in (what, what, "child"):
            self.tunnel.rekey(each, self.side)
        stream.goes_on()
        stream.finish()
        self._lost_nothing(pings)
        if "mlkem" in self.trial.ike:
            (ike_sa,) = self.tunnel.ours.status()["connections"][0]["ike_sas"]
            assert ike_sa["quantum_resistant"]
        self._down(self.other)

    def _lost_nothing(self, pings: SteadyPing) -> None:
        """But for one answer at most on the heels of each response, where the peer is known for that."""
        lost, early = pings.finish(), self.tunnel.ours.status()["drops"].get("unknown-spi", 0)
        if self.side == OURS and self.peer.early:
            self.note = self.peer.early
            assert lost <= min(early, self.tunnel.ours.log_text().count("by which we replaced"))
        else:
            assert lost == 0

    def _down(self, began: str) -> None:
        """The end that did not begin deletes, unless the other one would begin again at once."""
        self.tunnel.down(THEIRS if began == OURS or self.peer.revives else OURS)


@contextmanager
def lossy(place: Namespace, percent: int) -> Iterator[None]:
    """Drops that share of what comes and goes between the gateways; some must have been."""
    drop = f"numgen random mod 100 < {percent} counter drop"
    rules = "".join(
        f"add chain inet loss {hook} {{ type filter hook {hook} priority 0; }}; "
        f'add rule inet loss {hook} {word} "outer" meta l4proto {{ udp, esp }} {drop}; '
        for hook, word in (("input", "iifname"), ("output", "oifname"))
    )
    place.check_output(["nft", f"add table inet loss; {rules}"])
    try:
        yield
        listed = place.check_output(["nft", "list", "table", "inet", "loss"])
        assert "packets 0 " not in listed, listed
    finally:
        place.check_output(["nft", "delete table inet loss"])


@contextmanager
def watching(place: Namespace, what: str) -> Iterator[Callable[[], dict[str, int]]]:
    """How many of such packets came and went between the gateways."""
    rules = "".join(
        f"add chain inet seen {hook} {{ type filter hook {hook} priority 0; }}; "
        f'add rule inet seen {hook} {word} "outer" {what} counter; '
        for hook, word in (("input", "iifname"), ("output", "oifname"))
    )
    place.check_output(["nft", f"add table inet seen; {rules}"])

    def seen() -> dict[str, int]:
        listed = place.check_output(["nft", "list", "table", "inet", "seen"])
        return {hook: int(number) for hook, number in re.findall(r"hook (\w+) .*\n.*packets (\d+)", listed)}

    try:
        yield seen
    finally:
        place.check_output(["nft", "delete table inet seen"])


@contextmanager
def translated(place: Namespace, end: str) -> Iterator[None]:
    """The NAT is in our own namespace, outside of the gateway: what begins there gets other ports, what begins outside
    is led to the end behind it."""
    if end == OURS:
        here, there = A.outer[0], A_BEHIND_NAT
        place.add_address("outer", f"{there}/24")
        first = ("postrouting", "srcnat", f'oifname "outer" ip saddr {here} udp', f"snat to {there}:10000-19999")
        second = ("prerouting", "dstnat", f'iifname "outer" ip daddr {there} udp', f"dnat to {here}")
    else:
        here, there = B.outer[0], B_BEHIND_NAT
        first = ("input", "100", f'iifname "outer" ip saddr {here} udp', f"snat to {there}:10000-19999")
        second = ("output", "-100", f'oifname "outer" ip daddr {there} udp', f"dnat to {here}")
    rules = "".join(
        f"add chain ip around {hook} {{ type nat hook {hook} priority {priority}; }}; "
        f"add rule ip around {hook} {match.replace(' udp', '')} meta l4proto udp {verdict}; "
        for hook, priority, match, verdict in (first, second)
    )
    place.check_output(["nft", f"add table ip around; {rules}"])
    try:
        yield
    finally:
        place.check_output(["nft", "delete table ip around"])
        place.run(forget_flows)
        if end == OURS:
            place.check_output(["ip", "address", "del", f"{there}/24", "dev", "outer"])


def as_far_as_ike_auth(ours: GatewayProcess, peer: Peer, side: str) -> None:
    """No Child SA can be: the peer's refusal is named, or its own AUTH payload is verified before ours refuses."""
    if side == OURS:
        with pytest.raises(TestbedError, match="NO_PROPOSAL_CHOSEN"):
            ours.command("initiate", "net")
        assert "policy_lookup: setting policy 'net'" in peer.log_text()
    else:
        peer.initiate()
        wait_for("the peer is authenticated", lambda: "established as responder with b.test" in ours.log_text())


class Ends:
    """Both ends as a trial has them, made once for both of its sides; anew where the side before has failed."""

    def __init__(self, place: Namespace, folder: Path) -> None:
        self._place = place
        self._folder = folder
        self._credentials: dict[KeyType, Credentials] = {}
        self._of: tuple[Peer, Trial] | None = None
        self._ours: GatewayProcess | None = None
        self._made = 0

    def ready(self, peer: Peer, trial: Trial) -> GatewayProcess:
        if self._ours is None or self._of != (peer, trial):
            self.close()
            credentials = self._credentials_of(trial)
            self._made += 1
            config = trial.our_config(credentials)
            config["gateway"] |= {"engine": "openssl"}  # nothing here is about speed
            with ThreadPoolExecutor(1) as beside:
                loaded = beside.submit(peer.load, trial, credentials)
                self._ours = GatewayProcess(self._place, self._folder / str(self._made), config)
                loaded.result()
            self._of = (peer, trial)
        return self._ours

    def _credentials_of(self, trial: Trial) -> Credentials | None:
        if trial.key is None:
            return None
        if trial.key not in self._credentials:
            folder = self._folder / str(trial.key)
            folder.mkdir()
            self._credentials[trial.key] = Credentials.make(folder, trial.key)
        return self._credentials[trial.key]

    def close(self) -> None:
        if self._ours is not None:
            self._ours.close()
        self._ours, self._of = None, None


@pytest.fixture(scope="module")
def ends(site_a: Site) -> Iterator[Ends]:
    with tempfile.TemporaryDirectory(prefix="ipsecfast-") as folder:  # short: the path of a socket has 107 bytes
        made = Ends(site_a.gateway, Path(folder))
        yield made
        made.close()


@pytest.mark.parametrize("side", [OURS, THEIRS])
@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
@pytest.mark.parametrize("peer", PEERS, indirect=True)
def test_cell(request: pytest.FixtureRequest, site_a: Site, peer: Peer, ends: Ends, trial: Trial, side: str) -> None:
    reason = peer.lacks(trial, side)
    if reason is not None:
        pytest.skip(f"{LACKS}{reason}")
    trial = trial.begun_by(side)
    try:
        ours = ends.ready(peer, trial)
        request.node.stash[GATEWAYS] = [ours]
        if peer.has_esp:
            host = site_a.gateway if trial.mode == "transport" else site_a.host
            cell = Cell(Tunnel(ours, peer, host), peer, trial, side)
            getattr(cell, trial.life)()
            request.node.user_properties.append(("only", cell.note))
        else:
            as_far_as_ike_auth(ours, peer, side)
            request.node.user_properties.append(("only", f"as far as IKE_AUTH: {NO_ESP}"))
    except BaseException:
        ends.close()
        raise
