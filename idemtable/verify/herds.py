"""Many callers of one key: at once, when the first one fails, when it has lost its claim, when the key has expired."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from sqlalchemy import text
from sqlalchemy.orm import Session

from ..errors import LostClaimError
from .race import Check, Mark, Race
from .stage import Acts, Stage, Way

_NO_UNIQUE: Final = (
    "two claims of one key did not keep each other out. Does the URL lead to more than one server that may be written "
    "to, or through a proxy that sends some statements elsewhere? `idemtable doctor` tells what the server says of itself"
)
_COMES: Final = 30.0
"""Seconds after which a call that should run counts as one that does not, on a machine however busy."""
_MOST_HOLD: Final = 0.02
"""Seconds that a function is held open at most, so that the others wait for it."""

More = Callable[[], bool]
"""Says whether there is time for another round."""


class Declined(Exception):
    """What a function raises that wants its effect undone."""


def herd(stage: Stage, more: More) -> Check:
    """Let all callers come at once with one key."""
    check = Check("herd", f"{stage.count} callers at once with one key")
    waited = 0
    while more():
        way, key = stage.way(check.times), stage.key("herd")
        race = stage.race("a herd on one key", way)
        # In every other pair of rounds the first one holds the key until all have come.
        acts = _held(stage, race) if check.times // 2 % 2 == 0 else None
        stage.herd(race, way, key, lambda lane, acts=acts: acts)  # type: ignore[misc]
        _judge(stage, check, race, way)
        waited += _waited(race)
    check.seen = f"one effect, one reply; {waited:,} calls came while the first one ran"
    return check


def rollback(stage: Stage, more: More) -> Check:
    """Let the first of all callers fail while the others wait for it, or lose its claim."""
    check = Check(
        "rollback", f"the first of {stage.count} callers raises; or its transaction is undone behind its back"
    )
    ran_again = lost = 0
    while more():
        way = stage.way(check.times)
        if check.times // 2 % 2 == 0:
            race = _declined(stage, way)
            ran_again += race.runs() > 1
        else:
            race = _lost(stage, way)
            lost += any(isinstance(error, LostClaimError) for error in race.errors)
        stage.why(check, race)
        check.take(race)
        _explain(check)
    check.seen = f"{ran_again:,} times another one ran, {lost:,} times the loser was refused; one effect each time"
    return check


def _declined(stage: Stage, way: Way) -> Race:
    race, key = stage.race("the winner rolls back", way), stage.key("rollback")
    hold = _held(stage, race)

    def declines(session: Session) -> None:
        first = race.runs() == 1
        hold(session)
        if first:
            raise Declined

    stage.herd(race, way, key, lambda lane: declines)
    race.judge(stage.effects(race), allowed=(Declined,))
    if len(race.errors) != 1 and not race.broken:
        race.broken.append("the exception of the function did not reach its caller")
    return race


def _lost(stage: Stage, way: Way) -> Race:
    """Have a transaction rolled back behind a function's back, as by a deadlock that it swallows, and another call run."""
    race, key = stage.race("a claim is lost", way, 2), stage.key("lost")
    is_lost, is_done = threading.Event(), threading.Event()

    def loses(session: Session) -> None:
        session.execute(text("ROLLBACK"))
        is_lost.set()
        stage.callers.wait_for(is_done.is_set)
        # It goes on in the transaction that the driver then begins; sqlite3 and psycopg2 begin none, and what is written
        # after a ROLLBACK in so many words would be committed by itself.
        if stage.ground.looks(session):
            stage.ground.write(session, race.effect())

    def one() -> object:
        race.see(0, Mark.CALLS)
        return way.call(key, race, 0, loses)

    def other() -> object:
        try:
            if not stage.callers.wait_for(is_lost.is_set, _COMES):
                race.broken.append("the first caller's function did not run")
            race.see(1, Mark.CALLS)
            return way.call(key, race, 1)
        finally:
            is_done.set()

    stage.callers.together(race, [one, other], announced=False)
    race.judge(stage.effects(race), allowed=(LostClaimError,))
    if not race.errors and not race.broken:
        race.broken.append("a call that had lost its claim was answered as if nothing were wrong")
    return race


def expiry(stage: Stage, more: More) -> Check:
    """Let all callers come at once with a key whose time has passed."""
    check = Check("expiry", f"{stage.count} callers at once with a key that has expired")
    waited = 0
    while more():
        way, key = stage.way(check.times), stage.key("expiry")
        before = Race("", ["caller 1"])
        stage.herd(before, way, key)
        stage.ground.age(key)
        race = stage.race("an expired key is taken over", way)
        acts = _held(stage, race)
        stage.herd(race, way, key, lambda lane, acts=acts: acts)  # type: ignore[misc]
        old = before.answers[0].value
        if old is not None and any(answer.value == old for answer in race.answers):
            race.broken.append("a caller got the reply of a record that had expired")
        _judge(stage, check, race, way)
        waited += _waited(race)
    check.seen = f"one took it over, all got its reply; {waited:,} calls came while it ran"
    return check


def _judge(stage: Stage, check: Check, race: Race, way: Way) -> None:
    race.judge(stage.effects(race))
    stage.why(check, race)
    check.take(race)
    _explain(check)


def _explain(check: Check) -> None:
    if any("effects" in text or "first run" in text for text in check.broken):
        check.because(_NO_UNIQUE)


def _held(stage: Stage, race: Race) -> Acts:
    """Return what holds the first run until every caller has come, and a moment longer."""
    moment = stage.rng.uniform(0.001, _MOST_HOLD)

    def hold(session: Session) -> None:
        if race.runs() == 1:
            stage.callers.wait_for(lambda: race.have_called() == len(race.lanes), 1.0)
            stage.callers.pause(moment)

    return hold


def _waited(race: Race) -> int:
    """Count the callers that came before the first run had ended."""
    came: set[int] = set()
    for event in race.events:
        if event.mark is Mark.CALLS:
            came.add(event.lane)
        elif event.mark is Mark.LEAVES or event.mark is Mark.FAILED:
            break
    return max(0, len(came) - 1)
