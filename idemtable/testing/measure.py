"""What one call leaves, measured on calls with different keys; and how what other calls have left differs from that.

Ids, times and the key itself are others in each call. Nobody has to say which columns those are: what differs between two
calls that were made once each tells nothing of a third. Alike must be how many rows of a table were added, removed and
changed, and in them

- the values of every column, where they are the same each time;
- of a changed row also by how much: a balance is another one after each call, and goes down by the same amount.
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
_MOST: Final = 10
"""Rows that a message shows of a table."""
_brief: Final = Repr()
_brief.maxstring = _brief.maxother = 80

Group: TypeAlias = tuple[str, str]
"""A table, and what has become of rows of it."""
View: TypeAlias = tuple[str, str]
"""What is looked at in a row: a column, and what of it."""


class Left(NamedTuple):
    """What calls have left in one group of rows."""

    changes: list[Change]
    values: dict[View, Counter[str]]


def left(changes: list[Change]) -> dict[Group, Left]:
    """Sort what calls have left."""
    groups: dict[Group, Left] = defaultdict(lambda: Left([], defaultdict(Counter)))
    for change in changes:
        views = dict(_views(change))
        if change.kind == "changed" and not any(value for (_, what), value in views.items() if what == "by"):
            continue  # nothing but the time of the last change, which is the same one in the same second
        group = groups[change.table, change.kind]
        group.changes.append(change)
        for view, value in views.items():
            group.values[view][repr(value)] += 1
    return dict(groups)


def _views(change: Change) -> Iterator[tuple[View, Any]]:
    if change.before is None or change.after is None:
        for column, value in (change.before or change.after or {}).items():
            yield (column, "is"), value
        return
    for column, value in change.after.items():
        yield (column, "is"), value
        yield (column, "by"), _step(change.before.get(column), value)


def _step(before: Any, after: Any) -> Any:
    """Say by how much a value has changed; zero or ``False`` for not at all, and for the time it is."""
    moments = _moment(before), _moment(after)
    if None not in moments:
        # In hours: two times at which it happened to be done are less than half an hour apart, and a term that is prolonged
        # is prolonged by more.
        return round((moments[1] - moments[0]) / 3600.0)  # type: ignore[operator]
    if isinstance(before, bool) or isinstance(after, bool):
        return before != after
    if isinstance(before, int | float | Decimal) and isinstance(after, int | float | Decimal):
        return Decimal(str(after)) - Decimal(str(before)) if repr(before) != repr(after) else 0
    sizes = _size(before), _size(after)
    if None not in sizes and repr(before) != repr(after):
        return f"{sizes[1] - sizes[0]:+} entries"  # type: ignore[operator]
    return repr(before) != repr(after)


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
        self._seen: list[dict[Group, Left]] = []

    def add(self, changes: list[Change]) -> None:
        """See what one more call has left."""
        self._seen.append(left(changes))

    def differences(self, changes: list[Change]) -> list[str]:
        """Say table by table how what calls have left is more, less or something else than what one call leaves."""
        here = left(changes)
        groups = sorted({*here, *(group for one in self._seen for group in one)})
        return [line for group in groups for line in self._differences(group, here.get(group, _NOTHING))]

    def _differences(self, group: Group, here: Left) -> Iterator[str]:
        table, kind = group
        all_seen = [one.get(group, _NOTHING) for one in self._seen]
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
