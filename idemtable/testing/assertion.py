"""`assert_idempotent`: runs a trial, by plain calls or by tasks."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import ExitStack
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, overload

from ..settings import checked_count
from .eyes import Eyes, checked_engine
from .faults import is_interruption
from .trial import Answer, Ask, Phases, Trial

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

CALLERS: Final = 8
"""Enough for all to meet at one key, and within the fifteen connections of SQLAlchemy's pool if each takes one or two."""

owed: Final[set[object]] = set()
"""A mark for each trial that is to be awaited and was not begun: whoever forgets to tests nothing. The plugin looks."""

Call = Callable[[str], Any]


@overload
def assert_idempotent(  # type: ignore[overload-overlap]
    call: Callable[[str], Awaitable[object]],
    engine: Engine | AsyncEngine,
    *,
    callers: int = ...,
    ignore: Collection[str] = ...,
) -> Coroutine[Any, Any, None]: ...
@overload
def assert_idempotent(
    call: Callable[[str], object],
    engine: Engine | AsyncEngine,
    *,
    callers: int = ...,
    ignore: Collection[str] = ...,
) -> None: ...
def assert_idempotent(
    call: Call, engine: Engine | AsyncEngine, *, callers: int = CALLERS, ignore: Collection[str] = ()
) -> Any:
    """Assert that a request leaves what it leaves when it is made once, however often it is made with its key.

    It is made with some keys to measure what one call leaves. Then, with a new key each time: twice; many at once; with a
    crash at each step of the protocol, and again; and when it was done, with a crash at each step of the way to its stored
    answer, and again. After each of these all tables must be as after one call; on MariaDB and MySQL, those of the engine's
    own database.

    Args:
        call: makes the request with the key that it is given, the text of a UUID. It may be async, and it may send the
            request to your application by a client of HTTP. It is called some fifty times.
        engine: of the tables, an Engine or AsyncEngine.
        callers: how many calls are made at once, two or more.
        ignore: names of tables that are none of the request's business; with their schema, where that is not the engine's.

    Returns:
        ``None``; where `call` is async, a coroutine that is to be awaited. Under the pytest plugin a test that does not
        await it fails.

    Raises:
        AssertionError: it names the phase, the table and the rows that differ, or what the call has raised.
        TypeError, ValueError: an argument cannot be.

    Warns:
        OutsideEffectWarning: the function has connected a socket or used another engine; under the pytest plugin an error.
    """
    if not callable(call):
        raise TypeError(f"assert_idempotent takes a function of a key, not {call!r}")
    if (
        isinstance(ignore, str)
        or not isinstance(ignore, Collection)
        or not all(isinstance(name, str) for name in ignore)
    ):
        raise TypeError(f"ignore= takes names of tables, such as ['audit'], not {ignore!r}")
    checked_engine(engine)
    if checked_count(callers, "callers") < 2:
        raise ValueError("callers must be at least 2: one alone meets nobody")
    phases, eyes = Trial(callers).phases(), Eyes(engine, frozenset(ignore))
    if inspect.iscoroutinefunction(inspect.unwrap(call)):
        return _awaitable(phases, call, eyes)
    return _run(phases, call, eyes)


def _run(phases: Phases[None], call: Call, eyes: Eyes) -> Any:
    """Do what a trial asks for by plain calls; where the first of them is to be awaited, return what goes on from there."""
    answer: Any = None
    with ExitStack() as stack:
        stack.callback(eyes.close)
        stack.callback(phases.close)
        while (ask := _next(phases, answer)) is not None:
            if not ask.key:
                answer = eyes.look()
            elif ask.callers > 1:
                answer = _crowd(call, ask)
            else:
                try:
                    value = call(ask.key)
                except BaseException as error:
                    if is_interruption(error):
                        raise
                    answer = Answer([error])
                    continue
                if inspect.isawaitable(value):  # of a lambda, say, which does not look async
                    stack.pop_all()
                    return _awaitable(phases, call, eyes, value)
                answer = Answer([], value)
    return None


def _awaitable(phases: Phases[None], call: Call, eyes: Eyes, begun: Any = None) -> Coroutine[Any, Any, None]:
    owed.add(mark := object())
    return _arun(mark, phases, call, eyes, begun)


async def _arun(mark: object, phases: Phases[None], call: Call, eyes: Eyes, begun: Any) -> None:
    """Do what a trial asks for in tasks; `begun` is the first call, where that was made already."""
    owed.discard(mark)
    answer: Any = None
    try:
        if begun is not None:
            answer = await _answered(begun)
        while (ask := _next(phases, answer)) is not None:
            if not ask.key:
                answer = await eyes.alook()
            elif ask.callers > 1:
                answers = await asyncio.gather(*(_called(call, ask.key) for _ in range(ask.callers)))
                answer = Answer([error for one in answers for error in one.errors])
            else:
                answer = await _called(call, ask.key)
    finally:
        phases.close()
        await eyes.aclose()


_arun.__qualname__ = "idemtable.testing.assert_idempotent"  # for Python's own warning, where nobody awaits it


def _next(phases: Phases[None], answer: Any) -> Ask | None:
    try:
        return phases.send(answer)
    except StopIteration:
        return None


def _crowd(call: Call, ask: Ask) -> Answer:
    barrier = threading.Barrier(ask.callers)
    errors: list[BaseException] = []

    def one() -> None:
        barrier.wait()
        try:
            call(ask.key)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=copy_context().run, args=(one,), name=f"idemtable-testing-{n}", daemon=True)
        for n in range(ask.callers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in filter(is_interruption, errors):
        raise error
    return Answer(errors)


async def _called(call: Call, key: str) -> Answer:
    try:
        awaitable = call(key)
    except Exception as error:
        return Answer([error])
    return await _answered(awaitable)


async def _answered(call: Awaitable[object]) -> Answer:
    try:
        return Answer([], await call)
    except BaseException as error:
        task = asyncio.current_task()
        is_asked_to = task is not None and task.cancelling() > 0
        # A crash cancels what waits for it, and that is no cancellation of the test.
        if is_interruption(error, () if is_asked_to else (asyncio.CancelledError,)):
            raise
        return Answer([error])
