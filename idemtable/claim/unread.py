"""What the batches of a session have claimed: given to their loops while it stands, and committed whole or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, ref

from sqlalchemy import event
from sqlalchemy.exc import InvalidRequestError

from ..dialects.origin import hear
from ..errors import LostClaimError, RetryTransactionError, SessionNotUsableError, TransactionError
from .second import second_connection
from .verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy import Connection
    from sqlalchemy.orm import Session, SessionTransaction

    from ..model import Request
    from ..repository import Records

_CLAIMS: Final = "idemtable_claims"
"""Where a session keeps them, in its ``info``."""
_on: Final[WeakKeyDictionary[Connection, Claims]] = WeakKeyDictionary()
"""One for each connection: of those that a worker keeps for its life, each session would leave its listeners behind."""


class Claim:
    """What one chunk or one call of `claim_many` has claimed.

    Attributes:
        session: whose it is, as a reference.
        unread: how many items its loop has not been given yet.
        is_gone: whether it was rolled back.
        is_held: whether its transaction is open, as far as SQLAlchemy knows.
        connection: on which it was made, as a reference.
        since: the number of the savepoint that it was made in.
        mark: of its transaction, if it is the oldest one; where the database tells.
        heir_of: the owner that it took the oldest one's row over from; ``None`` where it did not.
    """

    __slots__ = (
        "connection", "heir_of", "id", "is_gone", "is_held", "mark", "owner", "records", "scope", "session",
        "since", "unread",
    )  # fmt: skip
    connection: ref[Connection]

    def __init__(
        self, session: Session, records: Records, scope: str, id: bytes, owner: bytes, unread: int = 0
    ) -> None:
        self.session = ref(session)
        self.records, self.scope, self.id, self.owner, self.unread = records, scope, id, owner, unread
        self.is_gone = self.is_held = False
        self.since = 0
        self.heir_of: bytes | None = None
        self.mark: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether its transaction is, behind the session's back too: its items would be handled without their keys."""
        return self.is_gone or (self.is_held and not self.is_inside())

    def refuse(self) -> None:
        """Say how its transaction has ended, for which a row is looked at.

        Raises:
            RetryTransactionError: it was rolled back.
            LostClaimError: it was committed, by a COMMIT sent as text or by MySQL at DDL, with what the loop was not given.
        """
        connection = self.connection()
        if self.is_gone or connection is None:
            raise RetryTransactionError(
                f"{self.scope}: the claims of this loop were rolled back with their transaction; begin the loop again, "
                f"from its first item",
                scope=self.scope,
            )
        _on[connection].refuse_ended(connection, is_inside=False)

    def is_inside(self) -> bool:
        """Say whether the server still is in the transaction, as far as the driver tells."""
        try:
            return self.records.dialect.in_transaction(self.connection())  # type: ignore[arg-type]
        except Exception:  # it was closed or lost, of which a rollback will tell
            return True


