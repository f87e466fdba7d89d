"""What a batch costs.

Ten thousand keys that nobody has had, committed, against the fastest plain way into the same table with its indexes, and
against what a program would write with SQLAlchemy. Round robin in random order, so that noise hits all of them alike. The
plain ways are given their ids; the library makes its own.
"""

from __future__ import annotations

import gc
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.orm import Session

import idemtable
from idemtable import Flag, IdemTable
from tests.benchmarks.databases import PACKAGES
from tests.benchmarks.harness import BLOCKS, Figures, Size, rows, trimmed
from tests.benchmarks.machine import Watch, versions
from tests.benchmarks.places import version
from tests.benchmarks.results import Goal, Part, Table
from tests.servers import mariadb, postgresql

KEYS = 10_000
LOOP = 250
"""Keys of the loop over rows, which takes seconds for all of them."""

table = idemtable.metadata.tables["idemtable"]


@dataclass(frozen=True)
class Batch:
    """Keys that nobody has had, and ids for whoever makes none."""

    keys: list[str]
    ids: list[bytes]

    @classmethod
    def fresh(cls, size: int) -> Batch:
        run = os.urandom(6).hex()
        return cls([f"event-{run}-{number}" for number in range(size)], [os.urandom(16) for _ in range(size)])


@dataclass(frozen=True)
class Variant:
    """One way to do it, and how many keys it is given at once."""

    run: Callable[[Batch], object]
    size: int = KEYS


def measure(url: str | sa.URL, *, rounds: int = 21, rows: int = 200_000) -> tuple[Figures, str]:
    """Compare all ways on a database; times are for ten thousand keys, ratios of throughput to the plain way."""
    engine = sa.create_engine(url)
    try:
        idem = _prepared(engine, rows)
        found = {"postgresql": _postgresql, "sqlite": _sqlite}.get(engine.dialect.name, _mysql)(engine)
        return _compared({**found, **_library(engine, idem), **_by_hand(engine)}, rounds), version(engine)
    finally:
        engine.dispose()


