"""Pessimistic: whoever comes second waits until the first has committed, or is told that it would have to."""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy import and_, inspect, or_
from sqlalchemy.exc import NoResultFound

from ..claim.explained import explained
from ..claim.transaction import connection_of
from ..errors import SessionNotUsableError
from ..keys import checked_key
from ..settings import checked_wait
from ._endings import endings, refused
from ._rows import Rows, dispatch, is_untouched
from ._touch import touch as write_as_it_is

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ..settings import Settings

M = TypeVar("M")
Key = tuple[Any, ...]


@overload
def lock(
    session: Session, model: type[M], ident: list[Any], *, wait: timedelta | None = None, touch: bool = False
) -> list[M]: ...
@overload
def lock(session: Session, model: type[M], ident: Any, *, wait: timedelta | None = None, touch: bool = False) -> M: ...
@overload
def lock(
    session: AsyncSession, model: type[M], ident: list[Any], *, wait: timedelta | None = None, touch: bool = False
) -> Awaitable[list[M]]: ...
@overload
def lock(
    session: AsyncSession, model: type[M], ident: Any, *, wait: timedelta | None = None, touch: bool = False
) -> Awaitable[M]: ...
def lock(
    session: Session | AsyncSession,
    model: type[Any],
    ident: Any,
    *,
    wait: timedelta | None = None,
    touch: bool = False,
) -> Any:
    """Hold one row, or several, until the transaction ends, and return it as it is now.

    ``SELECT … FOR UPDATE`` over objects that the session already holds: what it knew of the row before the wait is
    replaced by what the row is after it, ``deferred`` columns too. What is pending in the session is flushed first. Several
    rows are locked by one statement in the order of their primary keys, whatever order they are asked for in, so that two
    callers with lists never deadlock; two callers that lock one row after the other can. Of rows whose subclasses have
    columns of their own these are locked and read by one statement more for each subclass.

    SQLite has no locks on rows: the transaction becomes the one that writes to the database, and a second writer fails
    or waits where it begins to write, at its BEGIN in a transaction of the library's own.

    Where several nodes take writes (Galera, MySQL Group Replication) a lock is known on its own node only: two callers may
    hold one row, and commit both if they then write other rows. With `touch` the second of them cannot commit.

    Args:
        session: in whose transaction. An AsyncSession makes the result awaitable.
        model: a mapped class. Relations it loads by a join come by a SELECT of their own, which locks nothing.
        ident: the primary key, of its column's type (a UUID may be its text); a tuple or a mapping by name is one
            composite key; a ``list`` is several keys.
        wait: ``None`` waits as long as the database would; zero fails at once; else at most so long for each row.
            MariaDB and MySQL count whole seconds: a shorter wait is rounded up. With a `wait` that runs out the
            transaction stays usable, on PostgreSQL by a SAVEPOINT.
        touch: whether to write the row as well, to what it is. Of all who hold it on several nodes the first to commit
            does; the others' transactions fail with a deadlock, at the latest when they commit. Triggers on UPDATE run. On
            MariaDB and MySQL a number in the row is changed and changed back.

    Returns:
        The object; for a list, a list in primary-key order, each row once.

    Raises:
        RowLockedError: somebody else holds a row for longer than `wait`.
        RetryTransactionError: the transaction cannot go on, for a deadlock or because the row was changed after it began
            to read (MariaDB with ``innodb_snapshot_isolation``, PostgreSQL at REPEATABLE READ and above, SQLite): roll it
            back and begin again.
        NoResultFound: SQLAlchemy's own; a row does not exist. The message names which.
        SessionNotUsableError: the session is in AUTOCOMMIT, where no lock lasts.
        ValueError, TypeError: the key is none of this class, which itself must not be a UNION of tables (``ConcreteBase``);
            `wait` is negative or longer than an hour; or `touch` finds no column to write, on MariaDB and MySQL a NOT NULL
            one of integers or decimals that is no key and not unique.
    """
    if not isinstance(model, type):
        raise TypeError(f"lock takes a mapped class, not {model!r}")
    if not isinstance(touch, bool):
        raise TypeError(f"touch= takes True or False, not {touch!r}")
    rows = Rows(model, single_table=False)
    several = isinstance(ident, list)
    keys = [rows.ident(one) for one in ident] if several else [rows.ident(ident)]
    seconds = None if wait is None else checked_wait(wait)

    def work(session: Session) -> Any:
        if not keys:
            return []
        session.flush()
        with session.no_autoflush:
            found, missing = _locked(session, rows, keys, seconds, touch)
        if missing:
            raise NoResultFound(f"there is no {', no '.join(map(rows.spell, missing))}")
        return found if several else found[0]

    return dispatch(session, work)


