"""The rows of the matrix, in the order of the page."""

from __future__ import annotations

from peer import DEFAULT, IKE, OURS, PPK_ID, THEIRS, Trial

from ipsecfast.pki import KeyType

KEYS = {
    "RSA-3072, PKCS#1 v1.5": (KeyType.RSA3072, False),
    "RSA-3072, PSS": (KeyType.RSA3072, True),
    "ECDSA P-256": (KeyType.ECDSA256, False),
    "ECDSA P-384": (KeyType.ECDSA384, False),
    "ECDSA P-521": (KeyType.ECDSA521, False),
    "Ed25519": (KeyType.ED25519, False),
    "Ed448": (KeyType.ED448, False),
}
GROUPS = ("ecp256", "ecp384", "ecp521", "ecp384bp", "x448", "modp2048", "modp4096")
CIPHERS = {
    "AES-256-GCM, PRF SHA-384": "aes256gcm16-prfsha384-x25519",
    "AES-256-CBC, HMAC-SHA-256": "aes256-sha256-x25519",
    "AES-128-CBC, HMAC-SHA-512": "aes128-sha512-x25519",
}
HYBRID = "aes256gcm16-prfsha384-x25519-ke1_mlkem768"
ESP_HYBRID = "aes256gcm16-x25519-ke1_mlkem768"

TRIALS = (
    Trial(name="psk", row="pre-shared key"),
    *(
        Trial(name=f"{kind}{'-pss' if pss else ''}", row=f"certificate {words}, with a chain", key=kind, pss=pss)
        for words, (kind, pss) in KEYS.items()
    ),
    Trial(name="defaults", row="both with their default proposals", ike=DEFAULT, esp=DEFAULT, needs=("esp default",)),
    Trial(
        name="defaults-rekeyed",
        row="default proposals, Child SA rekeyed",
        ike=DEFAULT,
        esp=DEFAULT,
        life="rekeys_child",
        needs=("esp default",),
    ),
    Trial(name="child-rekey", row="Child SA rekeyed", life="rekeys_child"),
    Trial(name="child-rekey-pfs", row="... with a key exchange", esp="aes128gcm16-x25519", life="rekeys_child"),
    Trial(name="ike-rekey", row="IKE SA rekeyed", life="rekeys_ike"),
    *(
        Trial(
            name=f"{what}-limit",
            row=f"Child SA rekeyed when it has carried its {what}",
            limit=(what, number),
            sided=True,
            life="rekeys_by_limit",
        )
        for what, number in (("bytes", 2_000_000), ("packets", 2_000))
    ),
    Trial(name="reauthentication", row="IKE SA authenticated anew", life="reauthenticates"),
    Trial(name="hybrid", row="X25519 with ML-KEM-768", ike=HYBRID),
    Trial(
        name="hybrid-child-rekey",
        row="... Child SA rekeyed with both",
        ike=HYBRID,
        esp=ESP_HYBRID,
        life="rekeys_child",
    ),
    Trial(name="hybrid-ike-rekey", row="... IKE SA rekeyed with both", ike=HYBRID, life="rekeys_ike"),
    Trial(
        name="fragments",
        row="IKE messages in fragments (a chain of RSA-4096)",
        key=KeyType.RSA4096,
        life="sends_fragments",
    ),
    Trial(
        name="loss",
        row="10 % of all packets lost each way: up, rekeys of both SAs",
        loss=10,
        esp="aes128gcm16-x25519",
        life="survives_loss",
    ),
    *(Trial(name=f"ike-{ike}", row=f"IKE with {words}", ike=ike) for words, ike in CIPHERS.items()),
    *(Trial(name=f"group-{group}", row=f"IKE with {group}", ike=f"aes256gcm16-prfsha384-{group}") for group in GROUPS),
    Trial(name="esp-aes256", row="ESP with AES-256-GCM", esp="aes256gcm16"),
    Trial(name="esn", row="extended sequence numbers", esp="aes128gcm16-esn"),
    Trial(name="transport", row="transport mode", mode="transport"),
    Trial(name="encap", row="ESP in UDP, asked for by us", encap=True, needs=("nat",)),
    *(
        Trial(
            name=f"nat-{end}-{mode}{'-rekeyed' if rekeyed else ''}",
            row=f"{mode} mode, {words} behind a NAT{', both SAs rekeyed' if rekeyed else ''}",
            nat=end,
            mode=mode,
            needs=("nat",),
            life="rekeys_behind_nat" if rekeyed else "behind_nat",
        )
        for end, words in ((OURS, "ipsecfast"), (THEIRS, "the peer"))
        for mode, rekeyed in (("tunnel", True), ("transport", False), ("transport", True))
    ),
    Trial(name="outer-v6", row="over IPv6", outer=6),
    Trial(name="inner-v6", row="IPv6 inside IPv4", inner=(6,)),
    Trial(
        name="selectors",
        row="IPv4 and IPv6 in one Child SA",
        inner=(4, 6),
        needs=("several selectors",),
    ),
    Trial(
        name="networks",
        row="three networks at our end in one Child SA",
        networks=3,
        needs=("several selectors",),
    ),
    Trial(name="port", row="selectors with protocol and port", port="tcp/7001", life="only_that_port"),
    Trial(name="dscp", row="DSCP of inner packets on the outer ones", life="carries_dscp"),
    Trial(
        name="ppk",
        row="post-quantum pre-shared key, both insist on it",
        needs=("ppk",),
        connection={"ppk_id": PPK_ID, "ppk_required": True},
        life="rekeys_ike",
    ),
    Trial(
        name="intermediate",
        row="IKE_INTERMEDIATE offered, with nothing to do in it",
        needs=("intermediate",),
        connection={"proposals": [HYBRID, IKE]},
        ike=DEFAULT,
    ),
    Trial(
        name="childless",
        row="IKE SA without a first Child SA (RFC 6023), both insist on it",
        needs=("childless",),
        esp="aes128gcm16-x25519",
        connection={"childless": "force"},
    ),
    Trial(
        name="resources",
        row="per-resource Child SAs (RFC 9611)",
        needs=("per-resource",),
        gateway={"workers": 2},
        child={"per_cpu_sas": True},
        life="has_resources",
    ),
    Trial(
        name="classes",
        row="a Child SA for packets of one DSCP (RFC 9611)",
        needs=("per-resource",),
        child={"dscp_classes": [46]},
        life="has_classes",
    ),
    Trial(
        name="resumption",
        row="tickets (RFC 5723) given and taken",
        needs=("resumption",),
        connection={"resumption": True},
        life="has_tickets",
    ),
)
