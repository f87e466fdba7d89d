"""How a purge gets through a table: what it reads, what it passes over, and where its batches end."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.rows import namedtuple_row

import idemtable
from idemtable import IdemTable, Status
from idemtable.dialects import find
from idemtable.dialects.purging import bites, slices
from tests.contract.test_maintenance import DAY, fill
from tests.support.backends import BACKENDS, db_of
from tests.support.database import INNODB, Database, effect
from tests.support.lines import through_a_proxy

ROWS = idemtable.metadata.tables["idemtable"]
POSTGRESQL = [name for name in BACKENDS if name.startswith("postgresql")]
ON_INNODB = [name for name in BACKENDS if name.startswith(INNODB)]


@pytest.fixture(params=POSTGRESQL)
def pg(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


def plan(db: Database, sql: str, values: dict[str, Any]) -> str:
    """What the database means to do, with its newest statistics, of a statement of the library's."""
    statement = find(db.admin.dialect, "idemtable", None).statement(sql)
    how = "EXPLAIN QUERY PLAN" if db.kind == "sqlite" else "EXPLAIN"
    with db.admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE TABLE idemtable" if db.kind in INNODB else "ANALYZE")
        if db.kind == "postgresql":  # as a driver keeps it that has prepared it, which knows no value
            connection.exec_driver_sql("SET plan_cache_mode = force_generic_plan")
        ordered = statement._ordered
        rows = connection.exec_driver_sql(f"{how} {statement.sql}", values if ordered is None else ordered(values))
        return "\n".join(" ".join(map(str, row)) for row in rows)


# --- what it reads ------------------------------------------------------------------------------------------------------


def test_whether_anything_has_expired_is_one_look_into_the_index(sync_db: Database) -> None:
    db = sync_db
    fill(db, 3_000, age=-DAY)
    fill(db, 3)
    if db.kind == "postgresql":
        values = {"table": "idemtable", "size": slices.PART, "since": datetime(1970, 1, 1, tzinfo=UTC)}
        found = plan(db, slices.SURVEY.replace("{few}", str(slices.FEW)), values)
        assert re.search(r"Index Cond: \(\(expires_at >= .* AND \(expires_at <= ", found)
        assert "Seq Scan on idemtable" not in found
    elif db.kind == "sqlite":
        found = plan(db, settings(db).dialect.EXPIRED, {"batch": 5_000})
        assert "USING INDEX ix_idemtable_expires_at (expires_at<?)" in found
    else:
        found = plan(db, bites.EXPIRED, {"batch": 5_000, "since": "1000-01-01"})
        assert "range" in found
        assert "ix_idemtable_expires_at" in found


@pytest.mark.parametrize("pg", [name for name in POSTGRESQL if "async" not in name], indirect=True)
def test_a_slice_is_read_where_it_lies_however_few_rows_are_believed_to_have_expired(pg: Database) -> None:
    fill(pg, 3_000, age=-DAY)
    fill(pg, 3)
    values = {"start": "(0,0)", "end": "(1024,0)", "batch": 5_000}
    for sql, scans in ((slices.SLICE, 2), (slices.CAREFUL, 1)):
        found = plan(pg, sql, values)
        assert found.count("Tid Range Scan") == scans
        assert "Index" not in found
        assert "Seq Scan" not in found


@pytest.mark.parametrize("block", [0, 255, 256, 65_536, 0x01020304, 0xFFFFFFFE])
def test_the_block_of_a_row_is_read_from_its_place(block: int) -> None:
    pg = db_of("postgresql18")
    ((found,),) = pg.execute(
        f"SELECT {slices.BLOCK.format('place')} FROM (SELECT tidsend('({block},7)') AS place) AS x"
    )
    assert found == block


# --- where its batches end ----------------------------------------------------------------------------------------------


def settings(db: Database) -> Any:
    return getattr(db.idem, "inner", db.idem)._settings


def in_parts(db: Database, few: int) -> None:
    """Make each block a part, and look so few rows up at a time."""
    dialect = settings(db).dialect
    vars(dialect)["_purging"] = slices.Slices(dialect, size=1, few=few)


@pytest.fixture(
    params=[(1, 0), (20, 1_000_000), (10_000, 0)], ids=["all of it", "looked up in pieces", "looked up at once"]
)
def parted(request: pytest.FixtureRequest, pg: Database) -> Any:
    """A table of many parts, one in which half of the rows have expired and one in which none has."""
    few, believed = request.param
    in_parts(pg, few)
    pg.execute("UPDATE pg_class SET reltuples = :believed WHERE oid = 'idemtable'::regclass", believed=believed)
    for number in range(10):
        fill(pg, 30, scope="old")
        fill(pg, 30, age=-DAY, scope="alive")
        fill(pg, 150, age=-DAY, scope="alive") if number % 3 == 0 else None
    yield pg
    del vars(settings(pg).dialect)["_purging"]


