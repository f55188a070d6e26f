"""Proposals (RFC 7296 s3.3): the operator's words, the wire, and the choice between what is offered and configured.

The words are strongSwan's (`aes128gcm16-prfsha256-x25519`); their table is `constants.ALGORITHMS`.
"""

from __future__ import annotations

import difflib
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

from ipsecfast.ike.constants import (
    ADDITIONAL_KES,
    ESP_SPI_LENGTH,
    ML_KEM,
    SPI_LENGTH,
    TRANSFORM_IDS,
    IntegId,
    InvalidSyntax,
    KeGroup,
    NoProposalChosen,
    SequenceNumbersId,
)
from ipsecfast.ike.crypto.algorithms import ALGORITHMS, BY_KEYWORD, BY_TRANSFORM, Algorithm
from ipsecfast.ike.crypto.primitives import HAS_ML_KEM
from ipsecfast.ike.wire.mismatch import Field, Mismatch
from ipsecfast.model import Proposal, ProtocolId, Transform, TransformType

PROPOSAL_HEADER = struct.Struct(">BxHBBBB")  # last or more, length, number, protocol, SPI size, number of transforms
TRANSFORM_HEADER = struct.Struct(">BxHBxH")  # last or more, length, type, ID
ATTRIBUTE_HEADER = struct.Struct(">HH")  # format bit and type, value or length
MORE_PROPOSALS, MORE_TRANSFORMS = 2, 3
FIXED_VALUE = 0x8000  # s3.3.5: the attribute's value stands where the length would
KEY_LENGTH_ATTRIBUTE = 14
MAX_REMEMBERED = 32  # transforms of a proposal, of those that are offered again and again
TRANSFORM_LENGTH = TRANSFORM_HEADER.size + ATTRIBUTE_HEADER.size

_TYPE_WORDS = {
    TransformType.ENCR: "encryption",
    TransformType.PRF: "PRF",
    TransformType.INTEG: "integrity",
    TransformType.KE: "key exchange",
    TransformType.SN: "sequence numbers",
    **{kind: f"additional key exchange {number}" for number, kind in enumerate(ADDITIONAL_KES, 1)},
}
_FIELDS = {
    TransformType.ENCR: Field.ENCRYPTION,
    TransformType.PRF: Field.PRF,
    TransformType.INTEG: Field.INTEGRITY,
    TransformType.KE: Field.KEY_EXCHANGE,
    TransformType.SN: Field.SEQUENCE_NUMBERS,
    **dict.fromkeys(ADDITIONAL_KES, Field.ADDITIONAL_KEY_EXCHANGE),
}
_KEY_EXCHANGES = frozenset({TransformType.KE, *ADDITIONAL_KES})
# What the absence of a transform type means (s3.3.2, s3.3.3): a proposal without it agrees with one that offers this.
_ABSENT = {
    TransformType.INTEG: Transform(TransformType.INTEG, IntegId.NONE),
    TransformType.KE: Transform(TransformType.KE, KeGroup.NONE),
    TransformType.SN: Transform(TransformType.SN, SequenceNumbersId.SEQUENTIAL_32),
    **{kind: Transform(kind, KeGroup.NONE) for kind in ADDITIONAL_KES},
}
_TYPES_OF = {
    ProtocolId.IKE: (TransformType.ENCR, TransformType.PRF, TransformType.INTEG, *_KEY_EXCHANGES),
    ProtocolId.ESP: (TransformType.ENCR, TransformType.INTEG, TransformType.SN, *_KEY_EXCHANGES),
}
_MAX_SHOWN = 8


class ProposalError(ValueError):
    """A proposal that an operator wrote can't work; the text says what would be right."""


# -- the operator's words ------------------------------------------------------------------------------------------


