"""A new database is one file: with `tests.support.toy` and no other change the library keeps every promise on it.

The toy is known only to a pytest of its own, which this module starts for the whole contract suite. In there the module
also holds the tests of what else a database's class is asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
import sqlalchemy as sa

from idemtable import dialects, schema

ROOT = Path(__file__).parents[2]
VARIABLE = "IDEMTABLE_TEST_BACKENDS"
TOY = "tests.support.toy"
PATIENCE = 300
"""Seconds for what takes fifteen on a machine that does nothing else."""

if os.environ.get(VARIABLE) != TOY:

    @pytest.mark.timeout(PATIENCE + 30)
    def test_a_database_of_one_file_keeps_every_promise(tmp_path: Path) -> None:
        report = tmp_path / "report.xml"
        options = ["-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-W", "default", "-k", "toy"]
        environment = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, f"--junitxml={report}", str(Path(__file__).parent)],
            cwd=ROOT,
            env=environment | {VARIABLE: TOY},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5_000:] + done.stderr
        suite = ElementTree.parse(report).getroot().find("testsuite")
        assert suite is not None
        counts = {name: int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")}
        assert counts["failures"] == counts["errors"] == 0
        assert counts["tests"] - counts["skipped"] > 450  # 506 when this was written
        assert "toy" not in dialects.known

else:
    from click.testing import CliRunner, Result

    from idemtable.cli import main

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, list(args))

    @pytest.fixture
    def url(tmp_path: Path) -> str:
        return f"toy:///{tmp_path / 'toy.db'}"

    @pytest.mark.parametrize("driver", ["toy", "toy+pysqlite", "toy+aiosqlite"])
    def test_the_table_goes_up_and_down(driver: str, url: str) -> None:
        at = ("--url", url.replace("toy", driver, 1))
        missing = run("db", "check", *at)
        assert missing.exit_code == 1
        assert "there is no file" in missing.output
        where = f"the table idemtable in {url}"
        assert run("db", "upgrade", *at).output == f"ran step 1 on {where}\n"
        assert run("db", "upgrade", *at).output == f"nothing to do: {where} is up to date\n"
        assert run("db", "check", *at).output == f"{where} is as it should be\n"
        for verb in (("stats",), ("ls",), ("tokens", "ls", "scope"), ("purge",)):
            assert run(*verb, *at).exit_code == 0
        assert run("db", "downgrade", "--yes", *at).output == f"took back step 1 of {where}\n"

    def test_the_printed_script_is_the_databases_own(url: str) -> None:
        script = run("db", "sql", "--dialect", "toy").output
        marks = ["BEGIN;", "toys come out", "CREATE TABLE idemtable (", "WITHOUT ROWID", "toys go back", "COMMIT;"]
        places = [script.index(mark) for mark in marks]
        assert places == sorted(places)
        assert run("db", "sql", "--url", url).output == script

    def test_the_demo_makes_its_tables_as_many_programs_like_them(url: str) -> None:
        # As far as its workers: they are processes of their own, which know nothing of the toy.
        from idemtable.demo import made_tables

        engine = sa.create_engine(url)
        with made_tables(engine), engine.connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        engine.dispose()

    def test_its_own_flaws_are_seen(url: str) -> None:
        run("db", "upgrade", "--url", url)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE broken (id integer)")
        engine.dispose()
        checked = run("db", "check", "--url", url)
        assert checked.exit_code == 1
        assert "the table idemtable: it is broken" in checked.output

    def test_its_own_types_and_options_are_in_the_table() -> None:
        table = schema.build(sa.MetaData())
        assert isinstance(table.c.result.type.dialect_impl(sa.make_url("toy://").get_dialect()()), sa.BLOB)
        assert table.dialect_options["toy"]["with_rowid"] is False

    @pytest.mark.parametrize(
        ("wrong", "code", "said"),
        [
            ("toys://", 2, "this URL begins with toys://, which SQLAlchemy does not take: write toy://"),
            ("toy+wooden://", 3, "the driver a_module_that_is_not_there is not installed: carve one"),
            ("nothing://", 2, "idemtable works on postgresql, mysql, mariadb, sqlite, toy"),
        ],
    )
    def test_a_wrong_url_is_answered_with_its_names_and_cures(wrong: str, code: int, said: str) -> None:
        refused = run("stats", "--url", wrong)
        assert refused.exit_code == code
        assert said in refused.output

    def test_a_database_that_is_not_known_is_told_of_it() -> None:
        with pytest.raises(ValueError, match="idemtable knows mariadb, mysql, postgresql, sqlite, toy, not mssql"):
            dialects.find(sa.make_url("mssql+pymssql://").get_dialect()(), "idemtable", None)
