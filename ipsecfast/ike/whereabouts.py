"""Whether the peer of an IKE SA lives (RFC 7296 s2.4), and where it is (s2.23)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecfast.ike.exchange.informational import Liveness
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.timers import Timer
from ipsecfast.model import Path

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


def heard(sa: IkeSa, path: Path, now: float) -> None:
    """An authentic message: the peer lives, and it is where this came from (s2.4, s2.23)."""
    sa.last_heard = now
    if path == sa.path:
        return
    if sa.state is IkeState.CONNECTING:  # IKE_AUTH of the initiator, on port 4500 now
        sa.path = path
    elif sa.remote_nat:
        move(sa, path)
    elif path.remote == sa.path.remote and path.local == sa.path.local and not sa.udp_encap:
        sa.path = path  # IKE may change to port 4500 without a NAT too; ESP has no ports then


def esp_heard(sa: IkeSa, path: Path) -> None:
    """Authentic ESP came from elsewhere. Behind a NAT ourselves we don't follow: the peer has a fixed address."""
    if sa.remote_nat and not sa.closed:
        move(sa, path)


def move(sa: IkeSa, path: Path) -> None:
    """s2.23: the NAT before the peer maps it elsewhere; IKE and ESP both go there."""
    if path == sa.path:
        return
    sa.note("peer-moved", f"the peer moved from {sa.path} to {path}")
    sa.path = path
    for child in sa.children.values():
        sa.context.children.move(child, sa.esp_path)


def check_liveness(sa: IkeSa, now: float) -> None:
    """s2.4: ask only when nothing authentic came, neither IKE nor ESP, and no request of ours waits anyway."""
    delay = sa.connection.config.dpd_delay
    silent = now - sa.last_heard
    if silent >= delay and sa.current is None and not sa.queue:
        sa.start(Liveness(), now)
        silent = 0.0
    sa.context.timers.set(sa, Timer.LIVENESS, now + max(delay - silent, delay / 10))


def probe(sa: IkeSa, now: float) -> None:
    """s2.4, s2.21.4: somebody without a key claims that the peer has forgotten us: ask the peer itself."""
    if sa.usable and sa.current is None and not sa.queue:
        sa.start(Liveness(), now)
