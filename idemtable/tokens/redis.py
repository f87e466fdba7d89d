"""Tokens in Redis, for those who want the checking of tokens to spare the database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..errors import ExpiredTokenError, SpentTokenError, TokenError, UnknownTokenError

if TYPE_CHECKING:
    from collections.abc import Iterable

_GRACE: Final = 3_600_000
"""Milliseconds. How long at most Redis remembers a token past its ttl, so that a form left open over lunch hears that it
is too old; the table remembers until the next purge. Never longer than the ttl itself: short-lived tokens stay cheap."""

# <grace in ms>:<holder>:<use, empty until it is spent>. The ttl is Redis's own: its clock, no other.
_READ: Final = """
    local found = redis.call('GET', KEYS[1]) or ''
    local grace, holder, use = string.match(found, '^(%d+):(%x+):(%x*)$')
"""
_TAKEN, _EXPIRED, _SPENT = 1, 2, 3
_REFUSALS: Final[dict[Any, type[TokenError]]] = {_EXPIRED: ExpiredTokenError, _SPENT: SpentTokenError}
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
        if hasattr(client, "command_stack"):
            raise TypeError(
                f"RedisTokenStore takes a client and makes its pipelines itself, not a {type(client).__name__}"
            )
        if not isinstance(prefix, str):
            raise TypeError(f"prefix= takes a str, not {prefix!r}")
        self._client = client
        self._prefix = prefix
        self._redeem = client.register_script(_REDEEM)
        self._give_back = client.register_script(_GIVE_BACK)

    def __repr__(self) -> str:
        return f"<RedisTokenStore {self._prefix!r}>"

    def _key(self, id: bytes) -> str:
        return self._prefix + id.hex()

    # With an async client each of these returns an awaitable.

    def issue(self, tokens: Iterable[tuple[bytes, bytes]], ttl: int) -> Any:
        """Write tokens, given as ids and holders, that live for `ttl` microseconds; one round trip."""
        life = max(1, ttl // 1000)
        grace = min(life, _GRACE)
        pipeline = self._client.pipeline(transaction=False)
        for id, holder in tokens:
            pipeline.set(self._key(id), f"{grace}:{holder.hex()}:", px=life + grace)
        return pipeline.execute()

    def redeem(self, id: bytes, holder: bytes, use: bytes) -> Any:
        """Spend a token for a use, a random name for it; return a number that `refusal` understands."""
        return self._redeem(keys=[self._key(id)], args=[holder.hex(), use.hex()])

    def refusal(self, answer: Any) -> type[TokenError] | None:
        """Return the error that an answer of `redeem` means, or ``None`` for a token that was spent for this use."""
        return None if answer == _TAKEN else _REFUSALS.get(answer, UnknownTokenError)

    def give_back(self, id: bytes, use: bytes) -> Any:
        """Make a token usable again if it was this use that spent it."""
        return self._give_back(keys=[self._key(id)], args=[use.hex()])

    def revoke(self, id: bytes) -> Any:
        """Forget a token; the number of tokens forgotten."""
        return self._client.delete(self._key(id))
