"""`Tokens` and `AsyncTokens`: issue, redeem, revoke; the same logic in both colours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Concatenate, Final, ParamSpec, TypeVar, cast

import tenacity
from sqlalchemy.exc import SQLAlchemyError

from .. import retry
from ..binding import AsyncBinding, sync_session
from ..blocks import AsyncClaim, Claim
from ..codecs import Results
from ..keys import checked_scope, fingerprint
from ..model import ALL
from ..settings import Settings, checked_ttl, checked_wait
from ..transaction import Joined, explain
from ..transactional import AsyncTransactional, Spec, Transactional, decorate, decorate_async
from .functions import AsyncTokenFunction, TokenFunction
from .redemption import Redemption, checked_subject, checked_token, holder, identity, new_token, request
from .redis import RedisTokenStore, StoreRedemption

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ..claim import Call
    from ..model import Record
    from ..repository import Records

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Remember = tuple[type[Exception], ...]
Work = Callable[["Records", "Connection"], T]

_MOST: Final = 100_000
"""How many tokens one call may issue: a second's work, and a slip of the keyboard stays harmless."""


class _BaseTokens:
    def __init__(
        self,
        settings: Settings,
        scope: str,
        *,
        ttl: timedelta,
        replay: bool = True,
        store: RedisTokenStore | None = None,
    ) -> None:
        if store is not None:
            if not isinstance(store, RedisTokenStore):
                raise TypeError(f"store= takes a RedisTokenStore or None, not {store!r}")
            if store.is_async != isinstance(settings.binding, AsyncBinding):
                raise TypeError("the store's client and the table must both be sync or both be async")
        self._settings = settings
        self._scope = checked_scope(scope)
        self._ttl = checked_ttl(ttl)
        self._replay = bool(replay)
        self._store = store

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._scope!r}>"

    # --- redeeming ----------------------------------------------------------------------------------------------------

    def _redemption(
        self, token: Any, subject: str | None, carried: bytes | None, results: Results, wait: float,
        remember: Remember = (), *, replay: bool,
    ) -> Call:  # fmt: skip
        asked, held = request(self._scope, token, subject, carried)
        if self._store is not None:
            return StoreRedemption(asked, results, wait, holder=held, store=self._store)
        return Redemption(asked, results, wait, remember, holder=held, replay=replay)

    def _options(self, replay: bool | None, remember: Any, token: Spec, subject: Spec | None, **rest: Any) -> Any:
        if self._store is not None and replay:
            raise ValueError("a store keeps no results: a second use cannot be replayed, leave replay=True out")
        if self._store is not None and remember != ():
            raise ValueError("a store keeps no results: an exception cannot be remembered, leave remember= out")
        redeem = partial(self._redemption, replay=self._replay if replay is None else bool(replay))
        return {"redeem": redeem, "key": token, "tenant": subject, "remember": remember, **rest}

    def _block(self, token: Any, subject: Any, payload: Any, returns: Any, wait: timedelta | None) -> Call:
        settings = self._settings
        return self._redemption(
            token,
            None if subject is None else checked_subject(subject),
            None if payload is None else fingerprint(payload),
            Results(Any if returns is None else returns, settings.codec, settings.max_result_bytes, self._scope),
            settings.wait if wait is None else checked_wait(wait),
            replay=self._replay,
        )

    # --- issuing and revoking -----------------------------------------------------------------------------------------

    def _drawn(self, count: object, subject: str | None) -> tuple[list[str], list[tuple[UUID, bytes]]]:
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST:
            raise ValueError(f"issue_many takes a number from 1 to {_MOST}, not {count!r}")
        tokens = [new_token() for _ in range(count)]
        return tokens, [(identity(self._scope, token), holder(self._scope, token, subject)) for token in tokens]

    def _issuing(self, count: object, subject: Any) -> Work[list[str]]:
        owner = None if subject is None else checked_subject(subject)

        def work(records: Records, connection: Connection) -> list[str]:
            # New tokens for each attempt: those of one whose COMMIT was lost may be there, and nobody has them.
            tokens, rows = self._drawn(count, owner)
            records.issue(connection, self._scope, owner, rows, self._ttl)
            return tokens

        return work

    def _revoking(self, token: Any) -> Work[bool]:
        id = identity(self._scope, checked_token(token))
        return lambda records, connection: records.forget(connection, id)

    def _issued_by(self, store: RedisTokenStore, count: int, subject: Any, session: Any) -> tuple[list[str], Any]:
        """Return tokens and what the store's client returned."""
        _refuse(session)
        tokens, rows = self._drawn(count, None if subject is None else checked_subject(subject))
        return tokens, store.issue(rows, self._ttl)

    def _revoked_by(self, store: RedisTokenStore, token: Any, session: Any) -> Any:
        _refuse(session)
        return store.revoke(identity(self._scope, checked_token(token)))

    def _listing(self, limit: int) -> Callable[[Connection], list[Record]]:
        return lambda connection: self._settings.records.tokens(connection, self._scope, limit)

    def _inside(self, session: Session, work: Work[T]) -> T:
        """Run in the caller's transaction, under a SAVEPOINT: an error of ours leaves it as it was."""
        tx = Joined(self._settings)
        with _explained(self._settings, self._scope, repeats=False):
            try:
                tx.begin(session, self._settings.wait)
                value = work(tx.records, tx.connection)
                tx.commit()
            except BaseException:
                tx.rollback()
                raise
        return value


