"""The block forms: ``with idem.transaction(…)`` and ``with idem.claim(session, …)``, sync and async."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .binding import unscoped
from .claim import nesting
from .claim.stay import AsyncStaying, Stay, Staying
from .errors import TransactionError

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: F401 - named in a string below
    from sqlalchemy.orm import Session  # noqa: F401

    from .claim.call import Call
    from .model import Record
    from .settings import Settings

SessionT = TypeVar("SessionT")
T = TypeVar("T")


class _BaseClaim(Generic[SessionT, T]):
    """A claimed key while its block runs."""

    session: SessionT
    """The transaction's session; the business writes through it."""

    replayed: bool
    """Whether the block ran before. Then `result` is what it gave, and the body has nothing to do: whatever it writes is
    rolled back."""

    record: Record | None
    """The row that is replayed; ``None`` on the first run."""

    def __init__(self, settings: Settings, call: Call, session: Any) -> None:
        self._settings = settings
        self._call = call
        self._given = unscoped(session)
        self._result: Any = None  # until it is assigned
        self.replayed = False
        self.record = None

    @property
    def result(self) -> T:
        """What the block gives: assign it; after the block it is what every replay gets."""
        return self._result  # type: ignore[no-any-return]

    @result.setter
    def result(self, value: T) -> None:
        if self.replayed:
            raise TransactionError(
                "this block is a replay and has its result: do the work only when claim.replayed is False"
            )
        self._result = value

    def _opened(self, stay: Stay) -> None:
        self._stay, self.session = stay, stay.session
        self.replayed, self._result, self.record = False, None, None  # it may have been entered before
        if stay.outcome is not None:
            assert stay.attempt is not None
            self.replayed, self._result, self.record = True, stay.outcome.value, stay.attempt.replayed


class Claim(_BaseClaim["Session", T]):
    """The sync block, of a result of type `T`; see `IdemTable.transaction` and `IdemTable.claim`."""

    def __enter__(self) -> Self:
        self._run = Staying(self._settings, self._call)
        self._opened(self._run.enter(self._given, nesting.holder(2)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        result = self._run.end(self._stay, self._result, error)
        self._result = result if error is None else self._result


class AsyncClaim(_BaseClaim["AsyncSession", T]):
    """The async block; see `AsyncIdemTable.transaction` and `AsyncIdemTable.claim`."""

    async def __aenter__(self) -> Self:
        self._run = AsyncStaying(self._settings, self._call)
        self._opened(await self._run.enter(self._given, nesting.holder(2, awaits=True)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        result = await self._run.end(self._stay, self._result, error)
        self._result = result if error is None else self._result
