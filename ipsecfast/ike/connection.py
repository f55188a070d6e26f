"""One configured connection at work: when it negotiates, how often it tries, which of two IKE SAs with a peer stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from operator import attrgetter
from typing import TypeAlias

from ipsecfast.configured import ChildConfig, ConnectionConfig
from ipsecfast.identity import Identity
from ipsecfast.ike import evidence, reauthentication
from ipsecfast.ike.actions import InstallTrap, Notify, ReleaseHeld
from ipsecfast.ike.child import ChildSa, OutboundState
from ipsecfast.ike.claims import Claims
from ipsecfast.ike.constants import NoProposalChosen
from ipsecfast.ike.context import INFO, WARNING, Context
from ipsecfast.ike.credential import pad
from ipsecfast.ike.diagnosis import Failure
from ipsecfast.ike.exchange.create_child_sa import CreateChild
from ipsecfast.ike.exchange.ike_sa_init import IkeSaInit
from ipsecfast.ike.exchange.ike_session_resume import IkeSessionResume
from ipsecfast.ike.extension import redirect, resumption
from ipsecfast.ike.extension.redirect import Redirection
from ipsecfast.ike.extension.resumption import Ticket
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.states import Cause, IkeState
from ipsecfast.ike.supersession import give_way
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.proposal import select
from ipsecfast.model import IKE_PORT, Acquire, IPAddress, Path, Proposal, StartAction

Wanted: TypeAlias = tuple[tuple[ChildConfig, Acquire | None], ...]


class Connection:
    """`waiting` are the children for whose sake the next attempt is made, each with the packet that asked for it."""

    def __init__(self, config: ConnectionConfig, context: Context) -> None:
        self.config = config
        self.context = context
        self.proposals = tuple(replace(p, number=n) for n, p in enumerate(config.proposals, 1))
        self.addresses = pad.peer_addresses(config)
        self.claims = Claims()
        self.redirection = Redirection()
        self.ticket: Ticket | None = None
        self.redirect_to = config.redirect_to
        self.waiting: dict[str, tuple[ChildConfig, Acquire | None]] = {}
        self._tries = 0
        self._last_restart = float("-inf")
        self._not_before: dict[str, float] = {}
        self._trapped: set[str] = set()  # children whose packets ask for an SA
        self.failures: dict[str, Failure] = {}  # the last one of each child, and of the IKE SA (""), until it is up

    # -- what there is ---------------------------------------------------------------------------------------------

    def ike_sas(self) -> Iterator[IkeSa]:
        """Oldest first, those that are closed left out."""
        return self.context.ike_sas.of(self)

    def usable(self) -> IkeSa | None:
        """The IKE SA on which a new Child SA is made: the latest."""
        return next((sa for sa in reversed(tuple(self.ike_sas())) if sa.usable), None)

    def connecting(self) -> IkeSa | None:
        return next((sa for sa in self.ike_sas() if sa.initiator and sa.state is IkeState.CONNECTING), None)

    def child(self, name: str) -> ChildConfig | None:
        return next((c for c in self.config.children if c.name == name), None)

    def reqid(self, child: str, peer: Identity | None) -> int:
        """One number a child; where a connection serves many peers, one for each of them."""
        many = self.addresses is None and peer is not None
        return self.context.reqids.get(self.config.name, child, str(peer) if many else "")

    def takes(self, proposal: Proposal) -> bool:
        """Whether the IKE proposal that was agreed on before the identities were known is one of this connection's."""
        try:
            select((proposal,), self.proposals)
        except NoProposalChosen:
            return False
        return True

    # -- what is wanted --------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Traps for `start_action` trap and start; the latter are negotiated at once."""
        for child in self.config.children:
            if child.start_action is not StartAction.NONE and self.addresses is not None:
                self._trap(child)
        for child in self.config.children:
            if child.start_action is StartAction.START:
                self.want(child, now)

    def want(self, child: ChildConfig, now: float, packet: Acquire | None = None) -> None:
        """Negotiate a Child SA unless there is one or it is on its way: on the IKE SA that stands, or on a new one."""
        if packet is not None and evidence.awaited(self.context, packet, now):
            return
        sa = self.usable() or self.connecting()
        if sa is not None:
            if not sa.has_child(child) and not sa.negotiates(child):
                sa.start(CreateChild(child, packet), now)
            return
        self.waiting[child.name] = (child, packet)
        if self.redirection.resolving:  # or the name of the gateway does not come in time
            self.context.timers.set(self, Timer.CONNECT, now + self.context.settings.reconnect[0])
        else:
            self._connect(now)

    def acquire(self, event: Acquire, child: ChildConfig, now: float) -> None:
        """The data plane holds a packet. Right after a failure it is let go instead. So is one of a child that is not
        made for its packets: it came between the end of an SA and that of its policies."""
        asks = child.name in self._trapped or self._expects(child)
        if not asks or now < self._not_before.get(child.name, now):
            self.context.emit(ReleaseHeld(event.reqid))
            return
        self.want(child, now, event)

    def _connect(self, now: float) -> None:
        """A new IKE SA; the first child goes into IKE_AUTH, the others follow."""
        self.context.timers.clear(self, Timer.CONNECT)
        wanted = tuple(self.waiting.values())
        self.waiting.clear()
        if self.addresses is None:
            self.note(
                "no-address", "can't be initiated: it needs an address in local_addrs and in remote_addrs", warning=True
            )
            self._release(wanted, now)
            return
        sent_on = self.redirection.take(self.config)
        local, remote = sent_on[0] if sent_on else self.addresses
        path = Path(local, IKE_PORT, remote, IKE_PORT)
        self.open(wanted, path, now, came_from=sent_on[1] if sent_on else None)

    def open(
        self,
        wanted: Wanted,
        path: Path,
        now: float,
        *,
        came_from: IPAddress | None = None,
        replaces: IkeSa | None = None,
    ) -> IkeSa:
        """A new IKE SA; the first child goes into IKE_AUTH, the others follow, then what it replaces is deleted."""
        sa = IkeSa(self.context, (self,), path, initiator=True, now=now)
        sa.manners.came_from = came_from
        sa.reauth.replaces, sa.origin.anew = replaces, replaces is not None
        self.context.ike_sas.add(sa)
        (first, packet), *rest = wanted
        ticket = None if replaces else resumption.usable_ticket(self)  # the peer is to prove itself
        sa.queue.append(IkeSessionResume(first, packet, ticket) if ticket else IkeSaInit(first, packet))
        sa.queue.extend(CreateChild(child, asked_by) for child, asked_by in rest)
        if replaces is not None:
            sa.queue.append(reauthentication.RetireOld(replaces))
        self.note("connecting", f"initiating to {path.remote} for {', '.join(c.name for c, _ in wanted)}")
        sa.advance(now)
        return sa

    def on_timer(self, timer: Timer, now: float) -> None:
        assert timer is Timer.CONNECT
        self.redirection.resolving = ""
        self.want_waiting(now)

    def want_waiting(self, now: float) -> None:
        waiting = tuple(self.waiting.values())
        self.waiting.clear()
        for child, packet in waiting:
            self.want(child, now, packet)

    def child_up(self, child: ChildSa) -> None:
        if self.addresses is None:  # with one peer, two children that overlap are the operator's wish
            self.claims.add(child)
        self._not_before.pop(child.config.name, None)
        for name in (child.config.name, ""):
            self.failures.pop(name, None)

    def child_failed(self, child: ChildConfig, now: float) -> None:
        """Refused for good: its packets are not held any longer, and the next ones don't ask at once."""
        self._release(((child, None),), now)

    def _release(self, children: Wanted, now: float) -> None:
        for child, packet in children:
            self._not_before[child.name] = now + self.context.settings.acquire_pause
            reqid = packet.reqid if packet else self.reqid(child.name, None)
            self.context.emit(ReleaseHeld(reqid))

    # -- what became of it -----------------------------------------------------------------------------------------

    def take_back(self, sa: IkeSa, cause: Cause, now: float) -> None:
        """An IKE SA ends: what it could not serve any more goes elsewhere, or nowhere. One that never stood is tried
        again, `keyingtries` times (0: forever)."""
        wanted, sa.unserved = tuple(sa.unserved), []
        if cause is Cause.REFUSED and not sa.initiator:
            reauthentication.restore(sa)
        if sa.established_at is None and sa.initiator and cause in (Cause.REFUSED, Cause.PEER_DEAD):
            if not reauthentication.failed(sa, now):
                self._attempt_failed(wanted, now)
        elif cause is Cause.DUPLICATE and sa.origin.anew and sa.origin.stands is None:
            return  # the peer's new IKE SA gets what the old one has; were we to ask too, there would be two of each
        elif cause in (Cause.DUPLICATE, Cause.REKEYED, Cause.PEER_RESTARTED, Cause.REDIRECTED):
            for child, packet in wanted:
                self.want(child, now, packet)
        else:
            self._release(wanted, now)

    def _attempt_failed(self, wanted: Wanted, now: float) -> None:
        redirect.stay(self)
        self._tries += 1
        limit = self.config.keyingtries
        if limit and self._tries >= limit:
            self.note("gave-up", f"not up after {self._tries} of {limit} tries", warning=True)
            self._tries = 0
            self._release(wanted, now)
            return
        first, longest = self.context.settings.reconnect
        pause = min(longest, first * 2 ** min(self._tries - 1, 16)) * self.context.between(0.75, 1.0)
        self.note("retrying", f"try {self._tries + 1}{f' of {limit}' if limit else ''} in {pause:.0f} s")
        self.waiting |= {child.name: (child, packet) for child, packet in wanted}
        self.context.timers.set(self, Timer.CONNECT, now + pause)

    def child_closed(self, child: ChildSa, cause: Cause, now: float) -> None:
        """`close_action`, `dpd_action`; a child with start_action = start that ran out is made anew."""
        config = child.config
        if child.resource or any(sa.has_child(config) for sa in self.ike_sas()):
            return
        match cause:
            case Cause.PEER_DELETED | Cause.PROTOCOL:
                action = config.close_action
            case Cause.PEER_DEAD:
                action = config.dpd_action
            case Cause.PEER_RESTARTED:
                action = StartAction.START  # it was up until now, and who restarted is there again
            case Cause.REDIRECTED if child.ike.leaving:
                action = StartAction.START  # it came about while we were already leaving
            case Cause.EXPIRED:
                action = config.start_action
            case _:
                action = StartAction.NONE
        if action is not StartAction.NONE and self.addresses is not None:
            self._trap(config)
        if action is StartAction.START:
            self._restart(config, now)

    def let_go(self, child: ChildSa) -> None:
        """It ended before it carried anything: what waited for it waits no longer, unless another one is on its way."""
        unused = child.outbound_state is OutboundState.REGISTERED and not child.resource
        if unused and not self._expects(child.config):
            self.context.emit(ReleaseHeld(child.reqid))

    def _expects(self, child: ChildConfig) -> bool:
        """There is an SA of it, or one is on its way."""
        return child.name in self.waiting or any(sa.has_child(child) or sa.negotiates(child) for sa in self.ike_sas())

    def _restart(self, child: ChildConfig, now: float) -> None:
        """Soon; and later if the last time was just now, so that two gateways that disagree don't spin."""
        pause = (
            self.context.settings.reconnect[0] if now - self._last_restart < self.context.settings.reconnect[0] else 0.0
        )
        if self.context.timers.deadline(self, Timer.CONNECT) is None:
            self._last_restart = now + pause
            self.context.timers.set(self, Timer.CONNECT, now + pause)
        self.waiting[child.name] = (child, None)

    def _trap(self, child: ChildConfig) -> None:
        self._trapped.add(child.name)
        self.context.emit(InstallTrap(self.config.name, child.name, self.reqid(child.name, None)))

    # -- one IKE SA a peer (s2.4: INITIAL_CONTACT; swanctl's `unique`) ------------------------------------------------

    def first_contact(self, sa: IkeSa) -> bool:
        """Whether to send INITIAL_CONTACT: what the peer still has of us is left over from before our restart. It goes
        by identities, so an IKE SA of another connection with the same two counts as well."""
        others = self.context.ike_sas.between(sa.local_id, sa.remote_id)
        return self.config.unique != "never" and not any(o is not sa and (o.usable or o.leaving) for o in others)

    def admits(self, sa: IkeSa) -> bool:
        """`unique = keep`: who is connected already is not let in a second time, unless it stands where it stood: that
        may be its reauthentication (s2.8.3)."""
        elsewhere = (o for o in self._standing(sa) if o.usable and o.path.remote != sa.path.remote)
        return self.config.unique != "keep" or not any(elsewhere)

    def already_up(self, sa: IkeSa) -> bool:
        """The peer got through while we asked: its IKE SA serves both."""
        replaced = reauthentication.standing(sa.reauth.replaces)
        expected = (sa.origin, replaced.origin if replaced else None)
        others = [o for o in self.ike_sas() if o.origin not in expected and o.closing is None and not o.leaving]
        since = any((o.origin.stands or 0) > sa.origin.begun for o in others)
        return self.config.unique != "never" and (since or any(o.usable for o in others))

    def established(self, sa: IkeSa, now: float, *, initial_contact: bool) -> None:
        """One of all IKE SAs between the two stays (`origin`). In whose place ours has come, `RetireOld` deletes."""
        self._tries = 0
        self.failures.pop("", None)
        redirect.arrived(self, now)
        origin, others = sa.origin, tuple(self._standing(sa))
        origin.came_up(sa.nonces, (other.origin for other in others), next(self.context.order))
        for other in filter(attrgetter("usable"), others):  # those that are not go already
            if initial_contact and (origin.comes_after(other.origin) or other.origin.void):
                other.close(Cause.DUPLICATE, now)  # s2.4: the peer has forgotten it, no DELETE
            elif not origin.prevails(other.origin):
                give_way(sa, other, now)
            elif not (sa.initiator and origin.comes_after(other.origin)):
                give_way(other, sa, now)

    def _standing(self, sa: IkeSa) -> Iterator[IkeSa]:
        """What else stands between the same two."""
        if self.config.unique == "never":
            return
        for other in self.context.ike_sas.between(sa.local_id, sa.remote_id):
            if other is not sa and other.connection is self and other.state is IkeState.ESTABLISHED:
                yield other

    # -- the operator ----------------------------------------------------------------------------------------------

    def terminate(self, child: str | None, now: float) -> int:
        """Close one child's SAs, or everything; how many SAs that were."""
        sas = tuple(self.ike_sas())
        self._stop_waiting([c for c, _ in self.waiting.values() if child in (None, c.name)], now)
        if child is not None:
            pairs = [(sa, c) for sa in sas for c in sa.children.values() if c.config.name == child and c.live]
            for sa, found in sorted(pairs, key=lambda pair: not pair[1].resource):  # the one for all workers at last
                sa.delete_child(found, Cause.OPERATOR, now)
            return len(pairs)
        self.context.timers.clear(self, Timer.CONNECT)
        for sa in sas:
            sa.delete(Cause.OPERATOR, now)
        return len(sas)

    def _stop_waiting(self, children: Iterable[ChildConfig], now: float) -> None:
        """Nobody negotiates for their packets any more, so these are held no longer."""
        self._release(tuple(self.waiting.pop(child.name) for child in children), now)

    def reauthenticate(self, now: float) -> int:
        """Authenticate the IKE SAs anew; how many that were."""
        return sum(reauthentication.begin(sa, now) for sa in tuple(self.ike_sas()) if sa.usable)

    def rekey(self, child: str | None, now: float) -> int:
        """Rekey one child's SAs, or the IKE SAs (child None); how many that were."""
        sas = [sa for sa in self.ike_sas() if sa.usable]
        if child is None:
            for sa in sas:
                sa.rekey(now)
            return len(sas)
        pairs = [(sa, c) for sa in sas for c in sa.children.values() if c.config.name == child and c.live]
        for sa, found in pairs:
            sa.rekey_child(found, now)
        return len(pairs)

    def note(self, event: str, message: str, *, warning: bool = False) -> None:
        name = self.config.name
        self.context.emit(Notify(event, f"{name}: {message}", WARNING if warning else INFO, name))
