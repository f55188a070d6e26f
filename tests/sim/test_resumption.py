"""Session resumption (RFC 5723): from ticket to resumed IKE SA, and all that leads to a full negotiation instead."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from simulation import Gateway, Link, Pair, child, connection, run_quiet

from ipsecfast.ike.actions import KeepSecrets
from ipsecfast.ike.constants import ExchangeType
from ipsecfast.ike.context import Settings
from ipsecfast.ike.crypto.keymat import prf_plus
from ipsecfast.ike.crypto.primitives import HAS_ML_KEM
from ipsecfast.ike.extension.resumption import Ticket
from ipsecfast.ike.extension.tickets import ROTATION, fingerprint, seal, unseal
from ipsecfast.ike.lasting import FORGETFUL, Lasting
from ipsecfast.ike.states import Cause
from ipsecfast.ike.wire.message import Message
from ipsecfast.model import Lifetime

HOUR = timedelta(hours=1)
RESUME = [
    "a --> IKE_SESSION_RESUME {Ni, N(TICKET_OPAQUE), N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), "
    "N(IKEV2_FRAGMENTATION_SUPPORTED)}",
    "<-- b IKE_SESSION_RESUME {Nr, N(NAT_DETECTION_SOURCE_IP), N(NAT_DETECTION_DESTINATION_IP), "
    "N(IKEV2_FRAGMENTATION_SUPPORTED)}",
    "a --> IKE_AUTH {IDi, IDr, AUTH, N(QUICK_CRASH_DETECTION), SA, TSi, TSr, N(TICKET_REQUEST)}",
    "<-- b IKE_AUTH {IDr, AUTH, N(QUICK_CRASH_DETECTION), SA, TSi, TSr, N(TICKET_LT_OPAQUE)}",
]


def resuming(*, seed: int = 1, link: Link | None = None, settings_b: Settings | None = None, **options: object) -> Pair:
    """Both ends with tickets and crash tokens; `options` for both connections."""
    ends = {x: connection(x, **{"resumption": True, "keyingtries": 0, **options}) for x in "ab"}
    pair = Pair(ends["a"], ends["b"], seed=seed, link=link, settings_b=settings_b)
    for name, gateway in pair.gateways.items():
        gateway.endpoint.context.lasting = Lasting(crash_secret=name.encode() * 32)
    return pair


def fail(pair: Pair) -> int:
    """b restarts; a learns of it by its next packet and comes back. From which line on the transcript tells of it."""
    pair.b.restart()
    pair.a.dataplane.send(pair.a.the_child().reqid)
    mark = pair.mark()
    pair.run(8.0)
    return mark


def opened_by(pair: Pair, since: int) -> list[str]:
    """The exchanges that made IKE SAs."""
    lines = [line.split(" {")[0] for line in pair.exchange(since)]
    return [line.removeprefix("a --> ") for line in lines if line.startswith("a --> IKE_S")]


def ticket_of(gateway: Gateway) -> Ticket | None:
    return gateway.endpoint.connections["ab"].ticket


# -- as it should be ---------------------------------------------------------------------------------------------------


def test_the_exchanges() -> None:
    pair = resuming().up()
    assert pair.exchange()[2:] == [
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH, N(QUICK_CRASH_DETECTION), SA, TSi, TSr, "
        "N(TICKET_REQUEST)}",
        "<-- b IKE_AUTH {IDr, AUTH, N(QUICK_CRASH_DETECTION), SA, TSi, TSr, N(TICKET_LT_OPAQUE)}",
    ]
    mark = fail(pair)
    assert pair.exchange(mark)[3:] == RESUME
    pair.check_converged(children=1)
    pair.traffic(1.0)
    pair.run(2.0)
    assert pair.lost == 1  # the one that told


def test_the_keys() -> None:
    """s5.1: SKEYSEED = prf(SK_d (old), "Resumption" | Ni | Nr), written down a second time."""
    pair = resuming().up()
    old = pair.a.established[0]
    fail(pair)
    new, theirs = pair.a.established[0], pair.b.established[0]
    assert new.keys == theirs.keys
    nonces = b"".join(new.nonces)
    skeyseed = new.prf.compute(old.keys.sk_d, b"Resumption" + nonces)
    assert prf_plus(new.prf, skeyseed, nonces + new.spi_i + new.spi_r, 32) == new.keys.sk_d
    assert {old.spi_i, old.spi_r}.isdisjoint({new.spi_i, new.spi_r})
    assert (new.local_id, new.remote_id) == (old.local_id, old.remote_id) == (theirs.remote_id, theirs.local_id)


def test_a_resumed_ike_sa_lives_as_any_other() -> None:
    pair = resuming().up()
    fail(pair)
    for gateway in (pair.a, pair.b):
        for what in ("net", None):
            gateway.rekey(what)
            pair.run(5.0)
    pair.check_converged(children=1)
    assert fail(pair)
    pair.check_converged(children=1)


@pytest.mark.parametrize("rekeyed_by", ["a", "b", "ab"])
def test_a_rekeyed_ike_sa_gets_a_ticket_of_its_own(rekeyed_by: str) -> None:
    """s4.1: a ticket of the old one would lead back to the old keys."""
    pair = resuming().up()
    before = ticket_of(pair.a)
    mark = pair.mark()
    for name in rekeyed_by:
        pair.gateways[name].rekey(None)
    run_quiet(pair)
    asked = pair.exchange(mark)
    at = asked.index("a --> INFORMATIONAL {N(TICKET_REQUEST)}")
    assert "<-- b INFORMATIONAL {N(TICKET_LT_OPAQUE)}" in asked[at:]
    ticket = ticket_of(pair.a)
    assert ticket != before
    assert ticket.session.sk_d == pair.a.established[0].keys.sk_d
    assert opened_by(pair, fail(pair)) == ["IKE_SESSION_RESUME"]
    pair.check_converged(children=1)


def test_b_is_a_client_too_where_it_initiates() -> None:
    pair = resuming()
    pair.b.initiate()
    pair.run(1.0)
    assert ticket_of(pair.a) is None
    pair.a.restart()
    pair.b.dataplane.send(1)
    mark = pair.mark()
    pair.run(2.0)
    assert "<-- b IKE_SESSION_RESUME" in pair.exchange(mark)[3]
    pair.check_converged(children=1)


@pytest.mark.skipif(not HAS_ML_KEM, reason="this cryptography has no ML-KEM")
def test_what_was_quantum_resistant_stays_so() -> None:
    """Without another ML-KEM: SK_d is what resists."""
    pair = resuming(ike=("aes128gcm16-prfsha256-x25519-ke1_mlkem768",)).up()
    mark = fail(pair)
    assert opened_by(pair, mark) == ["IKE_SESSION_RESUME"]
    assert pair.a.established[0].quantum_resistant
    assert pair.b.established[0].quantum_resistant


def test_a_cookie_comes_first() -> None:
    """s4.3.2."""
    pair = resuming(settings_b=Settings(cookie_threshold=0)).up()
    mark = fail(pair)
    assert [line.split(" {")[0] for line in pair.exchange(mark)[3:7]] == [
        "a --> IKE_SESSION_RESUME",
        "<-- b IKE_SESSION_RESUME",
    ] * 2
    assert pair.exchange(mark)[5].startswith("a --> IKE_SESSION_RESUME {N(COOKIE), Ni")
    pair.check_converged(children=1)


@pytest.mark.parametrize("seed", range(15))
def test_over_a_bad_link(seed: int) -> None:
    pair = resuming(seed=seed, link=Link(loss=0.2, duplicate=0.2, jitter=0.05))
    pair.a.initiate()
    pair.run(60.0)
    for _ in range(3):
        pair.b.restart()
        pair.traffic(20.0, every=0.5)
        run_quiet(pair)
        pair.check_converged(children=1)


def test_the_old_ike_sa_goes_silently_where_it_still_stands() -> None:
    """s4.3.4: only a lost it; b takes the ticket and forgets the old one without a DELETE."""
    pair = resuming().up()
    old = pair.b.established[0]
    ticket = ticket_of(pair.a)
    pair.a.restart()
    pair.a.endpoint.connections["ab"].ticket = ticket
    mark = pair.mark()
    pair.a.initiate()
    pair.run(3.0)
    assert pair.exchange(mark) == RESUME
    assert old.closed
    pair.check_converged(children=1)


# -- when a full negotiation follows -----------------------------------------------------------------------------------


def refused(pair: Pair, mark: int) -> None:
    assert opened_by(pair, mark) == ["IKE_SESSION_RESUME", "IKE_SA_INIT"], pair.text()
    assert "<-- b IKE_SESSION_RESUME {N(TICKET_NACK)}" in pair.exchange(mark)
    pair.check_converged(children=1)


def test_a_gateway_that_forgot_its_keys() -> None:
    pair = resuming().up()
    pair.b.endpoint.context.lasting = replace(pair.b.endpoint.context.lasting, ticket_keys=())
    refused(pair, fail(pair))


def test_without_a_state_directory_tickets_last_until_the_restart() -> None:
    """Keys are made anyway: a may lose its network, and b not."""
    pair = resuming(dpd_delay=10.0)
    for gateway in (pair.a, pair.b):
        gateway.endpoint.context.lasting = FORGETFUL
    pair.up()
    pair.link.down = True
    pair.run(400.0)
    assert not pair.a.ike_sas
    pair.link.down = False
    mark = pair.mark()
    pair.a.initiate()
    pair.run(2.0)
    assert opened_by(pair, mark) == ["IKE_SESSION_RESUME"]
    pair.check_converged(children=1)


def changed(pair: Pair, **options: object) -> int:
    pair.b.restart([connection("b", **{"resumption": True, **options})])
    pair.a.dataplane.send(pair.a.the_child().reqid)
    mark = pair.mark()
    pair.run(3.0)
    return mark


def test_a_configuration_without_resumption() -> None:
    pair = resuming().up()
    refused(pair, changed(pair, resumption=False))
    assert ticket_of(pair.a) is None
    assert "N(TICKET_NACK)" in pair.exchange()[-1]


def test_other_algorithms() -> None:
    pair = resuming(ike=("aes128gcm16-prfsha256-x25519", "aes256gcm16-prfsha256-x25519")).up()
    refused(pair, changed(pair, ike=("aes256gcm16-prfsha256-x25519",)))


def test_another_secret() -> None:
    """Who no longer has the secret does not get in with a ticket either."""
    pair = resuming().up()
    mark = changed(pair, secret=b"another")
    assert opened_by(pair, mark)[:2] == ["IKE_SESSION_RESUME", "IKE_SA_INIT"]
    assert not pair.b.established


def test_another_child_is_no_obstacle() -> None:
    pair = resuming().up()
    mark = changed(pair, children=(child("net", "b"), child("net2", "b")))
    assert opened_by(pair, mark) == ["IKE_SESSION_RESUME"]
    pair.check_converged(children=1)


def test_a_ticket_that_expired() -> None:
    """The client does not even try; a gateway would not take it."""
    pair = resuming().up()
    ticket = ticket_of(pair.a)
    pair.wall_clock += 5 * HOUR
    assert opened_by(pair, fail(pair)) == ["IKE_SA_INIT"]
    longer = replace(ticket.session, expires=ticket.session.expires + 36000.0)
    pair.a.endpoint.connections["ab"].ticket = Ticket(ticket.opaque, longer)
    refused(pair, fail(pair))


def test_one_ticket_one_use() -> None:
    """s4.3.4."""
    pair = resuming().up()
    ticket = ticket_of(pair.a)
    fail(pair)
    pair.a.endpoint.connections["ab"].ticket = ticket
    pair.a.endpoint.connections["ab"].usable().close(Cause.PEER_DEAD, pair.now)
    pair.a.perform()
    mark = pair.mark()
    pair.a.initiate()
    pair.run(3.0)
    refused(pair, mark)


def test_two_at_once_with_one_ticket() -> None:
    """Both got past IKE_SESSION_RESUME; the second one's IKE_AUTH is refused."""
    pair = resuming().up()
    session = ticket_of(pair.a).session

    def second(by: str, message: Message | None) -> bool:
        if by == "a" and message.exchange == ExchangeType.IKE_AUTH:
            pair.b.endpoint.context.spent.add(session, pair.wall_clock.timestamp())
        return False

    pair.link.drop = second
    mark = fail(pair)
    assert pair.exchange(mark)[6] == "<-- b IKE_AUTH {N(AUTHENTICATION_FAILED)}"
    run_quiet(pair)
    pair.check_converged(children=1)


