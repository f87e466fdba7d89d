"""The loop: attempts at a call until there is an answer, in both colours. Everything that runs a call is a caller of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity
from sqlalchemy.orm import Session

from ..bridge import awaited, bridged, is_bridged
from ..errors import SessionNotUsableError
from . import nesting, retry
from .aside import Aside
from .attempt import Attempt
from .course import Course
from .joined import Joined
from .own import Own
from .verdict import Verdict, begin_again

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession

    from ..model import Outcome
    from ..settings import Settings
    from .door import Door, Turn

T = TypeVar("T")
R = TypeVar("R")


class BaseRun(Course):
    """The attempts at a call, for both colours."""

    def _session(self) -> Any:
        return self.settings.binding.session(inside=self.place.is_inside)

    @property
    def _is_unheard(self) -> bool:
        return self.settings.binding.is_unheard(self.place.engine)

    def _own(self, session: Session, joinable: Any) -> Attempt:
        # No call of this table is around it, or it would have joined that one: its key is nobody's here.
        own = Own(self.place, session, joinable, nesting.is_within, self.level)
        repeats = not self.place.is_inside  # of what is open around it nothing can be begun again
        return Attempt(self, own, repeats=repeats)

    def _joined(self, session: Session, joinable: Any) -> Attempt:
        nesting.refuse_reentry(self.place.nest, self.call.request, session, self.call.kind.holds)
        return Attempt(self, Joined(self.place, session, joinable), repeats=False)

    def _enter(self, door: Door) -> Turn | None:
        if is_bridged():  # whoever is inside may be a task of the same loop
            return awaited(self._aenter(door))  # type: ignore[no-any-return]
        return door.enter(self.remaining(), self.call.request.scope)

    def _aenter(self, door: Door) -> Awaitable[Turn | None]:
        return door.aenter(self.remaining(), self.call.request.scope)

    def _invited(self, door: Door, turn: Turn | None) -> Turn:
        if turn is None:
            scope = self.call.request.scope
            if door.is_over:
                raise begin_again(scope)
            raise SessionNotUsableError(  # another attempt would end like this one
                f"{scope}: the call whose session this is, is being committed or undone: make this call inside its "
                f"function, not in what listens to its flush or COMMIT",
                scope=scope,
            )
        return turn

    def _repeats(self, error: Exception) -> bool:
        self._patience = retry.Patience(self.settings.attempts, self.settings.failover, self.judged)
        if self.overtaken:
            self.overtaken = False
            return True
        return self.judged(error).restarts and not self.place.is_inside and not self._patience.is_over(error)


class Run(BaseRun):
    """A call on a Session."""

    def outcome(self, work: Callable[[Session], T], again: Callable[[Session], T] | None = None) -> Outcome[T]:
        """Run `work` once for its key: in the call around this one, or in transactions of its own until one commits.

        Args:
            work: the business.
            again: what runs in place of it after a first attempt.
        """
        while frame := nesting.enclosing(self.place.nest):
            if (turn := self._enter(frame.door)) is not None:
                try:
                    return self._through(self._joined(frame.session, frame.joinable), work)
                finally:
                    self._go(turn, frame.session)
        try:
            return self._once(work)
        except Exception as error:
            if not self._repeats(error):
                raise
        # Not around the first attempt: most calls have no other, and tenacity takes longer than the claim.
        return tenacity.Retrying(**self._patience.policy())(self._once, again or work)

    def inside(self, session: Session, work: Callable[[Session], T], joinable: Any = None) -> Outcome[T]:
        """Run `work` in the caller's transaction, once; `joinable` is the AsyncSession round the session, if any."""
        door = nesting.door_of(session)
        turn = self._invited(door, self._enter(door))
        try:
            return self._through(self._joined(session, joinable), work)
        finally:
            self._go(turn, session)

    def _go(self, turn: Turn, session: Session) -> None:
        """Leave somebody else's transaction; where that has ended meanwhile, with nothing of the session left."""
        turn.end()
        if nesting.is_left_over(session):
            with suppress(Exception):  # the one whose session it is may be closing it too
                session.close()

    def _once(self, work: Callable[[Session], T]) -> Outcome[T]:
        if self.call.lookaside and not self.place.is_inside:
            aside = Aside(self)
            found = aside.answer() if self._is_unheard else self._in_session(aside.answer)
            if found is not None:
                return found
        return self._in_session(lambda session: self._through(self._own(session, session), work))

    def _in_session(self, use: Callable[[Session], R]) -> R:
        session = self._session()
        try:
            made = use(session)
        except BaseException:
            with suppress(Exception):  # what is being raised matters more
                session.close()
            raise
        session.close()
        return made

    def _through(self, attempt: Attempt, work: Callable[[Session], T]) -> Outcome[T]:
        try:  # round all of it: Ctrl-C may come between any two lines
            if (outcome := attempt.open()) is not None:
                return outcome
            value = work(attempt.tx.session)
            self._shut(attempt)
            return attempt.close(value)
        except BaseException as error:
            self._fail(attempt, error)
            raise
        finally:
            attempt.leave()  # also where Ctrl-C has kept an error from being handled: later calls would join this one

    def _fail(self, attempt: Attempt | None, error: BaseException) -> None:
        """Undo, once, when nobody is inside any more. What interrupts the wait is raised, and nothing in its place."""
        if attempt is None or attempt.is_over:
            return
        try:
            self._shut(attempt)
        except BaseException as interruption:
            attempt.fail(interruption)
            raise
        attempt.fail(error)

    def _shut(self, attempt: Attempt) -> None:
        if (door := attempt.door) is None or door.close():
            return
        if is_bridged():
            awaited(door.ashut(self.call.wait))
        else:
            door.shut(self.call.wait)


