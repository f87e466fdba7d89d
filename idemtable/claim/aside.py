"""The look before a transaction: what an earlier call has left, for calls that expect to find it."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, assert_never

from ..binding import drop_dead
from ..dialects.words import Look
from ..model import Mismatch, Newer, Outcome, Refuse, Replay, Reraise, TakeOver, Unfinished, Won
from . import steps
from .settle import give, refuse
from .steps import Step
from .transaction import connected, connection_of, unusable

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from ..model import Answer, Refusal, Stored
    from .course import Course


class Aside:
    """One look of a call.

    Args:
        course: the call.
    """

    connection: Connection | None = None
    is_cut = False  # nobody else works on it

    def __init__(self, course: Course) -> None:
        self._course = course
        self.records = course.place.records

    def answer(self, session: Session | None = None) -> Outcome[Any] | None:
        """Return what an earlier call left, or ``None`` where that takes a claim to find out; begin nothing that stays.

        Args:
            session: to look through, which whoever gives it closes; ``None`` where nobody would hear of one. To make, begin
                and end it takes as long as the look does.

        Raises:
            FingerprintMismatchError, LostClaimError, ResultUnreadableError, or the remembered exception.
            IdempotencyError, Exception: as of `settle`.
        """
        course = self._course
        engine = course.place.engine
        try:
            decision = self._decided(session)
        except Exception as error:
            drop_dead(engine, error)
            if course.judged(error, self).is_elsewhere:
                engine.dispose()
            course.begin()  # what has failed was an attempt; one that finds nothing goes on, with a claim
            refuse(course, self, error, repeats=True)
        match decision:
            case None:
                return None
            case Replay() | Reraise():
                self._tell(Step.REPLAYED)
                return give(course, decision, course.attempts + 1)
            case Mismatch() | Unfinished() | Newer() | Refuse():
                raise course.call.kind.refusal(decision, course.call.request.scope)
            case _:
                assert_never(decision)

    def _decided(self, session: Session | None) -> Answer | Refusal | None:
        if why := self.records.dialect.occupied(self._course.place.engine):
            raise unusable(why)
        found = self._through_engine() if session is None else self._through(session)
        decision = self._course.call.kind.decide(found, self._course.call.request)
        if isinstance(decision, Won | TakeOver):
            return None
        if isinstance(decision, Replay | Reraise) and not decision.stored.is_settled:
            return None  # only a COMMIT tells whether it can be lost
        self._tell(Step.FOUND)
        return decision

    def _through_engine(self) -> Stored | None:
        with connected(self._course.place.engine.connect) as connection:
            if (level := self._course.level) is not None:
                connection.execution_options(isolation_level=level)
            connection.begin()
            return self._look(connection)

    def _through(self, session: Session) -> Stored | None:
        if not session.autobegin:
            session.begin()
        level = self._course.level
        options = None if level is None else {"isolation_level": level}
        try:
            found = self._look(connected(connection_of, session, "claim", options), session)
        except BaseException:
            with suppress(Exception):  # what is being raised matters more
                session.rollback()
            raise
        # Not only closed: who listens hears of a rollback, and one that fails gives the connection back all the same.
        session.rollback()
        return found

    def _look(self, connection: Connection, session: Session | None = None) -> Stored | None:
        self.connection = connection
        self.records = self._course.place.records_of(connection, session)
        dialect = self.records.dialect
        if why := dialect.unusable(connection):
            raise unusable(why)
        dialect.begun(connection)
        return self.records.find(connection, self._course.call.request.id, self._course.remaining(), Look.ASIDE)

    def _tell(self, step: Step) -> None:
        if steps.listeners:
            steps.tell(step, self._course.call.request, self._course.attempts + 1, True)
