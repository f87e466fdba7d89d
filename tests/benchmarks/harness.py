"""Compare variants within one run, so that whatever else the machine does hits all of them alike.

With one client they take turns operation by operation, in random order. With several, who would wait for each other's
last operation, they take turns in slices of time, and each slice stands between two of the base.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns, thread_time_ns
from typing import Any

from tests.benchmarks.results import Row

BLOCKS = 7
"""A run with one client is cut into this many pieces; the spread of a ratio is its smallest and largest value over them."""


@dataclass(frozen=True)
class Size:
    """How long a run is.

    Args:
        quick: whether too short to say much.
        rounds: with one client.
        far: rounds over a longer wire.
        slices: rounds with several clients.
        seconds: of a slice.
        records: in the table before.
        some: records that are read, or replayed, over and over.
        trips: calls whose round trips are counted, of each variant.
        storms: rounds of storms.
        keys: in each of them.
    """

    quick: bool = False
    rounds: int = 2000
    far: int = 600
    slices: int = 25
    seconds: float = 0.15
    records: int = 50_000
    some: int = 2_000
    trips: int = 40
    storms: int = 7
    keys: int = 40


QUICK = Size(
    quick=True, rounds=150, far=40, slices=4, seconds=0.1, records=5_000, some=500, trips=10, storms=3, keys=10
)

WARM = 30
"""Calls before, in a run that is not shorter."""

Runs = Mapping[str, Callable[[], object]]
AsyncRuns = Mapping[str, Callable[[], Awaitable[object]]]
Figures = dict[str, dict[str, float]]


def rows(figures: Figures, titles: Mapping[str, str]) -> list[Row]:
    """Give measured figures the titles of their variants."""
    return [Row(name, titles[name], one) for name, one in figures.items()]


def trimmed(times: Sequence[float]) -> float:
    """The mean without the slowest twentieth, where the machine's other work sits."""
    kept = sorted(times)[: max(1, int(len(times) * 0.95))]
    return sum(kept) / len(kept)


# --- one client -----------------------------------------------------------------------------------------------------------


def in_turn(runs: Runs, rounds: int, base: str) -> Figures:
    """Run every variant once a round and return its figures against `base`."""
    for run in runs.values():
        for _ in range(min(WARM, rounds)):
            run()
    turns = _Turns(runs, rounds)
    for name in turns:
        run = runs[name]
        cpu, wall = thread_time_ns(), perf_counter_ns()
        run()
        turns.add(name, perf_counter_ns() - wall, thread_time_ns() - cpu)
    return turns.figures(base)


async def in_turn_async(runs: AsyncRuns, rounds: int, base: str) -> Figures:
    """Do the same with coroutine functions, in one task."""
    for run in runs.values():
        for _ in range(min(WARM, rounds)):
            await run()
    turns = _Turns(runs, rounds)
    for name in turns:
        run = runs[name]
        cpu, wall = thread_time_ns(), perf_counter_ns()
        await run()
        turns.add(name, perf_counter_ns() - wall, thread_time_ns() - cpu)
    return turns.figures(base)


