"""The ways of `bench kernel` from host to host: what host and guest must both know of them."""

from __future__ import annotations

from dataclasses import dataclass

GCM = ("aesni_intel", "gcm", "seqiv")
KERNEL_ESP = ("xfrm_user", "esp4", *GCM)


@dataclass(frozen=True, slots=True)
class Plain:
    """No tunnel: both gateways forward."""

    row: tuple[str, str]
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Xfrm:
    """Linux's own ESP in tunnel mode, AES-128-GCM, SAs by `ip xfrm`. `gro`: on all veth devices."""

    row: tuple[str, str]
    udp: bool = False
    gro: bool = False
    modules: tuple[str, ...] = KERNEL_ESP


@dataclass(frozen=True, slots=True)
class Wireguard:
    """Linux's own WireGuard."""

    row: tuple[str, str]
    modules: tuple[str, ...] = ("wireguard",)


@dataclass(frozen=True, slots=True)
class Ours:
    """Two `ipsecfast run` that negotiate AES-128-GCM with a pre-shared key."""

    row: tuple[str, str]
    udp: bool
    engine: str
    modules: tuple[str, ...] = ("tun",)


Way = Plain | Xfrm | Wireguard | Ours

WAYS: dict[str, Way] = {
    "plain": Plain(("plain veth", "routed")),
    "ours-udp": Ours(("ipsecfast", "in UDP, ipsec-mb"), udp=True, engine="ipsec-mb"),
    "ours-udp-openssl": Ours(("ipsecfast", "in UDP, openssl"), udp=True, engine="openssl"),
    "ours-esp": Ours(("ipsecfast", "bare ESP, ipsec-mb"), udp=False, engine="ipsec-mb"),
    "xfrm": Xfrm(("Linux XFRM", "as it comes")),
    "xfrm-tuned": Xfrm(("Linux XFRM", "esp4_offload and GRO"), gro=True, modules=("esp4_offload", *KERNEL_ESP)),
    "xfrm-udp": Xfrm(("Linux XFRM", "in UDP"), udp=True),
    "wireguard": Wireguard(("Linux WireGuard", "as it comes")),
}