@pytest.mark.parametrize("by", ["a", "b"])
def test_a_deleted_ike_sa_is_not_resumed(by: str) -> None:
    """Whoever deletes it, a forgets its ticket. b would refuse it if it was b; a client that was it may come back."""
    pair = resuming().up()
    ticket = ticket_of(pair.a)
    pair.gateways[by].terminate()
    pair.run(2.0)
    assert ticket_of(pair.a) is None
    pair.a.endpoint.connections["ab"].ticket = ticket
    mark = pair.mark()
    pair.a.initiate()
    pair.run(3.0)
    if by == "b":
        refused(pair, mark)
    assert opened_by(pair, mark)[0] == "IKE_SESSION_RESUME"
    pair.check_converged(children=1)


def test_nobody_answers_a_ticket() -> None:
    """One attempt, then another one with IKE_SA_INIT."""
    pair = resuming().up()
    pair.link.drop = lambda by, message: message.exchange == ExchangeType.IKE_SESSION_RESUME
    mark = fail(pair)
    pair.run(400.0)
    assert set(opened_by(pair, mark)) == {"IKE_SESSION_RESUME", "IKE_SA_INIT"}
    pair.check_converged(children=1)


def test_the_proof_of_identity_grows_old() -> None:
    """However often it is resumed: after a day both prove who they are again."""
    pair = resuming().up()
    opened = []
    for _ in range(9):
        pair.wall_clock += 3 * HOUR
        opened += opened_by(pair, fail(pair))
    assert opened == ["IKE_SESSION_RESUME"] * 7 + ["IKE_SA_INIT", "IKE_SESSION_RESUME"]
    pair.check_converged(children=1)


