"""The page of the benchmarks, and its pictures, made from the results and from nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.benchmarks.plots import Dot, draw
from tests.benchmarks.results import NAME, Goal, Part, Results, Row, Table, load, save

PAGE = "benchmarks.md"
PICTURES = "benchmarks"

SECTIONS = {
    "postgresql": "make bench",
    "mariadb": "make bench",
    "mysql": "make bench",
    "sqlite": "make bench",
    "cpu": "make bench",
    "http": "make bench",
    "batch": "make bench",
    "purge": "make bench",
    "growth": "make bench",
    "memory": "make bench",
    "peers": "make bench-peers",
}
"""The parts in the order of the page, with what measures them. Others come behind them."""

COLUMNS = {
    "ratio": ("throughput", 2),
    "trips": ("round trips", 0),
    "added": ("added", 0),
    "rate": ("per second", 0),
    "purged": ("rows deleted per second", 0),
    "keys": ("keys", 0),
    "calls": ("calls", 0),
    "runs": ("runs", 0),
    "effects": ("committed", 0),
    "errors": ("errors", 0),
    "median": ("median, µs", 0),
    "p99": ("p99, µs", 0),
    "cpu": ("CPU, µs", 0),
    "server": ("its server process's CPU, µs", 0),
    "MiB": ("MiB", 1),
}
"""What a figure is called on the page, and its digits. The first of a table has the spread beside it (`low`, `high`)."""

_OURS = re.compile(r"\bidem\.|idemtable")

_HEAD = f"""<!-- Made by `make bench` from {NAME}, which it keeps beside this page: change neither by hand. -->

# Benchmarks

What a call costs beside the transaction that it protects, and whether that is what the library promises. Absolute times are
those of one machine; measure on yours:

```console
make bench                            # all of it: about half an hour, a third of it memory
make bench ARGS="--only postgresql"   # one part
make bench ARGS="--quick"             # whether all parts work; the page goes to .cache/benchmarks/
make bench-peers                      # beside other libraries, in a venv of its own
```

Each ends with an error if a goal that it has measured is missed: make's own exit code, 2, or 1 from the command behind it
(`python -m tests.benchmarks`). The figures stand in [{NAME}]({NAME}) too.
"""

_METHOD = """## How it is measured

- **The business** is one INSERT and one UPDATE in SQLAlchemy Core, in a Session, as a function under the decorator is given
  one. *Bare* is that transaction alone, on an engine that the library was not given. *By hand* is what one would write
  without a library: an INSERT into the same table of keys before, an UPDATE with the result after.
- **All of them use the same connections** to a server. With some of their own, each would have a process or thread of the
  server's, and where the system happens to put that makes the same work up to a third slower, for seconds.
- **Its statements alone** are sent as the library sends them, in the same packets, through a Session (a look before the
  transaction through a Connection). Of the library there is only what writes their values and reads their rows: no key, no
  fingerprint, no result of the function's, no transaction watched, no error handled. What lies between them and the library
  is the library's; a goal that they miss too, no shorter way round them reaches on this machine.
- **Throughput** is a ratio to the first row of its table, in the same run: 1 is as fast, more is faster. With one client
  the variants take turns operation by operation, in random order, so that whatever else the machine does hits all of them
  alike; the ratio is that of the means without the slowest twentieth, the spread its smallest and largest value over seven
  blocks of the run. With eight clients they take turns in slices of time, each between two slices of the first row; the
  ratio is the median, the spread the quartiles.
- **Servers** run on loopback with their usual durability: every COMMIT reaches the disk. The table of keys holds 50,000
  records before (5,000 in a quick run). On loopback a round trip costs next to nothing, so it is also made longer, by a
  proxy that is set until a round trip through it takes 0.2 or 1 ms more than one without it. A client so
  far away has a core of its own, as on a machine of its own, and server and proxy have the others: on its core they would
  empty the caches of a client that waits for them, and what it does then would take half as long again.
- **Round trips** are counted by that proxy: what a client sends and waits for, over calls that follow each other.
- **Storms**: eight threads send the same new key at the same moment, key after key. Runs are counted in the function,
  effects in the table.
"""


def render(results: Results) -> dict[str, str]:
    """Make the page and its pictures; give them by their names."""
    pictures = {
        f"{PICTURES}/{name}-{plot}.svg": draw(f"{part.title}: {plot}", base, groups)
        for name, part in results.items()
        for plot, base, groups in _plots(part)
    }
    lines = [_HEAD, *_goals(results), _METHOD, *_machines(results)]
    for name in _order(results):
        lines += _section(results[name], [picture for picture in pictures if picture.startswith(f"{PICTURES}/{name}-")])
    return {PAGE: "\n".join(lines).rstrip() + "\n", **pictures}


def keep(parts: Results, folder: Path) -> Results:
    """Put parts in the place of older ones in a folder's results, and make its page anew; give all of them."""
    folder.mkdir(parents=True, exist_ok=True)
    save(load(folder) | parts, folder)
    results = load(folder)  # as whoever makes the page again will find them
    write(results, folder)
    return results


