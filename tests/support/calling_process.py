"""One caller in a process of its own: hears on stdin what to do, says on stdout what happens to it.

It says ``ready``; for each line ``go KEY`` it calls, says
``trying`` when it sends its BEGIN IMMEDIATE (SQLite only), ``inside`` inside the function, where it stays until it hears
``leave``, and at last what it got, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.util import await_only

from idemtable import AsyncIdemTable, IdemTable
from tests.support.database import effect
from tests.support.plain import as_async

WAIT = timedelta(seconds=50)


def say(word: str) -> None:
    print(word, flush=True)


def trying(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
    if statement == "BEGIN IMMEDIATE":
        say("trying")


def order(session: Any, key: str) -> dict[str, int]:
    number = effect(session, key)
    say("inside")
    if heard() != "leave":
        raise ConnectionError("the test has gone")
    return {"id": number}


def heard() -> str:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return sys.stdin.readline().strip()
    return str(await_only(asyncio.to_thread(sys.stdin.readline))).strip()


def told(outcome: Any) -> str:
    return json.dumps({"value": outcome.value, "replayed": outcome.replayed, "attempts": outcome.attempts})


def run(url: str) -> None:
    engine = sa.create_engine(url)
    event.listen(engine, "before_cursor_execute", trying)
    call = IdemTable(engine, wait=WAIT).transactional("order", key="key", returns=dict[str, int])(order)
    say("ready")
    for line in sys.stdin:
        say(told(call.outcome(line.split()[1])))
    engine.dispose()


async def _run_async(url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url)
    event.listen(engine.sync_engine, "before_cursor_execute", trying)
    call = AsyncIdemTable(engine, wait=WAIT).transactional("order", key="key", returns=dict[str, int])(as_async(order))
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        say(told(await call.outcome(line.split()[1])))
    await engine.dispose()


def run_async(url: str) -> None:
    asyncio.run(_run_async(url))
