"""lock(touch=True): the row is written, as nodes of a cluster must hear of it, and is what it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.exc import NoResultFound
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from idemtable.errors import RetryTransactionError, RowLockedError
from idemtable.guards import compare_and_set, lock
from tests.guards.conftest import GUARDED
from tests.support.backends import db_of
from tests.support.database import INNODB, Held
from tests.support.guards import Cat, Counted, Horse, Order, Shop, empty_shop

FORMS = [None, timedelta(0), timedelta(milliseconds=200)]


class Base(DeclarativeBase):
    pass


class Spelled(sa.TypeDecorator[str]):
    """A number in the database, which the program knows as text."""

    impl = sa.SmallInteger
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> int:
        return int(value or 0)

    def process_result_value(self, value: int | None, dialect: Any) -> str:
        return str(value)


def tiny() -> Any:
    return sa.SmallInteger().with_variant(mysql.TINYINT(), "mysql", "mariadb")


def big(unsigned: bool) -> Any:
    return sa.BigInteger().with_variant(mysql.BIGINT(unsigned=unsigned), "mysql", "mariadb")


NUMBERS: dict[str, tuple[Any, list[Any]]] = {
    "tiny": (tiny(), [-128, -127, -2, -1, 0, 1, 2, 126, 127]),
    "whole": (sa.Integer(), [-(2**31), -1, 0, 1, 2**31 - 1]),
    "big": (big(False), [-(2**63), -(2**63) + 1, 0, 2**63 - 2, 2**63 - 1]),
    "yes": (sa.Boolean(), [True, False]),
    "price": (sa.Numeric(6, 2), [Decimal(text) for text in ("-9999.98", "-0.01", "0.00", "0.01", "7.50", "9999.99")]),
    "plain": (sa.Numeric(4), [Decimal(text) for text in ("-9998", "-1", "0", "9998", "9999")]),
    "rate": (
        sa.Numeric(15, 8),
        [Decimal(text) for text in ("-0.00000001", "0.1", "1234567.12345678", "9999999.99999999")],
    ),
    "spelled": (Spelled(), ["-32768", "0", "7", "32767"]),
    "unsigned": (mysql.BIGINT(unsigned=True), [0, 1, 2**63, 2**64 - 1]),
}
CLASSES: dict[str, Any] = {
    name: type(
        name.title(),
        (Base,),
        {
            "__tablename__": f"touch_{name}",
            "id": mapped_column(sa.Integer, primary_key=True, autoincrement=False),
            "value": mapped_column(kind, nullable=False),
        },
    )
    for name, (kind, _) in NUMBERS.items()
}


class Wordy(Base):
    """No number that may be changed for a moment."""

    __tablename__ = "touch_wordy"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    code: Mapped[int] = mapped_column(unique=True)
    text: Mapped[str] = mapped_column(sa.String(20), default="text")
    maybe: Mapped[int | None]
    other: Mapped[int] = mapped_column(sa.ForeignKey("touch_wordy.id"))
    ratio: Mapped[float] = mapped_column(default=0.5)


class Stamped(Base):
    """Times that change with the row, by SQLAlchemy's doing and by the database's; a check, a version."""

    __tablename__ = "touch_stamped"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int] = mapped_column(default=1)
    version: Mapped[int] = mapped_column(default=1)
    updated: Mapped[str] = mapped_column(sa.String(20), default="never", onupdate="now")
    # The server's own clock has nothing to do with the test: what it writes is not of 2001.
    at: Mapped[datetime] = mapped_column(
        sa.DateTime().with_variant(mysql.DATETIME(), "mysql", "mariadb"),
        default=datetime(2001, 1, 1),
        server_default=sa.text("'2000-01-01'"),
    )
    __table_args__ = (sa.CheckConstraint("count = 1", name="touch_one"),)


class Bare(Base):
    """Nothing but a key."""

    __tablename__ = "touch_bare"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Xmin(Base):
    """PostgreSQL's own count of versions."""

    __tablename__ = "touch_xmin"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(sa.String(20))
    xmin: Mapped[int] = mapped_column("xmin", sa.Integer, system=True, server_default=sa.FetchedValue())
    __mapper_args__ = {"version_id_col": xmin, "version_id_generator": False}


