"""What one call leaves, measured on calls with different keys; and how what other calls have left differs from that.

Ids, times and the key itself are others in each call. Nobody has to say which columns those are: what differs between two
calls that were made once each tells nothing of a third. Alike must be how many rows of a table were added, removed and
changed, and in them

- the values of every column, where they are the same each time;
- of a changed row also by how much: a balance is another one after each call, and goes down by the same amount. A text that
  is added to grows by as much.
"""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from reprlib import Repr
from typing import Any, Final, NamedTuple, TypeAlias

from .snapshot import Change, Row

_DAY: Final = 86_400.0
_GRACE: Final = 5.0
"""Seconds between the time that a fixture has written and the first call, and what a column in whole seconds rounds."""
_MOST: Final = 10
"""Rows that a message shows of a table."""
_brief: Final = Repr()
_brief.maxstring = _brief.maxother = 80

Group: TypeAlias = tuple[str, str]
"""A table, and what has become of rows of it."""
View: TypeAlias = tuple[str, str]
"""What is looked at in a row: a column, and what of it."""
Terms: TypeAlias = frozenset[tuple[str, str]]
"""Tables and columns with a time that every single call has put off by more than the time that has passed."""


class Left(NamedTuple):
    """What calls have left in one group of rows."""

    changes: list[Change]
    values: dict[View, Counter[str]]


def left(changes: list[Change], terms: Terms) -> dict[Group, Left]:
    """Sort what calls have left."""
    groups: dict[Group, Left] = defaultdict(lambda: Left([], defaultdict(Counter)))
    for change in changes:
        views = dict(_views(change, terms))
        if change.kind == "changed" and not any(value for (_, what), value in views.items() if what != "is"):
            continue  # nothing but the time of the last change, which is the same one in the same second
        group = groups[change.table, change.kind]
        group.changes.append(change)
        for view, value in views.items():
            group.values[view][repr(value)] += 1
    return dict(groups)


def _views(change: Change, terms: Terms) -> Iterator[tuple[View, Any]]:
    if change.before is None or change.after is None:
        for column, value in (change.before or change.after or {}).items():
            yield (column, "is"), value
        return
    for column, value in change.after.items():
        yield (column, "is"), value
        yield (column, "by"), _step(change.before.get(column), value)
        if (change.table, column) in terms:
            yield (column, "by seconds"), _seconds(change.before.get(column), value)


def _step(before: Any, after: Any) -> Any:
    """Say by how much a value has changed; zero or ``False`` for not at all, and for the time it is."""
    if (seconds := _seconds(before, after)) is not None:
        # In hours: two times at which it happened to be done are less than half an hour apart. Terms are looked at closer.
        return round(seconds / 3600.0)
    if isinstance(before, bool) or isinstance(after, bool):
        return before != after
    if isinstance(before, int | float | Decimal) and isinstance(after, int | float | Decimal):
        return Decimal(str(after)) - Decimal(str(before)) if repr(before) != repr(after) else 0
    sizes = _size(before), _size(after)
    if None not in sizes and repr(before) != repr(after):
        return f"{sizes[1] - sizes[0]:+} entries"  # type: ignore[operator]
    if isinstance(before, str) and isinstance(after, str) and before != after:
        shorter, longer = sorted((before, after), key=len)
        if longer.startswith(shorter) or longer.endswith(shorter):  # added to, and not another one
            return f"{len(after) - len(before):+} characters"
    return repr(before) != repr(after)


def _seconds(before: Any, after: Any) -> float | None:
    """Return by how much a time has been put off, and ``None`` for what is no time."""
    since, until = _moment(before), _moment(after)
    return None if since is None or until is None else round(until - since, 3)


def _put_off(changes: list[Change], passed: float) -> Terms:
    """Return the columns with a time that was put off by more than so many seconds, in one row or another."""
    return frozenset(
        (change.table, column)
        for change in changes
        if change.before is not None and change.after is not None
        for column, value in change.after.items()
        if abs(_seconds(change.before.get(column), value) or 0.0) > passed
    )


def _moment(value: Any) -> float | None:
    """Return the seconds of what is a time, in whatever form a database or its driver gives it."""
    if isinstance(value, str) and 10 <= len(value) <= 40 and value[:4].isdigit():
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        return value.replace(tzinfo=value.tzinfo or UTC).timestamp()
    if isinstance(value, date):
        return value.toordinal() * _DAY
    if isinstance(value, timedelta):  # a TIME, as PyMySQL gives it
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        now = time.time()
        return next((value / unit for unit in (1, 1e3, 1e6, 1e9) if abs(value / unit - now) < _DAY), None)
    return None


def _size(value: Any) -> int | None:
    """Return how many entries a list or an object has, which most drivers give as the text of its JSON."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except ValueError:
            return None
    return len(value) if isinstance(value, list | dict | tuple | set) else None


class Measure:
    """What one call leaves, as far as it was seen."""

    def __init__(self) -> None:
        self._seen: list[list[Change]] = []
        self._terms: list[Terms] = []
        self._began = time.monotonic()

    def add(self, changes: list[Change]) -> None:
        """See what one more call has left."""
        self._seen.append(changes)
        # What is further on than the clock can be is no time at which something happened to be done.
        self._terms.append(_put_off(changes, time.monotonic() - self._began + _GRACE))

    def differences(self, changes: list[Change]) -> list[str]:
        """Say table by table how what calls have left is more, less or something else than what one call leaves."""
        terms = frozenset.intersection(*self._terms)
        here, seen = left(changes, terms), [left(one, terms) for one in self._seen]
        groups = sorted({*here, *(group for one in seen for group in one)})
        return [line for group in groups for line in _differences(group, here, seen)]


def _differences(group: Group, left_here: dict[Group, Left], seen: list[dict[Group, Left]]) -> Iterator[str]:
    table, kind = group
    here, all_seen = left_here.get(group, _NOTHING), [one.get(group, _NOTHING) for one in seen]
    alike = [one for one in all_seen if len(one.changes) == len(here.changes)]
    if not alike:
        counts = " or ".join(map(str, sorted({len(one.changes) for one in all_seen})))
        yield f"table {table}: {_rows(len(here.changes))} {kind}, where one call leaves {counts}"
    else:
        views = [
            view
            for view, values in alike[0].values.items()
            if values != here.values.get(view) and all(one.values.get(view) == values for one in alike)
        ]
        if not views:
            return
        yield f"table {table}: {kind} otherwise than by one call, in " + ", ".join(dict(views))
    yield from _shown("here", here)
    yield from _shown("one call", all_seen[-1])


_NOTHING: Final = Left([], {})


def _rows(count: int) -> str:
    return f"{count} row{'' if count == 1 else 's'}"


def _shown(whose: str, group: Left) -> Iterator[str]:
    if not group.changes:
        yield f"    {whose}: none"
    for change in group.changes[:_MOST]:
        before, after = (None if row is None else _text(row) for row in (change.before, change.after))
        yield f"    {whose}: " + " -> ".join(text for text in (before, after) if text is not None)
    if len(group.changes) > _MOST:
        yield f"    {whose}: and {len(group.changes) - _MOST} more"


def _text(row: Row) -> str:
    return "(" + ", ".join(f"{name}={_brief.repr(value)}" for name, value in row.items()) + ")"
