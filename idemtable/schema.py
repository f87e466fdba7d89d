"""The table, its portable types, and the helpers that make it inside a migration.

::

    from idemtable import schema            # in a revision of the application

    def upgrade() -> None:
        schema.upgrade(to=1)

    def downgrade() -> None:
        schema.downgrade(frm=1, to=0)

The steps are the modules of ``idemtable.migrations.versions``. Which of them a database has is written in
``idemtable_version``, a table shaped like Alembic's own, by this helper as well as by ``idemtable db upgrade``. Alembic
is imported where it is needed: that takes longer than importing the rest of the library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, TypeVar

import sqlalchemy as sa

from idemtable.dialects import full_name, named
from idemtable.differences import differences
from idemtable.errors import SchemaError
from idemtable.tables import build, check_names, key_table, metadata, untranslated, version_table

__all__ = [
    "STEP",
    "State",
    "build",
    "check_names",
    "create_all",
    "cure",
    "downgrade",
    "metadata",
    "recognised",
    "require",
    "state",
    "upgrade",
]

T = TypeVar("T")

# Append only: a number, once released, means the same step for ever.
_STEPS: Final = ("v0001_initial",)
STEP: Final = len(_STEPS)
"""The newest step this version of the library knows."""
OURS: Final = "the steps this version of idemtable has"


@dataclass(frozen=True, slots=True)
class State:
    """What a database has of the table."""

    step: int | None
    """The step the table is at, by the version table or by its shape; ``None`` when it is missing or another's."""
    problems: tuple[str, ...]
    """What keeps this version of the library from working with it."""
    recorded: int | None = None
    """What the version table says."""
    curable: bool = True
    """Whether upgrading takes the problems away; otherwise the table is not known to be one of ours and is left alone."""
    unread: bool = False
    """Whether this role lacks the right to see what there is."""

    @property
    def reached(self) -> int:
        """The step that an upgrade goes on from.

        Only the version table tells it: by its shape a table is known for one of ours, but two steps may have the same
        columns. What is written of a table that is gone says nothing of the next one.
        """
        return 0 if self.step is None or self.recorded is None else self.recorded


def _where_it_is(look: Callable[[sa.Connection, str, str | None], T]) -> Callable[..., T]:
    """Let a function see the table where the connection's ``schema_translate_map`` has put it, as it is spelled there."""

    @wraps(look)
    def wrapper(connection: sa.Connection, table: str = "idemtable", schema: str | None = None) -> T:
        check_names(table, schema)
        with untranslated(connection, schema) as translated:
            return look(connection, *named(connection.dialect.name).spelled(connection, table, translated))

    return wrapper


@_where_it_is
def state(connection: sa.Connection, table: str = "idemtable", schema: str | None = None) -> State:
    """Look at the table and its version table without changing anything.

    A step newer than this version of the library is no problem: the database is upgraded before the programs are. Where
    this role may not read the version table, a table that is as it should be is taken for what it looks like.
    """
    inspector, database = sa.inspect(connection), named(connection.dialect.name)
    name, version = full_name(table, schema), f"{table}_version"
    if database.unreadable(connection, table, schema):
        return State(None, (f"this role has no right to SELECT from {name}",), curable=False, unread=True)
    recorded = None
    unread = database.unreadable(connection, version, schema)
    if not unread and inspector.has_table(version, schema=schema):
        try:
            recorded = _recorded(connection, version_table(sa.MetaData(), table, schema))
        except ValueError as error:
            return State(None, (f"the table {full_name(version, schema)}: {error}",), curable=False)
    if not inspector.has_table(table, schema=schema):
        return State(None, (f"the table {name} is missing",), recorded)
    if recorded is not None and recorded > STEP:
        return State(recorded, (), recorded)
    columns = {column["name"] for column in inspector.get_columns(table, schema=schema)}
    shapes = [number for number in range(STEP, 0, -1) if columns == _step(number).COLUMNS]
    step = recorded or (shapes[0] if shapes else None)
    between = _is_between(columns)
    if step is not None and step < STEP and between:
        return State(step, (f"the table {name} is at step {step}, this version needs {STEP}",), recorded)
    found = differences(connection, table, schema)
    problems = tuple(f"the table {name}: {text}" for _, text in found)
    if unread and problems:
        # It may be that of a newer version of the library, which the version table would tell.
        said = f"this role has no right to SELECT from {full_name(version, schema)}, which tells the step"
        return State(step, (*problems, said), curable=False, unread=True)
    # What the steps look for before they make it or take it away.
    cured = {"add_index", "add_column", "remove_column"} if between else {"add_index"}
    return State(step, problems, recorded, curable=all(kind in cured for kind, _ in found))