def test_reauthentication_goes_by_the_last_proof() -> None:
    """RFC 7296 s2.8.3: a ticket does not put it off, and does not outlast it."""
    pair = resuming(reauth=Lifetime(rekey_time=3600.0, life_time=4000.0)).up()
    assert 3990.0 < ticket_of(pair.a).session.expires - pair.wall_clock.timestamp() <= 4000.0
    pair.wall_clock += HOUR / 2
    assert opened_by(pair, fail(pair)) == ["IKE_SESSION_RESUME"]
    (sa,) = pair.a.established
    assert 1600.0 < sa.reauth.at - sa.established_at <= 1800.0  # a little earlier than the responder announces
    assert sa.reauth.until == pytest.approx(sa.established_at + 2200.0, abs=1.0)
    assert ticket_of(pair.a).session.expires - pair.wall_clock.timestamp() <= 2200.0
    mark = pair.mark()
    pair.wall_clock += HOUR / 2
    pair.run(1810.0)
    assert opened_by(pair, mark) == ["IKE_SA_INIT"]
    pair.check_converged(children=1)


def test_a_stranger_with_the_ticket_gets_nowhere() -> None:
    """It stands in clear in IKE_SESSION_RESUME; without SK_d there is no IKE_AUTH."""
    pair = resuming().up()
    ticket = ticket_of(pair.a)
    wrong = replace(ticket.session, sk_d=b"x" * len(ticket.session.sk_d))
    pair.a.endpoint.connections["ab"].ticket = Ticket(ticket.opaque, wrong)
    fail(pair)
    assert pair.b.endpoint.counters["integrity failures"] >= 1
    assert not pair.b.established
    assert len(pair.b.endpoint.context.spent) == 0


