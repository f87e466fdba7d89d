"""Every statement about records, as functions of a sync Connection: no waiting, no clock, no transaction control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .dialects import Dialect, Swept
from .dialects.fragments import EXPIRED_WHERE, MORTAL
from .dialects.words import Look
from .keys import digest
from .model import Record, Request, Stats, Status, Stored, Wanted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Connection

# A role that serves requests may not delete.
_EXPIRE: Final = "UPDATE {table} SET expires_at = created_at WHERE id = :id AND owner = :owner"

_EXPIRED: Final = f"{{expires}} <= {{now}} AND status IN ({MORTAL})"

_OVERDUE: Final = f"SELECT min({{expires}}), {{now}} FROM {{table}} WHERE {EXPIRED_WHERE}"

_STATS: Final = f"""
    SELECT scope, status, count(*), sum(CASE WHEN {_EXPIRED} THEN 1 ELSE 0 END), min(created_at)
    FROM {{table}} WHERE status <> {Status.LOCK.code} GROUP BY scope, status"""

_LIST: Final = """
    SELECT tenant, scope, {key}, status, fingerprint, codec, length(result), created_at, completed_at, expires_at
    FROM {table} WHERE {which} ORDER BY created_at DESC LIMIT :count"""

_LIVE: Final = """
    SELECT count(*) FROM (SELECT id FROM {table} WHERE {which} AND {expires} > {now} LIMIT :most) AS live"""

_LASTING: Final = frozenset({Status.COMPLETED, Status.FAILED})

_VARIABLES_PER_TOKEN: Final = 5
"""Where a driver has no names for them, a row's id, subject, scope, holder and ttl are each bound again."""

# No user can reach this row: a scope holds no control characters.
_RUNNER: Final = digest(None, "\x00purge", "runner")


