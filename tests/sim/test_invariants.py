"""Whether the simulation would notice: the product is broken on purpose, one rule at a time, and a schedule says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from schedules import run_schedule

from ipsecfast.ike import connection, evidence
from ipsecfast.ike.actions import Action, InstallSa
from ipsecfast.ike.channel import Channel
from ipsecfast.ike.child import ChildTable, InboundSpis
from ipsecfast.ike.context import NONCE_LENGTH, Context
from ipsecfast.ike.exchange import create_child_sa
from ipsecfast.ike.exchange.informational import DeleteChild
from ipsecfast.ike.sa import IkeSa
from ipsecfast.ike.succession import await_delete

Break = Callable[[pytest.MonkeyPatch], None]
BREAKS: list[Any] = []
SEEDS = 20  # schedules in which it must show


def broken(says: str, *families: str) -> Callable[[Break], Break]:
    """`says`: what is told by a schedule of each of these families."""

    def register(function: Break) -> Break:
        BREAKS.extend(pytest.param(function, f, says, id=f"{function.__name__}-{f}") for f in families)
        return function

    return register


@broken("two messages have one IV", "set-up")
def iv_twice(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "_next_iv", lambda self, cipher: bytes(cipher.iv_length))


@broken("and it is another one", "set-up")
def repeated_otherwise(patch: pytest.MonkeyPatch) -> None:
    """s2.1: a request is sealed anew each time that it is sent."""

    def retransmit(self: Channel, now: float) -> bool:
        outstanding = self.window.outstanding
        if self.has_keys and outstanding is not None and outstanding.message_id > 1:
            exchange = outstanding.datagrams[0][18]
            outstanding.datagrams = self.encode(exchange, outstanding.message_id, (), response=False)
        return whole(self, now)

    whole = Channel.retransmit
    patch.setattr(Channel, "retransmit", retransmit)


@broken("and it is another one", "child-rekey")
def answered_otherwise(patch: pytest.MonkeyPatch) -> None:
    """s2.1: a request that comes again is answered anew."""

    def transmit(self: Channel, datagrams: tuple[bytes, ...], path: Any, now: float) -> None:
        if self.established_at is not None and datagrams is self.window.cached_response:  # type: ignore[attr-defined]
            number = self.window.expected_request - 1
            if datagrams is seen.get((self, number)):
                datagrams = self.encode(datagrams[0][18], number, (), response=True)
            else:
                seen[self, number] = datagrams
        whole(self, datagrams, path, now)

    whole, seen = Channel.transmit, dict[Any, Any]()
    patch.setattr(Channel, "transmit", transmit)


@broken("was used before", "child-rekey")
def nonce_twice(patch: pytest.MonkeyPatch) -> None:
    """s2.10; without a key exchange a Child SA's keys come from nonces alone (s2.17)."""
    patch.setattr(Context, "nonce", lambda _: bytes(NONCE_LENGTH))


@broken("after the answer that tells the peer of it", "set-up", "child-rekey")
def answered_before_it_is_installed(patch: pytest.MonkeyPatch) -> None:
    def drain(self: Context) -> list[Action]:
        return sorted(whole(self), key=lambda action: isinstance(action, InstallSa))

    whole = Context.drain
    patch.setattr(Context, "drain", drain)


@broken("installed nowhere", "follow-up-key-exchanges", "child-rekey")
def sends_before_the_peer_can_receive(patch: pytest.MonkeyPatch) -> None:
    """s2.8: the responder of a rekey does not wait for the initiator."""
    whole = ChildTable.install
    patch.setattr(ChildTable, "install", lambda self, child, *, activate: whole(self, child, activate=True))


@broken("is up and its selectors have no SA", "nat-rebinding")
def nobody_takes_over(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ChildTable, "_heir", lambda *_: None)


@broken("packets met no SA", "child-rekey")
def gone_before_what_is_on_its_way(patch: pytest.MonkeyPatch) -> None:
    """s2.8: the inbound half of a replaced SA goes with its DELETE."""
    whole = ChildTable.close
    patch.setattr(ChildTable, "close", lambda self, child, now, linger=0.0: whole(self, child, now))


@broken("a request is neither repeated nor given up", "set-up", "outage")
def sent_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Channel, "go_on_waiting", lambda *_: None)


@broken("waits for ever", "rekeys-and-deletes")
def never_tried_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(IkeSa, "retry_later", lambda self, exchange, now: self.delayed.append(exchange))


@broken("differ", "child-rekey")
def deleted_without_a_word(patch: pytest.MonkeyPatch) -> None:
    """s1.4.1: the peer keeps its half."""

    def request(self: DeleteChild, sa: IkeSa, now: float) -> None:
        sa.close_child(self.child, self.cause, now)

    patch.setattr(DeleteChild, "request", request)


@broken("twice", "set-up-with-extensions")
def two_of_each(patch: pytest.MonkeyPatch) -> None:
    """Both ends made a Child SA at once, and both stay."""
    patch.setattr(create_child_sa, "resolve_twins", lambda *_: None)


@broken("packets met no SA", "first-packets")
def sent_before_the_answer_has_come(patch: pytest.MonkeyPatch) -> None:
    """s2.8: the responder of IKE_AUTH does not wait for the initiator."""
    patch.setattr(evidence, "install_first", lambda sa, child, now: sa.install(child, activate=True))


@broken("nobody deleted", "simultaneous-set-up")
def two_ike_sas(patch: pytest.MonkeyPatch) -> None:
    """s2.8.1: the end that made the redundant one does not delete it."""
    patch.setattr(connection, "give_way", lambda loser, winner, now: await_delete(loser, now))


@broken("SPIs are not given back", "child-rekey")
def spis_run_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(InboundSpis, "release", lambda *_: None)


@broken("are held, and nobody negotiates", "outage")
def held_for_ever(patch: pytest.MonkeyPatch) -> None:
    """The operator ends what the packets wait for, and nobody lets them go."""
    patch.setattr(connection.Connection, "_release", lambda *_: None)


@pytest.mark.parametrize(("change", "family", "says"), BREAKS)
def test_it_is_noticed(change: Break, family: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch)
    with pytest.raises(AssertionError) as told:
        run_all(family)
    assert says in str(told.value).partition("\n")[0]


def run_all(family: str) -> None:
    for seed in range(SEEDS):
        run_schedule(family, seed)
