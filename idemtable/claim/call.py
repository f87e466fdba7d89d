"""One call, and what the calls of one scope have in common: the one place where requests are made."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from os import urandom
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ..fingerprint import NEWEST, fingerprint
from ..keys import checked_key, checked_scope, checked_tenant, digest, digests
from ..model import Request
from ..settings import checked_flag, checked_ttl, checked_wait
from .kinds import KEY
from .many import Many

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from ..codecs import Results
    from ..settings import Settings
    from .kinds import Kind

Printed = Callable[[int], "bytes | None"]
"""Takes the fingerprint of what a call carries, in a version."""


class Call(NamedTuple):
    """One call: what it asks for, what kind of thing that is, how its result travels, how long it may wait."""

    request: Request
    kind: Kind
    results: Results
    wait: float
    """Seconds."""
    remember: tuple[type[Exception], ...] = ()
    lookaside: bool = False
    """Whether to look for an answer before a transaction is begun."""
    deferred: bool = False
    """Whether the claim may travel with the function's first statement."""

    def again(self) -> Call:
        """Return the call as its next attempt makes it."""
        return self._replace(request=self.request.again())


class Asks(ABC):
    """What the calls of one scope ask with, checked before the first of them.

    Args:
        settings: of the table.
        scope: a name that the program chose.
        returns: the type of the results; ``None`` where nobody said.
        wait: instead of the table's.
        remember: exceptions that are results.
        results: what carries them, instead of the table's codec.
        lookaside: whether to look for an answer before a transaction is begun.
        deferred: whether the claim may travel with the function's first statement.

    Raises:
        TypeError, ValueError: one of them cannot be.
    """

    words: ClassVar[tuple[str, str]]
    """What the program calls the two arguments that say who a call is."""
    space: ClassVar[str]
    """Whose rows they share: with one scope of one space, two functions answer for each other."""
    rivalry: ClassVar[str] = (
        "with one key, each would answer for the other. Give it a scope of its own, or say share_scope=True in both if "
        "that is meant"
    )
    """What is to be said to the second function that wants a scope."""

    def __init__(
        self,
        settings: Settings,
        scope: str,
        returns: Any = None,
        *,
        wait: timedelta | None = None,
        remember: Any = (),
        results: Results | None = None,
        lookaside: bool = False,
        deferred: bool = False,
    ) -> None:
        self._settings = settings
        self.scope = checked_scope(scope)
        self._wait = settings.wait if wait is None else checked_wait(wait)
        self._remember = _checked_remember(remember)
        self._lookaside, self._deferred = checked_flag(lookaside, "lookaside"), checked_flag(deferred, "deferred")
        self._results = results or settings.results(Any if returns is None else returns, self.scope)

    @abstractmethod
    def key(self, key: Any, /, where: str = "the call") -> str:
        """Return the first word as text, or raise a KeyRejectedError."""

    @abstractmethod
    def tenant(self, tenant: Any, /) -> str:
        """Return the second word as text, or raise a KeyRejectedError; not asked where there is none."""

    @abstractmethod
    def call(self, key: str, tenant: str | None, printed: Printed | None) -> Call:
        """Return one call, of words that were checked."""

    def _asked(
        self, id: bytes, tenant: str | None, key: str | None, printed: Printed | None, ttl: int, kind: Kind
    ) -> Call:
        fingerprint = None if printed is None else printed(NEWEST)
        request = Request(id, tenant, self.scope, key, fingerprint, ttl, urandom(16), printed)
        return Call(request, kind, self._results, self._wait, self._remember, self._lookaside, self._deferred)

    def block(self, key: Any, tenant: Any, payload: Any) -> Call:
        """Return one call, of what a block was given."""
        return self.call(
            self.key(key),
            None if tenant is None else self.tenant(tenant),
            None if payload is None else partial(fingerprint, payload),
        )


class Keys(Asks):
    """Calls whose key the client made. `ttl`: instead of the table's."""

    words = ("key", "tenant")
    space = "keys"
    key = staticmethod(checked_key)
    tenant = staticmethod(checked_tenant)

    def __init__(
        self, settings: Settings, scope: str, returns: Any = None, *, ttl: timedelta | None = None, **rest: Any
    ) -> None:
        super().__init__(settings, scope, returns, **rest)
        self._ttl = settings.ttl if ttl is None else checked_ttl(ttl)

    def call(self, key: str, tenant: str | None, printed: Printed | None) -> Call:
        shown = key if self._settings.store_keys else None
        return self._asked(digest(tenant, self.scope, key), tenant, shown, printed, self._ttl, KEY)

    def batch(self, keys: Sequence[str], tenant: str | None) -> tuple[Call, Many, list[bytes]]:
        """Return one call for many keys that were checked, what it will have claimed, and the id of each key."""
        ids = digests(tenant, self.scope, keys)
        kind = Many(dict(zip(ids, keys, strict=True)), kept=self._settings.store_keys)
        # No row is the call's own, so its id is nobody's.
        return self._asked(urandom(16), tenant, None, None, self._ttl, kind), kind, ids


def identity(scope: str, key: Any, tenant: Any) -> bytes:
    """Return the primary key of what somebody names."""
    text = checked_key(key)
    return digest(None if tenant is None else checked_tenant(tenant), checked_scope(scope), text)


def _checked_remember(remember: object) -> tuple[type[Exception], ...]:
    classes = remember if isinstance(remember, tuple) else (remember,)
    for cls in classes:
        if not (isinstance(cls, type) and issubclass(cls, Exception)):
            raise TypeError(f"remember= takes a tuple of exception classes, not {remember!r}")
    return classes
