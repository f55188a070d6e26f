"""Certificates and private keys: PEM or DER files that the configuration names, relative to itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from ipsecfast.config import values
from ipsecfast.config.secrets import access_mistake
from ipsecfast.config.section import Section
from ipsecfast.configured import AuthConfig, AuthKind, PrivateKey
from ipsecfast.identity import Identity
from ipsecfast.ike.certificates import has_identity, identities_text, subject_identity

_PEM = b"-----BEGIN"
PRIVATE_KEYS = get_args(PrivateKey)


def take_local(section: Section, method: AuthKind, default_identity: Identity | None) -> AuthConfig:
    """`certs` and `key` of our side. Without `id` the certificate's subject is who we are, as in swanctl."""
    certificates = section.take_list("certs", certificate_file(section), ())
    key = section.take("key", key_file(section), None)
    pss = section.take("rsa_pss", values.boolean, False)
    identity = section.take("id", values.required_identity, default_identity)
    if method is AuthKind.PSK:
        for name in ("certs", "key"):
            if name in section:
                section.problem(name, None, 'is for auth = "pubkey"')
        return AuthConfig(identity, method)
    if not certificates and "certs" not in section:
        section.problem("certs", None, "missing: the file of our certificate, and those that lead to its authority")
    if key is None and "key" not in section:
        section.problem("key", None, "missing: the file of our private key")
    if certificates and "id" not in section:
        identity = subject_identity(certificates[0])
    if certificates and key is not None:
        _check_ours(section, certificates[0], key, identity)
    return AuthConfig(identity, method, certificates=certificates, key=key, rsa_pss=pss)


def _check_ours(section: Section, certificate: x509.Certificate, key: PrivateKey, identity: Identity | None) -> None:
    if key.public_key() != certificate.public_key():
        section.problem("key", None, "is not the private key of the first certificate in certs")
    if identity is not None and not has_identity(certificate, identity):
        section.problem("id", str(identity), f"is not in our certificate, which is for {identities_text(certificate)}")


def take_remote(section: Section, method: AuthKind, identity: Identity | None) -> AuthConfig:
    """`cacerts` and `certs`: who may vouch for the peer, or its very certificate."""
    authorities = section.take_list("cacerts", certificate_file(section), ())
    certificates = section.take_list("certs", certificate_file(section), ())
    given = "cacerts" in section or "certs" in section
    if method is AuthKind.PUBKEY and not given:
        section.problem("cacerts", None, "missing: the certificate of the peer's authority (or certs: the peer's own)")
    if method is AuthKind.PSK and given:
        section.problem("cacerts" if "cacerts" in section else "certs", None, 'is for auth = "pubkey"')
    return AuthConfig(identity, method, certificates=certificates, authorities=authorities)


def certificate_file(section: Section) -> Callable[[object], x509.Certificate]:
    def parse(value: object) -> x509.Certificate:
        data = _read(section, value)
        try:
            return x509.load_pem_x509_certificate(data) if _PEM in data else x509.load_der_x509_certificate(data)
        except ValueError as error:
            raise ValueError("the file holds no certificate (PEM or DER)") from error

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
            raise ValueError("the key can make no signature here: RSA, ECDSA, Ed25519, Ed448 and ML-DSA can")
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