class Claims:
    """What batches have claimed on one connection, until its transaction ends.

    A loop that is left early, by a ``break`` or an exception that somebody swallows, leaves keys behind that are claimed
    and whose items nobody has handled: committed, they would be *seen* for ever. And a transaction that the database has
    undone in between, as InnoDB does at a deadlock, would be committed with the items' effects and without the keys. The
    connection is asked and not the session, for it may be somebody else who commits or rolls back there.
    """

    def __init__(self, connection: Connection) -> None:
        self._held: list[Claim] = []
        """What stands in a transaction that is open, the oldest first."""
        self._leaving: list[Claim] = []
        """What was let through to COMMIT, until the session has heard how that ended."""
        for name, listener in (
            ("begin", self._begin),
            ("begin_twophase", self._begin),
            ("commit", self._commit),
            ("commit_twophase", self._commit_twophase),
            ("prepare_twophase", self._prepare_twophase),
            ("rollback", self._rollback),
            ("rollback_twophase", self._rollback),
            ("rollback_savepoint", self._rollback_savepoint),
        ):
            hear(connection, name, listener)

    @classmethod
    def of(cls, session: Session, connection: Connection) -> Claims:
        """Return those on a session's connection, of which the session tells them too."""
        found = _on.get(connection)
        if found is None:
            found = _on[connection] = cls(connection)
        if _of(session) is not found:
            session.info[_CLAIMS] = found
            # Once for each session, however often they are put there.
            _hear(session, "after_begin", _after_begin)
            _hear(session, "before_commit", _before_commit)
            _hear(session, "after_commit", _after_commit)
            _hear(session, "after_soft_rollback", _after_soft_rollback)
        return found

    def add(self, connection: Connection, claim: Claim, taken: Mapping[bytes, bytes], mark: str | None = None) -> None:
        """Hold a claim, in whose savepoint the connection still is.

        Args:
            connection: on which it was made.
            claim: of a batch, or of a call that has taken a row over.
            taken: the rows that it took over because they had expired, and from which owner.
            mark: of the transaction, if it is known.
        """
        if not self._held:
            claim.mark = mark or claim.records.dialect.mark(connection)
        savepoint = connection.get_nested_transaction()
        claim.since = 0 if savepoint is None else _number(savepoint._savepoint)
        if self._held:
            claim.heir_of = taken.get(self._held[0].id)
        claim.connection, claim.is_held = ref(connection), True
        self._held.append(claim)

    def _heir(self) -> bytes:
        """Return whose the row of the oldest claim is by now.

        Not any later claim's that may have the same key: one that has inserted the row has found none, and the oldest
        claim had been undone. So it was too where a row was taken over from somebody else.
        """
        owner = self._held[0].owner
        for claim in self._held:
            if claim.heir_of == owner:
                owner = claim.owner
        return owner

    def wants(self, id: bytes) -> bool:
        """Say whether COMMIT will look at a row."""
        return bool(self._held) and self._held[0].id == id

    def refuse_unread(self, session: Session | None = None) -> None:
        """Raise TransactionError if a loop, or one of a session's, has not been given all that was claimed for it."""
        for claim in self._held:
            # To end its own savepoint on the connection is for each session to decide, in the loop of another one too.
            if claim.unread and (session is None or claim.session() is session):
                raise TransactionError(
                    f"{claim.scope}: items of unseen() are claimed and were not given to the loop yet: committed, they "
                    f"would be lost. Commit when the loop has come to its end, or roll back; to commit in between, give "
                    f"unseen() the items of one transaction",
                    scope=claim.scope,
                )

    def refuse_second(self, session: Session) -> None:
        """Raise SessionNotUsableError if a session that has claimed works on another connection too."""
        if self._held and (why := second_connection(session)):
            for claim in self._held:
                if claim.session() is session:
                    raise SessionNotUsableError(f"{claim.scope}: {why}", scope=claim.scope)

    def refuse_ended(self, connection: Connection, *, is_inside: bool) -> None:
        """Raise as `Claim.refuse` if the transaction is not the one any more in which the oldest claim was made."""
        # Of the oldest: what was claimed after the transaction was undone stands in the one that began in its place.
        oldest, cause, is_there = self._held[0], None, False
        try:
            if is_inside and oldest.mark is not None and oldest.records.dialect.mark(connection) == oldest.mark:
                return
            found = oldest.records.find(connection, oldest.id)
            is_there = found is not None and found.owner == self._heir()
            if is_inside and is_there and oldest.mark is None:
                return
        except Exception as error:
            if not self._is_dead(error, connection):
                raise  # a time limit that a signal handler raises, a role that may not read the table
            cause = error  # COMMIT would be answered with a ROLLBACK, and no error
        if is_there:
            raise LostClaimError(
                f"{oldest.scope}: the transaction of this batch was committed behind its session: by COMMIT sent as text, "
                f"or by DDL, which MySQL and MariaDB commit at. Its keys are seen from now on, also those whose items the "
                f"loop was not given: forget these before the import is done again",
                scope=oldest.scope,
            )
        raise RetryTransactionError(
            f"{oldest.scope}: the transaction was undone after its keys had been claimed, as by a deadlock that was "
            f"swallowed; what came after it is not committed. Roll it back and begin again, from the first item",
            scope=oldest.scope,
        ) from cause

    def settle(self, *, committed: bool) -> None:
        """Hear how the COMMIT ended that was let through."""
        leaving, self._leaving = self._leaving, []
        if not committed:
            _let_go(leaving)

    # --- what the connection tells ----------------------------------------------------------------------------------------

    def _begin(self, connection: Connection, xid: Any = None) -> None:
        self._leaving = []  # nobody has heard of a failure; what another session does now is none

    def _check(self, connection: Connection) -> None:
        if self._held:
            self.refuse_unread()
            for session in {claim.session() for claim in self._held}:
                if session is not None:
                    self.refuse_second(session)
            self.refuse_ended(connection, is_inside=self._held[-1].is_inside())

    def _is_dead(self, error: Exception, connection: Connection) -> bool:
        verdict = Verdict(error, self._held[0].records.dialect, connection=connection)
        return isinstance(error, InvalidRequestError) or verdict.is_gone or verdict.is_dead

    def _commit(self, connection: Connection) -> None:
        try:
            self._check(connection)
        except BaseException:  # Ctrl-C too
            # SQLAlchemy takes a COMMIT that has raised for one that was sent, and sends no ROLLBACK after it: whoever has
            # the connection next would commit all of it.
            self._rollback(connection)
            try:
                connection.dialect.do_rollback(connection.connection)
            except BaseException as error:
                connection.invalidate()
                if not isinstance(error, Exception):
                    raise
            raise
        self._leave()

    def _commit_twophase(self, connection: Connection, xid: Any, is_prepared: bool) -> None:
        if not is_prepared:
            self._commit(connection)

    def _prepare_twophase(self, connection: Connection, xid: Any) -> None:
        self._check(connection)
        self._leave()

    def _leave(self) -> None:
        self._leaving, self._held = self._held, []
        for claim in self._leaving:
            claim.is_held = False

    def _rollback(self, connection: Connection, *twophase: Any) -> None:
        _let_go(self._held)
        self._held = []

    def _rollback_savepoint(self, connection: Connection, name: str, context: Any) -> None:
        begun = _number(name)
        _let_go([claim for claim in self._held if claim.since >= begun])
        self._held = [claim for claim in self._held if not claim.is_gone]


