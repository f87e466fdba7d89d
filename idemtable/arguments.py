"""The arguments of a call, before its function runs and before it runs again: whether they are what they were."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import IntEnum, auto
from itertools import chain, compress
from types import (
    AsyncGeneratorType,
    GeneratorType,
    GetSetDescriptorType,
    MemberDescriptorType,
)
from typing import Any, Final
from uuid import UUID

from .fields import shape_of
from .fingerprint import PerClass, fingerprint, has_form
from .nature import by_nature

# No function can change a value of these.
_FIXED: Final = frozenset(
    {type(None), bool, int, float, complex, str, bytes, UUID, Decimal, datetime, date, time, timedelta}
)
_ROOM: Final = 100
"""How many parts are looked at of an argument that has no fingerprint: each takes about a microsecond of every call."""
_of_async: Final[Callable[[Any], str] | None] = getattr(inspect, "getasyncgenstate", None)
"""What says how far an async generator has come; since Python 3.12."""


class Arguments:
    """What can be told of arguments before a function may change them.

    Args:
        given: the arguments by name.
    """

    __slots__ = ("_has_run", "_held", "_once", "_prints")

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._prints: list[tuple[Any, bytes]] = []
        self._once: list[Any] = []
        self._held: list[tuple[Any, list[Any] | None, list[Any]]] = []
        self._has_run = False
        for value in given.values():
            if type(value) in _FIXED:
                continue
            if _kind[type(value)] is _Kind.ONCE:
                self._once.append(value)
            elif (found := _print(value)) is not None:
                self._prints.append((value, found))
            else:
                self._look_into(value)

    def noting(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return what runs a function's work, and notes that it has begun where that makes a difference."""
        if not self._once:
            return work

        def noted(session: Any) -> Any:
            self._has_run = True
            return work(session)

        return noted

    def have_changed(self) -> bool:
        """Say whether they have changed since. What is read only once has when the function has run, if it has begun."""
        if self._has_run and not all(map(_is_fresh, self._once)):
            return True
        if any(_print(value) != before for value, before in self._prints):
            return True
        return any(_differ(*held) for held in self._held)

    def _look_into(self, whole: Any) -> None:
        """Look at an argument part by part, the outer parts first and while there is room."""
        room, seen = _ROOM, {id(whole)}
        rest = deque([whole] if _kind[type(whole)] in _OPEN else [])
        while rest and room > 0:
            value = rest.popleft()
            names, items = _parts(value)
            looks = [*map(_look, items[:room])]
            room -= len(looks)
            if names is not None and _Kind.CLOSED in looks:
                # It may be there to be called: what it keeps for itself, a cache or a pool, changes as it works.
                public = [not (isinstance(name, str) and name.startswith("_")) for name in names]
                names, items, looks = [*compress(names, public)], [*compress(items, public)], [*compress(looks, public)]
            self._held.append((value, names, items))
            for part, look in zip(items, looks, strict=False):
                if isinstance(look, bytes):
                    self._prints.append((part, look))
                elif look is _Kind.ONCE:
                    self._once.append(part)
                elif look in _OPEN and id(part) not in seen:
                    seen.add(id(part))
                    rest.append(part)


# --- what a value is to whoever looks at it --------------------------------------------------------------------------


class _Kind(IntEnum):
    FIXED = auto()
    ONCE = auto()
    """It can be read only once."""
    CONTAINER = auto()
    RECORD = auto()
    """An object whose class declares its fields."""
    CLOSED = auto()
    """Any other one, which is there to be called: a client, a recorder. What it holds changes as it works."""


_OPEN: Final = frozenset({_Kind.CONTAINER, _Kind.RECORD})

_READS: Final = (
    ("__next__",),
    ("__anext__",),
    ("read", "seek"),
    ("read", "readline"),
    ("get_nowait",),
    ("save", "close", "__iter__"),
)
"""By what iterators, files, queues and Werkzeug's uploads are known."""
_CONTAINERS: Final = (list, tuple, dict, set, frozenset, deque)


@PerClass
def _kind(cls: type) -> _Kind:
    if cls in _FIXED:
        return _Kind.FIXED
    # An ORM object forgets what it holds when its session rolls back; a mock has whatever it is asked for.
    is_mock = any(base.__module__ == "unittest.mock" for base in cls.__mro__)
    if is_mock or hasattr(cls, "__mapper__"):
        return _Kind.CLOSED
    if any(all(hasattr(cls, name) for name in names) for names in _READS):
        return _Kind.ONCE
    if issubclass(cls, _CONTAINERS):
        return _Kind.CONTAINER
    return _Kind.CLOSED if shape_of(cls) is None else _Kind.RECORD


def _look(part: Any) -> _Kind | bytes:
    cls = type(part)
    kind = _kind[cls]
    if kind is _Kind.FIXED or kind is _Kind.ONCE or not has_form[cls]:
        return kind
    return _print(part) or kind


def _print(value: Any) -> bytes | None:
    try:
        return fingerprint(value)
    except TypeError:
        return None
    except Exception as error:
        if type(error) is RuntimeError and "during iteration" in str(error):  # another thread is at work in it
            return None
        if not by_nature(error, lambda: fingerprint(value)):
            raise
        return None


# --- what it holds ---------------------------------------------------------------------------------------------------


def _parts(value: Any) -> tuple[list[Any] | None, list[Any]]:
    """Return the items of a container, or the names and values of what an object holds; no code of theirs runs."""
    for base in _CONTAINERS:
        if issubclass(type(value), base):
            return None, [*chain.from_iterable(dict.items(value))] if base is dict else [*base.__iter__(value)]
    found: dict[Any, Any] = {}  # a ``__dict__`` may have other names than texts
    for name, keeper in _keepers[type(value)]:
        try:
            kept = keeper.__get__(value)
        except AttributeError:  # a slot that was never set
            continue
        found |= kept if name == "__dict__" else {name: kept}
    return [*found], [*found.values()]


@PerClass
def _keepers(cls: type) -> list[tuple[str, Any]]:
    """Return the descriptors of what the objects of a class hold: of their ``__dict__`` and their slots."""
    return [
        (name, member)
        for base in cls.__mro__
        for name, member in vars(base).items()
        if isinstance(member, MemberDescriptorType) or (name == "__dict__" and isinstance(member, GetSetDescriptorType))
    ]


def _differ(value: Any, names: list[Any] | None, items: list[Any]) -> bool:
    """Say whether something holds other things than before, or no longer holds one. It may have got another attribute."""
    now, parts = _parts(value)
    if names is None or now is None:
        return len(parts) != len(items) or not all(map(_is_same, parts, items))
    held = dict(zip(now, parts, strict=True))
    return any(name not in held or not _is_same(held[name], item) for name, item in zip(names, items, strict=True))


def _is_same(part: Any, before: Any) -> bool:
    if part is before:
        return True
    is_alike = type(part) is type(before) and has_form[type(part)]
    return is_alike and (found := _print(part)) is not None and found == _print(before)


def _is_fresh(iterator: Any) -> bool:
    if isinstance(iterator, GeneratorType):
        return inspect.getgeneratorstate(iterator) == inspect.GEN_CREATED
    if isinstance(iterator, AsyncGeneratorType) and _of_async is not None:
        return _of_async(iterator) == "AGEN_CREATED"
    return False
