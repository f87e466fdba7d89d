"""`idemtable db`: the table up and down, the script, the revision."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from idemtable.upgrade import place
from tests.support.cli import NOWHERE, Ended, Run


def test_the_table_goes_up_and_down(database_url: str, run: Run) -> None:
    at = ("--url", database_url)
    missing = run("db", "check", *at)
    assert missing.code == 1
    assert "idemtable db upgrade" in missing.err
    where = f"the table idemtable in {place(sa.make_url(database_url))}"
    assert run("db", "upgrade", *at) == Ended(0, f"ran step 1 on {where}\n", "")
    assert run("db", "upgrade", *at) == Ended(0, f"nothing to do: {where} is up to date\n", "")
    assert run("db", "check", *at) == Ended(0, f"{where} is as it should be\n", "")
    assert run("db", "downgrade", "--to", "1", *at) == Ended(0, f"nothing to do: {where} is not above step 1\n", "")
    assert run("db", "downgrade", "--to", "0", *at) == Ended(0, f"took back step 1 of {where}\n", "")
    assert run("db", "downgrade", *at) == Ended(0, f"nothing to do: {where} does not exist\n", "")
    assert run("db", "check", *at).code == 1
    assert run("stats", *at).code == 3


def test_another_name_for_the_table(database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDEMTABLE_URL", database_url)
    monkeypatch.setenv("IDEMTABLE_TABLE", "other_keys")
    assert run("db", "upgrade").code == run("db", "check").code == run("stats").code == 0
    assert run("db", "check", "--table", "idemtable").code == 1


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite://", "sqlite:///file:x?mode=memory&uri=true"]
)
def test_a_table_that_would_be_gone_with_the_command_is_not_made(url: str, run: Run) -> None:
    refused = run("db", "upgrade", "--url", url)
    assert (refused.code, refused.out) == (2, "")
    assert "name a file" in refused.err


def test_sql_prints_the_script_without_connecting(run: Run) -> None:
    for dialect in ("postgresql", "mysql", "mariadb", "sqlite"):
        script = run("db", "sql", "--dialect", dialect)
        assert script.code == 0
        assert "CREATE TABLE idemtable" in script.out
    assert run("db", "sql", "--url", NOWHERE).out == run("db", "sql", "--dialect", "postgresql").out
    assert "DROP TABLE" in run("db", "sql", "--dialect", "sqlite", "--from", "1", "--to", "0").out
    assert run("db", "sql").code == 2
    nothing = run("db", "sql", "--dialect", "postgresql", "--from", "1", "--to", "1")
    assert (nothing.code, nothing.out) == (0, "")
    assert "nothing to do" in nothing.err


def test_sql_prints_the_rights_of_roles(run: Run) -> None:
    script = run(
        "db", "sql", "--dialect", "postgresql", "--grants", "Shop", "--grants", "purge=night", "--schema", "ops"
    )
    assert (script.code, script.err) == (0, "")
    assert 'GRANT SELECT, INSERT, UPDATE ON ops.idemtable TO "Shop";' in script.out
    assert "GRANT SELECT, INSERT, UPDATE, DELETE ON ops.idemtable TO night;" in script.out
    assert "CREATE" not in script.out
    assert "TO 'shop'@'10.%';" in run("db", "sql", "--dialect", "mysql", "--grants", "app=shop@10.%").out
    for url in ("mariadb://127.0.0.1:1/shop", NOWHERE):
        alone = run("db", "sql", "--grants", "--url", url).out
        assert [alone.count(f"idemtable_{job}") > 0 for job in ("migrate", "app", "purge")] == [True] * 3
        assert "CREATE TABLE" not in alone


@pytest.mark.parametrize("role", ["sell=shop", "app=", "a'b", "a; DROP TABLE x", "a\nb", " a"])
def test_a_role_that_cannot_be_is_refused(role: str, run: Run) -> None:
    refused = run("db", "sql", "--dialect", "postgresql", "--grants", role)
    assert (refused.code, refused.out) == (2, "")
    assert "role" in refused.err


def test_a_database_without_roles_says_so(run: Run) -> None:
    refused = run("db", "sql", "--dialect", "sqlite", "--grants", "shop")
    assert (refused.code, refused.out) == (2, "")
    assert "no roles" in refused.err


def test_revision_writes_into_the_applications_project(run: Run, tmp_path: Path) -> None:
    nothing = run("db", "revision", "--directory", str(tmp_path))
    assert nothing.code == 2
    assert "no Alembic project" in nothing.err
    command.init(Config(tmp_path / "alembic.ini"), str(tmp_path / "alembic"))
    written = run("db", "revision", "--directory", str(tmp_path))
    assert written.code == 0
    file = Path(written.out.splitlines()[-1])
    assert "schema.upgrade(to=1)" in file.read_text()
    again = run("db", "revision", "--directory", str(tmp_path))
    assert (again.code, again.out) == (0, "")
    assert "nothing to do for the table idemtable in" in again.err
    assert "the revisions go to step 1 already" in again.err
    assert "schema.upgrade(to=1)" in run("db", "revision", "--print").out
    assert run("db", "revision", "--print", "--from", "1").code == 0
    assert run("db", "revision", "--print", "--from", "7").code == 2
    assert "down_revision = 'abc'" in run("db", "revision", "--print", "--head", "abc").out


def test_revision_goes_on_from_the_head_that_is_named(run: Run, tmp_path: Path) -> None:
    config = Config(tmp_path / "alembic.ini")
    command.init(config, str(tmp_path / "alembic"))
    config = Config(tmp_path / "alembic.ini", cmd_opts=Namespace(quiet=True))
    for number, base in (("a1", "base"), ("b1", "base"), ("b2", "b1")):
        command.revision(config, rev_id=number, head=base, splice=True, branch_label="bees" if number == "b1" else None)
    at = ("--directory", str(tmp_path))
    several = run("db", "revision", *at)
    assert (several.code, several.out) == (2, "")
    assert "--head" in several.err
    assert "a1" in several.err
    assert "b2" in several.err
    for wrong in ("b1", "nothing", "heads", "zz@head"):
        refused = run("db", "revision", "--head", wrong, *at)
        assert (refused.code, refused.out) == (2, "")
        assert "a1" in refused.err
    written = run("db", "revision", "--head", "bees@head", *at)
    assert "Revises: b2" in Path(written.out.strip()).read_text()
    other = run("db", "revision", "--head", "a1", "--table", "inbox", *at)
    assert "Revises: a1" in Path(other.out.strip()).read_text()


FLASK_INI = """
[alembic]
# script_location is what Flask-Migrate sets when it is called
[loggers]
keys = root
"""

FLASK_ENV = """
from flask import current_app
current_app.config["there is no application here"]
"""


@pytest.mark.parametrize("directory", [".", "migrations"])
def test_revision_finds_a_project_of_flask_migrate(
    directory: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command.init(Config(tmp_path / "made.ini"), str(tmp_path / "migrations"))
    (tmp_path / "made.ini").unlink()
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'shop'\n")
    (tmp_path / "migrations" / "alembic.ini").write_text(FLASK_INI)
    (tmp_path / "migrations" / "env.py").write_text(FLASK_ENV)
    monkeypatch.chdir(tmp_path)
    written = run("db", "revision", "--directory", directory)
    assert (written.code, written.err) == (0, "")
    assert Path(written.out.strip()).parent == tmp_path / "migrations" / "versions"
    again = run("db", "revision", "--directory", directory)
    assert (again.code, again.out) == (0, "")


def test_revision_that_cannot_be_rendered_tells_of_print(run: Run, tmp_path: Path) -> None:
    """A template of an application's own may ask for what is not there, as Flask-Migrate's for several databases."""
    command.init(Config(tmp_path / "alembic.ini"), str(tmp_path / "alembic"))
    (tmp_path / "alembic" / "script.py.mako").write_text("<% from flask import current_app; current_app.config %>")
    refused = run("db", "revision", "--directory", str(tmp_path))
    assert refused.code == 1
    assert "--print" in refused.err


def test_a_project_is_found_from_elsewhere(run: Run, tmp_path: Path) -> None:
    """An older alembic.ini names its folder as it looks from beside it."""
    command.init(Config(tmp_path / "alembic.ini"), str(tmp_path / "alembic"))
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = alembic\n")
    written = run("db", "revision", "--directory", str(tmp_path))
    assert Path(written.out.strip()).parent == tmp_path / "alembic" / "versions"
