"""What all checks share: the table, the callers, and the function that they call, in both ways that statements travel."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, Protocol

import sqlalchemy as sa
from sqlalchemy.orm import Session

from ..model import Outcome
from ..table import IdemTable
from .callers import Callers
from .ground import SCOPE, Ground
from .race import Check, Mark, Race

WAIT: Final = timedelta(seconds=30)
"""How long a call waits for another: longer than anything here takes."""


class Acts(Protocol):
    """What a function does after its effect, in the transaction of the call; what it raises the call raises."""

    def __call__(self, session: Session) -> object:
        """Do it."""


@dataclass(frozen=True)
class Way:
    """How statements travel."""

    name: str
    idem: IdemTable
    call: Callable[..., Outcome[str]]
    """Calls the function: the key, the race, the lane, and what it does besides its effect."""


class Stage:
    """One run.

    Args:
        ground: the table.
        callers: the threads.
        count: how many call at once.
        rng: what is random.
    """

    def __init__(self, ground: Ground, callers: Callers, count: int, rng: random.Random) -> None:
        self.ground, self.callers, self.count, self.rng = ground, callers, count, rng
        self.ways = [self._way("in packets", callers.engine), self._way("one by one", callers.listened)]
        self.is_pooled = False
        """Whether a transaction may be on another connection of the server's than the one before it."""
        self._keys = 0

    def _way(self, name: str, engine: sa.Engine) -> Way:
        idem = IdemTable(engine, table=self.ground.table, schema=self.ground.schema, wait=WAIT)
        return Way(name, idem, self.protected(idem, self.takes_effect))

    def protected(self, idem: IdemTable, function: Callable[..., str], **options: Any) -> Callable[..., Outcome[str]]:
        """Return a function as `idem` protects it, giving outcomes."""
        # Without a fingerprint: what goes along is what a test does, and not the request's.
        decorate = idem.transactional(SCOPE, key="key", payload=None, share_scope=True, **options)
        return decorate(function).outcome  # type: ignore[no-any-return]

    def takes_effect(self, session: Session, key: str, race: Race, lane: int, acts: Acts | None = None) -> str:
        """Be the business: have an effect, and give its id."""
        race.see(lane, Mark.ENTERS)
        id = race.effect()
        self.ground.write(session, id)
        if acts is not None:
            acts(session)
        elif self.callers.over.is_set():
            self.callers.pause(0)
        race.see(lane, Mark.LEAVES)
        return id.hex

    def key(self, what: str) -> str:
        """Return a key that nobody has."""
        self._keys += 1
        return f"{what}-{self._keys}"

    def way(self, number: int) -> Way:
        """Return the way of the n-th round: both, by turns."""
        return self.ways[number % len(self.ways)]

    def race(self, title: str, way: Way, lanes: int | None = None, **options: Any) -> Race:
        """Return a race of so many callers, by default of all."""
        names = [f"caller {number + 1}" for number in range(self.count if lanes is None else lanes)]
        return Race(f"{title}, {way.name}", names, **options)

    def herd(self, race: Race, way: Way, key: str, acts: Callable[[int], Acts | None] = lambda lane: None) -> None:
        """Call with one key from every lane at once."""
        calls = [partial(way.call, key, race, lane, acts(lane)) for lane in range(len(race.lanes))]
        self.callers.together(race, calls)

    def effects(self, race: Race) -> int:
        """Say how many effects of a race were committed."""
        return self.ground.committed(race.written)

    def raw(self, session: Session) -> Any:
        """Return the driver's connection of a session."""
        return session.connection().connection.driver_connection

    def why(self, check: Check, race: Race) -> None:
        """Write down what the exceptions of a race tell of the way to the database."""
        for error in race.errors:
            if (cure := self.ground.cure(error)) is not None:
                check.because(cure)
