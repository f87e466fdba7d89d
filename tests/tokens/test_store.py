"""Tokens in Redis: what is atomic, what a second use gets, and what is lost against the table."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import redis
import redis.asyncio as aredis
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from idemtable import (
    ExpiredTokenError,
    IdemTable,
    LostClaimError,
    MissingKeyError,
    RetryTransactionError,
    SpentTokenError,
    TransactionError,
    UnknownTokenError,
)
from idemtable.tokens import RedisTokenStore
from idemtable.tokens.redemption import holder, identity
from tests.servers import RedisServer
from tests.servers import redis as start_redis
from tests.support import PATIENCE, dying_process
from tests.support.backends import db_of, redis_server
from tests.support.database import INNODB, Database, Unique, effect
from tests.support.forked import Forked
from tests.support.tokens import Gate, desk, sent

NOBODYS = "x" * 43


@pytest.fixture
def plain() -> Iterator[redis.Redis]:
    """An empty Redis, for the test itself to look into."""
    with redis.Redis.from_url(redis_server().url(), decode_responses=True) as client:
        client.flushall()
        yield client


@pytest.fixture
def store(db: Database, plain: redis.Redis) -> Iterator[RedisTokenStore]:
    url = redis_server().url()
    if db.loop is None:
        with redis.Redis.from_url(url) as client:
            yield RedisTokenStore(client)
    else:
        aclient = aredis.Redis.from_url(url)
        yield RedisTokenStore(aclient)
        db.loop.run(aclient.aclose())


@pytest.fixture
def tokens(db: Database, store: RedisTokenStore) -> Any:
    return desk(db, store=store)


@pytest.fixture
def checkout(tokens: Any) -> Any:
    @tokens.transactional(token="token", subject="user")
    def checkout(session: Any, token: str, user: str, amount: int = 1, fail: bool = False) -> int:
        made = effect(session, "paid", amount)
        if fail:
            raise LookupError("no stock")
        return made

    return checkout


def test_a_token_is_good_for_one_use(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    outcome = checkout.outcome(token, "user:7")
    assert (outcome.replayed, outcome.value > 0) == (False, True)
    for amount in (1, 2):
        with pytest.raises(SpentTokenError):
            checkout(token, "user:7", amount)
    assert db.effects() == ["paid"]
    assert db.rows() == []


def test_on_a_variant_of_an_engine_a_token_is_good_for_one_use_too(db: Database, store: RedisTokenStore) -> None:
    with db.other_engine() as engine:
        tokens = desk(db, table=db.table(engine.execution_options(logging_token="shop")), store=store)

        @tokens.transactional(token="token")
        def checkout(session: Any, token: str) -> int:
            return effect(session, "paid")

        token = tokens.issue()
        checkout(token)
        with pytest.raises(SpentTokenError):
            checkout(token)
    assert db.effects() == ["paid"]


def test_another_subjects_or_scopes_token_is_unknown(db: Database, tokens: Any, checkout: Any, store: Any) -> None:
    token, nobodys = tokens.issue("user:7"), tokens.issue()
    for mine, user in (
        (token, "user:8"),
        (token, "user:7 "),
        (nobodys, "user:7"),
        (NOBODYS, "user:7"),
        ("no", "user:7"),
    ):
        with pytest.raises(UnknownTokenError):
            checkout(mine, user)
    other = desk(db, "refund", store=store)

    @other.transactional(token="token", subject="user")
    def refund(session: Any, token: str, user: str) -> int:
        return effect(session, "refund")

    with pytest.raises(UnknownTokenError):
        refund(token, "user:7")
    with pytest.raises(MissingKeyError):
        checkout(None, "user:7")
    assert db.effects() == []
    checkout(token, "user:7")


def test_a_refusal_costs_the_database_nothing(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    checkout(token, "user:7")
    with sent(db) as seen:
        for wrong in (token, NOBODYS):
            with pytest.raises((SpentTokenError, UnknownTokenError)):
                checkout(wrong, "user:7")
    assert seen == []


def test_redis_holds_no_token_and_forgets_by_itself(tokens: Any, checkout: Any, plain: redis.Redis) -> None:
    token = tokens.issue("user:7")
    checkout(token, "user:7")
    (key,) = plain.scan_iter()
    value = plain.get(key)
    assert token not in f"{key} {value}"
    assert "user:7" not in f"{key} {value}"
    assert 0 < plain.pttl(key) <= 2 * 30 * 60_000


def test_an_expired_token_is_told_for_a_while_and_then_unknown(
    db: Database, tokens: Any, checkout: Any, plain: redis.Redis
) -> None:
    token, spent = tokens.issue_many(2, "user:7")
    checkout(spent, "user:7")
    for key in plain.scan_iter():
        plain.pexpire(key, 30 * 60_000)  # as if its ttl were over: what is left is the time it is remembered after
    for old in (token, spent):
        with pytest.raises(ExpiredTokenError):
            checkout(old, "user:7")
    plain.flushall()
    with pytest.raises(UnknownTokenError):
        checkout(token, "user:7")
    assert db.effects() == ["paid"]


def test_a_function_that_raises_gives_the_token_back(
    db: Database, tokens: Any, checkout: Any, plain: redis.Redis
) -> None:
    token = tokens.issue("user:7")
    before = {key: plain.get(key) for key in plain.scan_iter()}
    for _ in range(2):
        with pytest.raises(LookupError):
            checkout(token, "user:7", fail=True)
    assert {key: plain.get(key) for key in plain.scan_iter()} == before
    assert plain.pttl(next(iter(before))) > 0
    checkout(token, "user:7")
    assert db.effects() == ["paid"]


def test_a_function_that_does_nothing_is_a_use_too(db: Database, tokens: Any) -> None:
    @tokens.transactional(token="token")
    def checkout(session: Any, token: str, fail: bool) -> str:
        if fail:
            raise LookupError
        return "done"

    token = tokens.issue()
    with pytest.raises(LookupError):
        checkout(token, True)
    assert checkout(token, False) == "done"
    with pytest.raises(SpentTokenError):
        checkout(token, False)


def test_a_failed_flush_gives_the_token_back(db: Database, tokens: Any) -> None:
    db.execute("INSERT INTO unique_business (name) VALUES ('taken')")

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str, name: str) -> None:
        session.add(Unique(name=name))

    token = tokens.issue()
    with pytest.raises(sa.exc.IntegrityError):
        checkout(token, "taken")
    checkout(token, "free")


def test_a_function_that_committed_does_not_give_the_token_back(db: Database, tokens: Any) -> None:
    @tokens.transactional(token="token")
    def checkout(session: Any, token: str, how: str) -> None:
        effect(session, how)
        if how == "text":
            session.connection().exec_driver_sql("COMMIT")
        else:
            session.commit()
        if how != "returns":
            raise LookupError

    ways = {"raises": LookupError, "returns": LostClaimError, "text": LookupError}
    if db.kind in INNODB and db.is_async:
        del ways["text"]  # asyncmy tells nobody whether its server is in a transaction
    for how, error in ways.items():
        token = tokens.issue()
        with pytest.raises(error):
            checkout(token, how)
        with pytest.raises(SpentTokenError):
            checkout(token, how)
    assert db.effects() == list(ways)


def test_what_fails_before_commit_is_sent_gives_the_token_back(db: Database, tokens: Any) -> None:
    @tokens.transactional(token="token")
    def checkout(session: Any, token: str, how: str) -> None:
        effect(session, "paid")
        if how == "loop":
            for _ in db.idem.unseen(db.given(session), "import", [{"id": "a"}, {"id": "b"}], key="id"):
                break
        elif how == "hook":

            @sa.event.listens_for(session, "before_commit")
            def refuse(session: Any) -> None:
                raise LookupError

    token = tokens.issue()
    with pytest.raises(TransactionError, match="come to its end"):
        checkout(token, "loop")
    with pytest.raises(LookupError):
        checkout(token, "hook")
    assert db.effects() == []
    checkout(token, "")
    with pytest.raises(SpentTokenError):
        checkout(token, "")
    assert db.effects() == ["paid"]


def test_what_fails_in_commit_does_not_give_the_token_back(db: Database, tokens: Any) -> None:
    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> None:
        effect(session, "paid")

        @sa.event.listens_for(session, "after_commit")
        def fail(session: Any) -> None:
            raise LookupError  # a program's own hook: the business is committed by then

    token = tokens.issue()
    with pytest.raises(LookupError):
        checkout(token)
    with pytest.raises(SpentTokenError):
        checkout(token)
    assert db.effects() == ["paid"]


@pytest.mark.parametrize(
    "error",
    [
        sa.exc.OperationalError("COMMIT", {}, Exception("gone"), connection_invalidated=True),
        RetryTransactionError("of a call that a program's hook makes", scope="mail"),
    ],
)
def test_a_commit_whose_answer_is_lost_is_not_repeated(db: Database, tokens: Any, error: Exception) -> None:
    runs = []

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> None:
        runs.append(1)
        effect(session, "paid")

        @sa.event.listens_for(session, "after_commit")
        def lose(session: Any) -> None:
            raise error

    token = tokens.issue()
    with pytest.raises(TransactionError, match="look whether the effect is there"):
        checkout(token)
    with pytest.raises(SpentTokenError):
        checkout(token)
    assert (runs, db.effects()) == ([1], ["paid"])


def test_a_commit_in_two_phases_whose_answer_is_lost_is_not_repeated(plain: redis.Redis) -> None:
    db, runs = db_of("mariadb"), list[int]()  # where they need no setting of the server
    with redis.Redis.from_url(redis_server().url()) as client:
        tokens = desk(db, table=db.table(sessionmaker(db.engine, twophase=True)), store=RedisTokenStore(client))

        @tokens.transactional(token="token")
        def checkout(session: Session, token: str) -> None:
            runs.append(1)
            effect(session, "paid")

            @sa.event.listens_for(session, "after_commit")
            def lose(session: Session) -> None:
                raise sa.exc.OperationalError("COMMIT", {}, Exception("gone"), connection_invalidated=True)

        token = tokens.issue()
        with pytest.raises(TransactionError, match="look whether the effect is there"):
            checkout(token)
        with pytest.raises(SpentTokenError):
            checkout(token)
    assert (runs, db.effects()) == ([1], ["paid"])


def test_a_token_is_given_back_where_the_calls_next_transaction_cannot_begin(
    db: Database, store: RedisTokenStore
) -> None:
    begun: list[Any] = []

    def refuse(connection: Any) -> None:
        begun.append(connection)
        if len(begun) == 2:
            raise LookupError

    with db.other_engine() as engine:
        tokens = desk(db, table=db.table(engine), store=store)

        # With no time to wait MySQL looks first, in a transaction of its own.
        @tokens.transactional(token="token", wait=timedelta())
        def checkout(session: Any, token: str) -> int:
            return effect(session, "paid")

        sa.event.listen(getattr(engine, "sync_engine", engine), "begin", refuse)
        refused = []
        for token in tokens.issue_many(2):
            try:
                checkout(token)
            except LookupError:
                refused.append(token)
        (token,) = refused
        checkout(token)
    assert db.effects() == ["paid"] * 2


def test_a_deadlock_begins_again_with_the_same_token(db: Database, tokens: Any) -> None:
    runs = []

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> int:
        runs.append(1)
        made = effect(session, "paid")
        if len(runs) == 1:
            raise sa.exc.OperationalError("UPDATE", {}, Exception("gone"), connection_invalidated=True)
        return made

    token = tokens.issue()
    assert checkout.outcome(token).attempts == 2
    assert db.effects() == ["paid"]
    with pytest.raises(SpentTokenError):
        checkout(token)


def test_of_32_simultaneous_redemptions_one_runs(db: Database, tokens: Any) -> None:
    gate = Gate(db)

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> int:
        gate.wait()
        return effect(session, "paid")

    def call() -> Any:
        try:
            return checkout.outcome(token)
        except SpentTokenError as error:
            return error

    token = tokens.issue()
    with ThreadPoolExecutor(32) as pool:
        first = pool.submit(call)
        assert gate.reached.wait(PATIENCE)
        # Nobody waits: the others are refused while the first one is still at work.
        others = [call.result(PATIENCE) for call in [pool.submit(call) for _ in range(31)]]
        assert not first.done()
        gate.open()
        assert first.result(PATIENCE).replayed is False
    assert {type(other) for other in others} == {SpentTokenError}
    assert db.effects() == ["paid"]


def test_a_repeated_command_of_one_use_is_one_use(plain: redis.Redis) -> None:
    store = RedisTokenStore(plain)
    db = IdemTable(sa.create_engine("sqlite://")).tokens("checkout", ttl=timedelta(minutes=1), store=store)
    token = db.issue()
    asked = identified(token)
    assert [store.redeem(*asked, b"one") for _ in range(3)] == [1, 1, 1]
    assert store.redeem(*asked, b"two") == 3
    assert store.give_back(asked[0], b"two") == 0  # it is not his to give
    assert store.give_back(asked[0], b"one") == 1
    assert store.redeem(*asked, b"two") == 1


def identified(token: str) -> Any:
    return identity("checkout", token), holder("checkout", token, None)


def test_a_joined_redemption_that_raises_gives_the_token_back(db: Database, tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    with db.session() as held:
        with pytest.raises(LookupError):
            checkout.join(held.session, token, "user:7", fail=True)
        checkout.join(held.session, token, "user:7")
        held.commit()
    assert db.effects() == ["paid"]


def test_what_the_caller_rolls_back_later_has_spent_the_token(db: Database, tokens: Any, checkout: Any) -> None:
    """What is lost against the table."""
    token = tokens.issue("user:7")
    with db.session() as held:
        checkout.join(held.session, token, "user:7")
        held.rollback()
    assert db.effects() == []
    with pytest.raises(SpentTokenError):
        checkout(token, "user:7")


def test_a_redemption_inside_another_one_spends_both(db: Database, tokens: Any) -> None:
    @tokens.transactional(token="token", share_scope=True)
    def pay(session: Any, token: str) -> str:
        effect(session, "paid")
        return "paid"

    @tokens.transactional(token="token", share_scope=True)
    def checkout(session: Any, token: str, inner: list[str]) -> str:
        with tokens.redeem(db.given(session), inner[0], returns=str) as claim:
            claim.result = pay(inner[1])
        effect(session, "ordered")
        return claim.result

    token, *inner = tokens.issue_many(3)
    assert checkout(token, inner) == "paid"
    assert db.effects() == ["paid", "ordered"]
    for spent in inner:
        with pytest.raises(SpentTokenError):
            pay(spent)


def test_a_block_in_the_callers_transaction(db: Database, tokens: Any) -> None:
    token = tokens.issue()
    with db.session() as held:
        for _ in range(2):
            with pytest.raises(LookupError), tokens.redeem(held.session, token):
                raise LookupError
        with tokens.redeem(held.session, token, payload="cart") as claim:
            assert claim.replayed is False
            claim.result = held.run(lambda session: effect(session, "paid"))
        held.commit()
        with pytest.raises(SpentTokenError), tokens.redeem(held.session, token, payload="cart"):
            pass
    assert db.effects() == ["paid"]


def test_a_revoked_token_is_unknown(tokens: Any, checkout: Any) -> None:
    token = tokens.issue("user:7")
    assert (tokens.revoke(token), tokens.revoke(token)) == (True, False)
    with pytest.raises(UnknownTokenError):
        checkout(token, "user:7")


def test_issuing_many_is_one_round_trip(tokens: Any, plain: redis.Redis) -> None:
    before = plain.info("stats")["total_net_input_bytes"]
    assert len(set(tokens.issue_many(1000))) == 1000
    assert plain.dbsize() == 1000
    assert plain.info("stats")["total_net_input_bytes"] > before


def test_what_a_store_cannot_do_is_refused(db: Database, tokens: Any) -> None:
    for options in ({"replay": True}, {"remember": (LookupError,)}):
        with pytest.raises(ValueError, match="keeps no results"):

            @tokens.transactional(token="token", **options)
            def checkout(session: Any, token: str) -> int: ...

    with db.session() as held:
        for call in (lambda: tokens.issue(session=held.session), lambda: tokens.revoke(NOBODYS, held.session)):
            with pytest.raises(ValueError, match="do not commit with a session"):
                call()


def test_a_store_of_the_other_colour_is_refused(plain: redis.Redis) -> None:
    idem = IdemTable(sa.create_engine("sqlite://"))
    with pytest.raises(TypeError, match="sync or both be async"):
        idem.tokens("checkout", ttl=timedelta(1), store=RedisTokenStore(aredis.Redis()))
    with pytest.raises(TypeError, match="takes a client"):
        RedisTokenStore(object())
    for pipeline in (redis.Redis().pipeline(), aredis.Redis().pipeline()):
        with pytest.raises(TypeError, match="makes its pipelines itself"):
            RedisTokenStore(pipeline)


def test_without_redis_the_error_names_the_cure(plain: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "redis" and not kwargs.get("level") and (len(args) < 4 or not args[3]):
            raise ImportError(name)
        return original(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r'pip install "idemtable\[redis\]"'):
        RedisTokenStore(plain)


# --- what is lost: crashes, restarts, eviction --------------------------------------------------------------------------


def test_a_process_killed_between_the_two_has_spent_the_token_for_nothing(
    sync_db: Database, plain: redis.Redis
) -> None:
    """What is lost against the table, where the same crash gives the token back (test_race)."""
    server = redis_server()
    with redis.Redis.from_url(server.url()) as client:
        tokens = desk(sync_db, store=RedisTokenStore(client))

        @tokens.transactional(token="token", wait=timedelta(seconds=30))
        def checkout(session: Any, token: str) -> int:
            return effect(session, "paid")

        token = tokens.issue()
        url = sync_db.sync_url.render_as_string(hide_password=False)
        process = Forked(dying_process.run, url, token, server.url())
        try:
            assert process.stdout.readline() == "inside\n"
        finally:
            process.close()
        with pytest.raises(SpentTokenError):
            checkout(token)
        assert sync_db.effects() == []  # spent, and no effect: never two, here none
        checkout(tokens.issue())
        assert sync_db.effects() == ["paid"]


@pytest.fixture
def shop(tmp_path: Any) -> IdemTable:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE sale (name TEXT)")
    return IdemTable(engine)


def restarted(server: RedisServer) -> None:
    server.kill()
    server.start()


def selling(shop: IdemTable, server: RedisServer) -> tuple[Any, Any]:
    client = redis.Redis.from_url(server.url())
    tokens = shop.tokens("checkout", ttl=timedelta(minutes=30), store=RedisTokenStore(client))

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str) -> None:
        session.connection().exec_driver_sql("INSERT INTO sale VALUES ('tea')")

    return tokens, checkout


def test_a_restart_without_persistence_forgets_all_tokens(shop: IdemTable) -> None:
    with start_redis() as server:
        tokens, checkout = selling(shop, server)
        unused, used = tokens.issue_many(2)
        checkout(used)
        restarted(server)
        for token in (unused, used):
            with pytest.raises(UnknownTokenError):
                checkout(token)
        checkout(tokens.issue())  # the scripts are gone too, and loaded again


def test_a_restart_with_an_append_only_file_loses_nothing(shop: IdemTable) -> None:
    with start_redis(extra=("appendonly yes", "appendfsync always")) as server:
        tokens, checkout = selling(shop, server)
        unused, used = tokens.issue_many(2)
        checkout(used)
        restarted(server)
        with pytest.raises(SpentTokenError):
            checkout(used)
        checkout(unused)


def test_a_restart_from_an_older_state_brings_spent_tokens_back(shop: IdemTable) -> None:
    """What the page warns of: the one way in which a token in Redis makes two effects."""
    with start_redis() as server:
        tokens, checkout = selling(shop, server)
        token = tokens.issue()
        with redis.Redis.from_url(server.url()) as admin:
            admin.save()
        checkout(token)
        restarted(server)
        checkout(token)


def test_an_evicted_token_is_unknown_used_or_not(shop: IdemTable) -> None:
    with start_redis(extra=("maxmemory 3mb", "maxmemory-policy allkeys-lru")) as server:
        tokens, checkout = selling(shop, server)
        unused, used = tokens.issue_many(2)
        checkout(used)
        with redis.Redis.from_url(server.url()) as admin:
            keys = admin.keys("idemtable:*")
            for n in range(5_000):  # Redis picks by sampling: not the oldest of all first
                admin.set(f"other{n}", b"x" * 50_000)
                if not admin.exists(*keys):
                    break
            assert not admin.exists(*keys)
        for token in (unused, used):
            with pytest.raises(UnknownTokenError):
                checkout(token)


def test_a_redis_that_is_gone_is_its_own_error_and_runs_nothing(shop: IdemTable) -> None:
    with start_redis() as server:
        tokens, checkout = selling(shop, server)
        token = tokens.issue()
        server.kill()
        with pytest.raises(redis.ConnectionError):
            checkout(token)
        with pytest.raises(redis.ConnectionError):
            tokens.issue()
        server.start()


def test_a_cancelled_call_gives_the_token_back(db: Database, tokens: Any) -> None:
    if db.loop is None:
        pytest.skip("threads are not cancelled")
    gate = Gate(db)

    @tokens.transactional(token="token")
    def checkout(session: Any, token: str, slow: bool) -> int:
        made = effect(session, "paid")
        if slow:
            gate.wait()
        return made

    token = tokens.issue()

    async def cancelled() -> None:
        task = asyncio.ensure_future(checkout.inner(token, True))
        await asyncio.to_thread(gate.reached.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    db.loop.run(cancelled())
    assert checkout(token, False) > 0
    assert db.effects() == ["paid"]
