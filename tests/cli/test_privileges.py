"""Each role of the database does its job with the rights that are printed for it, and with no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import Flag, IdemTable, SchemaError
from idemtable import upgrade as steps
from tests.support.backends import BACKENDS, server
from tests.support.cli import Run
from tests.support.migrations import ASYNC
from tests.support.roles import Roles

SERVERS = [
    name
    for name in ("postgresql16", "postgresql18", "mariadb", "mariadb11.8", "mysql")
    if name in {where for where, _ in BACKENDS.values()}
]


@pytest.fixture(params=SERVERS)
def roles(request: pytest.FixtureRequest) -> Iterator[Roles]:
    found = server(request.param)
    name = f"t_{uuid4().hex[:16]}"
    found.create_database(name)
    roles = Roles(found.url(name))
    yield roles
    roles.close()
    found.drop_database(name)


def serve(engine: sa.Engine, expire: Callable[[], None]) -> None:
    """Do what an application does."""
    idem = IdemTable(engine, wait=timedelta(seconds=1))
    idem.check_schema()

    @idem.transactional("pay", key="key", remember=(ValueError,), share_scope=True)
    def pay(session: Session, key: str) -> str:
        if key == "bad":
            raise ValueError("declined")
        return key

    assert [pay.outcome("k").replayed for _ in range(2)] == [False, True]
    for _ in range(2):
        with pytest.raises(ValueError, match="declined"):
            pay("bad")
    expire()
    assert pay.outcome("k").replayed is False
    with idem.transaction("pay", "block", wait=timedelta(0)) as claim:
        claim.result = 1
    with Session(engine) as session, session.begin():
        assert pay.join(session, "joined") == "joined"
        assert pay.join(session, "k") == "k"
    for flags in ([Flag.New, Flag.New], [Flag.Seen, Flag.Seen], [Flag.New, Flag.New]):
        with Session(engine) as session, session.begin():
            assert idem.claim_many(session, "batch", ["a", "b"]) == flags
        if flags[0] is Flag.Seen:
            expire()
    tokens = idem.tokens("page", ttl=timedelta(minutes=5))
    token = tokens.issue()
    with Session(engine) as session, session.begin(), tokens.redeem(session, token) as claim:
        claim.result = 1
    assert idem.get("pay", "k") is not None
    assert idem.stored_result("pay", "k") == b'"k"'
    assert len(idem.records()) == idem.stats().rows == 7
    assert idem.stats().table_bytes


def look_after(engine: sa.Engine, expire: Callable[[], None]) -> None:
    """Do what an operator and the purge do."""
    idem = IdemTable(engine)
    assert steps.check(engine) == []
    assert idem.forget("pay", "block")
    expire()
    assert idem.purge().deleted > 0
    assert idem.stats().expired == 0
    with Session(engine) as session, session.begin():
        idem.lock_name(session, "night")


def test_each_role_does_its_job_with_what_is_printed_for_it(roles: Roles) -> None:
    migrator = roles.hired("migrate")
    assert steps.upgrade(migrator) == (1,)
    assert steps.upgrade(migrator) == ()
    assert steps.downgrade(migrator) == (1,)
    assert steps.upgrade(migrator) == (1,)
    assert steps.check(migrator) == []
    serve(roles.hired("app"), roles.expire)
    look_after(roles.hired("purge"), roles.expire)
    for name in ASYNC[roles.kind]:
        app = roles.hired("app")
        assert steps.check(app.url.set(drivername=name)) == []


def test_under_another_name_too(roles: Roles) -> None:
    names = {"table": "Other_Keys"}
    if roles.kind == "postgresql":
        roles.execute("CREATE SCHEMA ops")
        names["schema"] = "ops"
    assert steps.upgrade(roles.hired("migrate", **names), **names) == (1,)
    for job in ("app", "purge"):
        idem = IdemTable(roles.hired(job, **names), **names)
        idem.check_schema()
        with idem.transaction("pay", job):
            pass
    assert idem.forget("pay", "app")


def test_no_right_is_printed_that_a_role_can_do_without(roles: Roles) -> None:
    steps.upgrade(roles.owner)

    def without(script: str, right: str) -> str:
        lines = script.splitlines()
        return (
            "\n".join(line.replace(f", {right}", "", 1) if " ON idemtable TO" in line else line for line in lines)
            + "\n"
        )

    jobs: dict[str, Callable[[sa.Engine, Callable[[], None]], None]] = {"app": serve, "purge": look_after}
    for job, work in jobs.items():
        for right in ("INSERT", "UPDATE", *(("DELETE",) if job == "purge" else ())):
            roles.execute("DELETE FROM idemtable")
            with IdemTable(roles.owner.execution_options(isolation_level="READ COMMITTED")).transaction("pay", "block"):
                pass
            name = roles.new()
            roles.execute(without(steps.grants(roles.url, [(job, name)]), right))
            with pytest.raises(sa.exc.DBAPIError, match="denied"):
                work(roles.engine(name), roles.expire)


def test_the_application_can_neither_drop_the_table_nor_remove_keys(roles: Roles, run: Run) -> None:
    steps.upgrade(roles.owner)
    app = roles.hired("app")
    idem = IdemTable(app)
    with idem.transaction("pay", "k"):
        pass
    with pytest.raises(sa.exc.DBAPIError, match=r"denied|must be owner"):
        steps.downgrade(app)
    with pytest.raises(sa.exc.DBAPIError, match="denied"):
        idem.forget("pay", "k")
    assert idem.get("pay", "k") is not None
    refused = run("forget", "pay", "k", "--yes", "--url", app.url.render_as_string(hide_password=False))
    assert refused.code == 3
    assert "denied" in refused.err
    assert "idemtable db sql --grants" in refused.err


def test_a_role_that_may_make_no_tables_is_told_that_the_command_makes_some(roles: Roles, run: Run) -> None:
    steps.upgrade(roles.owner)
    app = roles.hired("app").url.render_as_string(hide_password=False)
    # MySQL does not tell the demo whether a table is there that this role has no right to.
    for verb in ("verify", "demo") if roles.kind == "postgresql" else ("verify",):
        refused = run(verb, "--url", app)
        assert refused.code == 3
        assert "denied" in refused.err
        assert "makes tables of its own" in refused.err
        assert "--grants" not in refused.err


def test_a_purge_that_may_not_delete_says_so_each_time_and_is_in_nobodys_way(roles: Roles, run: Run) -> None:
    steps.upgrade(roles.owner)
    app = roles.hired("app")
    with IdemTable(app).transaction("pay", "k"):
        pass
    roles.expire()
    for _ in range(2):
        refused = run("purge", "--url", app.url.render_as_string(hide_password=False))
        assert (refused.code, refused.out) == (3, "")
        assert "denied" in refused.err
        assert "idemtable db sql --grants" in refused.err
    purge = IdemTable(roles.hired("purge")).purge
    report = purge()
    assert (report.deleted, report.busy) == (1, False)
    assert IdemTable(app).purge().busy is False  # nothing has expired: it comes to delete its lease, and may not
    assert purge().busy is False
    with roles.owner.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM idemtable").scalar() == 0


def test_check_schema_says_which_table_it_may_not_read(roles: Roles) -> None:
    steps.upgrade(roles.owner)
    name = roles.new()
    roles.execute(f"GRANT SELECT ON idemtable_version TO {name}")
    engine = roles.engine(name)
    with pytest.raises(SchemaError, match=r"no right to SELECT from idemtable\. .*db sql --grants"):
        IdemTable(engine).check_schema()
    with engine.connect() as connection:  # and leaves no broken transaction behind
        assert connection.scalar(sa.text("SELECT count(*) FROM idemtable_version")) == 1


def test_without_the_version_table_a_table_counts_as_what_it_looks_like(roles: Roles) -> None:
    steps.upgrade(roles.owner)
    name = roles.new()
    roles.execute(f"GRANT SELECT, INSERT, UPDATE ON idemtable TO {name}")
    IdemTable(roles.engine(name)).check_schema()
    roles.execute("ALTER TABLE idemtable ADD COLUMN a_newer_release INTEGER")
    with pytest.raises(SchemaError, match=r"no right to SELECT from idemtable_version, .*db sql --grants"):
        IdemTable(roles.engine(name)).check_schema()
    roles.execute(f"GRANT SELECT ON idemtable_version TO {name}")
    roles.execute("UPDATE idemtable_version SET version_num = '0099'")
    IdemTable(roles.engine(name)).check_schema()


@pytest.mark.parametrize("roles", [name for name in SERVERS if name.startswith("postgresql")], indirect=True)
def test_a_schema_that_may_not_be_used_is_no_missing_table(roles: Roles) -> None:
    steps.upgrade(roles.owner)
    steps.upgrade(roles.owner, schema="ops", create_schema=True)
    name = roles.new()
    roles.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    for schema, table in ((None, "idemtable"), ("ops", "ops.idemtable")):
        roles.execute(f"GRANT SELECT, INSERT, UPDATE ON {table} TO {name}")
        with pytest.raises(SchemaError, match=f"no right to SELECT from {table}"):
            IdemTable(roles.engine(name), schema=schema).check_schema()
