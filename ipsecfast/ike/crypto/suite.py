"""The algorithms of one IKE SA, picked out of the proposal that both sides agreed on (RFC 7296 s3.3.2)."""

from __future__ import annotations

from dataclasses import dataclass

from ipsecfast.ike.constants import NoProposalChosen
from ipsecfast.ike.crypto.primitives import Prf, SkCipher
from ipsecfast.model import Proposal, Transform, TransformType


@dataclass(frozen=True, slots=True)
class Suite:
    """`integ` is None for an AEAD (RFC 5282 s8)."""

    proposal: Proposal
    prf: Prf
    encr: Transform
    integ: Transform | None

    @classmethod
    def of(cls, proposal: Proposal) -> Suite:
        chosen = {t.type: t for t in proposal.transforms}
        prf, encr = chosen.get(TransformType.PRF), chosen.get(TransformType.ENCR)
        if prf is None or encr is None:
            raise NoProposalChosen("an IKE proposal without encryption or PRF")
        integ = chosen.get(TransformType.INTEG)
        return cls(proposal, Prf(prf.id), encr, integ if integ is not None and integ.id else None)

    def cipher(self, key_e: bytes, key_a: bytes) -> SkCipher:
        """One direction's protection of SK payloads."""
        return SkCipher(self.encr, self.integ, key_e, key_a)
