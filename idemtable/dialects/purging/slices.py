"""PostgreSQL's purge: through the table as its rows lie, and not as they expire.

By the index each batch would begin where all the others have been, among the entries of rows that are deleted and not yet
vacuumed away, and would come back to the same pages as they did. Here a batch is a slice of the table that is read and
written once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from ..fragments import MORTAL
from ..libpq import Packet
from . import RENEW, Swept

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from ..base import Dialect
    from ..packet import Line

PART: Final = 1024
"""Blocks of the table, of which no statement reads more: 8 MB take milliseconds, also where hardly a row has expired."""
FEW: Final = 10_000
"""Expired rows that are looked up at a time. So few that the index is taken for them, whatever is believed of the rest."""

# Of a ctid as its type sends it; as text it would take ten times as long. Multiplied, since | and << bind alike.
BLOCK: Final = """(get_byte({0}, 0)::bigint * 16777216 + get_byte({0}, 1) * 65536
            + get_byte({0}, 2) * 256 + get_byte({0}, 3))"""

# In which parts the next rows lie that have expired. That costs for each of them what it takes to read ten in passing, or
# more where they must come from the disk: beyond a sixteenth of the table all of it is gone through instead.
SURVEY: Final = f"""
    SELECT count(*), max(expires_at), string_agg(DISTINCT CAST({BLOCK.format("place")} / :size AS text), ','),
        (SELECT reltuples / 16 FROM pg_class WHERE oid = to_regclass(:table)) AS many,
        pg_relation_size(to_regclass(:table)) / current_setting('block_size')::bigint AS blocks
    FROM (
        SELECT expires_at, tidsend(ctid) AS place FROM {{table}}
        WHERE expires_at >= CAST(:since AS timestamptz) AND expires_at <= {{past}} AND status IN ({MORTAL})
        ORDER BY expires_at LIMIT {{few}}) AS old"""

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
#
# The edge stands there by itself too, which makes it a condition on no row and has it told before any is looked at. A scan
# of the whole table, which a page or two get, compares with it only where a row has passed what is asked first.
SLICE: Final = f"""
    WITH edge AS MATERIALIZED (
        SELECT coalesce((SELECT ctid FROM {{table}} WHERE {_HERE} AND {_OLD} OFFSET :batch LIMIT 1), {_END}) AS place),
    told AS MATERIALIZED (
        SELECT place, set_config('idemtable.edge', CAST(place AS text), true),
            set_config('idemtable.lock_timeout', current_setting('lock_timeout'), true),
            set_config('lock_timeout', '1ms', true)
        FROM edge)
    DELETE FROM {{table}} WHERE (SELECT place FROM told) IS NOT NULL
        AND ctid >= {_START} AND ctid < (SELECT place FROM told) AND {_EXPIRED}"""
_EDGE: Final = """
    SELECT current_setting('idemtable.edge'),
        set_config('lock_timeout', current_setting('idemtable.lock_timeout'), true)"""
CAREFUL: Final = f"""
    WITH free AS MATERIALIZED (
        SELECT ctid AS place FROM {{table}} WHERE {_HERE} AND {_EXPIRED} LIMIT :batch FOR UPDATE SKIP LOCKED),
    gone AS (DELETE FROM {{table}} WHERE ctid = ANY(ARRAY(SELECT place FROM free)) RETURNING 1)
    SELECT count(*), (SELECT CAST(CASE WHEN count(*) = :batch THEN max(place) ELSE {_END} END AS text) FROM free)
    FROM gone"""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a purge knows of where the expired rows lie."""

    since: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    """Up to where it has looked, in the order in which they expire."""
    rows: int = 0
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a purge is on its way through the table."""

    parts: Sequence[int]
    """By number, each of `PART` blocks, those that it has been through among them."""
    at: int
    start: str
    """The first row of the part that it has not seen, as a ctid."""


class Slices:
    """The statements for one table."""

    def __init__(self, dialect: Dialect, size: int = PART, few: int = FEW) -> None:
        self._table, self._size, self._few = dialect.table, size, few
        self._survey = dialect.statement(SURVEY.replace("{few}", str(few)))
        self._slice = dialect.statement(SLICE)
        self._edge = dialect.statement(_EDGE)
        self._careful = dialect.statement(CAREFUL)
        self._renewing, self._slicing, self._telling = (
            Packet(dialect.filled(template)) for template in (RENEW, SLICE, _EDGE)
        )

    def delete(self, connection: Connection, batch: int, rest: Survey | Place | None, careful: bool) -> Swept:
        """Delete at most `batch` expired rows of the part that `rest` is in; `None` begins."""
        if not isinstance(rest, Place):
            rest = self.look(connection, rest or Survey())
        if not isinstance(rest, Place):
            return Swept(0, rest)
        end = self._first(rest.parts[rest.at] + 1)
        values = {"start": rest.start, "end": end, "batch": batch}
        if careful:
            deleted, edge = self._careful(connection, values).first()
        else:
            deleted, edge = self._slice(connection, values).rowcount, self._edge(connection).first()[0]
        return self._swept(deleted, rest, edge, end)

    def sweep(self, connection: Connection, line: Line, lease: Mapping[str, Any], batch: int, rest: Place) -> Swept:
        """Renew the lease and do it in three packets: BEGIN travels with the first, COMMIT with the last.

        One by one, the five waits of a batch take as long as to delete a thousand rows.
        """
        if line.send(connection, (self._renewing, lease)).command_tuples != 1:
            return Swept(0, None)
        end = self._first(rest.parts[rest.at] + 1)
        values = {"start": rest.start, "end": end, "batch": batch}
        gone = line.send(connection, (self._slicing, values))
        told = line.commit_with(connection, (self._telling, {}))
        assert told is not None, "COMMIT follows what has succeeded"
        return self._swept(gone.command_tuples or 0, rest, told.get_value(0, 0).decode(), end)

    def _swept(self, deleted: int, rest: Place, edge: str, end: str) -> Swept:
        return Swept(deleted, replace(rest, start=edge) if edge != end else self._at(rest.parts, rest.at + 1))

    def look(self, connection: Connection, known: Survey) -> Survey | Place | None:
        values = {"table": self._table, "size": self._size, "since": known.since}
        rows, latest, found, many, blocks = self._survey(connection, values).first()
        parts = known.parts.union(map(int, found.split(",") if found else ()))
        if rows < self._few:
            return self._at(sorted(parts), 0)
        if known.rows + rows > many or latest == known.since:
            return self._at(range(blocks // self._size + 1), 0)
        return Survey(latest, known.rows + rows, parts)

    def _at(self, parts: Sequence[int], at: int) -> Place | None:
        return Place(parts, at, self._first(parts[at])) if at < len(parts) else None

    def _first(self, part: int) -> str:
        return f"({part * self._size},0)"
