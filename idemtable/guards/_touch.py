"""A locked row that is written as well, to what it is: nodes of a cluster hear of writes, and not of locks."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    Numeric,
    Table,
    TypeDecorator,
    UniqueConstraint,
    case,
    func,
    literal_column,
    type_coerce,
    update,
)

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.orm import Session

    from ..dialects import Dialect
    from ._rows import Rows


def touch(session: Session, rows: Rows, dialect: Dialect, condition: ColumnElement[bool], count: int) -> None:
    """Write rows that the transaction has locked, and leave them as they are.

    Args:
        session: that holds them.
        rows: of which class.
        dialect: of its database.
        condition: is true for the rows.
        count: how many they are.

    Raises:
        TypeError: the database writes nothing where nothing changes, and no column can be changed and changed back.
    """
    table: Table = rows.primary_key[0].table  # of the class that all others inherit from
    same = {one: one for one in table.columns if one.computed is None and _changes_along(one)}
    columns = _candidates(rows, table)
    if not dialect.skips_equal:
        one = next(columns, rows.primary_key[0])
        rows.execute(session, update(table).values({**same, one: one}).where(condition))
        return
    column = next((column for column in columns if _unit(column) is not None and not column.nullable), None)
    if column is None:
        raise TypeError(
            f"touch=True changes a number and changes it back, since this database writes nothing where nothing changes; "
            f"{rows.name} has no column of integers or decimals that is NOT NULL and neither unique nor a key: "
            f"give it one, such as a version"
        )
    changed, fits = _neighbour(column)
    statement = update(table).values({**same, column: changed}).where(condition, fits)
    if rows.execute(session, statement).rowcount != count:
        raise TypeError(
            f"{rows.name}.{rows.key_of(column)} is of another type in the database: touch=True cannot write it"
        )
    rows.execute(session, statement)


def _candidates(rows: Rows, table: Table) -> Iterator[Column[Any]]:
    """Yield what may hold another value for a moment, the most harmless first."""
    bound = {*table.primary_key}
    for one in (*table.constraints, *table.indexes):
        if isinstance(one, UniqueConstraint) or (isinstance(one, Index) and one.unique):
            bound.update(one.columns)
    checks = " ".join(str(one.sqltext) for one in table.constraints if isinstance(one, CheckConstraint))
    version = rows.mapper.version_id_col if rows.mapper is not None else None
    free = [
        column
        for column in table.columns
        if not (column in bound or column.foreign_keys or column.computed or column.identity or column.system)
    ]
    discriminator = rows.mapper.polymorphic_on if rows.mapper is not None else None
    yield from sorted(
        (column for column in free if column is not discriminator),
        key=lambda column: (column is not version, column.name in checks, column.name not in ("version", "version_id")),
    )


def _changes_along(column: Column[Any]) -> bool:
    """Say whether a column may change with others: a time may where the database was told so, and the metadata were not."""
    return column.onupdate is not None or column.server_onupdate is not None or isinstance(column.type, DateTime)


def _unit(column: Column[Any]) -> Decimal | None:
    """Return by how much the value of a column of numbers can differ from the next one's, if that is known."""
    kind: Any = column.type
    while isinstance(kind, TypeDecorator):
        kind = kind.impl_instance
    if isinstance(kind, Integer | Boolean):
        return Decimal(1)
    if isinstance(kind, Numeric) and not isinstance(kind, Float):
        return Decimal(1).scaleb(-(kind.scale or 0))
    return None


def _neighbour(column: Column[Any]) -> tuple[ColumnElement[Any], ColumnElement[bool]]:
    """Return the other one of a pair of values, and the condition that the value is one of a pair.

    Even numbers and the odd ones above them are pairs: the neighbour's neighbour is what it was. The greatest value of
    every type is odd, the least one of integers even: no neighbour is out of range, or from zero on below zero.
    """
    unit = _unit(column)
    value = type_coerce(column, Integer)  # a type of the program's would have a say in what is computed
    assert unit is not None
    # In full: as 1E-8 it would be a float to these databases, in which no sum is exact.
    up, down = literal_column(f"{unit:f}", Integer), literal_column(f"-{unit:f}", Integer)
    # Without its sign: MariaDB has decimals of -0.00, which are not zero. Not by IN, whose list it may take for floats.
    rest = func.abs(func.mod(value, literal_column(f"{2 * unit:f}", Integer)))
    even = rest == literal_column("0")
    return value + case((even, up), else_=down), even | (rest == up)
