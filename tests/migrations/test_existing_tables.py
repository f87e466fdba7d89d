"""A table that was there before: ours is recorded and healed, another one is left alone."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

from idemtable import IdemTable, schema
from idemtable import upgrade as steps
from idemtable.cli import main
from idemtable.doctor import Level, examine
from idemtable.errors import SchemaError
from tests.support.backends import BACKENDS
from tests.support.migrations import alembic, as_it_should_be, differences, kind, recorded, tables


def test_a_table_made_by_the_metadata_passes_and_is_recorded(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
    assert steps.check(engine) == []
    assert steps.upgrade(engine) == (1,)
    as_it_should_be(engine)


def test_create_all_is_as_good_as_upgrade(engine: sa.Engine) -> None:
    for _ in range(2):
        with engine.begin() as connection:
            schema.create_all(connection)
        as_it_should_be(engine)
        assert steps.upgrade(engine) == ()


def wrong_table(wrong: str) -> sa.MetaData:
    """A table of our name that is not ours."""
    columns = {c.name: sa.Column(c.name, c.type, nullable=c.nullable) for c in schema.build(sa.MetaData()).c}
    constraints: list[sa.Constraint] = [] if wrong == "no primary key" else [sa.PrimaryKeyConstraint("id")]
    if wrong == "another table":
        columns = {"id": sa.Column("id", sa.Integer)}
    elif wrong == "one column more":
        columns["mine"] = sa.Column("mine", sa.Integer)
    elif wrong == "another type":
        columns["scope"] = sa.Column("scope", sa.Integer, nullable=False)
    elif wrong == "nullable":
        columns["status"] = sa.Column("status", sa.SmallInteger)
    metadata = sa.MetaData()
    sa.Table("idemtable", metadata, *columns.values(), *constraints)
    return metadata


@pytest.mark.parametrize("wrong", ["another table", "one column more", "another type", "nullable", "no primary key"])
def test_a_table_that_is_not_ours_is_neither_stamped_nor_changed_nor_dropped(
    engine: sa.Engine, wrong: str, database_url: str
) -> None:
    wrong_table(wrong).create_all(engine)
    before = [str(each) for each in differences(engine)]
    for refused in (steps.upgrade, steps.downgrade):
        with pytest.raises(SchemaError, match="not the library's table"):
            refused(engine)
    with pytest.raises(SchemaError), engine.begin() as connection:
        schema.create_all(connection)
    assert tables(engine) == {"idemtable"}
    if wrong == "another table":  # a process of a second each, and it asks what the two above have asked
        result = alembic(database_url, "upgrade", "head")
        assert result.returncode != 0
        assert "not the library's table" in result.stderr
    if "idemtable_version" in tables(engine):  # MariaDB keeps the table that Alembic makes for itself
        assert recorded(engine) == []
        sa.Table("idemtable_version", sa.MetaData(), autoload_with=engine).drop(engine)
    assert [str(each) for each in differences(engine)] == before
    assert steps.check(engine) != []


_NUMBERS = "CREATE TABLE idemtable_version (version_num VARCHAR(32))"
STRANGE = {
    "another table": ("CREATE TABLE idemtable_version (product INT)", "(7)"),
    "a column more": ("CREATE TABLE idemtable_version (version_num VARCHAR(32), product INT NOT NULL)", "('0001', 7)"),
    "another type": ("CREATE TABLE idemtable_version (version_num INT)", "(1)"),
    "a word": (_NUMBERS, "('abc')"),
    "a number below zero": (_NUMBERS, "('-1')"),
    "nothing": (_NUMBERS, "(NULL)"),
}


@pytest.mark.parametrize("strange", STRANGE)
def test_a_version_table_that_is_not_ours_is_named_and_left_alone(
    engine: sa.Engine, strange: str, database_url: str
) -> None:
    create, row = STRANGE[strange]
    idem = IdemTable(engine)

    def rows() -> list[tuple[Any, ...]]:
        with engine.connect() as connection:
            return [tuple(one) for one in connection.exec_driver_sql("SELECT * FROM idemtable_version")]

    for beside in ("nothing", "ours"):
        with engine.begin() as connection:
            connection.exec_driver_sql(create)
            connection.exec_driver_sql(f"INSERT INTO idemtable_version VALUES {row}")
        before = tables(engine), rows()
        problem, cure = steps.check(engine)
        assert problem.startswith("the table idemtable_version: ")
        assert "rename it" in cure
        for refused in (
            lambda: steps.upgrade(engine),
            lambda: steps.downgrade(engine),
            idem.check_schema,
            idem.create_all,
        ):
            with pytest.raises(SchemaError, match=r"^the table idemtable_version: .* It is not the library's table"):
                refused()
        (told,) = (finding for finding in examine(engine) if finding.about == "schema")
        assert (told.level, told.found, told.cure) == (Level.MEND, problem, cure)
        assert CliRunner().invoke(main, ["db", "check", "--url", database_url]).exit_code == 1
        assert (tables(engine), rows()) == before
        with engine.begin() as connection:
            if "delete that row" in problem:
                connection.exec_driver_sql("DELETE FROM idemtable_version")
            else:
                connection.exec_driver_sql(f"ALTER TABLE idemtable_version RENAME TO theirs_beside_{beside}")
        assert steps.upgrade(engine) == (1,)
        assert steps.check(engine) == []
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE idemtable_version")


_SPOILED_INNODB = {
    "ALTER TABLE idemtable MODIFY expires_at datetime NOT NULL": "expires_at: has no microseconds",
    "ALTER TABLE idemtable MODIFY fingerprint binary(16)": "fingerprint: type is BINARY(16), needs BINARY(32)",
    "ALTER TABLE idemtable CONVERT TO CHARACTER SET latin1": "charset",
    "ALTER TABLE idemtable ENGINE = MyISAM": "engine is not InnoDB",
}
SPOILED = {
    "postgresql": {
        "ALTER TABLE idemtable ALTER created_at TYPE timestamp": "created_at: type is TIMESTAMP WITHOUT TIME ZONE",
        "ALTER TABLE idemtable ALTER expires_at TYPE timestamptz(0)": "expires_at: has no microseconds",
        "ALTER TABLE idemtable ALTER id TYPE text": "id: type is TEXT, needs UUID",
        "ALTER TABLE idemtable DROP CONSTRAINT idemtable_pkey": "primary key",
    },
    "mariadb": _SPOILED_INNODB,
    "mysql": _SPOILED_INNODB,
    "sqlite": {"ALTER TABLE idemtable DROP COLUMN codec": "column codec is missing"},
}


def test_check_sees_what_would_break_a_promise(engine: sa.Engine, database_url: str) -> None:
    for statement, problem in SPOILED[kind(database_url)].items():
        steps.upgrade(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        assert problem in steps.check(engine)[0]
        with pytest.raises(SchemaError):
            steps.upgrade(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE idemtable")


@pytest.mark.parametrize("how", ["partitioned", "inherited from"])
@pytest.mark.parametrize("database_url", ["postgresql18"], indirect=True)
def test_a_table_whose_rows_are_kept_in_others_is_refused_with_the_reason(engine: sa.Engine, how: str) -> None:
    steps.upgrade(engine)
    with engine.begin() as connection:
        if how == "partitioned":
            connection.exec_driver_sql("ALTER TABLE idemtable RENAME TO plain")
            connection.exec_driver_sql("CREATE TABLE idemtable (LIKE plain INCLUDING ALL) PARTITION BY HASH (id)")
            connection.exec_driver_sql("DROP TABLE plain")
            connection.exec_driver_sql("ALTER INDEX idemtable_expires_at_idx RENAME TO ix_idemtable_expires_at")
        else:
            connection.exec_driver_sql("CREATE TABLE part () INHERITS (idemtable)")
    (problem, cure) = steps.check(engine)
    assert "it is partitioned, or others inherit from it: a purge" in problem
    assert "rename it or choose another name" in cure
    for refused in (steps.upgrade, steps.downgrade, lambda engine: IdemTable(engine).check_schema()):
        with pytest.raises(SchemaError, match="it is partitioned"):
            refused(engine)


MODES = {"mysql": ["ANSI"], "mariadb": ["ANSI", "ORACLE", "MSSQL", "NO_TABLE_OPTIONS"]}


@pytest.mark.parametrize("database_url", [name for name in MODES if name in BACKENDS], indirect=True)
def test_a_table_is_known_for_what_it_is_in_a_session_that_speaks_for_another_database(database_url: str) -> None:
    found = kind(database_url)
    for mode in MODES[found]:
        arguments = {"init_command": f"SET SESSION sql_mode = '{mode}'"}
        engine = sa.create_engine(database_url, poolclass=sa.NullPool, connect_args=arguments)
        assert steps.upgrade(engine) == (1,)
        assert steps.upgrade(engine) == ()
        assert steps.check(engine) == []
        with engine.begin() as connection:
            schema.create_all(connection)
        for statement, problem in list(SPOILED[found].items())[-2:]:
            with engine.begin() as connection:
                connection.exec_driver_sql(statement)
            assert problem in "".join(steps.check(engine))
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE idemtable")


def test_an_index_and_a_comment_of_the_owner_are_no_problem(engine: sa.Engine) -> None:
    steps.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX mine ON idemtable (scope)")
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("COMMENT ON TABLE idemtable IS 'ours'")
    assert steps.check(engine) == []
    assert steps.upgrade(engine) == ()


def test_an_index_that_is_missing_is_healed(engine: sa.Engine) -> None:
    """What is left when a migration is killed where DDL is not part of the transaction."""
    table = schema.build(sa.MetaData())
    (index,) = table.indexes
    with engine.begin() as connection:
        table.create(connection)
        index.drop(connection)
    assert "ix_idemtable_expires_at is missing" in steps.check(engine)[0]
    assert steps.upgrade(engine) == (1,)
    as_it_should_be(engine)
    with engine.begin() as connection:
        index.drop(connection)
    assert steps.upgrade(engine) == (1,)
    as_it_should_be(engine)


def test_a_downgrade_killed_half_way_is_healed(engine: sa.Engine) -> None:
    for again in (steps.downgrade, steps.upgrade):
        steps.upgrade(engine)
        schema.build(sa.MetaData()).drop(engine)
        assert recorded(engine) == ["0001"]
        assert "is missing" in steps.check(engine)[0]
        assert again(engine) == (1,)
    as_it_should_be(engine)


def test_a_newer_database_is_tolerated_and_not_downgraded(engine: sa.Engine) -> None:
    steps.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE idemtable_version SET version_num = '0099'")
        connection.exec_driver_sql("ALTER TABLE idemtable ADD COLUMN later INTEGER")
    assert steps.check(engine) == []
    assert steps.upgrade(engine) == ()
    with pytest.raises(SchemaError, match="99"):
        steps.downgrade(engine)
    assert recorded(engine) == ["0099"]


def test_require_names_the_command_and_the_op_helper(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        with pytest.raises(SchemaError) as caught:
            schema.require(connection, "inbox")
        assert "`idemtable db upgrade --table inbox`" in str(caught.value)
        assert '`schema.upgrade(to=1, table="inbox")`' in str(caught.value)
        assert "`idemtable db revision`" in str(caught.value)
        assert schema.state(connection, "inbox").step is None
        assert "--schema idemtable`" in schema.cure(schema.State(None, ()), "idemtable", "idemtable")
    steps.upgrade(engine, table="inbox")
    with engine.connect() as connection:
        schema.require(connection, "inbox")
        assert schema.state(connection, "inbox") == schema.State(1, (), 1)
