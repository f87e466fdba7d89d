"""The table comes up, goes down and comes up again, by every way there is, on every database."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

import idemtable
from idemtable import schema
from idemtable import upgrade as db
from idemtable.errors import SchemaError

ROOT = Path(__file__).parents[1]
ASYNC = {"sqlite": ["sqlite+aiosqlite"], "postgresql": ["postgresql+asyncpg"], "mariadb": ["mariadb+asyncmy"]}
SYNC = {"sqlite": ["sqlite"], "postgresql": ["postgresql+psycopg"], "mariadb": ["mariadb+pymysql", "mysql+pymysql"]}
URLS = {"postgresql": "IDEMTABLE_TEST_POSTGRESQL_URL", "mariadb": "IDEMTABLE_TEST_MARIADB_URL"}


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()


def kind(url: str) -> str:
    return sa.make_url(url).get_backend_name().replace("mysql", "mariadb")


def drivers(url: str, names: dict[str, list[str]]) -> list[str]:
    return [sa.make_url(url).set(drivername=name).render_as_string(hide_password=False) for name in names[kind(url)]]


def differences(engine: sa.Engine, metadata: Any = schema.metadata, **options: Any) -> list[Any]:
    """What autogenerate would write, in an application that compares all it can."""
    options = {"compare_type": True, "compare_server_default": True, **options}
    with engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def tables(engine: sa.Engine) -> set[str]:
    return set(sa.inspect(engine).get_table_names())


def recorded(engine: sa.Engine, table: str = "idemtable") -> list[str]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(f"SELECT version_num FROM {table}_version").scalars())


def execute_script(engine: sa.Engine, script: str) -> None:
    """Run a printed script as a person would paste it."""
    raw: Any = engine.raw_connection()
    if engine.dialect.name == "sqlite":
        raw.driver_connection.isolation_level = None
    cursor = raw.cursor()
    for statement in script.split(";\n"):
        if statement.strip():
            cursor.execute(statement)
    raw.commit()
    raw.close()


def as_it_should_be(engine: sa.Engine) -> None:
    assert tables(engine) == {"idemtable", "idemtable_version"}
    assert recorded(engine) == ["0001"]
    assert differences(engine) == []
    assert db.check(engine) == []


# ---- the programmatic way ------------------------------------------------------------------------------------------


def test_up_down_and_up_again(engine: sa.Engine) -> None:
    assert db.upgrade(engine) == (1,)
    as_it_should_be(engine)
    assert db.upgrade(engine) == ()
    assert db.downgrade(engine) == (1,)
    assert tables(engine) == set()
    assert db.downgrade(engine) == ()
    assert db.upgrade(engine, to=1) == (1,)
    as_it_should_be(engine)


@pytest.mark.parametrize("names", [SYNC, ASYNC], ids=["sync", "async"])
def test_a_url_of_any_driver_will_do(database_url: str, names: dict[str, list[str]], engine: sa.Engine) -> None:
    for url in drivers(database_url, names):
        assert db.upgrade(url) == (1,)
        assert db.check(url) == []
        as_it_should_be(engine)
        assert db.downgrade(url) == (1,)


def test_an_async_engine_keeps_the_pool_of_its_own_event_loop(database_url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    async def main() -> None:
        application = create_async_engine(drivers(database_url, ASYNC)[0])
        async with application.connect() as connection:
            await connection.execute(sa.text("SELECT 1"))
        assert await asyncio.to_thread(db.upgrade, application) == (1,)
        async with application.connect() as connection:
            await connection.run_sync(schema.require)
        await application.dispose()

    asyncio.run(main())


def test_other_names_live_beside_the_default_ones(engine: sa.Engine) -> None:
    db.upgrade(engine)
    assert db.upgrade(engine, table="inbox") == (1,)
    assert tables(engine) == {"idemtable", "idemtable_version", "inbox", "inbox_version"}
    both = sa.MetaData()
    schema.build(both)
    schema.build(both, "inbox")
    assert differences(engine, both) == []
    assert db.check(engine, table="inbox") == []
    db.downgrade(engine, table="inbox")
    as_it_should_be(engine)


def test_a_schema_is_created_when_asked(engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":  # has attached files instead
        with pytest.raises(sa.exc.OperationalError, match="SCHEMA"):
            db.upgrade(engine, schema="idem", create_schema=True)
        return
    name = f"idem_{uuid4().hex[:8]}"
    problems = db.check(engine, schema=name)
    assert f"the table {name}.idemtable is missing" in problems[0]
    assert f"idemtable db upgrade --schema {name}" in problems[-1]
    try:
        assert db.upgrade(engine, schema=name, create_schema=True) == (1,)
        assert db.upgrade(engine, schema=name, create_schema=True) == ()
        assert db.check(engine, schema=name) == []
        metadata = sa.MetaData()
        schema.build(metadata, schema=name)
        only = {"include_schemas": True, "include_name": lambda n, k, _: k != "schema" or n == name}
        assert differences(engine, metadata, **only) == []
        assert db.downgrade(engine, schema=name) == (1,)
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP SCHEMA {name}")


def test_an_engine_at_any_isolation_level_will_do(database_url: str) -> None:
    levels = ["SERIALIZABLE", "AUTOCOMMIT"] + (["REPEATABLE READ"] if kind(database_url) != "sqlite" else [])
    for level in levels:
        engine = sa.create_engine(database_url, isolation_level=level)
        assert db.upgrade(engine) == (1,), level
        as_it_should_be(engine)
        assert db.downgrade(engine) == (1,)
        engine.dispose()


def test_a_sqlite_engine_that_begins_explicitly_will_do(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'test.db'}")
    sa.event.listen(engine, "connect", lambda raw, _: setattr(raw, "isolation_level", None))
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    assert db.upgrade(engine) == (1,)
    as_it_should_be(engine)
    engine.dispose()


# ---- many at once --------------------------------------------------------------------------------------------------


def upgrade_at_the_barrier(url: str, barrier: Any, results: Any) -> None:
    try:
        barrier.wait(60)
        results.put(db.upgrade(url))
    except BaseException as error:
        results.put(repr(error))


def test_eight_processes_upgrading_at_once_never_fail(database_url: str, engine: sa.Engine) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(8), spawn.Queue()
    workers = [spawn.Process(target=upgrade_at_the_barrier, args=(database_url, barrier, results)) for _ in range(8)]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=90) for _ in workers]
    for worker in workers:
        worker.join(30)
    assert sorted(outcomes, key=str) == [*[()] * 7, (1,)], outcomes
    as_it_should_be(engine)


def test_eight_threads_upgrading_at_once_never_fail(engine: sa.Engine) -> None:
    with ThreadPoolExecutor(8) as pool:
        outcomes = [future.result() for future in [pool.submit(db.upgrade, engine) for _ in range(8)]]
    assert sorted(outcomes) == [*[()] * 7, (1,)]
    as_it_should_be(engine)


def test_whoever_comes_second_waits_and_then_sees_the_work_done(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "WAIT", 1)
    with engine.connect() as holder, db.locked(holder):
        with pytest.raises((sa.exc.OperationalError, SchemaError)):
            db.upgrade(engine)
        assert tables(engine) == set()
    assert db.upgrade(engine) == (1,)


def test_nothing_to_do_takes_no_lock(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    db.upgrade(engine)
    monkeypatch.setattr(db, "WAIT", 1)
    with engine.connect() as holder, db.locked(holder):
        assert db.upgrade(engine) == ()


def test_autogenerate_sees_no_difference(database_url: str, engine: sa.Engine) -> None:
    ways: list[Callable[[], object]] = [
        lambda: db.upgrade(engine),
        lambda: execute_script(engine, db.sql(engine.dialect.name)),
        lambda: alembic(database_url, "upgrade", "head"),
        lambda: schema.metadata.create_all(engine),
    ]
    for way in ways:
        way()
        assert tables(engine) == {"idemtable", "idemtable_version"}
        for url in drivers(database_url, SYNC):
            application = sa.create_engine(url, poolclass=sa.NullPool)
            other = sa.MetaData(naming_convention={"pk": "pk_%(table_name)s", "ix": "ix_%(column_0_label)s"})
            assert differences(application, [other, schema.metadata]) == []
        db.upgrade(engine)
        db.downgrade(engine)


# ---- offline -------------------------------------------------------------------------------------------------------


def test_the_printed_script_does_what_upgrade_does(database_url: str, engine: sa.Engine) -> None:
    for name in [*SYNC[kind(database_url)], kind(database_url), database_url]:
        dialect = name if ":" in name else name.split("+")[0]
        execute_script(engine, db.sql(dialect))
        as_it_should_be(engine)
        assert db.upgrade(engine) == ()
        execute_script(engine, db.sql(dialect, frm=1, to=0))
        assert tables(engine) == set()


def test_the_printed_script_carries_the_names() -> None:
    script = db.sql("postgresql", table="inbox", schema="ops", create_schema=True)
    assert "CREATE SCHEMA IF NOT EXISTS ops;" in script
    assert "CREATE TABLE ops.inbox (" in script
    assert "INSERT INTO ops.inbox_version (version_num) VALUES ('0001');" in script
    assert script.index("lock_timeout = '10s'") < script.index("CREATE TABLE")


# ---- in the application's own revision -----------------------------------------------------------------------------

APPLICATION_ENV = """
from alembic import context
import sqlalchemy as sa
import idemtable.schema

