"""Batches: of many keys those that nobody has had, in the caller's transaction, in one space with every other call."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from psycopg.types.string import TextLoader

import idemtable
from idemtable import (
    Flag,
    LostClaimError,
    ReentrantCallError,
    ResultUnreadableError,
    SchemaError,
    SessionNotUsableError,
    Status,
)
from tests.support.backends import db_of
from tests.support.database import INNODB, Database, Effect, effect
from tests.support.tokens import desk

New, Seen = Flag.New, Flag.Seen


@dataclass
class Receipt:
    id: int


def claimed(db: Database, *keys: Any, scope: str = "batch", idem: Any = None, **options: Any) -> list[Flag]:
    """Claim keys in a transaction of their own, and commit."""
    with db.session() as held:
        flags = (idem or db.idem).claim_many(held.session, scope, keys, **options)
        held.commit()
    return list(flags)


def events(*numbers: int) -> list[dict[str, Any]]:
    """Events in this order; `n` tells two of one id apart."""
    return [{"id": f"e{number}", "n": place} for place, number in enumerate(numbers)]


# --- which are new ----------------------------------------------------------------------------------------------------


def test_flags_stand_where_their_keys_do_and_only_the_first_of_a_repeated_key_is_new(db: Database) -> None:
    assert claimed(db, "b", "a", "b", "c", "a") == [New, New, Seen, New, Seen]
    assert claimed(db, "c", "d", "a", "d") == [Seen, New, Seen, Seen]
    assert claimed(db, "a", "b", "c", "d") == [Seen] * 4
    assert {(row.scope, row.key, row.tenant) for row in db.rows()} == {("batch", key, None) for key in "abcd"}


def test_where_the_driver_was_told_to_read_numbers_as_text_new_keys_are_new_all_the_same() -> None:
    db = db_of("postgresql18")
    with db.other_engine() as engine:

        @sa.event.listens_for(engine, "connect")
        def read_as_text(driver: Any, *_: object) -> None:
            driver.adapters.register_loader("int8", TextLoader)

        for flags in ([New, New], [Seen, Seen]):
            with db.session(engine) as held:
                assert list(db.table(engine).claim_many(held.session, "batch", ["a", "b"])) == flags
                held.commit()


@pytest.mark.parametrize("flag", list(Flag))
def test_a_flag_is_not_taken_for_true_or_false(flag: Flag) -> None:
    with pytest.raises(TypeError, match=r"is Flag\.New"):
        bool(flag)


def test_no_keys_are_no_flags_and_send_nothing(db: Database) -> None:
    with db.session() as held:
        assert db.idem.claim_many(held.session, "batch", []) == []
        assert list(db.idem.unseen(held.session, "batch", [], key="id")) == []
        assert held.run(lambda session: session.in_transaction()) is False


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_unseen_keeps_the_order_and_drops_repeats_within_a_chunk_and_across_chunks(db: Database, chunk: int) -> None:
    claimed(db, "e3")
    given = events(5, 1, 5, 3, 4, 1, 2, 5, 4)
    with db.session() as held:
        new = list(db.idem.unseen(held.session, "batch", given, key="id", chunk=chunk))
        held.commit()
    assert [(event["id"], event["n"]) for event in new] == [("e5", 0), ("e1", 1), ("e4", 4), ("e2", 6)]
    with db.session() as held:
        assert list(db.idem.unseen(held.session, "batch", given, key="id", chunk=chunk)) == []


def test_a_key_is_an_item_of_a_mapping_an_attribute_a_path_of_those_or_what_a_callable_says(db: Database) -> None:
    items = [SimpleNamespace(id="attribute", head={"id": "path"})]
    ways: list[tuple[list[Any], Any, str]] = [
        ([{"id": "item"}], "id", "item"),
        (items, "id", "attribute"),
        (items, "head.id", "path"),
        (["a", "b"], lambda text: f"called {text}", "called b"),
    ]
    for given, key, last in ways:
        with db.session() as held:
            assert list(db.idem.unseen(held.session, "batch", given, key=key)) == given
            held.commit()
        assert claimed(db, last) == [Seen]


def test_items_are_read_as_far_as_the_loop_has_come(db: Database) -> None:
    read = []

    def source() -> Iterator[dict[str, Any]]:
        for event in events(*range(10)):
            read.append(event["id"])
            yield event

    with db.session() as held:
        loop = iter(db.idem.unseen(held.session, "batch", source(), key="id", chunk=4))
        assert read == []
        assert next(loop)["id"] == "e0"
        assert len(read) == 4
        for _ in range(4):
            next(loop)
        assert len(read) == 8
        held.rollback()


def test_an_async_iterable_is_read_chunk_by_chunk_by_the_async_table(db: Database) -> None:
    if db.loop is None:
        return
    read = []

    async def source() -> Any:
        for event in events(1, 2, 1, 3):
            read.append(event["id"])
            yield event

    with db.session() as held:
        loop = iter(db.idem.unseen(held.session, "batch", source(), key="id", chunk=3))
        assert [next(loop)["id"], len(read)] == ["e1", 3]
        assert [event["id"] for event in loop] == ["e2", "e3"]
        held.commit()


# --- in the caller's transaction --------------------------------------------------------------------------------------


def test_keys_live_and_die_with_the_callers_transaction(db: Database) -> None:
    with db.session() as held:
        held.run(lambda session: effect(session, "lost"))
        assert db.idem.claim_many(held.session, "batch", ["a", "b"]) == [New, New]
        for event in db.idem.unseen(held.session, "batch", events(1, 2), key="id"):
            held.run(lambda session, name=event["id"]: effect(session, name))
        held.rollback()
    assert (db.effects(), db.rows()) == ([], [])
    assert claimed(db, "a", "e1") == [New, New]


def test_nothing_is_committed_before_the_caller_does_it(db: Database) -> None:
    with db.session() as held:
        db.idem.claim_many(held.session, "batch", ["a"])
    assert db.rows() == []


def test_what_the_caller_had_pending_is_flushed_outside_the_savepoint_of_the_batch(db: Database) -> None:
    with db.session() as held:
        held.run(lambda session: session.add(Effect(name="pending")))
        with pytest.raises(LostClaimError):
            break_one(db, "broken")
            db.idem.claim_many(held.session, "batch", ["a", "broken"])
        held.commit()
    assert db.effects() == ["pending"]
    assert [row.key for row in db.rows()] == ["broken"]


def test_a_batch_inside_a_call_lives_and_dies_with_the_call(db: Database) -> None:
    @db.idem.transactional("batch.import", key="key")
    def importing(session: Any, key: str, fail: bool) -> int:
        given = db.given(session)
        new = sum(flag is New for flag in db.idem.claim_many(given, "batch", ["a", "b", "a"]))
        for event in db.idem.unseen(given, "batch", events(1, 2, 1), key="id", chunk=2):
            effect(session, event["id"])
            new += 1
        if fail:
            raise LookupError
        return new

    with pytest.raises(LookupError):
        importing("k", fail=True)
    assert (db.effects(), db.rows()) == ([], [])
    assert importing("k", fail=False) == 4
    assert db.effects() == ["e1", "e2"]
    assert {row.key for row in db.rows()} == {"k", "a", "b", "e1", "e2"}


def test_calls_for_the_same_session_may_be_made_inside_the_loop(db: Database) -> None:
    @db.idem.transactional("batch.mail", key="key")
    def mail(session: Any, key: str) -> str:
        effect(session, key)
        return key

    with db.session() as held:
        for event in db.idem.unseen(held.session, "batch", events(1, 2, 3), key="id", chunk=2):
            assert mail.join(held.session, event["id"]) == event["id"]
            assert db.idem.claim_many(held.session, "batch", ["e1", event["id"] + "+"]) == [Seen, New]
        held.commit()
    assert db.effects() == ["e1", "e2", "e3"]
    assert len(db.rows()) == 9


def test_a_key_that_a_call_around_the_batch_holds_is_refused_and_not_waited_for(db: Database) -> None:
    @db.idem.transactional("batch", key="key")
    def call(session: Any, key: str) -> None:
        with db.session() as other, pytest.raises(ReentrantCallError):  # would wait for what its own caller holds
            db.idem.claim_many(other.session, "batch", ["a", key])
        with pytest.raises(ReentrantCallError):
            db.idem.claim_many(db.given(session), "batch", ["a", key])
        assert db.idem.claim_many(db.given(session), "another", ["a", key]) == [New, New]

    call("k")
    assert sorted((row.scope, row.key) for row in db.rows()) == [("another", "a"), ("another", "k"), ("batch", "k")]


# --- one space of keys with the calls of the scope --------------------------------------------------------------------


def test_what_a_call_or_a_block_has_done_is_seen_and_a_remembered_failure_is_done_too(db: Database) -> None:
    @db.idem.transactional("batch", key="key", remember=(LookupError,))
    def call(session: Any, key: str, amount: int) -> Receipt:
        if key == "failed":
            raise LookupError
        return Receipt(amount)

    call("called", 1)
    with pytest.raises(LookupError):
        call("failed", 1)
    with db.idem.transaction("batch", "block", payload=[1]) as claim:
        claim.result = 1
    before = {row.key: row for row in db.rows()}
    assert claimed(db, "called", "failed", "block", "new") == [Seen, Seen, Seen, New]
    assert {row.key: row for row in db.rows() if row.key != "new"} == before
    assert call("called", 1) == Receipt(1)


def test_a_key_of_a_batch_replays_as_none_and_nothing_runs(db: Database) -> None:
    runs = []

    @db.idem.transactional("batch", key="key", share_scope=True)
    def plain(session: Any, key: str, amount: int) -> None:
        runs.append(key)

    @db.idem.transactional("batch", key="key", share_scope=True)
    def optional(session: Any, key: str) -> Receipt | None:
        runs.append(key)
        return Receipt(1)

    claimed(db, "k")
    outcome = plain.outcome("k", amount=5)
    assert (outcome.value, outcome.replayed) == (None, True)
    assert outcome.created_at == db.idem.get("batch", "k").created_at
    assert plain.outcome("k", amount=6).replayed, "there was no payload to compare with"
    assert optional.outcome("k").replayed
    with db.idem.transaction("batch", "k", payload={"amount": 5}) as claim:
        assert (claim.replayed, claim.result) == (True, None)
    with db.session() as held:
        assert plain.join_outcome(held.session, "k", 1).replayed
    assert runs == []


def test_a_function_that_declares_a_result_is_told_that_there_is_none_and_does_not_run(db: Database) -> None:
    runs = []

    @db.idem.transactional("batch", key="key", share_scope=True)
    def call(session: Any, key: str) -> Receipt:
        runs.append(key)
        return Receipt(1)

    claimed(db, "k")
    for _ in range(2):
        with pytest.raises(ResultUnreadableError, match=r"batch .* keeps no result, but Receipt is declared"):
            call("k")
    assert runs == []
    assert claimed(db, "k") == [Seen]


class Reversed:
    """Turns bytes round."""

    def seal(self, data: bytes, context: bytes) -> bytes:
        return b"sealed:" + data[::-1]

    def open(self, data: bytes, context: bytes) -> bytes:
        assert data.startswith(b"sealed:")
        return data[7:][::-1]


def test_a_key_of_a_batch_replays_under_a_seal_too(db: Database) -> None:
    idem = db.table(seal=Reversed())
    claimed(db, "k", idem=idem)

    @idem.transactional("batch", key="key")
    def call(session: Any, key: str) -> None: ...

    assert call.outcome("k").replayed
    assert idem.stored_result("batch", "k") is None


def test_the_record_of_a_batch_is_done_and_holds_nothing(db: Database) -> None:
    claimed(db, "k", tenant="acme", ttl=timedelta(hours=1))
    record = db.idem.get("batch", "k", tenant="acme")
    assert (record.tenant, record.scope, record.key, record.status) == ("acme", "batch", "k", Status.COMPLETED)
    assert (record.fingerprint, record.codec, record.result_bytes) == (None, None, None)
    assert abs(record.expires_at - record.completed_at - timedelta(hours=1)) < timedelta(seconds=1)
    assert record.completed_at - record.created_at < timedelta(seconds=1)
    assert db.idem.forget("batch", "k", tenant="acme") is True
    assert claimed(db, "k", tenant="acme") == [New]


def break_one(db: Database, key: str) -> None:
    """Leave a row behind that a function has committed without a result."""

    @db.idem.transactional("batch", key="key", share_scope=True)
    def call(session: Any, key: str) -> None:
        session.commit()

    with pytest.raises(LostClaimError):
        call(key)


def test_a_key_whose_call_left_no_result_refuses_the_batch_and_nothing_of_it_is_claimed(db: Database) -> None:
    break_one(db, "broken")
    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(LostClaimError, match="ls --unfinished"):
            db.idem.claim_many(held.session, "batch", ["a", "broken", "b"])
        assert db.idem.claim_many(held.session, "batch", ["a"]) == [New]
        held.commit()
    assert db.effects() == ["before"]
    assert sorted(row.key for row in db.rows()) == ["a", "broken"]
    db.idem.forget("batch", "broken")
    assert claimed(db, "a", "broken", "b") == [Seen, New, New]


def test_a_row_that_a_newer_release_wrote_is_never_new(db: Database) -> None:
    claimed(db, "k")
    db.execute("UPDATE idemtable SET status = 77")
    with pytest.raises(ResultUnreadableError, match="upgrade"):
        claimed(db, "k")
    assert len(db.rows()) == 1


# --- who a key is ------------------------------------------------------------------------------------------------------


def test_what_one_tenant_has_claimed_another_has_not(db: Database) -> None:
    for tenant in (None, "a", "b"):
        assert claimed(db, "k", tenant=tenant) == [New]
    assert claimed(db, "k", tenant="a") == [Seen]
    with db.session() as held:
        assert list(db.idem.unseen(held.session, "batch", events(1), key="id", tenant="a")) == events(1)
        assert list(db.idem.unseen(held.session, "batch", events(1), key="id", tenant="b")) == events(1)
        held.commit()
    assert claimed(db, "k", scope="another", tenant="a") == [New]


def test_keys_are_text_exactly_as_given(db: Database) -> None:
    keys = [
        "Key", "key", "key ", " key", "Ábc", "Abc", "abc", "ss", "ß", "caf\u00e9", "cafe\u0301", "'", '"', "\\", "\\'",
        "%", "%s", "%(key)s", ":key", "?", "{key}", "a,b", "[1]", "\U0001f375" * 63, "x" * 255, "é" * 127, "a\u2028b",
    ]  # fmt: skip
    assert claimed(db, *keys, *keys) == [New] * len(keys) + [Seen] * len(keys)
    assert {row.key for row in db.rows()} == set(keys)
    for key in keys:
        with db.idem.transaction("batch", key) as claim:
            assert claim.replayed


def test_a_uuid_is_its_canonical_text(db: Database) -> None:
    from uuid import UUID

    id = UUID(int=7)
    assert claimed(db, id, str(id)) == [New, Seen]


def test_keys_need_not_be_kept_readable(db: Database) -> None:
    idem = db.table(store_keys=False)
    assert claimed(db, "a", "b", "a", idem=idem) == [New, New, Seen]
    assert [row.key for row in db.rows()] == [None, None]
    assert claimed(db, "a", "b", "c") == [Seen, Seen, New]


def test_more_keys_than_a_driver_has_variables_and_a_statement_takes(db: Database) -> None:
    keys = [f"key-{number}" for number in range(10_500)]
    with db.session() as held:
        assert db.idem.claim_many(held.session, "batch", keys) == [New] * len(keys)
        assert db.idem.claim_many(held.session, "batch", [*keys[::-1], "one more"]) == [Seen] * len(keys) + [New]
        held.commit()
    assert len(db.rows()) == len(keys) + 1


def test_statements_are_few_and_go_through_sqlalchemy_where_somebody_listens(db: Database) -> None:
    engine, seen = getattr(db.engine, "sync_engine", db.engine), []

    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if re.search(r"\bidemtable\b|pg_current_xact_id", statement):
            seen.append(statement.split()[0])

    sa.event.listen(engine, "before_cursor_execute", listen)
    try:
        assert claimed(db, *"abc") == [New] * 3
        fresh = list(seen)
        seen.clear()
        assert claimed(db, *"abcd") == [Seen] * 3 + [New]
    finally:
        sa.event.remove(engine, "before_cursor_execute", listen)
    # The last of each looks, before COMMIT, whether the rows or the transaction still are there.
    assert (fresh, seen) == {
        "postgresql": (["WITH", "SELECT"], ["WITH", "WITH", "SELECT"]),
        "mariadb": (["SET", "SET", "SELECT"], ["SET", "SET", "SET", "SELECT"]),  # SET STATEMENT … FOR
        "mysql": (["INSERT", "SELECT", "SELECT"], ["INSERT", "SELECT", "SELECT", "SELECT"]),
        # The first of them takes the write lock.
        "sqlite": (["UPDATE", "INSERT", "SELECT"], ["UPDATE", "INSERT", "SELECT", "SELECT", "SELECT"]),
    }[db.kind]


# --- expiry -----------------------------------------------------------------------------------------------------------


def test_an_expired_record_counts_as_absent_and_is_taken_over_whole(db: Database) -> None:
    @db.idem.transactional("batch", key="key", remember=(LookupError,))
    def call(session: Any, key: str, amount: int) -> str | None:
        if key == "failed":
            raise LookupError
        return "an old result"

    call("called", 1)
    with pytest.raises(LookupError):
        call("failed", 1)
    claimed(db, "claimed")
    db.expire()
    claimed(db, "living")
    keys = ["new", "called", "failed", "claimed", "living", "called"]
    assert claimed(db, *keys) == [New, New, New, New, Seen, Seen]
    assert claimed(db, *keys) == [Seen] * 6
    for row in db.rows():
        assert (row.status, row.fingerprint, row.codec, row.result) == (1, None, None, None), row.key
    assert len({row.owner for row in db.rows() if row.key != "living"}) == 1
    assert (db.idem.stats().expired, len(db.rows())) == (0, 5)
    assert call("called", 2) is None, "the old result is gone, and so is its payload"


def test_a_takeover_that_is_rolled_back_leaves_the_expired_record_as_it_was(db: Database) -> None:
    claimed(db, "a", "b")
    db.expire()
    before = sorted(db.rows())
    with db.session() as held:
        assert db.idem.claim_many(held.session, "batch", ["a", "b", "c"]) == [New] * 3
        held.rollback()
    assert sorted(db.rows()) == before


@pytest.mark.parametrize("setting", ["sql_safe_updates = 1", "sql_select_limit = 1"])
def test_what_has_expired_is_new_whatever_the_session_lets_a_statement_do(server_db: Database, setting: str) -> None:
    db = server_db
    if db.kind not in INNODB:
        return
    claimed(db, *"abc")
    db.expire()
    with db.other_engine(poolclass=sa.NullPool) as engine, db.session(engine) as held:
        held.run(lambda session: session.execute(sa.text(f"SET SESSION {setting}")))
        assert db.idem.claim_many(held.session, "batch", ["a", "b", "c", "d"]) == [New] * 4
        name = setting.split()[0]
        value = held.run(lambda session: session.execute(sa.text(f"SELECT @@{name}")).scalar())
        assert value == 1, "it stays the caller's"
        held.commit()
    assert claimed(db, *"abcd") == [Seen] * 4


def test_an_expired_record_that_was_left_without_a_result_is_not_taken_over(db: Database) -> None:
    break_one(db, "broken")
    db.expire()
    with pytest.raises(LostClaimError):
        claimed(db, "broken")


# --- what cannot carry a claim ----------------------------------------------------------------------------------------


def both(db: Database, session: Any) -> Iterator[Any]:
    """The two verbs, each to be called."""
    yield lambda: db.idem.claim_many(session, "batch", ["k"])
    yield lambda: list(db.idem.unseen(session, "batch", events(1), key="id"))


def test_a_session_in_autocommit_is_refused(db: Database) -> None:
    db.needs_autocommit()
    with db.other_engine(isolation_level="AUTOCOMMIT") as engine:
        if db.kind == "sqlite":
            idemtable.configure_sqlite(engine)
        with db.session(engine) as held:
            for verb in both(db, held.session):
                with pytest.raises(SessionNotUsableError, match="AUTOCOMMIT"):
                    verb()
    assert db.rows() == []


def test_a_session_of_a_sqlite_engine_without_the_listeners_is_refused(db: Database) -> None:
    if db.kind != "sqlite":
        return
    with db.other_engine() as engine, db.session(engine) as held:
        for verb in both(db, held.session):
            with pytest.raises(SessionNotUsableError, match="configure_sqlite"):
                verb()
    assert db.rows() == []


def test_items_that_the_session_itself_reads_as_they_come_are_all_given_or_none_is_claimed(db: Database) -> None:
    """PyMySQL and asyncmy drop what is left of them at the next statement, and the loop would end as after the last one."""
    source = [f"e{number:02}" for number in range(20)]
    names = sa.select(Effect.name).where(Effect.amount == 1).order_by(Effect.name)
    given: list[str] = []
    with db.session() as held:
        held.run(lambda session: session.add_all([Effect(name=name) for name in source]))
        held.commit()
        rows = db.streamed(held, names)
        with pytest.raises(SessionNotUsableError, match="Read them into a list") if drops(db) else nullcontext():
            for name in db.idem.unseen(held.session, "batch", rows, key=str, chunk=4):
                given.append(name)
                held.run(lambda session, name=name: session.add(Effect(name=name, amount=2)))
            held.commit()
        if drops(db):
            assert (given, db.rows()) == ([], [])
            for _ in db.plainly(rows):  # PyMySQL warns of what is not read
                pass
            held.rollback()
            listed = held.run(lambda session: session.scalars(names).all())
            given += db.idem.unseen(held.session, "batch", listed, key=str, chunk=4)
            held.commit()
    assert (given, len(db.rows())) == (source, 20)


def drops(db: Database) -> bool:
    """Whether the driver drops rows that were not read yet at the next statement."""
    return getattr(db.engine, "sync_engine", db.engine).dialect.driver in ("pymysql", "asyncmy")


@pytest.mark.parametrize("verb", ["claim_many", "claim", "join", "issue"])
def test_nothing_of_ours_is_sent_among_rows_that_would_be_dropped(db: Database, verb: str) -> None:
    @db.idem.transactional("order", key="key")
    def order(session: Any, key: str) -> None: ...

    def claim(session: Any) -> None:
        with db.idem.claim(session, "pay", "k"):
            pass

    send: Any = {
        "claim_many": lambda session: db.idem.claim_many(session, "batch", ["k"]),
        "claim": claim,
        "join": lambda session: order.join(session, "k"),
        "issue": lambda session: desk(db).issue("somebody", session),
    }[verb]
    source = [f"e{number:02}" for number in range(20)]
    names = sa.select(Effect.name).order_by(Effect.name)
    with db.session() as held:
        held.run(lambda session: session.add_all([Effect(name=name) for name in source]))
        held.commit()
        rows = iter(db.plainly(db.streamed(held, names)))
        read = [next(rows)]
        held.run(lambda session: session.add(Effect(name="pending")))
        if drops(db):
            with pytest.raises(SessionNotUsableError, match="Read them into a list"):
                send(held.session)
        else:
            send(held.session)
        assert [*read, *rows] == source
        held.rollback()


def test_a_session_that_has_failed_is_refused(db: Database) -> None:
    with db.session() as held:
        held.run(lambda session: session.add_all([Effect(id=1, name="a"), Effect(id=1, name="b")]))
        with pytest.raises(sa.exc.IntegrityError):
            held.run(lambda session: session.flush())
        for verb in both(db, held.session):
            with pytest.raises(SessionNotUsableError, match="roll it back"):
                verb()
    assert db.rows() == []


def test_a_read_only_transaction_is_refused(server_db: Database) -> None:
    db = server_db
    with db.session() as held:
        sql = "SET TRANSACTION READ ONLY" if db.kind == "postgresql" else "START TRANSACTION READ ONLY"
        held.run(lambda session: session.execute(sa.text(sql)))
        for verb in both(db, held.session):
            with pytest.raises(SessionNotUsableError, match="read-only"):
                verb()
    assert db.rows() == []


def test_without_the_table_the_error_is_the_command_to_run(db: Database) -> None:
    idem = db.table(table="not_there")
    with db.session() as held, pytest.raises(SchemaError, match="db upgrade --table not_there"):
        idem.claim_many(held.session, "batch", ["k"])
