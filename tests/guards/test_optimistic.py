"""compare_and_set and retry_stale."""

from __future__ import annotations

import asyncio
import inspect
import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm.exc import StaleDataError

from idemtable.errors import StaleVersionError
from idemtable.guards import StateMachine, compare_and_set, retry_stale
from tests.support.database import INNODB
from tests.support.guards import Animal, Cat, Counted, Horse, Order, Parcel, Shop, Stage, Ticket

TABLE: Any = Order.__table__
CHANGES: dict[str, Any] = {
    "compare_and_set": lambda session: compare_and_set(session, Order, 7, version=1, values={"total": 5}),
    "a step": lambda session: StateMachine(Order.status, {"created": {"paid"}}).advance(session, 7, to="paid"),
}


def test_the_version_read_is_the_condition(shop: Shop) -> None:
    shop.add(Order(number=7, total=1))
    with shop.db.session() as held, shop.statements() as sent:
        assert shop.call(held, compare_and_set, Order, 7, version=1, values={"total": 5}) == 2
        held.commit()
    assert [statement.split()[0] for statement in sent] == ["UPDATE"]
    assert shop.value(Order.total) == 5
    assert shop.value(Order.version) == 2

    with shop.db.session() as held:
        with pytest.raises(StaleVersionError, match="has version 2, not version 1") as caught:
            shop.call(held, compare_and_set, Order, 7, version=1, values={"total": 9})
        assert (caught.value.expected, caught.value.found) == (1, 2)
        with pytest.raises(StaleVersionError, match="is gone") as caught:
            shop.call(held, compare_and_set, Order, 8, version=1, values={"total": 9})
        assert caught.value.found is None
        held.commit()
    assert shop.value(Order.total) == 5


def test_a_row_without_a_version_is_not_gone(shop: Shop) -> None:
    shop.add(Parcel(code="ord-1"))
    shop.db.execute("UPDATE guard_parcel SET version = NULL")
    with shop.db.session() as held, pytest.raises(StaleVersionError, match="has no version, not version 1") as caught:
        shop.call(held, compare_and_set, Parcel, "ord-1", version=1, values={})
    assert caught.value.found is None


def test_nothing_lasts_without_commit(shop: Shop) -> None:
    shop.add(Order(number=7))
    with shop.db.session() as held:
        shop.call(held, compare_and_set, Order, 7, version=1, values={"total": 5})
        held.rollback()
    assert shop.value(Order.version) == 1


def test_tables_composite_keys_and_expressions(shop: Shop) -> None:
    shop.add(Order(number=7, total=1), Counted(shop="a", id=1), Counted(shop="a", id=2))
    with shop.db.session() as held:
        values = {"sum": TABLE.c.sum + 1}
        assert shop.call(held, compare_and_set, TABLE, {"id": 7}, version=1, values=values, version_column="ver") == 2
        assert shop.call(held, compare_and_set, Counted, ("a", 1), version=1, values={"stage": Stage.OPEN}) == 2
        assert shop.call(held, compare_and_set, Counted, {"id": 1, "shop": "a"}, version=2, values={}) == 3
        assert shop.call(held, compare_and_set, Order, 7, version=2, values={Order.total: Order.total * 10}) == 3
        held.commit()
    assert shop.value(Order.total) == 20
    assert shop.value(Counted.revision, id=2) == 1
    assert shop.value(Counted.stage, id=1) is Stage.OPEN


def test_the_object_that_the_session_holds_shows_what_the_row_has(shop: Shop) -> None:
    shop.add(Counted(shop="a", id=1))
    with shop.db.session() as held:
        row = held.run(lambda session: session.get(Counted, ("a", 1)))
        assert shop.call(held, compare_and_set, Counted, ("a", 1), version=1, values={"stage": Stage.OPEN}) == 2
        assert (row.stage, row.revision) == (Stage.OPEN, 2)  # without a statement: async would have none here
        assert row not in held.session.dirty

        def change(session: Any) -> None:
            row.stage = Stage.DONE
            session.commit()

        held.run(change)  # a flush that knew the old version would be stale
    assert shop.value(Counted.revision) == 3


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_the_object_that_the_session_holds_shows_nothing_of_what_was_undone(shop: Shop, change: Any) -> None:
    shop.add(Order(number=7))

    def seen(order: Order) -> tuple[str, int, int]:
        return order.status, order.total, order.version

    # Inside run_sync the session is a sync one, with the machinery of an async table: the same code.
    @shop.db.idem.transactional("orders.change", key="key", returns=str)
    def refused(session: Any, key: str) -> None:
        change(session)
        assert seen(session.get(Order, 7)) != ("created", 0, 1)
        raise LookupError("no stock")

    @shop.db.idem.transactional("orders.offer", key="key", returns=list)
    def offer(session: Any, key: str) -> list[Any]:
        order = session.get(Order, 7)
        savepoint = session.begin_nested()
        change(session)
        savepoint.rollback()
        return list(seen(order))

    with shop.db.session() as held:
        order = held.run(lambda session: session.get(Order, 7))
        with pytest.raises(LookupError):
            refused.join(held.session, "k-1")
        assert held.run(lambda session: seen(order)) == ("created", 0, 1)
    assert offer("k-2") == ["created", 0, 1]


