"""lock and lock_name, one after the other; the races are in test_guard_races."""

from __future__ import annotations

import time
from contextlib import nullcontext
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import NoResultFound

from idemtable import IdemTable
from idemtable.errors import RetryTransactionError, RowLockedError, SessionNotUsableError
from idemtable.guards import compare_and_set, lock, lock_name
from tests.support.database import INNODB
from tests.support.guards import Animal, Cat, Counted, Horse, Item, Order, Parcel, Shop, Ticket

NOW = timedelta(0)
SHORT = timedelta(milliseconds=200)


def named(shop: Shop) -> Any:
    """lock_name of the database's table."""
    idem = shop.db.idem
    return partial(lock_name, getattr(idem, "inner", idem)._settings)


def name(guard: Any, session: Any, *args: Any, **kwargs: Any) -> Any:
    return guard.func(*guard.args, session, *args, **kwargs)


def test_the_row_is_returned_as_it_is_now(shop: Shop) -> None:
    shop.add(Order(number=7, total=1))
    with shop.db.session(expire_on_commit=False) as held:
        old = held.run(lambda session: session.get(Order, 7))
        held.commit()
        shop.db.execute("UPDATE guard_order SET sum = 50")
        assert old.total == 1
        row = shop.call(held, lock, Order, 7)
        assert row is old
        assert row.total == 50
        assert row.items == []  # loaded, without a join


def test_the_row_is_newer_than_the_snapshot(shop: Shop) -> None:
    if shop.db.kind not in INNODB:
        pytest.skip("PostgreSQL reads committed, and refuses the lock above it; SQLite refuses the write lock")
    shop.add(Order(number=7, total=1))
    with shop.db.session() as held:
        held.run(lambda session: session.get(Order, 7))
        shop.db.execute("UPDATE guard_order SET sum = 50")
        if shop.db.insists_on_its_snapshot():
            with pytest.raises(RetryTransactionError):
                shop.call(held, lock, Order, 7)
            held.rollback()
        assert shop.call(held, lock, Order, 7).total == 50


def test_what_is_pending_is_flushed_and_kept(shop: Shop) -> None:
    shop.add(Order(number=7, total=1))
    with shop.db.session() as held:
        held.run(lambda session: session.get(Order, 7)).total = 2
        assert shop.call(held, lock, Order, 7).total == 2
        held.commit()
    assert shop.value(Order.total) == 2


def test_a_list_gives_a_list_in_primary_key_order(shop: Shop) -> None:
    shop.add(*[Order(number=number) for number in range(1, 6)], Counted(shop="b", id=1), Counted(shop="a", id=2))
    with shop.db.session() as held:
        assert [row.number for row in shop.call(held, lock, Order, [4, 1, 4, 2])] == [1, 2, 4]
        assert shop.call(held, lock, Order, []) == []
        assert [row.number for row in shop.call(held, lock, Order, [3])] == [3]
        rows = shop.call(held, lock, Counted, [("b", 1), {"id": 2, "shop": "a"}])
        assert [(row.shop, row.id) for row in rows] == [("a", 2), ("b", 1)]
        assert shop.call(held, lock, Counted, ("a", 2)).id == 2
        with pytest.raises(NoResultFound, match=r"no Order\(9\), no Order\(8\)"):
            shop.call(held, lock, Order, [1, 9, 8])
        with pytest.raises(NoResultFound, match=r"no Counted\('a', 1\)"):
            shop.call(held, lock, Counted, ("a", 1))
        assert shop.call(held, lock, Order, 5).number == 5  # the transaction is still usable


def test_a_list_finds_its_rows_however_their_keys_are_spelled(shop: Shop) -> None:
    one, two = UUID(int=0xA), UUID(int=0xB)
    shop.add(Ticket(id=one), Ticket(id=two), Parcel(code="ord-1"), Parcel(code="Ord-2"))
    with shop.db.session() as held:
        rows = shop.call(held, lock, Ticket, [str(two).upper(), one, str(one)])
        assert [row.id for row in rows] == [one, two]
        assert shop.call(held, lock, Ticket, one.hex).id == one
        if shop.db.kind == "postgresql":  # whose texts have one spelling
            with pytest.raises(NoResultFound, match=r"no Parcel\('ORD-1'\)$"):
                shop.call(held, lock, Parcel, ["ORD-1", "Ord-2"])
            return
        for asked in (["ORD-1", "ord-2"], ["ORD-1", "ord-1", "Ord-2", "ORD-2"]):
            assert [row.code for row in shop.call(held, lock, Parcel, asked)] == ["ord-1", "Ord-2"]
        assert shop.call(held, lock, Parcel, "ORD-1").code == "ord-1"
        with pytest.raises(NoResultFound, match=r"is no Parcel\('ORD-3'\), no Parcel\('ord-4'\)$"):
            shop.call(held, lock, Parcel, ["ORD-1", "ORD-3", "ord-4", "ord-2"])


