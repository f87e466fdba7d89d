"""Revisions for the application's own Alembic project: found, written, or printed."""

from __future__ import annotations

import configparser
import re
import uuid
from argparse import Namespace
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from idemtable.schema import STEP, check_names

__all__ = ["NothingToWrite", "revision", "revision_text"]


class NothingToWrite(ValueError):
    """The project's revisions go as far as was asked for already."""


def revision(
    *,
    directory: str | Path = ".",
    head: str | None = None,
    to: int | None = None,
    frm: int | None = None,
    table: str = "idemtable",
    schema: str | None = None,
    create_schema: bool = False,
) -> Path:
    """Write a revision with the missing steps into the application's own Alembic project.

    Args:
        directory: where the project's ``alembic.ini`` or ``pyproject.toml`` is; Flask-Migrate's ``migrations`` folder, or
            the folder that holds it, will do too.
        head: the head to go on from, for a project that has several: the id of its revision, or ``branch@head``.
        to: the step to go up to; the newest by default.
        frm: the step that the project's revisions already go to; found in them by default.
        table: the table's name.
        schema: the table's schema.
        create_schema: whether the revision also creates the schema when it is missing.

    Returns:
        The file that was written.

    Raises:
        NothingToWrite: a ``ValueError``: the revisions go that far already.
        ValueError: there is no project, or none that can be read; it has several heads and `head` names none of them; or a
            step cannot be.
        CommandError: Alembic cannot read the project or write into it.
    """
    check_names(table, schema)
    try:
        config = _config(Path(directory))
        project = ScriptDirectory.from_config(config)
    except configparser.Error as error:
        raise ValueError(f"the project's alembic.ini cannot be read: {error}") from error
    if frm is None:
        frm = _written(project, table, schema)
        if frm > STEP:  # by a newer version of the library
            raise NothingToWrite(_already(frm))
    up, down = _calls(frm, to, table, schema, create_schema)
    text: dict[str, Any] = {"imports": "from idemtable import schema", "upgrades": up, "downgrades": down}
    text |= {"head": _head(project, head), "config": config}
    if len(project.version_locations or ()) > 1 and not project.get_heads():
        raise ValueError(
            "the project has several version_locations and no revision yet that tells which of them to go on in: write a "
            "first one by `alembic revision --version-path`. `idemtable db revision --print` prints the revision instead"
        )
    try:
        script = project.generate_revision(uuid.uuid4().hex[-12:], f"idemtable step {to or STEP}", **text)
    except CommandError as error:
        raise CommandError(
            f"{str(error).rstrip('.')}. `idemtable db revision --print` prints the revision instead"
        ) from error
    assert script is not None
    return Path(script.path)


def revision_text(
    *,
    head: str | None = None,
    to: int | None = None,
    frm: int = 0,
    table: str = "idemtable",
    schema: str | None = None,
    create_schema: bool = False,
) -> str:
    """Give the text of such a revision, for a project that `revision` cannot write into."""
    up, down = _calls(frm, to, table, schema, create_schema)
    return f'''"""idemtable step {to or STEP}."""

from idemtable import schema

revision = "{uuid.uuid4().hex[-12:]}"
down_revision = {"None  # the id of the revision before" if head is None else repr(head)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    {up}


def downgrade() -> None:
    {down}
'''


def _config(folder: Path) -> Config:
    quiet = Namespace(quiet=True)  # standard output is for the path
    toml = folder / "pyproject.toml"
    if not (folder / "alembic.ini").is_file() and toml.is_file():
        config = Config(toml_file=toml, cmd_opts=quiet)
        if config.get_alembic_option("script_location") is not None:
            return config
    for ini in (folder / "alembic.ini", folder / "migrations" / "alembic.ini"):
        if not ini.is_file():
            continue
        config = Config(ini, toml if toml.is_file() else None, cmd_opts=quiet)
        location = config.get_alembic_option("script_location")
        if location is None and (ini.parent / "env.py").is_file():
            location = "."  # Flask-Migrate tells Alembic when it calls it
        if location is not None:
            # Alembic takes it from where it is called: the person who names the folder would call it there.
            if ":" not in location and (beside := ini.parent / location).is_dir():
                config.set_main_option("script_location", str(beside.resolve()).replace("%", "%%"))
            return config
    text = (
        "no alembic.ini that tells where the revisions are, no [tool.alembic] in pyproject.toml, no migrations folder"
    )
    raise ValueError(f"no Alembic project here: {text}. Name its folder with --directory")


def _head(project: ScriptDirectory, head: str | None) -> str:
    heads = project.get_heads()
    listed = ", ".join(heads)
    if head is None:
        if len(heads) > 1:
            raise ValueError(f"the project has several heads: say with --head which one to go on from: {listed}")
        return "head"
    try:
        found = {one.revision for one in project.get_revisions(head) if one is not None}
    except CommandError:
        found = set()
    if len(found) != 1 or not found <= set(heads):
        raise ValueError(f"{head} is not one of the project's heads: {listed or 'it has no revision yet'}")
    return head


def _calls(frm: int, to: int | None, table: str, schema: str | None, create_schema: bool) -> tuple[str, str]:
    check_names(table, schema)
    to = STEP if to is None else to
    if not 0 <= frm <= STEP or not 0 < to <= STEP:
        raise ValueError(
            f"nothing to write from step {frm} to {to}: this version of idemtable has the steps 1 to {STEP}"
        )
    if frm >= to:
        raise NothingToWrite(_already(frm))
    names = "" if table == "idemtable" else f', table="{table}"'
    names += "" if schema is None else f', schema="{schema}"'
    start = f", frm={frm}" if to > 1 else ""
    create = ", create_schema=True" if create_schema and frm == 0 else ""
    return f"schema.upgrade(to={to}{start}{names}{create})", f"schema.downgrade(frm={to}, to={frm}{names})"


def _already(step: int) -> str:
    return f"nothing to write: the revisions go to step {step} already"


def _written(project: ScriptDirectory, table: str, schema: str | None) -> int:
    newest = 0
    for script in project.walk_revisions():
        text = Path(script.path).read_text(encoding="utf-8")
        for call in re.findall(r"\bupgrade\(([^()]*\bto=[^()]*)\)", text) if "idemtable" in text else ():
            said = dict(re.findall(r"(\w+)=[\"']?(\w+)", call))
            if (said.get("table", "idemtable"), said.get("schema")) == (table, schema):
                newest = max(newest, int(said["to"]))
    return newest
