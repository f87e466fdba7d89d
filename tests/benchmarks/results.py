"""What the benchmarks have measured: a JSON file beside the page, which is made from it and from nothing else.

Each command replaces its own parts of it and leaves the others, which carry the date and the machine of their own run::

    part = Part("Batches", stamp(begun, quick=False, versions={"server": "18.1"}), tables=[...], goals=[...])
    keep({"batch": part}, FOLDER)
"""

from __future__ import annotations

from pathlib import Path

import msgspec

FOLDER = Path(__file__).parents[2] / "docs"
ROUGH = FOLDER.parent / ".cache" / "benchmarks"
"""Where a quick run's page goes: it tells that all parts work, and not how fast they are."""

NAME = "benchmarks.json"


class Row(msgspec.Struct, frozen=True):
    """What one variant did.

    Args:
        name: by which goals and plots find it.
        title: for readers.
        figures: by the name of their column (`page.COLUMNS`).
    """

    name: str
    title: str
    figures: dict[str, float]


class Table(msgspec.Struct, frozen=True):
    """The rows of one comparison.

    Args:
        name: by which goals and plots find it.
        title: for readers.
        rows: its variants.
        note: a sentence below it, in Markdown.
        plot: the picture that its ratios are drawn in, beside those of other tables; none if empty.
    """

    name: str
    title: str
    rows: list[Row]
    note: str = ""
    plot: str = ""

    def figure(self, row: str, column: str) -> float | None:
        """Return a figure, or ``None`` where it was not measured."""
        return next((one.figures.get(column) for one in self.rows if one.name == row), None)


class Goal(msgspec.Struct, frozen=True):
    """A figure that is promised.

    Args:
        what: was measured, in words.
        target: to be reached.
        measured: ``None`` where it could not be.
        most: whether the target is the most that is allowed, and not the least.
        unit: behind the figures.
        digits: of the figures.
        table, row: where a plot shows the target.
        alone: what its statements alone have reached, where that was measured.
    """

    what: str
    target: float
    measured: float | None
    most: bool = False
    unit: str = ""
    digits: int = 2
    table: str = ""
    row: str = ""
    alone: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether it is reached; ``None`` where it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.target if self.most else self.measured >= self.target


class Stamp(msgspec.Struct, frozen=True):
    """Where and when a part was measured.

    Args:
        date: of the day on which it ended, as ISO 8601 has it.
        command: that did it.
        quick: whether it was too short to say much.
        seconds: that it took.
        load: of the machine before and after, processes that run or wait.
        machine: its facts.
        versions: of Python, of packages and of servers.
    """

    date: str
    command: str
    quick: bool
    seconds: float
    load: tuple[float, float]
    machine: dict[str, str]
    versions: dict[str, str]


class Part(msgspec.Struct, frozen=True):
    """One section of the page.

    Args:
        title: of it.
        stamp: where and when.
        tables: in order.
        goals: in order.
        text: above the tables, in Markdown.
    """

    title: str
    stamp: Stamp
    tables: list[Table]
    goals: list[Goal]
    text: str = ""

    def figure(self, table: str, row: str, column: str) -> float | None:
        """Return a figure, or ``None`` where it was not measured."""
        return next((one.figure(row, column) for one in self.tables if one.name == table), None)


Results = dict[str, Part]


def load(folder: Path) -> Results:
    """Read the results that are kept in a folder; there may be none."""
    path = folder / NAME
    return msgspec.json.decode(path.read_bytes(), type=Results) if path.exists() else {}


def save(results: Results, folder: Path) -> None:
    """Write results, in a form whose changes can be read."""
    text = msgspec.json.format(msgspec.json.encode(dict(sorted(results.items()))), indent=1)
    (folder / NAME).write_bytes(text + b"\n")
