"""What an IdemTable was told, validated once, and the few things every feature needs from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from .codecs import JSON, Codec, Results, Seal, register
from .dialects import Dialect, find
from .repository import Records
from .schema import check_names

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from .binding import AsyncBinding, Binding

LONGEST_TTL: Final = timedelta(days=3650)
"""Ten years. Past the year 9999 a driver cannot read the timestamp back; nobody retries a request for a decade."""
LONGEST_WAIT: Final = timedelta(hours=1)
"""A duplicate holds a connection while it waits."""
_MICROSECOND: Final = timedelta(microseconds=1)


def checked_ttl(ttl: object, name: str = "ttl") -> int:
    """Return a time to live in microseconds.

    Raises:
        TypeError: not a ``timedelta``.
        ValueError: zero, negative or longer than 3650 days.
    """
    if not isinstance(ttl, timedelta):
        raise TypeError(f"{name}= takes a timedelta, not {ttl!r}")
    if not timedelta() < ttl <= LONGEST_TTL:
        raise ValueError(f"{name} must be longer than zero and at most {LONGEST_TTL.days} days, not {ttl}")
    return ttl // _MICROSECOND


def checked_wait(wait: object, name: str = "wait") -> float:
    """Return a time to wait in seconds; zero fails at once.

    Raises:
        TypeError: not a ``timedelta``.
        ValueError: negative or longer than an hour.
    """
    if not isinstance(wait, timedelta):
        raise TypeError(f"{name}= takes a timedelta, not {wait!r}")
    if not timedelta() <= wait <= LONGEST_WAIT:
        raise ValueError(f"{name} must be between zero and {LONGEST_WAIT}, not {wait}")
    return wait.total_seconds()


def _checked_count(value: object, name: str, lowest: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}= takes an int, not {value!r}")
    if value < lowest:
        raise ValueError(f"{name} must be at least {lowest}, not {value}")
    return value


@dataclass(frozen=True)
class Settings:
    """The validated arguments of an IdemTable."""

    binding: Binding | AsyncBinding
    ttl: int
    wait: float
    attempts: int
    max_result_bytes: int
    store_keys: bool
    table: str
    schema: str | None
    codec: Codec
    seal: Seal | None
    records: Records
    nest: tuple[Any, ...]
    """What two tables must share for the calls of one to join the calls of the other."""

    @property
    def engine(self) -> Engine:
        """The sync engine."""
        return self.binding.engine

    @property
    def dialect(self) -> Dialect:
        """The ways of the engine's database."""
        return self.records.dialect

    def results(self, returns: Any, scope: str) -> Results:
        """Return what carries the results of one function or block of this table."""
        return Results(returns, self.codec, self.max_result_bytes, scope)

    def records_of(self, connection: Connection) -> Records:
        """Return the statements in the words of a connection: a session handed over may have another driver."""
        if connection.dialect is self.engine.dialect:
            return self.records
        other = connection.dialect
        known = _by_dialect.get((id(other), self.table, self.schema))
        if known is None or known[0] is not other:
            if len(_by_dialect) >= _MOST_DIALECTS:
                _by_dialect.clear()
            known = other, Records(find(other, self.table, self.schema), self.table, self.schema)
            _by_dialect[id(other), self.table, self.schema] = known
        return known[1]


_MOST_DIALECTS: Final = 64
"""Statements kept for engines that sessions were handed over from; a program that makes an engine a request must not
grow with it."""
_by_dialect: dict[tuple[int, str, str | None], tuple[Any, Records]] = {}


def validated(
    binding: Binding | AsyncBinding,
    *,
    ttl: timedelta,
    wait: timedelta,
    attempts: int,
    max_result_bytes: int,
    store_keys: bool,
    table: str,
    schema: str | None,
    codec: Codec | None,
    seal: Seal | None,
) -> Settings:
    """Check every setting before the first call, and prepare the engine.

    Raises:
        ValueError, TypeError: a setting is out of its range; the message names it and the range.
    """
    check_names(table, schema)
    engine = binding.engine
    dialect = find(engine.dialect, table, schema)
    if codec is None:
        codec = JSON
    else:
        register(codec)
    if seal is not None and not isinstance(seal, Seal):
        raise TypeError(f"seal= takes an object with seal(data, context) and open(data, context), not {seal!r}")
    settings = Settings(
        binding=binding,
        ttl=checked_ttl(ttl),
        wait=checked_wait(wait),
        attempts=_checked_count(attempts, "attempts"),
        max_result_bytes=_checked_count(max_result_bytes, "max_result_bytes"),
        store_keys=bool(store_keys),
        table=table,
        schema=schema,
        codec=codec,
        seal=seal,
        records=Records(dialect, table, schema),
        nest=(engine, table, schema),
    )
    dialect.prepare(engine)
    return settings
