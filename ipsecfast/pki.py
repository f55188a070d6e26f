"""A small certificate authority for those who have none: a CA, and certificates of gateways, each with its key.

Files are PEM; keys are readable by their owner only; nothing is overwritten. `ipsecfast pki` is its command line.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from ipsecfast.configured import PrivateKey
from ipsecfast.errors import PkiError

T = TypeVar("T")

CLOCK_SKEW = timedelta(minutes=5)  # of peers whose clocks are late: valid a little before it was made
CA_DAYS, CERTIFICATE_DAYS = 3650, 730


class KeyType(StrEnum):
    """Kinds of keys, in the words of the command line."""

    ECDSA256 = "ecdsa256"
    ECDSA384 = "ecdsa384"
    ECDSA521 = "ecdsa521"
    ED25519 = "ed25519"
    ED448 = "ed448"
    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"
    ML_DSA_44 = "mldsa44"
    ML_DSA_65 = "mldsa65"
    ML_DSA_87 = "mldsa87"


def _rsa(bits: int) -> Callable[[], PrivateKey]:
    return lambda: rsa.generate_private_key(65537, bits)


_GENERATORS: dict[KeyType, Callable[[], PrivateKey]] = {
    KeyType.ECDSA256: lambda: ec.generate_private_key(ec.SECP256R1()),
    KeyType.ECDSA384: lambda: ec.generate_private_key(ec.SECP384R1()),
    KeyType.ECDSA521: lambda: ec.generate_private_key(ec.SECP521R1()),
    KeyType.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeyType.ED448: ed448.Ed448PrivateKey.generate,
    KeyType.RSA2048: _rsa(2048),
    KeyType.RSA3072: _rsa(3072),
    KeyType.RSA4096: _rsa(4096),
    KeyType.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeyType.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeyType.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}


@dataclass(frozen=True, slots=True)
class Pointers:
    """Where whoever gets a certificate asks whether it is revoked: URIs that it names itself."""

    crl: tuple[str, ...] = ()
    ocsp: tuple[str, ...] = ()

    def extensions(self) -> Iterator[x509.ExtensionType]:
        if self.crl:
            points = [x509.DistributionPoint([x509.UniformResourceIdentifier(u)], None, None, None) for u in self.crl]
            yield x509.CRLDistributionPoints(points)
        if self.ocsp:
            method = AuthorityInformationAccessOID.OCSP
            names = [x509.UniformResourceIdentifier(uri) for uri in self.ocsp]
            yield x509.AuthorityInformationAccess([x509.AccessDescription(method, name) for name in names])


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey

    def save(self, certificate_file: Path, key_file: Path) -> None:
        """Raises PkiError where a file is there already, or can't be written."""
        private = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        for path in (certificate_file, key_file):
            if path.exists():
                raise PkiError(f"{path} is there already; nothing is overwritten")
        _write(key_file, private, 0o600)
        _write(certificate_file, self.certificate.public_bytes(Encoding.PEM), 0o644)

    @classmethod
    def load(cls, certificate_file: Path, key_file: Path) -> Issued:
        """Raises PkiError with the file and what is wrong with it."""
        certificate = read_file(certificate_file, x509.load_pem_x509_certificate)
        key = read_file(key_file, lambda data: load_pem_private_key(data, None))
        if key.public_key() != certificate.public_key():
            raise PkiError(f"{key_file} is not the key of {certificate_file}")
        return cls(certificate, key)  # type: ignore[arg-type]


def _write(path: Path, data: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise PkiError(f"{path} can't be written: {error.strerror}") from error


def read_file(path: Path, load: Callable[[bytes], T]) -> T:
    """Raises PkiError with the file and what is wrong with it."""
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise PkiError(f"{path} can't be read: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        raise PkiError(f"{path}: {error}") from error


def make_authority(
    name: str,
    key_type: KeyType,
    *,
    days: int = CA_DAYS,
    issuer: Issued | None = None,
    pointers: Pointers = Pointers(),
) -> Issued:
    """A certificate that may issue others: of itself, or below `issuer`."""
    key = _GENERATORS[key_type]()
    builder = _builder(name, key, days, issuer)
    depth = None if issuer is None else 0
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=depth), critical=True)
    builder = builder.add_extension(_usage(authority=True), critical=True)
    for extension in pointers.extensions():
        builder = builder.add_extension(extension, critical=False)
    return _sign(builder, key, issuer)


def make_certificate(
    identities: list[str],
    key_type: KeyType,
    issuer: Issued,
    *,
    days: int = CERTIFICATE_DAYS,
    pointers: Pointers = Pointers(),
) -> Issued:
    """Of a gateway that may call itself any of `identities`: names, addresses, user@host. The first is its CN."""
    key = _GENERATORS[key_type]()
    builder = _builder(identities[0], key, days, issuer)
    names = x509.SubjectAlternativeName([_general_name(identity) for identity in identities])
    builder = builder.add_extension(names, critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(authority=False), critical=True)
    purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.IPSEC_IKE]
    builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    for extension in pointers.extensions():
        builder = builder.add_extension(extension, critical=False)
    return _sign(builder, key, issuer)


def _general_name(identity: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(identity))
    except ValueError:
        pass
    try:
        return x509.RFC822Name(identity) if "@" in identity else x509.DNSName(identity)
    except ValueError as error:
        raise PkiError(f"{identity!r} is no name, address or user@host: {error}") from error


def _builder(name: str, key: PrivateKey, days: int, issuer: Issued | None) -> x509.CertificateBuilder:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now, public = datetime.now(UTC).replace(microsecond=0), key.public_key()
    authority = issuer.certificate.public_key() if issuer else public
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)  # type: ignore[arg-type]
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def _sign(builder: x509.CertificateBuilder, key: PrivateKey, issuer: Issued | None) -> Issued:
    signer = issuer.key if issuer else key
    return Issued(builder.sign(signer, hash_for(signer)), key)


def hash_for(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """Edwards curves and ML-DSA bring their own."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return hashes.SHA256() if key.key_size <= 256 else hashes.SHA384() if key.key_size <= 384 else hashes.SHA512()
    return hashes.SHA256() if isinstance(key, rsa.RSAPrivateKey) else None
