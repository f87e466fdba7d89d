"""FastStream on a real RabbitMQ: an async consumer commits before it acknowledges."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from idemtable import AsyncIdemTable
from tests.support import PATIENCE
from tests.support.amqp import Ears, client, is_done, overheard, publish
from tests.support.backends import db_of
from tests.support.crowd import until
from tests.support.database import effect

client("faststream.rabbit")
from faststream import AckPolicy  # noqa: E402
from faststream.rabbit import RabbitBroker, RabbitMessage, RabbitQueue  # noqa: E402


async def consume(url: str, queue: str, engine: Any, policy: AckPolicy, ears: Ears) -> None:
    """Take one message."""
    broker = RabbitBroker(url, logger=None)
    done = asyncio.Event()

    @AsyncIdemTable(engine).inbox("brokers.async").transactional(message_id="message_id")
    async def on_payment(session: AsyncSession, message_id: str) -> int:
        return await session.run_sync(lambda sync: effect(sync, message_id))

    @broker.subscriber(RabbitQueue(queue, durable=True), ack_policy=policy)
    async def received(body: dict[str, Any], message: RabbitMessage) -> None:
        if policy is AckPolicy.MANUAL:
            await message.ack()  # broken: too early, and the test must hear it
            await asyncio.to_thread(until, lambda: ears.heard, "the acknowledgement was not heard")
        await on_payment(message.message_id)
        done.set()

    async with broker:
        await broker.start()
        await asyncio.wait_for(done.wait(), PATIENCE)


def heard_of(broker: str, channel: Any, queue: str, policy: AckPolicy) -> list[str]:
    """What is heard while one message is consumed; nothing of it may be left."""
    db = db_of("postgresql18-asyncpg")
    assert db.loop is not None
    publish(channel, queue, "m-1")
    with overheard(broker, db) as (ears, url, engine):
        db.loop.run(consume(url, queue, engine, policy, ears))
        until(lambda: len(ears.heard) == 2, f"not all was heard: {ears.heard}")
    assert db.effects() == ["m-1"]
    assert is_done(channel, queue)
    return ears.heard


@pytest.mark.parametrize(
    ("policy", "heard"),
    [
        pytest.param(AckPolicy.NACK_ON_ERROR, ["committed", "acknowledged"], id="nack-on-error"),
        pytest.param(AckPolicy.MANUAL, ["acknowledged", "committed"], id="broken-acknowledged-first"),
    ],
)
def test_the_commit_is_heard_before_the_acknowledgement(
    broker: str, channel: Any, queue: str, policy: AckPolicy, heard: list[str]
) -> None:
    assert heard_of(broker, channel, queue, policy) == heard