def _compared(variants: dict[str, Variant], rounds: int) -> Figures:
    """`harness.in_turn`, with keys that are made outside of the time, and batches of different sizes."""
    names = list(variants)
    walls: dict[str, list[float]] = {name: [] for name in names}
    cpus: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    for number in range(rounds + 1):
        random.shuffle(names)
        for name in names:
            variant = variants[name]
            batch = Batch.fresh(variant.size)
            cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
            variant.run(batch)
            if number:  # the first one warms up
                part = KEYS / variant.size / 1000
                walls[name].append((time.perf_counter_ns() - wall) * part)
                cpus[name].append((time.thread_time_ns() - cpu) * part)
    base, size = next(iter(variants)), max(1, rounds // BLOCKS)
    blocks = range(0, size * min(BLOCKS, rounds), size)

    def beside(name: str) -> list[float]:
        return [trimmed(walls[base][at : at + size]) / trimmed(walls[name][at : at + size]) for at in blocks]

    return {
        name: {
            "ratio": statistics.median(walls[base]) / statistics.median(walls[name]),
            "low": min(beside(name)),
            "high": max(beside(name)),
            "median": statistics.median(walls[name]),
            "p99": max(walls[name]),
            "cpu": statistics.median(cpus[name]),
        }
        for name in variants
    }


def _prepared(engine: sa.Engine, rows: int) -> IdemTable:
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    idem = IdemTable(engine)
    with engine.begin() as connection:
        idemtable.metadata.drop_all(connection)
    idem.create_all()
    for _ in range(0, rows, KEYS):
        with Session(engine) as session, session.begin():
            idem.claim_many(session, "old", Batch.fresh(KEYS).keys)
    return idem


# --- the library --------------------------------------------------------------------------------------------------------


def _library(engine: sa.Engine, idem: IdemTable) -> dict[str, Variant]:
    before: list[str] = []

    def claim_many(batch: Batch) -> None:
        with Session(engine) as session, session.begin():
            assert idem.claim_many(session, "bench", batch.keys).count(Flag.New) == KEYS
        before[:] = batch.keys

    def half_seen(batch: Batch) -> None:
        keys = batch.keys[: KEYS // 2] + before[: KEYS // 2]
        random.shuffle(keys)
        with Session(engine) as session, session.begin():
            assert idem.claim_many(session, "bench", keys).count(Flag.New) >= KEYS // 2

    def unseen(batch: Batch) -> None:
        items = [{"id": key} for key in batch.keys]
        with Session(engine) as session, session.begin():
            assert sum(1 for _ in idem.unseen(session, "bench", items, key="id")) == KEYS

    return {
        "claim_many": Variant(claim_many),
        "claim_many, half of them seen": Variant(half_seen),
        "unseen, in chunks of 5,000": Variant(unseen),
    }


# --- as a program would -------------------------------------------------------------------------------------------------


def _by_hand(engine: sa.Engine) -> dict[str, Variant]:
    statement: Any
    if engine.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert

        statement = insert(table).on_conflict_do_nothing(index_elements=["id"])
    elif engine.dialect.name == "sqlite":
        from sqlalchemy.dialects.sqlite import insert as insert_lite

        statement = insert_lite(table).on_conflict_do_nothing(index_elements=["id"])
    else:
        statement = sa.insert(table).prefix_with("IGNORE")
    returning = statement.returning(table.c.id)

    def rows(batch: Batch) -> list[dict[str, Any]]:
        now = datetime.now(UTC)
        of_uuid = engine.dialect.name == "postgresql"
        same = {"scope": "bench", "status": 1, "owner": os.urandom(16), "created_at": now, "completed_at": now}
        same["expires_at"] = now + timedelta(days=7)
        pairs = zip(batch.keys, batch.ids, strict=True)
        return [{"id": UUID(bytes=id) if of_uuid else id, "key": key, **same} for key, id in pairs]

    def loop(batch: Batch) -> None:
        with engine.begin() as connection:
            assert sum(connection.execute(statement, row).rowcount != 0 for row in rows(batch)) == LOOP

    def many_values(batch: Batch) -> None:
        with engine.begin() as connection:
            assert len(connection.execute(returning, rows(batch)).all()) == KEYS

    return {
        "SQLAlchemy, insertmanyvalues": Variant(many_values),
        "SQLAlchemy, row by row": Variant(loop, LOOP),
    }


# --- the plain ways: nothing conflicts, nobody asks what was new ---------------------------------------------------------


def _moments(form: str) -> tuple[str, str]:
    now = datetime.now(UTC)
    return now.strftime(form), (now + timedelta(days=7)).strftime(form)


_TIME = "%Y-%m-%d %H:%M:%S.%f"
_INTO = "(id, scope, {key}, status, owner, created_at, completed_at, expires_at)"


def _postgresql(engine: sa.Engine) -> dict[str, Variant]:
    def copy(batch: Batch) -> None:
        now, later = _moments(_TIME + "+00")
        tail = f"\t1\t\\\\x{os.urandom(16).hex()}\t{now}\t{now}\t{later}\n"
        pairs = zip(batch.ids, batch.keys, strict=True)
        with engine.begin() as connection:
            driver: Any = connection.connection.driver_connection
            with driver.cursor().copy(f"COPY idemtable {_INTO.format(key='key')} FROM STDIN") as target:
                target.write("".join([f"{id.hex()}\tbench\t{key}{tail}" for id, key in pairs]))

    return {"COPY": Variant(copy)}


def _mysql(engine: sa.Engine) -> dict[str, Variant]:
    def values(batch: Batch) -> None:
        now, later = _moments(_TIME)
        tail = f"', 1, 0x{os.urandom(16).hex()}, '{now}', '{now}', '{later}')"
        pairs = zip(batch.ids, batch.keys, strict=True)
        rows = ", ".join([f"(0x{id.hex()}, 'bench', '{key}{tail}" for id, key in pairs])
        with engine.begin() as connection:
            driver: Any = connection.connection.driver_connection
            driver.cursor().execute(f"INSERT INTO idemtable {_INTO.format(key='`key`')} VALUES {rows}")

    return {"multi-VALUES": Variant(values)}


def _sqlite(engine: sa.Engine) -> dict[str, Variant]:
    sql = f"INSERT INTO idemtable {_INTO.format(key='key')} VALUES (?, 'bench', ?, 1, ?, ?, ?, ?)"

    def executemany(batch: Batch) -> None:
        (now, later), owner = _moments(_TIME), os.urandom(16)
        pairs = zip(batch.ids, batch.keys, strict=True)
        with engine.begin() as connection:
            driver: Any = connection.connection.driver_connection
            driver.executemany(sql, [(id, key, owner, now, now, later) for id, key in pairs])

    return {"executemany": Variant(executemany)}


# --- the goals ----------------------------------------------------------------------------------------------------------

GOALS = {"postgresql": {"COPY": 0.65, "SQLAlchemy, row by row": 12, "SQLAlchemy, insertmanyvalues": 2}}
GOALS |= {"mariadb": {"multi-VALUES": 0.70}, "sqlite": {"executemany": 0.95}}
"""How many times the rate of another way `claim_many` must have."""

TITLES = {"postgresql": "PostgreSQL", "mariadb": "MariaDB", "sqlite": "SQLite"}


def goals_of(name: str, figures: Figures) -> list[Goal]:
    """Judge a database."""
    rate = {way: one["ratio"] for way, one in figures.items()}
    return [
        Goal(f"{TITLES[name]}, `claim_many` beside {way}", goal, rate["claim_many"] / rate[way], unit="×")
        for way, goal in GOALS[name].items()
    ]


def part(size: Size) -> Part:
    """Measure all databases."""
    watch, found = Watch("make bench"), {}
    tables, goals = [], []
    rounds, records = (3, KEYS) if size.quick else (21, 200_000)
    with ExitStack() as stack:
        for name, title in TITLES.items():
            if name == "sqlite":
                url = f"sqlite:///{Path(stack.enter_context(tempfile.TemporaryDirectory())) / 'bench.db'}"
            else:
                server = stack.enter_context((postgresql if name == "postgresql" else mariadb)(fast=False))
                server.create_database("bench")
                url = server.url("bench")
            figures, found[title] = measure(url, rounds=rounds, rows=records)
            shown = rows(figures, {way: way for way in figures})
            tables.append(Table(name, f"{title}: ten thousand keys that nobody has had", shown))
            goals += goals_of(name, figures)
    return Part("Batches", watch.stamp(found | versions(PACKAGES), quick=size.quick), tables, goals)
