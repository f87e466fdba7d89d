"""SQLite's driver begins transactions by itself and loses atomicity with savepoints; the library keeps it from that."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiosqlite
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

import idemtable
from idemtable import InProgressError, ReentrantCallError, RowLockedError, SessionNotUsableError
from tests.support import PATIENCE
from tests.support.backends import BACKENDS, db_of
from tests.support.crowd import Beside, until
from tests.support.database import Database, effect


@pytest.fixture(params=[name for name in BACKENDS if name.startswith("sqlite")])
def sqlite_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture
def bare(sqlite_db: Database) -> Iterator[Any]:
    """An engine that no IdemTable was ever bound to."""
    with sqlite_db.other_engine() as engine:
        yield engine


@pytest.fixture
def order(sqlite_db: Database) -> Any:
    @sqlite_db.idem.transactional("order", key="key")
    def order(session: Any, key: str, fail: bool = False) -> int:
        number = effect(session, key)
        if fail:
            raise LookupError
        return number

    return order


def test_a_session_of_an_engine_without_the_listeners_is_refused_with_the_cure(
    sqlite_db: Database, bare: Any, order: Any
) -> None:
    with sqlite_db.session(bare) as held:
        with pytest.raises(SessionNotUsableError, match=r"configure_sqlite\(engine\)"):
            order.join(held.session, "k")
        held.rollback()
        held.run(lambda session: effect(session, "own"))
        with (
            pytest.raises(SessionNotUsableError, match=r"configure_sqlite\(engine\)"),
            sqlite_db.idem.claim(held.session, "pay", "k"),
        ):
            pass
        held.rollback()
    assert (sqlite_db.effects(), sqlite_db.rows()) == ([], [])


def test_the_cure_works_also_for_connections_that_were_pooled_earlier(
    sqlite_db: Database, bare: Any, order: Any
) -> None:
    with sqlite_db.session(bare) as held:  # puts a connection in the driver's own mode into the pool
        held.run(lambda session: effect(session, "earlier"))
        held.commit()
    idemtable.configure_sqlite(bare)
    idemtable.configure_sqlite(bare)
    with sqlite_db.session(bare) as held:
        order.join(held.session, "k")
        held.rollback()
    assert sqlite_db.effects() == ["earlier"]
    with sqlite_db.session(bare) as held:
        order.join(held.session, "k")
        held.commit()
    assert sqlite_db.effects() == ["earlier", "k"]


def test_binding_a_table_is_the_cure_too(sqlite_db: Database, bare: Any, order: Any) -> None:
    with sqlite_db.session(bare) as held:
        held.run(lambda session: effect(session, "earlier"))
        held.commit()
    idem = sqlite_db.table(bare)

    @idem.transactional("other", key="key")
    def other(session: Any, key: str) -> None:
        effect(session, key)
        with pytest.raises(LookupError), session.begin_nested():
            effect(session, "inside the savepoint")
            raise LookupError

    other("k")
    assert sqlite_db.effects() == ["earlier", "k"]


def test_configure_sqlite_refuses_what_is_no_engine() -> None:
    for wrong in (None, "sqlite:///shop.db", sessionmaker(sa.create_engine("sqlite://")), lambda: None, Mock()):
        with pytest.raises(TypeError, match="configure_sqlite takes an Engine or an AsyncEngine, not"):
            idemtable.configure_sqlite(wrong)


def test_configure_sqlite_refuses_an_engine_for_another_database() -> None:
    engine = sa.create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    with pytest.raises(ValueError, match="postgresql"):
        idemtable.configure_sqlite(engine)


def test_a_savepoint_as_the_first_write_does_not_commit_by_itself(sqlite_db: Database) -> None:
    @sqlite_db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        with session.begin_nested():
            effect(session, key)
        raise LookupError

    with pytest.raises(LookupError):
        order("k")
    with sqlite_db.session() as held:
        held.run(lambda session: session.begin_nested())
        held.run(lambda session: effect(session, "nested"))
        held.run(lambda session: session.get_nested_transaction().commit())
        held.rollback()
    assert (sqlite_db.effects(), sqlite_db.rows()) == ([], [])


def test_a_savepoint_rolled_back_leaves_the_rest_of_the_function_standing(sqlite_db: Database) -> None:
    @sqlite_db.idem.transactional("order", key="key", remember=(LookupError,))
    def order(session: Any, key: str) -> str:
        effect(session, "kept")
        with pytest.raises(LookupError), session.begin_nested():
            effect(session, "undone")
            raise LookupError
        return "done"

    assert order("k") == order("k") == "done"
    assert sqlite_db.effects() == ["kept"]


def test_other_transactions_of_the_engine_stay_deferred(sqlite_db: Database) -> None:
    """A reader beside a writer: with BEGIN IMMEDIATE for all, the second session would find the database locked."""
    with sqlite_db.session() as writer, sqlite_db.session() as reader:
        writer.run(lambda session: effect(session, "written"))
        assert reader.run(lambda session: session.scalar(sa.text("SELECT count(*) FROM effect"))) == 0
        assert reader.run(lambda session: session.connection().get_execution_options()) == {}
        writer.commit()
    assert sqlite_db.effects() == ["written"]


def test_the_librarys_own_transaction_begins_with_the_write_lock(sqlite_db: Database) -> None:
    """Else two calls that have read could both be refused their write, and neither could go on."""
    statements: list[str] = []
    engine = getattr(sqlite_db.engine, "sync_engine", sqlite_db.engine)

    def listen(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    @sqlite_db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    sa.event.listen(engine, "before_cursor_execute", listen)
    try:
        order("k")
        order("k")
    finally:
        sa.event.remove(engine, "before_cursor_execute", listen)
    begins = [statement for statement in statements if statement.startswith("BEGIN")]
    assert begins
    assert set(begins) == {"BEGIN IMMEDIATE"}
    assert statements[0].startswith(("BEGIN", "PRAGMA"))


def test_the_busy_timeout_of_the_connection_is_what_it_was(sqlite_db: Database) -> None:
    with sqlite_db.other_engine(connect_args={"timeout": 7}) as engine:
        idem = sqlite_db.table(engine, wait=timedelta(seconds=2))
        seen: list[int] = []

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> None:
            seen.append(session.scalar(sa.text("PRAGMA busy_timeout")))

        order("k")
        with sqlite_db.session(engine) as held:
            order.join(held.session, "joined")
            seen.append(held.run(lambda session: session.scalar(sa.text("PRAGMA busy_timeout"))))
            held.commit()
    assert seen == [7000, 7000, 7000]


def test_a_busy_timeout_that_the_application_has_changed_since_is_not_taken_for_the_time_to_wait(
    sqlite_db: Database,
) -> None:
    with sqlite_db.other_engine(connect_args={"timeout": 1}, pool_size=1, max_overflow=0) as engine:
        idem = sqlite_db.table(engine, wait=timedelta(seconds=1))

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> None: ...

        order("k")
        with sqlite_db.session(engine) as held:
            held.run(lambda session: session.execute(sa.text("PRAGMA busy_timeout = 0")))
            held.commit()
        order("another")  # the lock is there for the taking, and nobody has looked
        with sqlite_db.session() as held:
            held.run(lambda session: session.execute(sa.text("UPDATE effect SET amount = amount WHERE name = 'none'")))
            seen: list[str] = []
            listened = getattr(engine, "sync_engine", engine)
            sa.event.listen(listened, "before_cursor_execute", lambda *given: seen.append(given[2]))
            with pytest.raises(idemtable.InProgressError):
                order("third")
            held.rollback()
        mine, theirs = (int(one.split("=")[1]) for one in seen if "=" in one)
        assert (0 < mine <= 1000, theirs) == (True, 0)  # what is left of the second
        with sqlite_db.session(engine) as held:
            assert held.run(lambda session: session.scalar(sa.text("PRAGMA busy_timeout"))) == 0
            held.commit()
        order("third")


def test_an_engine_in_pythons_other_transaction_mode_is_refused_with_the_cure(sqlite_db: Database) -> None:
    if sys.version_info < (3, 12):
        # The argument does not exist before; the driver itself refuses it.
        with sqlite_db.other_engine(connect_args={"autocommit": False}) as engine:
            idem = sqlite_db.table(engine)
            with pytest.raises(TypeError, match="autocommit"), idem.transaction("pay", "k"):
                pass
        return
    with sqlite_db.other_engine(connect_args={"autocommit": False}) as engine:
        idem = sqlite_db.table(engine)
        with pytest.raises(Exception, match="leave the argument out"), idem.transaction("pay", "k"):
            pass
    assert sqlite_db.rows() == []


def test_a_transaction_that_has_read_what_somebody_else_changed_since_must_begin_again(
    sqlite_db: Database, order: Any
) -> None:
    with sqlite_db.session() as held:
        held.run(lambda session: session.scalar(sa.text("SELECT count(*) FROM effect")))
        sqlite_db.execute("INSERT INTO effect (name, amount) VALUES ('other', 1)")
        with pytest.raises(idemtable.RetryTransactionError, match="begin again"):
            order.join(held.session, "k")
        held.rollback()
        order.join(held.session, "k")
        held.commit()
    assert sqlite_db.effects() == ["other", "k"]


def test_a_database_in_memory_works_through_one_connection() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    idem = idemtable.IdemTable(engine)
    idem.create_all()
    idem.check_schema()

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> str:
        return "made"

    assert order("k") == "made"
    assert order.outcome("k").replayed
    engine.dispose()


def test_an_attached_database_in_wal_mode_is_refused_with_the_cure(sqlite_db: Database, tmp_path: Any) -> None:
    mode = "WAL"

    with sqlite_db.other_engine() as engine:

        @sa.event.listens_for(getattr(engine, "sync_engine", engine), "connect")
        def attach(connection: Any, _: Any) -> None:
            cursor = connection.cursor()
            cursor.execute(f"ATTACH '{tmp_path / 'shop.db'}' AS shop")
            cursor.execute(f"PRAGMA shop.journal_mode = {mode}")
            cursor.close()

        idem = sqlite_db.table(engine)

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        with pytest.raises(SessionNotUsableError, match=r"shop.*WAL.*journal_mode = DELETE"):
            order("k")
        assert (sqlite_db.effects(), sqlite_db.rows()) == ([], [])
        sqlite_db.dispose(engine)
        mode = "DELETE"
        assert order("k") == order("k")


# --- another writer, who takes the lock between two transactions of one call ----------------------------------------------


@contextmanager
def taken(sqlite_db: Database, engine: Any, at: int, lock: str = "IMMEDIATE") -> Iterator[None]:
    """Have another writer take the lock when a connection is given back for the first time, or at 0 before the call."""
    writer = sqlite3.connect(str(sqlite_db.sync_url.database), isolation_level=None, check_same_thread=False, timeout=0)
    given_back: list[Any] = []

    def take(*returned: Any) -> None:
        given_back.append(returned)
        if len(given_back) == at:
            writer.execute(f"BEGIN {lock}")

    pool = getattr(engine, "sync_engine", engine)
    sa.event.listen(pool, "checkin", take)
    try:
        if at == 0:
            writer.execute(f"BEGIN {lock}")
        yield
        assert writer.in_transaction, "nobody came between"
    finally:
        sa.event.remove(pool, "checkin", take)
        writer.close()


BUSY = "another connection is writing"


@pytest.mark.parametrize("lookaside", [False, True])
def test_a_writer_that_comes_between_the_look_and_the_takeover_is_in_progress(
    sqlite_db: Database, lookaside: bool
) -> None:
    with sqlite_db.other_engine() as engine:

        @sqlite_db.table(engine).transactional("order", key="key", wait=timedelta(), lookaside=lookaside)
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        order("k")
        sqlite_db.expire()
        with taken(sqlite_db, engine, 1), pytest.raises(InProgressError, match=BUSY):
            order("k")
        assert sqlite_db.effects() == ["k"]
        assert not order.outcome("k").replayed


@pytest.mark.parametrize("expired", [False, True])
def test_a_writer_that_comes_between_two_transactions_of_a_block_is_in_progress(
    sqlite_db: Database, expired: bool
) -> None:
    with sqlite_db.other_engine() as engine:
        idem = sqlite_db.table(engine, wait=timedelta())

        def enter() -> bool:
            with idem.transaction("pay", "k") as claim:
                sqlite_db.on(claim.session, lambda session: effect(session, "k"))
                return bool(claim.replayed)

        enter()
        if expired:
            sqlite_db.expire()
        with taken(sqlite_db, engine, 1), pytest.raises(InProgressError, match=BUSY):
            enter()
        assert sqlite_db.effects() == ["k"]
        assert enter() is not expired


def test_a_first_run_that_has_looked_aside_is_told_that_another_one_writes(sqlite_db: Database) -> None:
    with sqlite_db.other_engine() as engine:

        @sqlite_db.table(engine).transactional("order", key="key", wait=timedelta(), lookaside=True)
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        with taken(sqlite_db, engine, 0), pytest.raises(InProgressError, match=BUSY):
            order("k")
        assert not order.outcome("k").replayed


RECOVER = """
import fcntl, sys

