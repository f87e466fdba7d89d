"""Settings are checked when the table is made: the message names the setting and its range."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker

from idemtable import IdemTable, outcome_of
from idemtable.settings import checked_ttl, checked_wait


@pytest.mark.parametrize(
    ("ttl", "microseconds"),
    [(timedelta(microseconds=1), 1), (timedelta(days=3650), 315_360_000_000_000), (timedelta(seconds=1.5), 1_500_000)],
)
def test_a_ttl_is_counted_in_microseconds(ttl: timedelta, microseconds: int) -> None:
    assert checked_ttl(ttl) == microseconds


@pytest.mark.parametrize(
    "ttl", [timedelta(0), timedelta(-1), timedelta.max, timedelta.min, timedelta(days=3650, microseconds=1)], ids=str
)
def test_a_ttl_out_of_range_is_refused(ttl: timedelta) -> None:
    with pytest.raises(ValueError, match="ttl must be longer than zero and at most 3650 days"):
        checked_ttl(ttl)


@pytest.mark.parametrize("value", [None, 60, 1.5, math.nan, math.inf, "1h", True], ids=repr)
def test_a_time_that_is_no_timedelta_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="ttl= takes a timedelta"):
        checked_ttl(value)
    with pytest.raises(TypeError, match="wait= takes a timedelta"):
        checked_wait(value)


def test_a_wait_is_counted_in_seconds_and_zero_is_one() -> None:
    assert checked_wait(timedelta(0)) == 0.0
    assert checked_wait(timedelta(milliseconds=250)) == 0.25
    assert checked_wait(timedelta(hours=1)) == 3600


@pytest.mark.parametrize("wait", [timedelta(microseconds=-1), timedelta(hours=1, microseconds=1)], ids=str)
def test_a_wait_out_of_range_is_refused(wait: timedelta) -> None:
    with pytest.raises(ValueError, match="wait must be between zero and"):
        checked_wait(wait)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"attempts": 0}, "attempts must be at least 1"),
        ({"max_result_bytes": 0}, "max_result_bytes must be at least 1"),
        ({"table": "x" * 49}, "table must be 1 to 48"),
        ({"table": ""}, "table must be"),
        ({"table": 'x"; drop table y; --'}, "table must be"),
        ({"table": "Ünï"}, "table must be"),
        ({"table": "x\n"}, "table must be"),
        ({"schema": "a.b"}, "schema must be"),
        ({"schema": ""}, "schema must be"),
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_a_value_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        IdemTable(create_engine("sqlite://"), **settings)


@pytest.mark.parametrize(
    "settings",
    [{"attempts": 1.5}, {"attempts": True}, {"max_result_bytes": "1"}, {"codec": 5}, {"store_keys": "false"}],
    ids=str,
)
def test_a_setting_of_another_type_is_a_type_error(settings: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(settings))):
        IdemTable(create_engine("sqlite://"), **settings)


@pytest.mark.parametrize("name", ["lookaside", "deferred", "share_scope"])
def test_a_flag_that_is_a_text_is_refused_where_the_function_is_decorated(name: str) -> None:
    with pytest.raises(TypeError, match=f"{name}= takes True or False, not 'no'"):

        @IdemTable(create_engine("sqlite://")).transactional("flags", key="key", **{name: "no"})
        def order(session: Any, key: str) -> None: ...


async def _awaited(*args: Any, **kwargs: Any) -> str:
    return "k"


def test_an_async_function_that_nobody_awaits_is_refused_where_it_is_named() -> None:
    idem = IdemTable(create_engine("sqlite://"))
    with pytest.raises(TypeError, match="bind= is async"):
        IdemTable(_awaited)  # type: ignore[arg-type]
    for name in ("key", "tenant", "payload"):
        with pytest.raises(TypeError, match=f"{name}= is async, and what it gives would never be awaited"):

            @idem.transactional("async", **{"key": "key", name: _awaited})  # type: ignore[arg-type]
            def order(session: Any, key: str) -> None: ...

    with pytest.raises(TypeError, match="token= is async"):

        @idem.tokens("async", ttl=timedelta(1)).transactional(token=_awaited)
        def redeem(session: Any, token: str) -> None: ...

    with pytest.raises(TypeError, match="message_id= is async"):

        @idem.inbox("async").transactional(message_id=_awaited)
        def handle(session: Any, message_id: str) -> None: ...

    with pytest.raises(TypeError, match="key= is async"):
        idem.unseen(Session(), "async", [], key=_awaited)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pause": timedelta.max}, ValueError, "pause must be between zero and 1:00:00"),
        ({"pause": timedelta(-1)}, ValueError, "pause must be between zero and 1:00:00"),
        ({"pause": 5}, ValueError, "pause must be between zero and 1:00:00, a timedelta, not 5"),
        ({"progress": 5}, TypeError, "progress= takes a function of the rows deleted so far, not 5"),
        ({"progress": _awaited}, TypeError, "progress= is async"),
        ({"batch": 0}, ValueError, "batch must be"),
        ({"limit": True}, ValueError, "limit must be"),
    ],
)
def test_what_a_purge_cannot_have_is_refused_before_the_table_is_asked_for(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        IdemTable(create_engine("sqlite://")).purge(**options)


def test_an_outcome_is_that_of_an_exception() -> None:
    for wrong in (None, 5, ValueError):
        with pytest.raises(TypeError, match="outcome_of takes the exception that was caught, not"):
            outcome_of(wrong)  # type: ignore[arg-type]


def test_a_class_that_python_knows_no_signature_of_is_refused_with_the_cure() -> None:
    with pytest.raises(TypeError, match="<class 'str'> tells nobody what it takes: decorate a function of your own"):
        IdemTable(create_engine("sqlite://")).transactional("builtin", key="key")(str)  # type: ignore[arg-type]


def test_a_flag_of_tokens_that_is_a_text_is_refused() -> None:
    idem = IdemTable(create_engine("sqlite://"))
    with pytest.raises(TypeError, match="replay= takes True or False, not 'no'"):
        idem.tokens("flags", ttl=timedelta(1), replay="no")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="replay= takes True or False, not 'no'"):
        idem.tokens("flags", ttl=timedelta(1)).transactional(token="token", replay="no")  # type: ignore[call-overload]


def test_the_smallest_and_largest_settings_are_taken() -> None:
    engine = create_engine("sqlite://")
    IdemTable(engine, ttl=timedelta(microseconds=1), wait=timedelta(0), attempts=1, max_result_bytes=1)
    IdemTable(sessionmaker(engine), ttl=timedelta(days=3650), wait=timedelta(hours=1), table="x" * 48, schema="_")
    assert "x" * 48 in repr(IdemTable(engine, table="x" * 48))


def test_a_tables_text_shows_its_names_and_no_password() -> None:
    engine = create_engine("postgresql+psycopg://me:secret@127.0.0.1:1/shop")
    assert repr(IdemTable(engine, table="keys", schema="app")) == (
        "IdemTable(postgresql+psycopg://me:***@127.0.0.1:1/shop, table='app.keys')"
    )
