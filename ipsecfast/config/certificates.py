"""Certificates and private keys: PEM or DER files that the configuration names, relative to itself."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    load_der_private_key,
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)

from ipsecfast.config import values
from ipsecfast.config.secrets import access_mistake
from ipsecfast.config.section import Section
from ipsecfast.configured import (
    AuthConfig,
    AuthKind,
    AuthorityConfig,
    Credential,
    PrivateKey,
    PublicKey,
    RevocationPolicy,
)
from ipsecfast.identity import Identity
from ipsecfast.ike.credential.certificates import has_identity, identities_text, subject_identity
from ipsecfast.ike.credential.revocation import parse_crl, parse_response

_PEM = b"-----BEGIN"
_NO_SIGNATURES = "the key can make no signature here: RSA, ECDSA, Ed25519, Ed448 and ML-DSA can"
PRIVATE_KEYS, PUBLIC_KEYS = get_args(PrivateKey), get_args(PublicKey)


def take_local(section: Section, method: AuthKind, default_identity: Identity | None) -> AuthConfig:
    """`certs` or `pubkeys`, and `key`, of our side. Without `id` the certificate's subject is who we are, as in
    swanctl."""
    keys = section.take_list("key", key_file(section), ())
    auth = AuthConfig(
        section.take("id", values.required_identity, default_identity),
        method,
        certificates=section.take_list("certs", certificate_file(section), ()),
        pubkeys=section.take_list("pubkeys", public_key_file(section), ()),
        key=keys[0] if keys else None,
        rsa_pss=section.take("rsa_pss", values.boolean, False),
        ocsp_responses=section.take_list(
            "ocsp_responses", document_file(section, parse_response, "OCSP response (DER)"), ()
        ),
    )
    if method is AuthKind.PSK:
        for name in ("certs", "pubkeys", "key", "ocsp_responses"):
            if name in section:
                section.problem(name, None, 'is for auth = "pubkey"')
        return AuthConfig(auth.identity, method)
    if "certs" not in section and "pubkeys" not in section:
        why = "missing: the file of our certificate, and those that lead to its authority (or pubkeys: our raw key)"
        section.problem("certs", None, why)
    if auth.key is None and "key" not in section:
        section.problem("key", None, "missing: the file of our private key")
    if auth.certificates and "id" not in section:
        auth = replace(auth, identity=subject_identity(auth.certificates[0]))
    if auth.identity is None and "id" not in section and "pubkeys" in section:
        section.problem("id", None, "missing: a raw key says nothing of who we are")
    if len(keys) > 1:
        auth = _several(section, auth, keys)
    _check_ours(section, auth)
    return auth


def _several(section: Section, auth: AuthConfig, keys: Sequence[PrivateKey]) -> AuthConfig:
    """For each key its certificate, wherever it stands in `certs`; what is nobody's leads to the authorities."""
    publics = [key.public_key() for key in keys]
    others = tuple(c for c in auth.certificates if c.public_key() not in publics)
    found: list[Credential] = []
    for number, (key, public) in enumerate(zip(keys, publics, strict=True)):
        own = next((c for c in auth.certificates if c.public_key() == public), None)
        if own is None:
            section.problem(f"key[{number}]", None, "is not the private key of any certificate in certs")
        else:
            found.append(Credential(key, (own, *others)))
    if not found:
        return auth
    first, *more = found
    return replace(auth, key=first.key, certificates=first.certificates, others=tuple(more))


def _check_ours(section: Section, auth: AuthConfig) -> None:
    if auth.key is None:
        return
    public = auth.key.public_key()
    if auth.pubkeys and public not in auth.pubkeys:
        section.problem("key", None, "is not the private key of any of pubkeys")
    if not auth.certificates:
        return
    if public != auth.certificates[0].public_key():
        section.problem("key", None, "is not the private key of the first certificate in certs")
    for one in auth.credentials:
        if auth.identity is not None and not has_identity(one.certificates[0], auth.identity):
            names = identities_text(one.certificates[0])
            section.problem("id", str(auth.identity), f"is not in our certificate, which is for {names}")


