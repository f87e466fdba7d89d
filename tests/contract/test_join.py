"""Joining: the caller's transaction carries the claim, and only the caller ends it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import idemtable
from idemtable import (
    FingerprintMismatchError,
    LostClaimError,
    ReentrantCallError,
    ResultTooLargeError,
    SessionNotUsableError,
    Status,
)
from tests.support.database import Database, Effect, Unique, effect


@pytest.fixture
def order(db: Database) -> Any:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, amount: int = 1) -> int:
        return effect(session, key, amount)

    return order


def test_a_joined_call_commits_with_the_caller(db: Database, order: Any) -> None:
    with db.session() as held:
        held.run(lambda session: effect(session, "callers"))
        first = order.join(held.session, "k")
        held.commit()

    assert db.effects() == ["callers", "k"]
    assert order("k") == first
    assert db.effects() == ["callers", "k"]


def test_a_joined_call_rolls_back_with_the_caller(db: Database, order: Any) -> None:
    with db.session() as held:
        order.join(held.session, "k")
        held.rollback()
    assert (db.effects(), db.rows()) == ([], [])
    assert order.outcome("k").replayed is False


def test_a_joined_call_replays_what_was_committed_before(db: Database, order: Any) -> None:
    first = order("k")
    with db.session() as held:
        held.run(lambda session: effect(session, "callers"))
        assert order.join(held.session, "k") == first
        held.run(lambda session: effect(session, "more"))
        held.commit()

    assert db.effects() == ["k", "callers", "more"]


def test_a_joined_call_begins_a_transaction_where_the_caller_has_none(db: Database, order: Any) -> None:
    with db.session() as held:
        assert held.run(lambda session: session.in_transaction()) is False
        order.join(held.session, "k")
        assert held.run(lambda session: session.in_transaction()) is True
        held.commit()

    assert db.effects() == ["k"]


def test_an_exception_of_a_joined_call_that_the_caller_swallows_strands_no_key(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        effect(session, key)
        raise LookupError

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(LookupError):
            order.join(held.session, "k")
        held.run(lambda session: effect(session, "after"))
        held.commit()

    assert db.effects() == ["before", "after"]
    assert db.rows() == []


def test_a_mismatch_in_a_joined_call_leaves_the_callers_transaction_usable(db: Database, order: Any) -> None:
    order("k", amount=2)
    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(FingerprintMismatchError):
            order.join(held.session, "k", amount=3)
        held.run(lambda session: effect(session, "after"))
        held.commit()

    assert db.effects() == ["k", "before", "after"]


def test_a_joined_call_with_too_large_a_result_takes_back_its_own_writes_only(db: Database) -> None:
    small = db.table(max_result_bytes=10)

    @small.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        effect(session, key)
        return "x" * 20

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(ResultTooLargeError):
            order.join(held.session, "k")
        held.commit()

    assert db.effects() == ["before"]
    assert db.rows() == []


def test_what_the_caller_had_pending_is_flushed_outside_the_claims_savepoint(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        raise LookupError

    with db.session() as held:
        held.run(lambda session: session.add(Effect(name="pending")))
        with pytest.raises(LookupError):
            order.join(held.session, "k")
        held.commit()

    assert db.effects() == ["pending"]


@pytest.mark.parametrize("autoflush", [True, False])
def test_a_pending_object_of_the_caller_that_violates_is_not_mistaken_for_a_duplicate(
    db: Database, order: Any, autoflush: bool
) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")
    with db.session(autoflush=autoflush) as held:
        held.run(lambda session: session.add(Unique(name="taken")))
        with pytest.raises(sa.exc.IntegrityError):
            order.join(held.session, "k")
        held.rollback()

    assert (db.effects(), db.rows()) == ([], [])


def test_the_functions_own_unique_violation_passes_a_joined_call_unwrapped(db: Database) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        session.add(Unique(name="taken"))

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(sa.exc.IntegrityError):
            order.join(held.session, "k")
        held.commit()

    assert db.effects() == ["before"]
    assert db.rows() == []


def test_joining_through_another_engine_for_the_same_database_is_one_transaction(db: Database, order: Any) -> None:
    with db.other_engine() as engine:
        if db.kind == "sqlite":
            idemtable.configure_sqlite(engine)
        with db.session(engine) as held:
            order.join(held.session, "k")
            held.rollback()
        assert (db.effects(), db.rows()) == ([], [])
        with db.session(engine) as held:
            order.join(held.session, "k")
            held.commit()
    assert order.outcome("k").replayed
    assert db.effects() == ["k"]


def test_a_commit_in_a_joined_function_is_a_lost_claim_and_its_key_never_runs_again(db: Database) -> None:
    runs = []

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        runs.append(key)
        effect(session, key)
        session.commit()

    with db.session() as held:
        with pytest.raises(LostClaimError, match="commit"):
            order.join(held.session, "k")
        held.rollback()
    with pytest.raises(LostClaimError, match="forget"):
        order("k")

    assert runs == ["k"]
    assert db.effects() == ["k"]
    assert db.idem.get("order", "k").status is Status.IN_PROGRESS


def test_a_rollback_in_a_joined_function_is_a_lost_claim_and_leaves_nothing(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        session.rollback()

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(LostClaimError):
            order.join(held.session, "k")
        held.rollback()

    assert (db.effects(), db.rows()) == ([], [])


def test_something_else_than_a_session_is_refused_before_anything_is_sent(db: Database, order: Any) -> None:
    wrong: list[Any] = [None, "session", db.admin]
    if db.is_async:
        wrong.append(Session(db.admin))
    for session in wrong:
        with pytest.raises(TypeError, match="Session"):
            order.join(session, "k")
    assert (db.effects(), db.rows()) == ([], [])


# --- calls inside calls ----------------------------------------------------------------------------------------------


def test_a_call_inside_a_call_joins_it_and_both_commit_at_once(db: Database) -> None:
    seen = []

    @db.idem.transactional("mail", key="key")
    def mail(session: Any, key: str) -> int:
        return effect(session, f"mail-{key}")

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        number = effect(session, key)
        mail(key)
        if db.kind != "sqlite":
            seen.append(db.effects())
        seen.append(session.scalar(sa.select(sa.func.count(Effect.id))))
        return number

    outcome = order.outcome("k")

    assert outcome.attempts == 1
    assert seen[-1] == 2  # the outer session sees what the inner call wrote
    assert seen[:-1] in ([], [[]])  # and nobody else does before the outer one commits
    assert db.effects() == ["k", "mail-k"]
    assert len(db.rows()) == 2
    assert mail.outcome("k").replayed


def test_an_inner_call_rolls_back_with_the_outer_one(db: Database) -> None:
    fail = [True]

    @db.idem.transactional("mail", key="key")
    def mail(session: Any, key: str) -> int:
        return effect(session, f"mail-{key}")

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        number = mail(key)
        if fail[0]:
            raise LookupError
        return number

    with pytest.raises(LookupError):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])
    fail[0] = False
    order("k")
    assert db.effects() == ["mail-k"]


def test_an_inner_call_that_fails_and_is_caught_takes_back_only_itself(db: Database) -> None:
    @db.idem.transactional("mail", key="key")
    def mail(session: Any, key: str) -> int:
        effect(session, "mail")
        raise LookupError

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        number = effect(session, key)
        with pytest.raises(LookupError):
            mail(key)
        return number

    order("k")
    assert db.effects() == ["k"]
    assert [row.scope for row in db.rows()] == ["order"]


def test_the_same_key_inside_its_own_call_is_refused_at_once(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, depth: int = 0) -> int:
        effect(session, key)
        return order(key, depth + 1)

    with pytest.raises(ReentrantCallError, match="key of its own"):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])


@pytest.mark.parametrize("way", ["call", "lookaside", "deferred", "block", "join", "batch"])
def test_the_same_key_inside_its_own_call_is_refused_as_such_by_another_engines_table_too(
    server_db: Database, way: str
) -> None:
    """It is not joined, for it has a connection of its own; and to try again later would end like this each time."""
    db = server_db
    with db.other_engine() as engine, db.session(engine) as held:
        beside = db.table(engine)
        options = {way: True} if way in ("lookaside", "deferred") else {}

        @beside.transactional("order", key="key", share_scope=True, **options)
        def inner(session: Any, key: str) -> int:
            return effect(session, f"{key} inside")

        def block(key: str) -> None:
            with beside.transaction("order", key):
                pass

        inside: dict[str, Callable[[str], Any]] = {
            "block": block,
            "join": lambda key: inner.join(held.session, key),
            "batch": lambda key: beside.claim_many(held.session, "order", [key]),
        }

        @db.idem.transactional("order", key="key", share_scope=True)
        def order(session: Any, key: str) -> int:
            number = effect(session, key)
            with pytest.raises(ReentrantCallError, match="key of its own"):
                inside.get(way, inner)(key)
            held.rollback()
            inside.get(way, inner)("another key")
            held.rollback()
            return number

        order("k")
    assert "k" in db.effects()
    assert "k inside" not in db.effects()


def test_one_key_in_two_tables_of_one_address_is_two_keys(server_db: Database) -> None:
    """On MariaDB and MySQL an engine's address need not say in which of them a connection looks."""
    db, name = server_db, "idem_elsewhere"
    is_postgresql = db.kind == "postgresql"
    db.execute(f"CREATE SCHEMA {name}")
    try:
        db.table(schema=name).create_all()
        with db.other_engine() as engine:
            there = db.table(engine, schema=name if is_postgresql else None)

            @sa.event.listens_for(getattr(engine, "sync_engine", engine), "connect")
            def look_there(connection: Any, _: Any) -> None:
                if not is_postgresql:
                    connection.cursor().execute(f"USE {name}")

            @there.transactional("order", key="key", share_scope=True)
            def inner(session: Any, key: str) -> str:
                return "there"

            @db.idem.transactional("order", key="key", share_scope=True)
            def order(session: Any, key: str) -> str:
                return f"here, and {inner(key)}"

            assert order("k") == "here, and there"
            assert (len(db.rows()), there.stats().rows) == (1, 1)
    finally:
        db.execute(f"DROP SCHEMA {name}" + (" CASCADE" if is_postgresql else ""))


