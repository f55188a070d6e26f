"""`[connections.NAME]` and what stands below it, with the defaults. `checks` has the checks of more than one key."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum

from ipsecfast.config import certificates, values
from ipsecfast.config.gateway import Carrier
from ipsecfast.config.section import Section
from ipsecfast.configured import (
    AuthConfig,
    AuthKind,
    ChildConfig,
    Childless,
    ConnectionConfig,
    Fragmentation,
    OcspUse,
    Vendor,
)
from ipsecfast.identity import Identity
from ipsecfast.ike.crypto.primitives import HAS_ML_KEM
from ipsecfast.model import CopyField, IPAddress, IPNetwork, Lifetime, Mode, Proposal, StartAction, TrafficSelector

# X25519 and ML-KEM first (RFC 9370): what is recorded today stays secret when quantum computers come. A peer without it
# takes one of the others. ESP has its share of it by SK_d; the key exchange of its own may be a classic one.
DEFAULT_IKE_PROPOSALS = (
    *(("aes256gcm16-aes128gcm16-prfsha384-prfsha256-x25519-ke1_mlkem768",) if HAS_ML_KEM else ()),
    "aes128gcm16-aes256gcm16-prfsha256-prfsha384-x25519-ecp256-ecp384-modp3072",
    "aes128-aes256-sha256-sha384-x25519-ecp256-ecp384-modp2048-modp3072",
)
# With a fresh key exchange first (forward secrecy for each Child SA); a peer without one takes the second.
DEFAULT_ESP_PROPOSALS = (
    "aes128gcm16-aes256gcm16-x25519-ecp256-ecp384-modp2048-modp3072-esn-noesn",
    "aes128gcm16-aes256gcm16-esn-noesn",
)
IKE_REKEY_TIME = 4 * 3600.0
CHILD_REKEY_TIME = 3600.0
HARD_LIMIT_FACTOR = 1.1  # swanctl: life_time and over_time default to ten per cent beyond the rekeying
DPD_DELAY = 30.0
REPLAY_WINDOW = 2048
NO_RESOURCES: int | None = 0  # no per-resource Child SAs
MIN_REPLAY_WINDOW, MAX_REPLAY_WINDOW = 64, 65536


class Unique(StrEnum):
    """What a second IKE SA with the same peer does to the first."""

    REPLACE = "replace"
    KEEP = "keep"
    NEVER = "never"


def read_connection(name: str, section: Section, carrier: Carrier) -> ConnectionConfig:
    """One connection, still without its secrets. `carrier` is the gateway's `outer`."""
    local_addrs = _addresses(section, "local_addrs")
    carrier = section.take("outer", values.choice(Carrier), carrier)
    encap = section.take("encap", values.boolean, False)
    if encap and carrier is Carrier.RAW:
        section.problem("encap", encap, 'ESP in UDP is what outer = "raw" excludes: drop one of the two')
    lifetime, reauth = _ike_lifetimes(section)
    connection = ConnectionConfig(
        name=name,
        local_addrs=local_addrs,
        remote_addrs=_addresses(section, "remote_addrs"),
        proposals=_proposals(section, "proposals", DEFAULT_IKE_PROPOSALS, ike=True),
        local=_local_auth(section.section("local"), local_addrs),
        remote=_remote_auth(section.section("remote")),
        children=tuple(_read_child(child, entry) for child, entry in section.sections("children")),
        encap=encap or carrier is Carrier.UDP,
        nat_traversal=carrier is not Carrier.RAW,
        lifetime=lifetime,
        reauth=reauth,
        dpd_delay=section.take("dpd_delay", values.duration, DPD_DELAY),
        keyingtries=section.take("keyingtries", values.integer(0, 1000), 0),
        childless=section.take("childless", values.choice(Childless), Childless.ALLOW),
        ocsp=section.take("ocsp", values.choice(OcspUse), OcspUse.REPLY),
        unique=section.take("unique", values.choice(Unique), Unique.REPLACE).value,
        resumption=section.take("resumption", values.boolean, False),
        redirect=section.take("redirect", values.boolean, True),
        redirect_to=section.take("redirect_to", values.optional(values.gateway), None),
        ppk_id=section.take("ppk_id", values.optional(values.text), None),
        ppk_required=section.take("ppk_required", values.boolean, False),
        fragmentation=section.take("fragmentation", values.choice(Fragmentation), Fragmentation.YES),
        vendor=section.take("vendor", values.choice(Vendor), Vendor.UNKNOWN),
    )
    if connection.ppk_required and connection.ppk_id is None:
        section.problem("ppk_required", True, "needs a ppk_id, the name of the PPK in the secrets")
    if not connection.children:
        section.problem("children", None, f"missing: give at least one [connections.{name}.children.NAME]")
    section.finish()
    return connection


def _addresses(section: Section, key: str) -> tuple[IPAddress | IPNetwork, ...]:
    """Empty if one of them is %any, or if there are none."""
    entries = section.take_list(key, values.address_entry, (None,))
    return () if None in entries else tuple(entry for entry in entries if entry is not None)


def _proposals(section: Section, key: str, default: tuple[str, ...], *, ike: bool) -> tuple[Proposal, ...]:
    """In the order of preference, numbered from 1 (RFC 7296 s3.3.1)."""
    parse = values.ike_proposal if ike else values.esp_proposal
    proposals = section.take_list(key, parse, tuple(parse(text) for text in default))
    return tuple(replace(proposal, number=number) for number, proposal in enumerate(proposals, 1))


