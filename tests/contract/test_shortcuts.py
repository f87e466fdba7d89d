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
    LostClaimError,
    RetryTransactionError,
    outcome_of,
)
from tests.support.backends import BACKENDS, db_of
from tests.support.crowd import WAIT, crowd, one_run
from tests.support.database import Database, Effect, Unique, effect
from tests.support.lines import through_a_proxy

_scopes = count()
SHORTCUTS = ["lookaside", "deferred", "both"]


def options_of(shortcut: str) -> dict[str, bool]:
    return {name: shortcut in (name, "both") for name in ("lookaside", "deferred")}


@pytest.fixture(params=SHORTCUTS)
def shortcut(request: pytest.FixtureRequest) -> dict[str, bool]:
    return options_of(request.param)


@pytest.fixture(params=[name for name in ("postgresql18", "postgresql18-listened") if name in BACKENDS])
def deferring(request: pytest.FixtureRequest) -> Database:
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


# --- a claim that comes with the first statement --------------------------------------------------------------------------


def test_a_deferred_first_run_waits_less_often_than_the_bare_transaction() -> None:
    with through_a_proxy(db_of("postgresql18")) as line:
        order, keys = order_of(line.db, idem=line.idem, deferred=True), count()

        def bare() -> None:
            with line.db.session(line.engine) as held:
                held.run(lambda session: effect(session, "bare"))
                held.commit()

        def trips(call: Any) -> float:
            call()
            before = line.proxy.round_trips
            for _ in range(8):
                call()
            return (line.proxy.round_trips - before) / 8

        assert trips(lambda: order(f"k{next(keys)}")) - trips(bare) == -1


def test_a_replay_never_does_what_the_function_sends_first(deferring: Database) -> None:
    db, begun = deferring, []
    sequence = "SELECT nextval('effect_id_seq')"  # no rollback takes it back

    def work(session: Session, key: str) -> int:
        begun.append(key)
        return int(session.execute(sa.text(sequence)).scalar_one())

    order = order_of(db, work, deferred=True)
    first = order("k")
    assert [order("k") for _ in range(3)] == [first] * 3
    assert db.execute(sequence)[0][0] == first + 1
    assert begun == (["k"] * 4 if db.backend == "postgresql18" else ["k"])


@pytest.mark.parametrize("send", [None, "SELECT 1", "executemany", "savepoint", "driver"])
def test_the_claim_comes_before_commit_whatever_the_function_sends_first(deferring: Database, send: str | None) -> None:
    db = deferring

    def work(session: Session, key: str) -> str:
        if send == "SELECT 1":
            assert session.execute(sa.text(send)).scalar_one() == 1
        elif send == "executemany":
            session.execute(sa.insert(Effect), [{"name": f"{key}{number}"} for number in range(3)])
        elif send == "savepoint":
            with session.begin_nested():
                effect(session, key)
        elif send == "driver":
            driver: Any = session.connection().connection.driver_connection
            driver.execute("INSERT INTO effect (name, amount) VALUES (%s, 1)", (key,))
        return key

    order = order_of(db, work, deferred=True)
    assert [order.outcome("k").replayed for _ in range(3)] == [False, True, True]
    assert len(db.effects()) == {None: 0, "SELECT 1": 0, "executemany": 3}.get(send, 1)
    assert len(db.rows()) == 1


def test_a_function_that_swallows_the_news_that_it_is_a_replay_is_still_one(deferring: Database) -> None:
    db = deferring

    def work(session: Session, key: str) -> str:
        try:
            effect(session, key)
        except Exception:
            return "swallowed"
        return "done"

    order = order_of(db, work, deferred=True, returns=str)
    assert [order("k") for _ in range(3)] == ["done"] * 3
    assert db.effects() == ["k"]


def test_a_function_that_makes_an_exception_to_remember_of_it_is_not_remembered_twice(deferring: Database) -> None:
    db = deferring

    def work(session: Session, key: str) -> str:
        try:
            effect(session, key)
        except sa.exc.DBAPIError as error:
            raise Declined(key) from error
        return "done"

    order = order_of(db, work, deferred=True, remember=Declined, returns=str)
    assert [order("k") for _ in range(2)] == ["done"] * 2


def test_an_error_of_the_functions_own_first_statement_is_its_own(deferring: Database) -> None:
    db = deferring

    def work(session: Session, key: str) -> str:
        session.execute(sa.text("INSERT INTO effect (name, amount) VALUES (NULL, 1)"))
        return key

    order = order_of(db, work, deferred=True)
    with pytest.raises(sa.exc.IntegrityError, match="effect"):
        order("k")
    assert db.rows() == []

    def clash(session: Session, key: str) -> str:
        session.execute(sa.insert(Unique), {"name": "taken"})
        return key

    clashing = order_of(db, clash, deferred=True)
    clashing("k")
    with pytest.raises(sa.exc.IntegrityError, match="unique_business"):
        clashing("l")


def test_a_key_that_somebody_holds_is_in_progress(deferring: Database) -> None:
    db = deferring
    order = order_of(db, deferred=True, wait=timedelta())
    with db.session() as holder:
        order.join(holder.session, "k")
        with pytest.raises(InProgressError):
            order("k")
        holder.commit()
    assert order.outcome("k").replayed
    assert db.effects() == ["k"]


def test_arguments_that_a_call_has_changed_before_it_knew_are_no_second_request(deferring: Database) -> None:
    db = deferring
    idem = db.table(attempts=1)

    @idem.transactional("shortcuts.changed", key="key", deferred=True, payload=None)
    def order(session: Any, key: str, items: list[str]) -> int:
        for _ in range(len(items)):
            effect(session, items.pop())
        return len(items)

    assert order("k", ["a", "b"]) == 0
    assert order.outcome("k", ["a", "b"]).replayed
    assert db.effects() == ["b", "a"]


def test_were_the_function_to_go_on_without_a_claim_its_result_would_find_no_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from idemtable.dialects.postgresql import PostgreSQL

    db = db_of("postgresql18")
    monkeypatch.setattr(PostgreSQL, "CLAIM_OR_FAIL", PostgreSQL.CLAIM)
    with db.other_engine() as engine:
        order = order_of(db, idem=db.table(engine), deferred=True)
        order("k")
        with pytest.raises(LostClaimError):
            order("k")
    assert db.effects() == ["k"]


def test_a_function_that_commits_by_itself_is_found_out(deferring: Database) -> None:
    db = deferring

    def work(session: Session, key: str) -> str:
        effect(session, key)
        session.commit()
        return key

    order = order_of(db, work, deferred=True)
    with pytest.raises(LostClaimError):
        order("k")
    with pytest.raises((LostClaimError, RetryTransactionError)):
        order("k")
    assert db.effects() == ["k"]
