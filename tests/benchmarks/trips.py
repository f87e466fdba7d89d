"""Count the round trips of one call, exactly."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from tests.benchmarks.harness import Figures
from tests.benchmarks.wire import APART, Wire

WARM = 12
"""Calls before: psycopg sends a statement to be prepared at its fifth use, in a round trip of its own."""


def counted(wire: Wire, runs: Mapping[str, Callable[[], Any]], times: int) -> Figures:
    """Count those of each variant, over a wire that nothing else goes through."""
    for run in runs.values():
        for _ in range(WARM):
            run()
    wire.hold(0, APART)
    return {name: _figures([_between(wire, run) for _ in range(times)]) for name, run in runs.items()}


async def counted_async(wire: Wire, runs: Mapping[str, Callable[[], Awaitable[Any]]], times: int) -> Figures:
    """Do the same with coroutine functions."""
    for run in runs.values():
        for _ in range(WARM):
            await run()
    wire.hold(0, APART)
    found: Figures = {}
    for name, run in runs.items():
        counts = []
        for _ in range(times):
            before = wire.trips
            await run()
            counts.append(wire.trips - before)
        found[name] = _figures(counts)
    return found


def _between(wire: Wire, run: Callable[[], Any]) -> int:
    before = wire.trips
    run()
    return wire.trips - before


def _figures(counts: list[int]) -> dict[str, float]:
    return {"trips": statistics.median_high(counts), "low": min(counts), "high": max(counts)}
