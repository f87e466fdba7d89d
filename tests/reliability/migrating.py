"""E12: many migrate one database at the same moment, and some are killed in the middle."""

from __future__ import annotations

import os
import signal
from contextlib import closing, nullcontext
from typing import Any
from uuid import uuid4

import sqlalchemy as sa

from idemtable import upgrade as steps
from tests.reliability.trial import Trial
from tests.support.backends import server
from tests.support.forked import FORKS, Forked
from tests.support.migrations import differences, recorded, tables, upgrade_at_the_barrier

AT_ONCE = "rounds in which eight began at once"
KILLED = "programs killed while they migrated"
_LOOKS = {"SELECT", "SHOW", "DESCRIBE", "SET"}
"""How statements begin that leave nothing behind: most of an upgrade, and whoever is killed there shows little."""


def migrate(url: str, last: int) -> None:
    """Upgrade, and say how many moves that took: statements that change something, and COMMIT. Die before the last one."""
    moves = 0

    def move(*_: object) -> None:
        nonlocal moves
        moves += 1
        if moves == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def execute(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.split()[0] not in _LOOKS:
            move()

    sa.event.listen(sa.Engine, "before_cursor_execute", execute)
    sa.event.listen(sa.Engine, "commit", move)
    steps.upgrade(url)
    print(moves, flush=True)


def at_the_barrier(url: str, barrier: Any, results: Any, mutant: str) -> None:
    """Upgrade when the others do, with a mistake in the library if one is named."""
    from tests.reliability.mutants import MUTANTS

    with MUTANTS[mutant].make() if mutant else nullcontext():
        upgrade_at_the_barrier(url, barrier, results)


def migrations(trial: Trial) -> None:
    trial.needs(AT_ONCE, 2, 20)
    trial.needs(KILLED, 1, 10)
    where = server(trial.place.found.server)
    kills = trial.size(1, 10) if trial.mutant is None else 0
    last = moves = 0
    for number in range(trial.size(2, 20)):
        name = f"m_{uuid4().hex[:12]}"
        where.create_database(name)
        url = where.url(name)
        engine = sa.create_engine(url, pool_size=10)
        try:
            if kills and not moves:
                moves = _moves(url)
                last = trial.chance.randrange(moves)
                where.drop_database(name)
                where.create_database(name)
            if number < kills:
                last = last % moves + 1  # one after the other, so that many kills are at each of them
                _killed(trial, url, last)
            _at_once(trial, url)
            _as_it_should_be(trial, engine)
        finally:
            engine.dispose()
            where.drop_database(name)
        if trial.mutant is not None and trial.wrong:
            return


def _at_once(trial: Trial, url: str) -> None:
    barrier, results = FORKS.Barrier(8), FORKS.Queue()
    processes = [
        FORKS.Process(target=at_the_barrier, args=(url, barrier, results, trial.mutant_name)) for _ in range(8)
    ]
    for process in processes:
        process.start()
    outcomes = [results.get(timeout=90) for _ in processes]
    for process in processes:
        process.join(30)
    trial.tried += 8
    trial.hits[AT_ONCE] += 1
    for outcome in outcomes:
        trial.holds("I11", not isinstance(outcome, str), f"one of eight was told {outcome}"[:300])


def _moves(url: str) -> int:
    """How many moves there are, when nobody is killed."""
    with closing(Forked(migrate, url, 0)) as program:
        assert program.wait() == 0, program.stderr.read()
        return int(program.stdout.readline())


def _killed(trial: Trial, url: str, last: int) -> None:
    """Kill a program before one of its moves; on MySQL and MariaDB what it has done by then stays."""
    with closing(Forked(migrate, url, last)) as victim:
        trial.tried += 1
        trial.hits[KILLED] += victim.wait() == -signal.SIGKILL


def _as_it_should_be(trial: Trial, engine: sa.Engine) -> None:
    trial.holds("I6", tables(engine) == {"idemtable", "idemtable_version"}, f"tables {tables(engine)}")
    there = recorded(engine) if "idemtable_version" in tables(engine) else []
    trial.holds("I3", len(there) == 1, f"the version's rows: {there}")
    trial.holds("I3", not (found := differences(engine)), f"the tables differ from the models: {found}")
    trial.holds("I6", not (found := steps.check(engine)), f"the schema check finds {found}")