def _recorded(connection: sa.Connection, version: sa.Table) -> int | None:
    # Somebody else's table may have that name, or Alembic's ids of revisions be in it; and what is recorded is deleted.
    columns = sa.inspect(connection).get_columns(version.name, schema=version.schema)
    if [column["name"] for column in columns] != ["version_num"] or not isinstance(columns[0]["type"], sa.String):
        raise ValueError("it has not the one column version_num, of characters")
    numbers = [str(number) for number in connection.execute(sa.select(version.c.version_num)).scalars()]
    if wrong := [number for number in numbers if not (number.isascii() and number.isdecimal())]:
        raise ValueError(f"{wrong[0]:.32} is not the number of a step (if it is the library's, delete that row)")
    return max(map(int, numbers), default=None)


def _is_between(columns: set[str]) -> bool:
    """Say whether the steps can have made these columns, one of them perhaps by half."""
    shapes = [_step(number).COLUMNS for number in range(1, STEP + 1)]
    return bool(set.intersection(*shapes) <= columns <= set.union(*shapes))


@_where_it_is
def require(connection: sa.Connection, table: str = "idemtable", schema: str | None = None) -> None:
    """Raise ``SchemaError``, whose message is the cure, unless the table is there and as it should be."""
    found = state(connection, table, schema)
    if found.problems:
        raise _error(found, table, schema)


@_where_it_is
def recognised(connection: sa.Connection, table: str = "idemtable", schema: str | None = None) -> State:
    """Give the state; raise ``SchemaError`` when a table of that name is there that is not the library's."""
    found = state(connection, table, schema)
    if not found.curable:
        raise _error(found, table, schema)
    return found


@_where_it_is
def create_all(connection: sa.Connection, table: str = "idemtable", schema: str | None = None) -> None:
    """Create what is missing, for tests and notebooks; the caller commits.

    Raises ``SchemaError`` when a table is there that is not as it should be.
    """
    named(connection.dialect.name).check_schema(schema, connection, create=False)
    found = recognised(connection, table, schema)
    own = sa.MetaData()
    version = version_table(own, table, schema)
    key_table(own, table, schema)
    own.create_all(connection)
    if found.step is None:
        connection.execute(_cleared(version))  # it spoke of a table that is gone
    if found.step is None or (found.recorded is None and not found.problems):
        connection.execute(version.insert().values(version_num=f"{STEP:04d}"))
    require(connection, table, schema)


def checked_step(step: object, what: str, lowest: int, highest: int, note: str) -> None:
    """Refuse what is no number of a step; ``ValueError``."""
    if isinstance(step, bool) or not isinstance(step, int) or not lowest <= step <= highest:
        raise ValueError(f"{what} must be {lowest} to {highest}, {note}, not {step!r}")


def upgrade(
    *, to: int, frm: int | None = None, table: str = "idemtable", schema: str | None = None, create_schema: bool = False
) -> None:
    """Run the missing steps up to ``to`` inside the Alembic revision that calls this.

    ``frm`` is where an offline run (``--sql``) begins; online, the version table says it. ``create_schema`` also
    creates ``schema`` when it is missing. Raises ``ValueError`` for a step or a name that cannot be, ``SchemaError``
    when a table of that name is there that is not ours: nothing is changed then.
    """
    check_names(table, schema)
    checked_step(to, "to", 1, STEP, OURS)
    if frm is not None:
        checked_step(frm, "frm", 0, to, "the step the database is at")
    if not isinstance(create_schema, bool):
        raise TypeError(f"create_schema= takes True or False, not {create_schema!r}")
    if create_schema and schema is None:
        raise ValueError("create_schema needs the schema's name")
    with _in_revision(table, schema) as where:
        _upgrade(to, frm, *where, create_schema)


def _upgrade(to: int, frm: int | None, table: str, schema: str | None, create_schema: bool) -> None:
    from alembic import op

    context = op.get_context()
    bind = None if context.as_sql else op.get_bind()
    named(context.dialect.name).check_schema(schema, bind, create_schema)
    if bind is None:
        if frm is None and to > 1:
            raise ValueError(f"an offline upgrade(to={to}) needs frm=, the step the database is at")
        if create_schema and schema is not None:
            op.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        _climb(frm or 0, to, 0, table, schema)
        return
    # Not IF NOT EXISTS: PostgreSQL asks for the right to create even when the schema is there.
    if create_schema and schema is not None and schema not in sa.inspect(bind).get_schema_names():
        op.execute(sa.schema.CreateSchema(schema))
    reached = recognised(bind, table, schema).reached
    if reached > STEP:
        return
    _climb(reached, to, reached, table, schema)
    if to == STEP and state(bind, table, schema).problems:
        # What a kill left half made, or somebody took away, is made by its own step, which looks before it creates.
        _climb(0, to, reached, table, schema)
        require(bind, table, schema)


