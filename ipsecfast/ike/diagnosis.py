"""Why a negotiation failed, and what to change where: sentences for the log and for `status`.

An error that is raised where two wishes meet carries a `Mismatch`; here it gets the line that the administrator of the
other gateway needs, in the words of that product (`dialects`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ipsecfast.configured import AuthKind, ConnectionConfig, Vendor
from ipsecfast.identity import Identity
from ipsecfast.ike.actions import Details
from ipsecfast.ike.constants import NotifyType
from ipsecfast.ike.credential import pad
from ipsecfast.ike.dialects import DIALECTS, VENDOR_NAMES, Swanctl, Unsayable
from ipsecfast.ike.wire.mismatch import Field, Mismatch, Proof
from ipsecfast.ike.wire.proposal import proposal_text
from ipsecfast.ike.wire.selectors import SelectorPair
from ipsecfast.model import NAT_T_PORT, Mode, Path, Proposal

MAX_NEAR = 4  # connections that a sentence about addresses names
SHORT_DATAGRAM = 1200  # octets that pass any path which carries ESP at all


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of a connection or of one of its children (`child` "": of the IKE SA); `at` as all times."""

    event: str
    message: str
    at: float
    child: str = ""
    mismatch: Mismatch | None = None
    remedy: str = ""

    @classmethod
    def of(
        cls, event: str, text: str, at: float, mismatch: Mismatch | None, vendor: Vendor, child: str = ""
    ) -> Failure:
        """`text` becomes the whole sentence, with what would be right at the other end where that can be said."""
        advice = remedy(mismatch, vendor) if mismatch else ""
        return cls(event, f"{text}; {advice}" if advice else text, at, child, mismatch, advice)

    @property
    def details(self) -> Details:
        """For `--log-format json`."""
        if self.mismatch is None:
            return ()
        known = (("field", self.mismatch.field.value), ("ours", self.mismatch.ours), ("theirs", self.mismatch.theirs))
        return tuple(pair for pair in (*known, ("remedy", self.remedy)) if pair[1])


def remedy(mismatch: Mismatch, vendor: Vendor) -> str:
    """What would fit at the other end, in its words; or that it has no word for it, so that we must change."""
    say = _lines(DIALECTS[vendor](), mismatch)
    if say is None:
        return ""
    try:
        return f"what fits on {VENDOR_NAMES[vendor]}: {say()}"
    except Unsayable as error:
        return f"{VENDOR_NAMES[vendor]} has no {error}: allow here what it has"


def _lines(dialect: Swanctl, mismatch: Mismatch) -> Callable[[], str] | None:
    match mismatch:
        case Mismatch(field=Field.PFS, wanted=Proposal() as proposal):
            return lambda: dialect.pfs(proposal)
        case Mismatch(wanted=Proposal() as proposal):
            return lambda: dialect.proposals(proposal)
        case Mismatch(wanted=SelectorPair() as pair):
            return lambda: dialect.selectors(pair)
        case Mismatch(wanted=Mode() as mode):
            return lambda: dialect.mode(mode)
        case Mismatch(wanted=AuthKind() as kind):
            return lambda: dialect.authentication(kind)
        case Mismatch(field=Field.PEER_IDENTITY, wanted=Identity() as identity):
            return lambda: dialect.own_identity(identity)
        case Mismatch(field=Field.OUR_IDENTITY, wanted=Identity() as identity):
            return lambda: dialect.peer_identity(identity)
        case Mismatch(wanted=Proof() as proof):
            return lambda: dialect.proof(proof)
        case Mismatch(field=Field.SECRET, ours=ours) if ours:
            return lambda: dialect.secret(ours)
    return None


# -- what the peer refuses without saying why: our side of it, and where to look ---------------------------------------


def refused_proposals(proposals: Sequence[Proposal]) -> tuple[str, Mismatch]:
    """NO_PROPOSAL_CHOSEN for an IKE SA."""
    ours = ", ".join(map(proposal_text, proposals))
    text = f"the peer accepts none of our IKE proposals {ours}, or has no connection for our addresses"
    return text, Mismatch(Field.PROPOSAL, ours, wanted=_single(proposals[0]))


