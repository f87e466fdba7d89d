"""Mistakes, most of which somebody has made: the library with one of them, for as long as a block runs.

They are made by name, so that a process which is started can have one too. The same mistakes of the protocol itself stand
in `tests/model/mutants.pml`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

from idemtable import RetryTransactionError, policy
from idemtable.claim.door import Door
from idemtable.claim.joined import Joined
from idemtable.claim.own import Own
from idemtable.claim.run import Run
from idemtable.claim.verdict import Verdict
from idemtable.dialects import Dialect
from idemtable.dialects.fragments import COLUMNS, VALUES
from idemtable.dialects.mysql import MySQL
from idemtable.dialects.postgresql import PostgreSQL
from idemtable.dialects.words import is_mariadb
from tests.reliability.places import Place
from tests.reliability.trial import Mutant

Patches = Iterator[None]
DATABASES: tuple[Any, ...] = (PostgreSQL, MySQL)


@contextmanager
def replaced(*changes: tuple[Any, str, Any]) -> Patches:
    """Put other things in the place of attributes."""
    with ExitStack() as stack:
        for where, name, new in changes:
            stack.enter_context(patch.object(where, name, new))
        yield


def for_each(*changes: tuple[str, Any]) -> list[tuple[Any, str, Any]]:
    return [(where, name, new) for where in DATABASES for name, new in changes]


# --- the claim ----------------------------------------------------------------------------------------------------------

_SEEN = "SELECT 1 FROM {table} WHERE id = :id"
_FINISHED = (
    f"INSERT INTO {{table}} ({COLUMNS}, codec, result, completed_at) VALUES ({VALUES}, :codec, :result, {{now}})"
)
_ANYWAY = {
    "postgresql": f"{_FINISHED} ON CONFLICT (id) DO UPDATE SET result = excluded.result",
    "mysql": f"{_FINISHED} ON DUPLICATE KEY UPDATE result = VALUES(result)",
}


def check_then_act() -> Any:
    """It looks whether the key is there, and puts it in with the result, over whatever is there by then."""

    def claim(self: Any, connection: Any, values: Mapping[str, Any]) -> bool:
        if self.statement(_SEEN)(connection, values).first():
            return False
        connection.info["mutant"] = dict(values)
        return True

    def store(self: Any, connection: Any, values: Mapping[str, Any], along: Any) -> bool:
        dialect = "postgresql" if isinstance(self, PostgreSQL) else "mysql"
        self.statement(_ANYWAY[dialect])(connection, {**connection.info["mutant"], **values})
        return True

    return replaced(*for_each(("claim", claim), ("store", store), ("along", lambda self, connection: None)))


def key_committed_first() -> Any:
    """The claim has a transaction of its own, before that of the function."""

    def committing(claim: Callable[..., bool]) -> Callable[..., bool]:
        def first(self: Any, connection: Any, values: Mapping[str, Any]) -> bool:
            won = claim(self, connection, values)
            if won:
                connection.exec_driver_sql("COMMIT")
                connection.exec_driver_sql("SELECT 1")  # in the next transaction
            return won

        return first

    return replaced(*((where, "claim", committing(where.claim)) for where in DATABASES))


def store_without_owner() -> Any:
    """The statement that stores names the key, and not whose row it must be."""
    sql = "UPDATE {table} SET status = :status, codec = :codec, result = :result, completed_at = {now} WHERE id = :id"

    def store(self: Any, connection: Any, values: Mapping[str, Any], along: Any) -> bool:
        return bool(self.statement(sql)(connection, values).rowcount == 1)

    return replaced(*for_each(("store", store), ("along", lambda self, connection: None)))


def plain_select() -> Any:
    """Each call looks before it claims, and who loses reads the winner's row in that transaction, by a plain SELECT."""

    def restart(self: Own, first: Callable[[], Any], wait: float) -> Any:
        return first()

    def enter(self: Own, first: Callable[[], Any], wait: float) -> Any:
        if not self.session.in_transaction():
            self._begin(wait)
            self.records.find(self.connection, bytes(16))
        return first()

    # Of MySQL's own way round it nothing may be left: there a loser ends its transaction and begins another one.
    return replaced((Own, "restart", restart), (Own, "enter", enter), (MySQL, "reads_after_a_claim", False))


def _inserting(words: str, behind: str = "") -> Any:
    def claim(self: Any, connection: Any, values: Mapping[str, Any]) -> bool:
        bounded = "SET STATEMENT innodb_lock_wait_timeout = :wait FOR " if is_mariadb(connection) else ""
        sql = f"{bounded}{words} INTO {{table}} ({COLUMNS}) VALUES ({VALUES}) {behind}"
        return bool(self.statement(sql)(connection, values).rowcount == 1)

    return replaced((MySQL, "claim", claim))


def insert_ignore() -> Any:
    """INSERT IGNORE, which cuts what is too long and takes every other error for a warning too."""
    return _inserting("INSERT IGNORE")


def rowcount_decides() -> Any:
    """ON DUPLICATE KEY UPDATE, which counts one row for the winner and one for the loser."""
    return _inserting("INSERT", "ON DUPLICATE KEY UPDATE id = id")


def mismatch_answered() -> Any:
    """Nobody compares the payloads."""
    return replaced((policy, "_compared", lambda stored, request: None))


# --- what an error means ------------------------------------------------------------------------------------------------


def _forgetting(*codes: Any) -> Any:
    def without(faults: Mapping[Any, Any]) -> dict[Any, Any]:
        return {code: fault for code, fault in faults.items() if code not in codes}

    return replaced(*((where, "faults", without(where.faults)) for where in DATABASES))


