"""What `unseen` has claimed is given while it stands, and committed when all of it was given: else it would be lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IllegalStateChangeError
from sqlalchemy.orm import Session

from idemtable import Flag, RetryTransactionError, SessionNotUsableError, TransactionError
from idemtable.claim import attempt
from tests.support.backends import db_of
from tests.support.database import Database, Effect, effect


def stop_after(db: Database, session: Any, count: int, chunk: int = 3) -> list[str]:
    """Handle so many events of six, and leave the loop."""
    done: list[str] = []
    items = [{"id": f"e{number}"} for number in range(6)]
    for event in db.idem.unseen(session, "batch", items, key="id", chunk=chunk):
        done.append(event["id"])
        db.on(session, lambda sync, name=event["id"]: effect(sync, name))
        if len(done) == count:
            break
    return done


def nothing_was_done(db: Database) -> None:
    assert (db.effects(), db.rows()) == ([], [])


def they_come_again(db: Database, held: Any) -> None:
    """Roll back: nothing was done, and all the events are new."""
    held.rollback()
    nothing_was_done(db)
    assert stop_after(db, held.session, 6) == [f"e{number}" for number in range(6)]
    held.commit()
    assert len(db.effects()) == 6


def test_a_commit_after_a_loop_that_was_left_early_is_refused_and_the_items_come_again(db: Database) -> None:
    with db.session() as held:
        stop_after(db, held.session, 2)
        with pytest.raises(TransactionError, match="not given to the loop"):
            held.commit()
        they_come_again(db, held)


@pytest.mark.parametrize("gives", [False, True], ids=["claim_many", "unseen"])
def test_the_first_batch_of_a_session_may_be_claimed_as_that_is_committed(db: Database, gives: bool) -> None:
    heard: list[str] = []

    def claim(session: Session) -> None:
        heard.append("claim")
        if gives:
            next(db.idem.unseen(db.given(session), "batch", list("abc"), key=str))
        else:
            db.idem.claim_many(db.given(session), "batch", list("abc"))

    with db.session() as held:
        for listener in (claim, lambda session: heard.append("next")):
            held.run(lambda session, listener=listener: sa.event.listen(session, "before_commit", listener, once=True))
        held.run(lambda session: effect(session, "tea"))
        with pytest.raises(TransactionError, match="not given to the loop") if gives else nullcontext():
            held.commit()
    assert heard == ["claim", "next"]
    assert (len(db.rows()), db.effects()) == ((0, []) if gives else (3, ["tea"]))


def test_a_commit_in_the_middle_of_the_loop_is_refused(db: Database) -> None:
    items = [{"id": f"e{number}"} for number in range(3)]
    with db.session() as held, pytest.raises(TransactionError, match="give unseen"):
        for _ in db.idem.unseen(held.session, "batch", items, key="id"):
            held.commit()
    nothing_was_done(db)


def test_a_loop_that_an_exception_ends_is_not_committed_by_whoever_swallows_it(db: Database) -> None:
    with db.session() as held:
        with pytest.raises(LookupError):
            for _ in db.idem.unseen(held.session, "batch", [{"id": "a"}, {"id": "b"}], key="id"):
                raise LookupError
        with pytest.raises(TransactionError):
            held.commit()
    nothing_was_done(db)


def test_a_loop_left_at_the_end_of_a_chunk_may_be_committed(db: Database) -> None:
    with db.session() as held:
        assert stop_after(db, held.session, 3) == ["e0", "e1", "e2"]
        held.commit()
        assert stop_after(db, held.session, 9) == ["e3", "e4", "e5"]
        held.commit()
    assert len(db.effects()) == 6


def test_savepoints_inside_the_loop_may_be_released_and_rolled_back(db: Database) -> None:
    items = [{"id": f"e{number}"} for number in range(4)]

    def handle(name: str) -> Callable[[Session], None]:
        def work(session: Session) -> None:
            with session.begin_nested() as savepoint:
                effect(session, name)
                if name == "e2":
                    savepoint.rollback()

        return work

    with db.session() as held:
        for event in db.idem.unseen(held.session, "batch", items, key="id"):
            held.run(handle(event["id"]))
        held.commit()
    assert db.effects() == ["e0", "e1", "e3"]
    assert len(db.rows()) == 4


def test_a_savepoint_round_the_loop_takes_its_claims_with_it(db: Database) -> None:
    def begin(session: Session) -> Any:
        return session.begin_nested()

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        savepoint = held.run(begin)
        stop_after(db, held.session, 1)
        held.run(lambda session: savepoint.rollback())
        held.commit()
    assert (db.effects(), db.rows()) == (["before"], [])

    with db.session() as held:
        savepoint = held.run(begin)
        stop_after(db, held.session, 1)
        held.run(lambda session: savepoint.commit())
        with pytest.raises(TransactionError):
            held.commit()
    assert db.rows() == []


def test_a_commit_after_a_loop_that_was_left_early_is_refused_where_a_savepoint_is_still_open(db: Database) -> None:
    def begin(session: Session) -> Any:
        session.begin()
        session.begin_nested()
        return session.get_transaction()

    with db.session() as held:
        root = held.run(begin)
        stop_after(db, held.session, 1)
        with pytest.raises(TransactionError, match="not given to the loop"):
            held.run(lambda session: root.commit())
        they_come_again(db, held)


def test_a_commit_of_the_connection_under_the_session_is_refused_and_nothing_of_it_is_committed_later(
    db: Database,
) -> None:
    def go_on(session: Session) -> None:
        connection = session.connection()
        with pytest.raises(TransactionError, match="not given to the loop"):
            connection.commit()
        connection.rollback()
        connection.execute(sa.insert(Effect).values(name="later", amount=1))
        connection.commit()

    with db.session() as held:
        stop_after(db, held.session, 1)
        held.run(go_on)
    assert (db.effects(), db.rows()) == (["later"], [])


def test_a_loop_in_a_session_beside_the_calls_own_is_not_committed_with_the_call(sync_db: Database) -> None:
    db = sync_db
    with db.other_engine() as engine:
        sa.event.listen(
            engine, "begin", lambda connection: None
        )  # which keeps no COMMIT from travelling with the result

        @db.table(engine).transactional("unread", key="key")
        def importing(session: Session, key: str) -> None:
            stop_after(db, Session(session.connection(), join_transaction_mode="control_fully"), 1)

        with pytest.raises(TransactionError, match="not given to the loop"):
            importing("k")
    nothing_was_done(db)


def test_a_session_that_was_closed_in_between_is_free_again(db: Database) -> None:
    with db.session() as held:
        stop_after(db, held.session, 1)
        held.run(lambda session: session.close())
        held.run(lambda session: effect(session, "later"))
        held.commit()
    assert (db.effects(), db.rows()) == (["later"], [])


def test_a_call_that_leaves_a_loop_of_its_own_early_is_rolled_back(db: Database) -> None:
    counts = [1, 6]

    @db.idem.transactional("unread", key="key")
    def importing(session: Any, key: str) -> int:
        return len(stop_after(db, db.given(session), counts.pop(0)))

    with pytest.raises(TransactionError, match="not given"):
        importing("k")
    nothing_was_done(db)
    assert importing("k") == 6
    assert len(db.effects()) == 6


def test_a_claim_that_is_rolled_back_inside_the_callers_transaction_takes_its_loop_with_it(db: Database) -> None:
    @db.idem.transactional("unread", key="key", remember=(LookupError,))
    def importing(session: Any, key: str) -> None:
        stop_after(db, db.given(session), 1)
        raise LookupError

    for _ in range(2):
        with pytest.raises(LookupError):
            importing("k")
    assert [row.key for row in db.rows()] == ["k"], "the failure is remembered, and nothing of the loop"


# --- what is rolled back inside the loop ------------------------------------------------------------------------------


def fail_to_flush(session: Session) -> None:
    session.add_all([Effect(id=1, name="a"), Effect(id=1, name="b")])
    with pytest.raises(sa.exc.IntegrityError):
        session.flush()


def lose(session: Session) -> None:
    session.connection().invalidate()
    session.rollback()


def fail_to_commit(session: Session) -> None:
    def fail(connection: sa.Connection) -> None:
        raise LookupError

    sa.event.listen(session.connection(), "commit", fail)
    with pytest.raises(LookupError):
        session.commit()
    session.rollback()


ROLLBACKS: dict[str, Callable[[Session], Any]] = {
    "rollback": lambda session: session.rollback(),
    "close": lambda session: session.close(),
    "connection": lambda session: session.connection().rollback(),
    "lost": lose,
    "flush": fail_to_flush,
}


def rolls_back(db: Database, session: Any, back: Callable[[Session], Any], at: int, items: Any, chunk: int) -> None:
    """Roll back at an item of a loop that goes on, and see that it ends there."""
    given = []
    with pytest.raises(RetryTransactionError, match=r"were rolled back .* from its first item"):
        for event in db.idem.unseen(session, "batch", items, key="id", chunk=chunk):
            given.append(event["id"])
            if len(given) == at:
                db.on(session, back)
    assert given == [f"e{number}" for number in range(at)]


@pytest.mark.parametrize("back", ROLLBACKS)
@pytest.mark.parametrize("at", [2, 3, 6], ids=["inside a chunk", "at the end of a chunk", "at the end"])
def test_no_item_is_given_after_a_rollback_of_its_claim(db: Database, back: str, at: int) -> None:
    read = []

    def source() -> Any:
        for number in range(6):
            read.append(number)
            yield {"id": f"e{number}"}

    with db.session() as held:
        rolls_back(db, held.session, ROLLBACKS[back], at, source(), 3)
        if at == 2:
            assert len(read) == 3
        held.run(lambda session: session.close())
        nothing_was_done(db)
        assert stop_after(db, held.session, 6) == [f"e{number}" for number in range(6)]
        held.commit()
    assert len(db.effects()) == 6


def test_no_item_is_given_after_a_commit_that_failed_at_the_end_of_a_chunk(db: Database) -> None:
    with db.session() as held:
        rolls_back(db, held.session, fail_to_commit, 3, [{"id": f"e{number}"} for number in range(6)], 3)
    nothing_was_done(db)


@pytest.mark.parametrize("of", ["session", "connection"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_no_item_is_given_after_its_claim_was_rolled_back_with_a_savepoint(db: Database, of: str, at: int) -> None:
    def begin(session: Session) -> Any:
        effect(session, "before")
        return session.begin_nested() if of == "session" else session.connection().begin_nested()

    with db.session() as held:
        savepoint = held.run(begin)
        items = [{"id": f"e{number}"} for number in range(6)]
        rolls_back(db, held.session, lambda session: savepoint.rollback(), at, items, 2)
        held.commit()
        assert (db.effects(), db.rows()) == (["before"], [])
        assert stop_after(db, held.session, 6) == [f"e{number}" for number in range(6)]


def test_no_chunk_is_claimed_after_the_source_of_the_items_has_rolled_back(db: Database) -> None:
    with db.session() as held:

        def source() -> Any:
            yield {"id": "e0"}
            held.rollback()
            yield {"id": "e1"}

        async def arriving() -> Any:
            yield {"id": "e0"}
            await held.session.rollback()
            yield {"id": "e1"}

        rolls_back(db, held.session, lambda session: None, 1, arriving() if db.is_async else source(), 1)
    nothing_was_done(db)


def test_what_was_committed_at_the_end_of_a_chunk_stands_when_a_later_one_is_rolled_back(db: Database) -> None:
    with db.session() as held:

        def end(event: dict[str, str]) -> None:
            if event["id"] == "e2":
                held.commit()
            if event["id"] == "e4":
                held.rollback()

        with pytest.raises(RetryTransactionError, match="from its first item"):
            for event in db.idem.unseen(held.session, "batch", [{"id": f"e{n}"} for n in range(6)], key="id", chunk=3):
                held.run(lambda session, name=event["id"]: effect(session, name))
                end(event)
        assert stop_after(db, held.session, 6) == ["e3", "e4", "e5"]
        held.commit()
    assert db.effects() == [f"e{number}" for number in range(6)]


def test_a_rollback_behind_the_commit_of_a_chunk_does_not_end_the_loop(db: Database) -> None:
    items = [{"id": f"e{number}"} for number in range(6)]
    with db.session() as held:
        for number, event in enumerate(db.idem.unseen(held.session, "batch", items, key="id", chunk=3)):
            held.run(lambda session, name=event["id"]: effect(session, name))
            if number == 2:
                held.commit()
                held.run(lambda session: session.execute(sa.text("SELECT 1")))
                held.rollback()
        held.commit()
    assert len(db.effects()) == len(db.rows()) == 6


def begun_in_two_phases(engine: sa.Engine, way: str) -> tuple[Session, Callable[[], object]]:
    """A session in a transaction of two phases, with a savepoint open, and what commits it."""
    if way == "session":
        session = Session(engine, twophase=True)
        session.execute(sa.text("SELECT 1"))
        session.begin_nested()
        root = session.get_transaction()
        assert root is not None
        return session, root.commit
    connection = engine.connect()
    whole = connection.begin_twophase()
    return Session(connection), whole.commit


@pytest.mark.parametrize("way", ["session", "connection"])
def test_a_loop_that_was_left_early_is_committed_in_no_two_phases(way: str) -> None:
    db = db_of("mariadb")  # where they need no setting of the server
    session, commit = begun_in_two_phases(db.engine, way)
    with session:
        stop_after(db, session, 1)
        with pytest.raises((TransactionError, IllegalStateChangeError)) as refused:
            commit()
        error = refused.value  # SQLAlchemy 2.0 raises one of its own over what was raised as it prepared
        assert "not given to the loop" in str(error if isinstance(error, TransactionError) else error.__context__)
    if way == "connection":
        session.get_bind().close()
    nothing_was_done(db)


def test_no_item_is_given_after_a_rollback_of_two_phases() -> None:
    db = db_of("mariadb")
    with Session(db.engine, twophase=True) as session:
        events = db.idem.unseen(session, "batch", [{"id": "a"}, {"id": "b"}], key="id")
        next(events)
        session.rollback()
        with pytest.raises(RetryTransactionError, match="from its first item"):
            next(events)
    nothing_was_done(db)


def test_a_batch_that_was_refused_when_it_had_its_keys_is_not_missed_at_commit(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.session() as held:
        monkeypatch.setattr(attempt, "second_connection", lambda session: "it has two")
        with pytest.raises(SessionNotUsableError, match="it has two"):
            db.idem.claim_many(held.session, "batch", ["a"])
        monkeypatch.undo()
        held.run(lambda session: effect(session, "kept"))
        held.commit()
    assert (db.effects(), db.rows()) == (["kept"], [])


def test_a_call_that_rolls_back_inside_its_loop_is_told_to_begin_again(db: Database) -> None:
    rollbacks = [True]

    @db.idem.transactional("unread", key="key")
    def importing(session: Any, key: str) -> int:
        count = 0
        for event in db.idem.unseen(db.given(session), "batch", [{"id": f"e{n}"} for n in range(6)], key="id"):
            effect(session, event["id"])
            count += 1
            if count == 2 and rollbacks and rollbacks.pop():
                session.rollback()
        return count

    outcome = importing.outcome("k")
    assert (outcome.value, outcome.attempts) == (6, 2)
    assert db.effects() == [f"e{number}" for number in range(6)]


# --- what is undone behind the session's back -------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["unseen", "claim_many"])
def test_a_transaction_that_was_undone_behind_the_sessions_back_is_not_committed(db: Database, verb: str) -> None:
    def undo(session: Session) -> None:
        session.connection().exec_driver_sql("ROLLBACK")
        session.connection().exec_driver_sql("BEGIN")
        effect(session, "after")

    with db.session() as held:
        if verb == "unseen":
            assert stop_after(db, held.session, 6) == [f"e{number}" for number in range(6)]
        else:
            assert db.idem.claim_many(held.session, "batch", ["e0"]) == [Flag.New]
        held.run(undo)
        assert db.idem.claim_many(held.session, "batch", ["another"]) == [Flag.New]
        with pytest.raises(RetryTransactionError, match="begin again, from the first item"):
            held.commit()
        they_come_again(db, held)


def test_a_transaction_that_an_error_has_ended_is_not_taken_for_committed(db: Database) -> None:
    if db.kind != "postgresql":  # elsewhere a statement that fails leaves the transaction as it was
        return

    def fail(session: Session) -> None:
        with pytest.raises(sa.exc.DBAPIError):
            session.connection().exec_driver_sql("SELECT 1 / 0")

    with db.session() as held:
        assert db.idem.claim_many(held.session, "batch", ["a"]) == [Flag.New]
        held.run(fail)
        with pytest.raises(RetryTransactionError):  # the server would answer ROLLBACK, and that is no error
            held.commit()
    nothing_was_done(db)


def test_a_batch_that_another_of_the_transaction_has_taken_over_is_committed(db: Database) -> None:
    with db.session() as held:
        assert db.idem.claim_many(held.session, "batch", ["a"]) == [Flag.New]
        held.run(lambda session: session.execute(sa.text("UPDATE idemtable SET expires_at = created_at")))
        assert db.idem.claim_many(held.session, "batch", ["a"]) == [Flag.New]
        held.commit()
    assert len(db.rows()) == 1


@contextmanager
def unguarded(monkeypatch: pytest.MonkeyPatch) -> Any:
    from idemtable.claim.unread import Claims

    with monkeypatch.context() as patch:
        patch.setattr(Claims, "refuse_unread", lambda self, session=None: None)
        yield


def test_without_the_refusal_items_would_be_lost(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the other tests of this page would not notice if it were not so."""
    with unguarded(monkeypatch), db.session() as held:
        done = stop_after(db, held.session, 2)
        held.commit()
    with db.session() as held:
        done += stop_after(db, held.session, 6)
        assert db.idem.claim_many(held.session, "batch", ["e2"]) == [Flag.Seen]
        held.commit()
    assert done == ["e0", "e1", "e3", "e4", "e5"]


