"""Optimistic: nobody waits; whoever read an older version than the row has is told, and reads again."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, overload

import tenacity
from sqlalchemy import Table, select, update
from sqlalchemy.orm.exc import StaleDataError

from ..dialects import is_stale
from ..errors import RetryTransactionError, StaleVersionError
from ._endings import endings
from ._rows import Rows, dispatch

if TYPE_CHECKING:
    from sqlalchemy import Column
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

P = ParamSpec("P")
R = TypeVar("R")

_NAMES: Final = ("version", "version_id")

# Those who lost against each other are done within milliseconds: start near, and let jitter part them.
_WAIT: Final = tenacity.wait_random_exponential(multiplier=0.01, max=1)


def _is_stale(error: BaseException) -> bool:
    if isinstance(error, RetryTransactionError):
        return not error.final
    # Where the database minds its snapshots a flush never gets so far as to count the rows of its UPDATE.
    return isinstance(error, StaleVersionError | StaleDataError) or is_stale(error)


_RETRY: Final = tenacity.retry_if_exception(_is_stale)


@overload
def compare_and_set(
    session: Session,
    model: type[Any] | Table,
    ident: Any,
    *,
    version: int,
    values: Mapping[Any, Any],
    version_column: Any = None,
) -> int: ...
@overload
def compare_and_set(
    session: AsyncSession,
    model: type[Any] | Table,
    ident: Any,
    *,
    version: int,
    values: Mapping[Any, Any],
    version_column: Any = None,
) -> Awaitable[int]: ...
def compare_and_set(
    session: Session | AsyncSession,
    model: type[Any] | Table,
    ident: Any,
    *,
    version: int,
    values: Mapping[Any, Any],
    version_column: Any = None,
) -> int | Awaitable[int]:
    """Change a row if it still has the version that the caller read, and count its version up.

    One UPDATE, and one SELECT more where the session already holds the object, which then shows the new values; one
    SELECT more, too, where the version is another, and where the session may hold the object under another spelling of a
    key that is a text. What is pending in the session is flushed first.

    Args:
        session: in whose transaction; the caller commits. An AsyncSession makes the result awaitable.
        model: a mapped class, or a Table. Columns of a class are named by their attributes.
        ident: the primary key: a value of its column's type (a UUID may be its text), or for a composite key a tuple or
            a mapping by name.
        version: as read.
        values: what to set, by name; values or SQL expressions. Empty counts the version up and nothing else.
        version_column: a column of integers; by default the mapper's ``version_id_col``, else ``version`` or
            ``version_id``.

    Returns:
        The new version.

    Raises:
        StaleVersionError: the row has another version (``found``), or has none or is gone (``None``); an object that the
            session holds shows the row. Where the database has ended the transaction over it
            (MariaDB with ``innodb_snapshot_isolation``) the session refuses everything until it is rolled back.
        RetryTransactionError: the transaction cannot go on, for a deadlock or because the row was changed after it began
            to read, and nobody can say whether that changed the version: roll it back and begin again.
        ValueError: a name is no column; `values` holds the key or the version; or the session's object has changes that
            are not flushed, which a flush would write over whatever version there is.
        TypeError: there is no such version column, or it does not hold integers that the program counts; the key is not of
            its column's type.
    """
    rows = Rows(model)
    key = rows.ident(ident)
    column = _version_column(rows, version_column)
    if isinstance(version, bool) or not isinstance(version, int):
        raise TypeError(f"version= takes the int that was read, not {version!r}")
    changes = _changes(rows, values, column)
    statement = update(rows.table).where(rows.where(key), column == version).values({**changes, column: version + 1})

    def work(session: Session) -> int:
        held = rows.changed(session, key)
        if held is not None and (held in session.deleted or session.is_modified(held, include_collections=False)):
            raise ValueError(
                f"{rows.spell(key)} has changes that are not flushed, and a flush would write them over any version: "
                f"put them into values=, or flush or refresh the object and pass the version it has then"
            )
        session.flush()
        dialect = rows.dialect(session)
        look = select(column).where(rows.where(key))

        def newer() -> StaleVersionError | None:
            # An older version, or none, may be what is left after this transaction's own writes were undone.
            row = rows.execute(session, look).one_or_none()
            return stale(row) if row is not None and row[0] is not None and row[0] > version else None

        def stale(row: Any) -> StaleVersionError:
            found = None if row is None else row[0]
            fate = "is gone" if row is None else "has no version" if found is None else f"has version {found}"
            return StaleVersionError(
                f"{rows.spell(key)} {fate}, not version {version}: read it again, decide again, and try again "
                f"(@retry_stale does)",
                expected=version,
                found=found,
            )

        with (
            session.no_autoflush,
            endings(rows.connection(session), dialect, rows.spell(key), instead=newer),
        ):
            if rows.execute(session, statement).rowcount == 1:
                rows.refresh(session, key)
                return version + 1
            row = rows.execute(session, dialect.latest(look)).one_or_none()
            rows.renew(session, key)
            raise stale(row)

    return dispatch(session, work)


def _version_column(rows: Rows, given: Any) -> Column[Any]:
    mapper = rows.mapper
    if given is not None:
        column = rows.column(given, "version_column=")
    elif mapper is not None and mapper.version_id_col is not None:
        column = mapper.version_id_col  # type: ignore[assignment]
    else:
        name = next((name for name in _NAMES if rows.has(name)), None)
        if name is None:
            raise TypeError(f"{rows.name} has no column named version: say which one counts with version_column=")
        column = rows.column(name, "version_column=")
    try:
        countable = column.type.python_type is int
    except NotImplementedError:  # SQLAlchemy's way to say that a type has no Python type: nothing counts there
        countable = False
    if not countable or column in rows.primary_key:
        raise TypeError(f"{rows.name}.{rows.key_of(column)} does not count versions in integers: name another column")
    if mapper is not None and column is mapper.version_id_col and mapper.version_id_generator is False:
        raise TypeError(f"{rows.name}.{rows.key_of(column)} is counted by the database: name another column")
    return column


def _changes(rows: Rows, values: Mapping[Any, Any], version: Column[Any]) -> dict[Column[Any], Any]:
    if not isinstance(values, Mapping):
        raise TypeError(f"values= takes a mapping of names to values, not {values!r}")
    changes = {rows.column(name, "values="): value for name, value in values.items()}
    for column in changes:
        if column in rows.primary_key:
            raise ValueError(f"values= holds {rows.key_of(column)!r}, which is the primary key of {rows.name}")
        if column is version:
            raise ValueError(f"values= holds {rows.key_of(column)!r}, which is counted up by itself")
    return changes


@overload
def retry_stale(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def retry_stale(*, attempts: int = 5) -> Callable[[Callable[P, R]], Callable[P, R]]: ...
def retry_stale(function: Any = None, /, *, attempts: int = 5) -> Any:
    """Decorate a function, sync or async, to be called again when what it read was stale.

    Retries on StaleVersionError and RetryTransactionError, on SQLAlchemy's own StaleDataError, and on what the database
    says in its place where it minds its snapshots, with backoff and jitter. The function is called again from the top, so
    it reads again; for what it then sees to be new it must begin its transaction itself
    (``with Session.begin() as session:`` inside, or ``@retry_stale()`` above ``@idem.transactional(…)``). In a
    transaction that began before it the session has failed by then, or MySQL shows the same old snapshot. So the
    ``.outcome`` of a transactional function is retried as its calls are; ``.join`` and ``.join_outcome``, which work in the
    caller's transaction, are not.

    Args:
        attempts: how often the function may be called in all.

    Raises:
        StaleVersionError, RetryTransactionError, StaleDataError, OperationalError: the last call's own, after so many
            attempts.
        ValueError, TypeError: at decoration.
    """
    if function is None or not callable(function):
        if function is not None:
            raise TypeError(f"retry_stale takes attempts= by name, not {function!r}")
        if isinstance(attempts, bool) or not isinstance(attempts, int):
            raise TypeError(f"attempts= takes an int, not {attempts!r}")
        if attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {attempts}")
        return lambda function: _retrying(function, attempts)
    return _retrying(function, attempts)


def _retrying(function: Any, attempts: int) -> Any:
    if not callable(function):
        raise TypeError(f"retry_stale decorates a function, not {function!r}")
    call = type(function).__call__  # of an object such as a transactional function
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{function!r} is a generator: its work would run after the retries; return a list")
    options: dict[str, Any] = {
        "stop": tenacity.stop_after_attempt(attempts),
        "wait": _WAIT,
        "retry": _RETRY,
        "reraise": True,
    }
    is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    retrying: Any = (tenacity.AsyncRetrying if is_coroutine else tenacity.Retrying)(**options).wraps(function)
    if hasattr(function, "join_outcome"):  # its attributes were copied, and would call what is not retried
        retrying.outcome = _retrying(function.outcome, attempts)
    return retrying
