"""`lookaside=` looks before a transaction begins, `deferred=` claims with the first statement: no promise is less."""

from __future__ import annotations

from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from idemtable import (
    FingerprintMismatchError,
    IdemTable,
    InProgressError,
    outcome_of,
)
from tests.support import PATIENCE
from tests.support.backends import BACKENDS, db_of
from tests.support.crowd import WAIT, Beside, crowd, held, one_run, until
from tests.support.database import INNODB, Database, effect

_scopes = count()
SHORTCUTS = ["lookaside", "deferred", "both"]


def options_of(shortcut: str) -> dict[str, bool]:
    return {name: shortcut in (name, "both") for name in ("lookaside", "deferred")}


@pytest.fixture(params=SHORTCUTS)
def shortcut(request: pytest.FixtureRequest) -> dict[str, bool]:
    return options_of(request.param)


@pytest.fixture(params=[name for name in BACKENDS if name.startswith(INNODB)])
def innodb(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


def order_of(db: Database, work: Any = effect, idem: Any = None, **options: Any) -> Any:
    @(idem or db.idem).transactional(f"shortcuts.{next(_scopes)}", key="key", **{"wait": WAIT, **options})
    def order(session: Any, key: str, amount: int = 1) -> Any:
        return work(session, key) if work is not effect else effect(session, key, amount)

    return order


class Declined(Exception):
    pass


def test_one_run_and_one_answer_for_each_key(db: Database, shortcut: dict[str, bool]) -> None:
    order = order_of(db, **shortcut)
    first = order.outcome("k")
    again = order.outcome("k")
    assert (first.replayed, again.replayed) == (False, True)
    assert (first.value, first.created_at is None) == (again.value, True)
    with pytest.raises(FingerprintMismatchError):
        order("k", 2)
    assert db.effects() == ["k"]


def test_an_exception_to_remember_is_raised_again(db: Database, shortcut: dict[str, bool]) -> None:
    def decline(session: Session, key: str) -> None:
        effect(session, key)
        raise Declined(key)

    order = order_of(db, decline, remember=Declined, **shortcut)
    for replayed in (False, True):
        with pytest.raises(Declined) as caught:
            order("k")
        outcome = outcome_of(caught.value)
        assert outcome is not None
        assert outcome.replayed is replayed
    assert db.effects() == []
    assert len(db.rows()) == 1


def test_what_has_expired_runs_again_once(db: Database, shortcut: dict[str, bool]) -> None:
    order = order_of(db, **shortcut)
    order("k")
    db.expire()
    assert [order.outcome("k").replayed for _ in range(2)] == [False, True]
    assert db.effects() == ["k", "k"]


def test_a_call_inside_another_joins_it(db: Database, shortcut: dict[str, bool]) -> None:
    inner = order_of(db, **shortcut)
    outer = order_of(db, lambda session, key: inner(f"{key}-inner"), **shortcut)
    assert outer("k") == outer("k")
    assert inner.outcome("k-inner").replayed
    assert db.effects() == ["k-inner"]

    def fail(session: Session, key: str) -> None:
        inner(f"{key}-inner")
        raise ValueError(key)

    failing = order_of(db, fail, **shortcut)
    with pytest.raises(ValueError, match="l"):
        failing("l")
    assert db.effects() == ["k-inner"]
    assert not inner.outcome("l-inner").replayed


def test_in_the_callers_transaction_there_are_no_shortcuts(db: Database, shortcut: dict[str, bool]) -> None:
    order = order_of(db, **shortcut)
    with db.session() as mine:
        first = order.join_outcome(mine.session, "k")
        assert order.join_outcome(mine.session, "k").replayed
        mine.rollback()
    assert not first.replayed
    assert db.effects() == []


@pytest.mark.parametrize("name", SHORTCUTS)
@pytest.mark.parametrize("backend", [one for one in ("sqlite", "postgresql18", "mariadb", "mysql") if one in BACKENDS])
def test_of_many_callers_one_runs(backend: str, name: str) -> None:
    db = db_of(backend)
    order = order_of(db, **options_of(name))
    one_run(crowd(8, lambda _: order.outcome("k")))
    assert db.effects() == ["k"]


def test_a_look_aside_answers_while_somebody_else_writes() -> None:
    db = db_of("sqlite")
    order = order_of(db, lookaside=True, wait=timedelta())
    patient = order_of(db, wait=timedelta())
    order("k"), patient("k")
    with db.session() as writer:
        writer.run(lambda session: effect(session, "written by another"))
        assert order.outcome("k").replayed
        with pytest.raises(InProgressError):
            patient("k")
        writer.rollback()


@pytest.mark.parametrize("whose", ["the engine's", "the function's"])
@pytest.mark.parametrize("level", ["SERIALIZABLE", "READ UNCOMMITTED", "read_uncommitted"])
def test_a_call_that_may_not_wait_looks_aside_at_no_level_where_a_look_waits(
    innodb: Database, level: str, whose: str
) -> None:
    db = innodb
    of_engine, of_function = (
        ({"isolation_level": level}, {}) if whose == "the engine's" else ({}, {"isolation_level": level})
    )
    with db.other_engine(**of_engine) as engine:

        @db.table(engine).transactional(
            "order", key="key", lookaside=True, wait=timedelta(), share_scope=True, **of_function
        )
        def hasty(session: Any, key: str) -> str:
            return "first"

        hasty("before")
        waits = lock_waits(db)
        with held(db):
            call = Beside(lambda: hasty("k"))
            until(lambda: call.over, "it waits for whoever holds the key", patience=PATIENCE / 4)
            with pytest.raises(InProgressError):
                call.result()
        assert lock_waits(db) == waits, "it has waited for a while"
        assert hasty.outcome("k").value == "held"
        assert hasty.outcome("before").replayed


def lock_waits(db: Database) -> int:
    """How often somebody has waited for a lock."""
    return int(db.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'")[0][1])


@pytest.mark.parametrize("way", ["connection", "get_bind"])
def test_a_look_aside_takes_the_connection_of_a_session_that_has_ways_of_its_own(way: str) -> None:
    db, asked = db_of("postgresql18"), []

    def own(self: Session, *args: Any, **kwargs: Any) -> Any:
        asked.append(self)
        return getattr(Session, way)(self, *args, **kwargs)

    with db.other_engine() as engine:
        idem = IdemTable(sessionmaker(engine, class_=type("Routed", (Session,), {way: own})))
        order = order_of(db, idem=idem, lookaside=True)
        order("k")
        asked.clear()
        assert order.outcome("k").replayed
        assert asked


def test_a_look_aside_is_at_the_level_asked_for() -> None:
    db = db_of("postgresql18")
    with db.other_engine(isolation_level="AUTOCOMMIT") as engine:
        order = order_of(db, idem=IdemTable(engine), lookaside=True, isolation_level="SERIALIZABLE")
        assert [order.outcome("k").replayed for _ in range(2)] == [False, True]


# `make test-lowest` has 2.0, whose sessions have no options; `make test` has 2.1 and skips nothing here.
@pytest.mark.skipif(not hasattr(Session(), "execution_options"), reason="since SQLAlchemy 2.1")
def test_a_look_aside_has_the_options_of_the_session() -> None:
    db, seen = db_of("postgresql18"), []
    with db.other_engine() as engine:
        sa.event.listen(engine, "begin", lambda connection: seen.append(connection.get_execution_options().get("mine")))
        idem = IdemTable(sessionmaker(engine, execution_options={"mine": 1}))
        order = order_of(db, idem=idem, lookaside=True)
        order("k")
        seen.clear()
        assert order.outcome("k").replayed
        assert seen == [1]


@pytest.mark.parametrize("name", ["after_begin", "after_transaction_create"])
def test_whoever_listens_to_the_session_hears_of_a_look_aside_before_it_is_sent(name: str) -> None:
    db = db_of("postgresql18")
    with db.other_engine() as engine:
        maker, heard = sessionmaker(engine), []
        order = order_of(db, idem=IdemTable(maker), lookaside=True)
        order("k")
        sa.event.listen(maker, name, lambda session, *_: heard.append(session))
        assert order.outcome("k").replayed
        assert len(heard) == 1


def test_a_look_aside_that_finds_the_answer_begins_no_transaction_of_a_session() -> None:
    db = db_of("postgresql18")
    with db.other_engine() as engine:
        begun: list[Any] = []

        class Told(Session):
            def begin(self, nested: bool = False) -> Any:
                begun.append(self)
                return super().begin(nested)

        order = order_of(db, idem=IdemTable(sessionmaker(engine, class_=Told, autobegin=False)), lookaside=True)
        order("k")
        assert len(begun) == 1
        assert order.outcome("k").replayed
        assert len(begun) == 1


@pytest.mark.parametrize("level", [None, "SERIALIZABLE"])
def test_a_look_aside_that_finds_nothing_rolls_no_session_back(sync_db: Database, level: str | None) -> None:
    db = sync_db
    with db.other_engine() as engine:
        maker: Any = sessionmaker(engine)
        undone: list[Any] = []
        sa.event.listen(maker, "after_soft_rollback", lambda session, transaction: undone.append(session))
        order = order_of(db, idem=IdemTable(maker), lookaside=True, isolation_level=level)
        assert order.outcome("k").replayed is False
        assert undone == []
        assert order.outcome("k").replayed
