"""The arguments of a call, before its function runs and before it runs again: whether they are what they were."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from types import AsyncGeneratorType, GeneratorType
from typing import Any, Final
from uuid import UUID

from .fingerprint import fingerprint
from .nature import by_nature

# No function can change a value of these.
_FIXED: Final = frozenset(
    {type(None), bool, int, float, complex, str, bytes, UUID, Decimal, datetime, date, time, timedelta}
)
_of_async: Final[Callable[[Any], str] | None] = getattr(inspect, "getasyncgenstate", None)
"""What says how far an async generator has come; since Python 3.12."""


class Arguments:
    """What can be told of arguments before a function may change them.

    Args:
        given: the arguments by name.
    """

    __slots__ = ("_given", "_has_run", "_once", "_prints")

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._given = given
        self._prints: dict[str, bytes] = {}
        self._once: list[Any] = []
        self._has_run = False
        for name, value in given.items():
            if type(value) in _FIXED:
                continue
            if isinstance(value, _ITERATORS):
                self._once.append(value)
            elif (found := _print(value)) is not None:
                self._prints[name] = found
            else:
                self._once += _iterators_in(value)

    def noting(self, work: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return what runs a function's work, and notes that it has begun where that makes a difference."""
        if not self._once:
            return work

        def noted(session: Any) -> Any:
            self._has_run = True
            return work(session)

        return noted

    def have_changed(self) -> bool:
        """Say whether they have changed since. An iterator has when the function has run, unless it has not begun."""
        if self._has_run and not all(map(_is_fresh, self._once)):
            return True
        return any(_print(self._given[name]) != before for name, before in self._prints.items())


_ITERATORS: Final = (Iterator, AsyncIterator)


def _print(value: Any) -> bytes | None:
    try:
        return fingerprint(value)
    except TypeError:  # of an ORM object nobody can tell
        return None
    except Exception as error:
        if not by_nature(error, lambda: fingerprint(value)):
            raise
        return None


def _iterators_in(value: Any) -> list[Any]:
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return []
    return [one for one in value if isinstance(one, _ITERATORS)]


def _is_fresh(iterator: Any) -> bool:
    if isinstance(iterator, GeneratorType):
        return inspect.getgeneratorstate(iterator) == inspect.GEN_CREATED
    if isinstance(iterator, AsyncGeneratorType) and _of_async is not None:
        return _of_async(iterator) == "AGEN_CREATED"
    return False
