"""How fast a purge gets through a backlog, and what that costs those who call meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Final

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
TURNS: Final = 10
"""The backlog is purged in so many pieces, with as much time without a purge after each of them."""
TABLE: Final = "backlog"

RATE: Final = 300_000
"""Rows a second that a purge is to delete meanwhile."""
THROUGHPUT: Final = 0.9
"""What the clients are to keep of theirs."""
SLOWEST: Final = 1.5
"""How many times as long their 99th percentile may take."""

TEXT: Final = f"""A table of {ROWS:,} rows of which two thirds have expired is purged as `idem.purge()` does it by default,
while {CLIENTS} clients (threads of a process of their own) call a function with the business above, one call after the
other. The purge is stopped {TURNS} times, each time for as long as it took, and the clients' calls of those times are what
the others are compared with. Server, clients and purge share the machine: two cores are hardly enough for the clients."""

ALONE: Final = "alone"
BESIDE: Final = "beside"
TITLES: Final = {ALONE: "their calls without a purge", BESIDE: "beside `idem.purge()`"}


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
    """Purge a backlog in so many pieces, and compare the calls of those times with the calls between them."""
    engine = sa.create_engine(url)
    prepare(engine, 0)
    idem = filling.make(engine, TABLE, backlog, expired=EXPIRED)
    filling.settle(engine, TABLE)
    purged, seconds = 0, 0.0
    beside: list[tuple[float, list[float]]] = []
    alone: list[tuple[float, list[float]]] = []
    with Crowd(CLIENTS, lambda: [caller(url)], threads=CLIENTS) as crowd:
        for _ in range(turns):
            mark = crowd.mark()
            report = idem.purge(limit=-(-round(backlog * EXPIRED) // turns))
            beside.append(crowd.since(mark))
            purged, seconds = purged + report.deleted, seconds + report.seconds
            mark = crowd.mark()
            # The other half of the comparison: the clients work as long without a purge as they did beside one.
            time.sleep(max(report.seconds, 0.1))
            alone.append(crowd.since(mark))
    engine.dispose()
    ratios = [mine / other for (mine, _), (other, _) in zip(beside, alone, strict=True)]
    spread = {"ratio": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}
    return {
        ALONE: {"ratio": 1.0} | _calls(alone),
        BESIDE: spread | _calls(beside) | {"purged": purged / seconds},
    }


def _calls(slices: list[tuple[float, list[float]]]) -> dict[str, float]:
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
