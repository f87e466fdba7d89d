"""What can be claimed: each kind *takes, decides, keeps and gives back*, and an attempt does not ask which it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol, assert_never

from ..bridge import awaited
from ..dialects.statement import send
from ..dialects.words import level_of
from ..errors import (
    FingerprintMismatchError,
    IdempotencyError,
    InProgressError,
    LostClaimError,
    ResultUnreadableError,
    TokenError,
    UnknownTokenError,
)
from ..model import Decision, Mismatch, Newer, Refuse, Status, Stored, Unfinished, Won
from ..policy import decide, decide_token
from .unread import handed_on

if TYPE_CHECKING:
    from datetime import datetime

    from ..model import Refusal, Request
    from .transaction import Transaction

LOOKS: Final = 8
"""How often one attempt looks again when the row it lost to has gone: each time a purge or a rollback came between."""


class Kind(ABC):
    """A thing that one call may have."""

    status: ClassVar[Status]
    """Of a row that holds its result."""
    failed: ClassVar[Status] = Status.FAILED
    """Of a row that holds an exception to remember."""
    ends: ClassVar[bool] = True
    """Whether its last statement can have COMMIT behind it."""
    settles: ClassVar[bool] = True
    """Whether calling again tells whether a COMMIT without an answer arrived: the row is there or it is not."""
    returns: ClassVar[bool] = False
    """Whether it can be had again once its row has expired."""
    noun: ClassVar[str]
    cure: ClassVar[str]
    unsettled: ClassVar[str] = ""
    """What is to be said of a COMMIT without an answer, where it does not settle."""

    def holds(self, request: Request, id: bytes) -> bool:
        """Say whether a row is what the request asks for."""
        return request.id == id

    def reserving(self) -> Reserving | None:
        """Return itself, where it must be had before the transaction begins."""
        return None

    @abstractmethod
    def take(self, tx: Transaction, request: Request, stale: bytes | None, wait: float) -> bool:
        """Try to make it the request's own, waiting at most `wait` seconds for whoever is about to.

        Args:
            stale: the owner to take an expired row over from, or ``None`` to take it from nobody.

        Returns:
            Whether it is the request's own. If not, a row says why.
        """

    @abstractmethod
    def decide(self, stored: Stored | None, request: Request) -> Decision:
        """Say what the row means that was there instead."""

    def keep(self, tx: Transaction, request: Request, status: Status, codec: str, data: bytes, along: Any) -> bool:
        """Store an outcome; say whether it still was the request's own.

        Args:
            along: what COMMIT is to travel by with the statement, if anything.
        """
        return tx.records.store(tx.connection, request, status, codec, data, along)

    def ran_at(self, stored: Stored) -> datetime | None:
        """Return when the call ran that left this row."""
        return stored.record.created_at

    def refusal(self, decision: Refusal, scope: str) -> IdempotencyError:
        """Return the error of a decision to refuse."""
        match decision:
            case Mismatch():
                return FingerprintMismatchError(
                    f"{scope}: this {self.noun} was used before with another payload; use a new {self.noun} for a new "
                    f"request",
                    scope=scope,
                )
            case Unfinished():
                return LostClaimError(
                    f"{scope}: an earlier call with this {self.noun} committed inside its function and left no result. "
                    f"It will not run again: find out what it did, then {self.cure}",
                    scope=scope,
                )
            case Newer():
                return ResultUnreadableError(
                    f"{scope}: a newer release of idemtable has written what is stored for this {self.noun}, in a way that "
                    f"this one does not know. The row stays and nothing runs: upgrade this program",
                    scope=scope,
                )
            case Refuse(error):
                return bad_token(error, scope)
            case _:
                assert_never(decision)


class Reserving(Kind):
    """A thing that must be had before the transaction begins, and be given back if nothing comes of it."""

    def reserving(self) -> Reserving:
        return self

    @abstractmethod
    def reserve(self, request: Request) -> None:
        """Take it.

        Raises:
            TokenError: it is not to be had; the database is not asked.
        """

    @abstractmethod
    def give_back(self, request: Request) -> None:
        """Return it, once the transaction was undone."""


class Key(Kind):
    """A key that the client made: whoever inserts its row has it."""

    status = Status.COMPLETED
    returns = True
    noun, cure = "key", "forget the key"

    def take(self, tx: Transaction, request: Request, stale: bytes | None, wait: float) -> bool:
        if stale is None:
            return tx.records.claim(tx.connection, request, wait)
        if not tx.records.take_over(tx.connection, request, stale, wait):
            return False
        handed_on(tx.session, tx.connection, tx.records, request, stale)
        return True

    def decide(self, stored: Stored | None, request: Request) -> Decision:
        return Won() if stored is None else decide(stored, request, stored.now)


KEY: Final = Key()

_MARK: Final = "idemtable_token"


class Token(Kind):
    """A token that the server issued: its row is there, and whoever changes it has it.

    Args:
        holder: the owner that the row was issued with.
        replay: whether a second use may have the first one's result.
    """

    status = failed = Status.SPENT
    noun, cure = "token", "revoke the token"

    def __init__(self, holder: bytes, *, replay: bool) -> None:
        self._holder = holder
        self._replay = replay

    def take(self, tx: Transaction, request: Request, stale: bytes | None, wait: float) -> bool:
        records, connection = tx.records, tx.connection
        # A look first, in somebody else's transaction: an UPDATE that finds no token would keep others from issuing
        # theirs until that one ends.
        if records.dialect.locks_gaps and not tx.owned and records.find(connection, request.id, wait) is None:
            return False
        if records.redeem(connection, request, self._holder, wait):
            return True
        # What an INSERT puts in where there is no token goes with the savepoint.
        hides = not tx.owned and level_of(connection) in records.dialect.blind_levels
        if hides and records.claim(connection, request, wait):
            raise bad_token(UnknownTokenError, request.scope)
        return False

    def decide(self, stored: Stored | None, request: Request) -> Decision:
        return decide_token(stored, request, replay=self._replay)

    def ran_at(self, stored: Stored) -> datetime | None:
        return stored.record.completed_at  # the row is as old as the token


class TokenStore(Protocol):
    """Where tokens can live instead of in the table. With an async client what each method returns is awaitable."""

    def redeem(self, id: bytes, holder: bytes, use: bytes) -> Any:
        """Spend a token for a use, a random name for it; return what `refusal` understands."""

    def refusal(self, answer: Any) -> type[TokenError] | None:
        """Return the error that an answer of `redeem` means, or ``None`` for a token that was spent for this use."""

    def give_back(self, id: bytes, use: bytes) -> Any:
        """Make a token usable again if it was this use that spent it."""


class _Rowless(Kind):
    """What no row stands for. So no row says what a COMMIT did whose answer was lost."""

    ends = False  # whether it got as far as COMMIT decides what is given back
    settles = False

    def take(self, tx: Transaction, request: Request, stale: bytes | None, wait: float) -> bool:
        tx.watch()
        # Of another name than that of a call around this one, which MySQL and MariaDB would take away for it.
        inside = tx.connection.get_nested_transaction()
        tx.mark = _MARK if inside is None else f"{_MARK}_{inside._savepoint}"
        send(tx.connection, f"SAVEPOINT {tx.mark}")
        return True

    def decide(self, stored: Stored | None, request: Request) -> Decision:
        raise AssertionError("nothing stands in the way of what has no row")

    def keep(self, tx: Transaction, request: Request, status: Status, codec: str, data: bytes, along: Any) -> bool:
        # No row to look at: what fails if the transaction is another one by now, or has failed and that was swallowed.
        # COMMIT would not: PostgreSQL answers it with ROLLBACK, and that is no error.
        send(tx.connection, f"RELEASE SAVEPOINT {tx.mark}")
        return True


class Unclaimed(_Rowless):
    """Nothing: a request without a key, that runs and commits as one with a key does."""

    status = Status.COMPLETED
    noun, cure = "request", "send it again"
    unsettled = "nobody can say whether it was done: look whether the effect is there before you send it again"


UNCLAIMED: Final = Unclaimed()


class StoredToken(Reserving, _Rowless):
    """A token in a store: spent before the transaction begins, given back if nothing came of it."""

    status = Status.SPENT
    noun, cure = "token", "issue another"
    unsettled = "the token is spent: look whether the effect is there before you issue another"

    def __init__(self, holder: bytes, store: TokenStore) -> None:
        self._holder = holder
        self._store = store

    def reserve(self, request: Request) -> None:
        error = self._store.refusal(awaited(self._store.redeem(request.id, self._holder, request.use)))
        if error is not None:
            raise bad_token(error, request.scope)

    def give_back(self, request: Request) -> None:
        awaited(self._store.give_back(request.id, request.use))


def too_fast(noun: str, scope: str) -> InProgressError:
    """Return the error for a row that is another one at each look."""
    return InProgressError(
        f"{scope}: the {noun} changes hands faster than it can be read: try again", scope=scope, retry_after=1.0
    )


def bad_token(error: type[TokenError], scope: str) -> TokenError:
    """Return the error; the text is the same for all classes, for it may end in an HTTP body."""
    return error(f"{scope}: this token is not valid, ask for a new one", scope=scope)
