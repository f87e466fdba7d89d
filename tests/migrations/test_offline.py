"""The printed script does what an upgrade does."""

from __future__ import annotations

import sqlalchemy as sa

from idemtable import upgrade as steps
from tests.support.migrations import SYNC, as_it_should_be, execute_script, kind, tables


def test_the_printed_script_does_what_upgrade_does(database_url: str, engine: sa.Engine) -> None:
    for name in [*SYNC[kind(database_url)], kind(database_url), database_url]:
        dialect = name if ":" in name else name.split("+")[0]
        execute_script(engine, steps.sql(dialect))
        as_it_should_be(engine)
        assert steps.upgrade(engine) == ()
        execute_script(engine, steps.sql(dialect, frm=1, to=0))
        assert tables(engine) == set()


def test_the_printed_script_carries_the_names() -> None:
    script = steps.sql("postgresql", table="inbox", schema="ops", create_schema=True)
    assert "CREATE SCHEMA IF NOT EXISTS ops;" in script
    assert "CREATE TABLE ops.inbox (" in script
    assert "INSERT INTO ops.inbox_version (version_num) VALUES ('0001');" in script
    assert script.index("lock_timeout = '10s'") < script.index("CREATE TABLE")
