"""What growth costs: first executions and purges in large tables, with today's index, with another one, and without.

    python -m tests.benchmarks.growth --rows 10000000 postgresql

Variants of the table are filled alike and called in turn, so that whatever else the machine does hits all of them. A call
has no business statement: what an index costs is a larger share of it than of any call in use.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable
from tests.benchmarks.crowd import Crowd, slowest
from tests.benchmarks.filling import TTL, add, key_last, make, settle
from tests.benchmarks.harness import WARM, in_turn
from tests.servers import mariadb, mysql, postgresql

TODAY: Final = "btree"
BTREE: Final = "CREATE INDEX ix_{table}_expires_at ON {table} (expires_at)"
SHARE: Final = 0.1
"""Of the rows, what has expired and is to be found among all the others."""
CLIENTS: Final = 8
SLICE: Final = 0.3
"""Seconds for each variant in turn, with all clients at work on it."""


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


def one_client(url: str, all_of_them: Sequence[Variant], rounds: int) -> None:
    """Call one after the other, and take the CPU of each one's own server process, which other programs do not disturb."""
    engines = {one.name: sa.create_engine(url, pool_size=1, max_overflow=0) for one in all_of_them}
    processes = {name: _process(engine) for name, engine in engines.items()}
    calls = {one.name: one.call(engines[one.name]) for one in all_of_them}
    before = {name: _cpu(process) for name, process in processes.items()}
    timed = in_turn(calls, rounds, TODAY)
    for one in all_of_them:
        found = timed[one.name]
        one.figures["1 client"] = f"{found['ratio']:.3f} ({found['low']:.2f}-{found['high']:.2f})"
        if processes[one.name]:
            used = (_cpu(processes[one.name]) - before[one.name]) / (rounds + min(WARM, rounds)) / 1000
            one.figures["its server CPU, us"] = f"{used:.0f}"
        engines[one.name].dispose()


def _process(engine: sa.Engine) -> int:
    if engine.dialect.name != "postgresql":
        return 0
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def _cpu(process: int) -> int:
    return int(Path(f"/proc/{process}/schedstat").read_text().split()[0]) if process else 0


def many_clients(url: str, all_of_them: Sequence[Variant], turns: int) -> None:
    """Have all clients call one of them for a while, and then another one."""
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
    for one in all_of_them:
        ratios = sorted(mine / base for mine, base in zip(rates[one.name], rates[TODAY], strict=True))
        quarter = len(ratios) // 4
        whole = sum(rates[one.name]) / sum(rates[TODAY])
        one.figures[f"{CLIENTS} clients"] = f"{whole:.3f} ({ratios[quarter]:.2f}-{ratios[-1 - quarter]:.2f})"


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


def under_load(engine: sa.Engine, url: str, rows: int, turns: int = 10) -> None:
    """Purge two thirds of a table, in pieces with as much time between them, while two threads call all the time."""
    backlog = Variant("backlog", "backlog", BTREE, rows)
    idem = make(engine, backlog.table, rows, expired=2 / 3)
    settle(engine, backlog.table)
    deleted, seconds = 0, 0.0
    rates: list[float] = []
    beside: list[float] = []
    between: list[float] = []
    with Crowd(2, lambda: [backlog.call(sa.create_engine(url, pool_size=1))], threads=2) as crowd:
        for _ in range(turns):
            mark = crowd.mark()
            report = idem.purge(limit=-(-rows * 2 // 3 // turns))
            rate, times = crowd.since(mark)
            deleted, seconds, beside = deleted + report.deleted, seconds + report.seconds, beside + times
            mark = crowd.mark()
            # The other half of the comparison: the clients work as long without a purge as they did beside one.
            time.sleep(max(report.seconds, 0.1))
            alone, times = crowd.since(mark)
            rates, between = [*rates, rate / alone], between + times
    print(f"\n{deleted:,} of {rows:,} rows purged beside 2 clients: {deleted / seconds:,.0f} rows/s; their calls")
    print(f"  throughput {statistics.median(rates):.2f} ({min(rates):.2f}-{max(rates):.2f}) of that without a purge")
    print(f"  p50 {statistics.median(beside) / statistics.median(between):.2f} times, ", end="")
    print(f"p99 {slowest(beside) / slowest(between):.2f} times as long", flush=True)


# --- all of it ----------------------------------------------------------------------------------------------------------


@contextmanager
def database(name: str) -> Iterator[str]:
    """A server of its own with its usual durability and memory for a large table; its URL."""
    if name == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{Path(folder) / 'growth.db'}"
            engine = sa.create_engine(url)
            with engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            engine.dispose()
            yield url
        return
    memory = ["innodb_buffer_pool_size=2G", "innodb_log_file_size=2G"]
    if name == "mysql":
        memory = ["innodb_buffer_pool_size=2G", "innodb_redo_log_capacity=4G"]
    servers: dict[str, Callable[[], Any]] = {
        "postgresql": lambda: postgresql(fast=False, extra=["shared_buffers = 2GB", "max_wal_size = 8GB"]),
        "mariadb": lambda: mariadb(fast=False, extra=memory),
        "mysql": lambda: mysql(fast=False, extra=memory),
    }
    with servers[name]() as server:
        server.create_database("growth")
        yield server.url("growth")


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
    parser.add_argument("--backlog", type=int, default=1_500_000, help="rows of the table that is purged under load")
    parser.add_argument("databases", nargs="*", default=["postgresql", "mariadb", "sqlite"])
    options = parser.parse_args()
    for name in options.databases:
        with database(name) as url:
            engine = sa.create_engine(url)
            if options.backlog:
                print(f"\n{name}", flush=True)
                under_load(engine, url, options.backlog)
            all_of_them = variants(name, options.rows)
            began = time.perf_counter()
            for one in all_of_them:
                one.make(engine)
            settle(engine, *(one.table for one in all_of_them))
            print(f"\n{name}: {options.rows:,} rows, filled in {time.perf_counter() - began:.0f} s", flush=True)
            engine.dispose()
            one_client(url, all_of_them, options.rounds)
            many_clients(url, all_of_them, options.turns)
            purges(engine, all_of_them)
            engine.dispose()
            print("  throughput of first executions against btree (spread), and purges\n")
            print(table_of(all_of_them), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
