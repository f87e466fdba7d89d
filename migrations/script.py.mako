"""${message}.

Revision ID: ${up_revision}
Revises: ${down_revision | comma,n}
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
from idemtable.migrations import guarded

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}

# After this step, so that a table without a version row can be recognised.
COLUMNS = {"…"}


def upgrade(table: str = "idemtable", schema: str | None = None) -> None:
    """…"""
    with guarded(table, schema) as there:
        ${upgrades if upgrades else "pass"}


def downgrade(table: str = "idemtable", schema: str | None = None) -> None:
    """…"""
    with guarded(table, schema) as there:
        ${downgrades if downgrades else "pass"}
