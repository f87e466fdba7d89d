"""The phases that a call is put through by `assert_idempotent`, once for both colours.

A trial is a generator. It yields what is to be done, calls or a look, and is sent what came of it; whoever runs it does
that in its own colour.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from uuid import uuid4

from ..claim import steps
from ..claim.steps import Step
from ..errors import IdempotencyError
from .faults import Crash, InjectedCrash, InjectedError, Trace
from .measure import Measure
from .outside import Effect, watching
from .snapshot import Change, Snapshot, changes

_DOUBTS: Final = 12
"""Calls that are measured before a difference counts. A time in whole seconds, or the fall of a coin, may be the same in
two calls by chance; in all of these, once in eight thousand runs."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Ask:
    """What is to be done: so many calls at once with a key, or a look where there is no key."""

    key: str = ""
    callers: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of calls."""

    errors: list[BaseException]
    value: Any = None
    """What a single call has returned."""


Phases = Generator[Ask, Any, T]


class Trial:
    """The phases, and what was found so far.

    Args:
        callers: how many call at once.
    """

    def __init__(self, callers: int) -> None:
        self._callers = callers
        self._measure = Measure()
        self._snapshot: Snapshot = {}
        self._effects: list[Effect] = []
        self._run, self._number = uuid4().hex, 0

    def phases(self) -> Phases[None]:
        """Go through them all."""
        with watching() as self._effects:
            first = yield from self._measured()
            again = yield from self._called_twice()
            yield from self._called_at_once()
            if not first.points:
                raise AssertionError(
                    "one call: it runs no function that idemtable protects, in this process: nothing can crash on the way"
                )
            for point in first.points:
                yield from self._crashed(Crash(point))
                if point.step is Step.RUNNING:
                    yield from self._crashed(Crash(point, gives_back=True))
            for point in again.points:
                yield from self._crashed(Crash(point), is_again=True)

    def _key(self) -> str:
        # Told apart by its end, and not by its beginning: that is all that is left of it in a column that is too short.
        self._number += 1
        run = self._run
        return f"{run[:8]}-{run[8:12]}-4{run[13:16]}-8{run[17:20]}-{self._number:012x}"

    # --- phases -----------------------------------------------------------------------------------------------------------

    def _measured(self) -> Phases[Trace]:
        # The first call may differ from all that follow: it makes the row that the others change.
        yield from self._called("one call", self._key())
        self._snapshot = yield Ask()
        first = Trace()
        for trace in (first, Trace()):
            yield from self._measured_once(trace)
        return first

    def _measured_once(self, trace: Trace) -> Phases[None]:
        phase = "one call"
        with steps.listening(trace):
            answer: Answer = yield Ask(self._key())
        if trace.has(Step.FOUND) and not trace.has(Step.CLAIMED):
            raise AssertionError(
                f"{phase}: with a key that is new it has found a row that was there: what it claims is the same for "
                f"different keys"
            ) from next(iter(answer.errors), None)
        self._succeeded(phase, answer.errors)
        if trace.has(Step.CLAIMED) and not trace.has(Step.COMMITTED):
            raise AssertionError(
                f"{phase}: it has failed, and given back the key that it had claimed: {answer.value!r}"
            )
        seen = yield from self._seen()
        if trace.has(Step.CLAIMED) and not seen:
            raise AssertionError(
                f"{phase}: it has claimed a key, and no table that the engine shows has another row: give the engine of "
                f"its table, let it commit, and bind nothing to a Connection"
            )
        self._measure.add(seen)

    def _called_twice(self) -> Phases[Trace]:
        phase, key, again = "called twice", self._key(), Trace()
        yield from self._called(phase, key)
        with steps.listening(again):
            yield from self._called(phase, key)
        yield from self._compared(phase)
        return again

    def _called_at_once(self) -> Phases[None]:
        phase, key = f"called {self._callers} at a time", self._key()
        answer: Answer = yield Ask(key, self._callers)
        self._succeeded(phase, [error for error in answer.errors if not _is_told_to_wait(error)])
        yield from self._called(f"{phase}, and once more", key)
        yield from self._compared(phase)

    def _crashed(self, crash: Crash, *, is_again: bool = False) -> Phases[None]:
        phase, key = f"crashed at {crash}, then called again", self._key()
        if is_again:
            phase = f"called, {phase}"
            yield from self._called(phase, key)
        with steps.listening(crash), _dying_quietly():
            answer: Answer = yield Ask(key)
        if not crash.happened:  # it takes another way each time
            self._succeeded(phase, answer.errors)
        yield from self._called(phase, key)
        yield from self._compared(phase)

    # --- steps of a phase -------------------------------------------------------------------------------------------------

    def _called(self, phase: str, key: str) -> Phases[None]:
        answer: Answer = yield Ask(key)
        self._succeeded(phase, answer.errors)

    def _succeeded(self, phase: str, errors: list[BaseException]) -> None:
        if raised := [effect for effect in self._effects if effect.error is not None]:
            raise AssertionError(f"{phase}: {raised[0]}") from raised[0].error
        for error in errors:
            raise AssertionError(f"{phase}: the call has raised {type(error).__name__}: {error}") from error

    def _seen(self) -> Phases[list[Change]]:
        before, self._snapshot = self._snapshot, (yield Ask())
        return changes(before, self._snapshot)

    def _compared(self, phase: str) -> Phases[None]:
        seen = yield from self._seen()
        for _ in range(_DOUBTS):
            if not self._measure.differences(seen):
                return
            yield from self._measured_once(Trace())
        if found := self._measure.differences(seen):
            raise AssertionError("\n".join([f"{phase}: other rows are left than by one call", *found]))


def _is_told_to_wait(error: BaseException) -> bool:
    """Say whether an error is the answer to who comes while another one is at work: try again."""
    if isinstance(error, IdempotencyError):
        return bool(error.retryable)
    return getattr(getattr(error, "response", None), "status_code", None) in (409, 429, 503)  # of httpx, of requests


@contextmanager
def _dying_quietly() -> Iterator[None]:
    """Let the thread of a server end by a crash without a word, as the process would."""
    before = threading.excepthook

    def hook(arguments: Any) -> None:
        if not issubclass(arguments.exc_type, InjectedCrash | InjectedError):
            before(arguments)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
