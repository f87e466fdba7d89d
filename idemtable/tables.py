"""The Table objects: the key table and its version table, of portable types, as each database wants them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

import sqlalchemy as sa

from idemtable.dialects import Types, full_name, known

Type: TypeAlias = sa.types.TypeEngine[Any]

# 48, because the longest name made from it, ix_<table>_expires_at, must fit PostgreSQL's 63.
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,47}")


def _typed(portable: Type, own: Callable[[Types], Type | None]) -> Type:
    # Once for each name: a mariadb:// URL does not look at what is given for "mysql".
    for name, database in known.items():
        if (variant := own(database.types)) is not None:
            portable = portable.with_variant(variant, name)
    return portable


def _text(length: int) -> Type:
    return _typed(sa.String(length), lambda types: types.text and types.text(length))


def _binary(length: int) -> Type:
    return _typed(sa.LargeBinary(length), lambda types: types.binary and types.binary(length))


def check_names(table: str, schema: str | None = None) -> None:
    """Refuse names that are not plain identifiers; ``ValueError``."""
    for what, name in {"table": table, "schema": "none" if schema is None else schema}.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{what} must be 1 to 48 ASCII letters, digits and underscores, not starting with a digit")


def translated(schema: str | None, options: Mapping[str, Any]) -> str | None:
    """Return the schema that SQLAlchemy puts in the place of this one, by the execution options of a connection."""
    names = options.get("schema_translate_map")
    return names.get(schema, schema) if names else schema


@contextmanager
def untranslated(connection: sa.Connection, schema: str | None) -> Iterator[str | None]:
    """Switch a connection's ``schema_translate_map`` off meanwhile; give the schema that it makes of this one.

    What looks into the catalogue goes by the names given, what creates a table goes by the map: with both at work a
    table is made in one schema and looked for in another.
    """
    names = connection.get_execution_options().get("schema_translate_map")
    if not names:
        yield schema
        return
    connection.execution_options(schema_translate_map=None)
    try:
        yield names.get(schema, schema)
    finally:
        connection.execution_options(schema_translate_map=names)


def key_table(metadata: sa.MetaData, table: str, schema: str | None) -> sa.Table:
    """Give the table of keys; names were checked."""
    id = _typed(sa.LargeBinary(16), lambda types: types.id)
    blob = _typed(sa.LargeBinary(), lambda types: types.blob)
    time = _typed(sa.DateTime(timezone=True), lambda types: types.time)
    options = {f"{name}_{option}": value for name, cls in known.items() for option, value in cls.options.items()}
    return sa.Table(
        table,
        metadata,
        sa.Column("id", id, nullable=False),
        sa.Column("tenant", _text(255)),
        sa.Column("scope", _text(255), nullable=False),
        sa.Column("key", _text(255)),
        sa.Column("fingerprint", _binary(32)),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("owner", _binary(16), nullable=False),
        sa.Column("codec", _text(64)),
        sa.Column("result", blob),
        sa.Column("created_at", time, nullable=False),
        sa.Column("completed_at", time),
        sa.Column("expires_at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name=f"{table}_pkey"),
        sa.Index(f"ix_{table}_expires_at", "expires_at"),
        schema=schema,
        **options,
    )


def version_table(metadata: sa.MetaData, table: str, schema: str | None) -> sa.Table:
    """Give the table that says which step the other one is at."""
    return sa.Table(
        f"{table}_version",
        metadata,
        sa.Column("version_num", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("version_num", name=f"{table}_version_pkc"),
        schema=schema,
    )


def build(metadata: sa.MetaData, table: str = "idemtable", schema: str | None = None) -> sa.Table:
    """Give the table in this ``MetaData``, with its version table beside it.

    Raises ``ValueError`` for a name that is not a plain identifier.
    """
    check_names(table, schema)
    known = metadata.tables.get(full_name(table, schema))
    if known is not None:
        return known
    version_table(metadata, table, schema)
    return key_table(metadata, table, schema)


metadata: Final = sa.MetaData()
"""For the application's ``target_metadata``; call ``build(metadata, table, schema)`` when the names differ."""
build(metadata)