def parse_proposal(text: str, protocol: ProtocolId, number: int = 1) -> Proposal:
    """`aes128gcm16-prfsha256-x25519` as a Proposal for IKE or ESP, transforms ordered by type, then as written.

    IKE: a PRF that is not written follows from the integrity algorithm, which an AEAD otherwise has no use for. ESP:
    `noesn` where neither `esn` nor `noesn` is written, both in the order of preference where both are.

    Raises:
        ProposalError: an unknown word, or a combination that can't work.
    """
    if not text.strip():
        raise ProposalError("no algorithms; write for example aes128gcm16-prfsha256-x25519")
    rows = [_row(word, protocol) for word in text.strip().lower().split("-")]
    transforms = list(dict.fromkeys(row.transform for row in rows))
    if len(transforms) != len(rows):
        raise ProposalError(f"an algorithm stands twice in '{text}'")
    _check_encryption(rows, protocol)
    if protocol == ProtocolId.IKE:
        transforms = _complete_ike(rows, transforms)
    elif not _of_type(transforms, TransformType.SN):
        transforms.append(_ABSENT[TransformType.SN])
    proposal = Proposal(protocol, tuple(sorted(transforms, key=lambda t: t.type)), number=number)
    _check_additional(proposal)
    return proposal


def _check_additional(proposal: Proposal) -> None:
    """RFC 9370 s2.2.2: an additional key exchange follows a first one, and each is of another method."""
    types = _by_type(proposal.transforms)
    words = [transform_text(t) for t in proposal.transforms if t.type in ADDITIONAL_KES]
    if words and TransformType.KE not in types:
        raise ProposalError(f"'{words[0]}' adds to a first key exchange; write one too, such as x25519-{words[0]}")
    if words and _match(proposal, proposal)[1] is not None:
        raise ProposalError(f"each key exchange needs a method that no other one has taken; see '{words[-1]}'")


def _row(word: str, protocol: ProtocolId) -> Algorithm:
    row = BY_KEYWORD.get(word)
    if row is not None and row.missing:
        raise ProposalError(f"'{word}' can't be used: {row.missing}")
    if row is not None and _usable(row, protocol):
        if row.transform.type in _KEY_EXCHANGES and row.transform.id in ML_KEM and not HAS_ML_KEM:
            raise ProposalError(f"'{word}' needs the Python package cryptography built on OpenSSL 3.5 or newer")
        return row
    usable = [r for r in ALGORITHMS if _usable(r, protocol)]
    shown = [r.keyword for r in usable if r.transform.type not in ADDITIONAL_KES]
    if row is not None:
        instead = ", ".join(r.keyword for r in usable if r.transform.type == row.transform.type)
        hint = f"use one of {instead}" if instead else "leave it out"
        raise ProposalError(f"'{word}' can't be used for {protocol.name}; {hint}")
    close = difflib.get_close_matches(word, [w for r in usable for w in (r.keyword, *r.aliases)], n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(shown)}, and ke1_mlkem768 and the like"
    raise ProposalError(f"no algorithm is called '{word}'; {hint}")


def _usable(row: Algorithm, protocol: ProtocolId) -> bool:
    possible = row.transform.type in _TYPES_OF[protocol] and not row.missing
    return possible and (protocol == ProtocolId.IKE or row.esp)


def _check_encryption(rows: Sequence[Algorithm], protocol: ProtocolId) -> None:
    encryption = [row for row in rows if row.transform.type == TransformType.ENCR]
    if not encryption:
        raise ProposalError("no encryption algorithm; begin with one, such as aes128gcm16")
    aead = [row.keyword for row in encryption if row.aead]
    plain = [row.keyword for row in encryption if not row.aead]
    if aead and plain:
        raise ProposalError(
            f"{aead[0]} needs no integrity algorithm and {plain[0]} needs one (RFC 5282 s8); write two proposals"
        )
    if plain and not any(row.transform.type == TransformType.INTEG for row in rows):
        raise ProposalError(f"{plain[0]} needs an integrity algorithm, such as {plain[0]}-sha256")


def _complete_ike(rows: Sequence[Algorithm], transforms: list[Transform]) -> list[Transform]:
    if not _of_type(transforms, TransformType.KE):
        raise ProposalError("no key exchange method; end with one, such as x25519")
    if not _of_type(transforms, TransformType.PRF):
        implied = dict.fromkeys(row.implied_prf for row in rows if row.implied_prf is not None)
        transforms += [Transform(TransformType.PRF, prf) for prf in implied]
    if not _of_type(transforms, TransformType.PRF):
        raise ProposalError("no PRF; add one, such as prfsha256")
    aead = any(row.aead for row in rows)
    return [t for t in transforms if not (aead and t.type == TransformType.INTEG)]


