"""`Tokens` and `AsyncTokens`: issue, redeem, revoke; the same logic in both colours."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypedDict, TypeVar, Unpack, cast, overload

from ..binding import AsyncBinding, sync_session
from ..blocks import AsyncClaim, Claim
from ..claim.joined import Joined
from ..claim.run import alone
from ..claim.verdict import explained
from ..decorated import AsyncDecorator, Decorator
from ..keys import checked_scope
from ..model import Status, Wanted
from ..settings import LONGEST_LIST, Settings, checked_count, checked_ttl
from ..transactional import CommonOptions, Spec, decorate
from .redemption import Redemptions, checked_subject, checked_token, holder, identity, new_token
from .redis import RedisTokenStore

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from ..claim.call import Call
    from ..codecs import Results
    from ..model import Record
    from ..repository import Records

T = TypeVar("T")
Work = Callable[["Records", "Connection"], T]

_MOST: Final = 100_000
"""How many tokens one call may issue: a second's work, and a slip of the keyboard stays harmless."""


class RedeemOptions(TypedDict, total=False):
    """What a block takes beside the token and the type of its result."""

    subject: Any
    payload: Any
    wait: timedelta | None


class BaseTokens:
    """What both colours share."""

    _session: ClassVar[str]

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

    def _redeeming(
        self, session: Any, token: Any, subject: Any, payload: Any, returns: Any, wait: timedelta | None
    ) -> Call:
        sync_session(session, self._session)
        return self._asks(returns, replay=self._replay, wait=wait).block(token, subject, payload)

    def _asks(self, returns: Any, *, replay: bool, **options: Any) -> Redemptions:
        return Redemptions(self._settings, self._scope, returns, store=self._store, replay=replay, **options)

    @property
    def in_table(self) -> bool:
        """Whether they live in the table, and can be issued in a caller's transaction."""
        return self._store is None

    def asks(self, results: Results, wait: timedelta | None = None) -> Redemptions:
        """Return what makes the calls that redeem these tokens, for a caller of the engine.

        Args:
            results: what carries their results.
            wait: instead of the table's.
        """
        return self._asks(None, replay=self._replay, results=results, wait=wait)

    def _decorator(self, token: Spec, subject: Spec | None, replay: bool | None, options: CommonOptions) -> Any:
        if self._store is not None and replay:
            raise ValueError("a store keeps no results: a second use cannot be replayed, leave replay=True out")
        if self._store is not None and options.get("remember", ()) != ():
            raise ValueError("a store keeps no results: an exception cannot be remembered, leave remember= out")
        asks = partial(self._asks, replay=self._replay if replay is None else bool(replay))
        return decorate(
            self._settings, asks, options, key=token, tenant=subject, takes=CommonOptions, store=self._store
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

    def _listing(self, limit: int) -> Callable[[Connection], list[Record]]:
        wanted = Wanted(self._scope, statuses=frozenset({Status.ISSUED, Status.SPENT}))
        count = checked_count(limit, "limit", LONGEST_LIST)
        return lambda connection: self._settings.records.latest(connection, wanted, count)

    def _issued_by(self, store: RedisTokenStore, count: int, subject: Any, session: Any) -> tuple[list[str], Any]:
        """Return tokens and what the store's client returned."""
        _refuse(session)
        tokens, rows = self._drawn(count, None if subject is None else checked_subject(subject))
        return tokens, store.issue(rows, self._ttl)

    def _revoked_by(self, store: RedisTokenStore, token: Any, session: Any) -> Any:
        _refuse(session)
        return store.revoke(identity(self._scope, checked_token(token)))

    def _inside(self, session: Session, work: Work[T]) -> T:
        """Run in the caller's transaction, under a SAVEPOINT: an error leaves it as it was."""
        tx = Joined(self._settings.place, session)
        with explained(self._settings, self._scope, repeats=False):
            try:
                value = tx.enter(lambda: work(tx.records, tx.connection), self._settings.wait)
                tx.leave(lambda _: True)
            except BaseException:
                tx.rollback()
                raise
        return value

    def _alone(self, work: Work[T]) -> Any:
        return alone(self._settings, lambda connection: work(self._settings.records, connection))


def _refuse(session: object) -> None:
    if session is not None:
        raise ValueError("tokens in a store do not commit with a session: leave session= out")


class Tokens(BaseTokens):
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

    _session = "Session"

    @overload
    def redeem(
        self,
        session: Session | scoped_session[Any],
        token: Any,
        *,
        returns: type[T],
        **options: Unpack[RedeemOptions],
    ) -> Claim[T]: ...
    @overload
    def redeem(
        self,
        session: Session | scoped_session[Any],
        token: Any,
        *,
        returns: Any = None,
        **options: Unpack[RedeemOptions],
    ) -> Claim[Any]: ...
    def redeem(
        self,
        session: Session | scoped_session[Any],
        token: Any,
        *,
        subject: Any = None,
        payload: Any = None,
        returns: Any = None,
        wait: timedelta | None = None,
    ) -> Claim[Any]:
        """Redeem a token for a block inside the caller's transaction, under a SAVEPOINT; the caller commits.

        Raises:
            UnknownTokenError, ExpiredTokenError, SpentTokenError, RetryTransactionError (roll the transaction back and
            begin it again; also where its snapshot is older than the token), and what `IdemTable.claim` raises.
        """
        return Claim(self._settings, self._redeeming(session, token, subject, payload, returns, wait), session)

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

    def transactional(
        self, *, token: Spec, subject: Spec | None = None, replay: bool | None = None, **options: Unpack[CommonOptions]
    ) -> Decorator:
        """Decorate a function so that it consumes a token, writes, and stores its result in one transaction.

        A function that raises leaves the token usable. Two redemptions at once: one runs, the other waits and replays.

        Args:
            token: a parameter's name, a dotted path into one, or a callable given the call's arguments.
            subject: the same for whom the token was issued to; ``None`` for tokens without a subject.
            replay: instead of the tokens' own.
            options: ``payload``, ``wait``, ``remember``, ``returns``, ``isolation_level`` and ``share_scope``, those
                of `IdemTable.transactional`.

        Raises:
            ValueError, TypeError: at decoration. A call raises UnknownTokenError, ExpiredTokenError, SpentTokenError,
            MissingKeyError (the token is ``None``), InvalidKeyError (the subject), and what a decorated call raises.
        """
        return self._decorator(token, subject, replay, options)  # type: ignore[no-any-return]

    def records(self, *, limit: int = 20) -> list[Record]:
        """Return the newest tokens of this scope that stand in the table, issued and spent, at most `limit`."""
        with explained(self._settings, self._scope):
            return self._settings.binding.run(self._listing(limit))  # type: ignore[return-value]

    def _run(self, work: Work[T], session: Session | None) -> T:
        if session is not None:
            return self._inside(sync_session(session, "Session"), work)
        with explained(self._settings, self._scope):
            return cast("T", self._alone(work))


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

    def transactional(
        self, *, token: Spec, subject: Spec | None = None, replay: bool | None = None, **options: Unpack[CommonOptions]
    ) -> AsyncDecorator:
        """Decorate an async function so that it consumes a token; see `Tokens.transactional`."""
        return self._decorator(token, subject, replay, options)  # type: ignore[no-any-return]

    async def records(self, *, limit: int = 20) -> list[Record]:
        """Return the newest tokens of this scope that stand in the table; see `Tokens.records`."""
        with explained(self._settings, self._scope):
            return await cast("Awaitable[list[Record]]", self._settings.binding.run(self._listing(limit)))

    async def _run(self, work: Work[T], session: AsyncSession | None) -> T:
        if session is not None:
            sync_session(session, "AsyncSession")
            return await session.run_sync(self._inside, work)
        with explained(self._settings, self._scope):
            return cast("T", await self._alone(work))
