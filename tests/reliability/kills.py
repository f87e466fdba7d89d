"""E5, E6, E7: servers and callers are killed while processes call, and what was acknowledged is there afterwards."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from idemtable.claim.steps import Step
from tests.reliability import worker
from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.trial import Trial
from tests.reliability.wire import answer_of
from tests.reliability.worker import KILL, WAIT
from tests.support.crowd import until
from tests.support.database import Database, effect
from tests.support.forked import Forked

SERVER_KILLS = "times the server was killed"
CLIENT_KILLS = "callers killed inside a call"
AGAIN = "calls that the kill interrupted"
FLIGHT = "of them with COMMIT on its way"
STEP_KILLS = "callers killed at a step"


class Workers:
    """Processes that call, each with a log.

    The first `spared` ones live until all are over. If there is a `port`, every second one goes there instead.
    """

    def __init__(
        self, trial: Trial, db: Database, folder: Path, *, keys: int, spared: int = 0, port: int | None = None
    ) -> None:
        self._trial, self._db, self.folder, self._keys = trial, db, folder, keys
        self._spared, self._port = spared, port
        self._count = 0
        self.running: list[tuple[Forked, Path]] = []
        (folder / "go").touch()

    def start(self) -> None:
        self._count += 1
        there = self._port if self._port is not None and self._count % 2 else self._db.url.port
        url = self._db.url.set(port=there).render_as_string(hide_password=False)
        seed = self._trial.chance.randrange(10**9)
        process = Forked(worker.run, url, self._db.backend, str(self.latest), seed, self._keys, self._trial.mutant_name)
        self.running.append((process, self.latest))

    @property
    def latest(self) -> Path:
        return self.folder / f"{self._count:05}.log"

    @property
    def spared(self) -> list[Forked]:
        return [process for process, _ in self.running[: self._spared]]

    def is_calling(self, process: Forked) -> bool:
        """Whether it is inside a call, by its log."""
        return any("asked" in _last(log) for one, log in self.running if one is process)

    def kill_one(self, seconds: float) -> bool:
        """Kill the oldest so long after now, or after its first answer; whether it was inside a call."""
        process, log = self.running[self._spared]
        worker.wait_for(log, worker.ONE_CALL, 60)  # whoever has not connected yet loses nothing
        time.sleep(seconds)
        process.close()
        del self.running[self._spared]
        return "asked" in _last(log)

    def stop(self) -> None:
        """Let each make the call that it is in, and no other one."""
        (self.folder / "go").unlink(missing_ok=True)
        while self.running:
            process, _ = self.running[0]
            assert process.wait(90) == 0, process.stderr.read()
            process.close()
            del self.running[0]


def _last(log: Path) -> dict[str, Any]:
    """What stands at the end of a log, which may be a long one."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4_096))
        return json.loads(file.read().splitlines()[-1])  # type: ignore[no-any-return]


@contextmanager
def workers(trial: Trial, db: Database, count: int, *, keys: int, **settings: Any) -> Iterator[Workers]:
    """So many of them; at the end all are over."""
    with tempfile.TemporaryDirectory() as folder:
        group = Workers(trial, db, Path(folder), keys=keys, **settings)
        try:
            for _ in range(count):
                group.start()
            yield group
        finally:
            for process, _ in group.running:
                process.close()


def judge(trial: Trial, db: Database, group: Workers, lost: str = "I2") -> dict[str, int]:
    """Hold what workers were told against the database, after every key was asked for once more."""
    tolds, asked, seen = worker.read(group.folder)
    idem = db.table()

    @idem.transactional("worker", key="key", wait=WAIT)
    def order(session: object, key: str) -> int:
        return effect(session, key)  # type: ignore[arg-type]

    known = {one.key for one in tolds if not one.error}
    unknown = sorted(asked - known)
    tolds += [told(key, answer_of(order.outcome, key)) for key in unknown[:2_000]]
    tolds += [told(key, answer_of(order.outcome, key)) for key in sorted(known)[:200]]
    trial.tried = len(tolds)
    trial.figures["acknowledged"] = sum(not one.error for one in tolds)
    trial.figures["keys of which nobody knew, asked for again"] = len(unknown)
    check(trial, tolds, db, lost=lost)
    check_at_rest(trial, db)
    return seen


