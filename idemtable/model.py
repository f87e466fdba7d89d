"""The words of the library: what is asked, what is found, what is decided. Frozen, without any behaviour of weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

T_co = TypeVar("T_co", covariant=True)


class Status(StrEnum):
    """What a row says of its key; stored as the small integer ``code``."""

    IN_PROGRESS = "in_progress"
    """Claimed. Other transactions only ever see it when a function committed behind the library's back."""
    COMPLETED = "completed"
    FAILED = "failed"
    """An exception named in ``remember`` is the stored result."""
    ISSUED = "issued"
    """A one-time token that nobody has redeemed."""
    SPENT = "spent"
    """A redeemed token; its result stands in the row."""
    LOCK = "lock"
    """Not a key at all: a row that serves as a lock (the purge runner's lease, a lock by name)."""

    @property
    def code(self) -> int:
        """The number in the table."""
        return _CODES[self]

    @classmethod
    def from_code(cls, code: int) -> Status:
        """Return the status of a number in the table."""
        return _STATUSES[code]


# Written out and never renumbered: these numbers are in users' tables.
_CODES: Final[dict[Status, int]] = {
    Status.IN_PROGRESS: 0,
    Status.COMPLETED: 1,
    Status.FAILED: 2,
    Status.ISSUED: 3,
    Status.SPENT: 4,
    Status.LOCK: 5,
}
_STATUSES: Final[dict[int, Status]] = {code: status for status, code in _CODES.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """One call's identity, what it carries, and how long it may wait and live."""

    id: UUID
    tenant: str | None
    scope: str
    key: str | None
    """As it goes into the table: ``None`` under ``store_keys=False``."""
    fingerprint: bytes | None
    owner: bytes
    ttl: int
    """Microseconds."""


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
class Stored:
    """One row, as the library needs it: whose it is, what it holds, and the database's time when it was read."""

    record: Record
    owner: bytes
    result: bytes | None
    now: datetime


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T_co]):
    """What a call gave and how it came about."""

    value: T_co
    replayed: bool
    attempts: int
    """How many transactions this call began."""
    created_at: datetime | None
    """When the replayed call ran; ``None`` for the first one."""


# What `policy.decide` may answer.


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
class InProgress:
    """Somebody has claimed it and has not finished."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The same key with another payload: refuse."""

    stored: Stored


@dataclass(frozen=True, slots=True)
class TakeOver:
    """The row has expired and counts as absent: take it from this owner, then run."""

    stored: Stored


Decision = Won | Replay | Reraise | InProgress | Mismatch | TakeOver


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


class Unset:
    """The type of `ALL`, so that a checker tells it from a payload."""

    def __repr__(self) -> str:
        return "ALL"


ALL: Final[Any] = Unset()
"""Every argument but the session and the key, leaving out parameters at their default value."""