application = sa.MetaData(naming_convention={
    "pk": "pk_%(table_name)s", "ix": "ix_%(table_name)s_%(constraint_name)s"
})
sa.Table("orders", application, sa.Column("id", sa.Integer, primary_key=True))
target = [application, idemtable.schema.metadata]
url = context.config.get_main_option("sqlalchemy.url")
# A single MetaData is what makes Alembic apply the naming convention to operations.
with_convention = context.get_x_argument(as_dictionary=True).get("one")
if context.is_offline_mode():
    context.configure(url=url, target_metadata=target, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=application if with_convention else target)
        with context.begin_transaction():
            context.run_migrations()
"""

FIRST_REVISION = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "aaaa", None
def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))
def downgrade():
    op.drop_table("orders")
"""


@pytest.fixture
def application(database_url: str, tmp_path: Path) -> Config:
    """A program with an Alembic project of its own, and a table in it."""
    folder = tmp_path / "application"
    config = Config(folder / "alembic.ini")
    folder.mkdir()
    command.init(config, str(folder / "alembic"))
    (folder / "alembic" / "env.py").write_text(APPLICATION_ENV)
    (folder / "alembic" / "versions" / "aaaa_first.py").write_text(FIRST_REVISION)
    config = Config(folder / "alembic.ini")
    config.set_main_option("sqlalchemy.url", database_url.replace("%", "%%"))
    return config


