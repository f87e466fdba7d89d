"""Every error the library raises of its own, in one small tree.

::

    IdempotencyError
    ├── KeyRejectedError 400        (ValueError)
    │   ├── MissingKeyError
    │   ├── InvalidKeyError
    │   └── MissingTenantError
    ├── InProgressError 409         .retry_after
    ├── FingerprintMismatchError 422
    ├── ResultError 500
    │   ├── ResultNotSerializableError   before COMMIT, the effect is rolled back
    │   ├── ResultTooLargeError          before COMMIT, the effect is rolled back
    │   └── ResultUnreadableError        the row stays and nothing runs
    ├── TransactionError 500
    │   ├── LostClaimError               the function broke out of its transaction
    │   ├── RetryTransactionError        roll back and call again with the same key
    │   ├── SessionNotUsableError        failed, AUTOCOMMIT, read-only, not prepared for SQLite
    │   └── ReentrantCallError           the same key inside its own call
    ├── SchemaError 503             the message is the command to run
    ├── TokenError 403
    │   ├── UnknownTokenError
    │   ├── ExpiredTokenError
    │   └── SpentTokenError
    └── GuardError 409
        ├── StaleVersionError
        ├── RowLockedError
        └── IllegalTransitionError

Errors carry facts as attributes, can be pickled, and never hold a key in their text: a message may end in a log, a key is
somebody's. ``detail`` is for a client: a sentence without names of scopes, parameters or tables. SQLAlchemy's own errors
are never wrapped. Mistakes of configuration are ``ValueError`` or ``TypeError`` when the object is built or the function
decorated.
"""

from __future__ import annotations

from typing import Any, ClassVar

__all__ = [
    "ExpiredTokenError",
    "FingerprintMismatchError",
    "GuardError",
    "IdempotencyError",
    "IllegalTransitionError",
    "InProgressError",
    "InvalidKeyError",
    "KeyRejectedError",
    "LostClaimError",
    "MissingKeyError",
    "MissingTenantError",
    "ReentrantCallError",
    "ResultError",
    "ResultNotSerializableError",
    "ResultTooLargeError",
    "ResultUnreadableError",
    "RetryTransactionError",
    "RowLockedError",
    "SchemaError",
    "SessionNotUsableError",
    "SpentTokenError",
    "StaleVersionError",
    "TokenError",
    "TransactionError",
    "UnknownTokenError",
]


def _rebuild(cls: type[IdempotencyError], message: str, facts: dict[str, Any]) -> IdempotencyError:
    return cls(message, **facts)


class IdempotencyError(Exception):
    """Base of everything the library raises; facts are keyword arguments and become attributes.

    Attributes:
        http_status: of an HTTP answer.
        retryable: whether the same request, sent again with the same key, may succeed.
        retry_after: the seconds after which that is worth trying; ``None`` where nobody can say.
        detail: a sentence for whoever sent the request. It names no scope, parameter, table or key.
        scope: of the call, if it is known.
    """

    http_status: ClassVar[int | None] = 500
    retryable: bool = False
    retry_after: float | None = None
    detail: str = "The request could not be completed."
    scope: str | None = None

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self._facts = facts
        for name, value in facts.items():
            setattr(self, name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args[0], self._facts)


class KeyRejectedError(IdempotencyError, ValueError):
    """The key or the tenant of a call is not usable, or its payload has nothing at a path; nothing was sent."""

    http_status = 400
    detail = "The request's idempotency key is not usable."


class MissingKeyError(KeyRejectedError):
    """The key is ``None`` or was not found in the arguments."""

    detail = "The request has no idempotency key."


class InvalidKeyError(KeyRejectedError):
    """The key is not a ``str`` of 1 to 255 bytes in UTF-8 without control characters, nor a ``uuid.UUID``."""

    detail = "The idempotency key must be text of 1 to 255 bytes without control characters."


class MissingTenantError(KeyRejectedError):
    """A tenant was asked for and is ``None`` or empty; there is no anonymous tenant."""

    detail = "The request does not say for whom it is."


