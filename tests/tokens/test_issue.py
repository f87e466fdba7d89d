"""Issuing, revoking, listing: what stands in the table, and in whose transaction it gets there."""

from __future__ import annotations

import base64
import re
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from idemtable import (
    InProgressError,
    InvalidKeyError,
    MissingKeyError,
    SchemaError,
    SessionNotUsableError,
    Status,
    UnknownTokenError,
)
from tests.support import PATIENCE
from tests.support.crowd import Beside, until
from tests.support.database import INNODB, Database, effect
from tests.support.timeouts import TIMEOUTS
from tests.support.tokens import desk, sent


@pytest.fixture
def tokens(db: Database) -> Any:
    return desk(db)


def test_a_token_is_43_characters_and_never_twice_the_same(db: Database, tokens: Any) -> None:
    issued = tokens.issue_many(500)
    assert len(set(issued)) == 500
    assert all(re.fullmatch("[A-Za-z0-9_-]{43}", token) for token in issued)
    # 256 random bits: every character but the last (whose two low bits are padding) may be any of 64.
    for place in range(42):
        assert len({token[place] for token in issued}) > 50


def test_the_table_holds_no_token(db: Database, tokens: Any) -> None:
    first, second = tokens.issue("user:7"), tokens.issue()

    @tokens.transactional(token="token", subject="user")
    def checkout(session: Any, token: str, user: str) -> str:
        return "done"

    checkout(first, "user:7")
    rows = db.rows()
    assert len(rows) == 2
    for row in rows:
        dump = b"".join(
            value.bytes if isinstance(value, UUID) else value if isinstance(value, bytes) else str(value).encode()
            for value in row
        )
        for token in (first, second):
            assert token.encode() not in dump
            assert base64.urlsafe_b64decode(token + "=") not in dump
        assert row.key is None
        assert (row.scope, row.tenant) in {("checkout", "user:7"), ("checkout", None)}


def test_a_token_lives_for_its_ttl_by_the_databases_clock(db: Database) -> None:
    tokens = desk(db, ttl=timedelta(minutes=7))
    tokens.issue()
    (row,) = db.rows()
    assert row.expires_at - row.created_at == pytest.approx(timedelta(minutes=7), abs=timedelta(milliseconds=20))


def test_a_token_issued_in_the_callers_transaction_shares_its_fate(db: Database, tokens: Any) -> None:
    with db.session() as held:
        held.run(lambda session: effect(session, "order"))
        lost = tokens.issue("user:7", held.session)
        held.rollback()
        held.run(lambda session: effect(session, "order"))
        kept = tokens.issue("user:7", session=held.session)
        assert db.rows() == []  # the caller commits, nobody else
        held.commit()

    assert db.effects() == ["order"]
    assert len(db.rows()) == 1

    @tokens.transactional(token="token", subject="user")
    def checkout(session: Any, token: str, user: str) -> str:
        return "done"

    with pytest.raises(UnknownTokenError):
        checkout(lost, "user:7")
    assert checkout(kept, "user:7") == "done"


def inserts(sent: list[str]) -> list[str]:
    return [text for text in sent if "INSERT INTO" in text]


def test_issuing_many_is_one_statement(db: Database, tokens: Any) -> None:
    tokens.issue()  # a driver may ask its server things on its first connection
    with sent(db) as seen:
        issued = tokens.issue_many(200, "user:7")
    rest = [text for text in seen if text not in ("begin", "commit") and not text.startswith(("BEGIN", "PRAGMA"))]
    assert len(inserts(rest)) == 1
    assert all(
        "innodb_lock_wait_timeout" in text for text in rest if text not in inserts(rest)
    )  # MySQL's wait, to be bounded
    assert seen.count("commit") == 1
    assert len(issued) == 200
    assert len(db.rows()) == 201


def test_more_tokens_than_a_statement_can_carry_are_one_transaction(db: Database, tokens: Any) -> None:
    with sent(db) as seen:
        issued = tokens.issue_many(7_000)
    assert len(inserts(seen)) == 2
    assert seen.count("commit") == 1
    assert len(set(issued)) == 7_000
    assert db.execute("SELECT count(*) FROM idemtable WHERE status = 3")[0][0] == 7_000


def test_issuing_many_in_the_callers_transaction(db: Database, tokens: Any) -> None:
    with db.session() as held:
        assert len(tokens.issue_many(3, session=held.session)) == 3
        held.rollback()
        tokens.issue_many(2, session=held.session)
        held.commit()
    assert len(db.rows()) == 2


