"""The configuration: one TOML file in swanctl's words. `load_config` reads and checks it.

values       what one value may look like
section      one table read key by key, mistakes collected; `lines` knows where each key stands
connections, secrets, policies    the parts of the file
checks       what can't work together
load         the whole
"""

from ipsecfast.config.checks import concrete_remote, outer_families
from ipsecfast.config.gateway import DEFAULT_CONTROL, Engine, GatewayConfig, PollMode, RingChoice, RingKind
from ipsecfast.config.load import load_config

__all__ = [
    "DEFAULT_CONTROL",
    "Engine",
    "GatewayConfig",
    "PollMode",
    "RingChoice",
    "RingKind",
    "concrete_remote",
    "load_config",
    "outer_families",
]
