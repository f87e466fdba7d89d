"""Which errors restart a transaction, how often, how long apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import tenacity

from .dialects import Fault
from .errors import IdempotencyError, RetryTransactionError

if TYPE_CHECKING:
    from .dialects import Dialect

_RESTARTS: Final = frozenset({Fault.RESTART, Fault.UNKNOWN, Fault.BUSY})

# A deadlock's partners are done within milliseconds of each other: start near, and let jitter part them.
_NEAR: Final = tenacity.wait_random_exponential(multiplier=0.01, max=1)
# A server that was killed takes a fraction of a second to come back, one that fails over some seconds: eight attempts
# reach to about six seconds, which is as long as a request may hang before its client asks again anyway.
_FAR: Final = tenacity.wait_exponential(multiplier=0.05, max=2) + tenacity.wait_random(0, 0.1)


def restarts(error: BaseException, dialect: Dialect) -> bool:
    """Say whether beginning the transaction again may turn this error into an answer."""
    if isinstance(error, RetryTransactionError):
        return True
    if isinstance(error, IdempotencyError):
        return False  # an answer of our own, whatever database error stands behind it
    return not _RESTARTS.isdisjoint(dialect.faults_of(error))


def is_lost(error: BaseException, dialect: Dialect) -> bool:
    """Say whether a connection was lost, and with it the knowledge of what was committed."""
    return Fault.UNKNOWN in dialect.faults_of(error)


def policy(dialect: Dialect, attempts: int) -> dict[str, Any]:
    """Return the arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying` for what follows a first failure."""

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        far = error is not None and is_lost(error, dialect)
        return float((_FAR if far else _NEAR)(state))

    return {
        "stop": tenacity.stop_after_attempt(attempts),
        "wait": wait,
        "retry": tenacity.retry_if_exception(lambda error: restarts(error, dialect)),
        "reraise": True,
    }
