"""The stack of running calls: what makes inner calls join, and a key not wait for itself."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.orm import Session

from idemtable import ReentrantCallError
from idemtable.claim import nesting
from idemtable.claim.kinds import KEY
from idemtable.claim.nesting import enclosing, pop, refuse_reentry
from idemtable.model import Request

NEST, OTHER = ("engine", "table"), ("engine", "other table")
A, B, C = (bytes([number]) * 16 for number in range(3))


def asking(id: bytes) -> Request:
    return Request(id, None, "orders", None, None, 1, b"owner")


def pushed(*args: Any, **options: Any) -> nesting.Frame:
    frame = nesting.made(*args, **options)
    nesting.push(frame)
    return frame


def push(nest: Any, id: bytes) -> nesting.Frame:
    session = Session()
    return pushed(nest, asking(id), session, session, owned=True)


@pytest.fixture
def fresh() -> Callable[[Callable[[], None]], None]:
    """Run in a context of its own, so that nothing is left behind for the next test."""
    return lambda work: contextvars.Context().run(work)


def test_the_innermost_open_call_of_the_same_table_encloses(fresh: Any) -> None:
    def work() -> None:
        assert enclosing(NEST) is None
        outer = push(NEST, A)
        other = push(OTHER, A)
        assert enclosing(NEST) is outer
        assert enclosing(OTHER) is other
        inner = push(NEST, B)
        assert enclosing(NEST) is inner
        pop(inner)
        assert enclosing(NEST) is outer
        pop(other)
        pop(outer)
        assert enclosing(NEST) is enclosing(OTHER) is None

    fresh(work)


def test_a_key_inside_its_own_call_is_refused_at_any_depth(fresh: Any) -> None:
    def work() -> None:
        outer = push(NEST, A)
        push(NEST, B)
        with pytest.raises(ReentrantCallError, match="key of its own") as caught:
            refuse_reentry(NEST, asking(A), Session(), KEY.holds)
        assert caught.value.scope == "orders"
        refuse_reentry(OTHER, asking(A), Session(), KEY.holds)
        refuse_reentry(NEST, asking(C), Session(), KEY.holds)
        pop(outer)  # out of order: a block left in another context than it was entered in
        refuse_reentry(NEST, asking(A), Session(), KEY.holds)

    fresh(work)


def test_a_thread_does_not_inherit_the_stack_and_a_task_does(fresh: Any) -> None:
    def work() -> None:
        frame = push(NEST, A)
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
            frame = push(NEST, A)
            go = asyncio.Event()

            async def left_behind() -> Any:
                await go.wait()
                refuse_reentry(NEST, asking(A), Session(), KEY.holds)
                return enclosing(NEST)

            task = asyncio.ensure_future(left_behind())
            await asyncio.sleep(0)
            pop(frame)
            go.set()
            assert await task is None

        asyncio.run(main())

    fresh(work)


def test_what_has_ended_is_let_go_whatever_the_order(fresh: Any) -> None:
    def work() -> None:
        frames = [push(NEST, A)]
        for _ in range(3):  # each begins before the last one has ended
            frames.append(push(NEST, A))
            pop(frames[-2])
        assert frames[-1].outer is None or frames[-1].outer.is_over
        pop(frames[-1])
        assert nesting._innermost.get() is None

    fresh(work)


def test_a_generator_that_is_suspended_in_its_block_is_nobodys_outer_call(fresh: Any) -> None:
    def block() -> Any:
        session = Session()
        frame = pushed(NEST, asking(A), session, session, owned=True, holder=nesting.holder(1))
        assert enclosing(NEST) is frame
        yield
        assert enclosing(NEST) is frame
        pop(frame)

    def work() -> None:
        generator = block()
        next(generator)
        assert enclosing(NEST) is None
        own = push(NEST, B)
        assert enclosing(NEST) is own
        pop(own)
        next(generator, None)
        assert enclosing(NEST) is None

    fresh(work)