with open(sys.argv[1], "r+b") as shared:
    fcntl.lockf(shared, fcntl.LOCK_SH, 1, 128)  # somebody has it open
    fcntl.lockf(shared, fcntl.LOCK_EX, 3, 120)  # and writes, checkpoints and recovers
    print("held", flush=True)
    sys.stdin.read()
"""
"""What the first to open a database does with its log, at the bytes of SQLite's file format for the -shm file."""


@contextmanager
def recovering(db: Database) -> Iterator[None]:
    """Have another process read the log back meanwhile, as the first to open a database does."""
    shared = Path(f"{db.sync_url.database}-shm")
    shared.write_bytes(bytes(32_768))
    command = [sys.executable, "-c", RECOVER, str(shared)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        raw = sqlite3.connect(str(db.sync_url.database), timeout=0)
        with pytest.raises(sqlite3.OperationalError) as caught:
            raw.execute("BEGIN IMMEDIATE")
        assert caught.value.sqlite_errorname == "SQLITE_BUSY_RECOVERY"
        yield
        raw.close()  # not before: the last one to close it takes the file away
        other.communicate()  # which lets go


def test_whoever_meets_another_one_opening_the_database_is_told_that_it_is_busy(
    sqlite_db: Database, tmp_path: Path
) -> None:
    """Nothing of its transaction is gone: it has waited as long as it may, as for any other lock."""
    db = Database(sqlite_db.backend, sa.make_url(f"sqlite:///{tmp_path / 'own.db'}"), sqlite_db.url.drivername)
    runs: list[int] = []

    @db.idem.transactional("order", key="key", wait=timedelta())
    def order(session: Any, key: str) -> int:
        runs.append(1)
        return effect(session, key)

    try:
        db.dispose(db.engine)
        with recovering(db):
            with pytest.raises(InProgressError, match=BUSY):
                order("k")
            with db.session() as held, pytest.raises(InProgressError, match=BUSY):
                order.join(held.session, "k")
            with db.session() as held, pytest.raises(RowLockedError, match="this name"):
                db.idem.lock_name(held.session, "payout:7", wait=timedelta())
            db.dispose(db.engine)
        assert not order.outcome("k").replayed
        assert (db.effects(), runs) == (["k"], [1])
    finally:
        db.close()


def test_whoever_waits_for_the_lock_of_the_call_around_it_is_told_so(sqlite_db: Database) -> None:
    """To try again later would end like this each time."""
    with sqlite_db.other_engine() as engine:
        beside = sqlite_db.table(engine, wait=timedelta())

        @beside.transactional("mail", key="key")
        def mail(session: Any, key: str) -> int:
            return effect(session, key)

        @sqlite_db.idem.transactional("order", key="key", payload=None)
        def order(session: Any, key: str, inner: Any) -> int:
            effect(session, key)
            with pytest.raises(ReentrantCallError, match="join that call's session") as caught:
                inner()
            assert not caught.value.retryable
            return mail.join(sqlite_db.given(session), f"{key} joined")  # type: ignore[no-any-return]

        order("k", lambda: mail("m"))
        order("f", lambda: beside.forget("order", "k"))
        with sqlite_db.session() as held:
            held.run(lambda session: effect(session, "stranger"))
            with pytest.raises(InProgressError, match=BUSY):
                mail("m")
    assert sqlite_db.effects() == ["k", "k joined", "f", "f joined"]


@pytest.fixture
def unlogged(sqlite_db: Database, tmp_path: Path) -> Iterator[Database]:
    """A database without a write-ahead log, where a writer may keep readers out."""
    db = Database(sqlite_db.backend, sa.make_url(f"sqlite:///{tmp_path / 'own.db'}"), sqlite_db.url.drivername)
    db.dispose(db.engine)  # the mode changes for whoever is alone
    assert [tuple(row) for row in db.execute("PRAGMA journal_mode = DELETE")] == [("delete",)]
    yield db
    db.close()


def test_a_look_aside_waits_no_longer_than_the_call_may(unlogged: Database) -> None:
    with unlogged.other_engine(connect_args={"timeout": 3_600}) as engine:

        @unlogged.table(engine).transactional("order", key="key", wait=timedelta(), lookaside=True)
        def order(session: Any, key: str) -> int:
            return effect(session, key)

        order("k")
        with taken(unlogged, engine, 0, "EXCLUSIVE"):
            call = Beside(lambda: order("k"))
            until(lambda: call.over, "it waits as long as the driver was told to", patience=PATIENCE / 4)
        with pytest.raises(InProgressError, match=BUSY):
            call.result()
        assert order.outcome("k").replayed
        with unlogged.session(engine) as held:
            timeout = held.run(lambda session: session.scalar(sa.text("PRAGMA busy_timeout")))
        assert timeout == 3_600_000, "what the application has set"


@contextmanager
def interrupting(db: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, list[type[BaseException]]]]:
    """An engine, and a list: an error in it interrupts the next statement with rows between its run and their reading."""
    armed: list[type[BaseException]] = []

    def interrupt() -> None:
        if armed:
            raise armed.pop()

    class Cursor(sqlite3.Cursor):
        def fetchall(self) -> Any:
            interrupt()
            return super().fetchall()

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

    if db.is_async:
        fetch = aiosqlite.Cursor.fetchall

        async def fetchall(cursor: Any) -> Any:
            interrupt()
            return await fetch(cursor)

        monkeypatch.setattr(aiosqlite.Cursor, "fetchall", fetchall)
    with db.other_engine(**{} if db.is_async else {"connect_args": {"factory": Connection}}) as engine:
        yield engine, armed


