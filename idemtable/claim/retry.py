"""How often a transaction begins again, and how long after the last time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import tenacity

from .verdict import Verdict

# A deadlock's partners are done within milliseconds of each other: start near, and let jitter part them.
_NEAR: Final = tenacity.wait_random_exponential(multiplier=0.01, max=1)
# A server that was killed takes a fraction of a second to come back, one that fails over some seconds, or twenty. Never
# more than 2.1 seconds between two looks: a call ends no more than that after its time is over.
_FAR: Final = tenacity.wait_exponential(multiplier=0.05, max=2) + tenacity.wait_random(0, 0.1)


class Patience:
    """How long one call goes on: so many restarts, and so long without a server.

    Args:
        attempts: transactions that may begin for deadlocks and the like.
        failover: seconds to go on while no server can be had, counted from the first time that none was.
        judge: what an error means.
    """

    def __init__(self, attempts: int, failover: float, judge: Callable[[BaseException], Verdict]) -> None:
        self._attempts, self._failover, self._judge = attempts, failover, judge
        self._near = 0
        self._since: float | None = None

    def is_over(self, error: BaseException | None) -> bool:
        """Count an error; say whether the call has gone on for long enough."""
        if error is not None and self._judge(error).is_far:
            now = time.monotonic()
            self._since = now if self._since is None else self._since
            return now - self._since >= self._failover
        self._near += 1
        return self._near >= self._attempts

    def _wait(self, state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return float((_FAR if error is not None and self._judge(error).is_far else _NEAR)(state))

    def policy(self) -> dict[str, Any]:
        """Return the arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying`."""
        return {
            "stop": lambda state: self.is_over(state.outcome.exception() if state.outcome else None),
            "wait": self._wait,
            "retry": tenacity.retry_if_exception(lambda error: self._judge(error).restarts),
            "reraise": True,
        }
