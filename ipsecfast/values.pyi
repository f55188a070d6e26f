"""Tables of names, and what follows from numbers alone; for users they are in `ipsecfast.dataplane`."""

ENGINES: tuple[str, ...]
DROP_REASONS: tuple[str, ...]
DROP_HELP: tuple[str, ...]

def choose_engine(name: str = "auto") -> str: ...
def esp_overhead(encryption: int, mode: str, udp_encap: bool, outer_version: int) -> int: ...
