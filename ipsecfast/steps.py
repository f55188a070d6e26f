"""Setting up step by step, and taking down in reverse whatever had been reached."""

from __future__ import annotations

import logging
from collections.abc import Callable

from ipsecfast.errors import IpsecError
from ipsecfast.logs import log_event


class Steps:
    """What was set up and how each step is undone. A step that can't be undone is logged and stops no other."""

    def __init__(self) -> None:
        self._done: list[tuple[str, Callable[[], object]]] = []

    def add(self, what: str, undo: Callable[[], object]) -> None:
        self._done.append((what, undo))
        log_event(logging.DEBUG, "step", f"set up: {what}")

    def undo_all(self) -> bool:
        """Undoes everything, last first; True if all of it worked."""
        clean = True
        while self._done:
            what, undo = self._done.pop()
            try:
                undo()
                log_event(logging.DEBUG, "step", f"taken down: {what}")
            except (IpsecError, OSError) as error:
                clean = False
                log_event(logging.ERROR, "teardown", f"{what} could not be taken down: {error}")
        return clean
