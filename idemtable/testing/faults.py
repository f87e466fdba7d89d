"""Failures at the protocol's steps, where a test wants them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import NamedTuple, Self

from ..claim import nesting, steps
from ..claim.steps import Moment, Step
from ..claim.verdict import begin_again
from ..keys import checked_scope
from ..settings import checked_count


class InjectedError(Exception):
    """A step of the protocol failed because a test wanted it to."""


class InjectedCrash(BaseException):
    """The process has ended here, as far as the call can tell: no ``except Exception`` catches it."""


class Failure:
    """A failure that waits at a step; made by `fail_at` and `restart_at`.

    As a context manager it waits from the beginning of the block to its end, which is an AssertionError if no call has come
    to the step meanwhile: a test of a failure that did not happen proves nothing.

    Attributes:
        step: where.
        hits: how often it has happened.
    """

    def __init__(self, step: Step, scope: str | None, times: int, error: Callable[[Moment], BaseException]) -> None:
        self.step = step
        self.hits = 0
        self._scope, self._times, self._error = scope, times, error
        self._mutex = threading.Lock()
        self._armed = ExitStack()
        self._is_armed = False

    def arm(self) -> Self:
        """Wait from now on; doing it twice is harmless."""
        if not self._is_armed:
            self._is_armed = True
            self._armed.enter_context(steps.listening(self._listen))
        return self

    def disarm(self) -> None:
        """Wait no longer."""
        self._is_armed = False
        self._armed.close()

    def check(self) -> None:
        """Raise AssertionError if it has not happened."""
        if not self.hits:
            of = "" if self._scope is None else f" of {self._scope}"
            raise AssertionError(f"no call has come to the step {self.step.value!r}{of}: nothing failed there")

    def __enter__(self) -> Self:
        return self.arm()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.disarm()
        if error is None:
            self.check()

    def _listen(self, moment: Moment) -> None:
        if moment.step is not self.step or self._scope not in (None, moment.request.scope):
            return
        with self._mutex:
            if self.hits >= self._times:
                return
            self.hits += 1
        raise self._error(moment)


def fail_at(
    step: Step | str,
    error: BaseException | type[BaseException] | None = None,
    *,
    scope: str | None = None,
    times: int = 1,
) -> Failure:
    """Make a call fail at a step of the protocol, in whatever thread or task it comes there.

    Args:
        step: such as ``"stored"``; see `Step`.
        error: what is raised there; an `InjectedError` by default.
        scope: of the calls that it is for; of any by default.
        times: how often it happens; later calls pass.

    Returns:
        What is to be entered by ``with``. The fixture of this name has done that already.

    Raises:
        ValueError, TypeError: there is no such step, or `error` is no exception.
    """
    step = _step(step)
    if error is None:
        error = InjectedError(f"a test wanted the step {step.value!r} to fail")
    if not (isinstance(error, BaseException) or (isinstance(error, type) and issubclass(error, BaseException))):
        raise TypeError(f"error= takes an exception or its class, not {error!r}")
    made = error
    return Failure(
        step,
        _scope(scope),
        checked_count(times, "times"),
        lambda _: made if isinstance(made, BaseException) else made(),
    )


def restart_at(step: Step | str, *, scope: str | None = None, times: int = 1) -> Failure:
    """Make a call begin its transaction again at a step, as after a deadlock or a serialization failure.

    A decorated function runs again in a new transaction, up to the table's ``attempts``. What cannot be begun again from
    inside (a joined call, a block) raises `RetryTransactionError`, as it would then.

    Args:
        step: such as ``"ran"``: once the function has returned. See `Step`.
        scope: of the calls that it is for; of any by default.
        times: how often it happens; later attempts pass.

    Returns:
        What is to be entered by ``with``. The fixture of this name has done that already.

    Raises:
        ValueError: there is no such step, or nothing to begin again at it.
    """
    step = _step(step)
    if step is Step.GAVE_BACK:
        raise ValueError("a call that has given back is over: restart it at a step before that")
    return Failure(step, _scope(scope), checked_count(times, "times"), lambda moment: begin_again(moment.request.scope))


def _scope(scope: str | None) -> str | None:
    return None if scope is None else checked_scope(scope)


def _step(step: Step | str) -> Step:
    try:
        return Step(step)
    except ValueError:
        raise ValueError(f"the protocol has the steps {', '.join(Step)}, and not {step!r}") from None


class Point(NamedTuple):
    """A step that a call passed."""

    step: Step
    scope: str
    nth: int
    """A call may run several functions, or one several times; counted from one."""

    def __str__(self) -> str:
        return f"{self.step.value} of {self.scope}" + (f" (time {self.nth})" if self.nth > 1 else "")


class Trace:
    """The points that calls pass, in order; a listener."""

    def __init__(self) -> None:
        self.points: list[Point] = []

    def __call__(self, moment: Moment) -> None:
        """Write a point down."""
        self.points.append(self.passed(moment))

    def passed(self, moment: Moment) -> Point:
        """Return what a moment is on this way."""
        step, scope = moment.step, moment.request.scope
        return Point(step, scope, 1 + sum(point[:2] == (step, scope) for point in self.points))

    def has(self, *wanted: Step) -> bool:
        """Say whether one of the steps was passed."""
        return any(point.step in wanted for point in self.points)


class Crash(Trace):
    """The end of the process at a point: a listener, until the process has come back.

    In the thread and task that made it nothing is left of the process. Elsewhere an application's server is at work, which
    has to be there for the next request too: a BaseException would take down a test client's event loop, or a worker's
    thread. There it is an error, and the calls around the one that failed fail as well, whatever they make of it.

    Args:
        at: where.
        gives_back: whether it happens once more when what was done is undone.
    """

    def __init__(self, at: Point, *, gives_back: bool = False) -> None:
        super().__init__()
        self.happened = False
        self._at, self._gives_back = at, gives_back
        self._here = _here()
        self._doomed: set[bytes] = set()

    def __str__(self) -> str:
        return f"{self._at}{' and when it gave back' * self._gives_back}"

    def __call__(self, moment: Moment) -> None:
        """Crash, if it is time."""
        point = self.passed(moment)
        self.points.append(point)
        id = moment.request.id
        if point == self._at and not self.happened:
            self.happened = True
            self._doomed = {id, *(frame.id for frame in nesting.around())}
        elif moment.step is Step.GAVE_BACK:
            if not (self.happened and self._gives_back):
                return
            self._gives_back = False
        elif id in self._doomed:
            self._doomed.discard(id)
        else:
            return
        raise self._error(point)

    def _error(self, point: Point) -> BaseException:
        kind = InjectedCrash if _here() == self._here else InjectedError
        return kind(f"the process ends at {point}, in a test")


def _here() -> tuple[int, object]:
    task = None
    with suppress(RuntimeError):
        task = asyncio.current_task()
    return threading.get_ident(), task


def is_interruption(error: BaseException, expected: Collection[type[BaseException]] = ()) -> bool:
    """Say whether an error ends the test itself, and not only the call."""
    return not isinstance(error, (Exception, InjectedCrash, BaseExceptionGroup, *expected))
