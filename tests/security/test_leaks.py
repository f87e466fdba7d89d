"""S21: no key, tenant, payload, result or token in a log, in an error of the library, or in a repr."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from enum import Enum
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from pydantic import BaseModel, field_validator
from sqlalchemy.orm import Session

from idemtable import IdempotencyError, RetryTransactionError
from tests.support.database import Database, effect
from tests.support.tokens import desk

CANARIES = {word: f"canary-{word}-{uuid4().hex}" for word in ("key", "tenant", "payload", "result", "error")}
KEY, TENANT, PAYLOAD, RESULT, ERROR = CANARIES.values()


class Declined(Exception):
    pass


class Plain(BaseModel):
    word: Any
    words: dict[str, Any] = {}


class Strict(Plain):
    word: int
    words: dict[str, int] = {}


class Careful(BaseModel):
    word: str

    @field_validator("word")
    @classmethod
    def checked(cls, word: str) -> str:
        raise ValueError(f"{word} is no good")


class Word(Enum):
    ONE = "one"


class Trouble:
    """Every way to be refused, with canaries in all that a caller gives and a function returns."""

    def __init__(self, db: Database, engine: Any) -> None:
        self.db, self.idem = db, db.table(engine, max_result_bytes=1_000, wait=timedelta(0))
        self.missing = db.table(engine, table="not_there")
        self.engine, self.tokens = engine, desk(db, "security.leaks", table=self.idem)
        self.token = self.tokens.issue(TENANT)

    def call(
        self, work: Callable[[Any], Any], key: Any = KEY, *, tenant: Any = TENANT, idem: Any = None, **more: Any
    ) -> Any:
        @(idem or self.idem).transactional("leaks", key="key", tenant="tenant", share_scope=True, **more)
        def call(session: Any, key: Any, tenant: Any, payload: Any) -> Any:
            return work(session)

        return call(key, tenant, payload=PAYLOAD)

    def all(self) -> Iterator[tuple[str, Callable[[], Any]]]:
        """The name of each, and how to get into it."""
        call, key = self.call, f"{KEY}-2"
        yield "a value", lambda: call(lambda session: RESULT)
        yield "another payload", lambda: call(lambda session: RESULT, payload=lambda *args, **kwargs: RESULT)
        yield "a key that is none", lambda: call(lambda session: RESULT, f"\x00{KEY}")
        yield "a key that is too long", lambda: call(lambda session: RESULT, KEY * 20)
        yield "a key of a wrong type", lambda: call(lambda session: RESULT, [KEY])
        yield "a tenant that is none", lambda: call(lambda session: RESULT, tenant=f"\n{TENANT}")
        yield "a result too large", lambda: call(lambda session: RESULT * 1_000, key)
        yield "a result that is no data", lambda: call(lambda session: {RESULT: {RESULT}}, key)
        yield "a result that changes", lambda: call(lambda session: (RESULT,), key)
        yield "a result of another type", lambda: call(lambda session: RESULT, key, returns=Word)
        yield "a result that is refused", lambda: call(self.unchecked, key, returns=Careful)
        yield "a result of an earlier program", lambda: self.earlier(Strict)
        yield "a result of an earlier enum", lambda: self.earlier(dict[str, Word | dict[str, Word]])
        yield "a lost claim", lambda: call(lambda session: session.rollback(), key)
        yield "the same key inside", lambda: call(lambda session: call(lambda _: RESULT, key), key)
        yield "no table", lambda: call(lambda session: RESULT, idem=self.missing)
        yield "no table to look into", lambda: self.missing.get("leaks", KEY, tenant=TENANT)
        yield "a restart that is not ours", self.restart
        yield "an unreadable row", self.unreadable
        yield "an exception that is no data", lambda: call(self.declined, key, remember=(Declined,))
        yield "a token of nobody", lambda: self.redeem("x" * 43)
        yield "another subject's token", lambda: self.redeem(self.token, f"{TENANT}-2")
        yield "a token", lambda: self.redeem(self.token, payload=PAYLOAD)
        yield "a spent token", lambda: self.redeem(self.token, payload=RESULT)

    def restart(self) -> Any:
        with self.idem.transaction("leaks.block", KEY, tenant=TENANT, payload=PAYLOAD):
            raise RetryTransactionError("begin again")

    def unreadable(self) -> Any:
        self.db.execute("UPDATE idemtable SET codec = 'gone' WHERE status = 1")
        return self.call(lambda session: RESULT)

    def unchecked(self, session: Any) -> Careful:
        return Careful.model_construct(word=RESULT)

    def earlier(self, returns: Any) -> Any:
        """Have a result read as another type than it was stored as."""
        words = Plain(word=RESULT, words={RESULT: RESULT})
        self.call(lambda session: words, f"{KEY}-3", returns=Plain)
        return self.call(lambda session: None, f"{KEY}-3", returns=returns)

    def declined(self, session: Any) -> Any:
        raise Declined(ERROR, object())

    def redeem(self, token: str, subject: str = TENANT, payload: Any = None) -> None:
        with (
            Session(self.engine) as session,
            session.begin(),
            self.tokens.redeem(session, token, subject=subject, payload=payload),
        ):
            effect(session, "redeemed")


@pytest.fixture
def hidden(db: Database) -> Iterator[Any]:
    """An engine as the documentation asks for where errors go into a log."""
    with db.other_engine(hide_parameters=True) as engine:
        yield engine


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Everything that the library would ever log; SQLAlchemy shows parameters if it is asked to, and here is not."""
    caplog.set_level(logging.DEBUG, "idemtable")
    return caplog


