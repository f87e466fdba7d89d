"""`idemtable db`: the table up and down, the script, the revision."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cli import NOWHERE, Ended, Run


def test_the_table_goes_up_and_down(database_url: str, run: Run) -> None:
    at = ("--url", database_url)
    missing = run("db", "check", *at)
    assert missing.code == 1
    assert "idemtable db upgrade" in missing.err
    assert run("db", "upgrade", *at) == Ended(0, "ran step 1\n", "")
    assert run("db", "upgrade", *at) == Ended(0, "nothing to do\n", "")
    assert run("db", "check", *at).code == 0
    assert run("db", "downgrade", "--to", "0", *at) == Ended(0, "took back step 1\n", "")
    assert run("db", "downgrade", *at) == Ended(0, "nothing to do\n", "")
    assert run("db", "check", *at).code == 1
    assert run("stats", *at).code == 3


def test_another_name_for_the_table(database_url: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDEMTABLE_URL", database_url)
    monkeypatch.setenv("IDEMTABLE_TABLE", "other_keys")
    assert run("db", "upgrade").code == run("db", "check").code == run("stats").code == 0
    assert run("db", "check", "--table", "idemtable").code == 1


def test_sql_prints_the_script_without_connecting(run: Run) -> None:
    for dialect in ("postgresql", "mysql", "mariadb", "sqlite"):
        script = run("db", "sql", "--dialect", dialect)
        assert script.code == 0
        assert "CREATE TABLE idemtable" in script.out
    assert run("db", "sql", "--url", NOWHERE).out == run("db", "sql", "--dialect", "postgresql").out
    assert "DROP TABLE" in run("db", "sql", "--dialect", "sqlite", "--from", "1", "--to", "0").out
    assert run("db", "sql").code == 2


def test_revision_writes_into_the_applications_project(run: Run, tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    nothing = run("db", "revision", "--directory", str(tmp_path))
    assert nothing.code == 2
    assert "no Alembic project" in nothing.err
    config = Config(tmp_path / "alembic.ini")
    command.init(config, str(tmp_path / "alembic"))
    written = run("db", "revision", "--directory", str(tmp_path))
    assert written.code == 0
    file = Path(written.out.splitlines()[-1])
    assert "schema.upgrade(to=1)" in file.read_text()
    assert run("db", "revision", "--directory", str(tmp_path)).code == 2
    assert "schema.upgrade(to=1)" in run("db", "revision", "--print").out
