"""One of the processes of `tests.benchmarks.before`: the library of then and that of now, side by side."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import count
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tests.benchmarks import harness
from tests.benchmarks.places import engine
from tests.benchmarks.work import business, new_run, numbers

THEN = "idemtable_then"
"""What a library of then is called, beside that of now."""


def call(library: str, url: str) -> Callable[[], object]:
    """Return a first execution by one of the two, each time with a new key."""
    run, keys = new_run(), count()
    decorator: Any = import_module(library).IdemTable(engine(sa.make_url(url))).transactional("bench", key="key")

    @decorator
    def order(session: Session, key: str, number: int) -> dict[str, int]:
        return business(session, number)

    return lambda: order(f"{run}-{next(keys)}", next(numbers))


def compared(names: Sequence[str], then: str, now: str, first: int, rounds: int) -> dict[str, float]:
    """Let the two take turns, call by call.

    Args:
        names: of the library of then, and of that of now.
        then, now: URLs of what each works in.
        first: number of an order; no other process may come that far.
        rounds: calls of each.

    Returns:
        The figures of now; its ratios are to then's. Both medians of time and processor in microseconds.
    """
    while next(numbers) < first:
        pass
    runs = {"then": call(names[0], then), "now": call(names[1], now)}
    figures = harness.in_turn(runs, rounds, "then")
    return figures["now"] | {f"{name}_then": figures["then"][name] for name in ("median", "cpu")}


def main(names: Sequence[str] = (THEN, "idemtable")) -> None:
    """Do what the command line says, with the libraries of these names."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pair", description=__doc__)
    parser.add_argument("then", help="a database URL")
    parser.add_argument("now", help="a database URL")
    parser.add_argument("first", type=int, help="number of an order")
    parser.add_argument("rounds", type=int, help="calls of each")
    options = parser.parse_args()
    json.dump(compared(names, options.then, options.now, options.first, options.rounds), sys.stdout)


if __name__ == "__main__":
    main()
