"""One text for both colours: a database with its tables, and an IdemTable spoken to in plain calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from weakref import finalize

import pytest
import sqlalchemy as sa
from pymysql.constants import CLIENT
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.util import greenlet_spawn

import idemtable
from idemtable import AsyncIdemTable, IdemTable
from tests.support.plain import Loop, PlainTable

INNODB = ("mariadb", "mysql")
"""The kinds of database that behave alike, where InnoDB or the language decides."""


class Base(DeclarativeBase):
    pass


class Effect(Base):
    """What business functions leave behind. Without any unique constraint: only the library keeps it single."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(100))
    amount: Mapped[int] = mapped_column(default=1)


class Unique(Base):
    """A business table with a constraint of its own."""

    __tablename__ = "unique_business"
    name: Mapped[str] = mapped_column(sa.String(100), primary_key=True)


class Held:
    """A session that a test holds, in either colour; `session` is what the library is given."""

    def __init__(self, db: Database, session: Any) -> None:
        self._db, self.session = db, session

    def run(self, work: Callable[[Session], Any]) -> Any:
        return self._db.on(self.session, work)

    def commit(self) -> None:
        self.run(lambda session: session.commit())

    def rollback(self) -> None:
        self.run(lambda session: session.rollback())

    def begin(self) -> None:
        self.run(lambda session: session.begin())


