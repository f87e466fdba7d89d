"""What is wrong is found, with its cure, and what is right is not blamed."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from idemtable import IdemTable, doctor, multi_host, upgrade
from idemtable.dialects.catalogue import mysql, nodes, postgresql, sqlite
from idemtable.doctor import Finding, Level
from tests.cli.test_privileges import Roles, roles  # noqa: F401 - a fixture
from tests.doctor.conftest import INNODB, Patient
from tests.servers import mariadb as mariadb_server
from tests.servers import postgresql as postgresql_server
from tests.support.backends import needed
from tests.support.cli import NOWHERE, Run, expire, keep

on_innodb = pytest.mark.parametrize("patient", INNODB, indirect=True)
on_postgresql = pytest.mark.parametrize("patient", ["postgresql18"], indirect=True)


QUICK = {"fsync", "full_page_writes", "innodb_flush_log_at_trx_commit", "innodb_flush_method"}
"""What the servers of the tests have that servers in earnest must not."""


def found(bind: Any, level: Level = Level.MEND, *, quick: bool = False, **names: Any) -> dict[str, Finding]:
    """What was found of a level, by what it is about; each with a cure."""
    findings = [finding for finding in doctor.examine(bind, **names) if finding.level is level]
    assert all(finding.cure for finding in findings if level is Level.MEND)
    return {finding.about: finding for finding in findings if quick or finding.about not in QUICK}


# --- all is well ------------------------------------------------------------------------------------------------------


SOUND = {"postgresql18": partial(postgresql_server, 18, fast=False), "mariadb": partial(mariadb_server, fast=False)}


@pytest.mark.parametrize("where", SOUND)
def test_where_nothing_needs_mending_the_exit_code_is_0(where: str, run: Run) -> None:
    with needed():
        sound = SOUND[where]()
    with sound:
        sound.create_database("sound")
        upgrade.upgrade(sound.url("sound"))
        ended = run("doctor", "--url", sound.url("sound"))
    assert ended.code == 0, ended.out
    assert ended.out.splitlines()[-1] == "nothing needs mending"
    assert "MEND" not in ended.out


def test_what_makes_the_servers_of_the_tests_quick_is_found(patient: Patient, run: Run) -> None:
    ended = run("doctor", "--url", patient.url, "--json")
    assert ended.code == 1
    about = {line["about"] for line in ended.lines if line["level"] == "mend"}
    assert about == {name for name in QUICK if name.startswith("innodb") is (patient.kind != "postgresql")}


def test_everything_that_is_asked_of_a_server_has_a_line(patient: Patient) -> None:
    looked_at = {finding.about for finding in doctor.examine(patient.engine())}
    everywhere = {
        "schema",
        "rows",
        "unfinished",
        "purge",
        "clock",
        "role",
        "grants",
        "autocommit",
        "isolation level",
        "pool",
    }
    own = {
        "postgresql": {
            "synchronous_commit", "synchronous_standby_names", "fsync", "full_page_writes", "autovacuum", "vacuum",
            "encoding", "transactions",
        },
        "mysql": {
            "innodb_flush_log_at_trx_commit", "innodb_rollback_on_timeout", "sql_mode", "default_storage_engine",
            "collation", "purge lag",
        },
    }  # fmt: skip
    assert everywhere | own[patient.kind] <= looked_at


def test_nothing_is_written(patient: Patient) -> None:
    if patient.kind == "postgresql":
        taken = list[Any]()

        def ask(connection: sa.Connection) -> None:
            taken.append(connection.exec_driver_sql("SELECT pg_current_xact_id_if_assigned()").scalar())

        # At the end of each of its transactions, and not of the server before and after: autovacuum takes some, too.
        ends = ("commit", "rollback")
        for end in ends:
            sa.event.listen(sa.Engine, end, ask)
        try:
            doctor.examine(patient.url)
        finally:
            for end in ends:
                sa.event.remove(sa.Engine, end, ask)
        assert set(taken) == {None}, "the look took a transaction id of its own, or no look has ended"
    else:
        patient.execute("CREATE USER IF NOT EXISTS looks", "GRANT SELECT ON idemtable TO looks")
        patient.execute("GRANT SELECT ON idemtable_version TO looks")
        url = sa.make_url(patient.url).set(username="looks")
        assert set(found(url)) == {"grants"}
        patient.execute("DROP USER looks")


# --- the server's settings --------------------------------------------------------------------------------------------


@on_postgresql
def test_each_broken_setting_of_postgresql_is_found(patient: Patient) -> None:
    name = sa.make_url(patient.url).database
    for about, statement, undo in (
        (
            "synchronous_commit",
            f"ALTER DATABASE {name} SET synchronous_commit = off",
            f"ALTER DATABASE {name} RESET ALL",
        ),
        ("role", f"ALTER DATABASE {name} SET default_transaction_read_only = on", None),
        ("table", "ALTER TABLE idemtable SET UNLOGGED", "ALTER TABLE idemtable SET LOGGED"),
        (
            "autovacuum",
            "ALTER TABLE idemtable SET (autovacuum_enabled = false)",
            "ALTER TABLE idemtable RESET (autovacuum_enabled)",
        ),
        (
            "schema",
            "DROP INDEX ix_idemtable_expires_at",
            "CREATE INDEX ix_idemtable_expires_at ON idemtable (expires_at)",
        ),
        ("schema", "ALTER TABLE idemtable DROP COLUMN codec", "ALTER TABLE idemtable ADD COLUMN codec text"),
        ("schema", "DROP TABLE idemtable", None),
    ):
        assert found(patient.url) == {}, about
        patient.execute(statement)
        assert set(found(patient.url)) == {about}, statement
        if about == "role":
            patient.execute("SET default_transaction_read_only = off", f"ALTER DATABASE {name} RESET ALL")
        elif undo is not None:
            patient.execute(undo)


@on_postgresql
def test_a_collation_that_takes_different_names_for_one_is_found(
    patient: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PostgreSQL's own are all deterministic, and this one may have been built without any other library of them.
    monkeypatch.setattr(postgresql, "_COLLATED", postgresql._COLLATED.replace("NOT c.collisdeterministic", "true"))
    assert "of codec, key, scope, tenant" in found(patient.url)["collation"].found


@on_innodb
def test_each_broken_variable_is_found(patient: Patient) -> None:
    for about, variable, value in (
        ("sql_mode", "sql_mode", "'NO_ENGINE_SUBSTITUTION'"),
        ("sql_mode", "sql_mode", "'STRICT_TRANS_TABLES'"),
        ("default_storage_engine", "default_storage_engine", "MyISAM"),
        ("completion_type", "completion_type", "CHAIN"),
        ("role", "read_only", "ON"),
    ):
        before = patient.execute(f"SELECT @@GLOBAL.{variable}")
        patient.execute(f"SET GLOBAL {variable} = {value}")
        try:
            assert set(found(patient.url)) == {about}, variable
        finally:
            patient.execute(f"SET GLOBAL {variable} = {before!r}")
    assert found(patient.url) == {}


@on_innodb
def test_a_log_that_is_not_written_at_commit_is_found(patient: Patient) -> None:
    name = "innodb_flush_log_at_trx_commit"
    before = patient.execute(f"SELECT @@GLOBAL.{name}")
    try:
        for value, is_wrong in ((1, False), (0, True), (2, True)):
            patient.execute(f"SET GLOBAL {name} = {value}")
            assert (name in found(patient.url, quick=True)) is is_wrong
    finally:
        patient.execute(f"SET GLOBAL {name} = {before}")


@on_innodb
def test_a_table_that_was_made_or_changed_by_hand_is_found(patient: Patient) -> None:
    for about, statement, undo in (
        ("schema", "ALTER TABLE idemtable ENGINE = MyISAM", "ALTER TABLE idemtable ENGINE = InnoDB"),
        (
            "collation",
            "ALTER TABLE idemtable CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci",
            "ALTER TABLE idemtable CONVERT TO CHARACTER SET utf8mb4 COLLATE utf8mb4_bin",
        ),
        (
            "schema",
            "ALTER TABLE idemtable MODIFY created_at DATETIME NOT NULL",
            "ALTER TABLE idemtable MODIFY created_at DATETIME(6) NOT NULL",
        ),
        ("schema", "ALTER TABLE idemtable DROP PRIMARY KEY", "ALTER TABLE idemtable ADD PRIMARY KEY (id)"),
    ):
        patient.execute(statement)
        assert set(found(patient.url)) == {about}, statement
        patient.execute(undo)
        assert found(patient.url) == {}, undo


@on_innodb
def test_an_isolation_level_is_a_note(patient: Patient) -> None:
    for level in ("SERIALIZABLE", "READ UNCOMMITTED"):
        engine = patient.engine(isolation_level=level)
        assert found(engine) == {}
        assert level in found(engine, Level.NOTE)["isolation level"].found


@on_postgresql
def test_the_isolation_level_of_the_engine_and_of_the_server_are_heard(patient: Patient) -> None:
    engine = patient.engine(isolation_level="REPEATABLE READ")
    assert "REPEATABLE READ" in found(engine, Level.NOTE)["isolation level"].found
    assert "isolation level" not in found(patient.url, Level.NOTE)
    name = sa.make_url(patient.url).database
    patient.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    assert "SERIALIZABLE" in found(patient.url, Level.NOTE)["isolation level"].found


# --- the table and its rows -------------------------------------------------------------------------------------------


def test_without_the_table_or_with_another_one_of_that_name_the_cure_is_named(patient: Patient, run: Run) -> None:
    finding = found(patient.url, table="other")["schema"]
    assert "the table other is missing" in finding.found
    assert "idemtable db upgrade --table other" in str(finding.cure)
    patient.execute("CREATE TABLE other (id INTEGER PRIMARY KEY)")
    ended = run("doctor", "--url", patient.url, "--table", "other")
    assert ended.code == 1
    assert "It is not the library's table" in ended.out


def test_a_table_whose_name_needs_quotes_is_looked_at_where_it_is(patient: Patient) -> None:
    is_postgresql = patient.kind == "postgresql"
    schema = "Group" if is_postgresql else sa.make_url(patient.url).database
    upgrade.upgrade(patient.url, table="Order", schema=schema, create_schema=is_postgresql)
    looked_at = {finding.about: finding.level for finding in doctor.examine(patient.url, table="Order", schema=schema)}
    assert looked_at["grants"] is looked_at["schema"] is Level.GOOD


def test_a_table_of_which_no_step_is_recorded_is_a_note(patient: Patient) -> None:
    patient.execute("DELETE FROM idemtable_version")
    assert found(patient.url) == {}
    assert "does not say at which step" in found(patient.url, Level.NOTE)["schema"].found
    assert upgrade.upgrade(patient.url) == (1,)
    assert "schema" not in found(patient.url, Level.NOTE)


def test_rows_without_a_result_and_rows_that_nobody_purges_are_found(patient: Patient) -> None:
    idem = IdemTable(patient.engine())
    keep(idem, "one", "two")
    assert found(patient.url) == {}
    with idem.transaction("orders", "left") as claim:
        claim.result = 1
    expire(idem, 3)
    patient.execute("UPDATE idemtable SET status = 0, codec = NULL WHERE scope = 'orders' AND id IS NOT NULL "
                    + ("AND key = 'left'" if patient.kind == "postgresql" else "AND `key` = 'left'"))  # fmt: skip
    patient.execute(
        "UPDATE idemtable SET status = 77 WHERE " + ("key" if patient.kind == "postgresql" else "`key`") + " = 'two'"
    )
    broken = found(patient.url)
    assert set(broken) == {"unfinished", "purge", "status"}
    assert "1 rows without a result" in broken["unfinished"].found
    assert "3 rows have expired" in broken["purge"].found


@pytest.mark.parametrize("roles", ["postgresql18", "mariadb", "mysql"], indirect=True)
def test_rights_that_a_role_lacks_are_found(roles: Roles) -> None:  # noqa: F811
    upgrade.upgrade(roles.owner)
    assert "grants" not in found(roles.hired("app"))
    assert "not DELETE" in found(roles.hired("app"), Level.NOTE)["grants"].found
    name = roles.new()
    for table in ("idemtable", "idemtable_version"):
        roles.execute(f"GRANT SELECT ON {table} TO {name}")
    finding = found(roles.url_of(name))["grants"]
    assert "may not INSERT, UPDATE, DELETE" in finding.found
    assert "--grants" in str(finding.cure)
    roles.execute(f"REVOKE SELECT ON idemtable FROM {name}")
    assert "no right to SELECT" in found(roles.url_of(name))["schema"].found


@pytest.mark.parametrize("roles", ["postgresql18", "mariadb", "mysql"], indirect=True)
def test_what_a_role_may_not_see_is_said_with_the_right_that_shows_it(roles: Roles) -> None:  # noqa: F811
    upgrade.upgrade(roles.owner)
    app = roles.hired("app")
    unseen = {name: finding.cure for name, finding in found(app, Level.NOTE).items() if "this role" in finding.found}
    if roles.kind == "postgresql":
        assert unseen == {"transactions": "GRANT pg_read_all_stats TO it"}
        return
    assert set(unseen) == {"purge lag", "role"}
    for cure in unseen.values():
        roles.execute(f"{cure} TO {app.url.username}")
    app.dispose()
    assert not {"purge lag", "role"} & set(found(app, Level.NOTE))


@on_postgresql
def test_a_transaction_that_keeps_vacuum_waiting_is_found(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "_LONG", timedelta(0))
    with patient.engine().connect() as connection:
        connection.execution_options(isolation_level="REPEATABLE READ").execute(sa.text("SELECT 1"))
        assert set(found(patient.url)) == {"transactions"}


# --- engines and pools ------------------------------------------------------------------------------------------------


@on_postgresql
def test_the_traps_of_an_engine_are_found(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = patient.engine
    assert set(found(engine(isolation_level="AUTOCOMMIT"))) == {"autocommit"}
    assert set(found(engine(connect_args={"autocommit": True}))) == {"autocommit"}
    assert set(found(engine(poolclass=sa.StaticPool))) == {"pool"}
    assert set(found(engine(pool_reset_on_return=None))) == {"pool_reset_on_return"}
    assert found(engine()) == {}
    autocommits = engine(connect_args={"autocommit": True}, pool_size=1, max_overflow=0)
    found(autocommits)
    with autocommits.connect() as connection:
        assert connection.connection.driver_connection.autocommit is True, "the look has changed the application's own"
    monkeypatch.setattr(postgresql.PostgreSQLCatalogue, "fails_over", lambda connection: "a standby follows")
    assert set(found(engine())) == {"pool_pre_ping"}
    assert found(engine(pool_pre_ping=True)) == {}
    assert found(engine(poolclass=sa.NullPool)) == {}
    assert "examine(engine)" in str(found(patient.url, Level.NOTE)["pool_pre_ping"].cure)


@on_postgresql
def test_times_that_psycopg_cannot_read_are_found_and_nothing_is_asked_behind_them(patient: Patient) -> None:
    patient.execute(f"ALTER DATABASE {sa.make_url(patient.url).database} SET datestyle = 'SQL'")
    findings = found(patient.url)
    assert set(findings) == {"datestyle"}
    assert "datestyle = 'ISO'" in str(findings["datestyle"].cure)
    other = sa.make_url(patient.url).set(drivername="postgresql+psycopg2")
    assert found(other) == {}, "which sets it by itself"
    assert found(patient.engine(connect_args={"options": "-c datestyle=ISO"})) == {}


@on_innodb
def test_the_autocommit_of_a_driver_is_found_in_the_url(patient: Patient) -> None:
    assert set(found(f"{patient.url}&autocommit=true")) == {"autocommit"}


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "postgresql+psycopg_async"])
@on_postgresql
def test_an_async_engine_is_taken_too(driver: str, patient: Patient) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    url = sa.make_url(patient.url).set(drivername=driver)
    assert found(create_async_engine(url)) == {}
    assert set(found(create_async_engine(url, isolation_level="AUTOCOMMIT"))) == {"autocommit"}


@on_innodb
def test_several_hosts_are_a_failover(patient: Patient) -> None:
    url = sa.make_url(patient.url)
    engine = multi_host(patient.engine(), [f"{url.host}:{url.port}", f"{url.host}:1"])
    assert "multi_host" in found(engine)["pool_pre_ping"].found
    for query in ("host=db1:5432&host=db2:5432", "host=db1,db2"):
        assert doctor._hosts(sa.create_engine(f"postgresql+psycopg://me@/shop?{query}"))
    assert doctor._hosts(sa.create_engine("postgresql+psycopg://me@db1/shop")) is None


# --- SQLite -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'file.db'}"
    upgrade.upgrade(url)
    return url


def test_a_sound_file_needs_no_mending(file: str, run: Run) -> None:
    ended = run("doctor", "--url", file)
    assert ended.code == 0, ended.out
    assert "journal_mode" in ended.out


def test_the_traps_of_a_sqlite_engine_are_found(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def engine(pragma: str = "PRAGMA cache_size = 2000", **options: Any) -> sa.Engine:
        made = sa.create_engine(file, **options)
        sa.event.listen(made, "connect", lambda connection, record: connection.execute(pragma))
        return made

    assert found(engine()) == {}
    assert set(found(engine("PRAGMA synchronous = OFF"))) == {"synchronous"}
    assert set(found(engine("PRAGMA journal_mode = MEMORY"))) == {"journal_mode"}
    assert set(found(engine(poolclass=sa.StaticPool))) == {"pool"}
    engine("PRAGMA journal_mode = WAL").connect().close()
    assert set(found(engine("PRAGMA synchronous = NORMAL"))) == {"synchronous"}
    monkeypatch.setattr(sqlite, "network", lambda name: "nfs4")
    assert "nfs4" in found(file)["file"].found
    memory = found("sqlite://", Level.NOTE)
    assert "in memory" in memory["file"].found


def read_only(file: str, option: str) -> str:
    return f"{file.replace('sqlite:///', 'sqlite:///file:')}?{option}&uri=true"


@pytest.mark.parametrize("journal", ["delete", "wal"])
@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
@pytest.mark.parametrize(
    ("option", "mended"), [("mode=ro", {"grants"}), ("immutable=1", {"grants"}), ("mode=rw", set())]
)
def test_a_file_that_is_opened_for_reading_only_is_found_and_left_as_it_is(
    option: str, mended: set[str], driver: str, journal: str, file: str
) -> None:
    path = Path(str(sa.make_url(file).database))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {journal}")
    before = path.read_bytes()
    assert set(found(read_only(file, option).replace("sqlite", driver, 1))) == mended
    assert path.read_bytes() == before


def test_a_connection_that_only_asks_is_found(file: str, run: Run) -> None:
    engine = sa.create_engine(file)
    sa.event.listen(engine, "connect", lambda connection, record: connection.execute("PRAGMA query_only = ON"))
    assert "query_only" in found(engine)["grants"].found
    assert run("doctor", "--url", read_only(file, "mode=ro")).code == 1


def test_a_file_in_which_somebody_writes_is_not_said_to_be_read_only(file: str) -> None:
    with closing(sqlite3.connect(str(sa.make_url(file).database), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert found(file) == {}


def test_a_file_that_is_not_there_is_found_and_not_made(tmp_path: Path, run: Run) -> None:
    ended = run("doctor", "--url", f"sqlite:///{tmp_path / 'typo.db'}")
    assert ended.code == 1
    assert "idemtable db upgrade" in ended.out
    assert not (tmp_path / "typo.db").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("/data/shop.db", None),
        ("/data/remote/shop.db", "nfs4"),
        ("/data/remote/local/shop.db", None),
        ("/data/my share/shop.db", "cifs"),
        ("//host/share/shop.db", "a share"),
        ("\\\\host\\share\\shop.db", "a share"),
        ("/elsewhere/shop.db", None),
    ],
)
def test_a_network_is_known_by_where_the_file_is_mounted(name: str, kind: str | None) -> None:
    mounts = """\
