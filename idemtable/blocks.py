"""The block forms: ``with idem.transaction(…)`` and ``with idem.claim(session, …)``, sync and async."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from .binding import sync_session, unscoped
from .claim.run import BaseRun
from .errors import TransactionError

if TYPE_CHECKING:
    from types import TracebackType

    from sqlalchemy.ext.asyncio import AsyncSession  # noqa: F401 - named in a string below
    from sqlalchemy.orm import Session

    from .claim.call import Call
    from .model import Record
    from .settings import Settings

SessionT = TypeVar("SessionT")


class _BaseClaim(Generic[SessionT]):
    """A claimed key while its block runs.

    Attributes:
        session: the transaction's session; the business writes through it.
        replayed: whether the block ran before. Then `result` is what it gave, and the body has nothing to do:
            whatever it writes is rolled back.
        record: the row that is replayed; ``None`` on the first run.
    """

    session: SessionT
    replayed: bool
    record: Record | None

    def __init__(self, settings: Settings, call: Call, session: SessionT | None) -> None:
        self._settings = settings
        self._call = call
        self._given = unscoped(session)
        self._result: Any = None
        self.replayed = False
        self.record = None

    @property
    def result(self) -> Any:
        """What the block gives: assign it; after the block it is what every replay gets."""
        return self._result

    @result.setter
    def result(self, value: Any) -> None:
        if self.replayed:
            raise TransactionError(
                "this block is a replay and has its result: do the work only when claim.replayed is False"
            )
        self._result = value

    def _enter(self, session: Session) -> None:
        run = BaseRun(self._settings, self._call)
        self._attempt = run.block(session, self.session, joins=self._given is not None)
        outcome = self._attempt.open(stays=True)
        if outcome is not None:
            self.replayed, self._result, self.record = True, outcome.value, self._attempt.replayed

    def _exit(self, session: Session, error: BaseException | None) -> None:
        if error is not None:
            self._attempt.fail(error)
        else:
            self._result = self._attempt.close(self._result).value


class Claim(_BaseClaim["Session"]):
    """The sync block; see `IdemTable.transaction` and `IdemTable.claim`."""

    def __enter__(self) -> Self:
        self.session = self._settings.binding.session() if self._given is None else self._given  # type: ignore[assignment]
        try:
            self._enter(sync_session(self.session, "Session"))
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self._exit(self.session, error)
        finally:
            self._close()

    def _close(self) -> None:
        if self._given is None:
            self.session.close()


class AsyncClaim(_BaseClaim["AsyncSession"]):
    """The async block; see `AsyncIdemTable.transaction` and `AsyncIdemTable.claim`."""

    async def __aenter__(self) -> Self:
        self.session = self._settings.binding.session() if self._given is None else self._given  # type: ignore[assignment]
        try:
            sync_session(self.session, "AsyncSession")
            await self.session.run_sync(self._enter)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            await self.session.run_sync(self._exit, error)
        finally:
            await self._close()

    async def _close(self) -> None:
        if self._given is None:
            await self.session.close()
