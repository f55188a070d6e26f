"""What the data plane does not take of a Child SA leaves nothing behind, and its end is no second failure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from samples import as_inbound, sa_params

from ipsecfast.config import load_config
from ipsecfast.errors import DataPlaneError
from ipsecfast.forwarding import Forwarding
from ipsecfast.netlink import Netlink

CONFIG = """
[connections.ab]
local_addrs = "192.0.2.1"
remote_addrs = "192.0.2.2"
local.id = "a"
remote.id = "b"
children.net = { local_ts = "10.1.0.0/16", remote_ts = "10.2.0.0/16" }
[secrets.ab]
secret = "only for tests"
"""


@pytest.mark.parametrize("half", ["inbound", "outbound"])
def test_neither_half_stays_and_nothing_else_is_told(tmp_path: Path, half: str) -> None:
    file = tmp_path / "gw.toml"
    file.write_text(CONFIG)
    config = load_config(file)
    inbound, outbound = as_inbound(sa_params(0x00100001)), sa_params(0x2001)
    if half == "inbound":
        inbound = replace(inbound, encryption=1)  # a cipher that it does not have
    else:
        outbound = replace(outbound, encryption=1)
    forwarding = Forwarding(config, config.connections, Netlink())
    for _ in range(2):  # a second try is refused and forgotten as the first
        with pytest.raises(DataPlaneError):
            forwarding.install(("ab", "net"), inbound, outbound, activate=True)
        assert len(forwarding.sa_stats()) == 0
        forwarding.activate(outbound.reqid, outbound.spi)
        forwarding.remove(outbound.reqid, inbound.spi, outbound.spi)
    with pytest.raises(DataPlaneError):  # but the end of what never was anybody's is a mistake of ours, as ever
        forwarding.remove(outbound.reqid, inbound.spi, outbound.spi)
