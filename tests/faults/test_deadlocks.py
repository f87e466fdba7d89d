"""Deadlocks inside the function: run again where the library may, noticed where the function hides them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, PendingRollbackError
from sqlalchemy.orm import Session

from idemtable import Flag, LostClaimError, RetryTransactionError
from tests.support.backends import db_of
from tests.support.crowd import WAIT, Beside, meanwhile
from tests.support.database import INNODB, Database, effect
from tests.support.lines import DRIVERS

# By primary key: by name InnoDB would lock the gaps too, and every new effect with them.
LOCK = sa.text("UPDATE effect SET amount = amount + 1 WHERE id = :id")


@pytest.fixture(params=DRIVERS)
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(params=[name for name in DRIVERS if name.startswith(INNODB)])
def innodb(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


class Rival:
    """Another transaction that holds row `b` and then asks for row `a`; the database never chooses it as the victim."""

    def __init__(self, db: Database, a: int, b: int) -> None:
        self._db, self.a, self.b = db, a, b
        self.wanted: Beside | None = None
        self.deadlocks = 0
        self.connection = db.admin.connect()
        if db.kind == "postgresql":  # who waits is chosen by who looks first: this one never looks
            self.connection.exec_driver_sql("SET LOCAL deadlock_timeout = '1h'")
        else:  # the one that has written less is chosen
            for number in range(50):
                self.connection.execute(sa.text("INSERT INTO unique_business VALUES (:name)"), {"name": f"w{number}"})
        self.connection.execute(LOCK, {"id": self.b})

    def ask_for_a(self) -> None:
        self.wanted = Beside(lambda: self.connection.execute(LOCK, {"id": self.a}))
        self._db.await_waiting(1)

    def end(self) -> None:
        if self.wanted is not None:
            self.wanted.result()
        self.connection.rollback()
        self.connection.close()


@contextmanager
def rival_of(db: Database) -> Iterator[Rival]:
    with Session(db.admin) as session:
        ids = [effect(session, name, 0) for name in "ab"]
        session.commit()
    rival = Rival(db, *ids)
    try:
        yield rival
    finally:
        rival.end()


def run_into_a_deadlock(db: Database, rival: Rival, session: Any) -> None:
    """Hold `a`, let the rival wait for it, ask for `b`: raises the database's error."""
    session.execute(LOCK, {"id": rival.a})
    meanwhile(db, rival.ask_for_a)
    rival.deadlocks += 1
    session.execute(LOCK, {"id": rival.b})
    raise AssertionError("no deadlock")


def orders(db: Database) -> list[str]:
    return [name for name in db.effects() if name not in ("a", "b")]


@pytest.mark.parametrize("remember", [(), (Exception,), (DBAPIError,), (LookupError,)], ids=repr)
def test_a_deadlock_inside_the_function_is_never_remembered_and_run_again(db: Database, remember: Any) -> None:
    with rival_of(db) as rival:

        @db.idem.transactional("order", key="key", wait=WAIT, remember=remember)
        def order(session: Any, key: str) -> str:
            effect(session, key)
            if not rival.deadlocks:
                run_into_a_deadlock(db, rival, session)
            return "ran"

        first = order.outcome("k")
        second = order.outcome("k")

    assert rival.deadlocks == 1
    assert (first.value, first.attempts, first.replayed) == ("ran", 2, False)
    assert (second.value, second.replayed) == ("ran", True)
    assert orders(db) == ["k"]


@pytest.mark.parametrize("remember", [(), (Exception,)], ids=repr)
def test_a_deadlock_in_a_group_of_errors_is_run_again(db: Database, remember: Any) -> None:
    """As an ``asyncio.TaskGroup`` raises it."""
    with rival_of(db) as rival:

        @db.idem.transactional("order", key="key", wait=WAIT, remember=remember)
        def order(session: Any, key: str) -> str:
            effect(session, key)
            found: list[Exception] = [LookupError("of another task")]
            if not rival.deadlocks:
                try:
                    run_into_a_deadlock(db, rival, session)
                except DBAPIError as error:
                    found.append(error)
                raise ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("inner", found)])
            return "ran"

        first = order.outcome("k")

    assert rival.deadlocks == 1
    assert (first.value, first.attempts, orders(db)) == ("ran", 2, ["k"])


