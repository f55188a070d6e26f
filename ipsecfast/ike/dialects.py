"""The words in which other gateways are configured: how an administrator there would write what we want.

A peer tells who it is by its vendor ID (RFC 7296 s3.12), or the operator does (`vendor`). Who is unknown is spoken to
in swanctl's words, which are ours too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Network, summarize_address_range
from typing import Any

from ipsecfast.configured import AuthKind, Vendor
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import EncrId, IdType, IntegId, KeGroup, PrfId
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.mismatch import Proof
from ipsecfast.ike.wire.payloads import VendorIdPayload
from ipsecfast.ike.wire.proposal import proposal_text, transform_text
from ipsecfast.ike.wire.selectors import SelectorPair, selectors_text
from ipsecfast.model import Mode, Proposal, ProtocolId, TrafficSelector, Transform, TransformType

VENDOR_IDS: tuple[tuple[bytes, Vendor], ...] = (
    (bytes.fromhex("882fe56d6fd20dbc2251613b2ebe5beb"), Vendor.STRONGSWAN),  # MD5 of its name
    (b"OE-Libreswan-", Vendor.LIBRESWAN),
    (b"FLEXVPN-SUPPORTED", Vendor.CISCO_IOS),
    (b"CISCO-DELETE-REASON", Vendor.CISCO_IOS),
    (b"CISCO(COPYRIGHT)", Vendor.CISCO_IOS),
)


def vendor_of(message: Message) -> Vendor:
    """Who the sender says it is. Anybody may say anything: it only chooses our words."""
    for payload in message.all(VendorIdPayload):
        for start, vendor in VENDOR_IDS:
            if payload.data.startswith(start):
                return vendor
    return Vendor.UNKNOWN


class Unsayable(ValueError):
    """The product has no word for what we want; the text is our word for it."""


class Swanctl:
    """swanctl.conf of strongSwan, and the base of the others: each method answers the line that the other end needs,
    which sees the two sides the other way round."""

    product = "swanctl"

    def proposals(self, proposal: Proposal) -> str:
        if proposal.protocol == ProtocolId.IKE:
            return f"proposals = {proposal_text(proposal)}"
        return f"esp_proposals = {proposal_text(proposal)} of the child"

    def pfs(self, proposal: Proposal) -> str:
        return self.proposals(proposal)

    def selectors(self, pair: SelectorPair) -> str:
        local, remote = selectors_text(pair.remote), selectors_text(pair.local)
        return f"local_ts = {local} and remote_ts = {remote} of the child"

    def mode(self, mode: Mode) -> str:
        return f"mode = {mode.value} of the child"

    def own_identity(self, identity: Identity) -> str:
        return f"local.id = {identity}"

    def peer_identity(self, identity: Identity) -> str:
        return f"remote.id = {identity}"

    def authentication(self, kind: AuthKind) -> str:
        return f"local.auth = {kind.value}"

    def version(self) -> str:
        return "version = 2"

    def secret(self, ours: str) -> str:
        return f"the secret that has the ids of both ends ({ours})"

    def trust(self, kind: AuthKind) -> str:
        """What makes our proof hold there; of a secret, what is said before it."""
        return "remote.auth = psk" if kind is AuthKind.PSK else "remote.auth = pubkey with our authority in cacerts"

    def proof(self, proof: Proof) -> str:
        """Everything that our proof depends on, as the peer does not say on which it failed."""
        lines = [self.peer_identity(proof.ours), self.own_identity(proof.peer) if proof.peer else ""]
        lines.append(self.trust(proof.kind))
        if proof.kind is AuthKind.PSK:
            lines.append(self.secret(f"{proof.ours} and {proof.peer}" if proof.peer else str(proof.ours)))
        return ", ".join(filter(None, lines))


class Toml(Swanctl):
    """Another ipsecfast: the same words as TOML."""

    product = "ipsecfast"

    def proposals(self, proposal: Proposal) -> str:
        key = "proposals" if proposal.protocol == ProtocolId.IKE else "esp_proposals"
        return f'{key} = "{proposal_text(proposal)}"'

    def selectors(self, pair: SelectorPair) -> str:
        return f"local_ts = {_toml_list(pair.remote)} and remote_ts = {_toml_list(pair.local)}"

    def mode(self, mode: Mode) -> str:
        return f'mode = "{mode.value}"'

    def own_identity(self, identity: Identity) -> str:
        return f'[connections.NAME.local] id = "{identity}"'

    def peer_identity(self, identity: Identity) -> str:
        return f'[connections.NAME.remote] id = "{identity}"'

    def authentication(self, kind: AuthKind) -> str:
        return f'[connections.NAME.local] auth = "{kind.value}"'

    def trust(self, kind: AuthKind) -> str:
        return f'auth = "{kind.value}"' + ("" if kind is AuthKind.PSK else " with our authority in cacerts")


def _toml_list(selectors: Iterable[TrafficSelector]) -> str:
    texts = [f'"{selector}"' for selector in selectors]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


# -- products with words of their own --------------------------------------------------------------------------------

_DH_NUMBERS = {
    number: int(number)
    for number in (
        KeGroup.MODP_2048, KeGroup.MODP_3072, KeGroup.MODP_4096, KeGroup.MODP_6144, KeGroup.MODP_8192, KeGroup.ECP_256,
        KeGroup.ECP_384, KeGroup.ECP_521, KeGroup.CURVE25519,
    )
}  # fmt: skip
_SHA2 = {
    PrfId.PRF_HMAC_SHA2_256: "256", PrfId.PRF_HMAC_SHA2_384: "384", PrfId.PRF_HMAC_SHA2_512: "512",
}  # fmt: skip
_SHA2_INTEGRITY = {
    IntegId.AUTH_HMAC_SHA2_256_128: "256", IntegId.AUTH_HMAC_SHA2_384_192: "384",
    IntegId.AUTH_HMAC_SHA2_512_256: "512",
}  # fmt: skip


def _of(proposal: Proposal, kind: TransformType) -> list[Transform]:
    return [t for t in proposal.transforms if t.type == kind and t.id]


def _word(table: Mapping[Any, object], transform: Transform, form: str) -> str:
    if transform.id not in table:
        raise Unsayable(transform_text(transform))
    return form.format(table[transform.id])


def _groups(proposal: Proposal, form: str, *, without: frozenset[int] = frozenset()) -> list[str]:
    known = {number: dh for number, dh in _DH_NUMBERS.items() if number not in without}
    return [_word(known, t, form) for t in _of(proposal, TransformType.KE)]


class Libreswan(Swanctl):
    """ipsec.conf of Libreswan; left is that end, as its documentation has it."""

    product = "Libreswan"

    def proposals(self, proposal: Proposal) -> str:
        encryption = "+".join(self._encryption(t) for t in _of(proposal, TransformType.ENCR))
        groups = "+".join(_groups(proposal, "dh{}"))
        if proposal.protocol == ProtocolId.ESP:
            return f"esp={encryption}" + (f";{groups} with pfs=yes" if groups else " with pfs=no")
        hashes = [_word(_SHA2, t, "sha2_{}") for t in _of(proposal, TransformType.PRF)]
        return f"ike={encryption}-{'+'.join(hashes)};{groups}"

    @staticmethod
    def _encryption(transform: Transform) -> str:
        words = {EncrId.ENCR_AES_GCM_16: "aes_gcm", EncrId.ENCR_AES_CBC: "aes"}
        return _word(words, transform, "{}") + str(transform.key_bits)

    def pfs(self, proposal: Proposal) -> str:
        groups = _groups(proposal, "dh{}")
        return f"pfs=yes and {self.proposals(proposal)}" if groups else "pfs=no"

    def selectors(self, pair: SelectorPair) -> str:
        return f"leftsubnet={selectors_text(pair.remote)} and rightsubnet={selectors_text(pair.local)}"

    def mode(self, mode: Mode) -> str:
        return f"type={mode.value}"

    def own_identity(self, identity: Identity) -> str:
        return f"leftid={_swan_identity(identity)}"

    def peer_identity(self, identity: Identity) -> str:
        return f"rightid={_swan_identity(identity)}"

    def authentication(self, kind: AuthKind) -> str:
        return "leftauth=secret" if kind is AuthKind.PSK else "leftauth=rsasig (or ecdsa) with leftcert="

    def version(self) -> str:
        return "keyexchange=ikev2 (ikev2=insist before 5.0)"

    def secret(self, ours: str) -> str:
        return f"the PSK line of ipsec.secrets with the ids of both ends ({ours})"

    def trust(self, kind: AuthKind) -> str:
        if kind is AuthKind.PSK:
            return "rightauth=secret"
        return "rightauth=rsasig (or ecdsa) with our authority in its NSS database"


def _swan_identity(identity: Identity) -> str:
    return f"@{identity}" if identity.type == IdType.ID_FQDN else str(identity)


class CiscoIos(Swanctl):
    """The running configuration of IOS and IOS XE."""

    product = "Cisco IOS"

    def proposals(self, proposal: Proposal) -> str:
        if proposal.protocol == ProtocolId.ESP:
            return f"crypto ipsec transform-set NAME {self._esp(proposal)}"
        lines = [f"encryption {' '.join(map(self._encryption, _of(proposal, TransformType.ENCR)))}"]
        for kind, table, key in (
            (TransformType.PRF, _SHA2, "prf"), (TransformType.INTEG, _SHA2_INTEGRITY, "integrity"),
        ):  # fmt: skip
            words = [_word(table, t, "sha{}") for t in _of(proposal, kind)]
            if words and not (key == "prf" and _of(proposal, TransformType.INTEG)):  # without AEAD it follows
                lines.append(f"{key} {' '.join(words)}")
        lines.append(f"group {' '.join(self._groups(proposal))}")
        return f"crypto ikev2 proposal NAME with {', '.join(lines)}"

    @staticmethod
    def _groups(proposal: Proposal) -> list[str]:
        return _groups(proposal, "{}", without=frozenset({KeGroup.CURVE25519, KeGroup.MODP_6144, KeGroup.MODP_8192}))

    @staticmethod
    def _encryption(transform: Transform) -> str:
        words = {EncrId.ENCR_AES_GCM_16: "aes-gcm-", EncrId.ENCR_AES_CBC: "aes-cbc-"}
        return _word(words, transform, "{}") + str(transform.key_bits)

    @staticmethod
    def _esp(proposal: Proposal) -> str:
        first = _of(proposal, TransformType.ENCR)[0]
        return _word({EncrId.ENCR_AES_GCM_16: "esp-gcm"}, first, "{}") + f" {first.key_bits}"

    def pfs(self, proposal: Proposal) -> str:
        groups = self._groups(proposal)
        line = f"set pfs group{groups[0]}" if groups else "no set pfs"
        return f"{line} in its crypto ipsec profile or crypto map"

    def selectors(self, pair: SelectorPair) -> str:
        lines = [
            f"permit ip {_wildcard(ours)} {_wildcard(theirs)}" for ours in pair.remote[:4] for theirs in pair.local[:4]
        ]
        return f"the access list of its crypto map: {', '.join(lines)}"

    def mode(self, mode: Mode) -> str:
        return f"mode {mode.value} of its transform-set"

    def own_identity(self, identity: Identity) -> str:
        return f"identity local {_cisco_identity(identity)} of its crypto ikev2 profile"

    def peer_identity(self, identity: Identity) -> str:
        return f"match identity remote {_cisco_identity(identity)} of its crypto ikev2 profile"

    def authentication(self, kind: AuthKind) -> str:
        word = "pre-share" if kind is AuthKind.PSK else "rsa-sig (or ecdsa-sig)"
        return f"authentication local {word} of its crypto ikev2 profile"

    def version(self) -> str:
        return "set ikev2-profile NAME instead of an isakmp profile"

    def secret(self, ours: str) -> str:
        return f"pre-shared-key of this peer in its crypto ikev2 keyring ({ours})"

    def trust(self, kind: AuthKind) -> str:
        if kind is AuthKind.PSK:
            return "authentication remote pre-share"
        return "authentication remote rsa-sig (or ecdsa-sig) with our authority as a crypto pki trustpoint"


_CISCO_IDENTITIES = {
    IdType.ID_FQDN: "fqdn", IdType.ID_RFC822_ADDR: "email", IdType.ID_IPV4_ADDR: "address",
    IdType.ID_IPV6_ADDR: "address", IdType.ID_DER_ASN1_DN: "dn", IdType.ID_KEY_ID: "key-id",
}  # fmt: skip


def _cisco_identity(identity: Identity) -> str:
    kinds: dict[int, str] = {int(kind): word for kind, word in _CISCO_IDENTITIES.items()}
    return f"{kinds.get(identity.type, '')} {identity}".strip()


def _wildcard(selector: TrafficSelector) -> str:
    """Network and wildcard mask of IOS; a selector that is no one IPv4 network stays as it is."""
    networks = list(summarize_address_range(selector.start, selector.end))
    if len(networks) != 1 or not isinstance(networks[0], IPv4Network):
        return str(selector)
    return f"{networks[0].network_address} {networks[0].hostmask}"


class Aws(Swanctl):
    """The tunnel options of a Site-to-Site VPN connection of AWS."""

    product = "AWS"
    _without = frozenset({KeGroup.CURVE25519})

    def proposals(self, proposal: Proposal) -> str:
        phase = "Phase 1" if proposal.protocol == ProtocolId.IKE else "Phase 2"
        lines = [f"{phase} encryption algorithms {', '.join(map(self._encryption, _of(proposal, TransformType.ENCR)))}"]
        hashes = [_word(_SHA2_INTEGRITY, t, "SHA2-{}") for t in _of(proposal, TransformType.INTEG)]
        hashes = hashes or [_word(_SHA2, t, "SHA2-{}") for t in _of(proposal, TransformType.PRF)]
        if hashes:
            lines.append(f"{phase} integrity algorithms {', '.join(hashes)}")
        if groups := _groups(proposal, "{}", without=self._without):
            lines.append(f"{phase} Diffie-Hellman group numbers {', '.join(groups)}")
        return f"the tunnel options {'; '.join(lines)}"

    @staticmethod
    def _encryption(transform: Transform) -> str:
        forms = {EncrId.ENCR_AES_GCM_16: "AES{}-GCM-16", EncrId.ENCR_AES_CBC: "AES{}"}
        if transform.id not in forms or transform.key_bits == 192:
            raise Unsayable(transform_text(transform))
        return forms[EncrId(transform.id)].format(transform.key_bits)

    def selectors(self, pair: SelectorPair) -> str:
        local, remote = selectors_text(pair.local), selectors_text(pair.remote)
        return f"Local IPv4 network CIDR {local} and Remote IPv4 network CIDR {remote} of the connection"

    def mode(self, mode: Mode) -> str:
        if mode is Mode.TRANSPORT:
            raise Unsayable("transport mode")
        return "nothing there: it has tunnel mode only"

    def peer_identity(self, identity: Identity) -> str:
        return f"the IP address or certificate of its customer gateway, which must be that of {identity}"

    def own_identity(self, identity: Identity) -> str:
        return f"nothing there: its identity is its outside address, not {identity}; write that into remote.id here"

    def authentication(self, kind: AuthKind) -> str:
        return "a pre-shared key" if kind is AuthKind.PSK else "a private certificate for its customer gateway"

    def version(self) -> str:
        return "the tunnel option IKE versions ikev2"

    def secret(self, ours: str) -> str:
        return f"the tunnel option Pre-shared key ({ours})"

    def trust(self, kind: AuthKind) -> str:
        return "" if kind is AuthKind.PSK else "our certificate for its customer gateway"


DIALECTS: Mapping[Vendor, Callable[[], Swanctl]] = {
    Vendor.UNKNOWN: Swanctl,
    Vendor.IPSECFAST: Toml,
    Vendor.STRONGSWAN: Swanctl,
    Vendor.LIBRESWAN: Libreswan,
    Vendor.CISCO_IOS: CiscoIos,
    Vendor.AWS: Aws,
}
VENDOR_NAMES: Mapping[Vendor, str] = {
    Vendor.UNKNOWN: "the other gateway",
    Vendor.IPSECFAST: "the other gateway (ipsecfast)",
    Vendor.STRONGSWAN: "the other gateway (strongSwan, swanctl.conf)",
    Vendor.LIBRESWAN: "the other gateway (Libreswan, ipsec.conf)",
    Vendor.CISCO_IOS: "the other gateway (Cisco IOS)",
    Vendor.AWS: "the other gateway (AWS)",
}
