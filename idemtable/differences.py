"""What of a table in a database is not as this version of the library makes it."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from idemtable.dialects import named
from idemtable.tables import key_table


def index_names(connection: sa.Connection, table: str, schema: str | None) -> dict[str, str]:
    """Give the names of a table's indexes by what they would be had it always been spelled as it is.

    SQLite's rename, and a server that keeps tables in small letters, change the table's capitals and not its indexes'.
    """
    names = [str(index["name"]) for index in sa.inspect(connection).get_indexes(table, schema=schema) if index["name"]]
    own = f"ix_{table}_" if named(connection.dialect.name).folds_indexes else ""
    return {own + name[len(own) :] if name.lower().startswith(own.lower()) else name: name for name in names}


def differences(connection: sa.Connection, table: str, schema: str | None) -> list[tuple[str, str]]:
    """Give what of the table, which is there, is not as it should be: each a kind, by Alembic's name of it, and a text."""
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    inspector, dialect = sa.inspect(connection), connection.dialect
    database = named(dialect.name)
    if schema == dialect.default_schema_name:
        schema = None  # Alembic knows the default schema by no other name
    wanted = key_table(sa.MetaData(), table, schema)

    def include(name: str | None, kind: str, _: Any) -> bool:
        return name == schema if kind == "schema" else kind != "table" or name == table

    def said(fact: Any) -> Any:
        return fact.compile(dialect=dialect) if isinstance(fact, sa.types.TypeEngine) else fact

    there = index_names(connection, table, schema)
    for index in wanted.indexes:
        name = str(index.name)
        index.name = sa.sql.quoted_name(there.get(name, name), None)
    options = {"compare_type": True, "include_schemas": schema is not None, "include_name": include}
    compared = compare_metadata(MigrationContext.configure(connection, opts=options), wanted.metadata)
    found: list[tuple[str, str]] = []
    for kind, *facts in (each for one in compared for each in (one if isinstance(one, list) else [one])):
        if kind in ("add_column", "remove_column"):
            found.append((kind, f"column {facts[2].name} is {'missing' if kind == 'add_column' else 'not ours'}"))
        elif kind in ("modify_type", "modify_nullable"):
            found.append((kind, f"column {facts[2]}: {kind[7:]} is {said(facts[4])}, needs {said(facts[5])}"))
        elif kind in ("add_index", "add_table"):
            found.append((kind, f"{facts[0].name} is missing" if kind == "add_index" else "it is not a table"))
        # Everything else, such as a comment or an index of somebody's own, is the owner's business.
    if inspector.get_pk_constraint(table, schema=schema)["constrained_columns"] != ["id"]:
        found.append(("primary_key", "the primary key is not (id)"))
    # What Alembic does not compare, and what would cut times or refuse keys.
    for column in inspector.get_columns(table, schema=schema) if not found else ():
        flaw = database.column_flaw(column["type"], wanted.c[column["name"]].type.dialect_impl(dialect))
        if flaw is not None:
            found.append(("modify_type", f"column {column['name']}: {flaw}"))
    found += [("table", flaw) for flaw in database.table_flaws(connection, table, schema)]
    return found
