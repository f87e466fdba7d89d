"""The table.

Revision ID: 0001
Revises:
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from idemtable.migrations import guarded
from sqlalchemy.dialects import mysql, postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# After this step, so that a table without a version row can be recognised.
COLUMNS = {"id", "tenant", "scope", "key", "fingerprint", "status", "owner", "codec", "result"} | {
    "created_at",
    "completed_at",
    "expires_at",
}


def upgrade(table: str = "idemtable", schema: str | None = None) -> None:
    """Create the table and its index."""
    text = sa.String(255).with_variant(postgresql.TEXT(), "postgresql")
    codec = sa.String(64).with_variant(postgresql.TEXT(), "postgresql")
    key = (
        sa.LargeBinary(16)
        .with_variant(mysql.BINARY(16), "mysql", "mariadb")
        .with_variant(postgresql.UUID(as_uuid=True), "postgresql")
    )
    bytes16 = sa.LargeBinary(16).with_variant(mysql.BINARY(16), "mysql", "mariadb")
    bytes32 = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
    blob = sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")
    time = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    index = f"ix_{table}_expires_at"
    with guarded(table, schema) as there:
        if there is None or table not in there:
            op.create_table(
                table,
                sa.Column("id", key, nullable=False),
                sa.Column("tenant", text),
                sa.Column("scope", text, nullable=False),
                sa.Column("key", text),
                sa.Column("fingerprint", bytes32),
                sa.Column("status", sa.SmallInteger(), nullable=False),
                sa.Column("owner", bytes16, nullable=False),
                sa.Column("codec", codec),
                sa.Column("result", blob),
                sa.Column("created_at", time, nullable=False),
                sa.Column("completed_at", time),
                sa.Column("expires_at", time, nullable=False),
                # op.f: the application's naming convention must not rename what autogenerate will look for.
                sa.PrimaryKeyConstraint("id", name=op.f(f"{table}_pkey")),
                schema=schema,
                sqlite_with_rowid=False,
                mysql_engine="InnoDB",
                mariadb_engine="InnoDB",
                mysql_charset="utf8mb4",
                mariadb_charset="utf8mb4",
                mysql_collate="utf8mb4_bin",
                mariadb_collate="utf8mb4_bin",
            )
        if there is None or index not in there:
            op.create_index(op.f(index), table, ["expires_at"], schema=schema)


def downgrade(table: str = "idemtable", schema: str | None = None) -> None:
    """Drop the table and every key in it."""
    with guarded(table, schema) as there:
        if there is None or table in there:
            op.drop_table(table, schema=schema)