@pytest.mark.parametrize("form", ["join", "block", "batch"])
@pytest.mark.parametrize("around", ["call", "block"])
def test_what_listens_to_the_commit_of_a_call_is_told_that_it_comes_too_late_and_the_function_runs_once(
    sync_db: Database, form: str, around: str
) -> None:
    db, runs = sync_db, list[str]()

    @db.idem.transactional("late", key="key")
    def late(session: Any, key: str) -> int:
        return effect(session, key)

    def claim(session: Any) -> None:
        if form == "join":
            late.join(session, "k")
        elif form == "batch":
            db.idem.claim_many(session, "late", ["k"])
        else:
            with db.idem.claim(session, "late", "k"):
                pass

    def work(session: Any, key: str) -> int:
        runs.append(key)
        sa.event.listen(session, "before_commit", claim)
        return effect(session, key)

    with pytest.raises(SessionNotUsableError, match=r"late: .* is being committed or undone: make this call inside"):
        if around == "call":
            db.idem.transactional("order", key="key")(work)("k")
        else:
            with db.idem.transaction("order", "k") as order:
                work(order.session, "k")
    assert runs == ["k"]
    assert (db.effects(), db.rows()) == ([], [])


def test_the_same_function_with_another_key_inside_itself_joins(db: Database) -> None:
    @db.idem.transactional("order", key="key", payload=("key",))
    def order(session: Any, key: str, rest: list[str]) -> int:
        number = effect(session, key)
        if rest:
            order(rest[0], rest[1:])
        return number

    order("a", ["b", "c"])
    assert db.effects() == ["a", "b", "c"]
    assert len(db.rows()) == 3


