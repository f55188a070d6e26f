"""`load_config`: what a right file becomes, and what each wrong one is answered with."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeAlias

import pytest

from ipsecfast.config import GatewayConfig, PollMode, RingChoice, RingKind, load_config
from ipsecfast.config.section import key_text
from ipsecfast.configured import PostquantumKey
from ipsecfast.errors import ConfigError, ConfigProblem
from ipsecfast.identity import Identity
from ipsecfast.ike.credential.pad import find_secret
from ipsecfast.model import (
    CopyField,
    Mode,
    PolicyAction,
    ProtocolId,
    StartAction,
    TrafficSelector,
    TransformType,
)

Write: TypeAlias = Callable[..., Path]

GOOD = """
[gateway]
tun = "ipsec7"
control = "/run/x.sock"
engine = "openssl"
mtu = 1400
secrets = "secrets.toml"

[connections.site-b]
local_addrs = "192.0.2.1"
remote_addrs = ["192.0.2.2"]
proposals = ["aes128gcm16-prfsha256-x25519", "aes256-sha384-ecp384"]
encap = true
rekey_time = "2h"
over_time = "10m"
rand_time = 60
dpd_delay = "20s"
keyingtries = 3
unique = "keep"

[connections.site-b.local]
id = "a.test"
[connections.site-b.remote]
auth = "psk"
id = "b.test"

[connections.site-b.children.net]
local_ts = ["10.1.0.0/24", "10.1.1.5-10.1.1.9"]
remote_ts = ["10.2.0.0/24[tcp/80]", "10.3.0.0/16[icmp/8]"]
esp_proposals = "aes128gcm16-x25519"
start_action = "start"
dpd_action = "trap"
rekey_time = "1h"
life_time = "70m"
rand_time = "5m"
rekey_bytes = "10G"
life_bytes = "11G"
rekey_packets = 1000000
replay_window = 64
copy_df = false
copy_ecn = false
copy_dscp = "yes"
per_cpu_sas = 3
tfc_padding = 1000

[connections.site-b.children.host]
mode = "transport"
dscp_classes = [46, [34, 36]]

[[policies]]
action = "bypass"
source = "10.1.0.0/24[tcp/22]"
"""

SECRETS = """
[secrets.pair]
ids = ["a.test", "b.test"]
secret = "0x00ff10"
[secrets.everybody]
secret = "plain text"
[secrets.other-pair]
ids = ["a.test", "c.test"]
secret = "not for b"
[secrets.ours]
ids = "a.test"
secret = "0sAAEC"
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, secrets: str | None = SECRETS, mode: int = 0o600) -> Path:
        if secrets is not None:
            (tmp_path / "secrets.toml").write_text(secrets)
            (tmp_path / "secrets.toml").chmod(mode)
        file = tmp_path / "gw.toml"
        file.write_text(text)
        file.chmod(0o600)
        return file

    return write


@pytest.fixture
def good(write: Write) -> GatewayConfig:
    return load_config(write(GOOD))