def leaked(text: str, token: str) -> list[str]:
    """The canaries in a text."""
    return [name for name, canary in {**CANARIES, "token": token}.items() if canary in text]


def test_no_error_of_the_library_and_no_log_has_what_a_caller_gave(
    db: Database, hidden: Any, log: pytest.LogCaptureFixture
) -> None:
    trouble, met = Trouble(db, hidden), {}
    for name, get_into in trouble.all():
        try:
            get_into()
        except IdempotencyError as error:
            met[name] = error
            said = [str(error), repr(error), error.detail, repr(vars(error)), pickle.dumps(error).decode("latin1")]
            assert leaked("\n".join(said), trouble.token) == [], name
            # With what led to it; the function's own exception may be part of that, and says what it says.
            chain = "".join(traceback.format_exception(error))
            assert set(leaked(chain, trouble.token)) <= {"error"}, name
    assert len(met) == 22, sorted(met)  # of twenty-four, two of which go well
    assert leaked(log.text, trouble.token) == []
    shown = [trouble.idem, trouble.tokens, trouble.missing, trouble.call]
    assert leaked("\n".join(map(repr, shown)), trouble.token) == []


def test_a_record_is_looked_at_by_whoever_asks_and_its_result_by_whoever_asks_for_that(
    db: Database, hidden: Any
) -> None:
    trouble = Trouble(db, hidden)
    trouble.call(lambda session: RESULT)
    record = trouble.idem.get("leaks", KEY, tenant=TENANT)
    assert leaked(repr(record), trouble.token) == ["key", "tenant"]  # it is named by them
    assert trouble.token not in repr(trouble.idem.records())


def test_the_check_sees_the_parameters_of_an_engine_that_does_not_hide_them(db: Database, hidden: Any) -> None:
    seen = []
    for engine in (hidden, db.engine):
        trouble = Trouble(db, engine)
        with pytest.raises(sa.exc.DBAPIError) as caught:
            trouble.call(lambda session: session.execute(sa.text("SELECT :x FROM no_such"), {"x": PAYLOAD}))
        seen.append(leaked("".join(traceback.format_exception(caught.value)), trouble.token))
    assert seen == [[], ["payload"]]
