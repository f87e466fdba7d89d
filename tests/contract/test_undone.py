"""What the database has undone behind a batch is not committed, whatever was claimed after it; what stands is."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import Flag, LostClaimError, RetryTransactionError
from idemtable.dialects.postgresql import PostgreSQL
from idemtable.repository import Records
from tests.support.backends import BACKENDS, HIRED
from tests.support.database import INNODB, Database, effect

POSTGRESQL = [name for name in BACKENDS if name.startswith("postgresql")]
Take = Callable[[Database, Any, list[str]], list[str]]
"""Claims keys in a session, and gives those that are new."""


def by_claim_many(db: Database, session: Any, keys: list[str]) -> list[str]:
    flags = db.idem.claim_many(session, "batch", keys)
    return [key for key, flag in zip(keys, flags, strict=True) if flag is Flag.New]


def by_unseen(db: Database, session: Any, keys: list[str]) -> list[str]:
    return list(db.idem.unseen(session, "batch", keys, key=str, chunk=2))


def by_join(db: Database, session: Any, keys: list[str]) -> list[str]:
    @db.idem.transactional("batch", key="key", share_scope=True)
    def call(session: Any, key: str) -> None: ...

    return [key for key in keys if not call.join_outcome(session, key).replayed]


def by_block(db: Database, session: Any, keys: list[str]) -> list[str]:
    new = []
    for key in keys:
        with db.idem.claim(session, "batch", key) as claim:
            if not claim.replayed:
                new.append(key)
    return new


BATCHES: dict[str, Take] = {"claim_many": by_claim_many, "unseen": by_unseen}
FORMS: dict[str, Take] = {**BATCHES, "join": by_join, "claim": by_block}


def undo(session: Session) -> None:
    """As a deadlock does it whose error is swallowed: the next statement begins another transaction."""
    session.connection().exec_driver_sql("ROLLBACK")
    session.connection().exec_driver_sql("BEGIN")


def expire(session: Session) -> None:
    # Finished when it began, so that nothing is added to the time that has passed.
    session.execute(sa.text("UPDATE idemtable SET expires_at = created_at, completed_at = created_at"))


@pytest.mark.parametrize("stale", [False, True], ids=["new", "expired"])
@pytest.mark.parametrize("again", [["a"], ["d"], ["e", "a"], ["a", "b", "c", "d", "e"]], ids="".join)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", BATCHES)
def test_keys_that_are_claimed_again_after_an_undone_transaction_do_not_make_it_whole(
    db: Database, first: str, form: str, again: list[str], stale: bool
) -> None:
    keys = ["a", "b", "c"]
    if stale:  # they are taken over, and are again what they were when that is undone
        with db.session() as held:
            by_claim_many(db, held.session, keys)
            held.run(expire)
            held.commit()
    rows = len(db.rows())
    with db.session() as held:
        assert BATCHES[first](db, held.session, keys) == keys
        held.run(lambda session: effect(session, "undone"))
        held.run(undo)
        assert FORMS[form](db, held.session, again) == again
        held.run(lambda session: effect(session, "after"))
        with pytest.raises(RetryTransactionError, match="begin again, from the first item"):
            held.commit()
        held.rollback()
        assert (db.effects(), len(db.rows())) == ([], rows)
        assert BATCHES[first](db, held.session, keys) == keys
        held.commit()
    assert len(db.rows()) == 3


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("first", BATCHES)
def test_a_row_of_a_batch_that_has_expired_is_taken_over_in_its_transaction_and_committed(
    db: Database, first: str, form: str
) -> None:
    keys = ["a", "b", "c"]
    with db.session() as held:
        assert BATCHES[first](db, held.session, keys) == keys
        for _ in range(2):
            held.run(expire)
            assert FORMS[form](db, held.session, keys) == keys
        held.run(lambda session: effect(session, "kept"))
        held.commit()
    assert db.effects() == ["kept"]
    assert len(db.rows()) == 3


@pytest.mark.parametrize("form", FORMS)
def test_a_takeover_that_is_rolled_back_gives_the_row_back_to_its_batch(db: Database, form: str) -> None:
    def begin(session: Session) -> Any:
        return session.begin_nested()

    with db.session() as held:
        assert by_claim_many(db, held.session, ["a"]) == ["a"]
        held.run(expire)
        savepoint = held.run(begin)
        assert FORMS[form](db, held.session, ["a"]) == ["a"]
        held.run(lambda session: savepoint.rollback())
        held.commit()
    assert len(db.rows()) == 1


def test_a_takeover_stands_where_a_savepoint_after_it_is_rolled_back(db: Database) -> None:
    """Inside the call that took it over, too."""

    @db.idem.transactional("batch", key="key", share_scope=True)
    def call(session: Session, key: str) -> None:
        session.begin_nested().rollback()
        outer = session.begin_nested()
        session.begin_nested().commit()
        outer.rollback()

    with db.session() as held:
        assert by_claim_many(db, held.session, ["a"]) == ["a"]
        held.run(expire)
        assert not call.join_outcome(held.session, "a").replayed
        held.commit()
    assert len(db.rows()) == 1


def test_a_takeover_in_a_session_beside_the_batches_is_committed_with_it(sync_db: Database) -> None:
    db = sync_db
    with db.session() as held:
        assert by_claim_many(db, held.session, ["a"]) == ["a"]
        held.run(expire)
        with Session(held.session.connection(), join_transaction_mode="create_savepoint") as beside:
            assert by_block(db, beside, ["a"]) == ["a"]
            beside.commit()
        held.commit()
    assert len(db.rows()) == 1


# --- what was committed behind the session's back ---------------------------------------------------------------------

SILENT = ("asyncmy", "mysqldb")
"""Drivers that do not tell whether the server is in a transaction."""
DDL = "CREATE TABLE of_the_loop (id INTEGER PRIMARY KEY)"


def is_no_end(db: Database, how: str) -> bool:
    """Whether it is DDL where a transaction takes that like any other statement, or by a user who may make no tables."""
    return how == "ddl" and (HIRED or db.kind not in INNODB)


def end(db: Database, session: Session, how: str) -> None:
    session.flush()
    if how == "ddl":
        try:
            session.execute(sa.text(DDL))
        finally:
            db.execute("DROP TABLE IF EXISTS of_the_loop")
    else:
        session.execute(sa.text("COMMIT"))


@pytest.mark.parametrize("how", ["text", "ddl"])
@pytest.mark.parametrize("at", ["a", "c", "d"])
def test_a_loop_whose_claims_were_committed_behind_it_says_so_where_the_driver_tells(
    db: Database, how: str, at: str
) -> None:
    if is_no_end(db, how):
        return
    if db.url.get_driver_name() in SILENT:
        return
    done = []
    with db.session() as held:
        with pytest.raises(LostClaimError, match="committed behind its session"):
            for key in db.idem.unseen(held.session, "batch", list("abcd"), key=str, chunk=3):
                done.append(key)
                held.run(lambda session, key=key: effect(session, key))
                if key == at:
                    held.run(lambda session: end(db, session, how))
        held.rollback()
    assert done == list("abcd")[: "abcd".index(at) + 1]
    assert db.effects() == done


@pytest.mark.parametrize("how", ["text", "ddl"])
@pytest.mark.parametrize("first", BATCHES)
def test_a_commit_of_what_was_committed_behind_it_already_says_so_where_the_driver_tells(
    db: Database, first: str, how: str
) -> None:
    if is_no_end(db, how) or db.url.get_driver_name() in SILENT:
        return
    with db.session() as held:
        assert BATCHES[first](db, held.session, ["a", "b"]) == ["a", "b"]
        held.run(lambda session: end(db, session, how))
        with pytest.raises(LostClaimError, match="committed behind its session"):
            held.commit()
    assert len(db.rows()) == 2


# --- what interrupts the look -----------------------------------------------------------------------------------------


class TimeLimit(Exception):
    """As a signal handler raises it."""


@pytest.mark.parametrize("at", ["the look", "the rollback"])
@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, TimeLimit])
@pytest.mark.parametrize("on", ["session", "connection"])
def test_what_interrupts_the_look_at_commit_goes_on_and_leaves_no_transaction_in_the_pool(
    sync_db: Database, monkeypatch: pytest.MonkeyPatch, on: str, interruption: type[BaseException], at: str
) -> None:
    db = sync_db

    def interrupted(*_: Any) -> Any:
        raise interruption

    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        idem = db.table(engine)
        with ExitStack() as stack:
            bind = stack.enter_context(engine.connect()) if on == "connection" else engine
            session = stack.enter_context(Session(bind, join_transaction_mode="control_fully"))
            assert idem.claim_many(session, "batch", ["a"]) == [Flag.New]
            effect(session, "interrupted")
            patch = stack.enter_context(monkeypatch.context())
            patch.setattr(Records, "find", interrupted)
            patch.setattr(PostgreSQL, "mark", interrupted)
            if at == "the rollback":
                patch.setattr(engine.dialect, "do_rollback", interrupted)
            with pytest.raises(interruption):
                session.commit()
            patch.undo()
        with Session(engine) as stranger:
            effect(stranger, "stranger")
            stranger.commit()
    assert (db.effects(), db.rows()) == (["stranger"], [])


# --- what only keeps the look from its table --------------------------------------------------------------------------


@pytest.mark.parametrize("db", POSTGRESQL, indirect=True)
@pytest.mark.parametrize("sql", ["SET LOCAL ROLE pg_read_all_settings", "SET LOCAL search_path TO pg_catalog"])
@pytest.mark.parametrize("first", BATCHES)
def test_a_transaction_that_does_not_see_the_table_any_more_is_committed(db: Database, first: str, sql: str) -> None:
    if HIRED and "ROLE" in sql:
        return  # who has no right more than the application needs may be nobody else
    with db.session() as held:
        assert BATCHES[first](db, held.session, ["a", "b"]) == ["a", "b"]
        held.run(lambda session: effect(session, "kept"))
        held.run(lambda session: session.execute(sa.text(sql)))
        held.commit()
    assert (db.effects(), len(db.rows())) == (["kept"], 2)


@pytest.mark.parametrize("db", [name for name in BACKENDS if name.startswith(INNODB)], indirect=True)
@pytest.mark.parametrize("first", BATCHES)
def test_a_look_that_fails_says_what_it_failed_with(db: Database, first: str) -> None:
    with db.other_engine(poolclass=sa.NullPool) as engine, db.session(engine) as held:
        assert BATCHES[first](db, held.session, ["a", "b"]) == ["a", "b"]
        held.run(lambda session: effect(session, "kept"))
        held.run(lambda session: session.execute(sa.text("USE information_schema")))
        with pytest.raises(sa.exc.DBAPIError, match="idemtable"):
            held.commit()
    assert (db.effects(), db.rows()) == ([], [])
