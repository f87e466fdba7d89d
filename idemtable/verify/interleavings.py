"""All ways in which two calls of one key can come between each other, as far as the time allows.

Each call is held at every point where it has sent something, and the next one to go on is chosen: first one, then the
other. A call that waits for a lock cannot be chosen; that it waits is taken from its not arriving, for least privileges
show no locks. Where that is wrong, and it was only slow, both go on at once: that is a race too, and is judged alike.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sqlalchemy.orm import Session

from ..claim import steps
from ..claim.steps import Moment, Step
from .callers import Interrupted
from .herds import Declined, More
from .race import Check, Mark, Race
from .stage import Stage, Way

_HEARD: Final = frozenset({Step.ENTERED, Step.FOUND, Step.STORED, Step.COMMITTED})
"""The points behind which something was sent. Between the others nothing is that another call could see."""
_LONGEST: Final = 20.0
"""Seconds without any move after which an interleaving is given up."""
_LEAST: Final = 0.004
_MOST: Final = 0.25
"""Seconds that a call which may go on is waited for, at least and at most; in between, some times what calls take here."""
_GOES_ON: Final = "goes on"


@dataclass
class _Player:
    lane: int
    at: str = ""
    """The point at which it is held; empty while it is under way."""
    is_over: bool = False

    @property
    def is_held(self) -> bool:
        return bool(self.at) and not self.is_over


@dataclass
class _Game:
    """One interleaving while it is played."""

    stage: Stage
    race: Race
    patience: float
    players: list[_Player] = field(default_factory=lambda: [_Player(0), _Player(1)])
    moved: threading.Condition = field(default_factory=threading.Condition)
    waits: int = 0
    """How often a call did not come on although it might."""

    # --- in the threads of the calls --------------------------------------------------------------------------------------

    def hold(self, lane: int, point: str) -> None:
        """Stay at a point until it is this call's turn."""
        player = self.players[lane]
        with self.moved:
            player.at = point
            self.race.see(lane, Mark.STEP, point)
            self.moved.notify_all()
            while player.at:
                if self.stage.callers.over.is_set():
                    raise Interrupted
                self.moved.wait(0.1)

    def end(self, lane: int) -> None:
        """Be done."""
        with self.moved:
            self.players[lane].is_over = True
            self.moved.notify_all()

    # --- in the thread that chooses ---------------------------------------------------------------------------------------

    def settle(self, waited_for: list[_Player]) -> None:
        """Let go on what may, until all are held, done, or waiting for a lock."""
        until = time.monotonic() + self.patience
        with self.moved:
            while any(not player.at and not player.is_over for player in waited_for):
                if (left := until - time.monotonic()) <= 0:
                    break
                self.moved.wait(left)

    def held(self) -> list[_Player]:
        """Return the calls that can be chosen."""
        return [player for player in self.players if player.is_held]

    @property
    def is_over(self) -> bool:
        """Whether both calls have ended."""
        return all(player.is_over for player in self.players)

    def choose(self, player: _Player) -> None:
        """Let a call go on to its next point."""
        with self.moved:
            player.at = ""
            self.race.see(player.lane, Mark.STEP, _GOES_ON)
            self.moved.notify_all()


@dataclass(frozen=True)
class _Case:
    """A pair of calls, of which all interleavings are tried."""

    way: Way
    raises: tuple[bool, bool]
    expired: bool

    @property
    def title(self) -> str:
        ends = " and ".join("one raises" if ends else "one commits" for ends in self.raises)
        return f"{ends}{', on an expired key' if self.expired else ''}"


