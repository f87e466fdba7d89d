"""Alembic's environment for a checkout: online, offline and async.

The database comes from ``alembic -x url=…`` or ``IDEMTABLE_URL``, other names from ``-x table=…`` and ``-x schema=…``.
"""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util import CommandError

from idemtable.dialects import named
from idemtable.errors import SchemaError
from idemtable.schema import build, check_names
from idemtable.upgrade import connected, locked, make_url

given = context.get_x_argument(as_dictionary=True)
if unknown := ", ".join(sorted({*given} - {"url", "table", "schema"})):
    raise CommandError(f"-x takes url=…, table=… and schema=…, not {unknown}")
names: dict[str, Any] = {"table": given.get("table", "idemtable"), "schema": given.get("schema")}
try:
    check_names(**names)
    # Not through the configuration: there a % in a password would be read as an interpolation.
    url = make_url(given.get("url") or os.environ["IDEMTABLE_URL"])
except KeyError:
    raise CommandError("which database? Set IDEMTABLE_URL or pass -x url=…") from None
except ValueError as error:
    raise CommandError(str(error)) from None

target_metadata = sa.MetaData()
build(target_metadata, **names)


def only_the_table(name: str | None, kind: str, _: Any) -> bool:
    """Leave the rest of the database out of the comparison."""
    return name == names["schema"] if kind == "schema" else kind != "table" or name == names["table"]


options: dict[str, Any] = {
    "target_metadata": target_metadata,
    "version_table": f"{names['table']}_version",
    "version_table_schema": names["schema"],
    "include_schemas": names["schema"] is not None,
    "include_name": only_the_table,
    "compare_type": True,
}


def migrate(connection: sa.Connection) -> None:
    """Run what the command asked for, in one transaction, under the lock of everybody who upgrades."""
    try:
        # Before Alembic makes the table of its version there.
        named(connection.dialect.name).check_schema(names["schema"], connection, create=False)
    except (SchemaError, ValueError) as error:
        raise CommandError(str(error)) from None
    with locked(connection, **names):
        context.configure(connection=connection, **options)
        context.run_migrations(**names)


if context.is_offline_mode():
    context.configure(dialect_name=url.get_backend_name(), literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations(**names)
else:
    connected(url, migrate)
