"""Each MUST and SHOULD of draft-ietf-httpapi-idempotency-key-header-07, by its section."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx2 as httpx
import pytest

from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware, keep
from idemtable.web.client import IdempotencyTransport
from tests.docs.pages import DOCS
from tests.support import PATIENCE
from tests.support.backends import db_of
from tests.support.database import effect
from tests.support.web import AsgiSite, Visit


@pytest.fixture
def shop() -> Iterator[Any]:
    built: list[AsgiSite] = []

    def build(**options: Any) -> AsgiSite:
        built.append(AsgiSite(db_of("postgresql18-async"), _order, **options))
        return built[-1]

    yield build
    for one in built:
        one.close()


def _order(visit: Visit) -> Any:
    order = effect(visit.session, "order")
    if visit.body == b"declined":
        return keep((402, [("Content-Type", "text/plain")], b"declined"))
    return 201, [("Location", f"/orders/{order}")], str(order).encode()


def test_2_1_the_value_must_be_a_string(shop: Any) -> None:
    strict = shop(syntax="strict")
    assert strict.post(key='"8e03978e-40d5-43e8-bc93-6894a57f9324"').status == 201
    for other in ("8e03978e", "7", "?1", ":aGk=:", "@1659578233", '%"a"', '("a" "b")', '"a", "b"'):
        assert strict.post(key=other).status == 400


def test_2_2_a_key_must_not_be_used_with_another_payload(shop: Any) -> None:
    site = shop()
    assert site.post(key='"k-1"', body=b"tea").status == 201
    assert site.post(key='"k-1"', body=b"coffee").status == 422


def test_2_2_clients_get_a_uuid_or_another_random_identifier() -> None:
    sent: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers["Idempotency-Key"])
        return httpx.Response(201)

    with httpx.Client(transport=IdempotencyTransport(httpx.MockTransport(answer))) as client:
        for _ in range(2):
            client.post("https://shop/orders")
    first, second = (UUID(key.strip('"')) for key in sent)
    assert first.version == 4
    assert first != second


def test_2_3_how_long_a_key_lives_is_published_and_enforced(shop: Any) -> None:
    site = shop(ttl=timedelta(hours=1))
    assert site.post(key="k-1").status == 201
    assert site.post(key="k-1").replayed
    site.db.expire()
    assert not site.post(key="k-1").replayed
    assert "`ttl`" in (DOCS / "how-to" / "http.md").read_text(encoding="utf-8")


def test_2_5_a_first_request_is_processed_and_answered(shop: Any) -> None:
    answer = shop().post(key="k-1")
    assert (answer.status, answer.replayed) == (201, False)


@pytest.mark.parametrize(("body", "status"), [(b"tea", 201), (b"declined", 402)])
def test_2_5_a_duplicate_gets_the_result_of_the_completed_operation_success_or_error(
    shop: Any, body: bytes, status: int
) -> None:
    site = shop()
    first, second = site.post(key="k-1", body=body), site.post(key="k-1", body=body)
    assert (first.status, second.status, second.body) == (status, status, first.body)
    assert len(site.db.effects()) == 1


def test_2_5_and_2_6_a_duplicate_of_a_request_at_work_gets_409(shop: Any) -> None:
    site = shop()
    reached, goes_on = asyncio.Event(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        reached.set()
        await goes_on.wait()
        await send({"type": "http.response.start", "status": 201, "headers": []})
        await send({"type": "http.response.body"})

    app = IdempotencyMiddleware(slow, site.idem, tenant=SINGLE_TENANT, wait=timedelta(0))

    async def both() -> Any:
        key = [("Idempotency-Key", "k-1")]
        first = asyncio.ensure_future(site.asend("POST", "/orders", key, app=app))
        await asyncio.wait_for(reached.wait(), PATIENCE)
        second = await site.asend("POST", "/orders", key, app=app)
        goes_on.set()
        await first
        return second

    _is_refused(site.loop.run(both()), 409)


def test_2_6_a_missing_key_gets_400_with_a_link_to_the_documentation(shop: Any) -> None:
    _is_refused(shop(required=True).post(), 400)


def test_2_6_a_used_key_gets_422_with_a_link_to_the_documentation(shop: Any) -> None:
    site = shop()
    site.post(key="k-1", body=b"tea")
    _is_refused(site.post(key="k-1", body=b"coffee"), 422)


def _is_refused(answer: Any, status: int) -> None:
    assert (answer.status, answer["Content-Type"]) == (status, "application/problem+json")
    told = json.loads(answer.body)
    assert told["status"] == status
    assert answer["Link"] == f'<{told["type"]}>; rel="describedby"'


def test_5_the_key_alone_does_not_find_a_response(shop: Any) -> None:
    """It is looked for together with what the server knows of the client."""
    site = shop(tenant=lambda request: request.headers["x-user"])
    ada, eve = (site.post(key="k-1", headers=[("X-User", name)]) for name in ("ada", "eve"))
    assert not eve.replayed
    assert ada.body != eve.body


def test_5_what_a_client_sends_is_checked_before_anything_is_done(shop: Any) -> None:
    site = shop()
    for key in ("", "x" * 256, '"' + "x" * 256 + '"', "a\x00b", "é"):
        assert site.post(key=key).status == 400
    assert (site.db.effects(), site.db.rows()) == ([], [])
