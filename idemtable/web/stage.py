"""One performance of an ASGI application: what it sends is held back until its transaction has been decided."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from typing import Any, Final

from ..errors import ResultNotSerializableError
from .messages import Response
from .wishes import Wishes, answering

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_UNDERSTOOD: Final = frozenset({"tls", "http.response.debug"})
"""Extensions of a server that do not change how a response travels."""


class Gone(Exception):
    """The client has hung up before its request was done."""


class Line:
    """What is left of a request's connection once its body was read: whether the client is still there."""

    def __init__(self, receive: Receive) -> None:
        self.is_gone = asyncio.Event()
        self._watch = asyncio.create_task(self._listen(receive))

    async def _listen(self, receive: Receive) -> None:
        if (await receive())["type"] == "http.disconnect":  # after the body a server has nothing else to say
            self.is_gone.set()

    async def hang_up(self) -> None:
        """Listen no longer."""
        await outlasted(self._watch, self._watch.cancel)


def _cancelling() -> Any:
    """Return what an application is cancelled by.

    anyio lets the threads that it waits for come to their end before a scope of its own is left, and no others: cancelled
    in asyncio's way, Starlette's task ends and leaves the handler behind, at work in a session that is being rolled back.
    """
    anyio = sys.modules.get("anyio")  # no framework that runs handlers on its threads has not imported it by now
    return nullcontext() if anyio is None else anyio.CancelScope()


async def outlasted(work: asyncio.Future[Any], tell: Callable[[], object]) -> None:
    """Wait until something has ended, however often whoever waits is cancelled: its session is not to be touched before.

    Args:
        work: what is waited for. What it raises is nobody's concern.
        tell: asks it to end, as often as needed.

    Raises:
        CancelledError: whoever waits was cancelled.
    """
    interruption: asyncio.CancelledError | None = None
    while not work.done():
        tell()
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:  # anyio cancels again and again until it is obeyed
            interruption = error
    if not work.cancelled():
        work.exception()
    if interruption is not None:
        raise interruption


class Stage:
    """An application at work on one request, in one attempt.

    It runs in a task of its own, for it is not done when its response is: it goes on with background tasks, when the
    transaction is over and the response was sent.

    Args:
        app: the application.
        scope: of the request.
        body: all of it.
        line: to the client.
        session: what the application is to work in.
    """

    def __init__(self, app: App, scope: MutableMapping[str, Any], body: bytes, line: Line, session: Any) -> None:
        self._body: bytes | None = body
        self._line = line
        self._start: Message | None = None
        self._chunks: list[bytes] = []
        self._messages: list[Message] = []
        self._is_complete = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._released = asyncio.Event()
        self._refused: Exception | None = None
        self.wishes = Wishes(answering.get())
        self._outer = scope
        state = {**scope.get("state", {}), "session": session}
        extensions = {name: value for name, value in (scope.get("extensions") or {}).items() if name in _UNDERSTOOD}
        self._scope = {**scope, "state": state, "extensions": extensions}
        self._cancelling = _cancelling()
        token = answering.set(self.wishes)
        try:
            self._task = asyncio.ensure_future(self._run(app))
        finally:
            answering.reset(token)
        self._task.add_done_callback(self._end)

    def _end(self, task: object = None) -> None:
        """Wake whoever waits for the response: it is complete, or the application has ended."""
        if not self._over.done():
            self._over.set_result(None)

    async def _run(self, app: App) -> None:
        with self._cancelling:
            await app(self._scope, self._receive, self._send)

    async def response(self) -> Response:
        """Wait for the response; what the application raises is raised here."""
        await self._over  # one future, and no task that waits for two: each request makes it
        if self._refused is not None:
            raise self._refused
        if not self._is_complete:
            await self._task  # raises what it has raised
            raise RuntimeError("the application has returned without a response")
        assert self._start is not None
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self._start["headers"]]
        # An HTTPStatus is a number too, but would not come back as one.
        return Response(int(self._start["status"]), headers, b"".join(self._chunks))

    async def release(self, send: Send) -> None:
        """Send the response as it was, and let the application go on to its end."""
        # Whoever stands outside (a log, a counter) finds what the application has written into the scope: its route, its
        # state. The session is not for them.
        self._outer.update({name: value for name, value in self._scope.items() if name not in ("state", "extensions")})
        state = {name: value for name, value in self._scope["state"].items() if name != "session"}
        if state or "state" in self._outer:
            self._outer.setdefault("state", {}).update(state)
        for message in self._messages:
            await send(message)
        self._released.set()
        await self._task

    def cancel(self) -> None:
        """Have the application end where it is."""
        (self._task if isinstance(self._cancelling, nullcontext) else self._cancelling).cancel()

    async def stop(self) -> None:
        """End the application where it is; what it raises on its way out is nobody's concern any more."""
        await outlasted(self._task, self.cancel)

    # --- what the application sees ----------------------------------------------------------------------------------------

    async def _receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._line.is_gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        if self._is_complete:
            await self._released.wait()
            return  # the server has been told of the end
        if message["type"] == "http.response.start":
            if self._start is not None:
                raise RuntimeError("the application has begun its response twice")
            message = {**message, "headers": [*message.get("headers", ())]}  # which may be read only once
            self._start = message
        elif message["type"] == "http.response.body":
            if self._start is None:
                raise RuntimeError("the application has sent a body before the start of its response")
            if message.get("more_body") and not self._chunks and not self._has_length():
                self._refused = ResultNotSerializableError(
                    "a streaming response cannot be committed before it is sent, nor replayed: answer with a whole one, or "
                    "leave this path out of the middleware"
                )
                self._is_complete = True
                self._end()
                raise self._refused
            self._chunks.append(message.get("body", b""))
        self._messages.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._is_complete = True
            self._end()
            await self._released.wait()

    def _has_length(self) -> bool:
        assert self._start is not None
        return any(name.lower() == b"content-length" for name, _ in self._start["headers"])
