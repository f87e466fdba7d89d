"""`make soak`: load for hours, with callers and servers killed, purges running, and everything checked round by round."""

from __future__ import annotations

import argparse
import random
import sys
import time

from tests.reliability.kills import CLIENT_KILLS, SERVER_KILLS, judge, workers
from tests.reliability.places import ENGINES, PATHS, Place
from tests.reliability.trial import Trial
from tests.reliability.worker import FAILOVER
from tests.servers import Server
from tests.support.backends import close_all
from tests.support.database import Database

ROUND = 600.0
"""Seconds of load between two looks at all that was said."""


def main() -> int:
    """Do what the command line says; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.soak", description=__doc__)
    parser.add_argument("--hours", type=float, default=8.0)
    parser.add_argument("--engine", choices=list(ENGINES), default="postgresql18")
    parser.add_argument("--path", choices=PATHS, default="fused")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    place, until = Place(options.engine, options.path), time.monotonic() + 3600 * options.hours
    print(f"{place.title}, seed {options.seed}, {options.hours} hours", flush=True)
    wrong: list[str] = []
    number = 0
    try:
        with place.own() as (server, db):
            while time.monotonic() < until and not wrong:
                trial = Trial(place, options.seed + number, whole=True)
                _round(trial, server, db, min(ROUND, max(1.0, until - time.monotonic())))
                number += 1
                kills = ", ".join(f"{what} {count}" for what, count in {**trial.hits, **trial.figures}.items())
                print(f"round {number}: {kills}; {len(trial.wrong)} wrong", flush=True)
                wrong += trial.wrong
    finally:
        close_all()
    print("\n".join(wrong[:20]) or "nothing wrong", file=sys.stderr if wrong else sys.stdout)
    return 1 if wrong else 0


def _round(trial: Trial, server: Server, db: Database, seconds: float) -> None:
    """Kill callers all the time and the server now and then; then judge, and purge what has expired."""
    db.sweep()
    end = time.monotonic() + seconds
    with workers(trial, db, 6, keys=50_000) as group:
        while time.monotonic() < end:
            trial.hits[CLIENT_KILLS] += group.kill_one(trial.chance.uniform(0.5, 1.5))
            group.start()
            if trial.chance.random() < 0.2:
                server.kill()
                server.start()
                trial.hits[SERVER_KILLS] += 1
                db.engine.dispose()
                db.admin.dispose()
            trial.hits["rows purged"] += db.table(failover=FAILOVER).purge().deleted
        group.stop()
        judge(trial, db, group, lost="I4")
    if db.kind == "postgresql":
        trial.figures["connections"] = int(db.execute("SELECT count(*) FROM pg_stat_activity")[0][0])
    else:
        trial.figures["connections"] = int(db.execute("SHOW GLOBAL STATUS LIKE 'Threads_connected'")[0][1])


if __name__ == "__main__":
    sys.exit(main())
