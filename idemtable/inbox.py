"""The inbox of a consumer: a message that a broker delivers again is not done again.

A broker delivers at least once. The handler's writes and the message's id are committed together, and the message is
acknowledged after that: whatever happens in between, the next delivery is a replay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Unpack

from .claim.call import Keys
from .decorated import AsyncDecorator, Decorator
from .keys import checked_key, checked_scope
from .transactional import Options, Spec, decorate_keys

if TYPE_CHECKING:
    from .settings import Settings


_CURE: Final = "let the producer set one, the same each time that it sends the message"


def checked_message_id(key: object, where: str = "the call", what: str = "message id", cure: str = _CURE) -> str:
    """Return the id of a message as text.

    Raises:
        MissingKeyError: it is ``None``: a producer that leaves it out has every delivery done.
        InvalidKeyError: as for a key.
    """
    return checked_key(key, where, what, cure)


class Messages(Keys):
    """Calls whose key is a message's id; they share their keys with every other call of the scope."""

    words = ("message_id", "tenant")
    rivalry = (
        "of a message that is for both, one would answer for the other. Give each an inbox of its own, under a name of its "
        "own, or say share_scope=True in both if every message is for one of them only"
    )
    key = staticmethod(checked_message_id)


class BaseInbox:
    """What both colours share."""

    def __init__(self, settings: Settings, scope: str) -> None:
        self._settings = settings
        self._scope = checked_scope(scope)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._scope!r}>"

    def _decorator(self, message_id: Spec, options: Options) -> Any:
        # The broker has changed the envelope since (a count, a flag), or its library has: the id says which message it is.
        return decorate_keys(self._settings, self._scope, message_id, {"payload": None, **options}, Messages)


class Inbox(BaseInbox):
    """The inbox of one consumer; made by `IdemTable.inbox`.

    Args:
        settings: of the table.
        scope: the consumer's name. Two consumers of one message each do it once.

    Raises:
        ValueError, TypeError: the scope cannot be.
    """

    def transactional(self, *, message_id: Spec, **options: Unpack[Options]) -> Decorator:
        """Decorate a handler so that what it does for a message is committed at most once.

        What comes back is a function as `IdemTable.transactional` returns it. When it has returned, everything is
        committed: acknowledge then, and not before. When it raises, nothing is left behind, neither a write nor the
        message's id nor a lock: leave the message to the broker, which delivers it again or puts it aside.

        Args:
            message_id: a parameter's name, a dotted path into one, or a callable given the call's arguments. The id is
                a ``str`` of 1 to 255 bytes or a ``uuid.UUID``.
            options: ``tenant``, ``payload``, ``ttl``, ``wait``, ``remember``, ``returns``, ``isolation_level`` and
                ``share_scope``, those of `IdemTable.transactional`, but that ``payload`` is ``None`` unless it is
                given: the id alone decides. ``remember`` names failures that no further delivery can cure. A ``ttl``
                must be longer than a message can wait, among the dead letters too.

        Raises:
            ValueError: at decoration, for a name that is no parameter, a value out of range, or a second handler in this
                inbox.
            TypeError: at decoration, for a result type that cannot be stored, or a function without a session.
        """
        return self._decorator(message_id, options)  # type: ignore[no-any-return]


class AsyncInbox(BaseInbox):
    """The inbox of one consumer; made by `AsyncIdemTable.inbox`. Arguments and errors are those of `Inbox`."""

    def transactional(self, *, message_id: Spec, **options: Unpack[Options]) -> AsyncDecorator:
        """Decorate an async handler so that what it does for a message is committed at most once.

        Args:
            message_id, options: those of `Inbox.transactional`.
        """
        return self._decorator(message_id, options)  # type: ignore[no-any-return]
