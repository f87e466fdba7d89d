"""The only module that knows Engine and Session from AsyncEngine and AsyncSession, and where transactions come from.

Everything below runs on a sync Connection or Session; async enters through SQLAlchemy's own ``run_sync``. Nothing of
``sqlalchemy.ext.asyncio`` is imported before it is needed: SQLAlchemy 2.1 installs no greenlet by itself.

A bind may come late: a sessionmaker is asked what it is bound to each time, a function is called at first use. A test
suite binds its sessionmaker to a Connection whose transaction it will roll back: then everything happens in savepoints
of that one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session, sessionmaker

from .annotations import refuse_async
from .dialects import Fault, known
from .dialects.shared import occupied
from .dialects.words import driver_of
from .errors import SessionNotUsableError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import async_sessionmaker

T = TypeVar("T")

_NEW, _INIT, _CONNECTION, _BIND = Session.__new__, Session.__init__, Session.connection, Session.get_bind
"""What a session is made by and comes to a connection by, before anybody has put a way of theirs in the place of one."""
_GONE: Final = (Fault.UNKNOWN, Fault.ELSEWHERE, Fault.AWAY)


def is_async(target: object) -> bool:
    """Say whether a bind or a session is one of SQLAlchemy's async classes, or derives from one."""
    return any(cls.__module__.startswith("sqlalchemy.ext.asyncio") for cls in type(target).__mro__)


def apart(engine: Engine) -> Engine:
    """Return an engine that connects as another one does, without its options and listeners, over a pool of its own.

    Whoever looks from outside must not take connections of the application's, which may be few, or of another event loop.
    """
    return Engine(engine.pool.recreate(), engine.dialect, engine.url)


@contextmanager
def importing_async() -> Iterator[None]:
    """Turn the error of an import of ``sqlalchemy.ext.asyncio`` inside into the cure.

    Raises:
        ImportError: greenlet is not installed.
    """
    try:
        yield
    except ImportError as error:
        raise ImportError('async needs greenlet: pip install "idemtable[asyncio]"') from error


class BaseBinding(ABC):
    """Where the transactions of a table come from; `bind` is as the program gave it."""

    def __init__(self, bind: Any) -> None:
        self.given = bind
        self._maker: Any = None
        self._function: Callable[[], Any] | None = None
        self._engine: Engine | None = None
        """The sync engine, where one was given: then the sessionmaker is our own."""
        self._heard: tuple[Any, Session | None] = None, None
        """A class of sessions, and one of them, by which `is_unheard` sees who listens to all of them; it is never used."""
        if self._is_maker(bind):
            self._maker = bind
        elif callable(bind) and not type(bind).__module__.startswith(
            "sqlalchemy."
        ):  # a scoped_session can be called too
            refuse_async(bind, "bind")
            self._function = bind
        else:
            self._maker = self._made(bind)
            self._engine = self.bound.engine

    @abstractmethod
    def _is_maker(self, bind: Any) -> bool:
        """Say whether it is a sessionmaker of this colour."""

    @abstractmethod
    def _made(self, bind: Any) -> Any:
        """Return a sessionmaker for an engine of this colour; TypeError for what is none."""

    @abstractmethod
    def _kind(self, maker: Any) -> type[Session] | None:
        """Return the sync class of a sessionmaker's sessions; ``None`` where to make one may do more than `Session()`."""

    @abstractmethod
    def _sync(self, bound: Any) -> Engine | Connection | None:
        """Return the sync Engine or Connection of what a sessionmaker is bound to."""

    @property
    def is_late(self) -> bool:
        """Whether nobody can say yet what it is bound to."""
        return self._maker is None or self._maker.kw.get("bind") is None

    def sessions(self) -> Any:
        """Return the sessionmaker; its bind may be another one each time."""
        if self._maker is None:
            assert self._function is not None
            bind = self._function()
            self._maker = bind if self._is_maker(bind) else self._made(bind)
        return self._maker

    @property
    def bound(self) -> Engine | Connection:
        """What transactions begin on now.

        Raises:
            ValueError: the sessionmaker is bound to nothing yet. TypeError: to what is neither Engine nor Connection.
        """
        bound = (self._maker or self.sessions()).kw.get("bind")
        if bound is self.given and self._engine is not None:
            return self._engine
        if bound is None:
            raise ValueError(
                "the sessionmaker is bound to no Engine: make it with sessionmaker(engine), or call its "
                "configure(bind=engine) before the first call"
            )
        found = self._sync(bound)
        if found is None:
            raise TypeError(
                f"the sessionmaker is bound to {bound!r}, which is no Engine and no Connection of its colour"
            )
        return found

    @property
    def engine(self) -> Engine:
        """The sync engine."""
        return self.bound.engine

    @property
    def is_inside(self) -> bool:
        """Whether everything happens inside a transaction that somebody else holds."""
        return isinstance(self.bound, Connection)

    def session(self, *, inside: bool) -> Any:
        """Return a new session; inside somebody else's transaction its COMMIT and ROLLBACK are those of a savepoint.

        Closed, it stays closed: whoever kept it, a background task or a thread that was left running, would begin a
        transaction that nobody ends.
        """
        maker = self._maker or self.sessions()
        if inside:
            return maker(close_resets_only=False, join_transaction_mode="create_savepoint")
        if self._engine is not None:  # what it would do itself, without its loop over its words
            return maker.class_(**maker.kw, close_resets_only=False)
        return maker(close_resets_only=False)

    def is_unheard(self, engine: Engine) -> bool:
        """Say whether a session's connection would be like any other of an engine: nobody has a say in it."""
        maker = self._maker or self.sessions()
        kind = self._kind(maker)
        if (
            kind is None
            or kind.__new__ is not _NEW
            or kind.__init__ is not _INIT
            or kind.connection is not _CONNECTION
            or kind.get_bind is not _BIND
        ):
            return False
        known, one = self._heard
        if one is None or known is not kind:
            one = kind()
            self._heard = kind, one
        return (
            self.bound is engine
            and not maker.kw.get("execution_options")  # since SQLAlchemy 2.1
            and not one.dispatch.after_begin
            and not one.dispatch.after_transaction_create
        )