def test_a_stale_object_is_read_again(shop: Shop) -> None:
    shop.add(Order(number=7))
    with shop.db.session(expire_on_commit=False) as held:
        row = held.run(lambda session: session.get(Order, 7))
        held.commit()
        shop.db.execute("UPDATE guard_order SET ver = 5, sum = 50")
        with pytest.raises(StaleVersionError):
            shop.call(held, compare_and_set, Order, 7, version=1, values={"total": 2})
        row = held.run(lambda session: session.get(Order, 7))
        assert (row.version, row.total) == (5, 50)


def test_the_error_tells_the_truth_to_an_older_snapshot(shop: Shop) -> None:
    if shop.db.kind not in INNODB:
        pytest.skip("elsewhere a statement sees what its UPDATE met, or the database refuses the UPDATE itself")
    shop.add(Order(number=7))
    with shop.db.session() as held:
        assert held.run(lambda session: session.scalar(sa.select(Order.version))) == 1  # the snapshot
        shop.db.execute("UPDATE guard_order SET ver = 2")
        with pytest.raises(StaleVersionError) as caught:
            shop.call(held, compare_and_set, Order, 7, version=1, values={"total": 2})
        assert caught.value.found == 2


def test_pending_changes(shop: Shop) -> None:
    shop.add(Order(number=7))
    with shop.db.session() as held:
        row = held.run(lambda session: session.get(Order, 7))
        row.total = 99
        with shop.statements() as sent, pytest.raises(ValueError, match="not flushed"):
            shop.call(held, compare_and_set, Order, 7, version=1, values={"status": "paid"})
        assert not sent
        held.rollback()
        held.run(lambda session: session.add(Order(number=8)))
        assert shop.call(held, compare_and_set, Order, 8, version=1, values={"total": 3}) == 2  # flushed first
        held.commit()
    assert shop.value(Order.total, number=8) == 3
    assert shop.value(Order.total, number=7) == 0


@pytest.mark.parametrize("model", [Ticket, Parcel])
def test_an_object_that_the_session_holds_is_found_however_its_key_is_spelled(shop: Shop, model: Any) -> None:
    if model is Parcel and shop.db.kind == "postgresql":
        pytest.skip("whose texts have one spelling")
    key = uuid.uuid4() if model is Ticket else "ord-1"
    other = str(key).upper()
    shop.add(Ticket(id=key) if model is Ticket else Parcel(code=key))
    machine = StateMachine(model.status, {"created": {"paid"}, "paid": {"created"}})
    with shop.db.session() as held:
        row = held.run(lambda session: session.get(model, key))
        assert shop.call(held, compare_and_set, model, other, version=1, values={"status": "paid"}) == 2
        assert (row.status, row.version) == ("paid", 2)
        assert shop.call(held, machine.advance, other, to="created").moved
        assert row.status == "created"
        row.status = "paid"
        with pytest.raises(ValueError, match="not flushed"):
            shop.call(held, compare_and_set, model, other, version=2, values={})
        with pytest.raises(ValueError, match="not flushed"):
            shop.call(held, machine.advance, other, to="paid")
        held.rollback()
        row = held.run(lambda session: session.get(model, key))
        held.run(lambda session: session.delete(row))
        with pytest.raises(ValueError, match="not flushed"):
            shop.call(held, compare_and_set, model, other, version=1, values={})


