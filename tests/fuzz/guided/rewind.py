"""Puts everything that an object holds back to what it was, in place: who refers to a part of it refers to it still.

An endpoint is a web of objects that know each other, closures and timers included, so a copy of it would be half the
old one. What can't be put back is a generator that has run on: take no snapshot while work is waited for.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cache, partial
from types import BuiltinFunctionType, CellType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

ATOMS = (str, bytes, int, float, complex, type(None), type, ModuleType, Enum)
CONTAINERS = (dict, list, set, deque, bytearray)
NOTHING = object()


@cache
def is_frozen(kind: type) -> bool:
    return bool(getattr(getattr(kind, "__dataclass_params__", None), "frozen", False))


@cache
def slots_of(kind: type) -> tuple[str, ...]:
    names = (n for k in kind.__mro__ for n in (getattr(k, "__slots__", ()) or ()))
    return tuple(n for n in names if n not in ("__dict__", "__weakref__"))


def parts_of(thing: Any) -> Iterator[Any]:
    """What `thing` refers to, as far as it may change; not the module that a function comes from."""
    match thing:
        case FunctionType():
            yield from thing.__closure__ or ()
            yield from thing.__defaults__ or ()
        case MethodType():
            yield thing.__self__
            yield thing.__func__
        case BuiltinFunctionType():
            yield thing.__self__
        case partial():
            yield from (thing.func, thing.args, thing.keywords)
        case CellType():
            yield getattr(thing, "cell_contents", None)
        case dict():
            yield from thing.keys()
            yield from thing.values()
        case list() | set() | deque() | tuple() | frozenset():
            yield from thing
    if hasattr(thing, "__dict__") and not isinstance(thing, FunctionType):
        yield from thing.__dict__.values() if is_frozen(type(thing)) else (thing.__dict__,)
    for name in slots_of(type(thing)):
        yield getattr(thing, name, None)


def reachable(*roots: Any, beyond: tuple[type, ...] = ()) -> list[Any]:
    """Everything that can be come at from `roots`, each once, but through none of the kinds `beyond`."""
    found: list[Any] = []
    known: set[int] = set()
    waiting = list(roots)
    while waiting:
        thing = waiting.pop()
        if isinstance(thing, (*ATOMS, *beyond)) or id(thing) in known:
            continue
        assert not isinstance(thing, GeneratorType), f"{thing} can't be put back"
        known.add(id(thing))
        found.append(thing)
        waiting.extend(parts_of(thing))
    return found


def reset_slots(thing: Any, saved: tuple[tuple[str, Any], ...]) -> None:
    for name, value in saved:
        if value is not NOTHING:
            object.__setattr__(thing, name, value)
        elif hasattr(thing, name):
            object.__delattr__(thing, name)


def refill(thing: Any, saved: Any) -> None:
    thing.clear()
    (thing.extend if isinstance(thing, list | deque | bytearray) else thing.update)(saved)


class Snapshot:
    """What all that `roots` hold was when this was made; `restore` makes it so again."""

    def __init__(self, *roots: Any) -> None:
        self._steps: list[Callable[[], None]] = []
        for thing in reachable(*roots):
            self._save(thing)

    def _save(self, thing: Any) -> None:
        if isinstance(thing, CONTAINERS):
            self._steps.append(partial(refill, thing, thing.copy()))
        if isinstance(thing, random.Random):
            self._steps.append(partial(thing.setstate, thing.getstate()))
        elif isinstance(thing, CellType):
            self._steps.append(partial(setattr, thing, "cell_contents", thing.cell_contents))
        elif (names := slots_of(type(thing))) and not is_frozen(type(thing)):
            saved = tuple((name, getattr(thing, name, NOTHING)) for name in names)
            self._steps.append(partial(reset_slots, thing, saved))

    def restore(self) -> None:
        for step in self._steps:
            step()
