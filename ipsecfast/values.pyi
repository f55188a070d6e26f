"""Tables of names, and what follows from numbers alone; for users they are in `ipsecfast.dataplane`."""

from collections.abc import Sequence
from typing import Self, final

from ipsecfast.model import NextHop, Policy, SaParams

ENGINES: tuple[str, ...]
ENGINE_VERSIONS: dict[str, str]
DROP_REASONS: tuple[str, ...]
DROP_HELP: tuple[str, ...]

def choose_engine(name: str = "auto") -> str: ...
def esp_overhead(encryption: int, mode: str, udp_encap: bool, outer_version: int) -> int: ...

# For the other extension modules.
@final
class SaParamsStruct:
    def __new__(cls, params: SaParams) -> Self: ...

@final
class PolicyArray:
    def __new__(cls, policies: Sequence[Policy]) -> Self: ...

@final
class HopArray:
    def __new__(cls, hops: Sequence[NextHop]) -> Self: ...

__pyx_capi__: dict[str, object]
