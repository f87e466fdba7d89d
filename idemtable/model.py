"""The words of the library: what is asked, what is found, what is decided. Frozen, without any behaviour of weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, NoReturn, TypeVar

if TYPE_CHECKING:
    from .errors import TokenError

T_co = TypeVar("T_co", covariant=True)


class Status(StrEnum):
    """What a row says of its key; stored as the small integer ``code``.

    The numbers are written out and never change: they are in users' tables.
    """

    code: int
    """The number in the table."""

    def __new__(cls, value: str, code: int) -> Status:
        """Make a member of its name and its number."""
        self = str.__new__(cls, value)
        self._value_ = value
        self.code = code
        return self

    IN_PROGRESS = "in_progress", 0
    """Claimed. Other transactions only ever see it when a function committed behind the library's back."""
    COMPLETED = "completed", 1
    FAILED = "failed", 2
    """An exception named in ``remember`` is the stored result of a key."""
    ISSUED = "issued", 3
    """A one-time token that nobody has redeemed."""
    SPENT = "spent", 4
    """A redeemed token; its result stands in the row, or the exception to remember."""
    LOCK = "lock", 5
    """Not a key at all: a row that serves as a lock (the purge runner's lease, a lock by name)."""
    UNKNOWN = "unknown", -1
    """A number that a newer release has written, and this one does not know."""

    @classmethod
    def from_code(cls, code: int) -> Status:
        """Return the status of a number in the table."""
        return _STATUSES.get(code, Status.UNKNOWN)


_STATUSES: Final[dict[int, Status]] = {status.code: status for status in Status}


EXCEPTION: Final = "exception"
"""In place of a codec's name: what is stored is an exception."""
UNKEPT: Final = "unkept"
"""In place of a codec's name: the effect was committed, and its result was not kept."""


class Request(NamedTuple):
    """One call's identity, what it carries, and how long its row may live.

    A tuple, as `Call` is: a frozen dataclass of so many fields takes five times as long to make, in every call.
    """

    id: bytes
    """The primary key of its row: see `keys.digest`."""
    tenant: str | None
    scope: str
    key: str | None
    """As it goes into the table: ``None`` under ``store_keys=False``."""
    fingerprint: bytes | None
    ttl: int
    """Microseconds."""
    owner: bytes
    """16 bytes drawn anew for each call: proves whose a row is. Its last byte tells the attempts apart: a packet of an
    earlier one may arrive late, and must not take the row of a later one for its own."""
    in_version: Callable[[int], bytes | None] | None = None
    """Takes the fingerprint in another version than the newest, to compare it with a row of an older release."""

    def __repr__(self) -> str:
        return f"Request(id={self.id.hex()}, scope={self.scope!r})"  # and nothing of what the call carries

    @property
    def use(self) -> bytes:
        """What the owners of all attempts have in common."""
        return self.owner[:-1]

    def again(self) -> Request:
        """Return the request as the next attempt makes it."""
        return self._replace(owner=self.use + bytes([(self.owner[-1] + 1) % 256]))


@dataclass(frozen=True, slots=True)
class Record:
    """One row, as people see it: the result is only told by its size."""

    tenant: str | None
    scope: str
    key: str | None
    status: Status
    fingerprint: bytes | None
    codec: str | None
    result_bytes: int | None
    created_at: datetime
    completed_at: datetime | None
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records somebody looks for: those for which all of it is true."""

    scope: str | None = None
    tenant: str | None = None
    statuses: frozenset[Status] = frozenset()
    """One of these; empty for any."""
    expired: bool = False
    unfinished: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """One row, as the library needs it: whose it is, what it holds, and the database's time when it was read."""

    record: Record
    owner: bytes
    result: bytes | None
    now: datetime
    is_settled: bool = True
    """Whether it can be lost no more than anything else that the database has acknowledged."""

    def is_of(self, request: Request) -> bool:
        """Say whether this very call wrote the row: its COMMIT had arrived, and only the answer was lost."""
        return self.owner[:-1] == request.use


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T_co]):
    """What a call gave and how it came about."""

    value: T_co
    replayed: bool
    attempts: int
    """How many transactions this call began."""
    created_at: datetime | None
    """When the replayed call ran; ``None`` for the first one."""


