"""PostgreSQL's purge: through the table as its rows lie, and not as they expire.

By the index each batch would begin where all the others have been, among the entries of rows that are deleted and not yet
vacuumed away, and would come back to the same pages as they did. Here a batch is a slice of the table that is read and
written once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from .base import MORTAL
from .sweep import Swept

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .base import Dialect

PART: Final = 1024
"""Blocks of the table, of which no statement reads more: 8 MB take milliseconds, also where hardly a row has expired."""
FEW: Final = 10_000
"""Expired rows that are looked up at least before all of a table is read: it takes some milliseconds."""

# Of a ctid as its type sends it; as text it would take ten times as long. Multiplied, since | and << bind alike.
BLOCK: Final = """(get_byte({0}, 0)::bigint * 16777216 + get_byte({0}, 1) * 65536
            + get_byte({0}, 2) * 256 + get_byte({0}, 3))"""

# In which parts anything has expired. The index tells it, for what it costs to read eight rows in passing: where it is more
# than an eighth of the table, all of it is gone through. Where nothing has expired it is one look.
_SURVEY: Final = f"""
    WITH bound AS MATERIALIZED (
        SELECT greatest(:few, reltuples / 8)::bigint AS rows FROM pg_class WHERE oid = to_regclass(:table)),
    parts AS (
        SELECT {BLOCK.format("place")} / :size AS part, count(*) AS rows
        FROM (
            SELECT tidsend(ctid) AS place FROM {{table}} WHERE expires_at <= (SELECT {{past}}) AND status IN ({MORTAL})
            LIMIT (SELECT rows FROM bound)) AS old
        GROUP BY part)
    SELECT string_agg(CAST(part AS text), ','), sum(rows) = (SELECT rows FROM bound),
        pg_relation_size(to_regclass(:table)) / current_setting('block_size')::bigint
    FROM parts"""

_START, _END = (f"CAST(CAST(:{name} AS text) AS tid)" for name in ("start", "end"))
_HERE: Final = f"ctid >= {_START} AND ctid < {_END}"
# So that no index fits it: where few rows are believed to have expired, the index would be taken instead of the slice, and
# walked from its beginning for each slice.
_OLD: Final = "(expires_at > (SELECT {past})) IS NOT TRUE"
_EXPIRED: Final = f"{_OLD} AND {{expires}} <= (SELECT {{past}}) AND status IN ({MORTAL})"

# The edge is the first row that may be one too many for the batch, or the end. A setting tells it: to return the rows, even
# to count them, would cost half of what it costs to delete them. They are not locked first, which would be to write each of
# them twice. Whoever holds one is waited for no longer than the shortest time there is, and then the slice is done again
# with care.
_SLICE: Final = f"""
    WITH edge AS MATERIALIZED (
        SELECT coalesce((SELECT ctid FROM {{table}} WHERE {_HERE} AND {_OLD} OFFSET :batch LIMIT 1), {_END}) AS place),
    told AS MATERIALIZED (
        SELECT place, set_config('idemtable.edge', CAST(place AS text), true),
            set_config('idemtable.lock_timeout', current_setting('lock_timeout'), true),
            set_config('lock_timeout', '1ms', true)
        FROM edge)
    DELETE FROM {{table}} WHERE ctid >= {_START} AND ctid < (SELECT place FROM told) AND {_EXPIRED}"""
_EDGE: Final = """
    SELECT current_setting('idemtable.edge'),
        set_config('lock_timeout', current_setting('idemtable.lock_timeout'), true)"""
_CAREFUL: Final = f"""
    WITH free AS MATERIALIZED (
        SELECT ctid AS place FROM {{table}} WHERE {_HERE} AND {_EXPIRED} LIMIT :batch FOR UPDATE SKIP LOCKED),
    gone AS (DELETE FROM {{table}} WHERE ctid = ANY(ARRAY(SELECT place FROM free)) RETURNING 1)
    SELECT count(*), (SELECT CAST(CASE WHEN count(*) = :batch THEN max(place) ELSE {_END} END AS text) FROM free)
    FROM gone"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a purge is."""

    parts: Sequence[int]
    """By number, each of `PART` blocks, those that it has been through among them."""
    at: int
    start: str
    """The first row of the part that it has not seen, as a ctid."""


class Slices:
    """The statements for one table."""

    def __init__(self, dialect: Dialect, size: int = PART, few: int = FEW) -> None:
        self._size = size
        self._bounds = {"table": dialect.table, "size": size, "few": few}
        self._survey = dialect.statement(_SURVEY)
        self._slice = dialect.statement(_SLICE)
        self._edge = dialect.statement(_EDGE)
        self._careful = dialect.statement(_CAREFUL)

    def delete(self, connection: Connection, batch: int, rest: Place | None, careful: bool) -> Swept:
        """Delete at most `batch` expired rows of the part that `rest` is in; `None` begins."""
        place = rest or self._beginning(connection)
        if place is None:
            return Swept(0, None)
        end = self._first(place.parts[place.at] + 1)
        values = {"start": place.start, "end": end, "batch": batch}
        if careful:
            deleted, edge = self._careful(connection, values).first()
        else:
            deleted, edge = self._slice(connection, values).rowcount, self._edge(connection).first()[0]
        return Swept(deleted, replace(place, start=edge) if edge != end else self._at(place.parts, place.at + 1))

    def _beginning(self, connection: Connection) -> Place | None:
        found, more, blocks = self._survey(connection, self._bounds).first()
        if more:
            return self._at(range(blocks // self._size + 1), 0)
        return self._at(sorted(map(int, found.split(","))) if found else (), 0)

    def _at(self, parts: Sequence[int], at: int) -> Place | None:
        return Place(parts, at, self._first(parts[at])) if at < len(parts) else None

    def _first(self, part: int) -> str:
        return f"({part * self._size},0)"
