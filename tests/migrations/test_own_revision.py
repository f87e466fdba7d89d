"""The table in a revision of the application's own Alembic project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from idemtable import schema
from idemtable import upgrade as steps
from tests.support.migrations import application_sql, execute_script, folder_of, recorded, tables


@pytest.mark.parametrize("x", [None, "one=1"], ids=["", "naming convention"])
def test_the_op_helper_in_an_applications_own_revision(
    application: Config, engine: sa.Engine, x: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    application.cmd_opts = type("Options", (), {"x": [x] if x else []})()
    path = steps.revision(directory=folder_of(application))
    assert str(path) not in capsys.readouterr().out
    assert "Revises: aaaa" in path.read_text()
    assert "schema.upgrade(to=1)" in path.read_text()
    for _ in range(2):
        command.upgrade(application, "head")
        assert tables(engine) == {"alembic_version", "orders", "idemtable", "idemtable_version"}
        assert recorded(engine) == ["0001"]
        assert steps.check(engine) == []
        assert steps.upgrade(engine) == ()
        command.downgrade(application, "aaaa")
        assert tables(engine) == {"alembic_version", "orders"}
    command.upgrade(application, "head")
    application.cmd_opts = None
    command.check(application)
    with engine.connect() as connection:
        ids = list(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars())
    assert ids == [ScriptDirectory.from_config(application).get_current_head()]


def test_the_op_helper_offline(application: Config, engine: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    steps.revision(directory=folder_of(application))
    command.upgrade(application, "head", sql=True)
    execute_script(engine, application_sql(capsys))
    assert tables(engine) == {"alembic_version", "orders", "idemtable", "idemtable_version"}
    assert recorded(engine) == ["0001"]
    assert steps.check(engine) == []
    command.check(application)
    command.downgrade(application, "head:aaaa", sql=True)
    execute_script(engine, application_sql(capsys))
    assert tables(engine) == {"alembic_version", "orders"}


def test_the_op_helper_leaves_the_lock_time_out_as_it_was(engine: sa.Engine) -> None:
    setting = {"postgresql": "SHOW lock_timeout", "sqlite": "PRAGMA busy_timeout"}
    ask = setting.get(engine.dialect.name, "SELECT @@SESSION.lock_wait_timeout")
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL lock_timeout = '1234ms'")
        before = connection.exec_driver_sql(ask).scalar()
        with Operations.context(MigrationContext.configure(connection)):
            schema.upgrade(to=1)
            assert connection.exec_driver_sql(ask).scalar() == before
            schema.downgrade(frm=1, to=0)
            assert connection.exec_driver_sql(ask).scalar() == before


def test_revision_writes_only_what_is_missing(application: Config) -> None:
    folder = folder_of(application)
    steps.revision(directory=folder)
    with pytest.raises(ValueError, match="nothing to write"):
        steps.revision(directory=folder)
    other = steps.revision(directory=folder, table="inbox", schema="ops", create_schema=True).read_text()
    assert 'schema.upgrade(to=1, table="inbox", schema="ops", create_schema=True)' in other
    assert 'schema.downgrade(frm=1, to=0, table="inbox", schema="ops")' in other
    with pytest.raises(ValueError, match="nothing to write"):
        steps.revision(directory=folder, table="inbox", schema="ops")


def test_revision_without_a_project_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no alembic\.ini"):
        steps.revision(directory=tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(ValueError, match=r"no alembic\.ini"):
        steps.revision(directory=tmp_path)


def test_revision_names_the_file_that_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "alembic.ini").write_text("[alembic]\nscript_location = 100%/migrations\n")
    with pytest.raises(ValueError, match=r"alembic\.ini cannot be read: '%' must be followed"):
        steps.revision(directory=tmp_path)


def test_revision_says_what_to_do_where_nothing_tells_which_folder_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "env.py").touch()
    (tmp_path / "alembic.ini").write_text(
        "[alembic]\nscript_location = %(here)s\npath_separator = newline\nversion_locations = %(here)s/a\n  %(here)s/b\n"
    )
    (tmp_path / "script.py.mako").write_text(
        "revision = ${repr(up_revision)}\ndown_revision = ${repr(down_revision)}\n"
    )
    with pytest.raises(
        ValueError, match=r"by `alembic revision --version-path`\. `idemtable db revision --print` prints"
    ):
        steps.revision(directory=tmp_path)
    assert list(tmp_path.rglob("*.py")) == [tmp_path / "env.py"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "first.py").write_text('revision = "aaaa"\ndown_revision = None\n')
    assert steps.revision(directory=tmp_path).parent == tmp_path / "b"


def test_revision_finds_a_project_in_pyproject(tmp_path: Path) -> None:
    command.init(Config(tmp_path / "alembic.ini"), str(tmp_path / "migrations"))
    (tmp_path / "alembic.ini").unlink()
    (tmp_path / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "%(here)s/migrations"\n')
    assert steps.revision(directory=tmp_path).parent == tmp_path / "migrations" / "versions"


def test_the_text_of_a_revision_is_python() -> None:
    space: dict[str, Any] = {}
    exec(steps.revision_text(table="inbox"), space)
    assert callable(space["upgrade"])
    assert 'schema.upgrade(to=1, table="inbox")' in steps.revision_text(table="inbox")
