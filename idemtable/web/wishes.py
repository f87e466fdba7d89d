"""What an application says, and what the database tells it, while it answers one request."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..dialects.origin import listen_once

if TYPE_CHECKING:
    from sqlalchemy import Engine

ResponseT = TypeVar("ResponseT")


class Wishes:
    """What the application has asked for while it answers one request."""

    __slots__ = ("_outer", "error", "frees", "keep")

    def __init__(self, outer: Wishes | None = None) -> None:
        self._outer = outer
        self.keep = self.frees = False
        self.error: Exception | None = None
        """The last error that the database has given it."""

    def ask(self, what: Literal["keep", "frees"]) -> None:
        """Ask it of whatever middleware stands around, too."""
        one: Wishes | None = self
        while one is not None:
            setattr(one, what, True)
            one = one._outer


answering: ContextVar[Wishes | None] = ContextVar("idemtable_answering", default=None)
"""Of the request that is being answered. The application's threads and tasks inherit it, and share its wishes."""


def keep(response: ResponseT) -> ResponseT:
    """Have the response to the present request stored and its writes committed, whatever its status is.

    Args:
        response: what is to be returned. Outside of a protected request nothing comes of it.

    Returns:
        The response.
    """
    if (wishes := answering.get()) is not None:
        wishes.ask("keep")
    return response


def keep_nothing(response: ResponseT) -> ResponseT:
    """Have the response to the present request stored nowhere, and its key free again.

    For a response with a secret in it, as a new token is. Its writes are committed where those of a stored one would be.
    Sent again with its key, the request runs again.

    Args:
        response: what is to be returned. Outside of a protected request nothing comes of it.

    Returns:
        The response.
    """
    if (wishes := answering.get()) is not None:
        wishes.ask("frees")
    return response


def listen(engine: Engine) -> None:
    """Write an engine's errors down with the request that gets them; doing it twice is harmless."""
    listen_once(engine, "handle_error", _notice)


def _notice(context: Any) -> None:
    if (wishes := answering.get()) is not None:
        wishes.error = context.sqlalchemy_exception or context.original_exception
