"""One text for both interfaces of HTTP: a site with a protected handler, and requests that are sent to it."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy.orm import Session

from idemtable.claim import steps
from idemtable.claim.steps import Step
from idemtable.web import SINGLE_TENANT, IdempotencyMiddleware, WSGIIdempotencyMiddleware
from tests.support import PATIENCE
from tests.support.database import Database
from tests.support.plain import Loop

Pairs = Sequence[tuple[str, str]]


@dataclass
class Answer:
    """What a client got."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def lines(self, name: str) -> list[str]:
        return [value for known, value in self.headers if known.lower() == name.lower()]

    def __getitem__(self, name: str) -> str | None:
        found = self.lines(name)
        return found[0] if found else None

    @property
    def replayed(self) -> bool:
        return self["Idempotent-Replayed"] == "true"

    @property
    def problem(self) -> str:
        """The last part of its type."""
        assert self["Content-Type"] == "application/problem+json"
        told = json.loads(self.body)
        assert told["status"] == self.status
        return str(told["type"]).partition("#")[2]


@dataclass
class Visit:
    """What a handler is given."""

    session: Session
    method: str
    path: str
    query: str
    body: bytes
    around: Any = None
    """The scope or environ."""


Reply = tuple[int, Pairs, bytes]
Handler = Callable[[Visit], "Reply | bytes"]


class Site:
    """An application with one handler, behind the middleware.

    Args:
        db: where its table is.
        handler: answers every request; bytes are a 200.
        later: is called when the response was sent.
        options: of the middleware.
    """

    def __init__(
        self,
        db: Database,
        handler: Handler,
        *,
        later: Callable[[], None] | None = None,
        idem: Any = None,
        **options: Any,
    ) -> None:
        self.db, self._handler, self._later = db, handler, later
        idem = db.idem if idem is None else idem
        self.idem = getattr(idem, "inner", idem)
        self.events: list[str] = []
        """COMMIT and what came of it, in order."""
        options.setdefault("tenant", SINGLE_TENANT)
        self._build(options)

    def _build(self, options: dict[str, Any]) -> None:
        raise NotImplementedError

    def _answer(self, session: Any, *visit: Any) -> Reply:
        answer = self._handler(Visit(session, *visit))
        return (200, [("Content-Type", "text/plain")], answer) if isinstance(answer, bytes) else answer

    def post(self, path: str = "/orders", body: bytes = b"{}", key: str | None = None, **more: Any) -> Answer:
        headers = list(more.pop("headers", ()))
        if key is not None:
            headers.append(("Idempotency-Key", key))
        return self.send(more.pop("method", "POST"), path, headers, body, **more)

    def send(self, method: str, path: str, headers: Pairs = (), body: bytes = b"", **more: Any) -> Answer:
        raise NotImplementedError

    @contextmanager
    def watched(self) -> Iterator[list[str]]:
        """Write down COMMIT and the first byte in the order in which they come."""
        self.events.clear()

        def listen(moment: steps.Moment) -> None:
            if moment.step is Step.COMMITTED and moment.owned:
                self.events.append("commit")

        with steps.listening(listen):
            yield self.events

    def close(self) -> None:
        """Give back what the site held."""


class AsgiSite(Site):
    """Under ASGI. `threads`: the handler runs on a thread, as FastAPI runs a plain function."""

    threads = False
    _own: Loop | None = None

    def _build(self, options: dict[str, Any]) -> None:
        self.app = IdempotencyMiddleware(self._application, self.idem, **options)
        if self.db.loop is None:
            self._own = Loop()
        self.loop: Loop = self.db.loop or self._own  # type: ignore[assignment]

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    async def _application(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        session = scope.get("state", {}).get("session")
        visit = (scope["method"], scope["path"], scope["query_string"].decode(), body, scope)
        if session is None or not self.db.is_async:
            if self.threads:
                status, headers, content = await asyncio.to_thread(self._answer, session, *visit)
            else:
                status, headers, content = self._answer(session, *visit)
        else:
            status, headers, content = await session.run_sync(lambda sync: self._answer(sync, *visit))
        pairs = [(name.encode(), value.encode()) for name, value in headers]
        await send({"type": "http.response.start", "status": status, "headers": pairs})
        await send({"type": "http.response.body", "body": content})
        if self._later is not None:
            await asyncio.to_thread(self._later)

    def send(self, method: str, path: str, headers: Pairs = (), body: bytes = b"", **more: Any) -> Answer:
        return self.loop.run(self.asend(method, path, headers, body, **more))  # type: ignore[no-any-return]

    async def asend(
        self,
        method: str,
        path: str,
        headers: Pairs = (),
        body: bytes = b"",
        *,
        query: str = "",
        chunks: Sequence[bytes] | None = None,
        gone: asyncio.Event | None = None,
        app: Any = None,
        around: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Send a request. `gone`: the client hangs up when it is set. `around`: what middlewares outside have made."""
        parts = [body] if chunks is None else list(chunks)
        self.parts_read = 0
        over = asyncio.Event()
        answer = Answer(0)

        async def receive() -> dict[str, Any]:
            if self.parts_read < len(parts):
                self.parts_read += 1
                more = self.parts_read < len(parts)
                return {"type": "http.request", "body": parts[self.parts_read - 1], "more_body": more}
            await (over if gone is None else gone).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert answer.status == 0, "two responses"
                self.events.append("first byte")
                answer.status = message["status"]
                answer.headers = [(name.decode(), value.decode()) for name, value in message.get("headers", ())]
            elif message["type"] == "http.response.body":
                answer.body += message.get("body", b"")
                if not message.get("more_body"):
                    over.set()

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers],
            **(around or {}),
        }
        await (app or self.app)(scope, receive, send)
        return answer


class ThreadedSite(AsgiSite):
    threads = True


class WsgiSite(Site):
    """Under WSGI."""

    def _build(self, options: dict[str, Any]) -> None:
        self.app = WSGIIdempotencyMiddleware(self._application, self.idem, **options)
        self.closed = 0

    def _application(self, environ: Any, start_response: Any) -> Any:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        visit = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"], body, environ)
        status, headers, content = self._answer(environ.get("idemtable.session"), *visit)
        start_response(f"{status} Whatever", list(headers))
        site = self

        class Parts(list[bytes]):
            def close(self) -> None:
                site.events.append("close")
                site.closed += 1
                if site._later is not None:
                    site._later()

        return Parts([content])

    def send(
        self,
        method: str,
        path: str,
        headers: Pairs = (),
        body: bytes = b"",
        *,
        query: str = "",
        app: Any = None,
        around: Mapping[str, Any] | None = None,
    ) -> Answer:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "wsgi.input": io.BytesIO(body),
            "CONTENT_LENGTH": str(len(body)),
            **(around or {}),
        }
        for name, value in headers:
            name = name.upper().replace("-", "_")
            name = name if name == "CONTENT_TYPE" else f"HTTP_{name}"
            environ[name] = f"{environ[name]}, {value}" if name in environ else value  # as servers do
        answer = Answer(0)

        def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
            self.events.append("first byte")
            answer.status, answer.headers = int(status.split()[0]), list(headers)

        parts = (app or self.app)(environ, start_response)
        answer.body = b"".join(parts)
        if hasattr(parts, "close"):
            parts.close()
        return answer


SITES: Final = {"asgi": AsgiSite, "asgi-threads": ThreadedSite, "wsgi": WsgiSite}
__all__ = ["PATIENCE", "SITES", "Answer", "AsgiSite", "Site", "Visit", "WsgiSite"]
