"""Compare variants of one transaction in one run: round robin in random order, so that noise hits all of them alike."""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

BLOCKS = 7
"""The run is cut into this many pieces; the spread of a ratio is its smallest and largest value over them."""


@dataclass(frozen=True)
class Row:
    """One variant's figures; times in microseconds, ratios of throughput to a base (higher is faster)."""

    name: str
    median: float
    p99: float
    cpu: float
    ratio: float
    low: float
    high: float


def trimmed(times: list[float]) -> float:
    """The mean without the slowest twentieth, where the machine's other work sits."""
    kept = sorted(times)[: max(1, int(len(times) * 0.95))]
    return sum(kept) / len(kept)


def compare(variants: Mapping[str, Callable[[], object]], rounds: int, base: str, warm: int = 30) -> list[Row]:
    """Run every variant once a round and return its figures against `base`."""
    for run in variants.values():
        for _ in range(warm):
            run()
    names = list(variants)
    walls: dict[str, list[float]] = {name: [] for name in names}
    cpus: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    for _ in range(rounds):
        random.shuffle(names)
        for name in names:
            run = variants[name]
            cpu, wall = time.thread_time_ns(), time.perf_counter_ns()
            run()
            walls[name].append((time.perf_counter_ns() - wall) / 1000)
            cpus[name].append((time.thread_time_ns() - cpu) / 1000)
    size = max(1, rounds // BLOCKS)
    rows = []
    for name in variants:
        blocks = [
            trimmed(walls[base][at : at + size]) / trimmed(walls[name][at : at + size])
            for at in range(0, size * BLOCKS, size)
            if walls[name][at : at + size]
        ]
        rows.append(
            Row(
                name=name,
                median=statistics.median(walls[name]),
                p99=sorted(walls[name])[int(rounds * 0.99)],
                cpu=statistics.median(cpus[name]),
                ratio=trimmed(walls[base]) / trimmed(walls[name]),
                low=min(blocks),
                high=max(blocks),
            )
        )
    return rows


def show(title: str, rows: list[Row]) -> None:
    """Print a table for people."""
    print(f"\n{title}")
    print(f"  {'variant':38}{'ratio':>7}{'spread':>14}{'median us':>11}{'p99 us':>9}{'CPU us':>8}")
    for row in rows:
        spread = f"{row.low:.2f}-{row.high:.2f}"
        print(f"  {row.name:38}{row.ratio:7.2f}{spread:>14}{row.median:11.0f}{row.p99:9.0f}{row.cpu:8.0f}")
