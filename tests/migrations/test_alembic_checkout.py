"""`alembic` in a checkout of this repository."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from idemtable import upgrade as steps
from tests.support.migrations import ASYNC, SYNC, alembic, as_it_should_be, drivers, execute_script, kind, tables


@pytest.mark.parametrize("names", [SYNC, ASYNC], ids=["sync", "async"])
def test_alembic_in_a_checkout(database_url: str, names: dict[str, list[str]], engine: sa.Engine) -> None:
    url = drivers(database_url, names)[0]
    for command in ("upgrade head", "check", "current", "downgrade base", "upgrade head"):
        done = alembic(url, *command.split())
        assert done.returncode == 0, done.stderr
        assert command != "current" or done.stdout.strip() == "0001 (head)"
    as_it_should_be(engine)
    assert steps.upgrade(engine) == ()


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
    assert steps.check(engine, table="inbox") == []


def test_alembic_in_a_checkout_says_that_the_schema_is_missing(database_url: str, engine: sa.Engine) -> None:
    result = alembic(database_url, "-x", "schema=ops", "upgrade", "head")
    assert result.returncode != 0
    said = result.stdout + result.stderr
    # MySQL and MariaDB say by themselves that they know no such database.
    assert ("schema ops" if kind(database_url) in ("sqlite", "postgresql") else "Unknown database 'ops'") in said
    assert "Traceback" not in said or "Unknown database" in said
    assert tables(engine) == set()


def test_alembic_in_a_checkout_refuses_a_name_it_does_not_know(database_url: str, engine: sa.Engine) -> None:
    result = alembic(database_url, "-x", "tabel=keys", "upgrade", "head")
    assert result.returncode != 0
    assert "table=…" in result.stdout + result.stderr
    assert "tabel" in result.stdout + result.stderr
    assert tables(engine) == set()


def test_alembic_in_a_checkout_asks_for_a_database() -> None:
    result = alembic(None, "upgrade", "head")
    assert result.returncode != 0
    assert "IDEMTABLE_URL" in result.stdout + result.stderr
