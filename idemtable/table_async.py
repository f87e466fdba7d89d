"""The front door for async programs: `AsyncIdemTable`, the same verbs, awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar, Unpack, cast

from . import cleanup
from .binding import AsyncBinding
from .blocks import AsyncClaim
from .claim.call import identity
from .guards import lock_name
from .model import PurgeReport, Record, Stats
from .table_base import BaseTable
from .tokens import AsyncTokens
from .transactional import AsyncTransactional, Options, Spec, decorate_keys

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker  # noqa: F401 - named in a string below

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class AsyncIdemTable(BaseTable["AsyncEngine | async_sessionmaker[Any]", "AsyncSession", AsyncClaim, AsyncTokens]):
    """The table of keys, bound to an AsyncEngine or an async_sessionmaker: the same names, awaited.

    Async all the way, through SQLAlchemy's own ``run_sync``: no thread, no second event loop. Arguments and errors are
    those of `IdemTable`.
    """

    _binding = AsyncBinding
    _claim = AsyncClaim
    _tokens = AsyncTokens

    def transactional(
        self, scope: str, *, key: Spec, **options: Unpack[Options]
    ) -> Callable[[Callable[Concatenate[AsyncSession, P], Awaitable[R]]], AsyncTransactional[P, R]]:
        """Decorate an async function so that its effect is committed at most once for each key.

        Args:
            scope, key: those of `IdemTable.transactional`.
            options: ``tenant``, ``payload``, ``ttl``, ``wait``, ``remember``, ``returns`` and ``isolation_level``, with
                the same meanings and defaults.
        """
        return decorate_keys(self._settings, scope, key, options)

    async def lock_name(self, session: AsyncSession, name: Any, *, wait: timedelta | None = None) -> None:
        """Hold a lock that has no row of its own until the session's transaction ends; see `guards.lock_name`."""
        await lock_name(self._settings, session, name, wait=wait)

    async def get(self, scope: str, key: Any, *, tenant: Any = None) -> Record | None:
        """Return the record of a key, expired or not, or ``None``."""
        return await self._run(self._get(identity(scope, key, tenant)))

    async def forget(self, scope: str, key: Any, *, tenant: Any = None) -> bool:
        """Remove the record of a key, so that its next use runs again; say whether there was one."""
        return await self._run(self._forget(identity(scope, key, tenant)), writes=True)

    async def records(self, scope: str | None = None, *, limit: int = 20) -> list[Record]:
        """Return the newest records, of one scope or of all; see `IdemTable.records`."""
        return await self._run(self._listing(scope, limit))

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
        # A read waits for nobody, which on SQLite means not to begin as a writer.
        options = self._settings.dialect.begin_options(self._settings.wait) if writes else {}
        with self._explained():
            return await cast("Awaitable[T]", self._settings.binding.run(work, options))