def folder_of(application: Config) -> Path:
    assert application.config_file_name is not None
    return Path(application.config_file_name).parent


@pytest.mark.parametrize("x", [None, "one=1"], ids=["", "naming convention"])
def test_the_op_helper_in_an_applications_own_revision(
    application: Config, engine: sa.Engine, x: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    application.cmd_opts = type("Options", (), {"x": [x] if x else []})()
    path = db.revision(directory=folder_of(application))
    assert str(path) not in capsys.readouterr().out
    assert "Revises: aaaa" in path.read_text()
    assert "schema.upgrade(to=1)" in path.read_text()
    for _ in range(2):
        command.upgrade(application, "head")
        assert tables(engine) == {"alembic_version", "orders", "idemtable", "idemtable_version"}
        assert recorded(engine) == ["0001"]
        assert db.check(engine) == []
        assert db.upgrade(engine) == ()
        command.downgrade(application, "aaaa")
        assert tables(engine) == {"alembic_version", "orders"}
    command.upgrade(application, "head")
    application.cmd_opts = None
    command.check(application)
    with engine.connect() as connection:
        ids = list(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars())
    assert ids == [ScriptDirectory.from_config(application).get_current_head()]


def test_the_op_helper_offline(application: Config, engine: sa.Engine, capsys: pytest.CaptureFixture[str]) -> None:
    db.revision(directory=folder_of(application))
    command.upgrade(application, "head", sql=True)
    execute_script(engine, application_sql(capsys))
    assert tables(engine) == {"alembic_version", "orders", "idemtable", "idemtable_version"}
    assert recorded(engine) == ["0001"]
    assert db.check(engine) == []
    command.check(application)
    command.downgrade(application, "head:aaaa", sql=True)
    execute_script(engine, application_sql(capsys))
    assert tables(engine) == {"alembic_version", "orders"}


def application_sql(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().out.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("--", "INFO")))


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
    db.revision(directory=folder)
    with pytest.raises(ValueError, match="nothing to write"):
        db.revision(directory=folder)
    other = db.revision(directory=folder, table="inbox", schema="ops", create_schema=True).read_text()
    assert 'schema.upgrade(to=1, table="inbox", schema="ops", create_schema=True)' in other
    assert 'schema.downgrade(frm=1, to=0, table="inbox", schema="ops")' in other
    with pytest.raises(ValueError, match="nothing to write"):
        db.revision(directory=folder, table="inbox", schema="ops")


