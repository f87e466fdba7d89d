"""E14 at length, for the terminal."""

from __future__ import annotations

import time

from tests.reliability.http import experiment
from tests.support.backends import db_of


def report(seed: int, *, quick: bool) -> None:
    """Run it under both kinds of web server; what must hold is asserted there."""
    keys, kills = (100, 2) if quick else (2_000, 30)
    print(f"E14, seed {seed}: {keys} keys, sent until each was answered three times")
    for kind in ("uvicorn", "gunicorn"):
        begun = time.monotonic()
        found = experiment(db_of("postgresql18"), kind, keys=keys, kills=kills, seed=seed)
        print(
            f"{kind}: {time.monotonic() - begun:.0f} s, {found.hang_ups} hang-ups, {found.kills} workers killed, "
            f"{found.lost} connections lost, answers {dict(sorted(found.statuses.items()))}: "
            f"one effect for each key, the same bytes each time"
        )
