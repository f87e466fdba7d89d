"""What the guards share: one row of a mapped class or of a Table, and a session in either colour."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum
from functools import lru_cache
from operator import index
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

from sqlalchemy import Column, ColumnElement, Integer, String, Table, Uuid, and_, inspect, select
from sqlalchemy import Enum as EnumType
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Mapper, Session, selectinload, undefer
from sqlalchemy.orm.attributes import set_committed_value

from ..binding import is_async, sync_session, unscoped
from ..claim.second import connections
from ..dialects import Dialect, find
from ..errors import SessionNotUsableError
from ._endings import endings

if TYPE_CHECKING:
    from sqlalchemy import Connection, CursorResult, Select
    from sqlalchemy.engine.interfaces import Dialect as SQLAlchemyDialect
    from sqlalchemy.sql.dml import Update

T = TypeVar("T")


def dispatch(session: Any, work: Callable[[Session], T]) -> T | Awaitable[T]:
    """Run a function of the sync Session: at once, or as an awaitable where the session is an AsyncSession.

    Raises:
        TypeError: it is neither.
        SessionNotUsableError: it is reading rows that a statement would drop.
    """
    session = unscoped(session)
    if is_async(session):
        sync_session(session, "AsyncSession")
        return session.run_sync(_unread(work))  # type: ignore[no-any-return]
    return _unread(work)(sync_session(session, "Session"))


def _unread(work: Callable[[Session], T]) -> Callable[[Session], T]:
    """Refuse a session that is reading what a guard's statements would end."""

    def checked(session: Session) -> T:
        for connection in connections(session):
            if why := dialect_of(connection.dialect).half_read(connection):
                raise SessionNotUsableError(f"the session cannot be guarded: {why}")
        return work(session)

    return checked


@lru_cache(maxsize=32)
def dialect_of(dialect: SQLAlchemyDialect) -> Dialect:
    """Return the ways of a connection's database; the guards on rows need no table of keys."""
    return find(dialect, "idemtable", None)


def is_untouched(session: Session) -> bool:
    """Say whether nothing can have been done in the session's transaction, since it has no connection yet."""
    root = session.get_transaction()
    return not session.in_nested_transaction() and (root is None or not root._connections)


