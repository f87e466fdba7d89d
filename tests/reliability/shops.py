"""The same shop under ASGI and under WSGI, for servers that are started as processes: `create_asgi`, `create_wsgi`.

An order is one effect. One handler in ten fails after it has written; the answer is drawn anew whenever a handler runs, so
that two runs of one key can never give the same bytes.
"""

from __future__ import annotations

import os
import random
from typing import Annotated, Any

import flask
import sqlalchemy as sa
from fastapi import Depends, FastAPI, Response
from flask import Flask, g
from sqlalchemy.orm import Session

import idemtable.web.flask
from idemtable import IdemTable
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware
from idemtable.web.fastapi import session
from tests.support.database import effect

URL = "IDEMTABLE_SHOP_URL"
FAILURES = 0.1


class OutOfTea(Exception):
    """What one handler in ten raises."""


def _order(session: Session, name: str) -> tuple[bytes, dict[str, str]]:
    effect(session, name)
    if random.random() < FAILURES:
        raise OutOfTea
    return os.urandom(random.randrange(0, 2_000)), {"Location": f"/orders/{name}", "Set-Cookie": "secret=1"}


def _table() -> IdemTable:
    return IdemTable(sa.create_engine(os.environ[URL], pool_size=20, max_overflow=30))


def create_asgi() -> Any:
    """FastAPI, whose plain handlers run on threads."""
    app = FastAPI()
    app.add_middleware(IdempotencyMiddleware, _table(), tenant=SINGLE_TENANT, required=True, max_waiters=100)

    @app.post("/orders/{name}")
    def order(name: str, work: Annotated[Session, Depends(session)]) -> Response:
        body, headers = _order(work, name)
        return Response(body, 201, headers, "application/octet-stream")

    return app


def create_wsgi() -> Any:
    """Flask."""
    app = Flask(__name__)
    idemtable.web.flask.init_app(app, _table(), tenant=SINGLE_TENANT, required=True, max_waiters=100)

    @app.post("/orders/<name>")
    def order(name: str) -> flask.Response:
        body, headers = _order(g.session, name)
        return flask.Response(body, 201, headers, content_type="application/octet-stream")

    return app