class Search:
    """The interleavings of one pair of calls: each decision that could have been another one is a way to go yet."""

    def __init__(self, stage: Stage, case: _Case) -> None:
        self.stage, self.case = stage, case
        self.left: list[list[int]] = [[]]
        """Beginnings, as the lanes chosen, that are still to be tried."""
        self.seen: set[tuple[tuple[int, str], ...]] = set()
        self.patience = 0.05

    def play(self) -> tuple[Race, int]:
        """Play one interleaving that was not played yet; return it, and how often a call waited for the other."""
        stage, case = self.stage, self.case
        prefix = self.left.pop(stage.rng.randrange(len(self.left)))
        key = stage.key("pair")
        if case.expired:
            stage.herd(Race("", ["caller 1"]), case.way, key)
            stage.ground.age(key)
        race = stage.race(case.title, case.way, 2, in_order=True)
        game = _Game(stage, race, self.patience)
        began = time.monotonic()
        decisions = self._played(game, prefix, key)
        if not game.waits:  # what calls take here that nobody keeps waiting
            took = (time.monotonic() - began) / max(1, len(decisions))
            self.patience = min(_MOST, max(_LEAST, 4 * took))
        for depth in range(len(prefix), len(decisions)):
            chosen, others = decisions[depth]
            before = [lane for lane, _ in decisions[:depth]]
            self.left += [[*before, lane] for lane in others if lane != chosen]
        self.seen.add(tuple((event.lane, event.text) for event in race.events if event.mark is Mark.STEP))
        race.judge(stage.effects(race), due=0 if all(case.raises) else 1, allowed=(Declined,))
        if sum(isinstance(error, Declined) for error in race.errors) > sum(case.raises):
            race.broken.append("a caller got an exception that its own function had not raised")
        return race, game.waits

    def _played(self, game: _Game, prefix: list[int], key: str) -> list[tuple[int, list[int]]]:
        lanes: dict[int, int] = {}

        def heard(moment: Moment) -> None:
            lane = lanes.get(threading.get_ident())
            if lane is not None and moment.step in _HEARD:
                game.hold(lane, moment.step.value)

        def acts(lane: int, session: Session) -> None:
            game.hold(lane, "wrote")
            if self.case.raises[lane]:
                raise Declined

        def calls(lane: int) -> Any:
            lanes[threading.get_ident()] = lane
            try:
                game.hold(lane, "begins")
                return self.case.way.call(key, game.race, lane, partial(acts, lane))
            finally:
                game.end(lane)

        # A listener keeps COMMIT from travelling with the result: in packets, nobody listens.
        if self.case.way is self.stage.ways[0]:
            return self._chosen(game, prefix, calls)
        with steps.listening(heard):
            return self._chosen(game, prefix, calls)

    def _chosen(self, game: _Game, prefix: list[int], calls: Any) -> list[tuple[int, list[int]]]:
        decisions: list[tuple[int, list[int]]] = []
        threads = self.stage.callers.begun(
            lambda: self.stage.callers.together(game.race, [partial(calls, lane) for lane in range(2)])
        )
        deadline = time.monotonic() + _LONGEST
        waiting: set[int] = set()
        game.settle(game.players)
        while not game.is_over:
            held = game.held()
            if not held:
                if time.monotonic() > deadline or not threads.is_alive():
                    break
                with game.moved:
                    game.moved.wait(0.05)
                continue
            lanes = [player.lane for player in held]
            wanted = prefix[len(decisions)] if len(decisions) < len(prefix) else self.stage.rng.choice(lanes)
            player = next((one for one in held if one.lane == wanted), held[0])
            decisions.append((player.lane, lanes))
            waiting.discard(player.lane)
            game.choose(player)
            # Whoever waits for a lock goes on when the other one has ended its transaction, and not before.
            moves = [player] if not player.is_over and waiting else game.players
            game.settle(moves)
            if not player.at and not player.is_over and player.lane not in waiting:
                waiting.add(player.lane)
                game.waits += 1
            deadline = time.monotonic() + _LONGEST
        self.stage.callers.joined([threads], _LONGEST)
        if not game.is_over:
            game.race.broken.append(f"nothing moved for {_LONGEST:.0f} seconds")
        return decisions


def interleavings(stage: Stage, more: More) -> Check:
    """Try all interleavings of two calls of one key: each commits or raises, on a new key and on an expired one."""
    check = Check("interleavings", "two callers of one key, held at each point and let on by turns")
    cases = [
        _Case(way, (one, other), expired)
        for expired in (False, True)
        for one, other in ((False, False), (True, False), (True, True))
        for way in stage.ways
    ]
    searches = [Search(stage, case) for case in cases]
    waits = 0
    for search in _in_turn(searches):
        if not more():
            break
        race, waited = search.play()
        stage.why(check, race)
        check.take(race, kept=4)
        waits += bool(waited)
    different = sum(len(search.seen) for search in searches)
    is_all = not any(search.left for search in searches)
    how_many = "all there are" if is_all else "as many as there was time for"
    check.seen = f"{different:,} different ones, {how_many}; in {waits:,} one waited for the other"
    return check


def _in_turn(searches: list[Search]) -> Iterator[Search]:
    while any(search.left for search in searches):
        yield from (search for search in searches if search.left)
