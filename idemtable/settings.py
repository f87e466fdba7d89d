"""What an IdemTable was told, validated once, and the few things every feature needs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from .codecs import JSON, Codec, Results, Seal, register
from .dialects import Dialect, find
from .repository import Records
from .tables import check_names, translated

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect
    from sqlalchemy.orm import Session

    from .binding import AsyncBinding, Binding

LONGEST_TTL: Final = timedelta(days=3650)
"""Ten years. Past the year 9999 a driver cannot read the timestamp back; nobody retries a request for a decade."""
LONGEST_WAIT: Final = timedelta(hours=1)
"""A duplicate holds a connection while it waits."""
LONGEST_LIST: Final = 100_000
"""Records that a look at the table may give: they are all held in memory."""
LEVELS: Final = ("READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
"""The isolation levels of the standard. AUTOCOMMIT, which SQLAlchemy has among them, is none: nothing would be atomic."""
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


def checked_count(value: object, name: str, highest: int | None = None) -> int:
    """Return a number of one or more.

    Raises:
        TypeError: not an ``int``.
        ValueError: less than one, or more than `highest`.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}= takes an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    if highest is not None and value > highest:
        raise ValueError(f"{name} must be at most {highest}, not {value}")
    return value


def checked_flag(value: object, name: str) -> bool:
    """Return ``True`` or ``False`` as it was given.

    Raises:
        TypeError: it is something else. ``"false"``, as an environment has it, would count as true.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{name}= takes True or False, not {value!r}")
    return value


@dataclass(frozen=True, slots=True)
class Place:
    """Where a table is, as far as its bind tells now; asked for once in a call."""

    engine: Engine
    options: Mapping[str, Any]
    table: str
    schema: str | None
    """As the program named it."""
    records: Records
    """The statements in the words of the table's own connections."""
    nest: tuple[Any, ...]
    """What two tables must share for the calls of one to join the calls of the other."""
    is_inside: bool
    """Whether everything happens inside a transaction that somebody else holds."""

    def records_of(self, connection: Connection | Engine, session: Session | None = None) -> Records:
        """Return the statements in the words of a connection or engine, in the schema that it or its session translates to.

        A session that was handed over may have another driver, and a tenant's schema.
        """
        own: Mapping[str, Any] = getattr(session, "execution_options", _NO_OPTIONS)  # since SQLAlchemy 2.1
        options = own if "schema_translate_map" in own else connection.get_execution_options()
        schema = translated(self.schema, options) if "schema_translate_map" in options else self.schema
        if connection.dialect is self.engine.dialect and schema == self.nest[2]:
            return self.records
        return _records(connection.dialect, self.table, schema)


_NO_OPTIONS: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True)
class Settings:
    """The validated arguments of an IdemTable."""

    binding: Binding | AsyncBinding
    ttl: int
    wait: float
    attempts: int
    failover: float
    max_result_bytes: int
    store_keys: bool
    table: str
    schema: str | None
    codec: Codec
    seal: Seal | None
    _known: list[Place] = field(default_factory=list, repr=False, compare=False)

    @property
    def place(self) -> Place:
        """Where the table is. Asked for in each call: a sessionmaker may be configured at any time."""
        bound = self.binding.bound
        engine, options = bound.engine, bound.get_execution_options()
        for known in self._known:
            if known.engine is engine and known.options is options and known.is_inside is (bound is not engine):
                return known
        place = self._placed(engine, options, bound is not engine)
        self._known[:] = [place]
        return place

    def _placed(self, engine: Engine, options: Mapping[str, Any], is_inside: bool) -> Place:
        schema = translated(self.schema, options)
        records = _records(engine.dialect, self.table, schema)
        records.dialect.prepare(engine)
        # Engines that differ in their execution options alone have one dialect, and one pool.
        nest = engine.dialect, self.table, schema
        return Place(engine, options, self.table, self.schema, records, nest, is_inside)

    @property
    def engine(self) -> Engine:
        """The sync engine."""
        return self.binding.engine

    @property
    def records(self) -> Records:
        """The statements in the words of the table's own connections."""
        return self.place.records

    @property
    def dialect(self) -> Dialect:
        """The ways of the engine's database."""
        return self.place.records.dialect

    @property
    def nest(self) -> tuple[Any, ...]:
        """What two tables must share for the calls of one to join the calls of the other."""
        return self.place.nest

    @property
    def anchors(self) -> list[Any]:
        """What stands for the database, as far as it is known: two tables that share one of these are in the same."""
        # A bind that comes late is known to nobody, but for the object that will be asked for it.
        given = [] if self._is_engine else [self.binding.given]
        return given if self.binding.is_late else [*given, self.engine.dialect]

    def is_same_table(self, other: Settings) -> bool:
        """Say whether two are of one table of one database; while a bind is to come, whether they may be."""
        if self.binding.is_late or other.binding.is_late:
            return self.table == other.table
        here, there = self.engine.url, other.engine.url
        # Two engines of one URL reach one database, but for those in memory and of a program that connects by itself.
        is_named = here == there and here.database not in (None, "", ":memory:")
        return self.nest == other.nest or (is_named and self.nest[1:] == other.nest[1:])

    @property
    def _is_engine(self) -> bool:
        return hasattr(self.binding.given, "dialect")

    @cached_property
    def no_results(self) -> Results:
        """What stands where nothing is carried, as in a batch; made once, for to compile it takes 30 microseconds."""
        return self.results(Any, "a batch")

    def results(self, returns: Any, scope: str) -> Results:
        """Return what carries the results of one function or block of this table."""
        return Results(returns, self.codec, self.max_result_bytes, scope)

    def records_of(self, connection: Connection) -> Records:
        """Return the statements in the words of a connection; see `Place.records_of`."""
        return self.place.records_of(connection)


_MOST: Final = 1024
"""Statements kept for the dialects of engines and the schemas of tenants; a program that makes an engine a request must
not grow with it."""
_compiled: dict[tuple[int, str, str | None], tuple[Any, Records]] = {}


def _records(dialect: SQLAlchemyDialect, table: str, schema: str | None) -> Records:
    name = id(dialect), table, schema
    known = _compiled.get(name)
    if known is None or known[0] is not dialect:
        if len(_compiled) >= _MOST:
            _compiled.clear()
        known = _compiled[name] = dialect, Records(find(dialect, table, schema), table, schema)
    return known[1]


def validated(
    binding: Binding | AsyncBinding,
    *,
    ttl: timedelta,
    wait: timedelta,
    attempts: int,
    failover: timedelta,
    max_result_bytes: int,
    store_keys: bool,
    table: str,
    schema: str | None,
    codec: Codec | None,
    seal: Seal | None,
) -> Settings:
    """Check every setting before the first call, and prepare the engine if it is known already.

    Raises:
        ValueError, TypeError: a setting is out of its range; the message names it and the range.
    """
    check_names(table, schema)
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
        attempts=checked_count(attempts, "attempts"),
        failover=checked_wait(failover, "failover"),
        max_result_bytes=checked_count(max_result_bytes, "max_result_bytes"),
        store_keys=checked_flag(store_keys, "store_keys"),
        table=table,
        schema=schema,
        codec=codec,
        seal=seal,
    )
    if not binding.is_late:
        settings.place  # noqa: B018 - what is wrong with the engine is told here
    return settings
