"""The directory of what outlives a restart: made, kept, locked, and refused where others could read it."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from ipsecfast.errors import SetupError
from ipsecfast.ike.lasting import FORGETFUL, Lasting, TicketKey
from ipsecfast.state import SECRETS, kept_state

KEYS = (TicketKey(b"8 octets", b"k" * 32, 1234.5),)
SECRET_AND = f'{{"crash_secret": "{"00" * 32}", "ticket_keys": '


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_secret_is_made_once_and_found_again(tmp_path: Path) -> None:
    directory = tmp_path / "lib" / "ipsecfast"
    with kept_state(str(directory)) as first:
        assert len(first.lasting.crash_secret) == 32
    with kept_state(str(directory)) as second:
        assert second.lasting == first.lasting
    assert mode(directory) == 0o700
    assert mode(directory / SECRETS) == 0o600
    assert sorted(os.listdir(directory)) == [SECRETS]


def test_without_a_directory_nothing_lasts() -> None:
    with kept_state(None) as state:
        assert state.lasting is FORGETFUL
        state.keep(Lasting(b"", KEYS))
        assert state.lasting.ticket_keys == KEYS


def test_ticket_keys_are_kept(tmp_path: Path) -> None:
    directory = str(tmp_path / "state")
    with kept_state(directory) as first:
        first.keep(replace(first.lasting, ticket_keys=KEYS))
    with kept_state(directory) as second:
        assert second.lasting == Lasting(first.lasting.crash_secret, KEYS)
    assert "key=" not in repr(second.lasting)
    assert mode(tmp_path / "state" / SECRETS) == 0o600


def test_each_gateway_has_its_own(tmp_path: Path) -> None:
    with (
        kept_state(str(tmp_path / "a")),
        pytest.raises(SetupError, match="another gateway that runs"),
        kept_state(str(tmp_path / "a")),
    ):
        pass


@pytest.mark.parametrize("what", ["", SECRETS])
def test_what_others_can_read_is_refused(tmp_path: Path, what: str) -> None:
    directory = tmp_path / "state"
    with kept_state(str(directory)):
        pass
    (directory / what).chmod(0o750)
    with pytest.raises(SetupError, match="group or others can use"), kept_state(str(directory)):
        pass


@pytest.mark.parametrize(
    "text",
    ["", "[]", "nothing", '{"crash_secret": 1}', '{"crash_secret": "0102"}', SECRET_AND + "1}", SECRET_AND + "[{}]}",
     SECRET_AND + '[{"number": "00", "key": "00", "made": 1}]}'],
)  # fmt: skip
def test_a_file_of_somebody_else_is_not_used_and_not_overwritten(tmp_path: Path, text: str) -> None:
    directory = tmp_path / "state"
    with kept_state(str(directory)):
        pass
    (directory / SECRETS).write_text(text)
    with pytest.raises(SetupError, match="remove it"), kept_state(str(directory)):
        pass
    assert (directory / SECRETS).read_text() == text


def test_what_a_later_version_keeps_stays(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir(0o700)
    (directory / SECRETS).touch(0o600)
    (directory / SECRETS).write_text('{"more": 1}')
    with kept_state(str(directory)):
        pass
    assert json.loads((directory / SECRETS).read_text())["more"] == 1


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="can't be used: Not a directory"), kept_state(str(tmp_path / "file" / "x")):
        pass
