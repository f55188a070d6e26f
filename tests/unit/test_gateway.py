"""A real `ipsecfast run` in a network namespace: what it refuses, what it leaves behind, what it tells.

gateway A 192.0.2.1 ------- 192.0.2.2 gateway B      10.1.0.0/24 behind A, 10.2.0.0/24 behind B
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ipsecfast.lab.netns import A, B, Namespace, TwoSites, stop
from ipsecfast.lab.testbed import PROGRAM, GatewayProcess, TestbedError, toml_text, tunnel_config, wait_for
from ipsecfast.lab.traffic import ping

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces and a TUN device need root")

TRAP = {"start_action": "trap"}

CHILD_SA = {
    "name": str, "reqid": int, "mode": str, "state": str, "outbound": str, "spi_in": str, "spi_out": str,
    "proposal": str, "quantum_resistant": bool, "esn": bool, "udp_encap": bool, "replay_window": int,
    "resource": type(None), "serves": str, "local_ts": list, "remote_ts": list,
    "in": {"packets": int, "bytes": int, "drops": dict}, "out": {"packets": int, "bytes": int, "drops": dict},
    "sequence": int, "established": float, "rekey_in": float, "expires_in": float,
}  # fmt: skip
IKE_SA = {
    "state": str, "initiator": bool, "spi_i": str, "spi_r": str, "local": str, "remote": str, "local_id": str,
    "remote_id": str, "nat": {"local": bool, "remote": bool}, "proposal": str, "quantum_resistant": bool,
    "ppk": str, "revocation": list, "established": float,
    "rekey_in": float, "reauth_in": type(None), "expires_in": float, "child_sas": [CHILD_SA],
}  # fmt: skip
CHILD = {"name": str, "mode": str, "start_action": str, "local_ts": list, "remote_ts": list}
CONNECTION = {
    "name": str, "local_addrs": list, "remote_addrs": list, "local_id": str, "remote_id": str,
    "children": [CHILD], "failures": list, "ike_sas": [IKE_SA],
}  # fmt: skip
STATUS = {
    "schema": int, "version": str, "pid": int, "tun": str, "engine": str, "mtu": int, "uptime": float,
    "connections": [CONNECTION], "traps": list, "workers": list, "drops": dict, "drop_help": dict, "ike": dict,
    "gateway": dict,
}  # fmt: skip


@pytest.fixture
def sites() -> Iterator[TwoSites]:
    with TwoSites() as sites:
        yield sites


@pytest.fixture
def place(sites: TwoSites) -> Namespace:
    return sites.a.gateway


def config_a(**options: Any) -> dict[str, Any]:
    return tunnel_config(A, B, **options)


def write(folder: Path, config: Mapping[str, Any]) -> Path:
    file = folder / "gw.toml"
    file.touch(mode=0o600)
    file.write_text(toml_text({**config, "gateway": {"control": str(folder / "gw.sock"), **config["gateway"]}}))
    return file


def run_to_the_end(place: Namespace, file: Path, *prefix: str) -> tuple[int, str]:
    process = place.start([*prefix, *PROGRAM, "run", str(file)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def kernel_state(place: Namespace) -> list[str]:
    """All that a gateway could change outside of itself."""
    commands = ("rule", "-6 rule", "route show table all", "-6 route show table all", "-o link", "-o address")
    return [place.check_output(["ip", *command.split()]) for command in commands]


def assert_shape(value: object, shape: Any, where: str = "status") -> None:
    """Exactly the documented keys, each of its type."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), where
        assert set(value) == set(shape), where
        for key, inner in shape.items():
            assert_shape(value[key], inner, f"{where}.{key}")
    elif isinstance(shape, list):
        assert isinstance(value, list), where
        assert value, where
        for index, item in enumerate(value):
            assert_shape(item, shape[0], f"{where}[{index}]")
    else:
        assert type(value) is shape, where


def test_sigterm_takes_everything_down(place: Namespace, tmp_path: Path) -> None:
    before = kernel_state(place)
    gateway = GatewayProcess(place, tmp_path, config_a(child=TRAP))
    assert "10.2.0.0/24 dev ipsec0" in kernel_state(place)[2]
    assert gateway.close() == 0
    assert kernel_state(place) == before
    assert not gateway.control.exists()
    assert "everything is taken down" in gateway.log_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_packets_are_held(place: Namespace, tmp_path: Path, number: int) -> None:
    before = kernel_state(place)
    gateway = GatewayProcess(place, tmp_path, config_a(child=TRAP))
    place.run(ping, B.host[0], 1, 0.01, timeout=0.1)
    gateway.process.send_signal(number)
    assert gateway.process.wait(10) == 0
    assert kernel_state(place) == before


