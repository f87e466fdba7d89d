"""What is in all tables of a database, and what of it has changed between two looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from uuid import UUID

import sqlalchemy as sa

from ..dialects import full_name, known
from ..model import Status
from ..tables import metadata

Row: TypeAlias = Mapping[str, Any]

_OWN: Final = frozenset(metadata.tables["idemtable"].columns.keys())
"""The columns of the table of keys, by which it is known under any name."""
_SHOWN: Final = ("id", "tenant", "scope", "key")
"""What of a key's row says whose it is and how far it is: the rest is another each time that it is written."""
_TABLES: Final = "(tables)"
"""A table of the tables, under a name that none has: of one that is made and left empty no row would tell."""


@dataclass(frozen=True)
class Content:
    """The rows of one table."""

    identity: tuple[str, ...]
    """The columns of its primary key; none where it has none."""
    rows: list[Row]

    def by_identity(self) -> dict[str, Row]:
        """Return the rows by the values of the primary key."""
        return {repr([row[name] for name in self.identity]): row for row in self.rows}


Snapshot: TypeAlias = dict[str, Content]
"""The content of each table, by its full name."""
Identities: TypeAlias = dict[str, tuple[str, ...]]
"""The columns of the primary key of each table that was seen: to ask for them takes longer than to read a table."""


@dataclass(frozen=True)
class Change:
    """One row that is not as it was."""

    table: str
    before: Row | None
    """``None`` of a row that is new."""
    after: Row | None
    """``None`` of a row that is gone."""

    @property
    def kind(self) -> str:
        """What has become of the row."""
        if self.before is None:
            return "added"
        return "removed" if self.after is None else "changed"


def look(connection: sa.Connection, ignore: Collection[str], identities: Identities) -> Snapshot:
    """Read all tables, in one transaction that is ended again.

    Args:
        connection: in no transaction.
        identities: what earlier looks have found out.
        ignore: names of tables that are left out, with their schema where that is not the connection's.
    """
    inspector = sa.inspect(connection)
    found: Snapshot = {}
    for schema in known[connection.dialect.name].schemas(inspector):
        named = None if schema == inspector.default_schema_name else schema
        for table in inspector.get_table_names(schema):
            if (name := full_name(table, named)) not in ignore:
                if name not in identities:
                    identities[name] = tuple(inspector.get_pk_constraint(table, schema)["constrained_columns"])
                found[name] = Content(identities[name], list(_rows(connection, sa.table(table, schema=schema))))
    connection.rollback()
    found[_TABLES] = Content(("name",), [{"name": name} for name in found])
    return found


def _rows(connection: sa.Connection, table: sa.TableClause) -> Iterator[Row]:
    # As the driver gives them. The types of a reflected table would read what is no date on SQLite, or an unknown type.
    result = connection.execute(sa.select(sa.text("*")).select_from(table))
    if _OWN.issuperset(names := list(result.keys())) and _OWN.issubset(names):
        for row in result.mappings():
            id = row["id"]
            shown = {name: row[name] for name in _SHOWN} | {"status": Status.from_code(row["status"]).value}
            yield shown | {"id": id.hex if isinstance(id, UUID) else bytes(id).hex()}
    else:
        yield from map(dict, result.mappings())


def changes(before: Snapshot, after: Snapshot) -> list[Change]:
    """Return what is different in the second of two looks."""
    empty = Content((), [])
    return [
        change
        for name in sorted({*before, *after})
        for change in _changes(name, before.get(name, empty), after.get(name, empty))
    ]


def _changes(table: str, before: Content, after: Content) -> Iterator[Change]:
    if before.rows == after.rows:
        return
    if after.identity or before.identity:
        old, new = before.by_identity(), after.by_identity()
        for id in [*old, *(id for id in new if id not in old)]:
            if old.get(id) != new.get(id):
                yield Change(table, old.get(id), new.get(id))
        return
    left, come = _without(before.rows, after.rows), _without(after.rows, before.rows)
    if len(left) == len(come) == 1:  # without a primary key nothing says so, but that it is one
        yield Change(table, left[0], come[0])
        return
    yield from (Change(table, row, None) for row in left)
    yield from (Change(table, None, row) for row in come)


def _without(rows: list[Row], others: list[Row]) -> list[Row]:
    rest = Counter(repr(row) for row in others)
    kept = []
    for row in rows:
        if rest[text := repr(row)] > 0:
            rest[text] -= 1
        else:
            kept.append(row)
    return kept
