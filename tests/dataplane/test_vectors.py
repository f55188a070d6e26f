"""Published vectors for AES-GCM in ESP, opened by every engine: nonce, AAD and ciphertext are not of our making.

The next header of ESP_CASES is 1, so that they are opened in transport mode: an ICMP packet comes out. WYCHEPROOF are
ciphertexts without ESP trailer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from samples import ENGINES, GATEWAYS, as_inbound, host_params, ipv4, open_all

from ipsecfast.dataplane import InboundSa


@dataclass(frozen=True)
class Vector:
    key: bytes
    nonce: bytes
    aad: bytes
    text: bytes
    sealed: bytes
    icv: bytes

    @property
    def spi(self) -> int:
        return int.from_bytes(self.aad[:4])

    @property
    def esn(self) -> bool:
        return len(self.aad) == 12

    @property
    def sequence(self) -> int:
        return int.from_bytes(self.aad[4:])

    @property
    def datagram(self) -> bytes:
        """RFC 4303 s2: SPI, lower half of the sequence number, IV, ciphertext, ICV."""
        return self.aad[:4] + self.aad[-4:] + self.nonce[4:] + self.sealed + self.icv

    @property
    def inner(self) -> bytes:
        """The plaintext without padding, pad length and next header (RFC 4303 s2.4)."""
        return self.text[: -2 - self.text[-2]]


def vectors(section: str) -> list[Vector]:
    """The cases below the heading that starts with `section`; the first lines of the file give their form."""
    text = Path(__file__).with_name("gcm_esp_vectors.txt").read_text()
    body = text.split(f"[{section}", 1)[1].split("]", 1)[1].split("[", 1)[0]
    return [Vector(*map(bytes.fromhex, case.split("\n"))) for case in body.strip().split("\n\n")]


ESP_CASES = vectors("draft-mcgrew")
WYCHEPROOF = vectors("Wycheproof")


def receiver(case: Vector, engine: str) -> InboundSa:
    """An SA that stands just before the vector's sequence number."""
    key = case.key + case.nonce[:4]
    before = max(case.sequence - 1, 0)
    params = host_params(case.spi, key=key, esn=case.esn, initial_sequence=before, udp_encap=False)
    return InboundSa(as_inbound(params), engine=engine)


def carried(datagram: bytes) -> bytes:
    return ipv4(*GATEWAYS[4], 50, datagram)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", ESP_CASES, ids=lambda case: f"{case.spi:x}-{len(case.key) * 8}-{len(case.text)}")
def test_esp_vector_opens(case: Vector, engine: str) -> None:
    opened, reasons = open_all(receiver(case, engine), [carried(case.datagram)])
    if case.inner:
        assert (reasons, opened) == (["none"], [ipv4(*GATEWAYS[4], 1, case.inner)])
    else:  # one case has no payload at all: authentic, but ICMP has a type and a code
        assert (reasons, opened) == (["malformed"], [b""])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", WYCHEPROOF, ids=lambda case: f"{case.spi:x}-{len(case.text)}")
def test_what_is_authentic_but_has_no_trailer_is_no_integrity_failure(case: Vector, engine: str) -> None:
    assert open_all(receiver(case, engine), [carried(case.datagram)]) == ([b""], ["bad-trailer"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", [*ESP_CASES, *WYCHEPROOF], ids=lambda case: f"{case.spi:x}-{len(case.text)}")
def test_every_bit_of_iv_text_and_icv_counts(case: Vector, engine: str) -> None:
    size = len(case.datagram)
    flips = [*range(64, 8 * size, 7), *range(8 * (size - 16), 8 * size)]
    forged = [(int.from_bytes(case.datagram) ^ 1 << (8 * size - 1 - bit)).to_bytes(size) for bit in flips]
    opened, reasons = open_all(receiver(case, engine), [carried(one) for one in forged])
    assert set(reasons) == {"integrity"}
    assert not any(opened)