def test_one_statement(shop: Shop) -> None:
    shop.add(Order(number=1), Order(number=2), Item(id=1, order=1))
    with shop.db.session() as held, shop.statements() as sent:
        shop.call(held, lock, Counted, [("a", 1)] * 0)
        rows = shop.call(held, lock, Order, [2, 1])
        assert [len(row.items) for row in rows] == [1, 0]
    expected = ["SELECT", "SELECT"]  # the rows; their items, which are not locked
    if shop.db.kind == "sqlite":
        expected.insert(0, "UPDATE")  # of no row: the write lock
    assert [statement.split()[0] for statement in sent] == expected
    locking = sent[-2]
    assert "JOIN" not in locking
    if shop.db.kind != "sqlite":
        assert locking.endswith("ORDER BY guard_order.id FOR UPDATE")
        assert "FOR UPDATE" not in sent[-1]


def test_how_many_statements_a_bounded_wait_costs(shop: Shop) -> None:
    shop.add(Counted(shop="a", id=1))
    counts = []
    for wait in (None, NOW, SHORT):
        with shop.db.session() as held, shop.statements() as sent:
            shop.call(held, lock, Counted, ("a", 1), wait=wait)
        counts.append(len(sent))
    # PostgreSQL: SAVEPOINT and RELEASE; with a time-out, setting it and putting it back.
    costs = {"postgresql": [1, 3, 5], "mariadb": [1, 1, 1], "mysql": [1, 1, 3], "sqlite": [2, 2, 2]}
    assert counts == costs[shop.db.kind]


@pytest.mark.parametrize("wait", [NOW, SHORT], ids=["at once", "after a time"])
def test_a_held_row_is_refused_and_the_transaction_stays_usable(shop: Shop, wait: timedelta) -> None:
    shop.add(Order(number=1), Order(number=2))
    with shop.db.session() as holder, shop.db.session() as held:
        shop.call(holder, lock, Order, 1)
        if shop.db.kind != "sqlite":  # there the whole database is locked
            held.run(lambda session: session.add(Animal(id=1, kind="animal")))
        began = time.monotonic()
        with pytest.raises(RowLockedError, match=r"holds Order\(1\)") as caught:
            shop.call(held, lock, Order, 1, wait=wait)
        took = time.monotonic() - began
        assert caught.value.retry_after > 0
        assert caught.value.__cause__ is not None
        if wait:
            assert took >= (1.0 if shop.db.kind in INNODB else 0.2)
        else:
            assert took < 1
        if shop.db.kind != "sqlite":
            assert shop.call(held, lock, Order, 2, wait=wait).number == 2
            with pytest.raises(RowLockedError):
                shop.call(held, lock, Order, [2, 1], wait=wait)
            held.commit()
            assert shop.value(Animal.id) == 1
        held.rollback()
        holder.commit()
        assert shop.call(held, lock, Order, 1, wait=wait).number == 1


def test_the_callers_own_time_out_is_put_back(server_shop: Shop) -> None:
    shop = server_shop
    shop.add(Order(number=1))
    show, change, value = {
        "postgresql": ("SHOW lock_timeout", "SET LOCAL lock_timeout = '7s'", "7s"),
        "mariadb": ("SELECT @@innodb_lock_wait_timeout", "SET SESSION innodb_lock_wait_timeout = 7", 7),
        "mysql": ("SELECT @@innodb_lock_wait_timeout", "SET SESSION innodb_lock_wait_timeout = 7", 7),
    }[shop.db.kind]
    guard = named(shop)
    with shop.db.session() as holder, shop.db.session() as held:
        held.run(lambda session: session.execute(sa.text(change)))
        shop.call(held, lock, Order, 1, wait=SHORT)
        shop.call(held, partial(name, guard), "n", wait=SHORT)
        assert held.run(lambda session: session.scalar(sa.text(show))) == value
        held.run(lambda session: session.commit())
        shop.call(holder, lock, Order, 1)
        shop.call(holder, partial(name, guard), "n")
        held.run(lambda session: session.execute(sa.text(change)))
        with pytest.raises(RowLockedError):
            shop.call(held, lock, Order, 1, wait=SHORT)
        with pytest.raises(RowLockedError):
            shop.call(held, partial(name, guard), "n", wait=SHORT)
        assert held.run(lambda session: session.scalar(sa.text(show))) == value
        held.rollback()
        if shop.db.kind in INNODB:
            held.run(lambda session: session.execute(sa.text("SET SESSION innodb_lock_wait_timeout = DEFAULT")))


