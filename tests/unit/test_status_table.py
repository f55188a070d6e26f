"""The status document as a person sees it."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ipsecfast.status_table import print_status

CHILD_SA: dict[str, Any] = {
    "name": "net", "reqid": 1, "mode": "tunnel", "state": "installed", "outbound": "active", "spi_in": "00c0ffee",
    "spi_out": "0badcafe", "proposal": "aes128gcm16-esn", "quantum_resistant": False, "esn": True,
    "udp_encap": True, "replay_window": 2048, "resource": None, "serves": "",
    "local_ts": ["10.1.0.0/24"], "remote_ts": ["10.2.0.0/24"], "in": {"packets": 1234, "bytes": 2048, "drops": {}},
    "out": {"packets": 7, "bytes": 999, "drops": {}}, "sequence": 7, "established": 61.0, "rekey_in": 3599.0,
    "expires_in": 3960.0,
}  # fmt: skip
IKE_SA: dict[str, Any] = {
    "state": "established", "initiator": True, "spi_i": "1" * 16, "spi_r": "2" * 16, "local": "192.0.2.1:4500",
    "remote": "192.0.2.2:4500", "local_id": "a.test", "remote_id": "b.test", "nat": {"local": True, "remote": False},
    "proposal": "aes128gcm16-prfsha256-x25519", "quantum_resistant": False, "ppk": "", "established": 90061.0,
    "revocation": [], "rekey_in": 100.0, "reauth_in": None, "expires_in": None, "child_sas": [CHILD_SA],
}  # fmt: skip
CHILD: dict[str, Any] = {
    "name": "net", "mode": "tunnel", "start_action": "trap", "local_ts": ["10.1.0.0/24"], "remote_ts": ["10.2.0.0/24"],
}  # fmt: skip


def document(*ike_sas: dict[str, Any], **changes: Any) -> dict[str, Any]:
    connection = {
        "name": "b", "local_addrs": ["192.0.2.1"], "remote_addrs": ["%any"], "local_id": "a.test",
        "remote_id": "b.test", "children": [CHILD], "ike_sas": list(ike_sas),
        "failures": [],
    }  # fmt: skip
    empty: dict[str, Any] = {"traps": [], "workers": [], "drops": {}, "drop_help": {}, "ike": {}, "gateway": {}}
    process = {
        "schema": 1,
        "version": "0.1.0",
        "pid": 5,
        "tun": "ipsec0",
        "engine": "openssl",
        "mtu": 1400,
        "uptime": 7.5,
    }
    return process | {"connections": [connection]} | empty | changes


def printed(status: dict[str, Any], width: int = 160) -> str:
    stream = io.StringIO()
    print_status(status, Console(file=stream, width=width))
    return stream.getvalue()


def test_what_is_up() -> None:
    text = printed(document(IKE_SA))
    for words in (
        "pid 5, up 7s, device ipsec0 (MTU 1400), engine openssl",
        "b: a.test at 192.0.2.1 <-> b.test at %any",
        "established as initiator, since 1d 1h, rekeying in 1m 40s",
        "192.0.2.1:4500 - 192.0.2.2:4500 (NAT at the local end)",
        "00c0ffee",
        "0badcafe",
        "1,234",
        "2.0 KiB",
        "999 B",
        "59m 59s",
        "tunnel, ESP in UDP",
    ):
        assert words in text
    assert "is down" not in text


def test_whose_child_sa_it_is() -> None:
    resources = [CHILD_SA | {"serves": words} for words in ("all workers", "worker 1")]
    text = printed(document(IKE_SA | {"child_sas": resources}))
    assert "all workers" in text
    assert "worker 1" in text


@pytest.mark.parametrize(("traps", "words"), [(["b/net"], "waits for its first packet"), ([], "is down")])
def test_what_is_not_up(traps: list[str], words: str) -> None:
    assert f"net: 10.1.0.0/24 === 10.2.0.0/24 {words}" in printed(document(traps=traps))


def test_a_half_open_ike_sa_has_no_algorithms_yet() -> None:
    half_open = IKE_SA | {"state": "connecting", "proposal": "", "rekey_in": None, "child_sas": []}
    assert "not negotiated yet" in printed(document(half_open))


def test_drops_come_with_their_meaning_most_frequent_first() -> None:
    drops = {"drops": {"replay": 2, "no-policy": 30}, "drop_help": {"no-policy": "compare the selectors"}}
    lines = printed(document(**drops)).splitlines()
    rows = [line.split() for line in lines if "replay" in line or "no-policy" in line]
    assert rows == [["30", "no-policy", "compare", "the", "selectors"], ["2", "replay"]]


def test_quantum_resistance_is_said() -> None:
    assert "quantum" not in printed(document(IKE_SA))
    child = CHILD_SA | {"quantum_resistant": True}
    assert "tunnel, ESP in UDP, quantum-resistant" in printed(document(IKE_SA | {"child_sas": [child]}), width=240)
    hybrid = IKE_SA | {"quantum_resistant": True}
    assert "aes128gcm16-prfsha256-x25519, quantum-resistant" in printed(document(hybrid))


def test_what_failed_last_stands_with_its_connection() -> None:
    status = document()
    failure = {"ago": 75.0, "message": "no common PRF [sic]; what fits on the other gateway: prfsha256"}
    status["connections"][0]["failures"] = [failure]
    assert "1m 15s ago: no common PRF [sic]; what fits on the other gateway: prfsha256" in printed(status)


def test_who_says_that_a_peer_is_not_revoked() -> None:
    text = '"CN=b.test" is not revoked, says the CRL of "CN=Root" of 2026-01-01 00:00:00 UTC'
    finding = {"state": "good", "text": text, "until": "2026-02-01T00:00:00+00:00"}
    assert f"    {text}\n" in printed(document(IKE_SA | {"revocation": [finding]}))
