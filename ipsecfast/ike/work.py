"""How a handler waits for what takes long, without holding up any other IKE SA.

A handler of `TRANSITIONS`, and `request` and `response` of an `Exchange`, may be a generator. Where it needs something
expensive it yields a `Work`, and goes on, in the order of the RFC, when the result is there:

    (public, shared), now = yield from result_of(Work(partial(answer, ...), seconds))

`jobs` runs it. Cheap work is done at once. The rest leaves the core as an action and its result comes back by
`IkeEndpoint.handle_result`, later: time has passed, so there is a new `now`, and what was true of the IKE SA must be
looked at again, as far as timers, the operator and other IKE SAs can change it; its own messages wait meanwhile. An
error that the work raised is raised at the `yield`. When the IKE SA closes first, the generator is closed there
(GeneratorExit): give back what was reserved in `finally` or `except BaseException`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from ipsecfast.ike.actions import Action, Compute

T = TypeVar("T")


class Errand(ABC, Generic[T]):
    """What a handler can wait for: something that the shell does, known to it by the number of the job."""

    @abstractmethod
    def action(self, job: int, *, urgent: bool) -> Action:
        """What the shell is asked to do. `urgent`: for a peer that has shown who it is."""


@dataclass(frozen=True, slots=True)
class Work(Errand[T]):
    """A computation: `call` is a pure function of what it holds. `seconds`: what it takes of a CPU, about.

    `holds_interpreter`: `cryptography` keeps Python's lock meanwhile, so that a thread would be of no use; then `call`
    and its result can be pickled.
    """

    call: Callable[[], T] = field(repr=False)
    seconds: float
    holds_interpreter: bool = False

    def action(self, job: int, *, urgent: bool) -> Action:
        return Compute(job, self.call, urgent=urgent, holds_interpreter=self.holds_interpreter)


Steps: TypeAlias = Generator[Errand[Any], tuple[Any, float], T]


def result_of(errand: Errand[T]) -> Steps[tuple[T, float]]:
    """The result, and the time at which it is there."""
    result, now = yield errand
    return result, now
