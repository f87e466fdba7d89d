"""What the sync and the async table share: the settings, the blocks, and what a verb does on a connection."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeAlias, TypedDict, TypeVar, cast

from . import schema as schemas
from .binding import sync_session
from .claim.call import Keys
from .claim.explained import explained
from .claim.run import alone
from .codecs import opened
from .dialects import full_name
from .guards import StateMachine
from .keys import checked_scope, checked_tenant
from .model import Status, Wanted
from .settings import LONGEST_LIST, checked_count, checked_flag, validated

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from sqlalchemy import Connection

    from .claim.call import Call
    from .codecs import Codec, Seal
    from .model import Record
    from .tokens import RedisTokenStore

BindT = TypeVar("BindT")
TokensT = TypeVar("TokensT")
InboxT = TypeVar("InboxT")


class BlockOptions(TypedDict, total=False):
    """What a block takes beside scope, key and the type of its result."""

    tenant: Any
    payload: Any
    ttl: timedelta | None
    wait: timedelta | None


Statuses: TypeAlias = "Status | str | Collection[Status | str] | None"

_LISTED: Final[Mapping[str, Status]] = {status.value: status for status in Status if status is not Status.LOCK}


def _statuses(given: Any) -> frozenset[Status]:
    several = [given] if isinstance(given, str) or not isinstance(given, Collection) else given
    for one in several:
        if not isinstance(one, str) or one not in _LISTED:
            raise ValueError(f"a record's status is one of {', '.join(_LISTED)}, not {one!r}")
    return frozenset(_LISTED[one] for one in several)


WEEK: Final = timedelta(days=7)
"""A Friday's bug is found on Monday, and queues keep dead letters for days: the key must outlive the last retry."""


class BaseTable(Generic[BindT, TokensT, InboxT]):
    """A table in one colour: the types of its bind, its tokens and its inboxes are all that differs up to here."""

    _binding: ClassVar[type[Any]]
    _tokens: ClassVar[type[Any]]
    _inbox: ClassVar[type[Any]]

    def __init__(
        self,
        bind: BindT,
        *,
        ttl: timedelta = WEEK,
        wait: timedelta = timedelta(seconds=5),
        attempts: int = 8,
        failover: timedelta = timedelta(seconds=30),
        max_result_bytes: int = 262_144,
        store_keys: bool = True,
        table: str = "idemtable",
        schema: str | None = None,
        codec: Codec | None = None,
        seal: Seal | None = None,
    ) -> None:
        self._settings = validated(
            self._binding(bind),
            ttl=ttl,
            wait=wait,
            attempts=attempts,
            failover=failover,
            max_result_bytes=max_result_bytes,
            store_keys=store_keys,
            table=table,
            schema=schema,
            codec=codec,
            seal=seal,
        )

    def __repr__(self) -> str:
        name = full_name(self._settings.table, self._settings.schema)
        where = "bound later" if self._settings.binding.is_late else repr(self._settings.engine.url)
        return f"{type(self).__name__}({where}, table={name!r})"

    def tokens(
        self, scope: str, *, ttl: timedelta, replay: bool = True, store: RedisTokenStore | None = None
    ) -> TokensT:
        """Return the one-time tokens of a scope.

        Args:
            scope: a name for what a token is good for.
            ttl: how long a token can be redeemed, and its result replayed, counted from its issue.
            replay: whether a second use with the same payload gets the first one's result.
            store: keep the tokens in Redis instead of the table; see `RedisTokenStore` for what that loses.
        """
        return cast("TokensT", self._tokens(self._settings, scope, ttl=ttl, replay=replay, store=store))

    def inbox(self, scope: str) -> InboxT:
        """Return the inbox of a consumer of messages.

        Args:
            scope: the consumer's name. Each message is done once for each consumer.
        """
        return cast("InboxT", self._inbox(self._settings, scope))

    def machine(self, column: Any, transitions: Mapping[Any, Collection[Any]]) -> StateMachine:
        """Return a `StateMachine` that remembers events in this table.

        Args:
            column: an attribute such as ``Order.status``, or a column of a Table.
            transitions: for each state those it may become.
        """
        return StateMachine(column, transitions, idem=self)

    def _block(
        self,
        scope: str,
        key: Any,
        tenant: Any,
        payload: Any,
        returns: Any,
        ttl: timedelta | None,
        wait: timedelta | None,
    ) -> Call:
        return Keys(self._settings, scope, returns, ttl=ttl, wait=wait).block(key, tenant, payload)

    def _lent(self, session: Any) -> Any:
        """Return a session that the caller hands over. ``None`` is none: the block would commit by itself."""
        sync_session(session, "AsyncSession" if self._settings.binding.is_async else "Session")
        return session

    # --- what a verb does, for each colour to run in its way -----------------------------------------------------------

    def _explained(self, *, waits: bool = False) -> AbstractContextManager[None]:
        return explained(self._settings, "idemtable", waits=waits)

    def _sent(self, work: Callable[[Connection], Any], writes: bool) -> Any:
        """Run what is no call in a transaction of its own; with an async table, awaitable.

        A read waits for nobody, which on SQLite means not to begin as a writer. What writes is done again where
        a deadlock has undone it, as it does beside batches on MariaDB and MySQL.
        """
        return alone(self._settings, work) if writes else self._settings.binding.run(work)

    def _get(self, id: bytes) -> Callable[[Connection], Record | None]:
        def work(connection: Connection) -> Record | None:
            stored = self._settings.records.find(connection, id)
            return stored.record if stored else None

        return work

    def _forget(self, id: bytes) -> Callable[[Connection], bool]:
        return lambda connection: self._settings.records.forget(connection, id, self._settings.wait)

    def _stored_result(self, scope: str, key: Any, tenant: Any) -> Callable[[Connection], bytes | None]:
        request, seal = Keys(self._settings, scope).block(key, tenant, None).request, self._settings.seal

        def work(connection: Connection) -> bytes | None:
            stored = self._settings.records.find(connection, request.id)
            if stored is None:
                return None
            return stored.result if seal is None else opened(seal, stored, request)

        return work

    def _listing(
        self, scope: str | None, tenant: Any, status: Statuses, expired: bool, unfinished: bool, limit: int
    ) -> Callable[[Connection], list[Record]]:
        wanted = Wanted(
            None if scope is None else checked_scope(scope),
            None if tenant is None else checked_tenant(tenant),
            frozenset() if status is None else _statuses(status),
            checked_flag(expired, "expired"),
            checked_flag(unfinished, "unfinished"),
        )
        count = checked_count(limit, "limit", LONGEST_LIST)
        return lambda connection: self._settings.records.latest(connection, wanted, count)

    def _create_all(self, connection: Connection) -> None:
        schemas.create_all(connection, self._settings.table, self._settings.schema)

    def _check_schema(self, connection: Connection) -> None:
        schemas.require(connection, self._settings.table, self._settings.schema)
