"""The front door for async programs: `AsyncIdemTable`, the same verbs, awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError

from . import cleanup
from .binding import AsyncBinding
from .blocks import AsyncClaim
from .codecs import Codec
from .guards import lock_name
from .model import ALL, PurgeReport, Record, Stats
from .settings import validated
from .table_base import WEEK, BaseTable, Remember, identity
from .tokens import AsyncTokens, RedisTokenStore
from .transactional import AsyncTransactional, Spec, decorate_async

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncIdemTable(BaseTable):
    """The table of keys, bound to an AsyncEngine or an async_sessionmaker: the same names, awaited.

    Async all the way, through SQLAlchemy's own ``run_sync``: no thread, no second event loop. Arguments and errors are
    those of `IdemTable`.
    """

    def __init__(
        self,
        bind: AsyncEngine | async_sessionmaker[Any],
        *,
        ttl: timedelta = WEEK,
        wait: timedelta = timedelta(seconds=5),
        attempts: int = 8,
        max_result_bytes: int = 262_144,
        store_keys: bool = True,
        table: str = "idemtable",
        schema: str | None = None,
        codec: Codec | None = None,
    ) -> None:
        self._settings = validated(
            AsyncBinding(bind),
            ttl=ttl,
            wait=wait,
            attempts=attempts,
            max_result_bytes=max_result_bytes,
            store_keys=store_keys,
            table=table,
            schema=schema,
            codec=codec,
        )

    def transactional(
        self,
        scope: str,
        *,
        key: Spec,
        tenant: Spec | None = None,
        payload: Any = ALL,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
        remember: Remember = (),
        returns: Any = None,
        isolation_level: str | None = None,
    ) -> Callable[[Callable[Concatenate[AsyncSession, P], Awaitable[R]]], AsyncTransactional[P, R]]:
        """Decorate an async function so that its effect is committed at most once for each key."""
        options = {"key": key, "tenant": tenant, "payload": payload, "ttl": ttl, "wait": wait}
        options |= {"remember": remember, "returns": returns, "isolation_level": isolation_level}
        return decorate_async(self._settings, scope, options)

    def transaction(
        self,
        scope: str,
        key: Any,
        *,
        tenant: Any = None,
        payload: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
        returns: Any = None,
    ) -> AsyncClaim:
        """Claim a key for an ``async with`` block, in a transaction of its own that commits when the block ends."""
        return AsyncClaim(self._settings, self._call(scope, key, tenant, payload, ttl, wait, returns), None)

    def claim(
        self,
        session: AsyncSession,
        scope: str,
        key: Any,
        *,
        tenant: Any = None,
        payload: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
        returns: Any = None,
    ) -> AsyncClaim:
        """Claim a key for an ``async with`` block inside the caller's transaction, under a SAVEPOINT."""
        return AsyncClaim(self._settings, self._call(scope, key, tenant, payload, ttl, wait, returns), session)

    def tokens(
        self, scope: str, *, ttl: timedelta, replay: bool = True, store: RedisTokenStore | None = None
    ) -> AsyncTokens:
        """Return the one-time tokens of a scope.

        Args:
            scope: a name for what a token is good for.
            ttl: how long a token can be redeemed, and its result replayed, counted from its issue.
            replay: whether a second use with the same payload gets the first one's result.
            store: keep the tokens in Redis instead of the table; see `RedisTokenStore` for what that loses.
        """
        return AsyncTokens(self._settings, scope, ttl=ttl, replay=replay, store=store)

    async def lock_name(self, session: AsyncSession, name: Any, *, wait: timedelta | None = None) -> None:
        """Hold a lock that has no row of its own until the session's transaction ends; see `guards.lock_name`."""
        await lock_name(self._settings, session, name, wait=wait)

    async def get(self, scope: str, key: Any, *, tenant: Any = None) -> Record | None:
        """Return the record of a key, expired or not, or ``None``."""
        return await self._run(self._get(identity(scope, key, tenant)[0]))

    async def forget(self, scope: str, key: Any, *, tenant: Any = None) -> bool:
        """Remove the record of a key, so that its next use runs again; say whether there was one."""
        id = identity(scope, key, tenant)[0]
        return await self._run(lambda connection: self._settings.records.forget(connection, id), writes=True)

    async def purge(
        self,
        *,
        batch: int = 5_000,
        limit: int | None = None,
        pause: timedelta = timedelta(milliseconds=5),
        progress: Callable[[int], object] | None = None,
    ) -> PurgeReport:
        """Delete expired records in short transactions, one runner at a time; see `IdemTable.purge`."""
        try:
            return await cleanup.apurge(self._settings, batch=batch, limit=limit, pause=pause, progress=progress)
        except SQLAlchemyError as error:
            raise self._translated(error) from error

    async def records(self, scope: str | None = None, *, limit: int = 20) -> list[Record]:
        """Return the newest records; see `IdemTable.records`."""
        return await self._run(lambda connection: self._settings.records.latest(connection, scope, limit))

    async def stats(self) -> Stats:
        """Count the records."""
        return await self._run(self._settings.records.stats)

    async def create_all(self) -> None:
        """Create the table if it is missing: for tests and notebooks. Elsewhere: ``idemtable db upgrade``."""
        await self._settings.binding.run(self._create_all)  # type: ignore[misc]

    async def check_schema(self) -> None:
        """Raise SchemaError, whose message is the command to run, unless the table is as it should be."""
        await self._settings.binding.run(self._check_schema)  # type: ignore[misc]

    async def _run(self, work: Callable[[Connection], T], *, writes: bool = False) -> T:
        try:
            # A read waits for nobody, which on SQLite means not to begin as a writer.
            options = self._settings.dialect.begin_options(self._settings.wait) if writes else {}
            return await cast("Awaitable[T]", self._settings.binding.run(work, options))
        except SQLAlchemyError as error:
            meaning = self._translated(error)
            raise meaning from (error if meaning is not error else error.__cause__)
