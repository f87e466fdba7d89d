"""How fast a purge gets through a backlog, and what that costs those who call meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable
from tests.benchmarks import filling
from tests.benchmarks.crowd import Crowd, slowest
from tests.benchmarks.databases import PACKAGES
from tests.benchmarks.goals import Judge
from tests.benchmarks.harness import Figures, Size, rows, show
from tests.benchmarks.machine import Watch, versions
from tests.benchmarks.places import vast, version
from tests.benchmarks.results import Part, Table
from tests.benchmarks.work import business, new_run, numbers, prepare

ROWS: Final = 1_500_000
EXPIRED: Final = 2 / 3
CLIENTS: Final = 2
PIECE: Final = 0.15
"""Seconds after which a purge stops for as long. In one purge and not in many: each begins with a look at where the expired
rows lie, of which a large one has no more than a small one."""

RATE: Final = 300_000
"""Rows a second that a purge is to delete meanwhile."""
THROUGHPUT: Final = 0.9
"""What the clients are to keep of theirs."""
SLOWEST: Final = 1.5
"""How many times as long their 99th percentile may take."""

TEXT: Final = f"""A table of {ROWS:,} rows of which two thirds have expired is purged while {CLIENTS} clients (threads of a
process of their own) call a function with the business above, one call after the other. That is done three times, each
in a table of its own: by default, which is 5 ms of pause after each batch of 5,000; with shorter batches; and with longer
pauses. After each {PIECE} s the purge stops for as long: the clients' calls of those times are what the others are compared
with. Server, clients and purge share the machine: two cores are hardly enough for the clients alone."""

WAYS: Final[dict[str, dict[str, Any]]] = {
    "beside": {},
    "finely": {"batch": 2_000, "pause": timedelta(milliseconds=3)},
    "gently": {"pause": timedelta(milliseconds=20)},
}
"""What is purged with: the defaults; shorter batches; and a pause that leaves the machine to the others."""
ALONE: Final = "alone"
BESIDE, FINELY, GENTLY = WAYS
TITLES: Final = {
    ALONE: "their calls without a purge",
    BESIDE: "beside `idem.purge()`",
    FINELY: "beside `idem.purge(batch=2_000, pause=timedelta(milliseconds=3))`",
    GENTLY: "beside `idem.purge(pause=timedelta(milliseconds=20))`",
}


def callers(url: str, table: str) -> list[Callable[[], object]]:
    """What a client calls: each call is a first execution."""
    run = new_run()

    @IdemTable(sa.create_engine(url, pool_size=1), table=table).transactional(f"bench.{run}", key="key")
    def pay(session: Session, key: str, number: int) -> dict[str, int]:
        return business(session, number)

    def call() -> None:
        number = next(numbers)
        pay(f"{run}-{number}", number)

    return [call]


def measure(url: str, backlog: int) -> Figures:
    """Purge a backlog in each way, piece by piece, and compare the calls of those times with those between them."""
    engine = sa.create_engine(url)
    found = {}
    for name, way in WAYS.items():
        prepare(engine, 0)  # each crowd begins with the first order
        table = f"backlog_{name}"
        idem = filling.make(engine, table, backlog, expired=EXPIRED)
        filling.settle(engine, table)
        with Crowd(CLIENTS, partial(callers, url, table), threads=CLIENTS) as crowd:
            found[name] = pieces = Pieces(crowd)
            pieces.deleted = idem.purge(progress=pieces.go_on, **way).deleted
            pieces.stop()
        with engine.begin() as connection:  # or the server would clean it up while the next one is measured
            connection.exec_driver_sql(f"DROP TABLE {table}")
    engine.dispose()
    alone = [slice for pieces in found.values() for slice in pieces.alone]
    return {ALONE: {"ratio": 1.0} | calls(alone)} | {name: pieces.figures() for name, pieces in found.items()}


Slice = tuple[float, list[float]]
"""Calls a second, and the seconds that each of them took."""


class Pieces:
    """One purge beside a crowd, which now and then stops for as long as it has worked."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self.deleted = 0
        self.seconds = 0.0
        self.beside: list[Slice] = []
        self.alone: list[Slice] = []
        self._begin()

    def _begin(self) -> None:
        self._began, self._mark = time.monotonic(), self._crowd.mark()

    def go_on(self, deleted: int) -> None:
        """Stop, if the piece is long enough."""
        if time.monotonic() - self._began >= PIECE:
            self.stop()

    def stop(self) -> None:
        """End a piece, wait for as long, and begin the next one."""
        took = time.monotonic() - self._began
        self.seconds += took
        self.beside.append(self._crowd.since(self._mark))
        mark = self._crowd.mark()
        # The other half of the comparison: the clients work as long without a purge as they did beside one.
        time.sleep(max(took, PIECE))
        self.alone.append(self._crowd.since(mark))
        self._begin()

    def figures(self) -> dict[str, float]:
        """Say what the clients did beside the purge, and how much that has deleted meanwhile."""
        ratios = [mine[0] / base[0] for mine, base in zip(self.beside, self.alone, strict=True)]
        spread = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
        return spread | calls(self.beside) | {"purged": self.deleted / self.seconds}


def calls(slices: list[Slice]) -> dict[str, float]:
    """Sum up what the clients did."""
    times = [time * 1e6 for _, taken in slices for time in taken]
    rate = statistics.median(rate for rate, _ in slices)
    return {"rate": rate, "median": statistics.median(times), "p99": slowest(times)}


def part(size: Size) -> Part:
    """Measure, and judge."""
    watch = Watch("make bench")
    with vast("postgresql") as url:
        figures = measure(url, 15_000 if size.quick else ROWS)
        engine = sa.create_engine(url)
        found = {"PostgreSQL": version(engine)} | versions(PACKAGES)
        engine.dispose()
    table = Table("purge", f"PostgreSQL, {CLIENTS} clients", rows(figures, TITLES), plot="purge")
    show(table.title, table.rows)
    judge, beside = Judge([table]), "beside a purge of a million rows"
    judge.least(f"{beside}: rows deleted a second", RATE, figures[BESIDE]["purged"])
    judge.ratio(f"{beside}: throughput of {CLIENTS} clients", THROUGHPUT, table.name, BESIDE)
    slower = figures[BESIDE]["p99"] / figures[ALONE]["p99"]
    judge.most(f"{beside}: their 99th percentile", SLOWEST, slower, unit="×", digits=2)
    return Part("Purge", watch.stamp(found, quick=size.quick), [table], judge.goals, TEXT)
