"""A statement in libpq's words, to be sent past the driver's cursor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import itemgetter
from types import NoneType
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.dialects import postgresql


class Packet:
    """A statement in libpq's words: numbered places, and values in bytes.

    Args:
        sql: the statement, with ``:name`` for a value.
    """

    __slots__ = ("_values", "formats", "key", "query", "text", "types")

    def __init__(self, sql: str) -> None:
        compiled = text(sql).compile(dialect=postgresql.dialect(paramstyle="numeric_dollar"))  # type: ignore[no-untyped-call]
        order: list[str] = getattr(compiled, "positiontup", None) or []
        self.text = str(compiled)
        # By these two names psycopg's book knows a statement, and keeps it under the pair of them.
        self.query = self.text.encode()
        self.types: tuple[int, ...] = ()
        self.key = self.query, self.types
        self.formats = [int(name in _BINARY) for name in order]
        self._values: Callable[[Mapping[str, Any]], Any]
        if len(order) > 1:
            self._values = itemgetter(*order)
        else:  # of one itemgetter returns the value by itself, and of none there is no itemgetter
            self._values = lambda values: tuple(values[name] for name in order)

    def encoded(self, values: Mapping[str, Any]) -> list[bytes | None]:
        """Return the values in the order of their places."""
        return [value if type(value) in _READY else _WIRE[type(value)](value) for value in self._values(values)]


_BINARY: Final = frozenset({"id", "owner", "fingerprint", "result"})


class _Wire(dict[type, Callable[[Any], Any]]):
    """How values of a class are sent; those of a class of the application's own, such as a StrEnum, as their base's."""

    def __missing__(self, cls: type) -> Callable[[Any], Any]:
        for base in cls.__mro__:
            if base in self:
                return self[base]
        raise TypeError(f"a {cls.__name__} cannot be sent")


_WIRE: Final = _Wire({str: str.encode, bytes: bytes, int: b"%d".__mod__})
_READY: Final = frozenset({bytes, NoneType})
