"""Rows that expired long ago, made many at a time: by calls it would take minutes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa

import idemtable

LONG_AGO: Final = datetime(2020, 1, 1, tzinfo=UTC)
_AT_ONCE: Final = 5_000


def put_expired(
    connection: sa.Connection,
    template: sa.RowMapping,
    numbers: Iterable[int],
    chance: random.Random,
    *,
    expired: datetime = LONG_AGO,
) -> None:
    """Put in rows like another one, with keys ``old-0``, ``old-1`` and so on. Nobody finds them by these: ids are drawn."""
    rows = idemtable.metadata.tables["idemtable"]
    aged = {**template, "created_at": expired, "completed_at": expired, "expires_at": expired}

    def drawn() -> Any:
        made = chance.randbytes(16)
        return UUID(bytes=made) if connection.dialect.name == "postgresql" else made

    made = [{**aged, "key": f"old-{number}", "id": drawn()} for number in numbers]
    for start in range(0, len(made), _AT_ONCE):
        connection.execute(rows.insert(), made[start : start + _AT_ONCE])
