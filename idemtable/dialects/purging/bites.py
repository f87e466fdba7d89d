"""The purge of MySQL and MariaDB: bites of expired rows, in the order in which they expire, deleted by their keys.

In two steps: MySQL refuses LIMIT in a subquery of DELETE, and a DELETE by range would wait for rows that calls hold. So
would one by keys that reads the whole table, from which no hint keeps the optimizer where most of it has expired. Hence it
waits for nobody, and the next time each row is a statement of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ..fragments import EXPIRED_WHERE
from ..statement import send
from ..words import AS_IT_IS, is_mariadb
from . import Swept

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..mysql import MySQL

# From where the batch before has stopped: what is deleted stays in the index as long as somebody reads what was there
# before, a backup for hours, and each batch would pass over all of it.
EXPIRED: Final = f"""SELECT id, expires_at FROM {{table}} WHERE expires_at >= :since AND {EXPIRED_WHERE}
    ORDER BY expires_at LIMIT :batch FOR UPDATE SKIP LOCKED"""
_EARLIEST: Final = "1000-01-01"
_KEYS: Final = 5_000
"""Of one DELETE. They take MySQL a megabyte; beyond its range_optimizer_max_mem_size, eight, it reads the whole table."""
_CAREFUL: Final = 200
"""Rows of a batch in which each of them is a round trip."""


class Bites:
    """The statements for one table."""

    def __init__(self, dialect: MySQL) -> None:
        self._ways = dialect
        self._expired = dialect.statement(EXPIRED)

    def delete(self, connection: Connection, batch: int, rest: Any, careful: bool) -> Swept:
        """Delete at most `batch` expired rows, from where `rest` says that the one before has ended."""
        ways = self._ways
        values = {"since": rest or _EARLIEST, "batch": min(batch, _CAREFUL) if careful else batch}
        rows: Any = self._expired(connection, values).rows
        keys, deleted = [f"X'{bytes(id).hex()}'" for id, _ in rows], 0
        at_once = "SET STATEMENT innodb_lock_wait_timeout = 0 FOR " if is_mariadb(connection) else ""
        with AS_IT_IS if at_once or not keys else ways.lending(connection, ways.wait(0)):
            for start in range(0, len(keys), step := 1 if careful else _KEYS):
                some = ", ".join(keys[start : start + step])
                deleted += send(connection, f"{at_once}DELETE FROM {ways.table} WHERE id IN ({some})").rowcount
        return Swept(deleted, rows[-1][1] if len(rows) == values["batch"] else None)