class Binding(BaseBinding):
    """An Engine, a sessionmaker, or a function that returns one of them."""

    is_async = False

    def _is_maker(self, bind: Any) -> bool:
        return isinstance(bind, sessionmaker)

    def _made(self, bind: Any) -> sessionmaker[Any]:
        if is_async(bind):
            raise TypeError(f"{type(bind).__name__} is async: use AsyncIdemTable")
        if isinstance(bind, Engine):
            # Objects that outlive the call stay readable: it has ended its transaction when the caller sees them.
            return sessionmaker(bind, expire_on_commit=False)
        raise TypeError(f"IdemTable takes an Engine, a sessionmaker or a function that returns one, not {bind!r}")

    def _kind(self, maker: Any) -> type[Session] | None:
        return maker.class_ if type(maker) is sessionmaker else None

    def _sync(self, bound: Any) -> Engine | Connection | None:
        return bound if isinstance(bound, Engine | Connection) else None

    def run(self, work: Callable[[Connection], T], options: Mapping[str, Any] | None = None) -> T:
        """Run a function of a connection in a short transaction of its own."""
        bound = self.bound
        if isinstance(bound, Connection):
            return within(bound, work)
        _refuse_occupied(bound)
        with (
            dropping_dead(bound),
            bound.connect() as connection,
            connection.execution_options(**_possible(connection, options or {})).begin(),
        ):
            return work(connection)


