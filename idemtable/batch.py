"""Batches: which of many keys nobody has had yet, in the caller's transaction; sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import event

from .binding import sync_session, unscoped
from .claim.call import Keys
from .claim.returned import Unkept
from .claim.run import AsyncRun, Run
from .errors import TransactionError
from .fields import NOTHING
from .keys import checked_keys
from .model import Flag
from .paths import walk
from .settings import checked_count

if TYPE_CHECKING:
    from datetime import timedelta

    from sqlalchemy.orm import Session, SessionTransaction

    from .claim.call import Call
    from .claim.many import Many
    from .settings import Settings

T = TypeVar("T")
KeyOf = str | Callable[[Any], Any]

CHUNK: Final = 5_000
"""Items of a chunk are held in memory, and with more of them a key costs no less."""
_LARGEST: Final = 100_000

_UNREAD: Final = "idemtable_unread"
"""Where a session keeps what its loops have not been given, in its ``info``."""


class Batch:
    """What the batches of one scope ask with in one session.

    Args:
        settings: of the table.
        session: the caller's.
        scope: a name for what is done once.
        tenant: whose the keys are.
        ttl, wait: instead of the table's.

    Raises:
        TypeError, ValueError, KeyRejectedError: one of them cannot be; nothing was read and nothing sent.
    """

    def __init__(
        self,
        settings: Settings,
        session: Any,
        scope: str,
        tenant: Any = None,
        ttl: timedelta | None = None,
        wait: timedelta | None = None,
    ) -> None:
        self._is_async = settings.binding.is_async
        self._settings = settings
        self._session = unscoped(session)
        self._sync = sync_session(self._session, "AsyncSession" if self._is_async else "Session")
        self._asks = Keys(settings, scope, ttl=ttl, wait=wait)
        self._tenant = None if tenant is None else self._asks.tenant(tenant)

    def _call(self, keys: Sequence[object], before: int = 0) -> tuple[Call, Many, list[bytes]]:
        texts = checked_keys(keys, f"an item of a batch of {self._asks.scope}", before)
        return self._asks.batch(texts, self._tenant)

    # --- flags ------------------------------------------------------------------------------------------------------------

    def claim_many(self, keys: Iterable[object]) -> list[Flag]:
        """Claim keys; see `IdemTable.claim_many`."""
        if not (given := list(self._checked(keys, "claim_many"))):
            return []
        call, many, ids = self._call(given)
        Run(self._settings, call).inside(self._session, _nothing)
        return _flags(ids, many)

    async def aclaim_many(self, keys: Iterable[object]) -> list[Flag]:
        """Claim keys; see `IdemTable.claim_many`."""
        if not (given := list(self._checked(keys, "claim_many"))):
            return []
        call, many, ids = self._call(given)
        await AsyncRun(self._settings, call).inside(self._session, _anothing)
        return _flags(ids, many)

    def _checked(self, given: Any, verb: str) -> Iterable[Any]:
        if isinstance(given, str | bytes | bytearray):
            raise TypeError(f"{verb} takes many of them, not one {type(given).__name__}: put it into a list")
        if isinstance(given, Iterable):
            return given
        if hasattr(given, "__aiter__"):
            raise TypeError(
                f"{verb} takes no async iterable here: read it into a list first, or use AsyncIdemTable.unseen"
            )
        raise TypeError(f"{verb} takes an iterable, not {given!r}")

    # --- items ------------------------------------------------------------------------------------------------------------

    def unseen(self, items: Iterable[T], key: KeyOf, chunk: int) -> Iterator[T]:
        """Give the items that are new; see `IdemTable.unseen`."""
        read, size = _reader(key), checked_count(chunk, "chunk", _LARGEST)
        return self._unseen(iter(self._checked(items, "unseen")), read, size)

    def _unseen(self, items: Iterator[T], read: Callable[[Any], Any], size: int) -> Iterator[T]:
        before = 0
        while part := list(islice(items, size)):
            call, many, ids = self._call(list(map(read, part)), before)
            Run(self._settings, call).inside(self._session, _nothing)
            before += len(part)
            yield from self._given(part, ids, many)

    def aunseen(self, items: Iterable[T] | AsyncIterable[T], key: KeyOf, chunk: int) -> AsyncIterator[T]:
        """Give the items that are new; see `IdemTable.unseen`."""
        read, size = _reader(key), checked_count(chunk, "chunk", _LARGEST)
        if not hasattr(items, "__aiter__"):
            items = self._checked(items, "unseen")
        return self._aunseen(_parts(items, size), read)

    async def _aunseen(self, parts: AsyncIterator[list[T]], read: Callable[[Any], Any]) -> AsyncIterator[T]:
        before = 0
        async for part in parts:
            call, many, ids = self._call(list(map(read, part)), before)
            await AsyncRun(self._settings, call).inside(self._session, _anothing)
            before += len(part)
            for item in self._given(part, ids, many):
                yield item

    def _given(self, part: list[T], ids: list[bytes], many: Many) -> Iterator[T]:
        new = [item for item, is_new in zip(part, _firsts(ids, many), strict=True) if is_new]
        rest = Unread.of(self._sync).add(self._asks.scope, len(new), self._sync)
        for item in new:
            rest.count -= 1
            yield item


async def _parts(items: Iterable[T] | AsyncIterable[T], size: int) -> AsyncIterator[list[T]]:
    if isinstance(items, AsyncIterable):
        part: list[T] = []
        async for item in items:
            part.append(item)
            if len(part) == size:
                yield part
                part = []
        if part:
            yield part
    else:
        rest = iter(items)
        while part := list(islice(rest, size)):
            yield part


def _reader(key: KeyOf) -> Callable[[Any], Any]:
    """Return what finds the key of an item."""
    if isinstance(key, str):
        path = tuple(key.split("."))
        if not all(path):
            raise ValueError(f"key= takes the name of an item's part or a dotted path, not {key!r}")

        def read(item: Any) -> Any:
            found = walk(item, path)
            return None if found is NOTHING else found

        return read
    if callable(key):
        return key
    raise TypeError(f"key= takes the name of an item's part or a callable, not {key!r}")


def _firsts(ids: list[bytes], many: Many) -> list[bool]:
    """Say of each id whether it is new; of one that stands there several times only the first is."""
    if len(many.new) == len(ids):
        return [True] * len(ids)
    new, found = set(many.new), []
    for id in ids:
        found.append(id in new)
        new.discard(id)
    return found


def _flags(ids: list[bytes], many: Many) -> list[Flag]:
    return [Flag.New if is_new else Flag.Seen for is_new in _firsts(ids, many)]


def _nothing(session: Any) -> Unkept:
    """Be what runs once the keys are claimed: the caller does the work, and no result of it is kept."""
    return Unkept(None)


async def _anothing(session: Any) -> Unkept:
    return Unkept(None)


class Rest:
    """Items whose keys a chunk has claimed, and that its loop has not been given yet."""

    __slots__ = ("count", "inside", "scope")

    def __init__(self, scope: str, count: int, inside: list[SessionTransaction]) -> None:
        self.scope, self.count = scope, count
        self.inside = inside
        """The transactions, savepoints first, whose end is the end of the claims."""


class Unread:
    """What the loops of one session have not been given. While there is any, it is not committed.

    Left early, by a ``break`` or an exception that somebody swallows, a loop leaves keys behind that are claimed and
    whose items nobody has handled. Committed, they would be *seen* for ever, and the items lost without a word.
    """

    def __init__(self, session: Session) -> None:
        self._rests: list[Rest] = []
        event.listen(session, "before_commit", self._refuse)
        event.listen(session, "after_soft_rollback", self._forget)

    @classmethod
    def of(cls, session: Session) -> Unread:
        """Return that of a session."""
        found = session.info.get(_UNREAD)
        if found is None:
            found = session.info[_UNREAD] = cls(session)
        return found

    def add(self, scope: str, count: int, session: Session) -> Rest:
        """Return what counts the items of a chunk that were not given yet."""
        inside, transaction = [], session.get_nested_transaction() or session.get_transaction()
        while transaction is not None:
            inside.append(transaction)
            transaction = transaction.parent
        rest = Rest(scope, count, inside)
        self._rests = [*(one for one in self._rests if one.count), rest]
        return rest

    def _refuse(self, session: Session) -> None:
        if session.in_nested_transaction():  # the end of a savepoint inside the loop
            return
        root = session.get_transaction()
        # One that was closed without a word took its claims with it.
        self._rests = [rest for rest in self._rests if rest.count and root in rest.inside]
        if self._rests:
            scope = self._rests[0].scope
            raise TransactionError(
                f"{scope}: items of unseen() are claimed and were not given to the loop yet: committed, they would be "
                f"lost. Commit when the loop has come to its end, or roll back; to commit in between, give unseen() the "
                f"items of one transaction",
                scope=scope,
            )

    def _forget(self, session: Session, previous: SessionTransaction) -> None:
        self._rests = [rest for rest in self._rests if previous not in rest.inside]
