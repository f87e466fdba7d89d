"""The guarantee, checked on somebody's own database: races, interleavings and kills in a table that is dropped again.

`run` does all of it: `ground` is the table, `callers` the threads and connections, `stage` what the checks share, `race`
what is written down. The checks: `first`, `herds`, `interleavings`, `kills` (`processes` where there is no server),
`storm`, `traps`. `page` makes a report of it, with the pictures of `picture`.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
import tenacity

from ..claim.verdict import chain
from ..dialects import named as database_named
from ..errors import SchemaError
from ..tables import check_names
from ..upgrade import make_url, place
from . import first, herds, interleavings, kills, storm, traps
from .callers import Callers
from .ground import Ground
from .herds import More
from .race import Check, named
from .stage import Stage

__all__ = ["TABLE", "Check", "Report", "run"]

TABLE: Final = "idemtable_verify"
_FEWEST: Final = 2
_BESIDES: Final = 2
"""Connections that the table takes: one to look at it, and one more to end others while it does."""
_NOTICED: Final = 5.0
"""Seconds in which a server notices that connections have ended: until then it counts them, and has none to give."""


@dataclass
class Report:
    """What a run has seen.

    Attributes:
        place: the database, without its user and password.
        table: in which it was tried.
        seed: of what was random.
        seconds: that it took.
        checks: what was tried, in order.
        left_behind: what could not be taken away again, if anything.
    """

    place: str
    table: str
    seed: int
    seconds: float = 0.0
    checks: list[Check] = field(default_factory=list)
    left_behind: list[str] = field(default_factory=list)

    @property
    def why(self) -> dict[str, list[str]]:
        """What may be the reason of what was seen, and the cure, each with the names of the checks that saw it."""
        found: dict[str, list[str]] = {}
        for check in self.checks:
            for text in check.why:
                found.setdefault(text, []).append(check.name)
        return found

    @property
    def kept(self) -> bool:
        """Whether nothing speaks against a promise, and nothing was left behind."""
        return all(check.kept for check in self.checks) and not self.left_behind


def run(
    url: sa.URL | str,
    *,
    table: str = TABLE,
    schema: str | None = None,
    seconds: float = 30.0,
    callers: int = 8,
    seed: int | None = None,
    connect_args: Mapping[str, Any] | None = None,
    told: Callable[[Check], object] = lambda check: None,
) -> Report:
    """Try on a database what the library promises, in a table of its own that is dropped again.

    Args:
        url: of the database, with a sync driver.
        table: the name of the table.
        schema: the table's schema.
        seconds: about how long, 1 to 3600.
        callers: how many call at once, 2 to 64, and fewer where no more connections can be had; two more are needed.
        seed: of what is random; drawn if it is ``None``. Which thread comes first is not in its power.
        connect_args: for the driver, as ``create_engine`` takes them.
        told: is called with each check when it is done.

    Returns:
        What was seen. A promise that does not hold is told there and not raised.

    Raises:
        ValueError: an argument that cannot be, an async driver, or a database in memory, which has no second connection.
        SchemaError: there is a table of that name that a run has not made, or in which one is at work; or no file of the
            URL's name, which connecting would make.
        sqlalchemy.exc.DBAPIError: the database cannot be reached, or this role may not make a table.
    """
    check_names(table, schema)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 1 <= seconds <= 3600:
        raise ValueError(f"seconds must be 1 to 3600, not {seconds!r}")
    if isinstance(callers, bool) or not isinstance(callers, int) or not _FEWEST <= callers <= 64:
        raise ValueError(f"callers must be 2 to 64, not {callers!r}")
    if not callable(told):
        raise TypeError(f"told= takes a function of a check, not {told!r}")
    url = make_url(url)
    database = database_named(url.get_backend_name())
    if url.get_dialect().is_async:
        raise ValueError(f"{url.get_driver_name()} is async: use a sync driver, such as {database.drivers[0].name}")
    if database.is_file and url.database in (None, "", ":memory:"):
        raise ValueError("a database in memory has one connection, and nothing can race in it: name a file")
    if (name := database.missing_file(url)) is not None:
        raise SchemaError(f"there is no file {name}, and to connect would make one: name one that is there")
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    arguments = dict(connect_args or {})
    ground = Ground(url, arguments, table, schema)
    report = Report(place(url), ground.name, seed)
    began = time.monotonic()
    try:
        try:
            stayed = ground.make(seconds)
        except sa.exc.DBAPIError as error:
            if ground.cure(error) is None:
                raise
            report.checks.append(check := _ended(ground, "transactions", error))
            told(check)
        else:  # no return above: what was made before the error is dropped as well
            people = Callers(url, arguments, callers)
            try:
                count = _most(ground, people, callers)
                stage = Stage(ground, people, count, random.Random(seed))  # noqa: S311 - it guards no secret
                for check in _checks(stage, stayed, callers, began + seconds):
                    report.checks.append(check)
                    told(check)
            finally:
                if not people.close():
                    report.left_behind.append("connections that did not end when they were cut")
    except BaseException as error:
        if (why := ground.drop()) is not None:
            error.add_note(_stays(ground, why))
        raise
    if (why := ground.drop()) is not None:
        report.left_behind.append(_stays(ground, why))
    report.seconds = time.monotonic() - began
    return report


def _stays(ground: Ground, why: str) -> str:
    return f"the table {ground.name}, which could not be dropped: {why}"


def _most(ground: Ground, people: Callers, wanted: int) -> int:
    """Open the connections that will be used, and say how many callers can be had if not so many."""
    with ExitStack() as opened:
        for _ in range(_BESIDES):
            opened.enter_context(ground.engine.connect())
        for count in range(wanted):
            try:
                opened.enter_context(people.engine.connect())
            except sa.exc.DBAPIError:  # psycopg gives no code to what is refused while it connects
                if count < _FEWEST:
                    raise
                return count
    return wanted


def _open_again(stage: Stage) -> None:
    """Open the callers' connections anew: some that were ended may be in the pool, and a block is not begun again."""
    stage.callers.engine.dispose()
    again = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(sa.exc.DBAPIError)
        | tenacity.retry_if_result(lambda count: count < stage.count),
        stop=tenacity.stop_after_delay(_NOTICED),
        wait=tenacity.wait_fixed(0.1),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),  # or raises what was raised
    )
    again(_most, stage.ground, stage.callers, stage.count)


