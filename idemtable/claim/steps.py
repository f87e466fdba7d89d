"""The protocol's named points, for tests, telemetry and whoever wants to crash a call between two of them.

::

    with steps.listening(print):
        create_order(request_id="r-1", item="tea", amount=2)

A listener is called at every point of every call of the process, in the thread and task of the call, with its
transaction open. What it raises the call gets, as if the database had failed there. While nobody listens a point costs
the look at one empty tuple.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..model import Request


class Step(StrEnum):
    """Where a call is. In this order, but for what does not happen to it."""

    ENTERED = "entered"
    """The transaction has begun, and its first statement has tried to claim."""
    FOUND = "found"
    """The claim was lost, and the row that was there instead has been read; nothing has come of it yet."""
    CLAIMED = "claimed"
    """The key is this call's own."""
    RUNNING = "running"
    """The business runs next."""
    RAN = "ran"
    """The business has returned; it was not looked at yet whether it left the transaction as it was."""
    STORED = "stored"
    """The result, or an exception to remember, stands in the row. COMMIT was not sent: while somebody listens it does not
    travel with the statement that stores."""
    COMMITTED = "committed"
    """COMMIT has answered; in the caller's transaction: the savepoint was released."""
    REPLAYED = "replayed"
    """The call is answered from the row next; nothing of it is to run."""
    GAVE_BACK = "gave_back"
    """Everything that the attempt had done is undone, and its key is free again."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A point that a call has reached."""

    step: Step
    request: Request
    attempt: int
    """Which transaction of the call this is, counted from one."""
    owned: bool
    """Whether the transaction is the call's own, and not a caller's that it joined."""


Listener = Callable[[Moment], object]

listeners: tuple[Listener, ...] = ()
"""Replaced and never changed, so that a call may look at it while another thread adds to it."""
# Not a plain one: a block that nobody ended is ended by the garbage collector, which may run in the midst of this.
_replacing: Final = threading.RLock()


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` at every point, in all threads and tasks, while the block runs."""
    global listeners
    with _replacing:
        listeners = (*listeners, listener)
    try:
        yield
    finally:
        with _replacing:
            rest = list(listeners)
            rest.remove(listener)
            listeners = tuple(rest)


def tell(step: Step, request: Request, attempt: int, owned: bool) -> None:
    """Say to all who listen that a call has reached a point."""
    moment = Moment(step, request, attempt, owned)
    for listener in listeners:
        listener(moment)
