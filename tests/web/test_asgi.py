"""What only ASGI tells or asks: clients that hang up, streams, other protocols, tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from idemtable.claim import steps
from idemtable.claim.steps import Step
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware
from tests.support import PATIENCE
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, effect
from tests.support.web import AsgiSite, Visit

_NAMES = [
    name for name in ("sqlite", "sqlite-async", "postgresql18", "postgresql18-asyncpg", "mariadb") if name in BACKENDS
]


@pytest.fixture(params=_NAMES)
def web_db(request: pytest.FixtureRequest) -> Database:
    return db_of(request.param)


@pytest.fixture
def site(web_db: Database) -> Iterator[Callable[..., AsgiSite]]:
    built: list[AsgiSite] = []

    def build(handler: Any, **options: Any) -> AsgiSite:
        built.append(AsgiSite(web_db, handler, **options))
        return built[-1]

    yield build
    for one in built:
        one.close()


def order(visit: Visit) -> bytes:
    return str(effect(visit.session, "order")).encode()


def test_a_client_that_hangs_up_before_the_commit_has_asked_for_nothing(site: Any) -> None:
    shop = site(order)
    inner, gone = shop.app.app, asyncio.Event()

    async def heard_of(scope: Any, receive: Any, send: Any) -> None:
        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                gone.set()
                assert (await receive())["type"] == "http.disconnect"
            await send(message)

        await inner(scope, receive, answer)

    app = IdempotencyMiddleware(heard_of, shop.idem, tenant=SINGLE_TENANT)
    assert shop.post(key="k-1", gone=gone, app=app).problem == "try-again"
    assert (shop.db.effects(), shop.db.rows()) == ([], [])
    assert shop.post(key="k-1").status == 200
    assert shop.db.effects() == ["order"]


def test_a_server_that_sends_nothing_to_a_client_that_has_gone_hears_of_no_error(site: Any) -> None:
    shop = site(order)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise ConnectionResetError  # as ASGI has it since 2.4

    scope = {"type": "http", "method": "POST", "path": "/orders", "headers": [(b"idempotency-key", b"k-1")]}
    shop.loop.run(shop.app(scope, receive, send))
    assert (shop.db.effects(), shop.db.rows()) == ([], [])


def test_a_client_that_hangs_up_after_the_commit_gets_the_replay(site: Any) -> None:
    shop = site(order)
    gone = asyncio.Event()

    def hang_up(moment: steps.Moment) -> None:
        if moment.step is Step.COMMITTED:
            shop.loop._loop.call_soon_threadsafe(gone.set)

    with steps.listening(hang_up):
        first = shop.post(key="k-1", gone=gone)
    assert first.status == 200
    assert shop.post(key="k-1").replayed
    assert shop.db.effects() == ["order"]


def test_a_request_that_is_cancelled_leaves_nothing_open(site: Any) -> None:
    shop = site(order)
    reached = asyncio.Event()

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        session = scope["state"]["session"]
        if shop.db.is_async:
            await session.run_sync(lambda sync: effect(sync, "order"))
        else:
            effect(session, "order")
        reached.set()
        await asyncio.Event().wait()

    app = IdempotencyMiddleware(stuck, shop.idem, tenant=SINGLE_TENANT)

    async def cancelled() -> None:
        task = asyncio.ensure_future(shop.asend("POST", "/orders", [("Idempotency-Key", "k-1")], app=app))
        await asyncio.wait_for(reached.wait(), PATIENCE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    shop.loop.run(cancelled())
    assert (shop.db.effects(), shop.db.rows()) == ([], [])
    assert shop.post(key="k-1").status == 200  # nobody holds the key


@pytest.mark.parametrize("has_length", [False, True])
def test_a_stream_is_refused_and_rolled_back_unless_its_length_is_known(site: Any, has_length: bool) -> None:
    shop = site(order)

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        session = scope["state"]["session"]
        if shop.db.is_async:
            await session.run_sync(lambda sync: effect(sync, "order"))
        else:
            effect(session, "order")
        headers = [(b"content-length", b"2")] if has_length else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"a", "more_body": True})
        await send({"type": "http.response.body", "body": b"b", "more_body": False})

    app = IdempotencyMiddleware(stream, shop.idem, tenant=SINGLE_TENANT)
    answer = shop.post(key="k-1", app=app)
    if has_length:
        assert (answer.status, answer.body, len(shop.db.effects())) == (200, b"ab", 1)
        assert shop.post(key="k-1", app=app).body == b"ab"
    else:
        assert (answer.status, answer.problem) == (500, "response-not-storable")
        assert (shop.db.effects(), shop.db.rows()) == ([], [])


@pytest.mark.parametrize("kind", ["websocket", "lifespan"])
def test_other_protocols_pass_untouched(site: Any, kind: str) -> None:
    shop = site(order)
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, receive, send))

    async def nothing() -> None: ...

    given = ({"type": kind}, nothing, nothing)
    shop.loop.run(IdempotencyMiddleware(app, shop.idem, tenant=SINGLE_TENANT)(*given))  # type: ignore[arg-type]
    assert seen == [given]


def test_a_body_beyond_the_limit_is_not_read_to_its_end(site: Any) -> None:
    shop = site(order, max_body=10)
    answer = shop.post(key="k-1", chunks=[b"x" * 8, b"x" * 8, b"x" * 8])
    assert (answer.status, answer.problem, shop.parts_read) == (413, "request-too-large", 2)
    answer = shop.post(key="k-1", chunks=[b"x" * 8], headers=[("Content-Length", "11")])
    assert (answer.status, shop.parts_read) == (413, 0)
    answer = shop.post(key="k-1", chunks=[b"x" * 8], headers=[("Content-Length", "9" * 5000)])
    assert (answer.status, shop.parts_read) == (413, 0)


def test_a_duplicate_that_comes_while_the_first_is_at_work_is_told_when_to_come_back(site: Any) -> None:
    from datetime import timedelta

    shop = site(order, wait=timedelta(0))
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if not reached.is_set():
            reached.set()
            await goes_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    app = IdempotencyMiddleware(slow, shop.idem, tenant=SINGLE_TENANT, wait=timedelta(0))

    async def both() -> tuple[Any, Any]:
        key = [("Idempotency-Key", "k-1")]
        first = asyncio.ensure_future(shop.asend("POST", "/orders", key, app=app))
        await asyncio.wait_for(reached.wait(), PATIENCE)
        second = await shop.asend("POST", "/orders", key, app=app)
        goes_on.set()
        return await first, second

    first, second = shop.loop.run(both())
    assert (first.status, first.body) == (200, b"done")
    assert (second.status, second.problem, second["Retry-After"]) == (409, "in-progress", "1")


def test_more_than_so_many_waiters_for_one_key_are_refused_at_once(site: Any) -> None:
    shop = site(order, max_waiters=1)
    key = [("Idempotency-Key", "k-1")]
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        reached.set()
        await goes_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    app = IdempotencyMiddleware(slow, shop.idem, tenant=SINGLE_TENANT, max_waiters=1)

    async def three() -> list[Any]:
        first = asyncio.ensure_future(shop.asend("POST", "/orders", key, app=app))
        await asyncio.wait_for(reached.wait(), PATIENCE)
        second = asyncio.ensure_future(shop.asend("POST", "/orders", key, app=app))
        while sum(app._rules.waiters._here.values()) < 2:
            await asyncio.sleep(0)
        third = await shop.asend("POST", "/orders", key, app=app)
        goes_on.set()
        return [await first, await second, third]

    first, second, third = shop.loop.run(three())
    assert (first.status, second.status, second.body) == (200, 200, b"done")
    assert (third.status, third.problem) == (409, "in-progress")


def test_without_a_database_the_handler_does_not_run_and_the_client_may_come_back(web_db: Database) -> None:
    import sqlalchemy as sa

    if web_db.kind == "sqlite":
        url = web_db.url.set(database="/nowhere/at/all.db")
    else:
        url = web_db.url.set(host="127.0.0.1", port=9)
    if web_db.is_async:
        from sqlalchemy.ext.asyncio import create_async_engine

        engine: Any = create_async_engine(url)
    else:
        engine = sa.create_engine(url)
    ran: list[int] = []
    shop = AsgiSite(web_db, lambda visit: ran.append(1) or b"", idem=web_db.table(engine, attempts=1))
    try:
        answer = shop.post(key="k-1")
        assert (answer.status, answer.problem, answer["Retry-After"]) == (503, "database-unavailable", "1")
        assert ran == []
    finally:
        shop.close()
        web_db.dispose(engine)
