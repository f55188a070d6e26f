"""Policies and SAs by the hundred thousand: numpy arrays in the layout of the data plane, each row checked as ever."""

from collections.abc import Sequence
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from ipsecfast.model import Policy, SaParams

ADDRESS_DTYPE: np.dtype[np.void]
SELECTOR_DTYPE: np.dtype[np.void]
PATH_DTYPE: np.dtype[np.void]
POLICY_DTYPE: np.dtype[np.void]
SA_DTYPE: np.dtype[np.void]
SA_COUNT_DTYPE: np.dtype[np.void]

def policy_array(policies: Sequence[Policy]) -> NDArray[np.void]: ...
def sa_array(sas: Sequence[SaParams]) -> NDArray[np.void]: ...

# For the other extension modules.
@final
class SaArray:
    def __new__(cls, array: NDArray[np.void]) -> Self: ...

__pyx_capi__: dict[str, Any]
