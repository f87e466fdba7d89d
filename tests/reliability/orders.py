"""E2: two callers of one key, each step by step, in every order in which their steps can come."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa

from idemtable.claim import steps
from idemtable.claim.steps import Moment, Step
from tests.reliability.checker import Told, check, check_at_rest, told
from tests.reliability.trial import Trial
from tests.support import PATIENCE
from tests.support.crowd import WAIT
from tests.support.database import Database, effect

LEVELS = ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE")
WAITED = "orders in which one was seen waiting"


class Declined(Exception):
    """What the first caller's function raises in every other run: everything is rolled back."""


def orders(actors: int, moves: int) -> Iterator[tuple[int, ...]]:
    """Every order of so many moves of each of so many actors."""

    def rest(left: tuple[int, ...], so_far: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        if not any(left):
            yield so_far
        for actor, count in enumerate(left):
            if count:
                yield from rest((*left[:actor], count - 1, *left[actor + 1 :]), (*so_far, actor))

    return rest((moves,) * actors, ())


class Look:
    """How many wait for a lock, on a connection kept for nothing else: thousands of looks."""

    def __init__(self, db: Database) -> None:
        self._connection = db.admin.connect().execution_options(isolation_level="AUTOCOMMIT")
        pg = db.kind == "postgresql"
        self._sql = sa.text(
            "SELECT count(*) FROM pg_locks WHERE NOT granted"
            if pg
            else "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"
        )

    def waiting(self) -> int:
        return int(self._connection.execute(self._sql).one()[-1])

    def close(self) -> None:
        self._connection.close()


class Stage:
    """The callers of one order: each stops before each of its moves, until it is told to make it."""

    def __init__(self, actors: int, look: Look) -> None:
        self._changed = threading.Condition()
        self._may = [0] * actors
        self._parked = [False] * actors
        self._over = [False] * actors
        self._free = False
        self._look = look
        self.waited = False

    def pause(self, actor: int) -> None:
        """Be stopped, in the thread of an actor."""
        with self._changed:
            self._parked[actor] = True
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self._free or self._may[actor], 2 * PATIENCE)
            self._may[actor] -= 1
            self._parked[actor] = False

    def leave(self, actor: int) -> None:
        with self._changed:
            self._over[actor] = True
            self._changed.notify_all()

    def move(self, actor: int) -> None:
        """Let an actor make its next move, and come back when everybody stands still or waits for another one."""
        with self._changed:
            if self._parked[actor]:
                self._may[actor] = 1
                self._parked[actor] = False
                self._changed.notify_all()
        self.settle()

    def settle(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._moving(), 0.004)
                moving = self._moving()
            if not moving:
                return
            if self._look.waiting() >= moving:
                self.waited = True
                return
            assert time.monotonic() < deadline, "nobody waits, and nobody gets on"

    def _moving(self) -> int:
        return sum(not parked and not over for parked, over in zip(self._parked, self._over, strict=True))

    def free(self) -> None:
        with self._changed:
            self._free = True
            self._changed.notify_all()


class Play:
    """All orders of some callers, one key for each order."""

    def __init__(self, trial: Trial, level: str, actors: int, moves: int) -> None:
        self.trial, self.actors, self.moves = trial, actors, moves
        self.is_fused = trial.place.path == "fused"
        self._here = threading.local()
        self.stage: Stage

        @trial.db.table().transactional("orders", key="key", wait=WAIT, isolation_level=level, share_scope=True)
        def order(session: Any, key: str, declines: bool = False) -> dict[str, Any]:
            return self._work(session, key)

        self.order = order

    def _pause(self) -> None:
        if not self._here.free:
            self.stage.pause(self._here.actor)

    def _listen(self, moment: Moment) -> None:
        # Whoever listens keeps COMMIT from travelling with the result: there the function's own moves must do.
        if moment.step is Step.STORED:
            self._pause()

    def _work(self, session: Any, key: str) -> dict[str, Any]:
        self._pause()
        made = effect(session, key)
        if self.moves > 3:
            self._pause()
            session.execute(sa.text("UPDATE effect SET amount = amount + 1 WHERE id = :id"), {"id": made})
        self._pause()
        if self._here.declines:
            raise Declined
        return {"id": made}

    def _act(self, actor: int, key: str, declines: bool, answers: list[Any]) -> None:
        self._here.actor, self._here.declines, self._here.free = actor, declines, False
        try:
            self.stage.pause(actor)
            answers[actor] = self.order.outcome(key)
        except BaseException as error:
            answers[actor] = error
        finally:
            self.stage.leave(actor)

    def run(self, order: Sequence[int], key: str, declines: bool, look: Look) -> list[Told]:
        self.stage = stage = Stage(self.actors, look)
        answers: list[Any] = [None] * self.actors
        threads = [
            threading.Thread(target=self._act, args=(actor, key, declines and actor == 0, answers), daemon=True)
            for actor in range(self.actors)
        ]
        for thread in threads:
            thread.start()
        try:
            stage.settle()
            for actor in order:
                stage.move(actor)
        finally:
            stage.free()
            for thread in threads:
                thread.join(2 * PATIENCE)
                assert not thread.is_alive(), "a caller never came back"
        self.trial.hits[WAITED] += stage.waited
        self._here.declines, self._here.free = False, True
        try:  # whoever asks later, and whoever was declined and asks again
            answers.append(self.order.outcome(key))
        except Exception as error:
            answers.append(error)
        return [told(key, answer) for answer in answers if not (declines and isinstance(answer, Declined))]


def _play(trial: Trial, look: Look, level: str, actors: int, moves: int, *, declining: bool) -> None:
    play = Play(trial, level, actors, moves)
    every = [(order, False) for order in orders(actors, moves)]
    if declining:
        every += [(order, True) for order, _ in every]
    trial.chance.shuffle(every)
    tolds: list[Told] = []
    with steps.listening(play._listen) if not play.is_fused and moves == 5 else nullcontext():
        for number, (order, declines) in enumerate(every):
            key = f"{''.join(map(str, order))}{'-' if declines else '+'}{level[:6]}{number}"
            tolds += play.run(order, key, declines, look)
            trial.tried += 1
    check(trial, tolds)


def interleave(trial: Trial) -> None:
    """In the quick size each makes three moves. Where COMMIT travels with the result there are four, and not five."""
    fused = trial.place.path == "fused"
    moves = trial.size(3, 4 if fused else 5)
    levels = LEVELS if trial.whole and trial.mutant is None else LEVELS[:1]
    count = Counter({3: 40, 4: 140, 5: 504})[moves] * len(levels)
    # Where one is through before the other begins, nobody waits.
    trial.needs(WAITED, int(count * 0.8), int(count * 0.8))
    look = Look(trial.db)
    try:
        for level in levels:
            _play(trial, look, level, 2, moves, declining=True)
            trial.db.sweep()
        if trial.whole and trial.mutant is None and fused:
            _play(trial, look, LEVELS[0], 3, 3, declining=False)
    finally:
        look.close()
    check_at_rest(trial)