def take_remote(section: Section, method: AuthKind, identity: Identity | None) -> AuthConfig:
    """`cacerts`, `certs` and `pubkeys`: who may vouch for the peer, its very certificate, or its raw key."""
    authorities = section.take_list("cacerts", certificate_file(section), ())
    certificates = section.take_list("certs", certificate_file(section), ())
    pubkeys = section.take_list("pubkeys", public_key_file(section), ())
    given = [name for name in ("cacerts", "certs", "pubkeys") if name in section]
    if method is AuthKind.PUBKEY and not given:
        why = "missing: the certificate of the peer's authority (or certs: the peer's own, or pubkeys: its raw key)"
        section.problem("cacerts", None, why)
    if method is AuthKind.PSK and given:
        section.problem(given[0], None, 'is for auth = "pubkey"')
    revocation = section.take("revocation", values.choice(RevocationPolicy), RevocationPolicy.RELAXED)
    if revocation is not RevocationPolicy.RELAXED and "cacerts" not in section:
        why = "needs cacerts: only what an authority has issued can be revoked by it"
        section.problem("revocation", revocation.value, why)
    recheck = section.take("recheck_revocation", values.boolean, False)
    if recheck and "cacerts" not in section:
        section.problem("recheck_revocation", None, "needs cacerts: only what an authority has issued can be revoked")
    return AuthConfig(
        identity,
        method,
        certificates=certificates,
        pubkeys=pubkeys,
        authorities=authorities,
        revocation=revocation,
        recheck_revocation=recheck,
    )


def read_authorities(root: Section) -> tuple[AuthorityConfig, ...]:
    """All `[authorities.NAME]`."""
    return tuple(one for _, section in root.sections("authorities") if (one := _authority(section)) is not None)


def _authority(section: Section) -> AuthorityConfig | None:
    certificate = section.take("cacert", values.optional(certificate_file(section)), None)
    if certificate is None and "cacert" not in section:
        section.problem("cacert", None, "missing: the file of the authority's certificate")
    files = section.take_list("crls", document_file(section, parse_crl, "CRL (PEM or DER)"), ())
    crl_uris = section.take_list("crl_uris", values.http_uri, ())
    ocsp_uris = section.take_list("ocsp_uris", values.http_uri, ())
    section.finish()
    return AuthorityConfig(certificate, (*files, *crl_uris), ocsp_uris) if certificate is not None else None


def document_file(section: Section, parse: Callable[[bytes], object], what: str) -> Callable[[object], str]:
    """A file that is read again whenever it is needed: others make it anew from time to time. Its URI."""

    def check(value: object) -> str:
        data = _read(section, value)
        try:
            parse(data)
        except ValueError as error:
            raise ValueError(f"the file holds no {what}") from error
        return (Path(section.report.file).parent / values.text(value)).absolute().as_uri()

    return check


def certificate_file(section: Section) -> Callable[[object], x509.Certificate]:
    def parse(value: object) -> x509.Certificate:
        data = _read(section, value)
        try:
            return x509.load_pem_x509_certificate(data) if _PEM in data else x509.load_der_x509_certificate(data)
        except ValueError as error:
            raise ValueError("the file holds no certificate (PEM or DER)") from error

    return parse


def public_key_file(section: Section) -> Callable[[object], PublicKey]:
    """A raw public key, as `ipsecfast pki pub` and `openssl pkey -pubout` print it."""

    def parse(value: object) -> PublicKey:
        data = _read(section, value)
        try:
            key = load_pem_public_key(data) if _PEM in data else load_der_public_key(data)
        except ValueError as error:
            raise ValueError("the file holds no raw public key (PEM or DER): ipsecfast pki pub prints one") from error
        if not isinstance(key, PUBLIC_KEYS):
            raise ValueError(_NO_SIGNATURES)
        return cast(PublicKey, key)

    return parse


def key_file(section: Section) -> Callable[[object], PrivateKey]:
    def parse(value: object) -> PrivateKey:
        data = _read(section, value, private=True)
        try:
            key = load_pem_private_key(data, None) if _PEM in data else load_der_private_key(data, None)
        except TypeError as error:
            raise ValueError(
                "the private key is encrypted: openssl pkey -in FILE -out FILE2 takes that away"
            ) from error
        except ValueError as error:
            raise ValueError("the file holds no private key (PEM or DER)") from error
        if not isinstance(key, PRIVATE_KEYS):
            raise ValueError(_NO_SIGNATURES)
        return cast(PrivateKey, key)

    return parse


def _read(section: Section, value: object, *, private: bool = False) -> bytes:
    path = Path(section.report.file).parent / values.text(value)
    try:
        with path.open("rb") as stream:
            mistake = access_mistake(os.fstat(stream.fileno())) if private else None
            data = stream.read()
    except OSError as error:
        raise ValueError(f"the file can't be read: {error.strerror}") from error
    if mistake is not None:
        raise ValueError(mistake)
    return data