@pytest.fixture(params=GUARDED)
def shop(request: pytest.FixtureRequest) -> Iterator[Shop]:
    db = db_of(request.param)
    shop = empty_shop(db)
    theirs = {"touch_unsigned": db.kind in INNODB, "touch_xmin": db.kind == "postgresql"}
    tables = [table for table in Base.metadata.sorted_tables if theirs.get(table.name, True)]
    with db.admin.begin() as connection:
        Base.metadata.drop_all(connection, tables)
        Base.metadata.create_all(connection, tables)
        if db.kind in INNODB:
            connection.exec_driver_sql(
                "ALTER TABLE touch_stamped MODIFY at DATETIME NOT NULL DEFAULT '2000-01-01' ON UPDATE CURRENT_TIMESTAMP"
            )
    yield shop
    with db.admin.begin() as connection:
        Base.metadata.drop_all(connection, tables)
    db.dispose(db.engine)


def written(shop: Shop, held: Held, table: str) -> int:
    """How many rows a session's transaction has written up to now, by the database's own count, which begins anywhere."""
    sql = {
        "sqlite": "SELECT total_changes()",
        "postgresql": f"SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = '{table}'",
    }.get(shop.db.kind, "SHOW SESSION STATUS LIKE 'Handler_update'")
    return int(held.run(lambda session: session.execute(sa.text(sql)).one()[-1]))


@pytest.mark.parametrize("wait", FORMS, ids=["unbounded", "at once", "bounded"])
def test_the_row_is_written_and_with_no_touch_it_is_not(shop: Shop, wait: timedelta | None) -> None:
    shop.add(Order(number=7, total=5), Order(number=8))
    with shop.db.session() as held:
        before = written(shop, held, "guard_order")
        shop.call(held, lock, Order, 7, wait=wait)
        assert written(shop, held, "guard_order") == before
        row = shop.call(held, lock, Order, 7, wait=wait, touch=True)
        assert written(shop, held, "guard_order") > before
        assert (row.total, row.version) == (5, 1)
        row.total += 1
        held.commit()
    assert (shop.value(Order.total, number=7), shop.value(Order.version, number=7)) == (6, 1)


def test_a_list_is_written_row_by_row_and_nothing_else(shop: Shop) -> None:
    shop.add(
        *[Order(number=number, total=number) for number in range(6)], Counted(shop="a", id=1), Counted(shop="b", id=1)
    )
    with shop.db.session() as held, shop.statements() as sent:
        before = written(shop, held, "guard_order")
        sent.clear()
        rows = shop.call(held, lock, Order, [4, 1, 4], touch=True)
        updates = [statement for statement in sent if statement.startswith("UPDATE")]
        assert [row.number for row in rows] == [1, 4]
        each = 2 if shop.db.kind in INNODB else 1
        assert written(shop, held, "guard_order") - before == 2 * each
        assert len(updates) == (2 if shop.db.kind in (*INNODB, "sqlite") else 1)  # on SQLite one takes the write lock
        shop.call(held, lock, Counted, [("b", 1), ("a", 1)], touch=True)
        with pytest.raises(NoResultFound):
            shop.call(held, lock, Order, [1, 99], touch=True)
        assert shop.call(held, lock, Order, [], touch=True) == []
        held.commit()
    assert [shop.value(Order.total, number=number) for number in range(6)] == list(range(6))
    assert shop.value(Counted.revision, shop="b") == 1


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_what_it_was(shop: Shop, name: str) -> None:
    if name == "unsigned" and shop.db.kind not in INNODB:
        pytest.skip("only MariaDB and MySQL have them")
    values = NUMBERS[name][1]
    model = CLASSES[name]
    shop.add(*[model(id=number, value=value) for number, value in enumerate(values)])
    with shop.db.session() as held:
        rows = shop.call(held, lock, model, list(range(len(values))), touch=True)
        assert [row.value for row in rows] == values
        held.commit()
        if shop.db.kind in INNODB:
            # Each is another in between: none was passed over.
            for number in range(len(values)):
                before = written(shop, held, model.__tablename__)
                shop.call(held, lock, model, number, touch=True)
                assert written(shop, held, model.__tablename__) - before == 2
                held.rollback()
    assert [shop.value(model.value, id=number) for number in range(len(values))] == values


def test_what_changes_with_a_row_does_not(shop: Shop) -> None:
    shop.add(Stamped(id=1))
    with shop.db.session() as held:
        shop.call(held, lock, Stamped, 1, touch=True)
        held.commit()
    with sa.orm.Session(shop.db.admin) as session:
        row = session.get_one(Stamped, 1)
        assert (row.count, row.version, row.updated) == (1, 1, "never")
        assert row.at.replace(tzinfo=UTC) == datetime(2001, 1, 1, tzinfo=UTC)


