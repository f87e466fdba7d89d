"""What must not grow while a soak runs: connections, the memory of callers, the tables."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Final

from tests.reliability.trial import Trial
from tests.support.crowd import until
from tests.support.database import Database

ENOUGH: Final = 300.0
"""Seconds that a slope is of, at least; one of fewer is a figure only."""
STEEPEST: Final = 10.0
"""MiB an hour. In its first ten minutes a caller still grows by four or so, and slower and slower: how much it is in the
long run shows in longer rounds. A hundred bytes that stay of each call are more than ten at thirty calls a second."""


def connections(db: Database) -> int:
    """How many the server has with this database, beside the one that asks."""
    if db.kind == "postgresql":
        asked = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND backend_type = 'client backend'"
        )
        return int(db.execute(asked)[0][0]) - 1
    return int(db.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")[0][1]) - 1


def all_gone(trial: Trial, db: Database) -> None:
    """Look whether the callers, who are over, have left a connection behind."""
    db.engine.dispose()
    try:
        until(lambda: not connections(db), "connections are open, and nobody is there who calls")
    except AssertionError as error:
        trial.broken("I6", f"{error}: {connections(db)}")


def sizes(db: Database) -> dict[str, int]:
    """Rows, and KiB as the server tells them."""
    found = {
        "rows": int(db.execute("SELECT count(*) FROM idemtable")[0][0]),
        "effects": int(db.execute("SELECT count(*) FROM effect")[0][0]),
    }
    if db.kind == "postgresql":
        asked = "SELECT pg_table_size('idemtable'), pg_indexes_size('idemtable')"
        table, indexes = db.execute(asked)[0]
        dead = "SELECT n_dead_tup FROM pg_stat_user_tables WHERE relname = 'idemtable'"
        found["dead rows"] = int(db.execute(dead)[0][0])
    else:
        db.execute("ANALYZE TABLE idemtable")  # or it tells what it has once seen
        asked = (
            "SELECT data_length, index_length FROM information_schema.tables"
            " WHERE table_schema = DATABASE() AND table_name = 'idemtable'"
        )
        table, indexes = db.execute(asked)[0]
    return {**found, "KiB of the table": table // 1024, "KiB of its indexes": indexes // 1024}


class Memory:
    """That of processes which live through a round."""

    def __init__(self, pids: list[int]) -> None:
        self._samples: dict[int, list[tuple[float, float]]] = {pid: [] for pid in pids}
        self._begun = time.monotonic()

    def look(self) -> None:
        now = time.monotonic() - self._begun
        for pid, samples in self._samples.items():
            samples.append((now, _resident(pid)))

    def told(self, trial: Trial) -> None:
        """Write down the steepest slope; it is broken where it is one, and not the noise of a short round."""
        slopes = []
        for samples in self._samples.values():
            late = samples[len(samples) // 3 :]  # by then all is imported, and each path gone once
            if len(late) < 3:
                continue
            slope = statistics.linear_regression([when for when, _ in late], [size for _, size in late]).slope * 3600
            slopes.append(slope)
            lasted = late[-1][0] - late[0][0]
            if lasted >= ENOUGH:
                what = f"a caller grows by {slope:.1f} MiB an hour, seen for {lasted:.0f} seconds"
                trial.holds("I6", slope < STEEPEST, what)
        trial.figures["MiB of a caller"] = round(max(samples[-1][1] for samples in self._samples.values()))
        if slopes:
            trial.figures["MiB an hour that it grows by"] = round(max(slopes))


def _resident(pid: int) -> float:
    """MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