def test_what_it_costs_that_a_text_may_be_spelled_otherwise(shop: Shop) -> None:
    shop.add(*[Parcel(code=f"ord-{number}") for number in range(4)])
    with shop.db.session() as held:
        with shop.statements() as none:
            shop.call(held, compare_and_set, Parcel, "ord-0", version=1, values={})
        rows = held.run(lambda session: [session.get(Parcel, "ord-1"), session.get(Parcel, "ord-2")])
        with shop.statements() as this:
            shop.call(held, compare_and_set, Parcel, "ord-1", version=1, values={})
        with shop.statements() as others:
            shop.call(held, compare_and_set, Parcel, "ord-3", version=1, values={})
    assert [row.version for row in rows] == [2, 1]
    assert [[one.split()[0] for one in sent] for sent in (none, this, others)] == [
        ["UPDATE"],
        ["UPDATE", "SELECT"],
        ["UPDATE", "SELECT"],
    ]


def test_subclasses(shop: Shop) -> None:
    shop.add(Cat(id=1), Animal(id=2))
    with shop.db.session() as held:
        assert shop.call(held, compare_and_set, Cat, 1, version=1, values={"name": "Tom"}) == 2
        with pytest.raises(StaleVersionError, match="gone"):
            shop.call(held, compare_and_set, Cat, 2, version=1, values={"name": "Tom"})
        with pytest.raises(TypeError, match="several tables"):
            shop.call(held, compare_and_set, Horse, 2, version=1, values={"name": "Tom"})


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"model": 5}, TypeError, "mapped class or a Table"),
        ({"model": Order(number=1)}, TypeError, "mapped class or a Table"),
        ({"ident": (7, 8)}, ValueError, r"primary key of Order is \(number\)"),
        ({"ident": {"id": 7}}, ValueError, "primary key of Order"),
        ({"ident": None}, ValueError, "None"),
        ({"ident": [7]}, TypeError, "one primary key"),
        ({"model": Counted, "ident": "a"}, ValueError, r"\(shop, id\)"),
        ({"ident": "7"}, TypeError, r"Order\.number takes int, not '7': convert it first"),
        ({"ident": 7.0}, TypeError, "takes int"),
        ({"model": Counted, "ident": ("a", "1")}, TypeError, r"Counted\.id takes int"),
        ({"model": Parcel, "ident": 0}, TypeError, "takes str"),
        ({"model": Parcel, "ident": b"ord-1"}, TypeError, "takes str"),
        ({"model": Ticket, "ident": "ord-1"}, ValueError, r"Ticket\.id is a UUID, not 'ord-1'"),
        ({"model": Ticket, "ident": 7}, TypeError, "takes UUID"),
        ({"values": {"sum": 1}}, ValueError, "no column 'sum'; it has number, status, total, version"),
        ({"values": {"items": []}}, ValueError, "no column"),
        ({"values": {"number": 8}}, ValueError, "primary key"),
        ({"values": {"version": 8}}, ValueError, "by itself"),
        ({"values": [("total", 1)]}, TypeError, "mapping"),
        ({"version": "1"}, TypeError, "int that was read"),
        ({"version": None}, TypeError, "int that was read"),
        ({"version": True}, TypeError, "int that was read"),
        ({"version_column": "nope"}, ValueError, "no column"),
        ({"version_column": "status"}, TypeError, "integers"),
        ({"version_column": "number"}, TypeError, "integers"),
        ({"model": TABLE}, TypeError, "version_column="),
    ],
)
def test_nonsense_is_refused_before_any_sql(change: dict[str, Any], error: Any, match: str) -> None:
    given: dict[str, Any] = {"model": Order, "ident": 7, "version": 1, "values": {}} | change
    with sa.orm.Session() as session, pytest.raises(error, match=match):  # bound to nothing
        compare_and_set(session, given.pop("model"), given.pop("ident"), **given)


def test_a_session_is_wanted() -> None:
    with pytest.raises(TypeError, match="Session"):
        compare_and_set(object(), Order, 7, version=1, values={})  # type: ignore[call-overload]


@pytest.mark.parametrize("decorate", [retry_stale, retry_stale(attempts=3)])
@pytest.mark.parametrize("error", [StaleVersionError("stale"), StaleDataError("stale")])
def test_retry(decorate: Any, error: Exception) -> None:
    calls: list[int] = []

    @decorate
    def function(value: int) -> int:
        """Say it."""
        calls.append(value)
        if len(calls) < 3:
            raise error
        return value

    @decorate
    async def coroutine(value: int) -> int:
        return function(value)

    assert (function(4), calls) == (4, [4, 4, 4])
    assert (function.__name__, function.__doc__) == ("function", "Say it.")
    calls.clear()
    assert inspect.iscoroutinefunction(coroutine)
    assert asyncio.run(coroutine(5)) == 5


