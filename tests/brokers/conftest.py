"""A queue of a real RabbitMQ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest

from tests.support.amqp import connected
from tests.support.backends import rabbitmq_server


@pytest.fixture
def broker() -> str:
    return rabbitmq_server().url()


@pytest.fixture
def channel(broker: str) -> Iterator[Any]:
    with connected(broker) as channel:
        yield channel


@pytest.fixture
def queue(channel: Any) -> Iterator[str]:
    name = f"payments-{uuid4().hex[:8]}"
    channel.queue_declare(name, durable=True)
    yield name
    channel.queue_delete(name)
