"""Guards: the other ways to keep a change from being made twice or over somebody else's, inside the caller's session.

- `compare_and_set`, `retry_stale`: optimistic. Nobody waits; who comes second learns it and reads again.
- `lock`, and ``idem.lock_name``: pessimistic. Who comes second waits, or is told.
- `StateMachine`: a step is taken once and only from where it is allowed; an event is applied once.

Each takes a ``Session``, or an ``AsyncSession`` and then returns an awaitable. None of them commits.
"""

from .machine import Advance, StateMachine
from .optimistic import compare_and_set, retry_stale
from .pessimistic import lock, lock_name

__all__ = ["Advance", "StateMachine", "compare_and_set", "lock", "lock_name", "retry_stale"]
