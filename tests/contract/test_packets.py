"""BEGIN travels with the claim and COMMIT with the result, where the driver can do it and nobody has a say in between."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import FingerprintMismatchError, LostClaimError, SessionNotUsableError
from idemtable.claim import steps
from idemtable.dialects.compound import watch_end
from idemtable.dialects.packet import Line as Packets
from idemtable.dialects.postgresql import PostgreSQL
from tests.support.backends import db_of
from tests.support.crowd import WAIT
from tests.support.database import Database, Effect, effect
from tests.support.lines import Line, engine_at, through_a_proxy
from tests.support.proxy import Proxy

_scopes = count()

LENT = WAIT - timedelta(seconds=1)
"""Other than what MySQL's sessions wait by themselves, which are to be told."""


@pytest.fixture(params=["postgresql18", "postgresql18-async"])
def db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture(
    params=["postgresql18", "postgresql18-async", "postgresql18-listened", "mariadb", "mysql", "mysql-several"]
)
def line(request: pytest.FixtureRequest) -> Iterator[Line]:
    with through_a_proxy(db_of(request.param)) as found:
        yield found


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has gone in packets: the first words of a statement, and what ended the transaction with it."""
    seen: list[str] = []
    send = Packets._sent

    def spied(self: Packets, connection: Any, part: Any, begin: bool, end: bytes | None) -> Any:
        word = part[0].text.split()[0]
        seen.append(word if end is None else f"{word} {end.decode()}")
        return send(self, connection, part, begin, end)

    monkeypatch.setattr(Packets, "_sent", spied)
    return seen


PID = sa.text("SELECT pg_backend_pid()")
WHOLE = ["INSERT", "INSERT COMMIT"]
"""The claim, with BEGIN before it, and the result, with COMMIT behind it."""


def order_of(idem: Any, work: Callable[[Session, str], Any] = effect, **options: Any) -> Any:
    @idem.transactional(f"packets.{next(_scopes)}", key="key", wait=LENT, **options)
    def order(session: Any, key: str) -> Any:
        return work(session, key)

    return order


def sync_engine(engine: Any) -> sa.Engine:
    return getattr(engine, "sync_engine", engine)


# --- how often a call waits for the network -------------------------------------------------------------------------------


def round_trips(line: Line, call: Callable[[], Any], calls: int = 8) -> float:
    before = line.proxy.round_trips
    for _ in range(calls):
        call()
    return (line.proxy.round_trips - before) / calls


def test_a_first_run_waits_no_more_often_than_the_bare_transaction_where_statements_can_travel_together(
    line: Line,
) -> None:
    db, keys = line.db, count()
    order = order_of(line.idem)

    def bare() -> None:
        with db.session(line.engine) as held:
            held.run(lambda session: effect(session, "bare"))
            held.commit()

    for warm in (bare, lambda: order(f"warm-{next(keys)}")):
        round_trips(line, warm)
    added = round_trips(line, lambda: order(f"k{next(keys)}")) - round_trips(line, bare)
    # MySQL lends and gives back the lock time-out and stores; and nowhere is the pool's ROLLBACK sent after COMMIT.
    assert added == {"mysql": 3, "postgresql18-listened": 2}.get(db.backend, 0)


def test_a_replay_waits_twice_on_postgresql_and_for_one_end_elsewhere(line: Line) -> None:
    order = order_of(line.idem)
    for key in ("k", "l"):
        order(key)
        order(key)
    assert order.outcome("k").replayed
    # Claim and look, elsewhere with an end of their own; on MySQL a lock time-out, lent and given back.
    waits = {"mariadb": 3, "mysql": 5, "mysql-several": 4, "postgresql18-listened": 4}.get(line.db.backend, 2)
    assert round_trips(line, lambda: order("k")) == waits


# --- who has a say in between ---------------------------------------------------------------------------------------------


def test_a_call_of_which_nobody_wants_to_see_more_goes_in_two_packets(db: Database, sent: list[str]) -> None:
    order = order_of(db.idem)
    assert order("k") == order("k")
    assert sent == [*WHOLE, "INSERT", "SELECT ROLLBACK"]
    assert db.effects() == ["k"]


def listen_to_statements(engine: sa.Engine) -> None:
    sa.event.listen(engine, "before_cursor_execute", lambda *_: None)


def echo(engine: sa.Engine) -> None:
    engine.echo = True


def commit_in_a_way_of_ones_own(engine: sa.Engine) -> None:
    commit = engine.dialect.do_commit
    engine.dialect.do_commit = lambda connection: commit(connection)  # type: ignore[method-assign]


def hear_of_commit(engine: sa.Engine) -> None:
    sa.event.listen(engine, "commit", lambda _: None)


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (listen_to_statements, []),
        (echo, []),
        (commit_in_a_way_of_ones_own, ["INSERT", "INSERT"]),
        (hear_of_commit, ["INSERT", "INSERT"]),
    ],
)
def test_whoever_has_a_say_is_heard_also_when_they_come_late(
    db: Database, sent: list[str], change: Callable[[sa.Engine], None], seen: list[str]
) -> None:
    with db.other_engine() as engine:
        order = order_of(db.table(engine))
        order("before")
        sent.clear()
        change(sync_engine(engine))
        assert order("k") == order("k")
        assert sent[: len(seen)] == seen
        assert "INSERT COMMIT" not in sent
        assert db.effects() == ["before", "k"]


def test_while_somebody_listens_to_the_steps_the_result_is_stored_before_commit_is_sent(
    db: Database, sent: list[str]
) -> None:
    order, rows = order_of(db.idem), []

    def look(moment: Any) -> None:
        if moment.step is steps.Step.STORED:
            rows.append(len(db.rows()))

    with steps.listening(look):
        order("k")
    assert rows == [0]
    assert sent == ["INSERT", "INSERT"]


def local_setting(how: str, db: Database, engine: Any) -> Any:
    """Have a setting made for the transaction, as row-level security needs it; return what to bind a table to."""
    sql, sync = "SET LOCAL application_name = 'tenant-7'", sync_engine(engine)

    def send(connection: Any, *_: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(sql)
        cursor.close()

    if how == "do_begin":
        sync.dialect.do_begin = send  # type: ignore[method-assign]
    elif how == "checkout":  # the driver has begun by itself, before anybody asked for a transaction
        sa.event.listen(sync, "checkout", send)
    elif how == "begin":
        sa.event.listen(sync, "begin", lambda connection: connection.exec_driver_sql(sql))
    else:

        class Tenants(Session):
            pass

        sa.event.listen(Tenants, "after_begin", lambda session, _, connection: connection.exec_driver_sql(sql))
        if db.is_async:
            from sqlalchemy.ext.asyncio import async_sessionmaker

            return async_sessionmaker(engine, sync_session_class=Tenants)
        return sa.orm.sessionmaker(engine, class_=Tenants)
    return engine


@pytest.mark.parametrize("how", ["checkout", "do_begin", "begin", "after_begin"])
def test_what_an_application_sends_when_a_transaction_begins_comes_before_the_claim(
    db: Database, sent: list[str], how: str
) -> None:
    # A policy of the table sees the setting, and lets nobody write without it.
    db.execute(
        "CREATE FUNCTION only_tenant_7() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF current_setting('application_name') <> 'tenant-7' THEN RAISE 'no tenant'; END IF; RETURN NEW; END $$"
    )
    db.execute("CREATE TRIGGER only_tenant_7 BEFORE INSERT ON idemtable FOR EACH ROW EXECUTE FUNCTION only_tenant_7()")
    try:
        with db.other_engine() as engine:
            order = order_of(db.table(local_setting(how, db, engine)))
            assert order("k") == order("k")
            assert order.outcome("k").replayed
        assert sent[0] == "INSERT"
        assert db.effects() == ["k"]
    finally:
        db.execute("DROP TRIGGER only_tenant_7 ON idemtable")
        db.execute("DROP FUNCTION only_tenant_7")


def test_what_before_commit_writes_is_committed_with_the_call_or_not_at_all(db: Database, sent: list[str]) -> None:
    fail: list[Exception] = []

    def outbox(session: Session) -> None:
        effect(session, "outbox")
        if fail:
            raise fail[0]

    def work(session: Session, key: str) -> str:
        sa.event.listen(session, "before_commit", outbox)
        effect(session, key)
        return key

    order = order_of(db.idem, work)
    order("k")
    assert sorted(db.effects()) == ["k", "outbox"]
    fail.append(ValueError("no outbox"))
    with pytest.raises(ValueError, match="no outbox"):
        order("l")
    assert sorted(db.effects()) == ["k", "outbox"]
    assert "INSERT COMMIT" not in sent
    fail.clear()
    order("l")
    assert sorted(db.effects()) == ["k", "l", "outbox", "outbox"]


@pytest.fixture(params=["postgresql18", "postgresql18-async", "mariadb", "mysql-several", "sqlite"])
def overheard(request: pytest.FixtureRequest) -> Iterator[tuple[Database, Any]]:
    """A database, and an engine to which somebody listens for something else."""
    db = db_of(request.param)
    with db.other_engine() as engine:
        sa.event.listen(sync_engine(engine), "begin", lambda connection: None)
        yield db, engine


def listening_to_a_connection(name: str, heard: Callable[..., None]) -> Callable[[Session, str], str]:
    def work(session: Session, key: str) -> str:
        sa.event.listen(session.connection(), name, heard)
        effect(session, key)
        return key

    return work


def test_who_listens_to_one_connection_may_refuse_its_commit(overheard: tuple[Database, Any]) -> None:
    db, engine = overheard

    def refuse(connection: sa.Connection) -> None:
        raise ValueError("refused")

    order = order_of(db.table(engine), listening_to_a_connection("commit", refuse))
    with pytest.raises(ValueError, match="refused"):
        order("k")
    assert (db.effects(), db.rows()) == ([], [])


def test_who_listens_to_one_connection_sees_the_librarys_statements(overheard: tuple[Database, Any]) -> None:
    (db, engine), seen = overheard, list[str]()

    def see(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    order_of(db.table(engine), listening_to_a_connection("before_cursor_execute", see))("k")
    assert [name for name in ("effect", "idemtable") if any(name in statement for statement in seen)] == [
        "effect", "idemtable",
    ]  # fmt: skip


def test_a_session_with_a_commit_of_its_own_is_asked_to_commit(db: Database, sent: list[str]) -> None:
    seen = []

    class Audited(Session):
        def commit(self) -> None:
            seen.append(self.execute(sa.text("SELECT count(*) FROM idemtable WHERE status = 1")).scalar())
            super().commit()

    if db.is_async:
        from sqlalchemy.ext.asyncio import async_sessionmaker

        maker: Any = async_sessionmaker(db.engine, sync_session_class=Audited)
    else:
        maker = sa.orm.sessionmaker(db.engine, class_=Audited)
    order_of(db.table(maker))("k")
    assert seen == [1]
    assert sent == ["INSERT", "INSERT"]


def test_a_savepoint_that_was_left_open_is_part_of_what_is_committed(db: Database, sent: list[str]) -> None:
    def work(session: Session, key: str) -> str:
        session.begin_nested()
        effect(session, key)
        return key

    def core(session: Session, key: str) -> str:
        session.connection().begin_nested()
        effect(session, key)
        return key

    order_of(db.idem, work)("k")
    order_of(db.idem, core)("l")
    assert db.effects() == ["k", "l"]
    assert "INSERT COMMIT" not in sent


def test_what_was_added_and_not_flushed_is_committed_with_the_result(db: Database, sent: list[str]) -> None:
    def work(session: Session, key: str) -> str:
        session.add(Effect(name=key))
        return key

    order = order_of(db.idem, work)
    order("k")
    assert sent == WHOLE
    assert db.effects() == ["k"]


def test_what_the_result_makes_dirty_while_it_is_packed_is_committed_with_it(db: Database, sent: list[str]) -> None:
    class Writing:
        name = "writing"

        def carrier(self, returns: Any) -> Any:
            return self

        def encode(self, value: Any) -> bytes:
            current[0].add(Effect(name="written while packing"))
            return str(value).encode()

        def decode(self, data: bytes) -> Any:
            return data.decode()

    current: list[Session] = []

    def work(session: Session, key: str) -> str:
        current[:] = [session]
        effect(session, key)
        return key

    order_of(db.table(codec=Writing()), work, returns=str)("k")
    assert sorted(db.effects()) == ["k", "written while packing"]
    assert "INSERT COMMIT" not in sent


# --- the connection -------------------------------------------------------------------------------------------------------


def test_a_driver_with_a_cursor_of_somebodys_own_sends_statement_by_statement(db: Database, sent: list[str]) -> None:
    import psycopg

    traced = []

    class Traced(psycopg.Cursor[Any]):
        def execute(self, query: Any, *args: Any, **options: Any) -> Any:
            traced.append(str(query).split()[0])
            return super().execute(query, *args, **options)

    class AsyncTraced(psycopg.AsyncCursor[Any]):
        async def execute(self, query: Any, *args: Any, **options: Any) -> Any:
            traced.append(str(query).split()[0])
            return await super().execute(query, *args, **options)

    with db.other_engine() as engine:

        @sa.event.listens_for(sync_engine(engine), "connect")
        def trace(connection: Any, _: Any) -> None:
            driver = getattr(connection, "driver_connection", connection)
            driver.cursor_factory = AsyncTraced if db.is_async else Traced

        order_of(db.table(engine))("k")
    assert sent == []
    if not db.is_async:  # SQLAlchemy's own adapter makes the cursors of an async connection
        assert traced.count("INSERT") == 3


@pytest.mark.parametrize("threshold", [None, 0, 2])
def test_statements_are_prepared_when_the_driver_was_told_to(db: Database, threshold: int | None) -> None:
    with db.other_engine(connect_args={"prepare_threshold": threshold}, pool_size=1) as engine:
        order = order_of(db.table(engine))
        for number in range(6):
            order(f"k{number}")
            order(f"k{number}")

        def prepared(session: Session) -> int:
            sql = "SELECT count(*) FROM pg_prepared_statements WHERE statement ~ '(INTO|FROM) idemtable'"
            return int(session.execute(sa.text(sql)).scalar_one())

        with db.session(engine) as held:
            assert held.run(prepared) == (0 if threshold is None else 3), "claim, look and result"


def test_a_server_that_has_forgotten_what_was_prepared_is_asked_again(db: Database) -> None:
    with db.other_engine(connect_args={"prepare_threshold": 0}, pool_size=1, max_overflow=0) as engine:
        order = order_of(db.table(engine))
        order("before")
        with db.session(engine) as held:
            # Past the driver, as a pooler would that has put another connection of its own behind this one.
            held.run(
                lambda session: session.execute(
                    sa.text("DO $$ BEGIN EXECUTE 'DEALLOCATE ' || quote_ident((SELECT name FROM pg_prepared_statements "
                            "WHERE statement ~ '^INSERT INTO idemtable .* NOTHING')); END $$")
                )
            )  # fmt: skip
            held.commit()
        outcome = order.outcome("k")
    assert (outcome.replayed, outcome.attempts) == (False, 2)
    assert db.effects() == ["before", "k"]


@pytest.mark.parametrize("backend", ["postgresql18", "postgresql18-listened"])
def test_a_call_inside_a_pipeline_of_the_applications_is_refused_with_the_cure(backend: str) -> None:
    db = db_of(backend)
    order = order_of(db.idem)
    with db.session() as held:
        driver = held.run(lambda session: session.connection()).connection.driver_connection
        for verb in (order.join, lambda session, key: db.idem.claim_many(session, "packets", [key])):
            with driver.pipeline(), pytest.raises(SessionNotUsableError, match=r"pipeline\(\).*Call before it"):
                verb(held.session, "k")
            verb(held.session, "k")
        held.commit()
    assert db.effects() == ["k"]


def test_a_connection_that_speaks_another_encoding_stores_the_same_text(db: Database, sent: list[str]) -> None:
    with db.other_engine(connect_args={"client_encoding": "latin1"}) as engine:
        order = order_of(db.table(engine))
        order("schlüssel")
    assert sent == []
    assert [row.key for row in db.rows()] == ["schlüssel"]
    assert order_of(db.idem, lambda session, key: None).outcome is not None


@pytest.mark.parametrize("level", [None, "REPEATABLE READ", "SERIALIZABLE"])
def test_the_transaction_begins_at_the_level_that_was_asked_for(
    db: Database, sent: list[str], level: str | None
) -> None:
    order = order_of(
        db.idem,
        lambda session, _: session.execute(sa.text("SHOW transaction_isolation")).scalar_one(),
        isolation_level=level,
    )
    assert order("k") == (level or "read committed").lower()
    assert sent == WHOLE


def test_what_is_read_only_by_default_is_refused_and_the_connection_goes_on(db: Database) -> None:
    from idemtable import SessionNotUsableError

    options = {"options": "-c default_transaction_read_only=on"}
    with db.other_engine(connect_args=options, pool_size=1, max_overflow=0) as engine:
        order = order_of(db.table(engine))
        for _ in range(2):
            with pytest.raises(SessionNotUsableError, match="read-only"):
                order("k")
    assert db.effects() == []


# --- what fails in a packet -----------------------------------------------------------------------------------------------


def test_after_an_error_in_a_packet_the_connection_is_as_good_as_new(db: Database, sent: list[str]) -> None:
    with db.other_engine(pool_size=1, max_overflow=0, connect_args={"prepare_threshold": 0}) as engine:
        order = order_of(db.table(engine, table="later"))
        for _ in range(2):
            with pytest.raises(Exception, match="later"):
                order("k")
        later = db.table(engine, table="later")
        later.create_all()
        try:
            assert order("k") == order("k")
            assert db.effects() == ["k"]
        finally:
            db.execute("DROP TABLE later")
            db.execute("DROP TABLE later_version")
    assert sent[-2:] == ["INSERT", "SELECT ROLLBACK"]


@pytest.mark.parametrize("when", ["claim", "result"])
def test_a_server_that_hangs_up_is_heard_to_the_end(db: Database, sent: list[str], when: str) -> None:
    def cut() -> None:
        with db.admin.connect() as connection:
            assert connection.scalar(sa.text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})

    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        idem = db.table(engine, attempts=1, failover=timedelta(0))
        order = order_of(idem, lambda session, key: cut() if key == "result" else session.scalar(PID))
        pid = order("pid")
        if when == "claim":
            cut()
        sent.clear()
        with pytest.raises(sa.exc.DBAPIError, match="terminating connection due to administrator command") as raised:
            order(when)
        assert raised.value.connection_invalidated
        assert sent == (WHOLE[:1] if when == "claim" else WHOLE)
        assert order("after") != pid


def test_a_constraint_that_is_checked_at_commit_is_the_applications_own_error(db: Database, sent: list[str]) -> None:
    db.execute("CREATE TABLE child (of integer REFERENCES effect (id) DEFERRABLE INITIALLY DEFERRED)")
    try:

        def work(session: Session, key: str) -> str:
            session.execute(sa.text("INSERT INTO child VALUES (-1)"))
            return key

        order = order_of(db.idem, work)
        with pytest.raises(sa.exc.IntegrityError, match="child_of_fkey"):
            order("k")
        assert sent == WHOLE
        assert db.rows() == []
        assert db.execute("SELECT count(*) FROM child")[0][0] == 0
    finally:
        db.execute("DROP TABLE child")


def lose_the_claim(session: Session, key: str) -> str:
    """Break out of the transaction, in text, so that no driver and no session is told."""
    session.execute(sa.text("DELETE FROM idemtable WHERE key = 'k'"))
    effect(session, key)
    return key


def give_the_claim_away(session: Session, key: str) -> str:
    session.execute(sa.text("UPDATE idemtable SET owner = decode(repeat('00', 16), 'hex')"))
    effect(session, key)
    return key


@pytest.mark.parametrize("lose", [lose_the_claim, give_the_claim_away])
def test_a_result_without_a_row_of_its_own_fails_the_transaction_by_itself(
    db: Database, sent: list[str], lose: Callable[[Session, str], str]
) -> None:
    with db.deleting(), pytest.raises(LostClaimError):
        order_of(db.idem, lose)("k")
    assert sent == WHOLE
    assert db.effects() == []
    assert db.rows() == []


@pytest.mark.parametrize("lose", [lose_the_claim, give_the_claim_away])
def test_the_check_finds_a_last_statement_that_does_not_fail_by_itself(
    db: Database, lose: Callable[[Session, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PostgreSQL, "STORE_OR_FAIL", PostgreSQL.STORE)
    with db.deleting(), db.other_engine() as engine:
        order_of(db.table(engine), lose)("k")
    assert db.effects() == ["k"], "committed without a claim"


def test_a_commit_that_is_answered_with_rollback_is_no_success(
    db: Database, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = Packets._sent

    def aborted(self: Packets, connection: Any, part: Any, begin: bool, end: bytes | None) -> Any:
        # As the server does with COMMIT where the transaction has failed.
        return send(self, connection, part, begin, b"ROLLBACK" if end == b"COMMIT" else end)

    monkeypatch.setattr(Packets, "_sent", aborted)
    with pytest.raises(LostClaimError):
        order_of(db.idem)("k")
    assert db.effects() == []


@pytest.mark.parametrize("backend", ["mariadb", "mysql-several"])
@pytest.mark.parametrize("lose", ["DELETE FROM idemtable", "UPDATE idemtable SET owner = REPEAT('x', 16)"])
def test_a_result_that_travels_with_commit_to_mysql_fails_by_itself_where_the_row_is_not_the_claims_own(
    backend: str, lose: str
) -> None:
    db = db_of(backend)

    def work(session: Session, key: str) -> str:
        session.execute(sa.text(lose))
        return str(effect(session, key))

    with db.deleting(), pytest.raises(LostClaimError):
        order_of(db.idem, work)("k")
    assert db.effects() == []
    assert db.rows() == []


def test_the_lock_timeout_that_travels_with_the_claim_is_put_back_whatever_comes_of_it() -> None:
    db = db_of("mysql-several")
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        order = order_of(db.table(engine))
        refused = order_of(db.table(engine, table="missing"))

        def setting() -> int:
            with engine.connect() as connection:
                return int(connection.exec_driver_sql("SELECT @@SESSION.innodb_lock_wait_timeout").scalar_one())

        before = setting()
        order("k")
        assert setting() == before
        assert order.outcome("k").replayed
        assert setting() == before
        with pytest.raises(Exception, match="missing"):
            refused("k")
        assert setting() == before


def test_of_two_commits_the_second_is_sent_where_something_came_in_between() -> None:
    db = db_of("mariadb")
    with db.engine.connect() as connection:
        pooled: Any = connection.connection
        driver = pooled.driver_connection

        def commits() -> int:
            driver.query("SHOW SESSION STATUS LIKE 'Com_commit'")
            return int(driver._result.rows[0][1])

        watch_end(connection)
        before = commits()
        pooled.commit()
        pooled.commit()
        pooled.rollback()
        assert commits() == before + 1
        pooled.commit()
        assert commits() == before + 2


def _nothing(driver: Any) -> None: ...


def _writes(driver: Any) -> None:
    with driver.cursor() as cursor:
        cursor.execute("INSERT INTO effect (name, amount) VALUES ('late', 1)")


def _is_refused(driver: Any) -> None:
    with driver.cursor() as cursor, pytest.raises(Exception, match="missing"):
        cursor.execute("INSERT INTO missing VALUES (1)")


@pytest.mark.parametrize(
    ("since", "rolls_back"), [(_nothing, 0), (_writes, 1), (_is_refused, 1)], ids=["nothing", "written", "refused"]
)
@pytest.mark.parametrize("backend", ["mariadb", "mysql", "mysql-several"])
def test_the_pool_rolls_back_after_commit_what_somebody_has_sent_since_and_nothing_else(
    backend: str, since: Callable[[Any], None], rolls_back: int
) -> None:
    db = db_of(backend)
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        order = order_of(db.table(engine))

        def rollbacks() -> int:
            with engine.connect() as connection:
                return int(connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Com_rollback'").one()[1])

        order("warm")
        before = rollbacks()  # which is followed by one of its own
        sa.event.listen(engine, "reset", lambda driver, record, state: since(driver))
        order("k")
        assert rollbacks() - before == 1 + rolls_back
    assert sorted(db.effects()) == ["k", "warm"]


@pytest.mark.parametrize("backend", ["mariadb", "mysql", "mysql-several"])
def test_where_commit_begins_another_transaction_the_pool_is_not_kept_from_rolling_back(backend: str) -> None:
    db = db_of(backend)
    with db.other_engine(pool_size=1, max_overflow=0) as engine:

        @sa.event.listens_for(engine, "connect")
        def chains(driver: Any, record: Any) -> None:
            driver.query("SET SESSION completion_type = 'CHAIN'")

        order = order_of(db.table(engine))

        def rollbacks() -> int:
            with engine.connect() as connection:
                return int(connection.exec_driver_sql("SHOW SESSION STATUS LIKE 'Com_rollback'").one()[1])

        before = rollbacks()
        outcome = order.outcome("k")
        assert rollbacks() - before == 2
        assert (outcome.replayed, outcome.attempts) == (False, 1)


@pytest.mark.parametrize(("backend", "options"), [("mariadb", {}), ("postgresql18", {"deferred": True})])
def test_the_wrapper_of_the_pool_is_gone_with_its_call(backend: str, options: dict[str, bool]) -> None:
    db = db_of(backend)
    wrappers: list[weakref.ref[Any]] = []
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        sa.event.listen(engine, "checkout", lambda driver, record, pooled: wrappers.append(weakref.ref(pooled)))
        order = order_of(db.table(engine), **options)
        gc.disable()
        try:
            order("k")
            assert len(wrappers) > 0
            assert [wrapper() for wrapper in wrappers] == [None] * len(wrappers)
        finally:
            gc.enable()


# --- what a packet must not do to others ----------------------------------------------------------------------------------


def test_a_call_that_waits_for_an_answer_lets_other_threads_run() -> None:
    db = db_of("postgresql18")
    order = order_of(db.idem)
    done: list[Any] = []
    with db.session() as holder:
        order_in = order.join
        order_in(holder.session, "k")
        waiter = threading.Thread(target=lambda: done.append(order.outcome("k")))
        waiter.start()
        db.await_waiting(1)  # this thread looks meanwhile, and it is the one who lets the waiter go on
        assert done == []
        holder.commit()
    waiter.join(60)
    assert done[0].replayed
    assert db.effects() == ["k"]


def test_an_answer_that_comes_byte_by_byte_is_read_whole_and_lets_other_threads_run(db: Database) -> None:
    assert db.sync_url.port is not None
    long = "long" * 5_000
    with Proxy(db.sync_url.port, at_a_time=1) as proxy:  # whose threads are some of those
        engine = engine_at(db, proxy.port)
        try:

            @db.table(engine).transactional(f"packets.{next(_scopes)}", key="key", wait=LENT)
            def order(session: Any, key: str, said: str) -> str:
                effect(session, key)
                return said

            for key, said in (("k", "short"), ("l", long)):
                answers = [order.outcome(key, said) for _ in range(3)]
                assert [(answer.value, answer.replayed) for answer in answers] == [(said, n > 0) for n in range(3)]
            with pytest.raises(FingerprintMismatchError):
                order("k", "other")
        finally:
            db.dispose(engine)
    assert db.effects() == ["k", "l"]


@pytest.mark.parametrize("backend", ["postgresql18", "postgresql18-async", "postgresql18-listened"])
def test_a_table_that_was_small_when_it_was_analysed_is_not_read_whole(backend: str) -> None:
    db = db_of(backend)
    with db.other_engine(pool_size=1, max_overflow=0) as engine:
        order = order_of(db.table(engine))
        order("first")
        db.execute("ANALYZE idemtable")
        # Statistics of the session come in at its end: each engine is asked when its connections are gone.
        seen = "SELECT coalesce(seq_scan, 0) FROM pg_stat_user_tables WHERE relname = 'idemtable'"
        for number in range(120):
            order(f"k{number}")
        with db.session(engine) as held:
            held.run(lambda session: session.execute(sa.text("SELECT pg_stat_force_next_flush()")))
            held.commit()
            before = held.run(lambda session: session.execute(sa.text(seen)).scalar_one())
            held.commit()
        for number in range(120):
            order(f"l{number}")
        with db.session(engine) as held:
            held.run(lambda session: session.execute(sa.text("SELECT pg_stat_force_next_flush()")))
            held.commit()
            after = held.run(lambda session: session.execute(sa.text(seen)).scalar_one())
    assert after - before < 5


def test_a_statement_is_prepared_anew_after_many_uses(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("idemtable.dialects.packet._RENEWED", 3)
    with db.other_engine(connect_args={"prepare_threshold": 1}, pool_size=1, max_overflow=0) as engine:
        order = order_of(db.table(engine))
        names = []
        sql = "SELECT name FROM pg_prepared_statements WHERE statement ~ '^INSERT INTO idemtable .* NOTHING'"
        for number in range(12):
            order(f"k{number}")
            with db.session(engine) as held:
                found = held.run(lambda session: session.execute(sa.text(sql)).scalars().all())
                held.commit()  # at a ROLLBACK psycopg has the server forget them all
            names.append(tuple(found))
        assert {len(found) for found in names} <= {0, 1}
        assert len({found for found in names if found}) >= 2
    assert len(db.effects()) == 12
