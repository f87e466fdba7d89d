"""A second step, made up: every way up and down, with rows in the table, and two releases that meet at one database."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from click.testing import CliRunner

from idemtable import IdemTable, schema
from idemtable import upgrade as steps
from idemtable.cli import main
from idemtable.errors import SchemaError
from tests.support.backends import BACKENDS
from tests.support.database import INNODB
from tests.support.migrations import application_sql, execute_script, folder_of, recorded, tables
from tests.support.next_release import STEPS, checkout, installed

COLUMN = "a column more"


@pytest.fixture(params=list(STEPS))
def kind(request: pytest.FixtureRequest) -> str:
    """What the second step does."""
    return str(request.param)


def keep(engine: sa.Engine, *keys: str) -> None:
    idem = IdemTable(engine)
    for key in keys:
        with idem.transaction("order", key) as claim:
            claim.result = key.upper()


def kept(engine: sa.Engine) -> dict[str, Any]:
    """The results of all keys, as calls replay them."""
    idem, found = IdemTable(engine), {}
    for record in idem.records():
        with idem.transaction(record.scope, record.key) as claim:
            assert claim.replayed
            found[str(record.key)] = claim.result
    return found


def indexes(engine: sa.Engine) -> set[str]:
    return {str(index["name"]) for index in sa.inspect(engine).get_indexes("idemtable")}


def columns(engine: sa.Engine) -> set[str]:
    return {column["name"] for column in sa.inspect(engine).get_columns("idemtable")}


def newest(engine: sa.Engine) -> bool:
    """Whether the table is what the installed release would make."""
    (table,) = (one for name, one in schema.metadata.tables.items() if name == "idemtable")
    names = {str(index.name) for index in table.indexes}
    return (columns(engine), indexes(engine)) == (set(table.c.keys()), names) and steps.check(engine) == []


def op(engine: sa.Engine, work: Any) -> None:
    """Call the op-helper as a revision does."""
    with engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
        work()


# --- every way ------------------------------------------------------------------------------------------------------


def test_a_second_step_goes_up_and_down_and_every_row_stays(engine: sa.Engine, kind: str) -> None:
    assert steps.upgrade(engine) == (1,)
    keep(engine, "a", "b")
    with installed(kind):
        for _ in range(2):
            assert steps.upgrade(engine) == (2,)
            assert recorded(engine) == ["0002"]
            assert newest(engine)
            assert steps.upgrade(engine) == ()
            assert kept(engine) == {"a": "A", "b": "B"}
            assert steps.downgrade(engine, to=1) == (2,)
            assert recorded(engine) == ["0001"]
            assert kept(engine) == {"a": "A", "b": "B"}
        assert steps.downgrade(engine, to=1) == ()
    assert newest(engine)
    with installed(kind):
        steps.upgrade(engine)
        assert steps.downgrade(engine) == (2, 1)
        assert tables(engine) == set()
        assert steps.upgrade(engine, to=1) == (1,)
        assert steps.upgrade(engine) == (2,)


def test_both_steps_are_one_run_on_an_empty_database(engine: sa.Engine, kind: str) -> None:
    with installed(kind):
        assert steps.upgrade(engine) == (1, 2)
        assert newest(engine)
        assert steps.downgrade(engine) == (2, 1)
        assert tables(engine) == set()
        with engine.begin() as connection:
            schema.create_all(connection)
        assert recorded(engine) == ["0002"]
        assert newest(engine)


@pytest.mark.parametrize("database_url", [name for name in INNODB if name in BACKENDS], indirect=True)
def test_a_session_with_safe_updates_takes_every_step(database_url: str, kind: str) -> None:
    told = {"init_command": "SET SESSION sql_safe_updates = 1"}
    engine = sa.create_engine(database_url, poolclass=sa.NullPool, connect_args=told)
    assert steps.upgrade(engine) == (1,)
    with installed(kind):
        assert steps.upgrade(engine) == (2,)
        assert recorded(engine) == ["0002"]
        assert steps.downgrade(engine, to=1) == (2,)
        assert recorded(engine) == ["0001"]
        assert steps.downgrade(engine) == (1,)
        IdemTable(engine).create_all()
        assert recorded(engine) == ["0002"]
        assert newest(engine)


def test_one_revision_may_take_both_steps(engine: sa.Engine, kind: str) -> None:
    with installed(kind):
        for _ in range(2):
            op(engine, lambda: schema.upgrade(to=2))
            assert recorded(engine) == ["0002"]
            assert newest(engine)
            keep(engine, "a")
            op(engine, lambda: schema.upgrade(to=1))  # an earlier revision of another project
            assert recorded(engine) == ["0002"]
            op(engine, lambda: schema.downgrade(frm=2, to=0))
            assert tables(engine) == set()


def test_the_applications_own_revisions_take_one_step_after_the_other(
    application: Config, engine: sa.Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of(application)
    first = steps.revision(directory=folder)
    command.upgrade(application, "head")
    keep(engine, "a")
    with installed(COLUMN):
        second = steps.revision(directory=folder)
        assert "schema.upgrade(to=2, frm=1)" in second.read_text()
        assert "schema.downgrade(frm=2, to=1)" in second.read_text()
        with pytest.raises(steps.NothingToWrite):
            steps.revision(directory=folder)
        command.upgrade(application, "head")
        assert newest(engine)
        command.check(application)
        assert kept(engine) == {"a": "A"}
        command.downgrade(application, "-1")
        assert recorded(engine) == ["0001"]
        assert kept(engine) == {"a": "A"}
        capsys.readouterr()
        command.upgrade(application, f"{first.stem.partition('_')[0]}:head", sql=True)
        execute_script(engine, application_sql(capsys))
        assert newest(engine)
        command.downgrade(application, "head:aaaa", sql=True)
        execute_script(engine, application_sql(capsys))
        assert tables(engine) == {"alembic_version", "orders"}
        command.upgrade(application, "head")
        assert newest(engine)
    with pytest.raises(steps.NothingToWrite, match="go to step 2 already"):  # the release before, in the same project
        steps.revision(directory=folder)


def test_the_printed_script_takes_each_step(engine: sa.Engine, kind: str) -> None:
    name = engine.dialect.name
    with installed(kind):
        for way in (((0, 1), (1, 2), (2, 1), (1, 0)), ((0, 2), (2, 0))):
            for frm, to in way:
                execute_script(engine, steps.sql(name, frm=frm, to=to))
                assert not to or recorded(engine) == [f"{to:04d}"]
                assert to != 2 or newest(engine)
            assert tables(engine) == set()


def test_the_command_takes_a_second_step_and_says_so(engine: sa.Engine, database_url: str) -> None:
    def run(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, [*words, "--url", database_url])
        return done.exit_code, done.output

    steps.upgrade(engine)
    with installed(COLUMN):
        code, said = run("db", "check")
        assert code == 1
        assert "is at step 1, this version needs 2. Run `idemtable db upgrade`, or call `schema.upgrade(to=2)`" in said
        code, said = run("db", "upgrade", "--to", "1")
        assert code == 0
        assert said.startswith("nothing to do: ")
        assert said.endswith(" is not below step 1\n")
        assert run("db", "upgrade")[1].startswith("ran step 2 on ")
        assert run("db", "upgrade")[1].endswith(" is up to date\n")
        assert run("db", "check")[1].endswith(" is as it should be\n")
        assert run("db", "downgrade", "--to", "1")[1].startswith("took back step 2 of ")
        assert run("db", "downgrade", "--to", "0", "--yes")[1].startswith("took back step 1 of ")
        assert run("db", "upgrade")[1].startswith("ran steps 1, 2 on ")
        assert run("db", "downgrade", "--yes")[1].startswith("took back steps 2, 1 of ")


def test_alembic_in_a_checkout_takes_a_second_step(engine: sa.Engine, database_url: str, tmp_path: Path) -> None:
    folder = checkout(COLUMN, tmp_path)

    def alembic(*commands: str) -> None:
        code = "import sys; from alembic.config import main; [main(line.split()) for line in sys.argv[1:]]"
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        done = subprocess.run(
            [sys.executable, "-c", code, *commands],
            cwd=folder,
            env=environment | {"IDEMTABLE_URL": database_url, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr

    steps.upgrade(engine)
    keep(engine, "a")
    alembic("upgrade head", "check")
    with installed(COLUMN):
        assert newest(engine)
    assert kept(engine) == {"a": "A"}
    alembic("downgrade -1")
    assert newest(engine)
    assert kept(engine) == {"a": "A"}
    alembic("upgrade head", "downgrade base")
    assert tables(engine) == {"idemtable_version"}
    assert recorded(engine) == []


# --- two releases at one database -----------------------------------------------------------------------------------


def test_the_next_release_says_what_to_do_about_an_older_table(engine: sa.Engine, kind: str) -> None:
    steps.upgrade(engine)
    keep(engine, "a")
    with installed(kind):
        for use in (IdemTable(engine).check_schema, IdemTable(engine).create_all):
            with pytest.raises(SchemaError) as caught:
                use()
            assert caught.value.problems == ("the table idemtable is at step 1, this version needs 2",)
            assert "Run `idemtable db upgrade`, or call `schema.upgrade(to=2)`" in str(caught.value)
        assert steps.check(engine)[:-1] == ["the table idemtable is at step 1, this version needs 2"]
    assert recorded(engine) == ["0001"]
    assert newest(engine)


def test_the_release_before_works_on_a_newer_table_and_leaves_it_alone(engine: sa.Engine, kind: str) -> None:
    with installed(kind):
        steps.upgrade(engine)
        keep(engine, "new")
    idem = IdemTable(engine)
    idem.check_schema()
    idem.create_all()
    keep(engine, "old")
    assert kept(engine) == {"new": "NEW", "old": "OLD"}
    assert idem.stats().rows == 2
    assert (idem.purge().deleted, idem.forget("order", "new")) == (0, True)
    assert steps.check(engine) == []
    assert steps.upgrade(engine) == ()
    op(engine, lambda: schema.upgrade(to=1))
    for down in (lambda: steps.downgrade(engine), lambda: op(engine, lambda: schema.downgrade(frm=1, to=0))):
        with pytest.raises(SchemaError, match=r"at step 2: downgrade with the version of idemtable that knows it"):
            down()
    assert recorded(engine) == ["0002"]
    with installed(kind):
        assert newest(engine)
        assert kept(engine) == {"old": "OLD"}


def test_a_table_that_no_version_is_written_of_is_brought_to_the_newest_step(engine: sa.Engine, kind: str) -> None:
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
        connection.exec_driver_sql("DROP TABLE idemtable_version")
    keep(engine, "a")
    with installed(kind):
        assert steps.upgrade(engine) == (1, 2)
        assert newest(engine)
        assert kept(engine) == {"a": "A"}
        with engine.begin() as connection:  # and one that its own metadata has made
            connection.exec_driver_sql("DELETE FROM idemtable_version")
        assert steps.upgrade(engine) == (1, 2)
        assert newest(engine)
        assert recorded(engine) == ["0002"]


# --- what a kill or a person leaves behind --------------------------------------------------------------------------


def half_made(engine: sa.Engine) -> None:
    """What a kill in the middle of the second step leaves where DDL commits by itself."""
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE idemtable ADD COLUMN note varchar(20)")


def test_a_second_step_killed_half_way_is_healed(engine: sa.Engine) -> None:
    steps.upgrade(engine)
    half_made(engine)
    keep(engine, "a")
    with installed(COLUMN):
        assert steps.check(engine)[0] == "the table idemtable is at step 1, this version needs 2"
        assert steps.upgrade(engine) == (2,)
        assert newest(engine)
        assert kept(engine) == {"a": "A"}


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_downgrade_killed_half_way_is_healed_in_either_direction(engine: sa.Engine, way: str) -> None:
    with installed(COLUMN):
        steps.upgrade(engine)
        keep(engine, "a")
        for half in ("DROP INDEX ix_idemtable_note", "ALTER TABLE idemtable DROP COLUMN note"):
            if engine.dialect.name in ("mysql", "mariadb") and half.startswith("DROP INDEX"):
                half += " ON idemtable"
            with engine.begin() as connection:
                connection.exec_driver_sql(half)
            assert recorded(engine) == ["0002"]
            assert steps.check(engine) != []
        assert (steps.upgrade(engine) if way == "up" else steps.downgrade(engine, to=1)) == (2,)
        assert recorded(engine) == (["0002"] if way == "up" else ["0001"])
        assert way == "down" or newest(engine)
    assert way == "up" or newest(engine)
    assert kept(engine) == {"a": "A"}


@pytest.mark.parametrize("written", [True, False])
def test_what_the_first_step_left_undone_is_healed_by_the_release_that_has_two(
    engine: sa.Engine, kind: str, written: bool
) -> None:
    steps.upgrade(engine)
    (index,) = schema.build(sa.MetaData()).indexes
    with engine.begin() as connection:
        index.drop(connection)
        if not written:
            connection.exec_driver_sql("DELETE FROM idemtable_version")
    with installed(kind):
        assert steps.upgrade(engine)[-1] == 2
        assert newest(engine)


def test_a_version_written_of_a_table_that_is_gone_says_nothing_of_the_next_one(engine: sa.Engine, kind: str) -> None:
    steps.upgrade(engine)
    with installed(kind):
        for again in (steps.upgrade, steps.downgrade, lambda engine: IdemTable(engine).create_all()):
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP TABLE idemtable")
            again(engine)
            if again is steps.downgrade:
                assert tables(engine) == set()
                steps.upgrade(engine)
            assert recorded(engine) == ["0002"]
            assert newest(engine)


@pytest.mark.parametrize("written", [True, False])
def test_a_table_that_no_step_makes_is_left_alone(engine: sa.Engine, kind: str, written: bool) -> None:
    steps.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE idemtable ADD COLUMN mine integer")
        if not written:
            connection.exec_driver_sql("DROP TABLE idemtable_version")
    with installed(kind):
        assert any("column mine is not ours" in problem for problem in steps.check(engine))
        for refused in (
            lambda: steps.upgrade(engine),
            lambda: steps.downgrade(engine),
            lambda: op(engine, lambda: schema.upgrade(to=2)),
            IdemTable(engine).create_all,
        ):
            with pytest.raises(SchemaError, match="not the library's table"):
                refused()
    assert columns(engine) == {*schema.metadata.tables["idemtable"].c.keys(), "mine"}
    assert "idemtable_version" not in tables(engine) or recorded(engine) == ["0001"]


@pytest.mark.parametrize("frm", [-1, 2])
def test_a_start_that_cannot_be_is_refused(frm: int) -> None:
    with pytest.raises(ValueError, match="frm must be 0 to 1"):
        schema.upgrade(to=1, frm=frm)
    if frm < 0:
        with pytest.raises(ValueError, match="frm must be 0 to 1"):
            steps.sql("sqlite", frm=frm)