@pytest.mark.parametrize("count", [0, -1, 100_001, 1.0, True, "1", None])
def test_a_number_of_tokens_that_is_none_is_refused(db: Database, tokens: Any, count: Any) -> None:
    with pytest.raises(ValueError, match="1 to 100000"):
        tokens.issue_many(count)
    assert db.rows() == []


@pytest.mark.parametrize("subject", ["", " ", "a\nb", "x" * 256, 7, b"user:7", "\ud800"])
def test_a_subject_that_is_none_is_refused(sync_db: Database, subject: Any) -> None:
    tokens = desk(sync_db)
    with pytest.raises(InvalidKeyError, match="subject"):
        tokens.issue(subject)
    assert sync_db.rows() == []


def test_a_revoked_token_is_unknown(db: Database, tokens: Any) -> None:
    token = tokens.issue()

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> str:
        effect(session, "paid")
        return "done"

    assert tokens.revoke(token) is True
    assert tokens.revoke(token) is False
    with pytest.raises(UnknownTokenError):
        checkout(token)
    assert db.effects() == []


def test_revoking_a_spent_token_takes_its_replay_and_never_gives_it_back(db: Database, tokens: Any) -> None:
    token = tokens.issue()

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> str:
        effect(session, "paid")
        return "done"

    checkout(token)
    assert tokens.revoke(token) is True
    with pytest.raises(UnknownTokenError):
        checkout(token)
    assert db.effects() == ["paid"]


def test_revoking_in_the_callers_transaction(db: Database, tokens: Any) -> None:
    token = tokens.issue()
    with db.session() as held:
        assert tokens.revoke(token, session=held.session) is True
        held.rollback()
    assert tokens.revoke(token) is True


@pytest.mark.parametrize("inside", [False, True])
def test_revoking_waits_no_longer_than_it_may_for_a_redemption(server_db: Database, inside: bool) -> None:
    db = server_db
    tokens = desk(db, table=db.table(wait=timedelta(seconds=1)))
    token = tokens.issue()
    with db.session() as mine, db.session() as other:
        mine.run(lambda session: effect(session, "mine"))
        with tokens.redeem(other.session, token):
            revoking = Beside(lambda: tokens.revoke(token, mine.session if inside else None))
            until(lambda: revoking.over, "it waits as long as the redemption runs", patience=PATIENCE / 4)
            with pytest.raises(InProgressError, match="another call or transaction holds a lock"):
                revoking.result()
        mine.commit()  # what was done before it can still be kept
    assert db.effects() == ["mine"]
    assert tokens.revoke(token) is True


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("inside", [False, True])
def test_issuing_waits_no_longer_than_it_may_for_whoever_keeps_others_from_inserting(
    server_db: Database, inside: bool, count: int
) -> None:
    db = server_db
    tokens = desk(db, table=db.table(wait=timedelta(seconds=1)))
    with db.session() as mine, db.session() as other:
        mine.run(lambda session: effect(session, "mine"))
        # At REPEATABLE READ InnoDB locks what is between the rows, too.
        other.run(lambda session: session.execute(sa.text("SELECT * FROM idemtable FOR UPDATE")).all())
        issuing = Beside(lambda: tokens.issue_many(count, session=mine.session if inside else None))
        until(lambda: issuing.over, "it waits as long as the other one likes", patience=PATIENCE / 4)
        refused = pytest.raises(InProgressError, match="another call or transaction holds a lock")
        with refused if db.kind in INNODB else nullcontext():
            issuing.result()
        other.rollback()
        mine.commit()  # what was done before it can still be kept
    assert db.effects() == ["mine"]
    assert len(tokens.issue_many(count)) == count


def test_issuing_and_revoking_leave_the_callers_lock_timeout_as_it_was(server_db: Database) -> None:
    put, show, value = TIMEOUTS[server_db.kind]
    with server_db.other_engine(poolclass=sa.NullPool) as engine, server_db.session(engine) as mine:
        mine.run(lambda session: session.execute(sa.text(put)))
        tokens = desk(server_db)
        assert len(tokens.issue_many(2, session=mine.session)) == 2
        assert mine.run(lambda session: session.execute(sa.text(show)).scalar()) == value
        for token, known in ((tokens.issue(), True), ("x" * 43, False)):
            assert tokens.revoke(token, mine.session) is known
            assert mine.run(lambda session: session.execute(sa.text(show)).scalar()) == value


