"""What a first execution costs now, beside what it cost at another commit.

    python -m tests.benchmarks.before 4bdf569 mariadb sqlite
    python -m tests.benchmarks.before 4bdf569 --now 35f8e89 sqlite    # what one change did, whatever came after it

Both libraries work in one process, call by call in random order, under two names. In processes of their own they cannot
be compared: of two with the same code one is up to five percent slower than the other for as long as both live, for it
keeps its place in memory and on the processors. And as even the order of their imports shows, there are several processes
one after the other, and every other one begins with the other library.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from tests.benchmarks.pair import THEN
from tests.benchmarks.places import PLACES, engine, sqlite
from tests.benchmarks.work import prepare

PROJECT: Final = Path(__file__).parents[2]
ORDERS: Final = 100_000
"""Numbers of orders that each process has."""
RECORDS: Final = 50_000

_ITSELF: Final = re.compile(r"\b((?:from|import) |import_module\(f?\")idemtable\b")


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.before", description=__doc__.splitlines()[0])
    parser.add_argument("commit")
    parser.add_argument("places", nargs="*", default=[*PLACES, "sqlite"], metavar="PLACE")
    parser.add_argument("--now", metavar="COMMIT", help="instead of what stands in the folder")
    parser.add_argument("--processes", type=int, default=6, help="one after the other; 6")
    parser.add_argument("--rounds", type=int, default=1500, help="calls of each library in each; 1500")
    options = parser.parse_intermixed_args(arguments)
    if unknown := set(options.places) - {*PLACES, "sqlite"}:
        parser.error(f"no place {', '.join(sorted(unknown))}; there are {', '.join([*PLACES, 'sqlite'])}")
    with tempfile.TemporaryDirectory(prefix="idemtable-before-") as folder:
        names = [THEN, "idemtable"]
        unpack(options.commit, Path(folder), THEN)
        if options.now:
            names[1] = "idemtable_now"
            unpack(options.now, Path(folder), names[1])
        for place in options.places:
            with served(place) as urls:
                found = measured(urls, Path(folder), names, options.processes, options.rounds)
            print(place, *told(found), sep="\n  ", flush=True)


def unpack(commit: str, folder: Path, name: str) -> None:
    """Put the library of a commit into a folder, under a name of its own."""
    command = ["git", "archive", "--format=tar", f"--prefix={name}/", f"{commit}:idemtable"]
    made = subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.PIPE)
    subprocess.run(["tar", "-x", "-C", folder], input=made.stdout, check=True)
    rename(folder / name)


def rename(library: Path) -> None:
    """Have a library that was put under another name import itself by it."""
    for path in library.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        path.write_text(_ITSELF.sub(rf"\1{library.name}", text), encoding="utf-8")


@contextmanager
def served(place: str) -> Iterator[tuple[str, str]]:
    """A database of its own with what a call needs; where the library of then works in it, and that of now.

    One URL, but for SQLite: in one file each commit of the one would empty the other's cache of pages.
    """
    with ExitStack() as stack:
        if place == "sqlite":
            engines = list(sqlite(stack, "NORMAL"))
        else:
            running = stack.enter_context(PLACES[place].start())
            running.create_database("bench")
            engines = [engine(sa.make_url(running.url("bench")))]
        for one in engines:
            prepare(one, RECORDS)
            one.dispose()
        urls = [one.url.render_as_string(hide_password=False) for one in engines]
        yield urls[0], urls[-1]


def measured(
    urls: tuple[str, str], folder: Path, names: Sequence[str], processes: int, rounds: int
) -> list[dict[str, float]]:
    """Return what `pair.compared` finds in several processes; `folder` holds libraries under other names."""
    found = []
    for number in range(processes):
        order = names if number % 2 else reversed(names)
        run = f"import {', '.join(order)}; from tests.benchmarks.pair import main; main({tuple(names)!r})"
        said = subprocess.run(
            [sys.executable, "-c", run, *urls, str(number * ORDERS), str(rounds)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join((str(PROJECT), str(folder)))},
            check=True,
            stdout=subprocess.PIPE,
        )
        found.append(json.loads(said.stdout))
    return found


def told(found: Sequence[dict[str, float]]) -> Iterator[str]:
    """Say for both how long a call took."""
    for what, unit in (("median", "microseconds a call"), ("cpu", "of the caller's processor")):
        then, now = (statistics.median(one[name] for one in found) for name in (f"{what}_then", what))
        ratios = sorted(one[f"{what}_then"] / one[what] for one in found)
        yield (
            f"{unit}: {then:.0f} then, {now:.0f} now, {statistics.median(ratios):.3f} times as fast "
            f"({ratios[0]:.2f}-{ratios[-1]:.2f} over the processes)"
        )


if __name__ == "__main__":
    main()
