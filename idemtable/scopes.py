"""Which function a scope belongs to: two with one scope on one table would answer for each other.

Only functions that are still alive count, and nothing here keeps a function, an engine or a table alive.
"""

from __future__ import annotations

import gc
import inspect
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary, ref

from .annotations import innermost

Place = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a scope is."""

    module: str
    name: str
    file: str | None
    """Where its text stands; ``None`` for what was typed in."""
    shares: bool

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"

    def admits(self, other: Owner) -> bool:
        """Say whether both may have one scope.

        The same function may be decorated again: a module is reloaded, a notebook's cell runs once more, a script is
        ``__main__`` and is imported by its name as well.
        """
        is_same = self.name == other.name and (
            self.module == other.module or (self.file is not None and self.file == other.file)
        )
        return is_same or (self.shares and other.shares)


def owner_of(function: Any, *, shares: bool) -> Owner:
    """Return who would have the scope of a function of the program's."""
    inner = innermost(function)
    file = getattr(getattr(inspect.unwrap(inner), "__code__", None), "co_filename", "<")
    return Owner(inner.__module__, inner.__qualname__, None if file.startswith("<") else file, shares)


class Scopes:
    """The scopes that have been given away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: WeakKeyDictionary[Any, _Places] = WeakKeyDictionary()

    def take(
        self, anchors: Iterable[Any], place: Place, decorated: Callable[..., Any], owner: Owner, rivalry: str
    ) -> None:
        """Give a scope to a function.

        Args:
            anchors: each stands for the database and is alive as long as that can be reached: a dialect, a sessionmaker.
            place: the table in that database, and the scope.
            decorated: the function that callers have; the scope is its own as long as it lives.
            owner: whose it is.
            rivalry: what is wrong with two owners and how it is cured, for the message.

        Raises:
            ValueError: it belongs to another function.
        """
        known = list(filter(_is_weak, anchors))
        with self._lock:
            rival = self._rival(known, place, owner)
            if rival is None:
                return self._keep(known, place, decorated, owner)
        gc.collect()  # a function that calls itself is in a cycle, and may be dead already
        with self._lock:
            rival = self._rival(known, place, owner)
            if rival is None:
                return self._keep(known, place, decorated, owner)
        raise ValueError(f"{owner} has the scope {place[-1]!r} of {rival} on the same table: {rivalry}")

    def _rival(self, anchors: list[Any], place: Place, owner: Owner) -> Owner | None:
        for anchor in anchors:
            for other in self._at[anchor].living(place) if anchor in self._at else ():
                if not owner.admits(other):
                    return other
        return None

    def _keep(self, anchors: list[Any], place: Place, decorated: Callable[..., Any], owner: Owner) -> None:
        for anchor in anchors:
            self._at.setdefault(anchor, _Places()).add(place, decorated, owner)


class _Places:
    """The scopes of one database."""

    def __init__(self) -> None:
        self._owners: dict[Place, list[tuple[ref[Any], Owner]]] = {}
        self._sweep_at = 1024  # scopes made for each request must not stay for ever

    def living(self, place: Place) -> list[Owner]:
        return [owner for alive, owner in self._owners.get(place, ()) if alive() is not None]

    def add(self, place: Place, decorated: Callable[..., Any], owner: Owner) -> None:
        if len(self._owners) >= self._sweep_at:
            self._owners = {place: entries for place, entries in self._owners.items() if self.living(place)}
            self._sweep_at = max(1024, 2 * len(self._owners))
        entries = [entry for entry in self._owners.get(place, ()) if entry[0]() is not None]
        self._owners[place] = [*entries, (ref(decorated), owner)]


def _is_weak(anchor: Any) -> bool:
    try:
        hash(ref(anchor))
    except TypeError:
        return False
    return True


SCOPES: Final = Scopes()
