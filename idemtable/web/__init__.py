"""HTTP: middleware that makes requests safe to send again, for ASGI and WSGI."""

from __future__ import annotations

from .asgi import IdempotencyMiddleware
from .exchange import KEPT_HEADERS, SINGLE_TENANT
from .messages import Request, Response
from .wishes import keep, keep_nothing
from .wsgi import WSGIIdempotencyMiddleware

__all__ = [
    "KEPT_HEADERS",
    "SINGLE_TENANT",
    "IdempotencyMiddleware",
    "Request",
    "Response",
    "WSGIIdempotencyMiddleware",
    "keep",
    "keep_nothing",
]