def handed_on(session: Session, connection: Connection, records: Records, request: Request, stale: bytes) -> None:
    """Hear that a call has taken an expired row over, which may be a batch's of the same transaction."""
    claims = _on.get(connection)
    if claims is not None and claims.wants(request.id):
        claims.add(connection, Claim(session, records, request.scope, request.id, request.owner), {request.id: stale})


def _number(name: str) -> int:
    """Return a savepoint's number on its connection, which SQLAlchemy counts up; a name without one is older than all."""
    number = name.rpartition("_")[2]
    return int(number) if number.isdecimal() else 0


def _let_go(claims: list[Claim]) -> None:
    for claim in claims:
        claim.is_gone, claim.is_held = True, False


# --- what the session tells -----------------------------------------------------------------------------------------------
# The connection hears of a COMMIT too late to leave the transaction as it was, and not at all of how it ended. And while
# somebody listens to the session's COMMIT a call's own does not travel past SQLAlchemy.


def _hear(session: Session, name: str, heard: Callable[..., None]) -> None:
    """Listen to a session, also from inside of what listens to the same: it goes on through those that were there."""
    told: Any = getattr(session.dispatch, name)
    if told.listeners:  # of the session itself; to add to what it goes through is an error of Python's
        told.listeners = told.listeners.copy()
    event.listen(session, name, heard)


def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    # At once: COMMIT flushes, and of the two connections that there are then it may commit the other one first.
    if (claims := _of(session)) is not None:
        claims.refuse_second(session)


def _before_commit(session: Session) -> None:
    # In a savepoint it may be the end of that one, inside the loop.
    if not session.in_nested_transaction() and (claims := _of(session)) is not None:
        claims.refuse_unread(session)
        claims.refuse_second(session)  # somebody may have swallowed the refusal


def _after_commit(session: Session) -> None:
    if (claims := _of(session)) is not None:
        claims.settle(committed=True)


def _after_soft_rollback(session: Session, previous: SessionTransaction) -> None:
    if previous.parent is None and (claims := _of(session)) is not None:
        claims.settle(committed=False)


def _of(session: Session) -> Claims | None:
    found: Claims | None = session.info.get(_CLAIMS)
    return found
