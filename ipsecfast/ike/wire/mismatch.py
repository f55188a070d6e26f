"""What two ends want differently: the value that a failed negotiation carries to the log and to `status`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from ipsecfast.configured import AuthKind
from ipsecfast.identity import Identity
from ipsecfast.ike.wire.selectors import SelectorPair
from ipsecfast.model import Mode, Proposal


class Field(StrEnum):
    """The thing that the ends disagree about; stable words, for programs too."""

    VERSION = "IKE version"
    ADDRESSES = "addresses"
    PROPOSAL = "proposal"  # refused by the peer, which does not say for what
    ENCRYPTION = "encryption"
    PRF = "PRF"
    INTEGRITY = "integrity"
    KEY_EXCHANGE = "key exchange"
    ADDITIONAL_KEY_EXCHANGE = "additional key exchange"
    PFS = "key exchange of Child SAs"
    SEQUENCE_NUMBERS = "sequence numbers"
    PEER_IDENTITY = "identity of the peer"
    OUR_IDENTITY = "our identity"
    AUTHENTICATION = "authentication method"
    SECRET = "pre-shared key"  # noqa: S105  # the name of a field, not a secret
    PROOF = "our proof"  # refused by the peer, which does not say why
    CERTIFICATE = "certificate"
    SELECTORS = "traffic selectors"
    MODE = "mode"
    REACHABILITY = "reachability"


@dataclass(frozen=True, slots=True)
class Proof:
    """All that a peer which refuses our proof may have otherwise: who each end is, and by what we prove ourselves."""

    ours: Identity
    peer: Identity | None
    kind: AuthKind


# What the other end should have, from its own point of view; `dialects` puts it into its words.
Wanted: TypeAlias = Proposal | SelectorPair | Identity | Mode | AuthKind | Proof | None


@dataclass(frozen=True, slots=True)
class Mismatch:
    """`ours` is what we have or offered, `theirs` what the peer has or offered: "" where it has not said so."""

    field: Field
    ours: str
    theirs: str = ""
    wanted: Wanted = None
