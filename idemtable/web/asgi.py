"""The middleware for ASGI: the response commits with the data, before its first byte is sent."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import MutableMapping
from concurrent.futures import CancelledError as Cancelled
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Unpack
from urllib.parse import unquote_to_bytes

from ..claim.run import AsyncRun, Run
from ..errors import IdempotencyError
from ..table import IdemTable
from ..table_async import AsyncIdemTable
from .exchange import SINGLE_TENANT, Options, Rules
from .messages import Headers, Request, Response, length_of
from .performance import BasePerformance
from .problems import TOO_LARGE, Refused, answer, hung_up, incomplete, refusal
from .stage import App, Gone, Line, Message, Receive, Send, Stage, outlasted

if TYPE_CHECKING:
    from ..claim.call import Call
    from ..model import Outcome

_THREADS = 40
"""Each carries one request on a sync table from its claim to its COMMIT. More than a pool of SQLAlchemy's has connections
(15), so that this is not what requests wait for."""


class IdempotencyMiddleware:
    """Make requests safe to send again: status, headers and body are stored in the transaction of the handler's writes.

    The handler's session is ``scope["state"]["session"]`` (Starlette's and FastAPI's ``request.state.session``). What it
    writes there is committed before the first byte of the response is sent; an application that raises, or answers with a
    status that ``store`` refuses, leaves nothing behind. A handler's exception that the framework makes a response of is
    judged by that response. The handler runs again where the database asks for it (a deadlock).

    Args:
        app: the application. It is given the whole body, and may answer with a whole response only.
        idem: the table. With an `IdemTable` the work of the database is done on threads.
        tenant: for whom a request is: a callable that is given the `Request`, which may be async, or `SINGLE_TENANT`. A
            request with a key for which it returns ``None`` or an empty text is refused.
        methods: of the requests that are protected; POST and PATCH. All others pass untouched.
        required: whether a request needs a key; or a callable that is given the request and says so. One without a key runs
            and commits the same way, without a claim.
        header: that carries the key.
        syntax: ``"lenient"`` takes a bare key for the quoted one; ``"strict"`` wants the String in quotes of
            draft-ietf-httpapi-idempotency-key-header-07.
        scope: what the key belongs to beside the tenant: a name, or a callable that is given the request; method and path
            by default. Method, path and query are compared whatever it is.
        fingerprint: what else a second use of the key must have in common with the first: ``"raw"``, the bytes and their
            type; ``"json"``, what they mean; or a callable that is given the request.
        store: says of a `Response` whether it is kept and its writes committed; by default, if its status is below 400.
            Others are rolled back and sent.
        max_body: bytes of a request, 1 MiB. A larger one is refused before the rest is read.
        max_response: bytes of a response with its headers, 256 KiB. The effect of a larger one is committed, and it is sent
            and not kept: sent again, the request gets 409 and does not run.
        replay_header: that a replay carries, with the value ``true``; ``None`` for none.
        headers: the names that a replay repeats, beside Content-Type and Content-Encoding. Never a cookie, a credential or
            what frames a message. A Cache-Control among them stands in the place of the replay's ``no-store``.
        ttl: instead of the table's.
        wait: instead of the table's.
        docs_url: the page that problems refer to, an absolute URL; the type of each is this with its name as the fragment.
        tokens: one-time tokens that are redeemed in the place of a key, from the header ``X-Idempotency-Token`` or the form
            field ``token``. Their subject is the tenant.
        max_waiters: how many requests with one key may wait in this process; the next gets 409 at once.
        quota: how many records that have not expired a tenant may have; none by default. They are counted without an index
            before each first run, which takes its time in a table of millions.

    Raises:
        TypeError, ValueError: an argument cannot be.
    """

    def __init__(
        self,
        app: App,
        idem: IdemTable | AsyncIdemTable,
        *,
        tenant: Any,
        **options: Unpack[Options],
    ) -> None:
        if not isinstance(idem, IdemTable | AsyncIdemTable):
            raise TypeError(f"the middleware takes an IdemTable or AsyncIdemTable, not {idem!r}")
        if not callable(app):
            raise TypeError(f"the middleware takes an ASGI application, not {app!r}")
        self.app = app
        self.idem = idem
        self._rules = Rules(idem._settings, tenant=tenant, **options)
        self._is_async = isinstance(idem, AsyncIdemTable)
        self._threads: ThreadPoolExecutor | None = None
        self._process = 0
        """Whose threads they are: a process that is forked inherits the pool, and none of its threads."""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not self._rules.protects(scope["method"]):
            await self.app(scope, receive, send)
            return
        performance = None
        try:
            try:
                performance = await self._asked(scope, receive)
                answered = await self._performed(performance)
            except IdempotencyError as error:
                answered = refusal(error, self._rules.docs)
            except Refused as refused:
                answered = refused.response
            if answered is None:
                assert performance is not None
                assert performance.stage is not None
                await performance.stage.release(send)
                return
            if performance is not None:
                await performance.end()
            await _give(answered, send)
        except Gone:
            # It may have hung up by half, and read on. And a middleware outside takes an application that ends without a
            # response for a broken one.
            with suppress(OSError):
                await _give(incomplete(self._rules.docs) if performance is None else hung_up(self._rules.docs), send)
        finally:
            if performance is not None:
                await performance.end()

    async def _asked(self, scope: MutableMapping[str, Any], receive: Receive) -> _Performance:
        """Read a request, and return what is to be done about it."""
        rules = self._rules
        headers = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])
        key = rules.key_of(headers)  # before a byte of the body is read
        body = await _body(headers, receive, rules.max_body)
        if body is None:
            raise Refused(answer(TOO_LARGE, f"At most {rules.max_body} bytes are taken.", rules.docs))
        query = scope.get("query_string", b"").decode("latin-1")
        request = Request(scope["method"].upper(), _path(scope), query, headers, body, scope=scope)
        call = rules.call(request, key, await self._tenant(request))
        return _Performance(self.app, scope, body, Line(receive), rules, call)

    async def _tenant(self, request: Request) -> Any:
        if self._rules.tenant is SINGLE_TENANT:
            return None
        tenant = self._rules.tenant(request)
        return await tenant if inspect.isawaitable(tenant) else tenant

    async def _performed(self, performance: _Performance) -> Response | None:
        """Commit, and return what an earlier request left; ``None`` where the application has just answered."""
        rules, call = self._rules, performance.call
        with rules.waiting(call):
            try:
                if self._is_async:
                    outcome = await AsyncRun(rules.settings, call).outcome(performance.admitted)
                else:
                    outcome = await self._threaded(performance, call)
            except Exception as error:
                return performance.failed(error)
        return rules.replay(outcome.value) if outcome.replayed or performance.stage is None else None

    async def _threaded(self, performance: _Performance, call: Call) -> Outcome[Any]:
        loop, rules = asyncio.get_running_loop(), self._rules
        if self._process != os.getpid():
            self._threads, self._process = ThreadPoolExecutor(_THREADS, thread_name_prefix="idemtable"), os.getpid()

        def work(session: Any) -> Any:
            rules.admit(call, session)
            # The application runs on its own loop, in this thread's context: what it calls finds the call around it.
            running = asyncio.run_coroutine_threadsafe(performance.run(session), loop)
            try:
                return running.result()
            except Cancelled:
                raise asyncio.CancelledError from None

        run = Run(rules.settings, call)
        thread = loop.run_in_executor(self._threads, copy_context().run, run.outcome, work)
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            # Not left to itself: when this returns, the transaction is over.
            await outlasted(thread, performance.interrupt)
            raise


class _Performance(BasePerformance):
    def __init__(
        self, app: App, scope: MutableMapping[str, Any], body: bytes, line: Line, rules: Rules, call: Call
    ) -> None:
        super().__init__(rules, call, scope, scope["method"])
        self._app, self._body, self._line = app, body, line
        self._is_interrupted = False
        self.stage: Stage | None = None
        """The last attempt."""

    async def admitted(self, session: Any) -> Any:
        """Be what the engine runs on the loop."""
        if self._rules.quota is not None:
            await session.run_sync(lambda sync: self._rules.admit(self.call, sync))
        return await self.run(session)

    async def run(self, session: Any) -> Any:
        """Be what the engine runs: the application, until its response is complete."""
        if self.stage is not None:
            await self.stage.stop()
        if self._line.is_gone.is_set():
            raise Gone
        if self._is_interrupted:
            raise asyncio.CancelledError
        self._begin()
        stage = self.stage = Stage(self._app, self._around, self._body, self._line, session)
        try:
            response = await stage.response()
            if self._line.is_gone.is_set():
                raise Gone
            if self._is_interrupted:  # and the application has answered all the same
                raise asyncio.CancelledError
        except BaseException as error:
            self.raised = error
            await stage.stop()  # before its session is rolled back
            raise
        return self._judged(response, stage.wishes)

    def interrupt(self) -> None:
        """Have what runs end, and let nothing begin."""
        self._is_interrupted = True
        if self.stage is not None:
            self.stage.cancel()

    async def end(self) -> None:
        """Leave nothing running."""
        try:
            if self.stage is not None:
                await self.stage.stop()
        finally:
            await self._line.hang_up()


def _path(scope: MutableMapping[str, Any]) -> str:
    """Return the path; as it was sent where a part of it is lost, or one path would stand for two.

    Servers replace what is no UTF-8. Frameworks take off what they have mounted the application under, and not all say so
    in ``root_path``.
    """
    path: str = scope["path"]
    raw: bytes = (scope.get("raw_path") or b"").partition(b"?")[0]
    sent = unquote_to_bytes(raw).decode(errors="surrogateescape")
    whole, rest = sent.rstrip("/"), path.rstrip("/")
    is_cut = len(whole) > len(rest) and whole.endswith(rest)
    return sent if is_cut or (raw and "\ufffd" in path) else path


async def _body(headers: Headers, receive: Receive, most: int) -> bytes | None:
    """Return a request's body; ``None`` for one that is too large, of which the rest is not read."""
    if (length_of(headers.get("content-length", ""), most) or 0) > most:
        return None
    chunks: list[bytes] = []
    size = 0
    while True:
        message: Message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > most:
            return None
        if not message.get("more_body"):
            return b"".join(chunks)


async def _give(response: Response, send: Send) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