def proposal_text(proposal: Proposal) -> str:
    """The proposal in the words that `parse_proposal` takes; `noesn` is left out where it is all there is."""
    return (_transforms_text if _is_long(proposal.transforms) else _remembered_text)(proposal.transforms)


def _transforms_text(transforms: tuple[Transform, ...]) -> str:
    words = [transform_text(t) for t in transforms]
    if _of_type(transforms, TransformType.SN) == [_ABSENT[TransformType.SN]]:
        words = [word for word in words if word != "noesn"]
    return "-".join(words)


_remembered_text = lru_cache(256)(_transforms_text)


def _is_long(transforms: Sequence[Transform]) -> bool:
    """Too long to be remembered: a stranger chose it."""
    return len(transforms) > MAX_REMEMBERED or any(t.other_attributes for t in transforms)


def transform_text(transform: Transform) -> str:
    """The keyword of a transform, else IANA's name, else its numbers; for logs and `status`."""
    row = BY_TRANSFORM.get(transform)
    if row:
        return row.keyword
    ids = TRANSFORM_IDS.get(transform.type)
    if ids and transform.id in ids.__members__.values():
        name = ids(transform.id).name
    else:
        name = f"{transform.type.name}_{transform.id}"
    return name + (f"_{transform.key_bits}" if transform.key_bits else "") + ("+" if transform.other_attributes else "")


def group_text(group: int) -> str:
    """The keyword of a key exchange method."""
    return transform_text(Transform(TransformType.KE, group))


# -- the wire ------------------------------------------------------------------------------------------------------


def encode_proposals(proposals: Sequence[Proposal]) -> bytes:
    """The body of an SA payload (s3.3)."""
    return b"".join(_encode_proposal(p, last=i + 1 == len(proposals)) for i, p in enumerate(proposals))


def _encode_proposal(proposal: Proposal, last: bool) -> bytes:
    count = len(proposal.transforms)
    transforms = b"".join(_encode_transform(t, last=i + 1 == count) for i, t in enumerate(proposal.transforms))
    length = PROPOSAL_HEADER.size + len(proposal.spi) + len(transforms)
    header = PROPOSAL_HEADER.pack(
        0 if last else MORE_PROPOSALS, length, proposal.number, proposal.protocol, len(proposal.spi), count
    )
    return header + proposal.spi + transforms


def _encode_transform(transform: Transform, last: bool) -> bytes:
    attributes = transform.other_attributes
    if transform.key_bits:
        attributes = ATTRIBUTE_HEADER.pack(FIXED_VALUE | KEY_LENGTH_ATTRIBUTE, transform.key_bits) + attributes
    length = TRANSFORM_HEADER.size + len(attributes)
    return TRANSFORM_HEADER.pack(0 if last else MORE_TRANSFORMS, length, transform.type, transform.id) + attributes


def decode_proposals(body: bytes) -> tuple[Proposal, ...]:
    """The proposals of an SA payload, unknown protocols, types and numbers included.

    Raises:
        InvalidSyntax: lengths, counts or "last" marks contradict each other, or there is no proposal.
    """
    proposals = []
    more, offset = MORE_PROPOSALS, 0
    while more == MORE_PROPOSALS:
        more, length = _substructure(body, offset, PROPOSAL_HEADER, "proposal")
        proposals.append(_decode_proposal(body[offset : offset + length]))
        offset += length
    if more != 0 or offset != len(body):
        raise InvalidSyntax("SA payload: the last proposal is not where the payload ends")
    return tuple(proposals)


def _substructure(body: bytes, offset: int, header: struct.Struct, what: str) -> tuple[int, int]:
    """The "last or more" octet and the checked length of the substructure at `offset`."""
    if offset + header.size > len(body):
        raise InvalidSyntax(f"SA payload: a {what} is cut short")
    more, length = body[offset], int.from_bytes(body[offset + 2 : offset + 4], "big")
    if not header.size <= length <= len(body) - offset:
        raise InvalidSyntax(f"SA payload: a {what} of {length} octets does not fit")
    return more, length


