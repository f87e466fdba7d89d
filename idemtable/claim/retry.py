"""How often a transaction begins again, and how long after the last time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import tenacity

from .verdict import Verdict

# A deadlock's partners are done within milliseconds of each other: start near, and let jitter part them.
_NEAR: Final = tenacity.wait_random_exponential(multiplier=0.01, max=1)
# A server that was killed takes a fraction of a second to come back, one that fails over some seconds: eight attempts
# reach to about six seconds, which is as long as a request may hang before its client asks again anyway.
_FAR: Final = tenacity.wait_exponential(multiplier=0.05, max=2) + tenacity.wait_random(0, 0.1)


def policy(attempts: int, judge: Callable[[BaseException], Verdict]) -> dict[str, Any]:
    """Return the arguments of `tenacity.Retrying` and `tenacity.AsyncRetrying`.

    Args:
        attempts: how many there may be.
        judge: what an error means.
    """

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        far = error is not None and judge(error).is_lost
        return float((_FAR if far else _NEAR)(state))

    return {
        "stop": tenacity.stop_after_attempt(attempts),
        "wait": wait,
        "retry": tenacity.retry_if_exception(lambda error: judge(error).restarts),
        "reraise": True,
    }