def no_retry_of_deadlocks() -> Any:
    """A deadlock is the caller's to see: 1213 of InnoDB, 40P01 of PostgreSQL."""
    return _forgetting(1213, "40P01")


def no_retry_of_conflicts() -> Any:
    """So is a row that was changed since the snapshot: 1020 of MariaDB, 40001 of PostgreSQL."""
    return _forgetting(1020, "40001")


def transient_remembered() -> Any:
    """An error of the database is kept as the function's answer."""
    kept = property(lambda self: isinstance(self.error, Exception))
    return replaced((Verdict, "is_the_functions", kept))


def retry_inside() -> Any:
    """A call in the caller's transaction rolls that back and begins again by itself."""
    inside = Run.inside

    def again(self: Run, session: Any, work: Any, joinable: Any = None) -> Any:
        try:
            return inside(self, session, work, joinable)
        except RetryTransactionError:
            session.rollback()
            return inside(self, session, work, joinable)

    return replaced((Run, "inside", again))


def no_savepoint_undone() -> Any:
    """One rollback is missing: that of a call which has failed in the caller's transaction."""
    return replaced((Joined, "rollback", lambda self: self._unwatch()))


def door_left_open() -> Any:
    """Who comes while the call around it commits is let in."""
    return replaced((Door, "close", lambda self: None), (Door, "is_occupied", False))


def early_purge() -> Any:
    """The purge goes by the client's clock, and that is five minutes fast."""

    def hurried(delete: Callable[..., Any]) -> Callable[..., Any]:
        def delete_expired(self: Any, connection: Any, batch: int, rest: Any, *, careful: bool) -> Any:
            other, now = copy.copy(self), datetime.fromtimestamp(time.time() + 300, UTC)  # `time` jumps
            kind = "timestamptz" if isinstance(self, PostgreSQL) else "datetime(6)"
            text = now.isoformat(" ") if isinstance(self, PostgreSQL) else now.replace(tzinfo=None).isoformat(" ")
            other.now = f"CAST('{text.replace(':', chr(92) + ':')}' AS {kind})"
            other.past = other.now
            vars(other).pop("_purging", None)  # which has its statements already
            return delete(other, connection, batch, rest, careful=careful)

        return delete_expired

    one_by_one = (PostgreSQL, "sweep", Dialect.sweep)  # and not with statements that it has already
    return replaced(one_by_one, *((where, "delete_expired", hurried(where.delete_expired)) for where in DATABASES))


def ack_before_commit() -> Any:
    """The acknowledgement comes before COMMIT. It is the consumer's mistake, who is told to make it."""
    return replaced()


def durability_off() -> Any:
    """The server is told that it need not keep what it has acknowledged."""
    return replaced()


def no_upgrade_lock() -> Any:
    """Whoever migrates does not wait for who is doing so."""

    @contextmanager
    def upgrading(connection: Any, table: str, schema: str | None, wait: int) -> Iterator[None]:
        with connection.begin():
            yield

    return replaced(*((where, "upgrading", staticmethod(upgrading)) for where in DATABASES))


def _innodb(place: Place) -> bool:
    return place.kind != "postgresql"


def _counts_what_is_found(place: Place) -> bool:
    # With a client_flag of one's own SQLAlchemy's FOUND_ROWS is gone, and the loser's row is not counted.
    return place.kind == "mariadb" or (place.kind == "mysql" and place.path == "plain")


def _looks_into_old_snapshots(place: Place) -> bool:
    # The others say so themselves, by 1020 or 40001.
    return place.engine in ("mariadb10.11", "mysql9.7")


def _conflicts(place: Place) -> bool:
    return place.kind == "postgresql" or place.engine == "mariadb11.8"


MUTANTS = {
    one.name: one
    for one in [
        Mutant("CHECK_THEN_ACT", "It looks, and then it acts", check_then_act),
        Mutant("KEY_COMMITTED_FIRST", "The key is committed first", key_committed_first),
        Mutant("STORE_WITHOUT_OWNER", "A result is stored without a look at the owner", store_without_owner),
        Mutant("PLAIN_SELECT", "The loser looks into a snapshot of before", plain_select, _looks_into_old_snapshots),
        Mutant("INSERT_IGNORE", "INSERT IGNORE", insert_ignore, _innodb),
        Mutant(
            "ROWCOUNT_DECIDES", "The row count of ON DUPLICATE KEY decides", rowcount_decides, _counts_what_is_found
        ),
        Mutant("NO_RETRY_OF_DEADLOCKS", "A deadlock (1213, 40P01) is not tried again", no_retry_of_deadlocks),
        Mutant(
            "NO_RETRY_OF_CONFLICTS",
            "A conflict (1020, 40001) is not tried again",
            no_retry_of_conflicts,
            _conflicts,
        ),
        Mutant("TRANSIENT_REMEMBERED", "An error of the database is remembered", transient_remembered),
        Mutant("ACK_BEFORE_COMMIT", "The acknowledgement comes before COMMIT", ack_before_commit),
        Mutant("PURGE_BY_CLIENTS_CLOCK", "The purge goes by the client's clock", early_purge),
        Mutant("RETRY_INSIDE", "A retry inside the caller's transaction", retry_inside),
        Mutant("DOOR_LEFT_OPEN", "The door is left open while the call commits", door_left_open),
        Mutant("ROLLBACK_MISSING", "One rollback is missing", no_savepoint_undone),
        Mutant("MISMATCH_ANSWERED", "Nobody compares the payloads", mismatch_answered),
        Mutant("NO_UPGRADE_LOCK", "Who migrates waits for nobody", no_upgrade_lock),
        Mutant("DURABILITY_OFF", "The server forgets what it has acknowledged", durability_off),
    ]
}
