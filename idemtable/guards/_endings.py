"""A guard's transaction that the database has ended: its caller is told, and does not go on without knowing it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from ..claim.verdict import Verdict
from ..dialects import is_stale
from ..errors import RetryTransactionError, RowLockedError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..dialects import Dialect
    from ..errors import GuardError


@contextmanager
def endings(
    connection: Connection,
    dialect: Dialect,
    what: str,
    *,
    busy: Callable[[str], Exception] | None = None,
    instead: Callable[[], GuardError | None] | None = None,
) -> Iterator[None]:
    """Tell what an error of a guard's own statements inside means for the transaction.

    Args:
        connection: what the statements go through.
        dialect: its ways.
        what: is guarded, as messages name it.
        busy: makes the answer where somebody else holds it; without it that is the database's error.
        instead: looks for an answer that tells more than that the transaction has ended, where the connection can still
            be asked.

    Raises:
        RetryTransactionError: a deadlock, a snapshot older than the row, a lost connection, a wait for a lock that undid
            more than its statement. What `instead` found, and what `busy` made.
    """
    handled = sys.exception()
    try:
        yield
    except SQLAlchemyError as error:
        verdict = Verdict(error, dialect, handled, connection)
        undone = verdict.is_busy and dialect.undid_all(connection, error)
        if busy is not None and verdict.is_busy and not undone:
            raise busy(what) from error
        if not undone and not verdict.is_gone and not is_stale(error):
            raise
        better = None
        if instead is not None and dialect.begins_unasked and not verdict.is_lost:
            with suppress(SQLAlchemyError):
                better = instead()
        dialect.give_up(connection, error)
        raise (better or _ended(what)) from error


def refused(what: str) -> RowLockedError:
    """Return the error for a lock that was not to be had."""
    return RowLockedError(
        f"another transaction holds {what}: try again later, or allow a longer wait=", retry_after=1.0
    )


def _ended(what: str) -> RetryTransactionError:
    return RetryTransactionError(
        f"{what} was changed since this transaction began to read, or the transaction was ended for a deadlock, by a wait "
        f"for a lock or with its connection: it cannot go on; roll it back and begin it again",
        detail="The request could not be completed now; send it again.",
    )
