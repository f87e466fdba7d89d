"""Arguments, before a function runs and before it runs again."""

from __future__ import annotations

import asyncio
import io
import logging
import queue
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Any
from unittest.mock import Mock

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

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


# --- of what has no fingerprint ---------------------------------------------------------------------------------------


class Client:
    """What is there to be called, and writes down what it was called for."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._cache: list[int] = []
        self.tags = ["a"]

    def call(self) -> None:
        self._cache.append(1)


class Cart:
    def __init__(self, *lines: Any) -> None:
        self._lines = [*lines]
        self.count = len(lines)


class Line:
    __slots__ = ("client", "items", "never")

    def __init__(self, *items: Any, client: Any = None) -> None:
        self.items = [*items]
        self.client = client


@dataclass
class Order:
    items: list[Any]
    client: Any = field(default_factory=Client)


class Upload:
    def __init__(self) -> None:
        self.file = io.BytesIO(b"abc")
        self.lock = threading.Lock()

    def read(self) -> bytes:
        return self.file.read()

    def seek(self, place: int) -> None:
        self.file.seek(place)


def filled(made: Any) -> Any:
    made.put_nowait(1)
    return made


def knot() -> dict[str, Any]:
    made: dict[str, Any] = {"items": [1], "client": Client()}
    made["itself"] = [made]
    return made


USED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a record beside a client": (lambda: Order([1]), lambda order: order.items.clear()),
    "a record's field": (lambda: Order([1]), lambda order: setattr(order, "client", None)),
    "a list of objects": (lambda: [Client(), Client()], lambda clients: clients.pop()),
    "a dict by its names": (lambda: {"a": Client()}, lambda given: given.update(b=given.pop("a"))),
    "a set": (lambda: {Client()}, lambda given: given.clear()),
    "a deque": (lambda: deque([Client()]), lambda given: given.popleft()),
    "what holds itself": (knot, lambda given: given["items"].clear()),
    "iterators far inside": (lambda: {"x": [(iter([1]),)]}, lambda given: [*given["x"][0][0]]),
    "an upload": (Upload, lambda upload: upload.read()),
    "a file of a record's": (lambda: Order([], io.StringIO("abc")), lambda order: order.client.read()),
    "a queue": (lambda: filled(queue.Queue()), lambda given: given.get()),
    "a queue of another kind": (lambda: filled(queue.SimpleQueue()), lambda given: given.get()),
    "a queue of tasks": (lambda: filled(asyncio.Queue()), lambda given: given.get_nowait()),
}


@pytest.mark.parametrize("name", USED)
def test_what_was_used_up_has_changed_also_where_the_whole_has_no_fingerprint(name: str) -> None:
    make, use = USED[name]
    given = make()
    assert after({"given": given}, lambda session: use(given))


class Base(DeclarativeBase):
    pass


class Row(Base):
    __tablename__ = "row"
    id: Mapped[int] = mapped_column(primary_key=True)


UNCHANGED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "nothing was done": (lambda: [Order([1]), Cart(Line(1)), knot(), {Client()}], lambda given: None),
    "a client that was called": (Client, lambda client: client.call()),
    "a record's client that was called": (lambda: Order([1]), lambda order: order.client.call()),
    "a list that was put back": (lambda: Order([1]), lambda order: setattr(order, "items", [1])),
    "an attribute that is new": (lambda: Cart(1), lambda cart: setattr(cart, "total", 1)),
    "an object that was used": (lambda: Cart(1, 2), lambda cart: cart._lines.clear()),
    "an object that a list holds": (lambda: [Cart(Line(1))], lambda carts: carts[0]._lines.clear()),
    "an ORM object": (lambda: [Row(id=1)], lambda rows: setattr(rows[0], "id", 2)),
    "a logger": (lambda: logging.getLogger("idemtable.test"), lambda logger: logger.isEnabledFor(10)),
    "a mock": (Mock, lambda mock: mock.charge(5)),
    "a function": (lambda: after, lambda function: None),
}


@pytest.mark.parametrize("name", UNCHANGED)
def test_what_nobody_has_used_up_has_not_changed(name: str) -> None:
    make, use = UNCHANGED[name]
    given = make()
    assert not after({"given": given}, lambda session: use(given))


class Trap:
    """What tells when its code runs."""

    def run(self, *_: Any) -> Any:
        raise AssertionError("its code has run")

    __getattr__ = __getattribute__ = __eq__ = __hash__ = __iter__ = __len__ = __bool__ = run  # type: ignore[assignment]
    value = property(run)


def test_no_code_of_an_arguments_own_runs_when_it_is_looked_at() -> None:
    class Items(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            raise AssertionError("its code has run")

        __len__ = __getitem__ = __iter__  # type: ignore[assignment]

    trap = Trap.__new__(Trap)
    object.__getattribute__(trap, "__dict__").update(items=[1], client=Client())
    arguments = Arguments({"trap": trap, "many": Items([trap, Client()])})
    assert not arguments.have_changed()


def test_what_another_thread_changes_during_the_look_is_no_error_of_the_call() -> None:
    busy: dict[str, Any] = {}

    class Zone(tzinfo):
        """In place of another thread: it is asked in the middle of the look."""

        def utcoffset(self, when: datetime | None) -> timedelta:
            busy.setdefault("another", 1)
            return timedelta()

    busy["when"] = [datetime(2026, 1, 1, tzinfo=Zone())]
    assert not Arguments({"busy": busy}).have_changed()


def test_of_many_parts_some_are_looked_at_and_all_of_the_outermost_counted() -> None:
    carts = [Cart(number) for number in range(100_000)]
    arguments = Arguments({"carts": carts})
    assert not arguments.have_changed()
    carts.pop()
    assert arguments.have_changed()
