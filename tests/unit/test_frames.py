"""The stack of running calls: what makes inner calls join, and a key not wait for itself."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from idemtable import ReentrantCallError
from idemtable.frames import enclosing, pop, push, refuse_reentry

HOUSE, OTHER = ("engine", "table"), ("engine", "other table")
A, B = UUID(int=1), UUID(int=2)


@pytest.fixture
def fresh() -> Callable[[Callable[[], None]], None]:
    """Run in a context of its own, so that nothing is left behind for the next test."""
    return lambda work: contextvars.Context().run(work)


def test_the_innermost_open_call_of_the_same_table_encloses(fresh: Any) -> None:
    def work() -> None:
        assert enclosing(HOUSE) is None
        outer = push(HOUSE, A, "session")
        other = push(OTHER, A, "another")
        assert enclosing(HOUSE) is outer
        assert enclosing(OTHER) is other
        inner = push(HOUSE, B, "session")
        assert enclosing(HOUSE) is inner
        pop(inner)
        assert enclosing(HOUSE) is outer
        pop(other)
        pop(outer)
        assert enclosing(HOUSE) is enclosing(OTHER) is None

    fresh(work)


def test_a_key_inside_its_own_call_is_refused_at_any_depth(fresh: Any) -> None:
    def work() -> None:
        outer = push(HOUSE, A, None)
        push(HOUSE, B, None)
        with pytest.raises(ReentrantCallError, match="key of its own") as caught:
            refuse_reentry(HOUSE, A, "orders")
        assert caught.value.scope == "orders"
        refuse_reentry(OTHER, A, "orders")
        refuse_reentry(HOUSE, UUID(int=3), "orders")
        pop(outer)  # out of order: a block left in another context than it was entered in
        refuse_reentry(HOUSE, A, "orders")

    fresh(work)


def test_a_thread_does_not_inherit_the_stack_and_a_task_does(fresh: Any) -> None:
    def work() -> None:
        frame = push(HOUSE, A, None)
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(enclosing(HOUSE)))
        thread.start()
        thread.join()

        async def task() -> None:
            seen.append(enclosing(HOUSE))

        async def main() -> None:
            await asyncio.gather(task(), task())

        asyncio.run(main())
        assert seen == [None, frame, frame]

    fresh(work)


def test_a_call_that_has_ended_encloses_nothing_for_a_task_it_left_behind(fresh: Any) -> None:
    def work() -> None:
        async def main() -> None:
            frame = push(HOUSE, A, None)
            go = asyncio.Event()

            async def left_behind() -> Any:
                await go.wait()
                refuse_reentry(HOUSE, A, "orders")
                return enclosing(HOUSE)

            task = asyncio.ensure_future(left_behind())
            await asyncio.sleep(0)
            pop(frame)
            go.set()
            assert await task is None

        asyncio.run(main())

    fresh(work)


def test_the_calls_of_several_tasks_take_turns_by_one_lock(fresh: Any) -> None:
    def work() -> None:
        frame = push(HOUSE, A, None)
        assert frame.turn() is frame.turn()
        assert push(HOUSE, B, None).turn() is not frame.turn()

    fresh(work)