class AsyncRun(BaseRun):
    """A call on an AsyncSession: `Run`, awaited."""

    async def outcome(
        self,
        work: Callable[[AsyncSession], Awaitable[T]],
        again: Callable[[AsyncSession], Awaitable[T]] | None = None,
    ) -> Outcome[T]:
        """Run `work` once for its key; see `Run.outcome`."""
        while frame := nesting.enclosing(self.place.nest):
            if (turn := await self._aenter(frame.door)) is not None:
                try:
                    return await self._through(self._joined(frame.session, frame.joinable), work)
                finally:
                    await self._go(turn, frame.joinable)
        try:
            return await self._once(work)
        except Exception as error:
            if not self._repeats(error):
                raise
        return await tenacity.AsyncRetrying(**self._patience.policy())(self._once, again or work)

    async def inside(self, session: AsyncSession, work: Callable[[AsyncSession], Awaitable[T]]) -> Outcome[T]:
        """Run `work` in the caller's transaction, once."""
        door = nesting.door_of(session.sync_session)
        turn = self._invited(door, await self._aenter(door))
        try:
            return await self._through(self._joined(session.sync_session, session), work)
        finally:
            await self._go(turn, session)

    async def _go(self, turn: Turn, session: AsyncSession) -> None:
        """Leave somebody else's transaction; see `Run._go`."""
        turn.end()
        if nesting.is_left_over(session.sync_session):
            with suppress(Exception):
                await closed(session)

    async def _once(self, work: Callable[[AsyncSession], Awaitable[T]]) -> Outcome[T]:
        if self.call.lookaside and not self.place.is_inside:
            aside = Aside(self)
            if self._is_unheard:
                found = await bridged(aside.answer)
            else:
                found = await self._in_session(lambda session: session.run_sync(aside.answer))
            if found is not None:
                return found
        return await self._in_session(lambda session: self._through(self._own(session.sync_session, session), work))

    async def _in_session(self, use: Callable[[AsyncSession], Awaitable[R]]) -> R:
        session = self._session()
        try:
            made = await use(session)
        except BaseException:
            with suppress(Exception):  # what is being raised matters more
                await closed(session)
            raise
        await closed(session)
        return made

    async def _through(self, attempt: Attempt, work: Callable[[AsyncSession], Awaitable[T]]) -> Outcome[T]:
        try:
            if (outcome := await self._on(attempt, attempt.open)) is not None:
                return outcome
            value = await work(attempt.tx.joinable)
            await self._shut(attempt)
            return await self._on(attempt, attempt.close, value)
        except BaseException as error:
            await self._fail(attempt, error)
            raise
        finally:
            attempt.leave()

    async def _fail(self, attempt: Attempt | None, error: BaseException) -> None:
        """Undo when nobody is inside any more; see `Run._fail`."""
        if attempt is None or attempt.is_over:
            return
        try:
            await self._shut(attempt)
        except BaseException as interruption:
            await self._on(attempt, attempt.fail, interruption)
            raise
        await self._on(attempt, attempt.fail, error)

    def _on(self, attempt: Attempt, step: Callable[..., R], *args: Any) -> Awaitable[R]:
        return attempt.tx.joinable.run_sync(lambda _: step(*args))  # type: ignore[no-any-return]

    async def _shut(self, attempt: Attempt) -> None:
        if (door := attempt.door) is not None and not door.close():
            await door.ashut(self.call.wait)


async def closed(session: AsyncSession) -> None:
    """Close a session: at once where nothing is left to be sent, else behind a shield, for the task may be cancelled.

    The shield is a task of its own, and takes as long as the claim.
    """
    from sqlalchemy.ext.asyncio import AsyncSession

    kind, inner = type(session), session.sync_session
    is_plain = kind.close is AsyncSession.close and kind.__aexit__ is AsyncSession.__aexit__
    if is_plain and type(inner).close is Session.close and not inner.in_transaction():
        inner.close()
    else:
        await session.__aexit__(None, None, None)  # not close(), which has no shield


def alone(settings: Settings, work: Callable[[Connection], T], *, options: Mapping[str, Any] | None = None) -> Any:
    """Run what is no call in a short transaction of its own, begun again as a call's is; with an async table, awaitable.

    Args:
        settings: of the table.
        work: may run several times.
        options: execution options of the connection, beside those that a writer begins with.
    """
    retrying = tenacity.AsyncRetrying if settings.binding.is_async else tenacity.Retrying
    patience = retry.Patience(settings.attempts, settings.failover, lambda error: Verdict(error, settings.dialect))
    again = retrying(**patience.policy())
    return again(settings.binding.run, work, {**settings.dialect.begin_options(settings.wait), **(options or {})})
