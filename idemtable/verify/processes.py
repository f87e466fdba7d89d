"""A process that is killed in the middle of a call, where a database is a file and no connection can be ended but so."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING, Final

from ..claim.steps import Step
from .herds import More
from .race import Check, Mark, Race
from .stage import Stage, Way
from .victim import told

if TYPE_CHECKING:
    from ..model import Outcome

POINTS: Final = {
    "a process is killed before COMMIT": Step.STORED,
    "a process is killed after COMMIT": Step.COMMITTED,
}

_STARTS: Final = 30.0
"""Seconds that a process may take to start."""


def kills(stage: Stage, more: More) -> Check:
    """Kill a process at each point by turns, while another caller waits for it."""
    check = Check("kills", "a process is killed in the middle of a call, before COMMIT and after it")
    arrived = 0
    while more():
        points = list(POINTS)
        title, way = points[check.times % len(points)], stage.way(check.times // len(points))
        race = _round(stage, title, way)
        check.take(race)
        arrived += race.runs() == 0
    check.seen = f"{check.times:,} were killed, in {arrived:,} COMMIT had arrived; one effect and one reply each time"
    return check


def _round(stage: Stage, title: str, way: Way) -> Race:
    race, key = Race(f"{title}, {way.name}", ["the process, then again", "caller 2"]), stage.key("kill")
    environment = told(stage.ground, stage.callers.connect_args, key, race.effect(), POINTS[title])

    is_there = threading.Event()

    def killed() -> Outcome[str]:
        race.see(0, Mark.CALLS)
        try:
            with stage.callers.process([sys.executable, "-m", "idemtable.verify.victim"], environment) as process:
                assert process.stdout is not None
                if process.stdout.readline().strip() != "there":
                    race.broken.append("the process ended by itself")
                is_there.set()
                stage.callers.wait_for(lambda: race.have_called() == len(race.lanes))
                stage.callers.pause(stage.rng.uniform(0.001, 0.02))
                process.kill()
        finally:
            is_there.set()
        race.see(0, Mark.CUT)
        race.see(0, Mark.CALLS)
        return way.call(key, race, 0)

    def other() -> Outcome[str]:
        is_there.wait(_STARTS)
        race.see(1, Mark.CALLS)
        return way.call(key, race, 1)

    stage.callers.together(race, [killed, other], announced=False)
    race.judge(stage.effects(race), told=min(race.runs(), 1))
    return race
