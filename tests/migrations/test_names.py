"""Names and steps: which ones there are, and which are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import IdemTable, SchemaError, schema
from idemtable import upgrade as steps
from idemtable.doctor import examine
from idemtable.model import Level
from tests.servers import mariadb
from tests.support.backends import needed
from tests.support.migrations import ROOT, alembic, tables


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


def test_a_table_renamed_in_its_capitals_alone_is_as_it_should_be(engine: sa.Engine) -> None:
    steps.upgrade(engine, table="keys")
    with engine.begin() as connection:
        quote = engine.dialect.identifier_preparer.quote_identifier
        for end in ("", "_version"):
            for old, new in pairwise(quote(name + end) for name in ("keys", "between", "Keys")):
                connection.exec_driver_sql(f"ALTER TABLE {old} RENAME TO {new}")
    for _ in range(2):
        steps.upgrade(engine, table="Keys")
        assert steps.check(engine, table="Keys") == []
        with engine.begin() as connection:
            for index in sa.Table("Keys", sa.MetaData(), autoload_with=connection).indexes:
                index.drop(connection)
        assert "ix_Keys_expires_at is missing" in steps.check(engine, table="Keys")[0]


@pytest.fixture
def small() -> Iterator[sa.Engine]:
    """A database of a server that keeps the names of tables and schemas in small letters, and another one beside it."""
    with needed():
        server = mariadb(extra=["lower_case_table_names=1"])
    with server:
        for name in ("shop", "Other"):
            server.create_database(name)
        yield sa.create_engine(server.url("shop"), poolclass=sa.NullPool)


def test_a_server_that_keeps_names_in_small_letters_has_the_table_under_any_spelling(small: sa.Engine) -> None:
    for table, name in (("Req_Keys", None), ("Req_Keys", "Other"), ("req_keys", "OTHER"), ("Req_Keys", "shop")):
        assert steps.upgrade(small, table=table, schema=name) == (1,)
        for one, where in ((table, name), (table.upper(), name), (table.lower(), name and name.lower())):
            assert steps.upgrade(small, table=one, schema=where) == ()
            assert steps.check(small, table=one, schema=where) == []
            found = [finding for finding in examine(small, table=one, schema=where) if finding.about == "schema"]
            assert [finding.level for finding in found] == [Level.GOOD]
            idem = IdemTable(small, table=one, schema=where)
            idem.create_all()
            idem.check_schema()
            with idem.transaction("order", "k") as claim:
                assert claim.replayed is ((one, where) != (table, name))
        assert steps.downgrade(small, table=table.upper(), schema=name) == (1,)
        assert not {one for where in ("shop", "other") for one in sa.inspect(small).get_table_names(where)}


@pytest.mark.parametrize("made", ["by the metadata", "by alembic in a checkout"])
def test_a_table_made_under_capitals_that_its_server_does_not_keep_passes_and_is_healed(
    small: sa.Engine, made: str
) -> None:
    """The server drops the capitals of the table, and keeps those of the index."""
    if made == "by the metadata":
        metadata = sa.MetaData()
        schema.build(metadata, "Req_Keys")
        metadata.create_all(small)
    else:
        url = small.url.render_as_string(hide_password=False)
        for _ in range(2):
            result = alembic(url, "-x", "table=Req_Keys", "upgrade", "head")
            assert result.returncode == 0, result.stderr
    for name in ("Req_Keys", "req_keys"):
        assert steps.check(small, table=name) == []
        steps.upgrade(small, table=name)
        assert steps.upgrade(small, table=name) == ()
        with small.begin() as connection:
            schema.create_all(connection, name)
            connection.exec_driver_sql("DROP INDEX ix_req_keys_expires_at ON req_keys")
        assert "ix_req_keys_expires_at is missing" in steps.check(small, table=name)[0]
        assert steps.upgrade(small, table=name) == (1,)
        assert steps.check(small, table=name) == []


def test_whoever_spells_the_table_otherwise_waits_where_it_is_the_same_one(
    small: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "WAIT", 1)
    with small.connect() as holder, steps.locked(holder, "Req_Keys", "Shop"), pytest.raises(SchemaError, match="again"):
        steps.upgrade(small, table="REQ_KEYS")
    assert tables(small) == set()


def test_steps_that_cannot_be_are_refused(engine: sa.Engine) -> None:
    for call in (
        lambda: steps.upgrade(engine, to=0),
        lambda: steps.upgrade(engine, to=99),
        lambda: steps.downgrade(engine, to=-1),
        lambda: steps.sql("sqlite", to=99),
        lambda: steps.sql("sqlite", to="1"),  # type: ignore[arg-type]
        lambda: steps.sql("sqlite", frm=99),
        lambda: steps.upgrade(engine, to="1"),  # type: ignore[arg-type]
        lambda: steps.downgrade(engine, to=None),  # type: ignore[arg-type]
        lambda: schema.upgrade(to=None),  # type: ignore[arg-type]
        lambda: schema.upgrade(to=1, frm="0"),  # type: ignore[arg-type]
        lambda: schema.downgrade(frm="1", to=0),  # type: ignore[arg-type]
        lambda: schema.downgrade(frm=1, to=1),
        lambda: steps.revision_text(to=99),
        lambda: steps.upgrade(engine, create_schema=True),
        lambda: steps.sql("oracle"),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(TypeError, match="create_schema= takes True or False, not 'no'"):
        schema.upgrade(to=1, schema="shop", create_schema="no")  # type: ignore[arg-type]
    for call in (steps.upgrade, steps.check):
        with pytest.raises(TypeError, match="expected an Engine, an AsyncEngine or a URL, not None"):
            call(None)
    assert tables(engine) == set()


@pytest.mark.parametrize("call", ["upgrade(to=1)", "downgrade(frm=1, to=0)"])
def test_a_step_outside_a_revision_names_what_to_call_there(call: str) -> None:
    # In a process of its own: after a revision that has failed, Alembic still has its connection.
    command = [sys.executable, "-c", f"from idemtable import schema; schema.{call}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert "RuntimeError: this runs in a revision of Alembic's alone" in ended.stderr
    assert "call idemtable.upgrade.upgrade(engine)" in ended.stderr


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
