"""E4: a call is interrupted at each line of the library that it comes to, and at each step that it tells of."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import linecache
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

import idemtable
from idemtable import IdempotencyError, Status
from idemtable.claim import nesting, steps
from idemtable.claim.steps import Moment, Step
from tests.reliability.checker import check_at_rest
from tests.reliability.trial import Trial
from tests.reliability.wire import answer_of
from tests.support.crowd import WAIT
from tests.support.database import Effect, effect

LINES = "lines at which a call was interrupted"
STEPS = "steps at which a call was interrupted"
_ROOT = str(Path(idemtable.__file__).parent)
# An interruption that comes between `with` and what it enters, or has just left, is told to nobody: so it is with every
# `with` of Python's. A block that somebody is to be sure of is a function.
_SPARED = str(Path(_ROOT) / "blocks.py")


class Glitch(Exception):
    """What is raised there."""


class Declined(Exception):
    """What the function raises."""


INTERRUPTIONS: tuple[type[BaseException], ...] = (Glitch, KeyboardInterrupt, asyncio.CancelledError, GeneratorExit)


class Tracer:
    """Raises at the `number`-th line of the library that is executed in this thread."""

    def __init__(self, number: int, error: type[BaseException]) -> None:
        self._left, self._error = number, error
        self.hit = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        where = frame.f_code.co_filename
        return self._line if where.startswith(_ROOT) and where != _SPARED else None

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        # `try:` is no place of its own: nothing is done there, and it does not protect itself.
        if event == "line" and linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip() != "try:":
            self._left -= 1
            if self._left == 0:
                self.hit = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise self._error
        return self._line

    def during(self, call: Callable[[], Any]) -> BaseException | None:
        before = sys.gettrace()
        sys.settrace(self)
        try:
            call()
        except BaseException as error:
            return error
        finally:
            sys.settrace(before)
        return None


class Crashes:
    """The calls that are interrupted."""

    def __init__(self, trial: Trial, engine: Any) -> None:
        self.trial, self.db, self.engine = trial, trial.db, engine
        self.idem = trial.db.table(engine)
        self.tokens = self.idem.tokens(f"crash-{id(self)}", ttl=timedelta(hours=1))

        @self.idem.transactional("crash", key="key", payload=None, wait=WAIT)
        def order(session: Any, key: str, fails: bool = False) -> str:
            effect(session, key)
            if fails:
                raise Declined
            return key

        self.order = order

        @self.tokens.transactional(token="token", payload=None)
        def redeem(session: Any, token: str, name: str) -> str:
            effect(session, name)
            return name

        self.redeem = redeem

    # Each makes its call ready, and returns it with what is to be done afterwards to have an answer.

    def first(self, key: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return lambda: self.order(key), lambda: self.order(key)

    def replay(self, key: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        self.order(key)
        return self.first(key)

    def declined(self, key: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        return lambda: self.order(key, fails=True), lambda: self.order(key, fails=False)

    def rollback(self, key: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        # Without a payload the call that succeeds may be another one.
        failing = self.idem.transaction

        def fails() -> None:
            with failing("crash", key, wait=WAIT) as block:
                effect(block.session, key)
                raise Declined

        def succeeds() -> str:
            with failing("crash", key, wait=WAIT) as block:
                if not block.replayed:
                    effect(block.session, key)
                    block.result = key
            return key

        return fails, succeeds

    def token(self, key: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        token = self.tokens.issue()
        return lambda: self.redeem(token, key), lambda: self.redeem(token, key)

    def join(self, key: str) -> tuple[Callable[[], Any], Callable[[], Any]]:
        """A caller that handles what its call raises, and commits the rest of its work."""

        def joins() -> None:
            with self.db.session(self.engine) as mine:
                with suppress(*INTERRUPTIONS):
                    self.order.join(mine.session, key)
                with suppress(SQLAlchemyError):  # it may have been told to roll back
                    mine.commit()

        return joins, lambda: self.order(key)

    def broken_at(self, key: str, where: str, after: Callable[[], Any]) -> None:
        """Look at what an interrupted call has left, and make it again."""
        trial, db = self.trial, self.db
        gc.collect(0)
        out = self.engine.pool.checkedout()
        trial.holds("I6", out == 0, f"interrupted at {where}: {out} connections are out of the pool")
        trial.holds("I6", next(nesting.around(), None) is None, f"interrupted at {where}: the call is left open")
        if out:
            self.engine.dispose()
        left, rows, stuck = self.left(key)
        trial.holds("I6", not stuck, f"interrupted at {where}: the row stays in progress")
        if "token" not in key:
            trial.holds("I2", left == rows, f"interrupted at {where}: {left} effects, {rows} rows")
        again = answer_of(after)
        what = f"interrupted at {where}, and called again: {again!r}"[:200]
        trial.holds("I5", not isinstance(again, Exception), what)
        trial.holds("I1", db.effects(key) == [key], f"interrupted at {where}: effects {db.effects(key)}")

    def left(self, key: str) -> tuple[int, int, int]:
        """Count effects, rows and rows in progress at one moment: a COMMIT that nobody awaits may just be happening."""
        keys = idemtable.metadata.tables["idemtable"].c
        counts = (
            sa.select(sa.func.count()).select_from(Effect).where(Effect.name == key),
            sa.select(sa.func.count()).where(keys.key == key),
            sa.select(sa.func.count()).where(keys.key == key, keys.status == Status.IN_PROGRESS.code),
        )
        with self.db.admin.connect() as connection:
            return tuple(connection.execute(sa.select(*(one.scalar_subquery() for one in counts))).one())

    def everywhere(self, path: str, error: type[BaseException], every: int) -> None:
        number = self.trial.chance.randrange(every) + 1
        # In a context of its own each: a call that one line has left open would stand round all that come after it.
        while not self.is_caught and contextvars.copy_context().run(self.once, path, error, number):
            number += every

    @property
    def is_caught(self) -> bool:
        """Whether a mutant has shown itself, which need not be seen at each line."""
        return self.trial.mutant is not None and bool(self.trial.wrong)

    def once(self, path: str, error: type[BaseException], number: int) -> bool:
        key = f"{path}-{error.__name__}-{number}"
        call, after = getattr(self, path)(key)
        tracer = Tracer(number, error)
        tracer.during(call)
        self.trial.tried += 1
        if tracer.hit:
            self.trial.hits[LINES] += 1
            self.broken_at(key, f"{tracer.hit} of a {path} by {error.__name__}", after)
        return bool(tracer.hit)

    def at_steps(self, path: str, error: type[BaseException]) -> None:
        for step in Step:
            key = f"{path}-{step}-{error.__name__}"
            call, after = getattr(self, path)(key)
            hit: list[Step] = []

            def raising(moment: Moment, step: Step = step, hit: list[Step] = hit) -> None:
                if moment.step is step and not hit:
                    hit.append(step)
                    raise error

            try:
                with steps.listening(raising):
                    call()
            except (error, Declined, IdempotencyError):
                pass
            if hit:
                self.trial.tried += 1
                self.trial.hits[STEPS] += 1
                self.broken_at(key, f"{step} of a {path} by {error.__name__}", after)


@contextmanager
def _unlogged() -> Iterator[None]:
    """Of each interruption while a connection comes back to it the pool gives account, with all the traceback."""
    log = logging.getLogger("sqlalchemy.pool")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def crash_everywhere(trial: Trial) -> None:
    """In the quick size a line in some of them is left out, and another one each time."""
    trial.needs(LINES, 60, 2000)
    trial.needs(STEPS, 4, 60)
    paths = trial.size(("first", "declined", "join"), ("first", "declined", "replay", "rollback", "token", "join"))
    interruptions = trial.size((Glitch, KeyboardInterrupt)[:1], INTERRUPTIONS)
    with warnings.catch_warnings(), _unlogged(), trial.db.other_engine(pool_size=2) as engine:
        warnings.simplefilter("ignore")
        crashes = Crashes(trial, engine)
        for path in ("first", "replay"):
            crashes.first(f"warm-{path}")[0]()
        for error in interruptions:
            for path in paths:
                if not crashes.is_caught:
                    crashes.everywhere(path, error, trial.size(8, 1))
                    crashes.at_steps(path, error)
        check_at_rest(trial, engine=engine)
