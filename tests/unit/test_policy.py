"""The decision: every combination of a row and a request, and what must hold for all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import product
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemtable.model import (
    Mismatch,
    Newer,
    Record,
    Replay,
    Request,
    Reraise,
    Status,
    Stored,
    TakeOver,
    Unfinished,
    Won,
)
from idemtable.policy import decide

NOW = datetime(2030, 1, 1, tzinfo=UTC)
A, B = b"a" * 32, b"b" * 32
TICK = timedelta(microseconds=1)


def request(fingerprint: bytes | None) -> Request:
    return Request(UUID(int=1), None, "scope", "key", fingerprint, 1, b"me")


def stored(status: Status, fingerprint: bytes | None, expires_at: datetime, now: datetime = NOW) -> Stored:
    record = Record(None, "scope", "key", status, fingerprint, "json", 2, NOW - timedelta(days=1), None, expires_at)
    return Stored(record, b"other", b"{}", now)


FINGERPRINTS = st.sampled_from([None, A, B]) | st.binary(min_size=32, max_size=32)
TIMES = st.datetimes(timezones=st.just(UTC))
STORED = st.builds(stored, st.sampled_from(Status), FINGERPRINTS, TIMES, TIMES)
REQUESTS = st.builds(request, FINGERPRINTS)


def test_without_a_row_the_call_has_won() -> None:
    assert decide(None, request(A), NOW) == Won()


@pytest.mark.parametrize(
    ("status", "ours", "theirs", "expired"), list(product(Status, [None, A], [None, A, B], [False, True]))
)
def test_every_combination_is_decided_as_the_table_says(
    status: Status, ours: bytes | None, theirs: bytes | None, expired: bool
) -> None:
    row = stored(status, theirs, NOW if expired else NOW + TICK)
    if status is Status.IN_PROGRESS:
        expected: object = Unfinished(row)
    elif status is Status.UNKNOWN:
        expected = Newer(row)
    elif expired:
        expected = TakeOver(row)
    elif ours and theirs and ours != theirs:
        expected = Mismatch(row)
    elif status in (Status.COMPLETED, Status.SPENT):
        expected = Replay(row)
    elif status is Status.FAILED:
        expected = Reraise(row)
    else:
        expected = Unfinished(row)
    assert decide(row, request(ours), NOW) == expected


@given(STORED, REQUESTS, TIMES)
def test_a_call_never_wins_while_a_row_stands(row: Stored, call: Request, now: datetime) -> None:
    assert not isinstance(decide(row, call, now), Won)


@given(STORED, REQUESTS, TIMES)
def test_a_row_in_progress_never_runs_whatever_its_age(row: Stored, call: Request, now: datetime) -> None:
    decision = decide(row, call, now)
    if row.record.status is Status.IN_PROGRESS:
        assert decision == Unfinished(row)


@given(STORED, REQUESTS, TIMES)
def test_an_expired_row_that_is_not_in_progress_is_taken_over_for_any_payload(
    row: Stored, call: Request, now: datetime
) -> None:
    decision = decide(row, call, now)
    ages = row.record.status not in (Status.IN_PROGRESS, Status.UNKNOWN)
    expired = row.record.expires_at <= now and ages
    assert isinstance(decision, TakeOver) is expired


@given(STORED, REQUESTS, TIMES)
def test_an_answer_is_only_given_from_a_row_of_the_same_payload(row: Stored, call: Request, now: datetime) -> None:
    decision = decide(row, call, now)
    if isinstance(decision, Replay | Reraise):
        assert None in (row.record.fingerprint, call.fingerprint) or row.record.fingerprint == call.fingerprint
        assert row.record.status in (Status.COMPLETED, Status.SPENT, Status.FAILED)
    if isinstance(decision, Mismatch):
        assert row.record.fingerprint != call.fingerprint


@given(STORED, REQUESTS, TIMES)
def test_the_decision_holds_the_row_it_was_made_from_and_depends_on_nothing_else(
    row: Stored, call: Request, now: datetime
) -> None:
    decision = decide(row, call, now)
    assert decision.stored is row  # type: ignore[union-attr]
    assert decide(row, call, now) == decision


@given(REQUESTS, TIMES)
def test_a_row_expires_at_its_moment_and_not_before(call: Request, moment: datetime) -> None:
    row = stored(Status.COMPLETED, None, moment)
    assert isinstance(decide(row, call, moment), TakeOver)
    if moment > datetime.min.replace(tzinfo=UTC):
        assert isinstance(decide(row, call, moment - TICK), Replay)
