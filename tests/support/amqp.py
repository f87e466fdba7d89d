"""A real RabbitMQ, as a test talks to it, and what passes on the lines to it and to the database."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pytest

from tests.support.crowd import until
from tests.support.database import Database
from tests.support.lines import engine_at
from tests.support.proxy import Proxy, Way


def client(name: str) -> Any:
    """A client's library, which a person may not have; in CI it is there."""
    if os.environ.get("CI"):
        return import_module(name)
    return pytest.importorskip(name, reason="!!! NOT TESTED !!! the recipes' tools are not installed; `make test` does")


pika = client("pika")

_ACK = b"\0\0\0\x0d\0\x3c\0\x50"
"""In a frame of AMQP 0-9-1: thirteen bytes, class 60 (basic), method 80 (ack)."""
_COMMITTED = b"C\0\0\0\x0bCOMMIT\0"
"""PostgreSQL's CommandComplete of a COMMIT; of a transaction that had failed it says ROLLBACK."""


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """A channel that confirms what is published."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        channel = connection.channel()
        channel.confirm_delivery()
        yield channel
    finally:
        connection.close()


def publish(channel: Any, queue: str, *message_ids: str) -> None:
    for message_id in message_ids:
        properties = pika.BasicProperties(
            message_id=message_id, content_type="application/json", delivery_mode=pika.DeliveryMode.Persistent
        )
        channel.basic_publish("", queue, b"{}", properties, mandatory=True)


def take(channel: Any, queue: str) -> Any:
    """The next message, as soon as it is there: its method and its properties."""
    found: list[Any] = []

    def is_there() -> bool:
        found[:] = channel.basic_get(queue)
        return found[0] is not None

    until(is_there, f"{queue} stays empty")
    return found[:2]


def is_done(channel: Any, queue: str) -> bool:
    """Whether a queue whose consumers are gone holds nothing: what was not acknowledged would be back."""
    return channel.basic_get(queue)[0] is None


class Ears:
    """What passes on the lines to the broker and to a PostgreSQL, in the order in which it passes."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def of_the_database(self, way: Way, chunk: bytes) -> None:
        if way is Way.TO_CLIENT and _COMMITTED in chunk:
            self.heard.append("committed")

    def of_the_broker(self, way: Way, chunk: bytes) -> None:
        if way is Way.TO_SERVER and _ACK in chunk:
            self.heard.append("acknowledged")


@contextmanager
def overheard(broker: str, db: Database) -> Iterator[tuple[Ears, str, Any]]:
    """What is heard, and the broker's URL and an engine of the database, each behind a proxy."""
    ears, port = Ears(), pika.URLParameters(broker).port
    assert db.sync_url.port is not None
    with Proxy(port, ears.of_the_broker) as to_broker, Proxy(db.sync_url.port, ears.of_the_database) as to_database:
        engine = engine_at(db, to_database.port)
        try:
            yield ears, broker.replace(f":{port}/", f":{to_broker.port}/"), engine
        finally:
            db.dispose(engine)
