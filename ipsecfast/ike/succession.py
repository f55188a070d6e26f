"""From an IKE SA to the one that replaces it (RFC 7296 s2.8): Child SAs, and whatever waits, go over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ipsecfast.ike.crypto.keymat import IkeKeys
from ipsecfast.ike.crypto.suite import Suite
from ipsecfast.ike.exchange import recheck
from ipsecfast.ike.exchange.ike_followup_ke import drop_pending
from ipsecfast.ike.extension import redirect, resumption
from ipsecfast.ike.states import IkeState
from ipsecfast.ike.supersession import supersede
from ipsecfast.ike.timers import Timer
from ipsecfast.ike.wire.proposal import has_ml_kem

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa


def spawn(
    old: IkeSa,
    suite: Suite,
    keys: IkeKeys,
    nonces: tuple[bytes, bytes],
    spis: tuple[bytes, bytes],
    *,
    initiator: bool,
    now: float,
) -> IkeSa:
    """The successor (s2.18): established, without Child SAs until `hand_over`."""
    new = type(old)(old.context, (old.connection,), old.path, initiator=initiator, now=now)
    new.own_spi = spis[0] if initiator else spis[1]
    new.spi_i, new.spi_r = spis
    new.nonces = nonces
    new.local_id, new.remote_id, new.credentials = old.local_id, old.remote_id, old.credentials
    new.local_nat, new.remote_nat, new.udp_encap = old.local_nat, old.remote_nat, old.udp_encap
    new.fragments_in, new.fragments_out = old.fragments_in, old.fragments_out
    new.origin, new.predecessor, new.manners = old.origin, old, old.manners
    resumption.inherit(old, new)
    new.quantum_resistant = old.sk_d_resistant or has_ml_kem(suite.proposal)  # SK_d goes into its keys
    new.ppk = old.ppk
    new.state = IkeState.ESTABLISHED
    new.established_at = now
    new.install_keys(suite, keys)
    old.context.ike_sas.add(new)
    old.context.ike_sas.identify(new)
    new.arm(now)
    return new


def hand_over(old: IkeSa, new: IkeSa, now: float) -> None:
    """s2.8: the Child SAs and all that waits go to the successor; the old one only waits for its DELETE."""
    for child in old.children.values():
        child.ike = new
    new.children |= old.children
    old.heir = new
    old.children = {}
    new.unproved, old.unproved = old.unproved, []
    moving = [e for e in (*old.queue, *old.delayed) if e.moves]
    old.queue.clear()
    old.delayed.clear()
    old.state = IkeState.REKEYED
    drop_pending(old)
    redirect.hand_over(old, new)
    old.context.timers.clear_all(old)
    old.go_on_waiting(now)
    old.context.timers.set(old, Timer.EXPIRE, now + old.context.settings.retransmit.total)
    if old.reauth.superseded_by is not None:  # s2.8.3: so is what the rekey made of it
        supersede(new, old.reauth.superseded_by, now)
    new.note("ike-rekeyed", f"took the place of {old}")
    resumption.renew(new, now)
    recheck.after_rekey(new, now)
    if old.closing is not None:
        new.delete(old.closing, now)
    for exchange in moving:
        new.start(exchange, now)


def settle_rekey(sa: IkeSa, now: float) -> None:
    """The peer's successor stands and ours does not: it gets the Child SAs."""
    theirs = sa.peer_successor
    if theirs is not None and sa.state is IkeState.ESTABLISHED and theirs.state is IkeState.ESTABLISHED:
        hand_over(sa, theirs, now)


def await_delete(sa: IkeSa, now: float) -> None:
    """The peer made it, another one is used, and the peer deletes it; should that not come, it goes by itself."""
    sa.redundant = True
    sa.context.timers.set(sa, Timer.EXPIRE, now + sa.context.settings.retransmit.total)


def retire_redundant(sa: IkeSa, now: float) -> None:
    """s2.8.2: of two successors the one that does not stay."""
    sa.redundant = True
    sa.context.timers.clear_all(sa)
    if sa.state is not IkeState.CLOSED:
        sa.go_on_waiting(now)
        await_delete(sa, now)
    else:
        sa.context.timers.set(sa, Timer.LINGER, now + sa.context.settings.half_open_timeout)
