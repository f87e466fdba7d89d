"""Looking at records and removing them: get, forget, purge, stats, the table itself and its other names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

import idemtable
from idemtable import IdemTable, InProgressError, PurgeReport, SchemaError, Status
from tests.support import PATIENCE
from tests.support.crowd import Beside, held, until
from tests.support.database import INNODB, Database, effect

ROWS = idemtable.metadata.tables["idemtable"]
DAY = timedelta(days=1)


def fill(
    db: Database, count: int, *, status: Status = Status.COMPLETED, age: timedelta = DAY, scope: str = "s"
) -> None:
    """Write rows that expired `age` ago; a negative age is time to live. A day: no clock is wrong by that much."""
    now = datetime.now(UTC)
    with db.admin.begin() as connection:
        connection.execute(
            sa.insert(ROWS),
            [
                {
                    "id": uuid4() if db.kind == "postgresql" else uuid4().bytes,
                    "scope": scope,
                    "key": f"{status}-{number}",
                    "status": status.code,
                    "owner": bytes(16),
                    "created_at": now - 10 * DAY,
                    "expires_at": now - age,
                }
                for number in range(count)
            ],
        )


# --- get and forget --------------------------------------------------------------------------------------------------


def test_get_tells_all_of_a_record_but_its_result(db: Database) -> None:
    @db.idem.transactional("order", key="key", tenant="tenant")
    def order(session: Any, key: str, tenant: str) -> dict[str, int]:
        return {"id": 1}

    assert db.idem.get("order", "k", tenant="acme") is None
    order("k", "acme")
    record = db.idem.get("order", "k", tenant="acme")

    assert (record.tenant, record.scope, record.key) == ("acme", "order", "k")
    assert record.status is Status.COMPLETED
    assert isinstance(record.fingerprint, bytes)
    assert len(record.fingerprint) == 32
    assert (record.codec, record.result_bytes) == ("json", len(b'{"id":1}'))
    for time in (record.created_at, record.completed_at, record.expires_at):
        assert time.utcoffset() == timedelta(0)
    assert abs(record.created_at - datetime.now(UTC)) < timedelta(minutes=5)  # UTC, whatever zone the session is in
    assert abs(record.expires_at - record.created_at - timedelta(days=7)) < timedelta(seconds=1)


def test_get_shows_an_expired_record_too(db: Database) -> None:
    with db.idem.transaction("pay", "k"):
        pass
    db.expire()
    assert db.idem.get("pay", "k").status is Status.COMPLETED


def test_get_and_forget_take_a_uuid_as_its_text(db: Database) -> None:
    id = UUID(int=5)
    with db.idem.transaction("pay", id):
        pass
    assert db.idem.get("pay", id) == db.idem.get("pay", str(id))
    assert db.idem.forget("pay", id)
    assert db.rows() == []


def test_forget_removes_one_record_and_says_whether_there_was_one(db: Database) -> None:
    runs = []

    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        runs.append(key)

    order("k")
    order("other")
    assert db.idem.forget("order", "k") is True
    assert db.idem.forget("order", "k") is False
    assert db.idem.forget("another scope", "other") is False
    order("k")
    order("other")
    assert runs == ["k", "other", "k"]


def test_forget_waits_no_longer_than_it_may_for_a_call_that_takes_the_record_over(server_db: Database) -> None:
    db = server_db
    with db.idem.transaction("order", "k"):
        pass
    db.expire()
    with held(db):
        forgetting = Beside(lambda: db.table(wait=timedelta(seconds=1)).forget("order", "k"))
        until(lambda: forgetting.over, "it waits as long as the call runs", patience=PATIENCE / 4)
        with pytest.raises(InProgressError):
            forgetting.result()
    assert db.idem.forget("order", "k") is True
    assert db.effects() == ["k"]


# --- purge -----------------------------------------------------------------------------------------------------------


def test_purge_deletes_every_expired_row_and_no_other(db: Database) -> None:
    for status in (Status.COMPLETED, Status.FAILED, Status.ISSUED, Status.SPENT):
        fill(db, 2, status=status)
        fill(db, 1, status=status, age=-DAY, scope="alive")
    fill(db, 3, status=Status.IN_PROGRESS, scope="alive")

    report = db.idem.purge()

    assert isinstance(report, PurgeReport)
    assert (report.deleted, report.batches, report.busy) == (8, 1, False)
    assert report.seconds >= 0
    assert [row.scope for row in db.rows()] == ["alive"] * 7
    assert db.idem.purge().deleted == 0


def test_purge_works_in_batches_and_tells_its_progress(db: Database) -> None:
    fill(db, 7)
    seen: list[int] = []
    left: list[int] = []

    def progress(deleted: int) -> None:
        seen.append(deleted)
        left.append(db.execute("SELECT count(*) FROM idemtable WHERE scope = 's'")[0][0])

    report = db.idem.purge(batch=3, pause=timedelta(0), progress=progress)

    assert seen == [3, 6, 7]
    assert left == [4, 1, 0]  # each batch is committed before the next begins
    assert (report.deleted, report.batches) == (7, 3)


def test_purge_stops_at_its_limit(db: Database) -> None:
    fill(db, 9)
    report = db.idem.purge(batch=4, limit=6, pause=timedelta(0))
    assert (report.deleted, report.batches) == (6, 2)
    assert len(db.rows()) == 3


def test_purge_of_nothing_is_no_batch(db: Database) -> None:
    report = db.idem.purge()
    assert (report.deleted, report.batches, report.busy) == (0, 0, False)
    assert db.rows() == []  # the runner leaves no row of its own


def test_a_second_runner_leaves_at_once_and_says_busy(db: Database) -> None:
    fill(db, 4)
    reports: list[PurgeReport] = []
    engine = sa.create_engine(db.sync_url, poolclass=sa.NullPool)
    second = IdemTable(engine)

    def progress(deleted: int) -> None:
        reports.append(second.purge())

    report = db.idem.purge(batch=2, limit=4, pause=timedelta(0), progress=progress)
    engine.dispose()

    assert [(r.deleted, r.batches, r.busy) for r in reports] == [(0, 0, True)] * 2
    assert (report.deleted, report.busy) == (4, False)
    assert db.idem.purge().busy is False


def test_a_runner_that_was_killed_blocks_the_next_only_until_its_lease_ends(db: Database) -> None:
    fill(db, 4)
    kept: list[Any] = []

    def copy(deleted: int) -> None:
        kept.extend(row for row in db.rows() if row.status == Status.LOCK.code)

    db.idem.purge(batch=2, limit=2, progress=copy)
    assert len(kept) == 1
    with db.admin.begin() as connection:
        connection.execute(sa.insert(ROWS), [dict(kept[0]._mapping)])
    assert db.idem.purge().busy is True
    db.expire()
    report = db.idem.purge()
    assert (report.busy, report.deleted) == (False, 2)
    assert db.rows() == []


def test_a_runner_that_has_lost_its_lease_deletes_nothing_more(db: Database) -> None:
    fill(db, 7)

    def overtake(deleted: int) -> None:
        if deleted == 4:
            with db.admin.begin() as connection:
                lease = sa.update(ROWS).where(ROWS.c.status == Status.LOCK.code)
                assert connection.execute(lease.values(owner=b"o" * 16)).rowcount == 1

    report = db.idem.purge(batch=2, pause=timedelta(0), progress=overtake)
    assert (report.deleted, report.batches) == (4, 2)
    assert [row.owner for row in db.rows() if row.status == Status.LOCK.code] == [b"o" * 16]
    assert len(db.rows()) == 3 + 1


def test_an_exception_in_progress_ends_the_purge_and_frees_the_place(db: Database) -> None:
    fill(db, 4)

    def progress(deleted: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        db.idem.purge(batch=2, progress=progress)
    report = db.idem.purge()
    assert (report.deleted, report.busy) == (2, False)


def test_purge_judges_by_the_databases_clock_alone(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "time", lambda: 4e9)  # the application believes it is 2096
    with db.idem.transaction("pay", "k"):
        pass
    assert db.idem.purge().deleted == 0
    db.expire()
    monkeypatch.setattr(time, "time", lambda: 0.0)  # or 1970
    assert db.idem.purge().deleted == 1


def test_a_row_that_somebody_holds_is_left_for_the_next_run(server_db: Database) -> None:
    db = server_db
    fill(db, 3)
    first = db.rows()[0].id
    with db.admin.connect() as connection:
        connection.execute(sa.select(ROWS).where(ROWS.c.id == first).with_for_update()).all()
        assert db.idem.purge().deleted == 2
        connection.rollback()
    assert db.idem.purge().deleted == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *({"batch": batch} for batch in (0, -1, 100_001, True, 1.5)),
        *({"limit": limit} for limit in (0, True)),
        *({"pause": pause} for pause in (timedelta(seconds=-1), 5)),
    ],
    ids=str,
)
def test_purge_refuses_settings_out_of_range(db: Database, wrong: dict[str, Any]) -> None:
    fill(db, 1)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        db.idem.purge(**wrong)
    assert len(db.rows()) == 1


# --- stats -----------------------------------------------------------------------------------------------------------


def test_stats_counts_by_scope_and_status_and_what_has_expired(db: Database) -> None:
    empty = db.idem.stats()
    assert (empty.rows, dict(empty.by_scope), dict(empty.by_status), empty.expired) == (0, {}, {}, 0)
    assert empty.oldest is None

    fill(db, 3, scope="b")
    fill(db, 2, scope="a", status=Status.FAILED, age=-DAY)
    fill(db, 1, scope="a", status=Status.IN_PROGRESS)
    fill(db, 1, scope="lock", status=Status.LOCK)
    stats = db.idem.stats()

    assert stats.rows == 6
    assert dict(stats.by_scope) == {"a": 3, "b": 3}
    assert dict(stats.by_status) == {Status.COMPLETED: 3, Status.FAILED: 2, Status.IN_PROGRESS: 1}
    assert stats.expired == 3  # what a purge would take
    assert stats.oldest is not None
    assert stats.oldest.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - 10 * DAY - stats.oldest) < timedelta(minutes=5)
    assert stats.table_bytes is None or stats.table_bytes > 0
    assert db.kind == "sqlite" or stats.table_bytes is not None


# --- the table -------------------------------------------------------------------------------------------------------


def test_a_table_that_is_missing_is_a_schema_error_that_names_the_command(db: Database) -> None:
    idem = db.table(table="nowhere")
    runs = []

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        runs.append(key)

    cure = "idemtable db upgrade --table nowhere"
    for use in (
        idem.check_schema,
        lambda: order("k"),
        lambda: idem.get("order", "k"),
        lambda: idem.forget("order", "k"),
        idem.stats,
        idem.purge,
        lambda: idem.transaction("order", "k").__enter__(),
    ):
        with pytest.raises(SchemaError, match=cure) as caught:
            use()
        assert caught.value.http_status == 503
    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(SchemaError, match=cure):
            order.join(held.session, "k")
        held.commit()
    assert runs == []
    assert db.effects() == ["before"]


def test_a_table_that_is_missing_is_a_schema_error_whatever_the_application_makes_of_the_databases_errors(
    db: Database,
) -> None:
    def say_it_differently(context: Any) -> None:
        raise LookupError from context.original_exception

    with db.other_engine() as engine:
        idem = db.table(engine, table="nowhere")
        sa.event.listen(getattr(engine, "sync_engine", engine), "handle_error", say_it_differently)

        @idem.transactional("order", key="key")
        def order(session: Any, key: str) -> None: ...

        for use in (lambda: order("k"), lambda: idem.get("order", "k"), idem.stats):
            with pytest.raises(SchemaError, match="idemtable db upgrade --table nowhere"):
                use()


def test_create_all_makes_a_table_that_check_schema_accepts_and_can_be_called_again(db: Database) -> None:
    idem = db.table(table="made_twice")
    try:
        idem.create_all()
        idem.create_all()
        idem.check_schema()
        with idem.transaction("pay", "k") as claim:
            claim.result = 1
        idem.create_all()
        assert idem.get("pay", "k").status is Status.COMPLETED
        assert db.idem.get("pay", "k") is None
    finally:
        db.execute("DROP TABLE made_twice")
        db.execute("DROP TABLE made_twice_version")


def test_a_table_of_another_shape_is_a_schema_error_and_is_left_alone(db: Database) -> None:
    db.execute("CREATE TABLE not_ours (id integer PRIMARY KEY, other integer)")
    try:
        idem = db.table(table="not_ours")
        for use in (idem.check_schema, idem.create_all):
            with pytest.raises(SchemaError, match="not_ours"):
                use()
        with pytest.raises(SchemaError), idem.transaction("pay", "k"):
            pass
        assert db.execute("SELECT count(*) FROM not_ours") == [(0,)]
    finally:
        db.execute("DROP TABLE not_ours")


def test_a_table_in_another_schema_is_a_table_of_its_own(db: Database) -> None:
    schema = {"sqlite": "main", "postgresql": "other_schema"}.get(db.kind, f"other_{uuid4().hex[:8]}")
    if db.kind != "sqlite":
        db.execute(f"CREATE SCHEMA {schema}")
    idem = db.table(schema=schema, table="Elsewhere_1")
    runs = []

    @idem.transactional("order", key="key")
    def order(session: Any, key: str) -> int:
        runs.append(key)
        return effect(session, key)

    try:
        with pytest.raises(SchemaError, match=f"--table Elsewhere_1 --schema {schema}"):
            order("k")
        idem.create_all()
        idem.check_schema()
        assert order("k") == order("k")
        with db.session() as held:
            order.join(held.session, "joined")
            held.commit()
        assert runs == ["k", "joined"]
        assert idem.stats().rows == 2
        assert idem.stats().table_bytes is None or idem.stats().table_bytes > 0
        assert db.idem.stats().rows == 0
        quote = "`" if db.kind in INNODB else '"'
        old = "'2020-01-01 00:00:00.000000'"
        times = ", ".join(f"{name} = {old}" for name in ("created_at", "completed_at", "expires_at"))
        db.execute(f"UPDATE {schema}.{quote}Elsewhere_1{quote} SET {times}")
        assert idem.purge().deleted == 2
        with db.session() as held:  # and the other way round: the default table inside a call of this one
            held.run(lambda session: effect(session, "x"))
            held.rollback()
    finally:
        if db.kind == "sqlite":
            db.execute('DROP TABLE IF EXISTS "Elsewhere_1"')
            db.execute('DROP TABLE IF EXISTS "Elsewhere_1_version"')
        else:
            db.execute(f"DROP SCHEMA {schema}" + (" CASCADE" if db.kind == "postgresql" else ""))


def test_a_row_stays_for_a_minute_past_its_expiry(db: Database) -> None:
    fill(db, 2, age=timedelta(seconds=5), scope="young")
    fill(db, 3, age=timedelta(seconds=90), scope="old")
    assert db.idem.purge().deleted == 3
    assert db.idem.stats().by_scope == {"young": 2}
    assert db.idem.stats().expired == 2
