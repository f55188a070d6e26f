"""One size of `bench scale`, in a process of its own, so that memory is what it is without anything before it.

    python -m ipsecfast.bench.scale_child policies|tunnels N

prints one line of JSON: quantities by name. `policies`: a data plane with N policies and N pairs of SAs, loaded from
numpy arrays. `tunnels`: N connections, each negotiated between two IKE endpoints in this process, without a network.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from pathlib import Path as FilePath

import numpy as np
from numpy.typing import NDArray

from ipsecfast.arrays import POLICY_DTYPE, SA_DTYPE, policy_array, sa_array
from ipsecfast.bench.workload import inbound, sa_params
from ipsecfast.configured import AuthConfig, ChildConfig, ConnectionConfig, PresharedKey
from ipsecfast.dataplane import DataPlane, Spd
from ipsecfast.errors import IpsecError
from ipsecfast.identity import Identity
from ipsecfast.ike.actions import Transmit
from ipsecfast.ike.endpoint import IkeEndpoint
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.wire.proposal import parse_proposal
from ipsecfast.measure import StageBench
from ipsecfast.model import Path, Policy, PolicyAction, ProtocolId, TrafficSelector

INSERTIONS = 15
QUESTIONS = 20_000
FEW_FLOWS, MANY_FLOWS = 64, 8192  # all in the flow cache; of many policies, in turn
STAGE_BATCHES = 60
FIRST_SPI = 0x10_0000


def resident() -> int:
    """Bytes of this process in memory, without what it gave back to an allocator that would keep it (glibc's does)."""
    gc.collect()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
    return int(FilePath("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


# ---- policies and SAs ----


def network(number: int) -> IPv4Network:
    """The /28 network of connection `number`; there are a million in 10.0.0.0/8."""
    return IPv4Network((int(IPv4Address("10.0.0.0")) + number * 16, 28))


def policies(n: int) -> NDArray[np.void]:
    """From anywhere to the network of each of n connections."""
    rows = np.zeros(n, POLICY_DTYPE)
    rows[:] = policy_array([policy(0)])[0]
    first = int(IPv4Address("10.0.0.0")) + 16 * np.arange(n, dtype=np.uint32)
    for end, address in (("first", first), ("last", first + 15)):
        rows["destination"][end]["bytes"][:, :4] = address.astype(">u4").view(np.uint8).reshape(n, 4)
    rows["reqid"] = np.arange(1, n + 1)
    return rows


def policy(number: int) -> Policy:
    anywhere = TrafficSelector.from_network(IPv4Network("0.0.0.0/0"))
    return Policy(anywhere, TrafficSelector.from_network(network(number)), PolicyAction.PROTECT, number + 1)


def sas(n: int, *, outbound: bool) -> NDArray[np.void]:
    params = sa_params()
    rows = np.zeros(n, SA_DTYPE)
    rows[:] = sa_array([params if outbound else inbound(params)])[0]
    rows["spi"] = FIRST_SPI + np.arange(n)
    rows["reqid"] = np.arange(1, n + 1)
    return rows


def measure_policies(n: int) -> dict[str, float]:
    plane = DataPlane()
    loaded, arriving, leaving = policies(n), sas(n, outbound=False), sas(n, outbound=True)
    found = {"compile": timed(lambda: plane.publish_spd(loaded)), "bytes a policy": plane.policy_bytes / n}
    before = resident()
    found["load SAs"] = timed(lambda: plane.install_sas_array(arriving, inbound=True)) + timed(
        lambda: plane.install_sas_array(leaving, inbound=False, activate=True)
    )
    found["bytes a pair of SAs"] = (resident() - before) / n
    found["insert a connection"] = statistics.median(timed(lambda: insert(plane, n)) for _ in range(INSERTIONS))
    plane.close()
    return found | lookups(n, loaded)


_added = count()


def insert(plane: DataPlane, n: int) -> None:
    """What a new tunnel needs: both SAs, and its policy in the midst of the others."""
    number = n + next(_added)
    params = replace(sa_params(), spi=FIRST_SPI + number, reqid=number + 1)
    plane.install_inbound(inbound(params))
    plane.install_outbound(params)
    plane.activate_outbound(params.reqid, params.spi)
    plane.replace_policies(plane.policy_count // 2, 0, [policy(number)])


def lookups(n: int, loaded: NDArray[np.void]) -> dict[str, float]:
    """Nanoseconds a packet: in the flow cache; of the snapshot, by flows in turn; of the snapshot, in random order."""
    few = StageBench(sizes=(64,), policies=n, flows=FEW_FLOWS).measure(STAGE_BATCHES)
    many = StageBench(sizes=(64,), policies=n, flows=MANY_FLOWS).measure(STAGE_BATCHES)
    spd, random = Spd(loaded), np.random.default_rng(1)
    destination = (int(IPv4Address("10.0.0.0")) + random.integers(0, 16 * n, QUESTIONS)).astype(np.uint32)
    source = random.integers(1, 2**32, QUESTIONS, np.uint32)
    protocol, ports = np.full(QUESTIONS, 17, np.uint8), np.full(QUESTIONS, 1000, np.uint16)
    answers: list[NDArray[np.int32]] = []
    took = timed(lambda: answers.append(spd.lookup(source, destination, protocol, ports, ports)))
    if not (answers[0] == (destination - int(IPv4Address("10.0.0.0"))) // 16).all():
        raise SystemExit("the SPD answered wrongly, the figures would mean nothing")
    return {
        "lookup, hit": few["spd-hit"].ns,
        "lookup, miss": many["spd-miss"].ns,
        "lookup, random": took * 1e6 / QUESTIONS,
    }


# ---- tunnels ----

SECRET = PresharedKey((), os.urandom(32))
HUB, FIRST_PEER = IPv4Address("192.0.2.1"), int(IPv4Address("198.18.0.0"))


def connection(number: int, *, hub: bool) -> ConnectionConfig:
    """Connection `number` of the hub, or the same at its peer."""
    ends = (HUB, IPv4Address(FIRST_PEER + number))
    names = (Identity(2, b"hub.test"), Identity(2, f"peer{number}.test".encode()))
    everywhere, own = IPv4Network("172.16.0.0/12"), network(number)
    mine, theirs = (0, 1) if hub else (1, 0)
    local, remote = (TrafficSelector.from_network((everywhere, own)[at]) for at in (mine, theirs))
    esp = parse_proposal("aes128gcm16", ProtocolId.ESP)
    return ConnectionConfig(
        name=f"c{number}",
        local_addrs=(ends[mine],),
        remote_addrs=(ends[theirs],),
        proposals=(parse_proposal("aes128gcm16-prfsha256-x25519", ProtocolId.IKE),),
        local=AuthConfig(names[mine]),
        remote=AuthConfig(names[theirs]),
        children=(ChildConfig("net", (local,), (remote,), (esp,)),),
        secrets=(SECRET,),
    )


def endpoint(n: int, *, hub: bool) -> IkeEndpoint:
    connections = [connection(number, hub=hub) for number in range(n)]
    return IkeEndpoint(connections, random=os.urandom, wall_clock=partial(datetime.now, UTC))


def carry(sender: IkeEndpoint, receiver: IkeEndpoint, now: float) -> bool:
    """Gives the receiver what the sender has to say; whether there was anything."""
    messages = [action for action in sender.actions() if isinstance(action, Transmit)]
    for one in messages:
        path = Path(one.path.remote, one.path.remote_port, one.path.local, one.path.local_port)
        receiver.receive_datagram(one.data, path, now)
    return bool(messages)


def measure_tunnels(n: int) -> dict[str, float]:
    """Both ends are in this process: what one end takes is half of it."""
    before = resident()
    hub, peers = (endpoint(n, hub=at_hub) for at_hub in (True, False))
    spent = 0.0
    for number in range(n):
        now = number * 0.1
        hub.handle_timeout(now)
        peers.handle_timeout(now)
        spent += timed(lambda: negotiate(hub, peers, number, now))  # noqa: B023 (called at once)
    for end in (hub, peers):
        up = [sa for sa in end.context.ike_sas.values() if sa.state is IkeState.ESTABLISHED]
        if len(up) != n:
            raise SystemExit(f"{len(up)} of {n} tunnels came up, the figures would mean nothing")
    used = (resident() - before) / n / 2
    return {"set-up a tunnel and end": spent / n / 2, "bytes a tunnel and end": used}


def negotiate(hub: IkeEndpoint, peers: IkeEndpoint, number: int, now: float) -> None:
    hub.initiate(f"c{number}", None, now)
    while carry(hub, peers, now) or carry(peers, hub, now):
        pass


def main() -> None:
    what, n = sys.argv[1], int(sys.argv[2])
    try:
        found = {"policies": measure_policies, "tunnels": measure_tunnels}[what](n)
    except IpsecError as error:
        raise SystemExit(str(error)) from error
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