class AsyncBinding(BaseBinding):
    """The same for an AsyncEngine or an async_sessionmaker; `engine` is the sync engine inside."""

    is_async = True

    def __init__(self, bind: Any) -> None:
        with importing_async():
            from sqlalchemy.ext import asyncio
        self._asyncio = asyncio
        super().__init__(bind)

    def _is_maker(self, bind: Any) -> bool:
        return isinstance(bind, self._asyncio.async_sessionmaker)

    def _made(self, bind: Any) -> async_sessionmaker[Any]:
        if isinstance(bind, self._asyncio.AsyncEngine):
            return self._asyncio.async_sessionmaker(bind, expire_on_commit=False)
        if isinstance(bind, Engine | sessionmaker):
            raise TypeError(f"{type(bind).__name__} is sync: use IdemTable, or make it async")
        raise TypeError(
            f"AsyncIdemTable takes an AsyncEngine, an async_sessionmaker or a function that returns one, not {bind!r}"
        )

    def _kind(self, maker: Any) -> type[Session] | None:
        kind, plain = maker.class_, self._asyncio.AsyncSession
        is_plain = kind.__new__ is plain.__new__ and kind.__init__ is plain.__init__ and kind.run_sync is plain.run_sync
        if type(maker) is not self._asyncio.async_sessionmaker or not is_plain:
            return None
        return maker.kw.get("sync_session_class") or kind.sync_session_class  # type: ignore[no-any-return]

    def _sync(self, bound: Any) -> Engine | Connection | None:
        if isinstance(bound, self._asyncio.AsyncEngine):
            return bound.sync_engine
        return bound.sync_connection if isinstance(bound, self._asyncio.AsyncConnection) else None

    async def run(self, work: Callable[[Connection], T], options: Mapping[str, Any] | None = None) -> T:
        """Run a function of a sync connection in a short transaction of its own."""
        inside, bound = self.is_inside, self.sessions().kw["bind"]
        if inside:
            return await bound.run_sync(within, work)  # type: ignore[no-any-return]
        _refuse_occupied(bound.sync_engine)
        with dropping_dead(bound.sync_engine):
            async with bound.connect() as connection:
                await connection.execution_options(**await connection.run_sync(_possible, options or {}))
                async with connection.begin():
                    return await connection.run_sync(work)  # type: ignore[no-any-return]


def _refuse_occupied(engine: Engine) -> None:
    """Raise SessionNotUsableError where a transaction of one's own would end somebody else's."""
    ways = known.get(engine.dialect.name)
    if ways is not None and (why := occupied(engine.pool, ways.inside)):
        raise SessionNotUsableError(f"the engine has no transaction for this now: {why}")


def _possible(connection: Connection, options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave an isolation level out where a listener of the pool's has begun the transaction already.

    psycopg refuses to choose one there, and psycopg2 rolls back what the listener has set.
    """
    ways = known.get(connection.dialect.name)
    if ways is None or "isolation_level" not in options or not ways.inside(driver_of(connection)):
        return dict(options)
    return {name: value for name, value in options.items() if name != "isolation_level"}


def drop_dead(engine: Engine, error: BaseException) -> None:
    """Give an engine a new pool where an error is one with which a connection has lost its place in the pool for good.

    That is the raw error of a driver of MySQL's, from setting an isolation level or putting it back: SQLAlchemy does not
    notice that the connection is dead, and would hand it out again, or never take it back. An error that does not say so
    may be the application's own, and a pool may be all there is of a database in memory.
    """
    dialect = engine.dialect
    ways = known.get(dialect.name)
    if ways is None or not ways.dies_unnoticed or dialect.dbapi is None or not isinstance(error, dialect.dbapi.Error):
        return
    # SQLAlchemy asks for the first of what there may be none of.
    if error.args and (ways.numbered(error) in _GONE or dialect.is_disconnect(error, None, None)):
        engine.dispose(close=False)


@contextmanager
def dropping_dead(engine: Engine) -> Iterator[None]:
    """Do so for what is raised inside, where a connection is taken from the pool and given back."""
    try:
        yield
    except Exception as error:
        drop_dead(engine, error)
        raise


def within(connection: Connection, work: Callable[[Connection], T]) -> T:
    """Run a function on a connection that is somebody else's, in a savepoint of the transaction that is open there."""
    with connection.begin_nested() if connection.in_transaction() else connection.begin():
        return work(connection)


def unscoped(session: Any) -> Any:
    """Return the session that a scoped_session or an async_scoped_session stands for here; any other as it is."""
    registry = getattr(session, "registry", None)
    return session() if registry is not None and callable(session) else session


def sync_session(session: object, expected: str) -> Session:
    """Return the sync Session of what a caller handed over.

    Args:
        session: a Session, or an AsyncSession where `expected` says so.
        expected: "Session" or "AsyncSession".

    Raises:
        TypeError: it is something else.
    """
    session = unscoped(session)
    found = is_async(session)
    if expected == "AsyncSession" and found and isinstance(getattr(session, "sync_session", None), Session):
        return session.sync_session  # type: ignore[attr-defined,no-any-return]
    if expected == "Session" and isinstance(session, Session):
        return session
    raise TypeError(f"expected the transaction's {expected}, not {session!r}")
