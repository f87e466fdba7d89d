"""What a process that calls for long holds in memory: first executions, replays and refusals, and what they leave behind.

    python -m tests.benchmarks.memory --calls 1000000 sqlite

A tenth of the calls is replayed, a hundredth comes with another payload and is refused. The rows stay in the database.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import FingerprintMismatchError, IdemTable
from tests.benchmarks.databases import PACKAGES
from tests.benchmarks.goals import Judge
from tests.benchmarks.harness import Size
from tests.benchmarks.machine import Watch, versions
from tests.benchmarks.places import PLACES, engine, version
from tests.benchmarks.results import FOLDER, Part, Row, Table
from tests.benchmarks.work import business, new_run, prepare

CALLS: Final = 1_000_000
GOAL: Final = 1.02
"""How many times what it held before them a process may hold: the allocator's own arenas come and go by less."""
LOOKS: Final = 20
"""At the memory, in equal distances."""


def resident() -> float:
    """What the process holds, in MiB, after the collector has been through."""
    gc.collect()
    fields = Path("/proc/self/status").read_text(encoding="ascii").split("VmRSS:")
    return int(fields[1].split()[0]) / 1024


def looks(one: sa.Engine, calls: int) -> Iterator[float]:
    """Call, and tell what is held now and then; the first tenth is for caches to fill."""
    run = new_run()

    @IdemTable(one).transactional("memory", key="key")
    def order(session: Session, key: str, number: int) -> dict[str, int]:
        return business(session, number)

    for number in range(1, calls + calls // 10 + 1):
        key = f"{run}-{number}"
        order(key, number)
        if number % 10 == 0:
            order(key, number)
        if number % 100 == 0:
            try:
                order(key, -number)
            except FingerprintMismatchError:
                pass
            else:
                raise AssertionError(f"{key} was answered with another payload")
        if number >= calls // 10 and number % (calls // LOOKS) == 0:
            yield resident()


@contextmanager
def served(place: str) -> Iterator[sa.Engine]:
    """An engine on a database of its own with what a call needs."""
    with ExitStack() as stack:
        if place == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="idemtable-bench-"))
            one = sa.create_engine(f"sqlite:///{folder}/memory.db")
            sa.event.listen(one, "connect", lambda driver, record: driver.execute("PRAGMA synchronous=OFF"))
        else:
            running = stack.enter_context(PLACES[place].start())
            running.create_database("bench")
            one = engine(sa.make_url(running.url("bench")))
        stack.callback(one.dispose)
        prepare(one, 0)
        yield one


TEXT: Final = """A process calls a function with the business above on SQLite, where it is its own server, and is looked at
now and then. A tenth of the calls is replayed, a hundredth comes with another payload and is refused. What it held before
is looked at after as many calls as a tenth of these."""


def part(size: Size) -> Part:
    """Measure, and judge."""
    watch, calls = Watch("make bench"), LOOKS * 100 if size.quick else CALLS
    # In a process of its own: what the parts before it have left free here would be room for a leak to hide in.
    command = [sys.executable, "-m", "tests.benchmarks.memory", "sqlite", "--calls", str(calls), "--json"]
    done = subprocess.run(command, cwd=FOLDER.parent, check=True, stdout=subprocess.PIPE)
    held = msgspec.json.decode(done.stdout, type=list[float])
    with served("sqlite") as one:
        found = {"SQLite": version(one)} | versions(PACKAGES)
    figures = {"warm": held[0], "after": held[-1], "most": max(held)}
    titles = {
        "warm": f"after {calls // 10:,} calls",
        "after": f"after {calls:,} more",
        "most": "at most, of all looks after the first",
    }
    table = Table(
        "memory", "what a process holds", [Row(name, titles[name], {"MiB": figures[name]}) for name in titles]
    )
    judge = Judge([table])
    what = f"what a process holds after {calls:,} more calls, beside {calls // 10:,}"
    judge.most(what, GOAL, held[-1] / held[0], unit="×", digits=2)
    return Part("Memory", watch.stamp(found, quick=size.quick), [table], judge.goals, TEXT)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=str(__doc__).splitlines()[0])
    parser.add_argument(
        "places", nargs="*", default=["sqlite"], metavar="PLACE", help=f"of sqlite, {', '.join(PLACES)}"
    )
    parser.add_argument("--calls", type=int, default=CALLS)
    parser.add_argument("--json", action="store_true", help="print all that was found at one place, in MiB")
    options = parser.parse_args()
    if unknown := set(options.places) - {*PLACES, "sqlite"}:
        parser.error(f"no place {', '.join(sorted(unknown))}")
    if options.calls < LOOKS:
        parser.error(f"--calls must be {LOOKS} or more")
    for place in options.places:
        with served(place) as one:
            held = list(looks(one, options.calls))
        if options.json:
            print(msgspec.json.encode(held).decode())
            continue
        warm = f"{held[0]:.1f} MiB after {options.calls // 10:,} calls"
        print(f"{place}: {warm}, {held[-1]:.1f} after {options.calls:,} more, at most {max(held):.1f}", flush=True)


if __name__ == "__main__":
    main()