def kill_servers(trial: Trial) -> None:
    """Kill the server again and again under eight callers."""
    quick_or_whole = trial.size(2, 20) if trial.mutant is None else trial.size(2, 8)
    trial.needs(SERVER_KILLS, 2, 20)
    trial.needs(AGAIN, 4, 60)
    trial.needs(FLIGHT, 0, 5)
    extra: tuple[str, ...] = ()
    if trial.mutant_name == "DURABILITY_OFF":
        lazy = {
            "postgresql": ("synchronous_commit=off", "wal_writer_delay=10s", "wal_writer_flush_after=1GB"),
            "mariadb": ("innodb_flush_log_at_trx_commit=0", "innodb_flush_log_at_timeout=60"),
            "mysql": ("innodb_flush_log_at_trx_commit=0", "innodb_flush_log_at_timeout=60"),
        }
        extra = lazy[trial.place.kind]
    with trial.place.own(*extra) as (server, db):
        if extra and db.kind == "postgresql":
            db.execute("CHECKPOINT")  # else the tables themselves were forgotten
        with workers(trial, db, trial.size(4, 8), keys=20_000) as group:
            worker.wait_for(group.latest, 1_000)
            for _ in range(quick_or_whole):
                time.sleep(trial.chance.uniform(0.3, 1.2))
                server.kill()
                trial.hits[SERVER_KILLS] += 1
                server.start()
            time.sleep(0.5)
            group.stop()
            db.engine.dispose()
            db.admin.dispose()
            seen = judge(trial, db, group, lost="I4")
        trial.hits[AGAIN] += seen["again"]
        trial.hits[FLIGHT] += seen["flight"]


def kill_clients(trial: Trial) -> None:
    """Kill callers at random moments, and at each step that they tell of."""
    kills = trial.size(6, 200) if trial.mutant is None else trial.size(12, 100)
    trial.needs(CLIENT_KILLS, 3, 150)
    trial.needs(STEP_KILLS, 0 if trial.place.path == "fused" else 4, 0 if trial.place.path == "fused" else 6)
    db = trial.db
    with workers(trial, db, trial.size(3, 6), keys=5_000) as group:
        worker.wait_for(group.latest, 200)
        for _ in range(kills):
            trial.hits[CLIENT_KILLS] += group.kill_one(trial.chance.uniform(0.02, 0.08))
            group.start()
        worker.wait_for(group.latest, 200)
        group.stop()
        judge(trial, db, group)
    if trial.place.path == "plain" and trial.mutant is None:
        # Whoever is listened to goes statement by statement: the fused path has no moments in between.
        _killed_at_steps(trial)


def _killed_at_steps(trial: Trial) -> None:
    db, tolds = trial.db, []
    url = db.url.render_as_string(hide_password=False)
    for step in (Step.ENTERED, Step.CLAIMED, Step.RUNNING, Step.RAN, Step.STORED, Step.COMMITTED):
        key = f"step-{step}"
        with closing(Forked(worker.stop_at, url, db.backend, key, str(step), KILL)) as victim:
            trial.hits[STEP_KILLS] += victim.wait() == -KILL
        with closing(Forked(worker.stop_at, url, db.backend, key, "", KILL)) as heir:
            said = json.loads(heir.stdout.readline() or "{}")
        trial.tried += 2
        if "error" in said:
            trial.broken("I6", f"killed at {step}: {said['error']}")
            continue
        tolds.append(Told(key, said.get("value"), said.get("replayed", False)))
        replayed = step is Step.COMMITTED
        trial.holds("I8", said.get("replayed") is replayed, f"killed at {step}, the next one was told {said}")
    check(trial, tolds)
    until(lambda: not db.waiting(), "somebody waits for the dead")