# --- a connection that is kept ----------------------------------------------------------------------------------------


@contextmanager
def kept_connection(db: Database) -> Any:
    """A connection that many sessions work on, one after the other, as a worker keeps one for its life."""
    if db.loop is None:
        with db.engine.connect() as connection:
            yield connection
    else:
        connection = db.loop.run(db.engine.connect().start())
        try:
            yield connection
        finally:
            db.loop.run(connection.close())


@pytest.mark.parametrize("inside", [False, True], ids=["committed", "in one transaction"])
def test_sessions_on_a_connection_that_is_kept_leave_nothing_behind_there(db: Database, inside: bool) -> None:
    def heard(connection: Any) -> dict[str, int]:
        dispatch = getattr(connection, "sync_connection", connection).dispatch
        return {name: len(list(getattr(dispatch, name))) for name in ("begin", "commit", "rollback_savepoint")}

    counts = []
    with kept_connection(db) as connection:
        if inside:
            begun = connection.begin()
            if db.loop is not None:
                db.loop.run(begun.start())
        for number in range(4):
            with db.session(connection) as held:
                assert stop_after(db, held.session, 6) == ([f"e{n}" for n in range(6)] if not number else [])
                flags = db.idem.claim_many(held.session, "kept", [f"k{number}"])
                assert flags == [Flag.New]
                held.commit()
            counts.append(heard(connection))
    assert counts == counts[:1] * 4
    assert len(db.rows()) == (0 if inside else 10)