def test_an_error_in_the_middle_undoes_what_was_done(place: Namespace, tmp_path: Path) -> None:
    before = kernel_state(place)
    (tmp_path / "file").write_text("no folder")
    config = config_a(child=TRAP)
    config["gateway"]["control"] = str(tmp_path / "file" / "gw.sock")  # the last step of setting up fails
    code, output = run_to_the_end(place, write(tmp_path, config))
    assert code == 1
    assert "can't make the control socket" in output
    assert "Traceback" not in output
    assert kernel_state(place) == before


@pytest.mark.parametrize("port", [500, 4500])
def test_a_port_that_is_in_use_is_named(place: Namespace, tmp_path: Path, port: int) -> None:
    before = kernel_state(place)
    with place.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", port))
        code, output = run_to_the_end(place, write(tmp_path, config_a()))
    assert code == 1
    assert f"UDP port {port}" in output
    assert "in use" in output
    assert "Traceback" not in output
    assert kernel_state(place) == before


def test_leftovers_of_a_killed_run_are_removed(place: Namespace, tmp_path: Path) -> None:
    before = kernel_state(place)
    killed = GatewayProcess(place, tmp_path, config_a(child=TRAP))
    killed.process.kill()
    killed.process.wait()
    assert kernel_state(place) != before
    assert killed.control.exists()
    killed.control.unlink()  # GatewayProcess waits for it; that a dead socket is replaced is tested in test_control
    second = GatewayProcess(place, tmp_path, config_a(child=TRAP))
    assert "removed 1 rules and routes of a run that was killed" in second.log_text()
    assert second.close() == 0
    assert kernel_state(place) == before


def test_a_second_gateway_is_refused(place: Namespace, tmp_path: Path) -> None:
    first = GatewayProcess(place, tmp_path / "first", config_a(child=TRAP))
    during = kernel_state(place)
    (tmp_path / "second").mkdir()
    same_device, same_table = config_a(), config_a()
    same_table["gateway"]["tun"] = "ipsec1"
    for config, words in ((same_device, "a device ipsec0 exists already"), (same_table, "the routing table 220 holds")):
        code, output = run_to_the_end(place, write(tmp_path / "second", config))
        assert (code, words in output) == (1, True), output
    assert kernel_state(place) == during
    assert first.close() == 0


def test_missing_capabilities_are_named(place: Namespace, tmp_path: Path) -> None:
    code, output = run_to_the_end(place, write(tmp_path, config_a()), "setpriv", "--bounding-set=-net_admin,-net_raw")
    assert code == 1
    assert "this needs CAP_NET_ADMIN (the TUN device, routes and rules), CAP_NET_RAW (bare ESP)" in output
    assert "Traceback" not in output


def test_a_local_address_of_another_machine_is_refused(place: Namespace, tmp_path: Path) -> None:
    config = config_a(connection={"local_addrs": ["192.0.2.77"]})
    code, output = run_to_the_end(place, write(tmp_path, config))
    assert code == 1
    assert "connections.net.local_addrs = 192.0.2.77: is not an address of this machine" in output


def test_what_the_operator_must_decide_is_said(place: Namespace, tmp_path: Path) -> None:
    place.sysctl(net__ipv4__ip_forward=0, net__ipv4__conf__outer__rp_filter=1)
    config = config_a(child={"remote_ts": ["0.0.0.0/0"]})
    gateway = GatewayProcess(place, tmp_path, config)
    assert "sysctl -w net.ipv4.ip_forward=1" in gateway.log_text()
    assert "sysctl -w net.ipv4.conf.outer.rp_filter=2" in gateway.log_text()
    assert gateway.close() == 0


def test_two_gateways(sites: TwoSites, tmp_path: Path) -> None:
    ours = GatewayProcess(sites.a.gateway, tmp_path / "a", config_a())
    theirs = GatewayProcess(sites.b.gateway, tmp_path / "b", tunnel_config(B, A))
    assert ours.command("initiate", "net")["message"] == "net is up"
    assert ours.command("initiate", "net")["message"] == "net is up already"
    assert None not in sites.a.host.run(ping, B.host[0], 3, 0.02)
    status = ours.status()
    assert_shape(status, STATUS)
    child = status["connections"][0]["ike_sas"][0]["child_sas"][0]
    assert (child["in"]["packets"], child["out"]["packets"]) == (3, 3)
    for target in (("net", "net"), ("net", "")):
        assert ours.command("rekey", *target)["message"].endswith("is rekeyed")
    assert None not in sites.a.host.run(ping, B.host[0], 3, 0.02)
    assert theirs.command("terminate", "net")["message"] == "net is down"
    with pytest.raises(TestbedError, match="net is not up: there is nothing to terminate"):
        theirs.command("terminate", "net")
    wait_for("the other end is down", lambda: ours.counts() == (0, 0))
    assert (ours.close(), theirs.close()) == (0, 0)


