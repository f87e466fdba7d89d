"""What is promised of single calls, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence

from tests.benchmarks.results import Goal, Table
from tests.benchmarks.variants import AGAIN_ALONE, ALONE, ASIDE_ALONE, DEFERRED, HAND, LOOKASIDE, OURS, REPLAY

ADDED = {"postgresql": 0, "mariadb": 1, "mysql": 1}
"""Round trips of a first execution beside those of the bare transaction."""

FIRST = {
    "postgresql": {"first-1": 0.78, "first-0.2": 0.88, "first-1ms": 0.92, "first-8": 0.75},
    "mariadb": {"first-1": 0.70, "first-1ms": 0.75},
    "mysql": {"first-1": 0.70, "first-1ms": 0.75},
    "sqlite": {"full-first-1": 0.80, "normal-first-1": 0.68},
}
"""Throughput of a first execution against the bare transaction, by table."""

ASYNC = {"async-first-1": 0.78, "async-first-0.2": 0.88, "async-first-1ms": 0.92, "async-first-8": 0.85}


class Judge:
    """Goals over some tables, in the order in which they are asked for."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = {table.name: table for table in tables}
        self.goals: list[Goal] = []

    def figure(self, table: str, row: str, column: str) -> float | None:
        """Return a figure, or ``None`` where it was not measured."""
        return self._tables[table].figure(row, column) if table in self._tables else None

    def title(self, table: str) -> str:
        """Name a table for readers."""
        return self._tables[table].title if table in self._tables else table

    def ratio(self, what: str, target: float, table: str, row: str, alone: str = "") -> None:
        """Ask for a throughput, and draw it where the ratio is drawn; `alone`: the row without the library."""
        mine, floor = (self.figure(table, one, "ratio") for one in (row, alone))
        self.goals.append(Goal(what, target, mine, table=table, row=row, alone=floor))

    def beside(self, what: str, target: float, table: str, row: str, other: str, alone: str = "") -> None:
        """Ask for a throughput beside that of another row."""
        mine, floor, others = (self.figure(table, one, "ratio") for one in (row, alone, other))
        measured, least = (None if one is None or others is None else one / others for one in (mine, floor))
        self.goals.append(Goal(what, target, measured, unit="×", alone=least))

    def least(self, what: str, target: float, measured: float | None) -> None:
        """Ask for no less than so many."""
        self.goals.append(Goal(what, target, measured, digits=0))

    def most(self, what: str, target: float, measured: float | None, unit: str = "", digits: int = 0) -> None:
        """Ask for no more than so much."""
        self.goals.append(Goal(what, target, measured, most=True, unit=unit, digits=digits))


def of_server(name: str, tables: Sequence[Table]) -> list[Goal]:
    """Judge a database that is a server."""
    judge = Judge(tables)
    for prefix, targets in (("", FIRST[name]), ("async-", ASYNC if name == "postgresql" else {})):
        if targets:
            _trips(judge, name, prefix)
            _firsts(judge, targets)
        if targets and name == "postgresql":
            one, far = f"{prefix}first-1", f"{prefix}first-1ms"
            judge.beside(f"{judge.title(one)}, beside the claim by hand", 1.3, one, OURS.name, HAND.name, ALONE.name)
            if not prefix:  # deferred=True does nothing in async functions
                judge.ratio(f"{judge.title(far)}, `deferred=True`", 1.05, far, DEFERRED)
            replays = f"{prefix}replay"
            title = judge.title(replays)
            judge.ratio(f"{title}, beside a SELECT by primary key", 1.6, replays, REPLAY.name, AGAIN_ALONE)
            judge.ratio(f"{title}, `lookaside=True`", 2.5, replays, LOOKASIDE, ASIDE_ALONE)
    _storm(judge, "storm")
    return judge.goals


def of_sqlite(tables: Sequence[Table]) -> list[Goal]:
    """Judge SQLite, which has no round trips."""
    judge = Judge(tables)
    _firsts(judge, FIRST["sqlite"])
    _storm(judge, "storm")
    return judge.goals


def _trips(judge: Judge, name: str, prefix: str) -> None:
    table = f"{prefix}trips"
    title = judge.title(table)
    judge.most(f"{title} that a first execution adds", ADDED[name], judge.figure(table, OURS.name, "added"))
    if name == "postgresql":
        judge.most(f"{title} of a replay, in all", 2, judge.figure(table, REPLAY.name, "trips"))


def _firsts(judge: Judge, targets: dict[str, float]) -> None:
    for table, target in targets.items():
        judge.ratio(f"{judge.title(table)}, first execution", target, table, OURS.name, ALONE.name)


def _storm(judge: Judge, table: str) -> None:
    title = judge.title(table)
    for what, column in (("runs", "runs"), ("committed effects", "effects")):
        keys, count = judge.figure(table, OURS.name, "keys"), judge.figure(table, OURS.name, column)
        each = None if keys is None or count is None else count / keys
        judge.most(f"{title}: {what} a key", 1, each, digits=2)
    judge.most(f"{title}: errors that reach a caller", 0, judge.figure(table, OURS.name, "errors"))
    judge.ratio(f"{title}, beside the claim by hand", 0.95, table, OURS.name)