def _decode_proposal(data: bytes) -> Proposal:
    _, _, number, protocol, spi_size, count = PROPOSAL_HEADER.unpack_from(data)
    offset = PROPOSAL_HEADER.size + spi_size
    if offset > len(data) or not _spi_size_fits(protocol, spi_size):
        raise InvalidSyntax(f"SA payload: an SPI of {spi_size} octets for protocol {protocol}")
    spi = data[PROPOSAL_HEADER.size : offset]
    return Proposal(ProtocolId(protocol), _transforms(count, data[offset:]), spi, number)


def _transforms(count: int, data: bytes) -> tuple[Transform, ...]:
    long = len(data) > MAX_REMEMBERED * TRANSFORM_LENGTH
    return (_decode_transforms if long else _remembered_transforms)(count, data)


def _decode_transforms(count: int, data: bytes) -> tuple[Transform, ...]:
    transforms, offset = [], 0
    for index in range(count):
        more, length = _substructure(data, offset, TRANSFORM_HEADER, "transform")
        if more != (0 if index + 1 == count else MORE_TRANSFORMS):
            raise InvalidSyntax(f"SA payload: the number of transforms, {count}, and the last transform differ")
        transforms.append(_decode_transform(data[offset : offset + length]))
        offset += length
    if offset != len(data):
        raise InvalidSyntax("SA payload: octets after the last transform")
    return tuple(transforms)


_remembered_transforms = lru_cache(256)(_decode_transforms)


def _spi_size_fits(protocol: int, size: int) -> bool:
    if protocol == ProtocolId.IKE:
        return size in (0, SPI_LENGTH)
    return size == ESP_SPI_LENGTH or protocol not in (ProtocolId.AH, ProtocolId.ESP)


def _decode_transform(data: bytes) -> Transform:
    _, _, kind, number = TRANSFORM_HEADER.unpack_from(data)
    key_bits, other = 0, b""
    offset = TRANSFORM_HEADER.size
    while offset < len(data):
        attribute = _attribute(data, offset)
        name, value = ATTRIBUTE_HEADER.unpack_from(attribute)
        if name == FIXED_VALUE | KEY_LENGTH_ATTRIBUTE and value and not key_bits:
            key_bits = value
        else:
            other += attribute
        offset += len(attribute)
    return Transform(TransformType(kind), number, key_bits, other)


def _attribute(data: bytes, offset: int) -> bytes:
    """s3.3.5: 4 octets, or 4 octets and as many as they say."""
    end = offset + ATTRIBUTE_HEADER.size
    if end > len(data):
        raise InvalidSyntax("SA payload: a transform attribute is cut short")
    name, length = ATTRIBUTE_HEADER.unpack_from(data, offset)
    if not name & FIXED_VALUE:
        end += length
    if end > len(data):
        raise InvalidSyntax(f"SA payload: a transform attribute of {length} octets does not fit")
    return data[offset:end]


# -- the choice ----------------------------------------------------------------------------------------------------


def select(offered: Sequence[Proposal], configured: Sequence[Proposal], *, ignore_ke: bool = False) -> Proposal:
    """What the responder accepts (s2.7): its own first configured proposal, and in it its own order, decide.

    The answer keeps number and SPI of the offered proposal (the caller puts its own SPI in) and holds exactly one
    transform of each type that was offered. `ignore_ke` is for the first Child SA, which has no key exchange of its
    own (s1.2): key exchange transforms of both sides are passed over and none is in the answer.

    Raises:
        NoProposalChosen: nothing fits; the text is `mismatch_text`, with the mismatch itself.
    """
    if ignore_ke:
        offered, configured = [without_ke(p) for p in offered], [without_ke(p) for p in configured]
    for ours in configured:
        for theirs in offered:
            chosen, missing = _match(theirs, ours)
            if missing is None:
                return _with(theirs, chosen)
    raise NoProposalChosen(mismatch_text(offered, configured)).about(mismatch(offered, configured))


