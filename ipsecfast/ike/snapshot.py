"""What `ipsecfast status` shows of the IKE core: frozen values, no keys. Times are seconds from now, or since then."""

from __future__ import annotations

from dataclasses import dataclass

from ipsecfast.ike.child import ChildSa
from ipsecfast.ike.connection import Connection
from ipsecfast.ike.credential.finding import Finding
from ipsecfast.ike.diagnosis import Failure
from ipsecfast.ike.extension.ppk import ppk_id_text
from ipsecfast.ike.extension.resources import serves
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.wire.proposal import proposal_text
from ipsecfast.model import Path


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """One Child SA; SPIs as in ESP packets."""

    name: str
    reqid: int
    resource: int | None
    serves: str
    state: str
    outbound_state: str
    spi_in: int
    spi_out: int
    local_ts: tuple[str, ...]
    remote_ts: tuple[str, ...]
    algorithm: str
    quantum_resistant: bool
    mode: str
    encap: bool
    esn: bool
    age: float
    rekey_in: float | None
    expires_in: float | None


@dataclass(frozen=True, slots=True)
class IkeSaStatus:
    """One IKE SA with its Child SAs."""

    connection: str
    state: str
    spi_i: str
    spi_r: str
    initiator: bool
    path: Path
    local_id: str
    remote_id: str
    local_nat: bool
    remote_nat: bool
    proposal: str
    quantum_resistant: bool
    revocation: tuple[Finding, ...]
    ppk: str
    age: float
    rekey_in: float | None
    reauth_in: float | None
    expires_in: float | None
    children: tuple[ChildStatus, ...]


@dataclass(frozen=True, slots=True)
class FailureStatus:
    """What failed last and has not come about since. `child` "" is the IKE SA; `field` and so on "" if unknown."""

    child: str
    event: str
    message: str
    ago: float
    field: str
    ours: str
    theirs: str
    remedy: str


@dataclass(frozen=True, slots=True)
class ConnectionStatus:
    """One configured connection; `waiting` are children for which the next attempt will be made."""

    name: str
    children: tuple[str, ...]
    waiting: tuple[str, ...]
    ike_sas: tuple[IkeSaStatus, ...]
    failures: tuple[FailureStatus, ...] = ()


def connection_status(connection: Connection, now: float) -> ConnectionStatus:
    return ConnectionStatus(
        connection.config.name,
        tuple(c.name for c in connection.config.children),
        tuple(connection.waiting),
        tuple(ike_sa_status(sa, now) for sa in connection.ike_sas()),
        tuple(_failure_status(failure, now) for failure in connection.failures.values()),
    )


def _failure_status(failure: Failure, now: float) -> FailureStatus:
    mismatch = failure.mismatch
    return FailureStatus(
        child=failure.child,
        event=failure.event,
        message=failure.message,
        ago=now - failure.at,
        field=mismatch.field if mismatch else "",
        ours=mismatch.ours if mismatch else "",
        theirs=mismatch.theirs if mismatch else "",
        remedy=failure.remedy,
    )


def ike_sa_status(sa: IkeSa, now: float) -> IkeSaStatus:
    return IkeSaStatus(
        connection=sa.connection.config.name,
        state=sa.state.value,
        spi_i=sa.spi_i.hex(),
        spi_r=sa.spi_r.hex(),
        initiator=sa.initiator,
        path=sa.path,
        local_id=str(sa.local_id or ""),
        remote_id=str(sa.remote_id or ""),
        local_nat=sa.local_nat,
        remote_nat=sa.remote_nat,
        proposal=sa.proposal_words,
        quantum_resistant=sa.quantum_resistant,
        revocation=sa.credentials.findings,
        ppk=ppk_id_text(sa.ppk.key.id) if sa.ppk.key else "",
        age=now - (sa.created_at if sa.established_at is None else sa.established_at),
        rekey_in=_until(sa.rekey_at, now),
        reauth_in=_until(sa.reauth.at, now),
        expires_in=_until(sa.expires_at, now),
        children=tuple(child_status(child, now) for child in sa.children.values()),
    )


def child_status(child: ChildSa, now: float) -> ChildStatus:
    return ChildStatus(
        name=child.config.name,
        reqid=child.reqid,
        resource=child.resource,
        serves=serves(child),
        state=child.state.value,
        outbound_state=child.outbound_state.value,
        spi_in=child.spi_in,
        spi_out=child.spi_out,
        local_ts=tuple(map(str, child.selectors.local)),
        remote_ts=tuple(map(str, child.selectors.remote)),
        algorithm=proposal_text(child.proposal),
        quantum_resistant=child.quantum_resistant,
        mode=child.config.mode.value,
        encap=child.outbound.udp_encap,
        esn=child.outbound.esn,
        age=now - child.established_at,
        rekey_in=_until(child.rekey_at, now),
        expires_in=_until(child.expires_at, now),
    )


def _until(when: float | None, now: float) -> float | None:
    return None if when is None else max(0.0, when - now)
