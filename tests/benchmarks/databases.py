"""Everything that is measured of one database: first executions, replays, storms and round trips."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.benchmarks import goals
from tests.benchmarks.bench import AsyncBench, Bench
from tests.benchmarks.cores import apart
from tests.benchmarks.harness import Figures, Size, in_slices, in_slices_async, in_turn, in_turn_async, rows, show
from tests.benchmarks.machine import Watch, versions
from tests.benchmarks.places import CLIENTS, PLACES, async_engine, beside, engine, sqlite, version
from tests.benchmarks.results import Part, Table
from tests.benchmarks.storm import Storm
from tests.benchmarks.trips import counted, counted_async
from tests.benchmarks.variants import AGAIN, BARE, FIRST, LOOK, firsts, replays, titles
from tests.benchmarks.wire import Wire, stretch
from tests.benchmarks.work import prepare
from tests.servers import Server

PACKAGES = ("idemtable", "SQLAlchemy", "msgspec")
FAR = {"0.2": ("0.2 ms", 0.0002), "1ms": ("1 ms", 0.001)}
"""Round trips in seconds, as to a machine in the same data centre, and in the next one."""


class Tables:
    """What a part has so far, printed as it comes."""

    def __init__(self, part: str) -> None:
        self._part = part
        self.all: list[Table] = []

    def add(self, name: str, title: str, figures: Figures, note: str = "", plot: str = "") -> None:
        """Keep figures under a name, with the titles of their variants."""
        measured = rows(figures, titles(FIRST, AGAIN))
        show(f"{self._part}: {title}", measured)
        self.all.append(Table(name, title, measured, note, plot))

    def trips(self, name: str, title: str, first: Figures, again: Figures) -> None:
        """Keep counts, with what each first execution adds to the bare transaction."""
        for figures in first.values():
            figures["added"] = figures["trips"] - first[BARE.name]["trips"]
        self.add(name, title, first | again)


def server(name: str, size: Size) -> Part:
    """Measure a database that is a server."""
    place, watch, tables = PLACES[name], Watch("make bench"), Tables(PLACES[name].title)
    with ExitStack() as stack:
        running = stack.enter_context(place.start())
        running.create_database("bench")
        url = sa.make_url(running.url("bench"))
        own = stack.enter_context(_disposed(engine(url)))
        base = beside(own)
        prepare(base, size.records)
        _settle(url)
        bench = Bench(base, own, size.some)
        stored = bench.store()
        wire = stack.enter_context(Wire(running.port))
        driver = place.package
        _near(tables, bench, size, "", f"{driver}, ")
        again = in_turn(replays(bench, stored), size.rounds, LOOK.name)
        tables.add("replay", f"{driver}, replays, one client", again, plot="replay")
        _storm(tables, base, own, size)
        with _disposed(engine(url.set(port=wire.port))) as far, apart(running.pid, wire.pid):
            _far(tables, wire, url, Bench(beside(far), far, size.some), size, stored, driver)
        if place.is_async:
            asyncio.run(_async(tables, running, wire, url, size, stored, driver))
        found = {place.title: version(base)} | versions((*PACKAGES, driver))
    return Part(place.title, watch.stamp(found, quick=size.quick), tables.all, goals.of_server(name, tables.all))


def file(size: Size) -> Part:
    """Measure SQLite."""
    watch, tables = Watch("make bench"), Tables("SQLite")
    found = {}
    for synchronous in ("FULL", "NORMAL"):
        with ExitStack() as stack:
            base, own = sqlite(stack, synchronous)
            for one in (base, own):
                prepare(one, size.records)
            bench, prefix = Bench(base, own, size.some), f"{synchronous.lower()}-"
            stored = bench.store()
            _near(tables, bench, size, prefix, f"synchronous={synchronous}, ")
            again = in_turn(replays(bench, stored), size.rounds, LOOK.name)
            tables.add(f"{prefix}replay", f"synchronous={synchronous}, replays, one client", again, plot="replay")
            if synchronous == "FULL":
                _storm(tables, base, own, size)
            found["SQLite"] = version(base)
    found |= versions(PACKAGES)
    return Part("SQLite", watch.stamp(found, quick=size.quick), tables.all, goals.of_sqlite(tables.all))


def _near(tables: Tables, bench: Bench, size: Size, prefix: str, title: str) -> None:
    """Run first executions with one client and with several."""
    one = in_turn(firsts(bench), size.rounds, BARE.name)
    tables.add(f"{prefix}first-1", f"{title}one client", one, plot="first")
    several = in_slices(firsts(bench, all_of_them=False), size.slices, BARE.name, CLIENTS, size.seconds)
    tables.add(f"{prefix}first-8", f"{title}{CLIENTS} threads", several, plot="first")


def _storm(tables: Tables, base: sa.Engine, own: sa.Engine, size: Size) -> None:
    figures = Storm(base, own).blow(size.storms, size.keys)
    tables.add("storm", f"a storm of {CLIENTS} threads, one key after the other", figures)


def _far(
    tables: Tables, wire: Wire, url: sa.URL, bench: Bench, size: Size, stored: list[tuple[str, int]], driver: str
) -> None:
    """Run over a longer wire, and count."""
    every = firsts(bench), replays(bench, stored)
    tables.trips("trips", f"{driver}, round trips", *(counted(wire, runs, size.trips) for runs in every))
    for name, (title, trip) in FAR.items():
        added = _stretched(wire, url, trip, size)
        figures = in_turn(firsts(bench, all_of_them=False), size.far, BARE.name)
        tables.add(f"first-{name}", f"{driver}, one client, {title} away", figures, _further(added), "first")


async def _async(
    tables: Tables, running: Server, wire: Wire, url: sa.URL, size: Size, stored: list[tuple[str, int]], driver: str
) -> None:
    """Do it all again with the async driver."""
    async with _both(url, wire, size.some) as (bench, far):
        one = await in_turn_async(firsts(bench), size.rounds, BARE.name)
        tables.add("async-first-1", f"{driver} async, one task", one, plot="first")
        eight = firsts(bench, all_of_them=False)
        several = await in_slices_async(eight, size.slices, BARE.name, CLIENTS, size.seconds)
        tables.add("async-first-8", f"{driver} async, {CLIENTS} tasks", several, plot="first")
        again = await in_turn_async(replays(bench, stored), size.rounds, LOOK.name)
        tables.add("async-replay", f"{driver} async, replays, one task", again, plot="replay")
        counts = [await counted_async(wire, runs, size.trips) for runs in (firsts(far), replays(far, stored))]
        tables.trips("async-trips", f"{driver} async, round trips", *counts)
        with apart(running.pid, wire.pid):
            for name, (title, trip) in FAR.items():
                added = _stretched(wire, url, trip, size)
                figures = await in_turn_async(firsts(far, all_of_them=False), size.far, BARE.name)
                where = f"{driver} async, one task, {title} away"
                tables.add(f"async-first-{name}", where, figures, _further(added), "first")


@asynccontextmanager
async def _both(url: sa.URL, wire: Wire, some: int) -> AsyncIterator[tuple[AsyncBench, AsyncBench]]:
    """Give two benches: next to the server, and at the other end of the wire."""
    engines = [async_engine(url.set(port=port)) for port in (url.port, wire.port)]
    try:
        near, far = (AsyncBench(AsyncEngine(beside(one.sync_engine)), one, some) for one in engines)
        yield near, far
    finally:
        for one in engines:
            await one.dispose()


def _stretched(wire: Wire, url: sa.URL, trip: float, size: Size) -> float:
    """Make a round trip of an empty statement longer; return by how much it is."""
    level, times = "AUTOCOMMIT", min(150, 4 * size.far)
    with (
        _disposed(engine(url, isolation_level=level)) as near,
        _disposed(engine(url.set(port=wire.port), isolation_level=level)) as far,
        near.connect() as here,
        far.connect() as there,
    ):
        return stretch(wire, *(partial(one.exec_driver_sql, "SELECT 1") for one in (here, there)), trip, times)


def _further(added: float) -> str:
    return f"An empty statement takes {added * 1e6:.0f} µs longer over this wire than without it."


def _settle(url: sa.URL) -> None:
    """Let the planner know what is in the tables, before anything is measured."""
    if url.get_backend_name() == "postgresql":
        with _disposed(engine(url, isolation_level="AUTOCOMMIT")) as admin, admin.connect() as connection:
            connection.exec_driver_sql("VACUUM ANALYZE")
            connection.exec_driver_sql("CHECKPOINT")


@contextmanager
def _disposed(one: sa.Engine) -> Iterator[sa.Engine]:
    try:
        yield one
    finally:
        one.dispose()