def accept_answer(answer: Sequence[Proposal], offered: Sequence[Proposal], *, ignore_ke: bool = False) -> Proposal:
    """The initiator's check of the responder's choice (s2.7): one proposal, one transform a type, all of it offered.

    Raises:
        NoProposalChosen: the responder answered with what was not offered.
    """
    if len(answer) != 1:
        raise NoProposalChosen(f"the peer answered with {len(answer)} proposals instead of one")
    types = [t.type for t in answer[0].transforms]
    if len(set(types)) != len(types):
        raise NoProposalChosen(f"the peer answered with a choice of its own: {proposal_text(answer[0])}")
    same_number = [p for p in offered if p.number == answer[0].number]
    return select(answer, same_number, ignore_ke=ignore_ke)


def without_ke(proposal: Proposal) -> Proposal:
    """The proposal for an exchange without key exchange (s1.2; s1.3.1 without PFS)."""
    return _with(proposal, tuple([t for t in proposal.transforms if t.type not in _KEY_EXCHANGES]))


def _with(proposal: Proposal, transforms: tuple[Transform, ...]) -> Proposal:
    """The proposal with these transforms; itself, if it has no others."""
    return proposal if transforms == proposal.transforms else replace(proposal, transforms=transforms)


def restricted(proposal: Proposal, model: Proposal) -> Proposal | None:
    """The proposal with no other algorithms than the chosen ones of `model`, its key exchanges apart; None: it lacks
    one of them."""
    same = without_ke(model).transforms
    left = tuple(t for t in proposal.transforms if t.type in _KEY_EXCHANGES or t in same)
    return replace(proposal, transforms=left) if set(same) <= set(left) else None


def without_additional(proposals: Iterable[Proposal]) -> tuple[Proposal, ...]:
    """What of the proposals a peer can take that has no exchange for additional keys (RFC 9370 s2.2.2): those that
    have no such key exchange, or NONE to choose."""
    reduced = []
    for proposal in proposals:
        left = tuple(t for t in proposal.transforms if t.type not in ADDITIONAL_KES or t.id == KeGroup.NONE)
        if {t.type for t in left} == {t.type for t in proposal.transforms}:
            reduced.append(_with(proposal, left))
    return tuple(reduced)


def additional_groups(proposals: Iterable[Proposal]) -> tuple[int, ...]:
    """The additional key exchange methods in the order of their exchanges, NONE left out."""
    return tuple(t.id for p in proposals for t in p.transforms if t.type in ADDITIONAL_KES and t.id != KeGroup.NONE)


def key_exchange_groups(proposals: Iterable[Proposal]) -> tuple[int, ...]:
    """The key exchange methods in order of preference, NONE left out, each once."""
    groups = [t.id for p in proposals for t in _of_type(p.transforms, TransformType.KE) if t.id != KeGroup.NONE]
    return tuple(dict.fromkeys(groups))


def has_ml_kem(proposal: Proposal) -> bool:
    """Whether one of its key exchanges is one that no quantum computer undoes."""
    return any(t.type in _KEY_EXCHANGES and t.id in ML_KEM for t in proposal.transforms)


Match: TypeAlias = tuple[tuple[Transform, ...], TransformType | None]


def _match(theirs: Proposal, ours: Proposal) -> Match:
    """One transform for each type, and the first type for which there is none (ENCR for another protocol)."""
    if theirs.protocol != ours.protocol:
        return (), TransformType.ENCR
    match = _match_transforms if _is_long(theirs.transforms) else _remembered_match
    return match(theirs.transforms, ours.transforms)


def _match_transforms(theirs: tuple[Transform, ...], ours: tuple[Transform, ...]) -> Match:
    offered, acceptable = _by_type(theirs), _by_type(ours)
    kinds = sorted({TransformType.ENCR, *offered, *acceptable})
    common = [
        [t for t in acceptable.get(kind) or _absent(kind) if t in (offered.get(kind) or _absent(kind))]
        for kind in kinds
    ]
    chosen, missing = _one_each(kinds, common, frozenset())
    return tuple(t for t in chosen if t.type in offered), missing


