"""A release that nobody has made: this one with one step more, for what only a second step can show."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import differences, revisions, schema, tables
from idemtable import upgrade as steps
from idemtable.cli import db
from tests.support.migrations import ROOT

NAME = "v0002_made_up"

_STEP = '''"""Made up.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op
from idemtable.migrations import guarded
from idemtable.migrations.versions.v0001_initial import COLUMNS as BEFORE

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = BEFORE | {columns}


def upgrade(table="idemtable", schema=None):
    with guarded(table, schema) as there:
{up}


def downgrade(table="idemtable", schema=None):
    with guarded(table, schema) as there:
{down}
'''
_TABLE = """

first_key_table = key_table


def key_table(metadata, table, schema):
    made = first_key_table(metadata, table, schema)
{change}
    return made
"""

_INDEX = """
        index = f"ix_{{table}}_{column}"
        if there is None or (table in there and index {state} there):
            op.{verb}
"""
_MAKES = 'create_index(op.f(index), table, ["{column}"], schema=schema)'
_DROPS = "drop_index(op.f(index), table_name=table, schema=schema)"
_COLUMN = """
        if there is None or (table in there and f"{{table}}.note" {state} there):
            op.{verb}
"""


def _makes(column: str) -> str:
    return _INDEX.format(column=column, state="not in", verb=_MAKES.format(column=column))


def _drops(column: str) -> str:
    return _INDEX.format(column=column, state="in", verb=_DROPS)


_MORE = _COLUMN.format(state="not in", verb='add_column(table, sa.Column("note", sa.String(20)), schema=schema)')
_LESS = _COLUMN.format(state="in", verb='drop_column(table, "note", schema=schema)')

# What the table has then, what the step adds to the columns, the way up and the way down. Two of the three leave the
# columns as they are, and no shape tells one step from the other.
STEPS = {
    "a column more": (
        '    made.append_column(sa.Column("note", sa.String(20)))\n    sa.Index(f"ix_{table}_note", made.c.note)',
        '{"note"}',
        _MORE + _makes("note"),
        _drops("note") + _LESS,
    ),
    "an index more": (
        '    sa.Index(f"ix_{table}_created_at", made.c.created_at)',
        "set()",
        _makes("created_at"),
        _drops("created_at"),
    ),
    "an index less": (
        "    made.indexes.clear()",
        "set()",
        _drops("expires_at"),
        _makes("expires_at"),
    ),
}


def _texts(kind: str) -> tuple[str, str]:
    change, columns, up, down = STEPS[kind]
    return _TABLE.format(change=change), _STEP.format(columns=columns, up=up, down=down)


@contextmanager
def installed(kind: str) -> Iterator[None]:
    """Be that release inside, in this process."""
    of_table, of_step = _texts(kind)
    space: dict[str, Any] = {"key_table": tables.key_table, "sa": sa}
    exec(of_table, space)
    step = ModuleType(f"idemtable.migrations.versions.{NAME}")
    exec(of_step, vars(step))
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, step.__name__, step)
        patched.setattr(schema, "_STEPS", (*schema._STEPS, NAME))
        for room in (schema, steps, revisions, db):
            patched.setattr(room, "STEP", 2)
        for room in (tables, schema, differences):
            patched.setattr(room, "key_table", space["key_table"])
        metadata = sa.MetaData()
        schema.build(metadata)
        patched.setattr(schema, "metadata", metadata)
        yield


def checkout(kind: str, folder: Path) -> Path:
    """Write that release's files, as a checkout for programs of its own."""
    of_table, of_step = _texts(kind)
    for name in ("idemtable", "migrations"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "migrations" / "versions" / f"{NAME}.py").write_text(of_step)
    for file, before, after in (
        ("schema.py", '_STEPS: Final = ("v0001_initial",)', f'_STEPS: Final = ("v0001_initial", "{NAME}")'),
        ("tables.py", "\n\ndef version_table", f"{of_table}\n\ndef version_table"),
    ):
        path = folder / "idemtable" / file
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1
        path.write_text(text.replace(before, after), encoding="utf-8")
    return folder