class Database:
    """One database in one colour."""

    def __init__(self, backend: str, url: sa.URL, driver: str, connect_args: dict[str, Any] | None = None) -> None:
        self.backend = backend
        self.connect_args = connect_args or {}
        if "several" in backend:
            self.connect_args = {**self.connect_args, "client_flag": CLIENT.MULTI_STATEMENTS}
        self.is_async = "async" in backend
        self.sync_url = url
        self.url = url.set(drivername=driver)
        # For what the test itself looks at: never the engine under test, whose pool and listeners are part of it.
        self.admin = _looking(url)
        self.kind = kind_of(self.admin)
        self.loop = Loop() if self.is_async else None
        self.engine = self.make_engine()
        if self.kind == "sqlite":
            with self.admin.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        with self.admin.begin() as connection:
            Base.metadata.create_all(connection)
        self.idem = self.table()
        self.idem.create_all()

    # --- making ---------------------------------------------------------------------------------------------------

    def make_engine(self, **options: Any) -> Any:
        """A new engine for the database's own driver."""
        if "poolclass" not in options:
            # Named, because SQLAlchemy 2.0 pools no aiosqlite connections by itself.
            pool = sa.AsyncAdaptedQueuePool if self.is_async else sa.QueuePool
            options = {"pool_size": 40, "poolclass": pool, **options}
        # PyMySQL reads the machine's certificates for each connection: most of what a test would cost.
        usual = {"ssl_disabled": True} if self.url.get_driver_name() == "pymysql" else {}
        if usual or self.connect_args:
            options = {"connect_args": {**usual, **self.connect_args}, **options}
        if self.is_async:
            from sqlalchemy.ext.asyncio import create_async_engine

            return self.listened(create_async_engine(self.url, **options))
        return self.listened(sa.create_engine(self.url, **options))

    def listened(self, engine: Any) -> Any:
        """The engine, with somebody who listens to its statements where the backend says so."""
        if "listened" in self.backend:
            heard = getattr(engine, "sync_engine", engine)
            sa.event.listen(heard, "after_cursor_execute", lambda *_: None)
        return engine

    def table(self, bind: Any = None, **settings: Any) -> Any:
        """A table on the database's engine or another bind, spoken to plainly."""
        bind = self.engine if bind is None else bind
        if self.loop is not None:
            return PlainTable(self.loop, AsyncIdemTable(bind, **settings))
        return IdemTable(bind, **settings)

    def dispose(self, engine: Any) -> None:
        if self.loop is not None:
            self.loop.run(engine.dispose())
        else:
            engine.dispose()

    # --- sessions -------------------------------------------------------------------------------------------------

    def on(self, session: Any, work: Callable[[Session], Any]) -> Any:
        """Run a function of the sync session inside whatever session this is."""
        if self.loop is not None:
            return self.loop.run(session.run_sync(work))
        return work(session)

    def given(self, session: Session) -> Any:
        """What a business function hands to the library: its session, in the database's own colour."""
        if self.loop is None:
            return session
        from sqlalchemy.ext.asyncio import async_session

        return async_session(session)

    @contextmanager
    def session(self, engine: Any = None, **options: Any) -> Iterator[Held]:
        """A session of the caller's own, on the database's engine unless another is given; closed at the end."""
        engine = self.engine if engine is None else engine
        if self.loop is not None:
            from sqlalchemy.ext.asyncio import AsyncSession

            held = AsyncSession(engine, **options)
            try:
                yield Held(self, held)
            finally:
                self.loop.run(held.close())
        else:
            with sessionmaker(engine, **options)() as held:
                yield Held(self, held)

    def streamed(self, held: Held, query: Any) -> Any:
        """What a query gives a session as it comes, a few rows at a time: an iterable of the session's colour."""
        query = query.execution_options(yield_per=3)
        if self.loop is None:
            return held.session.execute(query).scalars()
        return self.loop.run(held.session.stream_scalars(query))

    def plainly(self, rows: Any) -> Iterator[Any]:
        """What an iterable of either colour gives, in plain steps."""
        if self.loop is None:
            yield from rows
            return
        end = object()

        async def step() -> Any:
            return await anext(rows, end)

        while (row := self.loop.run(step())) is not end:
            yield row

    def together(self, work: Callable[[], Any]) -> Any:
        """Run a plain function as one task: what it calls shares that task's context, as in one async function."""
        return work() if self.loop is None else self.loop.run(greenlet_spawn(work))

    @contextmanager
    def other_engine(self, **options: Any) -> Iterator[Any]:
        """Another engine for the same database, gone at the end."""
        engine = self.make_engine(**options)
        try:
            yield engine
        finally:
            self.dispose(engine)

    # --- looking --------------------------------------------------------------------------------------------------

    def effects(self, name: str | None = None) -> list[str]:
        """The names of what has been committed, in order; of one name if given."""
        query = sa.select(Effect.name).order_by(Effect.id)
        if name is not None:
            query = query.where(Effect.name == name)
        with self.admin.connect() as connection:
            return list(connection.execute(query).scalars())

    def rows(self) -> list[Any]:
        """The rows of the table of keys."""
        with self.admin.connect() as connection:
            return list(connection.execute(sa.select(idemtable.metadata.tables["idemtable"])))

    def execute(self, sql: str, **values: Any) -> Any:
        """Run and commit a statement behind the library's back."""
        with self.admin.begin() as connection:
            result = connection.execute(sa.text(sql), values)
            return result.fetchall() if result.returns_rows else result.rowcount

    def expire(self) -> None:
        """Make every row as old as if its time had passed, by the database's clock."""
        rows, old = idemtable.metadata.tables["idemtable"], datetime(2020, 1, 1, tzinfo=UTC)
        # Finished at once, so that nothing is added to the time that has passed.
        finished = sa.case((rows.c.completed_at.is_(None), None), else_=sa.literal(old, rows.c.completed_at.type))
        with self.admin.begin() as connection:
            connection.execute(rows.update().values(created_at=old, completed_at=finished, expires_at=old))

    def waiting(self) -> int:
        """How many connections wait for a lock that another one holds, by the database's own views."""
        if self.kind == "postgresql":
            sql = "SELECT count(*) FROM pg_stat_activity WHERE cardinality(pg_blocking_pids(pid)) > 0"
        elif self.kind in INNODB:
            # Not information_schema.innodb_trx: it is a copy that is renewed only when nobody has looked for 0.1 seconds.
            return int(self.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")[0][1])
        else:
            raise AssertionError("SQLite has no view of who waits")
        return int(self.execute(sql)[0][0])

    @contextmanager
    def deleting(self, schema: str | None = None) -> Iterator[None]:
        """Let the application delete records itself meanwhile, where its user may not."""
        yield

    def needs_autocommit(self) -> None:
        """Skip the test where SQLAlchemy refuses AUTOCOMMIT before the library is asked."""
        levels = getattr(self.engine, "sync_engine", self.engine).dialect.get_isolation_level_values(None)
        if "AUTOCOMMIT" not in levels:  # MySQL's own connector, in the lowest version that pyproject.toml allows
            pytest.skip("this version of SQLAlchemy gives the driver no AUTOCOMMIT")

    def insists_on_its_snapshot(self) -> bool:
        """Whether a row that changed since the snapshot is an error: MariaDB 11.8 says so unless told otherwise."""
        return self.kind == "mariadb" and bool(self.execute("SELECT @@GLOBAL.innodb_snapshot_isolation")[0][0])

    def await_waiting(self, count: int) -> None:
        """Come back when at least `count` connections wait for a lock; fail when it does not happen."""
        import time

        deadline = time.monotonic() + 20
        while (seen := self.waiting()) < count:
            assert time.monotonic() < deadline, f"{seen} of {count} wait"
            time.sleep(0.01)  # between two looks at the view; nothing is assumed after it

    def sweep(self) -> None:
        """Empty the tables for the next test."""
        with self.admin.begin() as connection:
            for table in ("effect", "unique_business", "idemtable"):
                connection.exec_driver_sql(f"DELETE FROM {table}")

    def close(self) -> None:
        self.dispose(self.engine)
        self.admin.dispose()
        if self.loop is not None:
            self.loop.close()


def _looking(url: sa.URL) -> sa.Engine:
    """An engine that keeps its connections, since for most looks a new one would cost more than the look.

    A test may end them, or the server. On SQLite to connect costs nothing.
    """
    if url.get_backend_name() == "sqlite":
        return sa.create_engine(url, poolclass=sa.NullPool)
    arguments = {"prepare_threshold": None} if url.get_driver_name() == "psycopg" else {}  # a test may alter the table
    return sa.create_engine(url, pool_pre_ping=True, connect_args=arguments)


def kind_of(engine: sa.Engine) -> str:
    """Say `sqlite`, `postgresql`, `mariadb` or `mysql`: a URL does not tell the last two apart."""
    with engine.connect() as connection:
        return "mariadb" if getattr(connection.dialect, "is_mariadb", False) else connection.dialect.name


def effect(session: Session, name: str, amount: int = 1) -> int:
    """Leave an effect behind; return its id."""
    row = Effect(name=name, amount=amount)
    session.add(row)
    session.flush()
    return row.id


def take_out(session: Session) -> None:
    """Take a session's connection out of its pool, and have it closed when it is collected."""
    connection = session.connection()
    driver = connection.connection.driver_connection
    connection.detach()
    if hasattr(driver, "pgconn"):  # SQLAlchemy never closes psycopg's where it is async
        finalize(connection.connection, driver.pgconn.finish)
