"""Clients: transports for httpx that give each request a key, and send it again until there is an answer.

::

    client = httpx.Client(transport=IdempotencyTransport(httpx.HTTPTransport()))
    client.post("https://shop.example/orders", json={"item": "tea"})    # sent again after a lost connection, done once
"""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Collection
from contextlib import aclosing, closing
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self
from uuid import uuid4

import tenacity

from ..settings import checked_count
from .field import checked_field, checked_methods

if TYPE_CHECKING:
    from httpx import AsyncBaseTransport, BaseTransport
else:  # a client asks for the methods and not for the class, and the library that it is of need not be this one
    BaseTransport = AsyncBaseTransport = object

__all__ = ["AsyncIdempotencyTransport", "IdempotencyTransport"]

_LATER: Final = frozenset({409, 429, 503})
"""Statuses that mean: the same request again, but later. Only with a ``Retry-After``: any other 409 is an answer."""
_FIRST_PAUSE: Final = 0.1
"""Seconds, doubled each time: after a connection was lost the server may still be at work on the request."""


class _Transport:
    """What both colours share.

    Args:
        inner: does the sending.
        header: that carries the key. A request that has one keeps it.
        methods: of the requests that get a key.
        attempts: how often one request is sent at most.
        longest_wait: seconds, or a timedelta; what a server asks for beyond it is not waited for, and its answer is the
            answer.

    Raises:
        TypeError, ValueError: an argument cannot be.
    """

    _sends: ClassVar[str]
    _example: ClassVar[str]

    def __init__(
        self,
        inner: Any,
        *,
        header: str = "Idempotency-Key",
        methods: Collection[str] = ("POST", "PATCH"),
        attempts: int = 5,
        longest_wait: float | timedelta = 30.0,
    ) -> None:
        if isinstance(inner, type) or not callable(getattr(inner, self._sends, None)):
            raise TypeError(f"{type(self).__name__} takes a transport such as {self._example}, not {inner!r}")
        self._inner = inner
        self._header = checked_field(header, "header")
        self._methods = checked_methods(methods)
        self._attempts = checked_count(attempts, "attempts")
        self._longest = _checked_seconds(longest_wait)

    def _is_protected(self, request: Any) -> bool:
        if request.method not in self._methods:
            return False
        if self._header not in request.headers:
            request.headers[self._header] = f'"{uuid4()}"'
        return True

    def _policy(self, library: Any) -> dict[str, Any]:
        never = (library.UnsupportedProtocol, library.LocalProtocolError)

        def is_lost(error: BaseException) -> bool:
            return isinstance(error, library.TransportError) and not isinstance(error, never)

        return {
            "retry": tenacity.retry_if_exception(is_lost) | tenacity.retry_if_result(self._is_later),
            "stop": tenacity.stop_after_attempt(self._attempts),
            "wait": self._pause,
            "retry_error_callback": lambda state: state.outcome.result() if state.outcome else None,
        }

    def _is_later(self, response: Any) -> bool:
        wait = _seconds(response.headers.get("Retry-After")) if response.status_code in _LATER else None
        return wait is not None and wait <= self._longest

    def _pause(self, state: tenacity.RetryCallState) -> float:
        outcome = state.outcome
        if outcome is not None and not outcome.failed:
            return _seconds(outcome.result().headers.get("Retry-After")) or 0.0
        # Half of it by chance: clients that lost their connections together must not come back together.
        return min(self._longest, _FIRST_PAUSE * 2.0**state.attempt_number * random.uniform(0.5, 1.0))  # noqa: S311


def _checked_seconds(wait: object) -> float:
    seconds = wait.total_seconds() if isinstance(wait, timedelta) else wait
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"longest_wait= takes seconds or a timedelta, not {wait!r}")
    if not 0 <= seconds < math.inf:
        raise ValueError(f"longest_wait must be zero or more and have an end, not {wait!r}")
    return seconds


def _library(request: Any) -> Any:
    """Return the library that a request is from: httpx and what comes after it have classes of the same names each."""
    # From the base on: a subclass is of a module of somebody's own.
    for base in reversed(type(request).__mro__):
        library = sys.modules.get(base.__module__.partition(".")[0])
        if getattr(library, "Request", None) is base:
            return library
    raise TypeError(f"the transport takes requests of httpx's class or of a subclass of it, not {request!r}")


def _seconds(value: str | None) -> float | None:
    """Return the seconds of a ``Retry-After``, which may be a date; ``None`` for none, and for one that nobody can read."""
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
        wait = moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)
    except (ValueError, OverflowError):
        return None
    return max(0.0, wait.total_seconds())


class IdempotencyTransport(_Transport, BaseTransport):
    """A transport for ``httpx.Client``: a key for each request, kept when it is sent again.

    It is sent again where the connection was lost, with a growing pause, and where the server answers 409, 429 or 503
    with a ``Retry-After``, after so many seconds. What comes after the last attempt is the answer, or is raised.

    A connection may be lost in the midst of an answer: each answer to a request with a key is read to its end before the
    client has it, also by ``client.stream()``. What has no end is for a client without this transport.

    Args:
        inner: the transport that does the sending, such as ``httpx.HTTPTransport()``.
        options: ``header``, ``methods``, ``attempts`` (5), ``longest_wait`` (seconds, 30).

    Raises:
        TypeError, ValueError: an argument cannot be.
    """

    _sends, _example = "handle_request", "httpx.HTTPTransport()"

    def handle_request(self, request: Any) -> Any:
        """Send a request."""
        if not self._is_protected(request):
            return self._inner.handle_request(request)
        request.read()  # a stream could be sent only once
        library = _library(request)

        def attempt() -> Any:
            response = self._inner.handle_request(request)
            if not response.is_stream_consumed:
                # Not by read(): whoever gets the response must find it unread, to stream it and to learn the time it took.
                with closing(response.stream) as stream:
                    response.stream = library.ByteStream(b"".join(stream))
            return response

        return tenacity.Retrying(**self._policy(library))(attempt)

    def close(self) -> None:
        """Close the inner transport."""
        self._inner.close()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._inner.__exit__(*raised)


class AsyncIdempotencyTransport(_Transport, AsyncBaseTransport):
    """The same for ``httpx.AsyncClient``; see `IdempotencyTransport`."""

    _sends, _example = "handle_async_request", "httpx.AsyncHTTPTransport()"

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request."""
        if not self._is_protected(request):
            return await self._inner.handle_async_request(request)
        await request.aread()
        library = _library(request)

        async def attempt() -> Any:
            response = await self._inner.handle_async_request(request)
            if not response.is_stream_consumed:
                async with aclosing(response.stream) as stream:
                    response.stream = library.ByteStream(b"".join([part async for part in stream]))
            return response

        return await tenacity.AsyncRetrying(**self._policy(library))(attempt)

    async def aclose(self) -> None:
        """Close the inner transport."""
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *raised: Any) -> None:
        await self._inner.__aexit__(*raised)
