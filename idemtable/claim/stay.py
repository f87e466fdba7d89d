"""Blocks: a run whose business is the code of a ``with`` statement, entered and ended by two calls from outside."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import nesting
from .attempt import Attempt
from .joined import Joined
from .own import Own
from .run import AsyncRun, BaseRun, Run, closed

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ..model import Outcome
    from .door import Turn


@dataclass(slots=True)
class Stay:
    """A block while it is open."""

    session: Any
    """What the body works in, an AsyncSession in an async block."""
    turn: Turn | None
    """Its stay in somebody else's transaction, if it has none of its own."""
    attempt: Attempt | None = None
    outcome: Outcome[Any] | None = None
    """What an earlier call left."""


class _BaseStaying(BaseRun):
    def _block(self, stay: Stay, session: Session, holder: nesting.Holder) -> Attempt:
        """Return the one attempt of a block, whose body nobody can run again."""
        nesting.refuse_reentry(self.place.nest, self.call.request, session, self.call.kind.holds)
        if stay.turn is not None:
            return Attempt(self, Joined(self.place, session, stay.session), repeats=False, holder=holder)
        own = Own(self.place, session, stay.session, nesting.is_within, self.level)
        return Attempt(self, own, repeats=False, holder=holder)


class Staying(_BaseStaying, Run):
    """A block on a Session."""

    def enter(self, given: Session | None, holder: nesting.Holder) -> Stay:
        """Begin a block: in the session given, in the call around it, or in a transaction of its own.

        Args:
            given: the caller's session, or ``None``.
            holder: of the block.
        """
        stay = self._begun(given)
        try:
            stay.attempt = self._block(stay, stay.session, holder)
            stay.outcome = stay.attempt.open()
            return stay
        except BaseException as error:
            try:
                self._fail(stay.attempt, error)
            finally:
                self._leave(stay)
            raise

    def _begun(self, given: Session | None) -> Stay:
        if given is not None:
            door = nesting.door_of(given)
            return Stay(given, self._invited(door, self._enter(door)))
        while frame := nesting.enclosing(self.place.nest, for_block=True):
            if (turn := self._enter(frame.door)) is not None:
                return Stay(frame.session, turn)
        return Stay(self._session(), None)

    def end(self, stay: Stay, value: Any, error: BaseException | None) -> Any:
        """End a block with its value, or with what its body raised; return the value as a replay will give it."""
        try:
            attempt = stay.attempt
            assert attempt is not None
            if error is not None:
                self._fail(attempt, error)
                return None
            self._shut(attempt)
            return attempt.close(value).value
        except BaseException as interruption:
            self._fail(stay.attempt, interruption)
            raise
        finally:
            self._leave(stay)

    def _leave(self, stay: Stay) -> None:
        if stay.attempt is not None:
            stay.attempt.leave()  # as `Run._through` does
        if stay.turn is not None:
            self._go(stay.turn, stay.session)
            return
        with suppress(Exception):  # what was decided matters more; who is inside too long closes it in the end
            stay.session.close()


class AsyncStaying(_BaseStaying, AsyncRun):
    """A block on an AsyncSession: `Staying`, awaited."""

    async def enter(self, given: AsyncSession | None, holder: nesting.Holder) -> Stay:
        """Begin a block; see `Staying.enter`."""
        stay = await self._begun(given)
        try:
            attempt = stay.attempt = self._block(stay, stay.session.sync_session, holder)
            stay.outcome = await self._on(attempt, attempt.open)
            return stay
        except BaseException as error:
            try:
                await self._fail(stay.attempt, error)
            finally:
                await self._leave(stay)
            raise

    async def _begun(self, given: AsyncSession | None) -> Stay:
        if given is not None:
            door = nesting.door_of(given.sync_session)
            return Stay(given, self._invited(door, await self._aenter(door)))
        while frame := nesting.enclosing(self.place.nest, for_block=True):
            if (turn := await self._aenter(frame.door)) is not None:
                return Stay(frame.joinable, turn)
        return Stay(self._session(), None)

    async def end(self, stay: Stay, value: Any, error: BaseException | None) -> Any:
        """End a block; see `Staying.end`."""
        try:
            attempt = stay.attempt
            assert attempt is not None
            if error is not None:
                await self._fail(attempt, error)
                return None
            await self._shut(attempt)
            return (await self._on(attempt, attempt.close, value)).value
        except BaseException as interruption:
            await self._fail(stay.attempt, interruption)
            raise
        finally:
            await self._leave(stay)

    async def _leave(self, stay: Stay) -> None:
        if stay.attempt is not None:
            stay.attempt.leave()
        if stay.turn is not None:
            await self._go(stay.turn, stay.session)
            return
        with suppress(Exception):
            await closed(stay.session)
