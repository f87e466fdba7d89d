"""Messages of a real RabbitMQ: COMMIT comes before the acknowledgement, and what is delivered again is not done again."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa

from idemtable import InProgressError
from tests.support import consumer
from tests.support.amqp import connected, is_done, overheard, publish, take
from tests.support.backends import db_of
from tests.support.consumer import HANDLERS, ORDERS, inbox_of
from tests.support.database import Database, effect
from tests.support.forked import Forked


@pytest.fixture
def db() -> Database:
    return db_of("postgresql18")


@pytest.mark.parametrize(
    ("order", "heard"),
    [
        pytest.param("commit first", ["committed", "acknowledged"], id="commit-first"),
        pytest.param("acknowledge first", ["acknowledged", "committed"], id="broken-acknowledged-first"),
    ],
)
def test_the_commit_is_heard_before_the_acknowledgement(
    broker: str, channel: Any, queue: str, db: Database, order: str, heard: list[str]
) -> None:
    publish(channel, queue, "m-1", "m-2")
    with overheard(broker, db) as (ears, url, engine):
        handle = inbox_of(engine, lambda moment: None)
        with connected(url) as consuming:
            consuming.basic_qos(prefetch_count=1)
            for number, (method, properties, _) in enumerate(consuming.consume(queue), 1):
                ORDERS[order](consuming, method, properties.message_id, handle, lambda moment: None)
                if number == 2:
                    break
        assert ears.heard == 2 * heard
    assert db.effects() == ["m-1", "m-2"]


@pytest.mark.parametrize(
    ("handler", "order", "dies", "effects"),
    [
        pytest.param("inbox", "commit first", "written", ["m-1"], id="before-commit"),
        pytest.param("inbox", "commit first", "committed", ["m-1"], id="between-commit-and-acknowledgement"),
        pytest.param("naive", "commit first", "committed", ["m-1", "m-1"], id="broken-without-the-inbox"),
        pytest.param("inbox", "acknowledge first", "written", [], id="broken-acknowledged-first"),
    ],
)
def test_a_consumer_that_crashes_leaves_one_effect_when_the_message_comes_again(
    broker: str, channel: Any, queue: str, db: Database, handler: str, order: str, dies: str, effects: list[str]
) -> None:
    publish(channel, queue, "m-1")
    database = db.url.render_as_string(hide_password=False)
    process = Forked(consumer.run, broker, database, queue, handler, order, dies)
    try:
        assert process.stdout.read() == "", process.stderr.read()
    finally:
        process.close()

    assert db.effects() == (["m-1"] if dies == "committed" else [])
    if order == "acknowledge first":
        assert is_done(channel, queue), "the broker has forgotten it"
        assert db.effects() == effects
        return
    method, properties = take(channel, queue)
    assert method.redelivered
    outcome = HANDLERS[handler](db.engine, lambda moment: None)(properties.message_id)
    channel.basic_ack(method.delivery_tag)
    assert outcome.replayed == (handler == "inbox" and dies == "committed")
    assert db.effects() == effects
    assert is_done(channel, queue)


def is_held(idem: Any, scope: str, key: str) -> bool:
    """Whether a transaction has claimed the key and has not ended; leaves nothing behind itself."""
    try:
        with idem.transaction(scope, key, wait=timedelta(0)):
            raise LookupError
    except LookupError:
        return False
    except InProgressError:
        return True


def test_a_poison_message_ends_among_the_dead_letters_and_holds_up_nobody(
    broker: str, channel: Any, db: Database
) -> None:
    name = f"poisoned-{uuid4().hex[:8]}"
    dead = f"{name}.dead"
    limited = {
        "x-queue-type": "quorum",
        "x-delivery-limit": 3,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead,
    }
    channel.queue_declare(dead, durable=True)
    channel.queue_declare(name, durable=True, arguments=limited)
    runs: list[str] = []
    engine = sa.create_engine(db.url)
    idem = db.table(engine)

    @idem.inbox("brokers.poisoned").transactional(message_id="message_id")
    def on_payment(session: Any, message_id: str) -> int:
        runs.append(message_id)
        made = effect(session, message_id)
        if message_id == "poison":
            raise LookupError("no such account")
        return made

    others = [f"m-{number}" for number in range(6)]
    publish(channel, name, *others[:3], "poison", *others[3:])
    with connected(broker) as consuming:
        consuming.basic_qos(prefetch_count=2)
        while len(runs) < len(others) + 4:
            method, properties = take(consuming, name)
            try:
                on_payment(properties.message_id)
            except LookupError:
                assert engine.pool.checkedout() == 0
                assert idem.get("brokers.poisoned", "poison") is None
                assert not is_held(idem, "brokers.poisoned", "poison")
                consuming.basic_nack(method.delivery_tag, requeue=True)
            else:
                consuming.basic_ack(method.delivery_tag)
        method, properties = take(consuming, dead)
        consuming.basic_ack(method.delivery_tag)
    engine.dispose()

    assert (properties.message_id, properties.headers["x-death"][0]["reason"]) == ("poison", "delivery_limit")
    assert runs.count("poison") == 4
    assert sorted(db.effects()) == sorted(row.key for row in db.rows()) == others
    for queue in (name, dead):
        assert is_done(channel, queue)
        channel.queue_delete(queue)
