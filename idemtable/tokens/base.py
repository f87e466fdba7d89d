"""What `Tokens` and `AsyncTokens` have in common: all of the logic."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypedDict, TypeVar

from ..binding import AsyncBinding, sync_session
from ..claim.explained import explained
from ..claim.joined import Joined
from ..claim.run import alone
from ..claim.verdict import begin_again
from ..keys import checked_scope
from ..model import Status, Wanted
from ..settings import LONGEST_LIST, Settings, checked_count, checked_flag, checked_ttl
from ..transactional import CommonOptions, Spec, decorate
from .redemption import Redemptions, checked_subject, checked_token, holder, identity, new_token
from .redis import RedisTokenStore

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

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
        self._replay = checked_flag(replay, "replay")
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

    def check_table(self, settings: Settings) -> None:
        """Refuse a table that these tokens cannot be redeemed in.

        Raises:
            TypeError: one is sync and the other async.
            ValueError: the tokens live in another table, as far as the binds tell now.
        """
        cure = "take those that the middleware's own table gives, by its tokens(…)"
        if self._settings.binding.is_async != settings.binding.is_async:
            raise TypeError(f"tokens= and the table must both be sync or both be async: {cure}")
        if self.in_table and not self._settings.is_same_table(settings):
            raise ValueError(f"tokens= live in another table or database, and each would be unknown here: {cure}")

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
        asks = partial(self._asks, replay=self._replay if replay is None else checked_flag(replay, "replay"))
        return decorate(
            self._settings, asks, options, key=token, tenant=subject, takes=CommonOptions, store=self._store
        )

    # --- issuing and revoking -----------------------------------------------------------------------------------------

    def _drawn(self, count: object, subject: str | None) -> tuple[list[str], list[tuple[bytes, bytes]]]:
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST:
            raise ValueError(f"issue_many takes a number from 1 to {_MOST}, not {count!r}")
        tokens = [new_token() for _ in range(count)]
        return tokens, [(identity(self._scope, token), holder(self._scope, token, subject)) for token in tokens]

    def _issuing(self, count: object, subject: Any) -> Work[list[str]]:
        owner = None if subject is None else checked_subject(subject)

        def work(records: Records, connection: Connection) -> list[str]:
            # New tokens for each attempt: those of one whose COMMIT was lost may be there, and nobody has them.
            tokens, rows = self._drawn(count, owner)
            records.issue(connection, self._scope, owner, rows, self._ttl, self._settings.wait)
            return tokens

        return work

    def _revoking(self, token: Any) -> Work[bool]:
        id = identity(self._scope, checked_token(token))
        return lambda records, connection: records.forget(connection, id, self._settings.wait)

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
        tx.prepare()
        with explained(self._settings, self._scope, repeats=False):
            try:
                value = tx.enter(lambda: work(tx.records, tx.connection), self._settings.wait)
                tx.leave(lambda _: True)
            except BaseException as error:
                try:
                    tx.rollback()
                except Exception:  # the savepoint is gone, and the transaction with it
                    if isinstance(error, Exception):
                        raise begin_again(self._scope) from error
                raise
        return value

    def _alone(self, work: Work[T]) -> Any:
        return alone(self._settings, lambda connection: work(self._settings.records, connection))


def _refuse(session: object) -> None:
    if session is not None:
        raise ValueError("tokens in a store do not commit with a session: leave session= out")
