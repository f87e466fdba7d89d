"""The claim: one attempt at a call, from the key to COMMIT, on a sync Session.

The decorator and the blocks, sync and async, are shells round it that say where the business runs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from sqlalchemy.exc import InvalidRequestError, PendingRollbackError, ResourceClosedError, SQLAlchemyError

from . import frames, remembered, retry
from .dialects import Fault
from .errors import FingerprintMismatchError, IdempotencyError, InProgressError, LostClaimError
from .model import InProgress, Mismatch, Outcome, Replay, Request, Reraise, Status, Stored, TakeOver, Won
from .policy import decide
from .transaction import Transaction, explain, is_open, retry_error

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

    from .codecs import Results
    from .model import Decision
    from .settings import Settings

T = TypeVar("T")

_LOOKS = 8
"""How often one attempt looks again when the row it lost to has gone: each time a purge or a rollback came between."""


@dataclass(slots=True)
class Call:
    """One call: what it asks, how its result travels, until when it waits, how often it began."""

    request: Request
    results: Results
    wait: float
    remember: tuple[type[Exception], ...] = ()
    attempts: int = 0
    deadline: float = 0.0
    before: BaseException | None = field(default_factory=lambda: sys.exc_info()[1])
    """What the caller was handling: Python hangs it on every error raised inside, and it is not this call's."""

    def remaining(self) -> float:
        """Return the seconds that may still be spent waiting."""
        now = time.monotonic()
        if not self.deadline:
            self.deadline = now + self.wait
            return self.wait
        return max(0.0, self.deadline - now)

    def attempt(self, settings: Settings, transaction: Transaction, *, repeats: bool) -> Attempt:
        """Return one attempt at this call."""
        return Attempt(settings, transaction, self, repeats=repeats)