def test_status_on_the_command_line(place: Namespace, tmp_path: Path) -> None:
    gateway = GatewayProcess(place, tmp_path, config_a(child=TRAP))
    control = ["--control", str(gateway.control)]
    status = json.loads(place.check_output([*PROGRAM, "status", "--json", *control]))
    assert status["traps"] == ["net/net"]
    table = place.check_output([*PROGRAM, "status", *control])
    assert "net: 10.1.0.0/24 === 10.2.0.0/24 waits for its first packet" in table
    assert place.check_output([*PROGRAM, "shutdown", *control]) == "the gateway is ending\n"
    assert gateway.process.wait(10) == 0


def test_why_a_connection_does_not_come_up(sites: TwoSites, tmp_path: Path) -> None:
    ours = GatewayProcess(sites.a.gateway, tmp_path / "a", config_a())
    wrong = tunnel_config(B, A)
    wrong["secrets"]["net"]["secret"] = "TOPSECRET"
    theirs = GatewayProcess(sites.b.gateway, tmp_path / "b", wrong)
    with pytest.raises(TestbedError, match="AUTHENTICATION_FAILED"):
        ours.command("initiate", "net")
    assert "TOPSECRET" not in theirs.log_text() + ours.log_text()
    assert (ours.close(), theirs.close()) == (0, 0)


def test_an_unreachable_peer_is_told_at_once(place: Namespace, tmp_path: Path) -> None:
    gateway = GatewayProcess(place, tmp_path, config_a(connection={"remote_addrs": ["198.51.100.1"]}))
    with pytest.raises(TestbedError, match=r"can't send to 198\.51\.100\.1: Network is unreachable"):
        gateway.command("initiate", "net", timeout=0.5)
    assert gateway.status()["gateway"]["IKE datagrams not sent"] >= 1
    assert gateway.close() == 0


def test_an_unknown_name_is_answered_with_the_known_ones(place: Namespace, tmp_path: Path) -> None:
    gateway = GatewayProcess(place, tmp_path, config_a())
    for target, words in (
        (("nte", ""), "there are: net"),
        (("net", "nte"), "it has: net"),
        (("", "nte"), "no connection"),
    ):
        with pytest.raises(TestbedError, match=words):
            gateway.command("rekey", *target)
    assert gateway.close() == 0


def test_any_local_address_initiates_from_that_of_the_route(sites: TwoSites, tmp_path: Path) -> None:
    ours = GatewayProcess(sites.a.gateway, tmp_path / "a", config_a(connection={"local_addrs": ["%any"]}))
    theirs = GatewayProcess(sites.b.gateway, tmp_path / "b", tunnel_config(B, A))
    ours.command("initiate", "net")
    assert ours.status()["connections"][0]["ike_sas"][0]["local"].startswith("192.0.2.1:")
    assert (ours.close(), theirs.close()) == (0, 0)


def test_a_dead_worker_ends_the_gateway(place: Namespace, tmp_path: Path) -> None:
    gateway = GatewayProcess(place, tmp_path, config_a())
    place.check_output(["ip", "link", "delete", "ipsec0"])
    try:
        code = gateway.process.wait(5)
    except subprocess.TimeoutExpired:
        stop(gateway.process)
        pytest.fail(f"it still ran without its device:\n{gateway.log_text()}")
    assert code == 1
    assert "a worker thread failed" in gateway.log_text()


def test_what_the_peer_brings_up_again_does_not_keep_terminate_waiting(sites: TwoSites, tmp_path: Path) -> None:
    ours = GatewayProcess(sites.a.gateway, tmp_path / "a", config_a())
    theirs = GatewayProcess(sites.b.gateway, tmp_path / "b", tunnel_config(B, A, child={"close_action": "start"}))
    ours.command("initiate", "net")
    before = ours.expect_child()
    assert ours.command("terminate", "net")["message"].startswith("net is down")
    wait_for("the peer's new tunnel", lambda: (now := ours.child()) is not None and now.spi_out != before.spi_out)
    assert (ours.close(), theirs.close()) == (0, 0)
