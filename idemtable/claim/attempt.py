"""One attempt at a call: one transaction, from the claim to COMMIT, on a sync Session."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar, assert_never, final

from sqlalchemy.exc import InvalidRequestError, PendingRollbackError, ResourceClosedError

from ..codecs import exceptions, sealed
from ..errors import LostClaimError, SessionNotUsableError, TokenError
from ..model import EXCEPTION, UNKEPT, Mismatch, Newer, Outcome, Refuse, Replay, Reraise, Unfinished, Won, tell_outcome
from . import late, nesting, steps
from .returned import RollBack, Unkept
from .second import second_connection
from .settle import disown, give, reopen, settle
from .steps import Step
from .transaction import is_open
from .verdict import broken_out

if TYPE_CHECKING:
    from sqlalchemy.orm import SessionTransaction

    from ..model import Answer, Record, Status
    from .course import Course
    from .door import Door
    from .kinds import Reserving
    from .nesting import Holder
    from .transaction import Transaction

T = TypeVar("T")


@final
class Attempt:
    """One transaction of one call.

    Args:
        course: the call, and what it has behind it.
        transaction: its own, or a savepoint in the caller's.
        repeats: whether what holds this attempt can begin another one. If not, what would restart the transaction
            leaves as RetryTransactionError.
        holder: of the block, where the business is one. Its body runs even where there is nothing to
            do: then it gets a transaction to read in, and what it writes is rolled back.
    """

    def __init__(
        self, course: Course, transaction: Transaction, *, repeats: bool, holder: Holder | None = None
    ) -> None:
        self._course = course
        self._number = course.begin()
        self._call = course.call
        self.tx = transaction
        self._repeats = repeats
        self._holder = holder
        self._frame: nesting.Frame | None = None
        self.door: Door | None = None
        """The way in for calls inside this one, while the business runs."""
        self._work: SessionTransaction | None = None
        """The savepoint round the business, where an exception of it may have to be remembered."""
        self._answer: Answer | None = None
        self._reserved: Reserving | None = None
        """What was had before the transaction, and goes back if nothing comes of it."""
        self._claimed = False
        self.is_over = False  # undone: there is nothing more to undo

    @property
    def replayed(self) -> Record | None:
        """The row that this attempt was answered from."""
        return None if self._answer is None else self._answer.stored.record

    # --- the way in -------------------------------------------------------------------------------------------------------

    @property
    def _is_occupied(self) -> bool:
        return self.door is not None and self.door.is_occupied

    def open(self) -> Outcome[Any] | None:
        """Begin and claim.

        Returns:
            ``None`` if the business is to run; otherwise what an earlier call left.

        Raises:
            InProgressError, FingerprintMismatchError, LostClaimError, TokenError, ResultUnreadableError,
            SessionNotUsableError, SchemaError, RetryTransactionError (joined), or the remembered exception. Everything
            is undone then.
        """
        try:
            return self._open()
        except BaseException as error:
            self.fail(error)
            raise

    def _open(self) -> Outcome[Any] | None:
        course, call, tx = self._course, self._call, self.tx
        stays = self._holder is not None
        if (reserving := call.kind.reserving()) is not None:
            self._reserved = reserving  # also where the answer is lost: then it is given back, if it was had
            try:
                reserving.reserve(call.request)
            except TokenError:
                self._reserved = None
                raise
        decision = settle(course, tx, self._tell, repeats=self._repeats)
        match decision:
            case Won():
                self._claimed = True
                if steps.listeners:
                    self._tell(Step.CLAIMED)
                if call.remember:
                    self._work = tx.session.begin_nested()
            case Replay() | Reraise():
                self._answer = decision
                if stays:
                    reopen(course, tx, repeats=self._repeats)
                else:
                    tx.rollback()
            case Mismatch() | Unfinished() | Newer() | Refuse():
                raise call.kind.refusal(decision, call.request.scope)
            case _:
                assert_never(decision)
        if stays or self._answer is None:
            self._frame = nesting.made(
                course.place.nest,
                call.request,
                tx.session,
                tx.joinable,
                owned=tx.owned,
                holder=self._holder,
                held=tx.held if stays else None,
            )
            self.door = self._frame.door
            nesting.push(self._frame)
        if steps.listeners:
            self._tell(Step.RUNNING if self._answer is None else Step.REPLAYED)
        return None if self._answer is None else give(course, self._answer, self._number)

    # --- the way out ------------------------------------------------------------------------------------------------------

    def close(self, value: Any) -> Outcome[Any]:
        """Store what the business gave and commit; or end a block that was answered, and undo what its body wrote.

        Whoever calls it has shut the door.

        Raises:
            ResultNotSerializableError, ResultTooLargeError: before COMMIT. LostClaimError: nothing is committed here.
            Everything is undone then.
        """
        try:
            if self._is_occupied:
                # COMMIT would go through the savepoint of a call that is in the middle of its work.
                scope = self._call.request.scope
                raise LostClaimError(
                    f"{scope}: a call made inside it is still running: await it before returning", scope=scope
                )
            if self._answer is not None:
                return self._undo(value)
            if steps.listeners:
                self._tell(Step.RAN)
            if isinstance(value, RollBack):
                outcome = self._undo(value.value)
                self._give_back()
                return outcome
            return self._store(value)
        except BaseException as error:
            self.fail(error)
            raise

    def _undo(self, value: Any) -> Outcome[Any]:
        self.leave()
        if not self.tx.held():
            raise broken_out(self._call.request.scope)
        self.tx.rollback()
        return Outcome(value, False, self._number, None)

    def _store(self, value: Any) -> Outcome[Any]:
        call, tx = self._call, self.tx
        if tx.deferred is not None:
            late.take(self._course, tx, self._checked, repeats=self._repeats)
        if not tx.intact(self._work):
            raise broken_out(call.request.scope)
        try:
            tx.session.flush()
        except PendingRollbackError as error:  # an earlier flush failed and was swallowed
            raise broken_out(call.request.scope) from error
        if (work := self._work) is not None:
            self._checked(tx.release, work)
            self._work = None
        if why := second_connection(tx.session):
            raise SessionNotUsableError(f"{call.request.scope}: {why}", scope=call.request.scope)
        if isinstance(value, Unkept):
            codec, data, decoded = UNKEPT, b"", value.value
            if value.frees and call.kind.returns:
                self._checked(tx.records.expire, tx.connection, call.request)
        else:
            codec, (data, decoded) = call.results.codec, call.results.pack(value)
        self._commit(call.kind.status, codec, data)
        return Outcome(decoded, False, self._number, None)

    def _commit(self, status: Status, codec: str, data: bytes) -> None:
        """Leave the transaction with an outcome in the row."""
        call, tx = self._call, self.tx
        if (seal := self._course.settings.seal) is not None:
            data = sealed(seal, data, call.request, codec, status)

        def keep(along: Any) -> bool:
            kept = self._checked(call.kind.keep, tx, call.request, status, codec, data, along)
            if kept:
                if steps.listeners:
                    self._tell(Step.STORED)
                # From here on nobody can say for sure that nothing was committed.
                if call.kind.settles or not tx.is_alone:
                    tx.departed = tx.owned
                else:
                    tx.await_departure()
            return kept

        # A savepoint is gone where the business has sent COMMIT as text: the driver says so of its release.
        if not (tx.leave(keep, ends=call.kind.ends) if tx.is_alone else self._checked(tx.leave, keep)):
            raise broken_out(call.request.scope)
        self.leave()
        if steps.listeners:
            self._tell(Step.COMMITTED)

    def fail(self, error: BaseException) -> None:
        """Undo everything, or remember the exception if it was named; return for the caller to raise it again.

        Whoever calls it has shut the door.

        Raises:
            RetryTransactionError: for what would restart the transaction, where nobody here can.
            BaseException: what interrupted the call, where the error was raised over it.
            TransactionError: COMMIT failed, and calling again would not tell whether it arrived.
        """
        self.is_over = True
        disown(error, self._answer)
        verdict = self._course.judged(error, self.tx)
        if (deferred := self.tx.deferred) is not None:
            refusal = late.refusal(self._course, self.tx, self._checked, error, repeats=self._repeats)
            if deferred.is_lost:
                # Whatever the function has made of that: it has done nothing, and the key is claimed before it runs again.
                self._course.overtaken = True
                self._abandon()
                return
            if refusal is not None:
                self._abandon()
                raise refusal from error
        try:
            stands = not (self._is_occupied or self.tx.is_lost or self._is_left_over())
            if self._work and stands and isinstance(error, self._call.remember) and verdict.is_the_functions:
                self._remember(error)
                return
        except Exception:
            self._abandon()
            raise
        # By the call around it: whatever the driver says of that, and in whatever class, it is what came of it.
        was_cut = not self.tx.owned and self.tx.is_cut
        is_lost = self._abandon() is not None or was_cut or self._is_left_over()
        if verdict.is_lost or verdict.is_elsewhere:
            self.tx.let_go()
        if verdict.is_elsewhere and self._repeats:
            self.tx.turn_away()
        kind = self._call.kind
        unsettled = kind.unsettled if self.tx.departed and not kind.settles else None
        told = verdict.undone(self._call.request.scope, takes_all=is_lost, repeats=self._repeats, unsettled=unsettled)
        if isinstance(told, Exception):
            raise told from error
        if told is not None:
            raise told

    def _remember(self, error: Exception) -> None:
        assert self._work is not None
        data = exceptions.pack(
            error, self._call.remember, self._call.request.scope, self._course.settings.max_result_bytes
        )
        # The savepoint may be inactive: a failed flush has undone it, but the session is in it until it is left.
        if not self.tx.intact() or not is_open(self.tx.session, self._work):
            raise broken_out(self._call.request.scope) from error
        self._checked(self._work.rollback)
        self._work = None
        self._commit(self._call.kind.failed, EXCEPTION, data)
        tell_outcome(error, Outcome(None, False, self._number, None))

    def _abandon(self) -> Exception | None:
        """Undo everything; return what kept a savepoint in the caller's transaction from being undone."""
        is_occupied = self._is_occupied
        self.leave()
        if is_occupied:
            # Two at work on one connection end in a hang or in somebody else's answer.
            with suppress(Exception):
                self.tx.cut()
            return None
        # What is being raised matters more than a look or a rollback that finds the connection or the savepoint gone.
        uncommitted = False
        with suppress(Exception):
            uncommitted = not self.tx.departed and self.tx.is_uncommitted()
        lost: Exception | None = None
        try:
            self.tx.rollback()
        except Exception as error:
            lost = None if self.tx.owned else error
        if uncommitted:
            with suppress(Exception):  # what was reserved stays spent
                self._give_back()
        return lost

    def _is_left_over(self) -> bool:
        """Say whether the call in whose transaction this one is has ended before it."""
        return not self.tx.owned and nesting.is_left_over(self.tx.session)

    def _give_back(self) -> None:
        if (reserved := self._reserved) is not None:
            self._reserved = None
            reserved.give_back(self._call.request)
        if self._claimed and steps.listeners:
            self._tell(Step.GAVE_BACK)

    def leave(self) -> None:
        """Let no call in any more; twice does no harm."""
        if self._frame is not None:
            nesting.pop(self._frame)
            self._frame = self.door = None

    def _checked(self, step: Callable[..., T], *args: Any) -> T:
        """Run a step of our own after the business: a transaction that is dead by now was killed and that swallowed."""
        try:
            return step(*args)
        except (InvalidRequestError, ResourceClosedError) as error:
            raise broken_out(self._call.request.scope) from error
        except Exception as error:
            # Whatever its class: an application may turn the database's errors into its own (``handle_error``).
            if self._course.judged(error, self.tx).is_dead:
                raise broken_out(self._call.request.scope) from error
            raise

    def _tell(self, step: Step) -> None:
        steps.tell(step, self._call.request, self._number, self.tx.owned)
