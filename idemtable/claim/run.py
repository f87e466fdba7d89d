"""The loop: attempts at a call until there is an answer, in both colours. Everything that runs a call is a caller of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from . import nesting, retry
from .attempt import Attempt
from .course import Course
from .transaction import Joined, Own
from .verdict import Verdict

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ..model import Outcome
    from ..settings import Settings
    from .call import Call

T = TypeVar("T")


class BaseRun(Course):
    """The attempts at a call, for both colours.

    Args:
        settings: of the table.
        call: what is asked.
        isolation_level: of its own transactions, instead of the engine's.
    """

    def __init__(self, settings: Settings, call: Call, isolation_level: str | None = None) -> None:
        super().__init__(settings, call)
        self._level = isolation_level

    def block(self, session: Session, joinable: Any, *, joins: bool) -> Attempt:
        """Return the one attempt of a block, whose body nobody can run again.

        Args:
            session: the sync Session.
            joinable: what calls inside join: it, or the AsyncSession round it.
            joins: whether the session is the caller's.

        Raises:
            ReentrantCallError: a call around it holds the same key.
        """
        if joins:
            return self._joined(session, joinable)
        nesting.refuse_reentry(self.settings.nest, self.call.request)
        return Attempt(self, Own(self.settings, session, self._level), joinable, repeats=False)

    def _own(self, session: Session, joinable: Any) -> Attempt:
        # No call of this table is around it, or it would have joined that one: its key is nobody's here.
        return Attempt(self, Own(self.settings, session, self._level), joinable, repeats=True)

    def _joined(self, session: Session, joinable: Any) -> Attempt:
        nesting.refuse_reentry(self.settings.nest, self.call.request)
        return Attempt(self, Joined(self.settings, session), joinable, repeats=False)

    def _repeats(self, error: Exception) -> bool:
        return self.settings.attempts > 1 and self.judged(error).restarts

    def _policy(self) -> dict[str, Any]:
        return retry.policy(self.settings.attempts - 1, self.judged)


class Run(BaseRun):
    """A call on a Session."""

    def outcome(self, work: Callable[[Session], T]) -> Outcome[T]:
        """Run `work` once for its key: in the call around this one, or in transactions of its own until one commits."""
        while frame := nesting.enclosing(self.settings.nest):
            with frame.lock:
                if not frame.open:  # it ended while this thread waited for its turn
                    continue
                frame.inside += 1
                try:
                    return self.inside(frame.session, work)
                finally:
                    frame.inside -= 1
                    if frame.is_left_over():
                        frame.session.close()
        try:
            return self._once(work)
        except Exception as error:
            if not self._repeats(error):
                raise
        # Not around the first attempt: most calls have no other, and tenacity takes longer than the claim.
        return tenacity.Retrying(**self._policy())(self._once, work)

    def inside(self, session: Session, work: Callable[[Session], T], joinable: Any = None) -> Outcome[T]:
        """Run `work` in the caller's transaction, once; `joinable` is the AsyncSession round the session, if any."""
        return self._through(self._joined(session, joinable or session), session, work)

    def _once(self, work: Callable[[Session], T]) -> Outcome[T]:
        with self.settings.binding.session() as session:  # type: ignore[union-attr]
            return self._through(self._own(session, session), session, work)

    def _through(self, attempt: Attempt, session: Session, work: Callable[[Session], T]) -> Outcome[T]:
        if (outcome := attempt.open()) is not None:
            return outcome
        try:
            value = work(session)
        except BaseException as error:
            attempt.fail(error)
            raise
        return attempt.close(value)


class AsyncRun(BaseRun):
    """A call on an AsyncSession: `Run`, awaited."""

    async def outcome(self, work: Callable[[AsyncSession], Awaitable[T]]) -> Outcome[T]:
        """Run `work` once for its key; see `Run.outcome`."""
        while frame := nesting.enclosing(self.settings.nest):
            async with frame.turn():
                if not frame.open:  # it ended while this task waited for its turn
                    continue
                frame.inside += 1
                try:
                    return await self.inside(frame.session, work)
                finally:
                    frame.inside -= 1
                    if frame.is_left_over():
                        await frame.session.close()
        try:
            return await self._once(work)
        except Exception as error:
            if not self._repeats(error):
                raise
        return await tenacity.AsyncRetrying(**self._policy())(self._once, work)

    async def inside(self, session: AsyncSession, work: Callable[[AsyncSession], Awaitable[T]]) -> Outcome[T]:
        """Run `work` in the caller's transaction, once."""
        return await self._through(self._joined(session.sync_session, session), session, work)

    async def _once(self, work: Callable[[AsyncSession], Awaitable[T]]) -> Outcome[T]:
        async with self.settings.binding.session() as session:  # type: ignore[union-attr]
            return await self._through(self._own(session.sync_session, session), session, work)

    async def _through(
        self, attempt: Attempt, session: AsyncSession, work: Callable[[AsyncSession], Awaitable[T]]
    ) -> Outcome[T]:
        if (outcome := await session.run_sync(lambda _: attempt.open())) is not None:
            return outcome
        try:
            value = await work(session)
        except BaseException as error:
            await session.run_sync(lambda _, error: attempt.fail(error), error)
            raise
        return await session.run_sync(lambda _: attempt.close(value))


def alone(settings: Settings, work: Callable[[Connection], T], *, options: Mapping[str, Any] | None = None) -> Any:
    """Run what is no call in a short transaction of its own, begun again as a call's is; with an async table, awaitable.

    Args:
        settings: of the table.
        work: may run several times.
        options: execution options of the connection, beside those that a writer begins with.
    """
    retrying = tenacity.AsyncRetrying if settings.binding.is_async else tenacity.Retrying
    again = retrying(**retry.policy(settings.attempts, lambda error: Verdict(error, settings.dialect)))
    return again(settings.binding.run, work, {**settings.dialect.begin_options(settings.wait), **(options or {})})