def test_a_row_does_not_lock_its_neighbours(server_shop: Shop) -> None:
    shop = server_shop
    shop.add(*[Counted(shop=letter, id=number) for letter in "abcdef" for number in range(20)])
    with shop.db.session() as holder, shop.db.session() as held:
        shop.call(holder, lock, Counted, ("c", 7))
        shop.call(holder, lock, Counted, [("d", 7), ("b", 9)])
        assert shop.call(held, lock, Counted, ("c", 8), wait=NOW).id == 8


def test_subclasses(shop: Shop) -> None:
    shop.add(Cat(id=1), Animal(id=2), Horse(id=3))
    with shop.db.session() as held:
        assert isinstance(shop.call(held, lock, Animal, 3, wait=NOW), Horse)
        assert shop.call(held, lock, Horse, 3).hands == 15
        assert shop.call(held, lock, Cat, 1).id == 1
        with pytest.raises(NoResultFound):
            shop.call(held, lock, Cat, 2)


def test_autocommit_holds_no_lock(shop: Shop) -> None:
    shop.add(Order(number=1))
    with (
        shop.db.other_engine(isolation_level="AUTOCOMMIT") as engine,
        shop.db.session(engine) as held,
    ):
        with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
            shop.call(held, lock, Order, 1)
        with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
            shop.call(held, partial(name, named(shop)), "n")


def test_no_guard_has_the_driver_drop_rows_that_are_still_read(shop: Shop) -> None:
    """As PyMySQL and asyncmy do at the next statement, without a word to whoever reads."""
    db = shop.db
    shop.add(*(Order(number=number) for number in range(1, 21)))
    drops = getattr(db.engine, "sync_engine", db.engine).dialect.driver in ("pymysql", "asyncmy")
    guards: list[Any] = [
        lambda held: shop.call(held, lock, Order, 1),
        lambda held: shop.call(held, partial(name, named(shop)), "n"),
        lambda held: shop.call(held, partial(compare_and_set, version=1, values={"status": "paid"}), Order, 1),
    ]
    for guard in guards:
        with db.session() as held:
            rows = db.streamed(held, sa.select(Order.number).order_by(Order.number))
            read = list(islice(db.plainly(rows), 1))
            with pytest.raises(SessionNotUsableError, match="into a list") if drops else nullcontext():
                guard(held)
            assert [*read, *db.plainly(rows)] == list(range(1, 21))
            held.rollback()


@pytest.mark.parametrize("wait", [5, "1s", timedelta(seconds=-1), timedelta(hours=2)])
def test_nonsense_is_refused_before_any_sql(wait: Any) -> None:
    with sa.orm.Session() as session:
        with pytest.raises((TypeError, ValueError), match="wait"):
            lock(session, Order, 1, wait=wait)
        with pytest.raises(TypeError, match="mapped class"):
            lock(session, Order.__table__, 1)  # type: ignore[call-overload]
        with pytest.raises(TypeError, match="one primary key"):
            lock(session, Order, {1, 2})
        with pytest.raises(ValueError, match="None"):
            lock(session, Order, None)


def test_inside_a_transactional_function(shop: Shop) -> None:
    shop.add(Order(number=7))

    @shop.db.idem.transactional("orders.pay", key="key", returns=int)
    def pay(session: Any, key: str) -> int:
        row = lock(session, Order, 7, wait=NOW)
        row.total += 1
        return row.total

    assert (pay("k-1"), pay("k-1"), pay("k-2")) == (1, 1, 2)
    assert shop.value(Order.total) == 2