def _refuse(session: object) -> None:
    if session is not None:
        raise ValueError("tokens in a store do not commit with a session: leave session= out")


@contextmanager
def _explained(settings: Settings, scope: str, *, repeats: bool) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        if meaning := explain(error, settings.dialect, settings, scope, repeats=repeats):
            raise meaning from error
        raise


def _alone(settings: Settings, work: Work[T], retrying: Any) -> Any:
    """Run in short transactions of its own, until one commits; with an async table, an awaitable."""
    attempts = retrying(**retry.policy(settings.dialect, settings.attempts))
    options = settings.dialect.begin_options(settings.wait)
    return attempts(settings.binding.run, lambda connection: work(settings.records, connection), options)


class Tokens(_BaseTokens):
    """One-time tokens of one scope; made by `IdemTable.tokens`.

    Args:
        settings: of the table.
        scope: a name for what the tokens are good for. A token of one scope is unknown in every other.
        ttl: how long a token may be used after it was issued, at most 3650 days; a spent one is replayed as long. It
            has no default: minutes for a form, days for a link in a mail.
        replay: whether a second use with the same payload gets the stored result, or `SpentTokenError`.
        store: where tokens live instead of in the table; read `RedisTokenStore` for what that loses.

    Raises:
        ValueError, TypeError: an argument is out of its range, or the store is of the other colour.
    """

    def issue(self, subject: Any = None, session: Session | None = None) -> str:
        """Return a new token: 43 letters, digits, ``-`` and ``_`` with 256 random bits. Only its hash is stored.

        Args:
            subject: whom it is for, a ``str`` or ``uuid.UUID``; whoever redeems it must say the same.
            session: the caller's, to issue it in that transaction, which the caller commits. Without one it is
                committed when this returns.

        Raises:
            InvalidKeyError: the subject. SchemaError: no table. InProgressError: SQLite is busy. With a session also
            SessionNotUsableError and RetryTransactionError. ValueError: a session for tokens in a store.
        """
        return self.issue_many(1, subject, session)[0]

    def issue_many(self, n: int, subject: Any = None, session: Session | None = None) -> list[str]:
        """Return `n` new tokens, 1 to 100,000, written by one INSERT.

        By several where drivers limit the variables of a statement, all in one transaction: one for every 6,553 tokens,
        on SQLite before 3.32 for every 199. Raises as `issue` does.
        """
        if self._store is not None:
            return self._issued_by(self._store, n, subject, session)[0]
        return self._run(self._issuing(n, subject), session)

    def revoke(self, token: Any, session: Session | None = None) -> bool:
        """Remove a token, whatever became of it, and say whether there was one.

        Nobody can redeem it afterwards. A spent token was the record of what it did: once revoked it is unknown, and a
        client that repeats its request is refused instead of hearing the result again. A redemption that is running
        is waited for, and stands.

        Raises:
            MissingKeyError: the token is ``None``. Else as `issue` does.
        """
        if self._store is not None:
            return bool(self._revoked_by(self._store, token, session))
        return self._run(self._revoking(token), session)

    def records(self, *, limit: int = 20) -> list[Record]:
        """Return the table's newest tokens of the scope, at most `limit`, issued and spent; the newest first."""
        with _explained(self._settings, self._scope, repeats=True):
            return cast("list[Record]", self._settings.binding.run(self._listing(limit)))

    def transactional(
        self,
        *,
        token: Spec,
        subject: Spec | None = None,
        payload: Any = ALL,
        wait: timedelta | None = None,
        remember: Remember = (),
        returns: Any = None,
        isolation_level: str | None = None,
        replay: bool | None = None,
    ) -> Callable[[Callable[Concatenate[Session, P], R]], Transactional[P, R]]:
        """Decorate a function so that it consumes a token, writes, and stores its result in one transaction.

        A function that raises leaves the token usable. Two redemptions at once: one runs, the other waits and replays.

        Args:
            token: a parameter's name, a dotted path into one, or a callable given the call's arguments.
            subject: the same for whom the token was issued to; ``None`` for tokens without a subject.
            payload, wait, remember, returns, isolation_level: those of `IdemTable.transactional`.
            replay: instead of the tokens' own.

        Raises:
            ValueError, TypeError: at decoration. A call raises UnknownTokenError, ExpiredTokenError, SpentTokenError,
            MissingKeyError (the token is ``None``), InvalidKeyError (the subject), and what a decorated call raises.
        """
        rest = {"payload": payload, "wait": wait, "returns": returns, "isolation_level": isolation_level}
        return decorate(
            self._settings, self._scope, self._options(replay, remember, token, subject, **rest), TokenFunction
        )

    def redeem(
        self,
        session: Session,
        token: Any,
        *,
        subject: Any = None,
        payload: Any = None,
        returns: Any = None,
        wait: timedelta | None = None,
    ) -> Claim:
        """Redeem a token for a block inside the caller's transaction, under a SAVEPOINT; the caller commits.

        Raises:
            UnknownTokenError, ExpiredTokenError, SpentTokenError, RetryTransactionError (roll the transaction back and
            begin it again; also where its snapshot is older than the token), and what `IdemTable.claim` raises.
        """
        sync_session(session, "Session")
        return Claim(self._settings, self._block(token, subject, payload, returns, wait), session)

    def _run(self, work: Work[T], session: Session | None) -> T:
        if session is not None:
            return self._inside(sync_session(session, "Session"), work)
        with _explained(self._settings, self._scope, repeats=True):
            return cast("T", _alone(self._settings, work, tenacity.Retrying))