def write(results: Results, folder: Path) -> None:
    """Make the page anew."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    for old in (folder / PICTURES).glob("*.svg"):
        old.unlink()
    for name, text in render(results).items():
        (folder / name).write_text(text, encoding="utf-8")


def _order(results: Results) -> list[str]:
    return [name for name in SECTIONS if name in results] + sorted(results.keys() - SECTIONS.keys())


# --- the goals ------------------------------------------------------------------------------------------------------------


def _goals(results: Results) -> Iterator[str]:
    all_of_them = [(part.title, goal) for part in map(results.get, _order(results)) if part for goal in part.goals]
    measured = [goal for _, goal in all_of_them if goal.met is not None]
    met = sum(goal.met is True for goal in measured)
    yield "## Goals\n"
    yield f"{met} of the {len(measured)} goals that were measured are met."
    if absent := len(all_of_them) - len(measured):
        yield f"{absent} could not be measured."
    if missing := [f"`{command}`" for name, command in SECTIONS.items() if name not in results]:
        yield f"Parts of {', '.join(dict.fromkeys(missing))} are missing."
    yield "\n| | what | goal | measured | | its statements alone |\n|---|---|---|---|---|---|"
    for title, goal in all_of_them:
        shown = _target(goal), _shown(goal, goal.measured), _mark(goal), _shown(goal, goal.alone)
        yield f"| {title} | {goal.what} | {' | '.join(shown)} |"
    yield ""


def _mark(goal: Goal) -> str:
    return "not measured" if goal.met is None else "✓" if goal.met else "✗"


def _target(goal: Goal) -> str:
    return f"{'≤' if goal.most else '≥'} {_number(goal.target, goal.digits)}{_unit(goal)}"


def _shown(goal: Goal, figure: float | None) -> str:
    if figure is None:
        return ""
    # Towards the worse side, so that what is shown is never better than what was measured.
    scale = 10**goal.digits
    worse = (math.ceil if goal.most else math.floor)(round(figure * scale, 6)) / scale
    return f"{_number(worse, goal.digits)}{_unit(goal)}"


def _unit(goal: Goal) -> str:
    return f" {goal.unit}" if goal.unit else ""


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


# --- where and when -------------------------------------------------------------------------------------------------------


def _machines(results: Results) -> Iterator[str]:
    yield "## The machine\n"
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in _order(results):
        facts = results[name].stamp.machine
        # The disk is looked at for each part, and answers a little differently each time.
        found.setdefault(tuple(fact for fact in facts.items() if fact[0] != "disk"), []).append(name)
    for facts, names in found.items():
        of = "" if len(found) == 1 else f" ({', '.join(results[name].title for name in names)})"
        yield "- " + ", ".join(f"{what}: {value}" for what, value in facts) + of
    yield ""


def _section(part: Part, pictures: Sequence[str]) -> Iterator[str]:
    stamp = part.stamp
    yield f"## {part.title}\n"
    if stamp.quick:
        yield "**A quick run: it tells that everything works, and little about how fast.**\n"
    yield ", ".join(f"{name} {version}" for name, version in stamp.versions.items()) + "."
    before, after = stamp.load
    times = f"{stamp.seconds:.0f} s, load {before:.1f} before and {after:.1f} after"
    yield f"`{stamp.command}`, {stamp.date}, {times}."
    if "disk" in stamp.machine:
        yield f"Disk: {stamp.machine['disk']}."
    yield ""
    if part.text:
        yield f"{part.text}\n"
    for picture in pictures:
        yield f"![{part.title}: dots are measured, lines their spread, red ticks the goals]({picture})\n"
    for table in part.tables:
        yield f"**{table.title}**\n"
        yield from _rows(table)
        if table.note:
            yield f"{table.note}\n"


def _rows(table: Table) -> Iterator[str]:
    named = {name for row in table.rows for name in row.figures} - {"low", "high"}
    columns = [name for name in COLUMNS if name in named] + sorted(named - COLUMNS.keys())
    yield f"| | {' | '.join(_column(name)[0] for name in columns)} |\n|---|{'---|' * len(columns)}"
    for row in table.rows:
        yield f"| {row.title} | {' | '.join(_cell(row, name, name == columns[0]) for name in columns)} |"
    yield ""


def _column(name: str) -> tuple[str, int]:
    return COLUMNS.get(name, (name, 2))


def _cell(row: Row, column: str, is_first: bool) -> str:
    if column not in row.figures:
        return ""
    value, *spread = (
        _number(row.figures[name], _column(column)[1]) for name in (column, "low", "high") if name in row.figures
    )
    if not is_first or len(spread) != 2 or spread == [value, value]:
        return value
    return f"{value} ({spread[0]}\u2013{spread[1]})"


# --- the pictures ---------------------------------------------------------------------------------------------------------


def _plots(part: Part) -> Iterator[tuple[str, str, list[tuple[str, list[Dot]]]]]:
    """Give each plot of a part: its name, what 1 is, and its groups."""
    goals = {(goal.table, goal.row): goal.target for goal in part.goals}
    for plot in dict.fromkeys(table.plot for table in part.tables if table.plot):
        tables = [table for table in part.tables if table.plot == plot]
        groups = [
            (table.title, [_dot(row, goals.get((table.name, row.name))) for row in table.rows[1:]]) for table in tables
        ]
        yield plot, _plain(tables[0].rows[0].title), [(_plain(title), dots) for title, dots in groups]


def _dot(row: Row, goal: float | None) -> Dot:
    ratio = row.figures["ratio"]
    low, high = (row.figures.get(name, ratio) for name in ("low", "high"))
    return Dot(_plain(row.title), ratio, low, high, goal, ours=bool(_OURS.search(row.title)))


def _plain(text: str) -> str:
    return text.replace("`", "")
