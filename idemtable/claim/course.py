"""One call under way: what every attempt at it shares."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol

from . import steps
from .itself import wants_its_key
from .verdict import Verdict

if TYPE_CHECKING:
    from ..repository import Records
    from ..settings import Settings
    from .call import Call


class Where(Protocol):
    """What an error came up in: a transaction, or a look before one."""

    records: Records

    @property
    def is_cut(self) -> bool:
        """Whether its connection was given up under it."""


class Course:
    """What one call asks, how often it began, how long it may still wait, what its caller was handling.

    Made when the call begins: from then on its time runs.

    Args:
        settings: of the table.
        call: what is asked.
        isolation_level: of its own transactions, instead of the engine's.
    """

    def __init__(self, settings: Settings, call: Call, isolation_level: str | None = None) -> None:
        self.settings = settings
        self.call = call
        self.level = isolation_level
        self.place = settings.place
        self.attempts = 0
        """How many transactions have begun."""
        self.overtaken = False
        """Whether a claim that came with the function's first statement came too late."""
        self.is_inside_itself = wants_its_key(self.place, call.request, call.kind.holds)
        """Whether it would wait for the call around it: then it waits for nobody."""
        self._deadline = time.monotonic() + (0 if self.is_inside_itself else call.wait)
        self._handled = sys.exc_info()[1]
        self._verdict: Verdict | None = None

    def begin(self) -> int:
        """Begin another attempt, which has an owner of its own; return its number."""
        if self.attempts:
            self.call = self.call.again()
        self.attempts += 1
        return self.attempts

    @property
    def defers(self) -> bool:
        """Whether the claim may wait for the function's first statement: once, and while nobody wants to see it come."""
        return self.call.deferred and self.attempts == 1 and not steps.listeners

    def remaining(self) -> float:
        """Return the seconds that may still be spent waiting."""
        left = self._deadline - time.monotonic()
        return left if left > 0 else 0.0

    def judged(self, error: BaseException, tx: Where | None = None) -> Verdict:
        """Return what an error means to this call; the same verdict for whoever asks again.

        Args:
            error: what was raised.
            tx: in which that was, for whoever is the first to ask.
        """
        verdict = self._verdict
        if verdict is None or verdict.error is not error:
            dialect = self.place.records.dialect if tx is None else tx.records.dialect
            connection, is_cut = (None, False) if tx is None else (getattr(tx, "connection", None), tx.is_cut)
            verdict = self._verdict = Verdict(error, dialect, self._handled, connection, is_cut)
        return verdict
