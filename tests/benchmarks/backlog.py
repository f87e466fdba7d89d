"""How fast a purge gets through a backlog, and what that costs those who call meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable, PurgeReport
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
TURNS: Final = 10
"""With each pause the backlog is purged in so many pieces."""
TABLE: Final = "backlog"

RATE: Final = 300_000
"""Rows a second that a purge is to delete meanwhile."""
THROUGHPUT: Final = 0.9
"""What the clients are to keep of theirs."""
SLOWEST: Final = 1.5
"""How many times as long their 99th percentile may take."""

TEXT: Final = f"""A table of {ROWS:,} rows of which two thirds have expired is purged while {CLIENTS} clients (threads of a
process of their own) call a function with the business above, one call after the other. That is done in {2 * TURNS} pieces,
in turn with the default pause of 5 ms after each batch and with a longer one, and each of them is followed by as much time
without a purge: the clients' calls of those times are what the others are compared with. Server, clients and
purge share the machine: two cores are hardly enough for the clients alone."""

PAUSES: Final[dict[str, dict[str, timedelta]]] = {"beside": {}, "gently": {"pause": timedelta(milliseconds=20)}}
"""After each batch: the default, and one that leaves the machine to the others."""
ALONE: Final = "alone"
BESIDE, GENTLY = PAUSES
TITLES: Final = {
    ALONE: "their calls without a purge",
    BESIDE: "beside `idem.purge()`",
    GENTLY: "beside `idem.purge(pause=timedelta(milliseconds=20))`",
}


def caller(url: str) -> Callable[[], object]:
    """A client: each of its calls is a first execution."""
    run = new_run()

    @IdemTable(sa.create_engine(url, pool_size=1), table=TABLE).transactional(f"bench.{run}", key="key")
    def pay(session: Session, key: str, number: int) -> dict[str, int]:
        return business(session, number)

    def call() -> None:
        number = next(numbers)
        pay(f"{run}-{number}", number)

    return call


def measure(url: str, backlog: int, turns: int) -> Figures:
    """Purge a backlog in pieces, in turn with each pause, and compare the calls of those times with those between them."""
    engine = sa.create_engine(url)
    prepare(engine, 0)
    idem = filling.make(engine, TABLE, backlog, expired=EXPIRED)
    filling.settle(engine, TABLE)
    alone: list[Slice] = []
    found = {name: Beside() for name in PAUSES}
    with Crowd(CLIENTS, lambda: [caller(url)], threads=CLIENTS) as crowd:
        for _ in range(turns):
            for name, pause in PAUSES.items():
                mark = crowd.mark()
                report = idem.purge(limit=-(-round(backlog * EXPIRED) // (2 * turns)), **pause)
                beside = crowd.since(mark)
                mark = crowd.mark()
                # The other half of the comparison: the clients work as long without a purge as they did beside one.
                time.sleep(max(report.seconds, 0.1))
                alone.append(crowd.since(mark))
                found[name].add(report, beside, alone[-1])
    engine.dispose()
    return {ALONE: {"ratio": 1.0} | calls(alone)} | {name: one.figures() for name, one in found.items()}


Slice = tuple[float, list[float]]
"""Calls a second, and the seconds that each of them took."""


@dataclass
class Beside:
    """What was deleted with one pause, and what it cost."""

    deleted: int = 0
    seconds: float = 0.0
    slices: list[Slice] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)

    def add(self, report: PurgeReport, beside: Slice, alone: Slice) -> None:
        """Add one piece, and the calls after it."""
        self.deleted, self.seconds = self.deleted + report.deleted, self.seconds + report.seconds
        self.slices.append(beside)
        self.ratios.append(beside[0] / alone[0])

    def figures(self) -> dict[str, float]:
        spread = {"ratio": statistics.median(self.ratios), "low": min(self.ratios), "high": max(self.ratios)}
        return spread | calls(self.slices) | {"purged": self.deleted / self.seconds}


def calls(slices: list[Slice]) -> dict[str, float]:
    """Sum up what the clients did."""
    times = [time * 1e6 for _, taken in slices for time in taken]
    rate = statistics.median(rate for rate, _ in slices)
    return {"rate": rate, "median": statistics.median(times), "p99": slowest(times)}


def part(size: Size) -> Part:
    """Measure, and judge."""
    watch = Watch("make bench")
    backlog, turns = (15_000, 3) if size.quick else (ROWS, TURNS)
    with vast("postgresql") as url:
        figures = measure(url, backlog, turns)
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
