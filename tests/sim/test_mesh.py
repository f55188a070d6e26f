"""A mesh over links that lose a tenth: it converges without duplicates, and again when a third of it restarts.

Twelve gateways here; `make schedules` has fifty.
"""

from __future__ import annotations

from schedules.meshes import converge_twice
from schedules.schedule import Schedule
from simulation import Link


def test_a_mesh_converges_twice() -> None:
    mesh = converge_twice(Schedule("mesh", 12), 12, Link(loss=0.1, jitter=0.05, duplicate=0.02))
    assert all(len(g.established) == len(g.children) == 11 for g in mesh.gateways.values())
