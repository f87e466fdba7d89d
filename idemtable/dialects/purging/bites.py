"""The purge of MySQL and MariaDB: bites of expired rows, in the order in which they expire, deleted by their keys.

In two steps: MySQL refuses LIMIT in a subquery of DELETE, and a DELETE by range would wait for rows that calls hold. So
would one with the keys in a list: where they are most of the table it reads all of it, with FORCE INDEX too. One that goes
from key to row meets no row but those that the first step has locked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..batches.mysql import BY_KEY, ROWS, UNSAFE, MySQLBatches, arrays
from ..fragments import EXPIRED_WHERE
from ..words import is_mariadb
from . import Swept

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..base import Dialect

# From where the batch before has stopped: what is deleted stays in the index as long as somebody reads what was there
# before, a backup for hours, and each batch would pass over all of it.
EXPIRED: Final = f"""SELECT id, expires_at FROM {{table}} WHERE expires_at >= :since AND {EXPIRED_WHERE}
    ORDER BY expires_at LIMIT :batch FOR UPDATE SKIP LOCKED"""
DELETE: Final = f"DELETE t FROM {ROWS} STRAIGHT_JOIN {BY_KEY}"
_EARLIEST: Final = "1000-01-01"


class Bites:
    """The statements for one table."""

    def __init__(self, dialect: Dialect) -> None:
        self._expired = dialect.statement(EXPIRED)
        self._mysql, self._mariadb = dialect.statement(DELETE), dialect.statement(f"{UNSAFE} FOR {DELETE}")

    def delete(self, connection: Connection, batch: int, rest: Any) -> Swept:
        """Delete at most `batch` expired rows, from where `rest` says that the one before has ended."""
        rows: Any = self._expired(connection, {"since": rest or _EARLIEST, "batch": batch}).rows
        ids, deleted = [bytes(id) for id, _ in rows], 0
        delete = self._mariadb if is_mariadb(connection) else self._mysql
        for start in range(0, len(ids), MySQLBatches.most):
            deleted += delete(connection, arrays(ids[start : start + MySQLBatches.most])).rowcount
        return Swept(deleted, rows[-1][1] if len(rows) == batch else None)
