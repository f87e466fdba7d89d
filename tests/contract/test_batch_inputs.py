"""Bad input to a batch: a clear error that names the cure, before anything is sent, and nothing claimed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from idemtable import InvalidKeyError, KeyRejectedError, MissingKeyError, MissingTenantError
from tests.support.database import Database, Held


@contextmanager
def untouched(db: Database) -> Iterator[Held]:
    """A session of the caller's; nothing is sent inside, nothing stands in the table after it."""
    engine, sent = getattr(db.engine, "sync_engine", db.engine), []

    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        sent.append(statement)

    sa.event.listen(engine, "before_cursor_execute", listen)
    try:
        with db.session() as held:
            yield held
            held.commit()
    finally:
        sa.event.remove(engine, "before_cursor_execute", listen)
    assert sent == []
    assert db.rows() == []


async def later(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


def never() -> Iterator[Any]:
    raise AssertionError("it was read")
    yield


NO_KEYS = (None, "", " ", "a\nb", "a\x00", "x" * 256, "é" * 128, "a\ud800", 1, 1.5, True, b"a", ["a"])


def test_one_key_that_is_none_refuses_all_and_the_error_says_which(db: Database) -> None:
    with untouched(db) as held:
        for key in NO_KEYS:
            expected = MissingKeyError if key is None else InvalidKeyError
            for keys in (["a", key, "b"], ["é", key], [UUID(int=1), key]):
                with pytest.raises(expected) as caught:
                    db.idem.claim_many(held.session, "batch", keys)
                assert caught.value.__notes__ == ["It is number 2 of the batch."]
                assert caught.value.http_status == 400
            with pytest.raises(expected):
                list(db.idem.unseen(held.session, "batch", [{"id": "a"}, {"id": key}], key="id"))


def test_an_item_without_its_key_refuses_its_chunk_and_what_came_before_it_stands(db: Database) -> None:
    good = [{"id": name, "a": {"id": name}} for name in "xyz"]
    without: list[tuple[Any, str]] = [
        ({"x": 1}, "id"),
        (SimpleNamespace(x=1), "id"),
        ({"a": {"x": 1}}, "a.id"),
        ({"a": None}, "a.id"),
        ({"id": None}, "id"),
    ]
    for number, (item, key) in enumerate(without):
        with db.session() as held:
            loop = iter(db.idem.unseen(held.session, f"batch {number}", [*good, item], key=key, chunk=2))
            assert [next(loop), next(loop)] == good[:2]
            with pytest.raises(
                MissingKeyError, match=rf"an item of a batch of batch \d has no key: key='{key}'"
            ) as caught:
                next(loop)
            assert caught.value.__notes__ == ["It is number 4 of the batch."]
            held.commit()
        assert {row.key for row in db.rows() if row.scope == f"batch {number}"} == {"x", "y"}


def test_an_item_for_which_a_callable_finds_no_key_is_refused_and_the_error_says_so(db: Database) -> None:
    with untouched(db) as held, pytest.raises(MissingKeyError, match=r"what key= calls has returned None"):
        list(db.idem.unseen(held.session, "batch", [{"id": "a"}], key=lambda item: item.get("key")))


def test_what_a_callable_for_the_key_raises_is_the_callers(db: Database) -> None:
    with untouched(db) as held, pytest.raises(ZeroDivisionError):
        list(db.idem.unseen(held.session, "batch", [1], key=lambda item: item / 0))


def test_one_text_is_not_many_keys_and_what_cannot_be_iterated_is_none(db: Database) -> None:
    wrong: list[tuple[Any, str]] = [(text, "put it into a list") for text in ("one key", b"one key", bytearray(b"k"))]
    wrong += [(thing, "takes an iterable") for thing in (None, 5, object())]
    with untouched(db) as held:
        for given, cure in wrong:
            with pytest.raises(TypeError, match=f"claim_many .*{cure}|claim_many {cure}"):
                db.idem.claim_many(held.session, "batch", given)
            with pytest.raises(TypeError, match=f"unseen .*{cure}|unseen {cure}"):
                db.idem.unseen(held.session, "batch", given, key="id")


def test_an_async_iterable_is_only_for_unseen_of_the_async_table(db: Database) -> None:
    with untouched(db) as held:
        with pytest.raises(TypeError, match="read it into a list first"):
            db.idem.claim_many(held.session, "batch", later("a"))
        if not db.is_async:
            with pytest.raises(TypeError, match=r"use AsyncIdemTable\.unseen"):
                db.idem.unseen(held.session, "batch", later({"id": "a"}), key="id")


def test_a_generator_and_a_set_and_a_mapping_are_iterables(db: Database) -> None:
    with db.session() as held:
        for keys in ((key for key in "ab"), {"c"}, {"d": 1}, ("e",), iter(["f"])):
            assert {flag.value for flag in db.idem.claim_many(held.session, "batch", keys)} == {"new"}
        held.commit()
    assert {row.key for row in db.rows()} == set("abcdef")


def test_a_chunk_is_a_number_from_1_to_100_000(db: Database) -> None:
    with untouched(db) as held:
        for chunk in (0, -1, 100_001, "5", 1.0, True, None):
            with pytest.raises((ValueError, TypeError), match="chunk"):
                db.idem.unseen(held.session, "batch", never(), key="id", chunk=chunk)


def test_where_the_key_stands_is_a_name_a_path_or_a_callable(db: Database) -> None:
    with untouched(db) as held:
        for key in ("", ".", "a.", "a..b", None, 5, ("id",)):
            with pytest.raises((ValueError, TypeError), match="key= takes the name"):
                db.idem.unseen(held.session, "batch", never(), key=key)


def test_arguments_are_checked_before_anything_is_read(db: Database) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"scope": ""}, ValueError, "scope"),
        ({"scope": None}, TypeError, "scope"),
        ({"tenant": ""}, MissingTenantError, "tenant"),
        ({"tenant": 5}, KeyRejectedError, "tenant"),
        ({"ttl": timedelta(0)}, ValueError, "ttl"),
        ({"ttl": 5}, TypeError, "ttl"),
        ({"wait": timedelta(seconds=-1)}, ValueError, "wait"),
        ({"wait": 5}, TypeError, "wait"),
    ]
    with untouched(db) as held:
        for options, error, match in wrong:
            scope = options.pop("scope", "batch")
            with pytest.raises(error, match=match):
                db.idem.unseen(held.session, scope, never(), key="id", **options)
            with pytest.raises(error, match=match):
                db.idem.claim_many(held.session, scope, never(), **options)


def test_something_else_than_a_session_is_refused_before_anything_is_read(db: Database) -> None:
    from sqlalchemy.orm import Session

    wrong: list[Any] = [None, "session", db.admin, db.engine]
    if db.is_async:
        wrong.append(Session(db.admin))
    for session in wrong:
        with pytest.raises(TypeError, match="Session"):
            db.idem.unseen(session, "batch", never(), key="id")
        with pytest.raises(TypeError, match="Session"):
            db.idem.claim_many(session, "batch", never())


def test_a_key_that_stops_the_iteration_is_an_error_and_gives_no_item(db: Database) -> None:
    """As ``next()`` does where it finds nothing; a ``map`` would take it for the end of the chunk."""

    def key(item: list[str]) -> str:
        return next(iter(item))

    with db.session() as held:
        for items in ([["a"], [], ["b"]], [[], ["a"]]):
            with pytest.raises(RuntimeError, match="StopIteration"):
                list(db.idem.unseen(held.session, "batch", items, key=key))
        held.commit()
    assert db.rows() == []
