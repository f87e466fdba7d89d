"""The middleware for WSGI: the response commits with the data, before the server has seen it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Unpack

from ..annotations import refuse_async
from ..claim.run import Run
from ..errors import IdempotencyError, ResultNotSerializableError
from ..table import IdemTable
from .exchange import SINGLE_TENANT, Options, Rules
from .messages import Headers, Request, Response, length_of
from .performance import BasePerformance
from .problems import TOO_LARGE, Refused, answer, incomplete, reason, refusal
from .wishes import Wishes, answering

if TYPE_CHECKING:
    from ..claim.call import Call

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
App = Callable[[Environ, StartResponse], Iterable[bytes]]


class WSGIIdempotencyMiddleware:
    """Make requests safe to send again: status, headers and body are stored in the transaction of the handler's writes.

    The handler's session is ``environ["idemtable.session"]``. WSGI does not tell of a client that has gone: what it asked
    for is committed.

    Args:
        app: the application. It answers with a whole response: an iterable with ``len()``, or with a ``Content-Length``.
        idem: the table.
        tenant: for whom a request is: a callable that is given the `Request`, or `SINGLE_TENANT`.
        options: those of `IdempotencyMiddleware`.

    Raises:
        TypeError, ValueError: an argument cannot be.
    """

    def __init__(self, app: App, idem: IdemTable, *, tenant: Any, **options: Unpack[Options]) -> None:
        self.idem = checked_table(idem)
        if not callable(app):
            raise TypeError(f"the middleware takes a WSGI application, not {app!r}")
        refuse_async(tenant, "tenant")
        self.app = app
        self._rules = Rules(idem._settings, tenant=tenant, **options)
        if "_" in self._rules.header:
            raise ValueError("header= has an underscore, which WSGI cannot tell from a hyphen: name it with a hyphen")

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        if not self._rules.protects(environ["REQUEST_METHOD"]):
            return self.app(environ, start_response)
        performance = None
        try:
            try:
                performance = self._asked(environ)
                answered = self._performed(performance)
            except IdempotencyError as error:
                answered = refusal(error, self._rules.docs)
            except Refused as refused:
                answered = refused.response
        except BaseException:
            if performance is not None:
                performance.close()
            raise
        if answered is None:
            assert performance is not None
            try:
                start_response(performance.status, performance.headers)
            except BaseException:
                performance.close()
                raise
            return _Closing([performance.body], performance.close)
        if performance is not None:
            performance.close()
        start_response(reason(answered.status), answered.headers)
        return [answered.body]

    def _asked(self, environ: Environ) -> _Performance:
        rules = self._rules
        headers = Headers(_headers(environ))
        key = rules.key_of(headers)
        body = _body(environ, rules)
        raw = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
        path = raw.decode(errors="surrogateescape")  # to replace what is no UTF-8 would make one path of two
        request = Request(
            environ["REQUEST_METHOD"].upper(), path, environ.get("QUERY_STRING", ""), headers, body, environ=environ
        )
        tenant = None if rules.tenant is SINGLE_TENANT else awaited_by_nobody(rules.tenant(request), "tenant")
        return _Performance(self.app, environ, body, rules, rules.call(request, key, tenant))

    def _performed(self, performance: _Performance) -> Response | None:
        rules, call = self._rules, performance.call
        with rules.waiting(call):
            try:
                outcome = Run(rules.settings, call).outcome(performance.run)
            except Exception as error:
                return performance.failed(error)
        return rules.replay(outcome.value) if outcome.replayed or not performance.status else None


class _Performance(BasePerformance):
    def __init__(self, app: App, environ: Environ, body: bytes, rules: Rules, call: Call) -> None:
        super().__init__(rules, call, environ, environ["REQUEST_METHOD"])
        self._app, self._body = app, body
        self.status = ""
        self.headers: list[tuple[str, str]] = []
        self.body = b""
        self._iterable: Iterable[bytes] = ()

    def run(self, session: Any) -> Any:
        """Be what the engine runs: the application, until its response is complete."""
        self.close()
        self._rules.admit(self.call, session)
        self._begin()
        self.status, self.headers = "", []
        wishes = Wishes(answering.get())
        environ = {
            **self._around,
            "wsgi.input": io.BytesIO(self._body),
            "CONTENT_LENGTH": str(len(self._body)),
            "idemtable.session": session,
        }
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        token = answering.set(wishes)
        try:
            self.body = self._answered(environ)
        except BaseException as error:
            self.raised = error
            self.close()  # before its session is rolled back
            raise
        finally:
            answering.reset(token)
        response = Response(int(self.status.split(" ", 1)[0]), list(self.headers), self.body)
        return self._judged(response, wishes)

    def _answered(self, environ: Environ) -> bytes:
        written: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            # Nothing was sent, so the application may begin its response anew after an error.
            if self.status and exc_info is None:
                raise AssertionError("start_response was called twice without exc_info")
            self.status, self.headers = status, headers
            written.clear()
            return written.append

        self._iterable = self._app(environ, start_response)
        # A generator calls start_response when its first part is asked for, so that only then its headers are known.
        parts = iter(self._iterable)
        first = next(parts, None)
        if first is not None:
            if not hasattr(self._iterable, "__len__") and not self._has_length():
                raise ResultNotSerializableError(
                    "a streaming response cannot be committed before it is sent, nor replayed: answer with a whole one, or "
                    "leave this path out of the middleware"
                )
            written.append(first)
            for part in parts:  # an error in the middle may begin the response anew
                written.append(part)
        if not self.status:
            raise RuntimeError("the application has returned without start_response")
        return b"".join(written)

    def _has_length(self) -> bool:
        return any(name.lower() == "content-length" for name, _ in self.headers)

    def close(self) -> None:
        """Close what the application returned."""
        iterable, self._iterable = self._iterable, ()
        if (close := getattr(iterable, "close", None)) is not None:
            close()


class _Closing:
    """A response whose application is told when the server has sent it."""

    def __init__(self, parts: list[bytes], close: Callable[[], None]) -> None:
        self._parts = parts
        self.close = close

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._parts)


def checked_table(idem: object) -> IdemTable:
    """Return a table that WSGI can use; raise TypeError for an async one, and for what is none."""
    if not isinstance(idem, IdemTable):
        raise TypeError(f"WSGI is sync: use IdemTable, not {idem!r}")
    return idem


def awaited_by_nobody(value: Any, name: str) -> Any:
    """Return what a callable has given; raise TypeError for what it would have to be awaited for."""
    if hasattr(value, "__await__"):
        getattr(value, "close", lambda: None)()
        raise TypeError(f"{name}= is async, and WSGI is not: give it a plain function")
    return value


def _headers(environ: Environ) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if name.startswith("HTTP_"):
            yield name[5:].replace("_", "-"), value
        elif name in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
            yield name.replace("_", "-"), value


def _body(environ: Environ, rules: Rules) -> bytes:
    """Return a request's body.

    Raises:
        Refused: it is too large, and the rest is not read; or it has ended before its end.
    """
    most = rules.max_body
    length = length_of(environ.get("CONTENT_LENGTH") or "", most)
    if length is not None:
        if length <= most:
            body = _read(environ["wsgi.input"], length)
            if len(body) == length:
                return body
            # The client has hung up, and servers give what had come until then: an order for 100 would be one for 10.
            raise Refused(incomplete(rules.docs))
    elif not environ.get("wsgi.input_terminated"):  # nothing says where a body would end, so there is none
        return b""
    else:
        body = _read(environ["wsgi.input"], most + 1)
        if len(body) <= most:
            return body
    raise Refused(answer(TOO_LARGE, f"At most {most} bytes are taken.", rules.docs))


def _read(stream: Any, size: int) -> bytes:
    parts: list[bytes] = []
    while size and (part := stream.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
