"""What an operator does with tokens from outside the program: the verbs of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..keys import checked_scope
from .redemption import checked_token, identity
from .verbs import Tokens, run_alone

if TYPE_CHECKING:
    from datetime import timedelta

    from ..model import Record
    from ..settings import Settings


def issue(settings: Settings, scope: str, *, ttl: timedelta, subject: str | None = None) -> str:
    """Return a new token of a sync table; see `Tokens.issue`.

    Raises:
        ValueError, TypeError: the scope or the ttl. InvalidKeyError: the subject. SchemaError: no table.
    """
    return Tokens(settings, scope, ttl=ttl).issue(subject)


def revoke(settings: Settings, scope: str, token: str) -> bool:
    """Remove a token of a sync table, whatever became of it, and say whether there was one; see `Tokens.revoke`.

    Raises:
        ValueError: the scope is no scope. SchemaError: no table.
    """
    id = identity(checked_scope(scope), checked_token(token))
    return run_alone(settings, scope, lambda records, connection: records.forget(connection, id))


def issued(settings: Settings, scope: str, count: int = 100) -> list[Record]:
    """Return the newest tokens of a scope, issued or spent, expired ones until the purge.

    The tokens themselves are stored nowhere; a record's ``tenant`` is the subject.

    Raises:
        ValueError: the scope is no scope. SchemaError: no table.
    """
    name = checked_scope(scope)
    return run_alone(settings, scope, lambda records, connection: records.tokens(connection, name, count))
