"""Tokens and what they are known by; redemptions: calls whose key is a token."""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any, Final

from ..claim.call import Asks, Call, Printed
from ..claim.kinds import Kind, StoredToken, Token, TokenStore
from ..errors import InvalidKeyError, KeyRejectedError, MissingKeyError
from ..keys import checked_key, digest

if TYPE_CHECKING:
    from ..settings import Settings

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


def identity(scope: str, token: str) -> bytes:
    """Return the primary key of a token's row: a hash, from which nobody gets the token."""
    return digest(None, _TOKENS + scope, token)


def holder(scope: str, token: str, subject: str | None) -> bytes:
    """Return the owner of an issued token's row: whoever knows the token and its subject.

    A comparison of the subject's own column would go by the column's collation, in which MariaDB takes "user:7" and
    "user:7 " for one.
    """
    return digest(subject, _HOLDER + scope, token)


def checked_token(token: object, where: str = "the call") -> str:
    """Return the token, or for what cannot be one of ours an empty text that no row stands for.

    A malformed token is not refused early: it gets the answer of an unknown one, after the same statements. ``None`` is
    another matter. It comes from a form without the field or from a program that looked in the wrong place, tells
    nobody anything new, and is worth an error of its own.

    Raises:
        MissingKeyError: `token` is ``None``.
    """
    if token is None:
        raise MissingKeyError(f"{where} has no token: send the one that was issued")
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


class Redemptions(Asks):
    """Calls that consume a token.

    Args:
        store: where tokens live instead of in the table.
        replay: whether a second use may have the first one's result.
    """

    words = ("token", "subject")
    space = "tokens"
    key = staticmethod(checked_token)
    tenant = staticmethod(checked_subject)

    def __init__(
        self,
        settings: Settings,
        scope: str,
        returns: Any = None,
        *,
        store: TokenStore | None,
        replay: bool,
        **rest: Any,
    ) -> None:
        super().__init__(settings, scope, returns, **rest)
        self._store = store
        self._replay = replay

    def call(self, key: str, tenant: str | None, printed: Printed | None) -> Call:
        # The token itself is stored nowhere; its life began when it was issued.
        held = holder(self.scope, key, tenant)
        kind: Kind = Token(held, replay=self._replay) if self._store is None else StoredToken(held, self._store)
        return self._asked(identity(self.scope, key), tenant, None, printed, 0, kind)
