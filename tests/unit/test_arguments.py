"""Arguments, before a function runs and before it runs again."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from idemtable.arguments import Arguments


async def letters() -> AsyncIterator[str]:
    for letter in "ab":
        yield letter


class Ticks:
    """An async iterator that is no generator."""

    def __aiter__(self) -> Ticks:
        return self

    async def __anext__(self) -> int:
        return 1


async def one_of(items: Any) -> None:
    await anext(aiter(items))


def after(given: dict[str, Any], work: Callable[[Any], Any]) -> bool:
    arguments = Arguments(given)
    arguments.noting(work)("session")
    return arguments.have_changed()


@pytest.mark.parametrize("make", [letters, Ticks])
def test_an_async_iterator_that_was_read_has_changed(make: Callable[[], Any]) -> None:
    items = make()
    assert after({"items": items}, lambda session: asyncio.run(one_of(items)))


def test_an_async_generator_that_has_not_begun_has_not_changed_where_python_tells() -> None:
    tells = sys.version_info >= (3, 12)
    assert after({"items": letters()}, lambda session: None) is not tells


def test_without_iterators_the_work_is_as_it_was() -> None:
    def work(session: Any) -> None: ...

    assert Arguments({"items": ["a"], "count": 1}).noting(work) is work


def test_what_was_never_given_to_the_function_has_not_changed() -> None:
    assert not Arguments({"items": letters(), "ticks": Ticks(), "lines": iter("ab")}).have_changed()


def test_nobody_reads_an_iterator_to_look_at_it() -> None:
    lines = iter("ab")
    assert after({"lines": (lines,)}, lambda session: None)
    assert [*lines] == ["a", "b"]


def test_what_nobody_can_tell_of_has_not_changed() -> None:
    class Row:
        amount = 1

    row = Row()
    assert not after({"row": row, "rows": [row], "count": 3}, lambda session: setattr(row, "amount", 2))


def test_a_list_that_was_emptied_has_changed() -> None:
    items = ["a"]
    assert after({"items": items}, lambda session: items.clear())
    assert not after({"items": items}, lambda session: None)
