"""The application: ``uvicorn --factory shop.app:create_app``, on the database that ``SHOP_URL`` names."""

import os
import secrets
from datetime import timedelta

from fastapi import FastAPI
from sqlalchemy import create_engine
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware

from idemtable import IdemTable
from idemtable.web import IdempotencyMiddleware
from idemtable.web.fastapi import document

from . import api, pages
from .customers import Customers, tenant, unknown


def create_app(url: str | None = None) -> FastAPI:
    app = FastAPI(title="Shop")
    engine = create_engine(url or os.environ.get("SHOP_URL", "sqlite:///shop.db"))
    idem = IdemTable(engine)
    app.state.engine = engine
    app.state.tokens = tokens = idem.tokens("shop.checkout", ttl=timedelta(minutes=30))
    app.include_router(pages.router)
    app.include_router(api.router)

    # The one that is added last is asked first: whoever comes to the middleware is known already.
    app.add_middleware(IdempotencyMiddleware, idem, tenant=tenant, tokens=tokens, required=True)
    app.add_middleware(AuthenticationMiddleware, backend=Customers(), on_error=unknown)
    # Without a secret of its own the shop knows nobody any more when it is started again.
    app.add_middleware(SessionMiddleware, secret_key=os.environ.get("SHOP_SECRET") or secrets.token_urlsafe())
    app.middleware("http")(pages.explained)
    document(app)
    return app