def problems_of(file: Path) -> tuple[ConfigProblem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    return caught.value.problems


def test_gateway_section(good: GatewayConfig) -> None:
    assert (good.tun, good.control, good.engine, good.mtu) == ("ipsec7", "/run/x.sock", "openssl", 1400)
    assert good.warnings == ()


def test_connection(good: GatewayConfig) -> None:
    connection = good.connections[0]
    assert connection.name == "site-b"
    assert connection.local_addrs == (ip_address("192.0.2.1"),)
    assert connection.remote_addrs == (ip_address("192.0.2.2"),)
    assert [proposal.number for proposal in connection.proposals] == [1, 2]
    assert all(proposal.protocol is ProtocolId.IKE for proposal in connection.proposals)
    assert connection.local.identity == Identity(2, b"a.test")
    assert (connection.lifetime.rekey_time, connection.lifetime.life_time, connection.lifetime.rand_time) == (
        7200,
        7800,
        60,
    )
    assert (connection.encap, connection.dpd_delay, connection.keyingtries, connection.unique) == (True, 20, 3, "keep")


def test_child(good: GatewayConfig) -> None:
    net, host = good.connections[0].children
    assert net.local_ts[1] == TrafficSelector(ip_address("10.1.1.5"), ip_address("10.1.1.9"))
    assert net.remote_ts[0] == TrafficSelector.from_network(ip_network("10.2.0.0/24"), 6, 80, 80)
    assert net.remote_ts[1] == TrafficSelector.from_network(ip_network("10.3.0.0/16"), 1, 8 << 8, 8 << 8 | 255)
    assert (net.mode, net.start_action, net.dpd_action) == (Mode.TUNNEL, StartAction.START, StartAction.TRAP)
    assert (net.lifetime.rekey_time, net.lifetime.life_time, net.lifetime.rand_time) == (3600, 4200, 300)
    assert (net.lifetime.rekey_bytes, net.lifetime.life_bytes) == (10 << 30, 11 << 30)
    assert (net.lifetime.rekey_packets, net.lifetime.life_packets) == (1_000_000, 1_100_000)
    assert (net.replay_window, net.copy_df, net.copy_ecn, net.copy_dscp) == (64, False, False, CopyField.YES)
    assert (net.per_cpu_sas, host.per_cpu_sas) == (3, 0)
    assert (net.tfc_padding, host.tfc_padding) == (1000, 0)
    assert (net.dscp_classes, host.dscp_classes) == ((), ((46,), (34, 36)))
    assert (host.mode, host.local_ts, host.remote_ts) == (Mode.TRANSPORT, (None,), (None,))
    assert TransformType.SN in {transform.type for transform in host.esp_proposals[0].transforms}


def test_policies_get_the_family_of_their_other_end(good: GatewayConfig) -> None:
    (policy,) = good.policies
    assert policy.action is PolicyAction.BYPASS
    assert policy.destination == TrafficSelector.from_network(ip_network("0.0.0.0/0"))


def test_secrets_that_apply_and_the_most_specific_of_them(good: GatewayConfig) -> None:
    connection = good.connections[0]
    assert {key.secret for key in connection.secrets} == {b"\x00\xff\x10", b"\x00\x01\x02", b"plain text"}
    assert connection.local.identity is not None
    assert find_secret(connection, connection.local.identity, connection.remote.identity) == b"\x00\xff\x10"


def test_secrets_are_never_in_a_repr(good: GatewayConfig) -> None:
    assert "plain text" not in repr(good)
    assert "x00" not in repr(good.connections[0].secrets)


MINIMAL = """
[connections.b]
local_addrs = "192.0.2.1"
remote_addrs = "192.0.2.2"
[connections.b.children.net]
[secrets.all]
secret = "s"
"""


def test_defaults(write: Write) -> None:
    config = load_config(write(MINIMAL, secrets=None))
    connection = config.connections[0]
    assert connection.local.identity == Identity(1, bytes([192, 0, 2, 1]))
    assert connection.remote.identity is None
    assert connection.lifetime.rekey_time == 4 * 3600
    child = connection.children[0]
    assert child.lifetime.rekey_time == 3600
    assert child.lifetime.life_time == pytest.approx(3960)
    assert (child.lifetime.rekey_bytes, child.lifetime.life_packets, child.replay_window) == (0, 0, 2048)


@pytest.mark.parametrize(
    ("gateway", "connection", "encap", "nat_traversal"),
    [
        ("auto", None, False, True),
        ("udp", None, True, True),
        ("raw", None, False, False),
        ("udp", "raw", False, False),
        ("raw", "auto", False, True),
        ("packet:eth0", "udp", True, True),
    ],
)
def test_how_esp_travels(write: Write, gateway: str, connection: str | None, encap: bool, nat_traversal: bool) -> None:
    own = f'remote_addrs = "192.0.2.2"\nouter = "{connection}"' if connection else 'remote_addrs = "192.0.2.2"'
    text = f'[gateway]\nouter = "{gateway}"\n' + MINIMAL.replace('remote_addrs = "192.0.2.2"', own)
    config = load_config(write(text, secrets=None))
    assert (config.connections[0].encap, config.connections[0].nat_traversal) == (encap, nat_traversal)


def test_ring_ports(write: Write) -> None:
    text = '[gateway]\nouter = "packet:eth0.5"\ninner = "xdp:eth1"\n' + MINIMAL
    config = load_config(write(text, secrets=None))
    assert config.outer == RingChoice(RingKind.PACKET, "eth0.5")
    assert config.inner == RingChoice(RingKind.XDP, "eth1")
    assert str(config.inner) == "xdp:eth1"
    plain = load_config(write('[gateway]\ninner = "tun"\n' + MINIMAL, secrets=None))
    assert plain.outer is plain.inner is None


def test_reauth_time(write: Write) -> None:
    """swanctl's defaults: with it alone the keys are not rekeyed; over_time and rand_time are for both."""
    config = load_config(
        write(MINIMAL.replace("[connections.b]", '[connections.b]\nreauth_time = "10h"'), secrets=None)
    )
    (connection,) = config.connections
    reauth = connection.reauth
    assert (reauth.rekey_time, reauth.life_time, reauth.rand_time) == pytest.approx((36000.0, 39600.0, 3600.0))
    assert connection.lifetime.rekey_time == connection.lifetime.life_time == 0.0
    both = load_config(write(GOOD.replace('rekey_time = "2h"', 'rekey_time = "2h"\nreauth_time = "1d"'))).connections[0]
    assert (both.lifetime.life_time, both.reauth.life_time, both.reauth.rand_time) == (7800.0, 87000.0, 60.0)


PPKS = """
[secrets.quantum]
type = "ppk"
ids = ["ppk-b", "also-ppk-b"]
secret = "0x000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
[secrets.other]
type = "ppk"
ids = "ppk-c"
secret = "too short"
"""


def test_post_quantum_pre_shared_keys(write: Write) -> None:
    text = GOOD.replace("encap = true", 'ppk_id = "ppk-b"\nppk_required = true')
    config = load_config(write(text, secrets=SECRETS + PPKS))
    connection = config.connections[0]
    assert connection.ppks == (PostquantumKey(b"ppk-b", bytes(range(32))),)
    assert connection.ppk_required
    assert len(connection.secrets) == 3, "a PPK proves nothing"
    assert ["9 octets" in str(warning) for warning in config.warnings] == [True]
    wild = load_config(write(text.replace('"ppk-b"', '"*ppk-b"'), secrets=SECRETS + PPKS)).connections[0]
    assert [key.id for key in wild.ppks] == [b"ppk-b", b"also-ppk-b"]
    assert "000102" not in repr(config)


# One mistake a file: what is put where in GOOD, the key and the line that the answer names, words it contains.
BROKEN = [
    ('tun = "ipsec7"', 'tun = "a-name-that-is-too-long"', "gateway.tun", 3, "15 characters"),
    ('engine = "openssl"', 'engine = "isa-l"', "gateway.engine", 5, "auto, openssl, ipsec-mb"),
    ("mtu = 1400", "workers = 65", "gateway.workers", 6, "from 1 to 64"),
    ("mtu = 1400", "workers = true", "gateway.workers", 6, '"auto"'),
    ("mtu = 1400", 'poll = "always"', "gateway.poll", 6, "sleep, busy"),
    ("mtu = 1400", "pin = [0, 0]", "gateway.pin", 6, "each once"),
    ("mtu = 1400", "puzzle_limit = 25", "gateway.puzzle_limit", 6, "from 0 to 24"),
    ("mtu = 1400", "pin = []", "gateway.pin", 6, "a list of CPU numbers"),
    ("mtu = 1400", "pin = [true]", "gateway.pin", 6, "a list of CPU numbers"),
    ("mtu = 1400", 'mtu = 1400\nouter = "eth0"', "gateway.outer", 7, "packet:eth0"),
    ("mtu = 1400", 'mtu = 1400\nouter = "packet:a b"', "gateway.outer", 7, "blank"),
    ("mtu = 1400", 'mtu = 1400\ninner = "raw"', "gateway.inner", 7, "packet:eth1"),
    ("encap = true", 'encap = true\nouter = "raw"', "connections.site-b.encap", 13, "excludes"),
    ("encap = true", 'outer = "packet:eth0"', "connections.site-b.outer", 13, "auto, udp, raw"),
    ("mtu = 1400", 'mtu = "big"', "gateway.mtu", 6, "whole number from 576 to 65535"),
    ('control = "/run/x.sock"', 'control = "x.sock"', "gateway.control", 4, "absolute path"),
    ('secrets = "secrets.toml"', 'secrets = "nowhere.toml"', "gateway.secrets", 7, "No such file"),
    ("encap = true", "encape = true", "connections.site-b.encape", 13, "did you mean 'encap'?"),
    ("encap = true", 'ppk_id = "no-such"', "connections.site-b.ppk_id", 13, "no secret has that id"),
    ("encap = true", "ppk_required = true", "connections.site-b.ppk_required", 13, "needs a ppk_id"),
    ("encap = true", 'encap = "yes"', "connections.site-b.encap", 13, "true or false"),
    ('"192.0.2.2"]', '"gw.example.org"]', "connections.site-b.remote_addrs[0]", 11, "names aren't looked up"),
    ('["192.0.2.2"]', '"2001:db8::2"', "connections.site-b.remote_addrs", 11, "no address family in common"),
    ('["192.0.2.2"]', '["192.0.2.0/24"]', "connections.site-b.children.net.start_action", 31, "can't begin"),
    ("x25519", "x2551", "connections.site-b.proposals[0]", 12, "x25519"),
    ('rekey_time = "2h"', 'rekey_time = "2 weeks"', "connections.site-b.rekey_time", 14, "90s"),
    ("rand_time = 60", "rand_time = 7200", "connections.site-b.rand_time", 16, "shorter than rekey_time"),
    ('dpd_delay = "20s"', "dpd_delay = 0", "connections.site-b.children.net.dpd_action", 32, "dpd_delay above 0"),
    ('unique = "keep"', 'unique = "always"', "connections.site-b.unique", 19, "replace, keep, never"),
    ('id = "a.test"', 'id = "%any"', "connections.site-b.local.id", 22, "%any is for the remote side"),
    ('auth = "psk"', 'auth = "eap"', "connections.site-b.remote.auth", 24, "psk"),
    ('10.1.0.0/24"', '10.1.0.1/24"', "connections.site-b.children.net.local_ts[0]", 28, "10.1.0.0/24 for the network"),
    (
        "10.1.1.5-10.1.1.9",
        "10.1.1.9-10.1.1.5",
        "connections.site-b.children.net.local_ts[1]",
        28,
        "lower to the higher",
    ),
    ("[tcp/80]", "[tpc/80]", "connections.site-b.children.net.remote_ts[0]", 29, "unknown protocol"),
    ("[tcp/80]", "[tcp/99999]", "connections.site-b.children.net.remote_ts[0]", 29, "65535"),
    ("[icmp/8]", "[icmp/256]", "connections.site-b.children.net.remote_ts[1]", 29, "[icmp/type]"),
    ("10.2.0.0/24[tcp/80]", "2001:db8::/64", "connections.site-b.children.net.remote_ts", 29, "no IPv6 selector"),
    ("aes128gcm16-x25519", "x25519", "connections.site-b.children.net.esp_proposals", 30, "encryption"),
    ('life_time = "70m"', 'life_time = "1h"', "connections.site-b.children.net.life_time", 34, "after its rekeying"),
    ('rekey_bytes = "10G"', 'rekey_bytes = "10X"', "connections.site-b.children.net.rekey_bytes", 36, '"10G"'),
    ("replay_window = 64", "replay_window = 32", "connections.site-b.children.net.replay_window", 39, "64 to 65536"),
    ('copy_dscp = "yes"', 'copy_dscp = "maybe"', "connections.site-b.children.net.copy_dscp", 42, "yes, no, in, out"),
    ("per_cpu_sas = 3", "per_cpu_sas = 0", "connections.site-b.children.net.per_cpu_sas", 43, "true, false, or"),
    ("per_cpu_sas = 3", 'per_cpu_sas = "encap"', "connections.site-b.children.net.per_cpu_sas", 43, "SPIs tell"),
    (
        "tfc_padding = 1000",
        'tfc_padding = "all"',
        "connections.site-b.children.net.tfc_padding",
        44,
        '"mtu" or a number',
    ),
    ("tfc_padding = 1000", "tfc_padding = 16385", "connections.site-b.children.net.tfc_padding", 44, "0 to 16384"),
    (
        'mode = "transport"',
        'mode = "transport"\ntfc_padding = 1',
        "connections.site-b.children.host.tfc_padding",
        48,
        "tunnel",
    ),
    ("[46, [34, 36]]", "[46, [46]]", "connections.site-b.children.host.dscp_classes", 48, "each once"),
    ("[46, [34, 36]]", "[64]", "connections.site-b.children.host.dscp_classes", 48, "0 to 63"),
    ("[46, [34, 36]]", "46\nper_cpu_sas = true", "connections.site-b.children.host.dscp_classes", 48, "or for a class"),
    ('mode = "transport"', 'mode = "beet"', "connections.site-b.children.host.mode", 47, "tunnel, transport"),
    (
        'mode = "transport"',
        'mode = "transport"\nlocal_ts = "10.1.0.0/24"',
        "connections.site-b.children.host.local_ts",
        48,
        "protects the IKE addresses",
    ),
    ('action = "bypass"', 'action = "protect"', "policies[0].action", 51, "bypass, discard"),
    ('source = "10.1.0.0/24[tcp/22]"', "", "policies[0].destination", 50, "missing"),
    (
        '"10.1.0.0/24[tcp/22]"',
        '"10.1.0.0/24[tcp/22]"\ndestination = "::/0"',
        "policies[0].destination",
        53,
        "address family",
    ),
]


# A peer without a single address can't be called for the other action of that child either.
MORE_MISTAKES_OF = {"connections.site-b.children.net.start_action": ["connections.site-b.children.net.dpd_action"]}


@pytest.mark.parametrize(("right", "wrong", "key", "line", "words"), BROKEN, ids=[f"{b[2]}-{b[4]}" for b in BROKEN])
def test_one_mistake_is_named_with_its_place(
    write: Write, right: str, wrong: str, key: str, line: int, words: str
) -> None:
    assert right in GOOD
    file = write(GOOD.replace(right, wrong, 1))
    problem, *more = problems_of(file)
    assert (problem.file, problem.key, problem.line) == (str(file), key, line)
    assert words in problem.message
    assert [other.key for other in more] == MORE_MISTAKES_OF.get(key, [])


def test_all_mistakes_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = GOOD
    for right, wrong in (("mtu = 1400", "mtu = 0"), ("encap = true", "encape = true"), ("[tcp/80]", "[x/80]")):
        text = text.replace(right, wrong)
    problems = problems_of(write(text))
    assert [problem.key for problem in problems] == [
        "gateway.mtu",
        "connections.site-b.encape",
        "connections.site-b.children.net.remote_ts[0]",
    ]
    assert str(problems[0]).endswith("gw.toml:6: gateway.mtu = 0: expected a whole number from 576 to 65535")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[gateway\n", "is not valid TOML"),
        ("a = 1\na = 2\n", "is not valid TOML"),
        ("", "missing: give at least one [connections.NAME]"),
        ("[connections]\n", None),
        ("connections = 5\n", "is a table"),
        (MINIMAL.replace(".children.net", ".children"), "missing: give at least one [connections.b.children.NAME]"),
        (MINIMAL.replace("connections.b.children.net", 'connections.b.children."a/b"'), "letters, digits"),
        (MINIMAL.replace('local_addrs = "192.0.2.1"', ""), "write who this gateway is"),
        (MINIMAL.replace('secret = "s"', ""), "missing: the pre-shared key"),
        (MINIMAL + 'ids = ["peer.test"]\n', None),
        (MINIMAL.replace('secret = "s"', "secrt = 's'"), "did you mean 'secret'?"),
        (MINIMAL + "[gatway]\ntun = 'x'\n", "did you mean 'gateway'?"),
    ],
)
def test_files_that_are_wrong_as_a_whole(write: Write, text: str, words: str | None) -> None:
    file = write(text, secrets=None)
    if words is None and "connections.b" in text:
        assert load_config(file).connections[0].secrets  # the peer's identity is open, any key may be its
    elif words is not None:
        assert any(words in problem.message for problem in problems_of(file))
    else:
        assert problems_of(file)


