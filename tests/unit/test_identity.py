"""Identities, and the patterns by which operators mean many of them at once."""

from __future__ import annotations

import pytest

from ipsecfast.config import values
from ipsecfast.identity import EXACT, Identity


def one(text: str) -> Identity:
    identity = values.identity(text)
    assert identity is not None
    return identity


@pytest.mark.parametrize(
    ("pattern", "peer"),
    [
        ("*.example.org", "gw.example.org"),
        ("*.example.org", "a.b.Example.ORG"),
        ("*", "anything"),
        ("*@example.org", "jo@EXAMPLE.org"),
        ("C=CH, O=Example, CN=*", "C=CH, O=example, CN=gw 1"),
        ("O=*, CN=*", "O=x, CN=y"),
    ],
)
def test_patterns_cover(pattern: str, peer: str) -> None:
    assert one(pattern).is_pattern
    assert not one(peer).is_pattern
    assert 0 < one(pattern).covers(one(peer)) < EXACT
    assert one(peer).covers(one(peer)) == EXACT
    assert not one(peer).covers(one(pattern))


@pytest.mark.parametrize(
    ("pattern", "peer"),
    [
        ("*.example.org", "example.org"),
        ("*.example.org", ".example.org"),
        ("*.example.org", "gw.example.org.evil.test"),
        ("*.example.org", "gw.badexample.org"),
        ("*.example.org", "jo@gw.example.org"),
        ("*@example.org", "gw.example.org"),
        ("C=CH, O=Example, CN=*", "C=CH, O=Other, CN=gw"),
        ("C=CH, O=Example, CN=*", "C=CH, O=Example, OU=x, CN=gw"),
        ("C=CH, O=Example, CN=*", "CN=gw, O=Example, C=CH"),
        ("gw.example.org", "gw2.example.org"),
        ("*.2.1", "192.0.2.1"),
    ],
)
def test_patterns_do_not_cover(pattern: str, peer: str) -> None:
    assert one(pattern).covers(one(peer)) == 0


def test_the_longer_pattern_is_the_more_exact_one() -> None:
    peer = one("gw.lab.example.org")
    ranks = [one(p).covers(peer) for p in ("*", "*.org", "*.example.org", "*.lab.example.org", "gw.lab.example.org")]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)


def test_names_are_the_same_in_any_case() -> None:
    assert one("GW.example.org").same_as(one("gw.Example.org"))
    assert not one("@#0a").same_as(Identity(11, b"\x0b"))
    assert not Identity(2, b"a").same_as(Identity(3, b"a"))


@pytest.mark.parametrize("text", ["%any", "*.example.org", "CN=*"])
def test_who_we_are_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match="remote side only"):
        values.required_identity(text)


def test_secrets_may_be_for_a_pattern() -> None:
    assert values.identity_or_pattern("*.example.org") == one("*.example.org")
    with pytest.raises(ValueError, match="a pattern such as"):
        values.identity_or_pattern("%any")
