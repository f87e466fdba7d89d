"""`make soak`: load for hours; callers and servers killed, lines cut, callers stopped, purges; all checked round by round.

What is promised ends it with exit code 1: what callers were told, what is deleted, and that neither connections nor the
memory of callers grow. The other counts are figures, to be compared from round to round.

The migration runs up beside the callers, and finds nothing to do. It does not run down: there is one step, and that drops
the table with every key in it, so that whoever asks again has its effect twice. No library could promise otherwise.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

import sqlalchemy as sa

import idemtable
from idemtable import Status
from tests.reliability.expired import put_expired
from tests.reliability.faults import Faults
from tests.reliability.gauges import Memory, all_gone, connections, sizes
from tests.reliability.kills import judge, workers
from tests.reliability.mutants import MUTANTS
from tests.reliability.places import ENGINES, PATHS, Place
from tests.reliability.trial import Trial
from tests.reliability.worker import FAILOVER
from tests.servers import Server
from tests.support.backends import close_all
from tests.support.database import Database
from tests.support.proxy import Proxy

ROUND = 600.0
"""Seconds of load between two looks at all that was said, unless told otherwise."""
KILLED, SPARED = 6, 2
"""Callers of each kind. Of both every second one has a line that is cut."""
EXPIRED = 200
"""Rows that are there for each purge."""
PURGED = "rows purged"


def main() -> int:
    """Do what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--engine", choices=list(ENGINES), default="postgresql18")
    parser.add_argument("--path", choices=PATHS, default="fused")
    parser.add_argument("--round", type=float, default=ROUND, help="seconds; in longer ones memory shows better")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument(
        "--mutant", choices=list(MUTANTS), help="with a mistake in the callers' library, to see it found"
    )
    options = parser.parse_args()
    place, until = Place(options.engine, options.path), time.monotonic() + 3600 * options.hours
    print(f"{place.title}, seed {options.seed}, {options.hours} hours", flush=True)
    wrong: list[str] = []
    number = 0
    try:
        with place.own() as (server, db):
            while time.monotonic() < until and not wrong:
                trial = Trial(place, options.seed + number, whole=True, mutant=MUTANTS.get(options.mutant))
                _round(trial, server, db, min(options.round, max(1.0, until - time.monotonic())))
                number += 1
                counts = ", ".join(f"{what} {count:,}" for what, count in {**trial.hits, **trial.figures}.items())
                print(f"round {number}: {counts}; {len(trial.wrong)} wrong", flush=True)
                wrong += trial.wrong
    finally:
        close_all()
    print("\n".join(wrong[:20]) or "nothing wrong", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


def _round(trial: Trial, server: Server, db: Database, seconds: float) -> None:
    """Let things befall the callers, and purge what has expired; then judge."""
    db.sweep()
    end = time.monotonic() + seconds
    most = 0
    with (
        Proxy(server.port) as proxy,
        workers(trial, db, SPARED + KILLED, keys=50_000, spared=SPARED, port=proxy.port) as group,
    ):
        faults = Faults(trial, server, db, proxy, group)
        memory = Memory([process.pid for process in group.spared])
        while time.monotonic() < end:
            faults.step()
            memory.look()
            most = max(most, connections(db))
            _purge(trial, db)
        faults.end()
        group.stop()
        memory.told(trial)
        judge(trial, db, group, lost="I4")
    left = db.execute("SELECT count(*) FROM idemtable WHERE expires_at < '2021-01-01'")[0][0]
    trial.holds("I9", left == 0, f"{left} rows that have expired are there")
    trial.figures["connections at most"] = most
    all_gone(trial, db)
    trial.figures |= sizes(db)


def _purge(trial: Trial, db: Database) -> None:
    """Have some rows that have expired, and delete them."""
    rows = idemtable.metadata.tables["idemtable"]
    with db.admin.begin() as connection:
        finished = sa.select(rows).where(rows.c.scope == "worker", rows.c.status == Status.COMPLETED.code).limit(1)
        template = connection.execute(finished).mappings().first()
        if template is not None:
            put_expired(connection, template, range(EXPIRED), trial.chance)
    trial.hits[PURGED] += db.table(failover=FAILOVER).purge().deleted


if __name__ == "__main__":
    sys.exit(main())
