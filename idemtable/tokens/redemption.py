"""Redeeming a token: the protocol of a claim, with a conditional UPDATE for its first statement."""

from __future__ import annotations

import os
import re
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ..claim import Attempt, Call
from ..errors import InvalidKeyError, KeyRejectedError, LostClaimError, MissingKeyError, TokenError
from ..keys import checked_key, digest
from ..model import InProgress, Replay, Request, Status
from ..policy import decide_token

if TYPE_CHECKING:
    from uuid import UUID

    from ..model import Decision, Outcome, Stored
    from ..settings import Settings
    from ..transaction import Transaction

_BYTES: Final = 32
"""256 bits. ASVS asks for 128 of them; a UUID has 122. More than any guesser needs, and the row's id keeps 128."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
# A scope that a program chooses has no control characters: no key can ever stand for a token, nor a token for a key.
_TOKENS, _HOLDER = "\x00token\x00", "\x00holder\x00"


def new_token() -> str:
    """Return 43 characters that nobody can guess.

    Never one that begins with a dash, which a command line takes for an option: that is 0.02 of the 256 bits.
    """
    while (token := secrets.token_urlsafe(_BYTES)).startswith("-"):
        pass
    return token


def identity(scope: str, token: str) -> UUID:
    """Return the primary key of a token's row: a hash, from which nobody gets the token."""
    return digest(None, _TOKENS + scope, token)


def holder(scope: str, token: str, subject: str | None) -> bytes:
    """Return the owner of an issued token's row: whoever knows the token and its subject.

    A comparison of the subject's own column would go by the column's collation, in which MariaDB takes "user:7" and
    "user:7 " for one.
    """
    return digest(subject, _HOLDER + scope, token).bytes


def checked_token(token: object) -> str:
    """Return the token, or for what cannot be one of ours an empty text that no row stands for.

    A malformed token is not refused early: it gets the answer of an unknown one, after the same statements. ``None`` is
    another matter. It comes from a form without the field or from a program that looked in the wrong place, tells
    nobody anything new, and is worth an error of its own.

    Raises:
        MissingKeyError: `token` is ``None``.
    """
    if token is None:
        raise MissingKeyError("the call has no token: send the one that was issued")
    return token if isinstance(token, str) and _TOKEN.fullmatch(token) else ""


def checked_subject(subject: object) -> str:
    """Return the subject as text.

    Raises:
        InvalidKeyError: it is not a ``str`` of 1 to 255 bytes without control characters, nor a ``uuid.UUID``. ``None``
            and an empty text too: a program that has lost its user must not redeem what belongs to nobody.
    """
    try:
        return checked_key(subject)
    except KeyRejectedError:
        raise InvalidKeyError(
            "a token's subject must be a str of 1 to 255 bytes of UTF-8 without control characters, or a uuid.UUID; "
            "leave subject= out for tokens that belong to nobody"
        ) from None


def request(scope: str, token: object, subject: str | None, fingerprint: bytes | None) -> tuple[Request, bytes]:
    """Return what a redemption asks for, and the holder that the token's row must have been issued with."""
    text = checked_token(token)
    asked = Request(
        identity(scope, text),
        subject,
        scope,
        None,  # the token itself is stored nowhere
        fingerprint,
        os.urandom(16),
        0,  # a token's life began when it was issued
    )
    return asked, holder(scope, text, subject)


def refusal(error: type[TokenError], scope: str) -> TokenError:
    """Return the error; the text is the same for all classes, for it may end in an HTTP body."""
    return error(f"{scope}: this token is not valid, ask for a new one", scope=scope)


@dataclass(slots=True, kw_only=True)
class Redemption(Call):
    """A call whose key is a token."""

    holder: bytes
    replay: bool

    def attempt(self, settings: Settings, transaction: Transaction, *, repeats: bool) -> Attempt:
        """Return one attempt at this redemption."""
        return TokenAttempt(settings, transaction, self, repeats=repeats)


class TokenAttempt(Attempt):
    """One transaction of one redemption."""

    completed: ClassVar[Status] = Status.SPENT
    _call: Redemption

    def _take(self, stale: bytes | None, wait: float) -> bool:
        return self._tx.records.redeem(self._tx.connection, self._call.request, self._call.holder, wait)

    def _decide(self, stored: Stored | None) -> Decision:
        scope = self._call.request.scope
        decision = decide_token(stored, self._call.request, replay=self._call.replay)
        if isinstance(decision, type):
            raise refusal(decision, scope)
        if isinstance(decision, InProgress):
            raise LostClaimError(
                f"{scope}: an earlier call with this token committed inside its function and left no result. It will "
                f"not run again: find out what it did, then revoke the token",
                scope=scope,
            )
        return decision

    def answer(self) -> Outcome[Any]:
        """Give what the first redemption left; see `Attempt.answer`."""
        outcome = super().answer()
        if isinstance(self.decision, Replay) and outcome.replayed:
            # The row is as old as the token: when the call ran is when it was completed.
            return replace(outcome, created_at=self.decision.stored.record.completed_at)
        return outcome
