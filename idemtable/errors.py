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

Errors carry facts as attributes, can be pickled, and never hold a key in their text: a message may end in a log or in
the body of an HTTP response, a key is somebody's. SQLAlchemy's own errors are never wrapped. Mistakes of configuration
are ``ValueError`` or ``TypeError`` when the object is built or the function decorated.
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
    """Base of everything the library raises; facts are keyword arguments and become attributes."""

    http_status: ClassVar[int | None] = 500
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


class MissingKeyError(KeyRejectedError):
    """The key is ``None`` or was not found in the arguments."""


class InvalidKeyError(KeyRejectedError):
    """The key is not a ``str`` of 1 to 255 bytes in UTF-8 without control characters, nor a ``uuid.UUID``."""


class MissingTenantError(KeyRejectedError):
    """A tenant was asked for and is ``None`` or empty; there is no anonymous tenant."""


class InProgressError(IdempotencyError):
    """The first call with this key still runs after ``wait``; on SQLite: the database is busy.

    ``retry_after`` is the number of seconds after which it is worth trying again.
    """

    http_status = 409
    retry_after: float = 1.0


class FingerprintMismatchError(IdempotencyError):
    """The key was used before with another payload; nothing ran and the first record stands."""

    http_status = 422


class ResultError(IdempotencyError):
    """The result cannot be stored or read back."""


class ResultNotSerializableError(ResultError):
    """The result does not survive storage as its declared type; the effect was rolled back."""


class ResultTooLargeError(ResultError):
    """The encoded result is longer than ``limit`` bytes (``size``); the effect was rolled back."""

    size: int = 0
    limit: int = 0


class ResultUnreadableError(ResultError):
    """A stored result cannot be read as the declared type; the row stays and the function does not run again."""

    codec: str | None = None


class TransactionError(IdempotencyError):
    """The transaction cannot keep the promise."""


class LostClaimError(TransactionError):
    """The function broke out of its transaction: it committed, rolled back, or swallowed a database error."""


class RetryTransactionError(TransactionError):
    """The transaction cannot go on, or its outcome is unknown: roll back and call again with the same key."""

    http_status = 503


class SessionNotUsableError(TransactionError):
    """The session given cannot carry a claim: failed, AUTOCOMMIT, read-only, or not prepared for SQLite."""


class ReentrantCallError(TransactionError):
    """A call needs the key that a call around it is still holding; waiting for it would never end."""


class SchemaError(IdempotencyError):
    """The table is missing or not as it should be; the message names the command that cures it."""

    http_status = 503
    problems: tuple[str, ...] = ()


class TokenError(IdempotencyError):
    """A one-time token is refused. The classes differ in Python; over HTTP they are one and the same answer."""

    http_status = 403


class UnknownTokenError(TokenError):
    """No such token in this scope for this subject."""


class ExpiredTokenError(TokenError):
    """The token is too old."""


class SpentTokenError(TokenError):
    """The token was used already, with another payload or where replays are off."""


class GuardError(IdempotencyError):
    """A guard refused the change; nothing was changed."""

    http_status = 409


class StaleVersionError(GuardError):
    """The row has another version than the caller read: ``found`` is it, or ``None`` when the row is gone."""

    expected: Any = None
    found: Any = None


class RowLockedError(GuardError):
    """Somebody else holds the row or the name for longer than ``wait``."""

    retry_after: float = 1.0


class IllegalTransitionError(GuardError):
    """The state machine does not allow this step from ``state`` (``None`` when the row is gone) to ``to``."""

    state: Any = None
    to: Any = None
    allowed: tuple[Any, ...] = ()
