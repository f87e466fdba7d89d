"""What a handler may look like, what is refused when it is decorated, and what a message must bring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from idemtable import (
    AsyncIdemTable,
    FingerprintMismatchError,
    IdemTable,
    InvalidKeyError,
    MissingKeyError,
    MissingTenantError,
)
from idemtable.inbox import AsyncInbox, Inbox


@dataclass
class Headers:
    id: str


@dataclass
class Message:
    headers: Headers
    amount: int = 1


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    yield engine
    engine.dispose()


@pytest.fixture
def idem(engine: sa.Engine) -> IdemTable:
    idem = IdemTable(engine)
    idem.create_all()
    return idem


@pytest.fixture
def inbox(idem: IdemTable) -> Inbox:
    return idem.inbox("billing")


def on_payment(session: Any, message_id: Any, amount: int = 1) -> int:
    return amount


def on_refund(session: Any, message_id: Any) -> int:
    return 1


@pytest.mark.parametrize(
    "spec", ["message.headers.id", lambda message: message.headers.id, lambda message: UUID(message.headers.id)]
)
def test_the_id_is_found_by_a_path_or_a_callable_as_a_key_is(idem: IdemTable, inbox: Inbox, spec: Any) -> None:
    @inbox.transactional(message_id=spec)
    def handle(session: Any, message: Message) -> int:
        return message.amount

    id = "8d4b5f3e-0000-4000-8000-000000000001"
    handle(Message(Headers(id)))
    assert handle.outcome(Message(Headers(id), amount=2)).replayed
    assert [record.key for record in idem.records("billing")] == [id]


def test_a_wrong_name_or_path_is_refused_in_the_words_of_an_inbox(inbox: Inbox) -> None:
    with pytest.raises(ValueError, match="message_id='id' names no parameter of on_payment"):
        inbox.transactional(message_id="id")(on_payment)

    def handle(session: Any, message: Message) -> None: ...

    with pytest.raises(ValueError, match=r"message_id='message\.headers\.uid' .*leads nowhere"):
        inbox.transactional(message_id="message.headers.uid")(handle)
    with pytest.raises(TypeError, match="message_id= takes a parameter's name"):
        inbox.transactional(message_id=7)(on_payment)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="there is no option key"):
        inbox.transactional(message_id="message_id", key="message_id")(on_payment)  # type: ignore[call-arg]


@pytest.mark.parametrize("scope", ["", " ", "a\nb", 7, None])
def test_a_consumer_has_a_name(idem: IdemTable, scope: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="scope"):
        idem.inbox(scope)


def test_a_message_without_a_usable_id_is_refused_before_anything_is_sent(engine: sa.Engine, inbox: Inbox) -> None:
    handle = inbox.transactional(message_id="message_id")(on_payment)
    sent: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    with pytest.raises(MissingKeyError, match=r"billing .*has no message id: let the producer set one"):
        handle(None)
    with pytest.raises(InvalidKeyError, match=r"the message id must be a str or a uuid\.UUID, not bytes"):
        handle(b"m-1")
    for wrong in ("", " ", "a\0b", "x" * 256, 7):
        with pytest.raises(InvalidKeyError, match="the message id"):
            handle(wrong)
    assert sent == []


def test_a_second_handler_of_one_inbox_is_refused_with_its_cure(idem: IdemTable, inbox: Inbox) -> None:
    kept = inbox.transactional(message_id="message_id")(on_payment)
    cure = r"on_refund has the scope 'billing' of .*on_payment .*inbox of its own.* share_scope=True in both"
    with pytest.raises(ValueError, match=cure) as caught:
        inbox.transactional(message_id="message_id")(on_refund)
    assert "refunds" not in str(caught.value)  # a name that suits another handler would be no cure
    with pytest.raises(ValueError, match=cure):
        idem.inbox("billing").transactional(message_id="message_id", share_scope=True)(on_refund)
    assert idem.inbox("billing.refunds").transactional(message_id="message_id")(on_refund)("m-1") == 1
    assert kept("m-1") == 1


def test_a_decorated_function_with_the_consumers_scope_is_refused_too(idem: IdemTable, inbox: Inbox) -> None:
    kept = [inbox.transactional(message_id="message_id")(on_payment)]
    with pytest.raises(ValueError, match="has the scope 'billing'"):
        idem.transactional("billing", key="message_id")(on_refund)
    kept.append(idem.tokens("billing", ttl=timedelta(1)).transactional(token="message_id")(on_refund))
    assert all(kept), "tokens have scopes of their own"


def test_handlers_that_share_an_inbox_answer_for_each_other(idem: IdemTable, inbox: Inbox) -> None:
    payments = inbox.transactional(message_id="message_id", share_scope=True)(on_payment)
    refunds = inbox.transactional(message_id="message_id", share_scope=True)(on_refund)
    assert not payments.outcome("p-1").replayed
    assert not refunds.outcome("r-1").replayed
    assert refunds.outcome("p-1").replayed
    with idem.transaction("billing", "p-1") as claim:
        assert claim.replayed


def test_the_other_options_are_those_of_a_decorated_function(idem: IdemTable, inbox: Inbox) -> None:
    @inbox.transactional(
        message_id="message_id", tenant="tenant", payload=("amount",), ttl=timedelta(hours=1), returns=int
    )
    def handle(session: Any, message_id: str, tenant: str | None, amount: int = 1, deliveries: int = 1) -> Any:
        return amount

    assert handle("m-1", "a") == handle("m-1", "a", deliveries=2) == 1
    with pytest.raises(FingerprintMismatchError):
        handle("m-1", "a", 2)
    assert handle("m-1", "b", 2) == 2
    with pytest.raises(MissingTenantError):
        handle("m-1", None)
    record = idem.get("billing", "m-1", tenant="a")
    assert record is not None
    assert record.expires_at - record.created_at < timedelta(hours=1, minutes=1)


def test_a_handler_joins_a_transaction_of_the_consumers_own(engine: sa.Engine, inbox: Inbox) -> None:
    from sqlalchemy.orm import Session

    handle = inbox.transactional(message_id="message_id")(on_payment)
    with Session(engine) as session:
        assert not handle.join_outcome(session, "m-1").replayed
        session.rollback()
        assert not handle.join_outcome(session, "m-1").replayed
        session.commit()
    assert handle.outcome("m-1").replayed


def test_an_inbox_has_its_tables_colour(idem: IdemTable, inbox: Inbox) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    others = AsyncIdemTable(create_async_engine("sqlite+aiosqlite://")).inbox("billing")
    assert (type(inbox), type(others)) == (Inbox, AsyncInbox)
    assert (repr(inbox), repr(others)) == ("<Inbox 'billing'>", "<AsyncInbox 'billing'>")

    async def handle(session: Any, message_id: str) -> None: ...

    with pytest.raises(TypeError, match="use AsyncIdemTable"):
        inbox.transactional(message_id="message_id")(handle)
    with pytest.raises(TypeError, match="is not an async function"):
        others.transactional(message_id="message_id")(on_payment)