def test_revision_without_a_project_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no alembic\.ini"):
        db.revision(directory=tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    with pytest.raises(ValueError, match=r"no alembic\.ini"):
        db.revision(directory=tmp_path)


def test_revision_finds_a_project_in_pyproject(tmp_path: Path) -> None:
    command.init(Config(tmp_path / "alembic.ini"), str(tmp_path / "migrations"))
    (tmp_path / "alembic.ini").unlink()
    (tmp_path / "pyproject.toml").write_text('[tool.alembic]\nscript_location = "%(here)s/migrations"\n')
    assert db.revision(directory=tmp_path).parent == tmp_path / "migrations" / "versions"


def test_the_text_of_a_revision_is_python() -> None:
    space: dict[str, Any] = {}
    exec(db.revision_text(table="inbox"), space)
    assert callable(space["upgrade"])
    assert 'schema.upgrade(to=1, table="inbox")' in db.revision_text(table="inbox")


# ---- a table that was there before ---------------------------------------------------------------------------------


def test_a_table_made_by_the_metadata_passes_and_is_recorded(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        schema.metadata.create_all(connection)
    assert db.check(engine) == []
    assert db.upgrade(engine) == (1,)
    as_it_should_be(engine)


def test_create_all_is_as_good_as_upgrade(engine: sa.Engine) -> None:
    for _ in range(2):
        with engine.begin() as connection:
            schema.create_all(connection)
        as_it_should_be(engine)
        assert db.upgrade(engine) == ()


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
    for refused in (db.upgrade, db.downgrade):
        with pytest.raises(SchemaError, match="not the library's table"):
            refused(engine)
    with pytest.raises(SchemaError), engine.begin() as connection:
        schema.create_all(connection)
    assert tables(engine) == {"idemtable"}
    result = alembic(database_url, "upgrade", "head")
    assert result.returncode != 0
    assert "not the library's table" in result.stderr
    if "idemtable_version" in tables(engine):  # MariaDB keeps the table that Alembic makes for itself
        assert recorded(engine) == []
        sa.Table("idemtable_version", sa.MetaData(), autoload_with=engine).drop(engine)
    assert [str(each) for each in differences(engine)] == before
    assert db.check(engine) != []


SPOILED = {
    "postgresql": {
        "ALTER TABLE idemtable ALTER created_at TYPE timestamp": "created_at: type is TIMESTAMP WITHOUT TIME ZONE",
        "ALTER TABLE idemtable ALTER id TYPE text": "id: type is TEXT, needs UUID",
        "ALTER TABLE idemtable DROP CONSTRAINT idemtable_pkey": "primary key",
    },
    "mariadb": {
        "ALTER TABLE idemtable MODIFY expires_at datetime NOT NULL": "expires_at: has no microseconds",
        "ALTER TABLE idemtable MODIFY fingerprint binary(16)": "fingerprint: type is BINARY(16), needs BINARY(32)",
        "ALTER TABLE idemtable CONVERT TO CHARACTER SET latin1": "charset",
        "ALTER TABLE idemtable ENGINE = MyISAM": "engine is not InnoDB",
    },
    "sqlite": {"ALTER TABLE idemtable DROP COLUMN codec": "column codec is missing"},
}


def test_check_sees_what_would_break_a_promise(engine: sa.Engine, database_url: str) -> None:
    for statement, problem in SPOILED[kind(database_url)].items():
        db.upgrade(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql(statement)
        assert problem in db.check(engine)[0]
        with pytest.raises(SchemaError):
            db.upgrade(engine)
        with engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE idemtable")


def test_an_index_and_a_comment_of_the_owner_are_no_problem(engine: sa.Engine) -> None:
    db.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX mine ON idemtable (scope)")
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("COMMENT ON TABLE idemtable IS 'ours'")
    assert db.check(engine) == []
    assert db.upgrade(engine) == ()


def test_an_index_that_is_missing_is_healed(engine: sa.Engine) -> None:
    """What is left when a migration is killed where DDL is not part of the transaction."""
    table = schema.build(sa.MetaData())
    (index,) = table.indexes
    with engine.begin() as connection:
        table.create(connection)
        index.drop(connection)
    assert "ix_idemtable_expires_at is missing" in db.check(engine)[0]
    assert db.upgrade(engine) == (1,)
    as_it_should_be(engine)
    with engine.begin() as connection:
        index.drop(connection)
    assert db.upgrade(engine) == (1,)
    as_it_should_be(engine)


def test_a_downgrade_killed_half_way_is_healed(engine: sa.Engine) -> None:
    for again in (db.downgrade, db.upgrade):
        db.upgrade(engine)
        schema.build(sa.MetaData()).drop(engine)
        assert recorded(engine) == ["0001"]
        assert "is missing" in db.check(engine)[0]
        assert again(engine) == (1,)
    as_it_should_be(engine)


def test_a_newer_database_is_tolerated_and_not_downgraded(engine: sa.Engine) -> None:
    db.upgrade(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE idemtable_version SET version_num = '0099'")
        connection.exec_driver_sql("ALTER TABLE idemtable ADD COLUMN later INTEGER")
    assert db.check(engine) == []
    assert db.upgrade(engine) == ()
    with pytest.raises(SchemaError, match="99"):
        db.downgrade(engine)
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
    db.upgrade(engine, table="inbox")
    with engine.connect() as connection:
        schema.require(connection, "inbox")
        assert schema.state(connection, "inbox") == schema.State(1, (), 1)


# ---- `alembic` in a checkout ---------------------------------------------------------------------------------------


def alembic(url: str | None, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "IDEMTABLE_URL"}
    environment["PYTHONPATH"] = str(Path(idemtable.__path__[0]).parent)
    if url is not None:
        environment["IDEMTABLE_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("names", [SYNC, ASYNC], ids=["sync", "async"])
def test_alembic_in_a_checkout(database_url: str, names: dict[str, list[str]], engine: sa.Engine) -> None:
    url = drivers(database_url, names)[0]
    looks = [["check"], ["current"]] if names is SYNC else []  # a process each, and the colour is env.py's alone
    for arguments in (["upgrade", "head"], *looks, ["downgrade", "base"], ["upgrade", "head"]):
        result = alembic(url, *arguments)
        assert result.returncode == 0, result.stderr
        assert arguments != ["current"] or result.stdout == "0001 (head)\n"
    as_it_should_be(engine)
    assert db.upgrade(engine) == ()


def test_alembic_in_a_checkout_offline(database_url: str, engine: sa.Engine) -> None:
    result = alembic(database_url, "upgrade", "head", "--sql")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines(keepends=True)
    execute_script(engine, "".join(line for line in lines if not line.startswith("--")))
    as_it_should_be(engine)


def test_alembic_in_a_checkout_with_other_names(database_url: str, engine: sa.Engine) -> None:
    result = alembic(None, "-x", f"url={database_url}", "-x", "table=inbox", "upgrade", "head")
    assert result.returncode == 0, result.stderr
    assert tables(engine) == {"inbox", "inbox_version"}
    assert db.check(engine, table="inbox") == []


def test_alembic_in_a_checkout_asks_for_a_database() -> None:
    result = alembic(None, "upgrade", "head")
    assert result.returncode != 0
    assert "IDEMTABLE_URL" in result.stdout + result.stderr


# ---- in the wheel, in the sdist, in an editable install ------------------------------------------------------------

STEP = "idemtable/migrations/versions/v0001_initial.py"
IMPORT = """
import sys; sys.path.insert(0, sys.argv[1])
import importlib, idemtable
step = importlib.import_module("idemtable.migrations.versions.v0001_initial")
assert step.revision == "0001"
from idemtable import upgrade
print(upgrade.upgrade(sys.argv[2]), step.__file__)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("checkout") / "idemtable"
    ignore = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.db")
    shutil.copytree(ROOT, copy, ignore=ignore)
    return copy


def build(checkout: Path, what: str, target: Path) -> Path:
    """Call the build backend as pip does, without the network."""
    code = f"import sys, hatchling.build as b; print(b.build_{what}(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(target)],
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return target / result.stdout.split()[-1]


def imports(place: Path, tmp_path: Path) -> Path:
    """Upgrade a database with what stands in this place; give the file of the first step."""
    result = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT, str(place), f"sqlite:///{tmp_path / 'x.db'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    ran, file = result.stdout.rsplit(None, 1)
    assert ran == "(1,)"
    return Path(file)


def test_the_wheel_carries_the_migrations(checkout: Path, tmp_path: Path) -> None:
    wheel = build(checkout, "wheel", tmp_path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    assert {STEP, "idemtable/migrations/env.py", "idemtable/migrations/script.py.mako"} <= names
    assert not [name for name in names if name.startswith(("migrations/", "tests/"))]
    assert imports(tmp_path / "site", tmp_path) == tmp_path / "site" / STEP


def test_the_sdist_carries_the_migrations(checkout: Path, tmp_path: Path) -> None:
    sdist = build(checkout, "sdist", tmp_path)
    with tarfile.open(sdist) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # since 3.11.4
        archive.extractall(tmp_path / "unpacked", **safely)  # type: ignore[arg-type]
    (source,) = (tmp_path / "unpacked").iterdir()
    assert (source / "migrations" / "versions" / "v0001_initial.py").is_file()
    with zipfile.ZipFile(build(source, "wheel", tmp_path)) as archive:
        assert STEP in archive.namelist()


def test_an_editable_install_imports_the_migrations(checkout: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(build(checkout, "editable", tmp_path)) as archive:
        (pth,) = (name for name in archive.namelist() if name.endswith(".pth"))
        place = Path(archive.read(pth).decode().strip())
    assert imports(place, tmp_path) == checkout / "migrations" / "versions" / "v0001_initial.py"


# ---- names, steps and secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "1a", "a b", 'a"b', "a;b", "a.b", "ä", "a\n", "a" * 49, None, 7])
def test_bad_names_are_refused(name: Any, engine: sa.Engine) -> None:
    for call in (
        lambda: db.upgrade(engine, table=name),
        lambda: db.downgrade(engine, table=name),
        lambda: db.check(engine, table=name),
        lambda: db.sql("sqlite", table=name),
        lambda: db.revision_text(table=name),
        lambda: schema.build(sa.MetaData(), name),
        lambda: schema.check_names(name),
        lambda: schema.check_names("idemtable", "" if name is None else name),
    ):
        with pytest.raises(ValueError, match="must be 1 to 48"):
            call()


def test_the_longest_name_works(engine: sa.Engine) -> None:
    name = "Idem_" + "x" * 43
    assert db.upgrade(engine, table=name) == (1,)
    assert db.check(engine, table=name) == []
    assert db.upgrade(engine, table=name) == ()
    assert db.downgrade(engine, table=name) == (1,)


def test_steps_that_cannot_be_are_refused(engine: sa.Engine) -> None:
    for call in (
        lambda: db.upgrade(engine, to=0),
        lambda: db.upgrade(engine, to=99),
        lambda: db.downgrade(engine, to=-1),
        lambda: db.sql("sqlite", to=99),
        lambda: db.revision_text(to=99),
        lambda: db.upgrade(engine, create_schema=True),
        lambda: db.sql("oracle"),
    ):
        with pytest.raises(ValueError):
            call()
    assert tables(engine) == set()


def test_the_password_is_never_in_an_error(tmp_path: Path) -> None:
    secret = "s3cr3t"
    for url in (
        f"postgresql+psycopg://u:{secret}@127.0.0.1:1/x",
        f"postgresql+psycopg://u:{secret}/p@127.0.0.1:1/x",
        f"postgresql+psycopg://u:a:{secret}@127.0.0.1:{secret}/x",
        f"postgresql+asyncpg://u:{secret}@127.0.0.1:1/x",
        f"mariadb+pymysql://u:{secret}@127.0.0.1:1/x",
        f"mariadb+asyncmy://u:{secret}%25@127.0.0.1:1/x",
        f"u:{secret}@127.0.0.1",
    ):
        for call in (db.upgrade, db.downgrade, db.check):
            with pytest.raises(Exception) as caught:
                call(url)
            seen: BaseException | None = caught.value
            while seen is not None:
                assert secret not in f"{seen} {seen!r}", url
                seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    for url in (f"postgresql+psycopg://u:{secret}@127.0.0.1:1/x", f"u:{secret}@127.0.0.1"):  # a process each
        result = alembic(url, "upgrade", "head")
        assert result.returncode != 0
        assert secret not in result.stdout + result.stderr


def test_a_percent_sign_in_a_password_works(tmp_path: Path) -> None:
    """SQLite takes no password, but the URL goes the same way through the configuration."""
    assert alembic(f"sqlite:///{tmp_path}/a%%b.db", "upgrade", "head").returncode == 0
    assert "PASSWORD" not in db.sql("postgresql+psycopg://u:PASSWORD%25%40@h/x")


def test_every_step_has_its_own_number_and_both_ways() -> None:
    files = sorted(path.stem for path in (ROOT / "migrations" / "versions").glob("v*.py"))
    assert tuple(files) == schema._STEPS
    for number, name in enumerate(files, start=1):
        step = schema._step(number)
        assert name.startswith(f"v{number:04d}_")
        assert step.revision == f"{number:04d}"
        assert step.down_revision == (f"{number - 1:04d}" if number > 1 else None)
        assert callable(step.upgrade)
        assert callable(step.downgrade)
    assert set(schema.build(sa.MetaData()).c.keys()) == schema._step(schema.STEP).COLUMNS