class InProgressError(IdempotencyError):
    """The first call with this key still runs after ``wait``; on SQLite: the database is busy.

    ``retry_after`` is the number of seconds after which it is worth trying again.
    """

    http_status = 409
    retryable = True
    retry_after: float = 1.0
    detail = "The same request is still being worked on; send it again later with the same idempotency key."


class FingerprintMismatchError(IdempotencyError):
    """The key was used before with another payload; nothing ran and the first record stands."""

    http_status = 422
    detail = "This idempotency key was used before with another request; a new request needs a new key."


class ResultError(IdempotencyError):
    """The result cannot be stored or read back."""

    detail = "The result of the request could not be stored or read."


class ResultNotSerializableError(ResultError):
    """The result does not survive storage as its declared type; the effect was rolled back."""

    detail = "The result of the request could not be stored; nothing was changed."


class ResultTooLargeError(ResultError):
    """The encoded result is longer than ``limit`` bytes (``size``); the effect was rolled back."""

    size: int = 0
    limit: int = 0
    detail = "The result of the request is too large to be stored; nothing was changed."


class ResultUnreadableError(ResultError):
    """A stored result cannot be read as the declared type; the row stays and the function does not run again."""

    codec: str | None = None
    detail = "The request was completed before, and its result cannot be read; it was not done again."


class TransactionError(IdempotencyError):
    """The transaction cannot keep the promise."""

    detail = "The request could not be completed safely."


class LostClaimError(TransactionError):
    """The function broke out of its transaction: it committed, rolled back, or swallowed a database error."""

    detail = "The request was not completed as it should be, and will not be done again by itself."


class RetryTransactionError(TransactionError):
    """The transaction cannot go on, or its outcome is unknown: roll back and call again with the same key.

    ``final`` where a call with the very same arguments would fail again: its first run has changed them.
    """

    http_status = 503
    retryable = True
    final: bool = False
    detail = "The request could not be completed now; send it again with the same idempotency key."


class SessionNotUsableError(TransactionError):
    """The session given cannot carry a claim: failed, AUTOCOMMIT, read-only, or not prepared for SQLite."""


class ReentrantCallError(TransactionError):
    """A call needs the key, or on SQLite the lock, that a call around it is still holding; waiting would never end."""

    detail = "The request waits for itself; it was not completed."


class SchemaError(IdempotencyError):
    """The table is missing or not as it should be; the message names the command that cures it."""

    http_status = 503
    problems: tuple[str, ...] = ()
    retryable = True
    detail = "The service is not ready; send the request again later with the same idempotency key."


class TokenError(IdempotencyError):
    """A one-time token is refused. The classes differ in Python; over HTTP they are one and the same answer."""

    http_status = 403
    detail = "This token is not valid; ask for a new one."


class UnknownTokenError(TokenError):
    """No such token in this scope for this subject."""


class ExpiredTokenError(TokenError):
    """The token is too old."""


class SpentTokenError(TokenError):
    """The token was used already, with another payload or where replays are off."""


class GuardError(IdempotencyError):
    """A guard refused the change; nothing was changed."""

    http_status = 409
    detail = "The change was refused; nothing was changed."


class StaleVersionError(GuardError):
    """The row has another version than the caller read: ``found`` is it, or ``None`` when the row is gone or has none."""

    expected: Any = None
    found: Any = None
    detail = "It was changed by somebody else in the meantime; read it again and decide anew."


class RowLockedError(GuardError):
    """Somebody else holds the row or the name for longer than ``wait``."""

    retryable = True
    retry_after: float = 1.0
    detail = "Somebody else is changing it; try again later."


class IllegalTransitionError(GuardError):
    """The state machine does not allow this step from ``state`` (``None`` when the row is gone or has none) to ``to``."""

    state: Any = None
    to: Any = None
    allowed: tuple[Any, ...] = ()
    detail = "This step is not possible in the present state."
