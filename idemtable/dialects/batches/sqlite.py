"""SQLite: the ids come as one blob, of which each row of a JSON array cuts its own piece."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from ..fragments import MORTAL
from . import COLUMNS, FOUND, OPEN, TAKEN, VALUES, Batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Connection

    from ..base import Dialect
    from ..statement import Answer

# The key of an array's element is its number. JSON has no bytes, and unhex() is younger than many a SQLite.
_ROWS: Final = "(SELECT substr(:ids, 1 + 16 * key, 16) AS id, value AS text FROM json_each(:keys)) AS k"


class SQLiteBatches(Batches):
    """The statements. The write lock is held, so nothing comes between two of them."""

    # The conflict is named: OR IGNORE would swallow every other one. WHERE true, or the parser takes ON for a join's.
    CLAIM = f"""INSERT INTO {{table}} ({COLUMNS}) SELECT k.id, {VALUES} FROM {_ROWS} WHERE true
        ON CONFLICT (id) DO NOTHING"""
    LOST = f"SELECT k.id FROM {_ROWS} LEFT JOIN {{table}} AS t ON t.id = k.id WHERE t.owner IS NOT :owner"
    LOOK = f"SELECT k.id, {FOUND} FROM {_ROWS} LEFT JOIN {{table}} AS t ON t.id = k.id WHERE {OPEN}"
    TAKE_OVER = f"""UPDATE {{table}} SET {TAKEN}
        WHERE id IN (SELECT k.id FROM {_ROWS}) AND status IN ({MORTAL}) AND {{expires}} <= {{now}}"""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect)
        self._claim = dialect.statement(self.CLAIM)
        self._lost = dialect.statement(self.LOST)
        self._look = dialect.statement(self.LOOK)
        self._take_over = dialect.statement(self.TAKE_OVER)

    def claim(
        self, connection: Connection, ids: Sequence[bytes], keys: Sequence[str] | None, values: Mapping[str, Any]
    ) -> tuple[set[bytes], str | None]:
        own = {**values, **_arrays(ids, keys)}
        if self._claim(connection, own).rowcount == len(ids):
            return set(), None  # to look for what was lost takes a tenth as long as the claim
        return {bytes(row[0]) for row in self._lost(connection, own)}, None

    def look(self, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]) -> Answer:
        return self._look(connection, _arrays(ids))

    def take_over(self, connection: Connection, ids: Sequence[bytes], values: Mapping[str, Any]) -> set[bytes]:
        own = {**values, **_arrays(ids)}
        self._take_over(connection, own)
        return {bytes(row[0]) for row in self._lost(connection, own)}


def _arrays(ids: Sequence[bytes], keys: Sequence[str] | None = None) -> dict[str, Any]:
    texts = [None] * len(ids) if keys is None else keys
    return {"ids": b"".join(ids), "keys": json.dumps(texts, ensure_ascii=False)}
