"""What a session of MySQL's or MariaDB's is told to be strict about: all that a table does is done as ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import Flag, SessionNotUsableError
from tests.support.backends import BACKENDS, db_of
from tests.support.database import INNODB, Database, effect
from tests.support.tokens import desk


@pytest.fixture(params=[name for name in BACKENDS if name.startswith(INNODB)])
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@contextmanager
def told(db: Database, setting: str) -> Iterator[Any]:
    """An engine whose sessions are told something."""

    def tell(connection: Any, record: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"SET SESSION {setting}")
        cursor.close()

    with db.other_engine() as engine:
        sa.event.listen(getattr(engine, "sync_engine", engine), "connect", tell)
        yield engine


def use(db: Database, engine: Any) -> None:
    """Do what an application does, before its records expire and after that, and then what the purge does."""
    idem = db.table(engine)

    @idem.transactional("order", key="key", wait=timedelta(0))
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    tokens = desk(db, table=idem)
    for _ in range(2):
        assert [order.outcome("k").replayed for _ in range(2)] == [False, True]
        with idem.transaction("pay", "k", wait=timedelta(0)) as claim:
            claim.result = 1
        with db.session(engine) as held:
            assert idem.claim_many(held.session, "batch", ["a", "b"]) == [Flag.New, Flag.New]
            assert idem.claim_many(held.session, "batch", ["a", "b"]) == [Flag.Seen, Flag.Seen]
            with tokens.redeem(held.session, tokens.issue()) as claim:
                claim.result = 1
            held.commit()
        db.expire()
    with db.deleting():
        assert idem.purge(batch=3, pause=timedelta(0)).deleted == 6
    assert db.rows() == []


@pytest.mark.parametrize("setting", ["sql_mode = DEFAULT", "sql_mode = 'TRADITIONAL'"])
def test_what_waits_for_nobody_is_neither_warned_of_nor_refused(
    db: Database, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    with told(db, setting) as engine:
        use(db, engine)
    said = [record.getMessage() for record in caplog.records]  # asyncmy asks for warnings, and logs them
    assert [text for text in said if "innodb_lock_wait_timeout" in text] == []


def test_safe_updates_find_a_key_in_every_statement(db: Database) -> None:
    with told(db, "sql_safe_updates = 1") as engine:
        use(db, engine)


@pytest.mark.parametrize("name", ["mariadb-async", "mysql-async"])
@pytest.mark.parametrize("charset", ["utf8mb4", "gbk", "sjis"])
@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES"])
def test_a_session_in_which_asyncmy_writes_other_bytes_is_refused_with_the_cure(
    name: str, charset: str, mode: str
) -> None:
    db = db_of(name)
    arguments = {"charset": charset, "init_command": f"SET SESSION sql_mode = '{mode}'"}
    with db.other_engine(connect_args=arguments) as engine, db.session(engine) as mine:
        idem = db.table(engine)

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> None:
            effect(session, key)

        def batch() -> None:
            idem.claim_many(mine.session, "batch", ["a"])

        for form in (lambda: order("k"), lambda: order.join(mine.session, "k"), batch):
            if (charset, mode) == ("utf8mb4", ""):
                form()
            else:
                with pytest.raises(SessionNotUsableError, match="asyncmy writes bytes wrongly"):
                    form()


def refuse(db: Database, engine: Any) -> None:
    """Do all that writes a key, in what commits each statement by itself."""
    idem, runs = db.table(engine), []

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        runs.append(key)

    for _ in range(2):  # on a connection that the pool has had before, too
        with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
            order("k")
        with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"), idem.transaction("pay", "k"):
            pass
        with db.session(engine) as held:
            with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
                order.join(held.session, "k")
            with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
                idem.claim_many(held.session, "batch", ["a", "b"])
    assert (runs, db.rows()) == ([], [])


def test_a_session_that_was_told_in_sql_to_commit_each_statement_is_refused(db: Database) -> None:
    with told(db, "autocommit = 1") as engine:
        refuse(db, engine)


def test_one_of_mysqls_own_connector_that_was_told_so_as_its_first_command_is_refused() -> None:
    """The other drivers set what they were told themselves after it."""
    db = db_of("mysql-connector")
    with db.other_engine(connect_args={"init_command": "SET autocommit = 1"}) as engine:
        refuse(db, engine)


@pytest.mark.parametrize("name", ["mariadb", "mysql"])
@pytest.mark.parametrize("charset", ["sjis", "gbk", "latin1"])
def test_a_batch_tells_new_keys_from_seen_ones_in_every_character_set(name: str, charset: str) -> None:
    db = db_of(name)
    with db.other_engine(connect_args={"charset": charset}) as engine:
        idem, found = db.table(engine), []
        for keys in (["a", "b"], ["b", "c"]):
            with db.session(engine) as mine:
                found.append(idem.claim_many(mine.session, "batch", keys))
                mine.commit()
    assert found == [[Flag.New, Flag.New], [Flag.Seen, Flag.New]]
