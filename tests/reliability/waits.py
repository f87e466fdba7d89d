"""Who waits for whom, looked at all the time in the database's own views."""

from __future__ import annotations

import threading
import time
from typing import Any, Final, Self

import sqlalchemy as sa

from tests.support.crowd import Beside
from tests.support.database import Database

_TRANSACTIONS: Final = """
    JOIN information_schema.innodb_trx waiting ON waiting.trx_id = requesting_{0}
    JOIN information_schema.innodb_trx holding ON holding.trx_id = blocking_{0}
"""
_INNODB: Final = """
    SELECT waiting.trx_mysql_thread_id, holding.trx_mysql_thread_id,
        CONCAT_WS(' ', waiting.trx_id, waiting.trx_requested_lock_id, waiting.trx_wait_started) FROM
"""
_VIEWS: Final = {
    "postgresql": """
        SELECT lock.pid, holding.pid, CAST(lock.waitstart AS text)
        FROM pg_locks AS lock CROSS JOIN unnest(pg_blocking_pids(lock.pid)) AS blocking (pid)
        JOIN pg_stat_activity AS holding ON holding.pid = blocking.pid AND holding.backend_type = 'client backend'
        WHERE NOT lock.granted AND lock.waitstart IS NOT NULL
    """,
    "mariadb": f"{_INNODB} information_schema.innodb_lock_waits {_TRANSACTIONS.format('trx_id')}",
    "mysql": f"{_INNODB} performance_schema.data_lock_waits {_TRANSACTIONS.format('engine_transaction_id')}",
}
"""The one who waits, the one it waits for, and what no other wait of it has in common with this one."""
_PAUSES: Final = {"postgresql": 0.02, "mariadb": 0.12, "mysql": 0.12}
"""Seconds between two looks. InnoDB's view is a copy, renewed when nobody has looked for 0.1 seconds."""

TELLING: Final = {"postgresql": (), "mariadb": (), "mysql": ("performance_schema=ON",)}
"""What a server of the tests must be told, or else it does not say who waits for whom."""


class Waits:
    """While it is open: how long the callers of an engine wait for others who are not callers of it.

    The engine must have no connections yet. What is said of a wait is the time between the first look that saw it and the
    last one, by the clock of who looks: it was longer than that, never shorter.
    """

    def __init__(self, db: Database, engine: sa.Engine) -> None:
        self._db, self._engine = db, engine
        self._callers: set[int] = set()
        self._over = threading.Event()
        self.looks = 0
        self.seen: dict[tuple[int, str], float] = {}
        """Of each wait, its seconds."""

    @property
    def longest(self) -> float:
        """Seconds."""
        return max(self.seen.values(), default=0.0)

    def _connected(self, raw: Any, record: Any) -> None:
        self._callers.add(raw.info.backend_pid if self._db.kind == "postgresql" else raw.thread_id())

    def _look(self) -> None:
        first: dict[tuple[int, str], float] = {}
        while not self._over.wait(_PAUSES[self._db.kind]):
            before = time.monotonic()
            found = self._db.execute(_VIEWS[self._db.kind])
            after = time.monotonic()
            self.looks += 1
            for caller, holder, wait in found:
                if caller in self._callers and holder not in self._callers:
                    self.seen[caller, wait] = max(0.0, before - first.setdefault((caller, wait), after))

    def __enter__(self) -> Self:
        sa.event.listen(self._engine, "connect", self._connected)
        self._watcher = Beside(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        sa.event.remove(self._engine, "connect", self._connected)
        self._watcher.result()
