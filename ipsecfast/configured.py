"""What the operator wants: the connections of the configuration file as frozen values, without a word of TOML.

`ipsecfast.config` makes them, the IKE core takes them as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.x509 import Certificate

from ipsecfast.identity import Identity
from ipsecfast.model import CopyField, IPAddress, IPNetwork, Lifetime, Mode, Proposal, StartAction, TrafficSelector

PublicKey: TypeAlias = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)


class AuthKind(StrEnum):
    """How one side proves who it is: by a pre-shared key or by a signature."""

    PSK = "psk"
    PUBKEY = "pubkey"


class OcspUse(StrEnum):
    """RFC 4806: whether OCSP responses travel in IKE: ours to a peer that asks, the peer's because we ask."""

    NEVER = "never"
    REPLY = "reply"
    REQUEST = "request"
    BOTH = "both"

    @property
    def replies(self) -> bool:
        return self in (OcspUse.REPLY, OcspUse.BOTH)

    @property
    def requests(self) -> bool:
        return self in (OcspUse.REQUEST, OcspUse.BOTH)


class RevocationPolicy(StrEnum):
    """What has to be known of the peer's certificates: that each is good; that it is, where there is a URI to ask; or
    only that none is revoked."""

    STRICT = "strict"
    IFURI = "ifuri"
    RELAXED = "relaxed"


@dataclass(frozen=True, slots=True)
class AuthorityConfig:
    """Where the revocations by an authority are to be had, beside what its certificates name. URIs are http: or, of
    CRLs, file:."""

    certificate: Certificate
    crl_uris: tuple[str, ...] = ()
    ocsp_uris: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Credential:
    """A private key of ours, and what shows whose it is: its certificate with those that lead to the authority; without
    any it is a raw key that the peer was given."""

    key: PrivateKey = field(repr=False)
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class AuthConfig:
    """How one side proves who it is. `identity` None (remote only) accepts any identity that has the proof.

    With PUBKEY, local: `certificates` are ours, then those that lead to the authority, `key` its private key; or it is
    that of one of `pubkeys`. Remote: `authorities` may vouch for the peer, or it has one of `certificates` itself, or
    one of `pubkeys` is its raw public key (RFC 7670).
    """

    identity: Identity | None
    method: AuthKind = AuthKind.PSK
    certificates: tuple[Certificate, ...] = ()
    authorities: tuple[Certificate, ...] = ()
    pubkeys: tuple[PublicKey, ...] = ()
    key: PrivateKey | None = field(default=None, repr=False)
    rsa_pss: bool = False
    others: tuple[Credential, ...] = ()  # local: instead of the first, where the peer would rather have them
    ocsp_responses: tuple[str, ...] = ()  # local: file URIs of what says that our certificates are good
    revocation: RevocationPolicy = RevocationPolicy.RELAXED  # remote
    recheck_revocation: bool = False  # remote: whenever the IKE SA was rekeyed

    @property
    def credentials(self) -> tuple[Credential, ...]:
        """All of ours, the preferred one first."""
        return () if self.key is None else (Credential(self.key, self.certificates), *self.others)


@dataclass(frozen=True, slots=True)
class PresharedKey:
    """A secret and the identities it belongs to (both ends; empty: any)."""

    identities: tuple[Identity, ...]
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class PostquantumKey:
    """A post-quantum pre-shared key (PPK, RFC 8784) and the octets of its PPK_ID, by which both ends name it."""

    id: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ChildConfig:
    """One Child SA that the operator wants. Selectors None stand for swanctl's `dynamic`: the IKE address itself.

    `per_cpu_sas`: so many of the workers get Child SAs of their own beside the one for all (RFC 9611). None: every
    worker, whose number the gateway puts in; the IKE core then has it for none. `dscp_classes`: each class of packets,
    told by their DSCPs, gets one of its own instead. `tfc_padding`: octets that an inner packet is padded to (RFC 4303
    s2.7), as far as the MTU of the tunnel lets it.
    """

    name: str
    local_ts: tuple[TrafficSelector | None, ...]
    remote_ts: tuple[TrafficSelector | None, ...]
    esp_proposals: tuple[Proposal, ...]
    mode: Mode = Mode.TUNNEL
    start_action: StartAction = StartAction.NONE
    dpd_action: StartAction = StartAction.NONE
    close_action: StartAction = StartAction.NONE
    lifetime: Lifetime = field(default_factory=Lifetime)
    replay_window: int = 2048
    copy_df: bool = True
    copy_ecn: bool = True
    copy_dscp: CopyField = CopyField.OUT
    tfc_padding: int = 0
    per_cpu_sas: int | None = 0
    dscp_classes: tuple[tuple[int, ...], ...] = ()


class Fragmentation(StrEnum):
    """IKE fragmentation (RFC 7383): both ways, only of what we receive, or not at all."""

    YES = "yes"
    ACCEPT = "accept"
    NO = "no"


class Vendor(StrEnum):
    """Whose gateway the peer is: in its words we say what its administrator should change."""

    UNKNOWN = "unknown"
    IPSECFAST = "ipsecfast"
    STRONGSWAN = "strongswan"
    LIBRESWAN = "libreswan"
    CISCO_IOS = "cisco-ios"
    AWS = "aws"


class Childless(StrEnum):
    """IKE SAs without a first Child SA (RFC 6023): refused, taken, begun where the peer can, or nothing else."""

    NEVER = "never"
    ALLOW = "allow"
    PREFER = "prefer"
    FORCE = "force"


@dataclass(frozen=True, slots=True)
class ConnectionConfig:
    """One peer: how to reach it, what to propose, who it must be, which Child SAs it gets. Times in seconds.

    Empty `local_addrs` or `remote_addrs` mean any address (such a connection only responds). `encap`: ESP in UDP even
    without a NAT; `nat_traversal` False: bare ESP even behind one (neither looks for a NAT). `reauth` is to
    authentication what `lifetime` is to keys. `ppks` are those that `ppk_id` names; an initiator takes the first of
    them. `redirect`: we go where the peer sends us; `redirect_to`: where we send it, an address or a host name
    (RFC 5685). `resumption`: tickets are asked for and given (RFC 5723).
    """

    name: str
    local_addrs: tuple[IPAddress | IPNetwork, ...]
    remote_addrs: tuple[IPAddress | IPNetwork, ...]
    proposals: tuple[Proposal, ...]
    local: AuthConfig
    remote: AuthConfig
    children: tuple[ChildConfig, ...]
    secrets: tuple[PresharedKey, ...] = field(default=(), repr=False)
    authorities: tuple[AuthorityConfig, ...] = ()
    ocsp: OcspUse = OcspUse.REPLY
    ppk_id: str | None = None
    ppk_required: bool = False
    ppks: tuple[PostquantumKey, ...] = field(default=(), repr=False)
    encap: bool = False
    nat_traversal: bool = True
    lifetime: Lifetime = field(default_factory=Lifetime)
    dpd_delay: float = 0.0
    keyingtries: int = 1
    unique: str = "replace"
    reauth: Lifetime = field(default_factory=Lifetime)
    childless: Childless = Childless.ALLOW
    resumption: bool = False
    redirect: bool = False
    redirect_to: IPAddress | str | None = None
    fragmentation: Fragmentation = Fragmentation.YES
    vendor: Vendor = Vendor.UNKNOWN
