"""What differs from call to call by itself is no difference; what is done twice is one, also where it hides in a number."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable.testing.measure import Measure
from idemtable.testing.snapshot import Change
from tests.support.database import effect
from tests.support.kit import Shop, buy

metadata = sa.MetaData()
LEDGER = sa.Table(
    "testing_ledger",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("what", sa.String(80)),
    sa.Column("amount", sa.Numeric(12, 2)),
    sa.Column("drawn", sa.Integer),
    sa.Column("at", sa.DateTime),
    sa.Column("second", sa.BigInteger),
)
ACCOUNT = sa.Table(
    "testing_account",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("balance", sa.Numeric(12, 2)),
    sa.Column("events", sa.JSON),
    sa.Column("paid_until", sa.DateTime),
    sa.Column("leased_until", sa.DateTime),
    sa.Column("notes", sa.Text),
    sa.Column("changed_at", sa.DateTime),
)
DRAWN = itertools.cycle((1, 1, 1, 1, 2))
"""The same in the calls that are measured first."""
HEAP = sa.Table("testing_heap", metadata, sa.Column("count", sa.Integer))


@pytest.fixture
def books(shop: Shop) -> Iterator[Shop]:
    """Tables of a business, with an account in them."""
    metadata.drop_all(shop.db.admin)
    metadata.create_all(shop.db.admin)
    with shop.db.admin.begin() as connection:
        connection.execute(HEAP.insert().values(count=0))
    yield shop
    metadata.drop_all(shop.db.admin)


def now() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None, microsecond=0)


def book(session: Session, key: str) -> None:
    """Do what business functions do: add a row with a time in it, change a balance, make what is not there yet."""
    found = session.execute(ACCOUNT.select().with_for_update()).first()
    if found is None:
        start = datetime(2030, 1, 31, tzinfo=None)
        times = {"paid_until": start, "leased_until": start, "changed_at": now()}
        session.execute(ACCOUNT.insert().values(id=1, balance=1000, events=[], notes="", **times))
        found = session.execute(ACCOUNT.select()).one()
    values = {"what": f"order {key}", "amount": -10, "drawn": next(DRAWN), "at": now(), "second": time.time()}
    session.execute(LEDGER.insert().values(values))
    later = found.paid_until + timedelta(days=30)
    changed = {"balance": found.balance - 10, "events": [*found.events, key], "paid_until": later, "changed_at": now()}
    changed |= {"leased_until": found.leased_until + timedelta(minutes=2), "notes": f"{found.notes}{key}, "}
    session.execute(ACCOUNT.update().values(changed))
    session.execute(HEAP.update().values(count=HEAP.c.count + 1))


def test_what_is_another_one_in_each_call_is_no_difference(books: Shop) -> None:
    books.prove(books.order(book), callers=3)


TWICE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "balance": lambda found: {"balance": found.balance - 10},
    "events": lambda found: {"events": [*found.events, "again"]},
    "paid_until": lambda found: {"paid_until": found.paid_until + timedelta(days=30)},
    "leased_until": lambda found: {"leased_until": found.leased_until + timedelta(minutes=2)},
    "notes": lambda found: {"notes": f"{found.notes}again, "},
}


@pytest.mark.parametrize("column", TWICE)
def test_a_number_a_list_a_text_and_a_term_that_change_twice_are_caught(column: str) -> None:
    from tests.support.backends import db_of

    books = Shop(db_of("sqlite"))
    metadata.drop_all(books.db.admin)
    metadata.create_all(books.db.admin)
    order = books.order(book)

    def call(key: str) -> None:
        order(key)
        with books.db.admin.begin() as connection:
            connection.execute(ACCOUNT.update().values(TWICE[column](connection.execute(ACCOUNT.select()).one())))

    said = books.refuse(call)
    metadata.drop_all(books.db.admin)
    assert said.startswith("called twice: other rows are left than by one call\n")
    assert f"table testing_account: changed otherwise than by one call, in {column}\n" in said


def test_a_table_that_is_left_out_is_none_of_its_business(any_shop: Shop) -> None:
    order = any_shop.order(buy)

    def call(key: str) -> None:
        any_shop.beside(lambda session: effect(session, "audit"))
        order(key)

    any_shop.prove(call, ignore=["effect"])


def test_a_table_that_each_call_makes_is_caught_though_it_is_empty(shop: Shop) -> None:
    order, made = shop.order(buy), list[str]()

    def call(key: str) -> None:
        made.append(f"made_{uuid4().hex}")
        shop.db.execute(f"CREATE TABLE {made[-1]} (id int)")
        order(key)

    try:
        said = shop.refuse(call)
    finally:
        for name in made:
            shop.db.execute(f"DROP TABLE {name}")
    assert said.startswith(
        "called twice: other rows are left than by one call\ntable (tables): 2 rows added, where one call leaves 1\n"
    )
    assert "(name='made_" in said


# --- of rows alone --------------------------------------------------------------------------------------------------------

Rows = list[dict[str, Any]]


def added(*rows: dict[str, Any]) -> list[Change]:
    return [Change("t", None, row) for row in rows]


def changed(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    return [Change("t", before, after)]


def measured(*calls: list[Change]) -> Measure:
    measure = Measure()
    for one in calls:
        measure.add(one)
    return measure


def test_a_value_that_two_calls_have_in_common_counts_until_another_call_has_another() -> None:
    measure = measured(added({"id": 1, "drawn": 7}), added({"id": 2, "drawn": 7}))
    assert "in drawn" in measure.differences(added({"id": 3, "drawn": 8}))[0]
    measure.add(added({"id": 4, "drawn": 9}))
    assert measure.differences(added({"id": 3, "drawn": 8})) == []


def test_rows_are_compared_in_any_order() -> None:
    def lines(start: int, *items: str) -> list[Change]:
        return added(*({"id": start + n, "item": item} for n, item in enumerate(items)))

    measure = measured(lines(0, "tea", "cup", "tea"), lines(10, "tea", "tea", "cup"))
    assert measure.differences(lines(20, "cup", "tea", "tea")) == []
    assert (
        measure.differences(lines(20, "cup", "cup", "tea"))[0] == "table t: added otherwise than by one call, in item"
    )


@pytest.mark.parametrize(
    ("clock", "step"),
    [
        (lambda n: datetime(2030, 1, 1, 12, 0, n), 1),
        (lambda n: datetime(2030, 1, 1, 12, 0, n, tzinfo=UTC), 1),
        (lambda n: f"2030-01-01 12:00:{n:02}", 1),
        (lambda n: f"2030-01-01T12:00:{n:02}+00:00", 1),
        (lambda n: timedelta(seconds=n), 1),
        (lambda n: int(time.time()) + n, 1),
        (lambda n: int(time.time() * 1000) + n, 1000),
    ],
    ids=["naive", "aware", "text", "iso", "time", "epoch", "milliseconds"],
)
def test_the_time_of_the_last_change_changes_nothing_and_need_not_change(
    clock: Callable[[int], Any], step: int
) -> None:
    def touched(since: int, until: int) -> list[Change]:
        return changed({"id": 1, "at": clock(since)}, {"id": 1, "at": clock(until)})

    measure = measured([], [])
    assert measure.differences(touched(0, 30 * step)) == []
    assert measured(touched(0, step), touched(step, 2 * step)).differences([]) == []


@pytest.mark.parametrize(
    ("values", "twice"),
    [
        (range(0, 100, 10), 20),
        ([n * 0.25 for n in range(9)], 0.5),
        ([json.dumps(["x"] * n) for n in range(9)], 2),
        ([{f"{i}": i for i in range(n)} for n in range(9)], 2),
        ([datetime(2030, 1, 1) + timedelta(days=30 * n) for n in range(9)], 2),
        ([(datetime(2030, 1, 1) + timedelta(days=30 * n)).isoformat(" ") for n in range(9)], 2),
        ([datetime(2030, 1, 1) + timedelta(seconds=40 * n) for n in range(9)], 2),
        ([(datetime(2030, 1, 1) - timedelta(minutes=2 * n)).isoformat(" ") for n in range(9)], 2),
        ([1_700_000_000 + 40 * n for n in range(9)], 2),
        (["a, " * n for n in range(9)], 2),
        (["".join(f"{m}" for m in range(n, -1, -1)) for n in range(9)], 2),
    ],
    ids=[
        "int",
        "float",
        "json text",
        "json",
        "datetime",
        "datetime text",
        "lease",
        "shorter lease",
        "epoch",
        "text",
        "first",
    ],
)
def test_a_step_is_the_same_each_time_and_two_steps_are_another(values: Any, twice: Any) -> None:
    calls = [changed({"id": 1, "v": a}, {"id": 1, "v": b}) for a, b in itertools.pairwise(values)]
    measure = measured(*calls[:2])
    assert measure.differences(calls[4]) == []
    said = measure.differences(changed({"id": 1, "v": values[4]}, {"id": 1, "v": values[6]}))
    assert said[0] == "table t: changed otherwise than by one call, in v"


@pytest.mark.parametrize(
    "values",
    [
        ["x1", "q7", "a0", "zz", "b4", "k9"],
        [f"2030-01-01T12:00:0{n}Z" for n in range(6)],
        [f"order {7 * n}" for n in range(6)],
        ["new", "paid", "sent", "back", "lost", "gone"],
    ],
    ids=["random", "time", "numbered", "status"],
)
def test_a_text_in_the_place_of_another_one_is_no_difference(values: list[str]) -> None:
    calls = [changed({"id": 1, "v": a}, {"id": 1, "v": b}) for a, b in itertools.pairwise(values)]
    assert measured(*calls[:2]).differences(calls[4]) == []


def test_the_time_of_the_last_change_may_be_another_one_after_a_slow_call(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    moments = [datetime(2030, 1, 1) + timedelta(seconds=20 * n) for n in (0, 1, 2, 4)]
    calls = [changed({"id": 1, "at": a}, {"id": 1, "at": b}) for a, b in itertools.pairwise(moments)]
    assert measured(*calls[:2]).differences(calls[2]) == []


def test_many_rows_are_told_in_few_words() -> None:
    rows = [{"id": n, "note": "x" * 10_000} for n in range(1000)]
    said = measured(added(rows[0]), added(rows[1])).differences(added(*rows))
    assert said[0] == "table t: 1000 rows added, where one call leaves 1"
    assert "and 990 more" in said[11]
    assert sum(map(len, said)) < 3000