class Records:
    """The statements for one table of one kind of database."""

    def __init__(self, dialect: Dialect, table: str, schema: str | None) -> None:
        self.dialect = dialect
        self._table, self._schema = table, schema
        self._expire = dialect.statement(_EXPIRE)
        self._batches = dialect.batches(dialect)
        self._live = dialect.statement(_LIVE.replace("{which}", dialect.EXACTLY.format(column="tenant")))
        self._live_of_nobody = dialect.statement(_LIVE.replace("{which}", "tenant IS NULL"))

    def claim(self, connection: Connection, request: Request, wait: float) -> bool:
        """Insert the row of a request unless its id is there, waiting at most `wait` seconds for whoever holds it.

        Returns:
            Whether the claim was won.
        """
        return self.dialect.claim(connection, self._values(request, wait))

    def defer(self, connection: Connection, request: Request, wait: float) -> Any:
        """Have the claim travel with the function's first statement; return it, or ``None`` where it cannot."""
        return self.dialect.defer(connection, self._values(request, wait))

    def take_over(self, connection: Connection, request: Request, stale: bytes, wait: float) -> bool:
        """Make an expired row the request's, if it still is the row of the owner `stale`."""
        return self.dialect.take_over(connection, self._values(request, wait) | {"stale": stale})

    def redeem(self, connection: Connection, request: Request, holder: bytes, wait: float) -> bool:
        """Make an issued token's row the request's, waiting at most `wait` seconds for whoever is redeeming it.

        Args:
            holder: the owner that the row was issued with.
        """
        return self.dialect.redeem(connection, self._values(request, wait) | {"holder": holder})

    def issue(
        self,
        connection: Connection,
        scope: str,
        subject: str | None,
        tokens: Sequence[tuple[bytes, bytes]],
        ttl: int,
        wait: float,
    ) -> None:
        """Insert the rows of tokens, given as ids and holders, with as few statements as the drivers allow.

        At most `wait` seconds are waited, in each of them, for whoever keeps others from inserting.
        """
        size = self.dialect.variables // _VARIABLES_PER_TOKEN
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            values: dict[str, Any] = {"tenant": subject, "scope": scope, "ttl": ttl, "wait": self.dialect.wait(wait)}
            for n, (id, holder) in enumerate(part):
                values[f"id{n}"], values[f"owner{n}"] = id, holder
            self.dialect.issue(connection, values, len(part))

    @property
    def most(self) -> int:
        """The most keys that a statement about many takes."""
        return self._batches.most

    def claim_many(
        self, connection: Connection, request: Request, ids: Sequence[bytes], keys: Sequence[str] | None, wait: float
    ) -> tuple[set[bytes], str | None]:
        """Insert a finished row for each id that is not there, at most `most`, and return the ids that were lost.

        And the mark of the transaction, where that comes along.

        Args:
            connection: in whose transaction.
            request: what the rows have in common.
            ids: each once, in order.
            keys: one for each id, or ``None`` where they are not kept.
            wait: seconds to wait for whoever holds one.
        """
        return self._batches.claim(connection, ids, keys, self._values(request, wait))

    def look_many(
        self, connection: Connection, request: Request, ids: Sequence[bytes], wait: float
    ) -> Iterator[tuple[bytes, Stored | None]]:
        """Read those of the rows that are not plainly done, without their results, as they were committed."""
        rows: Any = self._batches.look(connection, ids, self._values(request, wait))
        for id, status, created, completed, expires, owner, now in rows:
            if status is None:
                yield bytes(id), None
                continue
            record = self._record(
                request.tenant, request.scope, None, status, None, None, None, created, completed, expires
            )
            yield bytes(id), Stored(record, bytes(owner), None, self._time(now))

    def take_over_many(self, connection: Connection, request: Request, ids: Sequence[bytes], wait: float) -> set[bytes]:
        """Make expired rows the request's, finished, and return the ids that somebody else has taken since."""
        return self._batches.take_over(connection, ids, self._values(request, wait))

    def _values(self, request: Request, wait: float) -> dict[str, Any]:
        return {
            "id": request.id,
            "tenant": request.tenant,
            "scope": request.scope,
            "key": request.key,
            "fingerprint": request.fingerprint,
            "owner": request.owner,
            "ttl": request.ttl,
            "wait": self.dialect.wait(wait),
        }

    def find(self, connection: Connection, id: bytes, wait: float = 0, look: Look = Look.STAYING) -> Stored | None:
        """Read the row of an id as it was committed, with the database's time.

        Args:
            connection: where.
            id: of the row.
            wait: seconds to wait for whoever is changing it, where a look would see what is not committed.
            look: what it may leave behind.
        """
        values = {"id": id, "wait": self.dialect.wait(wait)}
        row: Any = self.dialect.find(connection, values, look).first()
        if row is None:
            return None
        tenant, scope, key, status, fingerprint, codec, result, created, completed, expires, owner, now, settled = row
        record = self._record(
            tenant, scope, key, status, fingerprint, codec, None if result is None else len(result), created, completed,
            expires,
        )  # fmt: skip
        if isinstance(result, str):  # written by hand, where SQLite takes text for bytes
            result = result.encode()
        return Stored(record, bytes(owner), None if result is None else bytes(result), self._time(now), bool(settled))

    def _record(
        self, tenant: Any, scope: Any, key: Any, status: Any, fingerprint: Any, codec: Any, size: Any, created: Any,
        completed: Any, expires: Any,
    ) -> Record:  # fmt: skip
        known = Status.from_code(status)
        created_at, completed_at, expires_at = self._time(created), self.dialect.time(completed), self._time(expires)
        # As `dialects.fragments.LASTING`: the time to live counts from the completion.
        if known in _LASTING and completed_at is not None and completed_at > created_at:
            expires_at += completed_at - created_at
        return Record(
            tenant=tenant,
            scope=scope,
            key=key,
            status=known,
            fingerprint=None if fingerprint is None else bytes(fingerprint),
            codec=codec,
            result_bytes=size,
            created_at=created_at,
            completed_at=completed_at,
            expires_at=expires_at,
        )

    def _time(self, value: Any) -> datetime:
        time = self.dialect.time(value)
        assert time is not None
        return time

    def hold(self, connection: Connection, id: bytes, owner: bytes, wait: float) -> bool:
        """Have the transaction's COMMIT stand for a row that is not settled; say whether it still is that owner's."""
        dialect = self.dialect
        return dialect.hold(connection, {"id": id, "owner": owner, "wait": dialect.wait(wait)})

    def store(
        self, connection: Connection, request: Request, status: Status, codec: str, result: bytes, along: Any = None
    ) -> bool:
        """Put the outcome into the row of a claim.

        Args:
            connection: that is in the claim's transaction.
            request: that claimed.
            status: of a row with an outcome.
            codec: that made the bytes.
            result: the outcome.
            along: what the dialect said that COMMIT can travel by, to commit it too.

        Returns:
            Whether exactly one row was the request's own; if not, the claim is lost and nothing may be committed.
        """
        values = {
            "id": request.id,
            "tenant": request.tenant,
            "scope": request.scope,
            "owner": request.owner,
            "status": status.code,
            "codec": codec,
            "result": result,
        }
        return self.dialect.store(connection, values, along)

    def expire(self, connection: Connection, request: Request) -> None:
        """Have the row of a claim count as absent, once an outcome is in it."""
        self._expire(connection, {"id": request.id, "owner": request.owner})

    def forget(self, connection: Connection, id: bytes, wait: float) -> bool:
        """Delete the row of an id, waiting at most `wait` seconds for whoever holds it; say whether there was one."""
        return self.dialect.forget(connection, {"id": id, "wait": self.dialect.wait(wait)})

    def sweep(self, connection: Connection, owner: bytes, ttl: int, batch: int, rest: Any, *, careful: bool) -> Swept:
        """Stay the purge runner for `ttl` microseconds from now, and delete a batch; see `Sweeping.sweep`."""
        lease = {"id": _RUNNER, "owner": owner, "ttl": ttl}
        return self.dialect.sweep(connection, lease, batch, rest, careful=careful)

    def lock_name(self, connection: Connection, name: str, wait: float | None, *, alone: bool = False) -> bool:
        """Hold a lock by name until the transaction ends, waiting at most `wait` seconds; ``None``: as the database does.

        Args:
            connection: in whose transaction.
            name: of the lock.
            wait: seconds.
            alone: whether nothing was done in the transaction before.

        Returns:
            Whether it was free. Where the database says that by an error, it is left to rise.
        """
        # The table is part of the name: PostgreSQL keeps these locks apart by a number alone, whatever table they mean.
        id = digest(None, f"\x00lock {self.dialect.table}", name)
        return self.dialect.lock_name(connection, id, wait, alone=alone)

    def lease(self, connection: Connection, owner: bytes, ttl: int) -> bool:
        """Become the one purge runner; say whether this owner is it now. The row is committed by the caller."""
        request = Request(_RUNNER, None, "idemtable.purge", None, None, ttl, owner)
        if not self.claim(connection, request, 0):
            found = self.find(connection, _RUNNER)
            if found is None:
                return False
            # Its own, where COMMIT was done and only the answer was lost.
            if found.owner != owner and not self.take_over(connection, request, found.owner, 0):
                return False
        return self.renew(connection, owner, ttl)

    def renew(self, connection: Connection, owner: bytes, ttl: int) -> bool:
        """Stay the purge runner for `ttl` microseconds from now; say whether this owner still was."""
        return self.dialect.renew(connection, {"id": _RUNNER, "owner": owner, "ttl": ttl})

    def release(self, connection: Connection, owner: bytes) -> None:
        """Stop being the purge runner."""
        sql = "DELETE FROM {table} WHERE id = :id AND owner = :owner"
        self.dialect.statement(sql)(connection, {"id": _RUNNER, "owner": owner})

    def stats(self, connection: Connection) -> Stats:
        """Count the rows."""
        by_scope: dict[str, int] = {}
        by_status: dict[Status, int] = {}
        expired = 0
        oldest: datetime | None = None
        rows: Any = self.dialect.statement(_STATS)(connection)
        for scope, code, count, gone, created in rows:
            status, time = Status.from_code(code), self._time(created)
            by_scope[scope] = by_scope.get(scope, 0) + count
            by_status[status] = by_status.get(status, 0) + count
            expired += int(gone)
            oldest = time if oldest is None else min(oldest, time)
        size = self.dialect.table_bytes(connection, self._table, self._schema)
        return Stats(sum(by_scope.values()), dict(sorted(by_scope.items())), by_status, expired, oldest, size)

    def now(self, connection: Connection) -> datetime:
        """Return what the database's clock says."""
        return self._time(self.dialect.statement("SELECT {now}")(connection).scalar())

    def overdue(self, connection: Connection) -> timedelta | None:
        """Return for how long the first of all records that a purge would delete has waited for it; ``None`` for none."""
        row: Any = self.dialect.statement(_OVERDUE)(connection).first()
        return None if row[0] is None else self._time(row[1]) - self._time(row[0])

    def live(self, connection: Connection, tenant: str | None, most: int) -> int:
        """Count the rows of a tenant that have not expired, up to `most`. No index helps: the table is read."""
        if tenant is None:
            return int(self._live_of_nobody(connection, {"most": most}).scalar())
        values = {"tenant": tenant, "tenant_length": len(tenant), "most": most}
        return int(self._live(connection, values).scalar())

    def latest(self, connection: Connection, wanted: Wanted, count: int) -> list[Record]:
        """Return the newest of the records that are wanted, at most `count`."""
        # A text of its own for each, and not ":scope IS NULL OR …": PostgreSQL cannot tell the type of a parameter that is
        # only compared with NULL.
        which = [f"status <> {Status.LOCK.code}"]
        values: dict[str, Any] = {"count": count}
        for column, value in (("scope", wanted.scope), ("tenant", wanted.tenant)):
            if value is not None:
                which.append(self.dialect.EXACTLY.format(column=column))
                values |= {column: value, f"{column}_length": len(value)}
        if wanted.statuses:
            which.append(_any_of(wanted.statuses))
        if wanted.expired:
            which.append(_EXPIRED)
        if wanted.unfinished:
            which.append(f"status = {Status.IN_PROGRESS.code}")
        rows: Any = self.dialect.statement(_LIST.replace("{which}", " AND ".join(which)))(connection, values)
        return [self._record(*row) for row in rows]


def _any_of(statuses: Collection[Status]) -> str:
    """Return the condition that a row has one of the statuses; one that this version does not know has any other number."""
    codes = [str(status.code) for status in statuses if status is not Status.UNKNOWN]
    known = [str(status.code) for status in Status if status is not Status.UNKNOWN]
    either = [f"status IN ({', '.join(codes)})"] if codes else []
    either += [f"status NOT IN ({', '.join(known)})"] if Status.UNKNOWN in statuses else []
    return f"({' OR '.join(either)})"
