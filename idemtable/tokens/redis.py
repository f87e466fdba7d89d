"""Tokens in Redis, for those who want the checking of tokens to spare the database."""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event

from ..claim import Attempt, Call
from ..errors import ExpiredTokenError, SpentTokenError, TransactionError, UnknownTokenError
from .redemption import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from ..model import Status
    from ..settings import Settings
    from ..transaction import Transaction

_GRACE: Final = 3_600_000
"""Milliseconds. How long at most Redis remembers a token past its ttl, so that a form left open over lunch hears that it
is too old; the table remembers until the next purge. Never longer than the ttl itself: short-lived tokens stay cheap."""

# <grace in ms>:<holder>:<use, empty until it is spent>. The ttl is Redis's own: its clock, no other.
_READ: Final = """
    local found = redis.call('GET', KEYS[1]) or ''
    local grace, holder, use = string.match(found, '^(%d+):(%x+):(%x*)$')
"""
_TAKEN, _EXPIRED, _SPENT = 1, 2, 3
# The same use may come twice: a client library repeats a command whose answer was lost.
_REDEEM: Final = f"""{_READ}
    if holder ~= ARGV[1] then return 0 end
    if use == ARGV[2] then return {_TAKEN} end
    if redis.call('PTTL', KEYS[1]) <= tonumber(grace) then return {_EXPIRED} end
    if use ~= '' then return {_SPENT} end
    redis.call('SET', KEYS[1], found .. ARGV[2], 'KEEPTTL')
    return {_TAKEN}"""
# Only the use that took it: a token that is somebody else's by now stays theirs.
_GIVE_BACK: Final = f"""{_READ}
    if use ~= ARGV[1] then return 0 end
    redis.call('SET', KEYS[1], grace .. ':' .. holder .. ':', 'KEEPTTL')
    return 1"""


