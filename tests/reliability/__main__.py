"""`make reliability`: the experiments that take minutes."""

from __future__ import annotations

import argparse
import random
import time

from tests.reliability.http import experiment
from tests.support.backends import close_all, db_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--keys", type=int, default=2_000)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"seed {options.seed}: {options.keys} keys, sent until each was answered three times")
    try:
        for kind in ("uvicorn", "gunicorn"):
            begun = time.monotonic()
            report = experiment(db_of("postgresql18"), kind, keys=options.keys, kills=options.kills, seed=options.seed)
            print(
                f"{kind}: {time.monotonic() - begun:.0f} s, {report.hang_ups} hang-ups, {report.kills} workers killed, "
                f"{report.lost} connections lost, answers {dict(sorted(report.statuses.items()))}: "
                f"one effect for each key, the same bytes each time"
            )
    finally:
        close_all()


if __name__ == "__main__":
    main()
