"""Flask: the session of a protected request as ``g.session``, and an endpoint that issues tokens.

::

    app = Flask(__name__)
    idemtable.web.flask.init_app(app, idem, tenant=lambda request: flask.session["user"])

    @app.post("/orders")
    def create_order():
        g.session.add(Order(...))
        return {"order": 7}, 201
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Unpack

try:
    from flask import Blueprint, Flask, g, request
    from flask import Response as FlaskResponse
except ImportError as error:
    raise ImportError('idemtable.web.flask needs Flask: pip install "idemtable[flask]"') from error

from ..annotations import refuse_async
from ..errors import IdempotencyError
from ..keys import checked_tenant
from ..tokens import Tokens
from .exchange import Options
from .problems import DOCS, refusal
from .wishes import keep_nothing
from .wsgi import WSGIIdempotencyMiddleware, awaited_by_nobody, checked_table

if TYPE_CHECKING:
    from ..table import IdemTable
    from .messages import Request

__all__ = ["init_app", "token_blueprint"]


_ASKING: Final = "idemtable.asking"
"""In the environ of a request context that the tenant is asked in, and nothing else."""


def init_app(app: Flask, idem: IdemTable, *, tenant: Any, **options: Unpack[Options]) -> None:
    """Protect an application's requests.

    The handler's session is ``g.session``. A table that is bound late (``IdemTable(lambda: db.engine)``) is bound inside
    the application's context, and for each application that it is given to by itself.

    Args:
        app: the application.
        idem: the table.
        tenant: for whom a request is: a callable that is given the `Request`, inside the application's request context
            (``flask.session`` and ``flask.request`` are there), without functions of ``before_request`` or
            ``teardown_request``; or `SINGLE_TENANT`.
        options: those of `IdempotencyMiddleware`.

    Raises:
        TypeError, ValueError: an argument cannot be.
    """

    def tenant_inside(asking: Request) -> Any:
        environ = {**(asking.environ or {}), "wsgi.input": io.BytesIO(asking.body), _ASKING: True}
        with app.request_context(environ):
            return tenant(asking)

    own = copy(checked_table(idem))
    if not isinstance(app, Flask):
        raise TypeError(f"init_app takes the Flask application, not {app!r}")
    refuse_async(tenant, "tenant")
    own._settings = replace(
        idem._settings, binding=type(idem._settings.binding)(idem._settings.binding.given), _known=[]
    )
    whose = tenant_inside if callable(tenant) else tenant
    middleware = WSGIIdempotencyMiddleware(app.wsgi_app, own, tenant=whose, **options)
    is_bound = False

    def wsgi_app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        nonlocal is_bound
        if not is_bound:
            with app.app_context():
                own._settings.place  # noqa: B018 - finds the engine
            is_bound = True
        return middleware(environ, start_response)

    def hand_over() -> None:
        if (session := request.environ.get("idemtable.session")) is not None:
            g.session = session

    tear_down = app.do_teardown_request

    def do_teardown_request(*args: Any, **kwargs: Any) -> None:
        # They belong to a request whose before_request functions have run. Those of the application context do run: they
        # give back what the callable has taken, such as Flask-SQLAlchemy's session.
        if _ASKING not in request.environ:
            tear_down(*args, **kwargs)

    app.wsgi_app = wsgi_app  # type: ignore[method-assign]
    app.do_teardown_request = do_teardown_request  # type: ignore[method-assign]
    app.before_request_funcs.setdefault(None, []).insert(0, hand_over)
    app.extensions["idemtable"] = own


def token_blueprint(
    tokens: Tokens, *, subject: Callable[..., Any] | None = None, path: str = "/tokens", name: str = "idemtable_tokens"
) -> Blueprint:
    """Return a blueprint that issues tokens: ``POST /tokens`` answers ``{"token": "…"}``.

    Nothing of the answer is kept: with the same key the request gets another token.

    Args:
        tokens: what `IdemTable.tokens` returned.
        subject: whom a token is for: a function of the request, or of nothing. It must say what the middleware's
            ``tenant`` says of the request that redeems the token. ``None``: tokens that belong to nobody.
        path: of the endpoint.
        name: of the blueprint.

    Raises:
        TypeError: `tokens` are async, or none; `subject` is no function, or an async one.
    """
    if not isinstance(tokens, Tokens):
        raise TypeError(f"token_blueprint takes what IdemTable.tokens(…) returns, not {tokens!r}")
    if subject is not None and not callable(subject):
        raise TypeError(f"subject= takes a function that says whom a token is for, or None, not {subject!r}")
    refuse_async(subject, "subject")
    blueprint = Blueprint(name, __name__)

    @blueprint.post(path)
    def issue_token() -> Any:
        try:
            owner = None if subject is None else checked_tenant(_asked(subject))
            # The request that issues may be protected too: on SQLite a second transaction would wait for the first.
            session = request.environ.get("idemtable.session") if tokens.in_table else None
            return keep_nothing({"token": tokens.issue(owner, session)})
        except IdempotencyError as error:
            answer = refusal(error, DOCS)
            return FlaskResponse(answer.body, answer.status, answer.headers)

    return blueprint


def _asked(subject: Callable[..., Any]) -> Any:
    found = subject(request) if inspect.signature(subject).parameters else subject()
    return awaited_by_nobody(found, "subject")
