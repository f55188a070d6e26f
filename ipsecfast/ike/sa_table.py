"""The IKE SAs of one endpoint, by what they are looked for: what one costs does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from ipsecfast.identity import Identity
from ipsecfast.ike.actions import Action, RankSpi
from ipsecfast.model import SpiRank

if TYPE_CHECKING:
    from ipsecfast.ike.connection import Connection
    from ipsecfast.ike.sa import IkeSa

Ordered: TypeAlias = "dict[IkeSa, None]"  # oldest first


class IkeSaTable(dict[bytes, "IkeSa"]):
    """By our own SPI. A closed one is found by nothing else. What becomes of an SPI is told by `emit`."""

    def __init__(self, emit: Callable[[Action], None]) -> None:
        super().__init__()
        self._emit = emit
        self._by_connection: dict[Connection, Ordered] = {}
        self._by_identities: dict[tuple[Identity | None, Identity | None], Ordered] = {}

    def add(self, sa: IkeSa) -> None:
        self[sa.own_spi] = sa
        self._emit(RankSpi(sa.own_spi, SpiRank.BEGUN))
        self._by_connection.setdefault(sa.connection, {})[sa] = None

    def assign(self, sa: IkeSa, connection: Connection) -> None:
        """It belongs to this one of its candidates."""
        if self._by_connection.get(sa.connection, {}).pop(sa, sa) is None:
            self._by_connection.setdefault(connection, {})[sa] = None
        sa.connection = connection

    def identify(self, sa: IkeSa) -> None:
        """Both ends have shown who they are."""
        self._by_identities.setdefault((sa.local_id, sa.remote_id), {})[sa] = None
        self._emit(RankSpi(sa.own_spi, SpiRank.PROVEN))

    def close(self, sa: IkeSa) -> None:
        """It only answers duplicates from now on."""
        self._by_connection.get(sa.connection, {}).pop(sa, None)
        identities = sa.local_id, sa.remote_id
        if (same := self._by_identities.get(identities)) is not None:
            same.pop(sa, None)
            if not same:
                del self._by_identities[identities]

    def forget(self, sa: IkeSa) -> None:
        """Nobody is answered under its SPI any more."""
        self.close(sa)
        if self.pop(sa.own_spi, None) is not None:
            self._emit(RankSpi(sa.own_spi, SpiRank.UNKNOWN))

    def of(self, connection: Connection) -> Iterator[IkeSa]:
        return iter(tuple(self._by_connection.get(connection, ())))

    def between(self, local: Identity | None, remote: Identity | None) -> Iterator[IkeSa]:
        """Those whose ends have shown that they are these two."""
        return iter(tuple(self._by_identities.get((local, remote), ())))
