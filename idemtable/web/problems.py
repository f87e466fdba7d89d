"""What a client is told when a request is refused: problem details of RFC 9457, which name nothing of the program's."""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..errors import (
    FingerprintMismatchError,
    GuardError,
    IdempotencyError,
    InProgressError,
    InvalidKeyError,
    LostClaimError,
    MissingKeyError,
    MissingTenantError,
    ReentrantCallError,
    ResultNotSerializableError,
    ResultTooLargeError,
    ResultUnreadableError,
    RetryTransactionError,
    SchemaError,
    SessionNotUsableError,
    TokenError,
    TransactionError,
)
from ..model import UNKEPT
from .messages import Response

DOCS: Final = "https://github.com/idemtable/idemtable/blob/main/docs/how-to/http.md"
"""Has a heading for each problem."""
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[!$%&'()*+,./:;=?@_~\[\]0-9A-Za-z-]+")

logger: Final = logging.getLogger("idemtable.web")


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of refusal: a part of its ``type``, its status, its title."""

    slug: str
    status: int
    title: str
    cure: str = ""
    """For the log, where the server is to blame. The error's own message may name scopes, tables and parameters."""


KEY_MISSING: Final = Problem("key-missing", 400, "The request needs an idempotency key")
INCOMPLETE: Final = Problem("request-incomplete", 400, "The request's body is not complete")
FORM: Final = Problem("form-unreadable", 400, "The request's form cannot be read")
TOO_LARGE: Final = Problem("request-too-large", 413, "The request's body is too large")
NOT_KEPT: Final = Problem("result-not-kept", 409, "The request was completed, and its response was not kept")
AGAIN: Final = Problem("try-again", 503, "The request could not be completed now")
UNAVAILABLE: Final = Problem("database-unavailable", 503, "The database cannot be reached")
QUOTA: Final = Problem("too-many-requests", 429, "Too many requests are remembered")
INTERNAL: Final = Problem("internal-error", 500, "The request could not be completed")
STREAMED: Final = Problem(
    "response-not-storable", 500, "The response cannot be stored", "it does not come back as what went in"
)

_UNREADABLE: Final = Problem(
    "result-unreadable",
    500,
    "The stored response cannot be read",
    "the row was written by a newer release, or is spoilt: `idemtable show` shows it, `idemtable forget` removes it",
)
_LOST: Final = Problem(
    "claim-lost",
    500,
    "The request was not completed as it should be",
    "the handler has ended the transaction itself, or swallowed an error of the database",
)
_UNUSABLE: Final = Problem(
    "session-not-usable",
    503,
    "The service is not set up for this request",
    "the engine is in AUTOCOMMIT, read-only, or shared by others: a call of a decorated function says which",
)
_TWICE: Final = Problem(
    "request-in-itself",
    500,
    "The request waits for itself",
    "a call inside the handler has the request's own key, or the request passes two middlewares of one table",
)
_UNKNOWN: Final = Problem(
    "outcome-unknown",
    500,
    "Nobody can say whether the request was completed",
    "COMMIT has failed or its answer was lost, and without a key no row tells: look whether the effect is there",
)
_NOT_READY: Final = Problem(
    "not-ready",
    503,
    "The service is not ready",
    "`idemtable db check` says what is wrong with the table; of SQLite in memory each thread may have its own",
)

# The first that fits; the order of the tree, leaves before what they hang on.
_BY_ERROR: Final[tuple[tuple[type[IdempotencyError], Problem], ...]] = (
    (MissingKeyError, KEY_MISSING),
    (MissingTenantError, Problem("tenant-missing", 400, "The request does not say for whom it is")),
    (InvalidKeyError, Problem("key-invalid", 400, "The idempotency key is not usable")),
    (InProgressError, Problem("in-progress", 409, "The same request is still being worked on")),
    (FingerprintMismatchError, Problem("key-reused", 422, "The idempotency key belongs to another request")),
    (ResultUnreadableError, _UNREADABLE),
    (ResultNotSerializableError, STREAMED),
    (ResultTooLargeError, STREAMED),
    (LostClaimError, _LOST),
    (ReentrantCallError, _TWICE),
    (RetryTransactionError, AGAIN),
    (SessionNotUsableError, _UNUSABLE),
    (SchemaError, _NOT_READY),
    (TransactionError, _UNKNOWN),
    (TokenError, Problem("token-invalid", 403, "The token is not valid")),
    (GuardError, Problem("conflict", 409, "The change was refused")),
)
PROBLEMS: Final = tuple(
    dict.fromkeys(
        [*(problem for _, problem in _BY_ERROR), INCOMPLETE, FORM, TOO_LARGE, NOT_KEPT, QUOTA, UNAVAILABLE, INTERNAL]
    )
)

AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError)
"""What SQLAlchemy raises of a database that cannot be reached, and of a pool that has no connection left."""

