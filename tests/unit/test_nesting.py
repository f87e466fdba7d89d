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
from idemtable.claim.nesting import enclosing, pop, push, refuse_reentry
from idemtable.model import Request

NEST, OTHER = ("engine", "table"), ("engine", "other table")
A, B = UUID(int=1), UUID(int=2)


def asking(id: UUID) -> Request:
    return Request(id, None, "orders", None, None, 1)


@pytest.fixture
def fresh() -> Callable[[Callable[[], None]], None]:
    """Run in a context of its own, so that nothing is left behind for the next test."""
    return lambda work: contextvars.Context().run(work)


def test_the_innermost_open_call_of_the_same_table_encloses(fresh: Any) -> None:
    def work() -> None:
        assert enclosing(NEST) is None
        outer = push(NEST, A, "session")
        other = push(OTHER, A, "another")
        assert enclosing(NEST) is outer
        assert enclosing(OTHER) is other
        inner = push(NEST, B, "session")
        assert enclosing(NEST) is inner
        pop(inner)
        assert enclosing(NEST) is outer
        pop(other)
        pop(outer)
        assert enclosing(NEST) is enclosing(OTHER) is None

    fresh(work)


def test_a_key_inside_its_own_call_is_refused_at_any_depth(fresh: Any) -> None:
    def work() -> None:
        outer = push(NEST, A, None)
        push(NEST, B, None)
        with pytest.raises(ReentrantCallError, match="key of its own") as caught:
            refuse_reentry(NEST, asking(A))
        assert caught.value.scope == "orders"
        refuse_reentry(OTHER, asking(A))
        refuse_reentry(NEST, asking(UUID(int=3)))
        pop(outer)  # out of order: a block left in another context than it was entered in
        refuse_reentry(NEST, asking(A))

    fresh(work)


def test_a_thread_does_not_inherit_the_stack_and_a_task_does(fresh: Any) -> None:
    def work() -> None:
        frame = push(NEST, A, None)
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(enclosing(NEST)))
        thread.start()
        thread.join()

        async def task() -> None:
            seen.append(enclosing(NEST))

        async def main() -> None:
            await asyncio.gather(task(), task())

        asyncio.run(main())
        assert seen == [None, frame, frame]

    fresh(work)


def test_a_call_that_has_ended_encloses_nothing_for_a_task_it_left_behind(fresh: Any) -> None:
    def work() -> None:
        async def main() -> None:
            frame = push(NEST, A, None)
            go = asyncio.Event()

            async def left_behind() -> Any:
                await go.wait()
                refuse_reentry(NEST, asking(A))
                return enclosing(NEST)

            task = asyncio.ensure_future(left_behind())
            await asyncio.sleep(0)
            pop(frame)
            go.set()
            assert await task is None

        asyncio.run(main())

    fresh(work)


def test_the_calls_of_several_tasks_take_turns_by_one_lock(fresh: Any) -> None:
    def work() -> None:
        frame = push(NEST, A, None)
        assert frame.turn() is frame.turn()
        assert push(NEST, B, None).turn() is not frame.turn()

    fresh(work)