/dev/sda1 / ext4 rw 0 0
host:/export /data/remote nfs4 rw 0 0
/dev/sdb1 /data/remote/local xfs rw 0 0
//host/share /data/my\\040share cifs rw 0 0
"""
    assert sqlite.network(name, mounts) == kind


# --- what takes a cluster to see --------------------------------------------------------------------------------------


def broken(findings: Any) -> set[str]:
    return {finding.about for finding in findings if finding.level is Level.MEND}


def notes(findings: Any) -> set[str]:
    return {finding.about for finding in findings if finding.level is Level.NOTE}


GALERA = {"wsrep_on": "ON", "wsrep_sync_wait": "1", "wsrep_osu_method": "TOI", "wsrep_trx_fragment_size": "0"}
PRIMARY = {"wsrep_cluster_status": "Primary", "wsrep_ready": "ON", "wsrep_cluster_size": "3"}
GROUP = {
    "group_replication_group_name": "a",
    "group_replication_unreachable_majority_timeout": "10",
    "group_replication_member_expel_timeout": "5",
    "group_replication_consistency": "BEFORE",
    "group_replication_single_primary_mode": "ON",
}
ONLINE = [("ONLINE", "PRIMARY"), ("ONLINE", "SECONDARY"), ("ONLINE", "SECONDARY")]


def test_a_node_of_galera_is_judged() -> None:
    assert list(nodes.galera({"wsrep_on": "OFF"}, {})) == []
    assert broken(nodes.galera(GALERA, PRIMARY)) == set()
    assert notes(nodes.galera(GALERA, PRIMARY)) == {"galera"}
    assert broken(nodes.galera(GALERA, PRIMARY | {"wsrep_cluster_status": "non-Primary"})) == {"galera"}
    assert broken(nodes.galera(GALERA, PRIMARY | {"wsrep_ready": "OFF"})) == {"galera"}
    for size in ("2", "4"):
        assert "wsrep_cluster_size" in notes(nodes.galera(GALERA, PRIMARY | {"wsrep_cluster_size": size}))
    odd = GALERA | {"wsrep_sync_wait": "0", "wsrep_osu_method": "RSU", "wsrep_trx_fragment_size": "100"}
    assert {"wsrep_sync_wait", "wsrep_osu_method", "wsrep_trx_fragment_size"} <= notes(nodes.galera(odd, PRIMARY))


def test_a_member_of_a_group_is_judged() -> None:
    assert list(nodes.group({}, None)) == []
    assert broken(nodes.group(GROUP, ONLINE)) | notes(nodes.group(GROUP, ONLINE)) == set()
    name = "group_replication_unreachable_majority_timeout"
    assert broken(nodes.group(GROUP | {name: "0"}, ONLINE)) == {name}
    assert broken(nodes.group(GROUP, [("OFFLINE", "")])) == {"group replication"}
    assert notes(nodes.group(GROUP, [*ONLINE[:2], ("UNREACHABLE", "SECONDARY")])) == {"group replication"}
    assert notes(nodes.group(GROUP, None)) == {"group replication"}
    for about, value in (
        ("group_replication_member_expel_timeout", "60"),
        ("group_replication_consistency", "EVENTUAL"),
        ("group_replication_single_primary_mode", "OFF"),
    ):
        assert notes(nodes.group(GROUP | {about: value}, ONLINE)) == {about}


def test_a_standby_and_what_follows_a_primary_are_judged() -> None:
    sound = {"server_version_num": "180004", "synchronous_commit": "on", "fsync": "on", "full_page_writes": "on"}
    assert broken(postgresql.judged(sound, is_standby=False, standbys=0)) == set()
    assert broken(postgresql.judged(sound, is_standby=True, standbys=0)) == {"role"}
    assert notes(postgresql.judged(sound, is_standby=False, standbys=2)) == {"synchronous_standby_names"}
    waits = sound | {"synchronous_standby_names": "ANY 1 (b, c)"}
    assert broken(postgresql.judged(waits, is_standby=False, standbys=2)) == set()
    hasty = waits | {"synchronous_commit": "remote_write"}
    assert broken(postgresql.judged(hasty, is_standby=False, standbys=2)) == {"synchronous_commit"}
    assert broken(postgresql.judged(sound | {"server_version_num": "130000"}, False, 0)) == {"version"}
    assert broken(postgresql.judged(sound | {"server_encoding": "LATIN1"}, False, 0)) == {"encoding"}


def test_the_log_and_the_replicas_of_a_server_are_judged() -> None:
    sound = {
        "version": "8.0.36",
        "log_bin": "ON",
        "sync_binlog": "1",
        "sql_mode": "STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION",
    }
    assert broken(mysql.judged(sound, False, False)) == set()
    assert broken(mysql.judged(sound | {"sync_binlog": "0"}, False, False)) == {"sync_binlog"}
    assert broken(mysql.judged(sound | {"binlog_format": "STATEMENT"}, False, False)) == {"binlog_format"}
    assert broken(mysql.judged(sound | {"innodb_doublewrite": "OFF"}, False, False)) == {"innodb_doublewrite"}
    assert broken(mysql.judged(sound | {"version": "5.7.1-log"}, False, False)) == {"version"}
    assert broken(mysql.judged(sound | {"version": "10.5.2-MariaDB"}, True, False)) == {"version"}
    assert notes(mysql.judged(sound, False, True)) == {"role"}
    assert notes(mysql.judged(sound | {"innodb_rollback_on_timeout": "ON"}, False, False)) == {
        "innodb_rollback_on_timeout"
    }


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_server_that_is_not_there_or_a_name_that_cannot_be(run: Run) -> None:
    assert run("doctor", "--url", NOWHERE).code == 3
    assert run("doctor", "--url", NOWHERE, "--table", "a b").code == 2


def test_what_is_no_engine_and_no_url_is_refused() -> None:
    for wrong in (None, sessionmaker(sa.create_engine("sqlite://"))):
        with pytest.raises(TypeError, match="expected an Engine, an AsyncEngine or a URL, not"):
            doctor.examine(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seconds", "level"), [(0, Level.GOOD), (10, Level.NOTE), (7200, Level.MEND)])
def test_a_clock_that_is_wrong_is_found(seconds: int, level: Level, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=seconds)

    monkeypatch.setattr(doctor, "datetime", Ahead)
    assert "clock" in found(file, level)


def test_a_database_in_memory_is_looked_at_where_it_is() -> None:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    IdemTable(engine).create_all()
    assert set(found(engine)) == {"pool"}
    engine.dispose()
