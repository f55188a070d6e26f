"""The status of a gateway as one JSON document: what `ipsecfast status --json` prints (schema 1).

schema            1; a later schema may add keys, and changes the number if it changes or removes one
version, pid, tun, engine, mtu, uptime          uptime in seconds
connections[]     as configured, in the order of the file
  name, local_addrs[], remote_addrs[], local_id, remote_id          texts; "%any"
  children[]      as configured: name, mode, start_action, local_ts[], remote_ts[]
  failures[]      what failed last and has not come about since: child ("": the IKE SA), event, message, ago (seconds);
                  field: what the two ends want differently, ours, theirs ("": the peer has not said it); remedy: what
                  would be right at the other end, in its words ("" where that can't be said)
  ike_sas[]       the IKE SAs of the connection, oldest first
    state         connecting, established, rekeyed, deleting, closed
    initiator     whether this gateway initiated it
    spi_i, spi_r  16 hexadecimal digits
    local, remote "address:port"; local_id, remote_id; nat {local, remote}: who is behind one
    proposal      algorithms in the words of the configuration, "" before they are negotiated
    quantum_resistant  whether ML-KEM or a PPK went into the keys, so that who records the traffic can't ever decrypt it
    ppk           the id of the post-quantum pre-shared key in SK_d, "" without one: with RFC 8784 the first IKE SA is
                  not quantum-resistant, its Child SAs are
    revocation[]  of each certificate of the peer below its authority: state (good, unknown), text (who says so),
                  until (ISO 8601, when the one who says so will say it anew; null)
    established, rekey_in, reauth_in, expires_in       seconds; null where there is none
    child_sas[]   oldest first
      resource    of several with equal selectors (RFC 9611): 0 that for all, others for one worker or class; or null
      serves      in words: "all workers", "worker 1", "DSCP 46", "all other DSCPs"; "" without a resource
      name, reqid, mode, state              installed, rekeying, rekeyed, redundant, deleting, closed
      outbound    registered, active, inactive (RFC 7296 s2.8)
      spi_in, spi_out                       8 hexadecimal digits
      proposal, quantum_resistant, esn, udp_encap, replay_window
      local_ts[], remote_ts[]
      in, out     {packets, bytes, drops{reason: packets}}
      sequence    of the outbound SA
      established, rekey_in, expires_in
traps[]           connection/child whose first packet starts a negotiation
workers[]         per thread: name, counters per direction, cpu (seconds used), drops{reason: packets};
                  handed_over, taken_over: packets of SAs that another worker owns, and by others to this one
drops             {reason: packets} over all workers
drop_help         {reason: what it means and what to look at}, for the reasons in `drops`
ike               {counter: number} of the IKE core; datagrams by outcome
gateway           {counter: number} of the shell: datagrams received, sent, failed to send; events
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

from ipsecfast import __version__
from ipsecfast.config import GatewayConfig
from ipsecfast.configured import ChildConfig, ConnectionConfig
from ipsecfast.ike.credential.finding import Finding
from ipsecfast.ike.snapshot import ChildStatus, ConnectionStatus, IkeSaStatus
from ipsecfast.model import Path
from ipsecfast.spd import ChildKey

SCHEMA = 1

Document: TypeAlias = dict[str, Any]
# (inbound, reqid, SPI): peers choose our outbound SPIs, so only the reqid makes them unique.
SaKey: TypeAlias = tuple[bool, int, int]

_NO_SA: Document = {"packets": 0, "bytes": 0, "drops": {}, "sequence": 0}


def status_document(
    config: GatewayConfig,
    snapshots: Sequence[ConnectionStatus],
    *,
    sa_stats: Sequence[Mapping[str, Any]],
    worker_stats: Sequence[Mapping[str, Any]],
    drop_help: Mapping[str, str],
    traps: Iterable[ChildKey],
    engine: str,
    mtu: int,
    uptime: float,
    ike: Mapping[str, int],
    gateway: Mapping[str, int],
) -> Document:
    """Puts together what the IKE core and the data plane know. No key is in any of it."""
    counted = {(bool(sa["inbound"]), sa["reqid"], sa["spi"]): sa for sa in sa_stats}
    drops = _sum_of_drops(worker_stats)
    return {
        "schema": SCHEMA,
        "version": __version__,
        "pid": os.getpid(),
        "tun": config.tun,
        "engine": engine,
        "mtu": mtu,
        "uptime": round(uptime, 3),
        "connections": [
            _connection(connection, snapshot, counted)
            for connection, snapshot in zip(config.connections, snapshots, strict=True)
        ],
        "traps": [f"{connection}/{child}" for connection, child in traps],
        "workers": [dict(worker) for worker in worker_stats],
        "drops": drops,
        "drop_help": {reason: drop_help[reason] for reason in drops},
        "ike": {str(counter): number for counter, number in ike.items()},
        "gateway": dict(gateway),
    }


def _sum_of_drops(worker_stats: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for worker in worker_stats:
        total.update(worker["drops"])
    return {reason: count for reason, count in total.items() if count}


def _connection(
    connection: ConnectionConfig, snapshot: ConnectionStatus, counted: Mapping[SaKey, Mapping[str, Any]]
) -> Document:
    windows = {child.name: child.replay_window for child in connection.children}
    return {
        "name": connection.name,
        "local_addrs": [str(address) for address in connection.local_addrs] or ["%any"],
        "remote_addrs": [str(address) for address in connection.remote_addrs] or ["%any"],
        "local_id": str(connection.local.identity or "%any"),
        "remote_id": str(connection.remote.identity or "%any"),
        "children": [_configured_child(child) for child in connection.children],
        "failures": [asdict(failure) | {"ago": round(failure.ago, 3)} for failure in snapshot.failures],
        "ike_sas": [_ike_sa(ike_sa, windows, counted) for ike_sa in snapshot.ike_sas],
    }


def _configured_child(child: ChildConfig) -> Document:
    return {
        "name": child.name,
        "mode": child.mode.value,
        "start_action": child.start_action.value,
        "local_ts": ["dynamic" if selector is None else str(selector) for selector in child.local_ts],
        "remote_ts": ["dynamic" if selector is None else str(selector) for selector in child.remote_ts],
    }


def _ike_sa(sa: IkeSaStatus, windows: Mapping[str, int], counted: Mapping[SaKey, Mapping[str, Any]]) -> Document:
    return {
        "state": sa.state,
        "initiator": sa.initiator,
        "spi_i": sa.spi_i,
        "spi_r": sa.spi_r,
        "local": _end(sa.path, local=True),
        "remote": _end(sa.path, local=False),
        "local_id": sa.local_id,
        "remote_id": sa.remote_id,
        "nat": {"local": sa.local_nat, "remote": sa.remote_nat},
        "proposal": sa.proposal,
        "quantum_resistant": sa.quantum_resistant,
        "ppk": sa.ppk,
        "revocation": [_finding(finding) for finding in sa.revocation],
        "established": round(sa.age, 3),
        "rekey_in": sa.rekey_in,
        "reauth_in": sa.reauth_in,
        "expires_in": sa.expires_in,
        "child_sas": [_child_sa(child, windows.get(child.name, 0), counted) for child in sa.children],
    }


def _finding(finding: Finding) -> Document:
    until = finding.until.isoformat() if finding.until is not None else None
    return {"state": finding.state.value, "text": finding.text, "until": until}


def _child_sa(child: ChildStatus, window: int, counted: Mapping[SaKey, Mapping[str, Any]]) -> Document:
    inbound = counted.get((True, child.reqid, child.spi_in), _NO_SA)
    outbound = counted.get((False, child.reqid, child.spi_out), _NO_SA)
    return {
        "name": child.name,
        "reqid": child.reqid,
        "resource": child.resource,
        "serves": child.serves,
        "mode": child.mode,
        "state": child.state,
        "outbound": child.outbound_state,
        "spi_in": f"{child.spi_in:08x}",
        "spi_out": f"{child.spi_out:08x}",
        "proposal": child.algorithm,
        "quantum_resistant": child.quantum_resistant,
        "esn": child.esn,
        "udp_encap": child.encap,
        "replay_window": window,
        "local_ts": list(child.local_ts),
        "remote_ts": list(child.remote_ts),
        "in": _carried(inbound),
        "out": _carried(outbound),
        "sequence": outbound["sequence"],
        "established": round(child.age, 3),
        "rekey_in": child.rekey_in,
        "expires_in": child.expires_in,
    }


def _carried(sa: Mapping[str, Any]) -> Document:
    drops = {reason: count for reason, count in sa["drops"].items() if count}
    return {"packets": sa["packets"], "bytes": sa["bytes"], "drops": drops}


def _end(path: Path, *, local: bool) -> str:
    address, port = (path.local, path.local_port) if local else (path.remote, path.remote_port)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