class Attempt:
    """One transaction of one call.

    Args:
        settings: of the table.
        transaction: its own or a savepoint in the caller's.
        call: what is asked.
        repeats: whether what holds this attempt can begin another one. If not, what would restart the transaction
            leaves as RetryTransactionError.
    """

    completed: ClassVar[Status] = Status.COMPLETED

    def __init__(self, settings: Settings, transaction: Transaction, call: Call, *, repeats: bool) -> None:
        self._settings = settings
        self._tx = transaction
        self._call = call
        self._repeats = repeats
        self._frame: frames.Frame | None = None
        self._work: SessionTransaction | None = None
        self._won = False
        self.decision: Decision = Won()

    def open(self, session: Session, joinable: Any, block: bool = False) -> bool:
        """Begin, claim, and say whether the business is to run; if not, `answer` has what it gave.

        Args:
            session: the transaction's.
            joinable: the session that inner calls get: this one, or the AsyncSession round it.
            block: the body will run even where there is nothing to do. Then it gets a transaction to read in, and what
                it writes is rolled back.

        Raises:
            InProgressError, FingerprintMismatchError, LostClaimError, SessionNotUsableError, SchemaError,
            ReentrantCallError, RetryTransactionError (joined), or the remembered exception.
        """
        call = self._call
        frames.refuse_reentry(self._settings.house, call.request.id, call.request.scope)
        call.attempts += 1
        try:
            self._tx.begin(session, call.remaining())
            self.decision = self._settle()
        except SQLAlchemyError as error:
            if meaning := self._explain(error):
                raise meaning from error
            raise
        except Exception as error:
            # PyMySQL's own, from setting an isolation level.
            if self._tx.records.dialect.is_driver_error(error) and (meaning := self._explain(error)):
                raise meaning from error
            raise
        match self.decision:
            case Won():
                self._won = True
                if call.remember:
                    self._work = session.begin_nested()
            case Mismatch():
                raise FingerprintMismatchError(
                    f"{call.request.scope}: this key was used before with another payload; use a new key for a new "
                    f"request",
                    scope=call.request.scope,
                )
            case InProgress():
                raise LostClaimError(
                    f"{call.request.scope}: an earlier call with this key committed inside its function and left no "
                    f"result. It will not run again: find out what it did, then forget the key",
                    scope=call.request.scope,
                )
            case _ if not block:
                self._tx.rollback()
                return False
            case _:
                self._tx.restart(call.remaining())
        self._frame = frames.push(self._settings.house, call.request.id, joinable, self._tx.owned)
        return self._won

    def _explain(self, error: Exception) -> Exception | None:
        scope = self._call.request.scope
        dialect, before = self._tx.records.dialect, self._call.before
        return explain(error, dialect, self._settings, scope, repeats=self._repeats, before=before)

    def _settle(self) -> Decision:
        """Claim the key, or find out what stands in its way."""
        tx, request = self._tx, self._call.request
        stale: bytes | None = None
        for _ in range(_LOOKS):
            records, wait = tx.records, self._call.remaining()
            if self._take(stale, wait):
                return Won()
            if not records.dialect.reads_in_place or stale is not None:
                tx.restart(wait)
            decision = self._decide(tx.records.find(tx.connection, request.id))
            match decision:
                case Won() if not tx.owned:
                    raise retry_error(request.scope)  # the snapshot is older than the winner, or the row is gone
                case Won():
                    stale = None
                case TakeOver(found) if not tx.owned and found.owner == stale:
                    raise retry_error(request.scope)  # somebody took it over since the caller's snapshot
                case TakeOver(found):
                    stale = found.owner
                case _:
                    return decision
            # A lost claim leaves a time-out (PostgreSQL) or a lock (MySQL) behind; what runs next wants neither.
            tx.restart(self._call.remaining())
        raise InProgressError(
            f"{request.scope}: the key changes hands faster than it can be read: try again",
            scope=request.scope,
            retry_after=1.0,
        )

    def _take(self, stale: bytes | None, wait: float) -> bool:
        """Try to make the key this call's own, from nobody or from the owner `stale` of an expired row."""
        records, connection, request = self._tx.records, self._tx.connection, self._call.request
        if stale is None:
            return records.claim(connection, request, wait)
        return records.take_over(connection, request, stale, wait)

    def _decide(self, stored: Stored | None) -> Decision:
        """Say what the row that was there instead means."""
        return Won() if stored is None else decide(stored, self._call.request, stored.now)

    def answer(self) -> Outcome[Any]:
        """Give what an earlier call left.

        Raises:
            ResultUnreadableError: it cannot be read. Or the remembered exception itself.
        """
        call, scope = self._call, self._call.request.scope
        match self.decision:
            case Replay(stored):
                value = call.results.unpack(stored.record.codec, stored.result)
                # Our own owner: COMMIT did arrive, only its answer was lost. To the caller this is the first run.
                ours = stored.owner == call.request.owner
                return Outcome(value, not ours, call.attempts, None if ours else stored.record.created_at)
            case Reraise(stored):
                raise remembered.unpack(stored.result, call.remember, scope)
        raise AssertionError(f"nothing to answer with: {self.decision}")

    @property
    def stored(self) -> Stored | None:
        """The row that this attempt found, if it is to be answered from it."""
        return getattr(self.decision, "stored", None)

    def finish(self, session: Session, value: Any) -> Outcome[Any]:
        """Store the result and commit.

        Raises:
            ResultNotSerializableError, ResultTooLargeError: before COMMIT. LostClaimError: nothing is committed here.
        """
        call, tx = self._call, self._tx
        if not self._intact():
            raise self._lost()
        if self._frame is not None and self._frame.inside:
            # COMMIT would go through the savepoint of a call that is in the middle of its work.
            raise LostClaimError(
                f"{call.request.scope}: a call made inside it is still running: await it before returning",
                scope=call.request.scope,
            )
        try:
            session.flush()
        except PendingRollbackError as error:  # an earlier flush failed and was swallowed
            raise self._lost() from error
        if self._work is not None:
            self._ours(self._work.commit)
            self._work = None
        data, decoded = call.results.pack(value)
        self._store(self.completed, call.results.codec, data)
        tx.commit()
        self._leave()
        return Outcome(decoded, False, call.attempts, None)

    def _intact(self) -> bool:
        """Say whether the business left its transaction as it was."""
        return self._tx.intact(self._work)

    def undo(self, session: Session) -> None:
        """End a block that was a replay: whatever its body wrote is rolled back."""
        self._leave()
        if not self._tx.held():
            raise self._lost()
        self._tx.rollback()

    def _store(self, status: Status, codec: str, data: bytes) -> None:
        tx = self._tx
        if not self._ours(lambda: tx.records.store(tx.connection, self._call.request, status, codec, data)):
            raise self._lost()

    def _ours(self, step: Callable[[], T]) -> T:
        """Run a step of our own after the business: a transaction that is dead by now was killed and that swallowed."""
        dialect = self._tx.records.dialect
        try:
            return step()
        except (InvalidRequestError, ResourceClosedError) as error:
            raise self._lost() from error
        except SQLAlchemyError as error:
            before = self._call.before
            if Fault.DEAD in dialect.faults_of(error, before) and not retry.restarts(error, dialect, before):
                raise self._lost() from error
            raise

    def _lost(self) -> LostClaimError:
        scope = self._call.request.scope
        return LostClaimError(
            f"{scope}: the function broke out of its transaction: it committed, rolled back, or swallowed a database "
            f"error. Leave commit and rollback to idemtable, put session.begin_nested() round what may fail; a key "
            f"that was committed without a result must be forgotten before it can run",
            scope=scope,
        )

    def fail(self, session: Session, error: BaseException) -> None:
        """Undo everything, or remember the exception if it was named; return for the caller to raise it again.

        Raises:
            RetryTransactionError: in the caller's transaction, for what would restart our own.
        """
        try:
            if isinstance(error, Exception) and self._is_to_remember(error):
                self._remember(session, error)
                return
        except Exception:
            self._abandon()
            raise
        self._abandon()
        if not self._repeats and isinstance(error, Exception) and self._must_restart(error):
            raise retry_error(self._call.request.scope) from error

    def _must_restart(self, error: Exception) -> bool:
        if isinstance(error, IdempotencyError):
            return False
        faults = self._tx.records.dialect.faults_of(error, self._call.before)
        return not faults.isdisjoint({Fault.RESTART, Fault.UNKNOWN})

    def _is_to_remember(self, error: Exception) -> bool:
        dialect = self._tx.records.dialect
        return (
            self._won
            and self._work is not None
            and isinstance(error, self._call.remember)
            and not isinstance(error, SQLAlchemyError | IdempotencyError)
            and not dialect.is_driver_error(error)
            and not retry.restarts(error, dialect, self._call.before)
        )

    def _remember(self, session: Session, error: Exception) -> None:
        assert self._work is not None
        data = remembered.pack(error, self._call.request.scope, self._settings.max_result_bytes)
        # The savepoint may be inactive: a failed flush has undone it, but the session is in it until it is left.
        if not self._tx.intact(None) or not is_open(session, self._work):
            raise self._lost() from error
        self._ours(self._work.rollback)
        self._work = None
        self._store(Status.FAILED, remembered.CODEC, data)
        self._tx.commit()
        self._leave()

    def _abandon(self) -> None:
        self._leave()
        # What is being raised matters more than a rollback that finds the connection or the savepoint gone.
        with suppress(Exception):
            self._tx.rollback()

    def _leave(self) -> None:
        if self._frame is not None:
            frames.pop(self._frame)
            self._frame = None
