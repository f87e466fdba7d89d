"""What the tests of the command line share: how a command ended, and records to look at."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

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
    keep(idem, *(f"old-{number}" for number in range(count)), ttl=timedelta(milliseconds=1))
    time.sleep(0.05)
