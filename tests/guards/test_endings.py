"""What a guard says where the row was changed after its transaction began to read, and the database minds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from idemtable.errors import IllegalTransitionError, RetryTransactionError, RowLockedError, StaleVersionError
from idemtable.guards import Advance, StateMachine, compare_and_set, lock, retry_stale
from tests.guards.conftest import GUARDED
from tests.support.backends import db_of
from tests.support.database import Database, Held
from tests.support.guards import Animal, Counted, Order, Shop, empty_shop

MACHINE = StateMachine(Order.status, {"created": {"paid", "cancelled"}, "paid": {"shipped"}})
ANIMALS: Any = Animal.__table__
OTHERS = "UPDATE guard_order SET sum = sum + 50, ver = ver + 1, st = 'paid' WHERE id = 7"
UNCOUNTED = "UPDATE guard_order SET sum = sum + 50 WHERE id = 7"


def compare(session: Any) -> Any:
    return compare_and_set(session, Order, 7, version=1, values={"total": Order.total + 1})


def lock_it(session: Any) -> Any:
    return lock(session, Order, 7)


def advance(session: Any) -> Any:
    return MACHINE.advance(session, 7, to="paid")


def cancel(session: Any) -> Any:
    return MACHINE.advance(session, 7, to="cancelled")


class Insisting:
    """A shop, and an engine whose transactions do not go on with a row that changed since they began to read."""

    def __init__(self, shop: Shop, engine: Any) -> None:
        self.shop, self.db, self.engine = shop, shop.db, engine

    @contextmanager
    def reader(self) -> Iterator[Held]:
        """A session that has read the order, which somebody else may change now."""
        with self.db.session(self.engine) as held:
            held.run(self.read)
            yield held

    def read(self, session: Any) -> None:
        session.execute(sa.select(Order.total)).all()


# MySQL never minds; MariaDB 10.11 does where it is told to, which 11.8 is from the start.
@pytest.fixture(params=[name for name in GUARDED if not name.startswith("mysql")])
def insisting(request: pytest.FixtureRequest) -> Iterator[Insisting]:
    db = db_of(request.param)
    shop = empty_shop(db)
    shop.add(Order(number=7))
    options = {"isolation_level": "REPEATABLE READ"} if db.kind == "postgresql" else {}
    with db.other_engine(**options) as engine:
        if db.backend.startswith("mariadb") and db.backend != "mariadb11":

            def insist(connection: Any, record: object) -> None:
                cursor = connection.cursor()
                cursor.execute("SET SESSION innodb_snapshot_isolation = ON")
                cursor.close()

            sa.event.listen(getattr(engine, "sync_engine", engine), "connect", insist)
        db.table(engine)  # on SQLite: transactions begin where they say so
        yield Insisting(shop, engine)
    db.dispose(db.engine)


def tells_the_version(db: Database) -> bool:
    """Whether the guard can still look at the row: PostgreSQL answers nothing more, SQLite with what it was."""
    return db.kind == "mariadb"


def test_a_row_with_a_newer_version_is_stale(insisting: Insisting) -> None:
    with insisting.reader() as held:
        insisting.db.execute(OTHERS)
        if tells_the_version(insisting.db):
            with pytest.raises(StaleVersionError, match="has version 2, not version 1") as caught:
                insisting.shop.call(held, compare_and_set, Order, 7, version=1, values={"total": 9})
            assert (caught.value.expected, caught.value.found) == (1, 2)
        else:
            with pytest.raises(RetryTransactionError):
                insisting.shop.call(held, compare_and_set, Order, 7, version=1, values={"total": 9})
        held.rollback()
        with pytest.raises(StaleVersionError) as caught:
            insisting.shop.call(held, compare_and_set, Order, 7, version=1, values={"total": 9})
        assert caught.value.found == 2
    assert insisting.shop.value(Order.total) == 50


def test_a_row_with_the_version_that_was_read_is_not_stale(insisting: Insisting) -> None:
    with insisting.reader() as held:
        insisting.db.execute(UNCOUNTED)
        with pytest.raises(RetryTransactionError, match=r"Order\(7\)") as caught:
            insisting.shop.call(held, compare)
        assert caught.value.retryable
        assert "key" not in caught.value.detail
        held.rollback()
        assert insisting.shop.call(held, compare) == 2
        held.commit()
    assert insisting.shop.value(Order.total) == 51


def test_what_the_transaction_itself_had_counted_is_not_stale(insisting: Insisting) -> None:
    if not tells_the_version(insisting.db):
        pytest.skip("it is not asked there what is left of the row")
    insisting.shop.add(Order(number=8))
    with insisting.reader() as held:
        assert insisting.shop.call(held, compare_and_set, Order, 8, version=1, values={}) == 2
        insisting.db.execute(UNCOUNTED)
        with pytest.raises(RetryTransactionError):
            insisting.shop.call(held, compare_and_set, Order, 7, version=2, values={})  # it has 1
        held.rollback()
    assert insisting.shop.value(Order.version, number=8) == 1


@pytest.mark.parametrize(
    ("guard", "then"),
    [(lock_it, Order), (advance, Advance(False, "paid")), (cancel, IllegalTransitionError)],
    ids=["lock", "a step from one state", "a step from several"],
)
def test_the_transaction_begins_again_and_sees_the_row_as_it_is(
    insisting: Insisting, guard: Callable[[Any], Any], then: Any
) -> None:
    with insisting.reader() as held:
        insisting.db.execute(OTHERS)
        with pytest.raises(RetryTransactionError, match=r"Order\(7\)"):
            insisting.shop.call(held, guard)
        held.rollback()
        if then is IllegalTransitionError:
            with pytest.raises(IllegalTransitionError):
                insisting.shop.call(held, guard)
            return
        answer = insisting.shop.call(held, guard)
        assert answer.total == 50 if then is Order else answer == then


@pytest.mark.parametrize("guard", [compare, lock_it, advance], ids=["compare_and_set", "lock", "advance"])
@pytest.mark.parametrize("nested", [False, True], ids=["plain", "in a savepoint"])
def test_nothing_is_committed_without_what_came_before_it(
    insisting: Insisting, guard: Callable[[Any], Any], nested: bool
) -> None:
    if insisting.db.kind == "sqlite":
        pytest.skip("who has written there has the write lock, and nobody else changes the row")
    with insisting.reader() as held:
        held.run(lambda session: session.execute(sa.insert(ANIMALS).values(id=1, kind="animal")))
        insisting.db.execute(OTHERS)
        savepoint = held.run(lambda session: session.begin_nested()) if nested else None
        with pytest.raises((StaleVersionError, RetryTransactionError)):
            insisting.shop.call(held, guard)
        if savepoint is not None:
            held.run(lambda session: savepoint.rollback())

        def go_on(session: Any) -> None:  # its caller takes the error for an answer
            session.execute(sa.insert(ANIMALS).values(id=2, kind="animal"))
            session.commit()

        if nested and insisting.db.kind == "postgresql":  # where the savepoint has undone the error alone
            held.run(go_on)
            assert insisting.shop.value(sa.func.count(Animal.id)) == 2
            return
        with pytest.raises(SQLAlchemyError):
            held.run(go_on)
        held.rollback()
    assert insisting.shop.value(sa.func.count(Animal.id)) == 0


@pytest.mark.parametrize("guard", [lock_it, advance], ids=["lock", "advance"])
def test_a_transactional_function_runs_again(insisting: Insisting, guard: Callable[[Any], Any]) -> None:
    table = insisting.db.table(insisting.engine)
    runs: list[int] = []

    @table.transactional("orders.pay", key="key", returns=int)
    def pay(session: Any, key: str) -> int:
        insisting.read(session)
        runs.append(1)
        if len(runs) == 1:
            insisting.db.execute(OTHERS)
        guard(session)
        return int(session.scalar(sa.select(Order.total)))

    if insisting.db.kind == "sqlite":
        pytest.skip("a call has the write lock from its beginning")
    outcome = pay.outcome("k-1")
    assert (outcome.value, outcome.attempts) == (50, 2)
    assert pay("k-1") == 50


@pytest.mark.parametrize("swallows", [False, True])
def test_a_transactional_function_commits_nothing_over_a_stale_version(insisting: Insisting, swallows: bool) -> None:
    if insisting.db.kind == "sqlite":
        pytest.skip("a call has the write lock from its beginning")
    table = insisting.db.table(insisting.engine)
    runs: list[int] = []

    @table.transactional("orders.pay", key="key", returns=int)
    def pay(session: Any, key: str) -> int:
        insisting.read(session)
        session.execute(sa.insert(ANIMALS).values(id=1, kind="animal"))
        runs.append(1)
        if len(runs) == 1:
            insisting.db.execute(OTHERS)
        try:
            compare(session)
        except (StaleVersionError, RetryTransactionError):
            if not swallows or len(runs) > 1:
                raise
        return 1

    for _ in range(2):
        with pytest.raises(Exception) as caught:
            pay("k-1")
        if not swallows or len(runs) > 1:
            assert isinstance(caught.value, StaleVersionError)
        assert insisting.shop.value(sa.func.count(Animal.id)) == 0
        assert insisting.db.rows() == []


@pytest.mark.parametrize("guard", [lock_it, advance], ids=["lock", "advance"])
def test_inside_a_joined_call_the_caller_begins_again(insisting: Insisting, guard: Callable[[Any], Any]) -> None:
    if insisting.db.kind == "sqlite":
        pytest.skip("a joined call takes the write lock before it runs")
    table = insisting.db.table(insisting.engine)

    @table.transactional("orders.pay", key="key", returns=int)
    def pay(session: Any, key: str) -> int:
        guard(session)
        return int(session.scalar(sa.select(Order.total)))

    with insisting.reader() as held:
        insisting.db.execute(OTHERS)
        with pytest.raises(RetryTransactionError):
            pay.join(held.session, "k-1")
        held.rollback()
        assert insisting.db.rows() == []
        assert pay.join(held.session, "k-1") == 50
        held.commit()
    assert len(insisting.db.rows()) == 1


def test_a_claim_that_meets_a_row_newer_than_its_snapshot_leaves_no_half_of_its_callers_work(
    insisting: Insisting,
) -> None:
    if insisting.db.kind == "sqlite":
        pytest.skip("who has written there has the write lock")
    table = insisting.db.table(insisting.engine)

    @table.transactional("orders.pay", key="key", returns=int)
    def pay(session: Any, key: str) -> int:
        return 1

    def go_on(session: Any) -> None:
        session.execute(sa.insert(ANIMALS).values(id=2, kind="animal"))
        session.commit()

    with insisting.reader() as held:
        held.run(lambda session: session.execute(sa.insert(ANIMALS).values(id=1, kind="animal")))
        assert pay("k-1") == 1
        with pytest.raises(RetryTransactionError):
            pay.join(held.session, "k-1")
        if insisting.db.kind == "mariadb":
            with pytest.raises(SQLAlchemyError):
                held.run(go_on)
            held.rollback()
        else:  # the claim's own savepoint has undone the error alone
            held.run(go_on)
    assert insisting.shop.value(sa.func.count(Animal.id)) == (0 if insisting.db.kind == "mariadb" else 2)


def test_an_event_is_not_remembered_by_a_transaction_that_ended(insisting: Insisting) -> None:
    if insisting.db.kind == "sqlite":
        pytest.skip("the claim of the event takes the write lock before the step")
    table = insisting.db.table(insisting.engine)
    options = {"to": "paid", "event_id": "evt-1", "idem": getattr(table, "inner", table)}
    with insisting.reader() as held:
        insisting.db.execute(UNCOUNTED)
        with pytest.raises(RetryTransactionError):
            insisting.shop.call(held, MACHINE.advance, 7, **options)
        held.rollback()
        assert insisting.shop.call(held, MACHINE.advance, 7, **options) == Advance(True, "created")
        held.commit()
    assert insisting.shop.value(Order.status) == "paid"


def test_retry_stale_stands_in_for_whatever_the_database_says_of_an_old_snapshot(insisting: Insisting) -> None:
    insisting.shop.add(Counted(shop="a", id=1))
    met: list[type[BaseException]] = []

    @retry_stale
    def by_the_mapper() -> None:
        with insisting.db.session(insisting.engine) as held:
            row = held.run(lambda session: session.get(Counted, ("a", 1)))
            if not met:
                insisting.db.execute("UPDATE guard_counted SET revision = revision + 1")

            def change(session: Any) -> None:
                row.stage = "DONE"
                session.commit()

            try:
                held.run(change)
            except Exception as error:
                met.append(type(error))
                raise

    @retry_stale
    def by_the_guard() -> int:
        with insisting.reader() as held:
            if len(met) == 1:
                insisting.db.execute(OTHERS)
            try:
                version = held.run(lambda session: session.scalar(sa.select(Order.version)))
                found = insisting.shop.call(held, compare_and_set, Order, 7, version=version, values={})
            except Exception as error:
                met.append(type(error))
                raise
            held.commit()
            return int(found)

    by_the_mapper()
    assert len(met) == 1
    assert issubclass(met[0], DBAPIError)  # and not StaleDataError, which the mapper raises elsewhere
    assert insisting.shop.value(Counted.revision) == 3
    assert by_the_guard() == 3
    assert met[1:] in ([StaleVersionError], [RetryTransactionError])


# --- SQLite, while somebody else is writing ---------------------------------------------------------------------------


@pytest.fixture(params=product(["sqlite", "sqlite-async"], ["delete", "wal"]), ids=" ".join)
def written(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """A shop in a file of its own, without a write-ahead log or with one."""
    backend, mode = request.param
    db = Database(backend, sa.make_url(f"sqlite:///{tmp_path / 'own.db'}"), db_of(backend).url.drivername)
    db.dispose(db.engine)  # the mode changes for whoever is alone
    assert [tuple(row) for row in db.execute(f"PRAGMA journal_mode = {mode}")] == [(mode,)]
    shop = empty_shop(db)
    shop.add(Order(number=7))
    yield shop
    db.close()


def read(session: Any) -> None:
    session.execute(sa.select(Order.total)).all()


def write(session: Any) -> None:
    session.execute(sa.update(Order).values(total=50))


@pytest.mark.parametrize("guard", [compare, advance, cancel], ids=["compare_and_set", "advance", "cancel"])
def test_whoever_has_read_begins_again_while_somebody_else_writes(written: Shop, guard: Callable[[Any], Any]) -> None:
    with written.db.session() as writer, written.db.session() as held:
        held.run(read)
        writer.run(write)
        with pytest.raises(RetryTransactionError, match=r"Order\(7\)"):  # however long it may wait
            written.call(held, guard)
        held.rollback()
        writer.commit()
        held.run(read)
        written.call(held, guard)
        held.commit()
    assert written.value(Order.total) in (50, 51)


def test_whoever_has_not_read_has_waited_in_vain(written: Shop) -> None:
    with written.db.session() as writer, written.db.session() as held:
        held.run(lambda session: session.execute(sa.text("PRAGMA busy_timeout = 0")))
        writer.run(write)
        with pytest.raises(OperationalError, match="locked"):
            written.call(held, compare)
        with pytest.raises(RowLockedError):
            written.call(held, lock_it)
        writer.rollback()
        assert written.call(held, compare) == 2
        held.run(lambda session: session.execute(sa.text("PRAGMA busy_timeout = 5000")))


def test_retry_stale_stands_in_for_a_flush_that_is_refused_while_somebody_else_writes(written: Shop) -> None:
    with written.db.session() as writer:
        writer.run(write)
        calls: list[int] = []

        @retry_stale
        def ship() -> None:
            calls.append(1)
            if len(calls) == 2:
                writer.commit()
            with written.db.session() as held:
                held.run(lambda session: session.get(Order, 7)).status = "shipped"
                held.commit()

        ship()
    assert len(calls) == 2
    assert (written.value(Order.status), written.value(Order.total)) == ("shipped", 50)
