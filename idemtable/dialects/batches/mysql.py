"""MySQL and MariaDB: the keys come as one JSON text, which JSON_TABLE makes rows of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ..base import MORTAL
from . import COLUMNS, FOUND, OPEN, TAKEN, VALUES, Batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from ..mysql import MySQL
    from ..statement import Answer, Statement

_ROWS: Final = """JSON_TABLE(:rows, '$[*]' COLUMNS (
            id CHAR(32) PATH '$[0]', text VARCHAR(255) CHARACTER SET utf8mb4 PATH '$[1]')) AS k"""


class MySQLBatches(Batches):
    """The statements. The session's lock time-out is set round each, and never inside it.

    INSERT IGNORE here and nowhere else, for one duplicate must not sink the others: after the error of a plain INSERT the
    rest would have to be tried again from the beginning, with locks held further on, and two batches would deadlock. What
    it cannot be trusted with it is not asked: an id is a digest made here, which nothing cuts or folds, a row is the
    batch's own where its owner says so, and *seen* only where a look finds it.
    """

    # Along the primary key, always: a plan that reads the whole of a small table would lock the whole of it, or be a bad
    # one by the time that the table has grown.
    _FOUND = "{table} AS t FORCE INDEX (PRIMARY) ON t.id = UNHEX(k.id)"
    MINE = f"SELECT t.id FROM {_ROWS} STRAIGHT_JOIN {_FOUND} WHERE t.owner = :owner"
    # With locks, for a snapshot of the caller's may be older than the rows; INSERT IGNORE has taken the same.
    LOOK = f"SELECT UNHEX(k.id), {FOUND} FROM {_ROWS} LEFT JOIN {_FOUND} WHERE {OPEN}"
    TAKE_OVER = f"""UPDATE {_ROWS} STRAIGHT_JOIN {_FOUND}
        SET {TAKEN} WHERE t.status IN ({MORTAL}) AND {{expires}} <= {{now}}"""

    def __init__(self, dialect: MySQL) -> None:
        super().__init__(dialect)
        self._ways = dialect
        # No warnings: INSERT IGNORE leaves one for each row that is there, and asyncmy asks for them and logs them.
        in_time = "SET STATEMENT innodb_lock_wait_timeout = :wait, max_error_count = 0 FOR "
        claim = f"IGNORE INTO {{table}} ({COLUMNS}) SELECT UNHEX(k.id), {VALUES} FROM {_ROWS}"
        self._claim = dialect.statement(f"INSERT /*+ SET_VAR(max_error_count = 0) */ {claim}")
        self._claim_in_time = dialect.statement(f"{in_time}INSERT {claim}")
        self._look = dialect.statement(f"{self.LOOK} FOR SHARE OF t")
        self._look_in_time = dialect.statement(f"{in_time}{self.LOOK} LOCK IN SHARE MODE")
        self._take_over = dialect.statement(self.TAKE_OVER)
        self._take_over_in_time = dialect.statement(f"{in_time}{self.TAKE_OVER}")
        self._mine = dialect.statement(self.MINE)

    def claim(
        self, connection: Connection, ids: Sequence[bytes], keys: Sequence[str] | None, values: Mapping[str, Any]
    ) -> set[bytes]:
        return self._won(connection, {**values, "rows": _rows(ids, keys)}, self._claim_in_time, self._claim)

    def look(self, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]) -> Answer:
        return self._ways.bounded(connection, {**values, "rows": _rows(ids)}, self._look_in_time, self._look)

    def take_over(self, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]) -> set[bytes]:
        return self._won(connection, {**values, "rows": _rows(ids)}, self._take_over_in_time, self._take_over)

    def _won(
        self, connection: Connection, values: Mapping[str, Any], in_time: Statement, plain: Statement
    ) -> set[bytes]:
        self._ways.bounded(connection, values, in_time, plain)
        # Not by RETURNING, where there is one: from rows PyMySQL does not learn that a transaction has begun.
        return {bytes(row[0]) for row in self._mine(connection, values)}


def _rows(ids: Sequence[bytes], keys: Sequence[str] | None = None) -> str:
    names = map(bytes.hex, ids)
    return json.dumps(list(zip(names) if keys is None else zip(names, keys, strict=True)), ensure_ascii=False)
