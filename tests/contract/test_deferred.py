"""A claim that comes with the function's first statement, or at the latest before anything of it is said to be done."""

from __future__ import annotations

import gc
import logging
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import Context
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from idemtable import (
    FingerprintMismatchError,
    IdempotencyError,
    IdemTable,
    InProgressError,
    LostClaimError,
    RetryTransactionError,
    SchemaError,
    SessionNotUsableError,
    Status,
)
from idemtable.dialects.packet import Line
from tests.contract.test_shortcuts import Declined, order_of
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, Effect, Unique, effect
from tests.support.limits import TimeLimit, interrupting
from tests.support.lines import through_a_proxy


@pytest.fixture(params=[name for name in ("postgresql18", "postgresql18-listened") if name in BACKENDS])
def deferring(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


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


def test_a_replay_is_one_whatever_error_the_caller_is_handling(deferring: Database) -> None:
    order = order_of(deferring, deferred=True)
    first = order("k")
    try:
        raise LookupError("the caller's own")
    except LookupError:
        again = order.outcome("k")
    assert (again.value, again.replayed) == (first, True)


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


@pytest.mark.parametrize("way", ["commit", "begin", "text"])
def test_a_function_that_rolls_back_and_tries_again_by_itself_does_nothing_of_what_was_done_before(
    deferring: Database, way: str
) -> None:
    db = deferring

    def again(session: Session, insert: Any) -> None:
        if way == "text":
            for statement in (sa.text("ROLLBACK"), insert, sa.text("COMMIT")):
                session.connection().execute(statement)
            return
        session.rollback()
        if way == "begin":
            with session.begin():
                session.execute(insert)
        else:
            session.execute(insert)
            session.commit()

    def work(session: Session, key: str) -> str:
        insert = sa.insert(Effect).values(name=key, amount=1)
        try:
            session.execute(insert)
        except sa.exc.DBAPIError:
            again(session, insert)
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


# --- where the function sends nothing, or not through the session's statements --------------------------------------------


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_a_claim_that_the_function_has_left_behind_is_nobody_elses(deferring: Database, end: str) -> None:
    db = deferring
    with db.other_engine(pool_size=1, max_overflow=0) as engine:

        def work(session: Session, key: str) -> str:
            getattr(session, end)()
            with Session(engine) as stranger, stranger.begin():
                effect(stranger, "stranger")
            return key

        order = order_of(db, work, idem=db.table(engine), deferred=True)
        with pytest.raises(LostClaimError):
            order("k")
    assert db.effects() == ["stranger"]
    assert [row.key for row in db.rows()] == (["k"] if end == "commit" else []), "what is committed has its key"


@pytest.mark.parametrize("end", ["rollback", "close"])
def test_a_pool_that_resets_with_a_commit_commits_no_claim_of_a_transaction_that_the_function_has_ended(
    deferring: Database, end: str
) -> None:
    db = deferring
    with db.other_engine(pool_reset_on_return="commit") as engine:

        def work(session: Session, key: str) -> str:
            getattr(session, end)()
            raise LookupError(key)

        order = order_of(db, work, idem=db.table(engine), deferred=True)
        for _ in range(2):
            with pytest.raises(LookupError):
                order("k")
    assert db.rows() == []


def test_a_pool_that_resets_with_a_commit_keeps_the_connection_of_a_replay(
    deferring: Database, caplog: pytest.LogCaptureFixture
) -> None:
    db, connected = deferring, list[str]()
    with db.other_engine(pool_reset_on_return="commit") as engine:
        event.listen(engine, "connect", lambda *_: connected.append("once"))
        order = order_of(db, idem=db.table(engine), deferred=True)
        assert [order.outcome("k").replayed for _ in range(3)] == [False, True, True]
    assert connected == ["once"]
    assert caplog.messages == []


def test_what_a_function_commits_by_itself_before_all_else_is_never_without_its_key(deferring: Database) -> None:
    db = deferring

    def work(session: Session, key: str) -> str:
        session.commit()
        effect(session, key)
        session.commit()
        return key

    with db.other_engine(pool_size=2) as engine:
        with engine.connect(), engine.connect():  # each transaction has another of the two
            pass
        order = order_of(db, work, idem=db.table(engine), deferred=True)
        for _ in range(3):
            with pytest.raises(LostClaimError):
                order("k")
    assert db.effects() == ["k"]


def test_a_function_that_commits_before_all_else_learns_that_the_key_is_taken(deferring: Database) -> None:
    db, told = deferring, list[str]()

    def work(session: Session, key: str) -> str:
        if db.rows():
            try:
                session.commit()
            except RetryTransactionError as error:
                told.append(str(error))
        else:
            effect(session, key)
        return key

    order = order_of(db, work, deferred=True)
    assert [order.outcome("k").replayed for _ in range(2)] == [False, True]
    assert len(told) == (1 if db.backend == "postgresql18" else 0)
    assert db.effects() == ["k"]


@pytest.mark.parametrize("first", ["streamed", "several", "own do_execute", "do_execute listener"])
def test_a_first_statement_that_goes_through_no_pipeline_comes_after_the_claim(deferring: Database, first: str) -> None:
    db, seen = deferring, list[str]()
    with db.other_engine() as engine:

        def work(session: Session, key: str) -> str:
            if first == "streamed":
                found = session.execute(sa.text("SELECT 1"), execution_options={"stream_results": True})
                assert found.scalar_one() == 1
            elif first == "several":
                session.execute(sa.text("SET LOCAL application_name = 'a'; SET LOCAL application_name = 'b'"))
            effect(session, key)
            return key

        def heard(cursor: Any, statement: str, *rest: Any) -> None:
            seen.append(statement)

        order = order_of(db, work, idem=db.table(engine), deferred=True)
        order("before")
        dialect: Any = engine.dialect
        if first == "own do_execute":
            original = dialect.do_execute
            dialect.do_execute = lambda cursor, statement, *rest: (
                heard(cursor, statement),
                original(cursor, statement, *rest),
            )
        elif first == "do_execute listener":
            event.listen(engine, "do_execute", heard)
        assert [order.outcome("k").replayed for _ in range(2)] == [False, True]
    assert db.effects() == ["before", "k"]
    assert not first.endswith(("do_execute", "listener")) or any("effect" in statement for statement in seen)


@pytest.mark.parametrize("wait", [None, timedelta(), timedelta(seconds=1)], ids=["as long", "at once", "a second"])
def test_a_lock_by_name_that_comes_first_comes_after_the_claim(deferring: Database, wait: timedelta | None) -> None:
    """Else who calls with the same key meets the lock, where it was to wait for the answer."""
    db = deferring

    @db.idem.transactional("order", key="key", share_scope=True, wait=timedelta())
    def beside(session: Session, key: str) -> str:
        return "beside"

    @db.idem.transactional("order", key="key", share_scope=True, deferred=True)
    def order(session: Session, key: str) -> str:
        db.idem.lock_name(session, "stock", wait=wait)
        with pytest.raises(InProgressError):
            Context().run(beside, key)
        return key

    assert [order.outcome("k").replayed for _ in range(2)] == [False, True]


@contextmanager
def trouble(db: Database, name: str) -> Iterator[tuple[IdemTable, type[Exception]]]:
    """Something that keeps a claim from being had."""
    if name == "done":
        db.idem.transactional("late.held", key="name", share_scope=True)(effect)("k")
        yield db.idem, IdempotencyError
    elif name == "held":
        with db.session() as holder:
            db.idem.transactional("late.held", key="name", share_scope=True)(effect).join(holder.session, "k")
            yield db.idem, InProgressError
            holder.rollback()
    elif name == "no table":
        with db.other_engine() as engine:
            yield IdemTable(engine, table="nowhere"), SchemaError
    else:
        with db.other_engine(connect_args={"options": "-c default_transaction_read_only=on"}) as engine:
            yield db.table(engine), SessionNotUsableError


@pytest.mark.parametrize("reset", ["rollback", None])
@pytest.mark.parametrize("level", [None, "SERIALIZABLE"])
@pytest.mark.parametrize("name", ["done", "held", "no table"])
def test_a_function_that_commits_before_all_else_leaves_no_transaction_open_where_the_key_is_not_to_be_had(
    deferring: Database, reset: Any, level: str | None, name: str
) -> None:
    db, idle = deferring, 0
    with db.other_engine(pool_reset_on_return=reset, pool_size=2) as engine, trouble(db, name) as _:
        late = db.table(engine, **({"table": "nowhere"} if name == "no table" else {}))

        @late.transactional(
            "late.held", key="name", share_scope=True, deferred=True, wait=timedelta(), isolation_level=level
        )
        def order(session: Any, name: str, amount: int = 1) -> int:
            session.commit()
            return 0

        for _ in range(2):
            with suppress(IdempotencyError):
                order("k")
        assert engine.pool.checkedout() == 0
        with engine.connect() as one, engine.connect() as another:
            for connection in (one, another):
                driver: Any = connection.connection.driver_connection
                assert driver.info.transaction_status == idle
    assert db.effects() == (["k"] if name == "done" else [])


@pytest.mark.parametrize("name", ["held", "no table", "read-only"])
@pytest.mark.parametrize("fails", [False, True])
def test_a_claim_that_comes_last_is_refused_in_the_words_of_one_that_comes_first(
    deferring: Database, name: str, fails: bool
) -> None:
    db = deferring
    with trouble(db, name) as (idem, refusal):

        @idem.transactional("late.held", key="key", share_scope=True, deferred=True, wait=timedelta())
        def order(session: Any, key: str, amount: int = 1) -> None:
            if fails:
                raise LookupError(key)
            session.add(Effect(name=key, amount=1))

        with pytest.raises(refusal):
            order("k")
    assert db.effects() == []


WAYS = ["streamed", "several", "commit"]


def unfit_for_a_pipeline(session: Session, way: str) -> None:
    """Send something that takes no claim along, so that the claim is sent by itself, before it."""
    if way == "streamed":
        session.execute(sa.text("SELECT 1"), execution_options={"yield_per": 1}).all()
    elif way == "several":
        session.execute(sa.text("INSERT INTO effect (name, amount) VALUES ('a;b', 1)"))
    else:
        session.commit()


@pytest.mark.parametrize("name", ["held", "no table", "read-only"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("then", ["raises", "translates", "swallows"])
@pytest.mark.parametrize("remember", [(), Declined])  # which has a SAVEPOINT sent first
def test_a_claim_that_comes_by_itself_is_refused_in_the_words_of_one_that_comes_first(
    deferring: Database, name: str, way: str, then: str, remember: Any
) -> None:
    db = deferring
    with trouble(db, name) as (idem, refusal):
        options = {"share_scope": True, "deferred": True, "wait": timedelta(), "remember": remember}

        @idem.transactional("late.held", key="key", **options)
        def order(session: Any, key: str, amount: int = 1) -> None:
            try:
                unfit_for_a_pipeline(session, way)
            except Exception as error:
                if then == "translates":
                    raise Declined(key) from error
                if then == "raises":
                    raise

        with pytest.raises(refusal):
            order("k")
        with pytest.raises(refusal):
            order("k")
    assert db.effects() == []


@pytest.mark.parametrize("way", [*WAYS, "insert"])
def test_what_interrupts_a_claim_on_its_way_is_raised_and_the_function_does_not_run_again(way: str) -> None:
    db, begun = db_of("postgresql18"), list[str]()
    with trouble(db, "held") as (idem, _):

        @idem.transactional("late.held", key="key", share_scope=True, deferred=True)
        def order(session: Any, key: str, amount: int = 1) -> None:
            begun.append(key)
            if way == "insert":
                effect(session, key)
            else:
                unfit_for_a_pipeline(session, way)

        with interrupting(db), pytest.raises(TimeLimit):
            order("k")
    assert begun == ["k"]
    assert order_of(db, deferred=True)("k"), "no connection of the pool is left in the middle of that"
    assert db.engine.pool.checkedout() == 0


def test_what_interrupts_a_claim_before_anybody_waits_for_its_answer_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    db, put = db_of("postgresql18"), Line._put

    def interrupted(line: Line, *args: Any) -> Any:
        put(line, *args)
        pgconn = line.driver.pgconn
        pgconn.send_flush_request()
        pgconn.flush()
        select.select([pgconn.socket], [], [])  # its answer is there, and nobody has said whose it is
        raise TimeLimit

    order = order_of(db, deferred=True)
    with monkeypatch.context() as patched:
        patched.setattr(Line, "_put", interrupted)
        with pytest.raises(TimeLimit):
            order("k")
    assert (db.effects(), db.rows()) == ([], [])
    assert [order.outcome("k").replayed for _ in range(2)] == [False, True], "that connection is nobody's any more"
    assert db.engine.pool.checkedout() == 0


def test_an_exception_to_remember_before_the_first_statement_is_remembered(deferring: Database) -> None:
    db = deferring

    def work(session: Session, key: str) -> None:
        raise Declined(key)

    order = order_of(db, work, deferred=True, remember=Declined)
    for _ in range(2):
        with pytest.raises(Declined):
            order("k")
        assert [row.status for row in db.rows()] == [Status.FAILED.code]


def test_a_function_that_fails_because_its_work_was_done_is_answered_with_what_that_gave(deferring: Database) -> None:
    db = deferring

    def work(session: Session, key: str) -> str:
        if db.effects():
            raise LookupError("it is there already")
        effect(session, key)
        return key

    order = order_of(db, work, deferred=True)
    assert order("k") == "k"
    assert order.outcome("k").replayed
    with pytest.raises(FingerprintMismatchError):
        order("k", 2)
    with pytest.raises(LookupError):
        order("another")
    assert [row.key for row in db.rows()] == ["k"]


@pytest.mark.parametrize("then", ["goes on", "translates", "fails by itself"])
@pytest.mark.parametrize("end", ["closed", "invalidated"])
@pytest.mark.parametrize("remember", [(), Declined])
def test_a_connection_that_is_lost_before_the_first_statement_is_as_lost_as_behind_a_claim(
    deferring: Database, then: str, end: str, remember: Any
) -> None:
    db, told = deferring, list[Any]()

    for deferred in (False, True):
        lost = list[str]()

        def work(session: Session, key: str, lost: list[str] = lost) -> str:
            if not lost:
                lost.append(key)
                connection = session.connection()
                if end == "closed":
                    connection.connection.driver_connection.close()  # type: ignore[union-attr]
                else:
                    connection.invalidate()
                if then == "fails by itself":
                    raise Declined(key)
            try:
                session.execute(sa.insert(Effect), {"name": key})
            except Exception as error:
                if then == "translates":
                    raise LookupError(key) from error
                raise
            return key

        order = order_of(db, work, deferred=deferred, remember=remember)
        try:
            told.append(order.outcome(f"{deferred}").attempts)
        except Exception as error:
            told.append(type(error))
    if (then, end, remember, db.backend) == ("fails by itself", "closed", (), "postgresql18"):
        assert told == [Declined, 2], "whether its work was done before another attempt can tell"
    else:
        assert told[1] == told[0]


def test_a_function_that_ends_its_transaction_and_fails_before_all_else_has_its_own_error(deferring: Database) -> None:
    db = deferring

    def work(session: Session, key: str) -> None:
        session.rollback()
        raise LookupError(key)

    order = order_of(db, work, deferred=True)
    with pytest.raises(LookupError):
        order("k")
    assert db.rows() == []


def test_what_interrupts_a_function_before_its_first_statement_is_raised_at_once() -> None:
    db = db_of("postgresql18")
    with trouble(db, "held") as (idem, _):

        @idem.transactional("late.held", key="key", share_scope=True, deferred=True, wait=timedelta())
        def order(session: Any, key: str, amount: int = 1) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            order("k")


def test_a_replay_shows_the_function_nothing_of_the_row(deferring: Database, caplog: pytest.LogCaptureFixture) -> None:
    db, shown = deferring, list[str]()

    def work(session: Session, key: str) -> str:
        try:
            session.execute(sa.insert(Effect), [{"name": f"{number}", "amount": 1} for number in range(2)])
        except Exception as error:
            shown.append(repr(error) + str(error))
            raise
        return "canary"

    order = order_of(db, work, deferred=True)
    with caplog.at_level(logging.DEBUG):
        assert [order.outcome("wagtail").replayed for _ in range(3)] == [False, True, True]
    assert len(shown) == (2 if db.backend == "postgresql18" else 0)
    told = " ".join(
        [*shown, *(f"{record.getMessage()}" for record in caplog.records if "sqlalchemy" not in record.name)]
    )
    assert "canary" not in told
    assert "wagtail" not in told
    assert "Pipeline" not in told, "what the driver logs of a claim that was lost is no news to anybody"


def test_an_engine_at_the_address_of_one_that_is_gone_is_listened_to() -> None:
    db = db_of("postgresql18")
    engine, successor = (sa.create_engine(db.engine.url, poolclass=sa.NullPool) for _ in range(2))
    order_of(db, idem=IdemTable(engine), deferred=True)("k")
    address, kept = id(engine), engine.dialect  # what the engine's listeners are known by lives on
    parts = (successor.pool, successor.dialect, successor.url)
    del engine, successor
    gc.collect()
    successor = engine_at(address, *parts)
    order_of(db, idem=IdemTable(successor), deferred=True)("k")
    for dialect in (kept, successor.dialect):
        heard: Any = dialect.dispatch
        assert (len(heard.do_execute), len(heard.handle_error)) == (1, 2)


def engine_at(address: int, *parts: Any) -> sa.Engine:
    """An engine where another one was.

    What `create_engine` makes besides may take the place first, for good and in each of any number of attempts.
    """
    beside = list[sa.Engine]()
    for _ in range(1_000_000):
        engine = sa.Engine.__new__(sa.Engine)
        if id(engine) == address:
            sa.Engine.__init__(engine, *parts)
            return engine
        beside.append(engine)
    raise AssertionError("something lives at the address, the first engine or what took its place")


# --- where the claim cannot travel with the function's first statement ----------------------------------------------------


KINDS = pytest.mark.parametrize(
    ("options", "level"), [({}, None), ({}, "SERIALIZABLE"), ({"autobegin": False}, "SERIALIZABLE")], ids=str
)


@KINDS
@pytest.mark.parametrize("lookaside", [False, True])
def test_a_claim_that_cannot_travel_begins_its_transaction_once(
    db: Database, options: dict[str, Any], level: str | None, lookaside: bool
) -> None:
    begun = list[Any]()

    class Told(Session):
        pass

    def after_begin(session: Session, transaction: Any, connection: Any) -> None:
        begun.append(transaction)
        connection.exec_driver_sql("SELECT 1")  # from now on nothing can be sent along with BEGIN

    event.listen(Told, "after_begin", after_begin)
    idem = db.table(maker_of(db, Told, **options))
    order = order_of(db, idem=idem, deferred=True, lookaside=lookaside, isolation_level=level)
    assert order.outcome("k").replayed is False
    assert len(begun) == 1 + lookaside
    assert order.outcome("k").replayed
    assert db.effects() == ["k"]


def maker_of(db: Database, kind: type[Session], engine: Any = None, **options: Any) -> Any:
    """A sessionmaker whose sessions, or those inside of them, are of a class."""
    engine = db.engine if engine is None else engine
    if db.is_async:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        return async_sessionmaker(engine, sync_session_class=kind, **options)
    return sessionmaker(engine, class_=kind, **options)


@KINDS
def test_a_claim_that_was_to_travel_takes_any_session_and_any_level(
    db: Database, options: dict[str, Any], level: str | None
) -> None:
    order = order_of(db, idem=db.table(maker_of(db, Session, **options)), deferred=True, isolation_level=level)
    assert [order.outcome("k").replayed for _ in range(3)] == [False, True, True]
    assert db.effects() == ["k"]