def test_a_rollback_in_a_session_after_another_ones_commit_on_the_connection_does_not_end_the_loop(
    sync_db: Database,
) -> None:
    db = sync_db
    with kept_connection(db) as connection, db.session(connection) as other:
        db.idem.claim_many(other.session, "kept", ["other"])
        other.commit()
        with db.session(connection) as held:
            loop = db.idem.unseen(held.session, "batch", ["a", "b"], key=str, chunk=1)
            assert next(loop) == "a"
            connection.commit()
            other.run(lambda session: session.execute(sa.text("SELECT 1")))
            other.rollback()
            held.run(lambda session: session.close())
            assert next(loop) == "b"
            assert list(loop) == []
            held.commit()
    assert len(db.rows()) == 3


def test_a_session_that_ends_its_savepoint_inside_another_ones_loop_is_let_through(db: Database) -> None:
    with kept_connection(db) as connection, db.session(connection) as held:
        held.begin()
        held.run(lambda session: session.connection())
        with db.session(connection, join_transaction_mode="create_savepoint") as inner:
            for event in db.idem.unseen(held.session, "batch", ["a", "b"], key=str):
                assert db.idem.claim_many(inner.session, "inner", [event]) == [Flag.New]
                inner.commit()
        held.commit()
    assert len(db.rows()) == 4
