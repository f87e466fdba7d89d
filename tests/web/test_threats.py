"""What somebody might try: the rows of a list of threats, each by its name."""

from __future__ import annotations

from typing import Any

import pytest

from idemtable.web import IdempotencyMiddleware
from tests.support.backends import BACKENDS, db_of
from tests.support.database import Database, effect
from tests.support.tokens import desk
from tests.support.web import AsgiSite, Visit
from tests.web.conftest import Build


def order(visit: Visit) -> bytes:
    return str(effect(visit.session, visit.body.decode()[:50] or "order")).encode()


def test_a_guessed_key_gives_nobody_anothers_response(site: Build) -> None:
    shop = site(order, tenant=lambda request: request.headers["x-user"])
    secret = shop.post(key="1", body=b"tea", headers=[("X-User", "ada")])
    guesses = [shop.post(key="1", body=b"tea", headers=[("X-User", f"eve-{number}")]) for number in range(20)]
    assert not any(guess.replayed or guess.body == secret.body for guess in guesses)


def test_a_key_that_somebody_has_registered_before_is_still_its_owners(site: Build) -> None:
    shop = site(order, tenant=lambda request: request.headers["x-user"])
    assert shop.post(key="k-ada", body=b"junk", headers=[("X-User", "eve")]).status == 200
    first = shop.post(key="k-ada", body=b"tea", headers=[("X-User", "ada")])
    assert (first.status, first.replayed) == (200, False)


def test_whoever_has_lost_the_right_gets_no_replay(site: Build) -> None:
    """Authentication stands round the middleware, and is asked each time."""
    may = {"ada"}
    shop = site(order, tenant=lambda request: request.headers["x-user"])
    inside = shop.app

    async def guarded_asgi(scope: Any, receive: Any, send: Any) -> None:
        if dict(scope["headers"])[b"x-user"].decode() in may:
            await inside(scope, receive, send)
        else:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"no"})

    def guarded_wsgi(environ: Any, start_response: Any) -> Any:
        if environ["HTTP_X_USER"] in may:
            return inside(environ, start_response)
        start_response("403 Forbidden", [])
        return [b"no"]

    app = guarded_asgi if isinstance(shop, AsgiSite) else guarded_wsgi
    sent = {"key": "k-1", "headers": [("X-User", "ada")], "app": app}
    assert shop.post(**sent).status == 200
    may.clear()
    assert (shop.post(**sent).status, shop.post(**sent).body) == (403, b"no")


def test_every_bad_token_gets_one_and_the_same_answer(site: Build) -> None:
    db = site(order).db
    tokens, strange = desk(db), desk(db, "another")
    shop = site(order, tokens=getattr(tokens, "inner", tokens), tenant=lambda request: "ada")
    spent, somebodys, of_another_scope = tokens.issue("ada"), tokens.issue("eve"), strange.issue("ada")
    assert shop.post(body=b"tea", headers=[("X-Idempotency-Token", spent)]).status == 200
    bad = [spent, somebodys, of_another_scope, "x" * 43, "", "\u00e9", "no token"]
    answers = [shop.post(body=b"coffee", headers=[("X-Idempotency-Token", token)]) for token in bad]
    assert {answer.status for answer in answers} == {403}
    assert len({answer.body for answer in answers}) == 1
    assert len({tuple(sorted(answer.headers)) for answer in answers}) == 1
    assert db.effects() == ["tea"]


@pytest.mark.parametrize(
    "name", [name for name in ("sqlite", "postgresql18", "postgresql18-asyncpg") if name in BACKENDS]
)
def test_a_client_that_sends_slowly_holds_no_connection(name: str) -> None:
    db: Database = db_of(name)
    shop = AsgiSite(db, order)
    pool = getattr(db.engine, "sync_engine", db.engine).pool
    held: list[int] = []
    middleware = shop.app

    async def slowly(scope: Any, receive: Any, send: Any) -> None:
        async def part() -> Any:
            if shop.parts_read < 3:
                held.append(pool.checkedout())
            return await receive()

        await middleware(scope, part, send)

    try:
        assert shop.post(key="k-1", chunks=[b"a", b"b", b"c"], app=slowly).status == 200
        assert held == [0, 0, 0]
    finally:
        shop.close()


def test_a_flood_of_other_keys_is_no_matter_of_one_tenants_alone(site: Build) -> None:
    shop = site(order, tenant=lambda request: request.headers["x-user"], quota=5)
    flood = [shop.post(key=f"k-{number}", headers=[("X-User", "eve")]).status for number in range(8)]
    assert flood == [200] * 5 + [429] * 3
    assert shop.post(key="k-1", headers=[("X-User", "ada")]).status == 200


def test_the_middleware_of_starlettes_list_sees_what_stands_before_it() -> None:
    """Added later is further outside: authentication that is added after this middleware has spoken before it."""
    from fastapi import FastAPI

    app, db = FastAPI(), db_of("sqlite")
    app.add_middleware(IdempotencyMiddleware, db.idem, tenant=lambda request: request.scope["user"])

    class Authentication:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app({**scope, "user": "ada"}, receive, send)

    app.add_middleware(Authentication)

    @app.post("/orders")
    def create() -> str:
        return "done"

    from fastapi.testclient import TestClient

    with TestClient(app) as client:
        assert client.post("/orders", headers={"Idempotency-Key": "k-1"}).json() == "done"
    assert [row.tenant for row in db.rows()] == ["ada"]
