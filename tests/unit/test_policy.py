"""The decision: every combination of a row and a request, and what must hold for all of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from idemtable import fingerprint
from idemtable.errors import SpentTokenError
from idemtable.model import (
    Mismatch,
    Newer,
    Record,
    Refuse,
    Replay,
    Request,
    Reraise,
    Status,
    Stored,
    TakeOver,
    Unfinished,
    Won,
)
from idemtable.policy import decide, decide_token

NOW = datetime(2030, 1, 1, tzinfo=UTC)
A, B, NEWER = b"\1" + b"a" * 31, b"\1" + b"b" * 31, b"\2" + b"a" * 31
TICK = timedelta(microseconds=1)


def request(fingerprint: bytes | None) -> Request:
    return Request(bytes(16), None, "scope", "key", fingerprint, 1, b"me")


def stored(status: Status, fingerprint: bytes | None, expires_at: datetime, now: datetime = NOW) -> Stored:
    record = Record(None, "scope", "key", status, fingerprint, "json", 2, NOW - timedelta(days=1), None, expires_at)
    return Stored(record, b"other", b"{}", now)


FINGERPRINTS = st.sampled_from([None, A, B]) | st.binary(min_size=31, max_size=31).map(lambda rest: b"\1" + rest)
TIMES = st.datetimes(timezones=st.just(UTC))
STORED = st.builds(stored, st.sampled_from(Status), FINGERPRINTS, TIMES, TIMES)
REQUESTS = st.builds(request, FINGERPRINTS)


def test_without_a_row_the_call_has_won() -> None:
    assert decide(None, request(A), NOW) == Won()


@pytest.mark.parametrize("expires_at", [NOW, NOW + TICK])
def test_a_row_of_another_attempt_of_the_same_call_answers_it_at_any_age(expires_at: datetime) -> None:
    first = Request(bytes(16), None, "scope", "key", A, 1, bytes(range(16)))
    second = first.again()
    assert first.owner != second.owner
    assert len(second.owner) == 16
    row = replace(stored(Status.COMPLETED, A, expires_at), owner=first.owner)
    assert decide(row, second, NOW) == Replay(row)
    assert row.is_of(second)
    assert not row.is_of(Request(bytes(16), None, "scope", "key", A, 1, bytes(16)))


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


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.SPENT, Status.ISSUED])
def test_a_fingerprint_of_a_newer_release_is_neither_the_same_nor_another(status: Status) -> None:
    row = stored(status, NEWER, NOW + TICK)
    assert decide(row, request(A), NOW) == Newer(row)
    assert not isinstance(decide(row, request(None), NOW), Newer | Mismatch)


@pytest.mark.parametrize("replay", [True, False])
def test_a_token_spent_in_a_newer_release_is_not_called_spent_for_another_payload(replay: bool) -> None:
    row = stored(Status.SPENT, NEWER, NOW + TICK)
    assert decide_token(row, request(A), replay=replay) == (Newer(row) if replay else Refuse(SpentTokenError))


def test_a_row_of_an_older_release_is_compared_in_its_own_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fingerprint.VERSIONS, 0, (b"\0", lambda payload, defaults: repr(payload).encode()))
    old, asked = fingerprint.fingerprint("tea", 0), []

    def call(payload: str) -> Request:
        def in_version(version: int) -> bytes:
            asked.append(version)
            return fingerprint.fingerprint(payload, version)

        taken = fingerprint.fingerprint(payload)
        return Request(bytes(16), None, "scope", "key", taken, 1, b"me", in_version)

    row = stored(Status.COMPLETED, old, NOW + TICK)
    assert decide(row, call("tea"), NOW) == Replay(row)
    assert decide(row, call("coffee"), NOW) == Mismatch(row)
    assert asked == [0, 0]


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
