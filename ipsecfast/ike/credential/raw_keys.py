"""Raw public keys (RFC 7670): a CERT payload holds a SubjectPublicKeyInfo; both ends were given each other's key."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from ipsecfast.configured import ConnectionConfig, PrivateKey, PublicKey
from ipsecfast.identity import Identity
from ipsecfast.ike.constants import AuthenticationFailed, CertEncoding
from ipsecfast.ike.crypto import signature
from ipsecfast.ike.wire.message import Message
from ipsecfast.ike.wire.payloads import AuthPayload, CertPayload


def payloads(key: PrivateKey) -> tuple[CertPayload, ...]:
    """s3: our own key; the peer has it already and learns which one it is."""
    return (CertPayload(CertEncoding.RAW_PUBLIC_KEY, encoded(key.public_key())),)


def encoded(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def meant(config: ConnectionConfig, message: Message) -> bool:
    """Whether the peer proves itself by a raw key: it sends one, or nothing at all and we know one."""
    encodings = {payload.encoding for payload in message.all(CertPayload)}
    if CertEncoding.X509_SIGNATURE in encodings:
        return False
    return CertEncoding.RAW_PUBLIC_KEY in encodings or (bool(config.remote.pubkeys) and not config.remote.certificates)


def candidates(config: ConnectionConfig, message: Message, identity: Identity) -> Sequence[PublicKey]:
    """The key that the peer sent, if it is one of those configured; all of these, if it sent none.

    Raises:
        AuthenticationFailed: it is another one.
    """
    known = config.remote.pubkeys
    sent = next((p.data for p in message.all(CertPayload) if p.encoding == CertEncoding.RAW_PUBLIC_KEY), None)
    if sent is None:
        return known
    found = [key for key in known if encoded(key) == sent]
    if not found:
        ours = ", ".join(map(_text, known)) or "none is configured"
        raise AuthenticationFailed(f"{identity} proves itself by {_sent_text(sent)}; remote.pubkeys: {ours}")
    return found


def _text(key: PublicKey) -> str:
    return f"{signature.key_text(key)} {sha256(encoded(key)).hexdigest()[:16]}"


def _sent_text(data: bytes) -> str:
    """A stranger's octets, in a sentence."""
    try:
        key = load_der_public_key(data)
    except (UnsupportedAlgorithm, ValueError):
        return "a raw public key that can't be read"
    return f"the raw public key {_text(key)}" if signature.is_supported(key) else "a raw public key of another kind"  # type: ignore[arg-type]


def check(keys: Sequence[PublicKey], auth: AuthPayload, octets: bytes, identity: Identity) -> None:
    """Raises AuthenticationFailed: the signature is by none of the keys."""
    mistakes = []
    for key in keys:
        try:
            signature.verify(key, auth.method, auth.data, octets)
        except AuthenticationFailed as error:
            mistakes.append(str(error))
        else:
            return
    raise AuthenticationFailed(f"{identity}: {'; '.join(dict.fromkeys(mistakes))}")
