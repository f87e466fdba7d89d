"""The rules of a protected request, without a server: what it asks for, what is kept of its answer, what a replay is."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from datetime import timedelta
from decimal import Context, Decimal, InvalidOperation
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict
from uuid import UUID, uuid4

from ..annotations import refuse_async
from ..claim.call import Call, Keys
from ..claim.kinds import UNCLAIMED
from ..claim.returned import RollBack, Unkept
from ..claim.verdict import Verdict
from ..errors import MissingKeyError
from ..fingerprint import fingerprint
from ..keys import MAX_BYTES, checked_key, checked_tenant
from ..model import Request as Wish
from ..settings import checked_count, checked_flag, checked_ttl, checked_wait
from ..tokens.base import BaseTokens
from .field import Syntax, checked_field, checked_fields, checked_methods, checked_syntax, key_of
from .form import UnreadableFormError, content_of, field_of
from .messages import BODILESS, RESPONSES, Request, Response, check_length
from .problems import DOCS, FORM, QUOTA, Refused, answer, checked_docs
from .waiters import Waiters

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from ..settings import Settings


class _SingleTenant:
    def __repr__(self) -> str:
        return "SINGLE_TENANT"


SINGLE_TENANT: Final = _SingleTenant()
"""For ``tenant=``: all callers are one, and whoever knows a key gets its response. Right for a service with one client."""

KEPT_HEADERS: Final = (
    "content-disposition", "content-language", "content-location", "etag", "last-modified", "link", "location",
)  # fmt: skip
"""What a replay repeats, beside what the bytes of the body mean nothing without."""
_NEEDED: Final = frozenset({"content-type", "content-encoding"})
_SECRET: Final = frozenset({
    "authentication-info", "authorization", "cookie", "proxy-authenticate", "proxy-authentication-info",
    "proxy-authorization", "set-cookie", "set-cookie2", "www-authenticate",
})  # fmt: skip
"""What is somebody's own, and never another one's who sends the same request."""
_FRAMING: Final = frozenset({
    "connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
})  # fmt: skip
"""What says how one message travels."""

_LATER: Final = 60.0
"""Seconds: a full quota empties as records expire, not from one moment to the next."""

TOKEN_HEADER: Final = "X-Idempotency-Token"  # noqa: S105 - its name
TOKEN_FIELD: Final = "token"  # noqa: S105

Given = Callable[[Request], Any]


class Options(TypedDict, total=False):
    """What both middlewares take beside `tenant`."""

    methods: Collection[str]
    required: bool | Callable[[Request], bool]
    header: str
    syntax: Syntax
    scope: str | Callable[[Request], str] | None
    fingerprint: Literal["raw", "json"] | Given
    store: Callable[[Response], bool] | None
    max_body: int
    max_response: int
    replay_header: str | None
    headers: Collection[str]
    ttl: timedelta | None
    wait: timedelta | None
    docs_url: str
    tokens: Any
    max_waiters: int
    quota: int | None


class Rules:
    """What a middleware was told, checked once.

    Args:
        settings: of the table.
        tenant: for whom a request is, or `SINGLE_TENANT`.
        methods, required, …: those of `IdempotencyMiddleware`.

    Raises:
        TypeError, ValueError: one of them cannot be.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        tenant: Any,
        methods: Collection[str] = ("POST", "PATCH"),
        required: bool | Callable[[Request], bool] = False,
        header: str = "Idempotency-Key",
        syntax: Syntax = "lenient",
        scope: str | Callable[[Request], str] | None = None,
        fingerprint: Literal["raw", "json"] | Given = "raw",
        store: Callable[[Response], bool] | None = None,
        max_body: int = 1_048_576,
        max_response: int = 262_144,
        replay_header: str | None = "Idempotent-Replayed",
        headers: Collection[str] = KEPT_HEADERS,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
        docs_url: str = DOCS,
        tokens: Any = None,
        max_waiters: int = 4,
        quota: int | None = None,
    ) -> None:
        if tenant is not SINGLE_TENANT and not callable(tenant):
            raise TypeError(
                f"tenant= takes a callable that is given the request and says for whom it is, or SINGLE_TENANT, "
                f"not {tenant!r}"
            )
        if fingerprint not in ("raw", "json") and not callable(fingerprint):
            raise ValueError(f"fingerprint= is 'raw', 'json' or a callable, not {fingerprint!r}")
        if not (scope is None or isinstance(scope, str) or callable(scope)):
            raise TypeError(f"scope= takes a name or a callable that is given the request, not {scope!r}")
        if tokens is not None and not isinstance(tokens, BaseTokens):
            raise TypeError(f"tokens= takes what idem.tokens(…) returns, not {tokens!r}")
        if tokens is not None:
            tokens.check_table(settings)
        if store is not None and not callable(store):
            raise TypeError(f"store= takes a callable that is given the response, not {store!r}")
        kept = checked_fields(headers, "headers")
        if secret := sorted(kept & _SECRET):
            raise ValueError(f"headers= names {secret[0]}, which belongs to one caller: it is never kept")
        if framing := sorted(kept & _FRAMING):
            raise ValueError(f"headers= names {framing[0]}, which belongs to one message: a replay has its own")
        for name, given in (("required", required), ("scope", scope), ("fingerprint", fingerprint), ("store", store)):
            refuse_async(given, name)
        self.settings = settings
        self.tenant = tenant
        self.methods = checked_methods(methods)
        self.required = required if callable(required) else checked_flag(required, "required")
        self.header = checked_field(header, "header")
        self.max_body = checked_count(max_body, "max_body")
        self.docs = checked_docs(docs_url)
        self.quota = None if quota is None else checked_count(quota, "quota")
        self.waiters = Waiters(checked_count(max_waiters, "max_waiters"))
        self._syntax = checked_syntax(syntax)
        self._scope = scope
        self._fingerprint = fingerprint
        self._store = _is_good if store is None else store
        self._max_response = checked_count(max_response, "max_response")
        self._replay_header = None if replay_header is None else checked_field(replay_header, "replay_header")
        self._kept = kept | _NEEDED
        self._tokens: BaseTokens | None = tokens
        # Checked here, where the program starts, and not with the first request.
        self._times: dict[str, Any] = {"ttl": ttl, "wait": wait}
        if ttl is not None:
            checked_ttl(ttl)
        if wait is not None:
            checked_wait(wait)
        if isinstance(scope, str):
            Keys(settings, scope, results=RESPONSES)

    # --- what a request asks for ------------------------------------------------------------------------------------------

    def protects(self, method: str) -> bool:
        """Say whether requests of this method are protected; Werkzeug and Django take ``post`` for POST."""
        return method.upper() in self.methods

    def key_of(self, headers: Any) -> str | None:
        """Return the key in a request's headers; raise InvalidKeyError for one that is not usable."""
        return key_of(headers.lines(self.header), self._syntax)

    def call(self, request: Request, key: str | None, tenant: Any) -> Call:
        """Return what a request asks of the engine.

        Args:
            request: with its body.
            key: from its headers.
            tenant: what the middleware's ``tenant`` said of it.

        Raises:
            KeyRejectedError: key or tenant are not usable, or there is no key and one is required.
            Refused: with the response to a form in which nobody can find a token.
        """
        printed = partial(fingerprint, self._payload(request))
        try:
            token = None if self._tokens is None else _token_of(request)
        except UnreadableFormError as error:
            raise Refused(answer(FORM, str(error), self.docs)) from None
        if self._tokens is not None and token is not None:
            self._tokens.check_table(self.settings)  # again: a bind may have come since
            asks = self._tokens.asks(RESPONSES, self._times["wait"])
            return asks.call(asks.key(token), self._whose(tenant), printed)
        if key is None:
            if self.required(request) if callable(self.required) else self.required:
                raise MissingKeyError(f"the request has no header {self.header}")
            wish = Wish(uuid4().bytes, None, self._scope_of(request), None, None, 0, bytes(16))
            return Call(wish, UNCLAIMED, RESPONSES, self.settings.wait)
        keys = Keys(self.settings, self._scope_of(request), results=RESPONSES, **self._times)
        return keys.call(checked_key(key), self._whose(tenant), printed)

    def admit(self, call: Call, session: Session) -> None:
        """Refuse a request whose tenant has too many records; asked once its own stands, and before the handler runs.

        Raises:
            Refused: with the response.
        """
        if self.quota is None or call.kind is UNCLAIMED:
            return
        connection = session.connection()
        records = self.settings.place.records_of(connection, session)
        if records.live(connection, call.request.tenant, self.quota + 1) > self.quota:
            raise Refused(answer(QUOTA, "Too many requests are remembered; send it again later.", self.docs, _LATER))

    def _whose(self, tenant: Any) -> str | None:
        if self.tenant is SINGLE_TENANT:
            return None
        if not (
            tenant is None or isinstance(tenant, str | UUID)
        ):  # the program's mistake, and no matter of the client's
            raise TypeError(f"tenant= has returned a {type(tenant).__name__}: return a str or a uuid.UUID")
        return checked_tenant(tenant)

    def _scope_of(self, request: Request) -> str:
        if self._scope is not None:
            return self._scope(request) if callable(self._scope) else self._scope
        scope = f"{request.method} {request.path}"
        if len(scope.encode(errors="replace")) <= MAX_BYTES and scope.isprintable():
            return scope
        return f"{request.method} sha256:{sha256(request.path.encode(errors='surrogatepass')).hexdigest()}"

    def _payload(self, request: Request) -> Any:
        # Method, path and query whatever the scope is: /orders/2/pay must never get the answer of /orders/1/pay.
        where = (request.method, request.path, request.query)
        if callable(self._fingerprint):
            return (*where, self._fingerprint(request))
        if self._fingerprint == "json":
            try:
                return (*where, json.loads(request.body, parse_float=_number))
            except (ValueError, RecursionError, InvalidOperation):  # then its bytes must be the same
                pass
        return (*where, *content_of(request))

    # --- what is kept of its answer ---------------------------------------------------------------------------------------

    def judged(self, call: Call, response: Response, *, is_head: bool, keep: bool, frees: bool) -> Any:
        """Return what the engine is to make of a response: keep it, commit without it, or roll back.

        Args:
            call: of the request.
            response: as the application gave it.
            is_head: whether the request was one whose response has no body.
            keep: whether the application has said that it is to be kept.
            frees: whether it has said that nothing is.

        Raises:
            ResultNotSerializableError: the body is not as long as the response says.
        """
        if not keep and not self._store(response):
            return RollBack(response)
        if not is_head:
            check_length(response)
        if frees or call.kind is UNCLAIMED:
            return Unkept(response, frees)
        kept = [(name.lower(), value) for name, value in response.headers if name.lower() in self._kept]
        stored = Response(response.status, kept, response.body)
        size = len(response.body) + sum(len(name) + len(value) for name, value in kept)
        return Unkept(stored) if size > self._max_response else stored

    def asks_again(self, outcome: Any, error: Exception | None) -> bool:
        """Say whether the database has asked to begin again, and the application has made a refusal of it.

        Frameworks do: what the handler raised is a page of theirs by the time it comes here.

        Args:
            outcome: what is to come of the response.
            error: the last that the database gave the application.
        """
        return isinstance(outcome, RollBack) and error is not None and Verdict(error, self.settings.dialect).restarts

    def replay(self, response: Response) -> Response:
        """Return a stored response as it is sent again."""
        headers, body = [*response.headers], response.body
        if all(name != "cache-control" for name, _ in headers):  # which is kept where headers= names it
            headers.append(("cache-control", "no-store"))
        if response.status in BODILESS:
            body = b""
        else:
            headers.append(("content-length", str(len(body))))
        if self._replay_header is not None:
            headers.append((self._replay_header.lower(), "true"))
        return Response(response.status, headers, body)

    def waiting(self, call: Call) -> AbstractContextManager[None]:
        """Let so many requests with one key wait, and refuse the others at once."""
        return self.waiters.one(None if call.kind is UNCLAIMED else call.request.id)


def _is_good(response: Response) -> bool:
    return response.status < 400


_STRICT: Final = Context(traps=[InvalidOperation])  # whatever the application has set for its own


def _number(text: str) -> float | Decimal:
    """Return the float that is written so, whatever its zeros; for another number the number, which no float stands for."""
    number = float(text)
    if repr(number) == text:
        return number
    exact = Decimal(text, _STRICT)
    return number if exact == Decimal(repr(number)) else exact


def _token_of(request: Request) -> str | None:
    lines = request.headers.lines(TOKEN_HEADER)
    if lines:
        return lines[0] if len(lines) == 1 else ""
    return field_of(request, TOKEN_FIELD)