class _Turns:
    """Whose turn it is, and what each one took, in microseconds."""

    def __init__(self, names: Mapping[str, Any], rounds: int) -> None:
        self._rounds = rounds
        self._walls: dict[str, list[float]] = {name: [] for name in names}
        self._cpus: dict[str, list[float]] = {name: [] for name in names}
        gc.collect()

    def __iter__(self) -> Iterator[str]:
        names = list(self._walls)
        for _ in range(self._rounds):
            random.shuffle(names)
            yield from names

    def add(self, name: str, wall: int, cpu: int) -> None:
        self._walls[name].append(wall / 1000)
        self._cpus[name].append(cpu / 1000)

    def figures(self, base: str) -> Figures:
        size = max(1, self._rounds // BLOCKS)
        blocks = [slice(at, at + size) for at in range(0, min(self._rounds, size * BLOCKS), size)]
        found: Figures = {}
        for name, walls in self._walls.items():
            ratios = [trimmed(self._walls[base][block]) / trimmed(walls[block]) for block in blocks]
            found[name] = {
                "ratio": trimmed(self._walls[base]) / trimmed(walls),
                "low": min(ratios),
                "high": max(ratios),
                "median": statistics.median(walls),
                "p99": _at(walls, 0.99),
                "cpu": statistics.median(self._cpus[name]),
            }
        return found


# --- several clients ------------------------------------------------------------------------------------------------------


@dataclass
class Slice:
    """What happened in one slice of time, which for each client begins and ends with an operation of its own."""

    rate: float = 0.0
    walls: list[float] = field(default_factory=list)

    def add(self, walls: list[float], elapsed: int) -> None:
        """Add one client's operations, in microseconds, and its time in nanoseconds."""
        self.rate += len(walls) * 1e9 / elapsed
        self.walls += walls


def in_slices(runs: Runs, rounds: int, base: str, clients: int, seconds: float) -> Figures:
    """Run every variant in one slice a round, on as many threads as there are clients."""
    with _Threads(clients) as threads:
        done = [(name, threads.slice(runs[name], seconds)) for name in _order(runs, rounds, base)]
    return _against_neighbours(list(runs), done)


async def in_slices_async(runs: AsyncRuns, rounds: int, base: str, clients: int, seconds: float) -> Figures:
    """Do the same with coroutine functions, in as many tasks as there are clients."""
    done = []
    for name in _order(runs, rounds, base):
        one, run = Slice(), runs[name]

        async def client(one: Slice = one, run: Callable[[], Awaitable[object]] = run) -> None:
            walls: list[float] = []
            now = began = perf_counter_ns()
            while now < began + seconds * 1e9:
                await run()
                walls.append((perf_counter_ns() - now) / 1000)
                now = perf_counter_ns()
            one.add(walls, now - began)

        await asyncio.gather(*(client() for _ in range(clients)))
        done.append((name, one))
    return _against_neighbours(list(runs), done)


def _order(names: Mapping[str, Any], rounds: int, base: str) -> list[str]:
    """The base, then each variant followed by the base again; all of them once before, to warm up."""
    others = [name for name in names if name != base]
    order = [*others, base]
    for _ in range(rounds):
        random.shuffle(others)
        for name in others:
            order += [name, base]
    return order


def _against_neighbours(names: list[str], done: list[tuple[str, Slice]]) -> Figures:
    """Compare each slice with the mean of the two of the base round it; spread: the quartiles over all rounds."""
    base = done[-1][0]
    warm = len(names) - 1
    ratios: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    walls: dict[str, list[float]] = {}
    for at in range(warm, len(done)):
        name, one = done[at]
        if name != base:
            ratios.setdefault(name, []).append(
                one.rate / statistics.mean(done[near][1].rate for near in (at - 1, at + 1))
            )
        rates.setdefault(name, []).append(one.rate)
        walls.setdefault(name, []).extend(one.walls)
    found: Figures = {}
    for name in names:
        mine = ratios.get(name, [1.0])
        found[name] = {
            "ratio": statistics.median(mine),
            "low": _at(mine, 0.25),
            "high": _at(mine, 0.75),
            "rate": statistics.median(rates[name]),
            "median": statistics.median(walls[name]),
            "p99": _at(walls[name], 0.99),
        }
    return found


def _at(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


class _Threads:
    """Clients that live as long as the comparison, so that no slice begins with their start."""

    def __init__(self, count: int) -> None:
        self._begin, self._end = threading.Barrier(count + 1), threading.Barrier(count + 1)
        self._run: Callable[[], object] | None = None
        self._seconds = 0.0
        self._slice = Slice()
        self._lock = threading.Lock()
        self._errors: list[BaseException] = []
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(count)]

    def __enter__(self) -> _Threads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._run = None
        self._begin.wait()
        for thread in self._threads:
            thread.join()

    def slice(self, run: Callable[[], object], seconds: float) -> Slice:
        """Let every client run it over and over, for so long.

        Raises:
            BaseException: what a client's run raised.
        """
        self._run, self._slice, self._seconds = run, Slice(), seconds
        self._begin.wait()
        self._end.wait()
        if self._errors:
            raise self._errors[0]
        return self._slice

    def _client(self) -> None:
        while True:
            self._begin.wait()
            run, seconds = self._run, self._seconds
            if run is None:
                return
            walls: list[float] = []
            now = began = perf_counter_ns()
            try:
                while now < began + seconds * 1e9:
                    run()
                    walls.append((perf_counter_ns() - now) / 1000)
                    now = perf_counter_ns()
            except BaseException as error:
                self._errors.append(error)
            with self._lock:
                self._slice.add(walls, max(1, now - began))
            self._end.wait()


def show(title: str, measured: list[Row]) -> None:
    """Print a table for people who wait."""
    columns = [name for name in measured[0].figures if name not in ("low", "high")]
    width = max(len(row.title) for row in measured)
    print(f"\n{title}\n  {'':{width}}" + "".join(f"{name:>10}" for name in columns), flush=True)
    for row in measured:
        print(
            f"  {row.title:{width}}" + "".join(f"{_short(row.figures.get(name)):>10}" for name in columns), flush=True
        )


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.{0 if value == int(value) or abs(value) >= 50 else 2}f}"