class RedisTokenStore:
    """Tokens in Redis 6 or later, each redeemed by one atomic script.

    A token that is refused costs the database nothing; one that is accepted costs the business's own transaction.

    What is lost against the table: **the token and the business write do not commit together**. The token is consumed
    first, then the business runs in a transaction. If it raises, or its transaction fails before COMMIT is sent, the
    token is given back. A process that dies between the two has spent the token for nothing, and so has a COMMIT whose
    answer is lost (`TransactionError`: look whether the effect is there). A joined call whose caller rolls back later
    has spent it too. One token never makes two effects, with one exception that is Redis's:

    - Restart without persistence: all tokens are gone, a redemption raises `UnknownTokenError`. Safe.
    - Restart with ``appendonly yes`` and ``appendfsync always``: nothing is lost, a spent token stays spent.
    - Restart from an older state (an RDB snapshot, ``appendfsync everysec``), failover to a replica that lags behind:
      **what was spent since then can be spent again**. Use ``always``, or no persistence at all, or the table.
    - Eviction (``maxmemory`` with another policy than ``noeviction``): an evicted token is an `UnknownTokenError`, used
      or not. Safe; the user asks for a new one.

    A second use is always a `SpentTokenError`, for there is no result to replay: ``replay=True`` of `IdemTable.tokens`
    means nothing here, payloads are not compared, ``wait`` bounds nothing, ``remember`` is refused. A token that
    expired is an `ExpiredTokenError` for as long again as its ttl, at most an hour, then an `UnknownTokenError`.

    Args:
        client: a ``redis.Redis`` or ``redis.RedisCluster`` for `IdemTable`, their twins of ``redis.asyncio`` for
            `AsyncIdemTable`.
        prefix: what the keys begin with; the rest is a hash of scope and token.

    Raises:
        ImportError: the package redis is not installed.
        TypeError: the client is something else.
    """

    def __init__(self, client: Any, prefix: str = "idemtable:token:") -> None:
        try:
            import redis
            import redis.asyncio as aredis
        except ImportError as error:
            raise ImportError('RedisTokenStore needs redis: pip install "idemtable[redis]"') from error
        self.is_async = isinstance(client, aredis.Redis | aredis.RedisCluster)
        if not self.is_async and not isinstance(client, redis.Redis | redis.RedisCluster):
            raise TypeError(f"RedisTokenStore takes a client of redis or redis.asyncio, not {client!r}")
        if not isinstance(prefix, str):
            raise TypeError(f"prefix= takes a str, not {prefix!r}")
        self._client = client
        self._prefix = prefix
        self._redeem = client.register_script(_REDEEM)
        self._give_back = client.register_script(_GIVE_BACK)

    def __repr__(self) -> str:
        return f"<RedisTokenStore {self._prefix!r}>"

    def _key(self, id: UUID) -> str:
        return self._prefix + id.hex

    # With an async client each of these returns an awaitable.

    def issue(self, tokens: Iterable[tuple[UUID, bytes]], ttl: int) -> Any:
        """Write tokens, given as ids and holders, that live for `ttl` microseconds; one round trip."""
        life = max(1, ttl // 1000)
        grace = min(life, _GRACE)
        pipeline = self._client.pipeline(transaction=False)
        for id, holder in tokens:
            pipeline.set(self._key(id), f"{grace}:{holder.hex()}:", px=life + grace)
        return pipeline.execute()

    def redeem(self, id: UUID, holder: bytes, use: bytes) -> Any:
        """Spend a token for a use, a random name for it; the number says what came of it."""
        return self._redeem(keys=[self._key(id)], args=[holder.hex(), use.hex()])

    def give_back(self, id: UUID, use: bytes) -> Any:
        """Make a token usable again if it was this use that spent it."""
        return self._give_back(keys=[self._key(id)], args=[use.hex()])

    def revoke(self, id: UUID) -> Any:
        """Forget a token; the number of tokens forgotten."""
        return self._client.delete(self._key(id))


def _result(value: Any) -> Any:
    """Wait for what an async client returned; SQLAlchemy's bridge is open, for an attempt runs inside ``run_sync``."""
    if not inspect.isawaitable(value):
        return value
    from sqlalchemy.util import await_only

    return await_only(value)


@dataclass(slots=True, kw_only=True)
class StoreRedemption(Call):
    """A call whose key is a token in a store."""

    holder: bytes
    store: RedisTokenStore

    def attempt(self, settings: Settings, transaction: Transaction, *, repeats: bool) -> Attempt:
        """Return one attempt at this redemption."""
        return StoreAttempt(settings, transaction, self, repeats=repeats)


class StoreAttempt(Attempt):
    """One transaction of one redemption whose token is consumed before it begins."""

    _call: StoreRedemption
    _taken = False
    _committing = False
    _begun = False
    _session: Session
    _root: SessionTransaction | None = None

    def open(self, session: Session, joinable: Any, block: bool = False) -> bool:
        """Consume the token, then begin; see `Attempt.open`. A token that is refused costs the database nothing.

        Raises:
            UnknownTokenError, ExpiredTokenError, SpentTokenError, and what `Attempt.open` raises.
        """
        call, asked = self._call, self._call.request
        found = _result(call.store.redeem(asked.id, call.holder, asked.owner))
        if found != _TAKEN:
            error = {_EXPIRED: ExpiredTokenError, _SPENT: SpentTokenError}.get(found, UnknownTokenError)
            raise refusal(error, asked.scope)
        self._taken = True
        won = super().open(session, joinable, block)
        self._session, self._root = session, session.get_transaction()
        event.listen(self._tx.connection, "after_cursor_execute", self._watch)
        return won

    def _take(self, stale: bytes | None, wait: float) -> bool:
        return True

    def _watch(self, connection: Connection, *statement: Any) -> None:
        # With no claim before it the business is the first to speak, and until it does (with PyMySQL, until it writes)
        # drivers tell of no transaction: that one has ended can only be seen where one was seen before.
        self._begun = self._begun or self._tx.records.dialect.in_transaction(connection)

    def _leave(self) -> None:
        super()._leave()
        if self._root is not None and event.contains(self._tx.connection, "after_cursor_execute", self._watch):
            event.remove(self._tx.connection, "after_cursor_execute", self._watch)

    def _intact(self) -> bool:
        if self._begun:
            return super()._intact()
        return self._stands() and self._root is not None and self._root.is_active

    def _store(self, status: Status, codec: str, data: bytes) -> None:
        # The step before COMMIT. From there on nobody can say for sure that nothing was committed.
        self._committing = self._tx.owned

    def fail(self, session: Session, error: BaseException) -> None:
        """Undo everything and give the token back, unless the business may have been committed.

        Raises:
            TransactionError: an error in COMMIT that would begin the transaction again. RetryTransactionError: as in
                `Attempt.fail`.
        """
        undone = self._taken and not self._committing and self._stands()
        try:
            super().fail(session, error)
        finally:
            if undone:
                with suppress(Exception):  # what is being raised matters more; the token stays spent
                    _result(self._call.store.give_back(self._call.request.id, self._call.request.owner))
        if self._committing and isinstance(error, Exception) and self._must_restart(error):
            scope = self._call.request.scope
            raise TransactionError(
                f"{scope}: COMMIT failed or its answer was lost, and the token is spent: look whether the effect is "
                f"there before you issue another",
                scope=scope,
            ) from error

    def _stands(self) -> bool:
        """Say whether the business left COMMIT alone: a token given back after it would run a second time."""
        root = self._root
        if root is None:
            return True  # the business never began
        if self._session.get_transaction() is not root:
            return False
        # A failed flush or a lost connection has rolled back already, and there is no transaction to find.
        if not root.is_active or self._tx.connection.invalidated:
            return True
        return not self._begun or self._tx.records.dialect.in_transaction(self._tx.connection)