MARK: Final = "__idemtable_"
"""How the name of whatever the library hangs on an exception begins. It is no part of that, and is never stored."""

# In the exception's own attributes: a table beside it could not hold a ValueError weakly, and would be lost where a task
# queue pickles the exception.
_OUTCOME: Final = f"{MARK}outcome__"


def outcome_of(error: BaseException) -> Outcome[None] | None:
    """Return how an exception came about that a call stored, or raised again, because ``remember`` names it.

    Its value is ``None``. Any other exception has no outcome: ``None``.

    Raises:
        TypeError: it is no exception.
    """
    if not isinstance(error, BaseException):
        raise TypeError(f"outcome_of takes the exception that was caught, not {error!r}")
    return vars(error).get(_OUTCOME)


def tell_outcome(error: BaseException, outcome: Outcome[None] | None) -> None:
    """Hang an outcome on an exception; ``None`` takes that of a call inside away."""
    if outcome is None:
        vars(error).pop(_OUTCOME, None)
    else:
        vars(error)[_OUTCOME] = outcome


class Flag(StrEnum):
    """What a batch learned of one of its keys."""

    New = "new"
    """Nobody had it: it is this batch's own, and done when that is committed."""
    Seen = "seen"
    """It is done: by a call, a block or another batch, or earlier in this one."""

    def __bool__(self) -> NoReturn:
        # Both are text, and so both would be true: what was seen would be done again.
        raise TypeError("a Flag is neither true nor false: ask whether it `is Flag.New`")


# What `policy` may decide. Whoever acts on a decision matches all of them, down to `assert_never`.


@dataclass(frozen=True, slots=True)
class Won:
    """Nobody has the key: run."""


@dataclass(frozen=True, slots=True)
class Replay:
    """It ran: give the stored result."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Reraise:
    """It failed in a way that was to be remembered: raise the stored exception."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A function committed behind the library's back and left no result: nobody knows what it did, so refuse."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Newer:
    """A newer release wrote the row in a way that this one does not know: refuse."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The same key with another payload: refuse."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Refuse:
    """The token is not good for this: refuse with an error of this class."""

    error: type[TokenError]


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The row has expired and counts as absent: take it from its owner, then run."""

    stored: Stored


Answer = Replay | Reraise
"""What an earlier call left."""
Refusal = Unfinished | Newer | Mismatch | Refuse
Settled = Won | Answer | Refusal
"""What ends the look at a row; a `TakeOver` asks for another statement first."""
Decision = Settled | TakeOver


@dataclass(frozen=True, slots=True)
class PurgeReport:
    """What one run of purge did; ``busy`` when another runner was at work and this one left at once."""

    deleted: int
    batches: int
    seconds: float
    busy: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """The table in numbers; rows that serve as locks do not count."""

    rows: int
    by_scope: Mapping[str, int]
    by_status: Mapping[Status, int]
    expired: int
    oldest: datetime | None
    table_bytes: int | None
    """With indexes; ``None`` where the database does not tell."""


class Level(StrEnum):
    """What a finding asks of whoever reads it."""

    GOOD = "good"
    """Nothing: it is as it should be."""
    NOTE = "note"
    """To know it: no promise breaks by it."""
    MEND = "mend"
    """To mend it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found where the library runs."""

    about: str
    """What was looked at: a setting's name, a part of the table."""
    level: Level
    found: str
    """What it is, and what that does."""
    cure: str | None = None
    """What to do about it."""


class Unset:
    """The type of `ALL`, so that a checker tells it from a payload."""

    def __repr__(self) -> str:
        return "ALL"


ALL: Final[Any] = Unset()
"""Every argument but the session and the key, leaving out parameters at their default value."""
