"""IKE endpoints and pretended data planes on virtual time, joined by seeded links.

    Gateway a  --- Link (delay, loss, duplicates, reordering, corruption, MTU, NAT) ---  Gateway b

Nothing here waits: `Network.run` jumps from event to event. Everything random comes from one seed.

| file | what |
|---|---|
| `configuration.py` | connections and children in a line or two |
| `link.py` | what a path does to datagrams; a NAT |
| `plane.py` | the data plane: which SPI may be used, what is lost |
| `node.py` | a gateway: endpoint, data plane, the shell between them; its restart |
| `network.py`, `pair.py` | time, and who gets what; two gateways of it |
| `transcript.py` | messages in the RFC's notation |
| `invariants.py` | what holds after every step, and what holds when all is quiet |
"""

from ipsecfast.ike.constants import NotifyType
from ipsecfast.model import Lifetime, StartAction
from simulation.configuration import (
    ADDRESS,
    ESP_PROPOSAL,
    IKE_PROPOSAL,
    NETWORK,
    SECRET,
    child,
    connection,
    proposals,
    replay_seed,
    selector,
)
from simulation.link import NAT_ADDRESS, Link, Nat
from simulation.network import Network
from simulation.node import Gateway
from simulation.pair import Pair, run_quiet
from simulation.plane import DataPlane, EspPacket
from simulation.transcript import Sent, own_cipher

__all__ = [
    "ADDRESS",
    "ESP_PROPOSAL",
    "IKE_PROPOSAL",
    "NAT_ADDRESS",
    "NETWORK",
    "SECRET",
    "DataPlane",
    "EspPacket",
    "Gateway",
    "Lifetime",
    "Link",
    "Nat",
    "Network",
    "NotifyType",
    "Pair",
    "Sent",
    "StartAction",
    "child",
    "connection",
    "own_cipher",
    "proposals",
    "replay_seed",
    "run_quiet",
    "selector",
]
