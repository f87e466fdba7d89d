"""One run of one experiment: what was tried, which faults really hit, and what was wrong."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from tests.reliability.places import PLACES, Place

if TYPE_CHECKING:
    from tests.support.database import Database

T = TypeVar("T")

INVARIANTS = {
    "I1": "A key has at most one effect.",
    "I2": "A success that a caller was told of has its effect and its row.",
    "I3": "All who are told the answer of a key are told the same, before a crash and after it.",
    "I4": "Nothing that was acknowledged is lost by a crash.",
    "I5": "Who does not know what became of a call asks again with the same key, and there is one effect in the end.",
    "I6": "No key is stuck: when all is over no row is in progress, no transaction open, no connection out of its pool.",
    "I7": "No answer of one scope is given in another.",
    "I8": "A replay is given only of what was committed.",
    "I9": "A purge deletes what has expired, and nothing else.",
    "I10": "A key that comes with another payload runs nothing, and its row stays as it was.",
    "I11": "Nobody is told what is not so: who is told of a failure finds nothing done, and of a deadlock that another "
    "attempt mends nobody is told.",
}

# A mutant that was left behind when the library was changed fails at once: that is found too, and is not its mistake. But
# PyMySQL itself asks None for an attribute where another thread has taken its connection away.
_MISFIT = re.compile(r"\b(AttributeError\W++(?!NoneType)|ImportError|KeyError|NameError|TypeError)")


@dataclass
class Trial:
    """What an experiment is given, and writes into.

    A run whose faults did not hit often enough, or that did not look at all it is to look at, says nothing: it is invalid,
    and that is an error.
    """

    place: Place
    seed: int
    whole: bool
    """Whether it may take minutes."""
    mutant: Mutant | None = None
    tried: int = 0
    hits: Counter[str] = field(default_factory=Counter)
    least: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    promised: tuple[str, ...] = ()
    """The invariants that must be looked at; of a mutant, which may be found before, none."""
    looked: set[str] = field(default_factory=set)
    figures: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)

    @property
    def db(self) -> Database:
        """The place's database, which was empty when the experiment began."""
        return self.place.database

    @property
    def mutant_name(self) -> str:
        """Of the mistake that is in the library; nothing, if there is none."""
        return self.mutant.name if self.mutant is not None else ""

    def size(self, quick: T, whole: T) -> T:
        return whole if self.whole else quick

    def needs(self, what: str, quick: int, whole: int) -> None:
        """Say how often a fault must have hit; of a mutant, where things go another way, nothing is asked."""
        self.hits[what] += 0
        self.least[what] = self.size(quick, whole)

    def broken(self, invariant: str, what: str) -> None:
        self.holds(invariant, False, what)

    def holds(self, invariant: str, true: bool, what: str) -> None:
        """Look at an invariant; `what` is said where it does not hold."""
        assert invariant in INVARIANTS
        self.looked.add(invariant)
        if not true:
            self.wrong.append(f"{invariant}: {what}")

    @property
    def missing(self) -> list[str]:
        """The faults that hit too seldom, and the invariants that nobody looked at."""
        return [
            *(f"{what}: {self.hits[what]} of {least}" for what, least in self.least.items() if self.hits[what] < least),
            *(f"nobody looked at {name}" for name in self.promised if name not in self.looked),
        ]

    @property
    def verdict(self) -> str:
        """Nothing, if all is as it should be."""
        if self.mutant is not None:
            if misfits := [what for what in self.wrong if _MISFIT.search(what)]:
                return f"INVALID: the mutant does not fit the library: {misfits[0]}"
            return "" if self.wrong else f"SURVIVES: {self.mutant.title}"
        if self.wrong:
            return f"BROKEN: {len(self.wrong)} times, first {self.wrong[0]}"
        return f"INVALID: {'; '.join(self.missing)}" if self.missing else ""


@dataclass(frozen=True)
class Mutant:
    """The library with one mistake in it, that an experiment must find."""

    name: str
    title: str
    make: Callable[[], AbstractContextManager[Any]]
    is_one_at: Callable[[Place], bool] = lambda place: True
    """Whether it is a mistake at a place."""


@dataclass(frozen=True)
class Experiment:
    """An experiment by its name."""

    name: str
    title: str
    story: str
    """What is done, for the page."""
    invariants: tuple[str, ...]
    run: Callable[[Trial], None]
    mutants: tuple[str, ...]
    """By name: what it must find."""
    is_mutant: bool = False
    """Whether there is nothing to be run but its mutants."""
    own_server: bool = False
    """Whether it starts a server of its own, to kill it."""
    quick: Sequence[str] = ()
    """The places at which the tests run it, if not at all of them: by their keys."""

    @property
    def quick_places(self) -> list[Place]:
        return [place for place in PLACES if not self.quick or place.key in self.quick]

    def tried(self, place: Place, *, seed: int, whole: bool, mutant: Mutant | None = None) -> Trial:
        """Run it once, with the mistake in the library if there is one."""
        trial = Trial(place, seed, whole, mutant, promised=self.invariants if mutant is None else ())
        if not self.own_server:
            place.database.sweep()
        begun = time.monotonic()
        if mutant is None:
            self.run(trial)
        else:
            with mutant.make():
                self.run(trial)
        trial.seconds = round(time.monotonic() - begun, 1)
        return trial
