"""What growth costs: first executions in a large table beside those in a small one.

    python -m tests.benchmarks.growth --rows 10000000 postgresql

compares the index that the table has with another one and with none, and what each of them costs a purge. Variants of the
table are filled alike and called in turn, so that whatever else the machine does hits all of them. A call has no business
statement: what an index costs is a larger share of it than of any call in use.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable
from tests.benchmarks.crowd import Crowd
from tests.benchmarks.databases import PACKAGES
from tests.benchmarks.filling import TTL, add, key_last, make, settle
from tests.benchmarks.goals import Judge
from tests.benchmarks.harness import WARM, Figures, Size, in_turn, show
from tests.benchmarks.harness import rows as rows_of
from tests.benchmarks.machine import Watch, versions
from tests.benchmarks.places import vast, version
from tests.benchmarks.results import Part, Table

TODAY: Final = "btree"
BTREE: Final = "CREATE INDEX ix_{table}_expires_at ON {table} (expires_at)"
SHARE: Final = 0.1
"""Of the rows, what has expired and is to be found among all the others."""
LARGE: Final = (100_000, 10_000_000)
SMALL: Final = (2_000, 20_000)
"""Rows of the two tables that are compared, and in a quick run."""
GOAL: Final = 0.9
"""What a first execution in the larger one must reach."""
CLIENTS: Final = 8
SLICE: Final = 0.3
"""Seconds for each variant in turn, with all clients at work on it."""
TEXT: Final = """First executions without a business: what the table costs is a larger share of them than of any call in
use. A tenth of the rows of both tables has expired."""


@dataclass
class Variant:
    """A table with one kind of index, and what was measured of it."""

    name: str
    table: str
    index: str | None
    rows: int
    figures: dict[str, str] = field(default_factory=dict)

    def make(self, engine: sa.Engine) -> None:
        make(engine, self.table, 0)
        at = "" if engine.dialect.name in ("postgresql", "sqlite") else f" ON {self.table}"
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP INDEX ix_{self.table}_expires_at{at}")
        with key_last(engine, self.table):
            add(engine, self.table, self.rows, age=round(TTL / (1 - SHARE)))
        if self.index is not None:
            with engine.begin() as connection:
                connection.exec_driver_sql(self.index.format(table=self.table))

    def call(self, engine: sa.Engine) -> Callable[[], object]:
        """A function each of whose calls is a first execution."""
        numbers, mine = count(), uuid4().hex

        def work(session: Session, key: str) -> dict[str, int]:
            return {"order_id": 123456}

        protected = IdemTable(engine, table=self.table).transactional(f"growth.{mine}", key="key")(work)
        return lambda: protected(f"{mine}-{next(numbers)}")


def variants(kind: str, rows: int) -> list[Variant]:
    found = [Variant(TODAY, "keys_btree", BTREE, rows), Variant("none", "keys_none", None, rows)]
    if kind == "postgresql":
        found.append(Variant("BRIN", "keys_brin", BTREE.replace(" (", " USING brin ("), rows))
    return [*found, Variant("btree, 100,000 rows", "keys_few", BTREE, min(rows, 100_000))]


# --- first executions ---------------------------------------------------------------------------------------------------


def one_client(url: str, all_of_them: Sequence[Variant], rounds: int) -> Figures:
    """Call one after the other, beside the first one.

    And take the CPU of each one's own server process, which other programs do not disturb.
    """
    engines = {one.name: sa.create_engine(url, pool_size=1, max_overflow=0) for one in all_of_them}
    processes = {name: _process(engine) for name, engine in engines.items()}
    calls = {one.name: one.call(engines[one.name]) for one in all_of_them}
    before = {name: _cpu(process) for name, process in processes.items()}
    found = in_turn(calls, rounds, all_of_them[0].name)
    for name, process in processes.items():
        if process:
            found[name]["server"] = (_cpu(process) - before[name]) / (rounds + min(WARM, rounds)) / 1000
        engines[name].dispose()
    return found


def _process(engine: sa.Engine) -> int:
    if engine.dialect.name != "postgresql":
        return 0
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def _cpu(process: int) -> int:
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) if process else 0


def many_clients(url: str, all_of_them: Sequence[Variant], turns: int) -> Figures:
    """Have all clients call one of them for a while, and then another one; beside the first one."""
    rates: dict[str, list[float]] = {one.name: [] for one in all_of_them}

    def made() -> list[Callable[[], object]]:
        engine = sa.create_engine(url, pool_size=1)
        return [one.call(engine) for one in all_of_them]

    with Crowd(CLIENTS, made) as crowd:
        for _ in range(turns):
            for n in random.sample(range(len(all_of_them)), len(all_of_them)):
                crowd.turn_to(n)
                mark = crowd.mark()
                # Nothing is waited for: the clients are at work, and this is how long their calls are counted.
                time.sleep(SLICE)
                rates[all_of_them[n].name].append(crowd.since(mark)[0])
    return {name: _beside(mine, rates[all_of_them[0].name]) for name, mine in rates.items()}


def _beside(mine: list[float], base: list[float]) -> dict[str, float]:
    ratios = sorted(one / other for one, other in zip(mine, base, strict=True))
    quarter = len(ratios) // 4
    whole = sum(mine) / sum(base)
    return {"ratio": whole, "low": ratios[quarter], "high": ratios[-1 - quarter], "rate": statistics.median(mine)}


def part(size: Size) -> Part:
    """Measure what the rows of a table cost, with the index that it has."""
    watch = Watch("make bench")
    few, many = (Variant(f"{rows:,} rows", f"keys_{rows}", BTREE, rows) for rows in (SMALL if size.quick else LARGE))
    with vast("postgresql") as url:
        engine = sa.create_engine(url)
        for one in (few, many):
            one.make(engine)
        settle(engine, few.table, many.table)
        found = {"PostgreSQL": version(engine)} | versions(PACKAGES)
        engine.dispose()
        figures = one_client(url, (few, many), size.rounds), many_clients(url, (few, many), 2 * size.slices)
    titles = {one.name: f"a table of {one.name}" for one in (few, many)}
    tables = [
        Table(name, f"first executions, {title}", rows_of(one, titles), plot="first")
        for name, title, one in zip(("one", "several"), ("one client", f"{CLIENTS} clients"), figures, strict=True)
    ]
    judge = Judge(tables)
    for table in tables:
        show(table.title, table.rows)
        judge.ratio(f"{table.title} at {many.name}, beside {few.name}", GOAL, table.name, many.name)
    return Part("Growth", watch.stamp(found, quick=size.quick), tables, judge.goals, TEXT)


# --- purges -------------------------------------------------------------------------------------------------------------


def purges(engine: sa.Engine, all_of_them: Sequence[Variant]) -> None:
    """Purge what has expired, then nothing, and nothing once more when new rows have taken the place of the old ones."""
    for one in all_of_them:
        idem, marks = IdemTable(engine, table=one.table), [(0, time.perf_counter())]

        def mark(deleted: int, marks: list[tuple[int, float]] = marks) -> None:
            marks.append((deleted, time.perf_counter()))

        report = idem.purge(progress=mark)
        one.figures["purge, rows/s"] = f"{report.deleted / report.seconds:,.0f}"
        part = max(1, len(marks) // 5)
        first, last = (
            (b[0] - a[0]) / (b[1] - a[1]) for a, b in ((marks[0], marks[part]), (marks[-1 - part], marks[-1]))
        )
        one.figures["last fifth of it"] = f"{last / first:.2f}"
        one.figures["nothing to purge, ms"] = _nothing(idem)
    settle(engine, *(one.table for one in all_of_them))
    for one in all_of_them:
        add(engine, one.table, round(one.rows * SHARE), age=TTL // 100)
    settle(engine, *(one.table for one in all_of_them))
    for one in all_of_them:
        one.figures["after new rows, ms"] = _nothing(IdemTable(engine, table=one.table))


def _nothing(idem: IdemTable) -> str:
    return f"{statistics.median(idem.purge().seconds * 1000 for _ in range(5)):.0f}"


# --- all of it ----------------------------------------------------------------------------------------------------------


def _told(one: dict[str, float], several: dict[str, float]) -> dict[str, str]:
    def spread(found: dict[str, float]) -> str:
        return f"{found['ratio']:.3f} ({found['low']:.2f}-{found['high']:.2f})"

    told = {"1 client": spread(one), f"{CLIENTS} clients": spread(several)}
    return told | ({"its server CPU, us": f"{one['server']:.0f}"} if "server" in one else {})


def table_of(all_of_them: Sequence[Variant]) -> str:
    columns = list(dict.fromkeys(name for one in all_of_them for name in one.figures))
    lines = [["index", *columns]] + [
        [one.name, *(one.figures.get(name, "") for name in columns)] for one in all_of_them
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  " + "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.growth", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="in each variant of the table")
    parser.add_argument("--rounds", type=int, default=3000, help="calls of one client to each variant")
    parser.add_argument("--turns", type=int, default=60, help="of all clients, for each variant")
    parser.add_argument("databases", nargs="*", default=["postgresql", "mariadb", "sqlite"])
    options = parser.parse_args()
    for name in options.databases:
        with vast(name) as url:
            engine = sa.create_engine(url)
            all_of_them = variants(name, options.rows)
            began = time.perf_counter()
            for one in all_of_them:
                one.make(engine)
            settle(engine, *(one.table for one in all_of_them))
            print(f"\n{name}: {options.rows:,} rows, filled in {time.perf_counter() - began:.0f} s", flush=True)
            engine.dispose()
            found = one_client(url, all_of_them, options.rounds), many_clients(url, all_of_them, options.turns)
            for one in all_of_them:
                one.figures |= _told(*(figures[one.name] for figures in found))
            purges(engine, all_of_them)
            engine.dispose()
            print("  throughput of first executions against btree (spread), and purges\n")
            print(table_of(all_of_them), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