# -- tickets -----------------------------------------------------------------------------------------------------------


def test_tickets_show_nothing_and_cannot_be_changed() -> None:
    pair = resuming().up()
    context, ticket = pair.b.endpoint.context, ticket_of(pair.a)
    session = unseal(context, ticket.opaque)
    assert session == pair.b.established[0].session.granted
    assert session.sk_d not in ticket.opaque
    assert "sk_d" not in repr(session)
    assert "opaque" not in repr(ticket)
    for at in range(len(ticket.opaque)):
        changed = bytearray(ticket.opaque)
        changed[at] ^= 1
        assert unseal(context, bytes(changed)) is None
        assert unseal(context, ticket.opaque[:at]) is None


def test_keys_change_daily_and_go_when_no_ticket_needs_them() -> None:
    pair = resuming().up()
    context, session = pair.b.endpoint.context, pair.b.established[0].session.granted
    first = seal(context, session)
    assert sum(isinstance(x, KeepSecrets) for x in pair.b.performed) == 1
    pair.wall_clock += timedelta(seconds=ROTATION + 1)
    second = seal(context, session)
    assert first[:8] != second[:8]
    assert unseal(context, first) == unseal(context, second) == session
    pair.wall_clock += timedelta(seconds=ROTATION + 1)
    seal(context, session)
    assert unseal(context, first) is None
    assert unseal(context, second) == session
    pair.wall_clock -= timedelta(days=30)
    assert seal(context, session)[:8] not in (first[:8], second[:8])
    assert len(context.lasting.ticket_keys) == 1


def test_the_fingerprint_knows_what_matters() -> None:
    base = connection("b")
    same = connection("b", children=(child("other", "b"),), dpd_delay=5.0)
    assert fingerprint(base) == fingerprint(same) == fingerprint(connection("b"))
    different = [
        connection("b", name="other"),
        connection("b", secret=b"another"),
        connection("b", local=replace(base.local, identity=base.remote.identity)),
        connection("b", remote=replace(base.remote, identity=None)),
        connection("b", ppk_required=True),
    ]
    assert len({fingerprint(c) for c in (base, *different)}) == len(different) + 1
