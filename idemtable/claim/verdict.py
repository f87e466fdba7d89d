"""What an error means to the call in which it was raised: found once, and asked by everybody from then on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy.exc import SQLAlchemyError

from ..dialects import Fault, full_name, is_own, origin_of
from ..errors import (
    IdempotencyError,
    InProgressError,
    LostClaimError,
    RetryTransactionError,
    SchemaError,
    SessionNotUsableError,
    TransactionError,
)
from ..schema import State, cure

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..dialects import Dialect
    from ..settings import Settings

_FAR: Final = frozenset({Fault.UNKNOWN, Fault.ELSEWHERE, Fault.AWAY})
_GONE: Final = _FAR | {Fault.RESTART}


class Verdict:
    """The meaning of one error.

    Args:
        error: what was raised.
        dialect: of the connection.
        handled: what the caller was handling when the call began. Python hangs it on every error raised inside as its
            context, and it is not this call's: a call made again inside ``except OperationalError`` is not to blame
            for that error.
        connection: the call's own, if it has one.
        is_cut: whether that was given up because of a call inside: whatever the driver calls it, it is lost.
    """

    def __init__(
        self,
        error: BaseException,
        dialect: Dialect,
        handled: BaseException | None = None,
        connection: Connection | None = None,
        is_cut: bool = False,
    ) -> None:
        self.error = error
        self._dialect = dialect
        self._handled = handled
        self._connection = connection
        self._is_cut = is_cut

    @cached_property
    def faults(self) -> frozenset[Fault]:
        """What the error and all that led to it mean."""
        own = self._own
        found = {fault for one in own if (fault := self._dialect.fault(one)) is not None}
        if self._is_cut and any(map(self._is_a_databases, own)):
            found.add(Fault.UNKNOWN)
        if Fault.READ_ONLY in found and self._is_on_a_standby():
            found.add(Fault.ELSEWHERE)
        return frozenset(found)

    @cached_property
    def _own(self) -> list[BaseException]:
        """The error and all that led to it, but for what other connections have said."""
        return [one for one in chain(self.error, self._handled) if not self._is_foreign(one)]

    def _was_told(self, fault: Fault) -> bool:
        """Say whether the database said so to the library, and not to a listener of the application's."""
        return any(is_own(one) and self._dialect.fault(one) is fault for one in self._own)

    def _is_on_a_standby(self) -> bool:
        connection = self._connection
        if connection is None or connection.invalidated or connection.closed:
            return False
        with suppress(Exception):  # of a connection that was lost meanwhile nobody can tell
            return self._dialect.is_standby(connection)
        return False

    def _is_foreign(self, error: BaseException) -> bool:
        """Say whether an error is of another connection than the call's own, which says nothing of its transaction."""
        origin = origin_of(error)
        if origin is not None and self._connection is not None:
            return origin is not self._connection
        return self._dialect.is_of_another_driver(error)

    @cached_property
    def is_gone(self) -> bool:
        """Whether the transaction has ended or must end, also where a business exception was raised over it."""
        # An answer of our own has told already what the database's error behind it means.
        return not isinstance(self.error, IdempotencyError) and not _GONE.isdisjoint(self.faults)

    @property
    def interruption(self) -> BaseException | None:
        """What interrupted the call where the database's error has taken its place, or a guard's answer to that.

        SQLAlchemy raises an error over a cancellation where it cannot roll back, as on a connection that was given up under
        it. Whoever is to end is told so, and runs nothing again.
        """
        if not self.is_databases and not isinstance(self.error, RetryTransactionError):
            return None  # one of the business's own, made of it with intent
        return next(filter(_interrupts, chain(self.error, self._handled)), None)

    @property
    def restarts(self) -> bool:
        """Whether beginning the transaction again may turn this error into an answer."""
        if isinstance(self.error, RetryTransactionError):
            return not self.error.final
        if isinstance(self.error, BaseExceptionGroup) and self.error.subgroup(_asks_again):
            return True
        # Not for a lock that was not to be had: it was waited for already, and waiting as long again, eight times over, is
        # nobody's wish. Where it was the function's own it is the function's answer.
        return self.is_gone

    @property
    def is_lost(self) -> bool:
        """Whether a connection was lost, and with it the knowledge of what was committed."""
        return Fault.UNKNOWN in self.faults

    @property
    def is_elsewhere(self) -> bool:
        """Whether this server does not take writes, and another one of its cluster may."""
        return Fault.ELSEWHERE in self.faults

    @property
    def is_far(self) -> bool:
        """Whether it takes a server to be had again, and not only another attempt."""
        return not _FAR.isdisjoint(self.faults)

    @property
    def is_busy(self) -> bool:
        """Whether somebody else holds what was asked for, and that is all."""
        return Fault.BUSY in self.faults and self.faults.isdisjoint(_GONE)

    @property
    def is_dead(self) -> bool:
        """Whether a transaction or savepoint was missing that had been there, and nothing else tells why."""
        return Fault.DEAD in self.faults and not self.restarts

    @property
    def is_databases(self) -> bool:
        """Whether the error itself is SQLAlchemy's or the driver's.

        The driver's own too: PyMySQL's 2013 reaches the caller unwrapped when an isolation level is set on a dead
        pooled connection.
        """
        return self._is_a_databases(self.error)

    def _is_a_databases(self, error: BaseException) -> bool:
        return isinstance(error, SQLAlchemyError) or self._dialect.is_driver_error(error)

    @property
    def is_the_functions(self) -> bool:
        """Whether it is an answer of the business, which may be remembered: not ours, and no trouble of the database."""
        return (
            isinstance(self.error, Exception)
            and not isinstance(self.error, IdempotencyError)
            and not self.is_databases
            and not self.restarts
        )

    def meaning(
        self, settings: Settings, scope: str, *, repeats: bool, waits: bool = True, held: str | None = None
    ) -> IdempotencyError | None:
        """Return what the error of one of the library's own statements tells a caller; ``None``: what it says itself.

        Args:
            settings: of the table.
            scope: of the call.
            repeats: whether whoever asks can begin again. If not, the caller is told to.
            waits: whether it was a key that somebody could hold. If not, a limit on a statement's time is just that.
            held: what it waited for, where that was no call with the same key.
        """
        if why := self._dialect.misread(self.error):
            return SessionNotUsableError(f"{scope}: {why}", scope=scope)
        faults = self.faults
        if self._was_told(Fault.NO_TABLE):
            return SchemaError(
                f"the table {full_name(settings.table, settings.schema)} is missing or outdated. "
                f"{cure(State(None, ()), settings.table, settings.schema)}"
            )
        if self.is_elsewhere and repeats:
            return None
        if self.is_elsewhere or Fault.READ_ONLY in faults:
            return SessionNotUsableError(
                f"{scope}: the transaction is read-only, or this server is a replica: claims and replays need the "
                f"primary"
            )
        if not repeats and Fault.DEAD in faults:
            return SessionNotUsableError(
                f"{scope}: the session's transaction has failed: roll it back before the call", scope=scope
            )
        # Of a file's one lock it is the same, whoever asked for it.
        if self.is_busy and (self._dialect.is_file or (waits and self._was_told(Fault.BUSY))):
            why = self._dialect.busy if held is None or self._dialect.is_file else held
            return InProgressError(f"{scope}: {why}; try again later", scope=scope, retry_after=1.0)
        if not repeats and not faults.isdisjoint(_GONE):
            return begin_again(scope)
        return None

    def undone(self, scope: str, *, takes_all: bool, repeats: bool, unsettled: str | None) -> BaseException | None:
        """Return what an error tells the caller of a call once that was undone; ``None``: what it says itself.

        Args:
            scope: of the call.
            takes_all: whether the transaction has gone with it that the caller had begun.
            repeats: whether whoever asks can begin again.
            unsettled: what is to be said where COMMIT may have been sent, and calling again would not tell whether it
                arrived.
        """
        if not isinstance(self.error, Exception):
            return None
        if (interruption := self.interruption) is not None:
            return interruption
        if takes_all and not isinstance(self.error, RetryTransactionError):
            # Whoever handles the error would commit what comes after it without what came before. And where the call around
            # this one has ended first, the driver says whatever occurs to it.
            return begin_again(scope)
        # Whatever would begin it again: an answer of the library's too, to a call that a hook at COMMIT has made.
        if unsettled is not None and self.restarts:
            return TransactionError(f"{scope}: COMMIT failed or its answer was lost, and {unsettled}", scope=scope)
        return begin_again(scope) if self.is_gone and not repeats else None


