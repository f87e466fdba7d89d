"""The claim that was to come with the function's first statement, taken where there was none, or none yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .settle import refuse
from .verdict import begin_again, broken_out

if TYPE_CHECKING:
    from .course import Course
    from .transaction import Transaction

Checked = Callable[[Callable[[], bool]], bool]
"""Takes a step, and says what it means that the transaction is not there any more."""


def take(course: Course, tx: Transaction, checked: Checked, *, repeats: bool) -> None:
    """Take a claim that nothing has taken along, and find out whether it is the call's own.

    Args:
        course: the call.
        tx: in which the claim is.
        checked: takes it.
        repeats: whether whoever asks can begin again.

    Raises:
        RetryTransactionError: it is not. LostClaimError: the function has ended the transaction. Or what `settle` raises.
    """
    scope, deferred = course.call.request.scope, tx.deferred
    if deferred.waits and not tx.held():
        raise broken_out(scope)
    try:
        taken = checked(deferred.take)
    except Exception as error:
        refuse(course, tx, error, repeats=repeats)
    if not taken:
        raise begin_again(scope)


def refusal(course: Course, tx: Transaction, checked: Checked, error: Any, *, repeats: bool) -> Exception | None:
    """Return why a function that has failed before its first statement would not have run; ``None`` where it would have.

    It may have failed because its work was done before, and then the answer is what that has left. Where its connection was
    lost there is nothing to claim on, and its error says by itself whether to begin again.

    Args:
        course, tx, checked, repeats: as of `take`.
        error: the function's.
    """
    if tx.deferred.waits and isinstance(error, Exception) and tx.held() and not tx.connection.invalidated:
        try:
            take(course, tx, checked, repeats=repeats)
        except Exception as refused:
            return refused
    return None
