"""What the tests of the command line share: how a command ended, and records to look at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import idemtable
from idemtable import IdemTable

SECRET = "Tr0ub4dor"
NOWHERE = f"postgresql+psycopg://someone:{SECRET}@127.0.0.1:1/shop"
COMMAND = [sys.executable, "-m", "idemtable"]


@dataclass
class Ended:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Ended]


def keep(idem: IdemTable, *keys: str, scope: str = "orders", **options: Any) -> None:
    for key in keys:
        with idem.transaction(scope, key, **options) as claim:
            claim.result = {"key": key}


def expire(idem: IdemTable, count: int) -> None:
    """Keep records whose time passed long ago: the purge leaves a row for a minute past its expiry."""
    keep(idem, *(f"old-{number}" for number in range(count)), ttl=timedelta(milliseconds=1))
    rows, old = idemtable.metadata.tables["idemtable"], datetime(2020, 1, 1, tzinfo=UTC)
    with idem._settings.engine.begin() as connection:
        times = dict.fromkeys(("created_at", "completed_at", "expires_at"), old)
        connection.execute(rows.update().where(rows.c.key.like("old-%")).values(times))
