"""The front door: `IdemTable`, settings once, verbs over the features."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast, overload

from sqlalchemy import Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from . import cleanup
from .batch import CHUNK, Batch
from .binding import Binding
from .blocks import Claim
from .claim.call import identity
from .decorated import Decorator
from .guards import lock_name
from .inbox import Inbox
from .model import ALL, Flag, PurgeReport, Record, Stats
from .table_base import BaseTable, BlockOptions, Statuses
from .tokens import Tokens
from .transactional import Options, Remember, Spec, decorate_keys

if TYPE_CHECKING:
    from sqlalchemy import Connection

T = TypeVar("T")


class IdemTable(BaseTable[Engine | sessionmaker[Any] | Callable[[], Engine | sessionmaker[Any]], Tokens, Inbox]):
    """The table of keys, bound to an Engine or a sessionmaker.

    Args:
        bind: where transactions come from, or a function that returns it, called at first use. On SQLite the engine is
            prepared (see `configure_sqlite`).
        ttl: how long a key is remembered after its call was done; at most 3650 days. Longer than any client retries.
        wait: how long a duplicate waits for the first call; zero fails at once, at most an hour. MariaDB counts whole
            seconds and rounds up.
        attempts: how many transactions one call may begin when the database asks to begin again, for a deadlock or a
            serialization failure.
        failover: how long a call goes on while no server can be had or none that takes writes, counted from the first
            time, up to an hour. Zero: no second try.
        max_result_bytes: the largest encoded result.
        store_keys: whether keys are kept readable beside their digest.
        table: the table's name, at most 48 letters, digits and underscores.
        schema: the schema's name, the same; ``None`` for the connection's own.
        codec: how results are stored; typed JSON by default.
        seal: what makes stored results unreadable to whoever only has the table; see `idemtable.codecs.Seal`.

    Raises:
        ValueError: a setting is out of range.
        TypeError: a setting or the bind is of the wrong kind.
    """

    _binding = Binding
    _tokens = Tokens
    _inbox = Inbox

    def transactional(
        self,
        scope: str,
        *,
        key: Spec,
        tenant: Spec | None = None,
        payload: Any = ALL,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
        remember: Remember = (),
        returns: Any = None,
        isolation_level: str | None = None,
        share_scope: bool = False,
        lookaside: bool = False,
        deferred: bool = False,
    ) -> Decorator:
        """Decorate a function so that its effect is committed at most once for each key.

        Its session is the parameter annotated with a Session class, else the one named ``session``, else the first if
        that has no annotation. The call fills it with a session in a transaction of its own; callers leave it out.
        What comes back is a function, with `outcome`, `join` and `join_outcome` as attributes.

        Args:
            scope: a name for what is done once. It has no default: a name taken from the function would change with a
                refactoring and run old requests again.
            key: a parameter's name, a dotted path into one, or a callable given the call's arguments.
            tenant: the same for the tenant; a call whose tenant turns out ``None`` or empty is refused.
            payload: what a second use of the key must have in common with the first: ``ALL`` arguments (but the key, and
                leaving out those at their default), a tuple of names, a callable, or ``None`` for no check.
            ttl: instead of the table's.
            wait: instead of the table's.
            remember: exceptions that are a result, one class or a tuple: the writes are rolled back, the key is kept,
                replays raise them again.
            returns: the result's type, instead of the declared one.
            isolation_level: of the transaction, instead of the engine's.
            share_scope: whether another function of this table may have the scope too, and say so. With one key, each
                answers for the other.
            lookaside: whether to look for an answer before a transaction is begun. A replay then waits for the database
                once, and a first run once more than before: for keys of which most come twice. Not on MySQL and MariaDB at
                SERIALIZABLE and READ UNCOMMITTED, where a look would wait for whoever holds the key.
            deferred: whether the claim may travel with the function's first statement, so that a first run waits for the
                database less often than the function alone would. The function then begins before anybody knows whether
                it is to run: only for one that does nothing outside its session. PostgreSQL through psycopg, not async;
                elsewhere the claim comes first, as always.

        Raises:
            ValueError: at decoration, for a name that is no parameter, a value out of range, or another function's scope.
            TypeError: at decoration, for a result type that cannot be stored, a function without a session, an async spec.
        """
        options: Options = {
            "tenant": tenant, "payload": payload, "ttl": ttl, "wait": wait, "remember": remember, "returns": returns,
            "isolation_level": isolation_level, "share_scope": share_scope, "lookaside": lookaside, "deferred": deferred,
        }  # fmt: skip
        return decorate_keys(self._settings, scope, key, options)

    @overload
    def transaction(self, scope: str, key: Any, *, returns: type[T], **options: Unpack[BlockOptions]) -> Claim[T]: ...
    @overload
    def transaction(
        self, scope: str, key: Any, *, returns: Any = None, **options: Unpack[BlockOptions]
    ) -> Claim[Any]: ...
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
    ) -> Claim[Any]:
        """Claim a key for a block, in a transaction of its own that commits when the block ends.

        Raises:
            RetryTransactionError: the transaction must begin again or its outcome is unknown: enter the block again
                with the same key.
            IdempotencyError: what a decorated call raises.
        """
        return Claim(self._settings, self._block(scope, key, tenant, payload, returns, ttl, wait), None)

    @overload
    def claim(
        self,
        session: Session | scoped_session[Any],
        scope: str,
        key: Any,
        *,
        returns: type[T],
        **options: Unpack[BlockOptions],
    ) -> Claim[T]: ...
    @overload
    def claim(
        self,
        session: Session | scoped_session[Any],
        scope: str,
        key: Any,
        *,
        returns: Any = None,
        **options: Unpack[BlockOptions],
    ) -> Claim[Any]: ...
    def claim(
        self,
        session: Session | scoped_session[Any],
        scope: str,
        key: Any,
        *,
        tenant: Any = None,
        payload: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
        returns: Any = None,
    ) -> Claim[Any]:
        """Claim a key for a block inside the caller's transaction, under a SAVEPOINT; the caller commits.

        Raises:
            RetryTransactionError: roll the transaction back and begin it again.
            SessionNotUsableError: the session cannot carry a claim. TypeError: it is none.
            IdempotencyError: what a decorated call raises.
        """
        return Claim(self._settings, self._block(scope, key, tenant, payload, returns, ttl, wait), self._lent(session))

    def claim_many(
        self,
        session: Session | scoped_session[Any],
        scope: str,
        keys: Iterable[Any],
        *,
        tenant: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
    ) -> list[Flag]:
        """Claim many keys inside the caller's transaction, under one SAVEPOINT; the caller commits.

        A key that is claimed here is done, with ``None`` for its result: the decorator and the blocks replay that, and
        run nothing. A result of theirs, a remembered exception too, makes it `Flag.Seen`; an expired record counts as
        absent and is taken over. They go to the database sorted, 10,000 in a statement.

        Args:
            session: in whose transaction.
            scope: a name for what is done once, shared with the decorator and the blocks.
            keys: each a ``str`` or a ``uuid.UUID``, as of any call; any number of them, and repeats too.
            tenant: whose they are.
            ttl: instead of the table's.
            wait: how long to wait for other transactions that have claimed some of them, instead of the table's; on
                MariaDB and MySQL for each of those transactions. Committed, they make their keys seen; rolled back, new.

        Returns:
            For each key in its place `Flag.New` or `Flag.Seen`; of a repeated one only the first can be new.

        Raises:
            KeyRejectedError: a key or the tenant is not usable; nothing was sent. A note says which.
            InProgressError: another transaction holds a key for longer than `wait`; the caller's stands as it was.
            RetryTransactionError: roll the transaction back and begin it again.
            LostClaimError: a function has committed one of the keys without a result, and nobody knows what it did.
            SessionNotUsableError, SchemaError, ReentrantCallError, ResultUnreadableError: as `claim`.
            TypeError, ValueError: an argument of the wrong kind, or out of range.
        """
        return Batch(self._settings, session, scope, tenant, ttl, wait).claim_many(keys)

    def unseen(
        self,
        session: Session | scoped_session[Any],
        scope: str,
        items: Iterable[T],
        *,
        key: str | Callable[[T], Any],
        chunk: int = CHUNK,
        tenant: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
    ) -> Iterator[T]:
        """Give those items whose key nobody has had yet, in their order, inside the caller's transaction.

        `claim_many` for a chunk of them at a time, each under a SAVEPOINT of its own, when the loop gets there: `items` are
        read as far as that. A repeat is left out, within a chunk and across chunks.

        A transaction that ends before the loop does is refused: what a chunk has claimed and the loop was not given yet
        would be seen for ever, and handled by nobody. Let the loop come to its end, or roll back: that ends the loop too.

        Args:
            session: in whose transaction.
            scope: a name for what is done once, shared with the decorator and the blocks.
            items: any iterable; a generator too.
            key: the name of an item of a mapping, or of an attribute; a dotted path of those; or a callable.
            chunk: how many items are claimed at once, 1 to 100,000.
            tenant, ttl, wait: those of `claim_many`; `wait` is for each chunk.

        Raises:
            MissingKeyError: an item has none. TransactionError, by COMMIT: the loop has not come to its end.
            RetryTransactionError: what the loop was given has been rolled back; by COMMIT: a deadlock has undone it.
            IdempotencyError, TypeError, ValueError: what `claim_many` raises; nothing of that chunk is claimed.
        """
        return Batch(self._settings, session, scope, tenant, ttl, wait).unseen(items, key, chunk)

    def lock_name(self, session: Session, name: Any, *, wait: timedelta | None = None) -> None:
        """Hold a lock that has no row of its own until the session's transaction ends; see `guards.lock_name`."""
        lock_name(self._settings, session, name, wait=wait)

    def get(self, scope: str, key: Any, *, tenant: Any = None) -> Record | None:
        """Return the record of a key, expired or not, or ``None``."""
        return self._run(self._get(identity(scope, key, tenant)))

    def forget(self, scope: str, key: Any, *, tenant: Any = None) -> bool:
        """Remove the record of a key, so that its next use runs again; say whether there was one.

        Raises:
            InProgressError: a call held it for longer than the table's `wait`; on SQLite the database is busy.
        """
        return self._run(self._forget(identity(scope, key, tenant)), writes=True)

    def stored_result(self, scope: str, key: Any, *, tenant: Any = None) -> bytes | None:
        """Return the stored result of a key as its codec wrote it, to look at; ``None`` without a record or a result.

        Raises:
            ResultUnreadableError: the table's seal does not open it.
        """
        return self._run(self._stored_result(scope, key, tenant))

    def records(
        self,
        scope: str | None = None,
        *,
        tenant: Any = None,
        status: Statuses = None,
        expired: bool = False,
        unfinished: bool = False,
        limit: int = 20,
    ) -> list[Record]:
        """Return the newest records for which all of this is true: for a look at the table, not for programs.

        They are looked for and sorted without an index, which takes its time on a table of millions.

        Args:
            scope: of this scope; of all by default.
            tenant: of this tenant; of all, and of none, by default.
            status: of this status, or one of these: members of `Status` or their values.
            expired: those whose time is over, by the database's clock.
            unfinished: those that a function left without a result, which never run again until they are forgotten.
            limit: how many at most, 1 to 100,000.
        """
        return self._run(self._listing(scope, tenant, status, expired, unfinished, limit))

    def purge(
        self,
        *,
        batch: int = 5_000,
        limit: int | None = None,
        pause: timedelta = timedelta(milliseconds=5),
        progress: Callable[[int], object] | None = None,
    ) -> PurgeReport:
        """Delete expired records in short transactions, one runner at a time.

        A row is left for a minute after it has expired. Rows that a function committed without a result are kept, however
        old: a person must look at them.

        Args:
            batch: rows for each transaction, at most; 1 to 100,000.
            limit: rows for the whole run, at most.
            pause: after each batch that has deleted something, so that others come through; at most an hour.
            progress: called with the rows deleted so far.

        Returns:
            What was done; ``busy=True`` at once when another runner is at work.

        Raises:
            ValueError, TypeError: an argument cannot be; nothing is read then.
            SchemaError: the table is missing. SessionNotUsableError: the server only reads, or the engine is not free.
        """
        with self._explained():
            return cleanup.purge(self._settings, batch=batch, limit=limit, pause=pause, progress=progress)

    def stats(self) -> Stats:
        """Count the records."""
        return self._run(self._settings.records.stats)

    def create_all(self) -> None:
        """Create the table if it is missing: for tests and notebooks. Elsewhere: ``idemtable db upgrade``."""
        self._settings.binding.run(self._create_all)

    def check_schema(self) -> None:
        """Raise SchemaError, whose message is the command to run, unless the table is as it should be."""
        self._settings.binding.run(self._check_schema)

    def _run(self, work: Callable[[Connection], T], *, writes: bool = False) -> T:
        with self._explained(waits=writes):
            return cast("T", self._sent(work, writes))