def _local_auth(section: Section, local_addrs: tuple[IPAddress | IPNetwork, ...]) -> AuthConfig:
    method = section.take("auth", values.choice(AuthKind), AuthKind.PSK)
    default = _identity_of(local_addrs)
    auth = certificates.take_local(section, method, default)
    if method is AuthKind.PSK and default is None and "id" not in section:
        why = 'write who this gateway is, such as id = "gw.example.org" (only one local address stands for itself)'
        section.problem("id", None, f"missing: {why}")
    section.finish()
    return auth


def _identity_of(addresses: tuple[IPAddress | IPNetwork, ...]) -> Identity | None:
    if len(addresses) == 1 and isinstance(addresses[0], IPAddress):
        return values.address_identity(addresses[0])
    return None


def _remote_auth(section: Section) -> AuthConfig:
    method = section.take("auth", values.choice(AuthKind), AuthKind.PSK)
    auth = certificates.take_remote(section, method, section.take("id", values.identity, None))
    section.finish()
    return auth


def _ike_lifetimes(section: Section) -> tuple[Lifetime, Lifetime]:
    """Of the keys, and of the authentication. With reauth_time alone the keys last as long, as in swanctl."""
    rekey_default = 0.0 if "reauth_time" in section else IKE_REKEY_TIME
    rekey_time = section.take("rekey_time", values.duration, rekey_default)
    reauth_time = section.take("reauth_time", values.duration, 0.0)
    longest = max(rekey_time, reauth_time)
    over_time = section.take("over_time", values.duration, longest * (HARD_LIMIT_FACTOR - 1))
    rand_time = section.take("rand_time", values.duration, min(over_time, longest / 2))
    for key, time in (("rekey_time", rekey_time), ("reauth_time", reauth_time)):
        if time and rand_time >= time:
            section.problem("rand_time", rand_time, f"the jitter must be shorter than {key}")
    rekey, reauth = (
        Lifetime(rekey_time=time, life_time=time + over_time if time else 0.0, rand_time=rand_time)
        for time in (rekey_time, reauth_time)
    )
    return rekey, reauth


def _read_child(name: str, section: Section) -> ChildConfig:
    child = ChildConfig(
        name=name,
        local_ts=_selectors(section, "local_ts"),
        remote_ts=_selectors(section, "remote_ts"),
        esp_proposals=_proposals(section, "esp_proposals", DEFAULT_ESP_PROPOSALS, ike=False),
        mode=section.take("mode", values.choice(Mode), Mode.TUNNEL),
        start_action=section.take("start_action", values.choice(StartAction), StartAction.NONE),
        dpd_action=section.take("dpd_action", values.choice(StartAction), StartAction.NONE),
        close_action=section.take("close_action", values.choice(StartAction), StartAction.NONE),
        lifetime=_child_lifetime(section),
        replay_window=section.take(
            "replay_window", values.integer(MIN_REPLAY_WINDOW, MAX_REPLAY_WINDOW), REPLAY_WINDOW
        ),
        copy_df=section.take("copy_df", values.boolean, True),
        copy_ecn=section.take("copy_ecn", values.boolean, True),
        copy_dscp=section.take("copy_dscp", values.choice(CopyField), CopyField.OUT),
        tfc_padding=section.take("tfc_padding", values.tfc_padding, 0),
        per_cpu_sas=section.take("per_cpu_sas", values.per_cpu_sas, NO_RESOURCES),
        dscp_classes=section.take("dscp_classes", values.dscp_classes, ()),
    )
    if child.dscp_classes and child.per_cpu_sas != 0:
        section.problem("dscp_classes", None, "a Child SA is for a worker or for a class: drop this, or per_cpu_sas")
    if child.tfc_padding and child.mode is Mode.TRANSPORT:
        section.problem("tfc_padding", None, "in transport mode nothing tells padding from data: use tunnel mode")
    section.finish()
    return child


def _selectors(section: Section, key: str) -> tuple[TrafficSelector | None, ...]:
    """`dynamic` (None) if the key isn't there."""
    return section.take_list(key, values.selector, (None,))


def _child_lifetime(section: Section) -> Lifetime:
    time = _limits(section, "time", values.duration, CHILD_REKEY_TIME)
    octets = (int(limit) for limit in _limits(section, "bytes", values.size, 0.0))
    packets = (int(limit) for limit in _limits(section, "packets", values.packets, 0.0))
    return Lifetime(*time, *octets, *packets)


def _limits(section: Section, unit: str, parse: values.Number, rekey_default: float) -> tuple[float, float, float]:
    """rekey_*, life_* and rand_* of one unit; life defaults to ten per cent more, rand to what lies between them."""
    life_key = f"life_{unit}"
    given_life = section.take(life_key, parse, 0.0)
    default = given_life / HARD_LIMIT_FACTOR if given_life and rekey_default else rekey_default
    rekey = section.take(f"rekey_{unit}", parse, default)
    life = given_life if life_key in section else rekey * HARD_LIMIT_FACTOR
    rand = section.take(f"rand_{unit}", parse, min(max(life - rekey, 0), rekey / 2))
    if life and rekey and life <= rekey:
        section.problem(life_key, given_life, f"the end of the SA must come after its rekeying (rekey_{unit})")
    if rekey and rand >= rekey:
        section.problem(f"rand_{unit}", rand, f"the jitter must be smaller than rekey_{unit}")
    return rekey, life, rand
