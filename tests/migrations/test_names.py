"""Names and steps: which ones there are, and which are refused."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import schema
from idemtable import upgrade as steps
from tests.support.migrations import ROOT, tables


@pytest.mark.parametrize("name", ["", "1a", "a b", 'a"b', "a;b", "a.b", "ä", "a\n", "a" * 49, None, 7])
def test_bad_names_are_refused(name: Any, engine: sa.Engine) -> None:
    for call in (
        lambda: steps.upgrade(engine, table=name),
        lambda: steps.downgrade(engine, table=name),
        lambda: steps.check(engine, table=name),
        lambda: steps.sql("sqlite", table=name),
        lambda: steps.revision_text(table=name),
        lambda: schema.build(sa.MetaData(), name),
        lambda: schema.check_names(name),
        lambda: schema.check_names("idemtable", "" if name is None else name),
    ):
        with pytest.raises(ValueError, match="must be 1 to 48"):
            call()


def test_the_longest_name_works(engine: sa.Engine) -> None:
    name = "Idem_" + "x" * 43
    assert steps.upgrade(engine, table=name) == (1,)
    assert steps.check(engine, table=name) == []
    assert steps.upgrade(engine, table=name) == ()
    assert steps.downgrade(engine, table=name) == (1,)


def test_a_table_is_found_under_the_spelling_under_which_its_statements_find_it(engine: sa.Engine) -> None:
    """SQLite ignores capitals; elsewhere another spelling is another table."""
    steps.upgrade(engine, table="Keys")
    if engine.dialect.name != "sqlite":
        assert "the table keys is missing" in steps.check(engine, table="keys")[0]
        return
    with engine.begin() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM keys").scalar() == 0
    assert steps.check(engine, table="keys") == []
    assert steps.upgrade(engine, table="keys") == ()
    with engine.begin() as connection:
        schema.create_all(connection, "KEYS")
        connection.exec_driver_sql("DROP INDEX ix_Keys_expires_at")
    assert "the table Keys: ix_Keys_expires_at is missing" in steps.check(engine, table="keys")[0]
    assert steps.upgrade(engine, table="keys") == (1,)
    assert steps.check(engine, table="Keys") == []
    assert steps.downgrade(engine, table="keys") == (1,)
    assert tables(engine) == set()


def test_steps_that_cannot_be_are_refused(engine: sa.Engine) -> None:
    for call in (
        lambda: steps.upgrade(engine, to=0),
        lambda: steps.upgrade(engine, to=99),
        lambda: steps.downgrade(engine, to=-1),
        lambda: steps.sql("sqlite", to=99),
        lambda: steps.revision_text(to=99),
        lambda: steps.upgrade(engine, create_schema=True),
        lambda: steps.sql("oracle"),
    ):
        with pytest.raises(ValueError):
            call()
    assert tables(engine) == set()


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