def _checks(stage: Stage, stayed: str | None, wanted: int, end: float) -> Iterator[Check]:
    yield _made(stage, "transactions", partial(first.transactions, stage, stayed))
    session = _made(stage, "session", partial(first.session, stage))
    if stage.count < wanted:
        session.left_out.append(f"{wanted - stage.count} of {wanted} callers: no more connections can be had")
    yield session
    yield (call := _made(stage, "call", partial(first.call, stage)))
    if not call.kept:
        call.left_out.append("nothing else was tried")
        return
    # What it is, its part of the time, and the rounds that it has however short that is: each kind once, in both ways.
    races: dict[str, tuple[Callable[[Stage, More], Check], int, int]] = {
        "herd": (herds.herd, 4, 4),
        "rollback": (herds.rollback, 3, 4),
        "expiry": (herds.expiry, 3, 2),
        "deadlocks": (storm.deadlocks, 4, 2),
        "kills": (kills.kills, 6, kills.least(stage)),
        "interleavings": (interleavings.interleavings, 9, 24),
    }
    shares = sum(share for _, share, _ in races.values())
    for name, (race, share, least) in races.items():
        now = time.monotonic()
        until = now + max(0.0, end - now) * share / shares
        shares -= share
        yield _made(stage, name, partial(race, stage, _until(until, least)))
    _open_again(stage)
    yield _made(stage, "collations", partial(traps.collations, stage))
    yield _made(stage, "clock", partial(traps.clock, stage))


def _until(moment: float, least: int) -> More:
    """Return what says that there is time for another round: until a moment, and for some at any rate."""
    rounds = 0

    def more() -> bool:
        nonlocal rounds
        rounds += 1
        return rounds <= least or time.monotonic() < moment

    return more


def _made(stage: Stage, name: str, look: Callable[[], Check]) -> Check:
    """Make a check; one that ends in an exception is broken by it."""
    began = time.monotonic()
    try:
        check = look()
    except Exception as error:
        # Ctrl-C inside a lock's own code comes out as its RuntimeError.
        if any(isinstance(one, KeyboardInterrupt) for one in chain(error)):
            raise KeyboardInterrupt from error
        check = _ended(stage.ground, name, error)
    check.seconds = time.monotonic() - began
    return check


def _ended(ground: Ground, name: str, error: Exception) -> Check:
    check = Check(name, "it ended before its time")
    check.blame(named(error))
    if (cure := ground.cure(error)) is not None:
        check.because(cure)
    return check