def test_no_secret_for_the_identities_of_a_connection(write: Write) -> None:
    (problem,) = problems_of(write(GOOD, SECRETS.split("[secrets.everybody]")[0].replace("b.test", "c.test")))
    assert problem.key == "connections.site-b.remote.id"
    assert "no secret for a.test and b.test" in problem.message


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o660, 0o666])
def test_a_secrets_file_that_others_can_use_is_refused(write: Write, mode: int) -> None:
    (problem, *_) = problems_of(write(GOOD, mode=mode))
    assert problem.key == "gateway.secrets"
    assert f"(mode {mode:04o}): chmod 600 it" in problem.message


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_secrets_file_of_the_owner_alone_is_taken(write: Write, mode: int) -> None:
    assert load_config(write(GOOD, mode=mode)).connections[0].secrets


def test_secrets_in_a_readable_configuration_are_warned_of(write: Write) -> None:
    file = write(MINIMAL, secrets=None)
    file.chmod(0o644)
    (warning,) = load_config(file).warnings
    assert warning.key == "secrets"
    assert "chmod 600" in warning.message


@pytest.mark.parametrize(
    "secrets",
    [
        '[secrets.x]\nsecret = "0xTOPSECRET"',
        '[secrets.x]\nsecret = ["TOPSECRET"]',
        '[secrets.x]\nsecrt = "TOPSECRET"',
        'secret = "TOPSECRET"',
        '[secrets.x]\nsecret = "0sTOPSECRET!"',
        'secrets = "TOPSECRET"',
    ],
)
def test_a_wrong_secret_is_never_printed(write: Write, secrets: str) -> None:
    text = "\n".join(str(problem) for problem in problems_of(write(GOOD, secrets)))
    assert "TOPSECRET" not in text
    assert "secrets.toml" in text


