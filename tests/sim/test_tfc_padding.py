"""TFC padding (RFC 4303 s2.7, RFC 7296 s1.3.1): who asks for it, who does not take it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from simulation import Gateway, Pair, child, connection, run_quiet

from ipsecfast.ike.actions import InstallSa
from ipsecfast.ike.channel import Channel
from ipsecfast.ike.constants import NotifyType
from ipsecfast.ike.wire.payloads import NotifyPayload, Payload, TsPayload

REFUSAL = NotifyPayload(NotifyType.ESP_TFC_PADDING_NOT_SUPPORTED)


def padding(gateway: Gateway) -> list[tuple[int, int]]:
    """Of each pair that was installed, what leaves and what comes is padded to."""
    installed = [a for a in gateway.performed if isinstance(a, InstallSa)]
    return [(a.outbound.tfc_padding, a.inbound.tfc_padding) for a in installed]


def pair(a: int, b: int) -> Pair:
    ends = {me: connection(me, children=(child("net", me, tfc_padding=n),)) for me, n in (("a", a), ("b", b))}
    return Pair(ends["a"], ends["b"])


def test_each_end_pads_what_it_sends() -> None:
    """Nothing is negotiated: it is what the peer has not refused. A rekey changes nothing."""
    found = pair(1000, 0).up()
    assert found.exchange()[2:4] == [
        "a --> IKE_AUTH {IDi, N(INITIAL_CONTACT), IDr, AUTH, SA, TSi, TSr}",
        "<-- b IKE_AUTH {IDr, AUTH, SA, TSi, TSr}",
    ]
    found.b.rekey("net")
    found.run(5.0)
    assert padding(found.a) == [(1000, 0)] * 2
    assert padding(found.b) == [(0, 0)] * 2


def refuse(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says so with every Child SA, as a peer does that can't cut the padding off."""
    plain = Channel.encode

    def with_refusal(
        self: Channel, exchange: int, message_id: int, payloads: Sequence[Payload], *, response: bool
    ) -> tuple[bytes, ...]:
        if self.context is gateway.endpoint.context and any(isinstance(p, TsPayload) for p in payloads):
            payloads = (*payloads, REFUSAL)
        return plain(self, exchange, message_id, payloads, response=response)

    monkeypatch.setattr(Channel, "encode", with_refusal)


@pytest.mark.parametrize("who", ["a", "b"])
def test_a_peer_that_takes_none(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """s1.3.1: in the request or in the response; of the initial Child SA and of its successors. The log says it."""
    found = pair(1000, 500)
    refuse(found.gateways[who], monkeypatch)
    found.up()
    found.a.rekey("net")
    found.run(5.0)
    other = found.gateways["b" if who == "a" else "a"]
    assert padding(other) == [(0, 0)] * 2
    assert other.events().count("no-tfc-padding") == 2
    assert padding(found.gateways[who]) == [(1000 if who == "a" else 500, 0)] * 2
    assert "no-tfc-padding" not in found.gateways[who].events()
    run_quiet(found)
    found.check_converged(children=1)
