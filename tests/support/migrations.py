"""What the tests of migrations share: names of drivers, looks at a database, and `alembic` in a checkout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext

import idemtable
from idemtable import schema
from idemtable import upgrade as steps
from tests.support.database import kind_of
from tests.support.forked import python

ROOT = Path(__file__).parents[2]
ASYNC = {
    "sqlite": ["sqlite+aiosqlite"],
    "postgresql": ["postgresql+asyncpg"],
    "mariadb": ["mariadb+asyncmy"],
    "mysql": ["mysql+asyncmy"],
}
SYNC = {
    "sqlite": ["sqlite"],
    "postgresql": ["postgresql+psycopg"],
    "mariadb": ["mariadb+pymysql", "mysql+pymysql"],
    "mysql": ["mysql+pymysql"],
}


def kind(url: str) -> str:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        return kind_of(engine)
    finally:
        engine.dispose()


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


def folder_of(application: Config) -> Path:
    """The folder of a program with an Alembic project of its own."""
    assert application.config_file_name is not None
    return Path(application.config_file_name).parent


def application_sql(capsys: pytest.CaptureFixture[str]) -> str:
    """What such a program has printed for `--sql`."""
    lines = capsys.readouterr().out.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("--", "INFO")))


def as_it_should_be(engine: sa.Engine) -> None:
    assert tables(engine) == {"idemtable", "idemtable_version"}
    assert recorded(engine) == ["0001"]
    assert differences(engine) == []
    assert steps.check(engine) == []


def alembic(url: str | None, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `alembic` as in a shell."""
    environment = {key: value for key, value in os.environ.items() if key != "IDEMTABLE_URL"}
    environment["PYTHONPATH"] = str(Path(idemtable.__path__[0]).parent)
    if url is not None:
        environment["IDEMTABLE_URL"] = url
    return python(["-m", "alembic", *arguments], cwd=folder, env=environment, timeout=60)


def upgrade_at_the_barrier(url: str, barrier: Any, results: Any) -> None:
    try:
        barrier.wait(60)
        results.put(steps.upgrade(url))
    except BaseException as error:
        results.put(repr(error))
