"""`make bench`: what a call costs on every database, as ratios within one run, beside what the library promises."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

from tests.benchmarks import backlog, batch, cpu, growth, memory, web
from tests.benchmarks.command import Parts, run
from tests.benchmarks.databases import file, server
from tests.benchmarks.harness import Size
from tests.benchmarks.places import PLACES
from tests.benchmarks.results import Part


def parts(size: Size) -> Parts:
    """Give what can be measured."""
    servers: dict[str, Callable[[], Part]] = {name: partial(server, name, size) for name in PLACES}
    return servers | {
        "sqlite": partial(file, size),
        "cpu": partial(cpu.part, size),
        "http": partial(web.part, size),
        "batch": partial(batch.part, size),
        "purge": partial(backlog.part, size),
        "growth": partial(growth.part, size),
        "memory": partial(memory.part, size),
    }


if __name__ == "__main__":
    sys.exit(run("tests.benchmarks", __doc__, parts))