def _climb(start: int, to: int, reached: int, table: str, schema: str | None) -> None:
    # Each step is recorded before the next one, which asks what the table is at; and where DDL commits by itself, whatever
    # ends the program between the two leaves the truth behind.
    for number in range(start + 1, to + 1):
        _step(number).upgrade(table=table, schema=schema)
        _record(max(reached, number), number - 1, table, schema)


def downgrade(*, frm: int, to: int, table: str = "idemtable", schema: str | None = None) -> None:
    """Take back the steps from ``frm`` down to ``to`` inside the Alembic revision that calls this.

    Step 0 drops the table and every key in it. Raises ``ValueError`` for a step or a name that cannot be,
    ``SchemaError`` when the table is not ours or at a step this version of the library does not know.
    """
    check_names(table, schema)
    checked_step(frm, "frm", 1, STEP, OURS)
    checked_step(to, "to", 0, frm - 1, f"the steps below frm={frm}")
    with _in_revision(table, schema) as where:
        _downgrade(frm, to, *where)


def _downgrade(frm: int, to: int, table: str, schema: str | None) -> None:
    from alembic import op

    if not op.get_context().as_sql:
        frm = max(frm, recognised(op.get_bind(), table, schema).step or 0)
        if frm > STEP:
            raise SchemaError(f"the table is at step {frm}: downgrade with the version of idemtable that knows it")
    for number in range(frm, to, -1):
        _step(number).downgrade(table=table, schema=schema)
        _record(number - 1, number, table, schema)


@contextmanager
def _in_revision(table: str, schema: str | None) -> Iterator[tuple[str, str | None]]:
    from alembic import op

    try:
        context = op.get_context()
    except NameError:  # Alembic's own text tells to put the call into a function, where it fails as well
        raise RuntimeError(
            "this runs in a revision of Alembic's alone: elsewhere call idemtable.upgrade.upgrade(engine), or run "
            "`idemtable db upgrade`"
        ) from None
    if context.as_sql:
        yield table, schema
    else:
        bind = op.get_bind()
        with untranslated(bind, schema) as translated:
            yield named(bind.dialect.name).spelled(bind, table, translated)


def _step(number: int) -> Any:
    # By name: in a checkout the folder is beside the package, which a type checker cannot know.
    return importlib.import_module(f"idemtable.migrations.versions.{_STEPS[number - 1]}")


def _record(step: int, before: int, table: str, schema: str | None) -> None:
    from alembic import op

    context = op.get_context()
    version = version_table(sa.MetaData(), table, schema)
    there = before > 0 if context.as_sql else sa.inspect(op.get_bind()).has_table(version.name, schema=schema)
    if step == 0:
        if there:
            context.impl.drop_table(version)
        return
    if there:
        op.execute(_cleared(version))
    else:
        context.impl.create_table(version)
    op.execute(version.insert().values(version_num=f"{step:04d}"))


def _cleared(version: sa.Table) -> sa.Delete:
    # Every row, and not without a condition on the key: a session of MySQL's or MariaDB's may have safe updates.
    return version.delete().where(version.c.version_num >= "")


def cure(found: State, table: str, schema: str | None) -> str:
    """Say what to do about the problems found."""
    command, call = "idemtable db upgrade", f"schema.upgrade(to={STEP}"
    for option, value, default in (("table", table, "idemtable"), ("schema", schema, None)):
        if value != default:
            command, call = f"{command} --{option} {value}", f'{call}, {option}="{value}"'
    if found.unread:
        return (
            f"Let this role read {table} and {table}_version: `idemtable db sql --grants` prints what each role needs."
        )
    text = f"Run `{command}`, or call `{call})` in a revision of your own (`idemtable db revision` writes it)."
    if not found.curable:
        text = f"It is not the library's table and was left alone: rename it or choose another name. Then: {text}"
    return text


def _error(found: State, table: str, schema: str | None) -> SchemaError:
    return SchemaError(f"{'; '.join(found.problems)}. {cure(found, table, schema)}", problems=found.problems)
