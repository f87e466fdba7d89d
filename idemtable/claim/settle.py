"""The beginning of an attempt: claim, or find out what stands in the way and give what an earlier call left."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ..codecs import exceptions, opened
from ..dialects.words import Look
from ..errors import InProgressError, ResultUnreadableError
from ..model import UNKEPT, Answer, Outcome, Replay, Reraise, Settled, TakeOver, Won, tell_outcome
from . import steps
from .explained import meaning
from .kinds import LOOKS, too_fast
from .nesting import inside_itself
from .steps import Step
from .verdict import begin_again

if TYPE_CHECKING:
    from ..model import Stored
    from .course import Course, Where
    from .transaction import Transaction

_WON: Final = Won()


def settle(course: Course, tx: Transaction, tell: Callable[[Step], None], *, repeats: bool) -> Settled:
    """Enter a transaction with a claim, and return whether it was won, or what the row says that was there instead.

    Args:
        course: the call.
        tx: where.
        tell: is called at the steps on the way.
        repeats: whether whoever asks can begin again.

    Raises:
        IdempotencyError: what an error of the library's own statements means. Or that error, if it says it itself.
    """
    tx.prepare()
    try:
        return _settle(course, tx, tell)
    except Exception as error:
        refuse(course, tx, error, repeats=repeats)


def reopen(course: Course, tx: Transaction, *, repeats: bool) -> None:
    """Begin a transaction in which nothing is claimed, for a block that was answered to read in.

    Raises:
        IdempotencyError: as of `settle`.
    """
    try:
        tx.restart(_nothing, course.remaining())
    except Exception as error:
        refuse(course, tx, error, repeats=repeats)


def _nothing() -> None:
    """Be the first statement of a transaction in which nothing is claimed."""


def refuse(course: Course, tx: Where, error: Exception, *, repeats: bool) -> NoReturn:
    """Raise what an error of a claim tells the caller, or the error, if it says that itself; while it is being handled.

    Whatever its class: an application may turn the database's errors into its own (``handle_error``). What interrupted the
    claim goes before both.
    """
    scope, verdict = course.call.request.scope, course.judged(error, tx)
    if (interruption := verdict.interruption) is not None:
        raise interruption
    if told := meaning(verdict, course.settings, scope, repeats=repeats):
        if isinstance(told, InProgressError) and course.is_inside_itself:
            told = inside_itself(scope)
        raise told from error
    if tx.is_cut and not repeats:
        # The call around this one has given the connection up meanwhile, and the driver says whatever occurs to it.
        raise begin_again(scope) from error
    raise error


def _settle(course: Course, tx: Transaction, tell: Callable[[Step], None]) -> Settled:
    call = course.call
    wait = course.remaining()
    take = partial(call.kind.take, tx, call.request, None, wait)
    if call.deferred and tx.is_alone and course.defers and tx.records.dialect.defers:
        won = tx.enter(lambda: tx.defer(call.request, wait) or take(), wait)
    elif wait or not tx.owned:
        won = tx.enter(take, wait)
    else:
        looked = tx.enter(lambda: tx.records.dialect.refuse_held(tx.connection, call.request.id), wait)
        won = tx.restart(take, wait) if looked else take()
    if steps.listeners:
        tell(Step.ENTERED)
    return _WON if won else _lost(course, tx, tell)


def _lost(course: Course, tx: Transaction, tell: Callable[[Step], None]) -> Settled:
    """Find out what stands in the way of a claim that was lost, and claim again where nothing does any more."""
    request, kind, dialect = course.call.request, course.call.kind, tx.records.dialect
    stale: bytes | None = None
    for _ in range(LOOKS):
        # Whatever the row says, an own transaction ends here or begins again.
        if dialect.reads_in_place and stale is None:
            found = _look(course, tx, Look.LEAVING if tx.is_alone else Look.STAYING)
        elif dialect.reads_after_a_claim and stale is None and tx.is_alone and not tx.connection.invalidated:
            # Hidden by what an application has read as the transaction began, it is seen in the next, which begins later.
            found = _look(course, tx, Look.LEAVING)
            tx.rollback()  # the lock that a lost claim has left keeps others waiting
        else:
            found = tx.restart(partial(_look, course, tx, Look.STAYING), course.remaining())
        if steps.listeners:
            tell(Step.FOUND)
        match decision := kind.decide(found, request):
            case Won() if not tx.owned:
                raise begin_again(request.scope)  # the snapshot is older than the winner, or the row is gone
            case Won():
                stale = None
            case TakeOver(stored) if not tx.owned and stored.owner == stale:
                raise begin_again(request.scope)  # somebody took it over since the caller's snapshot
            case TakeOver(stored):
                stale = stored.owner
            case _ if _stands(course, tx, decision):
                return decision
            case _:
                stale = None
        # A lost claim leaves a time-out (PostgreSQL) or a lock (MySQL) behind; what runs next wants neither.
        wait = course.remaining()
        if tx.restart(partial(kind.take, tx, request, stale, wait), wait):
            return _WON
    raise too_fast(kind.noun, request.scope)


def _look(course: Course, tx: Transaction, how: Look) -> Stored | None:
    return tx.records.find(tx.connection, course.call.request.id, course.remaining(), how)


def _stands(course: Course, tx: Transaction, decision: Settled) -> bool:
    """Say whether what is decided will be so for good; if not, the row has changed since."""
    if not isinstance(decision, Replay | Reraise) or decision.stored.is_settled:
        return True
    id, owner, wait = course.call.request.id, decision.stored.owner, course.remaining()
    return tx.confirm(lambda: tx.records.hold(tx.connection, id, owner, wait), wait)


def disown(error: BaseException, answer: Answer | None) -> None:
    """Take from an error what a call inside has told of it: this one has not stored it, and undoes what that has.

    Args:
        error: with which a call ends; or a group that an ``asyncio.TaskGroup`` has made of several.
        answer: what the call was answered with: of an exception that was stored it tells itself.
    """
    if isinstance(answer, Reraise):
        return
    tell_outcome(error, None)
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            disown(one, None)


def give(course: Course, answer: Answer, attempt: int) -> Outcome[Any]:
    """Return what an earlier call left, for which no transaction is needed any more.

    Raises:
        ResultUnreadableError: it cannot be read. Or the remembered exception itself.
    """
    call, stored, data = course.call, answer.stored, answer.stored.result
    if stored.record.codec == UNKEPT:
        raise ResultUnreadableError(
            f"{call.request.scope}: it ran and its effect stands, but its result was too large to keep; nothing runs again",
            scope=call.request.scope,
            codec=UNKEPT,
        )
    if (seal := course.settings.seal) is not None:
        data = opened(seal, stored, call.request)

    def outcome(value: Any) -> Outcome[Any]:
        if stored.is_of(call.request):  # to the caller this is the first run
            return Outcome(value, False, attempt, None)
        return Outcome(value, True, attempt, call.kind.ran_at(stored))

    if isinstance(answer, Reraise):
        error = exceptions.unpack(data, call.remember, call.request.scope)
        tell_outcome(error, outcome(None))
        raise error
    if stored.record.codec is None and stored.result is None:
        return outcome(call.results.nothing())
    return outcome(call.results.unpack(stored.record.codec, data))