def test_a_row_without_a_number_is_refused_where_only_changes_are_written(shop: Shop) -> None:
    shop.add(Bare(id=1))
    shop.add(Wordy(id=1, code=1, other=1))
    with shop.db.session() as held:
        for model in (Wordy, Bare):
            if shop.db.kind in INNODB:
                with pytest.raises(TypeError, match="such as a version"):
                    shop.call(held, lock, model, 1, touch=True)
            else:
                before = written(shop, held, model.__tablename__)
                assert shop.call(held, lock, model, 1, touch=True).id == 1
                assert written(shop, held, model.__tablename__) > before
        held.commit()
    assert shop.value(Wordy.code) == 1


def test_a_column_that_is_not_what_the_class_says_is_not_spoilt(shop: Shop) -> None:
    if shop.db.kind not in INNODB:
        pytest.skip("nothing is changed there")
    shop.db.execute("ALTER TABLE touch_whole MODIFY value DECIMAL(6, 2) NOT NULL")
    shop.db.execute("INSERT INTO touch_whole (id, value) VALUES (1, 0.50), (2, 2.00)")
    whole = CLASSES["whole"]
    with shop.db.session() as held:
        assert shop.call(held, lock, whole, 2, touch=True).id == 2
        with pytest.raises(TypeError, match="of another type"):
            shop.call(held, lock, whole, [1, 2], touch=True)
        held.rollback()
    assert shop.db.execute("SELECT value FROM touch_whole ORDER BY id") == [(Decimal("0.50"),), (Decimal("2.00"),)]


def test_subclasses_meet_in_the_table_of_their_first_class(shop: Shop) -> None:
    shop.add(Cat(id=1, name="tom"), Horse(id=2, hands=14))
    with shop.db.session() as held:
        assert shop.call(held, lock, Horse, 2, touch=True).hands == 14
        if shop.db.kind == "postgresql":
            assert written(shop, held, "guard_animal") == 1
            assert written(shop, held, "guard_horse") == 0
        assert shop.call(held, lock, Cat, 1, touch=True).name == "tom"
        with pytest.raises(NoResultFound):  # of another class, and not written
            shop.call(held, lock, Cat, 2, touch=True)
        held.commit()


def test_a_version_that_the_database_counts_is_known_afterwards(shop: Shop) -> None:
    if shop.db.kind != "postgresql":
        pytest.skip("only PostgreSQL has one in each row")
    shop.add(Xmin(id=1, name="a"))
    with shop.db.session() as held:
        shop.call(held, lock, Xmin, 1, touch=True).name = "b"
        held.commit()
    assert shop.value(Xmin.name) == "b"


def test_an_own_version_still_matches(shop: Shop) -> None:
    shop.add(Order(number=7))
    with shop.db.session() as held:
        version = shop.call(held, lock, Order, 7, touch=True).version
        assert shop.call(held, compare_and_set, Order, 7, version=version, values={"total": 5}) == version + 1
        held.commit()


def test_a_held_row_is_refused_as_without(shop: Shop) -> None:
    shop.add(Order(number=7))
    with shop.db.session() as holder, shop.db.session() as held:
        shop.call(holder, lock, Order, 7, touch=True)
        with pytest.raises(RowLockedError):
            shop.call(held, lock, Order, 7, wait=timedelta(0), touch=True)
        held.rollback()
        holder.commit()
        assert shop.call(held, lock, Order, 7, wait=timedelta(0), touch=True).number == 7


def test_an_end_of_the_transaction_says_the_same_as_without(shop: Shop) -> None:
    if shop.db.kind not in INNODB:
        pytest.skip("its drivers' errors are not made by hand")
    shop.add(Order(number=7))
    engine = getattr(shop.db.engine, "sync_engine", shop.db.engine)

    # In the cursor's place: what a listener raises before it, older releases of SQLAlchemy do not take for the driver's.
    def fail(cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("UPDATE guard_order"):
            raise engine.dialect.dbapi.OperationalError(1213, "aborted for what another node has committed")

    sa.event.listen(engine, "do_execute", fail)
    try:
        with shop.db.session() as held:
            with pytest.raises(RetryTransactionError):
                shop.call(held, lock, Order, 7, touch=True)
            held.rollback()
    finally:
        sa.event.remove(engine, "do_execute", fail)


@pytest.mark.parametrize("touch", [1, None, "yes"])
def test_nonsense_is_refused(touch: Any) -> None:
    with sa.orm.Session() as session, pytest.raises(TypeError, match="touch="):
        lock(session, Order, 7, touch=touch)