_SOON: Final = 1.0
"""Seconds: what a client is told to wait where nobody knows better."""


def checked_docs(url: object) -> str:
    """Return the page that problems refer to.

    Raises:
        ValueError: it cannot stand in a header between ``<`` and ``>``, with a fragment of ours behind it.
    """
    if not isinstance(url, str) or not _URL.fullmatch(url):
        raise ValueError(f"docs_url= takes an absolute URL in ASCII without a fragment, not {url!r}")
    return url


class Refused(Exception):
    """Ends a request with a response that no error of the library stands for."""

    def __init__(self, response: Response) -> None:
        self.response = response


def refusal(error: IdempotencyError, docs: str) -> Response:
    """Return the answer to a request that an error of the library ended; for those of the server's fault, log it."""
    problem = next((problem for cls, problem in _BY_ERROR if isinstance(error, cls)), INTERNAL)
    if isinstance(error, ResultUnreadableError) and error.codec == UNKEPT:
        problem = NOT_KEPT
    if problem.status >= 500:
        # That of a stream is written in this room, and names nothing.
        is_ours = problem is STREAMED and error.scope is None
        cure = str(error) if is_ours else problem.cure
        _log(problem, error, cure)
    wait = error.retry_after
    if wait is None and (problem.status == 503 or (error.retryable and problem.status == 409)):
        wait = _SOON
    return answer(problem, error.detail, docs, wait)


def away(error: Exception, docs: str) -> Response:
    """Return the answer to a request for which there is no database."""
    _log(UNAVAILABLE, error)
    return answer(UNAVAILABLE, RetryTransactionError.detail, docs, _SOON)


def incomplete(docs: str) -> Response:
    """Return the answer to a request whose body has ended before its end."""
    return answer(INCOMPLETE, "The body has ended before its end.", docs)


def hung_up(docs: str) -> Response:
    """Return the answer to a request whose client has hung up before COMMIT."""
    return answer(AGAIN, RetryTransactionError.detail, docs, _SOON)


def _log(problem: Problem, error: Exception, cure: str = "") -> None:
    why = f": {cure}" if cure else ""
    logger.error("answered %d %s for %s%s", problem.status, problem.slug, type(error).__name__, why)


def answer(problem: Problem, detail: str, docs: str, retry_after: float | None = None) -> Response:
    """Return a problem as a response.

    Args:
        problem: which.
        detail: a sentence for this occurrence.
        docs: the page that explains the problems.
        retry_after: seconds, if a further try is worth something.
    """
    where = f"{docs}#{problem.slug}"
    told = {"type": where, "title": problem.title, "status": problem.status, "detail": detail}
    body = json.dumps(told).encode()
    headers = [
        ("content-type", "application/problem+json"),
        ("content-length", str(len(body))),
        ("cache-control", "no-store"),
        ("link", f'<{where}>; rel="describedby"'),
    ]
    if retry_after is not None:
        headers.append(("retry-after", str(max(1, math.ceil(retry_after)))))
    return Response(problem.status, headers, body)


def reason(status: int) -> str:
    """Return the line of a status as WSGI wants it."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return f"{status} Unknown"
