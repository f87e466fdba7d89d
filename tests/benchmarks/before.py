"""What a first execution costs now, beside what it cost at another commit.

    python -m tests.benchmarks.before 4bdf569 mariadb sqlite

One process keeps its place in memory and on the processors, and of two with the same code one is up to five percent slower
than the other for as long as both live. So there are several of each, begun in turns, and they work in turns, in random
order, a few calls at a time. The spread is that of all pairs of them.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from tests.benchmarks.places import PLACES, engine, sqlite
from tests.benchmarks.work import prepare

PROJECT: Final = Path(__file__).parents[2]
CALLS: Final = 25
"""At a time."""
ORDERS: Final = 1_000_000
"""Numbers of orders that each process has."""


@dataclass
class Process:
    """One that calls, and what it said."""

    is_now: bool
    running: subprocess.Popen[str]
    walls: list[float] = field(default_factory=list)
    cpus: list[float] = field(default_factory=list)

    def turn(self) -> None:
        assert self.running.stdin is not None
        self.running.stdin.write(f"{CALLS}\n")
        self.running.stdin.flush()
        wall, cpu = map(float, self._said().split())
        self.walls.append(wall)
        self.cpus.append(cpu)

    def await_ready(self) -> None:
        assert self._said() == "ready"

    def _said(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline().strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.before", description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("places", nargs="*", default=[*PLACES, "sqlite"], metavar="PLACE")
    parser.add_argument("--processes", type=int, default=4, help="of each; 4")
    parser.add_argument("--turns", type=int, default=70, help="of each process; 70")
    options = parser.parse_args(arguments)
    if unknown := set(options.places) - {*PLACES, "sqlite"}:
        parser.error(f"no place {', '.join(sorted(unknown))}; there are {', '.join([*PLACES, 'sqlite'])}")
    with tempfile.TemporaryDirectory(prefix="idemtable-before-") as folder:
        tree = subprocess.run(
            ["git", "archive", options.commit, "idemtable"], cwd=PROJECT, check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", folder], input=tree.stdout, check=True)
        for place in options.places:
            with served(place) as url:
                measured = in_turn(url, Path(folder), options.processes, options.turns)
            print(place, *compared(measured), sep="\n  ", flush=True)


@contextmanager
def served(place: str) -> Iterator[str]:
    """A database of its own with what a call needs; its URL."""
    with ExitStack() as stack:
        if place == "sqlite":
            _, one = sqlite(stack, "NORMAL")
        else:
            running = stack.enter_context(PLACES[place].start())
            running.create_database("bench")
            one = engine(sa.make_url(running.url("bench")))
        prepare(one, 50_000)
        one.dispose()
        yield one.url.render_as_string(hide_password=False)


def in_turn(url: str, before: Path, each: int, turns: int) -> list[Process]:
    """Have so many processes of each state work in turns; `before` is the folder of the library of then."""
    with ExitStack() as stack:
        processes: list[Process] = []
        for number in range(each):
            for is_now in (False, True) if number % 2 else (True, False):
                folder = PROJECT if is_now else before
                command = [sys.executable, "-m", "tests.benchmarks.lockstep", url, str(folder)]
                running = subprocess.Popen(
                    [*command, str(len(processes) * ORDERS)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    cwd=folder,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join((str(folder), str(PROJECT)))},
                )
                stack.enter_context(running)
                stack.callback(running.kill)
                processes.append(Process(is_now, running))
                processes[-1].await_ready()
        for _ in range(turns):
            for process in random.sample(processes, len(processes)):
                process.turn()
    return processes


def compared(processes: Sequence[Process]) -> Iterator[str]:
    """Say for both how long a call took."""
    for what, unit in (("walls", "microseconds a call"), ("cpus", "of the caller's processor")):
        then, now = (
            [statistics.median(getattr(one, what)) for one in processes if one.is_now is is_now]
            for is_now in (False, True)
        )
        pairs = sorted(one / other for one in then for other in now)
        ratio = statistics.mean(then) / statistics.mean(now)
        yield (
            f"{unit}: {statistics.mean(then):.0f} then, {statistics.mean(now):.0f} now, "
            f"{ratio:.2f} times as fast ({pairs[0]:.2f}-{pairs[-1]:.2f})"
        )


if __name__ == "__main__":
    main()