def test_a_joined_call_re_entered_with_its_key_is_refused(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str, depth: int = 0) -> int:
        return order(key, depth + 1)

    with db.session() as held:
        with pytest.raises(ReentrantCallError):
            order.join(held.session, "k")
        held.commit()
    assert db.rows() == []


# --- sessions that cannot carry a claim ------------------------------------------------------------------------------


def each_way(db: Database, order: Any, session: Any) -> Iterator[Callable[[], Any]]:
    """A joined call, a block and a batch, each to be tried in a session of the caller's."""

    def block() -> None:
        with db.idem.claim(session, "block", "k"):
            pass

    yield lambda: order.join(session, "k")
    yield block
    yield lambda: db.idem.claim_many(session, "batch", ["k"])
    yield lambda: list(db.idem.unseen(session, "batch", ["u"], key=str))


def test_a_session_that_begins_nothing_by_itself_is_refused_with_the_cure(db: Database, order: Any) -> None:
    with db.session(autobegin=False) as held:
        for way in each_way(db, order, held.session):
            with pytest.raises(SessionNotUsableError, match=r"session\.begin\(\)"):
                way()
        held.begin()
        for way in each_way(db, order, held.session):
            way()
        held.commit()
    assert db.effects() == ["k"]
    assert len(db.rows()) == 4


