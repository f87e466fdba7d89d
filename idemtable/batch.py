"""Batches: which of many keys nobody has had yet, in the caller's transaction; sync and async."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .annotations import refuse_async
from .binding import sync_session, unscoped
from .claim.call import Keys
from .claim.returned import Unkept
from .claim.run import AsyncRun, Run
from .claim.unread import Claim, Claims
from .fields import NOTHING
from .keys import checked_keys
from .model import Flag
from .paths import walk
from .settings import checked_count

if TYPE_CHECKING:
    from datetime import timedelta

    from .claim.call import Call
    from .claim.many import Many
    from .settings import Settings

T = TypeVar("T")
KeyOf = str | Callable[[Any], Any]

CHUNK: Final = 5_000
"""Items of a chunk are held in memory, and with more of them a key costs no less."""
_LARGEST: Final = 100_000


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
        self._asks = Keys(settings, scope, ttl=ttl, wait=wait, results=settings.no_results)
        self._tenant = None if tenant is None else self._asks.tenant(tenant)
        self._last: Claim | None = None

    def _call(self, keys: Sequence[object], before: int = 0, **cure: str) -> tuple[Call, Many, list[bytes]]:
        texts = checked_keys(keys, f"an item of a batch of {self._asks.scope}", before, **cure)
        return self._asks.batch(texts, self._tenant)

    # --- flags ------------------------------------------------------------------------------------------------------------

    def claim_many(self, keys: Iterable[object]) -> list[Flag]:
        """Claim keys; see `IdemTable.claim_many`."""
        if not (given := list(self._checked(keys, "claim_many"))):
            return []
        call, many, ids = self._call(given)
        Run(self._settings, call).inside(self._session, self._holding(call, many, gives=False))
        return _flags(ids, many)

    async def aclaim_many(self, keys: Iterable[object]) -> list[Flag]:
        """Claim keys; see `IdemTable.claim_many`."""
        if not (given := list(self._checked(keys, "claim_many"))):
            return []
        call, many, ids = self._call(given)
        await AsyncRun(self._settings, call).inside(self._session, self._aholding(call, many, gives=False))
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
        (read, cure), size = _reader(key), checked_count(chunk, "chunk", _LARGEST)
        return self._unseen(iter(self._checked(items, "unseen")), read, cure, size)

    def _unseen(self, items: Iterator[T], read: Callable[[Any], Any], cure: str, size: int) -> Iterator[T]:
        before = 0
        while part := list(islice(items, size)):
            call, many, ids = self._call([read(item) for item in part], before, cure=cure)
            self._go_on()
            Run(self._settings, call).inside(self._session, self._holding(call, many, gives=True))
            before += len(part)
            for item in self._given(part, ids, many):
                yield item
                self._go_on()
        self._go_on()

    def aunseen(self, items: Iterable[T] | AsyncIterable[T], key: KeyOf, chunk: int) -> AsyncIterator[T]:
        """Give the items that are new; see `IdemTable.unseen`."""
        (read, cure), size = _reader(key), checked_count(chunk, "chunk", _LARGEST)
        if not hasattr(items, "__aiter__"):
            items = self._checked(items, "unseen")
        return self._aunseen(_parts(items, size), read, cure)

    async def _aunseen(self, parts: AsyncIterator[list[T]], read: Callable[[Any], Any], cure: str) -> AsyncIterator[T]:
        before = 0
        async for part in parts:
            call, many, ids = self._call([read(item) for item in part], before, cure=cure)
            await self._ago_on()
            await AsyncRun(self._settings, call).inside(self._session, self._aholding(call, many, gives=True))
            before += len(part)
            for item in self._given(part, ids, many):
                yield item
                await self._ago_on()
        await self._ago_on()

    def _given(self, part: list[T], ids: list[bytes], many: Many) -> Iterator[T]:
        for item, is_new in zip(part, _firsts(ids, many), strict=True):
            if is_new:
                assert self._last is not None
                self._last.unread -= 1
                yield item

    def _go_on(self) -> None:
        """Raise if the transaction of what the loop was given last is over; the source of the items may have ended it."""
        if (last := self._last) is not None and last.is_over:
            last.refuse()

    async def _ago_on(self) -> None:
        if (last := self._last) is not None and last.is_over:
            await self._session.run_sync(lambda _: last.refuse())

    # --- what becomes of the claims ---------------------------------------------------------------------------------------

    def _holding(self, call: Call, many: Many, *, gives: bool) -> Callable[[Any], Unkept]:
        """Return what runs once the keys are claimed: the caller does the work, and no result of it is kept.

        It is still inside the savepoint of the claim.

        Args:
            call: which it was.
            many: the keys.
            gives: whether a loop is to be given an item for each of them that is new.
        """

        def hold(session: Any) -> Unkept:
            if many.new:
                connection, request = self._sync.connection(), call.request
                records = self._settings.place.records_of(connection, self._sync)
                unread = len(many.new) if gives else 0
                id = next(iter(many.new))
                self._last = Claim(self._sync, records, request.scope, id, request.owner, unread)
                Claims.of(self._sync, connection).add(connection, self._last, many.taken, many.mark)
            return Unkept(None)

        return hold

    def _aholding(self, call: Call, many: Many, *, gives: bool) -> Callable[[Any], Awaitable[Unkept]]:
        hold = self._holding(call, many, gives=gives)

        async def ahold(session: Any) -> Unkept:
            return await session.run_sync(hold)  # type: ignore[no-any-return]

        return ahold


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


def _reader(key: KeyOf) -> tuple[Callable[[Any], Any], str]:
    """Return what finds the key of an item, and what is to be said where it finds none."""
    if isinstance(key, str):
        path = tuple(key.split("."))
        if not all(path):
            raise ValueError(f"key= takes the name of an item's part or a dotted path, not {key!r}")

        def read(item: Any) -> Any:
            found = walk(item, path)
            return None if found is NOTHING else found

        return read, f"key={key!r} finds nothing in it, or None; key= takes a callable too"
    if callable(key):
        refuse_async(key, "key")
        return key, "what key= calls has returned None"
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