def _locked(
    session: Session, rows: Rows, keys: list[Key], wait: float | None, touch: bool
) -> tuple[list[Any], list[Key]]:
    """Return the rows, and the keys of which there is none."""
    mapper = rows.mapper
    if mapper is None:
        raise TypeError(f"lock takes a mapped class, not the Table {rows.name}")
    if any(one.concrete for one in mapper.with_polymorphic_mappers if one is not mapper):
        raise TypeError(
            f"{rows.name} is read from a UNION of tables, whose rows no database locks: lock one of its subclasses, or "
            f"select from {rows.table.name} with_for_update()"
        )
    unique = list(dict.fromkeys(keys))
    connection = rows.connection(session)
    dialect = rows.dialect(session)
    if why := dialect.unlockable(connection):
        raise SessionNotUsableError(f"the session cannot hold a lock: {why}")
    names = ", ".join(map(rows.spell, unique[:3])) + (", …" if len(unique) > 3 else "")
    with endings(connection, dialect, names, busy=refused), dialect.waiting(connection, wait):
        dialect.lock_writes(connection, rows.table)

        def read(rows: Rows, keys: list[Key]) -> list[Any]:
            whole = rows.whole(_one_of(rows, keys)).order_by(*rows.primary_key)
            locking = dialect.for_update(connection, whole, wait, rows.tables_of_its_own)
            return list(session.execute(locking, bind_arguments=rows.bind).unique().scalars())

        found = read(rows, unique)
        held = [_key_of(one) for one in found]
        # What a subclass adds was not locked yet, if it was read at all: it may be as old as the transaction's snapshot, or
        # as the beginning of the wait.
        for kind in {
            type(one): None for one in found if len(inspect(one).mapper.column_attrs) > len(mapper.column_attrs)
        }:
            read(
                Rows(kind, single_table=False), [key for one, key in zip(found, held, strict=True) if type(one) is kind]
            )
        # As many as were asked for are all of them, however the database compares keys: by a collation, by affinity.
        known = set(unique if len(found) == len(unique) else held)
        missing = [key for key in unique if key not in known and rows.own(session, key) not in known]
        if touch and found:
            write_as_it_is(session, rows, dialect, _one_of(rows, held), len(held))
            if mapper.version_id_generator is False:  # the database counts, and has counted this
                read(rows, held)
    return found, missing


def _one_of(rows: Rows, keys: list[Key]) -> ColumnElement[bool]:
    if len(rows.primary_key) == 1:
        return rows.primary_key[0].in_([value for (value,) in keys])
    pairs = [zip(rows.primary_key, key, strict=True) for key in keys]
    return or_(*(and_(*(column == value for column, value in pair)) for pair in pairs))


def _key_of(row: Any) -> Key:
    return inspect(row).identity  # type: ignore[no-any-return]


@overload
def lock_name(settings: Settings, session: Session, name: Any, *, wait: timedelta | None = None) -> None: ...
@overload
def lock_name(
    settings: Settings, session: AsyncSession, name: Any, *, wait: timedelta | None = None
) -> Awaitable[None]: ...
def lock_name(
    settings: Settings, session: Session | AsyncSession, name: Any, *, wait: timedelta | None = None
) -> Awaitable[None] | None:
    """Hold a lock that has no row of its own until the transaction commits or rolls back.

    PostgreSQL: a transaction-level advisory lock, numbered by 64 bits of a SHA-256 of the table's name and this one.
    MariaDB and MySQL: a row of the table, inserted and deleted again in the same transaction, so that nothing is left
    behind. SQLite: the database's one write lock. Locking twice in one transaction is harmless.

    Take it first: at REPEATABLE READ and above what the transaction reads may be as old as its first statement. On MariaDB
    and MySQL all waiters but one get a deadlock when the holder rolls back; they wait on by themselves if there was
    nothing before it in their transactions.

    Args:
        settings: of the table.
        session: in whose transaction. An AsyncSession makes the result awaitable.
        name: 1 to 255 bytes of UTF-8, or a ``uuid.UUID``, as a key is.
        wait: ``None`` waits as long as the database would; zero fails at once, on MySQL after a second unless it is the
            first in the transaction or this is at READ COMMITTED; else at most so long, in whole seconds on MariaDB and
            MySQL, rounded up.

    Raises:
        RowLockedError: somebody else holds the name for longer than `wait`.
        RetryTransactionError: the transaction cannot go on, for a deadlock: roll it back and begin again.
        ValueError, TypeError: the name or `wait` is out of range.
        SessionNotUsableError: the session is in AUTOCOMMIT, where no lock lasts, or has no engine of its own.
        SchemaError: there is no table.
    """
    if name is None:
        raise ValueError("a lock needs a name, such as 'payout:7', not None")
    text = checked_key(name, what="name")
    seconds = None if wait is None else checked_wait(wait)

    def work(session: Session) -> None:
        session.flush()
        alone = is_untouched(session)
        connection = connection_of(session, "lock")
        alone = alone and connection is not session.get_bind()  # it may be somebody else's
        records = settings.records_of(connection)
        if why := records.dialect.unlockable(connection):
            raise SessionNotUsableError(f"the session cannot hold a lock: {why}")
        with (
            explained(settings, "lock_name", records.dialect),
            endings(connection, records.dialect, "this name", busy=refused),
        ):
            free = records.lock_name(connection, text, seconds, alone=alone)
        if not free:
            raise refused("this name")

    return dispatch(session, work)
