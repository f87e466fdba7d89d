"""A call that sends a request to the application: what a crash inside it becomes is its server's doing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Annotated, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import httpx
import sqlalchemy as sa
from fastapi import Depends, FastAPI, Header
from fastapi.testclient import TestClient
from flask import Flask, g
from sqlalchemy.orm import Session

import idemtable.web.flask
from idemtable.testing import assert_idempotent
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware
from idemtable.web.fastapi import session
from tests.support.backends import db_of
from tests.support.database import Database, Effect, effect
from tests.support.kit import Shop, databases

served = databases("sqlite", "postgresql18", "mysql")


def application(db: Database, engine: Any = None) -> FastAPI:
    app = FastAPI()
    idem = db.idem if engine is None else db.table(engine)
    app.add_middleware(IdempotencyMiddleware, getattr(idem, "inner", idem), tenant=SINGLE_TENANT)
    if db.is_async:

        @app.post("/orders", status_code=201)
        async def create(work: Annotated[Any, Depends(session)]) -> dict[str, int]:
            return {"order": await work.run_sync(lambda sync: effect(sync, "tea"))}
    else:

        @app.post("/orders", status_code=201)
        def create(work: Annotated[Session, Depends(session)]) -> dict[str, int]:
            return {"order": effect(work, "tea")}

    return app


def test_a_request_by_httpx_to_an_application_in_the_same_task_passes(each: Database) -> None:
    app, raises = application(each), each.is_async

    async def prove() -> None:
        transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:

            async def call(key: str) -> httpx.Response:
                return await client.post("/orders", headers={"Idempotency-Key": key})

            await assert_idempotent(call, each.engine)

    if each.loop is not None:
        each.loop.run(prove())
    else:
        import asyncio

        asyncio.run(prove())
    assert len(each.effects()) == len(each.rows()) > 10


def test_a_request_by_a_test_client_that_keeps_its_loop_passes(each: Database) -> None:
    # Without a pool: connections belong to the loop that opened them, and the client brings one of its own.
    with each.other_engine(poolclass=sa.NullPool) as engine, TestClient(application(each, engine)) as client:
        assert_idempotent(
            lambda key: client.post("/orders", headers={"Idempotency-Key": key}).raise_for_status(), engine
        )
    assert len(each.effects()) == len(each.rows()) > 10


def test_a_function_behind_a_route_passes_without_the_middleware() -> None:
    db = db_of("sqlite")
    app = FastAPI()

    @db.idem.transactional("testing.route", key="key", share_scope=True)
    def order(session: Session, key: str) -> int:
        return effect(session, "tea")

    @app.post("/orders")
    def create(idempotency_key: Annotated[str, Header()]) -> int:
        return order(idempotency_key)

    with TestClient(app, raise_server_exceptions=False) as client:
        assert_idempotent(lambda key: client.post("/orders", headers={"Idempotency-Key": key}), db.engine)
    assert len(db.effects()) == len(db.rows()) > 10


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """Say nothing of the crashes."""


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving(app: Any) -> Iterator[str]:
    with make_server("127.0.0.1", 0, app, Server, Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def flask_app(db: Database, handler: Any) -> Flask:
    app = Flask(__name__)
    idemtable.web.flask.init_app(app, db.idem, tenant=SINGLE_TENANT)
    app.post("/orders")(handler)
    return app


def test_a_request_to_a_server_in_a_thread_passes(served: Database) -> None:
    app = flask_app(served, lambda: str(effect(g.session, "tea")))
    with serving(app) as url, httpx.Client(base_url=url, verify=False) as client:
        assert_idempotent(lambda key: client.post("/orders", headers={"Idempotency-Key": key}), served.engine)
    assert len(served.effects()) == len(served.rows()) > 10


def test_a_handler_that_commits_in_a_session_of_its_own_is_caught() -> None:
    db = db_of("postgresql18")

    def handler() -> str:
        effect(g.session, "tea")
        with Session(db.engine) as own:
            own.add(Effect(name="audit", amount=1))
            own.commit()
        return "done"

    client = flask_app(db, handler).test_client()
    shop = Shop(db)
    said = shop.refuse(lambda key: client.post("/orders", headers={"Idempotency-Key": key}))
    assert said.startswith("crashed at ran of POST /orders, then called again: other rows")


def test_a_handler_that_nothing_protects_is_caught() -> None:
    db = db_of("sqlite")
    app = Flask(__name__)

    @app.post("/orders")
    def create() -> str:
        with Session(db.engine) as own:
            own.add(Effect(name="tea", amount=1))
            own.commit()
        return "done"

    client = app.test_client()
    assert "table effect: 2 rows added" in Shop(db).refuse(lambda key: client.post("/orders"))
