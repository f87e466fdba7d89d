"""Connections that are ended in the middle of a call, before COMMIT and after it: the effect is there once all the same."""

from __future__ import annotations

import socket
import threading
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..claim import steps
from ..claim.steps import Moment, Step
from ..dialects import Fault
from ..dialects.words import AS_IT_IS, hang_up, wire
from . import processes
from .herds import More
from .race import Check, Mark, Race, named
from .stage import Stage, Way

_CALLERS: Final = 3
"""One is hit, the others wait for it."""
_GIVES_UP: Final = 5.0
"""Seconds that a call waits for its connection to be ended: through a pooler there may be none left to do it with."""


class NotAllowed(Exception):
    """This role may not end its own connections."""


@dataclass
class _Victim:
    """The caller whose connection is ended, the first to run the function; nobody is hit twice."""

    race: Race
    driver: Any = None
    number: int | None = None
    lane: int | None = None
    thread: int | None = None
    is_hit: bool = False
    trouble: NotAllowed | None = None


@dataclass(frozen=True)
class _Cut:
    """When and by whom a connection is ended."""

    title: str
    at: Step | None
    """The step; ``None`` for the end of the function, where nobody has to listen."""
    by_server: bool
    how: int = socket.SHUT_RDWR
    only: int | None = None
    """The one way of statements for which it makes sense."""


_AFTER: Final = _Cut("the server ends it after COMMIT", Step.COMMITTED, True)
_CUTS: Final = (
    _Cut("the socket is shut inside the function", None, False),
    _Cut("the server ends it inside the function", None, True),
    _Cut("the socket is shut before COMMIT", Step.STORED, False),
    _Cut("the server ends it before COMMIT", Step.STORED, True),
    # Nobody listens, so that COMMIT goes out with the result where the driver can; of both only the answer is lost.
    _Cut("the answer to result and COMMIT is lost", None, False, socket.SHUT_RD, only=0),
    _Cut("the answer to COMMIT is lost", Step.STORED, False, socket.SHUT_RD),
    _AFTER,
)


def least(stage: Stage) -> int:
    """Return how many rounds have each kind of cut in them."""
    return len(processes.POINTS) if stage.ground.catalogue.number is None else len(_rounds(stage))


def _rounds(stage: Stage) -> list[tuple[_Cut, Way]]:
    # Behind a pooler the connection is somebody else's as soon as the transaction has ended.
    cuts = [cut for cut in _CUTS if cut is not _AFTER or not stage.is_pooled]
    return [(cut, way) for cut in cuts for number, way in enumerate(stage.ways) if cut.only in (None, number)]


def kills(stage: Stage, more: More) -> Check:
    """End the connection of one of some callers, at each point and in each manner by turns."""
    if stage.ground.catalogue.number is None:
        return processes.kills(stage, more)
    check = Check("kills", f"the connection of one of {_lanes(stage)} callers is ended, before COMMIT and after it")
    rounds = _rounds(stage)
    hit = arrived = 0
    while rounds and more():
        cut, way = rounds.pop(0)
        race, victim = _round(stage, cut, way)
        stage.why(check, race)
        check.take(race)
        if victim.trouble is not None:
            rounds = [(one, path) for one, path in rounds if one.by_server is not cut.by_server]
            check.left_out.append(str(victim.trouble))
            continue
        rounds.append((cut, way))
        if victim.is_hit:
            hit += 1
            # The victim's call went on, and its function did not run a second time: what it had sent was there.
            arrived += race.runs() == 1
    check.seen = f"{hit:,} were hit, in {arrived:,} COMMIT had arrived; one effect and one reply each time"
    if not hit:
        check.left_out.append("no connection was hit")
    return check


def _lanes(stage: Stage) -> int:
    return min(_CALLERS, stage.count)


def _round(stage: Stage, cut: _Cut, way: Way) -> tuple[Race, _Victim]:
    race = stage.race(cut.title, way, _lanes(stage))
    victim = _Victim(race)

    def acts(lane: int, session: Session) -> None:
        if victim.lane is not None:
            return
        victim.lane, victim.thread = lane, threading.get_ident()
        victim.driver = stage.raw(session)
        if cut.by_server:
            asks = stage.ground.catalogue.number
            victim.number = None if asks is None else int(session.execute(sa.text(asks)).scalar_one())
        stage.callers.wait_for(lambda: race.have_called() == len(race.lanes), 1.0)
        if cut.at is None:
            _end(stage, cut, victim)
            if cut.how is socket.SHUT_RDWR:
                session.execute(sa.text("SELECT 1"))  # what finds the line dead

    def heard(moment: Moment) -> None:
        if moment.step is cut.at and threading.get_ident() == victim.thread:
            _end(stage, cut, victim)

    key = stage.key("kill")
    with steps.listening(heard) if cut.at is not None else AS_IT_IS:
        stage.herd(race, way, key, lambda lane: partial(acts, lane))
    if victim.lane is not None and cut is not _AFTER:
        # The answer may have been there before its line was shut.
        victim.is_hit = victim.is_hit and race.answers[victim.lane].attempts != 1
    race.judge(stage.effects(race))
    # Whoever asks now gets the same, also over a pool that has dead connections in it.
    after = Race(race.title, ["caller 1"])
    stage.herd(after, way, key)
    values = {answer.value for answer in race.answers if answer.value is not None}
    if after.errors:
        race.broken.append(f"a call after it got {named(after.errors[0])}")
    elif values and after.answers[0].value not in values:
        race.broken.append("a call after it got another reply")
    return race, victim


def _end(stage: Stage, cut: _Cut, victim: _Victim) -> None:
    if victim.is_hit or victim.trouble:
        return
    try:
        if cut.by_server:
            if not _by_server(stage, victim):
                return
        elif (line := wire(victim.driver)) is None:
            raise NotAllowed("sockets were not shut: the driver does not give its own away")
        else:
            hang_up(line, cut.how)
        victim.is_hit = True
        victim.race.see(victim.lane or 0, Mark.CUT)
    except NotAllowed as why:
        victim.trouble = why


def _by_server(stage: Stage, victim: _Victim) -> bool:
    """Have the server end the victim's connection, from another one: the victim must not wait for that for ever.

    Nor may it come after the victim has given up waiting: behind a pooler it would hit somebody else. Returns whether it
    did: the connection may be gone, where the call was begun again on another one.
    """
    done: list[BaseException | None] = []
    asking = threading.Lock()

    def end() -> None:
        try:
            with stage.ground.engine.connect() as connection, asking:
                if not done:
                    connection.exec_driver_sql(stage.ground.catalogue.ending.format(number=victim.number))
                    done.append(None)
        except BaseException as error:
            done.append(error)

    thread = stage.callers.begun(end)
    stage.callers.joined([thread], _GIVES_UP)
    with asking:
        if not done:
            done.append(NotAllowed("there was no connection left to ask with"))
    error = done[0]
    if error is None or stage.ground.database.fault(error) is Fault.UNKNOWN:  # behind a pooler it was its own, perhaps
        return True
    if stage.ground.database.code(getattr(error, "orig", None) or error) in stage.ground.catalogue.ended:
        return False
    denied = stage.ground.database.numbered(error) is Fault.DENIED
    said = error if isinstance(error, NotAllowed) else "this role may not" if denied else f"it says {named(error)}"
    raise NotAllowed(f"the server was not asked to end connections: {said}")