def test_every_expired_row_is_found_in_whatever_part_it_lies(parted: Database) -> None:
    seen: list[int] = []
    report = parted.idem.purge(batch=7, pause=timedelta(0), progress=seen.append)
    assert report.deleted == seen[-1] == 300
    assert all(0 < after - before <= 7 for before, after in zip([0, *seen], seen, strict=False))
    assert parted.idem.stats().by_scope == {"alive": 900}
    again = parted.idem.purge()
    assert (again.deleted, again.batches) == (0, 0)


def test_a_survey_goes_on_from_where_it_was_and_not_from_the_beginning() -> None:
    pg = db_of("postgresql18")
    fill(pg, 105)
    pg.execute(
        "UPDATE idemtable SET expires_at = expires_at - n * interval '1 second' "
        "FROM (SELECT id, row_number() OVER () AS n FROM idemtable) AS x WHERE x.id = idemtable.id"
    )
    pg.execute("UPDATE pg_class SET reltuples = 1000000 WHERE oid = 'idemtable'::regclass")
    made = slices.Slices(settings(pg).dialect, few=20)
    found: list[Any] = [slices.Survey()]
    with pg.admin.connect() as connection:
        while isinstance(found[-1], slices.Survey) and len(found) < 10:
            found.append(made.look(connection, found[-1]))
    # The row at which one ends is the first of the next one, too: others may expire at the same moment.
    assert [one.rows for one in found[:-1]] == [0, 20, 40, 60, 80, 100]


def test_the_limit_is_exact_in_the_middle_of_a_part(parted: Database) -> None:
    assert parted.idem.purge(batch=7, limit=25, pause=timedelta(0)).deleted == 25
    assert parted.idem.stats().by_scope == {"alive": 900, "old": 275}
    assert parted.idem.purge(limit=1).deleted == 1
    assert parted.idem.purge().deleted == 274


def test_rows_that_somebody_holds_are_passed_over_in_every_part(parted: Database) -> None:
    held = [row.id for row in parted.rows() if row.scope == "old"][::29]
    with parted.admin.connect() as connection:
        connection.execute(sa.select(ROWS).where(ROWS.c.id.in_(held)).with_for_update()).all()
        assert parted.idem.purge(batch=7, pause=timedelta(0)).deleted == 300 - len(held)
        connection.rollback()
    assert parted.idem.stats().by_scope == {"alive": 900, "old": len(held)}
    assert parted.idem.purge().deleted == len(held)


@pytest.mark.parametrize("scan", ["Tid Range", "Seq"])
def test_a_slice_of_which_nothing_is_left_meanwhile_ends_the_purge_as_any_other(pg: Database, scan: str) -> None:
    pg.execute("TRUNCATE idemtable")
    fill(pg, 5, scope="before")
    fill(pg, 12)
    pg.execute("DELETE FROM idemtable WHERE scope = 'before'")
    with pg.admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE idemtable")  # the lease's row finds a place before them
    switch = f"ALTER DATABASE {pg.url.database} SET enable_{'seqscan' if scan == 'Tid Range' else 'tidscan'} = off"
    pg.execute(switch)
    left: list[int] = []

    def progress(deleted: int) -> None:
        left.append(pg.execute("DELETE FROM idemtable WHERE scope = 's'"))

    try:
        with pg.other_engine() as engine:
            report = pg.table(engine).purge(batch=4, pause=timedelta(0), progress=progress)
    finally:
        pg.execute(switch.replace("= off", "TO DEFAULT"))
    assert (report.deleted, report.batches, left) == (4, 1, [8])
    assert pg.rows() == []


def test_a_slice_of_which_nothing_is_left_takes_no_edge_for_its_own_that_was_told_before() -> None:
    pg = db_of("postgresql18")
    fill(pg, 3)
    made = slices.Slices(find(pg.admin.dialect, "idemtable", None))
    with pg.admin.connect() as connection:
        connection.exec_driver_sql("SET LOCAL enable_tidscan = off")
        first = made.delete(connection, 2, slices.Place([0], 0, "(0,0)"), careful=False)
        assert (first.deleted, first.rest.at) == (2, 0)
        assert made.delete(connection, 2, slices.Place([0], 0, "(1023,1)"), careful=False) == slices.Swept(0, None)
        connection.rollback()


# --- what it passes over ------------------------------------------------------------------------------------------------


def test_a_row_that_a_call_is_taking_over_is_neither_waited_for_nor_lost(server_db: Database) -> None:
    db = server_db

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        return effect(session, key)

    order("k")
    db.expire()
    fill(db, 3)
    # At REPEATABLE READ a joined call may hold the gap in which the purge's lease would be.
    with db.other_engine(isolation_level="READ COMMITTED") as engine, db.session(engine) as held:
        order.join(held.session, "k")
        assert db.idem.purge().deleted == 3
        held.commit()
    assert db.idem.get("order", "k").status is Status.COMPLETED
    assert order.outcome("k").replayed
    assert db.effects() == ["k", "k"]


