"""MySQL and MariaDB: the keys come as a JSON array, which JSON_TABLE makes rows of, and each row cuts its id out of a text.

With the ids in the array PyMySQL takes twice as long, to escape the quotation marks round them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..fragments import MORTAL
from ..statement import Statement
from ..words import is_mariadb
from . import COLUMNS, FOUND, OPEN, TAKEN, VALUES, Batches

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..mysql import MySQL
    from ..statement import Answer

ROWS: Final = """JSON_TABLE(:keys, '$[*]' COLUMNS (
            n FOR ORDINALITY, text VARCHAR(255) CHARACTER SET utf8mb4 PATH '$')) AS k"""
# One byte each: in a text of the connection's utf8mb4 every id would be counted up to from the beginning. Not as bytes,
# which MySQL's own connector writes as such a text too.
_ID: Final = "UNHEX(SUBSTRING(_latin1 :ids, 32 * k.n - 31, 32))"


# Along the primary key, always: a plan that reads the whole of a small table would lock the whole of it, or be a bad one by
# the time that the table has grown.
BY_KEY: Final = f"{{table}} AS t FORCE INDEX (PRIMARY) ON t.id = {_ID}"
# MariaDB's safe updates want a key for each table of a statement, and the rows of a JSON array have none.
UNSAFE: Final = "SET STATEMENT sql_safe_updates = 0"


class MySQLBatches(Batches):
    """The statements. The session's lock time-out is set round each, and never inside it.

    INSERT IGNORE here and nowhere else, for one duplicate must not sink the others. After the error of a plain INSERT the
    rest would have to be tried again from the beginning, with locks held further on: of two such batches with the same
    keys, a third of them there, one was a deadlock's victim in two of five rounds, and with this none. What it cannot be
    trusted with it is not asked. An id is a digest made here, which nothing cuts or folds; a row is the batch's own where
    its owner says so, and *seen* only where a look finds it.
    """

    CLAIM = f"IGNORE INTO {{table}} ({COLUMNS}) SELECT {_ID}, {VALUES} FROM {ROWS}"
    # As one value: PyMySQL takes longer for ten thousand rows than the server.
    LOST = f"SELECT JSON_ARRAYAGG(k.n) FROM {ROWS} LEFT JOIN {BY_KEY} WHERE t.owner IS NULL OR t.owner <> :owner"
    # With a limit of its own, or the session's sql_select_limit would cut it: what is not looked at is taken for seen.
    LOOK = f"SELECT {_ID}, {FOUND} FROM {ROWS} LEFT JOIN {BY_KEY} WHERE {OPEN} LIMIT {Batches.most}"
    TAKE_OVER = f"""UPDATE {ROWS} STRAIGHT_JOIN {BY_KEY}
        SET {TAKEN} WHERE t.status IN ({MORTAL}) AND {{expires}} <= {{now}}"""

    def __init__(self, dialect: MySQL) -> None:
        super().__init__(dialect)
        self._ways = dialect
        words = dialect.statement
        # IGNORE leaves a warning for each row that is there, and asyncmy asks for them and logs them: so there are none.
        in_time = "SET STATEMENT innodb_lock_wait_timeout = :wait, max_error_count = 0 FOR"
        # Reads are with locks, which these rows have already: without, a read would be as old as the caller's snapshot, or
        # make one, which MariaDB holds every later change against.
        self._mariadb = _Words(
            words(f"{in_time} INSERT {self.CLAIM}"),
            words(f"SET STATEMENT group_concat_max_len = 16777216 FOR {self.LOST} LOCK IN SHARE MODE"),
            words(f"{in_time} {self.LOOK} LOCK IN SHARE MODE"),
            words(f"{UNSAFE}, innodb_lock_wait_timeout = :wait FOR {self.TAKE_OVER}"),
        )
        self._mysql = _Words(
            words(f"INSERT /*+ SET_VAR(max_error_count = 0) */ {self.CLAIM}"),
            words(f"{self.LOST} FOR SHARE OF t"),
            words(f"{self.LOOK} FOR SHARE OF t"),
            words(self.TAKE_OVER),
        )

    def claim(
        self, connection: Connection, ids: Sequence[bytes], keys: Sequence[str] | None, values: Mapping[str, Any]
    ) -> tuple[set[bytes], str | None]:
        with self._speaking(connection, values) as words:
            words.claim(connection, {**values, **arrays(ids, keys)})
            return self._lost(words, connection, ids, values), None

    def look(self, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]) -> Answer:
        with self._speaking(connection, values) as words:
            return words.look(connection, {**values, **arrays(ids)})

    def take_over(self, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]) -> set[bytes]:
        with self._speaking(connection, values) as words:
            words.take_over(connection, {**values, **arrays(ids)})
            return self._lost(words, connection, ids, values)

    def _lost(
        self, words: _Words, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]
    ) -> set[bytes]:
        # Not by RETURNING, where there is one: from rows PyMySQL does not learn that a transaction has begun.
        lost = words.lost(connection, {**values, **arrays(ids)}).scalar()
        return {ids[int(number) - 1] for number in json.loads(lost or "[]")}  # MariaDB quotes them in sjis

    @contextmanager
    def _speaking(self, connection: Connection, values: Mapping[str, Any]) -> Iterator[_Words]:
        if is_mariadb(connection):  # says the time-out with each statement
            yield self._mariadb
            return
        with self._ways.lending(connection, values["wait"]):
            yield self._mysql


class _Words(NamedTuple):
    """The statements in one of the two languages."""

    claim: Statement
    lost: Statement
    look: Statement
    take_over: Statement


def arrays(ids: Sequence[bytes], keys: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the values that make `ROWS` of ids, and `BY_KEY` find theirs."""
    texts = [None] * len(ids) if keys is None else keys
    return {"ids": b"".join(ids).hex(), "keys": json.dumps(texts, ensure_ascii=False)}
