"""The transports: one key for each request, kept while it is sent again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx2 as httpx
import pytest
import tenacity

from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware
from idemtable.web.client import AsyncIdempotencyTransport, IdempotencyTransport
from tests.support.backends import db_of
from tests.support.database import effect

Answer = Callable[[httpx.Request], httpx.Response]


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that are made, none of which takes time."""
    made: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", made.append)
    return made


def client_of(answers: list[Any], **options: Any) -> tuple[httpx.Client, list[httpx.Request]]:
    """A client whose server gives these answers, or raises them, and the requests that it got."""
    requests: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        now = answers[min(len(requests), len(answers)) - 1]
        if isinstance(now, Exception):
            raise now
        return httpx.Response(now[0], headers=now[1])

    return httpx.Client(transport=IdempotencyTransport(httpx.MockTransport(answer), **options)), requests


def test_each_request_gets_a_key_and_keeps_it_while_it_is_sent_again(naps: list[float]) -> None:
    client, requests = client_of([httpx.ReadError("gone"), httpx.ConnectError("away"), (200, {})])
    assert client.post("https://shop/orders", json={"item": "tea"}).status_code == 200
    keys = {request.headers["Idempotency-Key"] for request in requests}
    assert (len(requests), len(keys)) == (3, 1)
    assert keys.pop().startswith('"')
    assert len({request.content for request in requests}) == 1
    client.post("https://shop/orders", json={"item": "tea"})
    assert len({request.headers["Idempotency-Key"] for request in requests}) == 2
    assert len(naps) == 2


def test_a_key_of_the_programs_own_is_kept(naps: list[float]) -> None:
    client, requests = client_of([(200, {})])
    client.post("https://shop/orders", headers={"Idempotency-Key": '"mine"'})
    assert requests[0].headers["Idempotency-Key"] == '"mine"'


def test_what_the_server_asks_to_wait_is_waited(naps: list[float]) -> None:
    client, requests = client_of([(409, {"Retry-After": "3"}), (503, {"Retry-After": "7"}), (201, {})])
    assert client.post("https://shop/orders").status_code == 201
    assert naps == [3.0, 7.0]
    assert len({request.headers["Idempotency-Key"] for request in requests}) == 1


_FINAL = [
    (409, {}),
    (422, {"Retry-After": "1"}),
    (500, {}),
    (409, {"Retry-After": "3600"}),
    (503, {"Retry-After": "soon"}),
]


@pytest.mark.parametrize("answer", _FINAL)
def test_an_answer_is_not_asked_for_again(naps: list[float], answer: Any) -> None:
    client, requests = client_of([answer])
    assert client.post("https://shop/orders").status_code == answer[0]
    assert (len(requests), naps) == (1, [])


def test_what_comes_after_the_last_attempt_is_the_answer(naps: list[float]) -> None:
    client, requests = client_of([(409, {"Retry-After": "1"})], attempts=3)
    assert client.post("https://shop/orders").status_code == 409
    assert len(requests) == 3
    client, requests = client_of([httpx.ReadError("gone")], attempts=2)
    with pytest.raises(httpx.ReadError, match="gone"):
        client.post("https://shop/orders")
    assert len(requests) == 2


def test_other_methods_are_sent_as_they_are(naps: list[float]) -> None:
    client, requests = client_of([httpx.ReadError("gone")])
    with pytest.raises(httpx.ReadError):
        client.get("https://shop/orders")
    assert len(requests) == 1
    assert "Idempotency-Key" not in requests[0].headers


def test_orders_over_a_line_that_is_cut_at_random_are_each_done_once() -> None:
    """Half of all requests are lost, before the server has seen them or after it has answered."""
    db, chance = db_of("sqlite-async"), random.Random(7)
    cuts = {"before": 0, "after": 0}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = (await receive())["body"]
        await scope["state"]["session"].run_sync(lambda session: effect(session, body.decode()))
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body", "body": body})

    protected = IdempotencyMiddleware(app, db.idem.inner, tenant=SINGLE_TENANT, required=True)

    class Line(httpx.ASGITransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            fate = chance.choice(["before", "after", "", ""])
            if fate:
                cuts[fate] += 1
            if fate == "before":
                raise httpx.ConnectError("cut")
            response = await super().handle_async_request(request)
            if fate == "after":
                raise httpx.ReadError("cut")
            return response

    async def buy() -> list[Any]:
        transport = AsyncIdempotencyTransport(Line(app=protected), attempts=20)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            return [await client.post("/orders", content=f"order-{number}") for number in range(30)]

    original = asyncio.sleep
    answers = db.loop.run(_without_pauses(buy, original))  # type: ignore[union-attr]
    assert [answer.status_code for answer in answers] == [201] * 30
    assert min(cuts.values()) >= 5
    assert sorted(db.effects()) == sorted(f"order-{number}" for number in range(30))


async def _without_pauses(work: Any, original: Any) -> Any:
    asyncio.sleep = lambda seconds: original(0)  # type: ignore[assignment,method-assign]
    try:
        return await work()
    finally:
        asyncio.sleep = original
