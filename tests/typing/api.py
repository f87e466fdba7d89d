"""What a type checker knows of the API. Only read by mypy --strict and pyright, never run.

Every line marked with ``ignore`` is wrong on purpose: a checker that does not complain about it makes the mark itself
an error (mypy's warn_unused_ignores, pyright's reportUnnecessaryTypeIgnoreComment).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, assert_type
from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import idemtable
from idemtable import (
    ALL,
    AsyncIdemTable,
    Flag,
    IdemTable,
    Outcome,
    PurgeReport,
    Record,
    Stats,
    Status,
    outcome_of,
    testing,
    transactional,
)
from idemtable.blocks import AsyncClaim, Claim
from idemtable.inbox import AsyncInbox, Inbox
from idemtable.tokens import AsyncTokens


class OwnSession(Session): ...


class OwnAsyncSession(AsyncSession): ...


@dataclass
class Receipt:
    order_id: int


class CardDeclined(Exception):
    pass


async def arriving() -> AsyncIterator[Receipt]:
    yield Receipt(1)


def cancelling(order_id: int, tenant: UUID) -> str:
    return f"cancel-{order_id}"


def sync(
    engine: Engine,
    maker: sessionmaker[Session],
    async_engine: AsyncEngine,
    session: Session,
    async_session: AsyncSession,
    registry: scoped_session[Session],
) -> None:
    idem = IdemTable(engine)
    assert_type(IdemTable(maker, ttl=timedelta(days=1), wait=timedelta(0), store_keys=False, schema="app"), IdemTable)
    assert_type(IdemTable(lambda: engine), IdemTable)
    IdemTable(lambda: async_engine)  # type: ignore[arg-type, return-value] # pyright: ignore[reportArgumentType]
    IdemTable(async_engine)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    IdemTable(engine, ttl=5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    IdemTable(engine, nonsense=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

    @idem.transactional("orders.create", key="request_id")
    def create(session: Session, request_id: str, item: str, *, amount: int = 1) -> Receipt:
        return Receipt(amount)

    # The value, without the session.
    assert_type(create("r", "tea"), Receipt)
    assert_type(create(request_id="r", item="tea", amount=2), Receipt)
    assert_type(create.outcome("r", item="tea"), Outcome[Receipt])
    assert_type(create.outcome("r", "tea").value, Receipt)
    assert_type(create.outcome("r", "tea").replayed, bool)
    assert_type(create.outcome("r", "tea").attempts, int)
    assert_type(create.outcome("r", "tea").created_at, datetime | None)
    assert_type(create.join(session, "r", "tea", amount=2), Receipt)

    create()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    create("r")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    create("r", 5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    create("r", "tea", 2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    create("r", "tea", other=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    create(session, "r", "tea")  # type: ignore[call-arg, arg-type] # pyright: ignore[reportCallIssue]
    create.outcome(session, "r")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    create.join("r", "tea")  # type: ignore[call-arg, arg-type] # pyright: ignore[reportCallIssue]
    create.join(async_session, "r", "tea")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    create.nothing()  # type: ignore[attr-defined] # pyright: ignore

    # Every option, and no other.
    @idem.transactional(
        "orders.cancel",
        key=cancelling,
        tenant="tenant",
        payload=("order_id",),
        ttl=timedelta(days=1),
        wait=timedelta(0),
        remember=(CardDeclined,),
        returns=Receipt,
        isolation_level="SERIALIZABLE",
    )
    def cancel(session: Session, order_id: int, tenant: UUID) -> Receipt | None:
        return None

    assert_type(cancel(1, UUID(int=1)), Receipt | None)

    idem.transactional("orders", key="key", payload=ALL)
    idem.transactional("orders", key="key", payload=None)
    idem.transactional(key="key")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    idem.transactional("orders")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    idem.transactional("orders", "key")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    idem.transactional("orders", key=5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    idem.transactional("orders", key="key", remember=(5,))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    idem.transactional("orders", key="key", ttl=5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

    assert_type(create.join_outcome(session, "r", "tea"), Outcome[Receipt])
    assert_type(create.join(registry, "r", "tea"), Receipt)
    assert_type(create.__name__, str)
    create.join_outcome(session, "r")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    callback: Callable[[str, str], Receipt] = create
    callback("r", "tea")

    # The session may stand elsewhere; of methods the checkers know what is called on an object.
    @idem.transactional("orders.second", key="key", share_scope=True)
    def second(key: str, session: Session, item: str) -> Receipt:
        return Receipt(1)

    @idem.transactional("orders.last", key="key", remember=CardDeclined)
    def last(key: str, item: str, session: Session) -> Receipt:
        return Receipt(1)

    assert_type(second(key="k", item="tea"), Receipt)
    assert_type(second.join(session, "k", "tea"), Receipt)
    assert_type(last(key="k", item="tea"), Receipt)
    assert_type(last.outcome("k", item="tea"), Outcome[Receipt])

    class Shop:
        @idem.transactional("shop.pay", key="key")
        def pay(self, session: Session, key: str, amount: int) -> Receipt:
            return Receipt(amount)

        @classmethod
        @idem.transactional("shop.class", key="key")
        def of_class(cls, session: Session, key: str) -> Receipt:
            return Receipt(1)

        @staticmethod
        @idem.transactional("shop.static", key="key")
        def static(session: Session, key: str) -> Receipt:
            return Receipt(1)

    shop = Shop()
    assert_type(shop.pay("k", amount=1), Receipt)
    assert_type(Shop.pay(shop, "k", amount=1), Receipt)
    assert_type(Shop.pay.outcome(shop, "k", amount=1), Outcome[Receipt])
    assert_type(shop.pay.join(shop, session, "k", amount=1), Receipt)
    assert_type(Shop.pay.join_outcome(shop, session, "k", 1), Outcome[Receipt])
    assert_type(Shop.of_class("k"), Receipt)
    assert_type(Shop.static("k"), Receipt)
    shop.pay("k", "tea")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    shop.pay("k")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Shop.static(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

    # A session class of the program's own.
    @idem.transactional("own", key="key")
    def own(session: OwnSession, key: str) -> Receipt:
        return Receipt(1)

    assert_type(own("k"), Receipt)
    own(5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

    # There is a session, of this colour.
    @idem.transactional("without", key="key")  # type: ignore[arg-type] # pyright: ignore
    def without(key: str, item: str) -> None: ...

    @idem.transactional("wrong", key="key")  # type: ignore[arg-type] # pyright: ignore
    def wrong(session: AsyncSession, key: str) -> None: ...

    # The plain import.
    @transactional(engine, "orders.plain", key="key", tenant="tenant")
    def plain(session: Session, key: str, tenant: str) -> int:
        return 1

    assert_type(plain("k", "t"), int)
    assert_type(plain.outcome("k", tenant="t"), Outcome[int])
    plain("k")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    transactional(engine, "orders.plain")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]

    @transactional(maker, "orders.maker", key="key")
    def made(session: Session, key: str) -> list[Receipt]:
        return []

    assert_type(made("k"), list[Receipt])

    @transactional(idem, "orders.table", key="key")
    def tabled(session: Session, key: str) -> None: ...

    tabled("k")

    # A handler of messages.
    inbox = idem.inbox("billing")
    assert_type(inbox, Inbox)

    @inbox.transactional(message_id="message_id", ttl=timedelta(1), remember=CardDeclined)
    def on_payment(session: Session, message_id: str, body: Receipt) -> None: ...

    assert_type(on_payment.outcome("m", Receipt(1)), Outcome[None])
    on_payment("m")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    inbox.transactional()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    inbox.transactional(message_id="m", key="m")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

    # The blocks.
    with idem.transaction("pay", "k", tenant="t", payload={"a": 1}, returns=Receipt) as claim:
        assert_type(claim.session, Session)
        assert_type(claim.replayed, bool)
        assert_type(claim.record, Record | None)
        claim.result = Receipt(1)
        claim.result = 5  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    assert_type(idem.transaction("pay", "k", returns=Receipt).result, Receipt)
    with idem.claim(session, "pay", UUID(int=1), ttl=timedelta(1), wait=timedelta(0)) as joined:
        assert_type(joined.session, Session)
    assert_type(joined.result, Any)
    assert_type(idem.claim(registry, "pay", "k", returns=list[Receipt]), Claim[list[Receipt]])
    idem.claim(async_session, "pay", "k")  # type: ignore[call-overload] # pyright: ignore
    idem.claim(session, "pay", "k", ttl=5)  # type: ignore[call-overload] # pyright: ignore
    idem.transaction("pay")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    assert_type(outcome_of(ValueError()), Outcome[None] | None)

    # Batches.
    assert_type(idem.claim_many(session, "ledger", ["a", UUID(int=1)], tenant="t"), list[Flag])
    receipts = [Receipt(1)]
    assert_type(idem.unseen(session, "ledger", receipts, key="order_id", chunk=5), Iterator[Receipt])
    assert_type(idem.unseen(registry, "ledger", receipts, key=lambda one: str(one.order_id)), Iterator[Receipt])
    idem.unseen(session, "ledger", receipts, key=lambda one: one.nothing)  # type: ignore[attr-defined] # pyright: ignore
    idem.unseen(session, "ledger", receipts)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    idem.unseen(async_session, "ledger", receipts, key="order_id")  # type: ignore[arg-type] # pyright: ignore
    idem.claim_many(async_session, "ledger", ["a"])  # type: ignore[arg-type] # pyright: ignore
    idem.claim_many(session, "ledger", 5)  # type: ignore[arg-type] # pyright: ignore

    # The verbs.
    assert_type(idem.get("pay", "k", tenant="t"), Record | None)
    assert_type(idem.forget("pay", "k"), bool)
    assert_type(idem.purge(batch=10, limit=None, pause=timedelta(0), progress=print), PurgeReport)
    assert_type(idem.purge().busy, bool)
    stats = idem.stats()
    assert_type(stats, Stats)
    assert_type(stats.by_scope, Mapping[str, int])
    assert_type(stats.by_status, Mapping[Status, int])
    assert_type(stats.table_bytes, int | None)
    assert_type(idem.records(), list[Record])
    assert_type(idem.records("pay", limit=3), list[Record])
    idem.create_all()
    idem.check_schema()
    idemtable.configure_sqlite(engine)


async def twins(
    engine: AsyncEngine,
    maker: async_sessionmaker[AsyncSession],
    sync_engine: Engine,
    session: AsyncSession,
    plain: Session,
    registry: async_scoped_session[AsyncSession],
) -> None:
    idem = AsyncIdemTable(engine)
    assert_type(AsyncIdemTable(maker, attempts=3), AsyncIdemTable)
    assert_type(AsyncIdemTable(lambda: engine), AsyncIdemTable)
    AsyncIdemTable(sync_engine)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]

    @idem.transactional("orders.create", key="request_id")
    async def create(session: AsyncSession, request_id: str, item: str, *, amount: int = 1) -> Receipt:
        return Receipt(amount)

    assert_type(await create("r", "tea", amount=2), Receipt)
    assert_type(await create.outcome("r", "tea"), Outcome[Receipt])
    assert_type((await create.outcome("r", item="tea")).value, Receipt)
    assert_type(await create.join(session, "r", "tea"), Receipt)
    assert_type(await create.join_outcome(session, "r", "tea"), Outcome[Receipt])
    assert_type(await create.join(registry, "r", "tea"), Receipt)

    @idem.transactional("own", key="key")
    async def own(session: OwnAsyncSession, key: str) -> Receipt:
        return Receipt(1)

    assert_type(await own("k"), Receipt)

    class Shop:
        @idem.transactional("shop.pay", key="key")
        async def pay(self, session: AsyncSession, key: str) -> Receipt:
            return Receipt(1)

    assert_type(await Shop().pay("k"), Receipt)
    assert_type(await Shop.pay.outcome(Shop(), "k"), Outcome[Receipt])

    await create("r")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await create("r", "tea", other=2)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await create.join(plain, "r", "tea")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    print(create("r", "tea").order_id)  # type: ignore[attr-defined] # pyright: ignore

    # A plain function has nothing to await.
    @idem.transactional("wrong", key="key")  # type: ignore[arg-type] # pyright: ignore
    def wrong(session: AsyncSession, key: str) -> int:
        return 1

    @transactional(engine, "orders.plain", key="key")
    async def imported(session: AsyncSession, key: str) -> dict[str, Any]:
        return {}

    assert_type(await imported("k"), dict[str, Any])

    # The options of the async decorator are those of the sync one, written once.
    idem.transactional("orders", key="key", ttl=timedelta(1), tenant="key", remember=(LookupError,))
    idem.transactional("orders", key="key", ttl=5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    idem.transactional("orders", key="key", tll=timedelta(1))  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    idem.transactional("orders")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

    tokens = idem.tokens("checkout", ttl=timedelta(1))
    assert_type(tokens, AsyncTokens)
    assert_type(await tokens.issue(session=session), str)
    assert_type(await tokens.records(), list[Record])
    assert_type(tokens.redeem(session, "token"), AsyncClaim[Any])
    assert_type(tokens.redeem(session, "token", returns=Receipt), AsyncClaim[Receipt])
    tokens.redeem(plain, "token")  # type: ignore[call-overload] # pyright: ignore
    tokens.transactional(token="token", ttl=timedelta(1))  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]

    @tokens.transactional(token="token", subject="user", returns=Receipt)
    async def checkout(session: AsyncSession, token: str, user: str) -> Receipt:
        return Receipt(1)

    assert_type(await checkout("t", "u"), Receipt)

    inbox = idem.inbox("billing")
    assert_type(inbox, AsyncInbox)

    @inbox.transactional(message_id="message_id")
    async def on_payment(session: AsyncSession, message_id: str, body: Receipt) -> int:
        return 1

    assert_type(await on_payment("m", Receipt(1)), int)

    async with idem.transaction("pay", "k") as claim:
        assert_type(claim.session, AsyncSession)
        claim.result = 1
    async with idem.claim(session, "pay", "k") as joined:
        assert_type(joined.session, AsyncSession)
    idem.claim(plain, "pay", "k")  # type: ignore[call-overload] # pyright: ignore
    with idem.transaction("pay", "k"):  # type: ignore[attr-defined] # pyright: ignore
        pass

    assert_type(await idem.claim_many(session, "ledger", ["a"], wait=timedelta(0)), list[Flag])
    assert_type(idem.unseen(registry, "ledger", [Receipt(1)], key="order_id"), AsyncIterator[Receipt])
    async for receipt in idem.unseen(session, "ledger", arriving(), key="order_id"):
        assert_type(receipt, Receipt)
    await idem.claim_many(plain, "ledger", ["a"])  # type: ignore[arg-type] # pyright: ignore

    assert_type(await idem.get("pay", "k"), Record | None)
    assert_type(await idem.forget("pay", "k"), bool)
    assert_type(await idem.purge(), PurgeReport)
    assert_type(await idem.stats(), Stats)
    assert_type(await idem.records("pay"), list[Record])
    await idem.create_all()
    await idem.check_schema()


async def kit(engine: Engine, async_engine: AsyncEngine, idem: IdemTable, sessions: async_sessionmaker[Any]) -> None:
    def create(key: str) -> Receipt:
        return Receipt(1)

    async def create_async(key: str) -> Receipt:
        return Receipt(1)

    testing.assert_idempotent(create, engine, callers=3, ignore=["audit"])
    testing.assert_idempotent(lambda key: create(key), async_engine)
    await testing.assert_idempotent(create_async, engine)
    await testing.assert_idempotent(lambda key: create_async(key), async_engine)
    await testing.assert_idempotent(create, engine)  # type: ignore[misc] # pyright: ignore
    testing.assert_idempotent(engine, create)  # type: ignore[call-overload] # pyright: ignore

    with testing.fail_at("stored", OSError, scope="orders", times=2) as failure, testing.restart_at(testing.Step.RAN):
        assert_type(failure.hits, int)
    with testing.frozen_clock() as clock:
        assert_type(clock.advance(timedelta(days=8)), datetime)
    with testing.rolled_back(idem, engine) as connection:
        assert_type(connection, Connection)
    async with testing.rolled_back(sessions) as async_connection:
        assert_type(async_connection, AsyncConnection)
