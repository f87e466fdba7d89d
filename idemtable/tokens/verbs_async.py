"""`AsyncTokens`: the same verbs, awaited."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from ..binding import sync_session, unscoped
from ..blocks import AsyncClaim
from ..claim.explained import explained
from ..decorated import AsyncDecorator
from ..transactional import CommonOptions, Spec
from .base import BaseTokens, RedeemOptions, Work

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

    from ..model import Record

T = TypeVar("T")


class AsyncTokens(BaseTokens):
    """One-time tokens of one scope; made by `AsyncIdemTable.tokens`. Arguments and errors are those of `Tokens`."""

    _session = "AsyncSession"

    @overload
    def redeem(
        self,
        session: AsyncSession | async_scoped_session[Any],
        token: Any,
        *,
        returns: type[T],
        **options: Unpack[RedeemOptions],
    ) -> AsyncClaim[T]: ...
    @overload
    def redeem(
        self,
        session: AsyncSession | async_scoped_session[Any],
        token: Any,
        *,
        returns: Any = None,
        **options: Unpack[RedeemOptions],
    ) -> AsyncClaim[Any]: ...
    def redeem(
        self,
        session: AsyncSession | async_scoped_session[Any],
        token: Any,
        *,
        subject: Any = None,
        payload: Any = None,
        returns: Any = None,
        wait: timedelta | None = None,
    ) -> AsyncClaim[Any]:
        """Redeem a token for an ``async with`` block inside the caller's transaction; see `Tokens.redeem`."""
        return AsyncClaim(self._settings, self._redeeming(session, token, subject, payload, returns, wait), session)

    async def issue(self, subject: Any = None, session: AsyncSession | async_scoped_session[Any] | None = None) -> str:
        """Return a new token; see `Tokens.issue`."""
        return (await self.issue_many(1, subject, session))[0]

    async def issue_many(
        self, n: int, subject: Any = None, session: AsyncSession | async_scoped_session[Any] | None = None
    ) -> list[str]:
        """Return `n` new tokens, written by one INSERT; see `Tokens.issue_many`."""
        if self._store is not None:
            tokens, answer = self._issued_by(self._store, n, subject, session)
            await answer
            return tokens
        return await self._run(self._issuing(n, subject), session)

    async def revoke(self, token: Any, session: AsyncSession | async_scoped_session[Any] | None = None) -> bool:
        """Remove a token, whatever became of it, and say whether there was one; see `Tokens.revoke`."""
        if self._store is not None:
            return bool(await self._revoked_by(self._store, token, session))
        return await self._run(self._revoking(token), session)

    def transactional(
        self, *, token: Spec, subject: Spec | None = None, replay: bool | None = None, **options: Unpack[CommonOptions]
    ) -> AsyncDecorator:
        """Decorate an async function so that it consumes a token; see `Tokens.transactional`."""
        return self._decorator(token, subject, replay, options)  # type: ignore[no-any-return]

    async def records(self, *, limit: int = 20) -> list[Record]:
        """Return the newest tokens of this scope that stand in the table; see `Tokens.records`."""
        with explained(self._settings, self._scope, waits=False):
            return await cast("Awaitable[list[Record]]", self._settings.binding.run(self._listing(limit)))

    async def _run(self, work: Work[T], session: AsyncSession | async_scoped_session[Any] | None) -> T:
        if session is not None:
            sync_session(session, "AsyncSession")
            return await unscoped(session).run_sync(self._inside, work)  # type: ignore[no-any-return]
        with explained(self._settings, self._scope):
            return cast("T", await self._alone(work))
