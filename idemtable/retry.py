"""Which errors restart a transaction, how often, how long apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import tenacity

from .dialects import Fault
from .errors import IdempotencyError, RetryTransactionError

if TYPE_CHECKING:
    from .dialects import Dialect

_GONE: Final = frozenset({Fault.RESTART, Fault.UNKNOWN})
"""What ends a transaction, also where a business exception was raised over it."""

# A deadlock's partners are done within milliseconds of each other: start near, and let jitter part them.
_NEAR: Final = tenacity.wait_random_exponential(multiplier=0.01, max=1)
# A server that was killed takes a fraction of a second to come back, one that fails over some seconds: eight attempts
# reach to about six seconds, which is as long as a request may hang before its client asks again anyway.
_FAR: Final = tenacity.wait_exponential(multiplier=0.05, max=2) + tenacity.wait_random(0, 0.1)


def restarts(error: BaseException, dialect: Dialect, before: BaseException | None = None) -> bool:
    """Say whether beginning the transaction again may turn this error into an answer.

    Args:
        error: what was raised.
        dialect: of the connection.
        before: what the caller was handling when the call began, which is not this call's.
    """
    if isinstance(error, RetryTransactionError):
        return True
    if isinstance(error, IdempotencyError):
        return False  # an answer of our own, whatever database error stands behind it
    # A lock that was not to be had only where it is the error itself: in a savepoint it leaves the transaction whole,
    # and what a function makes of it is the function's answer.
    return dialect.fault(error) is Fault.BUSY or not _GONE.isdisjoint(dialect.faults_of(error, before))


def is_lost(error: BaseException, dialect: Dialect, before: BaseException | None = None) -> bool:
    """Say whether a connection was lost, and with it the knowledge of what was committed."""
    return Fault.UNKNOWN in dialect.faults_of(error, before)


def policy(dialect: Dialect, attempts: int, before: BaseException | None = None) -> dict[str, Any]:
    """Return the arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying` for what follows a first failure."""

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        far = error is not None and is_lost(error, dialect, before)
        return float((_FAR if far else _NEAR)(state))

    return {
        "stop": tenacity.stop_after_attempt(attempts),
        "wait": wait,
        "retry": tenacity.retry_if_exception(lambda error: restarts(error, dialect, before)),
        "reraise": True,
    }
