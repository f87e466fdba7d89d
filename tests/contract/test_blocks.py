"""The block forms: the same promise for code that is not a function."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from idemtable import (
    FingerprintMismatchError,
    MissingKeyError,
    MissingTenantError,
    ReentrantCallError,
    ResultNotSerializableError,
    RetryTransactionError,
    Status,
    TransactionError,
)
from tests.support.database import Database, effect


def leave(db: Database, claim: Any, name: str) -> int:
    return int(db.on(claim.session, lambda session: effect(session, name)))


def test_a_block_runs_once_and_every_later_one_has_its_result(db: Database) -> None:
    with db.idem.transaction("pay", "k") as first:
        assert not first.replayed
        assert first.result is None
        assert first.record is None
        first.result = {"id": leave(db, first, "tea")}
    with db.idem.transaction("pay", "k") as second:
        assert second.replayed
        assert second.result == first.result

    assert db.effects() == ["tea"]


def test_the_record_of_a_replayed_block_says_when_it_ran_and_what_it_holds(db: Database) -> None:
    with db.idem.transaction("pay", "k", tenant="acme", payload={"amount": 1}) as claim:
        claim.result = "done"
    with db.idem.transaction("pay", "k", tenant="acme", payload={"amount": 1}) as again:
        record = again.record

    assert record == db.idem.get("pay", "k", tenant="acme")
    assert (record.tenant, record.scope, record.key) == ("acme", "pay", "k")
    assert record.status is Status.COMPLETED
    assert record.codec == "json"
    assert record.result_bytes == len(b'"done"')
    assert record.created_at <= record.completed_at < record.expires_at
    assert abs(record.expires_at - record.created_at - timedelta(days=7)) < timedelta(seconds=1)


def test_a_block_that_assigns_no_result_replays_none(db: Database) -> None:
    with db.idem.transaction("pay", "k") as claim:
        leave(db, claim, "tea")
    with db.idem.transaction("pay", "k") as again:
        assert again.replayed
        assert again.result is None

    assert db.effects() == ["tea"]


def test_what_a_replayed_block_writes_is_rolled_back(db: Database) -> None:
    with db.idem.transaction("pay", "k") as claim:
        claim.result = leave(db, claim, "first")
    with db.idem.transaction("pay", "k") as again:
        leave(db, again, "second")

    assert db.effects() == ["first"]


def test_what_a_replayed_claim_writes_is_rolled_back_but_the_callers_own_writes_stay(db: Database) -> None:
    with db.idem.transaction("pay", "k") as claim:
        claim.result = 1
    with db.session() as held:
        held.run(lambda session: effect(session, "callers"))
        with db.idem.claim(held.session, "pay", "k") as again:
            leave(db, again, "replayed")
        held.commit()

    assert db.effects() == ["callers"]


def test_assigning_a_result_on_a_replay_is_an_error_and_the_first_result_stays(db: Database) -> None:
    with db.idem.transaction("pay", "k") as claim:
        claim.result = 1
    with pytest.raises(TransactionError, match="replayed"), db.idem.transaction("pay", "k") as again:
        again.result = 2
    with db.idem.transaction("pay", "k") as last:
        assert last.result == 1


def test_a_block_that_raises_leaves_nothing_behind_and_can_be_entered_again(db: Database) -> None:
    with pytest.raises(LookupError, match="sold out"), db.idem.transaction("pay", "k") as claim:
        leave(db, claim, "tea")
        raise LookupError("sold out")
    assert (db.effects(), db.rows()) == ([], [])
    with db.idem.transaction("pay", "k") as again:
        assert not again.replayed
        leave(db, again, "tea")

    assert db.effects() == ["tea"]


def test_a_replayed_block_that_raises_passes_its_exception_on_and_keeps_the_record(db: Database) -> None:
    with db.idem.transaction("pay", "k") as claim:
        claim.result = 1
    before = db.rows()
    with pytest.raises(LookupError), db.idem.transaction("pay", "k"):
        raise LookupError

    assert db.rows() == before


def test_the_result_of_a_block_is_what_every_replay_gets_already_after_the_first(db: Database) -> None:
    with db.idem.transaction("pay", "k", returns=tuple[int, str]) as first:
        first.result = (1, "a")
    assert first.result == (1, "a")
    with db.idem.transaction("pay", "k", returns=tuple[int, str]) as second:
        assert second.result == (1, "a")


def test_a_block_whose_result_does_not_survive_storage_is_rolled_back(db: Database) -> None:
    with (
        pytest.raises(ResultNotSerializableError, match="returns="),
        db.idem.transaction("pay", "k") as claim,
    ):
        leave(db, claim, "tea")
        claim.result = (1, 2)

    assert (db.effects(), db.rows()) == ([], [])


def test_a_block_that_forgot_its_result_is_told_to_assign_one(db: Database) -> None:
    with (
        pytest.raises(ResultNotSerializableError, match=r"assign claim\.result"),
        db.idem.transaction("pay", "k", returns=int) as claim,
    ):
        leave(db, claim, "tea")

    assert (db.effects(), db.rows()) == ([], [])


def test_the_same_key_with_another_payload_is_refused_before_the_block_runs(db: Database) -> None:
    with db.idem.transaction("pay", "k", payload={"amount": 1}) as claim:
        claim.result = 1
    before = db.rows()
    entered = []
    with pytest.raises(FingerprintMismatchError), db.idem.transaction("pay", "k", payload={"amount": 2}):
        entered.append(True)
    with db.session() as held:
        with (
            pytest.raises(FingerprintMismatchError),
            db.idem.claim(held.session, "pay", "k", payload={"amount": 2}),
        ):
            entered.append(True)
        held.commit()

    assert entered == []
    assert db.rows() == before


def test_a_block_without_a_payload_is_not_checked_against_one_with(db: Database) -> None:
    with db.idem.transaction("pay", "k", payload=[1]) as claim:
        claim.result = "one"
    with db.idem.transaction("pay", "k") as again:
        assert again.result == "one"


def test_a_claim_lives_and_dies_with_the_callers_transaction(db: Database) -> None:
    with db.session() as held:
        with db.idem.claim(held.session, "pay", "k") as claim:
            assert claim.session is held.session
            claim.result = leave(db, claim, "lost")
        held.rollback()
    assert (db.effects(), db.rows()) == ([], [])

    with db.session() as held:
        with db.idem.claim(held.session, "pay", "k") as claim:
            assert not claim.replayed
            claim.result = leave(db, claim, "kept")
        assert db.effects() == [] or db.kind == "sqlite"  # nothing is committed before the caller does it
        held.commit()
    assert db.effects() == ["kept"]
    assert db.idem.get("pay", "k").status is Status.COMPLETED


def test_a_claim_commits_nothing_of_the_caller(db: Database) -> None:
    with db.session() as held, db.idem.claim(held.session, "pay", "k") as claim:
        leave(db, claim, "tea")
    # closed without a commit
    assert (db.effects(), db.rows()) == ([], [])


def test_an_exception_in_a_claim_that_the_caller_swallows_strands_no_key(db: Database) -> None:
    with db.session() as held:
        held.run(lambda session: effect(session, "before"))
        with pytest.raises(LookupError), db.idem.claim(held.session, "pay", "k") as claim:
            leave(db, claim, "inside")
            raise LookupError
        held.run(lambda session: effect(session, "after"))
        held.commit()

    assert db.effects() == ["before", "after"]
    assert db.rows() == []


def test_two_claims_with_one_key_in_one_transaction_are_one(db: Database) -> None:
    with db.session() as held:
        with db.idem.claim(held.session, "pay", "k") as claim:
            claim.result = leave(db, claim, "tea")
        with db.idem.claim(held.session, "pay", "k") as again:
            assert again.replayed
            assert again.result == claim.result
        held.commit()

    assert db.effects() == ["tea"]


def test_the_same_key_inside_its_own_block_is_refused_and_not_waited_for(db: Database) -> None:
    def nested() -> None:
        with db.idem.transaction("pay", "k"), db.idem.transaction("pay", "k"):
            pass

    with pytest.raises(ReentrantCallError, match="key of its own"):
        db.together(nested)
    assert db.rows() == []


def test_a_decorated_function_called_inside_a_block_joins_it(db: Database) -> None:
    @db.idem.transactional("mail", key="key")
    def mail(session: Any, key: str) -> int:
        return effect(session, key)

    def work(fail: bool) -> None:
        with db.idem.transaction("pay", "k") as claim:
            claim.result = mail("m")
            if fail:
                raise LookupError

    with pytest.raises(LookupError):
        db.together(lambda: work(True))
    assert (db.effects(), db.rows()) == ([], [])
    db.together(lambda: work(False))
    assert db.effects() == ["m"]
    assert len(db.rows()) == 2


def test_a_block_has_no_claim_when_its_key_is_none_or_its_tenant_is_empty(db: Database) -> None:
    with pytest.raises(MissingKeyError), db.idem.transaction("pay", None):
        pass
    with pytest.raises(MissingTenantError), db.idem.transaction("pay", "k", tenant=""):
        pass
    assert db.rows() == []


def test_a_block_entered_again_begins_anew(db: Database) -> None:
    block = db.idem.transaction("pay", "k")
    with pytest.raises(ValueError, match="no"), block as claim:
        claim.result = "of the one that was undone"
        raise ValueError("no")
    with block as claim:
        assert (claim.replayed, claim.result) == (False, None)
        claim.result = leave(db, claim, "tea")
    with block as claim:
        assert claim.replayed
    db.idem.forget("pay", "k")
    with block as claim:
        assert (claim.replayed, claim.result, claim.record) == (False, None, None)
        claim.result = leave(db, claim, "milk")

    assert db.effects() == ["tea", "milk"]


def test_a_block_that_must_begin_again_says_so(db: Database) -> None:
    """The library cannot run the body a second time; what the decorator would restart leaves as a request to the caller."""
    from sqlalchemy.exc import OperationalError

    orig = {"postgresql": Serialization, "mariadb": Deadlock, "mysql": Deadlock, "sqlite": Snapshot}[db.kind]
    with pytest.raises(RetryTransactionError) as caught, db.idem.transaction("pay", "k") as claim:
        leave(db, claim, "tea")
        raise OperationalError("UPDATE …", {}, orig(1213, "Deadlock found"))

    assert isinstance(caught.value.__cause__, OperationalError)
    assert (db.effects(), db.rows()) == ([], [])


class Serialization(Exception):
    sqlstate = "40001"


class Deadlock(Exception):
    pass


class Snapshot(Exception):
    sqlite_errorcode = 517
