"""Calls that take two keys in opposite order: a deadlock, of which no caller hears."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from sqlalchemy.orm import Session

from ..errors import IdempotencyError
from ..model import Outcome
from .herds import More
from .race import Check, Mark, Race, named
from .stage import Stage, Way

_KEYS: Final = 3
"""Few enough that they are all held at once."""
_PATIENCE: Final = 0.5
"""Seconds that a caller which holds its first key waits for others to hold theirs."""
_TRIES: Final = 20
"""How often a caller calls again that was told to. More would hide that nobody gets through."""


def deadlocks(stage: Stage, more: More) -> Check:
    """Let all callers take two of a few keys each, one call inside the other, in any order."""
    check = Check("deadlocks", f"{stage.count} callers take two of {_keys(stage)} keys each, one call inside the other")
    again = sent_back = 0
    while more():
        race, asked = _round(stage, stage.way(check.times))
        stage.why(check, race)
        check.take(race)
        again += sum(max(0, answer.attempts - 1) for answer in race.answers)
        sent_back += asked
    told = f"; {sent_back:,} times a caller was told to call again" if sent_back else ""
    check.seen = f"{again:,} transactions were begun again by the library{told}; one effect for each key"
    return check


def _keys(stage: Stage) -> int:
    return min(_KEYS, stage.count)


def _round(stage: Stage, way: Way) -> tuple[Race, int]:
    race = stage.race("two keys in opposite order", way)
    keys = [stage.key("storm") for _ in range(_keys(stage))]
    # Each key is somebody's first one: when all are held, whoever wants which other one, some wait in a circle.
    firsts = [keys[lane % len(keys)] for lane in range(len(race.lanes))]
    pairs = [(key, stage.rng.choice([other for other in keys if other != key])) for key in firsts]
    said: dict[str, set[str]] = {}
    """The replies that callers got for each key, by calls that came to an end."""
    insides: dict[int, str] = {}
    been: set[int] = set()
    patience = 0 if stage.ground.catalogue.number is None else _PATIENCE  # in a file one is inside at a time
    asked = 0

    def inner(session: Session, key: str) -> str:
        id = race.effect()
        stage.ground.write(session, id)
        return id.hex

    inside = stage.protected(way.idem, inner)

    def outer(session: Session, key: str, lane: int) -> str:
        race.see(lane, Mark.ENTERS, key)
        id = race.effect()
        stage.ground.write(session, id)
        if lane not in been:  # not again when the transaction is begun again
            been.add(lane)
            stage.callers.wait_for(lambda: len(been) >= len(keys), patience)
        insides[lane] = inside(pairs[lane][1]).value
        race.see(lane, Mark.LEAVES)
        return id.hex

    outside = stage.protected(way.idem, outer)

    def call(lane: int) -> Outcome[Any]:
        nonlocal asked
        for left in reversed(range(_TRIES)):
            try:
                outcome = outside(pairs[lane][0], lane)
                break
            except IdempotencyError as error:
                if not error.retryable or not left:
                    raise
                asked += 1
                stage.callers.pause(0.01)
        said.setdefault(pairs[lane][0], set()).add(outcome.value)
        if not outcome.replayed:  # what was called inside was committed with it
            said.setdefault(pairs[lane][1], set()).add(insides[lane])
        return outcome

    stage.callers.together(race, [partial(call, lane) for lane in range(len(race.lanes))])
    _judge(race, stage.effects(race), said)
    return race, asked


def _judge(race: Race, effects: int, said: dict[str, set[str]]) -> None:
    race.broken += [f"a caller got {named(error)}" for error in race.errors]
    if race.broken:
        return
    if effects != len(said):
        race.broken.append(f"{effects} effects were committed for {len(said)} keys")
    if any(len(replies) > 1 for replies in said.values()):
        race.broken.append("callers of one key got different replies")
