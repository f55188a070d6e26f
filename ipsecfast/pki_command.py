"""`ipsecfast pki`: the command line of the small authority (`pki`, `pki_crl`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from ipsecfast.errors import PkiError
from ipsecfast.pki import (
    CA_DAYS,
    CERTIFICATE_DAYS,
    Issued,
    KeyType,
    Pointers,
    make_authority,
    make_certificate,
    read_file,
)
from ipsecfast.pki_crl import CRL_DAYS, Reason, load_crl, make_crl, revoke, save_crl

F = TypeVar("F", bound=Callable[..., Any])
FILE = click.Path(path_type=Path)


class PkiGroup(click.Group):
    """What went wrong is one sentence on stderr, and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PkiError as error:
            click.echo(f"ipsecfast: {error}", err=True)
            ctx.exit(1)


@click.group(cls=PkiGroup)
def pki() -> None:
    """A small certificate authority, for those who have none."""


def key_type_option(function: F) -> F:
    return click.option(
        "--type",
        "key_type",
        type=click.Choice([kind.value for kind in KeyType]),
        default=KeyType.ECDSA256.value,
        show_default=True,
        help="kind of key",
    )(function)


def ca_option(function: F) -> F:
    return click.option(
        "--ca", type=FILE, default=Path("ca"), show_default=True, help="the authority: FILE.pem, FILE.key, FILE.crl"
    )(function)


def days_option(default: int) -> Callable[[F], F]:
    return click.option("--days", type=click.IntRange(1, 36500), default=default, show_default=True)


@pki.command("ca")
@click.argument("name")
@click.option("--out", type=FILE, default=Path("ca"), show_default=True, help="FILE.pem, FILE.key")
@days_option(CA_DAYS)
@key_type_option
def pki_ca(name: str, out: Path, days: int, key_type: str) -> None:
    """Make an authority called NAME: its certificate and its key."""
    _save(make_authority(name, KeyType(key_type), days=days), out)


@pki.command("cert")
@click.argument("identity", nargs=-1, required=True)
@ca_option
@click.option("--out", type=FILE, help="FILE.pem, FILE.key  [default: the first IDENTITY]")
@days_option(CERTIFICATE_DAYS)
@click.option("--crl-uri", multiple=True, metavar="URI", help="where the authority's CRL is to be had (http)")
@click.option("--ocsp-uri", multiple=True, metavar="URI", help="where its OCSP responder answers (http)")
@key_type_option
def pki_cert(
    identity: tuple[str, ...],
    ca: Path,
    out: Path | None,
    days: int,
    crl_uri: tuple[str, ...],
    ocsp_uri: tuple[str, ...],
    key_type: str,
) -> None:
    """Make a gateway's certificate and key. It may call itself any IDENTITY: a name, an address, user@host."""
    pointers = Pointers(crl_uri, ocsp_uri)
    made = make_certificate(list(identity), KeyType(key_type), _authority(ca), days=days, pointers=pointers)
    _save(made, out or Path(identity[0]))


@pki.command("revoke")
@click.argument("certificate", type=FILE)
@ca_option
@click.option("--reason", type=click.Choice([r.value for r in Reason]), default=Reason.UNSPECIFIED.value)
@days_option(CRL_DAYS)
def pki_revoke(certificate: Path, ca: Path, reason: str, days: int) -> None:
    """Revoke a CERTIFICATE (its .pem file): it stands in the authority's CRL from now on."""
    found = read_file(certificate, x509.load_pem_x509_certificate)
    issuer = _authority(ca)
    _renew(ca, issuer, days, revoke(found, issuer, Reason(reason)))


@pki.command("crl")
@ca_option
@days_option(CRL_DAYS)
def pki_crl(ca: Path, days: int) -> None:
    """Sign the authority's CRL anew, before the one there is comes to its end; make the first one."""
    _renew(ca, _authority(ca), days)


@pki.command("pub")
@click.argument("file", type=FILE)
def pki_pub(file: Path) -> None:
    """Print the raw public key of a certificate or of a private key (.pem, .key), for `pubkeys`."""

    def load(data: bytes) -> Any:
        if b"PRIVATE KEY" in data:
            return load_pem_private_key(data, None).public_key()
        return x509.load_pem_x509_certificate(data).public_key()

    public = read_file(file, load)
    click.echo(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(), nl=False)


def _authority(ca: Path) -> Issued:
    return Issued.load(_with_suffix(ca, ".pem"), _with_suffix(ca, ".key"))


def _renew(ca: Path, issuer: Issued, days: int, *revoked: x509.RevokedCertificate) -> None:
    path = _with_suffix(ca, ".crl")
    crl = make_crl(issuer, load_crl(path), revoked, days=days)
    save_crl(crl, path)
    click.echo(f"{path}: {len(crl)} revoked, good until {crl.next_update_utc:%F %T} UTC")


def _save(made: Issued, out: Path) -> None:
    files = _with_suffix(out, ".pem"), _with_suffix(out, ".key")
    made.save(*files)
    click.echo(f"{files[0]} and its key {files[1]}")


def _with_suffix(path: Path, suffix: str) -> Path:
    """A name with dots in it keeps them all."""
    return path.parent / (path.name + suffix)
