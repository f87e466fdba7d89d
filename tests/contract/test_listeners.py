"""What an application's own listeners send around a call's statements: their errors are the application's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import Session

from idemtable import InProgressError, SchemaError
from tests.contract.test_deferred import maker_of
from tests.support.backends import db_of
from tests.support.database import Database, effect

MISSING = "SELECT * FROM a_table_of_the_applications"


def sync_engine(engine: Any) -> Any:
    return getattr(engine, "sync_engine", engine)


def sent_at(db: Database, engine: Any, name: str, send: Callable[[Any], Any]) -> Any:
    """A bind of which a listener of that name sends something."""
    if name == "after_begin":

        class Told(Session):
            pass

        event.listen(Told, name, lambda session, transaction, connection: send(connection))
        return maker_of(db, Told, engine)
    if name == "before_cursor_execute":

        def audit(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if "idemtable" in statement and not connection.info.get("auditing"):
                connection.info["auditing"] = True
                try:
                    send(connection)
                finally:
                    del connection.info["auditing"]

        event.listen(sync_engine(engine), name, audit)
    else:
        event.listen(sync_engine(engine), name, send)
    return engine


@contextmanager
def session_of(db: Database, bind: Any) -> Iterator[Any]:
    """A session of an engine or of a maker of sessions."""
    if not hasattr(bind, "kw"):
        with db.session(bind) as held:
            yield held.session
        return
    session = bind()
    try:
        yield session
    finally:
        session.close() if db.loop is None else db.loop.run(session.close())


def each_form(db: Database, bind: Any, idem: Any) -> Iterator[Callable[[], Any]]:
    """A call in every form, each with a key of its own."""
    wait = timedelta()
    order: Any = idem.transactional("listeners", key="name", wait=wait)(effect)
    shortcut: Any = idem.transactional("shortcut", key="name", wait=wait, lookaside=True, deferred=True)(effect)

    def own_block() -> None:
        with idem.transaction("listeners", "block", wait=wait):
            pass

    def in_session(work: Callable[[Any], Any]) -> Callable[[], Any]:
        def run() -> Any:
            with session_of(db, bind) as session:
                return work(session)

        return run

    def block(session: Any) -> None:
        with idem.claim(session, "listeners", "joined block", wait=wait):
            pass

    yield lambda: order("own")
    yield lambda: shortcut("shortcut")
    yield own_block
    yield in_session(lambda session: order.join(session, "joined"))
    yield in_session(block)
    yield in_session(lambda session: idem.claim_many(session, "batch", ["k"], wait=wait))
    yield in_session(lambda session: list(idem.unseen(session, "batch", ["u"], key=str, wait=wait)))


@pytest.mark.parametrize("name", ["begin", "after_begin", "before_cursor_execute"])
def test_a_table_that_an_applications_listener_misses_is_told_as_its_own(db: Database, name: str) -> None:
    with db.other_engine() as engine:
        db.table(engine)  # what listens to "begin" now is heard behind the library's own
        bind = sent_at(db, engine, name, lambda connection: connection.exec_driver_sql(MISSING))
        idem = db.table(bind)
        for form in each_form(db, bind, idem):
            with pytest.raises(sa.exc.DBAPIError, match="a_table_of_the_applications"):
                form()
        if name == "begin":
            with pytest.raises(sa.exc.DBAPIError, match="a_table_of_the_applications"):
                idem.get("listeners", "own")
    assert db.rows() == []


def test_a_table_that_the_library_misses_is_told_by_the_command_that_makes_it(db: Database) -> None:
    for comment in ("", " /* trace 4711 */"):
        with db.other_engine() as engine:
            if comment:

                def traced(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> Any:
                    return statement + " /* trace 4711 */", parameters

                event.listen(sync_engine(engine), "before_cursor_execute", traced, retval=True)
            idem = db.table(engine, table="nowhere")
            for form in each_form(db, engine, idem):
                with pytest.raises(SchemaError, match="db upgrade"):
                    form()
            with pytest.raises(SchemaError, match="db upgrade"):
                idem.get("listeners", "own")


@pytest.mark.parametrize("name", ["begin", "after_begin"])
def test_a_lock_that_an_applications_listener_does_not_get_is_told_as_its_own(server_db: Database, name: str) -> None:
    db = server_db
    db.execute("INSERT INTO effect (name, amount) VALUES ('held', 1)")
    sql = "SELECT name FROM effect WHERE name = 'held' FOR UPDATE"
    at_once = f"{sql} NOWAIT"
    with db.session() as holder, db.other_engine() as engine:
        holder.run(lambda session: session.execute(sa.text(sql)).all())
        bind = sent_at(db, engine, name, lambda connection: connection.exec_driver_sql(at_once).all())
        for form in each_form(db, bind, db.table(bind)):
            with pytest.raises(sa.exc.DBAPIError, match="NOWAIT"):
                form()
        holder.rollback()
    assert db.rows() == []


@pytest.mark.parametrize("name", ["begin", "after_begin"])
def test_a_lock_that_the_library_does_not_get_is_in_progress_whoever_listens(db: Database, name: str) -> None:
    order: Any = db.idem.transactional("listeners", key="name", share_scope=True)(effect)
    with db.session() as holder, db.other_engine() as engine:
        order.join(holder.session, "own")
        bind = sent_at(db, engine, name, lambda connection: connection.exec_driver_sql("SELECT 1").all())
        other: Any = db.table(bind).transactional("listeners", key="name", share_scope=True, wait=timedelta())(effect)
        with pytest.raises(InProgressError):
            other("own")
        with session_of(db, bind) as session, pytest.raises(InProgressError):
            other.join(session, "own")
        holder.rollback()


# --- SQLite, whose transactions begin by a listener -----------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "sqlite-async"])
def sqlite_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.mark.parametrize("sql", ["BEGIN", "BEGIN IMMEDIATE"])
def test_a_second_begin_of_an_applications_is_told_as_what_it_is(sqlite_db: Database, sql: str) -> None:
    """As SQLAlchemy's documentation has it, for an engine without the library."""
    db = sqlite_db
    with db.other_engine() as engine:
        idem = db.table(engine)
        event.listen(sync_engine(engine), "begin", lambda connection: connection.exec_driver_sql(sql))
        for form in each_form(db, engine, idem):
            with pytest.raises(sa.exc.OperationalError, match="within a transaction"):
                form()


def test_a_database_that_is_busy_is_in_progress_whoever_begins(sqlite_db: Database) -> None:
    db = sqlite_db
    with db.session() as holder, db.other_engine(connect_args={"timeout": 0}) as engine:
        holder.run(lambda session: effect(session, "held"))

        @event.listens_for(sync_engine(engine), "begin")
        def _(connection: Any) -> None:
            connection.connection.dbapi_connection.isolation_level = None
            connection.exec_driver_sql("BEGIN IMMEDIATE")

        for form in each_form(db, engine, db.table(engine)):
            with pytest.raises(InProgressError):
                form()
        holder.rollback()
