"""FastAPI: the session of a protected request, an endpoint that issues tokens, and what OpenAPI should say.

::

    app = FastAPI()
    app.add_middleware(IdempotencyMiddleware, idem, tenant=current_tenant)
    document(app)

    @app.post("/orders")
    def create_order(order: Order, session: Annotated[Session, Depends(session)]) -> Receipt: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from http import HTTPStatus
from typing import Any, Final

try:
    from fastapi import APIRouter, Depends, FastAPI
    from fastapi import Request as FastAPIRequest
    from fastapi import Response as FastAPIResponse
except ImportError as error:
    raise ImportError('idemtable.web.fastapi needs FastAPI: pip install "idemtable[fastapi]"') from error

from ..errors import IdempotencyError
from ..keys import checked_tenant
from ..settings import checked_flag
from ..tokens import AsyncTokens, Tokens
from .asgi import IdempotencyMiddleware
from .field import PATTERNS, Syntax, checked_field, checked_methods, checked_syntax
from .messages import Request
from .problems import DOCS, refusal
from .wishes import keep_nothing

__all__ = ["document", "session", "token_router"]


async def session(request: FastAPIRequest) -> Any:
    """Return the session of a protected request: for ``Depends``.

    It is committed by the middleware, before the response is sent. FastAPI's own ``yield`` dependencies end after it was
    sent, when nobody can be told any more that COMMIT has failed.

    Returns:
        A Session or, where the middleware has an `AsyncIdemTable`, an AsyncSession.

    Raises:
        RuntimeError: the request is not protected: its method is none of the middleware's, or there is no middleware.
    """
    found = getattr(request.state, "session", None)
    if found is None:
        raise RuntimeError(
            f"{request.method} {request.url.path} has no session: add IdempotencyMiddleware to the application, with this "
            f"method among its methods=; for requests that only read, depend on a session of your own"
        )
    return found


def token_router(
    tokens: Tokens | AsyncTokens, *, subject: Callable[..., Any] | None = None, path: str = "/tokens"
) -> APIRouter:
    """Return a router that issues tokens: ``POST /tokens`` answers ``{"token": "…"}``.

    Nothing of the answer is kept: with the same key the request gets another token.

    Args:
        tokens: what `IdemTable.tokens` returned.
        subject: whom a token is for: a dependency of FastAPI's, or a function of the request. It must say what the
            middleware's ``tenant`` says of the request that redeems the token. ``None``: tokens that belong to nobody.
        path: of the endpoint.

    Raises:
        TypeError: `tokens` are none, or `subject` is no function.
    """
    if not isinstance(tokens, Tokens | AsyncTokens):
        raise TypeError(f"token_router takes what idem.tokens(…) returns, not {tokens!r}")
    if subject is not None and not callable(subject):
        raise TypeError(f"subject= takes a function that says whom a token is for, or None, not {subject!r}")
    router = APIRouter()
    whose = Depends(_dependency(subject))

    def checked(found: Any) -> str | None:
        return None if subject is None else checked_tenant(found)

    def inside(request: FastAPIRequest) -> Any:
        # The request that issues may be protected too: on SQLite a second transaction would wait for the first.
        return getattr(request.state, "session", None) if tokens.in_table else None

    if isinstance(tokens, AsyncTokens):

        async def issue_async(request: FastAPIRequest, found: Any = whose) -> Any:
            """Issue a one-time token."""
            try:
                return keep_nothing({"token": await tokens.issue(checked(found), inside(request))})
            except IdempotencyError as error:
                return _refused(error)

        router.post(path, response_model=dict[str, str], name="issue_token")(issue_async)
    else:

        def issue(request: FastAPIRequest, found: Any = whose) -> Any:
            """Issue a one-time token."""
            try:
                return keep_nothing({"token": tokens.issue(checked(found), inside(request))})
            except IdempotencyError as error:
                return _refused(error)

        router.post(path, response_model=dict[str, str], name="issue_token")(issue)
    return router


def _dependency(subject: Callable[..., Any] | None) -> Callable[..., Any]:
    if subject is None:
        return lambda: None
    plain = [one for one in inspect.signature(subject).parameters.values() if one.annotation is one.empty]
    if len(plain) != 1:  # a dependency says what it wants
        return subject
    function = subject

    def of_request(request: FastAPIRequest) -> Any:
        return function(request)

    given = Depends(of_request)

    async def awaited(found: Any = given) -> Any:  # not every callable tells beforehand that it is async
        return await found if inspect.isawaitable(found) else found

    return awaited


def _refused(error: IdempotencyError) -> FastAPIResponse:
    answer = refusal(error, DOCS)
    return FastAPIResponse(answer.body, answer.status, dict(answer.headers))


# --- OpenAPI --------------------------------------------------------------------------------------------------------------

_TITLE: Final = "IdempotencyProblem"
_PROBLEM: Final = {
    "type": "object",
    "title": "Problem",
    "description": "Problem details of RFC 9457.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "format": "uri"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_UNREADABLE: Final = {  # what FastAPI says of a body that is no text
    "schema": {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
}
_REFUSALS: Final = {
    400: "The idempotency key is missing or not usable, or the body cannot be read.",
    409: "The same request is still being worked on: send it again after `Retry-After` seconds.",
    422: "The idempotency key belongs to another request.",
}


def document(
    app: FastAPI,
    *,
    methods: Collection[str] | None = None,
    header: str | None = None,
    required: bool | Callable[[Request], bool] | None = None,
    syntax: Syntax | None = None,
) -> None:
    """Have an application's OpenAPI tell of the header, and of 400, 409 and 422, on the operations that are protected.

    Args:
        app: the application, before or after its middleware was added.
        methods, header, required, syntax: those of a middleware that stands round the application, and is none of its own.

    Raises:
        TypeError, ValueError: an argument cannot be.
    """
    if not isinstance(app, FastAPI):
        raise TypeError(f"document takes the FastAPI application, not {app!r}")
    if methods is not None:
        methods = checked_methods(methods)
    if header is not None:
        checked_field(header, "header")
    if required is not None and not callable(required):
        checked_flag(required, "required")
    if syntax is not None:
        checked_syntax(syntax)
    original = app.openapi
    told = {"methods": methods, "header": header, "required": required, "syntax": syntax}
    options = {name: value for name, value in told.items() if value is not None}

    def openapi() -> dict[str, Any]:
        schema = original()  # which need not remember it
        if _TITLE not in schema.get("components", {}).get("schemas", {}):
            _amend(schema, {**_options_of(app), **options})
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _options_of(app: FastAPI) -> dict[str, Any]:
    for one in app.user_middleware:
        if one.cls is IdempotencyMiddleware:  # type: ignore[comparison-overlap]
            return dict(one.kwargs)
    return {}


def _amend(schema: dict[str, Any], options: dict[str, Any]) -> None:
    methods: Collection[str] = options.get("methods", ("POST", "PATCH"))
    syntax: Syntax = options.get("syntax", "lenient")
    field = {
        "name": options.get("header", "Idempotency-Key"),
        "in": "header",
        "required": options.get("required", False) is True,
        "description": (
            "A key that the client makes once for a request and sends again with each repetition of it: 1 to 255 visible "
            f"characters, in quotes{' or bare' if syntax == 'lenient' else ''}."
        ),
        "schema": {"type": "string", "pattern": PATTERNS[syntax]},
        "example": '"8e03978e-40d5-43e8-bc93-6894a57f9324"',
    }
    schema.setdefault("components", {}).setdefault("schemas", {})[_TITLE] = _PROBLEM
    content = {"schema": {"$ref": f"#/components/schemas/{_TITLE}"}}
    for path in schema.get("paths", {}).values():
        for method in methods:
            if (operation := path.get(method.lower())) is None:
                continue
            operation.setdefault("parameters", []).append(field)
            for status, text in _REFUSALS.items():
                response = operation.setdefault("responses", {}).setdefault(str(status), {"description": text})
                response.setdefault("content", {})["application/problem+json"] = content
                if status == HTTPStatus.BAD_REQUEST and "requestBody" in operation:
                    response["content"].setdefault("application/json", _UNREADABLE)
                if status == HTTPStatus.CONFLICT:
                    wait = {"description": "Seconds.", "schema": {"type": "integer"}}
                    response.setdefault("headers", {})["Retry-After"] = wait
