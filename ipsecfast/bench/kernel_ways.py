"""The ways of `bench kernel` from host to host: what host and guest must both know of them."""

from __future__ import annotations

from dataclasses import dataclass

GCM = ("aesni_intel", "gcm", "seqiv")
KERNEL_ESP = ("xfrm_user", "esp4", *GCM)


@dataclass(frozen=True, slots=True)
class Plain:
    """No tunnel: both gateways forward."""

    title: str
    modules: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Xfrm:
    """Linux's own ESP in tunnel mode, AES-128-GCM, SAs by `ip xfrm`. `gro`: on all veth devices."""

    title: str
    udp: bool = False
    gro: bool = False
    modules: tuple[str, ...] = KERNEL_ESP


@dataclass(frozen=True, slots=True)
class Wireguard:
    """Linux's own WireGuard."""

    title: str
    modules: tuple[str, ...] = ("wireguard",)


@dataclass(frozen=True, slots=True)
class Ours:
    """Two `ipsecfast run` that negotiate AES-128-GCM with a pre-shared key."""

    title: str
    udp: bool
    engine: str
    modules: tuple[str, ...] = ("tun",)


Way = Plain | Xfrm | Wireguard | Ours

WAYS: dict[str, Way] = {
    "plain": Plain("plain veth"),
    "ours-udp": Ours("ours in UDP, ipsec-mb", udp=True, engine="ipsec-mb"),
    "ours-udp-openssl": Ours("ours in UDP, openssl", udp=True, engine="openssl"),
    "ours-esp": Ours("ours bare, ipsec-mb", udp=False, engine="ipsec-mb"),
    "xfrm": Xfrm("kernel XFRM"),
    "xfrm-tuned": Xfrm("kernel XFRM, esp4_offload, GRO", gro=True, modules=("esp4_offload", *KERNEL_ESP)),
    "xfrm-udp": Xfrm("kernel XFRM in UDP", udp=True),
    "wireguard": Wireguard("kernel WireGuard"),
}
