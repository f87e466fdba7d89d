"""The lists of what is compared. A new variant is one entry, and is measured on every database, in both colours."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from tests.benchmarks.bench import AsyncBench, Bench
from tests.benchmarks.work import new_run, numbers


@dataclass(frozen=True)
class Variant:
    """One way to do it.

    Args:
        name: by which goals and plots find its figures.
        title: for readers.
        make: gives what is called with a key and a number, of a `Bench` or an `AsyncBench`.
        everywhere: whether a first execution is also measured over a longer wire, with several clients and in a storm.
    """

    name: str
    title: str
    make: Callable[[Any], Callable[[str, int], Any]]
    everywhere: bool = True


BARE = Variant("bare", "bare", lambda bench: bench.bare())
HAND = Variant("hand", "claim by hand in Core", lambda bench: bench.by_hand())
ALONE = Variant("alone", "its statements alone", lambda bench: bench.alone())
OURS = Variant("ours", "`@idem.transactional`", lambda bench: bench.decorated())

DEFERRED, LOOKASIDE = "deferred", "lookaside"
"""Names of what is opted into."""
AGAIN_ALONE, ASIDE_ALONE = "alone-again", "alone-aside"
"""Names of replays without the library."""

FIRST: Sequence[Variant] = (
    BARE,
    Variant("core", "bare, on a Connection without a Session", lambda bench: bench.core(), everywhere=False),
    HAND,
    ALONE,
    OURS,
    Variant(DEFERRED, "the same, `deferred=True`", lambda bench: bench.decorated(deferred=True)),
)
"""First executions, each with a key of its own. What is compared is compared with the first of them."""

LOOK = Variant("look", "SELECT by primary key in Core", lambda bench: bench.look())
REPLAY = Variant("replay", "replay of `@idem.transactional`", lambda bench: bench.decorated())

AGAIN: Sequence[Variant] = (
    LOOK,
    Variant("session", "the same SELECT in a Session", lambda bench: bench.look_in_session()),
    Variant(AGAIN_ALONE, "a replay's statements alone", lambda bench: bench.alone_again()),
    Variant(ASIDE_ALONE, "that of `lookaside=True` alone", lambda bench: bench.alone_aside()),
    REPLAY,
    Variant(LOOKASIDE, "the same, `lookaside=True`", lambda bench: bench.decorated(lookaside=True)),
)
"""Calls whose answer is there."""


def titles(*lists: Sequence[Variant]) -> dict[str, str]:
    """Give the titles of variants by their names."""
    return {variant.name: variant.title for variants in lists for variant in variants}


def firsts(bench: Bench | AsyncBench, *, all_of_them: bool = True) -> dict[str, Callable[[], Any]]:
    """Everything that runs, each time with a new key."""
    run, keys = new_run(), count()

    def one(call: Callable[[str, int], Any]) -> Callable[[], Any]:
        return lambda: call(f"{run}-{next(keys)}", next(numbers))

    return {of.name: one(of.make(bench)) for of in FIRST if all_of_them or of.everywhere}


def replays(bench: Bench | AsyncBench, stored: Sequence[tuple[str, int]]) -> dict[str, Callable[[], Any]]:
    """Everything that reads, each time one of the stored answers."""

    def one(call: Callable[[str, int], Any]) -> Callable[[], Any]:
        return lambda: call(*random.choice(stored))

    return {of.name: one(of.make(bench)) for of in AGAIN}