@pytest.mark.parametrize("token", ["", "no", "x" * 44, 7, b"x" * 43])
def test_what_is_no_token_cannot_be_revoked(sync_db: Database, token: Any) -> None:
    tokens = desk(sync_db)
    tokens.issue()
    assert tokens.revoke(token) is False
    assert len(sync_db.rows()) == 1
    with pytest.raises(MissingKeyError):
        tokens.revoke(None)


def test_the_purge_deletes_expired_tokens_issued_and_spent(db: Database, tokens: Any) -> None:
    spent, _, _ = tokens.issue_many(3)

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> str:
        return "done"

    checkout(spent)
    db.expire()
    kept = tokens.issue()
    assert db.idem.purge().deleted == 3
    assert tokens.revoke(kept) is True
    assert db.rows() == []


def test_the_statistics_count_tokens(db: Database, tokens: Any) -> None:
    tokens.issue_many(3)
    stats = db.idem.stats()
    assert (stats.by_scope, stats.by_status) == ({"checkout": 3}, {Status.ISSUED: 3})


def test_the_list_shows_tokens_of_one_scope_without_the_tokens(sync_db: Database) -> None:
    tokens, other = desk(sync_db), desk(sync_db, "other")
    token = tokens.issue("user:7")
    other.issue()

    (record,) = tokens.records(limit=10)
    assert (record.status, record.tenant, record.key, record.scope) == (Status.ISSUED, "user:7", None, "checkout")
    assert token not in repr(record)
    tokens.revoke(token)
    assert tokens.records(limit=10) == []
    assert len(other.records()) == 1


def test_the_list_leaves_out_keys_of_the_same_scope(sync_db: Database) -> None:
    @sync_db.idem.transactional("checkout", key="key")
    def plain(session: Any, key: str) -> int:
        return 1

    plain("k")
    tokens = desk(sync_db)
    tokens.issue()
    assert len(tokens.records()) == 1


def test_the_list_shows_what_a_remembered_failure_has_spent_and_no_keys(sync_db: Database) -> None:
    idem = sync_db.table(store_keys=False)
    tokens = desk(sync_db, table=idem)

    @tokens.transactional(token="token", remember=(LookupError,))
    def checkout(session: Any, token: str) -> int:
        raise LookupError

    @idem.transactional("checkout", key="key", remember=(LookupError,), share_scope=True)
    def plain(session: Any, key: str) -> int:
        raise LookupError

    for call, value in ((checkout, tokens.issue()), (plain, "k")):
        with pytest.raises(LookupError):
            call(value)
    assert [(record.status, record.key) for record in tokens.records()] == [(Status.SPENT, None)]


def test_without_the_table_the_error_is_the_cure(sync_db: Database) -> None:
    tokens = desk(sync_db, table=sync_db.table(table="missing"))

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> str:
        return "done"

    for call in (tokens.issue, lambda: tokens.revoke("x" * 43), lambda: checkout("x" * 43)):
        with pytest.raises(SchemaError, match="idemtable db upgrade"):
            call()
    with sync_db.session() as held, pytest.raises(SchemaError, match="idemtable db upgrade"):
        tokens.issue(session=held.session)


def test_a_session_in_autocommit_is_refused(db: Database, tokens: Any) -> None:
    with (
        db.other_engine(isolation_level="AUTOCOMMIT") as engine,
        db.session(engine) as held,
        pytest.raises(SessionNotUsableError),
    ):
        tokens.issue(session=held.session)
    assert db.rows() == []


def test_a_session_of_the_other_colour_is_refused(db: Database, tokens: Any) -> None:
    with pytest.raises(TypeError, match="Session"):
        tokens.issue(session=object())
    with pytest.raises(TypeError, match="Session"):
        tokens.redeem(None, "x" * 43)


@pytest.mark.parametrize(
    ("scope", "options", "error"),
    [
        ("", {}, ValueError),
        ("a\x00b", {}, ValueError),
        (7, {}, TypeError),
        ("a", {"ttl": timedelta()}, ValueError),
        ("a", {"ttl": 30}, TypeError),
        ("a", {"store": object()}, TypeError),
    ],
)
def test_settings_are_checked_when_the_desk_is_opened(scope: Any, options: Any, error: type[Exception]) -> None:
    from sqlalchemy import create_engine

    from idemtable import IdemTable

    with pytest.raises(error):
        IdemTable(create_engine("sqlite://")).tokens(scope, **{"ttl": timedelta(1), **options})
