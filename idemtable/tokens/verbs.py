"""`Tokens`: issue, redeem, revoke."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from ..binding import sync_session
from ..blocks import Claim
from ..claim.explained import explained
from ..decorated import Decorator
from ..transactional import CommonOptions, Spec
from .base import BaseTokens, RedeemOptions, Work

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy.orm import Session, scoped_session

    from ..model import Record

T = TypeVar("T")


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
            begin it again; also where the token was used or revoked after its snapshot), and what `IdemTable.claim` raises.
            A token that was issued after the snapshot is RetryTransactionError on PostgreSQL. On MariaDB and MySQL at
            REPEATABLE READ it is unknown: to look past the snapshot would keep others from issuing theirs.
        """
        return Claim(self._settings, self._redeeming(session, token, subject, payload, returns, wait), session)

    def issue(self, subject: Any = None, session: Session | scoped_session[Any] | None = None) -> str:
        """Return a new token: 43 letters, digits, ``-`` and ``_`` with 256 random bits. Only its hash is stored.

        Args:
            subject: whom it is for, a ``str`` or ``uuid.UUID``; whoever redeems it must say the same.
            session: the caller's, to issue it in that transaction, which the caller commits. Without one it is
                committed when this returns.

        Raises:
            InvalidKeyError: the subject. SchemaError: no table. InProgressError: SQLite is busy, or on MariaDB and MySQL
            somebody keeps others from inserting for longer than the table's `wait`. With a session also
            SessionNotUsableError and RetryTransactionError. ValueError: a session for tokens in a store.
        """
        return self.issue_many(1, subject, session)[0]

    def issue_many(
        self, n: int, subject: Any = None, session: Session | scoped_session[Any] | None = None
    ) -> list[str]:
        """Return `n` new tokens, 1 to 100,000, written by one INSERT.

        By several where drivers limit the variables of a statement, all in one transaction: one for every 6,553 tokens,
        on SQLite before 3.32 for every 199. Raises as `issue` does.
        """
        if self._store is not None:
            return self._issued_by(self._store, n, subject, session)[0]
        return self._run(self._issuing(n, subject), session)

    def revoke(self, token: Any, session: Session | scoped_session[Any] | None = None) -> bool:
        """Remove a token, whatever became of it, and say whether there was one.

        Nobody can redeem it afterwards. A spent token was the record of what it did: once revoked it is unknown, and a
        client that repeats its request is refused instead of hearing the result again. A redemption that is running
        is waited for, and stands.

        Raises:
            MissingKeyError: the token is ``None``. InProgressError: the redemption ran for longer than the table's
                `wait`. Else as `issue` does.
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
        """Return the newest tokens of this scope that stand in the table, issued and spent, at most `limit`.

        A token is spent, too, by an exception that is remembered.
        """
        with explained(self._settings, self._scope, waits=False):
            return self._settings.binding.run(self._listing(limit))  # type: ignore[return-value]

    def _run(self, work: Work[T], session: Session | scoped_session[Any] | None) -> T:
        if session is not None:
            return self._inside(sync_session(session, "Session"), work)
        with explained(self._settings, self._scope):
            return cast("T", self._alone(work))