def refused_proof(config: ConnectionConfig, local: Identity) -> tuple[str, Mismatch]:
    """AUTHENTICATION_FAILED from the peer, which tells the reason only to its own log (s2.21.2)."""
    by = "the pre-shared key" if config.local.method is AuthKind.PSK else "the signature of our certificate"
    peer = pad.known_peer(config)
    asked = f" and asked for {peer}" if peer else ""
    text = (
        f": we said that we are {local}{asked}, and proved it by {by}. It has another key for us, expects another "
        "identity or another kind of proof; its log says which"
    )
    return text, Mismatch(Field.PROOF, str(local), wanted=Proof(local, peer, config.local.method))


def refused_child(code: int, selectors: SelectorPair, proposals: Sequence[Proposal], mode: Mode) -> Mismatch | None:
    """What the peer's refusal of a Child SA is about: selectors, or algorithms and mode (RFC 7296 s1.3, s2.9)."""
    if code == NotifyType.TS_UNACCEPTABLE:
        return Mismatch(Field.SELECTORS, f"{selectors} in {mode.value} mode", wanted=selectors)
    if code == NotifyType.NO_PROPOSAL_CHOSEN and proposals:
        return Mismatch(Field.PROPOSAL, ", ".join(map(proposal_text, proposals)), wanted=_single(proposals[0]))
    return None


def unknown_addresses(connections: Iterable[ConnectionConfig], path: Path) -> str:
    """Nobody is configured for where a request came from and went to; which key of which connection is nearest."""
    lines = []
    for config in connections:
        local, remote = (
            pad.address_rank(config.local_addrs, path.local), pad.address_rank(config.remote_addrs, path.remote)
        )  # fmt: skip
        if local:
            lines.append(f"{config.name} has remote_addrs {addresses_text(config.remote_addrs)}")
        elif remote:
            lines.append(f"{config.name} has local_addrs {addresses_text(config.local_addrs)}")
    near = f"; {'; '.join(lines[:MAX_NEAR])}" if lines else ""
    return f"no connection is configured for {path.local} (local_addrs) and {path.remote} (remote_addrs){near}"


def addresses_text(addresses: Sequence[object]) -> str:
    return ", ".join(map(str, addresses)) or "%any"


def other_version(config: ConnectionConfig, path: Path, text: str, now: float) -> Failure:
    """The peer of a connection speaks another version of IKE (s2.5)."""
    vendor = config.vendor
    advice = f"what fits on {VENDOR_NAMES[vendor]}: {DIALECTS[vendor]().version()}"
    mismatch = Mismatch(Field.VERSION, "IKEv2", text)
    return Failure("version", f"{path.remote}: {text}; only IKEv2 is spoken here; {advice}", now, "", mismatch, advice)


def silence(text: str, path: Path, *, answered: bool, largest: int, hint: str) -> tuple[str, Mismatch]:
    """No answer to a request of an IKE SA that is not up: what that means, by how far it came. `largest` in octets."""
    if hint:
        text += f"; what came could not be used: {hint}"
    elif not answered:
        text += "; the peer is down, or UDP 500 does not pass in one of the directions, or it ignores our address"
    else:
        text += "; it answered IKE_SA_INIT, so it is there: "
        text += f"UDP {NAT_T_PORT} does not pass, or " if path.remote_port == NAT_T_PORT else ""
        text += f"a datagram of {largest} octets is too long for the path, or " if largest > SHORT_DATAGRAM else ""
        text += "it refuses us without a word, and its log says why"
    return text, Mismatch(Field.REACHABILITY, str(path))


def _single(proposal: Proposal) -> Proposal:
    """The first transform of each type: the line is for a person to write."""
    first = {t.type: t for t in reversed(proposal.transforms)}
    transforms = tuple(sorted(first.values(), key=lambda t: t.type))
    return Proposal(proposal.protocol, transforms, proposal.spi, proposal.number)
