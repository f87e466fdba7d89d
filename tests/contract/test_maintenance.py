"""Looking at records and removing them: get, forget, purge, stats, the table itself and its other names."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import sqlalchemy as sa

import idemtable
from idemtable import IdemTable, PurgeReport, SchemaError, Status
from tests.support.database import House, effect

ROWS = idemtable.metadata.tables["idemtable"]
DAY = timedelta(days=1)


def fill(
    house: House, count: int, *, status: Status = Status.COMPLETED, age: timedelta = DAY, scope: str = "s"
) -> None:
    """Write rows that expired `age` ago; a negative age is time to live. A day: no clock is wrong by that much."""
    now = datetime.now(UTC)
    with house.admin.begin() as connection:
        connection.execute(
            sa.insert(ROWS),
            [
                {
                    "id": uuid4() if house.kind == "postgresql" else uuid4().bytes,
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


def test_get_tells_all_of_a_record_but_its_result(house: House) -> None:
    @house.idem.transactional("order", key="key", tenant="tenant")
    def order(session: Any, key: str, tenant: str) -> dict[str, int]:
        return {"id": 1}

    assert house.idem.get("order", "k", tenant="acme") is None
    order("k", "acme")
    record = house.idem.get("order", "k", tenant="acme")

    assert (record.tenant, record.scope, record.key) == ("acme", "order", "k")
    assert record.status is Status.COMPLETED
    assert isinstance(record.fingerprint, bytes)
    assert len(record.fingerprint) == 32
    assert (record.codec, record.result_bytes) == ("json", len(b'{"id":1}'))
    for time in (record.created_at, record.completed_at, record.expires_at):
        assert time.utcoffset() == timedelta(0)
    assert abs(record.created_at - datetime.now(UTC)) < timedelta(minutes=5)  # UTC, whatever zone the session is in
    assert abs(record.expires_at - record.created_at - timedelta(days=7)) < timedelta(seconds=1)


def test_get_shows_an_expired_record_too(house: House) -> None:
    with house.idem.transaction("pay", "k"):
        pass
    house.expire()
    assert house.idem.get("pay", "k").status is Status.COMPLETED


def test_get_and_forget_take_a_uuid_as_its_text(house: House) -> None:
    id = UUID(int=5)
    with house.idem.transaction("pay", id):
        pass
    assert house.idem.get("pay", id) == house.idem.get("pay", str(id))
    assert house.idem.forget("pay", id)
    assert house.rows() == []


def test_forget_removes_one_record_and_says_whether_there_was_one(house: House) -> None:
    runs = []

    @house.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None:
        runs.append(key)

    order("k")
    order("other")
    assert house.idem.forget("order", "k") is True
    assert house.idem.forget("order", "k") is False
    assert house.idem.forget("another scope", "other") is False
    order("k")
    order("other")
    assert runs == ["k", "other", "k"]


# --- purge -----------------------------------------------------------------------------------------------------------


def test_purge_deletes_every_expired_row_and_no_other(house: House) -> None:
    for status in (Status.COMPLETED, Status.FAILED, Status.ISSUED, Status.SPENT):
        fill(house, 2, status=status)
        fill(house, 1, status=status, age=-DAY, scope="alive")
    fill(house, 3, status=Status.IN_PROGRESS, scope="alive")

    report = house.idem.purge()

    assert isinstance(report, PurgeReport)
    assert (report.deleted, report.batches, report.busy) == (8, 1, False)
    assert report.seconds >= 0
    assert [row.scope for row in house.rows()] == ["alive"] * 7
    assert house.idem.purge().deleted == 0


def test_purge_works_in_batches_and_tells_its_progress(house: House) -> None:
    fill(house, 7)
    seen: list[int] = []
    left: list[int] = []

    def progress(deleted: int) -> None:
        seen.append(deleted)
        left.append(house.execute("SELECT count(*) FROM idemtable WHERE scope = 's'")[0][0])

    report = house.idem.purge(batch=3, pause=timedelta(0), progress=progress)

    assert seen == [3, 6, 7]
    assert left == [4, 1, 0]  # each batch is committed before the next begins
    assert (report.deleted, report.batches) == (7, 3)


def test_purge_stops_at_its_limit(house: House) -> None:
    fill(house, 9)
    report = house.idem.purge(batch=4, limit=6, pause=timedelta(0))
    assert (report.deleted, report.batches) == (6, 2)
    assert len(house.rows()) == 3


def test_purge_of_nothing_is_no_batch(house: House) -> None:
    report = house.idem.purge()
    assert (report.deleted, report.batches, report.busy) == (0, 0, False)
    assert house.rows() == []  # the runner leaves no row of its own


def test_a_second_runner_leaves_at_once_and_says_busy(house: House) -> None:
    fill(house, 4)
    reports: list[PurgeReport] = []
    engine = sa.create_engine(house.sync_url, poolclass=sa.NullPool)
    second = IdemTable(engine)

    def progress(deleted: int) -> None:
        reports.append(second.purge())

    report = house.idem.purge(batch=2, limit=4, pause=timedelta(0), progress=progress)
    engine.dispose()

    assert [(r.deleted, r.batches, r.busy) for r in reports] == [(0, 0, True)] * 2
    assert (report.deleted, report.busy) == (4, False)
    assert house.idem.purge().busy is False


def test_a_runner_that_was_killed_blocks_the_next_only_until_its_lease_ends(house: House) -> None:
    fill(house, 4)
    kept: list[Any] = []

    def copy(deleted: int) -> None:
        kept.extend(row for row in house.rows() if row.status == Status.LOCK.code)

    house.idem.purge(batch=2, limit=2, progress=copy)
    assert len(kept) == 1
    with house.admin.begin() as connection:
        connection.execute(sa.insert(ROWS), [dict(kept[0]._mapping)])
    assert house.idem.purge().busy is True
    house.expire()
    report = house.idem.purge()
    assert (report.busy, report.deleted) == (False, 2)
    assert house.rows() == []


def test_an_exception_in_progress_ends_the_purge_and_frees_the_place(house: House) -> None:
    fill(house, 4)

    def progress(deleted: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        house.idem.purge(batch=2, progress=progress)
    report = house.idem.purge()
    assert (report.deleted, report.busy) == (2, False)


def test_purge_judges_by_the_databases_clock_alone(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setattr(time, "time", lambda: 4e9)  # the application believes it is 2096
    with house.idem.transaction("pay", "k"):
        pass
    assert house.idem.purge().deleted == 0
    house.expire()
    monkeypatch.setattr(time, "time", lambda: 0.0)  # or 1970
    assert house.idem.purge().deleted == 1


def test_a_row_that_somebody_holds_is_left_for_the_next_run(server_house: House) -> None:
    house = server_house
    fill(house, 3)
    first = house.rows()[0].id
    with house.admin.connect() as connection:
        connection.execute(sa.select(ROWS).where(ROWS.c.id == first).with_for_update()).all()
        assert house.idem.purge().deleted == 2
        connection.rollback()
    assert house.idem.purge().deleted == 1


@pytest.mark.parametrize(
    "wrong",
    [
        *({"batch": batch} for batch in (0, -1, 100_001, True, 1.5)),
        *({"limit": limit} for limit in (0, True)),
        *({"pause": pause} for pause in (timedelta(seconds=-1), 5)),
    ],
    ids=str,
)
def test_purge_refuses_settings_out_of_range(house: House, wrong: dict[str, Any]) -> None:
    fill(house, 1)
    with pytest.raises(ValueError, match=next(iter(wrong))):
        house.idem.purge(**wrong)
    assert len(house.rows()) == 1


# --- stats -----------------------------------------------------------------------------------------------------------


def test_stats_counts_by_scope_and_status_and_what_has_expired(house: House) -> None:
    empty = house.idem.stats()
    assert (empty.rows, dict(empty.by_scope), dict(empty.by_status), empty.expired) == (0, {}, {}, 0)
    assert empty.oldest is None

    fill(house, 3, scope="b")
    fill(house, 2, scope="a", status=Status.FAILED, age=-DAY)
    fill(house, 1, scope="a", status=Status.IN_PROGRESS)
    fill(house, 1, scope="lock", status=Status.LOCK)
    stats = house.idem.stats()

    assert stats.rows == 6
    assert dict(stats.by_scope) == {"a": 3, "b": 3}
    assert dict(stats.by_status) == {Status.COMPLETED: 3, Status.FAILED: 2, Status.IN_PROGRESS: 1}
    assert stats.expired == 3  # what a purge would take
    assert stats.oldest is not None
    assert stats.oldest.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - 10 * DAY - stats.oldest) < timedelta(minutes=5)
    assert stats.table_bytes is None or stats.table_bytes > 0
    assert house.kind == "sqlite" or stats.table_bytes is not None


# --- the table -------------------------------------------------------------------------------------------------------


def test_a_table_that_is_missing_is_a_schema_error_that_names_the_command(house: House) -> None:
    idem = house.table(table="nowhere")
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
    with house.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(SchemaError, match=cure):
            order.join(held.session, "k")
        held.commit()
    assert runs == []
    assert house.effects() == ["before"]


def test_create_all_makes_a_table_that_check_schema_accepts_and_can_be_called_again(house: House) -> None:
    idem = house.table(table="made_twice")
    try:
        idem.create_all()
        idem.create_all()
        idem.check_schema()
        with idem.transaction("pay", "k") as claim:
            claim.result = 1
        idem.create_all()
        assert idem.get("pay", "k").status is Status.COMPLETED
        assert house.idem.get("pay", "k") is None
    finally:
        house.execute("DROP TABLE made_twice")
        house.execute("DROP TABLE made_twice_version")


def test_a_table_of_another_shape_is_a_schema_error_and_is_left_alone(house: House) -> None:
    house.execute("CREATE TABLE not_ours (id integer PRIMARY KEY, other integer)")
    try:
        idem = house.table(table="not_ours")
        for use in (idem.check_schema, idem.create_all):
            with pytest.raises(SchemaError, match="not_ours"):
                use()
        with pytest.raises(SchemaError), idem.transaction("pay", "k"):
            pass
        assert house.execute("SELECT count(*) FROM not_ours") == [(0,)]
    finally:
        house.execute("DROP TABLE not_ours")


def test_a_table_in_another_schema_is_a_house_of_its_own(house: House) -> None:
    schema = {"sqlite": "main", "postgresql": "other_schema", "mariadb": f"other_{uuid4().hex[:8]}"}[house.kind]
    if house.kind != "sqlite":
        house.execute(f"CREATE SCHEMA {schema}")
    idem = house.table(schema=schema, table="Elsewhere_1")
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
        with house.session() as held:
            order.join(held.session, "joined")
            held.commit()
        assert runs == ["k", "joined"]
        assert idem.stats().rows == 2
        assert idem.stats().table_bytes is None or idem.stats().table_bytes > 0
        assert house.idem.stats().rows == 0
        quote = "`" if house.kind == "mariadb" else '"'
        house.execute(f"UPDATE {schema}.{quote}Elsewhere_1{quote} SET expires_at = created_at")
        assert idem.purge().deleted == 2
        with house.session() as held:  # and the other way round: the default table inside a call of this one
            held.run(lambda session: effect(session, "x"))
            held.rollback()
    finally:
        if house.kind == "sqlite":
            house.execute('DROP TABLE IF EXISTS "Elsewhere_1"')
            house.execute('DROP TABLE IF EXISTS "Elsewhere_1_version"')
        else:
            house.execute(f"DROP SCHEMA {schema}" + (" CASCADE" if house.kind == "postgresql" else ""))