class AsyncTokens(_BaseTokens):
    """One-time tokens of one scope; made by `AsyncIdemTable.tokens`. Arguments and errors are those of `Tokens`."""

    async def issue(self, subject: Any = None, session: AsyncSession | None = None) -> str:
        """Return a new token; see `Tokens.issue`."""
        return (await self.issue_many(1, subject, session))[0]

    async def issue_many(self, n: int, subject: Any = None, session: AsyncSession | None = None) -> list[str]:
        """Return `n` new tokens, written by one INSERT; see `Tokens.issue_many`."""
        if self._store is not None:
            tokens, answer = self._issued_by(self._store, n, subject, session)
            await answer
            return tokens
        return await self._run(self._issuing(n, subject), session)

    async def revoke(self, token: Any, session: AsyncSession | None = None) -> bool:
        """Remove a token, whatever became of it, and say whether there was one; see `Tokens.revoke`."""
        if self._store is not None:
            return bool(await self._revoked_by(self._store, token, session))
        return await self._run(self._revoking(token), session)

    async def records(self, *, limit: int = 20) -> list[Record]:
        """Return the table's newest tokens of the scope; see `Tokens.records`."""
        with _explained(self._settings, self._scope, repeats=True):
            return await cast("Awaitable[list[Record]]", self._settings.binding.run(self._listing(limit)))

    def transactional(
        self,
        *,
        token: Spec,
        subject: Spec | None = None,
        payload: Any = ALL,
        wait: timedelta | None = None,
        remember: Remember = (),
        returns: Any = None,
        isolation_level: str | None = None,
        replay: bool | None = None,
    ) -> Callable[[Callable[Concatenate[AsyncSession, P], Awaitable[R]]], AsyncTransactional[P, R]]:
        """Decorate an async function so that it consumes a token; see `Tokens.transactional`."""
        rest = {"payload": payload, "wait": wait, "returns": returns, "isolation_level": isolation_level}
        return decorate_async(
            self._settings, self._scope, self._options(replay, remember, token, subject, **rest), AsyncTokenFunction
        )

    def redeem(
        self,
        session: AsyncSession,
        token: Any,
        *,
        subject: Any = None,
        payload: Any = None,
        returns: Any = None,
        wait: timedelta | None = None,
    ) -> AsyncClaim:
        """Redeem a token for an ``async with`` block inside the caller's transaction; see `Tokens.redeem`."""
        sync_session(session, "AsyncSession")
        return AsyncClaim(self._settings, self._block(token, subject, payload, returns, wait), session)

    async def _run(self, work: Work[T], session: AsyncSession | None) -> T:
        if session is not None:
            sync_session(session, "AsyncSession")
            return await session.run_sync(self._inside, work)
        with _explained(self._settings, self._scope, repeats=True):
            return cast("T", await _alone(self._settings, work, tenacity.AsyncRetrying))