def test_retry_gives_up_with_the_error_itself() -> None:
    calls: list[int] = []

    @retry_stale(attempts=2)
    def function() -> None:
        calls.append(1)
        raise StaleVersionError("stale", found=4)

    with pytest.raises(StaleVersionError) as caught:
        function()
    assert (len(calls), caught.value.found) == (2, 4)

    @retry_stale
    def other() -> None:
        calls.append(1)
        raise ValueError

    with pytest.raises(ValueError):
        other()
    assert len(calls) == 3


@pytest.mark.parametrize(
    ("attempts", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError), ("5", TypeError)]
)
def test_retry_refuses_nonsense(attempts: Any, error: Any) -> None:
    with pytest.raises(error, match="attempts"):
        retry_stale(attempts=attempts)
    with pytest.raises(TypeError, match="by name"):
        retry_stale(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="generator"):
        retry_stale(lambda: (yield))


def test_a_transactional_function_is_called_again_from_the_top(shop: Shop) -> None:
    shop.add(Order(number=7))
    seen: list[int] = []

    @shop.db.idem.transactional("orders.rename", key="key", returns=int)
    def rename(session: Any, key: str) -> int:
        version = session.scalar(sa.select(Order.version))
        seen.append(version)
        if len(seen) == 1:
            version -= 1  # as if somebody else had come between
        return compare_and_set(session, Order, 7, version=version, values={"status": "paid"})

    assert retry_stale(rename)("k-1") == 2
    assert retry_stale(rename)("k-1") == 2
    assert seen == [1, 1]
    assert shop.value(Order.version) == 2


def test_the_outcome_of_a_transactional_function_is_retried_and_a_join_is_not(shop: Shop) -> None:
    calls: list[str] = []

    @shop.db.idem.transactional("orders.rename", key="key", returns=int)
    def rename(session: Any, key: str) -> int:
        calls.append(key)
        if calls.count(key) == 1:
            raise StaleVersionError("somebody else came between")
        return calls.count(key)

    inner = getattr(rename, "inner", rename)
    retried = retry_stale(attempts=2)(inner)
    answer = retried.outcome("k-1")
    outcome = answer if shop.db.loop is None else shop.db.loop.run(answer)
    assert (outcome.value, outcome.replayed, calls) == (2, False, ["k-1", "k-1"])
    assert inspect.iscoroutinefunction(retried.outcome) is shop.db.is_async
    assert (retried.outcome.__name__, inspect.signature(retried.outcome)) == (
        "outcome",
        inspect.signature(inner.outcome),
    )
    for form in ("join", "join_outcome"):
        with shop.db.session() as held, pytest.raises(StaleVersionError):
            shop.call(held, getattr(retried, form), form)
    assert calls[2:] == ["join", "join_outcome"]


def test_the_colour_of_a_transactional_function_is_kept(shop: Shop) -> None:
    @shop.db.idem.transactional("orders.rename", key="key", returns=int)
    def rename(session: Any, key: str) -> int:
        return 1

    inner = getattr(rename, "inner", rename)
    assert inspect.iscoroutinefunction(retry_stale(inner)) is shop.db.is_async


def test_a_column_is_itself_whatever_the_attributes_are_called() -> None:
    class Swapped(sa.orm.DeclarativeBase):
        pass

    class Pair(Swapped):
        __tablename__ = "pair"
        id: sa.orm.Mapped[int] = sa.orm.mapped_column(primary_key=True)
        version: sa.orm.Mapped[int] = sa.orm.mapped_column(default=1)
        one: sa.orm.Mapped[int] = sa.orm.mapped_column("two", default=0)
        two: sa.orm.Mapped[int] = sa.orm.mapped_column("one", default=0)

    engine = sa.create_engine("sqlite://")
    Swapped.metadata.create_all(engine)
    columns: Any = Pair.__table__.c
    with sa.orm.Session(engine) as session, session.begin():
        pair = Pair(id=1)
        session.add(pair)
        session.flush()
        compare_and_set(session, Pair, 1, version=1, values={columns.two: 5})
        assert (pair.one, pair.two) == (5, 0)
        compare_and_set(session, Pair, 1, version=2, values={Pair.two: 6, "one": 7})
        assert (pair.one, pair.two) == (7, 6)
        compare_and_set(session, Pair.__table__, 1, version=3, values={Pair.one: 8})  # type: ignore[call-overload]
        session.refresh(pair)
        assert (pair.one, pair.two) == (8, 6)
        with pytest.raises(ValueError, match="has no column"):
            compare_and_set(session, Pair, 1, version=4, values={Order.total: 1})
