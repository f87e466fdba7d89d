"""A consumer of a queue, whole or broken, and a process that is one and dies at a moment the test has chosen."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from idemtable import IdemTable, Outcome
from tests.support.database import effect

Handler = Callable[[str], Any]
Moment = Callable[[str], None]


def inbox_of(engine: sa.Engine, moment: Moment) -> Handler:
    """A handler in an inbox; gives the outcome."""

    @IdemTable(engine).inbox("brokers.billing").transactional(message_id="message_id")
    def on_payment(session: Session, message_id: str) -> int:
        made = effect(session, message_id)
        moment("written")
        return made

    return on_payment.outcome


def naive_of(engine: sa.Engine, moment: Moment) -> Handler:
    """The same without an inbox: broken, and the tests must see it."""

    def on_payment(message_id: str) -> Outcome[int]:
        with Session(engine) as session, session.begin():
            made = effect(session, message_id)
            moment("written")
        return Outcome(made, replayed=False, attempts=1, created_at=None)

    return on_payment


HANDLERS = {"inbox": inbox_of, "naive": naive_of}


def commit_first(channel: Any, method: Any, message_id: str, handle: Handler, moment: Moment) -> Any:
    """Commit, then acknowledge."""
    answer = handle(message_id)
    moment("committed")
    channel.basic_ack(method.delivery_tag)
    return answer


def acknowledge_first(channel: Any, method: Any, message_id: str, handle: Handler, moment: Moment) -> Any:
    """The other way round: broken, and the tests must see it."""
    channel.basic_ack(method.delivery_tag)
    channel.basic_qos(prefetch_count=1)  # is answered, so the acknowledgement has arrived
    return handle(message_id)


ORDERS = {"commit first": commit_first, "acknowledge first": acknowledge_first}


def run(broker: str, database: str, queue: str, handler: str, order: str, dies: str) -> None:
    """Take one message, and die at a moment."""
    import pika

    def moment(name: str) -> None:
        if name == dies:
            os.kill(os.getpid(), signal.SIGKILL)

    handle = HANDLERS[handler](sa.create_engine(database), moment)
    channel = pika.BlockingConnection(pika.URLParameters(broker)).channel()
    for method, properties, _ in channel.consume(queue):
        ORDERS[order](channel, method, properties.message_id, handle, moment)
        break
    print("alive")
