"""Redeeming: consume, run, store, commit; refuse alike; give back what did not commit."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from idemtable import (
    ExpiredTokenError,
    InvalidKeyError,
    LostClaimError,
    MissingKeyError,
    ReentrantCallError,
    RetryTransactionError,
    SpentTokenError,
    Status,
    TokenError,
    UnknownTokenError,
)
from idemtable.testing import frozen_clock
from tests.support.database import Database, effect
from tests.support.tokens import desk, sent

NOBODYS = "x" * 43


class CardDeclinedError(Exception):
    pass


def checkout_of(tokens: Any, **options: Any) -> Any:
    @tokens.transactional(token="token", subject="user", **options)
    def checkout(session: Any, token: str, user: str, amount: int = 1, fail: bool = False) -> dict[str, int]:
        made = effect(session, "paid", amount)
        if fail:
            raise LookupError("no stock")
        return {"order": made, "amount": amount}

    return checkout


@pytest.fixture
def tokens(db: Database) -> Any:
    return desk(db)


@pytest.fixture
def checkout(tokens: Any) -> Any:
    return checkout_of(tokens)


def status_of(db: Database) -> list[int]:
    return sorted(row.status for row in db.rows())


def test_the_first_use_runs_and_the_second_replays(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    first = checkout.outcome(token, "user:7", 5)
    second = checkout.outcome(token, "user:7", 5)

    assert (first.replayed, second.replayed) == (False, True)
    assert first.value == second.value
    assert first.created_at is None
    (row,) = db.rows()
    completed = (
        row.completed_at if row.completed_at.tzinfo else row.completed_at.replace(tzinfo=second.created_at.tzinfo)
    )
    assert second.created_at == completed  # when it ran, not when the token was issued
    assert db.effects() == ["paid"]
    assert status_of(db) == [Status.SPENT.code]


def test_another_payload_is_refused_and_changes_nothing(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    first = checkout(token, "user:7", 5)
    before = db.rows()
    with pytest.raises(SpentTokenError):
        checkout(token, "user:7", 6)
    assert db.rows() == before
    assert db.effects() == ["paid"]
    assert checkout(token, "user:7", 5) == first


def test_without_a_payload_every_second_use_replays(db: Database, tokens: Any) -> None:
    checkout = checkout_of(tokens, payload=None)
    token = tokens.issue("user:7")
    assert checkout(token, "user:7", 5) == checkout(token, "user:7", 6)


@pytest.mark.parametrize(("made", "decorated"), [(False, None), (True, False), (False, False)])
def test_without_replay_every_second_use_is_refused(db: Database, made: bool, decorated: bool | None) -> None:
    tokens = desk(db, replay=made)
    checkout = checkout_of(tokens, replay=decorated)
    token = tokens.issue("user:7")
    checkout(token, "user:7")
    with pytest.raises(SpentTokenError):
        checkout(token, "user:7")
    assert db.effects() == ["paid"]


def test_one_function_may_replay_where_the_others_do_not(db: Database) -> None:
    tokens = desk(db, replay=False)
    checkout = checkout_of(tokens, replay=True)
    token = tokens.issue("user:7")
    assert checkout(token, "user:7") == checkout(token, "user:7")


def test_a_function_that_raises_leaves_the_token_usable(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    for _ in range(2):
        with pytest.raises(LookupError):
            checkout(token, "user:7", fail=True)
    assert db.effects() == []
    assert status_of(db) == [Status.ISSUED.code]
    checkout(token, "user:7")
    assert db.effects() == ["paid"]


def test_a_remembered_exception_spends_the_token(db: Database, tokens: Any) -> None:
    @tokens.transactional(token="token", remember=(CardDeclinedError,))
    def pay(session: Any, token: str, amount: int = 1) -> int:
        effect(session, "paid")
        raise CardDeclinedError("5 EUR", amount)

    token = tokens.issue()
    for _ in range(2):
        with pytest.raises(CardDeclinedError) as caught:
            pay(token)
        assert caught.value.args == ("5 EUR", 1)
    with pytest.raises(SpentTokenError):
        pay(token, 2)
    assert db.effects() == []


def test_a_remembered_exception_gives_a_token_no_more_time_than_a_result(db: Database) -> None:
    tokens = desk(db, ttl=timedelta(minutes=30))

    @tokens.transactional(token="token", remember=(CardDeclinedError,))
    def pay(session: Any, token: str) -> int:
        raise CardDeclinedError("5 EUR", 1)

    with frozen_clock() as clock:
        token = tokens.issue()
        clock.advance(timedelta(minutes=20))
        with pytest.raises(CardDeclinedError):
            pay(token)
        [record] = tokens.records()
        assert record.expires_at - record.created_at == timedelta(minutes=30)
        clock.advance(timedelta(minutes=15))
        with pytest.raises(ExpiredTokenError):
            pay(token)


@pytest.mark.parametrize("replay", [True, False])
def test_a_commit_whose_answer_was_lost_is_the_first_use_all_the_same(db: Database, tokens: Any, replay: bool) -> None:
    runs: list[int] = []

    @tokens.transactional(token="token", replay=replay)
    def checkout(session: Any, token: str) -> int:
        runs.append(1)

        @sa.event.listens_for(session, "after_commit")
        def lose(session: Any) -> None:
            raise sa.exc.OperationalError("COMMIT", {}, Exception("gone"), connection_invalidated=True)

        return effect(session, "paid")

    outcome = checkout.outcome(tokens.issue())
    assert (outcome.replayed, outcome.attempts, outcome.created_at) == (False, 2, None)
    assert (runs, db.effects()) == ([1], ["paid"])


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", ["user:8", "user:7 ", "USER:7", "user:"])
def test_another_subjects_token_is_unknown(db: Database, tokens: Any, checkout: Any, subject: str) -> None:
    token = tokens.issue("user:7")
    with pytest.raises(UnknownTokenError):
        checkout(token, subject)
    assert db.effects() == []
    checkout(token, "user:7")
    with pytest.raises(UnknownTokenError):  # nor is it told that the token is spent
        checkout(token, subject)
    db.expire()
    with pytest.raises(UnknownTokenError):
        checkout(token, subject)


def test_a_subject_and_no_subject_are_not_the_same(db: Database, tokens: Any) -> None:
    checkout = checkout_of(tokens, share_scope=True)

    @tokens.transactional(token="token", share_scope=True)
    def anybody(session: Any, token: str) -> int:
        return effect(session, "anybody")

    mine, nobodys = tokens.issue("user:7"), tokens.issue()
    with pytest.raises(UnknownTokenError):
        anybody(mine)
    with pytest.raises(UnknownTokenError):
        checkout(nobodys, "user:7")
    assert db.effects() == []
    anybody(nobodys)
    checkout(mine, "user:7")


def test_another_scopes_token_is_unknown(db: Database, tokens: Any) -> None:
    token = tokens.issue("user:7")
    with pytest.raises(UnknownTokenError):
        checkout_of(desk(db, "refund"))(token, "user:7")
    assert db.effects() == []


def test_a_token_is_no_key_and_a_key_is_no_token(db: Database, tokens: Any) -> None:
    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> int:
        return effect(session, "paid")

    @db.idem.transactional("checkout", key="key")
    def plain(session: Any, key: str) -> int:
        return effect(session, "plain")

    token = tokens.issue()
    plain(token)
    checkout(token)
    assert db.effects() == ["plain", "paid"]
    assert len(db.rows()) == 2
    plain(NOBODYS)
    with pytest.raises(UnknownTokenError):
        checkout(NOBODYS)


@pytest.mark.parametrize(
    "token", [NOBODYS, "", "no", "x" * 44, "x" * 100_000, "\x00" * 43, "\ud800" * 43, 7, b"x" * 43, []]
)
def test_what_cannot_be_a_token_is_as_unknown_as_a_wrong_one(db: Database, checkout: Any, token: Any) -> None:
    with pytest.raises(UnknownTokenError):
        checkout(NOBODYS, "user:7")  # a connection's first call on SQLite also asks for its time-out
    with sent(db) as wrong, pytest.raises(UnknownTokenError):
        checkout(NOBODYS, "user:7")
    with sent(db) as malformed, pytest.raises(UnknownTokenError):
        checkout(token, "user:7")
    # On MySQL a connection's second call asks for its, and the pool may have several.
    assert [text for text in malformed if "SELECT @@" not in text] == [
        text for text in wrong if "SELECT @@" not in text
    ]


def test_no_token_at_all_is_a_missing_key(db: Database, checkout: Any) -> None:
    with sent(db) as seen, pytest.raises(MissingKeyError):
        checkout(None, "user:7")
    assert seen == []


@pytest.mark.parametrize("subject", [None, "", " "])
def test_a_call_that_has_lost_its_subject_is_refused(db: Database, tokens: Any, checkout: Any, subject: Any) -> None:
    token = tokens.issue()
    with sent(db) as seen, pytest.raises(InvalidKeyError):
        checkout(token, subject)
    assert seen == []


def test_an_expired_token_is_refused_spent_or_not(db: Database, tokens: Any, checkout: Any) -> None:
    issued, spent = tokens.issue_many(2, "user:7")
    checkout(spent, "user:7")
    db.expire()
    for token in (issued, spent):
        with pytest.raises(ExpiredTokenError):
            checkout(token, "user:7")
    assert db.effects() == ["paid"]


def test_the_shortest_life_is_over_by_the_databases_own_clock(db: Database) -> None:
    tokens = desk(db, ttl=timedelta(microseconds=1))
    token = tokens.issue("user:7")
    db.execute("SELECT 1 FROM effect")  # a round trip later
    with pytest.raises(ExpiredTokenError):
        checkout_of(tokens)(token, "user:7")


def test_every_refusal_costs_and_says_the_same(db: Database, tokens: Any, checkout: Any) -> None:
    spent, expired, late, theirs = tokens.issue_many(4, "user:7")
    checkout(spent, "user:7", 1)
    checkout(late, "user:7", 1)
    seen: dict[str, list[str]] = {}
    errors: list[TokenError] = []

    def refused(what: str, token: str, user: str, error: type[TokenError], amount: int = 2) -> None:
        with sent(db) as seen[what], pytest.raises(error) as caught:
            checkout(token, user, amount)
        errors.append(caught.value)

    refused("spent", spent, "user:7", SpentTokenError)
    refused("unknown", NOBODYS, "user:7", UnknownTokenError)
    refused("another's", theirs, "user:8", UnknownTokenError)
    refused("another's spent", spent, "user:8", UnknownTokenError, 1)
    db.expire()
    refused("expired", expired, "user:7", ExpiredTokenError)
    refused("expired and spent", late, "user:7", ExpiredTokenError)

    assert [text for what, text in seen.items() if text != seen["unknown"]] == []
    assert len([text for text in seen["unknown"] if "UPDATE" in text]) == 1
    assert len([text for text in seen["unknown"] if text.startswith("SELECT tenant")]) == 1
    assert {str(error) for error in errors} == {str(errors[0])}
    assert {error.http_status for error in errors} == {403}
    for error in errors:
        assert type(pickle.loads(pickle.dumps(error))) is type(error)
        assert not any(token in str(error) for token in (spent, expired, late, theirs))


def test_consuming_is_the_first_statement_and_no_look_before_it(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    with sent(db) as seen:
        checkout(token, "user:7")
    statements = [text for text in seen if "begin" not in text.lower() and "PRAGMA" not in text]
    if db.kind == "mysql":  # it bounds the wait in statements of their own
        statements = [text for text in statements if "innodb_lock_wait_timeout" not in text]
    assert "UPDATE idemtable" in statements[0]
    assert "status = 3" in statements[0]
    assert not [text for text in statements if text.startswith("SELECT") and "FROM idemtable" in text]


# --- breaking out, joining, blocks --------------------------------------------------------------------------------------


def test_a_function_that_commits_spends_the_token_for_good(db: Database, tokens: Any) -> None:
    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> int:
        made = effect(session, "paid")
        session.commit()
        return made

    token = tokens.issue()
    for _ in range(2):
        with pytest.raises(LostClaimError):
            checkout(token)
    db.expire()
    with pytest.raises(LostClaimError, match="revoke"):
        checkout(token)
    assert db.effects() == ["paid"]
    assert tokens.revoke(token) is True


def test_a_joined_redemption_shares_the_callers_fate(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    with db.session() as held:
        checkout.join(held.session, token, "user:7")
        held.rollback()
        assert (db.effects(), status_of(db)) == ([], [Status.ISSUED.code])
        first = checkout.join(held.session, token, "user:7")
        held.commit()
    assert db.effects() == ["paid"]
    with db.session() as held:
        assert checkout.join(held.session, token, "user:7") == first
        with pytest.raises(SpentTokenError):
            checkout.join(held.session, token, "user:7", 2)
        held.run(lambda session: effect(session, "after"))
        held.commit()
    assert db.effects() == ["paid", "after"]


def test_a_plain_call_inside_another_call_joins_it(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")

    @db.idem.transactional("outer", key="key")
    def outer(session: Any, key: str, fail: bool) -> int:
        effect(session, "outer")
        checkout(token, "user:7")
        if fail:
            raise LookupError
        return 1

    with pytest.raises(LookupError):
        db.together(lambda: outer("a", True))
    assert (db.effects(), status_of(db)) == ([], [Status.ISSUED.code])
    db.together(lambda: outer("b", False))
    assert db.effects() == ["outer", "paid"]


def test_the_same_token_inside_its_own_call_is_refused(db: Database, tokens: Any) -> None:
    token = tokens.issue()

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> int:
        return checkout(token)

    with pytest.raises(ReentrantCallError):
        db.together(lambda: checkout(token))
    assert status_of(db) == [Status.ISSUED.code]


def test_a_block_in_the_callers_transaction(db: Database, tokens: Any) -> None:
    token = tokens.issue("user:7")

    def redeem(held: Any, payload: Any = "cart", name: str = "paid") -> Any:
        with tokens.redeem(held.session, token, subject="user:7", payload=payload) as claim:
            if not claim.replayed:
                claim.result = held.run(lambda session: effect(session, name))
        return claim

    with db.session() as held:
        redeem(held)
        held.rollback()
        first = redeem(held)
        assert first.replayed is False
        held.commit()
        second = redeem(held)
        assert (second.replayed, second.result, second.record.status) == (True, first.result, Status.SPENT)
        held.rollback()
        with pytest.raises(SpentTokenError):
            redeem(held, "another cart")
        with pytest.raises(UnknownTokenError), tokens.redeem(held.session, token, subject="user:8"):
            pass
        with pytest.raises(InvalidKeyError):
            tokens.redeem(held.session, token, subject="")
    assert db.effects() == ["paid"]


def test_a_block_that_raises_gives_the_token_back_and_keeps_the_callers_writes(db: Database, tokens: Any) -> None:
    token = tokens.issue()
    with db.session() as held:
        held.run(lambda session: effect(session, "callers"))
        with pytest.raises(LookupError), tokens.redeem(held.session, token):
            held.run(lambda session: effect(session, "paid"))
            raise LookupError
        held.commit()
    assert (db.effects(), status_of(db)) == (["callers"], [Status.ISSUED.code])


def test_a_block_of_tokens_without_replay_refuses(db: Database) -> None:
    tokens = desk(db, replay=False)
    token = tokens.issue()
    with db.session() as held:
        with tokens.redeem(held.session, token):
            pass
        held.commit()
        with pytest.raises(SpentTokenError), tokens.redeem(held.session, token):
            pass


def test_a_wrong_name_fails_at_decoration(sync_db: Database) -> None:
    tokens = desk(sync_db)
    with pytest.raises(ValueError, match="token='tokn'"):

        @tokens.transactional(token="tokn")
        def one(session: Any, token: str) -> int: ...

    with pytest.raises(ValueError, match="subject='usr'"):

        @tokens.transactional(token="token", subject="usr")
        def two(session: Any, token: str, user: str) -> int: ...


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_every_isolation_level_consumes_replays_and_refuses(server_db: Database, level: str) -> None:
    tokens = desk(server_db)
    checkout = checkout_of(tokens, isolation_level=level)
    token = tokens.issue("user:7")
    first = checkout(token, "user:7")
    assert checkout(token, "user:7") == first
    with pytest.raises(SpentTokenError):
        checkout(token, "user:7", 2)
    assert server_db.effects() == ["paid"]


def test_a_token_newer_than_the_snapshot_is_had_in_the_next_transaction(server_db: Database) -> None:
    # MySQL and MariaDB cannot look past the snapshot without locking others out.
    says = RetryTransactionError if server_db.kind == "postgresql" else UnknownTokenError
    with server_db.other_engine(isolation_level="REPEATABLE READ") as engine:
        tokens = desk(server_db, table=server_db.table(engine))
        with server_db.session(engine) as held:
            held.run(lambda session: session.execute(sa.text("SELECT count(*) FROM idemtable")).all())
            token = tokens.issue()
            with pytest.raises(says), tokens.redeem(held.session, token):
                pass
            held.rollback()
            held.run(lambda session: effect(session, "callers"))
            with pytest.raises(UnknownTokenError), tokens.redeem(held.session, NOBODYS):  # whenever it began
                pass
            with tokens.redeem(held.session, token):
                pass
            held.commit()
    assert (server_db.effects(), status_of(server_db)) == (["callers"], [Status.SPENT.code])
