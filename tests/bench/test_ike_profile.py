"""Where a sample of the gateway's CPU time is counted."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any, cast

import pytest

from ipsecfast.bench.ike_profile import (
    CRYPTOGRAPHY,
    GROUPS,
    INSTALLATION,
    PARSING,
    REST,
    ROOT,
    STATE_MACHINE,
    Sampler,
    group_of,
)


def stack(*files: str) -> FrameType | None:
    """Frames of functions in these files, the innermost first."""
    frame: Any = None
    for file in reversed(files):
        frame = SimpleNamespace(f_code=cast(CodeType, SimpleNamespace(co_filename=file)), f_back=frame)
    return cast("FrameType | None", frame)


@pytest.mark.parametrize(
    ("files", "group"),
    [
        (("/usr/lib/python3/hmac.py", f"{ROOT}ike/crypto/primitives.py", f"{ROOT}ike/sa.py"), CRYPTOGRAPHY),
        (("<string>", f"{ROOT}model.py", f"{ROOT}ike/wire/payloads.py", f"{ROOT}ike/sa.py"), PARSING),
        ((f"{ROOT}ike/wire/selectors.py", f"{ROOT}ike/exchange/ike_auth.py"), STATE_MACHINE),
        ((f"{ROOT}ike/exchange/ike_auth.py", f"{ROOT}gateway.py"), STATE_MACHINE),
        (("/usr/lib/python3/ipaddress.py", f"{ROOT}sockets.py", f"{ROOT}gateway.py"), INSTALLATION),
        (("/usr/lib/python3/logging/__init__.py", f"{ROOT}logs.py", f"{ROOT}gateway.py"), REST),
        (("/usr/lib/python3/asyncio/events.py",), REST),
        ((), REST),
    ],
)
def test_a_sample_belongs_to_the_innermost_code_of_the_package(files: tuple[str, ...], group: str) -> None:
    assert group_of(stack(*files)) == group


def test_what_was_sampled_is_written(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGPROF)
    sampler = Sampler(tmp_path / "shares.json")
    signal.signal(signal.SIGPROF, signal.SIG_IGN)
    try:
        sampler.begin(signal.SIGUSR1, None)
        for file in ("ike/sa.py", "ike/crypto/keymat.py", "ike/sa.py"):
            sampler.sample(signal.SIGPROF, stack(ROOT + file))
        sampler.end(signal.SIGUSR2, None)
    finally:
        signal.signal(signal.SIGPROF, before)
    expected = dict.fromkeys(GROUPS, 0) | {STATE_MACHINE: 2, CRYPTOGRAPHY: 1}
    assert json.loads((tmp_path / "shares.json").read_text()) == expected