def test_a_session_that_was_closed_for_good_is_refused_with_the_cure(db: Database, order: Any) -> None:
    with db.session(close_resets_only=False) as held:
        held.run(lambda session: session.close())
        for way in each_way(db, order, held.session):
            with pytest.raises(SessionNotUsableError, match="make another one"):
                way()
    assert db.rows() == []


def test_a_session_whose_flush_failed_is_refused_with_the_cure(db: Database, order: Any) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")

    def spoil(session: Session) -> None:
        session.add(Unique(name="taken"))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        held.run(spoil)
        with pytest.raises(SessionNotUsableError, match="roll it back") as caught:
            order.join(held.session, "k")
        held.rollback()
        assert caught.value.http_status == 500
        order.join(held.session, "k")
        held.commit()

    assert db.effects() == ["k"]


def test_a_transaction_that_the_server_has_failed_is_refused_with_the_cure(db: Database, order: Any) -> None:
    if db.kind != "postgresql":
        # Only PostgreSQL fails a whole transaction for one statement; elsewhere it goes on and the call must work.
        expected: Any = None
    else:
        expected = SessionNotUsableError

    def spoil(session: Session) -> None:
        with pytest.raises(sa.exc.DBAPIError):
            session.connection().exec_driver_sql("SELECT * FROM no_such_table")

    with db.session() as held:
        held.run(spoil)
        if expected is None:
            order.join(held.session, "k")
            held.commit()
        else:
            with pytest.raises(expected, match="roll"):
                order.join(held.session, "k")
            held.rollback()

    assert db.effects() == ([] if expected else ["k"])


SPELLINGS = ["AUTOCOMMIT", "autocommit"]


@pytest.mark.parametrize("level", SPELLINGS)
def test_an_autocommit_session_is_refused_with_the_cure(db: Database, order: Any, level: str) -> None:
    db.needs_autocommit()
    with db.session() as held:
        held.run(lambda session: session.connection(execution_options={"isolation_level": level}))
        with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
            order.join(held.session, "k")
        with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"), db.idem.claim(held.session, "pay", "k"):
            pass
    assert (db.effects(), db.rows()) == ([], [])


@pytest.mark.parametrize("level", SPELLINGS)
def test_an_autocommit_engine_is_refused_with_the_cure(db: Database, level: str) -> None:
    db.needs_autocommit()
    runs = []
    with db.other_engine(isolation_level=level) as engine:
        idem = db.table(engine)

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> None:
            runs.append(key)

        with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
            order("k")
        with db.session(engine) as held, pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
            order.join(held.session, "k")
    assert runs == []
    assert db.rows() == []


def test_a_read_only_transaction_is_refused_with_the_cure(db: Database, order: Any) -> None:
    sql = {
        "postgresql": "SET TRANSACTION READ ONLY",
        "mariadb": "START TRANSACTION READ ONLY",
        "mysql": "START TRANSACTION READ ONLY",
        "sqlite": "PRAGMA query_only = ON",
    }[db.kind]
    with db.other_engine() as engine:
        if db.kind == "sqlite":
            idemtable.configure_sqlite(engine)
        with db.session(engine) as held:
            held.run(lambda session: session.connection().exec_driver_sql(sql))
            with pytest.raises(SessionNotUsableError, match="read-only"):
                order.join(held.session, "k")
            held.rollback()
    assert (db.effects(), db.rows()) == ([], [])
