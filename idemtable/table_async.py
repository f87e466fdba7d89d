"""The front door for async programs: `AsyncIdemTable`, the same verbs, awaited."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from . import cleanup
from .batch import CHUNK, Batch
from .binding import AsyncBinding
from .blocks import AsyncClaim
from .claim.call import identity
from .decorated import AsyncDecorator
from .guards import lock_name
from .inbox import AsyncInbox
from .model import Flag, PurgeReport, Record, Stats
from .table_base import BaseTable, BlockOptions, Statuses
from .tokens import AsyncTokens
from .transactional import Options, Spec, decorate_keys

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker  # noqa: F401 - named in a string below

T = TypeVar("T")


class AsyncIdemTable(
    BaseTable[
        "AsyncEngine | async_sessionmaker[Any] | Callable[[], AsyncEngine | async_sessionmaker[Any]]",
        AsyncTokens,
        AsyncInbox,
    ]
):
    """The table of keys, bound to an AsyncEngine or an async_sessionmaker: the same names, awaited.

    Async all the way, through SQLAlchemy's own ``run_sync``: no thread, no second event loop. Arguments and errors are
    those of `IdemTable`.
    """

    _binding = AsyncBinding
    _tokens = AsyncTokens
    _inbox = AsyncInbox

    def transactional(self, scope: str, *, key: Spec, **options: Unpack[Options]) -> AsyncDecorator:
        """Decorate an async function so that its effect is committed at most once for each key.

        Args:
            scope, key: those of `IdemTable.transactional`.
            options: ``tenant``, ``payload``, ``ttl``, ``wait``, ``remember``, ``returns``, ``isolation_level``,
                ``share_scope``, ``lookaside`` and ``deferred``, with the same meanings and defaults.
        """
        return decorate_keys(self._settings, scope, key, options)

    @overload
    def transaction(
        self, scope: str, key: Any, *, returns: type[T], **options: Unpack[BlockOptions]
    ) -> AsyncClaim[T]: ...
    @overload
    def transaction(
        self, scope: str, key: Any, *, returns: Any = None, **options: Unpack[BlockOptions]
    ) -> AsyncClaim[Any]: ...
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
    ) -> AsyncClaim[Any]:
        """Claim a key for an ``async with`` block, in a transaction of its own; see `IdemTable.transaction`."""
        return AsyncClaim(self._settings, self._block(scope, key, tenant, payload, returns, ttl, wait), None)

    @overload
    def claim(
        self,
        session: AsyncSession | async_scoped_session[Any],
        scope: str,
        key: Any,
        *,
        returns: type[T],
        **options: Unpack[BlockOptions],
    ) -> AsyncClaim[T]: ...
    @overload
    def claim(
        self,
        session: AsyncSession | async_scoped_session[Any],
        scope: str,
        key: Any,
        *,
        returns: Any = None,
        **options: Unpack[BlockOptions],
    ) -> AsyncClaim[Any]: ...
    def claim(
        self,
        session: AsyncSession | async_scoped_session[Any],
        scope: str,
        key: Any,
        *,
        tenant: Any = None,
        payload: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
        returns: Any = None,
    ) -> AsyncClaim[Any]:
        """Claim a key for an ``async with`` block inside the caller's transaction; see `IdemTable.claim`."""
        return AsyncClaim(
            self._settings, self._block(scope, key, tenant, payload, returns, ttl, wait), self._lent(session)
        )

    async def claim_many(
        self,
        session: AsyncSession | async_scoped_session[Any],
        scope: str,
        keys: Iterable[Any],
        *,
        tenant: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
    ) -> list[Flag]:
        """Claim many keys inside the caller's transaction; see `IdemTable.claim_many`."""
        return await Batch(self._settings, session, scope, tenant, ttl, wait).aclaim_many(keys)

    def unseen(
        self,
        session: AsyncSession | async_scoped_session[Any],
        scope: str,
        items: Iterable[T] | AsyncIterable[T],
        *,
        key: str | Callable[[T], Any],
        chunk: int = CHUNK,
        tenant: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
    ) -> AsyncIterator[T]:
        """Give those items whose key nobody has had yet, to an ``async for``; see `IdemTable.unseen`.

        `items` may be an async iterable.
        """
        return Batch(self._settings, session, scope, tenant, ttl, wait).aunseen(items, key, chunk)

    async def lock_name(self, session: AsyncSession, name: Any, *, wait: timedelta | None = None) -> None:
        """Hold a lock that has no row of its own until the session's transaction ends; see `guards.lock_name`."""
        await lock_name(self._settings, session, name, wait=wait)

    async def get(self, scope: str, key: Any, *, tenant: Any = None) -> Record | None:
        """Return the record of a key, expired or not, or ``None``."""
        return await self._run(self._get(identity(scope, key, tenant)))

    async def forget(self, scope: str, key: Any, *, tenant: Any = None) -> bool:
        """Remove the record of a key, so that its next use runs again; see `IdemTable.forget`."""
        return await self._run(self._forget(identity(scope, key, tenant)), writes=True)

    async def stored_result(self, scope: str, key: Any, *, tenant: Any = None) -> bytes | None:
        """Return the stored result of a key as its codec wrote it; see `IdemTable.stored_result`."""
        return await self._run(self._stored_result(scope, key, tenant))

    async def records(
        self,
        scope: str | None = None,
        *,
        tenant: Any = None,
        status: Statuses = None,
        expired: bool = False,
        unfinished: bool = False,
        limit: int = 20,
    ) -> list[Record]:
        """Return the newest records for which all of this is true; see `IdemTable.records`."""
        return await self._run(self._listing(scope, tenant, status, expired, unfinished, limit))

    async def purge(
        self,
        *,
        batch: int = 5_000,
        limit: int | None = None,
        pause: timedelta = timedelta(milliseconds=5),
        progress: Callable[[int], object] | None = None,
    ) -> PurgeReport:
        """Delete expired records in short transactions, one runner at a time; see `IdemTable.purge`."""
        with self._explained():
            return await cleanup.apurge(self._settings, batch=batch, limit=limit, pause=pause, progress=progress)

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
        with self._explained(waits=writes):
            return await cast("Awaitable[T]", self._sent(work, writes))
