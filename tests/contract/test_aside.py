"""The look of `lookaside=True` takes no session where nobody would hear of one, and the one of whoever would."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from idemtable import ResultUnreadableError, RetryTransactionError, SchemaError, SessionNotUsableError, schema
from idemtable.claim import steps
from tests.support.backends import db_of
from tests.support.crowd import WAIT
from tests.support.database import Database, effect
from tests.support.lines import through_a_proxy

_scopes = count()


def order_of(idem: Any, **options: Any) -> Any:
    @idem.transactional(f"aside.{next(_scopes)}", key="key", lookaside=True, wait=WAIT, **options)
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    return order


def maker_of(db: Database, engine: Any, kind: type[Session], **options: Any) -> Any:
    """A sessionmaker of the database's colour, whose sync sessions are of a class."""
    if not db.is_async:
        return sessionmaker(engine, class_=kind, **options)
    from sqlalchemy.ext.asyncio import async_sessionmaker

    return async_sessionmaker(engine, sync_session_class=kind, **options)


def sessions(heard: bool) -> type[Session]:
    """A class of sessions, and whether somebody listens to all of them."""
    kind = type("Told", (Session,), {})
    if heard:
        sa.event.listen(kind, "after_begin", lambda *_: None)
    return kind


@contextmanager
def made(idem: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """What a table's binding was asked for sessions."""
    binding, asked = type(getattr(idem, "inner", idem)._settings.binding), []
    session = binding.session

    def counted(self: Any, *, inside: bool) -> Any:
        asked.append(inside)
        return session(self, inside=inside)

    with monkeypatch.context() as patched:
        patched.setattr(binding, "session", counted)
        yield asked


def test_a_look_that_finds_the_answer_makes_no_session(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    order = order_of(db.idem)
    with made(db.idem, monkeypatch) as asked:
        first = order.outcome("k")
        assert asked == [False], "one for the claim, and none for the look"
        again = order.outcome("k")
        assert asked == [False]
    assert (first.replayed, again.replayed, again.value) == (False, True, first.value)
    assert (first.attempts, again.attempts) == (1, 1)
    assert db.effects() == ["k"]


def test_a_session_that_is_more_than_made_is_made_for_the_look(db: Database) -> None:
    """Here its class has it listen to itself, as one does that sets a tenant for row-level security."""
    heard: list[Session] = []

    class Listening(Session):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            sa.event.listen(self, "after_begin", lambda session, *_: heard.append(session))

    with db.other_engine() as engine:
        order = order_of(db.table(maker_of(db, engine, Listening)))
        order("k")
        heard.clear()
        assert order.outcome("k").replayed
        assert [isinstance(one, Listening) for one in heard] == [True]


def test_a_sessionmaker_of_a_class_of_its_own_makes_the_session_of_the_look() -> None:
    db, asked = db_of("postgresql18"), []

    class Tenants(sessionmaker[Session]):
        def __call__(self, **options: Any) -> Session:
            asked.append(options)
            return super().__call__(**options)

    with db.other_engine() as engine:
        order = order_of(db.table(Tenants(engine)))
        order("k")
        asked.clear()
        assert order.outcome("k").replayed
        assert asked == [{"close_resets_only": False}]


def test_an_async_session_that_is_more_than_made_is_made_for_the_look() -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    db, seen = db_of("postgresql18-async"), []

    class Listening(AsyncSession):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            sa.event.listen(self.sync_session, "after_begin", lambda session, *_: seen.append(session))

    with db.other_engine() as engine:
        order = order_of(db.table(async_sessionmaker(engine, class_=Listening)))
        order("k")
        seen.clear()
        assert order.outcome("k").replayed
        assert len(seen) == 1


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
def test_whoever_listens_to_the_steps_hears_of_an_answer_that_was_looked_for(db: Database, heard: bool) -> None:
    with db.other_engine() as engine:
        order = order_of(db.table(maker_of(db, engine, sessions(heard))))
        order("k")
        told: list[tuple[str, int, bool]] = []
        with steps.listening(lambda moment: told.append((moment.step, moment.attempt, moment.owned))):
            assert order.outcome("k").replayed
    assert told == [("found", 1, True), ("replayed", 1, True)]


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
def test_a_look_at_a_table_that_is_not_there_says_so_and_the_next_one_finds_it(db: Database, heard: bool) -> None:
    name = f"aside_{next(_scopes)}"
    with db.other_engine() as engine:
        kind = sessions(heard)
        idem = db.table(maker_of(db, engine, kind), table=name)
        order = order_of(idem)
        with pytest.raises(SchemaError, match=name):
            order("k")
        assert db.effects() == []
        idem.create_all()
        try:
            assert [order.outcome("k").replayed for _ in range(2)] == [False, True]
        finally:
            schema.build(sa.MetaData(), table=name).drop(db.admin)
    assert db.effects() == ["k"]


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
def test_an_answer_that_cannot_be_read_is_told_and_leaves_no_connection_behind(db: Database, heard: bool) -> None:
    with db.other_engine(pool_size=1, max_overflow=0, pool_timeout=1) as engine:
        kind = sessions(heard)
        order = order_of(db.table(maker_of(db, engine, kind)))
        order("k")
        db.execute("UPDATE idemtable SET codec = 'of nobody'")
        for _ in range(3):
            with pytest.raises(ResultUnreadableError, match="of nobody"):
                order("k")
        order("another")
    assert db.effects() == ["k", "another"]


# --- a look that is heard -------------------------------------------------------------------------------------------------


def _heard_by(kind: type[Session]) -> list[str]:
    """What a class's sessions tell, from now on."""
    told: list[str] = []
    for name in ("after_begin", "after_rollback", "after_soft_rollback", "after_commit"):
        sa.event.listen(kind, name, lambda *_, name=name: told.append(name))
    return told


def test_whoever_hears_a_look_begin_hears_it_rolled_back(db: Database) -> None:
    """What was set in the one is taken back in the other, before the connection is somebody else's."""
    kind = type("Told", (Session,), {})
    with db.other_engine() as engine:
        order = order_of(db.table(maker_of(db, engine, kind)))
        order("k")
        told = _heard_by(kind)
        assert order.outcome("k").replayed
    assert told == ["after_begin", "after_rollback", "after_soft_rollback"]


class Opened:
    """A seal that counts the connections that are out while it is opened."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool
        self.out: list[int] = []

    def seal(self, data: bytes, context: bytes) -> bytes:
        return data

    def open(self, data: bytes, context: bytes) -> bytes:
        self.out.append(self.pool.checkedout())
        return data


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
def test_no_connection_is_out_while_an_answer_is_read(db: Database, heard: bool) -> None:
    kind = sessions(heard)
    with db.other_engine() as engine:
        seal = Opened(engine.pool)
        order = order_of(db.table(maker_of(db, engine, kind), seal=seal))
        order("k")
        assert order.outcome("k").replayed
    assert seal.out == [0]


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
def test_a_look_that_fails_is_an_attempt_and_the_next_one_answers(db: Database, heard: bool, known: bool) -> None:
    kind = sessions(heard)
    with db.other_engine() as engine:
        order = order_of(db.table(maker_of(db, engine, kind)))
        if known:
            order("k")
        failing = [RetryTransactionError("begin again", scope="aside")]

        def begin(connection: Any) -> None:
            if failing:
                raise failing.pop()

        sa.event.listen(getattr(engine, "sync_engine", engine), "begin", begin)
        outcome = order.outcome("k")
    assert (outcome.replayed, outcome.attempts) == (known, 2)
    assert db.effects() == ["k"]


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
def test_what_a_listener_to_the_steps_raises_at_an_answer_is_told_as_the_databases(db: Database, heard: bool) -> None:
    kind = sessions(heard)
    with db.other_engine() as engine:
        order = order_of(db.table(maker_of(db, engine, kind)))
        order("k")

        def refuse(moment: steps.Moment) -> None:
            if moment.step is steps.Step.FOUND:
                raise RetryTransactionError("begin again", scope="aside") if moment.attempt < 3 else Failed

        with steps.listening(refuse), pytest.raises(Failed):
            order("k")
        assert order.outcome("k").attempts == 1


class Failed(Exception):
    pass


def test_a_heard_look_that_fails_and_cannot_be_rolled_back_leaves_no_connection_behind(sync_db: Database) -> None:
    db = sync_db
    kind = type("Told", (Session,), {})
    with db.other_engine(pool_size=1, max_overflow=0, pool_timeout=1) as engine:
        order = order_of(db.table(maker_of(db, engine, kind)))
        order("k")
        failing = ["begin", "rollback"]

        def begun(session: Session, *_: Any) -> None:
            if "begin" in failing:
                failing.remove("begin")
                raise RetryTransactionError("begin again", scope="aside")

        def undone(connection: Any) -> None:
            if failing == ["rollback"]:
                failing.clear()
                raise Failed

        sa.event.listen(kind, "after_begin", begun)
        sa.event.listen(engine, "rollback", undone)
        outcome = order.outcome("k")
    assert (failing, outcome.replayed, outcome.attempts) == ([], True, 2)


@pytest.mark.parametrize("name", ["__init__", "connection", "get_bind"])
def test_who_puts_a_way_of_theirs_in_the_place_of_sqlalchemys_has_a_session_for_the_look(
    sync_db: Database, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """As instrumentation does, and only after the first calls."""
    db, asked = sync_db, []
    order = order_of(db.idem)
    order("k")
    assert order.outcome("k").replayed
    way = getattr(Session, name)

    def theirs(self: Session, *args: Any, **options: Any) -> Any:
        asked.append(self)
        return way(self, *args, **options)

    monkeypatch.setattr(Session, name, theirs)
    assert order.outcome("k").replayed
    assert asked


def test_an_async_sessions_own_run_sync_is_round_the_look_too() -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

    db, asked = db_of("postgresql18-async"), []

    class Traced(AsyncSession):
        async def run_sync(self, *args: Any, **options: Any) -> Any:
            asked.append(self)
            return await super().run_sync(*args, **options)

    with db.other_engine() as engine:
        order = order_of(db.table(async_sessionmaker(engine, class_=Traced)))
        order("k")
        asked.clear()
        assert order.outcome("k").replayed
        assert len(asked) == 1


def test_a_session_that_is_made_in_a_way_of_its_own_is_made_for_the_look() -> None:
    db, made_of = db_of("postgresql18"), []

    class Odd(Session):
        def __new__(cls, bind: Any, **options: Any) -> Odd:
            made_of.append(bind)
            return super().__new__(cls)

    with db.other_engine() as engine:
        order = order_of(db.table(sessionmaker(engine, class_=Odd)))
        order("k")
        made_of.clear()
        assert order.outcome("k").replayed
        assert made_of == [engine]


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
def test_a_look_takes_no_connection_that_could_carry_no_claim(db: Database, heard: bool) -> None:
    """A program that is wrong is told so at each call, and not at those alone that have no answer yet."""
    db.needs_autocommit()
    kind = sessions(heard)
    scope = f"aside.{next(_scopes)}"
    with db.other_engine() as engine, db.other_engine(isolation_level="AUTOCOMMIT") as other:
        right, wrong = (
            db.table(maker_of(db, one, kind)).transactional(scope, key="key", lookaside=True)(_order)
            for one in (engine, other)
        )
        right("k")
        assert right.outcome("k").replayed
        with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
            wrong("k")


def _order(session: Any, key: str) -> int:
    return effect(session, key)


def test_a_heard_look_is_at_the_level_asked_for_in_a_session_that_is_begun() -> None:
    db, levels = db_of("postgresql18"), []
    kind = type("Told", (Session,), {})
    with db.other_engine() as engine:
        order = order_of(db.table(maker_of(db, engine, kind, autobegin=False)), isolation_level="SERIALIZABLE")
        order("k")
        sa.event.listen(kind, "after_begin", lambda *begun: levels.append(begun[2].get_isolation_level()))
        assert order.outcome("k").replayed
        assert levels == ["SERIALIZABLE"]


@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "heard"])
@pytest.mark.parametrize("backend", ["postgresql18", "postgresql18-async", "mariadb", "mysql", "mysql-several"])
def test_a_look_waits_once_on_postgresql_and_once_more_for_its_end_elsewhere(backend: str, heard: bool) -> None:
    """Also where a Session is closed behind it, whose pool would have the connection roll back a second time."""
    with through_a_proxy(db_of(backend)) as line:
        order = order_of(line.db.table(maker_of(line.db, line.engine, sessions(heard))))
        order("k")
        order("k")
        before = line.proxy.round_trips
        assert order.outcome("k").replayed
        assert line.proxy.round_trips - before == (1 if line.db.kind == "postgresql" else 2)


# `make test-lowest` has 2.0, whose sessions have no options; `make test` has 2.1 and skips nothing here.
@pytest.mark.skipif(not hasattr(Session(), "execution_options"), reason="since SQLAlchemy 2.1")
def test_a_look_is_in_the_schema_that_its_session_translates_to(monkeypatch: pytest.MonkeyPatch) -> None:
    db, options = db_of("postgresql18"), {"schema_translate_map": {None: "aside"}}
    db.execute("CREATE SCHEMA aside")
    with db.other_engine() as engine:
        db.table(engine.execution_options(**options)).create_all()
        idem = db.table(sessionmaker(engine, execution_options=options))
        order = idem.transactional(f"aside.{next(_scopes)}", key="key", lookaside=True)(_nothing)
        order("k")
        with made(idem, monkeypatch) as asked:
            assert order.outcome("k").replayed
        assert asked == [False], "the look's session, and none for a claim"
    assert db.rows() == []
    db.execute("DROP SCHEMA aside CASCADE")


def _nothing(session: Any, key: str) -> None:
    """Be a function of which there is nothing but the key."""