@pytest.mark.parametrize("remember", [(), (LookupError,), (Exception,)], ids=repr)
def test_a_deadlock_that_the_function_swallows_commits_nothing(db: Database, remember: Any) -> None:
    with rival_of(db) as rival:

        @db.idem.transactional("order", key="key", wait=WAIT, remember=remember)
        def order(session: Any, key: str) -> str:
            effect(session, f"{key} before")
            try:
                run_into_a_deadlock(db, rival, session)
            except DBAPIError:
                if db.kind in INNODB:  # a new transaction has begun by itself, without the key
                    session.execute(sa.text("INSERT INTO effect (name, amount) VALUES ('after', 1)"))
            return "pretends"

        with pytest.raises(LostClaimError):
            order("k")

    assert rival.deadlocks == 1
    assert orders(db) == []
    assert db.rows() == []


def test_a_deadlock_hidden_behind_a_missing_savepoint_is_run_again(innodb: Database) -> None:
    """1305 is what reaches the caller, the 1213 is only in its context."""
    db = innodb
    hidden: list[Any] = []
    with rival_of(db) as rival:

        @db.idem.transactional("order", key="key", wait=WAIT, remember=(LookupError,))
        def order(session: Any, key: str) -> str:
            effect(session, key)
            if not rival.deadlocks:
                try:
                    with session.begin_nested():
                        run_into_a_deadlock(db, rival, session)
                except DBAPIError as error:
                    hidden.append(error.orig.args[0])  # type: ignore[union-attr]
                    raise
            return "ran"

        first = order.outcome("k")

    assert rival.deadlocks == 1
    assert hidden == [1305]
    assert (first.value, first.attempts) == ("ran", 2)
    assert order("k") == "ran"
    assert orders(db) == ["k"]


def test_a_deadlock_in_a_joined_call_asks_the_caller_to_begin_again(db: Database) -> None:
    with rival_of(db) as rival, db.session() as mine:

        @db.idem.transactional("order", key="key", wait=WAIT)
        def order(session: Any, key: str) -> str:
            effect(session, key)
            if not rival.deadlocks:
                run_into_a_deadlock(db, rival, session)
            return "ran"

        mine.run(lambda session: effect(session, "mine"))
        with pytest.raises(RetryTransactionError):
            order.join(mine.session, "k")
        mine.rollback()
        mine.run(lambda session: effect(session, "mine"))
        assert order.join(mine.session, "k") == "ran"
        mine.commit()

    assert rival.deadlocks == 1
    assert sorted(orders(db)) == ["k", "mine"]


def test_a_caller_that_goes_on_after_a_deadlock_commits_no_half_of_its_work(db: Database) -> None:
    with rival_of(db) as rival, db.session() as mine:

        @db.idem.transactional("order", key="key", wait=WAIT)
        def order(session: Any, key: str) -> str:
            effect(session, key)
            run_into_a_deadlock(db, rival, session)
            return "ran"

        def go_on(session: Session) -> None:
            effect(session, "second half")
            session.commit()

        mine.run(lambda session: effect(session, "first half"))
        with pytest.raises(RetryTransactionError):
            order.join(mine.session, "k")
        if db.kind in INNODB:  # the server has undone all of it, and would begin anew with whatever comes next
            with pytest.raises(PendingRollbackError):
                mine.run(go_on)
            mine.rollback()
        else:
            mine.run(go_on)

    assert rival.deadlocks == 1
    assert orders(db) == ([] if db.kind in INNODB else ["first half", "second half"])
    assert db.rows() == []


def test_a_deadlock_in_a_block_asks_to_enter_it_again(db: Database) -> None:
    with rival_of(db) as rival:

        def enter() -> Any:
            with db.idem.transaction("order", "k", wait=WAIT) as claim:

                def work(session: Any) -> None:
                    effect(session, "k")
                    if not rival.deadlocks:
                        run_into_a_deadlock(db, rival, session)

                db.on(claim.session, work)
                claim.result = "ran"
            return claim.result

        with pytest.raises(RetryTransactionError):
            enter()
        assert enter() == "ran"

    assert rival.deadlocks == 1
    assert orders(db) == ["k"]


