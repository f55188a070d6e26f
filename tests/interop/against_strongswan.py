"""What is tried with strongSwan at the other end, wherever its ESP is done: the same life of a tunnel each time.

Up from one side, ping and TCP from then on; the Child SA and the IKE SA rekeyed from both sides while they run; both
ends agree on every SPI; then a delete from one side, and both ends are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from strongswan import Connection

from ipsecfast.lab.netns import A, B, Namespace
from ipsecfast.lab.testbed import PATIENCE, GatewayProcess, SteadyPing, Stream, tunnel_config, wait_for
from ipsecfast.lab.traffic import ping

IKE_PROPOSALS = "aes128gcm16-prfsha256-x25519"
GENTLE = 2_000_000  # bytes a second: what their user-space ESP carries without loss beside anything else
OURS, THEIRS = "ours", "theirs"


def our_config(**options: Any) -> dict[str, Any]:
    """Gateway A with strongSwan's defaults turned to what the tests of both ends say."""
    connection: Mapping[str, Any] = {"proposals": [IKE_PROPOSALS], **options.pop("connection", {})}
    config = tunnel_config(A, B, connection=connection, **options)
    config["secrets"]["net"]["secret"] = Connection.__dataclass_fields__["secret"].default
    return config


def their_connection(*, outer: int = 4, inner: tuple[int, ...] = (4,), **options: Any) -> Connection:
    at = {4: 0, 6: 1}
    return Connection(
        local=B.outer[at[outer]],
        remote=A.outer[at[outer]],
        **{
            "local_ts": ",".join(B.networks[at[version]] for version in inner),
            "remote_ts": ",".join(A.networks[at[version]] for version in inner),
            **options,
        },
    )


class End(Protocol):
    """The far end, as its own command line shows and moves it."""

    def initiate(self) -> Any: ...

    def rekey(self, what: str) -> None: ...

    def terminate(self, what: str) -> None: ...

    def child_spis(self) -> set[str]: ...

    def agrees_on_ike(self, spi_i: str) -> bool: ...


@dataclass(slots=True)
class Tunnel:
    """Our gateway and theirs, and the place from which the far address is reached through the tunnel."""

    ours: GatewayProcess
    theirs: End
    host: Namespace

    def up(self, side: str, seconds: float = PATIENCE) -> None:
        if side == OURS:
            self.ours.command("initiate", "net", timeout=max(20.0, seconds))
        else:
            self.theirs.initiate()
        self.agree(seconds)

    def agree(self, seconds: float = PATIENCE) -> None:
        """Both ends have one IKE SA and one Child SA, and they are the same ones."""

        def same() -> bool:
            child = self.ours.child()
            return (
                child is not None
                and self.ours.counts() == (1, 1)
                and self.theirs.child_spis() == {child.spi_out}
                and self.theirs.agrees_on_ike(child.ike_spi)
            )

        wait_for("both ends have the same SAs", same, seconds=seconds, every=0.2)

    def answers(self, *addresses: str) -> None:
        for address in addresses:
            times = self.host.run(ping, address, 3, 0.05, 5.0)
            assert None not in times, f"{address}: {times}"

    def rekey(self, what: str, side: str, seconds: float = PATIENCE) -> None:
        before = self.ours.expect_child()
        if side == OURS:
            self.ours.command("rekey", "net", "" if what == "ike" else "net", timeout=max(20.0, seconds))
        else:
            self.theirs.rekey(what)

        def changed() -> bool:
            now = self.ours.expect_child()
            return now.ike_spi != before.ike_spi if what == "ike" else now.spi_in != before.spi_in

        wait_for(f"a new {what} SA", changed, seconds=seconds)
        self.agree(seconds)

    def rekeys_under_traffic(self, address: str) -> None:
        pings = SteadyPing(self.host, address)
        stream = Stream(self.host, None, address, pace=GENTLE)  # faster, and their queue drops pings, rekey or not
        for what in ("child", "ike"):
            for side in (OURS, THEIRS):
                self.rekey(what, side)
        stream.goes_on()
        stream.finish()
        assert pings.finish() == 0

    def down(self, side: str, what: str = "ike") -> None:
        if side == OURS:
            self.ours.command("terminate", "net", "" if what == "ike" else "net")
        else:
            self.theirs.terminate(what)
        left = (0, 0) if what == "ike" else (1, 0)
        wait_for("our end is empty", lambda: self.ours.counts() == left)
        wait_for("their end is empty", lambda: not self.theirs.child_spis())
