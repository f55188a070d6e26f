"""Seeded schedules: families of scenarios, each a function of its seed, and the program that runs thousands of them.

    ci/schedules                                1,000 seeds of each family, over all cores
    ci/schedules --family F --seed N            one schedule again; what went over the links is printed in clear

A family ends with both sides at rest; the invariants of `simulation` are checked after every step and at the end.
"""

from schedules import (
    comebacks,
    disturbances,
    extensions,
    meshes,
    reauthentications,
    rekeys,
    resources,
    setups,
)  # each registers its families
from schedules.schedule import FAMILIES, Schedule, run_schedule

__all__ = [
    "FAMILIES",
    "Schedule",
    "comebacks",
    "disturbances",
    "extensions",
    "meshes",
    "reauthentications",
    "rekeys",
    "resources",
    "run_schedule",
    "setups",
]