@pytest.mark.parametrize("form", ["call", "lookaside", "block", "join", "claim_many"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, asyncio.CancelledError, TimeoutError], ids=lambda one: one.__name__
)
def test_a_look_that_was_interrupted_keeps_nobody_from_committing(
    unlogged: Database, monkeypatch: pytest.MonkeyPatch, form: str, error: type[BaseException]
) -> None:
    # Only `make test-lowest` has it; what holds there is tested with sqlite3, whose cursor the library has itself.
    if unlogged.is_async and sa.__version__ < "2.1":
        pytest.skip("since SQLAlchemy 2.1: 2.0 keeps aiosqlite's cursor where nobody else finds it")
    if unlogged.is_async and error is KeyboardInterrupt:
        error = asyncio.CancelledError  # the other would end the loop
    with interrupting(unlogged, monkeypatch) as (engine, armed), unlogged.session(engine) as held:
        idem = unlogged.table(engine)

        @idem.transactional("order", key="key", lookaside=form == "lookaside")
        def order(session: Any, key: str) -> None: ...

        def enter() -> None:
            with idem.transaction("order", "k"):
                pass

        again = {
            "block": enter,
            "join": lambda: order.join(held.session, "k"),
            "claim_many": lambda: idem.claim_many(held.session, "order", ["k"]),
        }.get(form, lambda: order("k"))
        order("k")
        armed.append(error)
        with pytest.raises((error, CancelledError)) as kept:
            again()
        assert armed == []
        writer = sqlite3.connect(str(unlogged.sync_url.database), isolation_level=None, timeout=PATIENCE / 4)
        writer.execute("INSERT INTO effect (name, amount) VALUES ('written', 1)")
        writer.close()
        assert kept.value is not None  # whose traceback holds the cursor
    assert unlogged.effects() == ["written"]
