"""A peer that is who it should be and takes more than it needs: what is kept for it has an end."""

from __future__ import annotations

from dataclasses import replace

from simulation import Pair, child, connection, run_quiet, selector

from ipsecfast.ike.constants import ExchangeType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.exchange.child_exchange import MAX_DELETED
from ipsecfast.ike.exchange.create_child_sa import CreateChild


def test_child_sas_have_an_end() -> None:
    """s1.3: NO_ADDITIONAL_SAS; the IKE SA and the others stay."""
    many = tuple(child(f"net{n}", "a") for n in range(6))
    one = child("all", "b", local_ts=(selector("10.2.0.0/16"),), remote_ts=(selector("10.1.0.0/16"),))
    pair = Pair(
        connection("a", children=many),
        connection("b", children=(one,)),
        settings_b=replace(Settings(), children_limit=4),
    )
    pair.a.initiate(None)
    pair.run(2.0)
    assert pair.exchange().count("<-- b CREATE_CHILD_SA {N(NO_ADDITIONAL_SAS)}") == 2
    pair.check_converged(children=4)
    pair.a.terminate("net0")
    pair.run(5.0)
    pair.a.initiate("net5")
    run_quiet(pair)
    pair.check_converged(children=4)


def test_what_is_configured_is_always_allowed() -> None:
    many = {me: tuple(child(f"net{n}", me) for n in range(6)) for me in "ab"}
    pair = Pair(
        connection("a", children=many["a"]),
        connection("b", children=many["b"]),
        settings_b=replace(Settings(), children_limit=1),
    )
    pair.a.initiate(None)
    pair.run(2.0)
    for n in range(6):
        pair.a.rekey(f"net{n}")
    run_quiet(pair)
    pair.check_converged(children=6)


def test_the_next_rekey_of_the_ike_sa_waits_until_the_old_one_is_deleted() -> None:
    """Else who rekeys without end and deletes nothing would have as many IKE SAs here as it likes."""
    pair = Pair().up()
    pair.link.drop = lambda sender, message: sender == "a" and message.exchange == ExchangeType.INFORMATIONAL
    pair.a.rekey(None)
    pair.run(1.0)
    mark = pair.mark()
    pair.a.rekey(None)
    pair.run(1.0)
    assert pair.exchange(mark)[:2] == [
        "a --> CREATE_CHILD_SA {SA, Ni, KE}",
        "<-- b CREATE_CHILD_SA {N(TEMPORARY_FAILURE)}",
    ]
    pair.link.drop = None
    mark = pair.mark()
    pair.run(60.0)
    assert "<-- b CREATE_CHILD_SA {SA, Nr, KE}" in pair.exchange(mark)
    run_quiet(pair)
    pair.check_converged(children=1)


def test_spis_that_a_peer_deletes_before_they_exist() -> None:
    exchange = CreateChild(child("net"))
    for spi in range(1000):
        exchange.peer_deleted(spi)
    assert len(exchange.deleted) == MAX_DELETED