@pytest.mark.parametrize("verb", ["unseen", "claim_many"])
def test_a_batch_whose_keys_a_swallowed_deadlock_has_undone_is_not_committed(innodb: Database, verb: str) -> None:
    db, names = innodb, [f"e{number}" for number in range(4)]

    def given(mine: Any) -> Any:
        if verb == "unseen":
            return db.idem.unseen(mine.session, "batch", names, key=str)
        flags = db.idem.claim_many(mine.session, "batch", names)
        return [name for name, flag in zip(names, flags, strict=True) if flag is Flag.New]

    def handle(mine: Any, rival: Rival | None) -> list[str]:
        done = []
        for name in given(mine):

            def one(session: Session, name: str = name) -> None:
                with session.begin_nested():  # what the page says to put round what may fail
                    effect(session, name)
                    if rival is not None and name == "e1":
                        run_into_a_deadlock(db, rival, session)

            try:
                mine.run(one)
                done.append(name)
            except DBAPIError:
                continue
        return done

    with rival_of(db) as rival, db.session() as mine:
        with pytest.raises(RetryTransactionError, match="begin again"):
            assert handle(mine, rival) == ["e0", "e2", "e3"]  # MySQL's own connector tells the loop that it is over
            mine.commit()
        mine.rollback()
        assert (rival.deadlocks, orders(db), db.rows()) == (1, [], [])
        assert handle(mine, None) == names
        mine.commit()
    assert orders(db) == names


@pytest.mark.parametrize("verb", ["unseen", "claim_many"])
def test_a_batch_that_a_swallowed_deadlock_has_undone_is_not_made_whole_by_claiming_its_keys_again(
    innodb: Database, verb: str
) -> None:
    db, names = innodb, ["e0", "e1"]

    def new(mine: Any) -> list[str]:
        if verb == "unseen":
            return list(db.idem.unseen(mine.session, "batch", names, key=str, chunk=1))
        flags = db.idem.claim_many(mine.session, "batch", names)
        return [name for name, flag in zip(names, flags, strict=True) if flag is Flag.New]

    def one(session: Session) -> None:
        effect(session, "lost")
        with pytest.raises(DBAPIError):
            run_into_a_deadlock(db, rival, session)

    with rival_of(db) as rival, db.session() as mine:
        assert new(mine) == names
        mine.run(one)
        assert new(mine) == names, "nobody has them any more"
        mine.run(lambda session: effect(session, "after"))
        with pytest.raises(RetryTransactionError, match="begin again"):
            mine.commit()
    assert (rival.deadlocks, orders(db), db.rows()) == (1, [], [])


def test_a_call_in_whose_loop_a_deadlock_was_swallowed_commits_nothing(innodb: Database) -> None:
    db = innodb
    with rival_of(db) as rival:

        @db.idem.transactional("order", key="key", wait=WAIT)
        def importing(session: Session, key: str) -> int:
            count = 0
            for name in db.idem.unseen(db.given(session), "batch", ["e0", "e1", "e2"], key=str):
                try:
                    with session.begin_nested():
                        effect(session, name)
                        if name == "e1" and not rival.deadlocks:
                            run_into_a_deadlock(db, rival, session)
                    count += 1
                except DBAPIError:
                    continue
            return count

        try:
            assert importing.outcome("k").attempts == 2  # MySQL's own connector tells the loop that it is over
        except (LostClaimError, RetryTransactionError):
            assert (orders(db), db.rows()) == ([], [])
        assert rival.deadlocks == 1
        assert importing("k") == 3
    assert orders(db) == ["e0", "e1", "e2"]


def test_a_key_is_forgotten_where_a_deadlock_has_undone_the_first_try(db: Database) -> None:
    with db.idem.transaction("order", "k"):
        pass
    with rival_of(db) as rival, db.other_engine() as engine:
        idem = db.table(engine)

        def collide(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if "DELETE FROM" in statement and not rival.deadlocks:
                run_into_a_deadlock(db, rival, connection)

        sa.event.listen(getattr(engine, "sync_engine", engine), "before_cursor_execute", collide)
        assert idem.forget("order", "k") is True
    assert (rival.deadlocks, db.rows()) == (1, [])
