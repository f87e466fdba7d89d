"""A function that breaks out of its transaction is told so, and what it left behind never runs a second time."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import LostClaimError, RetryTransactionError, Status
from tests.support.database import Database, Unique, effect, take_out


def test_a_rollback_inside_the_function_is_a_lost_claim_and_leaves_nothing(db: Database) -> None:
    broken = [True]

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        if broken[0]:
            session.rollback()
            effect(session, "after the rollback")

    with pytest.raises(LostClaimError, match="rolled back"):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])
    broken[0] = False
    order("k")
    assert db.effects() == ["k"]


def test_a_commit_inside_a_block_is_a_lost_claim_and_its_key_never_runs_again(db: Database) -> None:
    with pytest.raises(LostClaimError), db.idem.transaction("pay", "k") as claim:

        def work(session: Any) -> None:
            effect(session, "k")
            session.commit()

        db.on(claim.session, work)
    with pytest.raises(LostClaimError, match="forget"), db.idem.transaction("pay", "k"):
        raise AssertionError("must not be entered")
    assert db.effects() == ["k"]


def test_a_commit_and_another_transaction_inside_the_function_keep_what_was_committed_only(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, "committed")
        session.commit()
        effect(session, "after the commit")

    with pytest.raises(LostClaimError):
        order("k")
    assert db.effects() == ["committed"]
    assert db.idem.get("order", "k").status is Status.IN_PROGRESS


@pytest.mark.parametrize("again", [False, True], ids=["last", "then more"])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_a_transaction_that_is_ended_at_its_connection_is_a_lost_claim_and_nothing_follows_it(
    db: Database, end: str, again: bool
) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, "before")
        getattr(session.connection(), end)()
        if again:
            effect(session, "after")

    with pytest.raises(LostClaimError, match="broke out"):
        order("k")
    assert db.effects() == (["before"] if end == "commit" else [])
    assert [record.status for record in db.idem.records("order")] == ([Status.IN_PROGRESS] if end == "commit" else [])


def test_a_rollback_sent_as_text_is_a_lost_claim_and_what_follows_it_is_not_committed(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, "before")
        session.connection().exec_driver_sql("ROLLBACK")
        session.connection().exec_driver_sql("BEGIN")
        effect(session, "after")

    with pytest.raises(LostClaimError):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])


@pytest.mark.parametrize("pooled", [True, False])
def test_a_commit_sent_as_text_is_a_lost_claim_where_the_driver_tells(db: Database, pooled: bool) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        if not pooled:
            take_out(session)
        effect(session, key)
        session.connection().exec_driver_sql("COMMIT")

    if db.url.get_driver_name() in ("asyncmy", "mysqldb"):
        # One ignores the server's status when no bit of it is set, which is what says that no transaction is open, the
        # other shows it to nobody. The result then goes into the row by a transaction of its own: still one effect and one
        # answer.
        order("k")
        assert order.outcome("k").replayed
    else:
        with pytest.raises(LostClaimError):
            order("k")
        with pytest.raises(LostClaimError, match="forget"):
            order("k")
    assert db.effects() == ["k"]


def test_a_function_that_leads_its_connection_to_another_table_of_keys_is_told_how_to_name_its_own(
    server_db: Database,
) -> None:
    db, name, is_postgresql = server_db, "idem_elsewhere", server_db.kind == "postgresql"
    db.execute(f"CREATE SCHEMA {name}")
    home = "public" if is_postgresql else db.sync_url.database

    def order(session: Any, key: str) -> str:
        session.execute(sa.text(f"SET LOCAL search_path TO {name}" if is_postgresql else f"USE {name}"))
        return key

    try:
        db.table(schema=name).create_all()
        with db.other_engine() as engine, pytest.raises(LostClaimError, match=r"USE.*name the table's schema="):
            db.table(engine).transactional("order", key="key")(order)("k")
        with db.other_engine() as engine:
            named = db.table(engine, schema=home)
            assert named.transactional("order", key="key")(order)("k") == "k"
    finally:
        db.execute(f"DROP SCHEMA {name}" + (" CASCADE" if is_postgresql else ""))
    assert len(db.rows()) == 1


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_commit_sent_as_text_inside_the_callers_transaction_is_a_lost_claim_where_the_driver_tells(
    server_db: Database, goes_on: bool
) -> None:
    db = server_db

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        session.connection().exec_driver_sql("COMMIT")
        if goes_on:
            effect(session, "after the commit")

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises((LostClaimError, RetryTransactionError)):
            order.join(held.session, "k")
        with suppress(sa.exc.PendingRollbackError):
            held.commit()  # of a caller who has swallowed that
    assert db.effects()[:2] == ["before", "k"]  # asyncpg and psycopg2 commit what comes after it one by one
    with pytest.raises(LostClaimError, match="forget"):
        order("k")


def test_a_joined_function_that_commits_as_text_and_begins_again_leaves_its_key_without_a_result(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        session.connection().exec_driver_sql("COMMIT")
        session.connection().exec_driver_sql("BEGIN")
        effect(session, "after the commit")

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises((LostClaimError, RetryTransactionError)):
            order.join(held.session, "k")
        with suppress(sa.exc.SQLAlchemyError):
            held.commit()  # of a caller who has swallowed that
    assert db.effects() == ["before", "k"]
    assert [row.status for row in db.rows()] == [Status.IN_PROGRESS.code]


@pytest.mark.parametrize("way", ["commit", "rollback"])
@pytest.mark.parametrize("goes_on", [False, True])
def test_what_ends_the_callers_transaction_on_its_connection_is_a_lost_claim(
    db: Database, way: str, goes_on: bool
) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        getattr(session.connection(), way)()
        if goes_on:
            effect(session, "after that")

    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(LostClaimError):
            order.join(held.session, "k")
        with pytest.raises(sa.exc.InvalidRequestError):
            held.commit()
    committed = way == "commit"
    assert db.effects() == ["before", "k"] * committed
    assert [row.status for row in db.rows()] == [Status.IN_PROGRESS.code] * committed


def test_a_statement_that_fails_and_is_swallowed_ends_as_a_lost_claim_where_it_killed_the_transaction(
    db: Database,
) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        with pytest.raises(sa.exc.IntegrityError):
            session.execute(sa.insert(Unique).values(name="taken"))

    if db.kind == "postgresql":
        with pytest.raises(LostClaimError, match="begin_nested"):
            order("k")
        assert (db.effects(), db.rows()) == ([], [])
    else:  # the statement alone was undone: the transaction is whole
        order("k")
        assert db.effects() == ["k"]
        assert db.idem.get("order", "k").status is Status.COMPLETED


class Said(Exception):
    """What an application makes of all errors of the database."""


def say_it_differently(context: Any) -> None:
    raise Said(type(context.original_exception).__name__) from context.original_exception


@pytest.mark.parametrize("how", ["the claim is gone", "an error was swallowed"])
def test_a_lost_claim_is_one_also_where_the_application_turns_the_databases_errors_into_its_own(
    db: Database, how: str
) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")
    with db.deleting(), db.other_engine() as engine:
        idem = db.table(engine)
        sa.event.listen(getattr(engine, "sync_engine", engine), "handle_error", say_it_differently)

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> None:
            effect(session, key)
            if how == "the claim is gone":
                session.execute(sa.text("DELETE FROM idemtable"))
            else:
                with pytest.raises(Said):
                    session.execute(sa.insert(Unique).values(name="taken"))

        if how == "the claim is gone" or db.kind == "postgresql":
            with pytest.raises(LostClaimError):
                order("k")
            assert (db.effects(), db.rows()) == ([], [])
        else:  # the statement alone was undone
            order("k")
            assert db.effects() == ["k"]
            assert order.outcome("k").replayed


def test_a_swallowed_failure_inside_a_savepoint_of_the_functions_own_is_no_lost_claim(db: Database) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        effect(session, key)
        with pytest.raises(sa.exc.IntegrityError), session.begin_nested():
            session.add(Unique(name="taken"))
            session.flush()
        return "done"

    assert order("k") == "done"
    assert order.outcome("k").replayed
    assert db.effects() == ["k"]


def test_a_flush_that_fails_and_is_swallowed_is_a_lost_claim(db: Database) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        session.add(Unique(name="taken"))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()

    with pytest.raises(LostClaimError):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])
    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(LostClaimError):
            order.join(held.session, "k")
        held.commit()
    assert db.effects() == ["before"]
    assert db.rows() == []


@pytest.mark.parametrize("when", ["in the function", "at the end"])
def test_the_functions_own_unique_violation_passes_as_sqlalchemys_own_error(db: Database, when: str) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")
    runs = []

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        runs.append(key)
        effect(session, key)
        session.add(Unique(name="taken"))
        if when == "in the function":
            session.flush()

    with pytest.raises(sa.exc.IntegrityError) as caught:
        order("k")
    assert type(caught.value) is sa.exc.IntegrityError
    assert runs == ["k"]  # a violation is an answer, not a reason to try again
    assert (db.effects(), db.rows()) == ([], [])


def test_a_violation_of_the_librarys_own_table_by_the_function_is_not_taken_for_a_duplicate(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        effect(session, key)
        session.execute(sa.text("INSERT INTO idemtable SELECT * FROM idemtable"))

    with pytest.raises(sa.exc.IntegrityError):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])


def test_a_savepoint_left_open_by_the_function_is_part_of_its_work(db: Database) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        session.begin_nested()
        effect(session, key)
        return "done"

    assert order("k") == "done"
    assert order.outcome("k").replayed
    with db.session() as held:
        order.join(held.session, "joined")
        held.commit()
    assert db.effects() == ["k", "joined"]
