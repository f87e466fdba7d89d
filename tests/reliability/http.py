"""E14: whole servers, clients that hang up at a random byte, handlers that fail, workers that are killed.

Each key is sent until it was answered three times. Then there must be one effect for each, and the three answers must be
the same to the byte: a handler that ran twice would have drawn other ones.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.reliability.shops import URL
from tests.servers.web import serving
from tests.support.database import Database

HANG_UPS: Final = 0.3
SENDS: Final = 3

_OPTIONS: Final = ["--workers", "2", "--log-level", "critical"]
_APPLICATIONS: Final = {
    "uvicorn": ["tests.reliability.shops:create_asgi", "--factory"],
    "gunicorn": ["tests.reliability.shops:create_wsgi()", "--threads", "8"],
}
_POSSIBLE: Final = {201, 409, 500, 503}
"""Done; still at work; a handler failed; the database lost the transaction."""


@dataclass
class Report:
    """What was done, and what came of it."""

    keys: int
    hang_ups: int = 0
    kills: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    """Connections that ended without an answer, or could not be made."""
    differing: list[str] = field(default_factory=list)
    """Keys whose answers were not all the same."""
    leaked: int = 0
    """Replays that held somebody's cookie."""


def workers(parent: int) -> list[int]:
    """The children of a server that serve: neither multiprocessing's tracker nor one that is dead already."""
    children = map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split())
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, command in commands.items() if command and b"resource_tracker" not in command]


async def _one(
    port: int, key: str, body: bytes, chance: random.Random, report: Report
) -> tuple[int, bytes, bytes] | None:
    """Send a request; return its status, head and body, or ``None`` where there was no whole answer."""
    request = (
        f'POST /orders/{key} HTTP/1.1\r\nHost: shop\r\nConnection: close\r\nIdempotency-Key: "{key}"\r\n'
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    hangs_up = chance.random() < HANG_UPS
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        report.lost += 1
        await asyncio.sleep(0.02)  # a worker may have been killed: another one is on its way
        return None
    try:
        if hangs_up:
            report.hang_ups += 1
            at = chance.randrange(0, 2 * len(request))
            writer.write(request[:at])
            await writer.drain()
            if at >= len(request):  # in the middle of the answer
                await asyncio.wait_for(reader.read(chance.randrange(1, 400)), 30)
            return None
        writer.write(request)
        await writer.drain()
        answer = await asyncio.wait_for(reader.read(), 30)
    except (OSError, TimeoutError):
        report.lost += 1
        return None
    finally:
        writer.transport.abort()
    head, found, content = answer.partition(b"\r\n\r\n")
    if not found or not _is_whole(head, content):
        report.lost += 1
        return None
    return int(head.split(b" ", 2)[1]), head, content


def _is_whole(head: bytes, content: bytes) -> bool:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.split(b":")[1]) == len(content)
    return False


async def _ordered(port: int, key: str, chance: random.Random, report: Report) -> None:
    body = chance.randbytes(int(2 ** chance.uniform(0, 16)))
    answers: list[bytes] = []
    deadline = time.monotonic() + 300
    while len(answers) < SENDS:
        assert time.monotonic() < deadline, f"{key} gets no answer: {dict(report.statuses)}, {report.lost} lost"
        got = await _one(port, key, body, chance, report)
        if got is None:
            continue
        status, head, content = got
        report.statuses[status] += 1
        assert status in _POSSIBLE, (status, content[:200])
        if status == 201:
            answers.append(content)
            if b"idempotent-replayed" in head.lower():
                report.leaked += b"set-cookie" in head.lower()
        else:
            await asyncio.sleep(chance.uniform(0, 0.1))
    if len(set(answers)) != 1:
        report.differing.append(key)


async def _killing(parent: int, kills: int, over: asyncio.Event, chance: random.Random, report: Report) -> None:
    while report.kills < kills and not over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), chance.uniform(0.3, 1.2))
        if not over.is_set() and (pids := workers(parent)):
            with suppress(ProcessLookupError):
                os.kill(chance.choice(pids), signal.SIGKILL)
                report.kills += 1


async def _all(port: int, parent: int, keys: int, kills: int, seed: int, report: Report) -> None:
    chance = random.Random(seed)
    names = iter([f"{seed}-{number}" for number in range(keys)])
    over = asyncio.Event()

    async def client() -> None:
        for name in names:
            await _ordered(port, name, chance, report)

    killer = asyncio.ensure_future(_killing(parent, kills, over, chance, report))
    await asyncio.gather(*(client() for _ in range(16)))
    over.set()
    await killer


def experiment(db: Database, kind: str, *, keys: int, kills: int, seed: int) -> Report:
    """Run it once; what must hold is asserted."""
    report = Report(keys)
    application, *options = _APPLICATIONS[kind]
    url = db.url.render_as_string(hide_password=False)
    with serving(kind, application, {URL: url}, *options, *_OPTIONS) as (port, parent):
        asyncio.run(_all(port, parent, keys, kills, seed, report))
    effects = Counter(db.effects())
    assert report.differing == [], f"answers differ for {len(report.differing)} keys"
    assert {name: count for name, count in effects.items() if count != 1} == {}
    assert len(effects) == keys
    assert report.leaked == 0
    return report
