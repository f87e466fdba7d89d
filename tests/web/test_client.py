"""The transports: one key for each request, kept while it is sent again."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx as httpx_before
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


@pytest.mark.parametrize("transport", [IdempotencyTransport, AsyncIdempotencyTransport])
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"methods": "POST"}, TypeError, "methods= takes a collection"),
        ({"methods": ()}, ValueError, "methods= takes one or more names"),
        ({"header": None}, TypeError, "header= takes the name of a header field"),
        ({"header": "a b"}, ValueError, "header= takes the name of a header field"),
        ({"attempts": 0}, ValueError, "attempts must be at least 1"),
        ({"longest_wait": "30"}, TypeError, "longest_wait= takes seconds or a timedelta"),
        ({"longest_wait": None}, TypeError, "longest_wait= takes seconds or a timedelta"),
        ({"longest_wait": -1}, ValueError, "longest_wait must be zero or more"),
        ({"longest_wait": float("nan")}, ValueError, "longest_wait must be zero or more"),
    ],
)
def test_an_argument_that_cannot_be_is_refused_when_the_client_is_made(
    transport: Any, options: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        transport(httpx.MockTransport(lambda request: httpx.Response(200)), **options)


def test_what_does_no_sending_is_no_transport() -> None:
    for transport, inner, example in (
        (IdempotencyTransport, httpx.BaseTransport, "httpx.HTTPTransport()"),
        (IdempotencyTransport, httpx.AsyncBaseTransport(), "httpx.HTTPTransport()"),
        (IdempotencyTransport, httpx.Client(transport=httpx.BaseTransport()), "httpx.HTTPTransport()"),
        (AsyncIdempotencyTransport, httpx.BaseTransport(), "httpx.AsyncHTTPTransport()"),
        (AsyncIdempotencyTransport, None, "httpx.AsyncHTTPTransport()"),
    ):
        with pytest.raises(TypeError, match=re.escape(f"takes a transport such as {example}")):
            transport(inner)


def test_the_longest_wait_may_be_a_timedelta(naps: list[float]) -> None:
    answers = [(503, {"Retry-After": "2"}), (503, {"Retry-After": "3"})]
    client, requests = client_of(answers, longest_wait=timedelta(seconds=2))
    assert client.post("https://shop/orders").status_code == 503
    assert (len(requests), naps) == (2, [2.0])


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
    (503, {"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}),
    (503, {"Retry-After": "Mon, 01 Jan 2024 00:00:00 +9999999999999999999"}),
    (503, {"Retry-After": "9" * 5000}),
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


class Line:
    """A transport of either colour, of one of the libraries: each answer is a status, headers, and the pieces of its body.

    A piece may be an exception, which is raised there.
    """

    def __init__(self, library: Any, answers: list[tuple[int, dict[str, str], list[Any]]]) -> None:
        self._library, self._answers = library, answers
        self.requests: list[Any] = []
        self.closed = 0

    def handle_request(self, request: Any) -> Any:
        self.requests.append(request)
        status, headers, pieces = self._answers[len(self.requests) - 1]
        line = self

        class Body(self._library.SyncByteStream, self._library.AsyncByteStream):  # type: ignore[name-defined,misc]
            def __iter__(self) -> Any:
                for piece in pieces:
                    if isinstance(piece, Exception):
                        raise piece
                    yield piece

            async def __aiter__(self) -> Any:
                for piece in self:
                    yield piece

            def close(self) -> None:
                line.closed += 1

            async def aclose(self) -> None:
                self.close()

        return self._library.Response(status, headers=headers, stream=Body())

    async def handle_async_request(self, request: Any) -> Any:
        return self.handle_request(request)

    def close(self) -> None: ...
    async def aclose(self) -> None: ...

    def ask(self, colour: str, send: Callable[[Any], Any], asend: Callable[[Any], Any], **options: Any) -> Any:
        """Give what comes of a client of this line, in the colour."""
        if colour == "sync":
            return send(self._library.Client(transport=IdempotencyTransport(self, **options)))
        client = self._library.AsyncClient(transport=AsyncIdempotencyTransport(self, **options))
        return asyncio.run(_without_pauses(lambda: asend(client), asyncio.sleep))


def lost_of(library: Any) -> list[tuple[int, dict[str, str], list[Any]]]:
    """Two answers that are lost on the way, and one that comes."""
    return [
        (201, {}, [b"half of ", library.ReadError("cut")]),
        (201, {}, [library.RemoteProtocolError("cut")]),
        (201, {}, [b"the ", b"whole"]),
    ]


both_libraries = pytest.mark.parametrize("library", [httpx_before, httpx], ids=lambda library: library.__name__)
both_colours = pytest.mark.parametrize("colour", ["sync", "async"])


@both_libraries
@both_colours
def test_a_request_is_sent_again_where_the_connection_is_lost_in_the_midst_of_the_answer(
    naps: list[float], library: Any, colour: str
) -> None:
    line = Line(library, lost_of(library))

    async def asend(client: Any) -> Any:
        return await client.post("https://shop/orders", json={"item": "tea"})

    response = line.ask(colour, lambda client: client.post("https://shop/orders", json={"item": "tea"}), asend)
    assert (response.status_code, response.text) == (201, "the whole")
    assert len({request.headers["Idempotency-Key"] for request in line.requests}) == 1
    assert (len(line.requests), line.closed) == (3, 3)


@both_libraries
@both_colours
def test_who_streams_an_answer_reads_it_after_all_attempts(naps: list[float], library: Any, colour: str) -> None:
    line = Line(library, lost_of(library))

    def send(client: Any) -> bytes:
        with client.stream("POST", "https://shop/orders") as response:
            return b"".join(response.iter_raw())

    async def asend(client: Any) -> bytes:
        async with client.stream("POST", "https://shop/orders") as response:
            return b"".join([part async for part in response.aiter_raw()])

    assert line.ask(colour, send, asend) == b"the whole"
    assert len(line.requests) == 3


@both_libraries
@both_colours
def test_the_last_answer_of_a_busy_server_is_as_any_other(naps: list[float], library: Any, colour: str) -> None:
    busy = (503, {"Retry-After": "0"}, [b"later"])

    def send(client: Any) -> tuple[bytes, Any]:
        with client.stream("POST", "https://shop/orders") as streamed:
            return b"".join(streamed.iter_raw()), client.post("https://shop/orders")

    async def asend(client: Any) -> tuple[bytes, Any]:
        async with client.stream("POST", "https://shop/orders") as streamed:
            raw = b"".join([part async for part in streamed.aiter_raw()])
        return raw, await client.post("https://shop/orders")

    line = Line(library, [busy] * 4)
    raw, response = line.ask(colour, send, asend, attempts=2)
    assert (raw, response.status_code, response.text) == (b"later", 503, "later")
    assert response.elapsed.total_seconds() >= 0
    assert (len(line.requests), line.closed) == (4, 4)


@both_libraries
def test_a_request_of_a_class_of_the_programs_own_is_sent_again(naps: list[float], library: Any) -> None:
    class Marked:
        pass

    class Request(library.Request, Marked):  # type: ignore[name-defined,misc]
        pass

    line = Line(library, lost_of(library))
    client = library.Client(transport=IdempotencyTransport(line))
    assert client.send(Request("POST", "https://shop/orders")).text == "the whole"


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