def _asks_again(error: BaseException) -> bool:
    return isinstance(error, RetryTransactionError) and not error.final


def _interrupts(error: BaseException) -> bool:
    """Say whether an error ends whoever runs; a cancellation only while the task is asked to, and not after a time-out."""
    if not isinstance(error, asyncio.CancelledError):
        return not isinstance(error, Exception)
    with suppress(RuntimeError):  # no loop is running
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return False


def chain(error: BaseException | None, handled: BaseException | None = None) -> Iterator[BaseException]:
    """Yield an error and all that led to it, but for what was `handled` before the call began.

    ``__context__`` too: after a deadlock MySQL has forgotten the savepoint, and what reaches the caller is 1305, with
    the 1213 behind it. And the errors of a group: an ``asyncio.TaskGroup`` makes one of whatever its tasks raise.
    """
    seen = set() if handled is None else {id(one) for one in chain(handled)}
    rest = [error]
    while rest:
        one = rest.pop()
        if not isinstance(one, BaseException) or id(one) in seen:  # an application's `orig` may be anything
            continue
        seen.add(id(one))
        yield one
        # An answer of our own has told already what the database's error behind it means.
        if one is error or not isinstance(one, IdempotencyError) or isinstance(one, RetryTransactionError):
            rest += [one.__cause__, one.__context__, getattr(one, "orig", None)]
        if isinstance(one, BaseExceptionGroup):
            rest += one.exceptions


def begin_again(scope: str, **facts: Any) -> RetryTransactionError:
    """Return the error that tells a caller to begin its transaction again."""
    return RetryTransactionError(
        f"{scope}: this transaction cannot go on: roll it back, begin again and call with the same key",
        scope=scope,
        **facts,
    )


def broken_out(scope: str) -> LostClaimError:
    """Return the error for a function that did not leave its transaction as it was."""
    return LostClaimError(
        f"{scope}: the function broke out of its transaction: it committed, rolled back, or swallowed a database error; or "
        f"it changed where tables are looked for (SET search_path, USE). Leave commit and rollback to idemtable, put "
        f"session.begin_nested() round what may fail, name the table's schema=; a key that was committed without a result "
        f"must be forgotten before it can run",
        scope=scope,
    )