def test_connections_and_children_that_hide_one_another_are_warned_of(write: Write) -> None:
    second = MINIMAL.split("[secrets")[0].replace("connections.b", "connections.c").replace("192.0.2.2", "192.0.2.3")
    ts = 'local_ts = "10.1.0.0/16"\nremote_ts = "10.2.0.0/16"\n'
    text = MINIMAL.replace("[secrets", ts + second + ts.replace("/16", "/24") + "[secrets")
    text += '[[policies]]\naction = "discard"\ndestination = "10.0.0.0/8"\n'
    config = load_config(write(text, secrets=None))
    assert [warning.key for warning in config.warnings] == ["connections.c.children.net", "policies[0]", "policies[0]"]
    assert "b/net comes first" in config.warnings[0].message


def test_key_text() -> None:
    assert key_text(("connections", "b", "proposals", 0)) == "connections.b.proposals[0]"


def test_workers(write: Write) -> None:
    config = load_config(write(GOOD.replace("mtu = 1400", 'workers = 3\npoll = "busy"\npin = [4, 2, 0]')))
    assert (config.workers, config.poll, config.pin) == (3, PollMode.BUSY, (4, 2, 0))
    config = load_config(write(GOOD.replace("mtu = 1400", 'workers = "auto"\npin = true')))
    assert (config.workers, config.poll, config.pin) == (None, PollMode.SLEEP, True)
