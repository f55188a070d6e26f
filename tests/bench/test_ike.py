"""`bench ike`: what it judges, and the load generator against itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ipsecfast.bench.ike import Flood, Load, ratios, requirements
from ipsecfast.bench.ike_load import Plan
from ipsecfast.bench.ike_subjects import Charon, Ours, Proof
from ipsecfast.bench.results import Better, Figure
from ipsecfast.lab.netns import Namespace, join


def figure(proof: str, role: str, who: str, *samples: float) -> Figure:
    return Figure((proof, role), who, "handshakes/s", Better.HIGHER, samples)


def test_ratios_are_of_the_same_rounds_and_only_where_both_were_measured() -> None:
    figures = {
        f.name: f
        for f in (
            figure("psk", "responder", Ours.name, 100, 300),
            figure("psk", "responder", Charon.name, 200, 400),
            figure("psk", "initiator", Ours.name, 100, 100),
        )
    }
    (only,) = ratios(figures)
    assert (only.row, only.samples) == (("psk", "responder"), (0.5, 0.75))


def test_what_is_accepted() -> None:
    figures = {f.name: f for f in (Figure(("psk", "responder"), "ipsecfast / charon", "ratio", Better.HIGHER, (0.6,)),)}
    verdicts = [requirement.judge(figures) for requirement in requirements(0, [])]
    assert [v.held for v in verdicts] == [True, False]
    assert "not measured" in verdicts[1].found
    assert len(list(requirements(5000, [Flood(100, 500), Flood(100, 4500)]))) == 5


@pytest.mark.parametrize("kind", ["psk", "ecdsa"])
def test_a_plan_is_a_connection_for_each_peer(kind: str, tmp_path: Path) -> None:
    proof = Proof.make(kind)
    proof.authority.save(tmp_path / "ca.pem", tmp_path / "ca.key")
    authority = (str(tmp_path / "ca.pem"), str(tmp_path / "ca.key")) if proof.by_certificate else None
    plan = Plan(initiator=True, peers=3, local="192.0.2.2", remote="192.0.2.1", secret="s", authority=authority)
    connections = list(plan.connections())
    assert len({str(c.local.identity) for c in connections}) == 3
    assert len({c.children[0].local_ts for c in connections}) == 3
    assert all(bool(c.secrets) == (kind == "psk") for c in connections)


@pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")
def test_the_generator_against_itself() -> None:
    first, second = Namespace("first"), Namespace("second")
    try:
        join(first, "outer", second, "outer")
        first.add_address("outer", "192.0.2.1/24")
        second.add_address("outer", "192.0.2.2/24")
        shared = {"secret": "a secret", "parallel": 4, "patience": 30.0}
        networks = {"network": "10.1.0.0/24", "remote_network": "10.128.0.0/9"}
        ends = {"local": "192.0.2.1", "remote": "192.0.2.2", "identity": "b", "remote_identity": "a"}
        answering = Load(first, Plan(initiator=False, peers=1, **ends, **networks, **shared))
        ends = {"local": "192.0.2.2", "remote": "192.0.2.1", "identity": "a", "remote_identity": "b"}
        asking = Load(second, Plan(initiator=True, peers=20, **ends, **shared))
        answering.tell("up 60")  # those of the rekeys too
        assert asking.all("up 20", 20)["retransmissions"] == 0
        assert asking.all("rekey child", 20)["done"] == 20
        assert asking.all("rekey ike", 20)["done"] == 20
        asking.all("rekey child", 20)
        assert answering.hear()["done"] == 60
        asking.close()
        answering.close()
    finally:
        first.close()
        second.close()
