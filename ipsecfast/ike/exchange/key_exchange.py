"""Key exchanges as work that a handler waits for (`work`), and what each method costs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from types import MappingProxyType

from ipsecfast.ike.constants import KeGroup
from ipsecfast.ike.context import Context
from ipsecfast.ike.crypto.primitives import (
    MODP_GROUPS,
    KeyExchange,
    answer_key_exchange,
    draw_private,
    make_key_exchange,
)
from ipsecfast.ike.work import Steps, Work, result_of

# Seconds of one CPU of 2.5 GHz to make a value, and to make the secret from it and the peer's value.
SECONDS: Mapping[int, tuple[float, float]] = MappingProxyType(
    {
        KeGroup.CURVE25519: (0.00004, 0.00005),
        KeGroup.CURVE448: (0.0002, 0.0003),
        KeGroup.ECP_256: (0.00005, 0.0001),
        KeGroup.ECP_384: (0.0004, 0.0004),
        KeGroup.ECP_521: (0.0005, 0.0005),
        KeGroup.BRAINPOOL_P256R1: (0.0008, 0.0006),
        KeGroup.BRAINPOOL_P384R1: (0.0025, 0.0009),
        KeGroup.BRAINPOOL_P512R1: (0.0045, 0.0019),
        KeGroup.MODP_2048: (0.0006, 0.0006),
        KeGroup.MODP_3072: (0.0016, 0.0016),
        KeGroup.MODP_4096: (0.0034, 0.0034),
        KeGroup.MODP_6144: (0.0085, 0.0085),
        KeGroup.MODP_8192: (0.016, 0.016),
        KeGroup.ML_KEM_768: (0.0002, 0.0001),
        KeGroup.ML_KEM_1024: (0.0003, 0.0001),
    }
)
# `cryptography` lets other threads run while it signs or multiplies points, not while it raises to powers.
_HOLDS_INTERPRETER = frozenset(MODP_GROUPS)


def generate(context: Context, group: int) -> Steps[tuple[KeyExchange, float]]:
    """The initiator's half, with a fresh private key."""
    call = partial(make_key_exchange, group, draw_private(group, context.random))
    return (yield from result_of(Work(call, SECONDS[group][0], group in _HOLDS_INTERPRETER)))


def shared_secret(ours: KeyExchange, peer_public: bytes) -> Steps[tuple[bytes, float]]:
    """The end of the initiator's half. Raises InvalidSyntax for a value of the peer's that can't be used."""
    call = partial(ours.shared_secret, peer_public)
    return (yield from result_of(Work(call, SECONDS[ours.group][1], ours.group in _HOLDS_INTERPRETER)))


def respond(context: Context, group: int, peer_public: bytes) -> Steps[tuple[tuple[bytes, bytes], float]]:
    """The responder's half: what goes into its KE payload, and the secret. Raises InvalidSyntax likewise."""
    call = partial(answer_key_exchange, group, draw_private(group, context.random), peer_public)
    return (yield from result_of(Work(call, sum(SECONDS[group]), group in _HOLDS_INTERPRETER)))
