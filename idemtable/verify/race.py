"""One race: who did what when, what each got, and what speaks against a promise. Nothing here knows a database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID, uuid4


class Mark(StrEnum):
    """What is seen of a caller: a picture draws what lies between two of these."""

    CALLS = "calls"
    """It begins a call, and claims."""
    ENTERS = "enters"
    """Its function runs."""
    LEAVES = "leaves"
    """Its function has returned: the result is stored and committed next."""
    RAN = "ran"
    """It has its answer: its own run's."""
    REPLAYED = "replayed"
    """It has its answer: another's."""
    FAILED = "failed"
    """It has an exception."""
    CUT = "cut"
    """Its connection was ended."""
    STEP = "step"
    """A point of the protocol."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that was seen."""

    at: float
    """Seconds since the race began."""
    lane: int
    mark: Mark
    text: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a caller got."""

    value: str | None = None
    replayed: bool = False
    attempts: int = 0
    error: BaseException | None = None


class Race:
    """What is written down of one race.

    Args:
        title: what this one is.
        lanes: the callers' names.
        in_order: whether what came after what matters, and not how long it took.
    """

    def __init__(self, title: str, lanes: list[str], *, in_order: bool = False) -> None:
        self.title = title
        self.lanes = lanes
        self.in_order = in_order
        self.events: list[Event] = []
        self.answers: list[Answer] = [Answer()] * len(lanes)
        self.written: list[UUID] = []
        """The effects that functions had, whether or not they were committed."""
        self.broken: list[str] = []
        self._lock = threading.Lock()
        self._began = time.monotonic()

    def see(self, lane: int, mark: Mark, text: str = "") -> None:
        """Write down what a caller does now."""
        with self._lock:
            self.events.append(Event(time.monotonic() - self._began, lane, mark, text))

    def effect(self) -> UUID:
        """Draw the id of an effect that a function is going to have."""
        id = uuid4()
        with self._lock:
            self.written.append(id)
        return id

    def have_called(self) -> int:
        """Say how many callers have begun."""
        with self._lock:
            return len({event.lane for event in self.events if event.mark is Mark.CALLS})

    def runs(self) -> int:
        """Say how often the function was entered."""
        with self._lock:
            return sum(event.mark is Mark.ENTERS for event in self.events)

    @property
    def errors(self) -> list[BaseException]:
        """What callers got instead of an answer."""
        return [answer.error for answer in self.answers if answer.error is not None]

    def judge(
        self, effects: int, *, due: int = 1, told: int = 1, allowed: tuple[type[BaseException], ...] = ()
    ) -> None:
        """Hold the race against the promises.

        Args:
            effects: how many were committed.
            due: how many there must be.
            told: how many callers must be told that theirs was the first run, if any is answered.
            allowed: exceptions that are an answer.
        """
        self.broken += self._objections(effects, due, told, allowed)

    def _objections(self, effects: int, due: int, told: int, allowed: tuple[type[BaseException], ...]) -> Iterator[str]:
        for error in self.errors:
            if not isinstance(error, allowed):
                yield f"a caller got {named(error)}"
        good = [answer for answer in self.answers if answer.value is not None]
        if effects != due:
            yield f"{effects} effects were committed for a key that must have {due}"
        if len(values := {answer.value for answer in good}) > 1:
            yield f"callers of one key got {len(values)} different replies"
        first = sum(not answer.replayed for answer in good)
        if good and first != told:
            yield f"{first} callers were told that theirs was the first run"


def named(error: BaseException) -> str:
    """Return an error in one line, without the statement and its values."""
    cause = getattr(error, "orig", None) or error
    said = str(cause.args[-1] if cause.args else cause).splitlines()
    return f"{type(cause).__name__}: {said[0] if said else ''}".rstrip(": ")


@dataclass
class Check:
    """One line of a report: what was tried, how often, and what was seen."""

    name: str
    tried: str
    times: int = 0
    seen: str = ""
    broken: dict[str, int] = field(default_factory=dict)
    """What speaks against a promise, and how often."""
    why: list[str] = field(default_factory=list)
    """What may be the reason, and the cure."""
    left_out: list[str] = field(default_factory=list)
    races: list[Race] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kept(self) -> bool:
        """Whether nothing speaks against a promise."""
        return not self.broken

    @property
    def said(self) -> list[str]:
        """What was seen in words: what speaks against a promise, where anything does; and what was left out."""
        found = [f"{text} ({times:,} times)" if times > 1 else text for text, times in self.broken.items()]
        return [*(found or [self.seen]), *(f"left out: {text}" for text in self.left_out)]

    def blame(self, text: str, times: int = 1) -> None:
        """Write down what speaks against a promise."""
        self.broken[text] = self.broken.get(text, 0) + times

    def because(self, why: str) -> None:
        """Write down what may be the reason, once."""
        if why not in self.why:
            self.why.append(why)

    def take(self, race: Race, *, kept: int = 1) -> None:
        """Count a race that was judged, and keep it for the pictures: so many of those that went well, and some others."""
        self.times += 1
        for text in dict.fromkeys(race.broken):
            self.blame(text)
        alike = sum(bool(one.broken) is bool(race.broken) and one.title == race.title for one in self.races)
        if alike < (_MOST_BROKEN if race.broken else kept):
            self.races.append(race)


_MOST_BROKEN = 3
"""Broken races of a kind to be shown: a third tells whether the second was a coincidence."""
