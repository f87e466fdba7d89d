"""What a redemption may do, decided without a database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from idemtable import ExpiredTokenError, SpentTokenError, UnknownTokenError
from idemtable.model import EXCEPTION, Record, Refuse, Replay, Request, Reraise, Status, Stored, Unfinished, Won
from idemtable.policy import decide_token

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
REQUEST = Request(bytes(16), "user:7", "checkout", None, b"\1f", 0, b"mine")


def stored(
    status: Status,
    subject: str | None = "user:7",
    left: timedelta = SECOND,
    carried: bytes | None = b"\1f",
    owner: bytes = b"",
    codec: str = "json",
) -> Stored:
    record = Record(subject, "checkout", None, status, carried, codec, 1, NOW, NOW, NOW + left)
    return Stored(record, owner, b"1", NOW)


def test_no_row_is_unknown() -> None:
    assert decide_token(None, REQUEST, replay=True) == Refuse(UnknownTokenError)


@pytest.mark.parametrize("status", Status)
@pytest.mark.parametrize("subject", [None, "user:8", "user:7 ", "USER:7"])
@pytest.mark.parametrize("left", [SECOND, -SECOND])
def test_to_another_subject_every_token_is_unknown(status: Status, subject: str | None, left: timedelta) -> None:
    assert decide_token(stored(status, subject, left), REQUEST, replay=True) == Refuse(UnknownTokenError)


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.FAILED, Status.LOCK])
def test_what_is_no_token_is_unknown(status: Status) -> None:
    assert decide_token(stored(status), REQUEST, replay=True) == Refuse(UnknownTokenError)


@pytest.mark.parametrize("status", [Status.ISSUED, Status.SPENT])
@pytest.mark.parametrize("left", [timedelta(), -SECOND])
@pytest.mark.parametrize("carried", [b"\1f", b"\1other", None])
def test_a_token_at_the_end_of_its_time_is_expired(status: Status, left: timedelta, carried: bytes | None) -> None:
    assert decide_token(stored(status, left=left, carried=carried), REQUEST, replay=True) == Refuse(ExpiredTokenError)


def test_a_token_that_is_still_there_is_tried_again() -> None:
    assert decide_token(stored(Status.ISSUED), REQUEST, replay=False) == Won()


@pytest.mark.parametrize("left", [SECOND, -SECOND])
def test_a_row_without_a_result_never_runs_again(left: timedelta) -> None:
    row = stored(Status.IN_PROGRESS, left=left)
    assert decide_token(row, REQUEST, replay=True) == Unfinished(row)


@pytest.mark.parametrize(("codec", "answer"), [("json", Replay), (EXCEPTION, Reraise)])
@pytest.mark.parametrize("carried", [b"\1f", None])
def test_the_same_payload_replays(codec: str, answer: type, carried: bytes | None) -> None:
    row = stored(Status.SPENT, carried=carried, codec=codec)
    assert decide_token(row, REQUEST, replay=True) == answer(row)
    assert decide_token(row, REQUEST, replay=False) == Refuse(SpentTokenError)


def test_another_payload_is_spent() -> None:
    assert decide_token(stored(Status.SPENT, carried=b"\1other"), REQUEST, replay=True) == Refuse(SpentTokenError)


@pytest.mark.parametrize("left", [SECOND, -SECOND])
def test_a_call_is_never_refused_what_it_committed_itself(left: timedelta) -> None:
    row = stored(Status.SPENT, left=left, owner=REQUEST.owner)
    assert decide_token(row, REQUEST, replay=False) == Replay(row)
