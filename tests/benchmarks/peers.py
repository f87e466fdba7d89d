"""`make bench-peers`: the same work under other libraries, in a venv that has them.

What a crash between their writes leaves behind is another question, and the page answers it beside the figures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import count
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from idemtable import AsyncIdemTable
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware
from tests.benchmarks.bench import Bench
from tests.benchmarks.command import run
from tests.benchmarks.goals import Judge
from tests.benchmarks.harness import Size, in_turn, in_turn_async, rows, show
from tests.benchmarks.machine import Watch, versions
from tests.benchmarks.places import PLACES, async_engine, beside, engine, version
from tests.benchmarks.results import Part, Row, Table
from tests.benchmarks.variants import BARE, OURS
from tests.benchmarks.work import async_business, business, new_run, numbers, prepare
from tests.servers import redis

TEXT = """The business of the other sections on PostgreSQL, with one client on loopback. All use the same connections to it,
but for DBOS, which makes its own. Redis keeps nothing on disk, which is its fastest, and answers from the same machine.

| | what a crash between its writes leaves |
|---|---|
| `@idem.transactional`, `IdempotencyMiddleware` | nothing: key, effect and answer are one commit |
| DBOS, a workflow with a transaction in it | nothing: effect and answer are one commit, and the workflow goes on |
| Powertools with Redis | the effect without its answer: errors until the record expires, then a second effect |
| asgi-idempotency-header with Redis | the effect without its answer: 409 for ever |
"""

TITLES = {
    BARE.name: "bare",
    OURS.name: "`@idem.transactional`",
    "dbos": "DBOS, a workflow with a transaction",
    "powertools": "Powertools, with Redis",
    "endpoint": "an ASGI endpoint, bare",
    "function": "`@idem.transactional` inside it",
    "middleware": "`idemtable.web.IdempotencyMiddleware`",
    "header": "asgi-idempotency-header, with Redis",
}
PACKAGES = ("idemtable", "SQLAlchemy", "psycopg", "dbos", "aws-lambda-powertools", "asgi-idempotency-header", "redis")

Call = Callable[[str, int], Any]
Send = Callable[[Any], Awaitable[None]]


def part(size: Size) -> Part:
    """Measure, and judge."""
    watch, tables = Watch("make bench-peers"), []
    with ExitStack() as stack:
        server = stack.enter_context(PLACES["postgresql"].start())
        cache = stack.enter_context(redis())
        server.create_database("bench")
        url = sa.make_url(server.url("bench"))
        own = engine(url)
        base = beside(own)
        stack.callback(own.dispose)
        prepare(base, size.records)
        bench = Bench(base, own)
        calls = {BARE.name: bench.bare(), OURS.name: bench.decorated(), "powertools": _powertools(bench, cache.url())}
        calls["dbos"] = stack.enter_context(_dbos(url))
        tables.append(_table("first", "functions, first executions", in_turn(_fresh(calls), size.rounds, BARE.name)))
        del calls[BARE.name]
        tables.append(_table("again", "functions, replays", in_turn(_again(calls), size.rounds, OURS.name)))
        found = asyncio.run(_endpoints(url, cache.url(), size))
        tables.append(_table("asgi", "requests in the same process, first executions", found))
        servers = {"PostgreSQL": version(base), "Redis": _redis_version(cache.url())}
    judge = Judge(tables)
    judge.beside("`@idem.transactional`, beside DBOS", 8, "first", OURS.name, "dbos")
    judge.beside("`@idem.transactional`, beside Powertools with Redis", 1.3, "first", OURS.name, "powertools")
    for row, title in (("function", "`@idem.transactional`"), ("middleware", "`IdempotencyMiddleware`")):
        judge.beside(f"{title}, beside asgi-idempotency-header with Redis", 2, "asgi", row, "header")
    stamp = watch.stamp(servers | versions(PACKAGES), quick=size.quick)
    return Part("Other libraries", stamp, tables, judge.goals, TEXT)


def _table(name: str, title: str, figures: dict[str, dict[str, float]]) -> Table:
    measured: list[Row] = rows(figures, TITLES)
    show(title, measured)
    return Table(name, title, measured, plot="" if name == "again" else "peers")


def _fresh(calls: dict[str, Call]) -> dict[str, Callable[[], Any]]:
    run, keys = new_run(), count()

    def one(call: Call) -> Callable[[], Any]:
        return lambda: call(f"{run}-{next(keys)}", next(numbers))

    return {name: one(call) for name, call in calls.items()}


def _again(calls: dict[str, Call]) -> dict[str, Callable[[], Any]]:
    key, number = new_run(), next(numbers)

    def one(name: str, call: Call) -> Callable[[], Any]:
        return lambda: call(f"{name}-{key}", -number * (1 + list(calls).index(name)))

    return {name: one(name, call) for name, call in calls.items()}


# --- what they are --------------------------------------------------------------------------------------------------------


def _powertools(bench: Bench, url: str) -> Call:
    os.environ |= {"POWERTOOLS_TRACE_DISABLED": "true", "AWS_DEFAULT_REGION": "eu-central-1"}
    warnings.simplefilter("ignore")  # it misses a Lambda's context, and has the old name of its own class in it
    from aws_lambda_powertools.utilities.idempotency import IdempotencyConfig, idempotent_function
    from aws_lambda_powertools.utilities.idempotency.persistence.cache import CachePersistenceLayer
    from redis import Redis

    layer = CachePersistenceLayer(client=Redis.from_url(url))
    config = IdempotencyConfig(expires_after_seconds=7 * 24 * 3600)
    bare = bench.bare()

    @idempotent_function(data_keyword_argument="key", persistence_store=layer, config=config)
    def protected(*, key: str, number: int) -> Any:
        return bare(key, number)

    return lambda key, number: protected(key=key, number=number)


@contextmanager
def _dbos(url: sa.URL) -> Iterator[Call]:
    from dbos import DBOS, SetWorkflowID, SQLAlchemyDatasource

    logging.getLogger("dbos").setLevel(logging.ERROR)
    address = url.render_as_string(hide_password=False)
    DBOS(config={"name": "bench", "system_database_url": address, "log_level": "ERROR"})
    source = SQLAlchemyDatasource.create(address, engine_kwargs={"pool_size": 10})

    @source.transaction(isolation_level="READ COMMITTED")
    def write(number: int) -> dict[str, int]:
        return business(source.sql_session(), number)

    @DBOS.workflow()
    def workflow(number: int) -> dict[str, int]:
        return write(number)

    def call(key: str, number: int) -> Any:
        with SetWorkflowID(key):
            return workflow(number)

    DBOS.launch()
    try:
        yield call
    finally:
        DBOS.destroy()


async def _endpoints(url: sa.URL, cache: str, size: Size) -> dict[str, dict[str, float]]:
    from idempotency_header_middleware import IdempotencyHeaderMiddleware
    from idempotency_header_middleware.backends.redis import RedisBackend
    from redis.asyncio import Redis

    own, client = async_engine(url), Redis.from_url(cache)
    base = AsyncEngine(beside(own.sync_engine))
    new_session = async_sessionmaker(base, expire_on_commit=False)

    async def endpoint(scope: Any, receive: Any, send: Send) -> None:
        async with new_session.begin() as session:
            result = await async_business(session, next(numbers))
        await _answer(send, result)

    idem = AsyncIdemTable(own)

    @idem.transactional("peers", key="key")
    async def protected(session: AsyncSession, key: str, number: int) -> dict[str, int]:
        return await async_business(session, number)

    async def calling(scope: Any, receive: Any, send: Send) -> None:
        await _answer(send, await protected(dict(scope["headers"])[b"idempotency-key"].decode(), next(numbers)))

    async def inside(scope: Any, receive: Any, send: Send) -> None:
        await _answer(send, await async_business(scope["state"]["session"], next(numbers)))

    apps = {
        "endpoint": endpoint,
        "function": calling,
        "middleware": IdempotencyMiddleware(inside, idem, tenant=SINGLE_TENANT),
        "header": IdempotencyHeaderMiddleware(endpoint, RedisBackend(client)),
    }
    try:
        return await in_turn_async({name: _request(app) for name, app in apps.items()}, size.rounds, "endpoint")
    finally:
        await client.aclose()
        await own.dispose()


def _request(app: Any) -> Callable[[], Awaitable[None]]:
    run, keys = new_run(), count()

    async def request() -> None:
        key = f"{run}-{next(keys)}".encode()
        headers = [(b"idempotency-key", key), (b"content-type", b"application/json")]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": headers,
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope | {"http_version": "1.1", "scheme": "http", "state": {}}, receive, send)
        assert sent[0]["status"] == 200

    return request


async def _answer(send: Send, result: Any) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(result).encode()})


def _redis_version(url: str) -> str:
    from redis import Redis

    with Redis.from_url(url) as client:
        return str(client.info("server")["redis_version"])  # type: ignore[index]


if __name__ == "__main__":
    sys.exit(run("tests.benchmarks.peers", __doc__, lambda size: {"peers": partial(part, size)}))
