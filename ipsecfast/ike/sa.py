"""The IKE SA (RFC 7296 s1, s2): its states, its exchanges one at a time. What each state allows: `transitions`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from ipsecfast.configured import ChildConfig, Vendor
from ipsecfast.identity import Identity
from ipsecfast.ike import evidence, reauthentication
from ipsecfast.ike.actions import Details, Notify
from ipsecfast.ike.arrival import Arrived, is_fatal, role_of, tell_refusal
from ipsecfast.ike.channel import Channel
from ipsecfast.ike.child import ChildSa, ChildState, OutboundState
from ipsecfast.ike.constants import (
    IN_CLEAR,
    IntegrityError,
    NotifyError,
    NotifyType,
)
from ipsecfast.ike.context import INFO, WARNING, Context
from ipsecfast.ike.credential.wishes import Credentials
from ipsecfast.ike.crypto.primitives import Prf
from ipsecfast.ike.diagnosis import Failure, silence
from ipsecfast.ike.exchange import ike_auth, ike_intermediate, ike_sa_init, ike_session_resume
from ipsecfast.ike.exchange.base import Exchange, PeerError, Request, error_notify
from ipsecfast.ike.exchange.child_offer import child_text
from ipsecfast.ike.exchange.create_child_sa import CreateChild
from ipsecfast.ike.exchange.ike_followup_ke import Pending, drop_pending
from ipsecfast.ike.exchange.informational import DeleteChild, DeleteIke, Report
from ipsecfast.ike.exchange.rekey_child import RekeyChild
from ipsecfast.ike.exchange.rekey_ike import RekeyIke
from ipsecfast.ike.extension import auth_lifetime, resumption
from ipsecfast.ike.extension.auth_lifetime import Reauth
from ipsecfast.ike.extension.ppk import PpkState
from ipsecfast.ike.extension.redirect import Manners
from ipsecfast.ike.extension.resumption import SessionState
from ipsecfast.ike.jobs import Job
from ipsecfast.ike.origin import Origin
from ipsecfast.ike.outcome import Outcome
from ipsecfast.ike.states import Cause, IkeState, Role
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.transitions import OPENING, TRANSITIONS, Handler
from ipsecfast.ike.whereabouts import check_liveness, heard
from ipsecfast.ike.window import Arrival
from ipsecfast.ike.wire.message import Header, Message
from ipsecfast.ike.wire.mismatch import Mismatch
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload
from ipsecfast.ike.wire.proposal import proposal_text
from ipsecfast.model import Acquire, Path

if TYPE_CHECKING:
    from ipsecfast.ike.connection import Connection


RETRY_REFUSED = 4  # times the pause after TEMPORARY_FAILURE


class IkeSa(Channel):
    """One IKE SA. `candidates`: the connections it may belong to until the peer's identity decides (responder)."""

    def __init__(
        self, context: Context, candidates: Sequence[Connection], path: Path, *, initiator: bool, now: float
    ) -> None:
        super().__init__(context, path, initiator=initiator)
        self.candidates = tuple(candidates)
        self.connection = self.candidates[0]  # changed by `IkeSaTable.assign` alone
        self.vendor = Vendor.UNKNOWN  # as its vendor ID has it
        self.suspicion = ""  # why what came in answer to an unprotected request was passed over
        self.state = IkeState.CONNECTING
        self.own_spi = context.new_ike_spi()
        if initiator:
            self.spi_i = self.own_spi
        self.local_id: Identity | None = None
        self.remote_id: Identity | None = None
        self.nonces = (b"", b"")  # Ni, Nr of the exchange that made it
        self.manners = Manners()  # RFC 5685: who goes where the other end sends it
        self.session = SessionState()  # RFC 5723: tickets, and what was resumed
        self.leaving = False  # for another gateway, as soon as that one serves us
        self.peer_token = b""  # RFC 6290: what the peer would show if it lost this IKE SA
        self.credentials = Credentials()  # what the two ends ask of each other's, and found out about the peer's
        self.additional: tuple[int, ...] = ()  # RFC 9370: the key exchanges that the peer still has to begin
        self.pending: Pending | None = None  # RFC 9370: the peer's CREATE_CHILD_SA that waits for more key exchanges
        self.quantum_resistant = False  # ML-KEM or a PPK went into its keys, or into its predecessor's SK_d
        self.ppk = PpkState()
        self.reauth = Reauth()
        self.childless = False  # RFC 6023: IKE_AUTH makes no Child SA
        self.children: dict[int, ChildSa] = {}
        self.unproved: list[ChildSa] = []  # made by the peer, which may not have our response yet
        self.queue: deque[Exchange] = deque()
        self.delayed: list[Exchange] = []
        self.current: Exchange | None = None
        self.unserved: list[tuple[ChildConfig, Acquire | None]] = []  # wanted of it, and not to be had any more
        self.closing: Cause | None = None
        self.origin = Origin(began=initiator, begun=next(context.order))  # by rekey: the predecessor's
        self.predecessor: IkeSa | None = None  # until nothing is left of it
        self.heir: IkeSa | None = None  # it has the Child SAs
        self.peer_successor: IkeSa | None = None  # s2.8.2: what the peer's rekey made of this one
        self.redundant = False
        self.created_at = self.last_heard = now
        self.established_at: float | None = None
        self.answering = False  # a request of the peer: what we begin meanwhile leaves after the response
        self.job: Job | None = None  # a handler waits for work; other messages wait for it
        self.held: Arrived | None = None
        self.rekey_at: float | None = None
        self.expires_at: float | None = None

    # -- messages in -----------------------------------------------------------------------------------------------

    def handle(self, header: Header, data: bytes, path: Path, now: float) -> Outcome:
        """One datagram for this IKE SA: the window, the table, the cipher, the handler, in this order."""
        if self.window.classify(header.is_response, header.message_id, data) is Arrival.DUPLICATE_REQUEST:
            assert self.window.cached_response is not None
            self.transmit(self.window.cached_response, path, now)
            return Outcome.DUPLICATE
        if (refusal := self._refusal(header, data)) is not None:
            return refusal
        opened = self._open(header, data)
        if isinstance(opened, Outcome):
            return opened
        arrived = Arrived(header, *opened, path)
        return self._take(arrived, now) if self.job is None else self._hold(arrived)

    def _refusal(self, header: Header, data: bytes) -> Outcome | None:
        """Why a datagram is not even opened."""
        if self.window.classify(header.is_response, header.message_id, data) is Arrival.OUT_OF_WINDOW:
            return Outcome.OUT_OF_WINDOW
        role = role_of(header)
        if (self.state, header.exchange, role) not in TRANSITIONS or not self._fits(header, role):
            return Outcome.REFUSED
        if self.answering and role is Role.RESPONDER:  # s2.1: it comes again while we still work on the answer
            return Outcome.DUPLICATE
        return None

    def _take(self, arrived: Arrived, now: float) -> Outcome:
        role = role_of(arrived.header)
        handler = TRANSITIONS[self.state, arrived.header.exchange, role]
        if role is Role.RESPONDER:
            heard(self, arrived.path, now)
            evidence.request_came(self, arrived.message, now)
            return self.answer(handler, arrived.message, arrived.header, arrived.datagram, arrived.path, now)
        return self._on_response(handler, arrived, now)

    def _hold(self, arrived: Arrived) -> Outcome:
        """Until the work that another message waits for is done. One is enough: each end has one request under way."""
        if self.held is not None:
            return Outcome.BUSY
        self.held = arrived
        return Outcome.DEFERRED

    def go_on(self, now: float) -> None:
        """The work that was waited for is done, and what it was for."""
        held = self.held
        if held is not None and self.job is None:
            self.held = None
            self.context.settle(self._refusal(held.header, held.datagram) or self._take(held, now))
        self.advance(now)

    def _fits(self, header: Header, role: Role) -> bool:
        """The initiator flag, who may begin an IKE SA, and that the response is one to the request that we sent."""
        same_spis = header.spi_i == self.spi_i and header.spi_r == self.spi_r
        if header.from_initiator == self.initiator or not (same_spis or header.exchange in IN_CLEAR):
            return False
        if header.exchange in OPENING and (role is Role.INITIATOR) != self.initiator:
            return False
        if role is Role.INITIATOR and (self.current is None or self.current.type != header.exchange):
            return False
        return header.exchange in IN_CLEAR or self.has_keys

    def _open(self, header: Header, data: bytes) -> tuple[Message | NotifyError, bytes] | Outcome:
        """An authentic message, or what is wrong with an authentic one, which is answered too (s2.21.3)."""
        try:
            return self.open(header, data) or Outcome.FRAGMENT
        except IntegrityError:
            return Outcome.INTEGRITY
        except NotifyError as error:
            return error, data

    def answer(
        self, handler: Handler, message: Message | NotifyError, header: Header, data: bytes, path: Path, now: float
    ) -> Outcome:
        """Exactly one response to a request, whatever comes of it; all actions of the handler stand before it."""
        respond = partial(self._respond, header, data, path)
        if isinstance(message, NotifyError):
            return respond(message, now)
        self.answering = True
        return self.context.jobs.run(self, lambda: handler(self, message, now), respond, now)

    def _respond(
        self, header: Header, data: bytes, path: Path, answer: Sequence[Payload] | NotifyError, now: float
    ) -> Outcome:
        self.answering = False
        failure = answer if isinstance(answer, NotifyError) else None
        if isinstance(answer, NotifyError):
            tell_refusal(self, header.exchange, answer, now)
            answer = (error_notify(answer),)
        response = self.encode(header.exchange, header.message_id, answer, response=True)
        if header.exchange in IN_CLEAR:
            self.init_received, (self.init_sent,) = data, response
        self.window.answered(data, response)
        self.transmit(response, path, now)
        if header.exchange in IN_CLEAR and (failure is not None or not self.has_keys):
            self._never_was()
        elif failure is not None and is_fatal(self.state, failure):
            self.close(Cause.PROTOCOL if self.state is not IkeState.CONNECTING else Cause.REFUSED, now)
        self.advance(now)
        return Outcome.PROCESSED if failure is None else Outcome.ANSWERED_ERROR

    def _never_was(self) -> None:
        """s2.21.1: IKE_SA_INIT was refused, or a ticket, and nothing of the IKE SA remains."""
        self.state = IkeState.CLOSED
        self.context.half_open.discard(self)
        self.context.timers.clear_all(self)
        self.context.forget(self)

    def _on_response(self, handler: Handler, arrived: Arrived, now: float) -> Outcome:
        exchange, message = self.current, arrived.message
        assert exchange is not None
        if arrived.header.exchange not in IN_CLEAR:
            heard(self, arrived.path, now)
            self.request_concluded()
            evidence.response_came(self, now)
        else:
            self.init_received = arrived.datagram
        conclude = partial(self._conclude, exchange, message)
        if isinstance(message, NotifyError):
            return conclude(message, now)
        return self.context.jobs.run(self, lambda: handler(self, message, now), conclude, now)

    def _conclude(
        self, exchange: Exchange, message: Message | NotifyError, result: object | NotifyError, now: float
    ) -> Outcome:
        """The response is taken, or of no use."""
        if isinstance(result, NotifyError):
            exchange.failed(self, result, now)
            broken = isinstance(message, NotifyError) or getattr(result, "code", None) == NotifyType.INVALID_SYNTAX
            if broken and self.state is IkeState.ESTABLISHED:  # s2.21.3: the two ends no longer agree on anything
                self.close(Cause.PROTOCOL, now)
        if self.window.outstanding is None and self.current is exchange:
            self.current = None
        self.advance(now)
        return Outcome.FAILED_RESPONSE if isinstance(result, NotifyError) else Outcome.PROCESSED

    # -- requests out ----------------------------------------------------------------------------------------------

    def start(self, exchange: Exchange, now: float, *, first: bool = False) -> None:
        """Begin an exchange as soon as the window lets it."""
        if first:
            self.queue.appendleft(exchange)
        else:
            self.queue.append(exchange)
        self.advance(now)

    def advance(self, now: float) -> None:
        """Send the next request, if none is outstanding."""
        while self.queue and self.current is None and not self.answering:
            exchange = self.queue[0]
            if self.state not in exchange.states:
                if self.state is IkeState.CONNECTING:
                    return
                self.queue.popleft().abandoned(self, now)
                continue
            self.current = self.queue.popleft()
            begin, send = partial(exchange.request, self, now), partial(self._send, exchange)
            self.context.jobs.run(self, begin, send, now, of_datagram=False)

    def _send(self, exchange: Exchange, payloads: Request | NotifyError, now: float) -> Outcome:
        """Unless the IKE SA was closed, or what was wanted is no longer needed."""
        if self.current is not exchange:
            return Outcome.ABANDONED
        if payloads is None or isinstance(payloads, NotifyError):
            self.current = None
        if isinstance(payloads, NotifyError):
            exchange.failed(self, payloads, now)
        elif payloads is not None:
            self.send_request(exchange.type, payloads, now)
        return Outcome.PROCESSED

    def restart(self, exchange: Exchange) -> None:
        """The same request in another shape, with the same message ID (exchanges in clear only)."""
        self.request_withdrawn()
        self.queue.appendleft(exchange)

    def _give_up(self, now: float) -> None:
        """s2.4: a request without an answer after all tries means that the IKE SA is gone."""
        assert self.current is not None
        self.report("peer-dead", *self._silence(self.current), now)
        rekeyed = self.state is IkeState.REKEYED or self._deletes_for(Cause.REKEYED)
        self.close(Cause.REKEYED if rekeyed else self.closing or Cause.PEER_DEAD, now)

    def _silence(self, exchange: Exchange) -> tuple[str, Mismatch | None]:
        outstanding = self.window.outstanding
        assert outstanding is not None
        text = f"no answer to {exchange.type.name} sent {outstanding.sendings} times to {self.path}"
        if self.state is not IkeState.CONNECTING:
            return text, None
        largest = max(map(len, outstanding.datagrams))
        return silence(text, self.path, answered=self.has_keys, largest=largest, hint=self.suspicion)

    def _deletes_for(self, cause: Cause) -> bool:
        return isinstance(self.current, DeleteIke) and self.current.cause is cause

    def on_timer(self, timer: Timer, now: float) -> None:
        match timer:
            case Timer.RETRANSMIT:
                if not self.retransmit(now):
                    self._give_up(now)
            case Timer.HALF_OPEN:
                self.context.counters["half-open expired"] += 1
                self.close(Cause.REFUSED, now)
            case Timer.REKEY:
                self.rekey(now)
            case Timer.REAUTH:
                reauthentication.begin(self, now)
            case Timer.EXPIRE:
                self._expire(now)
            case Timer.LIVENESS:
                check_liveness(self, now)
            case Timer.KEEPALIVE:
                self.keep_mapping(now)
            case Timer.FOLLOW_UP:
                drop_pending(self)
            case Timer.LEAVE:
                self.delete(Cause.REDIRECTED, now)
            case Timer.RETRY:
                delayed, self.delayed = self.delayed, []
                for exchange in delayed:
                    self.start(exchange, now)
            case Timer.LINGER:
                self.context.forget(self)
            case _:
                raise AssertionError(f"an IKE SA has no timer {timer}")

    # -- setting up ------------------------------------------------------------------------------------------------

    def proceed(self, exchange: Exchange, now: float) -> None:
        """The next step to IKE_AUTH goes before everything that waits; unless the peer has got through already."""
        self.queue.appendleft(exchange)
        if self.connection.already_up(self):
            self.close(Cause.DUPLICATE, now)

    def establish(self, now: float, *, initial_contact: bool = False) -> None:
        self.state = IkeState.ESTABLISHED
        self.established_at = now
        self.context.ike_sas.identify(self)
        self.context.timers.clear(self, Timer.HALF_OPEN)
        self.context.half_open.discard(self)
        self.arm(now)
        role = ("initiator" if self.initiator else "responder") + (", resumed," if self.session.resumed else "")
        self.note("ike-up", f"established as {role} with {self.remote_id} over {self.path}, {self.proposal_words}")
        if self.closing is None:
            self.connection.established(self, now, initial_contact=initial_contact)
        else:
            self.start(DeleteIke(self.closing), now, first=True)

    def arm(self, now: float) -> None:
        """Lifetimes with jitter (s2.8), liveness (s2.4), NAT keepalives."""
        timers, lifetime = self.context.timers, self.connection.config.lifetime
        if lifetime.rekey_time:
            self.rekey_at = now + max(0.0, lifetime.rekey_time - lifetime.rand_time * self.context.fraction())
            timers.set(self, Timer.REKEY, self.rekey_at)
        if lifetime.life_time:
            self.expires_at = now + lifetime.life_time
            timers.set(self, Timer.EXPIRE, self.expires_at)
        if self.connection.config.dpd_delay:
            timers.set(self, Timer.LIVENESS, now + self.connection.config.dpd_delay)
        if self.local_nat:
            timers.set(self, Timer.KEEPALIVE, now + self.context.settings.keepalive)

        auth_lifetime.arm(self, now)

    def fail(self, now: float, text: str, mismatch: Mismatch | None = None) -> None:
        """The IKE SA can't be set up; `text` says why."""
        self.report("ike-failed", text, mismatch, now)
        self.close(Cause.REFUSED, now)

    def authentication_failed(self, error: NotifyError, now: float, detail: str = "") -> None:
        """s2.21.2: the responder that we refuse has an IKE SA already and must hear that it has not."""
        self.report("auth-failed", f"not established: {error}{detail}", error.mismatch, now)
        if isinstance(error, PeerError):
            self.close(Cause.REFUSED, now)
            return
        self.closing = self.closing or Cause.REFUSED
        self.state = IkeState.DELETING
        self.start(Report(NotifyPayload(NotifyType.AUTHENTICATION_FAILED), fatal=True), now)

    # -- Child SAs -------------------------------------------------------------------------------------------------

    def install(self, child: ChildSa, *, activate: bool, replaces: ChildSa | None = None) -> None:
        """Into the data plane, and into the log: as a new one, or as the successor of `replaces`."""
        self.context.children.install(child, activate=activate and not reauthentication.has_moved(self, child))
        self.connection.child_up(child)
        text = f"{child.config.name}: {child_text(child)}"
        if replaces is None:
            self.note("child-up", text, child=child)
        else:
            who = "we" if child.initiator else "the peer"
            self.note("child-rekeyed", f"{text}, by which {who} replaced {replaces.spi_in:08x}", child=child)

    def activate_first(self, child: ChildSa, now: float) -> None:
        """The initiator has had its time; but if another one carries our packets now, there is no haste."""
        if self.context.children.carrier(child) is not None and child not in self.unproved:
            evidence.await_proof(self, child, now)
        else:
            self.first_inbound(child, now)

    def first_inbound(self, child: ChildSa, now: float) -> None:
        """s2.8: the peer sends on the new SA, so it takes packets on it too."""
        if child in self.unproved:
            self.unproved.remove(child)
        if child.live and child.outbound_state is OutboundState.REGISTERED:
            self.context.timers.clear(child, Timer.ACTIVATE)
            if not reauthentication.has_moved(self, child):
                self.context.children.activate(child)
                self.unserved = [wanted for wanted in self.unserved if wanted[0] is not child.config]
        if child.twin is not None:
            self.delete_child(child.twin, Cause.DUPLICATE, now)

    def child_by_outbound(self, spi: int) -> ChildSa | None:
        """Also of the predecessor's, when the peer has handed them over already and we still wait (s2.8.2)."""
        before = self.predecessor.children if self.predecessor and self.rekey_unsettled else {}
        return next((c for c in (*self.children.values(), *before.values()) if c.spi_out == spi), None)

    def has_child(self, config: ChildConfig) -> bool:
        return any(c.config is config and c.live and not c.resource for c in self.children.values())

    def negotiates(self, config: ChildConfig) -> bool:
        """A new Child SA of this configuration is on its way."""
        waiting = (*self.queue, *self.delayed, *((self.current,) if self.current else ()))
        opening = (ike_sa_init.IkeSaInit, ike_session_resume.IkeSessionResume, ike_intermediate.IkeIntermediate)
        kinds = (CreateChild, ike_auth.Authentication, *opening)
        return any(isinstance(e, kinds) and e.child is config for e in waiting)

    def child_refused(self, config: ChildConfig, text: str, now: float, mismatch: Mismatch | None = None) -> None:
        self.report("child-failed", f"{config.name}: no Child SA: {text}", mismatch, now, child=config.name)
        self.connection.child_failed(config, now)

    def peer_child_refused(self, error: NotifyError, now: float) -> None:
        text = f"the peer's Child SA is refused with {error.notify_type.name}: {error}"
        self.report("child-refused", text, error.mismatch, now)

    def rekey_child(self, child: ChildSa, now: float) -> None:
        """Unless that is under way, or somebody has done it."""
        queued = any(isinstance(e, RekeyChild) and e.old is child for e in self.queue)
        if child.state is ChildState.INSTALLED and not queued:
            self.start(RekeyChild(child), now)

    def retry_rekey(self, child: ChildSa, now: float, *, soon: bool) -> None:
        """`soon` after TEMPORARY_FAILURE; what was refused for good is asked for now and then, until the hard limit."""
        pause = self._retry_pause() * (1 if soon else RETRY_REFUSED)
        self.context.timers.set(child, Timer.RETRY, now + pause)

    def retry_later(self, exchange: Exchange, now: float) -> None:
        self.delayed.append(exchange)
        self.context.timers.set(self, Timer.RETRY, now + self._retry_pause())

    def _retry_pause(self) -> float:
        return self.context.between(*self.context.settings.retry)

    def expire_child(self, child: ChildSa, now: float) -> None:
        self.note("child-expired", f"{child.config.name}: the hard lifetime is over", warning=True, child=child)
        self.delete_child(child, Cause.EXPIRED, now)

    def delete_child(self, child: ChildSa, cause: Cause, now: float) -> None:
        if cause in (Cause.OPERATOR, Cause.DUPLICATE):
            child.unwanted = cause
        deleting = (e.child for e in (self.current, *self.queue) if isinstance(e, DeleteChild))
        if child.state is not ChildState.CLOSED and child not in deleting:
            self.start(DeleteChild(child, cause), now)

    def close_child(self, child: ChildSa, cause: Cause, now: float) -> None:
        """Its DELETE is done, or it went with the IKE SA."""
        child.ike.children.pop(child.spi_in, None)
        self.connection.claims.discard(child)
        self.context.children.close(child, now, linger=self.context.settings.child_linger)
        if cause not in (Cause.REKEYED, Cause.DUPLICATE):
            self.note("child-down", f"{child.config.name}: closed, {cause.value}", child=child)
            self.connection.child_closed(child, cause, now)
        self.connection.let_go(child)

    def lost_child(self, child: ChildSa, now: float) -> None:
        """s2.25.1: the peer does not know it: away with it without a DELETE, and a new one from scratch."""
        self.note(
            "child-lost",
            f"{child.config.name}: the peer lost {child.spi_out:08x}, starting anew",
            warning=True,
            child=child,
        )
        self.close_child(child, child.unwanted or Cause.DUPLICATE, now)
        if not child.unwanted:
            self.start(CreateChild(child.config), now)

    # -- rekeying the IKE SA ---------------------------------------------------------------------------------------

    def rekey(self, now: float) -> None:
        busy = any(isinstance(e, RekeyIke) for e in (self.current, *self.queue))
        if self.usable and not busy and self.pending is None:
            self.start(RekeyIke(), now)
        elif self.rekey_unsettled or self.pending is not None:
            self.context.timers.set(self, Timer.REKEY, now + self._retry_pause())

    def rekey_failed(self, error: NotifyError, now: float) -> None:
        text = f"the IKE SA was not rekeyed, tried again in a moment: {error}"
        self.report("rekey-failed", text, error.mismatch, now)
        self.context.timers.set(self, Timer.REKEY, now + self._retry_pause())

    @property
    def sk_d_resistant(self) -> bool:
        """What is derived from it stays secret. With a PPK of RFC 8784 that is more than the IKE SA itself is."""
        return self.quantum_resistant or self.ppk.key is not None

    @property
    def begins_rekey(self) -> bool:
        """Our own rekey of it is under way."""
        return isinstance(self.current, RekeyIke)

    @property
    def rekey_unsettled(self) -> bool:
        """A successor to which the Child SAs may still come, once the nonces of both rekeys are known."""
        return self.predecessor is not None and self.predecessor.state is IkeState.ESTABLISHED

    # -- the end ---------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        return self.state is IkeState.CLOSED

    @property
    def usable(self) -> bool:
        """New Child SAs may be made on it."""
        settled = not (self.redundant or self.rekey_unsettled or self.leaving)
        return self.state is IkeState.ESTABLISHED and self.closing is None and settled

    def delete(self, cause: Cause, now: float) -> None:
        """Tell the peer (s1.4.1); what waits is dropped. An IKE SA that isn't established goes without a word, unless
        the peer may have it so already: then its answer is waited for."""
        if self.closed or self.closing is not None:
            self.closing = cause if cause is Cause.OPERATOR else self.closing  # then nothing comes after it
            return
        authenticating = isinstance(self.current, ike_auth.IkeAuth) and self.window.outstanding is not None
        if self.state is IkeState.CONNECTING and not authenticating:
            self.close(cause, now)
            return
        self.closing = cause
        self._abandon_waiting(now)
        self.connection.take_back(self, cause, now)
        if self.state is not IkeState.CONNECTING:
            self.start(DeleteIke(cause), now)

    def _abandon_waiting(self, now: float) -> None:
        waiting = (*self.queue, *self.delayed)
        self.queue.clear()
        self.delayed.clear()
        for exchange in waiting:
            exchange.abandoned(self, now)

    def close(self, cause: Cause, now: float) -> None:
        """Nothing of it works any more. It stays a while to answer a repeated last request, a DELETE mostly (s2.1)."""
        if self.closed:
            return
        cause = Cause.OPERATOR if self.closing is Cause.OPERATOR else cause  # whatever else came in between
        was, self.state = self.state, IkeState.CLOSED
        self._drop_work()
        self.context.half_open.discard(self)
        self.context.ike_sas.close(self)
        drop_pending(self)
        self.context.timers.clear_all(self)
        self.window.outstanding = None
        if self.current is not None:
            self.current.abandoned(self, now)
            self.current = None
        self._abandon_waiting(now)
        if was is not IkeState.CONNECTING and cause is not Cause.REKEYED:
            self.note("ike-down", f"closed, {cause.value}")
        children = tuple(self.children.values())
        for child in children:
            child.state = ChildState.DELETING  # so that none of them takes over the traffic of another
        for child in children:
            self.close_child(child, cause, now)
        resumption.ended(self, cause)
        self.connection.take_back(self, cause, now)
        self.context.timers.set(self, Timer.LINGER, now + self.context.settings.half_open_timeout)

    def _drop_work(self) -> None:
        if self.job is not None:
            self.context.jobs.drop(self)
            self.answering = False
        if self.held is not None:
            self.held = None
            self.context.settle(Outcome.ABANDONED)

    def _expire(self, now: float) -> None:
        if self.reauth.superseded_at is not None and self.state is IkeState.ESTABLISHED:
            reauthentication.expire_superseded(self, now)
            return
        if self.state is IkeState.REKEYED or self.redundant:  # its DELETE never came
            self.close(Cause.REKEYED, now)
            return
        self.note("ike-expired", "the hard lifetime is over", warning=True)
        self.delete(Cause.EXPIRED, now)

    # -- words -----------------------------------------------------------------------------------------------------

    @property
    def prf(self) -> Prf:
        return self.suite.prf

    @property
    def proposal_words(self) -> str:
        return proposal_text(self.suite.proposal) if self.has_keys else ""

    def report(
        self, event: str, text: str, mismatch: Mismatch | None, now: float, *, child: ChildSa | str = ""
    ) -> None:
        """A failure: into the log with what would be right, and kept for `status`."""
        name = child if isinstance(child, str) else child.config.name
        message = self.record(event, text, now, mismatch, child=name)
        details = self.connection.failures[name].details
        self.note(event, message, warning=True, child=child, details=details)

    def record(self, event: str, text: str, now: float, mismatch: Mismatch | None, *, child: str = "") -> str:
        """What `status` will show of it; the whole sentence."""
        vendor = self.connection.config.vendor
        failure = Failure.of(event, text, now, mismatch, self.vendor if vendor is Vendor.UNKNOWN else vendor, child)
        self.connection.failures[child] = failure
        return failure.message

    def note(
        self, event: str, message: str, *, warning: bool = False, child: ChildSa | str = "", details: Details = ()
    ) -> None:
        """Something for the log about this IKE SA."""
        name = child if isinstance(child, str) else child.config.name
        level = WARNING if warning else INFO
        details = (("ike_spi", self.own_spi.hex()), ("peer", str(self.remote_id or self.path.remote)), *details)
        self.context.emit(
            Notify(event, f"{self}: {message}", level, self.connection.config.name, name, details=details)
        )

    def __str__(self) -> str:
        return f"{self.connection.config.name}[{self.own_spi.hex()[:8]}]"
