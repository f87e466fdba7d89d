"""What a protected request costs, against the same handler with a transaction of its own, under uvicorn over loopback.

The server is a process of its own, so that client and server do not share an interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from uuid import uuid4

import httpx2 as httpx
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from idemtable import AsyncIdemTable, IdemTable
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware
from idemtable.web.fastapi import session
from tests.benchmarks.goals import Judge
from tests.benchmarks.harness import Size, in_turn, rows, show
from tests.benchmarks.machine import Watch, versions
from tests.benchmarks.places import PLACES, engine, version
from tests.benchmarks.results import Part, Table
from tests.benchmarks.work import business, numbers, prepare
from tests.servers.web import serving

_URL = "IDEMTABLE_BENCH_URL"

MOST = 1.35
"""Times as long as the same request with a transaction of its own."""

TEXT = """The same POST under uvicorn, in a process of its own, with and without the middleware: FastAPI, PostgreSQL on
loopback, one client. Each request brings a key of its own."""


def part(size: Size) -> Part:
    """Measure, and judge."""
    watch, tables = Watch("make bench"), []
    with PLACES["postgresql"].start() as server:
        server.create_database("bench")
        url = server.url("bench")
        admin = engine(sa.make_url(url))
        prepare(admin, size.records)
        found = {"PostgreSQL": version(admin)}
        admin.dispose()
        with requests(url) as kinds:
            for colour, title in (("sync", "a `def` endpoint"), ("async", "an `async def` endpoint")):
                own, protected = f"/{colour}", f"/{colour}-protected"
                figures = in_turn({name: kinds[name] for name in (own, protected)}, size.far, own)
                names = {own: "with a transaction of its own", protected: "protected by `IdempotencyMiddleware`"}
                tables.append(Table(colour, title, rows(figures, names), plot="http"))
                show(title, tables[-1].rows)
    judge = Judge(tables)
    for table in tables:
        own, protected = (row.figures["median"] for row in table.rows)
        judge.most(f"a protected request, {table.title}", MOST, protected / own, unit="×", digits=2)
    found |= versions(("idemtable", "SQLAlchemy", "psycopg", "fastapi", "uvicorn"))
    return Part("HTTP", watch.stamp(found, quick=size.quick), tables, judge.goals, TEXT)


class Order(BaseModel):
    """The body of a request."""

    number: int


def create_app() -> Any:
    """Return four applications behind one port: in both colours, protected and with a transaction of its own."""
    url = os.environ[_URL]
    engine, async_engine = sa.create_engine(url), create_async_engine(url)
    own, async_own = sessionmaker(engine), async_sessionmaker(async_engine)
    apps = {name: FastAPI() for name in ("/sync", "/sync-protected", "/async", "/async-protected")}
    for name, idem in (("/sync-protected", IdemTable(engine)), ("/async-protected", AsyncIdemTable(async_engine))):
        apps[name].add_middleware(IdempotencyMiddleware, idem, tenant=SINGLE_TENANT)

    @apps["/sync"].post("/sync")
    def plain(order: Order) -> dict[str, int]:
        with own.begin() as work:
            return business(work, order.number)

    @apps["/sync-protected"].post("/sync-protected")
    def protected(order: Order, work: Annotated[Session, Depends(session)]) -> dict[str, int]:
        return business(work, order.number)

    @apps["/async"].post("/async")
    async def plain_async(order: Order) -> dict[str, int]:
        async with async_own.begin() as work:
            return await work.run_sync(business, order.number)

    @apps["/async-protected"].post("/async-protected")
    async def protected_async(order: Order, work: Annotated[AsyncSession, Depends(session)]) -> dict[str, int]:
        return await work.run_sync(business, order.number)

    async def dispatch(scope: Any, receive: Any, send: Any) -> None:
        await apps.get(scope["path"], apps["/sync"])(scope, receive, send)

    return dispatch


@contextmanager
def requests(url: str) -> Iterator[dict[str, Callable[[], object]]]:
    """Start the server; give one request of each kind, each with a new key."""
    quiet = ("--factory", "--log-level", "error", "--lifespan", "off")
    with (
        serving("uvicorn", "tests.benchmarks.web:create_app", {_URL: url}, *quiet) as (port, _),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", verify=False) as client,
    ):
        run = uuid4()

        def one(path: str) -> Callable[[], object]:
            def request() -> object:
                number = next(numbers)
                answer = client.post(path, json={"number": number}, headers={"Idempotency-Key": f"{run}-{number}"})
                assert answer.status_code == 200
                assert "Idempotent-Replayed" not in answer.headers
                return answer

            return request

        yield {path: one(path) for path in ("/sync", "/sync-protected", "/async", "/async-protected")}
