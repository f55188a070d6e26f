"""Puzzles (RFC 8019): under attack an initiator has to compute for a while before we keep anything of it.

                         <--  HDR(A,0), N(COOKIE), N(PUZZLE)(PRF, difficulty)
HDR(A,0), N(COOKIE), PS(K1 | K2 | K3 | K4), SAi1, KEi, Ni ...  -->

Four different keys, for each of which PRF(Ki, cookie) ends with as many zero bits as the puzzle says (s3, s7.1). The
cookie carries the puzzle, so nothing is kept. Puzzles in IKE_AUTH (s7.2) are neither set nor solved: what a half-open
IKE SA costs us is paid with its first puzzle, and the limits for each source hold what may come after.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ipsecfast.ike.constants import NotifyType, PrfId
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import PuzzleSolutionPayload, SaPayload
from ipsecfast.ike.work import Steps, Work, result_of
from ipsecfast.model import TransformType

if TYPE_CHECKING:
    from ipsecfast.ike.sa import IkeSa

KEYS: Final = 4
KEY_LENGTH: Final = 8
LONGEST_KEY: Final = 64  # octets of a key of the peer's: hashing longer ones is work that it could make us do
DATA_LENGTH: Final = 3
UNSPECIFIED: Final = 12  # bits that we solve where the responder leaves it to us (s7.1.1.1: difficulty 0)
PATIENCE: Final = 16  # times the expected number of attempts
SECONDS: Final = 0.0000015  # of one attempt
HASHES: Mapping[int, str] = MappingProxyType(
    {PrfId.PRF_HMAC_SHA2_256: "sha256", PrfId.PRF_HMAC_SHA2_384: "sha384", PrfId.PRF_HMAC_SHA2_512: "sha512"}
)


@dataclass(frozen=True, slots=True)
class Puzzle:
    """s8.1: the PRF of the initiator's proposals that is to be used, and how many zero bits. (0, 0): there is none."""

    prf: int = 0
    difficulty: int = 0

    def encode(self) -> bytes:
        return self.prf.to_bytes(2, "big") + bytes([self.difficulty])

    @classmethod
    def parse(cls, data: bytes) -> Puzzle | None:
        if len(data) != DATA_LENGTH:
            return None
        return cls(int.from_bytes(data[:2], "big"), data[2])


NO_PUZZLE = Puzzle()


def make(message: Message, difficulty: int) -> Puzzle:
    """For the initiator of IKE_SA_INIT; none if it offers no PRF that we have."""
    if not difficulty:
        return NO_PUZZLE
    sa = message.get(SaPayload)
    offered = (t.id for p in (sa.proposals if sa else ()) for t in p.transforms if t.type == TransformType.PRF)
    prf = next((prf for prf in offered if prf in HASHES), None)
    return NO_PUZZLE if prf is None else Puzzle(prf, difficulty)


def solved(puzzle: Puzzle, cookie: bytes, solution: PuzzleSolutionPayload | None) -> bool:
    """s7.1.4: four different keys of one length, each of them right."""
    if solution is None or puzzle.prf not in HASHES:
        return False
    length, rest = divmod(len(solution.data), KEYS)
    if rest or not 0 < length <= LONGEST_KEY:
        return False
    keys = {solution.data[at : at + length] for at in range(0, len(solution.data), length)}
    return len(keys) == KEYS and all(_fits(HASHES[puzzle.prf], key, cookie, puzzle.difficulty) for key in keys)


def _fits(algorithm: str, key: bytes, cookie: bytes, difficulty: int) -> bool:
    value = int.from_bytes(hmac.digest(key, cookie, algorithm), "big")
    return not value & ((1 << difficulty) - 1)


def solve(sa: IkeSa, message: Message, cookie: bytes) -> Steps[PuzzleSolutionPayload | None]:
    """The initiator's side; None where there is no puzzle, or none that we would or could solve: then the cookie goes
    back alone, as from those who know no puzzles (s7.1.2)."""
    notify = message.notify(NotifyType.PUZZLE)
    puzzle = Puzzle.parse(notify.data) if notify else None
    if puzzle is None:
        return None
    limit = sa.context.settings.puzzle_limit
    if puzzle.prf not in HASHES or puzzle.difficulty > limit:
        text = f"the peer sets a puzzle of {puzzle.difficulty} bits with PRF {puzzle.prf}; we solve up to {limit}"
        sa.note("puzzle-refused", text, warning=True)
        return None
    difficulty = puzzle.difficulty or min(UNSPECIFIED, limit)
    start = int.from_bytes(sa.context.random(KEY_LENGTH), "big")
    call = partial(search, HASHES[puzzle.prf], cookie, difficulty, start)
    keys, _ = yield from result_of(Work(call, SECONDS * KEYS * 2**difficulty, holds_interpreter=True))
    if keys is None:
        return None
    sa.note("puzzle-solved", f"the peer is busy and sets a puzzle of {difficulty} bits: solved")
    return PuzzleSolutionPayload(keys)


def search(algorithm: str, cookie: bytes, difficulty: int, start: int) -> bytes | None:
    """K1 | K2 | K3 | K4; None after so many attempts that chance is no excuse."""
    found = []
    for number in range(start, start + PATIENCE * KEYS * 2**difficulty):
        key = (number % 2 ** (8 * KEY_LENGTH)).to_bytes(KEY_LENGTH, "big")
        if _fits(algorithm, key, cookie, difficulty):
            found.append(key)
            if len(found) == KEYS:
                return b"".join(found)
    return None