def _one_each(
    kinds: Sequence[TransformType], common: Sequence[Sequence[Transform]], used: frozenset[int]
) -> tuple[list[Transform], TransformType | None]:
    """The first of each type; of the key exchanges the first choice in which no method stands twice (RFC 9370 s2.2.2).
    Else the type that none was left for, the furthest that could be reached."""
    if not kinds:
        return [], None
    furthest = kinds[0]
    for pick in common[0]:
        is_method = pick.type in _KEY_EXCHANGES and pick.id != KeGroup.NONE
        if is_method and pick.id in used:
            continue
        rest, missing = _one_each(kinds[1:], common[1:], used | {pick.id} if is_method else used)
        if missing is None:
            return [pick, *rest], None
        furthest = max(furthest, missing)
        if not is_method:
            break
    return [], furthest


# Peers offer the same again and again. What is long is not remembered, so that memory is bounded.
_remembered_match = lru_cache(256)(_match_transforms)


def _by_type(transforms: Iterable[Transform]) -> dict[TransformType, list[Transform]]:
    """One pass, because what a stranger offers can be long."""
    groups: dict[TransformType, list[Transform]] = {}
    for transform in transforms:
        groups.setdefault(transform.type, []).append(transform)
    return groups


def _absent(kind: TransformType) -> list[Transform]:
    """What a type without transforms means; the unknown types and the indispensable mean nothing (s3.3.6)."""
    return [_ABSENT[kind]] if kind in _ABSENT else []


def _of_type(transforms: Iterable[Transform], kind: TransformType) -> list[Transform]:
    return [t for t in transforms if t.type == kind]


def mismatch_text(offered: Sequence[Proposal], configured: Sequence[Proposal]) -> str:
    """Why nothing fits: the first transform type without a match, in the pair of proposals that gets furthest."""
    found = _furthest(offered, configured)
    if found is None:
        return f"the peer offers {_protocols(offered)}, configured is {_protocols(configured)}"
    kind, theirs, ours = found
    word = _TYPE_WORDS.get(kind, f"transform type {int(kind)}")
    return f"no common {word}: the peer offers {_listed(theirs, kind)}; configured: {_listed(ours, kind)}"


def mismatch(offered: Sequence[Proposal], configured: Sequence[Proposal]) -> Mismatch | None:
    """The same as a value; `wanted` is the proposal that fits with the least change at the other end."""
    found = _furthest(offered, configured)
    if found is None:
        return None
    kind, theirs, ours = found
    field = _FIELDS.get(kind, Field.PROPOSAL)
    if kind == TransformType.KE and ours.protocol == ProtocolId.ESP:
        field = Field.PFS
    return Mismatch(field, _listed(ours, kind), _listed(theirs, kind), nearest(theirs, ours))


def nearest(theirs: Proposal, ours: Proposal) -> Proposal:
    """One transform of each type of `ours`: one that `theirs` has too where there is one, else our first."""
    offered, wanted = _by_type(theirs.transforms), []
    for kind, acceptable in _by_type(ours.transforms).items():
        wanted.append(next((t for t in acceptable if t in offered.get(kind, ())), acceptable[0]))
    return replace(ours, transforms=tuple(wanted))


def _furthest(
    offered: Sequence[Proposal], configured: Sequence[Proposal]
) -> tuple[TransformType, Proposal, Proposal] | None:
    """The pair of theirs and ours that has the most in common, and the first transform type that it has not."""
    pairs = [(theirs, ours) for ours in configured for theirs in offered if theirs.protocol == ours.protocol]
    results = [(kind, theirs, ours) for theirs, ours in pairs if (kind := _match(theirs, ours)[1]) is not None]
    return max(results, key=lambda result: result[0]) if results else None


def _protocols(proposals: Sequence[Proposal]) -> str:
    return ", ".join(dict.fromkeys(p.protocol.name for p in proposals)) or "nothing"


def _listed(proposal: Proposal, kind: TransformType) -> str:
    transforms = _of_type(proposal.transforms, kind) or _absent(kind)
    more = [f"and {len(transforms) - _MAX_SHOWN} more"] if len(transforms) > _MAX_SHOWN else []
    return ", ".join([transform_text(t) for t in transforms[:_MAX_SHOWN]] + more).replace("NONE", "none") or "none"
