"""The jobs of one endpoint: handlers that wait for work (`work`), one at most for each IKE SA."""

from __future__ import annotations

from collections.abc import Callable
from types import GeneratorType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from ipsecfast.ike.constants import NotifyError, TemporaryFailure
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.work import Errand, Steps, Work

if TYPE_CHECKING:
    from ipsecfast.ike.context import Context
    from ipsecfast.ike.sa import IkeSa

T = TypeVar("T")
Sent: TypeAlias = tuple[Any, float] | Exception | None  # into a generator: a result with its time, an error, the start


class Job:
    """A handler of `owner` under way. `then` takes its result, or the error that it raised, and says what came of it,
    which counts if a datagram was the cause."""

    __slots__ = ("number", "of_datagram", "of_stranger", "owner", "steps", "then")

    def __init__(
        self, owner: IkeSa, steps: Steps[Any], then: Callable[[Any, float], Outcome], *, of_datagram: bool
    ) -> None:
        self.owner = owner
        self.steps = steps
        self.then = then
        self.number = 0
        self.of_datagram = of_datagram
        self.of_stranger = owner.state is IkeState.CONNECTING and not owner.initiator


class Jobs:
    """`waiting` by number. An IKE SA that closes drops its own."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._last = 0
        self.waiting: dict[int, Job] = {}
        self.of_strangers = 0  # of them, those of half-open IKE SAs

    def run(
        self,
        owner: IkeSa,
        begin: Callable[[], T | Steps[T]],
        then: Callable[[T | NotifyError, float], Outcome],
        now: float,
        *,
        of_datagram: bool = True,
    ) -> Outcome:
        """`begin` a handler; `then` gets what it returns, or the NotifyError that it raises: at once, or later.

        What `then` says; DEFERRED if that is later, when `go_on` of the owner is called after it.
        """
        try:
            result = begin()
        except NotifyError as error:
            return then(error, now)
        if isinstance(result, GeneratorType):
            return self._drive(Job(owner, result, then, of_datagram=of_datagram), None, now)
        return then(result, now)  # type: ignore[arg-type]

    def _drive(self, job: Job, sent: Sent, now: float) -> Outcome:
        """On to the next work that can't be done at once, or to the end."""
        while True:
            try:
                errand = job.steps.throw(sent) if isinstance(sent, Exception) else job.steps.send(sent)  # type: ignore[arg-type]
            except StopIteration as stop:
                return job.then(stop.value, now)
            except NotifyError as error:
                return job.then(error, now)
            if not isinstance(errand, Work) or errand.seconds >= self._context.settings.offload_from:
                return self._wait(job, errand)
            try:
                sent = errand.call(), now
            except NotifyError as error:
                sent = error

    def _wait(self, job: Job, errand: Errand[Any]) -> Outcome:
        self._last += 1
        job.number = self._last
        job.owner.job = self.waiting[job.number] = job
        self.of_strangers += job.of_stranger
        self._context.emit(errand.action(job.number, urgent=not job.of_stranger))
        return Outcome.DEFERRED

    def _take(self, number: int) -> Job | None:
        job = self.waiting.pop(number, None)
        if job is not None:
            job.owner.job = None
            self.of_strangers -= job.of_stranger
        return job

    def resume(self, number: int, result: object, now: float) -> None:
        """What was waited for, or the exception that it raised. Without effect when the IKE SA is gone."""
        job = self._take(number)
        if job is None:
            return
        if isinstance(result, Exception) and not isinstance(result, NotifyError):
            result = TemporaryFailure(f"what it needs could not be computed: {result!r}")
        outcome = self._drive(job, result if isinstance(result, NotifyError) else (result, now), now)
        if job.number not in self.waiting:
            if job.of_datagram:
                self._context.settle(outcome)
            job.owner.go_on(now)

    def drop(self, owner: IkeSa) -> None:
        """Nothing waits for `owner` any more."""
        if owner.job is not None and (job := self._take(owner.job.number)) is not None:
            job.steps.close()
            if job.of_datagram:
                self._context.settle(Outcome.ABANDONED)