@pytest.mark.parametrize("server_db", ON_INNODB, indirect=True)
@pytest.mark.parametrize(("batch", "batches"), [(40, 10), (5_000, 1)])
def test_a_purge_of_a_table_that_has_expired_almost_whole_waits_for_no_open_call_and_is_as_quick(
    server_db: Database, batch: int, batches: int
) -> None:
    db = server_db
    fill(db, 400)

    def waits() -> int:
        return int(db.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_waits'")[0][1])

    with db.admin.connect() as connection:
        connection.exec_driver_sql("ANALYZE TABLE idemtable").all()
    with db.other_engine(isolation_level="READ COMMITTED") as engine, db.session(engine) as held:
        db.idem.claim_many(held.session, "batch", ["open"])
        before = waits()
        report = db.idem.purge(batch=batch, pause=timedelta(0))
        assert waits() == before
        held.commit()
    assert (report.deleted, report.batches) == (400, batches)
    assert db.idem.stats().by_scope == {"batch": 1}


def test_a_purge_in_a_suites_own_transaction_leaves_its_time_out_as_it_was(pg: Database) -> None:
    fill(pg, 5)
    engine = sa.create_engine(pg.sync_url)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET LOCAL lock_timeout = '1234ms'")
        idem = IdemTable(sa.orm.sessionmaker(connection))
        assert idem.purge(batch=2, pause=timedelta(0)).deleted == 5
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == "1234ms"
        with pg.admin.connect() as other:  # the suite's own transaction has deleted them
            assert idem.purge().deleted == 0
            other.rollback()
        connection.rollback()
    engine.dispose()
    assert len(pg.rows()) == 5


def test_a_strict_isolation_level_of_the_engine_is_no_matter_to_a_purge(server_db: Database) -> None:
    fill(server_db, 5)
    with server_db.other_engine(isolation_level="SERIALIZABLE") as engine:
        assert server_db.table(engine).purge(batch=2, pause=timedelta(0)).deleted == 5


def test_a_purge_takes_a_transaction_that_a_listener_of_the_pools_has_begun_as_it_is(server_db: Database) -> None:
    fill(server_db, 5)
    with server_db.other_engine() as engine:

        @sa.event.listens_for(getattr(engine, "sync_engine", engine), "checkout")
        def look(driver: Any, *_: object) -> None:
            cursor = driver.cursor()
            cursor.execute("SELECT 1")
            cursor.close()

        assert server_db.table(engine).purge(batch=2, pause=timedelta(0)).deleted == 5


def test_a_purge_keeps_what_a_listener_of_the_pools_has_set() -> None:
    db = db_of("postgresql16")  # psycopg2 rolls back before it changes the isolation level
    fill(db, 5)
    seen: list[str] = []
    with db.deleting(), db.other_engine(pool_size=1, max_overflow=0) as engine:

        @sa.event.listens_for(engine, "checkout")
        def lend(driver: Any, *_: object) -> None:
            with driver.cursor() as cursor:
                cursor.execute("SET LOCAL work_mem = '1234kB'")

        @sa.event.listens_for(engine, "commit")
        def note(connection: sa.Connection) -> None:
            seen.append(connection.exec_driver_sql("SHOW work_mem").scalar_one())

        assert db.table(engine).purge(batch=5, pause=timedelta(0)).deleted == 5
    assert set(seen) == {"1234kB"}


def test_a_commit_that_somebody_listens_to_is_sent_after_them() -> None:
    db = db_of("postgresql18")
    fill(db, 5)
    found: list[Any] = []
    with db.deleting(), db.other_engine() as engine:

        @sa.event.listens_for(engine, "commit")
        def look(connection: sa.Connection) -> None:
            found.append(connection.exec_driver_sql("SELECT pg_current_xact_id_if_assigned()").scalar_one())

        assert db.table(engine).purge(batch=1, pause=timedelta(0)).deleted == 5
    assert len(found) >= 7  # the lease, the batches, and the lease's end
    assert None not in found


@pytest.mark.parametrize("backend", ["postgresql18", "postgresql18-async"])
def test_a_batch_waits_for_the_network_three_times(backend: str) -> None:
    db = db_of(backend)
    with db.deleting(), through_a_proxy(db) as line:
        fill(db, 25)

        def trips(batches: int) -> int:
            before: int = line.proxy.round_trips
            report = line.idem.purge(batch=1, limit=batches, pause=timedelta(0))
            assert report.batches == batches
            return line.proxy.round_trips - before

        for _ in range(6):  # from then on psycopg has prepared what it sends
            trips(2)
        assert trips(6) - trips(2) == 12
    assert len(db.rows()) == 5


def test_a_purge_reads_rows_of_a_class_that_takes_no_name_twice() -> None:
    db = db_of("postgresql18")
    fill(db, 5)
    with db.other_engine(connect_args={"row_factory": namedtuple_row}) as engine:
        assert db.table(engine).purge(batch=2, pause=timedelta(0)).deleted == 5