class Rows:
    """The rows of a mapped class, or of a Table.

    Raises:
        TypeError: it is neither, has no primary key, or its columns stand in several tables where one is wanted.
    """

    table: Table
    mapper: Mapper[Any] | None

    def __init__(self, model: Any, *, single_table: bool = True) -> None:
        self.model = model
        if isinstance(model, Table):
            self.mapper, self.table, self.name = None, model, model.name
            self.primary_key: tuple[ColumnElement[Any], ...] = tuple(model.primary_key)
        else:
            try:
                mapper = inspect(model)
            except NoInspectionAvailable:
                mapper = None
            if not isinstance(mapper, Mapper) or not isinstance(model, type):
                raise TypeError(f"expected a mapped class or a Table, not {model!r}")
            if not isinstance(mapper.local_table, Table):
                raise TypeError(f"{model.__name__} is mapped to {type(mapper.local_table).__name__}, not to a Table")
            if single_table and len(mapper.tables) > 1:
                tables = " and ".join(table.name for table in mapper.tables)
                raise TypeError(
                    f"the columns of {model.__name__} stand in several tables ({tables}), which one UPDATE cannot "
                    f"change: name the Table that holds them, such as {model.__name__}.__table__"
                )
            self.mapper, self.table, self.name = mapper, mapper.local_table, model.__name__
            self.primary_key = tuple(mapper.primary_key)
        self.bind: dict[str, Any] = {} if self.mapper is None else {"mapper": self.mapper}
        """Which engine a session with several takes for these rows."""
        if not self.primary_key:
            raise TypeError(f"{self.name} has no primary key")
        self._kinds = [_kind(column) for column in self.primary_key]
        self.is_exact = all(kind in (int, UUID) for kind in self._kinds)
        """Whether Python takes two keys for one where the database does. Texts are one by their collation."""

    def column(self, name: Any, what: str) -> Column[Any]:
        """Return the column of an attribute (of a Table: of a column's key), given by name or itself.

        Raises:
            ValueError: there is none; the message lists those there are.
        """
        known = self._columns()
        if isinstance(name, str):
            column = known.get(name)
        else:
            meant = getattr(name, "expression", name)  # an attribute's is a marked copy, with the hash of the column
            column = next(
                (one for one in known.values() if isinstance(meant, Column) and hash(meant) == hash(one)), None
            )
        if column is None:
            raise ValueError(f"{what} {self.name} has no column {name!r}; it has {', '.join(sorted(known))}")
        return column

    def has(self, name: str) -> bool:
        """Say whether there is a column under this name."""
        return name in self._columns()

    def _columns(self) -> dict[str, Column[Any]]:
        if self.mapper is None:
            return dict(self.table.columns.items())
        columns = ((attribute.key, attribute.columns[0]) for attribute in self.mapper.column_attrs)
        return {key: column for key, column in columns if isinstance(column, Column) and column.table is self.table}

    def key_of(self, column: Any) -> str:
        """Return the name under which the program knows a column."""
        found = column if self.mapper is None else self.mapper.get_property_by_column(column)
        return str(found.key)

    def ident(self, ident: Any) -> tuple[Any, ...]:
        """Return a primary key as a tuple in the order of its columns, each value of its column's type.

        Args:
            ident: the value; for a composite key a tuple, or a mapping by name.

        Raises:
            ValueError: it does not name every column of the key once, or holds ``None``, or a text that is no UUID.
            TypeError: a list or a set, where one row is meant; a value of another type than the column's.
        """
        names = [self.key_of(column) for column in self.primary_key]
        if isinstance(ident, Mapping):
            if set(ident) != set(names):
                raise ValueError(f"the primary key of {self.name} is ({', '.join(names)}), not {tuple(ident)!r}")
            values = tuple(ident[name] for name in names)
        elif isinstance(ident, list | set | frozenset | dict):
            raise TypeError(f"one primary key of {self.name} is wanted: a value, a tuple or a mapping, not {ident!r}")
        else:
            values = tuple(ident) if isinstance(ident, tuple) else (ident,)
        if len(values) != len(names):
            raise ValueError(f"the primary key of {self.name} is ({', '.join(names)}), not {ident!r}")
        if None in values:
            raise ValueError(f"a primary key of {self.name} holds no None, but {ident!r} does")
        return tuple(map(self._typed, names, self._kinds, values))

    def _typed(self, name: str, kind: type | None, value: Any) -> Any:
        # Some databases take '02' for 2, or 0 for every text without a number in it: what is one row there is several here.
        try:
            if kind is int:
                return index(value)
            if kind is UUID and not isinstance(value, UUID):
                return UUID(value)
            if kind is str:
                value = value.value if isinstance(value, Enum) else value
                return str.__str__(str(value) if isinstance(value, UUID) else value)
        except ValueError:
            raise ValueError(f"{self.name}.{name} is a UUID, not {value!r}: pass one, or its text") from None
        except (TypeError, AttributeError):
            assert kind is not None
            raise TypeError(f"{self.name}.{name} takes {kind.__name__}, not {value!r}: convert it first") from None
        return value

    def where(self, ident: tuple[Any, ...]) -> ColumnElement[bool]:
        """Return the condition that is true for one row; in a table shared by subclasses, if it is of this class."""
        conditions = [column == value for column, value in zip(self.primary_key, ident, strict=True)]
        mapper = self.mapper
        shares = mapper is not None and mapper.inherits is not None and not mapper.concrete
        if mapper is not None and shares and mapper.polymorphic_on is not None:
            identities = [one.polymorphic_identity for one in mapper.self_and_descendants]
            conditions.append(mapper.polymorphic_on.in_(identities))
        return and_(*conditions)

    def whole(self, condition: ColumnElement[bool]) -> Select[Any]:
        """Return a SELECT of the class's objects with every column, which replaces what the session knows of them.

        What were left for later would be read from an older snapshot than what is locked, or, under async, not at all.
        """
        mapper = self.mapper
        assert mapper is not None
        # A join would lock the related rows as well, and PostgreSQL refuses FOR UPDATE over an outer one.
        joined = [selectinload(one.class_attribute) for one in mapper.relationships if one.lazy in ("joined", False)]
        rows = select(self.model).where(condition).options(undefer("*"), *joined)
        return rows.execution_options(populate_existing=True)

    @property
    def tables_of_its_own(self) -> list[Any] | None:
        """The class's tables, where those of its subclasses are joined to them; ``None`` where they are all there are."""
        mapper = self.mapper
        assert mapper is not None
        return list(mapper.tables) if len(mapper.with_polymorphic_mappers) > 1 else None

    def own(
        self, session: Session, ident: tuple[Any, ...], busy: Callable[[str], Exception] | None = None
    ) -> tuple[Any, ...]:
        """Return a row's key as the row itself spells it: one SELECT, or none where there is one spelling only.

        Args:
            session: in whose transaction.
            ident: as the caller spells it, which is returned where there is no such row.
            busy: as of `endings`.
        """
        if self.is_exact:
            return ident
        dialect = self.dialect(session)
        look = dialect.latest(select(*self.primary_key).where(self.where(ident)))
        with session.no_autoflush, endings(self.connection(session), dialect, self.spell(ident), busy=busy):
            row = self.execute(session, look).one_or_none()
        return ident if row is None else tuple(row)

    def loaded(self, session: Session, ident: tuple[Any, ...]) -> Any | None:
        """Return the object that the session already holds for a row, however its key is spelled.

        One SELECT where the key is a text under which it holds none, and it holds other objects of the class.
        """
        return self._held(session, ident, session.identity_map.values)

    def changed(self, session: Session, ident: tuple[Any, ...]) -> Any | None:
        """Return the same where the object may have changes to be flushed."""
        return self._held(session, ident, lambda: [*session.dirty, *session.deleted])

    def _held(self, session: Session, ident: tuple[Any, ...], among: Callable[[], Iterable[Any]]) -> Any | None:
        mapper = self.mapper
        if mapper is None:
            return None
        held = session.identity_map.get(mapper.identity_key_from_primary_key(ident))
        if held is None and not self.is_exact and any(isinstance(one, mapper.base_mapper.class_) for one in among()):
            held = session.identity_map.get(mapper.identity_key_from_primary_key(self.own(session, ident)))
        return held

    def execute(self, session: Session, statement: Update | Select[Any]) -> CursorResult[Any]:
        """Execute a statement about the table where the session would send one about the class."""
        return session.execute(statement, bind_arguments=self.bind)  # type: ignore[return-value]

    def dialect(self, session: Session) -> Dialect:
        """Return the ways of the session's database, in a transaction."""
        return dialect_of(self.connection(session).dialect)

    def connection(self, session: Session) -> Connection:
        """Return the session's connection for these rows."""
        return session.connection(bind_arguments=self.bind or {"clause": self.table})

    def refresh(self, session: Session, ident: tuple[Any, ...]) -> None:
        """Let an object that the session already holds show what was changed: one SELECT if it does, none if not."""
        loaded = self.loaded(session, ident)
        if loaded is not None and self.mapper is not None:
            session.refresh(loaded, [attribute.key for attribute in self.mapper.column_attrs])
            # As after a flush: else the rollback of a savepoint would leave it with what was undone.
            session._register_altered([inspect(loaded)])

    def show(self, session: Session, ident: tuple[Any, ...], name: str, value: Any) -> None:
        """Let an object that the session already holds show what was read of its row, without a statement.

        A plain SELECT may know less: at MySQL's REPEATABLE READ it looks into the snapshot.
        """
        loaded = self.loaded(session, ident)
        if loaded is not None:
            set_committed_value(loaded, name, value)

    def renew(self, session: Session, ident: tuple[Any, ...]) -> None:
        """Let an object that the session already holds show its row, which is another: one SELECT if it does, none if not.

        Not later, by the session itself: at MySQL's REPEATABLE READ that would show the snapshot.
        """
        loaded = self.loaded(session, ident)
        if loaded is not None:
            session.expire(loaded)  # also where the row is gone
            rows = Rows(type(loaded), single_table=False)
            look = self.dialect(session).latest(rows.whole(rows.where(ident)))
            session.execute(look, bind_arguments=rows.bind).unique().all()

    def spell(self, ident: tuple[Any, ...]) -> str:
        """Return how messages name a row."""
        return f"{self.name}({', '.join(map(repr, ident))})"


def _kind(column: ColumnElement[Any]) -> type | None:
    """Return the type that a column's values must have in Python, where SQLAlchemy leaves no doubt."""
    types = [column.type, *column.type._variant_mapping.values()]
    if all(isinstance(one, Integer) for one in types):
        return int
    if all(isinstance(one, Uuid) and one.as_uuid for one in types):
        return UUID
    if all(isinstance(one, String) and not isinstance(one, EnumType) and one.python_type is str for one in types):
        return str
    return None
