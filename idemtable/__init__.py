"""Make a function that writes to a SQL database safe to call again: the key commits with the data."""

from __future__ import annotations

from pathlib import Path

# A checkout keeps migrations/ beside the package; a wheel has it inside. Without this an editable install would import
# none, or a stale copy.
_here = Path(__file__).resolve().parent
if not (_here / "migrations").is_dir() and (_here.parent / "migrations" / "versions").is_dir():
    __path__ = [str(_here), str(_here.parent)]

from .dialects import configure_sqlite  # noqa: E402
from .errors import (  # noqa: E402
    ExpiredTokenError,
    FingerprintMismatchError,
    GuardError,
    IdempotencyError,
    IllegalTransitionError,
    InProgressError,
    InvalidKeyError,
    KeyRejectedError,
    LostClaimError,
    MissingKeyError,
    MissingTenantError,
    ReentrantCallError,
    ResultError,
    ResultNotSerializableError,
    ResultTooLargeError,
    ResultUnreadableError,
    RetryTransactionError,
    RowLockedError,
    SchemaError,
    SessionNotUsableError,
    SpentTokenError,
    StaleVersionError,
    TokenError,
    TransactionError,
    UnknownTokenError,
)
from .model import ALL, Flag, Outcome, PurgeReport, Record, Stats, Status, outcome_of  # noqa: E402
from .multi_host import multi_host  # noqa: E402
from .schema import metadata  # noqa: E402
from .shortcut import transactional  # noqa: E402
from .table import IdemTable  # noqa: E402
from .table_async import AsyncIdemTable  # noqa: E402

# Written out, so that what users may rely on is decided in one place; a test compares it with what can be imported.
__all__ = [
    "ALL",
    "AsyncIdemTable",
    "ExpiredTokenError",
    "FingerprintMismatchError",
    "Flag",
    "GuardError",
    "IdemTable",
    "IdempotencyError",
    "IllegalTransitionError",
    "InProgressError",
    "InvalidKeyError",
    "KeyRejectedError",
    "LostClaimError",
    "MissingKeyError",
    "MissingTenantError",
    "Outcome",
    "PurgeReport",
    "Record",
    "ReentrantCallError",
    "ResultError",
    "ResultNotSerializableError",
    "ResultTooLargeError",
    "ResultUnreadableError",
    "RetryTransactionError",
    "RowLockedError",
    "SchemaError",
    "SessionNotUsableError",
    "SpentTokenError",
    "StaleVersionError",
    "Stats",
    "Status",
    "TokenError",
    "TransactionError",
    "UnknownTokenError",
    "configure_sqlite",
    "metadata",
    "multi_host",
    "outcome_of",
    "transactional",
]