# --- by name ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", [NOW, SHORT], ids=["at once", "after a time"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_name_is_held_until_the_transaction_ends(shop: Shop, wait: timedelta, end: str) -> None:
    with shop.db.session() as holder, shop.db.session() as held:
        shop.call(holder, partial(name, named(shop)), "payout:7")
        shop.call(holder, partial(name, named(shop)), "payout:7", wait=wait)  # again, harmless
        began = time.monotonic()
        with pytest.raises(RowLockedError) as caught:
            shop.call(held, partial(name, named(shop)), "payout:7", wait=wait)
        assert wait or time.monotonic() - began < 1
        assert "payout" not in str(caught.value)
        if shop.db.kind != "sqlite":
            assert shop.call(held, partial(name, named(shop)), "payout:8", wait=wait) is None
        held.rollback()
        getattr(holder, end)()
        assert shop.call(held, partial(name, named(shop)), "payout:7", wait=wait) is None
        held.commit()
    assert shop.db.rows() == []
    assert shop.db.idem.stats().rows == 0


def test_what_a_name_costs(shop: Shop) -> None:
    counts = []
    for wait in (None, NOW, SHORT):
        with shop.db.session() as held, shop.statements() as sent:
            shop.call(held, partial(name, named(shop)), "n", wait=wait)
        counts.append(sum("SELECT @@SESSION" not in text for text in sent))  # which comes once in a connection's life
    assert (
        counts == {"postgresql": [1, 1, 5], "mariadb": [2, 2, 2], "mysql": [2, 6, 4], "sqlite": [1, 1, 1]}[shop.db.kind]
    )


@pytest.mark.parametrize("wait", [None, NOW], ids=["unbounded", "at once"])
def test_a_name_does_not_stop_claims(server_shop: Shop, wait: timedelta | None) -> None:
    shop = server_shop
    with shop.db.session() as holder:
        for number in range(20):
            shop.call(holder, partial(name, named(shop)), f"n:{number}", wait=wait)
        for number in range(50):
            with shop.db.idem.transaction("s", f"k-{number}", wait=NOW) as claim:
                claim.result = number
        holder.commit()
    assert shop.db.idem.stats().rows == 50


def test_a_held_name_is_refused_at_once_in_the_middle_of_a_transaction(server_shop: Shop) -> None:
    shop = server_shop
    with (
        shop.db.other_engine(isolation_level="READ COMMITTED") as engine,
        shop.db.session() as holder,
        shop.db.session(engine) as held,
    ):
        shop.call(holder, partial(name, named(shop)), "payout:7")
        held.run(lambda session: session.execute(sa.insert(Order).values(number=7)))
        began = time.monotonic()
        with pytest.raises(RowLockedError):
            shop.call(held, partial(name, named(shop)), "payout:7", wait=NOW)
        assert time.monotonic() - began < 1
        assert shop.call(held, partial(name, named(shop)), "payout:8", wait=NOW) is None
        with shop.db.idem.transaction("s", "k", wait=NOW) as claim:  # nothing was locked by looking
            claim.result = 1
        held.commit()
    assert shop.value(Order.number) == 7


def test_what_the_caller_is_handling_is_not_taken_for_the_guards(shop: Shop) -> None:
    if shop.db.kind not in INNODB:
        pytest.skip("their drivers' deadlocks are not made by hand")
    shop.add(Order(number=7))
    driver = getattr(shop.db.engine, "sync_engine", shop.db.engine).dialect.dbapi

    def grab(session: Any) -> None:
        try:
            raise sa.exc.OperationalError(None, None, driver.OperationalError(1213, "of an earlier transaction"))
        except sa.exc.OperationalError:
            lock(session, Order, 7, wait=NOW)

    with shop.db.session() as holder, shop.db.session() as held:
        shop.call(holder, lock, Order, 7)
        with pytest.raises(RowLockedError):
            held.run(grab)


@pytest.mark.parametrize("bad", [None, "", "  ", "a\nb", "ä" * 128, 7])
def test_a_name_is_checked_as_a_key_is(bad: Any) -> None:
    idem = IdemTable(sa.create_engine("sqlite://"))
    with sa.orm.Session() as session, pytest.raises(ValueError, match=r"the name|a name"):  # bound to nothing
        lock_name(idem._settings, session, bad)


def test_the_tables_own_short_form(shop: Shop) -> None:
    idem = shop.db.idem
    table = getattr(idem, "inner", idem)
    with shop.db.session() as holder, shop.db.session() as held:
        assert shop.call(holder, table.lock_name, "payout:7") is None
        with pytest.raises(RowLockedError):
            shop.call(held, table.lock_name, "payout:7", wait=NOW)


def test_a_name_needs_an_engine_of_the_sessions_own() -> None:
    engine = sa.create_engine("sqlite://")
    with sa.orm.Session(binds={Order: engine}) as session, pytest.raises(SessionNotUsableError, match="bind= too"):
        IdemTable(engine).lock_name(session, "n")
